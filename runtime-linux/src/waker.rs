//! Interrupts a thread that sleeps in `poll`.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::event::{EventfdFlags, eventfd};

/// A descriptor that becomes readable when somebody calls [`wake`](Self::wake).
#[derive(Debug)]
pub struct Waker(OwnedFd);

impl Waker {
    /// Makes one.
    pub fn new() -> io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    /// Wakes the sleeper, now or when it next sleeps.
    pub fn wake(&self) {
        // Fails only if the counter is full, and then the sleeper is awake anyway.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    /// Notes that the sleeper is awake.
    pub fn reset(&self) {
        let mut counter = [0; 8];
        // Fails only if nobody woke it, which is as well.
        let _ = rustix::io::read(&self.0, &mut counter);
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
