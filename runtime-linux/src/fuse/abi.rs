//! The numbers and layouts of the FUSE protocol that Havre uses, read and written without
//! `unsafe`: requests through [`Reader`], replies through [`Encoder`].
//!
//! Source: Linux `include/uapi/linux/fuse.h`, protocol 7.45 (kernel 6.18).

use rustix::io::Errno;

/// Major version of the protocol.
pub(super) const MAJOR: u32 = 7;
/// Minor version of the protocol that this layer speaks.
pub(super) const MINOR: u32 = 45;
/// The mounted directory's node.
pub(super) const ROOT: u64 = 1;
/// Bit in a request's number: the kernel sends it again to a restarted daemon.
pub(super) const UNIQUE_RESEND: u64 = 1 << 63;
/// Length of a request's header.
pub(super) const IN_HEADER_BYTES: usize = 40;
/// Length of a reply's header.
pub(super) const OUT_HEADER_BYTES: usize = 16;
/// Length of the fixed part of a write request after its header.
pub(super) const WRITE_IN_BYTES: usize = 40;

/// Request kinds.
pub(super) mod op {
    pub(crate) const LOOKUP: u32 = 1;
    pub(crate) const FORGET: u32 = 2;
    pub(crate) const GETATTR: u32 = 3;
    pub(crate) const SETATTR: u32 = 4;
    pub(crate) const READLINK: u32 = 5;
    pub(crate) const SYMLINK: u32 = 6;
    pub(crate) const MKNOD: u32 = 8;
    pub(crate) const MKDIR: u32 = 9;
    pub(crate) const UNLINK: u32 = 10;
    pub(crate) const RMDIR: u32 = 11;
    pub(crate) const RENAME: u32 = 12;
    pub(crate) const LINK: u32 = 13;
    pub(crate) const OPEN: u32 = 14;
    pub(crate) const READ: u32 = 15;
    pub(crate) const WRITE: u32 = 16;
    pub(crate) const STATFS: u32 = 17;
    pub(crate) const RELEASE: u32 = 18;
    pub(crate) const FSYNC: u32 = 20;
    pub(crate) const SETXATTR: u32 = 21;
    pub(crate) const GETXATTR: u32 = 22;
    pub(crate) const LISTXATTR: u32 = 23;
    pub(crate) const REMOVEXATTR: u32 = 24;
    pub(crate) const FLUSH: u32 = 25;
    pub(crate) const INIT: u32 = 26;
    pub(crate) const OPENDIR: u32 = 27;
    pub(crate) const READDIR: u32 = 28;
    pub(crate) const RELEASEDIR: u32 = 29;
    pub(crate) const FSYNCDIR: u32 = 30;
    pub(crate) const INTERRUPT: u32 = 36;
    pub(crate) const DESTROY: u32 = 38;
    pub(crate) const IOCTL: u32 = 39;
    pub(crate) const BATCH_FORGET: u32 = 42;
    pub(crate) const FALLOCATE: u32 = 43;
    pub(crate) const READDIRPLUS: u32 = 44;
    pub(crate) const RENAME2: u32 = 45;
    pub(crate) const LSEEK: u32 = 46;
    pub(crate) const COPY_FILE_RANGE: u32 = 47;
    pub(crate) const SYNCFS: u32 = 50;
    pub(crate) const TMPFILE: u32 = 51;
    pub(crate) const STATX: u32 = 52;
    pub(crate) const COPY_FILE_RANGE_64: u32 = 53;
}

/// Flags of the INIT exchange.
pub(super) mod init {
    pub(crate) const ASYNC_READ: u64 = 1 << 0;
    pub(crate) const BIG_WRITES: u64 = 1 << 5;
    pub(crate) const DONT_MASK: u64 = 1 << 6;
    pub(crate) const DO_READDIRPLUS: u64 = 1 << 13;
    pub(crate) const READDIRPLUS_AUTO: u64 = 1 << 14;
    pub(crate) const ASYNC_DIO: u64 = 1 << 15;
    pub(crate) const WRITEBACK_CACHE: u64 = 1 << 16;
    pub(crate) const NO_OPEN_SUPPORT: u64 = 1 << 17;
    pub(crate) const PARALLEL_DIROPS: u64 = 1 << 18;
    pub(crate) const POSIX_ACL: u64 = 1 << 20;
    pub(crate) const ABORT_ERROR: u64 = 1 << 21;
    pub(crate) const MAX_PAGES: u64 = 1 << 22;
    pub(crate) const CACHE_SYMLINKS: u64 = 1 << 23;
    pub(crate) const NO_OPENDIR_SUPPORT: u64 = 1 << 24;
    pub(crate) const EXPLICIT_INVAL_DATA: u64 = 1 << 25;
    pub(crate) const HANDLE_KILLPRIV_V2: u64 = 1 << 28;
    pub(crate) const SETXATTR_EXT: u64 = 1 << 29;
    pub(crate) const INIT_EXT: u64 = 1 << 30;
    pub(crate) const HAS_RESEND: u64 = 1 << 39;
}

/// Bits of a SETATTR request that say which fields count.
pub(super) mod fattr {
    pub(crate) const MODE: u32 = 1 << 0;
    pub(crate) const UID: u32 = 1 << 1;
    pub(crate) const GID: u32 = 1 << 2;
    pub(crate) const SIZE: u32 = 1 << 3;
    pub(crate) const ATIME: u32 = 1 << 4;
    pub(crate) const MTIME: u32 = 1 << 5;
    pub(crate) const FH: u32 = 1 << 6;
    pub(crate) const ATIME_NOW: u32 = 1 << 7;
    pub(crate) const MTIME_NOW: u32 = 1 << 8;
    pub(crate) const LOCKOWNER: u32 = 1 << 9;
    pub(crate) const CTIME: u32 = 1 << 10;
    pub(crate) const KILL_SUIDGID: u32 = 1 << 11;
}

/// WRITE: clear set-id bits.
pub(super) const WRITE_KILL_SUIDGID: u32 = 1 << 2;
/// FSYNC: data only.
pub(super) const FSYNC_FDATASYNC: u32 = 1 << 0;
/// SETXATTR: clear the set-group-id bit with an access control list.
pub(super) const SETXATTR_ACL_KILL_SGID: u32 = 1 << 0;
/// Reply to an open: keep what the page cache has.
pub(super) const FOPEN_KEEP_CACHE: u32 = 1 << 1;
/// Notification: send every unanswered request again.
pub(super) const NOTIFY_RESEND: i32 = 7;

/// The header of a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct InHeader {
    pub(super) len: u32,
    pub(super) opcode: u32,
    pub(super) unique: u64,
    pub(super) node: u64,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl InHeader {
    /// Reads the header at the start of a request.
    pub(super) fn parse(request: &[u8]) -> Result<Self, Errno> {
        let mut reader = Reader::new(request);
        let (len, opcode) = (reader.u32()?, reader.u32()?);
        let (unique, node) = (reader.u64()?, reader.u64()?);
        let (uid, gid) = (reader.u32()?, reader.u32()?);
        Ok(Self { len, opcode, unique, node, uid, gid })
    }

    /// Whether a daemon that died may have carried the request out already.
    pub(super) const fn resent(&self) -> bool {
        self.unique & UNIQUE_RESEND != 0
    }
}

/// Reads a request's fields in sequence. A request that is too short gives `EINVAL`.
#[derive(Debug, Clone)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the beginning of `bytes`.
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// Takes the next `len` bytes.
    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], Errno> {
        let (head, tail) = self.bytes.split_at_checked(len).ok_or(Errno::INVAL)?;
        self.bytes = tail;
        Ok(head)
    }

    /// Takes a 32-bit number.
    pub(super) fn u32(&mut self) -> Result<u32, Errno> {
        let bytes = self.take(4)?.first_chunk::<4>().ok_or(Errno::INVAL)?;
        Ok(u32::from_ne_bytes(*bytes))
    }

    /// Takes a 64-bit number.
    pub(super) fn u64(&mut self) -> Result<u64, Errno> {
        let bytes = self.take(8)?.first_chunk::<8>().ok_or(Errno::INVAL)?;
        Ok(u64::from_ne_bytes(*bytes))
    }

    /// Takes a name that ends with a NUL.
    pub(super) fn name(&mut self) -> Result<&'a [u8], Errno> {
        let end = self.bytes.iter().position(|byte| *byte == 0).ok_or(Errno::INVAL)?;
        let name = self.take(end)?;
        self.take(1)?;
        Ok(name)
    }
}

/// Writes a reply's fields in sequence.
pub(super) trait Encoder {
    /// Appends a 16-bit number.
    fn put16(&mut self, value: u16);
    /// Appends a 32-bit number.
    fn put32(&mut self, value: u32);
    /// Appends a 64-bit number.
    fn put64(&mut self, value: u64);
}

impl Encoder for Vec<u8> {
    fn put16(&mut self, value: u16) {
        self.extend_from_slice(&value.to_ne_bytes());
    }

    fn put32(&mut self, value: u32) {
        self.extend_from_slice(&value.to_ne_bytes());
    }

    fn put64(&mut self, value: u64) {
        self.extend_from_slice(&value.to_ne_bytes());
    }
}
