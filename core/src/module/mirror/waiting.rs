//! WAIT: looking at both nodes and deciding what to become; asking for the right to run.

use super::{Action, EVALUATE_PERIOD, Link, Mirror, Mode};
use crate::{
    event::{Action as Verb, Actor, EventKind},
    ids::Epoch,
    machine::Out,
    module::{
        decide::{Decision, View, Wish, decide},
        procedure::{self, After},
        record::Change,
    },
    quorum::{self, Refusal, policy::Kind},
    replication::generation::{CopyState, Generation, Origin},
    status::{Phase, State, WaitReason},
    time::Instant,
};

/// Time-outs of heartbeats for which a peer that goes first is waited for.
const PATIENCE: u32 = 4;

impl Mirror {
    fn decision(&self, now: Instant) -> Decision {
        if let Some(reason) = &self.held {
            return Decision::Wait(reason.clone());
        }
        let record = self.keeper.durable();
        let lineage = self.lineage();
        decide(&View {
            node: self.settings.node,
            peer: self.settings.peer,
            replicated: self.settings.shape.replicated,
            policy: self.settings.policy,
            signature: self.settings.signature,
            lineage: &lineage,
            was_primary: record.was_primary,
            wish: self.wish,
            discovering: !self.peer.alive && now < self.discovering_until,
            heard: self.beat(),
            failover_off: self.failover_off,
            yielding: now < self.yield_until,
            promised: now < self.promised_until,
            impatient: self.settings.policy == Kind::Lease
                && self.shown() == (State::Wait, Phase::NotReady)
                && now >= self.since + self.settings.timeout * PATIENCE,
        })
    }

    /// Looks again at what a waiting module should become.
    pub(super) fn evaluate(&mut self, now: Instant, out: &mut Out<Action>) {
        let Mode::Waiting(present) = &self.mode else { return };
        let present = present.clone();
        self.evaluate_at = Some(now + EVALUATE_PERIOD);
        // A record on its way may change everything.
        if self.keeper.pending().next().is_some() {
            return;
        }
        match self.decision(now) {
            Decision::Wait(reason) => {
                // What an attempt found out is more precise than "try again".
                if reason != present {
                    let text = reason.to_string();
                    self.transition(now, Mode::Waiting(reason), &text, out);
                }
            }
            Decision::Promote(origin) => {
                if let Some(error) = sticky(&present)
                    && now < self.since + EVALUATE_PERIOD * 8
                {
                    self.reason = error;
                    return;
                }
                self.acquire(now, State::Wait, origin, Actor::Automatic, out);
            }
            Decision::Follow { generation, keep_aside } => {
                self.join(now, generation, keep_aside, out);
            }
        }
    }

    pub(super) fn new_generation(&mut self, origin: Origin) -> Generation {
        let nonce = self.rng.next_u64();
        self.keeper.durable().lineage.successor(self.settings.node, nonce, origin)
    }

    pub(super) fn acquire(
        &mut self,
        now: Instant,
        from: State,
        origin: Origin,
        by: Actor,
        out: &mut Out<Action>,
    ) {
        let generation = self.new_generation(origin);
        let forced = origin == Origin::Forced || !self.settings.shape.replicated;
        let verb = if origin == Origin::Forced { Verb::Prim } else { Verb::Alone };
        if self.refused.is_none() {
            self.notify(EventKind::ActionCalled { action: verb, by: by.clone() }, out);
        }
        self.transition(now, Mode::Acquiring { from, generation, by }, "asking for quorum", out);
        out.push(Action::Quorum(quorum::Input::Acquire { generation, forced }));
    }

    pub(super) fn right_held(
        &mut self,
        now: Instant,
        epoch: Option<Epoch>,
        recorded: Option<Generation>,
        out: &mut Out<Action>,
    ) {
        if let Mode::Resuming { generation: Some(generation), .. } = self.mode {
            return self.resumed(now, epoch, generation, recorded, out);
        }
        let Mode::Acquiring { from, mut generation, by } = self.mode.clone() else {
            // The wish is gone: give the right back.
            out.push(Action::Quorum(quorum::Input::Release));
            return;
        };
        let before = self.prepared(epoch, recorded, &mut generation, out);
        let reason = match by {
            Actor::NoHeartbeat => "no heartbeat of the primary",
            Actor::RemoteStop => "the primary stopped",
            Actor::Administrator => "ordered by an administrator",
            _ => "this copy is up to date",
        };
        self.role = if from == State::Second { State::Second } else { State::Wait };
        self.transition(now, Mode::Promoting, reason, out);
        self.application = true;
        let handed = from == State::Second && self.beat().is_some_and(|beat| !beat.serving);
        let sequence = procedure::promote(self.settings.shape, from, before, generation, handed);
        self.begin(now, sequence, out);
    }

    /// What must be recorded together with a new generation, once the right is held.
    pub(super) fn prepared(
        &mut self,
        epoch: Option<Epoch>,
        recorded: Option<Generation>,
        generation: &mut Generation,
        out: &mut Out<Action>,
    ) -> Vec<Change> {
        self.epoch = epoch;
        let record = self.keeper.durable();
        let mut before = Vec::new();
        // A generation that this node had the witness record, but died before beginning it.
        if let Some(recorded) = recorded
            && record.lineage.current != Some(recorded)
            && !record.lineage.ancestors.contains(&recorded)
            && generation.origin != Origin::Forced
        {
            before.push(Change::Recorded(recorded));
            generation.number = generation.number.max(recorded.number + 1);
        }
        before.extend(epoch.map(Change::Epoch));
        self.notify(EventKind::RightObtained { epoch }, out);
        before
    }

    pub(super) fn right_refused(&mut self, now: Instant, refusal: Refusal, out: &mut Out<Action>) {
        if let Mode::Resuming { .. } = self.mode {
            return self.fence(now, out);
        }
        let Mode::Acquiring { from, .. } = self.mode else { return };
        let reason = match refusal {
            Refusal::NoAnswer => WaitReason::NoQuorum,
            Refusal::PeerServing | Refusal::PeerLineage => WaitReason::PeerNotReady,
            Refusal::PeerConfiguration => WaitReason::ConfigurationDiffers {
                local: self.settings.signature,
                remote: self.peer.beat.as_ref().map_or(0, |b| b.signature),
            },
            Refusal::Held(node) => WaitReason::LeaseHeld(node),
            Refusal::NotInSync => WaitReason::NotInSync,
            Refusal::BootHold => WaitReason::BootHold,
        };
        self.give_up(now, from, reason, out);
    }

    /// Ends an attempt to become primary.
    pub(super) fn give_up(
        &mut self,
        now: Instant,
        from: State,
        reason: WaitReason,
        out: &mut Out<Action>,
    ) {
        if from == State::Second {
            self.role = State::Second;
            self.stop_to(now, &After::Wait(reason), true, out);
        } else {
            let text = reason.to_string();
            self.transition(now, Mode::Waiting(reason.clone()), &text, out);
            self.refused = Some(reason);
        }
    }

    /// The peer is heard while this node asks for the right: it may be the primary after all.
    pub(super) fn reconsider_acquiring(&mut self, now: Instant, out: &mut Out<Action>) {
        let Mode::Acquiring { from, by, .. } = &self.mode else { return };
        let (from, by) = (*from, by.clone());
        let Some(beat) = self.beat() else { return };
        if beat.serving {
            out.push(Action::Quorum(quorum::Input::Release));
            let usable = self.keeper.durable().lineage.copy == CopyState::Consistent;
            if from == State::Second && usable && by == Actor::NoHeartbeat {
                self.transition(
                    now,
                    Mode::Secondary { data: super::Data::Detached },
                    "the primary is heard again",
                    out,
                );
                self.primary_heard(now, out);
            } else {
                self.give_up(now, from, WaitReason::PeerNotReady, out);
            }
        }
    }

    /// The application runs.
    pub(super) fn promoted(&mut self, now: Instant, out: &mut Out<Action>) {
        self.wish = Wish::None;
        self.refused = None;
        self.failover_off = false;
        self.outdated = false;
        self.unfit = false;
        self.yield_until = Instant::ZERO;
        self.role = State::Alone;
        self.admit_at = now;
        let reason = self.reason.clone();
        self.transition(now, Mode::Primary { link: Link::Absent }, &reason, out);
        self.secondary_heard(now, out);
    }
}

/// Reasons that an immediate new attempt would only repeat.
fn sticky(reason: &WaitReason) -> Option<String> {
    matches!(reason, WaitReason::Volume(_) | WaitReason::Address(_)).then(|| reason.to_string())
}
