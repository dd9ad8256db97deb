//! Mounting over the replicated directories, and leaving the mounts to a holder.
//!
//! With a holder, a daemon that dies leaves its mounts standing and its applications waiting; the
//! next one takes the sessions over when it serves, or ends them when it does anything else.

use std::{os::fd::AsFd as _, path::Path};

use rustix::io::Errno;

use super::settings::Settings;
use crate::{
    fuse::{self, Keeper as _, Options, Session},
    holder::{Held, HolderClient},
};

/// Mounts over `directory`, or takes over the session that a holder kept.
pub(super) fn open(
    settings: &Settings,
    directory: &Path,
    options: Options,
) -> Result<Session, String> {
    let explain = |error: Errno| format!("{}: {error}", directory.display());
    let holder = connect(settings);
    if is_ours(directory) {
        if let Some(holder) = &holder
            && let Ok(Some(held)) = holder.fetch(directory)
        {
            return resume(holder, directory, held, options).map_err(explain);
        }
        // The guard has ended it: nothing answers there any more.
        close(settings, directory, false);
    }
    let mut session = Session::mount(directory, options).map_err(explain)?;
    if let Some(holder) = &holder {
        let parts = session.parts().map_err(explain)?;
        match holder.hold(directory, &parts) {
            Ok(keeper) => session.set_keeper(Box::new(keeper)),
            Err(error) => {
                tracing::warn!(%error, "the holder takes no mount: a crash will be seen");
            }
        }
    }
    Ok(session)
}

fn resume(
    holder: &HolderClient,
    directory: &Path,
    held: Held,
    options: Options,
) -> Result<Session, Errno> {
    let mut kept = Vec::with_capacity(held.orphans.len());
    for (number, file) in &held.orphans {
        kept.push((*number, rustix::io::fcntl_dupfd_cloexec(file, 3)?));
    }
    let mut session = Session::resume(held.parts, held.orphans, options)?;
    let parts = session.parts()?;
    match holder.hold(directory, &parts) {
        Ok(mut keeper) => {
            kept.iter().for_each(|(number, file)| keeper.keep(*number, file.as_fd()));
            session.set_keeper(Box::new(keeper));
        }
        Err(error) => tracing::warn!(%error, "the holder takes no mount: a crash will be seen"),
    }
    Ok(session)
}

/// Takes our mount over `directory` away, if there is one: served here, kept by the holder, or
/// left by a daemon that died without one. `served`: requests are still being answered here.
pub(super) fn close(settings: &Settings, directory: &Path, served: bool) {
    if !served
        && let Ok(Some(mounted)) = fuse::mounted_at(directory)
        && mounted.kind == "fuse.havre"
        && let Err(error) = mounted.abort()
    {
        tracing::warn!(directory = %directory.display(), %error, "cannot end a left mount");
    }
    if is_ours(directory)
        && let Err(error) = fuse::unmount(directory)
    {
        tracing::error!(directory = %directory.display(), %error, "cannot unmount");
    }
    if let Some(holder) = connect(settings)
        && let Err(error) = holder.release(directory)
    {
        tracing::warn!(%error, "the holder does not let go of a mount");
    }
}

/// Whether a holder keeps the mounts over every directory of a module, so that its application
/// has seen nothing of the death of an earlier daemon but a pause.
pub(super) fn all_are_held(settings: &Settings) -> bool {
    settings.rfs.directories.iter().all(|config| is_held(settings, &config.dir))
}

/// Ends a mount in the place of a daemon that does not: requests of applications fail.
pub fn end_mount(holder: &Path, directory: &Path) {
    let Ok(Some(mounted)) = fuse::mounted_at(directory) else { return };
    if mounted.kind != "fuse.havre" {
        return;
    }
    if let Err(error) = mounted.abort() {
        tracing::warn!(directory = %directory.display(), %error, "cannot end a mount");
    }
    if let Ok(holder) = HolderClient::connect(holder)
        && let Err(error) = holder.release(directory)
    {
        tracing::warn!(%error, "the holder does not let go of a mount");
    }
}

/// Whether a holder keeps a session of the mount over `directory`.
pub(super) fn is_held(settings: &Settings, directory: &Path) -> bool {
    let held = connect(settings)
        .and_then(|holder| holder.directories().ok())
        .is_some_and(|directories| directories.iter().any(|held| held == directory));
    held && is_ours(directory)
}

/// Whether a mount of this program lies over `directory`, alive or dead.
pub(super) fn is_ours(directory: &Path) -> bool {
    matches!(fuse::mounted_at(directory), Ok(Some(mounted)) if mounted.kind == "fuse.havre")
}

fn connect(settings: &Settings) -> Option<HolderClient> {
    let path = settings.holder.as_deref()?;
    HolderClient::connect(path)
        .inspect_err(|error| tracing::debug!(%error, "no holder: a crash will be seen"))
        .ok()
}
