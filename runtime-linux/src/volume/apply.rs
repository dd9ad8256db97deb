//! Performs [`Change`]s on the target's underlying directories, strictly in the order given.
//!
//! A change may be performed twice; the rules for that stand in `havre_core::replication::record`
//! and are followed here. While a resynchronisation runs ([`Applier::set_lenient`]) a change may
//! also meet a directory that is not there yet or any more: it is skipped, because that directory
//! is compared later. In sync, the same is an error: the copies have diverged.
//!
//! Attribute changes are in `apply/attributes.rs`.

use std::{
    collections::HashMap,
    fmt, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use havre_core::replication::record::{
    Access, AllocateMode, Change, FileId, Location, NodeKind, RenameMode, Target,
};
use rustix::{
    fs::{AtFlags, CWD, FallocateFlags, FileType, Gid, Mode, OFlags, RenameFlags, Uid},
    io::Errno,
};

use super::{
    place::{Places, magic_path},
    tree,
};
use crate::pieces::write_at;

pub(crate) mod attributes;
#[cfg(test)]
mod tests;

/// Files that the source may have bound at once; it binds far fewer.
const OPEN_MAX: usize = 16_384;
/// How a file that will be written is opened. `NONBLOCK`: a named pipe left over must not block.
const FILE: OFlags = OFlags::RDWR.union(OFlags::NONBLOCK).union(OFlags::NOFOLLOW);
/// Attempts to give a name that something else keeps taking.
const REPLACE_ATTEMPTS_MAX: u32 = 3;

/// A change that the operating system refused. Changes before it stand.
#[derive(Debug)]
pub struct ApplyError {
    what: String,
    /// What the operating system said.
    pub source: io::Error,
}

impl ApplyError {
    /// Whether the file system or the quota is full.
    pub fn is_no_space(&self) -> bool {
        matches!(self.source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

impl fmt::Display for ApplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.source)
    }
}

impl std::error::Error for ApplyError {}

/// Performs changes; holds the files that the source has bound.
#[derive(Debug)]
pub struct Applier {
    places: Places,
    files: HashMap<FileId, Arc<OwnedFd>>,
    lenient: bool,
}

impl Applier {
    /// Makes one with no file bound.
    pub fn new(places: Places) -> Self {
        Self { places, files: HashMap::new(), lenient: false }
    }

    /// Whether changes may meet what a resynchronisation has not set right yet.
    pub fn set_lenient(&mut self, lenient: bool) {
        self.lenient = lenient;
    }

    /// Drops every binding: a new connection begins.
    pub fn unbind_all(&mut self) {
        self.files.clear();
    }

    /// The directories.
    pub fn places(&mut self) -> &mut Places {
        &mut self.places
    }

    /// Gives the directories back.
    pub fn into_places(self) -> Places {
        self.places
    }

    /// What a [`Change::Sync`] of this target must make durable; `None`: whole file systems.
    pub fn sync_descriptor(&mut self, target: Option<&Target>) -> Option<Arc<OwnedFd>> {
        match target? {
            Target::Id(id) => self.files.get(id).cloned(),
            Target::Path(location) => {
                let flags = OFlags::RDONLY | OFlags::NONBLOCK;
                self.places.open(location, flags).ok().map(Arc::new)
            }
        }
    }

    /// Performs one change; `payload` are the bytes of a write.
    pub fn apply(&mut self, change: &Change, payload: &[u8]) -> Result<(), ApplyError> {
        let done = match self.perform(change, payload) {
            Err(error) if self.lenient && is_absence(&error) => Ok(()),
            other => other,
        };
        done.map_err(|source| ApplyError { what: describe(change), source })
    }

    fn perform(&mut self, change: &Change, payload: &[u8]) -> io::Result<()> {
        if change.locations().into_iter().flatten().any(|place| self.places.excludes(place)) {
            return Ok(());
        }
        match change {
            Change::Open { id, location } => self.open(*id, location),
            Change::Close { id } => {
                self.files.remove(id);
                Ok(())
            }
            Change::Write { id, offset, .. } => {
                self.with_file(*id, |file| write_all(file, payload, *offset))
            }
            Change::Truncate { id, size } => {
                self.with_file(*id, |file| Ok(rustix::fs::ftruncate(file, *size)?))
            }
            Change::Allocate { id, mode, offset, len } => {
                self.with_file(*id, |file| allocate(file, *mode, *offset, *len))
            }
            Change::CopyRange { from, from_offset, to, to_offset, len } => {
                let Some(from) = self.files.get(from).cloned() else { return Ok(()) };
                self.with_file(*to, |to| {
                    copy_range(from.as_fd(), *from_offset, to, *to_offset, *len)
                })
            }
            Change::Create { location, id, access } => self.create(location, *id, *access),
            Change::Temporary { directory, id, access } => {
                let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
                let dir = self.places.directory(directory)?;
                let file = rustix::fs::openat(&*dir, c".", flags, Mode::RUSR | Mode::WUSR)?;
                set_access_open(file.as_fd(), *access)?;
                self.bind(*id, file)
            }
            Change::LinkOpen { id, location } => self.link_open(*id, location),
            Change::MakeDirectory { location, access } => {
                self.make(location, FileType::Directory, *access, |dir, name| {
                    rustix::fs::mkdirat(dir, name, Mode::RWXU)
                })
            }
            Change::MakeNode { location, kind, access } => self.make_node(location, *kind, *access),
            Change::Symlink { location, target, uid, gid } => {
                self.symlink(location, target, *uid, *gid)
            }
            Change::Unlink { location } => self.unlink(location),
            Change::RemoveDirectory { location } => {
                self.places.forget_parents();
                self.remove(location)
            }
            Change::Rename { from, to, mode } => self.rename(from, to, *mode),
            Change::Link { from, to } => self.link(from, to),
            Change::SetMode { .. }
            | Change::SetOwner { .. }
            | Change::SetTimes { .. }
            | Change::SetXattr { .. }
            | Change::RemoveXattr { .. } => self.set_attribute(change),
            Change::Sync { .. } => Ok(()),
        }
    }

    fn bind(&mut self, id: FileId, file: OwnedFd) -> io::Result<()> {
        if self.files.len() >= OPEN_MAX {
            return Err(Errno::NFILE.into());
        }
        self.files.insert(id, Arc::new(file));
        Ok(())
    }

    /// A file that could not be bound has no name any more: its changes are void.
    fn with_file(
        &self,
        id: FileId,
        act: impl FnOnce(BorrowedFd<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        self.files.get(&id).map_or(Ok(()), |file| act(file.as_fd()))
    }

    fn open(&mut self, id: FileId, location: &Location) -> io::Result<()> {
        self.files.remove(&id);
        match self.places.open(location, FILE) {
            Ok(file) if is_regular(file.as_fd())? => self.bind(id, file),
            Ok(_) => Ok(()),
            Err(error) if is_absence(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn create(&mut self, location: &Location, id: FileId, access: Access) -> io::Result<()> {
        let (dir, name) = self.places.parent(location)?;
        let flags = FILE | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(u32::from(access.mode & 0o777));
        let mut made = rustix::fs::openat(&*dir, name, flags, mode);
        if matches!(made, Err(Errno::EXIST)) {
            let flags = FILE | OFlags::CLOEXEC;
            made = match rustix::fs::openat(&*dir, name, flags, Mode::empty()) {
                Ok(file) if is_regular(file.as_fd())? => Ok(file),
                _ => {
                    self.clear_name(&dir, name, location)?;
                    let flags = flags | OFlags::CREATE | OFlags::EXCL;
                    rustix::fs::openat(&*dir, name, flags, mode)
                }
            };
        }
        let file = made?;
        set_access_open(file.as_fd(), access)?;
        self.files.remove(&id);
        self.bind(id, file)
    }

    /// Makes an entry that has no content of its own, or accepts the one of the same kind.
    fn make(
        &mut self,
        location: &Location,
        kind: FileType,
        access: Access,
        make: impl Fn(BorrowedFd<'_>, &[u8]) -> rustix::io::Result<()>,
    ) -> io::Result<()> {
        let (dir, name) = self.places.parent(location)?;
        if let Err(error) = make(dir.as_fd(), name) {
            if error != Errno::EXIST {
                return Err(error.into());
            }
            let there = rustix::fs::statat(&*dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
            if FileType::from_raw_mode(there.st_mode) != kind {
                self.clear_name(&dir, name, location)?;
                make(dir.as_fd(), name)?;
            }
        }
        attributes::set_owner_at(dir.as_fd(), name, Some(access.uid), Some(access.gid))?;
        attributes::set_mode_at(dir.as_fd(), name, access.mode)
    }

    fn make_node(&mut self, location: &Location, kind: NodeKind, access: Access) -> io::Result<()> {
        let (kind, device) = match kind {
            NodeKind::File => (FileType::RegularFile, 0),
            NodeKind::Fifo => (FileType::Fifo, 0),
            NodeKind::Socket => (FileType::Socket, 0),
            NodeKind::CharacterDevice(number) => (FileType::CharacterDevice, device(number)),
            NodeKind::BlockDevice(number) => (FileType::BlockDevice, device(number)),
        };
        self.make(location, kind, access, |dir, name| {
            rustix::fs::mknodat(dir, name, kind, Mode::RUSR | Mode::WUSR, device)
        })
    }

    fn symlink(
        &mut self,
        location: &Location,
        target: &[u8],
        uid: u32,
        gid: u32,
    ) -> io::Result<()> {
        let (dir, name) = self.places.parent(location)?;
        match rustix::fs::symlinkat(target, &*dir, name) {
            Err(Errno::EXIST) => {
                let there = rustix::fs::readlinkat(&*dir, name, Vec::new());
                if !there.is_ok_and(|there| there.to_bytes() == target) {
                    self.clear_name(&dir, name, location)?;
                    rustix::fs::symlinkat(target, &*dir, name)?;
                }
            }
            other => other?,
        }
        attributes::set_owner_at(dir.as_fd(), name, Some(uid), Some(gid))
    }

    fn unlink(&mut self, location: &Location) -> io::Result<()> {
        let (dir, name) = self.places.parent(location)?;
        match rustix::fs::unlinkat(&*dir, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => {
                // A directory of a later moment has taken the name.
                if self.lenient { Ok(()) } else { Err(Errno::ISDIR.into()) }
            }
            Err(error) => Err(error.into()),
        }
    }

    fn remove(&mut self, location: &Location) -> io::Result<()> {
        let (dir, name) = self.places.parent(location)?;
        tree::remove(&self.places, dir.as_fd(), name, location).map(|_gone| ())
    }

    /// Makes room for an entry of another kind.
    fn clear_name(&mut self, dir: &OwnedFd, name: &[u8], location: &Location) -> io::Result<()> {
        self.places.forget_parents();
        let gone = tree::remove(&self.places, dir.as_fd(), name, location)?;
        if gone { Ok(()) } else { Err(Errno::NOTEMPTY.into()) }
    }

    fn rename(&mut self, from: &Location, to: &Location, mode: RenameMode) -> io::Result<()> {
        let (from_dir, from_name) = self.places.parent(from)?;
        let (to_dir, to_name) = self.places.parent(to)?;
        let flags = match mode {
            RenameMode::Exchange => RenameFlags::EXCHANGE,
            // What `NoReplace` did not find on the source is left over here.
            RenameMode::Replace | RenameMode::NoReplace => RenameFlags::empty(),
        };
        let again = || rustix::fs::renameat_with(&*from_dir, from_name, &*to_dir, to_name, flags);
        let done = match again() {
            Err(Errno::NOENT) => Ok(()),
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::ISDIR | Errno::NOTDIR) => {
                self.clear_name(&to_dir, to_name, to)?;
                again()
            }
            other => other,
        };
        self.places.forget_parents();
        Ok(done?)
    }

    fn link(&mut self, from: &Location, to: &Location) -> io::Result<()> {
        let (from_dir, from_name) = self.places.parent(from)?;
        let found = rustix::fs::statat(&*from_dir, from_name, AtFlags::SYMLINK_NOFOLLOW);
        if matches!(found, Err(Errno::NOENT)) {
            return Ok(());
        }
        self.give_name(to, |dir, name| {
            rustix::fs::linkat(&*from_dir, from_name, dir, name, AtFlags::empty())
        })
    }

    fn link_open(&mut self, id: FileId, location: &Location) -> io::Result<()> {
        let Some(file) = self.files.get(&id).cloned() else { return Ok(()) };
        let source = magic_path(file.as_fd(), b"");
        self.give_name(location, |dir, name| {
            rustix::fs::linkat(CWD, &source, dir, name, AtFlags::SYMLINK_FOLLOW)
        })
    }

    /// Links to a name, replacing what has it.
    fn give_name(
        &mut self,
        location: &Location,
        link: impl Fn(BorrowedFd<'_>, &[u8]) -> rustix::io::Result<()>,
    ) -> io::Result<()> {
        let (dir, name) = self.places.parent(location)?;
        for _ in 0..REPLACE_ATTEMPTS_MAX {
            match link(dir.as_fd(), name) {
                Err(Errno::EXIST) => self.clear_name(&dir, name, location)?,
                other => return Ok(other?),
            }
        }
        Err(Errno::EXIST.into())
    }
}

/// Whether a place could not be reached because part of its path is not there.
fn is_absence(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV | Errno::ISDIR | Errno::NXIO)
    )
}

fn is_regular(file: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(file)?.st_mode) == FileType::RegularFile)
}

fn set_access_open(file: BorrowedFd<'_>, access: Access) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(access.uid), Gid::from_raw(access.gid));
    rustix::fs::fchown(file, Some(uid), Some(gid))?;
    Ok(rustix::fs::fchmod(file, Mode::from_raw_mode(u32::from(access.mode)))?)
}

/// The kernel's `new_encode_dev`, backwards.
pub(crate) fn device(number: u32) -> u64 {
    let major = (number & 0x000f_ff00) >> 8;
    let minor = (number & 0xff) | ((number >> 12) & 0x000f_ff00);
    rustix::fs::makedev(major, minor)
}

/// Writes every byte at `offset`.
pub(crate) fn write_all(file: BorrowedFd<'_>, bytes: &[u8], offset: u64) -> io::Result<()> {
    Ok(write_at(file, bytes, offset).1?)
}

fn allocate(file: BorrowedFd<'_>, mode: AllocateMode, offset: u64, len: u64) -> io::Result<()> {
    let flags = match mode {
        AllocateMode::Reserve => FallocateFlags::empty(),
        AllocateMode::ReserveKeepSize => FallocateFlags::KEEP_SIZE,
        AllocateMode::PunchHole => FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
        AllocateMode::ZeroRange => FallocateFlags::ZERO_RANGE,
        AllocateMode::ZeroRangeKeepSize => FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE,
    };
    match rustix::fs::fallocate(file, flags, offset, len) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => allocate_by_hand(file, mode, offset, len),
        other => Ok(other?),
    }
}

/// For a file system without `fallocate`: the same bytes, without the saving of space.
fn allocate_by_hand(
    file: BorrowedFd<'_>,
    mode: AllocateMode,
    offset: u64,
    len: u64,
) -> io::Result<()> {
    let size = u64::try_from(rustix::fs::fstat(file)?.st_size).unwrap_or(0);
    let end = offset + len;
    let zeroes = !matches!(mode, AllocateMode::Reserve | AllocateMode::ReserveKeepSize);
    if zeroes {
        let zeros = vec![0u8; 64 << 10];
        let mut at = offset;
        while at < end.min(size) {
            let step = (end.min(size) - at).min(zeros.len() as u64);
            write_all(file, &zeros[..usize::try_from(step).unwrap_or(0)], at)?;
            at += step;
        }
    }
    if matches!(mode, AllocateMode::Reserve | AllocateMode::ZeroRange) && end > size {
        rustix::fs::ftruncate(file, end)?;
    }
    Ok(())
}

fn copy_range(
    from: BorrowedFd<'_>,
    mut from_offset: u64,
    to: BorrowedFd<'_>,
    mut to_offset: u64,
    len: u64,
) -> io::Result<()> {
    let mut left = len;
    while left > 0 {
        let step = usize::try_from(left).unwrap_or(usize::MAX);
        let copied = rustix::fs::copy_file_range(
            from,
            Some(&mut from_offset),
            to,
            Some(&mut to_offset),
            step,
        )?;
        if copied == 0 {
            break;
        }
        left -= copied as u64;
    }
    Ok(())
}

/// The change in a few words, for an error's text.
fn describe(change: &Change) -> String {
    let [first, second] = change.locations();
    let text = format!("{change:?}");
    let verb = text.split([' ', '{', '(']).next().unwrap_or("change").to_owned();
    match (first, second) {
        (Some(one), Some(two)) => format!("{verb} {one} -> {two}"),
        (Some(one), None) => format!("{verb} {one}"),
        _ => text.chars().take(120).collect(),
    }
}
