//! The first process of a machine of the laboratory: mounts its disks, then waits until the
//! laboratory ends. Runs in a fresh process of the `havre` executable, under a hidden command.

use std::{
    ffi::OsString,
    io::{self, Read, Write},
    path::Path,
};

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change};

/// The hidden command.
pub const COMMAND: &str = "lab-init";
/// The line printed when the disks are mounted.
pub const READY: &str = "ready";

/// Mounts, says [`READY`], and returns when standard input ends. `arguments`: pairs of a
/// directory and the path at which it is mounted.
pub fn run(arguments: &[OsString]) -> io::Result<()> {
    if let Err(error) = mount_disks(arguments) {
        println!("{error}");
        return Err(error);
    }
    // SAFETY: setting a disposition to "ignore" installs no handler. Orphans that end are then
    // removed by the kernel, as an init process must see to.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
    println!("{READY}");
    io::stdout().flush()?;
    // The laboratory holds the other end for as long as it lives.
    let mut byte = [0];
    while io::stdin().read(&mut byte)? > 0 {}
    Ok(())
}

fn mount_disks(arguments: &[OsString]) -> io::Result<()> {
    // Without this, mounts made here would appear on the whole machine.
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).map_err(|e| named("make mounts private", e))?;
    for pair in arguments.chunks_exact(2) {
        let (from, to) = (Path::new(&pair[0]), Path::new(&pair[1]));
        mount_bind(from, to).map_err(|e| named(&to.display().to_string(), e))?;
    }
    // Process numbers of this namespace, so that programs find themselves in it.
    mount("proc", "/proc", "proc", MountFlags::NOSUID | MountFlags::NODEV, None)
        .map_err(|e| named("/proc", e))
}

fn named(what: &str, error: rustix::io::Errno) -> io::Error {
    io::Error::other(format!("{what}: {}", io::Error::from(error)))
}
