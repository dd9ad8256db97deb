//! Attributes of entries and open files: mode, owner, times, extended attributes (which hold
//! access control lists). Never follows a symbolic link.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
};

use havre_core::replication::record::{Change, FileTime, Location, Target};
use rustix::{
    fs::{AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags},
    io::Errno,
};

use super::{Applier, magic_path};

impl Applier {
    /// Performs a change of attributes.
    pub(super) fn set_attribute(&mut self, change: &Change) -> io::Result<()> {
        match change {
            Change::SetMode { target: Target::Id(id), mode } => self.with_file(*id, |file| {
                Ok(rustix::fs::fchmod(file, Mode::from_raw_mode(u32::from(*mode)))?)
            }),
            Change::SetMode { target: Target::Path(place), mode } => {
                self.at(place, |dir, name| set_mode_at(dir, name, *mode))
            }
            Change::SetOwner { target: Target::Id(id), uid, gid } => self.with_file(*id, |file| {
                Ok(rustix::fs::fchown(file, uid.map(Uid::from_raw), gid.map(Gid::from_raw))?)
            }),
            Change::SetOwner { target: Target::Path(place), uid, gid } => {
                self.at(place, |dir, name| set_owner_at(dir, name, *uid, *gid))
            }
            Change::SetTimes { target, accessed, modified } => {
                let times = timestamps(*accessed, *modified);
                match target {
                    Target::Id(id) => {
                        self.with_file(*id, |file| Ok(rustix::fs::futimens(file, &times)?))
                    }
                    Target::Path(place) => self.at(place, |dir, name| {
                        let flags = AtFlags::SYMLINK_NOFOLLOW;
                        Ok(rustix::fs::utimensat(dir, name, &times, flags)?)
                    }),
                }
            }
            Change::SetXattr { target, name, value } => match target {
                Target::Id(id) => self.with_file(*id, |file| {
                    let flags = XattrFlags::empty();
                    Ok(rustix::fs::fsetxattr(file, name.as_slice(), value, flags)?)
                }),
                Target::Path(place) => {
                    self.at(place, |dir, entry| set_xattr_at(dir, entry, name, value))
                }
            },
            Change::RemoveXattr { target, name } => match target {
                Target::Id(id) => self.with_file(*id, |file| {
                    absent_is_done(rustix::fs::fremovexattr(file, name.as_slice()))
                }),
                Target::Path(place) => {
                    self.at(place, |dir, entry| remove_xattr_at(dir, entry, name))
                }
            },
            _ => Ok(()),
        }
    }

    /// Acts on the entry of a directory that `place` names; a root is its own entry `.`.
    fn at(
        &mut self,
        place: &Location,
        act: impl FnOnce(BorrowedFd<'_>, &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        if place.path.is_empty() {
            let dir = self.places.directory(place)?;
            return act(dir.as_fd(), b".");
        }
        let (dir, name) = self.places.parent(place)?;
        act(dir.as_fd(), name)
    }
}

/// Sets the permission bits of an entry that is no symbolic link.
pub(crate) fn set_mode_at(dir: BorrowedFd<'_>, name: &[u8], mode: u16) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let entry = rustix::fs::openat(dir, name, flags, Mode::empty())?;
    let mode = Mode::from_raw_mode(u32::from(mode));
    match rustix::fs::chmod(magic_path(entry.as_fd(), b""), mode) {
        // Permission bits of a symbolic link have no meaning.
        Err(Errno::OPNOTSUPP | Errno::LOOP) => Ok(()),
        other => Ok(other?),
    }
}

/// Sets the owner of an entry.
pub(crate) fn set_owner_at(
    dir: BorrowedFd<'_>,
    name: &[u8],
    uid: Option<u32>,
    gid: Option<u32>,
) -> io::Result<()> {
    let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
    Ok(rustix::fs::chownat(dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Sets an extended attribute of an entry.
pub(crate) fn set_xattr_at(
    dir: BorrowedFd<'_>,
    entry: &[u8],
    name: &[u8],
    value: &[u8],
) -> io::Result<()> {
    let path = magic_path(dir, entry);
    Ok(rustix::fs::lsetxattr(path, name, value, XattrFlags::empty())?)
}

/// Removes an extended attribute of an entry; one that is not there is removed.
pub(crate) fn remove_xattr_at(dir: BorrowedFd<'_>, entry: &[u8], name: &[u8]) -> io::Result<()> {
    absent_is_done(rustix::fs::lremovexattr(magic_path(dir, entry), name))
}

/// Times in the operating system's form; `None` leaves a time as it is.
pub(crate) fn timestamps(accessed: Option<FileTime>, modified: Option<FileTime>) -> Timestamps {
    let one = |time: Option<FileTime>| match time {
        Some(time) => Timespec { tv_sec: time.seconds, tv_nsec: time.nanoseconds.into() },
        None => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
    };
    Timestamps { last_access: one(accessed), last_modification: one(modified) }
}

fn absent_is_done(done: rustix::io::Result<()>) -> io::Result<()> {
    match done {
        Err(Errno::NODATA) => Ok(()),
        other => Ok(other?),
    }
}
