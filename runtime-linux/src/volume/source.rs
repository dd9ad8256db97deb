//! The source's half of a data path: serves the mounts, carries out the orders of
//! `havre_core::replication::source`.
//!
//! Requests of the application are taken in a batch from each mount, submitted to the machine one
//! by one, applied at once when it says so, shipped and answered. Marks are made durable in line;
//! flushes run in the ring, syncs of whole file systems and the reading of a resynchronisation on
//! helper threads. Shipping is in `source/shipping.rs`, the target's connection in
//! `source/peer.rs`, copying in `source/copying.rs`.

use std::{
    collections::{HashMap, VecDeque},
    io,
    os::fd::BorrowedFd,
    path::PathBuf,
    sync::Arc,
};

use havre_core::{
    config::module::WriteMode,
    effect::{Outcome, VolumeNews},
    ids::OpId,
    machine::{Machine as _, Out},
    replication::{
        generation::Generation,
        intent::Intent,
        record::{Change as Record, FileId, FileTime},
        source::{
            Applied as Ended, Change, ChangeKind, Source, SourceAction, SourceConfig, SourceInput,
            SourceOrder, TICKETS_MAX, Ticket, Verdict,
        },
    },
    rng::Rng,
    time::Instant,
};
use rustix::io::Errno;

use super::{
    cover::Cover,
    helper::Helper,
    marks::MarkTable,
    mounting,
    place::{Excluded, Places},
    settings::Settings,
    trust::Trust,
    uring::Ring,
};
use crate::{
    clock,
    fuse::{Applied, Files, Interceptor, Operation, Options, Session, Turn},
    waker::Waker,
};

mod copying;
mod crossing;
mod flushing;
mod peer;
mod shipping;

use copying::Copying;
use flushing::Flushing;
use peer::Peer;
use shipping::Shipping;

/// What a mount hands over in one turn.
#[derive(Default)]
struct Intake {
    root: u8,
    events: VecDeque<Taken>,
}

#[expect(clippy::large_enum_variant, reason = "a box would be an allocation for each request")]
enum Taken {
    Operation(u8, Operation),
    Closed(FileId),
}

impl Interceptor for Intake {
    fn submit(&mut self, _files: &mut Files, operation: Operation) {
        self.events.push_back(Taken::Operation(self.root, operation));
    }

    fn closed(&mut self, id: FileId) {
        self.events.push_back(Taken::Closed(super::identity::global(self.root, id)));
    }
}

/// An open request of the application.
#[expect(clippy::large_enum_variant, reason = "a box would be an allocation for each request")]
enum Pending {
    Waiting(u8, Operation),
    Flushing(u8, Operation),
    Done(u8, Applied),
}

/// What helper and ring report.
pub(super) enum Report {
    Synced(bool),
    WrittenBack(OpId, SourceOrder),
    Copy(copying::Report),
}

/// A data path that is source.
pub(super) struct SourceSide {
    machine: Source,
    out: Out<SourceAction>,
    table: MarkTable,
    places: Places,
    sessions: Vec<Session>,
    directories: Vec<PathBuf>,
    write: WriteMode,
    intake: Intake,
    pending: HashMap<Ticket, Pending>,
    free: Vec<Ticket>,
    next_ticket: u32,
    cover: Cover,
    trust: Trust,
    flushing: Flushing,
    syncer: Helper<Report>,
    shipping: Shipping,
    peer: Peer,
    copying: Copying,
    /// What the loop is to be told.
    pub(super) news: Vec<VolumeNews>,
    pub(super) finished: Vec<(OpId, Outcome)>,
    settle_at: Instant,
}

/// How often noted modification times are set.
const SETTLE_PERIOD: std::time::Duration = std::time::Duration::from_secs(1);

impl SourceSide {
    /// Mounts over every directory. Whatever fails leaves nothing mounted.
    #[expect(clippy::result_large_err, reason = "the table is given back, once in a mount")]
    pub(super) fn start(
        settings: &Settings,
        table: MarkTable,
        generation: Generation,
        waker: &Arc<Waker>,
    ) -> Result<Self, (MarkTable, String)> {
        match Self::prepare(settings, waker) {
            Ok((sessions, places, ring, syncer, copying)) => {
                let rfs = &settings.rfs;
                let bytes = havre_core::replication::item::REGION_BYTES;
                let config = SourceConfig {
                    syncs_prove: settings.trust.holds(),
                    ..SourceConfig::new(settings.module, settings.signature, rfs, bytes)
                };
                let intent = Intent::recovered(table.marks());
                let rng = Rng::new(settings.seed ^ clock::now().as_nanos());
                Ok(Self {
                    machine: Source::new(config, generation, intent, rng),
                    out: Out::new(),
                    table,
                    places,
                    sessions,
                    directories: rfs.directories.iter().map(|dir| dir.dir.clone()).collect(),
                    write: rfs.write,
                    intake: Intake::default(),
                    pending: HashMap::new(),
                    free: Vec::new(),
                    next_ticket: 0,
                    cover: Cover::default(),
                    trust: settings.trust.clone(),
                    flushing: Flushing::new(ring),
                    syncer,
                    shipping: Shipping::default(),
                    peer: Peer::new(settings),
                    copying,
                    news: Vec::new(),
                    finished: Vec::new(),
                    settle_at: clock::now() + SETTLE_PERIOD,
                })
            }
            Err(error) => {
                settings
                    .rfs
                    .directories
                    .iter()
                    .for_each(|dir| mounting::close(settings, &dir.dir, true));
                Err((table, error))
            }
        }
    }

    #[expect(clippy::type_complexity, reason = "the parts of one value that is made next")]
    fn prepare(
        settings: &Settings,
        waker: &Arc<Waker>,
    ) -> Result<(Vec<Session>, Places, Ring, Helper<Report>, Copying), String> {
        let mut sessions = Vec::new();
        let mut roots = Vec::new();
        for (index, config) in settings.rfs.directories.iter().enumerate() {
            let root = u8::try_from(index).map_err(|_| "more than 256 replicated directories")?;
            let explain = |error: Errno| format!("{}: {error}", config.dir.display());
            let options = Options::new(root, settings.rfs.write);
            let mut session = mounting::open(settings, &config.dir, options)?;
            let parts = session.parts().map_err(explain)?;
            roots.push((parts.directory, Excluded::new(config)?));
            sessions.push(session);
        }
        let places = Places::new(roots);
        let words = |error: io::Error| error.to_string();
        let ring = Ring::new().map_err(words)?;
        let syncer = Helper::start("havre-sync", Arc::clone(waker)).map_err(words)?;
        let copying = Copying::new(places.clone(), waker).map_err(words)?;
        Ok((sessions, places, ring, syncer, copying))
    }

    /// Takes an order of the control loop; its end is in `finished`.
    pub(super) fn order(&mut self, op: OpId, order: SourceOrder) {
        if matches!(order, SourceOrder::Close { .. }) {
            self.write_back(op, order);
            return;
        }
        if matches!(order, SourceOrder::Admit { .. })
            && let Err(error) = self.peer.listen()
        {
            self.finished.push((op, Outcome::Failed(error)));
            return;
        }
        self.input(SourceInput::Order { op, order });
        self.run();
    }

    /// Before an end: has the kernel hand over what it holds back, while it is still served.
    fn write_back(&mut self, op: OpId, order: SourceOrder) {
        let directories = self.directories.clone();
        self.syncer.run(move |results| {
            for directory in directories {
                let written = super::place::open_root(&directory)
                    .and_then(|mount| rustix::fs::syncfs(mount).map_err(io::Error::from));
                if let Err(error) = written {
                    tracing::warn!(directory = %directory.display(), %error, "not written back");
                }
            }
            // The loop may have ended.
            let _ = results.send(Report::WrittenBack(op, order));
        });
    }

    /// Ends: unmounts, and gives the marks back.
    pub(super) fn end(mut self, settings: &Settings) -> MarkTable {
        for (_, pending) in self.pending.drain() {
            let (root, applied) = match pending {
                Pending::Waiting(root, operation) | Pending::Flushing(root, operation) => {
                    let files = self.sessions[usize::from(root)].files();
                    (root, files.applied(operation, Err(Errno::IO)))
                }
                Pending::Done(root, mut applied) => {
                    applied.fail(Errno::IO);
                    (root, applied)
                }
            };
            self.sessions[usize::from(root)].files().reply(applied);
        }
        settings.rfs.directories.iter().for_each(|dir| mounting::close(settings, &dir.dir, true));
        self.table
    }

    /// Descriptors to poll for reading besides those of [`peer_poll`](Self::peer_poll).
    pub(super) fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        use std::os::fd::AsFd as _;
        let mut all: Vec<_> = self.sessions.iter().map(Session::fd).collect();
        all.push(self.flushing.ring.as_fd());
        all
    }

    /// The connection's descriptors, and whether each waits to write.
    pub(super) fn peer_poll(&self) -> Vec<(BorrowedFd<'_>, bool)> {
        self.peer.poll()
    }

    /// When [`turn`](Self::turn) must be called even if nothing happens.
    pub(super) fn deadline(&self) -> Instant {
        let machine = self.machine.deadline().unwrap_or(Instant::FAR_FUTURE);
        machine.min(self.settle_at).min(self.peer.deadline())
    }

    /// The loop was woken: any descriptor may be ready.
    pub(super) fn woken(&mut self) {
        self.peer.look();
    }

    /// Does what can be done now; says whether it did anything.
    pub(super) fn turn(&mut self) -> bool {
        let mut active = self.take_requests();
        active |= self.take_flushes();
        active |= self.take_reports();
        active |= self.take_peer();
        let now = clock::now();
        if self.machine.deadline().is_some_and(|deadline| deadline <= now) {
            self.machine.handle_timeout(now, &mut self.out);
            self.run();
        }
        if now >= self.settle_at {
            self.settle_at = now + SETTLE_PERIOD;
            self.settle_times();
        }
        self.flush_peer();
        active | self.start_flushes()
    }

    fn take_requests(&mut self) -> bool {
        let mut active = false;
        for index in 0..self.sessions.len() {
            self.intake.root = u8::try_from(index).unwrap_or(u8::MAX);
            let turn = self.sessions[index].turn(&mut self.intake);
            active |= matches!(turn, Turn::Handled(_));
            self.take_intake();
        }
        active
    }

    fn settle_times(&mut self) {
        for index in 0..self.sessions.len() {
            self.intake.root = u8::try_from(index).unwrap_or(u8::MAX);
            self.sessions[index].settle(&mut self.intake);
        }
        self.take_intake();
    }

    fn take_intake(&mut self) {
        while let Some(taken) = self.intake.events.pop_front() {
            match taken {
                Taken::Operation(root, operation) => self.submit(root, operation),
                Taken::Closed(id) => {
                    self.cover.closed(id);
                    self.flushing.closed(id);
                    self.shipping.closed(id);
                }
            }
        }
    }

    fn submit(&mut self, root: u8, operation: Operation) {
        let Some(ticket) = self.free.pop().or_else(|| self.new_ticket()) else {
            // More than the kernel ever sends at once.
            let files = self.sessions[usize::from(root)].files();
            let applied = files.applied(operation, Err(Errno::AGAIN));
            files.reply(applied);
            return;
        };
        let marks = self.cover.marks(&mut self.table, &mut self.places, &operation, root);
        let only_barrier = operation.changes().iter().all(Record::is_barrier);
        let expects_barrier = self.flushing.expects_barrier(root, &operation);
        let kind = match (operation.is_barrier(), only_barrier) {
            (true, true) => ChangeKind::Barrier,
            (true, false) => ChangeKind::ChangeAndBarrier,
            (false, _) if expects_barrier => ChangeKind::ChangeBeforeBarrier,
            (false, _) => ChangeKind::Change,
        };
        self.flushing.hurried = expects_barrier.then_some(ticket);
        let bytes = u32::try_from(operation.payload().len()).unwrap_or(u32::MAX);
        self.pending.insert(ticket, Pending::Waiting(root, operation));
        self.input(SourceInput::Submit { ticket, change: Change { kind, bytes, marks } });
        self.run();
    }

    fn new_ticket(&mut self) -> Option<Ticket> {
        let ticket = Ticket(self.next_ticket);
        (self.next_ticket < TICKETS_MAX).then(|| {
            self.next_ticket += 1;
            ticket
        })
    }

    fn input(&mut self, input: SourceInput) {
        self.machine.handle(clock::now(), input, &mut self.out);
    }

    /// Carries out every order, and those that follow from them.
    fn run(&mut self) {
        while !self.out.is_empty() {
            let orders: Vec<SourceAction> = self.out.drain().collect();
            for order in orders {
                self.act(order);
            }
        }
        let returned = self.shipping.drop_received(self.machine.received());
        self.give_back(returned);
    }

    fn act(&mut self, order: SourceAction) {
        match order {
            SourceAction::PersistMarks { batch, marks } => {
                let result = self.table.persist(&marks);
                self.input(SourceInput::MarksPersisted { batch, result });
            }
            SourceAction::ClearMarks { marks } => self.table.clear(&marks),
            SourceAction::Apply { ticket } => self.apply(ticket),
            SourceAction::Flush { ticket } => self.flush(ticket),
            SourceAction::Ship { ticket, seq, sync } => self.ship(ticket, seq, sync),
            SourceAction::Complete { ticket, verdict } => self.complete(ticket, verdict),
            SourceAction::SyncAll => self.sync_all(),
            SourceAction::Send(message) => {
                self.shipping.send(&message, &mut self.peer);
            }
            SourceAction::ShipItem { item, seq } => self.ship_item(item, seq),
            SourceAction::Resend { after } => self.shipping.resend(after, &mut self.peer),
            SourceAction::Discard => {
                let returned = self.shipping.discard();
                self.give_back(returned);
                self.copying.cancel();
            }
            SourceAction::CopyItem { item } => self.copy_item(item),
            SourceAction::Enumerate { restart } => self.copying.enumerate(restart),
            SourceAction::Disconnect => self.peer.disconnect(),
            SourceAction::News(news) => self.news.push(news),
            SourceAction::Finished { op, outcome } => self.finished.push((op, outcome)),
        }
    }

    fn apply(&mut self, ticket: Ticket) {
        let Some(Pending::Waiting(root, operation)) = self.pending.remove(&ticket) else {
            unreachable!("a change is applied once");
        };
        let files = self.sessions[usize::from(root)].files();
        if self.machine.ships() {
            self.shipping.before(ticket, root, &operation, files, &self.places);
        }
        let applied = files.apply(operation);
        let ended = match (applied.error(), applied.changes().is_empty()) {
            (None, _) => Ended::Changed,
            (Some(_), true) => Ended::Refused,
            (Some(_), false) => Ended::Unsure,
        };
        if ended != Ended::Changed {
            self.shipping.forget(ticket);
        } else if self.machine.ships() {
            self.note_time(ticket, root, &applied);
            self.shipping.cross(ticket, &applied, &mut self.places);
        }
        self.pending.insert(ticket, Pending::Done(root, applied));
        if self.flushing.hurried == Some(ticket) && ended == Ended::Changed {
            self.hurry(ticket);
        }
        self.input(SourceInput::Applied { ticket, applied: ended });
        if ended == Ended::Unsure {
            self.lose_peer("an operation failed halfway");
        }
    }

    fn note_time(&mut self, ticket: Ticket, root: u8, applied: &Applied) {
        let sets = |change: &Record| matches!(change, Record::SetTimes { .. });
        // With the write-back cache the kernel keeps the times of written files and tells them.
        let told_later = |change: &Record| {
            self.write == WriteMode::Back && matches!(change, Record::Write { .. })
        };
        let changes = applied.changes();
        let Some(file) = applied.operation().file() else { return };
        if changes.iter().any(sets) || changes.iter().all(told_later) {
            return;
        }
        let files = self.sessions[usize::from(root)].files();
        let stat = files.descriptor(file.id).and_then(|open| rustix::fs::fstat(open).ok());
        if let Some(stat) = stat {
            let nanoseconds = u32::try_from(stat.st_mtime_nsec).unwrap_or(0);
            let modified = FileTime { seconds: stat.st_mtime, nanoseconds };
            self.shipping.after(ticket, root, file.id, modified);
        }
    }

    fn complete(&mut self, ticket: Ticket, verdict: Verdict) {
        let error = match verdict {
            Verdict::AsApplied => None,
            Verdict::Fenced | Verdict::LocalFailure => Some(Errno::IO),
        };
        let pending = self.pending.remove(&ticket).expect("a request is answered once");
        self.free.push(ticket);
        let (root, applied) = match pending {
            Pending::Waiting(root, operation) | Pending::Flushing(root, operation) => {
                let files = self.sessions[usize::from(root)].files();
                (root, files.applied(operation, Err(error.unwrap_or(Errno::IO))))
            }
            Pending::Done(root, mut applied) => {
                if let Some(error) = error {
                    applied.fail(error);
                }
                (root, applied)
            }
        };
        self.sessions[usize::from(root)].files().reply(applied);
    }

    fn take_reports(&mut self) -> bool {
        let mut active = false;
        loop {
            let report = self.syncer.result().or_else(|| self.copying.report().map(Report::Copy));
            match report {
                Some(Report::Synced(ok)) => self.input(SourceInput::Synced { ok }),
                Some(Report::WrittenBack(op, order)) => {
                    self.settle_times();
                    self.input(SourceInput::Order { op, order });
                }
                Some(Report::Copy(report)) => self.copied(report),
                None => return active,
            }
            active = true;
            self.run();
        }
    }
}
