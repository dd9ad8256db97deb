//! The target's half of a data path: follows a source, carries out the orders of
//! `havre_core::replication::target`.
//!
//! While it follows, the directory is read-only for everybody else: a read-only bind mount lies
//! over it, so that readers see what is replicated at once and without this process; changes go
//! through descriptors opened before. What arrives in one batch is acknowledged first and carried
//! out then; syncs run beside.

use std::{collections::VecDeque, ops::Range, os::fd::BorrowedFd, path::Path, sync::Arc};

use havre_core::{
    effect::{Outcome, VolumeNews},
    ids::{OpId, Seq},
    machine::{Machine as _, Out},
    replication::{
        generation::Generation,
        intent::MarkId,
        item::Step,
        record::{Change, FileId, Target as Named},
        stream::{
            Element, ItemKey, MARKS_PER_MESSAGE_MAX, StreamMessage as _, ToSource, ToTarget,
            split_frame,
        },
        target::{Target, TargetAction, TargetConfig, TargetInput, TargetOrder},
    },
    time::Instant,
};

use super::{
    apply::Applier,
    helper::Helper,
    marks::MarkTable,
    pace::Pace,
    place::{Excluded, Places, open_root},
    readonly,
    resync::{Aside, Fixer, kept_aside},
    settings::Settings,
    stream::Connection,
    uring::Ring,
};
use crate::{clock, waker::Waker};

/// Time for connecting and the handshake.
const CONNECT_LIMIT: std::time::Duration = std::time::Duration::from_secs(10);
/// Time in which the source must have read the last words.
const LEAVE_LIMIT: std::time::Duration = std::time::Duration::from_secs(2);
/// Files flushed one by one; with more, or with changed names, whole file systems are synced.
const FLUSHED_FEW: usize = 4;

/// An element that waits for its turn.
struct Waiting {
    seq: Seq,
    element: Element,
    payload: Range<usize>,
}

/// What changed since the last sync.
#[derive(Debug, Default)]
struct Dirty {
    files: Vec<DirtyFile>,
    /// More than those files: names, or files that cannot be flushed by themselves.
    everything: bool,
}

/// An open file that changed.
#[derive(Debug)]
struct DirtyFile {
    id: FileId,
    /// Not its attributes.
    only_data: bool,
}

/// A data path that is target.
pub(super) struct TargetSide {
    machine: Target,
    out: Out<TargetAction>,
    table: MarkTable,
    applier: Applier,
    fixer: Fixer,
    keep_aside: Option<Generation>,
    settings: Settings,
    connection: Option<Connection>,
    connecting: Option<Instant>,
    /// A connection whose last words are on their way.
    leaving: Option<(Connection, Instant)>,
    waiting: VecDeque<Waiting>,
    due: VecDeque<Seq>,
    dirty: Dirty,
    ring: Ring,
    flushes: usize,
    flushes_ok: bool,
    pace: Pace,
    syncer: Helper<bool>,
    pub(super) news: Vec<VolumeNews>,
    pub(super) finished: Vec<(OpId, Outcome)>,
}

impl TargetSide {
    /// Covers the directories and begins to connect.
    #[expect(clippy::result_large_err, reason = "the table is given back, once in a role")]
    pub(super) fn start(
        settings: &Settings,
        mut table: MarkTable,
        generation: Generation,
        keep_aside: Option<Generation>,
        waker: &Arc<Waker>,
    ) -> Result<Self, (MarkTable, String)> {
        let parts = Self::prepare(settings, waker);
        let (places, ring, syncer) = match parts {
            Ok(parts) => parts,
            Err(error) => {
                settings.rfs.directories.iter().for_each(|dir| readonly::uncover(&dir.dir));
                return Err((table, error));
            }
        };
        // What an earlier role did not make durable may be lost by a power cut from here on.
        let mut applier = Applier::new(places);
        let synced = settings.trust.sync_everything(applier.places());
        if synced.is_err() && table.persist(&[MarkId::EVERYTHING]).is_err() {
            settings.rfs.directories.iter().for_each(|dir| readonly::uncover(&dir.dir));
            return Err((table, "the local disk cannot be synced".into()));
        }
        applier.set_lenient(false);
        let config = TargetConfig {
            module: settings.module,
            signature: settings.signature,
            generation,
            answer_timeout: CONNECT_LIMIT,
        };
        Ok(Self {
            machine: Target::new(config, clock::now()),
            out: Out::new(),
            table,
            applier,
            fixer: fixer(settings, keep_aside),
            keep_aside,
            settings: settings.clone(),
            connection: None,
            connecting: None,
            leaving: None,
            waiting: VecDeque::new(),
            due: VecDeque::new(),
            dirty: Dirty::default(),
            ring,
            flushes: 0,
            flushes_ok: true,
            pace: Pace::default(),
            syncer,
            news: Vec::new(),
            finished: Vec::new(),
        })
    }

    fn prepare(
        settings: &Settings,
        waker: &Arc<Waker>,
    ) -> Result<(Places, Ring, Helper<bool>), String> {
        let mut roots = Vec::new();
        for config in &settings.rfs.directories {
            let explain = |error: std::io::Error| format!("{}: {error}", config.dir.display());
            roots.push((open_root(&config.dir).map_err(explain)?, Excluded::new(config)?));
            readonly::cover(&config.dir).map_err(explain)?;
        }
        let words = |error: std::io::Error| error.to_string();
        let ring = Ring::new().map_err(words)?;
        let syncer = Helper::start("havre-sync", Arc::clone(waker)).map_err(words)?;
        Ok((Places::new(roots), ring, syncer))
    }

    /// Takes an order of the control loop; its end is in `finished`.
    pub(super) fn order(&mut self, op: OpId, order: TargetOrder) {
        self.input(TargetInput::Order { op, order });
        self.run();
    }

    /// Ends: uncovers the directories, and gives the marks back.
    pub(super) fn end(self) -> MarkTable {
        self.settings.rfs.directories.iter().for_each(|dir| readonly::uncover(&dir.dir));
        self.table
    }

    pub(super) fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        use std::os::fd::AsFd as _;
        vec![self.ring.as_fd()]
    }

    pub(super) fn peer_poll(&self) -> Vec<(BorrowedFd<'_>, bool)> {
        use std::os::fd::AsFd as _;
        let leaving = self.leaving.iter().map(|(one, _)| one);
        let all = self.connection.iter().chain(leaving);
        all.map(|one| (one.as_fd(), one.wants_write())).collect()
    }

    pub(super) fn deadline(&self) -> Instant {
        let machine = self.machine.deadline().unwrap_or(Instant::FAR_FUTURE);
        let leaving = self.leaving.as_ref().map(|(_, until)| *until);
        let deadlines = [self.connecting, leaving];
        deadlines.into_iter().flatten().fold(machine, Instant::min)
    }

    /// Does what can be done now; says whether it did anything.
    pub(super) fn turn(&mut self) -> bool {
        let now = clock::now();
        let mut active = false;
        if self.machine.deadline().is_some_and(|deadline| deadline <= now) {
            self.machine.handle_timeout(now, &mut self.out);
            self.run();
        }
        if self.connecting.is_some_and(|until| until <= now) {
            self.lose("the primary's data path does not answer");
        }
        if let Some((connection, until)) = &mut self.leaving
            && (connection.discard().is_err() || *until <= now)
        {
            self.leaving = None;
        }
        active |= self.take_peer();
        while let Some((_, result)) = self.ring.completed() {
            active = true;
            self.flushes -= 1;
            self.flushes_ok &= self.settings.trust.heed(result).is_ok();
            if self.flushes == 0 {
                let ok = self.flushes_ok;
                self.synced(ok);
            }
        }
        while let Some(ok) = self.syncer.result() {
            active = true;
            self.synced(ok);
        }
        self.flush();
        if let Err(error) = self.ring.submit() {
            tracing::error!(%error, "the disk ring takes nothing");
        }
        active
    }

    fn input(&mut self, input: TargetInput) {
        self.machine.handle(clock::now(), input, &mut self.out);
    }

    fn run(&mut self) {
        while !self.out.is_empty() {
            let orders: Vec<TargetAction> = self.out.drain().collect();
            for order in orders {
                self.act(order);
            }
        }
    }

    fn act(&mut self, order: TargetAction) {
        match order {
            TargetAction::Connect => self.connect(),
            TargetAction::Disconnect => {
                self.connecting = None;
                if let Some(mut connection) = self.connection.take() {
                    connection.finish();
                    self.leaving = Some((connection, clock::now() + LEAVE_LIMIT));
                }
            }
            TargetAction::Send(message) => self.send(&message),
            TargetAction::SendMarks => {
                // A new stream: nothing of the last one is bound, compared or kept.
                self.applier.unbind_all();
                self.fixer = fixer(&self.settings, self.keep_aside);
                self.send_marks();
            }
            TargetAction::ForgetMarks => self.table.clear_all(),
            TargetAction::Apply { seq } => self.due.push_back(seq),
            TargetAction::SyncAll => self.sync_all(),
            TargetAction::News(news) => {
                if matches!(news, VolumeNews::CaughtUp { .. }) {
                    self.caught_up();
                }
                self.news.push(news);
            }
            TargetAction::Finished { op, outcome } => self.finished.push((op, outcome)),
        }
    }

    fn caught_up(&mut self) {
        self.settings.trust.restore();
        if self.fixer.kept() > 0 {
            self.news.push(VolumeNews::KeptAside(kept_aside(&self.settings)));
        }
    }

    fn connect(&mut self) {
        let from = std::net::SocketAddr::new(self.settings.listen.ip(), 0);
        let from = (!from.ip().is_unspecified()).then_some(from);
        match Connection::connect(self.settings.peer, from, &self.settings.security) {
            Ok(connection) => {
                self.connection = Some(connection);
                self.connecting = Some(clock::now() + CONNECT_LIMIT);
            }
            Err(error) => {
                let reason = format!("{}: {error}", self.settings.peer);
                self.input(TargetInput::Disconnected { reason });
            }
        }
    }

    fn send(&mut self, message: &ToSource) {
        if let Some(connection) = &mut self.connection {
            message.encode(0, connection.output());
        }
    }

    fn send_marks(&mut self) {
        let marks = self.table.marks();
        let everything = self.table.is_everything();
        let items: Vec<ItemKey> = marks
            .iter()
            .filter_map(|mark| self.table.item(*mark))
            .map(|item| ItemKey(item.encode()))
            .collect();
        for items in items.chunks(MARKS_PER_MESSAGE_MAX) {
            self.send(&ToSource::Marks { items: items.to_vec(), everything: false, last: false });
        }
        self.send(&ToSource::Marks { items: Vec::new(), everything, last: true });
    }

    fn lose(&mut self, reason: &str) {
        self.connection = None;
        self.connecting = None;
        self.input(TargetInput::Disconnected { reason: reason.to_owned() });
        self.run();
        assert!(self.due.is_empty(), "what has arrived is carried out before a loss is noticed");
    }

    fn flush(&mut self) {
        if let Err(error) = self.try_flush() {
            self.lose(&format!("{}: {error}", self.settings.peer));
        }
    }

    fn try_flush(&mut self) -> std::io::Result<()> {
        self.connection.as_mut().map_or(Ok(()), Connection::flush)
    }

    fn take_peer(&mut self) -> bool {
        let Some(connection) = &mut self.connection else { return false };
        let came = match connection.flush().and_then(|()| connection.fill()) {
            Ok(came) => came,
            Err(error) => {
                self.lose(&format!("{}: {error}", self.settings.peer));
                return true;
            }
        };
        if self.connecting.is_some() && connection.is_established() {
            self.connecting = None;
            self.input(TargetInput::Connected);
            self.run();
            return true;
        }
        if came {
            self.take_batch();
        }
        came
    }

    /// Takes everything that has arrived, acknowledges it, then carries it out.
    fn take_batch(&mut self) {
        let Some(connection) = &mut self.connection else { return };
        let input = connection.take_input();
        let mut used = 0;
        let mut fault = None;
        while self.connection.is_some() {
            match split_frame::<ToTarget>(&input[used..]) {
                Ok(Some((message, payload, len))) => {
                    let end = used + len;
                    self.take_message(message, end - payload.len()..end);
                    used = end;
                }
                Ok(None) => break,
                Err(error) => {
                    fault = Some(error.to_string());
                    break;
                }
            }
        }
        self.input(TargetInput::BatchEnd);
        self.run();
        if let Err(error) = self.try_flush() {
            // Acted on below, after what has arrived was carried out with its bytes.
            fault.get_or_insert_with(|| format!("{}: {error}", self.settings.peer));
        }
        self.apply_due(&input);
        self.input(TargetInput::BatchEnd);
        self.run();
        if let Some(connection) = &mut self.connection {
            connection.give_back(input, used);
        }
        if let Some(fault) = fault {
            self.lose(&fault);
        }
    }

    fn take_message(&mut self, message: ToTarget, payload: Range<usize>) {
        match message {
            ToTarget::Element { seq, element } => {
                let kind = (&element).into();
                let before = self.due.len();
                self.waiting.push_back(Waiting { seq, element, payload });
                self.input(TargetInput::Received { seq, kind });
                self.run();
                if self.due.len() == before {
                    // Received already, or out of turn.
                    self.waiting.pop_back();
                }
            }
            other => {
                self.input(TargetInput::Message(other));
                self.run();
            }
        }
    }

    fn apply_due(&mut self, input: &[u8]) {
        while let Some(seq) = self.due.pop_front() {
            let Some(waiting) = self.waiting.pop_front() else { return };
            assert_eq!(waiting.seq, seq, "elements are carried out in order");
            let payload = input.get(waiting.payload.clone()).unwrap_or_default();
            let result = self.carry_out(&waiting.element, payload);
            self.input(TargetInput::Applied { seq, result });
            self.run();
        }
    }

    fn carry_out(&mut self, element: &Element, payload: &[u8]) -> Result<(), String> {
        match element {
            Element::Change { change, .. } => self.apply_changes(change, payload),
            Element::Item { item, body } => {
                self.dirty.everything = true;
                let step = Step::decode(body).map_err(|error| error.to_string())?;
                let places = self.applier.places();
                let answer = self
                    .fixer
                    .step(places, &step, payload)
                    .map_err(|error| format!("resynchronisation: {error}"))?;
                if let Some(answer) = answer {
                    self.send(&ToSource::Answer { item: item.clone(), body: answer.encode() });
                }
                Ok(())
            }
            Element::SyncPoint | Element::CaughtUp { .. } => Ok(()),
        }
    }

    fn apply_changes(&mut self, mut bytes: &[u8], payload: &[u8]) -> Result<(), String> {
        while !bytes.is_empty() {
            let (change, used) = Change::decode(bytes).map_err(|error| error.to_string())?;
            bytes = &bytes[used..];
            self.dirty.note(&change);
            let len = change.payload_len() as usize;
            let payload = if len > 0 { payload } else { &[] };
            self.applier.apply(&change, payload).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// Makes what was carried out durable: a few files by themselves, or everything.
    fn sync_all(&mut self) {
        let dirty = std::mem::take(&mut self.dirty);
        if !dirty.everything && dirty.files.len() <= FLUSHED_FEW {
            self.flushes_ok = true;
            if let [only] = &dirty.files[..]
                && self.pace.allows()
                && let Some(file) = self.applier.sync_descriptor(Some(&Named::Id(only.id)))
            {
                let begun = std::time::Instant::now();
                let ok = self.settings.trust.sync_file(&file, only.only_data).is_ok();
                self.pace.took(begun.elapsed());
                return self.input(TargetInput::Synced { ok });
            }
            for (token, dirty) in dirty.files.iter().enumerate() {
                let named = Named::Id(dirty.id);
                let Some(file) = self.applier.sync_descriptor(Some(&named)) else { continue };
                match self.ring.flush(token as u64, file, dirty.only_data) {
                    Ok(()) => self.flushes += 1,
                    Err(_) => self.flushes_ok = false,
                }
            }
            if self.flushes == 0 {
                let ok = self.flushes_ok;
                self.input(TargetInput::Synced { ok });
            }
            return;
        }
        let places = self.applier.places().clone();
        let trust = self.settings.trust.clone();
        self.syncer.run(move |results| {
            let ok = trust.sync_everything(&places).is_ok();
            // The loop may have ended.
            let _ = results.send(ok);
        });
    }

    fn synced(&mut self, ok: bool) {
        self.input(TargetInput::Synced { ok });
        self.run();
    }
}

impl Dirty {
    fn note(&mut self, change: &Change) {
        match change {
            Change::Write { id, .. } => self.note_file(*id, true),
            Change::CopyRange { to, .. } => self.note_file(*to, true),
            Change::Truncate { id, .. }
            | Change::Allocate { id, .. }
            | Change::SetMode { target: Named::Id(id), .. }
            | Change::SetOwner { target: Named::Id(id), .. }
            | Change::SetXattr { target: Named::Id(id), .. }
            | Change::RemoveXattr { target: Named::Id(id), .. } => self.note_file(*id, false),
            // A time alone is worth no sync of everything: it follows with the next one.
            Change::Open { .. } | Change::Sync { .. } | Change::SetTimes { .. } => {}
            // A file closed before its flush cannot be flushed by itself any more.
            Change::Close { id } => self.everything |= self.files.iter().any(|f| f.id == *id),
            _ => self.everything = true,
        }
        if self.everything {
            self.files.clear();
        }
    }

    fn note_file(&mut self, id: FileId, only_data: bool) {
        match self.files.iter_mut().find(|file| file.id == id) {
            Some(file) => file.only_data &= only_data,
            None => {
                self.files.push(DirtyFile { id, only_data });
                self.everything |= self.files.len() > FLUSHED_FEW;
            }
        }
    }
}

fn fixer(settings: &Settings, keep_aside: Option<Generation>) -> Fixer {
    Fixer::new(keep_aside.map(Aside::new)).rewriting(!settings.trust.holds())
}

/// Whether the directory can be used at all.
pub(super) fn check(directory: &Path) -> Result<(), String> {
    open_root(directory).map(drop).map_err(|error| format!("{}: {error}", directory.display()))
}

#[cfg(test)]
mod tests {
    use havre_core::replication::record::Location;

    use super::*;

    fn after(changes: &[Change]) -> Dirty {
        let mut dirty = Dirty::default();
        changes.iter().for_each(|change| dirty.note(change));
        dirty
    }

    #[test]
    fn changes_of_an_open_file_flush_that_file_alone() {
        let id = FileId(7);
        let write = Change::Write { id, offset: 0, len: 4 };
        let dirty = after(&[write.clone(), write.clone()]);
        assert!(!dirty.everything && dirty.files.len() == 1 && dirty.files[0].only_data);
        let dirty = after(&[write, Change::SetMode { target: Named::Id(id), mode: 0o600 }]);
        assert!(!dirty.everything && dirty.files.len() == 1 && !dirty.files[0].only_data);
    }

    #[test]
    fn names_and_files_that_are_not_open_make_everything_dirty() {
        let place = Location { root: 0, path: b"a".to_vec() };
        let named = Change::SetMode { target: Named::Path(place.clone()), mode: 0o600 };
        assert!(after(&[named]).everything);
        assert!(after(&[Change::Unlink { location: place }]).everything);
        let write = Change::Write { id: FileId(7), offset: 0, len: 4 };
        assert!(after(&[write, Change::Close { id: FileId(7) }]).everything);
    }
}
