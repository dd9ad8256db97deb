//! Keeps what a resynchronisation would overwrite or remove, after a split brain.
//!
//! Kept files lie at their old paths under `.havre/diverged/<generation>/` of their replicated
//! directory, which is never replicated. Each is kept once, as it was before the first step that
//! touches it.

use std::{
    collections::HashSet,
    ffi::OsStr,
    fs, io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use havre_core::{
    replication::{generation::Generation, record::Location},
    status::KeptAside,
};
use rustix::{
    fs::{Mode, OFlags, RenameFlags},
    io::Errno,
};

use super::scan::{attributes_of, open_file, read_at, size_of};
use crate::volume::{
    apply::write_all,
    place::{HOUSEKEEPING, Places},
    settings::Settings,
};

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Entries that are counted at most: who wants to know more looks.
const COUNTED_MAX: u64 = 100_000;

/// Everything that is kept in the replicated directories of a module, by generation.
pub fn kept_aside(settings: &Settings) -> Vec<KeptAside> {
    let mut kept = Vec::new();
    for config in &settings.rfs.directories {
        let housekeeping = Path::new(OsStr::from_bytes(HOUSEKEEPING));
        let generations = config.dir.join(housekeeping).join("diverged");
        // Nothing was ever kept, or it cannot be looked at: then it is not ours.
        for entry in fs::read_dir(generations).into_iter().flatten().flatten() {
            let entries = count(&entry.path());
            kept.push(KeptAside { place: entry.path().display().to_string(), entries });
        }
    }
    kept.sort();
    kept
}

fn count(directory: &Path) -> u64 {
    let mut due = vec![directory.to_owned()];
    let mut entries = 0;
    while let Some(next) = due.pop()
        && entries < COUNTED_MAX
    {
        for entry in fs::read_dir(next).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => due.push(entry.path()),
                _ => entries += 1,
            }
        }
    }
    entries
}

/// Keeps files aside under one generation's name.
#[derive(Debug)]
pub struct Aside {
    name: Vec<u8>,
    kept: HashSet<Location>,
}

impl Aside {
    /// Keeps under the name of the generation that is given up.
    pub fn new(generation: Generation) -> Self {
        Self { name: generation.to_string().into_bytes(), kept: HashSet::new() }
    }

    /// How many entries were kept.
    pub fn count(&self) -> usize {
        self.kept.len()
    }

    /// Copies a file that is about to be changed.
    pub(super) fn copy(&mut self, places: &mut Places, file: &Location) -> io::Result<()> {
        if self.is_kept(file) {
            return Ok(());
        }
        let Some((from, stat)) = open_file(places, file)? else { return Ok(()) };
        let (dir, name) = self.directory_for(places, file)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
        let to = rustix::fs::openat(&dir, name, flags, Mode::RUSR | Mode::WUSR)?;
        let mut buffer = vec![0u8; 1 << 20];
        let mut offset = 0;
        loop {
            let len = read_at(from.as_fd(), &mut buffer, offset)?;
            if len == 0 {
                break;
            }
            if buffer[..len].iter().any(|byte| *byte != 0) {
                write_all(to.as_fd(), &buffer[..len], offset)?;
            }
            offset += len as u64;
        }
        rustix::fs::ftruncate(&to, size_of(&stat))?;
        super::fixer::set_attributes(to.as_fd(), attributes_of(&stat))?;
        self.kept.insert(file.clone());
        Ok(())
    }

    /// Moves an entry, with everything below it, that is about to be removed. Says whether it is
    /// gone from its place.
    pub(super) fn take(&mut self, places: &mut Places, entry: &Location) -> io::Result<bool> {
        if self.is_kept(entry) {
            return Ok(false);
        }
        let (dir, name) = self.directory_for(places, entry)?;
        let (from, from_name) = places.parent(entry)?;
        let flags = RenameFlags::NOREPLACE;
        match rustix::fs::renameat_with(&*from, from_name, &dir, name, flags) {
            Ok(()) => {
                self.kept.insert(entry.clone());
                places.forget_parents();
                Ok(true)
            }
            Err(Errno::NOENT) => Ok(true),
            // Kept by an earlier attempt at this resynchronisation.
            Err(Errno::EXIST) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn is_kept(&self, place: &Location) -> bool {
        let mut at = Some(place.clone());
        while let Some(place) = at {
            if self.kept.contains(&place) {
                return true;
            }
            at = place.split().map(|(parent, _)| parent);
        }
        false
    }

    fn directory_for<'a>(
        &self,
        places: &Places,
        place: &'a Location,
    ) -> io::Result<(OwnedFd, &'a [u8])> {
        let root = places.root(place.root).ok_or(Errno::NOENT)?;
        let (parent, _) = place.split().ok_or(Errno::INVAL)?;
        let name_at = place.path.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
        let name = &place.path[name_at..];
        let above = parent.path.split(|byte| *byte == b'/').filter(|part| !part.is_empty());
        let mut dir = rustix::fs::openat(root, c".", DIRECTORY, Mode::empty())?;
        for part in [HOUSEKEEPING, b"diverged", &self.name].into_iter().chain(above) {
            match rustix::fs::mkdirat(&dir, part, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            dir = rustix::fs::openat(&dir, part, DIRECTORY, Mode::empty())?;
        }
        Ok((dir, name))
    }
}
