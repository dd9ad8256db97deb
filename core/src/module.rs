//! Composition root of one module of either kind. Routes only.
//!
//! What depends on the kind (who is alive, who serves, what starts and stops) is the kind's own;
//! what every module has stands beside it.

mod configure;
pub mod decide;
pub mod farm;
pub mod mirror;
pub mod pair;
pub mod procedure;
pub mod record;
pub mod script;
pub mod sequence;
pub mod watch;

use crate::{
    checks::record::ChecksRecord,
    config::{
        cluster::ClusterConfig,
        module::{ModuleConfig, ServiceMode},
    },
    effect::{Effect, ModuleOrder, ModuleRecord, Outcome, VolumeNews},
    farm::table::{FilterNews, FilterTable},
    ids::{Incarnation, LinkId, ModuleId, NodeId, OpId, RequestId},
    machine::{Machine, Out, earliest},
    membership::link::Heard,
    rng::Rng,
    status::{ModuleStatus, Phase, State},
    time::Instant,
    wire::message::{Claim, ClaimVerdict, FarmBeat, ModuleBeat, WitnessReply},
};

use self::{
    farm::Farm,
    pair::Pair,
    watch::{Facts, Told, Watch, Watchable},
};

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
    /// Something for the checks.
    Watch(watch::Input),
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
    watch: Watch,
}

impl Module {
    /// Makes a module from its configuration and what is durable.
    pub fn new(
        (id, setup): (ModuleId, &ModuleSetup),
        (cluster, node): (&ClusterConfig, NodeId),
        (incarnation, record, checks): (Incarnation, ModuleRecord, ChecksRecord),
        rng: Rng,
        now: Instant,
    ) -> Self {
        let mut kind = match setup.config.service.mode {
            ServiceMode::Mirror => {
                let pair = Pair::new((id, setup), (cluster, node), (incarnation, record), rng, now);
                Kind::Mirror(Box::new(pair))
            }
            ServiceMode::Farm | ServiceMode::Light => {
                let settings = farm::Settings::new((id, setup), cluster, node);
                Kind::Farm(Box::new(Farm::new(settings, (id, record), now)))
            }
        };
        let networks = setup.config.networks();
        let links: Vec<String> = networks.iter().map(|(name, _)| (*name).to_owned()).collect();
        let watch = Watch::new((id, &setup.name, &setup.config), &links, checks, now);
        watch.introduce(now, &mut kind);
        Self { kind, watch }
    }

    /// What the peer of a mirror must know.
    pub fn beat(&self) -> Option<ModuleBeat> {
        match &self.kind {
            Kind::Mirror(pair) => {
                Some(ModuleBeat { resources: self.watch.exported(), ..pair.beat() })
            }
            Kind::Farm(_) => None,
        }
    }

    /// Modules of this node at which a checker looks.
    pub fn neighbours(&self) -> impl Iterator<Item = &str> {
        self.watch.neighbours()
    }

    /// What the other nodes of a farm must know.
    pub fn farm_beat(&self) -> Option<FarmBeat> {
        match &self.kind {
            Kind::Farm(farm) => farm.beat(),
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
        let mut status = match &self.kind {
            Kind::Mirror(pair) => pair.status(now),
            Kind::Farm(farm) => farm.status(),
        };
        self.watch.complete(now, &mut status);
        status
    }

    /// Whether its application serves here, and how often it was started.
    pub fn readiness(&self) -> (bool, u64) {
        let Facts { classes, .. } = self.kind.facts();
        (classes.prim || classes.both && !classes.second, self.watch.starts())
    }

    /// Whether the witness answered lately; `None` if none is used.
    pub fn witness_seen(&self, now: Instant) -> Option<bool> {
        match &self.kind {
            Kind::Mirror(pair) => pair.witness_seen(now),
            Kind::Farm(_) => None,
        }
    }
}

impl Watchable for Kind {
    fn facts(&self) -> Facts {
        match self {
            Self::Mirror(pair) => pair.facts(),
            Self::Farm(farm) => farm.facts(),
        }
    }

    fn told(&mut self, now: Instant, told: Told, out: &mut Out<Effect>) {
        match self {
            Self::Mirror(pair) => pair.told(now, told, out),
            Self::Farm(farm) => farm.told(now, told, out),
        }
    }
}

impl Machine for Module {
    type Input = Input;
    type Action = Effect;

    fn handle(&mut self, now: Instant, input: Input, out: &mut Out<Effect>) {
        let Self { kind, watch } = self;
        match &input {
            Input::Watch(_) => {}
            Input::Completed(op, _) if Watch::owns(*op) => {}
            Input::Ordered(..) => watch.administered(now, kind, out),
            Input::Heard { heard: Heard::Fresh { latest: true, .. }, beat: Some(beat), .. } => {
                watch.peer_says(now, beat.resources.clone(), kind, out);
            }
            _ => {}
        }
        match input {
            Input::Watch(input) => return watch.handle(now, input, kind, out),
            Input::Completed(op, outcome) if Watch::owns(op) => {
                return watch.completed(now, (op, outcome), kind, out);
            }
            input => match kind {
                Kind::Mirror(pair) => pair.handle(now, input, out),
                Kind::Farm(farm) => farm.handle(now, input, out),
            },
        }
        watch.settle(now, kind, out);
    }

    fn handle_timeout(&mut self, now: Instant, out: &mut Out<Effect>) {
        let Self { kind, watch } = self;
        let due = |deadline: Option<Instant>| deadline.is_some_and(|at| now >= at);
        match kind {
            Kind::Mirror(pair) if due(pair.deadline()) => pair.handle_timeout(now, out),
            Kind::Farm(farm) if due(farm.deadline()) => farm.handle_timeout(now, out),
            Kind::Mirror(_) | Kind::Farm(_) => {}
        }
        watch.settle(now, kind, out);
        watch.handle_timeout(now, kind, out);
    }

    fn deadline(&self) -> Option<Instant> {
        let kind = match &self.kind {
            Kind::Mirror(pair) => pair.deadline(),
            Kind::Farm(farm) => farm.deadline(),
        };
        earliest(kind, self.watch.deadline())
    }
}
