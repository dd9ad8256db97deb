//! Judges a run from what was performed. Each property is one file in [`crate::invariants`].

use std::time::Duration;

use havre_core::{effect::ModuleRecord, farm::BucketSet};

use crate::{
    disk::Block,
    expect::{Property, Sometimes},
    fact::Fact,
    invariants::{self, Invariant},
    ledger::Ledger,
    net::HostId,
    plan::Setup,
    time::SimTime,
};
use havre_core::status::ModuleStatus;

/// A property that did not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// When it was noticed.
    pub at: SimTime,
    /// Which.
    pub property: Property,
    /// What was seen.
    pub text: String,
}

/// What invariants may look at besides facts.
pub trait World {
    /// What a read of the local copy would see.
    fn content(&self, host: HostId, block: u64) -> Block;
    /// Whether the machine has power and is not paused.
    fn is_live(&self, host: HostId) -> bool;
    /// Whether it is live and takes no longer than usual for what it does.
    fn is_prompt(&self, host: HostId) -> bool;
    /// The module's own picture, if the daemon runs.
    fn module(&self, host: HostId) -> Option<ModuleStatus>;
    /// The buckets in which a node of a farm takes new clients now.
    fn taken(&self, _host: HostId) -> BucketSet {
        BucketSet::EMPTY
    }
    /// For how long two nodes have heard each other without disturbance.
    fn joined_for(&self, _one: HostId, _other: HostId) -> Duration {
        Duration::ZERO
    }
    /// The durable record.
    fn record(&self, host: HostId) -> Option<ModuleRecord>;
}

/// What an invariant is given with each fact.
pub struct Cx<'a> {
    /// True time.
    pub now: SimTime,
    /// The machines.
    pub world: &'a dyn World,
    /// What was written and acknowledged.
    pub ledger: &'a Ledger,
    /// The cluster.
    pub setup: &'a Setup,
    /// Where violations go.
    pub found: &'a mut Vec<Violation>,
}

impl Cx<'_> {
    /// Reports a violation.
    pub fn violated(&mut self, property: Property, text: String) {
        self.found.push(Violation { at: self.now, property, text });
    }
}

/// The judge of one run.
pub struct Oracle {
    setup: Setup,
    invariants: Vec<Box<dyn Invariant>>,
    ledger: Ledger,
    violations: Vec<Violation>,
    seen: Vec<Sometimes>,
    last_primary: Option<HostId>,
}

impl Oracle {
    /// Makes a judge of these properties.
    pub fn new(setup: &Setup, properties: &[Property]) -> Self {
        Self {
            setup: setup.clone(),
            invariants: invariants::all(setup.farm.is_some())
                .into_iter()
                .filter(|i| properties.contains(&i.property()))
                .collect(),
            ledger: Ledger::new(setup.load.blocks, setup.contract),
            violations: Vec::new(),
            seen: Vec::new(),
            last_primary: None,
        }
    }

    /// What was written and acknowledged so far.
    pub const fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Takes a fact.
    pub fn observe(&mut self, now: SimTime, fact: &Fact, world: &dyn World) {
        self.ledger.observe(now, fact);
        self.note(fact);
        let Self { setup, invariants, ledger, violations, .. } = self;
        let mut cx = Cx { now, world, ledger, setup, found: violations };
        for invariant in invariants {
            invariant.observe(fact, &mut cx);
        }
    }

    /// The run is over; `settled`: the cluster was left in peace long enough.
    pub fn finish(&mut self, now: SimTime, settled: bool, world: &dyn World) {
        let Self { setup, invariants, ledger, violations, .. } = self;
        let mut cx = Cx { now, world, ledger, setup, found: violations };
        for invariant in invariants {
            invariant.finish(settled, &mut cx);
        }
    }

    /// Reports a violation that the engine noticed itself.
    pub fn report(&mut self, at: SimTime, property: Property, text: String) {
        self.violations.push(Violation { at, property, text });
    }

    /// Violations so far.
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// What happened at least once.
    pub fn seen(&self) -> &[Sometimes] {
        &self.seen
    }

    fn note(&mut self, fact: &Fact) {
        use havre_core::event::{Action as Verb, Actor, EventKind};
        let seen = match fact {
            Fact::AppRuns(host) => {
                let moved = self.last_primary.is_some_and(|last| last != *host);
                self.last_primary = Some(*host);
                moved.then_some(Sometimes::Failover)
            }
            Fact::VolumeTold(_, havre_core::effect::VolumeNews::CaughtUp { .. }) => {
                Some(Sometimes::Resync)
            }
            Fact::VolumeOrdered(_, havre_core::effect::VolumeRequest::Solo { .. }) => {
                Some(Sometimes::Solo)
            }
            Fact::PoweredOff(_, cut) if cut.torn > 0 => Some(Sometimes::TornWrite),
            Fact::News(_, event) => match event.kind {
                EventKind::RightLost => Some(Sometimes::Fencing),
                EventKind::Waiting(_) => Some(Sometimes::Wait),
                EventKind::ActionCalled { by: Actor::Detected(_), .. } => Some(Sometimes::Repair),
                EventKind::ActionCalled { by: Actor::MaxLoop(_), .. } => Some(Sometimes::MaxLoop),
                EventKind::ActionCalled { action: Verb::Wakeup, .. } => Some(Sometimes::Wakeup),
                _ => None,
            },
            _ => None,
        };
        if let Some(seen) = seen
            && !self.seen.contains(&seen)
        {
            self.seen.push(seen);
        }
    }
}
