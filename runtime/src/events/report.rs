//! Where news go on a real machine: the module's log and the trace.
//!
//! Files are written by a thread of its own: a slow disk must not hold the loop. If it falls too
//! far behind, entries are counted and dropped.

use std::{
    collections::BTreeMap,
    io,
    path::Path,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::JoinHandle,
};

use havre_core::{
    event::{Event, Level},
    ids::ModuleId,
};
use tracing::{error, info, warn};

use super::{
    log::{Entry, LogWriter, NODE_LOG},
    text::Names,
};

/// Entries that may wait for the disk.
const WAITING_MAX: usize = 4096;

/// Takes news of a node and passes them on.
#[derive(Debug)]
pub struct Reporter {
    names: Names,
    modules: BTreeMap<ModuleId, String>,
    sender: Option<Arc<SyncSender<(String, Entry)>>>,
    dropped: AtomicU64,
    writer: Option<JoinHandle<()>>,
}

impl Reporter {
    /// Begins to write into the logs of a state directory.
    ///
    /// # Errors
    /// The directory cannot be created.
    pub fn start(
        state_dir: &Path,
        names: Names,
        modules: BTreeMap<ModuleId, String>,
    ) -> io::Result<Self> {
        let log = LogWriter::open(state_dir)?;
        let (sender, receiver) = sync_channel(WAITING_MAX);
        let writer = std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || write_all(log, &receiver))?;
        let (sender, writer) = (Some(Arc::new(sender)), Some(writer));
        Ok(Self { names, modules, sender, dropped: AtomicU64::new(0), writer })
    }

    /// Passes an event on; returns at once.
    pub fn report(&self, event: &Event) {
        let entry = Entry::of(event, &self.names);
        let module = self.log_of(event.module);
        match event.kind.level() {
            Level::Critical => error!(module, "{}", entry.text),
            Level::Warning => warn!(module, "{}", entry.text),
            _ => info!(module, "{}", entry.text),
        }
        self.pass(module, entry);
    }

    /// Passes a line on that a script of a module printed; returns at once.
    pub fn script_line(&self, module: ModuleId, line: &str) {
        self.pass(self.log_of(Some(module)), Entry::of_script(line));
    }

    /// Lets others write into the same logs.
    pub fn handle(&self) -> LogHandle {
        LogHandle { sender: self.sender.as_ref().map_or_else(Weak::new, Arc::downgrade) }
    }

    fn log_of(&self, module: Option<ModuleId>) -> &str {
        module.and_then(|module| self.modules.get(&module)).map_or(NODE_LOG, String::as_str)
    }

    fn pass(&self, log: &str, entry: Entry) {
        let Some(sender) = &self.sender else { return };
        if sender.try_send((log.to_owned(), entry)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        } else {
            let dropped = self.dropped.swap(0, Ordering::Relaxed);
            if dropped > 0 {
                warn!(dropped, "entries of logs were dropped: the disk is too slow");
            }
        }
    }
}

/// Writes entries beside those of a [`Reporter`], for as long as that exists.
#[derive(Debug, Clone, Default)]
pub struct LogHandle {
    sender: Weak<SyncSender<(String, Entry)>>,
}

impl LogHandle {
    /// Passes an entry on to a log; returns at once. False: the log is closed, or the disk is too
    /// slow, and the entry is lost.
    pub fn write(&self, log: &str, entry: Entry) -> bool {
        let Some(sender) = self.sender.upgrade() else { return false };
        sender.try_send((log.to_owned(), entry)).is_ok()
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.sender = None;
        if let Some(writer) = self.writer.take() {
            // A writer that panicked has already said so.
            drop(writer.join());
        }
    }
}

fn write_all(mut log: LogWriter, entries: &Receiver<(String, Entry)>) {
    let mut failing = false;
    for (name, entry) in entries {
        match log.write(&name, &entry) {
            Ok(()) => failing = false,
            Err(error) if !failing => {
                failing = true;
                warn!(%error, log = name, "entries of logs are lost");
            }
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use havre_core::event::{Action, Actor, EventKind};

    use super::*;
    use crate::events::log;

    #[test]
    fn news_of_a_module_reach_its_log_and_others_the_nodes() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let modules = BTreeMap::from([(ModuleId(1), "db".to_owned())]);
        let reporter = Reporter::start(dir.path(), Names::default(), modules).expect("starts");
        let kind = EventKind::ActionCalled { action: Action::Start, by: Actor::Administrator };
        reporter.report(&Event { module: Some(ModuleId(1)), kind });
        reporter.script_line(ModuleId(1), "hello");
        let kind = EventKind::Failure("datagrams refused".to_owned());
        reporter.report(&Event { module: None, kind });
        let handle = reporter.handle();
        assert!(handle.write("db", Entry::of_script("by hand")));
        drop(reporter);
        assert!(!handle.write("db", Entry::of_script("too late")));
        let texts = |name| -> Vec<String> {
            let entries = log::read(dir.path(), name, 9, true).expect("reads");
            entries.into_iter().map(|entry| entry.text).collect()
        };
        assert_eq!(texts("db"), ["Action start called by root", "hello", "by hand"]);
        assert_eq!(texts(NODE_LOG), ["datagrams refused"]);
    }
}
