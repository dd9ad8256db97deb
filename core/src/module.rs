//! Composition root of one module of either kind. Routes only.
//!
//! What depends on the kind (who is alive, who serves, what starts and stops) is the kind's own;
//! what every module has stands beside it.

pub mod decide;
pub mod mirror;
pub mod pair;
pub mod procedure;
pub mod record;
pub mod sequence;

use crate::{
    config::{cluster::ClusterConfig, module::ModuleConfig},
    effect::{Effect, ModuleOrder, ModuleRecord, Outcome, VolumeNews},
    farm::table::FilterNews,
    ids::{Incarnation, LinkId, ModuleId, NodeId, OpId, RequestId},
    machine::{Machine, Out},
    membership::link::Heard,
    rng::Rng,
    status::{ModuleStatus, Phase, State},
    time::Instant,
    wire::message::{Claim, ClaimVerdict, ModuleBeat, WitnessReply},
};

use self::pair::Pair;

/// A module as configured on this node.
#[derive(Debug, Clone)]
pub struct ModuleSetup {
    /// Its name.
    pub name: String,
    /// Digest that all its nodes must share.
    pub signature: u64,
    /// Its configuration.
    pub config: ModuleConfig,
}

/// Facts.
#[derive(Debug, Clone)]
pub enum Input {
    /// The daemon started; whether the module starts with it.
    Booted {
        /// Start the module.
        start: bool,
        /// An earlier run of the daemon left the application running; the guard ends it then.
        running: Option<Instant>,
    },
    /// The delay of an automatic start is over.
    Started,
    /// A heartbeat of the peer: how it was judged, and what it says of this module.
    Heard {
        /// The network.
        link: LinkId,
        /// The judgement.
        heard: Heard,
        /// What it says.
        beat: Option<ModuleBeat>,
    },
    /// The peer asks for consent.
    Claimed(Claim),
    /// The peer answers.
    ClaimAnswered {
        /// The claim.
        nonce: u64,
        /// The answer.
        verdict: ClaimVerdict,
    },
    /// The witness answers.
    WitnessAnswered(WitnessReply),
    /// An administrator orders.
    Ordered(RequestId, ModuleOrder),
    /// An order was carried out.
    Completed(OpId, Outcome),
    /// News of the data path.
    Volume(VolumeNews),
    /// News of the packet filter.
    Filter(FilterNews),
}

/// What a module is.
#[derive(Debug, Clone)]
enum Kind {
    /// Two nodes, one of which serves.
    Mirror(Box<Pair>),
}

/// One module on one node.
#[derive(Debug, Clone)]
pub struct Module {
    kind: Kind,
}

impl Module {
    /// Makes a module from its configuration and what is durable.
    pub fn new(
        (id, setup): (ModuleId, &ModuleSetup),
        (cluster, node): (&ClusterConfig, NodeId),
        (incarnation, record): (Incarnation, ModuleRecord),
        rng: Rng,
        now: Instant,
    ) -> Self {
        let pair = Pair::new((id, setup), (cluster, node), (incarnation, record), rng, now);
        Self { kind: Kind::Mirror(Box::new(pair)) }
    }

    /// What the peer of a mirror must know.
    pub fn beat(&self) -> ModuleBeat {
        match &self.kind {
            Kind::Mirror(pair) => pair.beat(),
        }
    }

    /// Role and colour.
    pub fn shown(&self) -> (State, Phase) {
        match &self.kind {
            Kind::Mirror(pair) => pair.shown(),
        }
    }

    /// The picture of this module.
    pub fn status(&self, now: Instant) -> ModuleStatus {
        match &self.kind {
            Kind::Mirror(pair) => pair.status(now),
        }
    }

    /// Whether the witness answered lately; `None` if none is used.
    pub fn witness_seen(&self, now: Instant) -> Option<bool> {
        match &self.kind {
            Kind::Mirror(pair) => pair.witness_seen(now),
        }
    }
}

impl Machine for Module {
    type Input = Input;
    type Action = Effect;

    fn handle(&mut self, now: Instant, input: Input, out: &mut Out<Effect>) {
        match &mut self.kind {
            Kind::Mirror(pair) => pair.handle(now, input, out),
        }
    }

    fn handle_timeout(&mut self, now: Instant, out: &mut Out<Effect>) {
        match &mut self.kind {
            Kind::Mirror(pair) => pair.handle_timeout(now, out),
        }
    }

    fn deadline(&self) -> Option<Instant> {
        match &self.kind {
            Kind::Mirror(pair) => pair.deadline(),
        }
    }
}
