//! Whether a condition of a scenario holds now, and which hosts a selector means now.

use havre_core::{
    effect::{ModuleRecord, WitnessRecord},
    replication::generation::CopyState,
    status::{Phase, State},
};

use crate::{
    direct::{Direct, MODULE, machine::node_of, os::App, witness::WITNESS_FILE},
    expect::Condition,
    net::HostId,
    oracle::World,
    plan::Selector,
    time::micros,
};

impl Direct<'_> {
    /// The hosts that a selector means now. `not`: the other side of a cut.
    pub(super) fn hosts(&self, selector: Selector, not: &[HostId]) -> Vec<HostId> {
        let all: Vec<HostId> = match selector {
            Selector::Host(host) => return vec![host],
            Selector::Primary => self.primary().into_iter().collect(),
            Selector::Secondary => self.primary().map(HostId::other).into_iter().collect(),
            Selector::SyncTarget => HostId::DATA
                .into_iter()
                .filter(|host| self.shows(*host, State::Second, Some(Phase::Transient)))
                .collect(),
            Selector::Others => {
                let everybody = self.plan.setup.everybody();
                everybody.into_iter().filter(|host| *host != HostId::C).collect()
            }
            Selector::Nodes => self.plan.setup.nodes(),
            Selector::All => self.plan.setup.everybody(),
        };
        all.into_iter().filter(|host| !not.contains(host)).collect()
    }

    /// The data node whose application runs.
    pub(super) fn primary(&self) -> Option<HostId> {
        self.plan.setup.nodes().into_iter().find(|host| self.runs(*host))
    }

    fn runs(&self, host: HostId) -> bool {
        let machine = &self.machines[host.index()];
        machine.is_live() && matches!(machine.os.app, App::Starting | App::Runs)
    }

    fn serves(&self, host: HostId) -> bool {
        let machine = &self.machines[host.index()];
        machine.is_live()
            && machine.os.app == App::Runs
            && machine.os.address
            && (self.shows(host, State::Prim, Some(Phase::Ready))
                || self.shows(host, State::Alone, Some(Phase::Ready)))
    }

    pub(super) fn shows(&self, host: HostId, state: State, phase: Option<Phase>) -> bool {
        let shown = match self.machines[host.index()].node() {
            Some(daemon) => daemon.node.shown(MODULE),
            None => self.hosted_shows(host),
        };
        shown.is_some_and(|(is, colour)| is == state && phase.is_none_or(|p| p == colour))
    }

    fn acks_flow(&self, host: HostId) -> bool {
        let every = micros(self.plan.setup.load.every);
        if !self.client.on || every == 0 {
            return true;
        }
        self.oracle().ledger().last_ack().is_some_and(|(at, on)| {
            on == host && micros(self.now - at) <= every.saturating_mul(20).max(2_000_000)
        })
    }

    /// Whether a node and the witness may make this node primary without the other one: its copy
    /// is whole, and on record as holding every acknowledged write.
    fn may_serve(&self, host: HostId) -> bool {
        let witness = self.machines[HostId::W.index()].disk.peek_file(WITNESS_FILE);
        let witness: Option<WitnessRecord> =
            witness.and_then(|bytes| serde_json::from_slice(bytes).ok());
        let on_record =
            witness.is_some_and(|w| w.generation.is_some() && w.in_sync.contains(&node_of(host)));
        let whole = |r: ModuleRecord| r.started && r.lineage.copy == CopyState::Consistent;
        self.plan.setup.failover && on_record && self.record(host).is_some_and(whole)
    }

    /// Whether every bucket of a farm is taken by exactly one node.
    fn shares_whole(&self) -> bool {
        let nodes = self.plan.setup.nodes();
        let taken: Vec<_> = nodes.into_iter().map(|host| self.taken_by(host)).collect();
        havre_core::farm::set::buckets()
            .all(|bucket| taken.iter().filter(|set| set.contains(bucket)).count() == 1)
    }

    /// Whether `condition` holds now.
    pub(super) fn holds(&self, condition: Condition) -> bool {
        let every = |who: Selector, test: &dyn Fn(HostId) -> bool| {
            let hosts = self.hosts(who, &[]);
            !hosts.is_empty() && hosts.into_iter().all(test)
        };
        match condition {
            Condition::State(who, state, phase) => every(who, &|h| self.shows(h, state, phase)),
            Condition::PrimaryServes => {
                let serving: Vec<HostId> =
                    HostId::DATA.into_iter().filter(|host| self.serves(*host)).collect();
                matches!(serving.as_slice(), [host] if self.acks_flow(*host))
            }
            Condition::NobodyServes => {
                !self.plan.setup.nodes().into_iter().any(|host| self.runs(host))
            }
            Condition::BothServe => HostId::DATA.into_iter().all(|host| self.serves(host)),
            Condition::Runs(who) => every(who, &|host| self.runs(host)),
            Condition::Idle(who) => every(who, &|host| !self.runs(host)),
            Condition::HoldsAddress(who) => every(who, &|h| self.machines[h.index()].os.address),
            Condition::CopiesIdentical => (0..self.plan.setup.load.blocks)
                .all(|block| self.content(HostId::A, block) == self.content(HostId::B, block)),
            Condition::InSync => {
                let pair = |p: HostId| {
                    self.shows(p, State::Prim, Some(Phase::Ready))
                        && self.shows(p.other(), State::Second, Some(Phase::Ready))
                };
                pair(HostId::A) || pair(HostId::B)
            }
            Condition::Waits(who, word) => every(who, &|host| {
                self.module(host).is_some_and(|module| {
                    module.state == State::Wait
                        && module.wait.as_ref().is_some_and(|reason| word.is_for(reason))
                })
            }),
            Condition::Refused(who) => every(who, &|host| self.control.refused[host.index()]),
            Condition::WriteRefused(who) => {
                every(who, &|host| self.control.wrote[host.index()] == Some(false))
            }
            Condition::ServesIfItMay(who) => {
                every(who, &|host| !self.may_serve(host) || self.holds(Condition::PrimaryServes))
            }
            Condition::SharesWhole => self.shares_whole(),
            Condition::SharesEven => {
                let nodes = self.plan.setup.nodes().into_iter();
                let up = nodes.filter(|host| self.shows(*host, State::Up, Some(Phase::Ready)));
                let shares: Vec<u32> = up.map(|host| self.taken_by(host).len()).collect();
                let (least, most) = (shares.iter().min(), shares.iter().max());
                let spread = most.copied().unwrap_or(0) - least.copied().unwrap_or(0);
                self.shares_whole() && spread <= if shares.len() <= 7 { 1 } else { 2 }
            }
            Condition::Share(who, share) => {
                every(who, &|host| self.taken_by(host).len() == u32::from(share))
            }
            Condition::Connected(who) => every(who, &|host| self.is_connected(host)),
            Condition::NeverStopped(who) => {
                every(who, &|host| self.runs(host) && self.control.app_starts[host.index()] == 1)
            }
        }
    }
}
