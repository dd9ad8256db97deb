//! A network namespace without a name, and moving threads into namespaces.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd},
    thread,
};

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

/// A network namespace; it lives as long as this handle, a copy of it, or a process in it.
#[derive(Debug)]
pub(super) struct NetworkNamespace {
    file: File,
}

impl NetworkNamespace {
    /// Makes an empty one.
    pub(super) fn new() -> io::Result<Self> {
        on_own_thread(|| {
            unshare(UnshareFlags::NEWNET)?;
            let file = File::open("/proc/thread-self/ns/net")?;
            Ok(Self { file })
        })
    }

    /// Runs `job` on a thread of its own in this namespace.
    ///
    /// # Panics
    /// If the thread cannot be moved, which root always can, or if `job` panics.
    pub(super) fn enter<T: Send>(&self, job: impl FnOnce() -> T + Send) -> T {
        on_own_thread(|| {
            self.move_in().expect("root may enter a namespace that it made");
            job()
        })
    }

    /// Moves the calling thread into this namespace for the rest of its life.
    pub(super) fn move_in(&self) -> io::Result<()> {
        join(self.file.as_fd(), LinkNameSpaceType::Network)
    }

    /// A second handle to the same namespace.
    pub(super) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { file: self.file.try_clone()? })
    }
}

impl AsFd for NetworkNamespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Moves the calling thread into one namespace.
pub(super) fn join(fd: BorrowedFd<'_>, kind: LinkNameSpaceType) -> io::Result<()> {
    Ok(move_into_link_name_space(fd, Some(kind))?)
}

/// Gives the calling thread namespaces of its own.
pub(super) fn unshare(flags: UnshareFlags) -> io::Result<()> {
    // SAFETY: only namespaces and the thread's own working directory are unshared, never the
    // table of descriptors, so every descriptor stays valid on every thread.
    unsafe { unshare_unsafe(flags)? };
    Ok(())
}

/// Runs `job` on a thread that ends with it: a thread that changed namespaces is never reused.
pub(super) fn on_own_thread<T: Send>(job: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| match scope.spawn(job).join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}
