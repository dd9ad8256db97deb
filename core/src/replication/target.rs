//! The target of a replicated module: decides, for the node that follows, in which order what
//! arrives is carried out, what is acknowledged, and when the copy equals the source's.
//!
//! ```text
//!   Connecting <--> Greeting --> Syncing --(CaughtUp, durable)--> Following
//!        ^             |            |                                 |
//!        |-------------|------------|------- connection lost ---------|
//!   any --(order Serve or Close)--> Draining --> Ended        any --(disk fails)--> Failed
//! ```
//!
//! Elements are carried out strictly in the order of their numbers. "Received" is acknowledged
//! when an element is here and the backlog is short; "durable" only after the disk has said so.
//! A target that is promoted first carries out and makes durable everything it has received.
//!
//! Left to the data path: the connection, the bytes, and carrying out.

use std::time::Duration;

use crate::{
    effect::{Outcome, VolumeNews},
    ids::{OpId, Seq},
    machine::{Machine, Out, earliest},
    mutant::{Mutant, active},
    replication::{
        generation::Generation,
        stream::{Hello, Resume, STREAM_PROTOCOL, ToSource, ToTarget},
    },
    time::Instant,
};

#[cfg(test)]
mod tests;
mod vocabulary;

pub use vocabulary::*;

/// Time between two attempts to connect.
pub const RECONNECT_PERIOD: Duration = Duration::from_millis(500);
/// Longest time during which something carried out stays out of the disk unless asked for.
pub const SYNC_PERIOD: Duration = Duration::from_secs(1);
/// Elements received and not carried out beyond which receipt is no longer acknowledged, so
/// that the source's window closes.
pub const BACKLOG_MAX: u64 = 8_192;

/// Where a target is, for display and tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TargetState {
    /// No connection.
    Connecting,
    /// Connected; the source has not answered.
    Greeting,
    /// Being resynchronised.
    Syncing,
    /// Equal to the source up to what is under way.
    Following,
    /// Finishing what was received.
    Draining,
    /// An order ended it.
    Ended,
    /// The local disk failed.
    Failed,
}

#[derive(Debug, Clone, Copy)]
struct Drain {
    op: OpId,
    syncing: bool,
}

/// The deciding part of a target.
#[derive(Debug, Clone)]
pub struct Target {
    config: TargetConfig,
    state: TargetState,
    connected: bool,
    retry_at: Instant,
    greeted_at: Instant,
    session: Option<u64>,
    /// The copy equals the source's in this session: a cut stream can be resumed.
    caught_up: bool,
    received: Seq,
    applied: Seq,
    durable: Seq,
    /// What the target was asked to make durable.
    sync_wanted: Seq,
    /// Position up to which the running sync makes durable.
    syncing: Option<Seq>,
    sync_at: Instant,
    acknowledged: (Seq, Seq),
    /// A `CaughtUp` that waits until everything before it is durable.
    announcement: Option<(Seq, Generation, u64)>,
    drain: Option<Drain>,
    /// Why the source refused the last time.
    refusal: Option<String>,
}

impl Target {
    /// Makes a target and orders the first connection at its first timeout, which is due at once.
    pub fn new(config: TargetConfig, now: Instant) -> Self {
        Self {
            config,
            state: TargetState::Connecting,
            connected: false,
            retry_at: now,
            greeted_at: now,
            session: None,
            caught_up: false,
            received: Seq(0),
            applied: Seq(0),
            durable: Seq(0),
            sync_wanted: Seq(0),
            syncing: None,
            sync_at: now,
            acknowledged: (Seq(0), Seq(0)),
            announcement: None,
            drain: None,
            refusal: None,
        }
    }

    /// Where the target is.
    pub const fn state(&self) -> TargetState {
        self.state
    }

    /// The source's generation.
    pub const fn generation(&self) -> Generation {
        self.config.generation
    }

    fn has_ended(&self) -> bool {
        use TargetState::{Draining, Ended, Failed};
        matches!(self.state, Draining | Ended | Failed)
    }

    fn connected(&mut self, now: Instant, out: &mut Out<TargetAction>) {
        if self.has_ended() {
            out.push(TargetAction::Disconnect);
            return;
        }
        self.connected = true;
        self.state = TargetState::Greeting;
        self.greeted_at = now;
        let received = self.received;
        let resume =
            self.session.filter(|_| self.caught_up).map(|session| Resume { session, received });
        out.push(TargetAction::Send(ToSource::Hello(Hello {
            protocol: STREAM_PROTOCOL,
            module: self.config.module,
            signature: self.config.signature,
            generation: self.config.generation,
            resume,
        })));
    }

    fn disconnected(&mut self, now: Instant, reason: String, out: &mut Out<TargetAction>) {
        let was_in = matches!(self.state, TargetState::Syncing | TargetState::Following);
        self.connected = false;
        self.retry_at = now + RECONNECT_PERIOD;
        if self.has_ended() {
            return;
        }
        self.state = TargetState::Connecting;
        if was_in {
            out.push(TargetAction::News(VolumeNews::PeerLost { reason }));
        }
    }

    fn hang_up(&mut self, now: Instant, reason: String, out: &mut Out<TargetAction>) {
        if self.connected {
            out.push(TargetAction::Disconnect);
        }
        self.disconnected(now, reason, out);
    }

    fn message(&mut self, now: Instant, message: ToTarget, out: &mut Out<TargetAction>) {
        if self.has_ended() || !self.connected {
            return;
        }
        match message {
            ToTarget::Accept { session, after, resumed, .. } => {
                self.accepted(now, session, after, resumed, out);
            }
            ToTarget::Refused { reason } => {
                // Every attempt is refused with the same words: they are news once.
                if self.refusal.as_ref() != Some(&reason) {
                    self.refusal = Some(reason.clone());
                    out.push(TargetAction::News(VolumeNews::PeerLost { reason: reason.clone() }));
                }
                self.hang_up(now, reason, out);
            }
            ToTarget::MarksHeld => {
                out.push(TargetAction::ForgetMarks);
                if active(Mutant::CaughtUpTooEarly) {
                    let generation = self.config.generation;
                    let news = VolumeNews::CaughtUp { generation, bytes_copied: 0 };
                    out.push(TargetAction::News(news));
                }
            }
            ToTarget::Element { seq, element } => {
                self.received(now, seq, ElementKind::from(&element), out);
            }
            ToTarget::Progress(progress) => {
                out.push(TargetAction::News(VolumeNews::Progress(progress)));
            }
        }
    }

    fn accepted(
        &mut self,
        now: Instant,
        session: u64,
        after: Seq,
        resumed: bool,
        out: &mut Out<TargetAction>,
    ) {
        let expected =
            !resumed || (self.caught_up && self.session == Some(session) && after == self.received);
        if self.state != TargetState::Greeting || !expected {
            self.hang_up(now, "the other node accepted something else".into(), out);
            return;
        }
        self.refusal = None;
        self.acknowledged = (Seq(0), Seq(0));
        self.state = TargetState::Syncing;
        if resumed {
            return;
        }
        self.begin_stream(session, after);
        out.push(TargetAction::SendMarks);
    }

    /// A new stream starts after `after`. Nothing of an earlier one is under way, because no
    /// connection is made before everything was carried out.
    fn begin_stream(&mut self, session: u64, after: Seq) {
        self.session = Some(session);
        self.caught_up = false;
        self.announcement = None;
        self.received = after;
        self.applied = after;
        self.durable = after;
        self.sync_wanted = after;
    }

    /// Whether an order to the local disk has not ended.
    fn is_busy(&self) -> bool {
        self.applied < self.received || self.syncing.is_some()
    }

    fn received(&mut self, now: Instant, seq: Seq, kind: ElementKind, out: &mut Out<TargetAction>) {
        if !matches!(self.state, TargetState::Syncing | TargetState::Following) {
            return;
        }
        if seq <= self.received {
            // Sent again after a resumption, although it had arrived.
            return;
        }
        if seq != self.received.next() {
            let reason = format!("element {seq} follows {}: the stream has a gap", self.received);
            self.hang_up(now, reason, out);
            return;
        }
        if self.durable == self.received {
            self.sync_at = now + SYNC_PERIOD;
        }
        self.received = seq;
        match kind {
            ElementKind::Work { sync } => {
                if sync {
                    self.sync_wanted = seq;
                }
            }
            ElementKind::SyncPoint => self.sync_wanted = seq,
            ElementKind::CaughtUp { generation, bytes_copied } => {
                self.sync_wanted = seq;
                self.announcement = Some((seq, generation, bytes_copied));
            }
        }
        // Elements without content are carried out too: their turn is their place in the order.
        out.push(TargetAction::Apply { seq });
        self.announce(out);
    }

    fn applied(&mut self, seq: Seq, result: Result<(), String>, out: &mut Out<TargetAction>) {
        if self.state == TargetState::Failed {
            return;
        }
        if let Err(error) = result {
            self.fail(error, out);
            return;
        }
        assert_eq!(seq, self.applied.next(), "elements are carried out in order");
        self.applied = seq;
        self.sync_if_wanted(out);
        self.advance_drain(out);
    }

    fn sync_if_wanted(&mut self, out: &mut Out<TargetAction>) {
        let wanted = self.sync_wanted > self.durable && self.applied >= self.sync_wanted;
        if wanted && self.syncing.is_none() && self.drain.is_none() {
            self.start_sync(out);
        }
    }

    fn start_sync(&mut self, out: &mut Out<TargetAction>) {
        self.syncing = Some(self.applied);
        out.push(TargetAction::SyncAll);
        if active(Mutant::TargetAcksBeforeSync) {
            self.durable = self.applied;
            self.acknowledge(out);
        }
    }

    fn synced(&mut self, now: Instant, ok: bool, out: &mut Out<TargetAction>) {
        let Some(upto) = self.syncing.take() else { return };
        if !ok {
            self.fail("the local disk could not make everything durable".into(), out);
            return;
        }
        self.durable = self.durable.max(upto);
        self.sync_at = now + SYNC_PERIOD;
        self.announce(out);
        self.acknowledge(out);
        self.sync_if_wanted(out);
        self.advance_drain(out);
    }

    /// Says that the copy equals the source's, once everything before that moment is durable.
    fn announce(&mut self, out: &mut Out<TargetAction>) {
        let Some((seq, generation, bytes_copied)) = self.announcement else { return };
        if self.durable < seq {
            return;
        }
        self.announcement = None;
        self.caught_up = true;
        if self.state == TargetState::Syncing {
            self.state = TargetState::Following;
        }
        out.push(TargetAction::News(VolumeNews::CaughtUp { generation, bytes_copied }));
    }

    fn acknowledge(&mut self, out: &mut Out<TargetAction>) {
        if !self.connected || !matches!(self.state, TargetState::Syncing | TargetState::Following) {
            return;
        }
        let limit = Seq(self.applied.0.saturating_add(BACKLOG_MAX));
        let received = self.received.min(limit);
        if (received, self.durable) == self.acknowledged {
            return;
        }
        self.acknowledged = (received, self.durable);
        let durable = self.durable;
        out.push(TargetAction::Send(ToSource::Ack { received, durable }));
    }

    fn fail(&mut self, error: String, out: &mut Out<TargetAction>) {
        if self.state == TargetState::Failed {
            return;
        }
        self.caught_up = false;
        self.announcement = None;
        if self.connected {
            out.push(TargetAction::Send(ToSource::Failed { reason: error.clone() }));
            out.push(TargetAction::Disconnect);
            self.connected = false;
        }
        self.state = TargetState::Failed;
        if let Some(drain) = self.drain.take() {
            let outcome = Outcome::Failed(error.clone());
            out.push(TargetAction::Finished { op: drain.op, outcome });
        }
        out.push(TargetAction::News(VolumeNews::Failed { error }));
    }

    fn order(&mut self, op: OpId, out: &mut Out<TargetAction>) {
        if self.state == TargetState::Failed || self.drain.is_some() {
            let outcome = Outcome::Failed(match self.state {
                TargetState::Failed => "the local disk failed while following".into(),
                _ => "it is ending already".into(),
            });
            out.push(TargetAction::Finished { op, outcome });
            return;
        }
        if self.connected {
            self.connected = false;
            out.push(TargetAction::Disconnect);
        }
        self.state = TargetState::Draining;
        self.announcement = None;
        self.drain = Some(Drain { op, syncing: false });
        self.advance_drain(out);
    }

    fn advance_drain(&mut self, out: &mut Out<TargetAction>) {
        let Some(drain) = &mut self.drain else { return };
        let undrained = active(Mutant::PromoteWithoutDrain);
        let busy = self.applied < self.received || self.syncing.is_some();
        if self.state != TargetState::Draining || (busy && !undrained) {
            return;
        }
        if drain.syncing || undrained {
            self.state = TargetState::Ended;
            let op = drain.op;
            out.push(TargetAction::Finished { op, outcome: Outcome::Done });
        } else {
            drain.syncing = true;
            self.start_sync(out);
        }
    }

    fn sync_deadline(&self) -> Option<Instant> {
        let behind = self.applied > self.durable && self.syncing.is_none();
        (behind && !self.has_ended()).then_some(self.sync_at)
    }

    fn connection_deadline(&self) -> Option<Instant> {
        match self.state {
            TargetState::Connecting => (!self.is_busy()).then_some(self.retry_at),
            TargetState::Greeting => Some(self.greeted_at + self.config.answer_timeout),
            _ => None,
        }
    }
}

impl Machine for Target {
    type Input = TargetInput;
    type Action = TargetAction;

    fn handle(&mut self, now: Instant, input: TargetInput, out: &mut Out<TargetAction>) {
        match input {
            TargetInput::Connected => self.connected(now, out),
            TargetInput::Disconnected { reason } => self.disconnected(now, reason, out),
            TargetInput::Message(message) => self.message(now, message, out),
            TargetInput::Received { seq, kind } => self.received(now, seq, kind, out),
            TargetInput::BatchEnd => self.acknowledge(out),
            TargetInput::Applied { seq, result } => self.applied(seq, result, out),
            TargetInput::Synced { ok } => self.synced(now, ok, out),
            TargetInput::Order { op, .. } => self.order(op, out),
        }
    }

    fn handle_timeout(&mut self, now: Instant, out: &mut Out<TargetAction>) {
        if self.connection_deadline().is_some_and(|due| due <= now) {
            if self.state == TargetState::Connecting {
                self.retry_at = now + self.config.answer_timeout.max(RECONNECT_PERIOD);
                out.push(TargetAction::Connect);
            } else {
                self.hang_up(now, "the primary's data path does not answer".into(), out);
            }
        }
        if self.sync_deadline().is_some_and(|due| due <= now) {
            self.start_sync(out);
        }
    }

    fn deadline(&self) -> Option<Instant> {
        earliest(self.connection_deadline(), self.sync_deadline())
    }
}
