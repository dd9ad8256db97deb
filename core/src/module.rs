//! Composition root of one module of either kind. Routes only.
//!
//! What depends on the kind (who is alive, who serves, what starts and stops) is the kind's own;
//! what every module has stands beside it.

pub mod decide;
pub mod farm;
pub mod mirror;
pub mod pair;
pub mod procedure;
pub mod record;
pub mod script;
pub mod sequence;

use crate::{
    config::{
        cluster::ClusterConfig,
        module::{ModuleConfig, ServiceMode},
    },
    effect::{Effect, ModuleOrder, ModuleRecord, Outcome, VolumeNews},
    farm::table::{FilterNews, FilterTable},
    ids::{Incarnation, LinkId, ModuleId, NodeId, OpId, RequestId},
    machine::{Machine, Out},
    membership::link::Heard,
    rng::Rng,
    status::{ModuleStatus, Phase, State},
    time::Instant,
    wire::message::{Claim, ClaimVerdict, FarmBeat, ModuleBeat, WitnessReply},
};

use self::{farm::Farm, pair::Pair};

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
    /// A heartbeat of another member of a farm.
    HeardFarm {
        /// The member.
        from: NodeId,
        /// The network.
        link: LinkId,
        /// The judgement.
        heard: Heard,
        /// What it says of this module.
        beat: Option<FarmBeat>,
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
    /// Every node serves; or the only one does.
    Farm(Box<Farm>),
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
        let kind = match setup.config.service.mode {
            ServiceMode::Mirror => {
                let pair = Pair::new((id, setup), (cluster, node), (incarnation, record), rng, now);
                Kind::Mirror(Box::new(pair))
            }
            ServiceMode::Farm | ServiceMode::Light => {
                let settings = farm::Settings::new((id, setup), cluster, node);
                Kind::Farm(Box::new(Farm::new(settings, (id, record), now)))
            }
        };
        Self { kind }
    }

    /// What the peer of a mirror must know.
    pub fn beat(&self) -> Option<ModuleBeat> {
        match &self.kind {
            Kind::Mirror(pair) => Some(pair.beat()),
            Kind::Farm(_) => None,
        }
    }

    /// What the other nodes of a farm must know.
    pub fn farm_beat(&self) -> Option<FarmBeat> {
        match &self.kind {
            Kind::Farm(farm) => Some(farm.beat()),
            Kind::Mirror(_) => None,
        }
    }

    /// Whether heartbeats of a farm are exchanged with another node.
    pub fn has_member(&self, node: NodeId) -> bool {
        match &self.kind {
            Kind::Farm(farm) => farm.is_member(node),
            Kind::Mirror(_) => false,
        }
    }

    /// Notes that every other member of a farm was sent a heartbeat at `sent` or later.
    pub fn announced(&mut self, sent: Instant, out: &mut Out<Effect>) {
        if let Kind::Farm(farm) = &mut self.kind {
            farm.announced(sent, out);
        }
    }

    /// How the packet filter of a farm is told to judge.
    pub fn filter_table(&self) -> Option<&FilterTable> {
        match &self.kind {
            Kind::Farm(farm) => farm.table(),
            Kind::Mirror(_) => None,
        }
    }

    /// Role and colour.
    pub fn shown(&self) -> (State, Phase) {
        match &self.kind {
            Kind::Mirror(pair) => pair.shown(),
            Kind::Farm(farm) => farm.shown(),
        }
    }

    /// The picture of this module.
    pub fn status(&self, now: Instant) -> ModuleStatus {
        match &self.kind {
            Kind::Mirror(pair) => pair.status(now),
            Kind::Farm(farm) => farm.status(),
        }
    }

    /// Whether the witness answered lately; `None` if none is used.
    pub fn witness_seen(&self, now: Instant) -> Option<bool> {
        match &self.kind {
            Kind::Mirror(pair) => pair.witness_seen(now),
            Kind::Farm(_) => None,
        }
    }
}

impl Machine for Module {
    type Input = Input;
    type Action = Effect;

    fn handle(&mut self, now: Instant, input: Input, out: &mut Out<Effect>) {
        match &mut self.kind {
            Kind::Mirror(pair) => pair.handle(now, input, out),
            Kind::Farm(farm) => farm.handle(now, input, out),
        }
    }

    fn handle_timeout(&mut self, now: Instant, out: &mut Out<Effect>) {
        match &mut self.kind {
            Kind::Mirror(pair) => pair.handle_timeout(now, out),
            Kind::Farm(farm) => farm.handle_timeout(now, out),
        }
    }

    fn deadline(&self) -> Option<Instant> {
        match &self.kind {
            Kind::Mirror(pair) => pair.deadline(),
            Kind::Farm(farm) => farm.deadline(),
        }
    }
}
