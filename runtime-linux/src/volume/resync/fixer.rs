//! The target's half: carries out steps, and says what it needs.

use std::{
    collections::{HashMap, HashSet},
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use havre_core::replication::{
    item::{Answer, Attributes, Entry, Kind, REGION_BYTES, Step, Want},
    record::Location,
};
use rustix::{
    fs::{AtFlags, FallocateFlags, FileType, Gid, Mode, OFlags, RenameFlags, Stat, Uid},
    io::Errno,
};

use super::{
    aside::Aside,
    scan::{
        attributes_of, digest, entry_at, is_absent, open_file, region_digests, size_of,
        small_digest, split_xattrs, xattrs_at,
    },
};
use crate::volume::{
    apply::{
        attributes::{remove_xattr_at, set_mode_at, set_owner_at, set_xattr_at, timestamps},
        device, write_all,
    },
    place::Places,
    tree,
};

/// How a file is made.
const NEW: OFlags = OFlags::RDWR.union(OFlags::CREATE).union(OFlags::EXCL).union(OFlags::CLOEXEC);
/// Names of files with several names that are remembered within one resynchronisation.
const IDENTITIES_MAX: usize = 100_000;

/// Carries out the steps of one resynchronisation.
#[derive(Debug, Default)]
pub struct Fixer {
    aside: Option<Aside>,
    /// Whether what is read here proves nothing, so that every block is asked for.
    rewriting: bool,
    /// First place seen of each of the source's files with several names.
    identities: HashMap<u64, Location>,
    /// Files with several names that were made empty, so that their other names could join them,
    /// and whose content is still to come.
    empty: HashSet<Location>,
    /// The file that is being written.
    open: Option<(Location, OwnedFd)>,
    /// Entries of the directory that is being listed.
    listed: Option<(Location, Vec<Vec<u8>>)>,
}

impl Fixer {
    /// Makes one; `aside` keeps what differs.
    pub fn new(aside: Option<Aside>) -> Self {
        Self { aside, ..Self::default() }
    }

    /// The same, that asks for everything instead of comparing it, if `rewriting`: what is read
    /// here may be in the cache and not on the disk.
    #[must_use]
    pub fn rewriting(self, rewriting: bool) -> Self {
        Self { rewriting, ..self }
    }

    /// How many entries were kept aside.
    pub fn kept(&self) -> usize {
        self.aside.as_ref().map_or(0, Aside::count)
    }

    /// Carries out one step. Steps come in order, and one after the other.
    pub fn step(
        &mut self,
        places: &mut Places,
        step: &Step,
        payload: &[u8],
    ) -> io::Result<Option<Answer>> {
        match step {
            Step::Renamed { from, to } => self.renamed(places, from, to).map(|()| None),
            Step::Linked { from, to } => linked(places, from, to).map(|()| None),
            Step::List { directory, after, ends, entries } => {
                self.list(places, directory, after, *ends, entries).map(Some)
            }
            Step::Inspect { at, entry } => self.inspect(places, at, entry).map(Some),
            Step::Compare { file, size, index, digests } => {
                let Some((open, _)) = open_file(places, file)? else {
                    return Ok(Some(Answer::Absent));
                };
                let own = if self.rewriting {
                    Vec::new()
                } else {
                    region_digests(open.as_fd(), *index, own_end(open.as_fd(), *size)?)?
                };
                let differs = |at: &usize| own.get(*at) != digests.get(*at);
                let blocks = (0..digests.len()).filter(differs);
                Ok(Some(Answer::Blocks(blocks.filter_map(|at| u16::try_from(at).ok()).collect())))
            }
            Step::Create { file } => self.create(places, file).map(|()| None),
            Step::Write { file, offset } => {
                self.keep_copy(places, file)?;
                let open = self.file(places, file)?;
                write_all(open, payload, *offset).map(|()| None)
            }
            Step::Zero { file, offset, len } => {
                self.keep_copy(places, file)?;
                let open = self.file(places, file)?;
                zero(open, *offset, *len).map(|()| None)
            }
            Step::Xattrs { at } => set_xattrs(places, at, payload).map(|()| None),
            Step::Finish { file, size, attributes } => {
                self.finish(places, file, *size, *attributes).map(|()| None)
            }
        }
    }

    fn renamed(&mut self, places: &mut Places, from: &Location, to: &Location) -> io::Result<()> {
        if places.excludes(from) || places.excludes(to) {
            return Ok(());
        }
        let ends = places.parent(from).and_then(|from| Ok((from, places.parent(to)?)));
        let ((from_dir, from_name), (to_dir, to_name)) = match ends {
            Err(error) if is_absent(&error) => return Ok(()),
            other => other?,
        };
        let flags = RenameFlags::NOREPLACE;
        match rustix::fs::renameat_with(&*from_dir, from_name, &*to_dir, to_name, flags) {
            Ok(()) | Err(Errno::NOENT | Errno::EXIST | Errno::INVAL) => {}
            Err(error) => return Err(error.into()),
        }
        places.forget_parents();
        Ok(())
    }

    fn list(
        &mut self,
        places: &mut Places,
        directory: &Location,
        after: &[u8],
        ends: bool,
        entries: &[Entry],
    ) -> io::Result<Answer> {
        let dir = match places.directory(directory) {
            Err(error) if is_absent(&error) => return Ok(Answer::Absent),
            other => other?,
        };
        let own = match self.listed.take() {
            Some((known, own)) if known == *directory && !after.is_empty() => own,
            _ => tree::entries(dir.as_fd())?.into_iter().map(|(name, _)| name).collect(),
        };
        let last = entries.last().map_or(after, |entry| entry.name.as_slice());
        for name in &own {
            let here = name.as_slice() > after && (ends || name.as_slice() <= last);
            let listed = entries.binary_search_by(|entry| entry.name.cmp(name)).is_ok();
            if here && !listed {
                self.remove(places, &directory.join(name))?;
            }
        }
        let mut wants = Vec::new();
        for (index, entry) in entries.iter().enumerate() {
            let place = directory.join(&entry.name);
            if !places.excludes(&place) {
                let index = u32::try_from(index).unwrap_or(u32::MAX);
                self.fit(places, &place, entry, true, &mut |want| wants.push((index, want)))?;
            }
        }
        if !ends {
            self.listed = Some((directory.clone(), own));
        }
        Ok(Answer::Wanted(wants))
    }

    fn inspect(&mut self, places: &mut Places, at: &Location, entry: &Entry) -> io::Result<Answer> {
        let mut wants = Vec::new();
        if at.path.is_empty() {
            let dir = places.directory(at)?;
            set_entry_attributes(dir.as_fd(), b".", entry, &entry_at(dir.as_fd(), b".", false)?)?;
            if digest(&xattrs_at(dir.as_fd(), b".")?) != entry.xattrs {
                wants.push((0, Want::Xattrs));
            }
            return Ok(Answer::Wanted(wants));
        }
        match places.parent(at) {
            Err(error) if is_absent(&error) => return Ok(Answer::Absent),
            other => other?,
        };
        self.fit(places, at, entry, false, &mut |want| wants.push((0, want)))?;
        Ok(Answer::Wanted(wants))
    }

    /// Makes an entry what the source says, and names what is missing for that.
    fn fit(
        &mut self,
        places: &mut Places,
        place: &Location,
        entry: &Entry,
        content: bool,
        want: &mut dyn FnMut(Want),
    ) -> io::Result<()> {
        self.fit_identity(places, place, entry)?;
        let (dir, name) = places.parent(place)?;
        let own = match entry_at(dir.as_fd(), name, false) {
            Err(error) if is_absent(&error) => None,
            other => Some(other?),
        };
        let Some(own) = own else { return self.make(places, place, entry, want) };
        if !can_stay(&own.kind, &entry.kind) {
            self.remove(places, place)?;
            return self.make(places, place, entry, want);
        }
        if let (Kind::File { size, digest, .. }, Kind::File { size: own_size, .. }, true) =
            (&entry.kind, &own.kind, content)
        {
            let same_small = match digest {
                Some(digest) if size == own_size && !self.rewriting => {
                    Some(small_digest(dir.as_fd(), name, *own_size)? == *digest)
                }
                Some(_) => Some(false),
                None => None,
            };
            if own.xattrs != entry.xattrs {
                want(Want::Xattrs);
            }
            match same_small {
                Some(true) => return set_entry_attributes(dir.as_fd(), name, entry, &own),
                // It may have another name, here or in what is listed next: it must stay the
                // same file.
                Some(false) if is_shared(&own.kind) || is_shared(&entry.kind) => {
                    want(Want::Comparison);
                }
                Some(false) => want(Want::Content),
                None => want(Want::Comparison),
            }
            return Ok(());
        }
        if own.xattrs != entry.xattrs {
            want(Want::Xattrs);
        }
        set_entry_attributes(dir.as_fd(), name, entry, &own)
    }

    fn make(
        &mut self,
        places: &mut Places,
        place: &Location,
        entry: &Entry,
        want: &mut dyn FnMut(Want),
    ) -> io::Result<()> {
        let (dir, name) = places.parent(place)?;
        if is_shared(&entry.kind) {
            rustix::fs::openat(&*dir, name, NEW, Mode::RUSR | Mode::WUSR)?;
            self.empty.insert(place.clone());
        }
        make(dir.as_fd(), name, entry, want)
    }

    /// Joins the names of one file; what the file is like is compared under each name, because it
    /// may have changed since it was met under another.
    fn fit_identity(
        &mut self,
        places: &mut Places,
        place: &Location,
        entry: &Entry,
    ) -> io::Result<()> {
        let Kind::File { identity: Some(identity), .. } = entry.kind else { return Ok(()) };
        let known = match self.identities.get(&identity) {
            Some(known) if known != place => known.clone(),
            Some(_) => return Ok(()),
            None => {
                if self.identities.len() < IDENTITIES_MAX {
                    self.identities.insert(identity, place.clone());
                }
                return Ok(());
            }
        };
        let Some((_, first)) = open_file(places, &known)? else {
            self.identities.insert(identity, place.clone());
            return Ok(());
        };
        let (dir, name) = places.parent(place)?;
        let here = rustix::fs::statat(&*dir, name, AtFlags::SYMLINK_NOFOLLOW);
        if here.is_ok_and(|here| (here.st_dev, here.st_ino) == (first.st_dev, first.st_ino)) {
            return Ok(());
        }
        self.remove(places, place)?;
        let (from_dir, from_name) = places.parent(&known)?;
        let (dir, name) = places.parent(place)?;
        rustix::fs::linkat(&*from_dir, from_name, &*dir, name, AtFlags::empty())?;
        Ok(())
    }

    fn remove(&mut self, places: &mut Places, place: &Location) -> io::Result<()> {
        if places.excludes(place) {
            return Ok(());
        }
        self.open = None;
        if let Some(aside) = &mut self.aside
            && aside.take(places, place)?
        {
            return Ok(());
        }
        let (dir, name) = places.parent(place)?;
        places.forget_parents();
        tree::remove(places, dir.as_fd(), name, place).map(|_gone| ())
    }

    /// A new, empty file: what has the name now may be linked from elsewhere.
    fn create(&mut self, places: &mut Places, file: &Location) -> io::Result<()> {
        let made = if self.empty.remove(file) {
            places.open(file, OFlags::RDWR | OFlags::NONBLOCK)?
        } else {
            self.remove(places, file)?;
            let (dir, name) = places.parent(file)?;
            rustix::fs::openat(&*dir, name, NEW, Mode::RUSR | Mode::WUSR)?
        };
        self.open = Some((file.clone(), made));
        Ok(())
    }

    fn file(&mut self, places: &Places, file: &Location) -> io::Result<BorrowedFd<'_>> {
        if self.open.as_ref().is_none_or(|(known, _)| known != file) {
            let flags = OFlags::RDWR | OFlags::NONBLOCK;
            self.open = Some((file.clone(), places.open(file, flags)?));
        }
        let (_, open) = self.open.as_ref().expect("it has just been opened");
        Ok(open.as_fd())
    }

    fn keep_copy(&mut self, places: &mut Places, file: &Location) -> io::Result<()> {
        let made_here = self.open.as_ref().is_some_and(|(known, _)| known == file);
        match &mut self.aside {
            Some(aside) if !made_here => aside.copy(places, file),
            _ => Ok(()),
        }
    }

    fn finish(
        &mut self,
        places: &mut Places,
        file: &Location,
        size: u64,
        attributes: Attributes,
    ) -> io::Result<()> {
        let stat: Stat = rustix::fs::fstat(self.file(places, file)?)?;
        if size_of(&stat) != size {
            self.keep_copy(places, file)?;
            rustix::fs::ftruncate(self.file(places, file)?, size)?;
        }
        set_attributes(self.file(places, file)?, attributes)?;
        self.open = None;
        Ok(())
    }
}

fn linked(places: &mut Places, from: &Location, to: &Location) -> io::Result<()> {
    if places.excludes(from) || places.excludes(to) {
        return Ok(());
    }
    let ends = places.parent(from).and_then(|from| Ok((from, places.parent(to)?)));
    let ((from_dir, from_name), (to_dir, to_name)) = match ends {
        Err(error) if is_absent(&error) => return Ok(()),
        other => other?,
    };
    match rustix::fs::linkat(&*from_dir, from_name, &*to_dir, to_name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT | Errno::EXIST | Errno::PERM | Errno::MLINK) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// End of what is compared: a longer file here is cut by `Finish`, a shorter one reads as zeros
/// nowhere, so its missing blocks differ.
fn own_end(file: BorrowedFd<'_>, size: u64) -> io::Result<u64> {
    Ok(size_of(&rustix::fs::fstat(file)?).min(size))
}

/// Whether an entry of this kind can become the other without being made anew.
fn can_stay(own: &Kind, other: &Kind) -> bool {
    match (own, other) {
        (Kind::File { identity: Some(_), .. }, Kind::File { identity: None, .. }) => false,
        (Kind::File { .. }, Kind::File { .. }) => true,
        (own, other) => own == other,
    }
}

/// Whether a file has several names.
const fn is_shared(kind: &Kind) -> bool {
    matches!(kind, Kind::File { identity: Some(_), .. })
}

/// Makes an entry that is not there.
fn make(
    dir: BorrowedFd<'_>,
    name: &[u8],
    entry: &Entry,
    want: &mut dyn FnMut(Want),
) -> io::Result<()> {
    let private = Mode::RUSR | Mode::WUSR;
    let node = |kind, number| rustix::fs::mknodat(dir, name, kind, private, number);
    match &entry.kind {
        Kind::File { .. } => {
            want(Want::Content);
            return Ok(());
        }
        Kind::Directory => {
            rustix::fs::mkdirat(dir, name, Mode::RWXU)?;
            want(Want::Entries);
        }
        Kind::Symlink { target } => rustix::fs::symlinkat(target.as_slice(), dir, name)?,
        Kind::Fifo => node(FileType::Fifo, 0)?,
        Kind::Socket => node(FileType::Socket, 0)?,
        Kind::CharacterDevice(number) => node(FileType::CharacterDevice, device(*number))?,
        Kind::BlockDevice(number) => node(FileType::BlockDevice, device(*number))?,
    }
    let own = entry_at(dir, name, false)?;
    if own.xattrs != entry.xattrs {
        want(Want::Xattrs);
    }
    set_entry_attributes(dir, name, entry, &own)
}

/// Sets what differs. The modification time of a directory follows its entries, not the source.
fn set_entry_attributes(
    dir: BorrowedFd<'_>,
    name: &[u8],
    entry: &Entry,
    own: &Entry,
) -> io::Result<()> {
    let (wanted, have) = (entry.attributes, own.attributes);
    let owner_differs = (wanted.uid, wanted.gid) != (have.uid, have.gid);
    if owner_differs {
        set_owner_at(dir, name, Some(wanted.uid), Some(wanted.gid))?;
    }
    let symlink = matches!(entry.kind, Kind::Symlink { .. });
    if !symlink && (owner_differs || wanted.mode != have.mode) {
        set_mode_at(dir, name, wanted.mode)?;
    }
    if entry.kind != Kind::Directory && wanted.modified != have.modified {
        let times = timestamps(None, Some(wanted.modified));
        rustix::fs::utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}

/// Sets the attributes of an open file.
pub(super) fn set_attributes(file: BorrowedFd<'_>, attributes: Attributes) -> io::Result<()> {
    let have = attributes_of(&rustix::fs::fstat(file)?);
    if (have.uid, have.gid) != (attributes.uid, attributes.gid) {
        let (uid, gid) = (Uid::from_raw(attributes.uid), Gid::from_raw(attributes.gid));
        rustix::fs::fchown(file, Some(uid), Some(gid))?;
    }
    rustix::fs::fchmod(file, Mode::from_raw_mode(u32::from(attributes.mode)))?;
    Ok(rustix::fs::futimens(file, &timestamps(None, Some(attributes.modified)))?)
}

fn set_xattrs(places: &mut Places, at: &Location, payload: &[u8]) -> io::Result<()> {
    let wanted = split_xattrs(payload).ok_or(Errno::INVAL)?;
    let (dir, name) =
        if at.path.is_empty() { (places.directory(at)?, &b"."[..]) } else { places.parent(at)? };
    let have = xattrs_at(dir.as_fd(), name)?;
    let have = split_xattrs(&have).ok_or(Errno::INVAL)?;
    for (key, _) in &have {
        if !wanted.iter().any(|(other, _)| other == key) {
            remove_xattr_at(dir.as_fd(), name, key)?;
        }
    }
    for (key, value) in wanted {
        if !have.contains(&(key, value)) {
            set_xattr_at(dir.as_fd(), name, key, value)?;
        }
    }
    Ok(())
}

fn zero(file: BorrowedFd<'_>, offset: u64, len: u64) -> io::Result<()> {
    if len == 0 || len > REGION_BYTES {
        return Ok(());
    }
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match rustix::fs::fallocate(file, flags, offset, len) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
            write_all(file, &vec![0; usize::try_from(len).unwrap_or(0)], offset)
        }
        other => Ok(other?),
    }
}
