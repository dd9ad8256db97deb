//! The boundary between the file system and whoever replicates it.
//!
//! Each request of an application that changes something becomes one [`Operation`]. It is given
//! to [`Interceptor::submit`], which may keep it as long as it likes:
//!
//! ```text
//! submit(operation) -> make the intent durable -> Files::apply -> ship -> Files::reply
//!                                                (or Operation::raw, io_uring, Files::applied)
//! ```
//!
//! The types enforce the order: `apply` turns an [`Operation`] into an [`Applied`], and only an
//! `Applied` can be replied to. Several operations may be pending; apply those that concern the
//! same file or directory in the sequence in which they were submitted. Everything happens on the
//! thread that calls [`Session::turn`](super::Session::turn).
//!
//! Not told here, because connections of the data stream are the interceptor's business: `Open`
//! and `Close`. Changes name files by [`FileId`]; before the first change that names an id on a
//! connection, ask [`Files::location`](super::Files::location) and send `Open`; send `Close` when
//! [`Interceptor::closed`] is called. `Create` and `Temporary` bind their id themselves.

use std::{ops::Range, os::fd::OwnedFd, sync::Arc};

use havre_core::replication::record::{Change, FileId, Location};
use rustix::io::Errno;

use super::{Files, action::Action, perform::Outcome};

/// Decides when changes are made and when applications are told.
pub trait Interceptor {
    /// Takes one operation; sooner or later it must be applied and replied to.
    fn submit(&mut self, files: &mut Files, operation: Operation);

    /// The kernel has forgotten the file: no change will name `id` again.
    fn closed(&mut self, id: FileId);
}

/// The file whose bytes or attributes an operation changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileReference {
    /// Its name in changes.
    pub id: FileId,
    /// Its inode number.
    pub inode: u64,
    /// Where it is; `None` if it has no name, or none that is known.
    pub location: Option<Location>,
}

/// One request that changes something, not yet carried out.
#[derive(Debug)]
#[must_use = "an application waits for it"]
pub struct Operation {
    pub(super) changes: Vec<Change>,
    pub(super) file: Option<FileReference>,
    pub(super) range: Option<Range<u64>>,
    pub(super) last_name_of: Option<FileId>,
    pub(super) payload: Range<usize>,
    pub(super) buffer: Vec<u8>,
    pub(super) action: Action,
    pub(super) ticket: u64,
    /// How many operations had been applied when this one was prepared.
    pub(super) prepared_at: u64,
    /// Number of the request; `None`: nobody waits.
    pub(super) unique: Option<u64>,
    pub(super) resent: bool,
}

/// A system call that the interceptor may make itself, for instance in an io_uring.
#[derive(Debug, Clone)]
pub enum RawRequest {
    /// `pwrite` of the payload at this offset.
    Write(Arc<OwnedFd>, u64),
    /// `fdatasync`.
    SyncData(Arc<OwnedFd>),
    /// `fsync`.
    SyncAll(Arc<OwnedFd>),
}

impl Operation {
    /// The changes, in order, as far as they are known before the operation is applied: all that
    /// needs to be known to mark what may differ from the peer.
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// The bytes of a write.
    pub fn payload(&self) -> &[u8] {
        &self.buffer[self.payload.clone()]
    }

    /// The regular file whose bytes or attributes change.
    pub const fn file(&self) -> Option<&FileReference> {
        self.file.as_ref()
    }

    /// The bytes of that file that may change.
    pub const fn range(&self) -> Option<&Range<u64>> {
        self.range.as_ref()
    }

    /// A file that loses its last known name by this operation while an application may still
    /// use it: bind its id on the connection before the change is sent.
    pub const fn last_name_of(&self) -> Option<FileId> {
        self.last_name_of
    }

    /// Whether an application waits here until everything before is safe.
    pub fn is_barrier(&self) -> bool {
        self.changes.iter().any(Change::is_barrier)
    }

    /// Position among all operations of this mount, counting up.
    pub const fn ticket(&self) -> u64 {
        self.ticket
    }

    /// Moves a small payload out of the big receive buffer, which goes back to the pool. Call it
    /// before keeping an operation for later.
    pub fn settle(&mut self, files: &mut Files) {
        const SMALL: usize = 64 << 10;
        if self.payload.len() > SMALL || self.buffer.capacity() <= SMALL {
            return;
        }
        let small = self.payload().to_vec();
        self.payload = 0..small.len();
        files.recycle(std::mem::replace(&mut self.buffer, small));
    }
}

/// An operation that has been carried out or has failed.
#[derive(Debug)]
#[must_use = "an application waits for the reply"]
pub struct Applied {
    pub(super) operation: Operation,
    pub(super) outcome: Result<Outcome, Errno>,
}

impl Applied {
    /// The changes that were made, in order; empty if the operation failed.
    pub fn changes(&self) -> &[Change] {
        &self.operation.changes
    }

    /// The bytes of the write, cut to what was written.
    pub fn payload(&self) -> &[u8] {
        self.operation.payload()
    }

    /// The operation.
    pub const fn operation(&self) -> &Operation {
        &self.operation
    }

    /// Why it failed, if it did.
    pub fn error(&self) -> Option<Errno> {
        self.outcome.as_ref().err().copied()
    }

    /// Makes the application see an error instead of success.
    pub fn fail(&mut self, error: Errno) {
        self.outcome = Err(error);
    }
}

/// Applies and replies at once: the mount without replication.
#[derive(Debug, Clone, Copy, Default)]
pub struct PassThrough;

impl Interceptor for PassThrough {
    fn submit(&mut self, files: &mut Files, operation: Operation) {
        let applied = files.apply(operation);
        files.reply(applied);
    }

    fn closed(&mut self, _: FileId) {}
}
