//! What others see of a mirror: heartbeat, status, colour.

use super::{Data, Link, Mirror, Mode};
use crate::{
    replication::generation::{CopyState, Lineage},
    status::{ModuleStatus, PeerStatus, Phase, State, WaitReason},
    time::Instant,
    wire::message::ModuleBeat,
};

impl Mirror {
    /// Role and colour.
    pub fn shown(&self) -> (State, Phase) {
        match &self.mode {
            Mode::Stopped => (State::Stop, Phase::NotReady),
            Mode::Waiting(WaitReason::Transition) | Mode::Starting | Mode::Stopping => {
                (State::Wait, Phase::Transient)
            }
            Mode::Fencing | Mode::Resuming { .. } => (State::Wait, Phase::Transient),
            Mode::Waiting(_) => (State::Wait, Phase::NotReady),
            Mode::Acquiring { from: State::Second, .. } | Mode::Joining => {
                (State::Second, Phase::Transient)
            }
            Mode::Acquiring { .. } if self.refused.is_some() => (State::Wait, Phase::NotReady),
            Mode::Acquiring { .. } => (State::Wait, Phase::Transient),
            Mode::Promoting => (State::Alone, Phase::Transient),
            Mode::Primary { link } => (primary_state(*link), Phase::Ready),
            Mode::Restarting { link } => (primary_state(*link), Phase::Transient),
            Mode::Secondary { data: Data::Ready } => (State::Second, Phase::Ready),
            Mode::Secondary { .. } => (State::Second, Phase::Transient),
        }
    }

    /// Whether the application or the address may be here.
    pub fn serving(&self) -> bool {
        match self.mode {
            Mode::Promoting
            | Mode::Primary { .. }
            | Mode::Restarting { .. }
            | Mode::Fencing
            | Mode::Resuming { .. } => true,
            Mode::Stopping => self.application || self.address_held,
            _ => false,
        }
    }

    /// History of this copy, and what is known of it beyond the durable record.
    pub(super) fn lineage(&self) -> Lineage {
        let mut lineage = self.keeper.durable().lineage.clone();
        if self.unfit && lineage.copy == CopyState::Consistent {
            lineage.copy = CopyState::Inconsistent;
        }
        lineage
    }

    /// What the peer must know. `wanting`: the right to run is being asked for.
    pub fn beat_of(&self, wanting: bool) -> ModuleBeat {
        let (state, phase) = self.shown();
        let record = self.keeper.durable();
        let serving = self.serving();
        ModuleBeat {
            module: self.settings.module,
            signature: self.settings.signature,
            state,
            phase,
            serving,
            backing: !serving && !wanting,
            open: matches!(self.mode, Mode::Primary { .. } | Mode::Restarting { .. }),
            started: self.mode != Mode::Stopped && !self.kept_waiting(),
            wanting,
            lineage: self.lineage(),
            was_primary: record.was_primary,
            yielding: matches!(self.mode, Mode::Waiting(_)) && self.yield_until > self.since,
            swap_wanted: self.swap_until.is_some()
                && matches!(self.mode, Mode::Secondary { data: Data::Ready }),
            failover: self.settings.failover,
            full_resync: self.full_resync,
            // Added by the module's checks.
            resources: Vec::new(),
        }
    }

    /// Whether this copy holds every acknowledged write, as far as this node can know.
    pub(super) fn up_to_date(&self) -> bool {
        let lineage = &self.keeper.durable().lineage;
        let newer_elsewhere = self.peer.beat.as_ref().is_some_and(|b| {
            !self.serving()
                && crate::replication::generation::compare(lineage, &b.lineage)
                    == crate::replication::generation::Relation::RemoteNewer
        });
        let whole = lineage.copy == CopyState::Consistent && !self.unfit;
        !self.settings.shape.replicated || whole && !newer_elsewhere
    }

    /// The picture of this module, without what quorum and membership know.
    pub fn status(&self, now: Instant) -> ModuleStatus {
        let (state, phase) = self.shown();
        let lineage = self.lineage();
        let up_to_date = self.up_to_date();
        let beat = self.beat();
        let _ = now;
        ModuleStatus {
            module: self.settings.module,
            name: self.settings.name.clone(),
            state,
            phase,
            wait: match &self.mode {
                Mode::Waiting(reason) => Some(reason.clone()),
                Mode::Acquiring { .. } => self.refused.clone(),
                _ => None,
            },
            reason: self.reason.clone(),
            since: self.since,
            up_to_date,
            lineage,
            address_held: self.address_held,
            application: self.application,
            epoch: self.epoch,
            right_until: None,
            resync: self.progress,
            kept_aside: self.kept_aside.clone(),
            peers: vec![PeerStatus {
                node: self.settings.peer,
                name: self.settings.peer_name.clone(),
                alive: self.peer.alive,
                state: beat.map(|b| (b.state, b.phase)),
                generation: self.peer.beat.as_ref().and_then(|b| b.lineage.current),
                links: Vec::new(),
            }],
            farm: None,
            signature: self.settings.signature,
            // Added by the module's checks.
            starts: 0,
            checks: Default::default(),
        }
    }
}

fn primary_state(link: Link) -> State {
    if link == Link::InSync { State::Prim } else { State::Alone }
}
