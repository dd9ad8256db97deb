//! Small durable records: a file is replaced as a whole, or stays as it was.
//!
//! A record is written to a temporary file, synced, renamed over the old one, and the directory
//! is synced: after [`Store::write`] returns, a power cut does not undo it. Each record carries a
//! digest, so that rot is told apart from absence: a rotten record must never pass for a module
//! that never ran here.
//!
//! The file is one line `havre-record 1 DIGEST`, then the content as it was given (JSON for all
//! records of Havre, so that a technician can read them).

mod modules;
mod private;

use std::{
    fs::{self, File, TryLockError},
    io::{self, Write},
    path::{Path, PathBuf},
};

use thiserror::Error;

pub use self::{
    modules::{ModuleRecords, next_run},
    private::{create_private_dir, write_private},
};

const HEADING: &str = "havre-record 1 ";

/// Why a record or the state directory cannot be used.
#[derive(Debug, Error)]
pub enum StoreError {
    /// Another daemon uses the directory.
    #[error(
        "{}: another havre daemon uses this state directory; give each its own --state-dir",
        .0.display()
    )]
    InUse(PathBuf),
    /// The content does not fit its digest.
    #[error(
        "{}: the record is damaged; restore it from a backup, or delete it and copy the data \
         from the other node",
        .0.display()
    )]
    Damaged(PathBuf),
    /// The operating system refused.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

impl StoreError {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}

/// A directory of records.
#[derive(Debug, Clone)]
pub struct Store {
    dir: PathBuf,
}

/// Keeps other daemons out of a state directory until it is dropped.
#[derive(Debug)]
pub struct StateLock {
    _file: File,
}

impl StateLock {
    /// Takes the state directory for this process. Creates it (mode 0700) if it is missing.
    ///
    /// # Errors
    /// [`StoreError::InUse`], or the directory cannot be created.
    pub fn take(state_dir: &Path) -> Result<Self, StoreError> {
        create_private_dir(state_dir).map_err(StoreError::io(state_dir))?;
        let path = state_dir.join("lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(StoreError::io(&path))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(StoreError::InUse(state_dir.to_owned())),
            Err(TryLockError::Error(source)) => Err(StoreError::Io { path, source }),
        }
    }
}

impl Store {
    /// Opens a directory of records; creates it (mode 0700) if it is missing.
    ///
    /// # Errors
    /// It cannot be created.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let dir = dir.into();
        create_private_dir(&dir).map_err(StoreError::io(&dir))?;
        Ok(Self { dir })
    }

    /// Replaces a record. When this returns `Ok`, a power cut does not undo it; after an error
    /// the old record stands.
    ///
    /// # Errors
    /// The disk is full or failing.
    pub fn write(&self, name: &str, content: &[u8]) -> Result<(), StoreError> {
        let path = self.path(name);
        let mut bytes = format!("{HEADING}{}\n", blake3::hash(content).to_hex()).into_bytes();
        bytes.extend_from_slice(content);
        self.replace(&path, &bytes).map_err(StoreError::io(&path))
    }

    fn replace(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let temporary = path.with_extension("tmp");
        let mut file = private::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        drop(file);
        fs::rename(&temporary, path)?;
        sync_dir(&self.dir)
    }

    /// Reads a record; `None` if there is none.
    ///
    /// # Errors
    /// [`StoreError::Damaged`], or the disk fails.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.path(name);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(StoreError::Io { path, source }),
        };
        match checked(&bytes) {
            Some(content) => Ok(Some(content.to_vec())),
            None => Err(StoreError::Damaged(path)),
        }
    }

    /// Removes a record, if it is there.
    ///
    /// # Errors
    /// The operating system refuses.
    pub fn remove(&self, name: &str) -> Result<(), StoreError> {
        let path = self.path(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(StoreError::Io { path, source: error })
            }
            _ => sync_dir(&self.dir).map_err(StoreError::io(&self.dir)),
        }
    }

    /// Names of the records, in order.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn names(&self) -> Result<Vec<String>, StoreError> {
        let failed = || StoreError::io(&self.dir);
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(failed())? {
            let name = entry.map_err(failed())?.file_name();
            if let Some(name) = name.to_str().and_then(|name| name.strip_suffix(".record")) {
                names.push(name.to_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.record"))
    }
}

/// The content of a record's file, if it is whole.
fn checked(bytes: &[u8]) -> Option<&[u8]> {
    let rest = bytes.strip_prefix(HEADING.as_bytes())?;
    let end = rest.iter().position(|byte| *byte == b'\n')?;
    let (digest, content) = (&rest[..end], &rest[end + 1..]);
    (blake3::hash(content).to_hex().as_bytes() == digest).then_some(content)
}

/// Makes the names in a directory durable. Windows makes them so by itself.
fn sync_dir(dir: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(dir)?.sync_all() } else { Ok(()) }
}

#[cfg(test)]
mod tests;
