//! SECOND: following a primary, and taking over from it.

use super::{Action, Data, FOLLOW_PERIOD, Mirror, Mode, Preferred, Purpose, SWAP_LIMIT};
use crate::{
    event::{Action as Verb, Actor, EventKind},
    machine::Out,
    module::{
        decide::Wish,
        procedure::{self, After},
        record::Change,
    },
    replication::generation::{CopyState, Generation, Origin, Relation, compare},
    status::{State, WaitReason},
    time::Instant,
};

impl Mirror {
    /// Begins to follow a primary.
    pub(super) fn join(
        &mut self,
        now: Instant,
        generation: Generation,
        keep_aside: Option<Generation>,
        out: &mut Out<Action>,
    ) {
        if keep_aside.is_some() {
            self.notify(EventKind::SplitBrain { stays: false }, out);
        }
        self.notify(EventKind::ActionCalled { action: Verb::Second, by: Actor::Automatic }, out);
        self.role = State::Second;
        self.outdated = false;
        self.refused = None;
        self.transition(now, Mode::Joining, "the other node is primary", out);
        let full = self.keeper.durable().lineage.copy == CopyState::Blank || self.full_resync;
        self.notify(EventKind::ResyncStarted { target: true, full }, out);
        let source = self.settings.peer;
        let sequence = procedure::follow(self.settings.shape, source, generation, keep_aside);
        self.begin(now, sequence, out);
    }

    pub(super) fn joined(&mut self, now: Instant, out: &mut Out<Action>) {
        self.wish = Wish::None;
        self.yield_until = Instant::ZERO;
        self.transition(now, Mode::Secondary { data: Data::Following }, "resynchronising", out);
        if !self.settings.shape.replicated
            || crate::mutant::active(crate::mutant::Mutant::ConsistentTooEarly)
        {
            self.adopt(now, out);
        }
        self.recheck_primary(now, out);
    }

    /// Connects again after the data path was cut and the primary went on.
    pub(super) fn follow_again(&mut self, now: Instant, out: &mut Out<Action>) {
        let Mode::Secondary { data: Data::Following | Data::Detached } = self.mode else { return };
        let Some(beat) = self.beat() else { return };
        let Some(generation) = beat.lineage.current.filter(|_| beat.open) else {
            self.follow_at = Some(now + FOLLOW_PERIOD);
            return;
        };
        self.outdated = false;
        self.transition(now, Mode::Joining, "resynchronising again", out);
        self.notify(EventKind::ResyncStarted { target: true, full: false }, out);
        let sequence = procedure::follow_again(self.settings.peer, generation);
        self.begin(now, sequence, out);
    }

    /// The data path says that the copy equals the source's, durably.
    pub(super) fn target_caught_up(
        &mut self,
        now: Instant,
        generation: Generation,
        bytes_copied: u64,
        out: &mut Out<Action>,
    ) {
        let Mode::Secondary { data: Data::Following } = self.mode else { return };
        let current = self.peer.beat.as_ref().and_then(|b| b.lineage.current);
        // What was caught up with has been left behind meanwhile: begin again.
        if self.outdated || current != Some(generation) {
            self.follow_at = Some(now + FOLLOW_PERIOD);
            return;
        }
        self.notify(EventKind::ResyncEnded { target: true, bytes_copied }, out);
        self.adopt(now, out);
    }

    fn adopt(&mut self, now: Instant, out: &mut Out<Action>) {
        let Some(beat) = self.peer.beat.as_ref() else { return };
        let changes = vec![Change::Adopt(beat.lineage.clone()), Change::WasPrimary(false)];
        self.transition(now, Mode::Secondary { data: Data::Adopting }, "making it durable", out);
        self.persist(changes, Purpose::Adopt, out);
    }

    pub(super) fn adopted(&mut self, now: Instant, out: &mut Out<Action>) {
        let Mode::Secondary { data: Data::Adopting } = self.mode else { return };
        self.full_resync = false;
        self.unfit = false;
        self.unfit_at = None;
        if self.outdated {
            self.transition(now, Mode::Secondary { data: Data::Detached }, "left behind", out);
            self.follow_at = Some(now + FOLLOW_PERIOD);
            return;
        }
        self.transition(now, Mode::Secondary { data: Data::Ready }, "synchronised", out);
        let wants = match self.settings.preferred {
            Preferred::Nobody => false,
            Preferred::ThisNode => true,
            Preferred::Last => self.was_primary_at_start,
        };
        self.was_primary_at_start = false;
        if wants {
            self.notify(
                EventKind::ActionCalled { action: Verb::Swap, by: Actor::DefaultPrimary },
                out,
            );
            self.swap_until = Some(now + SWAP_LIMIT);
        }
        self.recheck_primary(now, out);
    }

    /// The data path was cut, or failed.
    pub(super) fn detach(&mut self, now: Instant, reason: &str, out: &mut Out<Action>) {
        match self.mode {
            Mode::Secondary { data: Data::Ready | Data::Adopting } => {
                // Nothing was acknowledged without this copy until the primary says so: it stays
                // fit to take over, and reconnects once the primary has gone on.
                self.transition(now, Mode::Secondary { data: Data::Detached }, reason, out);
                self.recheck_primary(now, out);
            }
            Mode::Secondary { data: Data::Following } => {
                self.follow_at = Some(now + FOLLOW_PERIOD);
            }
            Mode::Joining => self.follow_at = Some(now + FOLLOW_PERIOD),
            _ => {}
        }
    }

    /// The disk of this copy failed: what was received may not have reached it, so that it is not
    /// fit to take over until it has been resynchronised.
    pub(super) fn copy_failed(&mut self, now: Instant, reason: &str, out: &mut Out<Action>) {
        self.unfit = true;
        self.record_unfit(now, out);
        self.detach(now, reason, out);
    }

    /// Makes it durable that this copy is not fit to take over; repeated until it is.
    pub(super) fn record_unfit(&mut self, now: Instant, out: &mut Out<Action>) {
        self.unfit_at = None;
        if self.unfit && self.keeper.durable().lineage.copy == CopyState::Consistent {
            self.unfit_at = Some(now + FOLLOW_PERIOD);
            if !self.keeper.pending().any(|p| *p == Purpose::Unfit) {
                self.persist(vec![Change::Inconsistent], Purpose::Unfit, out);
            }
        }
    }

    fn recheck_primary(&mut self, now: Instant, out: &mut Out<Action>) {
        if self.peer.alive {
            self.primary_heard(now, out);
        } else {
            self.primary_gone(now, Actor::NoHeartbeat, out);
        }
    }

    /// A heartbeat of the primary arrived.
    pub(super) fn primary_heard(&mut self, now: Instant, out: &mut Out<Action>) {
        let Mode::Secondary { data } = self.mode else { return };
        let Some(beat) = self.beat() else { return };
        if !beat.serving {
            return self.primary_gone(now, Actor::RemoteStop, out);
        }
        if data == Data::Adopting {
            return;
        }
        let relation = compare(&self.keeper.durable().lineage, &beat.lineage);
        let open = beat.open;
        match data {
            // The primary went on without this copy.
            Data::Ready | Data::Detached if open && relation == Relation::RemoteNewer => {
                if data == Data::Ready {
                    self.transition(
                        now,
                        Mode::Secondary { data: Data::Detached },
                        "the primary went on alone",
                        out,
                    );
                }
                if self.follow_at.is_none() {
                    self.follow_at = Some(now);
                }
            }
            Data::Ready | Data::Detached
                if matches!(relation, Relation::Diverged | Relation::Unrelated) =>
            {
                self.role = State::Second;
                self.stop_to(now, &After::Wait(WaitReason::PeerNotReady), false, out);
            }
            _ => {}
        }
    }

    /// The primary is silent, or says that it stopped.
    pub(super) fn primary_gone(&mut self, now: Instant, by: Actor, out: &mut Out<Action>) {
        let Mode::Secondary { data } = self.mode else { return };
        if data == Data::Adopting {
            return;
        }
        self.swap_until = None;
        let record = self.keeper.durable();
        let usable = self.lineage().copy == CopyState::Consistent
            || crate::mutant::active(crate::mutant::Mutant::OutdatedMayPromote);
        let usable = usable && !self.outdated;
        let ready = matches!(data, Data::Ready | Data::Detached);
        self.role = State::Second;
        if !(usable && ready) {
            let reason = match record.lineage.copy {
                CopyState::Inconsistent => WaitReason::HalfCopied,
                _ => WaitReason::NotUpToDate,
            };
            return self.stop_to(now, &After::Wait(reason), false, out);
        }
        let swapping = self.beat().is_some_and(|b| b.yielding);
        if !self.settings.failover && !swapping {
            self.failover_off = true;
            self.notify(
                EventKind::ActionCalled { action: Verb::StopStart, by: Actor::FailoverOff },
                out,
            );
            return self.stop_to(now, &After::Wait(WaitReason::FailoverOff), true, out);
        }
        self.acquire(now, State::Second, Origin::Failover, by, out);
    }
}
