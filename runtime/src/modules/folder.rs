//! Folders that are copied and replaced as a whole.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use super::{ModuleError, failed};
use crate::store::create_private_dir;

/// Entries of a module's folder, and levels below it; more is no module.
const ENTRIES_MAX: usize = 10_000;
const DEPTH_MAX: usize = 16;

/// Copies the folder `from` over `to`, with the module's number in the file `id`. `to` is the old
/// or the new folder, never a mixture; if a crash leaves none, the old one is in `NAME.old`.
///
/// `extra`: further files, by relative path.
pub(super) fn replace(
    from: &Path,
    to: &Path,
    id: &str,
    extra: &[(&str, Vec<u8>)],
) -> Result<(), ModuleError> {
    let parent = to.parent().unwrap_or_else(|| Path::new("."));
    create_private_dir(parent).map_err(failed(parent))?;
    let (new, old) = (to.with_extension("new"), to.with_extension("old"));
    remove(&new)?;
    let mut budget = ENTRIES_MAX;
    copy(from, &new, DEPTH_MAX, &mut budget)?;
    let id_file = new.join("id");
    fs::write(&id_file, id).map_err(failed(&id_file))?;
    sync(&id_file)?;
    for (name, bytes) in extra {
        let file = new.join(name);
        fs::write(&file, bytes).map_err(failed(&file))?;
        sync(&file)?;
    }
    sync(&new)?;
    if to.exists() {
        remove(&old)?;
        fs::rename(to, &old).map_err(failed(to))?;
    }
    fs::rename(&new, to).map_err(failed(to))?;
    sync(parent)?;
    remove(&old)
}

/// Removes a folder, if it is there.
pub(super) fn remove(path: &Path) -> Result<(), ModuleError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(path)(error)),
        _ => Ok(()),
    }
}

/// Copies a folder with the permissions of its files. Links are followed: what they point to may
/// not exist where the copy is used.
fn copy(from: &Path, to: &Path, depth: usize, budget: &mut usize) -> Result<(), ModuleError> {
    let too_much = || failed(from)(io::Error::other("too many files or levels for a module"));
    if depth == 0 {
        return Err(too_much());
    }
    create_private_dir(to).map_err(failed(to))?;
    for entry in fs::read_dir(from).map_err(failed(from))? {
        *budget = budget.checked_sub(1).ok_or_else(too_much)?;
        let name = entry.map_err(failed(from))?.file_name();
        let (source, target) = (from.join(&name), to.join(&name));
        if source.is_dir() {
            copy(&source, &target, depth - 1, budget)?;
        } else {
            fs::copy(&source, &target).map_err(failed(&source))?;
            sync(&target)?;
        }
    }
    sync(to)
}

fn sync(path: &Path) -> Result<(), ModuleError> {
    if cfg!(windows) && path.is_dir() {
        return Ok(());
    }
    File::open(path).and_then(|file| file.sync_all()).map_err(failed(path))
}

/// Every file of a folder by its relative path, as digests.
pub(super) fn contents(dir: &Path) -> Result<BTreeMap<PathBuf, blake3::Hash>, ModuleError> {
    let mut found = BTreeMap::new();
    let mut pending = vec![dir.to_owned()];
    while let Some(next) = pending.pop() {
        for entry in fs::read_dir(&next).map_err(failed(&next))? {
            let path = entry.map_err(failed(&next))?.path();
            if path.is_dir() {
                pending.push(path);
            } else {
                let bytes = fs::read(&path).map_err(failed(&path))?;
                let name = path.strip_prefix(dir).unwrap_or(&path).to_owned();
                found.insert(name, blake3::hash(&bytes));
            }
        }
        if found.len() > ENTRIES_MAX {
            return Err(failed(dir)(io::Error::other("too many files for a module")));
        }
    }
    Ok(found)
}
