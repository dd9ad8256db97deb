//! What is told to whoever keeps descriptors alive while a daemon restarts.

use std::os::fd::BorrowedFd;

/// Keeps duplicates of the descriptors of files that have no name any more.
pub trait Keeper: Send {
    /// A file is about to lose its last known name.
    fn keep(&mut self, node: u64, descriptor: BorrowedFd<'_>);

    /// The file is not needed any more, or has a name again.
    fn release(&mut self, node: u64);

    /// Called about once a second: passes on what has gathered.
    fn settle(&mut self);
}

/// Keeps nothing: open files without a name do not survive a crash of the daemon.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoKeeper;

impl Keeper for NoKeeper {
    fn keep(&mut self, _: u64, _: BorrowedFd<'_>) {}

    fn release(&mut self, _: u64) {}

    fn settle(&mut self) {}
}
