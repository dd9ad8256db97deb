//! The kernel's asynchronous I/O, as databases use it: one thread keeps several writes under way.
//!
//! io_uring would hand writes to this mount to worker threads, one at a time for each file.
//!
//! Source: io_submit(2); Linux `include/uapi/linux/aio_abi.h`.

use std::{
    fs::File,
    io,
    os::fd::AsRawFd as _,
    time::{Duration, Instant},
};

/// `IOCB_CMD_PWRITE`.
const WRITE: u16 = 1;
/// Bytes of one write, and their alignment.
pub(super) const BLOCK: usize = 4096;

/// `struct iocb`, little-endian.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct Control {
    data: u64,
    key: u32,
    flags: u32,
    opcode: u16,
    priority: i16,
    file: u32,
    buffer: u64,
    bytes: u64,
    offset: i64,
    reserved: u64,
    more_flags: u32,
    event_file: u32,
}

/// `struct io_event`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct Event {
    data: u64,
    object: u64,
    result: i64,
    result2: i64,
}

/// A context of the kernel.
struct Context(libc::c_ulong);

impl Context {
    fn new(depth: usize) -> io::Result<Self> {
        let mut context: libc::c_ulong = 0;
        // SAFETY: the kernel writes one word to `context`, which lives during the call.
        let result = unsafe { libc::syscall(libc::SYS_io_setup, depth, &raw mut context) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(Self(context)) }
    }

    /// Starts writes.
    ///
    /// # Safety
    /// What the blocks point to must stay until their events have been taken.
    unsafe fn submit(&self, blocks: &[*mut Control]) -> io::Result<usize> {
        let (count, list) = (blocks.len(), blocks.as_ptr());
        // SAFETY: `list` points to `count` control blocks; the rest is the caller's promise.
        let taken = unsafe { libc::syscall(libc::SYS_io_submit, self.0, count, list) };
        usize::try_from(taken).map_err(|_| io::Error::last_os_error())
    }

    /// Waits for at least one event.
    fn events(&self, events: &mut [Event]) -> io::Result<usize> {
        let (count, list) = (events.len(), events.as_mut_ptr());
        let timeout = std::ptr::null::<libc::timespec>();
        // SAFETY: `list` has room for `count` events; no time-out is given.
        let taken =
            unsafe { libc::syscall(libc::SYS_io_getevents, self.0, 1, count, list, timeout) };
        usize::try_from(taken).map_err(|_| io::Error::last_os_error())
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: the context is this value's own; the call waits for what is under way.
        unsafe { libc::syscall(libc::SYS_io_destroy, self.0) };
    }
}

/// Memory that starts at a multiple of [`BLOCK`].
pub(super) struct Aligned {
    memory: Vec<u8>,
    start: usize,
}

impl Aligned {
    /// One block of `byte`s.
    pub(super) fn new(byte: u8) -> Self {
        let memory = vec![byte; 2 * BLOCK];
        let start = memory.as_ptr().align_offset(BLOCK);
        Self { memory, start }
    }

    /// The block.
    pub(super) fn block(&self) -> &[u8] {
        &self.memory[self.start..self.start + BLOCK]
    }
}

/// Writes blocks at the given offsets with `depth` of them under way; operations per second.
pub(super) fn write(
    file: &File,
    depth: usize,
    time: Duration,
    mut offset: impl FnMut() -> u64,
) -> io::Result<f64> {
    let memory = Aligned::new(4);
    let file = u32::try_from(file.as_raw_fd()).map_err(io::Error::other)?;
    let mut blocks = vec![Control::default(); depth];
    for (index, block) in blocks.iter_mut().enumerate() {
        block.data = index as u64;
        block.opcode = WRITE;
        block.file = file;
        block.buffer = memory.block().as_ptr() as u64;
        block.bytes = BLOCK as u64;
    }
    let mut events = vec![Event::default(); depth];
    // Dropped first, and that waits: then memory and control blocks may go.
    let context = Context::new(depth)?;
    let mut idle: Vec<usize> = (0..depth).collect();
    let (begun, mut count) = (Instant::now(), 0u64);
    loop {
        let end = begun.elapsed() >= time;
        if end && idle.len() == depth {
            return Ok(count as f64 / begun.elapsed().as_secs_f64());
        }
        if !end {
            let mut ready = Vec::with_capacity(depth);
            for index in &idle {
                blocks[*index].offset = i64::try_from(offset()).map_err(io::Error::other)?;
                ready.push(&raw mut blocks[*index]);
            }
            // SAFETY: `memory` and `blocks` live longer than `context` and are not moved.
            let taken = unsafe { context.submit(&ready)? };
            idle.drain(..taken);
        }
        let done = context.events(&mut events)?;
        for event in &events[..done] {
            if event.result != BLOCK as i64 {
                let code = i32::try_from(-event.result).unwrap_or(libc::EIO);
                return Err(io::Error::from_raw_os_error(code));
            }
            idle.push(usize::try_from(event.data).map_err(io::Error::other)?);
            count += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};

    use super::*;

    #[test]
    fn every_block_is_written_and_counted() -> io::Result<()> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("file");
        std::fs::write(&path, vec![0; 16 * BLOCK])?;
        let flags = rustix::fs::OFlags::DIRECT.bits().cast_signed();
        let mut options = std::fs::OpenOptions::new();
        // A file system without O_DIRECT has nothing to measure.
        let Ok(file) = options.write(true).custom_flags(flags).open(&path) else { return Ok(()) };
        let mut next = 0;
        let rate = write(&file, 4, Duration::from_millis(20), || {
            next += 1;
            (next - 1) % 16 * BLOCK as u64
        })?;
        assert!(rate > 0.0 && next >= 16, "{next} writes");
        let mut bytes = vec![0; 16 * BLOCK];
        File::open(&path)?.read_exact_at(&mut bytes, 0)?;
        assert!(bytes.iter().all(|byte| *byte == 4));
        Ok(())
    }
}
