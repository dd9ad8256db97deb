//! Writing to a file beneath in pieces, and early.
//!
//! Linux from 6.16 on keeps what one call writes to ext4 in one large piece of the page cache, and
//! walks through all blocks of that piece at every later small write into it (measured:
//! docs/performance.md).

use std::{
    ops::Range,
    os::fd::{AsFd, AsRawFd as _},
};

use rustix::io::Errno;

/// Bytes written by one call.
const PIECE_BYTES: usize = 64 << 10;

/// Writes `bytes` at `offset`; says how many were written, and why not all of them.
pub(crate) fn write_at(file: impl AsFd, bytes: &[u8], offset: u64) -> (usize, Result<(), Errno>) {
    let mut done = 0;
    while done < bytes.len() {
        // Up to the next multiple: what lies across one would be two pieces in the cache.
        let at = offset + done as u64;
        let room = PIECE_BYTES - usize::try_from(at % PIECE_BYTES as u64).unwrap_or(0);
        let piece = &bytes[done..bytes.len().min(done + room)];
        match rustix::io::pwrite(&file, piece, at) {
            Ok(0) => return (done, Err(Errno::IO)),
            Ok(count) => done += count,
            Err(Errno::INTR) => {}
            Err(error) => return (done, Err(error)),
        }
    }
    (done, Ok(()))
}

/// Has the kernel begin to write this part of a file to the disk. Nothing waits for it, and a
/// failure is told by the next sync.
pub(crate) fn start_writing(file: impl AsFd, range: Range<u64>) {
    let (Ok(offset), Ok(end)) = (i64::try_from(range.start), i64::try_from(range.end)) else {
        return;
    };
    let file = file.as_fd().as_raw_fd();
    // SAFETY: no memory is involved, and the descriptor is open during the call.
    unsafe { libc::sync_file_range(file, offset, end - offset, libc::SYNC_FILE_RANGE_WRITE) };
}

#[cfg(test)]
mod tests {
    //! Tests of writing in pieces.

    use std::{fs, os::unix::fs::FileExt as _};

    use super::*;

    #[test]
    fn pieces_make_the_same_file_as_one_write() -> std::io::Result<()> {
        let directory = tempfile::tempdir()?;
        for (offset, len) in [(0, 0), (5, 10), (0, PIECE_BYTES), (77, 3 * PIECE_BYTES + 1)] {
            let bytes: Vec<u8> = (0..len).map(|index| (index / 3) as u8).collect();
            let (one, other) = (directory.path().join("one"), directory.path().join("other"));
            fs::File::create(&one)?.write_all_at(&bytes, offset)?;
            let (written, result) = write_at(&fs::File::create(&other)?, &bytes, offset);
            assert_eq!((written, result), (len, Ok(())));
            assert!(fs::read(one)? == fs::read(other)?, "{len} bytes at {offset}");
        }
        Ok(())
    }

    #[test]
    fn what_was_written_before_an_error_is_told() -> std::io::Result<()> {
        let file = fs::File::open("/dev/null")?;
        assert_eq!(write_at(&file, b"x", 0), (0, Err(Errno::BADF)), "opened for reading only");
        Ok(())
    }
}
