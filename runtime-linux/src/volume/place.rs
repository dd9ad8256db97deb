//! Places below the replicated directories, reached without ever following a symbolic link.
//!
//! Each root is held by a descriptor opened before anything is mounted over it, so everything here
//! meets the underlying directory. A walk uses `openat2` with `RESOLVE_BENEATH` and
//! `RESOLVE_NO_SYMLINKS`: what the peer names can never lead out. The parents of the last places
//! are kept open; renaming or removing a directory empties that cache.
//!
//! Also decides what is never replicated: the housekeeping directory, `lost+found`, and what
//! `<notreplicated>` excludes.

use std::{
    collections::VecDeque,
    ffi::OsStr,
    io,
    os::{
        fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use havre_core::{config::module::ReplicatedConfig, replication::record::Location};
use regex::bytes::{Regex, RegexBuilder};
use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags},
    io::Errno,
};

#[cfg(test)]
mod tests;

/// Directory inside each replicated directory for Havre's own files; never replicated.
pub const HOUSEKEEPING: &[u8] = b".havre";
/// Parents kept open.
const PARENTS_MAX: usize = 32;
/// Longest compiled size of one `regexpath`, so that a configuration cannot eat the memory.
const REGEX_BYTES_MAX: usize = 1 << 20;

/// How every descriptor of a directory is opened.
const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

/// The replicated directories of one module.
#[derive(Debug)]
pub struct Places {
    roots: Vec<Root>,
    parents: VecDeque<(Location, Arc<OwnedFd>)>,
}

impl Clone for Places {
    /// Shares the directories, not the open parents.
    fn clone(&self) -> Self {
        Self { roots: self.roots.clone(), parents: VecDeque::new() }
    }
}

/// One replicated directory.
#[derive(Debug, Clone)]
struct Root {
    dir: Arc<OwnedFd>,
    excluded: Excluded,
}

/// What `<notreplicated>` names in one replicated directory, besides Havre's own files.
#[derive(Debug, Clone, Default)]
pub struct Excluded {
    paths: Vec<Vec<u8>>,
    names: Vec<Regex>,
}

impl Excluded {
    /// Reads `<notreplicated>` of one `<replicated>`.
    ///
    /// Fails with the regular expression and its fault.
    pub fn new(config: &ReplicatedConfig) -> Result<Self, String> {
        let paths = config.excluded_paths.iter().map(|path| relative(path)).collect();
        let mut names = Vec::with_capacity(config.excluded_names.len());
        for text in &config.excluded_names {
            let regex = RegexBuilder::new(text)
                .unicode(false)
                .size_limit(REGEX_BYTES_MAX)
                .build()
                .map_err(|fault| format!("<notreplicated regexpath=\"{text}\">: {fault}"))?;
            names.push(regex);
        }
        Ok(Self { paths, names })
    }

    /// Whether the entry at `path` (relative to the root) is left alone on both nodes.
    ///
    /// Everything below an excluded directory is excluded; callers that walk need to ask only
    /// for entries of directories that are not.
    pub fn contains(&self, path: &[u8]) -> bool {
        let mut end = 0;
        path.split(|byte| *byte == b'/').any(|name| {
            end += name.len();
            let excluded = self.excludes_entry(&path[..end], name, end == name.len());
            end += 1;
            excluded
        })
    }

    fn excludes_entry(&self, path: &[u8], name: &[u8], top: bool) -> bool {
        (top && (name == HOUSEKEEPING || name == b"lost+found"))
            || self.paths.iter().any(|excluded| excluded == path)
            || self.names.iter().any(|regex| regex.is_match(name))
    }
}

/// A configured relative path in the form of [`Location::path`].
fn relative(path: &Path) -> Vec<u8> {
    let bytes = path.as_os_str().as_bytes();
    let bytes = bytes.strip_prefix(b"./").unwrap_or(bytes);
    let end = bytes.iter().rposition(|byte| *byte != b'/').map_or(0, |at| at + 1);
    let start = bytes.iter().position(|byte| *byte != b'/').unwrap_or(end);
    bytes[start..end].to_vec()
}

/// Opens the directory that is now at the absolute `path`; what is mounted over it later is not
/// seen through this descriptor.
pub fn open_root(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(CWD, path, DIRECTORY.difference(OFlags::NOFOLLOW), Mode::empty())?)
}

impl Places {
    /// Takes the descriptors of the underlying directories, in the order of the configuration.
    pub fn new(roots: impl IntoIterator<Item = (OwnedFd, Excluded)>) -> Self {
        let roots = roots.into_iter().map(|(dir, excluded)| Root { dir: Arc::new(dir), excluded });
        Self { roots: roots.collect(), parents: VecDeque::new() }
    }

    /// Number of replicated directories.
    pub fn len(&self) -> usize {
        self.roots.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.roots.is_empty()
    }

    /// The descriptor of one replicated directory; `None` if the peer names one that is not ours.
    pub fn root(&self, root: u8) -> Option<BorrowedFd<'_>> {
        self.roots.get(usize::from(root)).map(|root| root.dir.as_fd())
    }

    /// Whether the place is left alone on both nodes.
    pub fn excludes(&self, location: &Location) -> bool {
        self.roots
            .get(usize::from(location.root))
            .is_none_or(|root| !location.path.is_empty() && root.excluded.contains(&location.path))
    }

    /// Opens the directory at `location` for reading its entries.
    pub fn directory(&mut self, location: &Location) -> io::Result<Arc<OwnedFd>> {
        let root = self.roots.get(usize::from(location.root)).ok_or(Errno::NOENT)?;
        if location.path.is_empty() {
            return Ok(Arc::clone(&root.dir));
        }
        if let Some((_, dir)) = self.parents.iter().find(|(known, _)| known == location) {
            return Ok(Arc::clone(dir));
        }
        let dir = Arc::new(open_beneath(root.dir.as_fd(), &location.path, DIRECTORY)?);
        if self.parents.len() == PARENTS_MAX {
            self.parents.pop_back();
        }
        self.parents.push_front((location.clone(), Arc::clone(&dir)));
        Ok(dir)
    }

    /// Opens the directory that holds the entry `location`, and says the entry's name.
    ///
    /// Fails with `EINVAL` for a root, which is no entry.
    pub fn parent<'a>(&mut self, location: &'a Location) -> io::Result<(Arc<OwnedFd>, &'a [u8])> {
        let (parent, _) = location.split().ok_or(Errno::INVAL)?;
        let name_at = location.path.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
        Ok((self.directory(&parent)?, &location.path[name_at..]))
    }

    /// Opens the entry at `location`, which may be a root, with these flags.
    pub fn open(&self, location: &Location, flags: OFlags) -> io::Result<OwnedFd> {
        let root = self.roots.get(usize::from(location.root)).ok_or(Errno::NOENT)?;
        let path: &[u8] = if location.path.is_empty() { b"." } else { &location.path };
        open_beneath(root.dir.as_fd(), path, flags)
    }

    /// Forgets open parents: a directory was renamed or removed.
    pub fn forget_parents(&mut self) {
        self.parents.clear();
    }
}

fn open_beneath(dir: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    let resolve =
        ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);
    let flags = flags.union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);
    Ok(rustix::fs::openat2(dir, path, flags, Mode::empty(), resolve)?)
}

/// A path that names `name` in the directory `dir` to system calls that take no descriptor.
pub fn magic_path(dir: BorrowedFd<'_>, name: &[u8]) -> PathBuf {
    let mut path = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
    if !name.is_empty() {
        path.push(OsStr::from_bytes(name));
    }
    path
}
