//! Module packages: `.safe` files, which are zip archives, to and from folders.
//!
//! A package is read into memory as a whole and checked before anything touches the disk: sizes,
//! number and names of its entries. Layouts of other products are understood: one folder around
//! everything, `\` between names, files that nobody needs any more, no permissions at all.
//! Source: PKWARE APPNOTE.TXT 6.3.10; reference safekit.md section 6.3.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    io::{Cursor, Read, Write},
    path::{Path, PathBuf},
};

use thiserror::Error;
use zip::{
    CompressionMethod, DateTime, ZipArchive, ZipWriter, result::ZipError, write::SimpleFileOptions,
};

/// Largest package.
pub const PACKAGE_BYTES_MAX: usize = 64 << 20;
/// Most that its files may have together.
pub const UNPACKED_BYTES_MAX: usize = 256 << 20;
/// Most files of a package.
pub const FILES_MAX: usize = 10_000;
/// Longest path of a file, and most levels in it.
const PATH_BYTES_MAX: usize = 512;
const DEPTH_MAX: usize = 16;
/// What a module cannot do without.
pub const CONFIGURATION: &str = "conf/userconfig.xml";
/// Where its programs are.
const PROGRAMS: &str = "bin/";

/// Why a package cannot be used. Nothing has been written.
#[derive(Debug, Error)]
pub enum PackageError {
    /// Too large, as a file or unpacked.
    #[error("the package is larger than {0} MiB: it cannot be a module")]
    TooLarge(usize),
    /// Too many entries.
    #[error("the package has more than {FILES_MAX} files: it cannot be a module")]
    TooMany,
    /// Not a zip archive, or damaged.
    #[error("not a module package (a .safe file is a zip archive), or damaged on the way: {0}")]
    Damaged(String),
    /// Packed in a way that is not read.
    #[error("{0}: packed or encrypted in a way that is not supported; pack it with plain zip")]
    Method(String),
    /// A name that leads out of the package, or that no system can have.
    #[error("file name {0:?} in the package: {1}")]
    Name(String, &'static str),
    /// A link or a special file.
    #[error("{0}: a link or special file; a package holds plain files only")]
    Link(String),
    /// There is no configuration in it.
    #[error("no {CONFIGURATION} in the package (it holds: {0})")]
    NotAModule(String),
}

/// A file of a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedFile {
    /// Its content.
    pub bytes: Vec<u8>,
    /// Whether it may be run.
    pub executable: bool,
}

/// A module's files by their paths, `/` between the parts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Package {
    /// The files.
    pub files: BTreeMap<String, PackedFile>,
    /// What was left out, and why.
    pub notices: Vec<String>,
}

impl Package {
    /// Reads a package.
    ///
    /// # Errors
    /// It is no package, or not one that may be unpacked.
    pub fn read(bytes: &[u8]) -> Result<Self, PackageError> {
        if bytes.len() > PACKAGE_BYTES_MAX {
            return Err(PackageError::TooLarge(PACKAGE_BYTES_MAX >> 20));
        }
        let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(|e| damaged(&e))?;
        if archive.len() > FILES_MAX {
            return Err(PackageError::TooMany);
        }
        let mut package = Self::default();
        let mut left = UNPACKED_BYTES_MAX;
        let mut seen = BTreeSet::new();
        for index in 0..archive.len() {
            let Some((path, file)) = entry(&mut archive, index, &mut left)? else { continue };
            // Two names that differ in case only are one file on some systems.
            if !seen.insert(path.to_lowercase()) {
                return Err(PackageError::Name(path, "occurs twice"));
            }
            package.files.insert(path, file);
        }
        package.lift();
        package.leave_out();
        package.complete()?;
        Ok(package)
    }

    /// Takes a module's folder.
    ///
    /// # Errors
    /// A file cannot be read, or there are too many.
    pub fn of_folder(dir: &Path) -> io::Result<Self> {
        let mut package = Self::default();
        let mut total = 0;
        let mut pending = vec![(dir.to_owned(), String::new())];
        while let Some((folder, prefix)) = pending.pop() {
            for entry in fs::read_dir(&folder)? {
                let entry = entry?;
                let name = entry.file_name();
                let name = name.to_str().ok_or_else(|| {
                    io::Error::other(format!("{}: not a UTF-8 name", entry.path().display()))
                })?;
                let path = format!("{prefix}{name}");
                if let Some(reason) = fault_of_path(&path) {
                    return Err(io::Error::other(format!("{path}: {reason}")));
                }
                if entry.path().is_dir() {
                    pending.push((entry.path(), format!("{path}/")));
                    continue;
                }
                let bytes = fs::read(entry.path())?;
                total += bytes.len();
                if total > UNPACKED_BYTES_MAX || package.files.len() >= FILES_MAX {
                    return Err(io::Error::other("too many files for a module, or too large"));
                }
                let executable = is_executable(&entry.path())?;
                package.files.insert(path, PackedFile { bytes, executable });
            }
        }
        Ok(package)
    }

    /// The archive. The same files always give the same bytes.
    ///
    /// # Errors
    /// A file is too large for the format.
    pub fn to_zip(&self) -> io::Result<Vec<u8>> {
        let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
        for (path, file) in &self.files {
            let mode = if file.executable { 0o755 } else { 0o644 };
            let options = SimpleFileOptions::default()
                .compression_method(CompressionMethod::Deflated)
                .last_modified_time(DateTime::default())
                .unix_permissions(mode);
            writer.start_file(path, options).map_err(io::Error::other)?;
            writer.write_all(&file.bytes)?;
        }
        Ok(writer.finish().map_err(io::Error::other)?.into_inner())
    }

    /// Writes the files into a folder that does not exist yet.
    ///
    /// # Errors
    /// The operating system refuses.
    pub fn write_into(&self, dir: &Path) -> io::Result<()> {
        for (path, file) in &self.files {
            let target: PathBuf = dir.join(path);
            fs::create_dir_all(target.parent().unwrap_or(dir))?;
            let mut options = fs::OpenOptions::new();
            options.write(true).create_new(true);
            #[cfg(unix)]
            {
                use std::os::unix::fs::OpenOptionsExt;
                options.mode(if file.executable { 0o755 } else { 0o644 });
            }
            options.open(&target)?.write_all(&file.bytes)?;
        }
        Ok(())
    }

    /// Removes the one folder that may stand around everything.
    fn lift(&mut self) {
        if self.files.contains_key(CONFIGURATION) {
            return;
        }
        let Some(outer) = self.files.keys().next().and_then(|p| p.split_once('/')) else { return };
        let outer = format!("{}/", outer.0);
        let inner = format!("{outer}{CONFIGURATION}");
        if self.files.contains_key(&inner) && self.files.keys().all(|p| p.starts_with(&outer)) {
            let files = std::mem::take(&mut self.files).into_iter();
            self.files = files.map(|(p, file)| (p[outer.len()..].to_owned(), file)).collect();
        }
    }

    /// Leaves out what other products put in and Havre has no use for.
    fn leave_out(&mut self) {
        let notices = &mut self.notices;
        self.files.retain(|path, _| {
            let reason = match path.as_str() {
                "id" => "numbers are given at installation",
                "manifest.xml" => "obsolete",
                _ if path.starts_with("web/") => "obsolete: pages of an old console",
                _ if path.starts_with("conf/modulekey.") => {
                    "not needed: the cluster's own keys protect all traffic"
                }
                _ => return true,
            };
            notices.push(format!("{path} left out: {reason}"));
            false
        });
    }

    /// Checks what a module needs, and gives programs back the right to run.
    fn complete(&mut self) -> Result<(), PackageError> {
        let template = format!("{CONFIGURATION}.template");
        if !self.files.contains_key(CONFIGURATION)
            && let Some(file) = self.files.remove(&template)
        {
            self.notices.push(format!("{template} taken as {CONFIGURATION}"));
            self.files.insert(CONFIGURATION.to_owned(), file);
        }
        if !self.files.contains_key(CONFIGURATION) {
            let some: Vec<&str> = self.files.keys().take(5).map(String::as_str).collect();
            return Err(PackageError::NotAModule(some.join(", ")));
        }
        for (path, file) in &mut self.files {
            file.executable |= path.starts_with(PROGRAMS);
        }
        Ok(())
    }
}

fn damaged(error: &ZipError) -> PackageError {
    PackageError::Damaged(error.to_string())
}

/// One entry of an archive; `None` for a folder.
fn entry(
    archive: &mut ZipArchive<Cursor<&[u8]>>,
    index: usize,
    left: &mut usize,
) -> Result<Option<(String, PackedFile)>, PackageError> {
    let raw = archive.by_index_raw(index).map_err(|e| damaged(&e))?;
    let name = raw.name().map_err(|e| damaged(&e))?.into_owned();
    let known = [CompressionMethod::Stored, CompressionMethod::Deflated];
    if raw.encrypted() || !known.contains(&raw.compression()) {
        return Err(PackageError::Method(name));
    }
    let (mode, is_dir) = (raw.unix_mode(), raw.is_dir());
    drop(raw);
    // Archives made on Windows may have \ between the parts.
    let path = name.replace('\\', "/");
    let path = path.trim_end_matches('/').to_owned();
    if let Some(reason) = fault_of_path(&path) {
        return Err(PackageError::Name(name, reason));
    }
    let kind = mode.unwrap_or(0) & 0o170_000;
    let plain = [0, 0o100_000, 0o040_000].contains(&kind);
    if !plain {
        return Err(PackageError::Link(path));
    }
    if is_dir || name.ends_with('\\') || kind == 0o040_000 {
        return Ok(None);
    }
    let file = archive.by_index(index).map_err(|e| damaged(&e))?;
    // What the archive says about sizes may be a lie: count what comes out.
    let mut bytes = Vec::new();
    let limit = u64::try_from(*left).unwrap_or(u64::MAX);
    let read = file.take(limit.saturating_add(1)).read_to_end(&mut bytes);
    read.map_err(|error| PackageError::Damaged(format!("{path}: {error}")))?;
    *left =
        left.checked_sub(bytes.len()).ok_or(PackageError::TooLarge(UNPACKED_BYTES_MAX >> 20))?;
    let executable = mode.is_some_and(|mode| mode & 0o111 != 0);
    Ok(Some((path, PackedFile { bytes, executable })))
}

/// What is wrong with a path in a package, if anything.
fn fault_of_path(path: &str) -> Option<&'static str> {
    let mut parts = path.split('/');
    if path.is_empty() || path.len() > PATH_BYTES_MAX || path.split('/').count() > DEPTH_MAX {
        return Some("empty, too long or too deep");
    }
    if path.chars().any(char::is_control) {
        return Some("has a control character in it");
    }
    let drive = path.as_bytes().get(1) == Some(&b':');
    if drive || path.contains(':') || path.starts_with('/') {
        return Some("is absolute, or names a drive");
    }
    if parts.any(|part| part.is_empty() || part == "." || part == ".." || part.len() > 255) {
        return Some("leads out of the package, or has a part that no file can have");
    }
    None
}

#[cfg(unix)]
fn is_executable(path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::PermissionsExt;
    Ok(fs::metadata(path)?.permissions().mode() & 0o111 != 0)
}

#[cfg(not(unix))]
fn is_executable(path: &Path) -> io::Result<bool> {
    Ok(path.parent().and_then(Path::file_name).is_some_and(|folder| folder == "bin"))
}

#[cfg(test)]
mod tests;
