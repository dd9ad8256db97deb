//! What happens in a run, independent of the engine that performs it: the cluster, its weather,
//! a timeline of steps, and what is expected. Scenario files and fuzz seeds both become a [`Plan`].

use std::time::Duration;

use havre_core::{
    checks::{
        record::Switch,
        resource::{ResourceName, ResourceState},
    },
    config::module::{ChecksConfig, Contract, StartFailure},
    effect::ModuleOrder,
};

use crate::{
    disk::{DiskFaults, DiskTiming},
    expect::{Condition, Property, Sometimes},
    net::{HostId, Weather},
    time::SimTime,
};

/// Who decides when all heartbeats are lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Heartbeats only.
    None,
    /// Whoever reaches host `r` runs.
    Ping,
    /// A lease of the witness.
    Lease,
}

/// `defaultprim` of the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preferred {
    /// Whoever runs stays primary.
    Alone,
    /// This node.
    Node(HostId),
    /// Who was primary last.
    Last,
}

/// How the cluster begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Daemons run, modules never ran.
    Blank,
    /// `prim` on a, then `start` on b as soon as a serves.
    Pair,
    /// `start` on every node of a farm, until all are UP.
    Farm,
}

/// The module and the machines.
#[derive(Debug, Clone, PartialEq)]
pub struct Setup {
    /// Who decides.
    pub policy: Policy,
    /// When a barrier of the application returns.
    pub contract: Contract,
    /// Silence after which the peer counts as lost.
    pub timeout: Duration,
    /// Period of heartbeats.
    pub pulse: Duration,
    /// Whether a secondary takes over by itself.
    pub failover: bool,
    /// `defaultprim`.
    pub preferred: Preferred,
    /// Networks between the nodes, 1 or 2.
    pub nets: u8,
    /// How the cluster begins.
    pub start: Start,
    /// Weather of every link unless a step changes it.
    pub weather: Weather,
    /// Durations of disk operations.
    pub disk: DiskTiming,
    /// Clock rate of each host, in millionths fast or slow.
    pub drift_ppm: [i32; crate::net::HOSTS],
    /// Shortest and longest duration of a script, in microseconds.
    pub script_us: (u64, u64),
    /// What the client does.
    pub load: Load,
    /// What watches the application.
    pub checks: ChecksConfig,
    /// The loop guard.
    pub guard: GuardSetup,
    /// Present if the module is a farm; what concerns data is without meaning then.
    pub farm: Option<FarmSetup>,
}

/// The loop guard of the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuardSetup {
    /// `maxloop`.
    pub maxloop: u32,
    /// `loop_interval`.
    pub interval: Duration,
    /// `maxloop_retry`.
    pub retry: Option<Duration>,
    /// `onstartfailure`.
    pub on_start_failure: StartFailure,
    /// `automatic_reboot`.
    pub reboot: bool,
}

impl Default for GuardSetup {
    fn default() -> Self {
        Self {
            maxloop: 3,
            interval: Duration::from_hours(24),
            retry: None,
            on_start_failure: StartFailure::Ignore,
            reboot: false,
        }
    }
}

/// The module as a farm.
#[derive(Debug, Clone, PartialEq)]
pub struct FarmSetup {
    /// How many nodes.
    pub nodes: u8,
    /// Pulses of silence after which the leader counts as lost; a follower: `timeout`.
    pub leader_pulses: u32,
    /// Mean pause between new clients.
    pub clients_every: Duration,
    /// Powers of the first nodes; the others have 1.
    pub powers: Vec<u32>,
}

impl Default for FarmSetup {
    fn default() -> Self {
        Self {
            nodes: 3,
            leader_pulses: 20,
            clients_every: Duration::from_millis(20),
            powers: Vec::new(),
        }
    }
}

impl Setup {
    /// The nodes that run the module.
    pub fn nodes(&self) -> Vec<HostId> {
        self.farm.as_ref().map_or_else(
            || HostId::DATA.to_vec(),
            |farm| (0..farm.nodes).map(HostId::node).collect(),
        )
    }

    /// The hosts on which a daemon runs, in the order in which they start.
    pub fn daemons(&self) -> Vec<HostId> {
        let witness = self.farm.is_none().then_some(HostId::W);
        witness.into_iter().chain(self.nodes()).collect()
    }

    /// Everybody.
    pub fn everybody(&self) -> Vec<HostId> {
        let others = [HostId::W, HostId::R, HostId::C];
        let mut all: Vec<_> = self.nodes().into_iter().chain(others).collect();
        all.sort_unstable();
        all
    }

    /// Clock rate of a host, in millionths fast or slow.
    pub fn drift_of(&self, host: HostId) -> i32 {
        self.drift_ppm.get(host.index()).copied().unwrap_or(0)
    }

    /// Silence after which the leader of a farm counts as lost.
    pub fn leader_timeout(&self) -> Duration {
        self.farm.as_ref().map_or(self.timeout, |farm| self.pulse * farm.leader_pulses)
    }
}

/// What the client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Mean pause between transactions; zero: no load.
    pub every: Duration,
    /// Size of the replicated data in blocks of 4 KiB.
    pub blocks: u64,
    /// Blocks that are marked, compared and copied together.
    pub region_blocks: u64,
    /// Writes in one transaction at most; a barrier ends it.
    pub writes_max: u64,
    /// Transactions that only read, per million.
    pub reads_ppm: u32,
    /// Writes go to a window of this many blocks that moves on; 0: anywhere.
    pub hot_blocks: u64,
}

impl Default for Load {
    fn default() -> Self {
        Self {
            every: Duration::from_millis(100),
            blocks: 64,
            region_blocks: 4,
            writes_max: 3,
            reads_ppm: 200_000,
            hot_blocks: 0,
        }
    }
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            policy: Policy::Lease,
            contract: Contract::Durable,
            timeout: Duration::from_secs(1),
            pulse: Duration::from_millis(250),
            failover: true,
            preferred: Preferred::Alone,
            nets: 1,
            start: Start::Pair,
            weather: Weather::default(),
            disk: DiskTiming::default(),
            drift_ppm: [0; crate::net::HOSTS],
            script_us: (20_000, 120_000),
            load: Load::default(),
            checks: ChecksConfig::default(),
            guard: GuardSetup::default(),
            farm: None,
        }
    }
}

/// Hosts, named when the step fires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Selector {
    /// This host.
    Host(HostId),
    /// The data node whose application runs.
    Primary,
    /// The other data node.
    Secondary,
    /// The data node that is being resynchronised.
    SyncTarget,
    /// The other members: both data nodes, witness and router, without the other side of a cut.
    Others,
    /// Both data nodes.
    Nodes,
    /// Every host, the client included.
    All,
}

/// When a step fires.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum When {
    /// At this moment.
    At(SimTime),
    /// So long after the step before it.
    After(Duration),
    /// So long after the n-th occurrence, counted from the step before it.
    Event {
        /// What must happen.
        trigger: Trigger,
        /// How often.
        nth: u64,
        /// How long after that.
        delay: Duration,
    },
}

/// What a step may wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Trigger {
    /// A node begins to start the application.
    Promotion,
    /// A copy begins to be resynchronised.
    ResyncStarts,
    /// A copy is caught up.
    ResyncEnds,
    /// The client's write is acknowledged.
    Ack,
    /// A block is written by a data path.
    Write,
    /// A virtual address is set.
    AddressSet,
    /// A virtual address is removed.
    AddressRemoved,
    /// A node loses the right to run.
    RightLost,
    /// A stop script of the primary begins.
    StopScript,
    /// A node makes a record durable.
    Record,
    /// A source goes on without its target.
    Solo,
}

/// A disk fault that a step switches on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskStep {
    /// From now on the disk behaves like this.
    Faults(DiskFaults),
    /// Some block whose other copy is good is spoiled.
    Rot,
    /// The disk is replaced by an empty one (only while the host is off).
    Replace,
}

/// What a script does on demand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScriptFault {
    /// It does not end.
    Hang,
    /// It ends with an error.
    Fail,
}

/// How something changes at which checkers look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckStep {
    /// It fails.
    Fails,
    /// It works.
    Works,
    /// Another module's application is started again.
    Again,
}

/// What can be asked of a node about its checks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// `set -r`.
    Set(ResourceName, ResourceState),
    /// `errd`, `checker`, `failover`, `boot`: on or off.
    Switch(Switch, bool),
}

/// Which scripts a [`Action::Script`] concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScriptKind {
    /// `start_prim`.
    Start,
    /// `stop_prim`.
    Stop,
}

/// What happens in a step.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Messages from one side to the other are dropped.
    Cut {
        /// One side.
        from: Selector,
        /// The other side.
        to: Selector,
        /// In the other direction too.
        both: bool,
        /// On this network only.
        net: Option<u8>,
    },
    /// Messages pass again.
    Heal {
        /// One side.
        from: Selector,
        /// The other side.
        to: Selector,
    },
    /// Every link is healed.
    HealAll,
    /// A host is cut from everybody, its clients included.
    Isolate(Selector),
    /// The power fails.
    PowerCut {
        /// Where.
        who: Selector,
        /// Not now but inside the next disk write.
        in_write: bool,
        /// Power returns after this long.
        back_after: Option<Duration>,
    },
    /// Power returns.
    PowerOn(Selector),
    /// The daemon dies (SIGKILL); its service manager restarts it.
    Crash {
        /// Where.
        who: Selector,
        /// Restarted after this long; `None`: by a later `power_on`.
        back_after: Option<Duration>,
    },
    /// The machine stands still (a paused virtual machine, SIGSTOP of everything).
    Pause {
        /// Where.
        who: Selector,
        /// For this long; `None`: until `resume`.
        span: Option<Duration>,
    },
    /// It goes on.
    Resume(Selector),
    /// The node takes this much longer for every input.
    Slow {
        /// Where.
        who: Selector,
        /// Time per input.
        lag: Duration,
        /// For this long.
        span: Option<Duration>,
    },
    /// The clock of a host runs fast or slow from now on.
    Drift {
        /// Where.
        who: Selector,
        /// Millionths.
        ppm: i32,
    },
    /// The weather of links changes.
    Weather {
        /// Between these.
        from: Selector,
        /// And these, both directions.
        to: Selector,
        /// To this.
        weather: Weather,
        /// For this long, then back to the setup's.
        span: Option<Duration>,
    },
    /// A disk misbehaves.
    Disk {
        /// Where.
        who: Selector,
        /// How.
        fault: DiskStep,
        /// For this long, then healthy.
        span: Option<Duration>,
    },
    /// Scripts hang or fail.
    Script {
        /// Where.
        who: Selector,
        /// Which.
        kind: ScriptKind,
        /// How.
        fault: ScriptFault,
        /// So many times.
        times: u32,
    },
    /// Something at which checkers look changes.
    Check {
        /// Where.
        who: Selector,
        /// Name of the resource.
        what: String,
        /// How.
        to: CheckStep,
    },
    /// A detector outside gives an order (`-i`).
    OrderBy {
        /// Where.
        who: Selector,
        /// Which.
        order: ModuleOrder,
    },
    /// Somebody asks a node something about its module: a resource, a switch, the loop guard.
    Ask {
        /// Where.
        who: Selector,
        /// What.
        what: Question,
    },
    /// An administrator gives an order.
    Order {
        /// Where.
        who: Selector,
        /// Which.
        order: ModuleOrder,
    },
    /// A program on the host writes a block by itself, address or not.
    Write(Selector),
    /// The client begins or stops to work.
    Load(bool),
    /// All of this must become true in time, or the run violates `expect`.
    Expect {
        /// What.
        conditions: Vec<Condition>,
        /// In this time.
        within: Duration,
        /// Which property a run violates that does not.
        property: Property,
    },
    /// All of this must hold for that long.
    Hold {
        /// What.
        conditions: Vec<Condition>,
        /// How long.
        span: Duration,
    },
    /// Every fault is over, every machine runs, every module is started.
    Calm,
    /// The cluster was left in peace long enough: copies are compared at the end.
    Settled,
    /// The run ends.
    End,
}

/// One line of the timeline.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// When.
    pub when: When,
    /// What.
    pub action: Action,
    /// Line of the scenario file, for messages.
    pub line: Option<usize>,
}

/// What must be true.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Expectations {
    /// Properties checked all the time.
    pub always: Vec<Property>,
    /// Properties that this run must violate (counter-examples of weak policies).
    pub violated: Vec<Property>,
    /// What must become true after the faults.
    pub healed: Vec<Condition>,
    /// Within this time after the last step.
    pub healed_within: Duration,
    /// What must have happened at least once over all runs, or the verdict is inconclusive.
    pub sometimes: Vec<Sometimes>,
}

impl Expectations {
    /// Every property that is judged: those that must hold and those that must not.
    pub fn judged(&self) -> Vec<Property> {
        self.always.iter().chain(&self.violated).copied().collect()
    }
}

/// A whole run.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Name for messages.
    pub name: String,
    /// The cluster.
    pub setup: Setup,
    /// What happens, in order.
    pub steps: Vec<Step>,
    /// What must be true.
    pub expect: Expectations,
    /// The run ends at this moment at the latest.
    pub ends: SimTime,
    /// Whether a fault that hit nothing makes the run inconclusive (scenarios) or not (fuzzing).
    pub every_fault_must_hit: bool,
}
