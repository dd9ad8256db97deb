//! A BPF file system of the daemon's own, in its state directory: several daemons on one machine
//! never see each other's filters, and a network namespace entered by `ip netns exec`, which
//! hides the common one, does not matter.
//!
//! The mount outlives the daemon on purpose; [`unmount`] takes it away when no filter is left.

use std::{
    ffi::CString,
    fs, io,
    path::{Path, PathBuf},
};

use rustix::{
    fs::statfs,
    mount::{MountFlags, UnmountFlags},
};

/// `BPF_FS_MAGIC` (Linux `include/uapi/linux/magic.h`).
const MAGIC: i64 = 0xcafe_4a11;

/// Where the BPF file system of a state directory is.
pub fn place(state_dir: &Path) -> PathBuf {
    state_dir.join("bpf")
}

/// Mounts it, unless it is mounted.
pub fn mount(state_dir: &Path) -> io::Result<PathBuf> {
    let dir = place(state_dir);
    fs::create_dir_all(&dir)?;
    if !is_mounted(&dir)? {
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        let mode = CString::new("mode=0700").expect("a constant without a zero byte");
        rustix::mount::mount("bpf", &dir, "bpf", flags, &*mode)?;
    }
    Ok(dir)
}

/// Takes it away with everything pinned in it; a filter whose pin that was ends.
pub fn unmount(state_dir: &Path) -> io::Result<()> {
    let dir = place(state_dir);
    if dir.exists() && is_mounted(&dir)? {
        rustix::mount::unmount(&dir, UnmountFlags::DETACH)?;
    }
    Ok(())
}

fn is_mounted(dir: &Path) -> io::Result<bool> {
    // The magic number is unsigned, the field's sign differs between architectures.
    Ok(statfs(dir)?.f_type as i64 & 0xffff_ffff == MAGIC)
}
