//! What a changing request asks for, in terms of nodes and names.

use havre_core::replication::record::{FileId, FileTime};

/// Owner and mode for something new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fresh {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Kind and permission bits, the caller's mask not yet taken off.
    pub(super) mode: u32,
    pub(super) umask: u32,
}

/// New attributes; `None` leaves as is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Attributes {
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) mode: Option<u32>,
    pub(super) accessed: Option<FileTime>,
    pub(super) modified: Option<FileTime>,
    /// Clear set-id bits with a new size.
    pub(super) kill: bool,
}

/// An entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) parent: u64,
    pub(super) name: Box<[u8]>,
}

/// A stretch of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stretch {
    pub(super) node: u64,
    pub(super) offset: u64,
    pub(super) len: u64,
}

/// A changing request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    Write { node: u64, offset: u64, kill: bool },
    SetAttributes { node: u64, attributes: Attributes },
    MakeNode { entry: Entry, fresh: Fresh, rdev: u32, id: Option<FileId> },
    MakeDirectory { entry: Entry, fresh: Fresh },
    Symlink { entry: Entry, target: Box<[u8]>, fresh: Fresh },
    Temporary { parent: u64, fresh: Fresh, id: FileId },
    Unlink { entry: Entry, directory: bool },
    Rename { from: Entry, to: Entry, flags: u32 },
    Link { node: u64, entry: Entry },
    Allocate { stretch: Stretch, mode: u32, kill: bool },
    CopyRange { from: Stretch, to: Stretch, wide: bool, kill: bool },
    SetXattr { node: u64, name: Box<[u8]>, value: Box<[u8]>, flags: u32, kill: bool },
    RemoveXattr { node: u64, name: Box<[u8]> },
    Sync { node: Option<u64>, data_only: bool },
}

impl Action {
    /// Whether paths of other nodes change with it.
    pub(super) const fn moves_names(&self) -> bool {
        matches!(self, Self::Rename { .. })
    }
}
