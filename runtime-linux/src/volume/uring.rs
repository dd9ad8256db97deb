//! The disk ring: flushes that run beside the module's thread instead of stopping it.
//!
//! A flush takes a fraction of a millisecond to seconds; meanwhile the thread goes on receiving,
//! shipping and acknowledging. Writes themselves go to the page cache with `pwrite`, which is
//! faster than a ring for one copy of bytes (reference: docs/performance.md).

use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
    sync::Arc,
};

use io_uring::{IoUring, opcode, types};

#[cfg(test)]
mod tests;

/// Flushes that may be under way at once; more wait for room.
const ENTRIES: u32 = 256;

/// A ring of flushes. Poll its descriptor for reading to learn that one has ended.
pub struct Ring {
    ring: IoUring,
    /// Keeps each descriptor open until its flush has ended.
    flying: HashMap<u64, Arc<OwnedFd>>,
    unsubmitted: u32,
}

impl Ring {
    /// Makes a ring.
    ///
    /// Fails where the kernel forbids io_uring (`kernel.io_uring_disabled`).
    pub fn new() -> io::Result<Self> {
        let ring = IoUring::new(ENTRIES)?;
        Ok(Self { ring, flying: HashMap::new(), unsubmitted: 0 })
    }

    /// Queues a flush of an open file: its data and what is needed to read them back, or
    /// everything. `token` names it in [`completed`](Self::completed) and must not be under way.
    pub fn flush(&mut self, token: u64, file: Arc<OwnedFd>, data_only: bool) -> io::Result<()> {
        assert!(!self.flying.contains_key(&token), "a token names one flush at a time");
        let mut operation = opcode::Fsync::new(types::Fd(file.as_raw_fd()));
        if data_only {
            operation = operation.flags(types::FsyncFlags::DATASYNC);
        }
        let entry = operation.build().user_data(token);
        loop {
            // SAFETY: the entry refers to no memory, and its descriptor stays open in `flying`
            // until the completion has been taken.
            let pushed = unsafe { self.ring.submission().push(&entry) };
            if pushed.is_ok() {
                break;
            }
            self.submit()?;
        }
        self.flying.insert(token, file);
        self.unsubmitted += 1;
        Ok(())
    }

    /// Hands everything queued to the kernel, in one call.
    pub fn submit(&mut self) -> io::Result<()> {
        if self.unsubmitted > 0 {
            self.ring.submit()?;
            self.unsubmitted = 0;
        }
        Ok(())
    }

    /// Takes a flush that has ended: its token and result.
    pub fn completed(&mut self) -> Option<(u64, io::Result<()>)> {
        let entry = self.ring.completion().next()?;
        let token = entry.user_data();
        self.flying.remove(&token);
        let result = match entry.result() {
            code if code < 0 => Err(io::Error::from_raw_os_error(-code)),
            _ => Ok(()),
        };
        Some((token, result))
    }

    /// Flushes queued or under way.
    pub fn pending(&self) -> usize {
        self.flying.len()
    }
}

impl AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as the ring, which the result borrows.
        unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) }
    }
}
