//! Whether a successful sync proves that the disk holds what was written.
//!
//! After a sync has failed Linux counts the pages concerned as clean: later syncs succeed, reads
//! show what was written, and the disk may never have got it (fsync(2), "BUGS" of older systems;
//! kernel, Documentation/filesystems/vfs.rst, "Handling errors during writeback"). From then on
//! nothing that is read here proves anything: a source clears no marks, and a target has every
//! marked block written again instead of comparing it.
//!
//! The failure is noted in a file that outlives the daemon. A reboot empties the cache, so a note
//! of another boot means nothing.

use std::{
    fs, io,
    os::fd::AsFd,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use rustix::io::Errno;

use super::place::Places;

/// Where notes are kept: in memory, so that a full or failing disk does not lose them.
const NOTES: &str = "/run/havre";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The trust of one module's data path in its disks. Copies share it.
#[derive(Debug, Clone)]
pub struct Trust(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    lost: AtomicBool,
    note: PathBuf,
    /// Syncs still to be failed instead of carried out.
    #[cfg(test)]
    failures: std::sync::atomic::AtomicU32,
}

impl Trust {
    /// The trust of a module's data path in this boot of the machine. `state_dir` and `module`
    /// tell data paths apart.
    pub fn of(state_dir: &Path, module: &str) -> Self {
        let digest = blake3::hash(state_dir.as_os_str().as_encoded_bytes()).to_hex();
        let notes = Path::new(NOTES);
        let dir = match fs::create_dir_all(notes) {
            Ok(()) => notes,
            Err(_) => state_dir,
        };
        Self::noted_in(dir.join(format!("{module}-{}.unsynced", &digest[..16])))
    }

    /// Trust that is noted in a given file.
    pub fn noted_in(note: PathBuf) -> Self {
        let lost = fs::read(&note).is_ok_and(|noted| boot_id().is_none_or(|boot| boot == noted));
        Self(Arc::new(Shared {
            lost: AtomicBool::new(lost),
            note,
            #[cfg(test)]
            failures: std::sync::atomic::AtomicU32::new(0),
        }))
    }

    /// Whether no sync has failed since the machine started, or all has been written again since.
    pub fn holds(&self) -> bool {
        !self.0.lost.load(Ordering::Acquire)
    }

    /// Passes the result of a sync on, and notes a failure.
    pub fn heed(&self, result: io::Result<()>) -> io::Result<()> {
        let result = self.injected().unwrap_or(result);
        if let Err(error) = &result
            && !was_not_tried(error)
            && !self.0.lost.swap(true, Ordering::AcqRel)
        {
            tracing::error!(
                %error,
                "the disk failed to take what was written: it will be written again from the peer",
            );
            if let Err(error) = fs::write(&self.0.note, boot_id().unwrap_or_default()) {
                let note = self.0.note.display();
                tracing::error!(%error, %note, "the failure cannot be noted");
            }
        }
        result
    }

    /// Syncs a whole file system.
    pub fn sync(&self, file_system: impl AsFd) -> io::Result<()> {
        self.heed(rustix::fs::syncfs(file_system).map_err(io::Error::from))
    }

    /// Syncs a file: its data and what is needed to read them back, or everything.
    pub fn sync_file(&self, file: impl AsFd, data_only: bool) -> io::Result<()> {
        let sync = if data_only { rustix::fs::fdatasync } else { rustix::fs::fsync };
        self.heed(sync(file).map_err(io::Error::from))
    }

    /// Syncs the file systems of every replicated directory; later ones are left out after a
    /// failure.
    pub fn sync_everything(&self, places: &Places) -> io::Result<()> {
        (0..=u8::MAX).map_while(|root| places.root(root)).try_for_each(|dir| self.sync(dir))
    }

    /// Whatever might have been in the cache only has been written and synced again.
    pub fn restore(&self) {
        if self.0.lost.swap(false, Ordering::AcqRel)
            && let Err(error) = fs::remove_file(&self.0.note)
        {
            let note = self.0.note.display();
            tracing::warn!(%error, %note, "cannot be removed: more will be copied than needed");
        }
    }

    #[cfg(not(test))]
    const fn injected(&self) -> Option<io::Result<()>> {
        None
    }

    #[cfg(test)]
    fn injected(&self) -> Option<io::Result<()>> {
        let one_less = |left: u32| left.checked_sub(1);
        let (set, get) = (Ordering::AcqRel, Ordering::Acquire);
        let failed = self.0.failures.fetch_update(set, get, one_less).is_ok();
        failed.then(|| Err(Errno::IO.into()))
    }

    /// Lets the next syncs fail as those of a broken disk do.
    #[cfg(test)]
    pub(super) fn fail_next(&self, syncs: u32) {
        self.0.failures.store(syncs, Ordering::Release);
    }
}

fn boot_id() -> Option<Vec<u8>> {
    fs::read(BOOT_ID).ok()
}

/// Errors that say that nothing was to be written, or could be tried.
fn was_not_tried(error: &io::Error) -> bool {
    let known = Errno::from_io_error(error);
    matches!(known, Some(Errno::INVAL | Errno::BADF | Errno::ROFS | Errno::NOSYS | Errno::INTR))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_sync_is_remembered_by_the_next_daemon_and_forgotten_when_all_is_rewritten() {
        let dir = tempfile::tempdir().expect("tempdir");
        let note = dir.path().join("note");
        let trust = Trust::noted_in(note.clone());
        assert!(trust.holds() && trust.heed(Ok(())).is_ok() && trust.holds());
        trust.fail_next(1);
        assert!(trust.heed(Ok(())).is_err());
        assert!(trust.heed(Ok(())).is_ok() && !trust.holds(), "a later success proves nothing");
        let next = Trust::noted_in(note.clone());
        assert!(!next.holds(), "the next daemon knows it");
        next.restore();
        assert!(next.holds() && Trust::noted_in(note).holds());
    }

    #[test]
    fn a_note_of_another_boot_means_nothing() {
        let dir = tempfile::tempdir().expect("tempdir");
        let note = dir.path().join("note");
        fs::write(&note, b"another boot").expect("write");
        assert!(Trust::noted_in(note).holds());
    }

    #[test]
    fn a_sync_of_what_cannot_be_synced_breaks_no_trust() {
        let dir = tempfile::tempdir().expect("tempdir");
        let trust = Trust::noted_in(dir.path().join("note"));
        assert!(trust.heed(Err(Errno::INVAL.into())).is_err() && trust.holds());
        assert!(trust.heed(Err(Errno::NOSPC.into())).is_err() && !trust.holds());
    }
}
