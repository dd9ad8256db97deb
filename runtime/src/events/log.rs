//! Module logs: one file of JSON lines per module, bounded, in `STATE/log`.
//!
//! An entry is written with one call and not synced: the log tells people what happened, nothing
//! depends on it. When a file is full it becomes `NAME.jsonl.1`, and the one before is dropped.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, Write},
    path::{Path, PathBuf},
    time::SystemTime,
};

use havre_core::event::{Event, Level};
use serde::{Deserialize, Serialize};

use super::{
    text::{self, Names},
    time,
};
use crate::store::create_private_dir;

/// Size at which a log file is put aside, in bytes.
pub const LOG_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// The log of events that concern no module.
pub const NODE_LOG: &str = "node";
/// The log of commands that were given to this node. No module can have such a name.
pub const COMMAND_LOG: &str = "commands.log";

/// One entry of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When, UTC.
    pub time: String,
    /// Letter of the level.
    pub level: char,
    /// The part of Havre that speaks.
    pub source: String,
    /// What happened, in words.
    pub text: String,
    /// What happened, for programs; absent for lines of scripts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<Event>,
}

impl Entry {
    /// The entry of an event that happens now.
    pub fn of(event: &Event, names: &Names) -> Self {
        Self {
            time: time::stamp(SystemTime::now()),
            level: text::letter(event.kind.level()),
            source: text::source(event).to_owned(),
            text: text::text(event, names),
            event: Some(event.clone()),
        }
    }

    /// The entry of a line that a script printed.
    pub fn of_script(line: &str) -> Self {
        Self::of_text(Level::Script, "script", line)
    }

    /// The entry of a text that `source` says.
    pub fn of_text(level: Level, source: &str, text: &str) -> Self {
        Self {
            time: time::stamp(SystemTime::now()),
            level: text::letter(level),
            source: source.to_owned(),
            text: text.to_owned(),
            event: None,
        }
    }

    /// Whether the entry is shown without `-A`.
    pub fn is_notable(&self) -> bool {
        !matches!(self.level, 'D' | 'I')
    }

    /// The line for people: `| 2021-08-06 08:40:20.909224 | reintegre | E | text`.
    pub fn line(&self) -> String {
        format!("| {} | {} | {} | {}", self.time, self.source, self.level, self.text)
    }
}

/// Writes the logs of a node.
#[derive(Debug)]
pub struct LogWriter {
    dir: PathBuf,
    files: BTreeMap<String, (File, u64)>,
}

impl LogWriter {
    /// Opens the logs of a state directory.
    ///
    /// # Errors
    /// The directory cannot be created.
    pub fn open(state_dir: &Path) -> io::Result<Self> {
        let dir = dir_in(state_dir);
        create_private_dir(&dir)?;
        Ok(Self { dir, files: BTreeMap::new() })
    }

    /// Appends an entry to the log of that name: a module's, or [`NODE_LOG`].
    ///
    /// # Errors
    /// The disk is full or failing; the entry is lost.
    pub fn write(&mut self, log: &str, entry: &Entry) -> io::Result<()> {
        let mut line = serde_json::to_vec(entry).map_err(io::Error::other)?;
        line.push(b'\n');
        let path = self.dir.join(format!("{log}.jsonl"));
        let size = line.len() as u64;
        if self.files.get(log).is_some_and(|(_, written)| written + size > LOG_BYTES_MAX) {
            self.files.remove(log);
            fs::rename(&path, path.with_extension("jsonl.1"))?;
        }
        if !self.files.contains_key(log) {
            let file = OpenOptions::new().create(true).append(true).open(&path)?;
            let written = file.metadata()?.len();
            self.files.insert(log.to_owned(), (file, written));
        }
        let (file, written) = self.files.get_mut(log).expect("opened above");
        file.write_all(&line)?;
        *written += size;
        Ok(())
    }
}

/// The last `count` entries of a log, oldest first; `all` includes those of levels I and D.
///
/// # Errors
/// The files cannot be read. A log that does not exist is empty.
pub fn read(state_dir: &Path, log: &str, count: usize, all: bool) -> io::Result<Vec<Entry>> {
    let path = dir_in(state_dir).join(format!("{log}.jsonl"));
    let mut entries = std::collections::VecDeque::new();
    for path in [path.with_extension("jsonl.1"), path] {
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for line in BufReader::new(file).split(b'\n') {
            // A line cut by a crash is skipped.
            let Ok(entry) = serde_json::from_slice::<Entry>(&line?) else { continue };
            if all || entry.is_notable() {
                if entries.len() == count {
                    entries.pop_front();
                }
                entries.push_back(entry);
            }
        }
    }
    entries.truncate(count);
    Ok(entries.into())
}

fn dir_in(state_dir: &Path) -> PathBuf {
    state_dir.join("log")
}

#[cfg(test)]
mod tests {
    use havre_core::event::EventKind;

    use super::*;

    fn message(text: &str) -> Event {
        Event { module: None, kind: EventKind::Failure(text.to_owned()) }
    }

    #[test]
    fn the_last_entries_are_read_in_order_without_details() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut writer = LogWriter::open(dir.path()).expect("opens");
        for number in 0..5 {
            let entry = Entry::of(&message(&number.to_string()), &Names::default());
            writer.write("db", &entry).expect("writes");
            let detail = Event { module: None, kind: EventKind::Message("detail".to_owned()) };
            writer.write("db", &Entry::of(&detail, &Names::default())).expect("writes");
        }
        let texts = |all| -> Vec<String> {
            let entries = read(dir.path(), "db", 3, all).expect("reads");
            entries.into_iter().map(|entry| entry.text).collect()
        };
        assert_eq!(texts(false), ["2", "3", "4"]);
        assert_eq!(texts(true), ["detail", "4", "detail"]);
        assert_eq!(read(dir.path(), "other", 3, true).expect("reads"), []);
    }

    #[test]
    fn a_full_log_is_put_aside_and_both_files_are_read() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut writer = LogWriter::open(dir.path()).expect("opens");
        let long = "x".repeat(64 * 1024);
        for _ in 0..150 {
            let entry = Entry::of_script(&long);
            writer.write("db", &entry).expect("writes");
        }
        let sizes: Vec<u64> = ["db.jsonl", "db.jsonl.1"]
            .map(|name| fs::metadata(dir.path().join("log").join(name)).expect("exists").len())
            .into();
        assert!(sizes.iter().all(|size| *size <= LOG_BYTES_MAX), "{sizes:?}");
        let kept = read(dir.path(), "db", 1_000, true).expect("reads").len();
        assert!((64..150).contains(&kept), "{kept}");
    }

    #[test]
    fn an_entry_cut_by_a_crash_is_skipped() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut writer = LogWriter::open(dir.path()).expect("opens");
        writer.write("db", &Entry::of_script("whole")).expect("writes");
        let path = dir.path().join("log/db.jsonl");
        let mut bytes = fs::read(&path).expect("reads");
        bytes.extend_from_slice(b"{\"time\":\"20");
        fs::write(&path, bytes).expect("writes");
        assert_eq!(read(dir.path(), "db", 9, true).expect("reads").len(), 1);
    }
}
