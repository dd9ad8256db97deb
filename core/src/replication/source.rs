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

use std::collections::VecDeque;

use crate::{
    effect::{Outcome, VolumeNews},
    ids::{OpId, Seq},
    machine::{Machine, Out, earliest},
    replication::{
        generation::Generation,
        intent::{BatchId, Intent},
        stream::{Element, ToTarget},
        window::Window,
    },
    rng::Rng,
    time::Instant,
};

mod checkpoint;
mod closing;
mod foreground;
mod peer;
mod resync;
#[cfg(test)]
mod tests;
mod vocabulary;

use checkpoint::Checkpoint;
use closing::{Closing, ClosingStep};
use resync::Resync;
pub use vocabulary::*;

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
