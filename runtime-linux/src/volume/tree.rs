//! Removing whole trees on the target, leaving alone what is not replicated.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
};

use havre_core::replication::record::Location;
use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags},
    io::Errno,
};

use super::place::Places;

/// Deepest tree that is removed: PATH_MAX allows no deeper one to be named.
const DEPTH_MAX: usize = 2048;

/// The entries of a directory with their types, sorted by name, without `.` and `..`.
pub fn entries(dir: BorrowedFd<'_>) -> io::Result<Vec<(Vec<u8>, FileType)>> {
    let mut found = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        let kind = match entry.file_type() {
            FileType::Unknown => {
                let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
                FileType::from_raw_mode(stat.st_mode)
            }
            kind => kind,
        };
        found.push((name.to_vec(), kind));
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(found)
}

/// Removes the entry `name` of `dir` with everything below it, except what is not replicated.
///
/// `location` is where the entry is. Says whether the entry is gone; an entry that is not there is
/// gone.
pub fn remove(
    places: &Places,
    dir: BorrowedFd<'_>,
    name: &[u8],
    location: &Location,
) -> io::Result<bool> {
    remove_below(places, dir, name, location, DEPTH_MAX)
}

fn remove_below(
    places: &Places,
    dir: BorrowedFd<'_>,
    name: &[u8],
    location: &Location,
    depth: usize,
) -> io::Result<bool> {
    if places.excludes(location) {
        return Ok(false);
    }
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(true),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    match rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => return Ok(true),
        Err(Errno::NOTEMPTY | Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    if depth == 0 {
        return Err(Errno::NAMETOOLONG.into());
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let child = rustix::fs::openat(dir, name, flags, Mode::empty())?;
    let mut empty = true;
    for (entry, _) in entries(child.as_fd())? {
        empty &= remove_below(places, child.as_fd(), &entry, &location.join(&entry), depth - 1)?;
    }
    if empty {
        rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)?;
    }
    Ok(empty)
}
