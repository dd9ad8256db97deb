//! Earlier configurations: the last three of each module that were applied, and a package of each
//! module that was removed.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::{ModuleError, failed, folder};
use crate::{events::time::stamp, package::Package, store::create_private_dir};

/// Earlier configurations of one module that are kept.
pub const KEPT: usize = 3;
/// Letters of the date and time at the end of a kept configuration's name.
const STAMP_CHARS: usize = 19;

/// A configuration that was applied before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Earlier {
    /// When it was replaced: `2026-01-31_12-00-00`, UTC.
    pub label: String,
    /// Its folder.
    pub dir: PathBuf,
}

fn now() -> String {
    let text: String = stamp(SystemTime::now()).chars().take(STAMP_CHARS).collect();
    text.replace(' ', "_").replace(':', "-")
}

/// Copies a folder that is about to be replaced, and forgets the oldest.
pub(super) fn keep(kept: &Path, name: &str, dir: &Path) -> Result<(), ModuleError> {
    if !dir.is_dir() {
        return Ok(());
    }
    create_private_dir(kept).map_err(failed(kept))?;
    let target = kept.join(format!("{name}_{}", now()));
    let id = fs::read_to_string(dir.join("id")).unwrap_or_default();
    folder::replace(dir, &target, id.trim(), &[])?;
    let all = list(kept, name)?;
    for old in all.iter().skip(KEPT) {
        fs::remove_dir_all(&old.dir).map_err(failed(&old.dir))?;
    }
    Ok(())
}

/// The kept configurations of a module, newest first.
pub(super) fn list(kept: &Path, name: &str) -> Result<Vec<Earlier>, ModuleError> {
    let entries = match fs::read_dir(kept) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(failed(kept)(source)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let dir = entry.map_err(failed(kept))?.path();
        let file = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let label = file.strip_prefix(name).and_then(|rest| rest.strip_prefix('_'));
        // The name of another module may begin alike, and half-made copies have an extension.
        let plain = |label: &&str| {
            label.len() == STAMP_CHARS
                && label.chars().all(|c| c.is_ascii_digit() || "-_".contains(c))
        };
        if let Some(label) = label.filter(plain) {
            found.push(Earlier { label: label.to_owned(), dir: dir.clone() });
        }
    }
    found.sort_by(|a, b| b.label.cmp(&a.label));
    Ok(found)
}

/// Packs a folder that is about to be removed.
pub(super) fn back_up(backups: &Path, name: &str, dir: &Path) -> Result<PathBuf, ModuleError> {
    create_private_dir(backups).map_err(failed(backups))?;
    let target = backups.join(format!("{name}_{}.safe", now()));
    let bytes = Package::of_folder(dir).and_then(|package| package.to_zip());
    let bytes = bytes.map_err(failed(dir))?;
    fs::write(&target, bytes).map_err(failed(&target))?;
    Ok(target)
}
