//! Making barriers durable on the local disk.
//!
//! A single waiting barrier is synced in line on a fast disk ([`Pace`]), several go to the disk
//! ring. A file of which each write was followed by a barrier gets ready for the next one: the
//! write goes to the disk at once, while the application is still on its way to the barrier, and
//! the target syncs when it has received it.

use std::{collections::HashMap, io, os::fd::OwnedFd, sync::Arc, time::Instant};

use havre_core::replication::{
    record::{Change as Record, FileId},
    source::{SourceInput, Ticket},
};
use rustix::io::Errno;

use super::{Pending, Report, SourceSide};
use crate::{
    fuse::{Operation, RawRequest},
    pieces::start_writing,
    volume::{identity::global, pace::Pace, uring::Ring},
};

/// Files whose habits are known at most.
const HABITS_MAX: usize = 4096;
/// Barriers after single writes that make a habit.
const HABIT: u8 = 2;

/// What is under way to the disk.
pub(super) struct Flushing {
    pub(super) ring: Ring,
    /// Ordered in this turn.
    ordered: Vec<(Ticket, Arc<OwnedFd>, bool)>,
    pace: Pace,
    habits: HashMap<FileId, Habit>,
    /// The last write, if a barrier is expected to follow it.
    pub(super) hurried: Option<Ticket>,
}

/// How a file is used.
#[derive(Debug, Clone, Copy, Default)]
struct Habit {
    /// Writes since the last barrier.
    writes: u8,
    /// Barriers in sequence with one write before each.
    single: u8,
}

impl Flushing {
    pub(super) fn new(ring: Ring) -> Self {
        Self {
            ring,
            ordered: Vec::new(),
            pace: Pace::default(),
            habits: HashMap::new(),
            hurried: None,
        }
    }

    /// Notes an operation that was submitted; says whether a barrier is expected to follow it.
    pub(super) fn expects_barrier(&mut self, root: u8, operation: &Operation) -> bool {
        let Some(file) = operation.file() else { return false };
        let id = global(root, file.id);
        match operation.changes() {
            [Record::Write { .. }] => {
                if self.habits.len() >= HABITS_MAX {
                    self.habits.clear();
                }
                let habit = self.habits.entry(id).or_default();
                habit.writes = habit.writes.saturating_add(1);
                habit.writes == 1 && habit.single >= HABIT
            }
            [Record::Sync { .. }] => {
                if let Some(habit) = self.habits.get_mut(&id) {
                    let single = habit.single.saturating_add(1).min(HABIT);
                    *habit =
                        Habit { writes: 0, single: if habit.writes == 1 { single } else { 0 } };
                }
                false
            }
            _ => false,
        }
    }

    /// A file is forgotten.
    pub(super) fn closed(&mut self, id: FileId) {
        self.habits.remove(&id);
    }
}

impl SourceSide {
    /// Sends a write that was carried out on its way to the disk.
    pub(super) fn hurry(&mut self, ticket: Ticket) {
        let Some(Pending::Done(root, applied)) = self.pending.get(&ticket) else { return };
        let operation = applied.operation();
        if let (Some(file), Some(range)) = (operation.file(), operation.range()) {
            let (id, range) = (file.id, range.clone());
            if let Some(open) = self.sessions[usize::from(*root)].files().descriptor(id) {
                start_writing(&open, range);
            }
        }
    }

    pub(super) fn flush(&mut self, ticket: Ticket) {
        let pending = self.pending.remove(&ticket).expect("a barrier is open");
        let (root, file) = match &pending {
            Pending::Waiting(root, operation) | Pending::Flushing(root, operation) => {
                let files = self.sessions[usize::from(*root)].files();
                let file = match files.raw(operation) {
                    Some(RawRequest::SyncData(file)) => Some((file, true)),
                    Some(RawRequest::SyncAll(file)) => Some((file, false)),
                    Some(RawRequest::Write(..)) | None => None,
                };
                (*root, file)
            }
            Pending::Done(root, applied) => {
                let id = applied.operation().file().map(|file| file.id);
                let files = self.sessions[usize::from(*root)].files();
                (*root, id.and_then(|id| files.descriptor(id)).map(|file| (file, false)))
            }
        };
        let pending = match pending {
            Pending::Waiting(root, operation) => Pending::Flushing(root, operation),
            other => other,
        };
        self.pending.insert(ticket, pending);
        let Some((file, data_only)) = file else {
            let synced = self.places.root(root).map(|dir| self.trust.sync(dir));
            return self.flushed(ticket, synced.unwrap_or(Ok(())));
        };
        self.flushing.ordered.push((ticket, file, data_only));
    }

    /// Starts the flushes that were ordered in this turn; says whether one has ended.
    ///
    /// Called when the target has been told everything: it syncs meanwhile.
    pub(super) fn start_flushes(&mut self) -> bool {
        let ordered = std::mem::take(&mut self.flushing.ordered);
        if let [(ticket, file, data_only)] = &ordered[..]
            && self.machine.open() == 1
            && self.flushing.pace.allows()
        {
            let begun = Instant::now();
            let result = self.trust.sync_file(file, *data_only);
            self.flushing.pace.took(begun.elapsed());
            self.flushed(*ticket, result);
            self.run();
            return true;
        }
        for (ticket, file, data_only) in ordered {
            if let Err(error) = self.flushing.ring.flush(u64::from(ticket.0), file, data_only) {
                self.flushed(ticket, Err(error));
                self.run();
            }
        }
        if let Err(error) = self.flushing.ring.submit() {
            tracing::error!(%error, "the disk ring takes nothing");
        }
        false
    }

    fn flushed(&mut self, ticket: Ticket, result: io::Result<()>) {
        let ok = result.is_ok();
        let error = result.err().map(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO));
        match self.pending.remove(&ticket) {
            Some(Pending::Flushing(root, operation)) => {
                let files = self.sessions[usize::from(root)].files();
                let applied = files.applied(operation, error.map_or(Ok(0), Err));
                self.pending.insert(ticket, Pending::Done(root, applied));
            }
            Some(Pending::Done(root, mut applied)) => {
                if let Some(error) = error {
                    applied.fail(error);
                }
                self.pending.insert(ticket, Pending::Done(root, applied));
            }
            _ => return,
        }
        self.input(SourceInput::Flushed { ticket, ok });
    }

    pub(super) fn take_flushes(&mut self) -> bool {
        let mut active = false;
        while let Some((token, result)) = self.flushing.ring.completed() {
            active = true;
            let ticket = Ticket(u32::try_from(token).unwrap_or(u32::MAX));
            let result = self.trust.heed(result);
            self.flushed(ticket, result);
            self.run();
        }
        active
    }

    pub(super) fn sync_all(&mut self) {
        let places = self.places.clone();
        let trust = self.trust.clone();
        self.syncer.run(move |results| {
            let ok = trust.sync_everything(&places).is_ok();
            // The loop may have ended.
            let _ = results.send(Report::Synced(ok));
        });
    }
}
