//! The input journal: everything an agent's machine was told, in a bounded pair of files.
//!
//! `havre-sim replay` feeds it to a fresh machine with the seed in `inputs.seed`, which then does
//! again what it did. A journal begins with the daemon's run; when the first file is full it
//! becomes `inputs.journal.1`, and a replay needs both. Entries are written by a thread of their
//! own: a slow disk must not hold the loop; if it falls too far behind, the journal ends with a
//! note in the trace.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    thread::JoinHandle,
};

use havre_core::{driver::Entry, effect::Input, time::Instant};
use tracing::warn;

/// Size at which a file is put aside, in bytes.
pub const JOURNAL_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// Entries that may wait for the disk.
const WAITING_MAX: usize = 4096;

/// Takes entries and writes them from a thread of its own.
#[derive(Debug)]
pub struct Journal {
    sender: Option<SyncSender<Vec<u8>>>,
    writer: Option<JoinHandle<()>>,
}

impl Journal {
    /// Begins a new journal in a state directory; the one of the run before is dropped. `seed` is
    /// that of the machine's generator.
    ///
    /// # Errors
    /// The file cannot be created.
    pub fn begin(state_dir: &Path, seed: u64) -> io::Result<Self> {
        let path = state_dir.join("inputs.journal");
        match fs::remove_file(path.with_extension("journal.1")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::write(state_dir.join("inputs.seed"), format!("{seed}\n"))?;
        let file = File::create(&path)?;
        let (sender, receiver) = sync_channel(WAITING_MAX);
        let writer = std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || write_all(file, &path, &receiver))?;
        Ok(Self { sender: Some(sender), writer: Some(writer) })
    }

    /// Takes one entry; returns at once.
    pub fn take(&mut self, now: Instant, input: Option<&Input>) {
        let Some(sender) = &self.sender else { return };
        let mut bytes = Vec::new();
        let entry = Entry { now, input: input.cloned() };
        let taken = entry.encode(&mut bytes).is_ok()
            && !matches!(sender.try_send(bytes), Err(TrySendError::Full(_)));
        if !taken {
            warn!("the input journal ends here: the disk is too slow, or an entry too large");
            self.sender = None;
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.sender = None;
        if let Some(writer) = self.writer.take() {
            // A writer that panicked has already said so.
            drop(writer.join());
        }
    }
}

fn write_all(mut file: File, path: &PathBuf, entries: &Receiver<Vec<u8>>) {
    let mut written = 0;
    for entry in entries {
        if written + entry.len() as u64 > JOURNAL_BYTES_MAX {
            let next = fs::rename(path, path.with_extension("journal.1"))
                .and_then(|()| File::create(path));
            match next {
                Ok(next) => (file, written) = (next, 0),
                Err(error) => return warn!(%error, "the input journal ends here"),
            }
        }
        if let Err(error) = file.write_all(&entry) {
            return warn!(%error, "the input journal ends here");
        }
        written += entry.len() as u64;
    }
}

#[cfg(test)]
mod tests {
    use havre_core::{
        effect::{Command, Outcome},
        ids::{OpId, RequestId},
    };

    use super::*;

    #[test]
    fn a_journal_is_read_back_as_it_was_told() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut journal = Journal::begin(dir.path(), 7).expect("begins");
        let inputs = [
            Some(Input::Asked { request: RequestId(1), command: Command::Status }),
            None,
            Some(Input::Completed { op: OpId(1), outcome: Outcome::Done }),
        ];
        for (number, input) in (0..).zip(&inputs) {
            journal.take(Instant::from_millis(number), input.as_ref());
        }
        drop(journal);
        let bytes = fs::read(dir.path().join("inputs.journal")).expect("reads");
        let entries = Entry::<Input>::decode_all(&bytes).expect("whole");
        let expected: Vec<_> = (0..)
            .zip(inputs)
            .map(|(number, input)| Entry { now: Instant::from_millis(number), input })
            .collect();
        assert_eq!(entries, expected);
    }
}
