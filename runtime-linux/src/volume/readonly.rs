//! Makes a directory read-only for everybody else: a read-only bind mount of it over itself.
//!
//! Readers see changes made underneath at once; writers get `EROFS`. The cover survives this
//! process, so that nobody writes while a daemon restarts. Covers are recognised by their kind:
//! a mount whose own flags are read-only, lying directly over the same directory.

use std::{fs, io, os::unix::fs::MetadataExt as _, path::Path};

use rustix::{
    io::Errno,
    mount::{MountFlags, MountPropagationFlags, UnmountFlags},
};

/// Covers taken away at most: more than a restart can leave.
const COVERS_MAX: u32 = 8;

/// Covers `directory`.
pub(super) fn cover(directory: &Path) -> io::Result<()> {
    uncover(directory);
    rustix::mount::mount_bind(directory, directory)?;
    let done =
        rustix::mount::mount_change(directory, MountPropagationFlags::PRIVATE).and_then(|()| {
            let flags = MountFlags::BIND | MountFlags::RDONLY;
            rustix::mount::mount_remount(directory, flags, c"")
        });
    if let Err(error) = done {
        let _ = rustix::mount::unmount(directory, UnmountFlags::DETACH);
        return Err(error.into());
    }
    Ok(())
}

/// Takes the cover of `directory` away, if there is one.
pub(super) fn uncover(directory: &Path) {
    for _ in 0..COVERS_MAX {
        if !matches!(is_covered(directory), Ok(true)) {
            return;
        }
        let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
        match rustix::mount::unmount(directory, flags) {
            Ok(()) | Err(Errno::INVAL) => {}
            Err(error) => {
                tracing::error!(directory = %directory.display(), %error, "cannot uncover");
                return;
            }
        }
    }
}

/// Whether a cover of ours lies over `directory`: read-only by itself over a writable file
/// system, with the same directory beneath.
pub(super) fn is_covered(directory: &Path) -> io::Result<bool> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let wanted = fs::canonicalize(directory)?;
    let device = fs::metadata(directory)?.dev();
    let number = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    let top = table.lines().rev().find_map(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        let same = unescape(fields.get(4)?) == wanted;
        same.then(|| fields.iter().map(ToString::to_string).collect::<Vec<_>>())
    });
    let Some(fields) = top else { return Ok(false) };
    let flags = |at: usize| fields.get(at).map(String::as_str).unwrap_or_default();
    let read_only = |options: &str| options.split(',').any(|option| option == "ro");
    let ours = flags(2) == number && read_only(flags(5));
    let writable_beneath = !read_only(fields.last().map(String::as_str).unwrap_or_default());
    Ok(ours && writable_beneath)
}

fn unescape(shown: &str) -> std::path::PathBuf {
    use std::os::unix::ffi::OsStringExt as _;
    let mut bytes = Vec::with_capacity(shown.len());
    let mut rest = shown.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let code = (*first == b'\\')
            .then(|| tail.get(..3))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    std::ffi::OsString::from_vec(bytes).into()
}
