//! The source of a replicated module: decides, for the node where the application writes, when a
//! change is applied, shipped and completed, and what is marked.
//!
//! ```text
//!            target connects                last pass durable at the target
//!   Solo ------------------------> Resyncing ------------------------------> Enlisted
//!    ^  ^--- target lost (*) --------|  ^                                      |  ^
//!    |                                  |--- target came back without memory --|  | stream
//!    |                                  |                                      |  | resumed
//!    |------ order Solo ------------ Orphaned <------- target lost ------------|--|
//! ```
//! (*) A resynchronisation that began in Orphaned goes back to Orphaned: until the order `Solo`
//! says that the world knows, no barrier completes without the target.
//!
//! * Solo: marks only; barriers wait for the local disk.
//! * Resyncing: the same, while marked items are copied in passes ([`resync`]).
//! * Enlisted: each change is shipped in the one log order; barriers wait for the target too.
//! * Orphaned: as Enlisted, without a connection: barriers stall, and other changes go on until
//!   the window is full.
//!
//! In every mode a change is applied only once its marks are durable ([`super::intent`]).
//! Left to the data path: what changes and items are, their bytes, and that two changes which
//! touch the same bytes or names are submitted one after the other.

use std::{collections::VecDeque, time::Duration};

use crate::{
    config::module::{Contract, RfsConfig, WriteMode},
    effect::{Outcome, VolumeNews},
    ids::{ModuleId, OpId, Seq},
    machine::{Machine, Out, earliest},
    replication::{
        generation::Generation,
        intent::{BatchId, Intent, MarkId, MarkSet},
        stream::{Element, Hello, ToTarget},
        window::Window,
    },
    rng::Rng,
    time::Instant,
};

mod checkpoint;
mod foreground;
mod peer;
mod resync;
#[cfg(test)]
mod tests;

use checkpoint::Checkpoint;
use resync::Resync;

/// Changes of the application that may be open at once.
pub const TICKETS_MAX: u32 = 16_384;

/// Names an open change: a small number, chosen by the data path, free again after
/// [`SourceAction::Complete`]. Below [`TICKETS_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u32);

/// What kind of request a change is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChangeKind {
    /// Changes data, names or attributes.
    Change,
    /// Changes nothing; completes when every earlier completed change is safe (fsync, syncfs).
    Barrier,
    /// Both in one: a write on a file opened with O_SYNC, a rename that must be durable.
    ChangeAndBarrier,
}

/// One request of the application.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// Its kind.
    pub kind: ChangeKind,
    /// Payload bytes it will put into the stream; 0 for a barrier.
    pub bytes: u32,
    /// What it changes; empty for a barrier.
    pub marks: MarkSet,
}

/// How the local application of a change ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Applied {
    /// It changed the copy as recorded (a short write: record what was written).
    Changed,
    /// It was refused and changed nothing (EEXIST, ENOENT, ENOSPC before the first byte).
    Refused,
    /// It failed and may have changed something that the record does not say (EIO).
    Unsure,
}

/// What the application is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The result of the local application, good or bad; a barrier succeeded.
    AsApplied,
    /// EROFS or EIO: the right to complete changes was taken away, or the data path is closed.
    Fenced,
    /// EIO: the local disk or mark log failed.
    LocalFailure,
}

/// Orders of the control loop, see [`crate::effect::VolumeRequest`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceOrder {
    /// Changes are made under this generation; takes a fence away.
    Serve(Generation),
    /// The target may connect; `full`: copy everything.
    Admit {
        /// Copy everything, whatever is marked.
        full: bool,
    },
    /// Barriers no longer wait for the target.
    Solo(Generation),
    /// Nothing completes as successful any more.
    Fence,
    /// End: `clean` waits for the target to hold everything.
    Close {
        /// Whether to wait for the target.
        clean: bool,
    },
}

/// Facts that a source takes.
#[derive(Debug, Clone, PartialEq)]
pub enum SourceInput {
    /// The application asks for something.
    Submit {
        /// Its name; must not be open.
        ticket: Ticket,
        /// What it asks.
        change: Change,
    },
    /// [`SourceAction::Apply`] ended. The order of these facts is the order of the log.
    Applied {
        /// The change.
        ticket: Ticket,
        /// How.
        applied: Applied,
    },
    /// [`SourceAction::Flush`] ended.
    Flushed {
        /// The barrier.
        ticket: Ticket,
        /// Whether the disk holds everything that was applied before it was ordered.
        ok: bool,
    },
    /// [`SourceAction::PersistMarks`] ended: the batch, or what the operating system said.
    MarksPersisted {
        /// The batch.
        batch: BatchId,
        /// Whether it is durable.
        result: Result<(), String>,
    },
    /// [`SourceAction::SyncAll`] ended.
    Synced {
        /// Whether everything that was applied before it was ordered is durable.
        ok: bool,
    },
    /// The target or the connection says something.
    Peer(PeerInput),
    /// A resynchronisation order was carried out.
    Resync(ResyncInput),
    /// An order; reported by [`SourceAction::Finished`].
    Order {
        /// Its name.
        op: OpId,
        /// What.
        order: SourceOrder,
    },
}

/// Facts about the target.
#[derive(Debug, Clone, PartialEq)]
pub enum PeerInput {
    /// A target connected and said this; an earlier connection is gone.
    Connected(Hello),
    /// Parts of its copy that may differ ([`super::stream::ToSource::Marks`], translated).
    Marks {
        /// The parts; [`MarkId::EVERYTHING`] if the whole copy may differ.
        marks: Vec<MarkId>,
        /// No further ones follow.
        last: bool,
    },
    /// Cumulative acknowledgement.
    Ack {
        /// Everything up to here was received.
        received: Seq,
        /// Everything up to here is durable.
        durable: Seq,
    },
    /// The connection ended, the target failed, or it broke the protocol.
    Gone {
        /// Why, in words.
        reason: String,
    },
}

/// Facts about the resynchronisation.
#[derive(Debug, Clone, PartialEq)]
pub enum ResyncInput {
    /// A step of comparing or copying `item` is ready to be sent. The answer, within the same
    /// call, is [`SourceAction::ShipItem`].
    Step {
        /// The item.
        item: MarkId,
        /// Payload bytes of the step.
        bytes: u32,
    },
    /// [`SourceAction::CopyItem`] ended: all its steps were shipped. An item that no longer
    /// exists is done with zero bytes.
    Done {
        /// The item.
        item: MarkId,
        /// Bytes compared.
        bytes_compared: u64,
        /// Bytes sent because they differed.
        bytes_copied: u64,
    },
    /// An item could not be read here; the resynchronisation is given up.
    Failed {
        /// What the operating system said.
        error: String,
    },
    /// More items of the whole copy, as asked by [`SourceAction::Enumerate`].
    Items {
        /// The items, in any order, at most [`ENUMERATE_MAX`].
        items: Vec<MarkId>,
        /// There are no more.
        last: bool,
    },
}

/// Items in one answer to [`SourceAction::Enumerate`].
pub const ENUMERATE_MAX: usize = 1_024;

/// Orders that a source gives.
#[derive(Debug, Clone, PartialEq)]
pub enum SourceAction {
    /// Make these marks durable in the mark log. Orders to the mark log take effect in sequence.
    PersistMarks {
        /// Name of the batch.
        batch: BatchId,
        /// The marks.
        marks: Vec<MarkId>,
    },
    /// Take these marks out of the mark log, at leisure.
    ClearMarks {
        /// The marks.
        marks: Vec<MarkId>,
    },
    /// Apply a change to the local copy.
    Apply {
        /// The change.
        ticket: Ticket,
    },
    /// Make what this barrier covers durable on the local disk.
    Flush {
        /// The barrier.
        ticket: Ticket,
    },
    /// Put the change into the stream under this number, now, and keep the frame until the
    /// target has received it or until [`SourceAction::Discard`]. Without a connection: keep it.
    Ship {
        /// The change.
        ticket: Ticket,
        /// Its number.
        seq: Seq,
        /// See [`Element::Change`].
        sync: bool,
    },
    /// Answer the application.
    Complete {
        /// The change; the ticket is free again.
        ticket: Ticket,
        /// The answer.
        verdict: Verdict,
    },
    /// Make everything applied so far durable on the local disk.
    SyncAll,
    /// Send a message on the stream. An element is kept as in [`SourceAction::Ship`].
    Send(ToTarget),
    /// Put the step of [`ResyncInput::Step`] into the stream under this number.
    ShipItem {
        /// The item.
        item: MarkId,
        /// The number.
        seq: Seq,
    },
    /// Send the kept frames after this number again, in order.
    Resend {
        /// The last one that the target has.
        after: Seq,
    },
    /// Drop the kept frames, and stop every [`SourceAction::CopyItem`] without a report.
    Discard,
    /// Compare this item with the target's and copy what differs. What is read must be read
    /// after this order.
    CopyItem {
        /// The item.
        item: MarkId,
    },
    /// List items of the whole copy, from the beginning or from where the last list ended.
    Enumerate {
        /// From the beginning.
        restart: bool,
    },
    /// Close the connection (after what was sent on it).
    Disconnect,
    /// Tell the control loop.
    News(VolumeNews),
    /// An order ended.
    Finished {
        /// Its name.
        op: OpId,
        /// How.
        outcome: Outcome,
    },
}

/// What a source needs to know beforehand.
#[derive(Debug, Clone, PartialEq)]
pub struct SourceConfig {
    /// The module.
    pub module: ModuleId,
    /// Digest of the module's configuration; a target with another one is refused.
    pub signature: u64,
    /// `async=`.
    pub contract: Contract,
    /// `write=`.
    pub mode: WriteMode,
    /// Longest silence on a request before the source goes on alone.
    pub lock_timeout: Duration,
    /// Longest time in which the target takes nothing off the stream.
    pub send_timeout: Duration,
    /// Cap of the resynchronisation.
    pub resync_bytes_per_second_max: Option<u64>,
    /// Largest item, for estimates of what remains.
    pub item_bytes_max: u64,
    /// How often marks are looked at for clearing. Default [`CHECKPOINT_PERIOD`].
    pub checkpoint_period: Duration,
}

/// Default of [`SourceConfig::checkpoint_period`]: twice this after the last change, an idle
/// module has no marks.
pub const CHECKPOINT_PERIOD: Duration = Duration::from_secs(10);

impl SourceConfig {
    /// The configuration that `<rfs>` says.
    pub fn new(module: ModuleId, signature: u64, rfs: &RfsConfig, item_bytes_max: u64) -> Self {
        Self {
            module,
            signature,
            contract: rfs.contract,
            mode: rfs.write,
            lock_timeout: rfs.lock_timeout,
            send_timeout: rfs.send_timeout,
            resync_bytes_per_second_max: rfs.resync_bytes_per_second_max,
            item_bytes_max,
            checkpoint_period: CHECKPOINT_PERIOD,
        }
    }
}

/// What a source does about its target, for display and tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SourceMode {
    /// Marks only.
    Solo,
    /// Copying marked items.
    Resyncing,
    /// Ships, and barriers wait.
    Enlisted,
    /// Barriers stall.
    Orphaned,
}

#[derive(Debug, Clone)]
enum Mode {
    Solo,
    Resyncing(Box<Resync>),
    Enlisted,
    Orphaned,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Health {
    Sound,
    Fenced,
    /// The local disk or mark log failed: believed again only after a new start.
    Poisoned,
}

impl Health {
    const fn verdict(self) -> Verdict {
        match self {
            Self::Sound => Verdict::AsApplied,
            Self::Fenced => Verdict::Fenced,
            Self::Poisoned => Verdict::LocalFailure,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Open {
    change: Change,
    stage: Stage,
    /// Room in the window is set aside for it.
    reserved: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Not admitted yet.
    Held,
    /// Its marks are being made durable.
    Marking,
    /// Being applied to the local copy.
    Applying,
    /// Applied, if it is a change at all; waits for what is still `false`.
    Waiting { flushed: bool, peer: bool },
}

#[derive(Debug, Clone, Copy)]
struct Closing {
    op: OpId,
    clean: bool,
    step: ClosingStep,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ClosingStep {
    Draining,
    Peer,
    Syncing,
    Closed,
}

/// The deciding part of a source.
#[derive(Debug, Clone)]
pub struct Source {
    config: SourceConfig,
    generation: Generation,
    rng: Rng,
    intent: Intent,
    mode: Mode,
    health: Health,
    closing: Option<Closing>,
    tickets: Vec<Option<Open>>,
    open: u32,
    /// Admitted changes whose local application has not ended.
    admitted: u32,
    held: VecDeque<Ticket>,
    marking: VecDeque<(BatchId, Ticket)>,
    window: Window,
    awaiting_receipt: VecDeque<(Seq, Ticket)>,
    awaiting_durable: VecDeque<(Seq, Ticket)>,
    /// Position of the last element that makes the target sync.
    sync_shipped: Seq,
    checkpoint: Checkpoint,
    admission: Option<Admission>,
    connected: bool,
    session: u64,
    received_at: Instant,
    durable_at: Instant,
}

#[derive(Debug, Clone, Copy)]
struct Admission {
    full: bool,
}

impl Source {
    /// Makes a source that goes on with the marks that the mark log held.
    pub fn new(config: SourceConfig, generation: Generation, intent: Intent, rng: Rng) -> Self {
        Self {
            checkpoint: Checkpoint::new(),
            config,
            generation,
            rng,
            intent,
            mode: Mode::Solo,
            health: Health::Sound,
            closing: None,
            tickets: Vec::new(),
            open: 0,
            admitted: 0,
            held: VecDeque::new(),
            marking: VecDeque::new(),
            window: Window::default(),
            awaiting_receipt: VecDeque::new(),
            awaiting_durable: VecDeque::new(),
            sync_shipped: Seq(0),
            admission: None,
            connected: false,
            session: 0,
            received_at: Instant::ZERO,
            durable_at: Instant::ZERO,
        }
    }

    /// What the source does about its target.
    pub const fn mode(&self) -> SourceMode {
        match self.mode {
            Mode::Solo => SourceMode::Solo,
            Mode::Resyncing(_) => SourceMode::Resyncing,
            Mode::Enlisted => SourceMode::Enlisted,
            Mode::Orphaned => SourceMode::Orphaned,
        }
    }

    /// The table of marks.
    pub const fn intent(&self) -> &Intent {
        &self.intent
    }

    /// Everything up to here was received by the target: kept frames up to it may be dropped.
    pub const fn received(&self) -> Seq {
        self.window.received()
    }

    /// Open requests of the application.
    pub const fn open(&self) -> u32 {
        self.open
    }

    /// Ends the source and keeps its marks, for the next role of this data path.
    pub fn into_intent(self) -> Intent {
        Intent::recovered(self.intent.marks())
    }

    fn order(&mut self, now: Instant, op: OpId, order: SourceOrder, out: &mut Out<SourceAction>) {
        match order {
            SourceOrder::Serve(generation) => self.serve(generation, out),
            SourceOrder::Admit { full } => {
                let full = full || self.admission.is_some_and(|earlier| earlier.full);
                self.admission = Some(Admission { full });
            }
            SourceOrder::Solo(generation) => self.go_solo(now, generation, out),
            SourceOrder::Fence => self.fence(Health::Fenced, out),
            SourceOrder::Close { clean } => return self.close(now, op, clean, out),
        }
        out.push(SourceAction::Finished { op, outcome: self.order_outcome(order) });
    }

    fn order_outcome(&self, order: SourceOrder) -> Outcome {
        let serving = matches!(order, SourceOrder::Serve(_) | SourceOrder::Solo(_));
        if serving && self.health == Health::Poisoned {
            return Outcome::Failed(
                "the local disk failed: stop the module, repair the disk, start again".into(),
            );
        }
        Outcome::Done
    }

    fn serve(&mut self, generation: Generation, out: &mut Out<SourceAction>) {
        if generation != self.generation {
            self.drop_stream(out);
            self.generation = generation;
        }
        if self.health == Health::Fenced {
            self.health = Health::Sound;
        }
    }

    fn go_solo(&mut self, now: Instant, generation: Generation, out: &mut Out<SourceAction>) {
        if generation != self.generation || !matches!(self.mode, Mode::Resyncing(_)) {
            self.drop_stream(out);
        }
        self.generation = generation;
        if let Mode::Resyncing(resync) = &mut self.mode {
            resync.stalled = false;
        }
        self.release_from_peer(out);
        self.pump(now, out);
    }

    /// Ends the stream and everything that depends on it; the marks stay.
    fn drop_stream(&mut self, out: &mut Out<SourceAction>) {
        if self.connected {
            self.connected = false;
            out.push(SourceAction::Disconnect);
        }
        if !matches!(self.mode, Mode::Solo) {
            self.forget_shipped(out);
            self.mode = Mode::Solo;
        }
    }

    fn forget_shipped(&mut self, out: &mut Out<SourceAction>) {
        out.push(SourceAction::Discard);
        self.window.discard();
        self.intent.unsettle();
        self.checkpoint.abandon();
    }

    /// Nothing completes as successful from here on.
    fn fence(&mut self, health: Health, out: &mut Out<SourceAction>) {
        if self.health != Health::Poisoned {
            self.health = health;
        }
        self.drop_stream(out);
        self.fail_waiting(out);
    }

    fn poison(&mut self, error: String, out: &mut Out<SourceAction>) {
        if self.health != Health::Poisoned {
            out.push(SourceAction::News(VolumeNews::Failed { error }));
        }
        self.fence(Health::Poisoned, out);
    }

    fn close(&mut self, now: Instant, op: OpId, clean: bool, out: &mut Out<SourceAction>) {
        if let Some(earlier) = self.closing {
            out.push(SourceAction::Finished {
                op,
                outcome: Outcome::Failed(format!("order {} is closing it already", earlier.op)),
            });
            return;
        }
        self.closing = Some(Closing { op, clean, step: ClosingStep::Draining });
        self.advance_close(now, out);
    }

    fn advance_close(&mut self, now: Instant, out: &mut Out<SourceAction>) {
        let Some(closing) = self.closing else { return };
        let enlisted = matches!(self.mode, Mode::Enlisted);
        if closing.step == ClosingStep::Draining {
            self.fail_held(Verdict::Fenced, out);
            if matches!(&self.mode, Mode::Orphaned) || self.is_stalled() {
                self.fence(Health::Fenced, out);
            } else if !enlisted {
                self.drop_stream(out);
            }
            if self.open > 0 {
                return;
            }
            if closing.clean && enlisted {
                self.ship_sync_point(now, out);
            }
            self.set_closing(ClosingStep::Peer);
        }
        let step = self.closing.map(|closing| closing.step);
        let peer_behind = enlisted && self.window.durable() < self.window.last();
        let waits = (closing.clean && peer_behind) || self.checkpoint.is_syncing();
        if step == Some(ClosingStep::Peer) && !waits {
            self.set_closing(ClosingStep::Syncing);
            out.push(SourceAction::SyncAll);
        }
    }

    fn is_stalled(&self) -> bool {
        matches!(&self.mode, Mode::Resyncing(resync) if resync.stalled)
    }

    fn set_closing(&mut self, step: ClosingStep) {
        if let Some(closing) = &mut self.closing {
            closing.step = step;
        }
    }

    fn finish_close(&mut self, ok: bool, out: &mut Out<SourceAction>) {
        let Some(closing) = self.closing else { return };
        if ok && matches!(self.mode, Mode::Enlisted) {
            let marks = self.intent.clear(self.window.durable());
            if !marks.is_empty() {
                out.push(SourceAction::ClearMarks { marks });
            }
        }
        self.drop_stream(out);
        self.set_closing(ClosingStep::Closed);
        let outcome = if ok {
            Outcome::Done
        } else {
            Outcome::Failed("the local disk could not make everything durable".into())
        };
        out.push(SourceAction::Finished { op: closing.op, outcome });
    }

    fn synced(&mut self, now: Instant, ok: bool, out: &mut Out<SourceAction>) {
        if !ok {
            self.poison("the local disk could not make everything durable".into(), out);
        }
        if self.closing.is_some_and(|closing| closing.step == ClosingStep::Syncing) {
            self.finish_close(ok, out);
        } else {
            self.checkpoint_synced(now, ok, out);
        }
    }

    fn advance(&mut self, now: Instant, out: &mut Out<SourceAction>) {
        self.advance_resync(now, out);
        self.advance_close(now, out);
    }
}

impl Machine for Source {
    type Input = SourceInput;
    type Action = SourceAction;

    #[inline]
    fn handle(&mut self, now: Instant, input: SourceInput, out: &mut Out<SourceAction>) {
        match input {
            SourceInput::Submit { ticket, change } => self.submit(now, ticket, change, out),
            SourceInput::Applied { ticket, applied } => self.applied(now, ticket, applied, out),
            SourceInput::Flushed { ticket, ok } => self.flushed(ticket, ok, out),
            SourceInput::MarksPersisted { batch, result } => {
                self.marks_persisted(now, batch, result, out);
            }
            SourceInput::Synced { ok } => self.synced(now, ok, out),
            SourceInput::Peer(input) => self.peer(now, input, out),
            SourceInput::Resync(input) => self.resync_input(now, input, out),
            SourceInput::Order { op, order } => self.order(now, op, order, out),
        }
        if self.closing.is_some() || matches!(self.mode, Mode::Resyncing(_)) {
            self.advance(now, out);
        }
    }

    fn handle_timeout(&mut self, now: Instant, out: &mut Out<SourceAction>) {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return;
        }
        self.check_peer(now, out);
        self.checkpoint_due(now, out);
        self.resync_due(now, out);
        self.advance(now, out);
    }

    fn deadline(&self) -> Option<Instant> {
        let peer = earliest(self.peer_deadline(), self.checkpoint_deadline());
        earliest(peer, self.resync_deadline())
    }
}

impl Source {
    fn ship_element(&mut self, element: Element, now: Instant, out: &mut Out<SourceAction>) -> Seq {
        let seq = self.allot(now, 0);
        if element.wants_sync() {
            self.sync_shipped = seq;
        }
        out.push(SourceAction::Send(ToTarget::Element { seq, element }));
        seq
    }

    /// Gives out the next position of the stream.
    fn allot(&mut self, now: Instant, bytes: u32) -> Seq {
        if !self.window.is_waiting() {
            self.received_at = now;
        }
        if self.window.durable() == self.window.last() {
            self.durable_at = now;
        }
        self.window.ship(bytes)
    }

    /// Makes the target sync everything shipped so far, unless it has been told to.
    fn ship_sync_point(&mut self, now: Instant, out: &mut Out<SourceAction>) -> Seq {
        let last = self.window.last();
        if self.sync_shipped == last || self.window.durable() == last {
            return last;
        }
        self.ship_element(Element::SyncPoint, now, out)
    }
}
