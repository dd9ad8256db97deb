//! Renames between what is replicated and what is not: for the target an entry that goes or one
//! that comes.
//!
//! Programs that save by writing `x.tmp` and renaming it to `x` do this all the time when `*.tmp`
//! is excluded. What comes is shipped with its content as long as it is small; a directory or a
//! large file costs a resynchronisation instead.

use std::os::fd::AsFd;

use havre_core::replication::{
    record::{Access, Change, FileId, FileTime, Location, RenameMode, Target},
    stream::HEADER_BYTES_MAX,
};
use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, Stat},
    io::Errno,
};

use crate::volume::{
    place::Places,
    resync::{read_at, split_xattrs, xattrs_at},
};

/// Largest file that is shipped within one change.
const CONTENT_BYTES_MAX: u64 = 8 << 20;
/// The name of the file that comes, while its change is carried out: no mount ever gives it out.
const ARRIVING: FileId = FileId(u64::MAX);

/// What is shipped in place of a rename.
#[derive(Debug, Default)]
pub(super) struct Crossing {
    pub(super) changes: Vec<Change>,
    /// The bytes of the only write among them.
    pub(super) payload: Vec<u8>,
}

/// Whether a change moves between what is replicated and what is not.
pub(super) fn crosses(places: &Places, change: &Change) -> bool {
    match change {
        Change::Rename { from, to, .. } | Change::Link { from, to } => {
            places.excludes(from) != places.excludes(to)
        }
        _ => false,
    }
}

/// What the target is told of a rename that has just been carried out here; `None`: it cannot be
/// told in one change.
pub(super) fn of(places: &mut Places, change: &Change) -> Option<Crossing> {
    let Change::Rename { from, to, mode } = change else { return None };
    if *mode == RenameMode::Exchange {
        return None;
    }
    if places.excludes(to) { departure(places, from, to) } else { arrival(places, to) }
}

fn departure(places: &mut Places, from: &Location, to: &Location) -> Option<Crossing> {
    let (dir, name) = places.parent(to).ok()?;
    let stat = rustix::fs::statat(&*dir, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    let location = from.clone();
    let gone = if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        Change::RemoveDirectory { location }
    } else {
        Change::Unlink { location }
    };
    Some(Crossing { changes: vec![gone], payload: Vec::new() })
}

fn arrival(places: &mut Places, to: &Location) -> Option<Crossing> {
    let (dir, name) = places.parent(to).ok()?;
    let stat = rustix::fs::statat(&*dir, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    // Another name of the entry that was replaced must keep its content.
    let mut crossing = Crossing::default();
    crossing.changes.push(Change::Unlink { location: to.clone() });
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {
            let size = u64::try_from(stat.st_size).ok()?;
            if stat.st_nlink != 1 || size > CONTENT_BYTES_MAX {
                return None;
            }
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = rustix::fs::openat(&*dir, name, flags, Mode::empty()).ok()?;
            crossing.payload = vec![0; usize::try_from(size).ok()?];
            let read = read_at(file.as_fd(), &mut crossing.payload, 0).ok()?;
            crossing.payload.truncate(read);
            let xattrs = xattrs_at(dir.as_fd(), name).ok()?;
            crossing.file(to, &stat, &xattrs)?;
        }
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(&*dir, name, Vec::new());
            let target = target.map_err(|_: Errno| ()).ok()?.into_bytes();
            let (uid, gid) = (stat.st_uid, stat.st_gid);
            crossing.changes.push(Change::Symlink { location: to.clone(), target, uid, gid });
        }
        _ => return None,
    }
    Some(crossing)
}

impl Crossing {
    pub(super) fn encode(&self, bytes: &mut Vec<u8>) {
        self.changes.iter().for_each(|change| change.encode(bytes));
    }

    fn file(&mut self, location: &Location, stat: &Stat, xattrs: &[u8]) -> Option<()> {
        if xattrs.len() * 2 > HEADER_BYTES_MAX {
            return None;
        }
        let mode = u16::try_from(stat.st_mode & 0o7777).ok()?;
        let access = Access { mode, uid: stat.st_uid, gid: stat.st_gid };
        let id = ARRIVING;
        let target = || Target::Id(id);
        self.changes.push(Change::Create { location: location.clone(), id, access });
        if !self.payload.is_empty() {
            let len = u32::try_from(self.payload.len()).ok()?;
            self.changes.push(Change::Write { id, offset: 0, len });
        }
        for (name, value) in split_xattrs(xattrs)? {
            let (name, value) = (name.to_vec(), value.to_vec());
            self.changes.push(Change::SetXattr { target: target(), name, value });
        }
        // Writing takes set-id bits away.
        self.changes.push(Change::SetMode { target: target(), mode });
        let moment = |seconds, nanoseconds| {
            u32::try_from(nanoseconds).ok().map(|nanoseconds| FileTime { seconds, nanoseconds })
        };
        let accessed = moment(stat.st_atime, stat.st_atime_nsec);
        let modified = moment(stat.st_mtime, stat.st_mtime_nsec);
        self.changes.push(Change::SetTimes { target: target(), accessed, modified });
        self.changes.push(Change::Close { id });
        Some(())
    }
}
