//! ALONE and PRIM: letting the secondary in, going on without it, handing over, fencing.

use super::{Action, FOLLOW_PERIOD, Link, Mirror, Mode, Purpose};
use crate::{
    effect::{AddressRequest, Effect, VolumeRequest},
    event::{Action as Verb, Actor, EventKind},
    machine::Out,
    module::{
        decide::{Wish, stays},
        procedure::{self, After},
        record::Change,
    },
    mutant::{self, Mutant},
    quorum,
    replication::generation::{CopyState, Generation, Origin, Relation, compare},
    status::{Phase, State, WaitReason},
    time::Instant,
};

impl Mirror {
    fn link(&self) -> Option<Link> {
        match self.mode {
            Mode::Primary { link } | Mode::Restarting { link } => Some(link),
            _ => None,
        }
    }

    fn set_link(&mut self, now: Instant, link: Link, reason: &str, out: &mut Out<Action>) {
        let before = self.shown().0;
        let to = match self.mode {
            Mode::Restarting { .. } => Mode::Restarting { link },
            _ => Mode::Primary { link },
        };
        self.transition(now, to, reason, out);
        let after = self.shown().0;
        self.role = after;
        if before != after {
            self.notice(now, procedure::peer_changed(after == State::Prim), out);
        }
    }

    /// A heartbeat of the peer arrived while this node is primary.
    pub(super) fn secondary_heard(&mut self, now: Instant, out: &mut Out<Action>) {
        let (Some(link), Some(beat)) = (self.link(), self.beat()) else { return };
        if beat.serving {
            return self.met_primary(now, out);
        }
        let follows = beat.state == State::Second;
        let ready = follows && beat.phase == Phase::Ready;
        let same = compare(&self.keeper.durable().lineage, &beat.lineage) == Relation::Same
            && beat.lineage.copy == CopyState::Consistent
            && beat.lineage.peer_in_sync;
        // Only copies with a common history differ in marked places alone.
        let related = matches!(
            compare(&self.keeper.durable().lineage, &beat.lineage),
            Relation::Same | Relation::LocalNewer
        ) && beat.lineage.current.is_some();
        let full = beat.full_resync || self.full_resync || !related;
        let swap = beat.swap_wanted;
        match link {
            Link::Absent if follows && !ready && now >= self.admit_at => self.admit(now, full, out),
            Link::Absent if ready && !self.settings.shape.replicated => {
                self.persist(vec![Change::PeerInSync], Purpose::InSync, out);
            }
            Link::Enlisted if same && ready => {
                let pending = self.keeper.pending().any(|p| *p == Purpose::InSync);
                if !pending {
                    self.persist(vec![Change::PeerInSync], Purpose::InSync, out);
                }
            }
            Link::InSync if !ready => {
                self.lose_secondary(now, "the secondary left", out);
            }
            Link::InSync if swap => self.hand_over(now, Actor::Automatic, out),
            _ => {}
        }
    }

    fn admit(&mut self, now: Instant, full: bool, out: &mut Out<Action>) {
        if !self.settings.shape.replicated || self.link_op.is_some() {
            return;
        }
        self.admit_at = now + FOLLOW_PERIOD;
        self.notify(EventKind::ResyncStarted { target: false, full }, out);
        self.set_link(now, Link::Admitted, "the secondary is resynchronised", out);
        let peer = self.settings.peer;
        self.volume(VolumeRequest::Admit { peer, full }, out);
    }

    /// The data path says that the peer holds everything, and that barriers wait for it now.
    pub(super) fn source_caught_up(
        &mut self,
        now: Instant,
        generation: Generation,
        bytes_copied: u64,
        out: &mut Out<Action>,
    ) {
        // After `Solo` the target may come back before it is admitted anew.
        if !matches!(self.link(), Some(Link::Admitted | Link::Absent))
            || self.keeper.durable().lineage.current != Some(generation)
        {
            return;
        }
        self.notify(EventKind::ResyncEnded { target: false, bytes_copied }, out);
        self.full_resync = false;
        self.set_link(now, Link::Enlisted, "the secondary holds everything", out);
        if self.peer.alive {
            self.secondary_heard(now, out);
        } else {
            self.lose_secondary(now, "no heartbeat", out);
        }
    }

    /// It is durable here that the peer may be in sync: tell the witness.
    pub(super) fn in_sync(&mut self, now: Instant, out: &mut Out<Action>) {
        let lineage = &self.keeper.durable().lineage;
        let (Some(generation), true) = (lineage.current, lineage.peer_in_sync) else { return };
        match self.link() {
            Some(Link::Enlisted) => {}
            Some(Link::Absent) if !self.settings.shape.replicated => {}
            _ => return,
        }
        out.push(Action::Quorum(quorum::Input::RecordBoth(generation)));
        self.set_link(now, Link::InSync, "the secondary is synchronised", out);
        self.secondary_heard(now, out);
    }

    /// The secondary is gone, or too slow, or left: go on without it.
    pub(super) fn lose_secondary(&mut self, now: Instant, reason: &str, out: &mut Out<Action>) {
        match self.link() {
            Some(Link::Admitted) => {
                self.admit_at = now + FOLLOW_PERIOD;
                self.set_link(now, Link::Absent, reason, out);
            }
            Some(Link::Enlisted | Link::InSync) => {
                self.notify(EventKind::ReplicationLost { reason: reason.to_owned() }, out);
                let text = match reason {
                    "no heartbeat" => Actor::NoHeartbeat,
                    _ => Actor::Automatic,
                };
                self.notify(EventKind::ActionCalled { action: Verb::Alone, by: text }, out);
                self.set_link(now, Link::Orphaned, reason, out);
                let generation = self.new_generation(Origin::Solo);
                if mutant::active(Mutant::SoloBeforeCommit) {
                    return self.committed(now, generation, out);
                }
                // A generation without the peer exists only once somebody else knows of it.
                out.push(Action::Quorum(quorum::Input::CommitSolo(generation)));
            }
            _ => {}
        }
    }

    /// It is on record that this node alone holds the generation.
    pub(super) fn committed(
        &mut self,
        now: Instant,
        generation: Generation,
        out: &mut Out<Action>,
    ) {
        if self.link() == Some(Link::Orphaned) {
            self.persist(vec![Change::Advance(generation)], Purpose::Solo(generation), out);
        } else {
            self.step_committed(now, generation, out);
        }
    }

    /// The new generation is durable: barriers of the application need the peer no more.
    pub(super) fn went_solo(
        &mut self,
        now: Instant,
        generation: Generation,
        out: &mut Out<Action>,
    ) {
        self.notify(EventKind::GenerationBegun(generation), out);
        if self.link() != Some(Link::Orphaned) {
            return;
        }
        self.admit_at = now + FOLLOW_PERIOD;
        if self.settings.shape.replicated {
            let op = self.volume(VolumeRequest::Solo { generation }, out);
            self.link_op = Some(op);
        }
        self.set_link(now, Link::Absent, "goes on without the secondary", out);
    }

    /// Hands the role to the secondary, which is in sync.
    pub(super) fn hand_over(&mut self, now: Instant, by: Actor, out: &mut Out<Action>) {
        if self.sequence.is_some() {
            return;
        }
        self.notify(EventKind::ActionCalled { action: Verb::Swap, by }, out);
        self.stop_to(now, &After::Yield, true, out);
    }

    /// Another primary is heard. Under a lease, whoever has lost its right is stopping already.
    fn met_primary(&mut self, now: Instant, out: &mut Out<Action>) {
        use crate::quorum::policy::Kind;
        if self.settings.policy == Kind::Lease || self.sequence.is_some() {
            return;
        }
        let Some(beat) = self.beat().filter(|b| b.open) else { return };
        let local = &self.keeper.durable().lineage;
        if stays(self.settings.node, local, self.settings.peer, &beat.lineage) {
            return;
        }
        self.notify(EventKind::SplitBrain { stays: false }, out);
        self.notify(
            EventKind::ActionCalled { action: Verb::StopStart, by: Actor::SplitBrain },
            out,
        );
        self.stop_to(now, &After::Wait(WaitReason::PeerNotReady), false, out);
    }

    /// The right to run is gone: nothing of the application may remain.
    pub(super) fn fence(&mut self, now: Instant, out: &mut Out<Action>) {
        if !matches!(
            self.mode,
            Mode::Promoting
                | Mode::Primary { .. }
                | Mode::Restarting { .. }
                | Mode::Resuming { .. }
                | Mode::Stopping
        ) {
            return;
        }
        if !self.serving() {
            return;
        }
        self.notify(EventKind::ActionCalled { action: Verb::Wait, by: Actor::Fencing }, out);
        if matches!(self.role, State::Wait | State::Second) {
            self.role = State::Alone;
        }
        self.sequence = None;
        self.later.clear();
        self.fencing.clear();
        self.transition(now, Mode::Fencing, "the right to run was lost", out);
        self.clean(out);
    }

    /// Removes at once whatever serves: data path, address, application.
    pub(super) fn clean(&mut self, out: &mut Out<Action>) {
        let module = self.settings.module;
        if self.settings.shape.replicated {
            let op = self.volume(VolumeRequest::Fence, out);
            self.fencing.insert(op);
        }
        if !mutant::active(Mutant::FenceKeepsAddress) {
            let op = self.ops.take();
            let request = AddressRequest::Remove(self.settings.addresses.clone());
            out.push(Action::Effect(Effect::Address { op, module, request }));
            self.fencing.insert(op);
        }
        let op = self.ops.take();
        out.push(Action::Effect(Effect::KillScripts { op, module }));
        self.fencing.insert(op);
    }

    /// A network came back: whoever was behind the cut learns where the address is.
    pub fn announce(&mut self, out: &mut Out<Effect>) {
        if self.address_held && !mutant::active(Mutant::HealNotAnnounced) {
            let op = self.ops.take();
            let request = AddressRequest::Announce(self.settings.addresses.clone());
            out.push(Effect::Address { op, module: self.settings.module, request });
        }
    }

    /// Address and application are gone.
    pub(super) fn fenced(&mut self, now: Instant, out: &mut Out<Action>) {
        self.application = false;
        if self.address_held {
            self.address_held = false;
            self.notify(EventKind::AddressChanged { held: false }, out);
        }
        if let Some(start) = self.start_after_cleaning.take() {
            self.transition(now, Mode::Stopped, "daemon started", out);
            if start {
                self.start(now, Wish::None, Actor::Boot, out);
            }
            return self.obey_pending(now, out);
        }
        let sequence = procedure::after_fence(self.settings.shape, self.role, WaitReason::Fenced);
        self.transition(now, Mode::Stopping, "the right to run was lost", out);
        self.begin(now, sequence, out);
    }
}
