//! The one picture of a node that the command line, the console, the metrics and the simulator's
//! checkers all read.

use std::{fmt, net::IpAddr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    checks::record::ChecksStatus,
    ids::{Epoch, LinkId, ModuleId, NodeId},
    replication::generation::{Generation, Lineage},
    time::Instant,
};

/// Role of a module on one node. Names are SafeKit's (reference: safekit.md section 3.1).
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "UPPERCASE")]
pub enum State {
    /// Stopped; can be started.
    #[default]
    Stop,
    /// Starting or stopping, or blocked until something is repaired.
    Wait,
    /// Primary without a synchronised secondary.
    Alone,
    /// Primary with a synchronised secondary.
    Prim,
    /// Secondary.
    Second,
    /// Member of a farm, or a light module, that runs.
    Up,
}

impl State {
    /// Exit code of `havre state -lq`: 0 STOP, 1 WAIT, 2 ALONE or UP, 3 PRIM, 4 SECOND.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Stop => 0,
            Self::Wait => 1,
            Self::Alone | Self::Up => 2,
            Self::Prim => 3,
            Self::Second => 4,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Stop => "STOP",
            Self::Wait => "WAIT",
            Self::Alone => "ALONE",
            Self::Prim => "PRIM",
            Self::Second => "SECOND",
            Self::Up => "UP",
        })
    }
}

/// Colour of a state: red, orange, green.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub enum Phase {
    /// Red: stopped or blocked.
    #[default]
    NotReady,
    /// Orange: on the way.
    Transient,
    /// Green: works.
    Ready,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::NotReady => "NotReady",
            Self::Transient => "Transient",
            Self::Ready => "Ready",
        })
    }
}

/// Why a module waits. The text names the remedy.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum WaitReason {
    /// The module is starting or stopping.
    Transition,
    /// The peer has not been heard yet and this copy may be stale (`notuptodate_server`).
    NotUpToDate,
    /// Neither node ever held data: an administrator must say which one is right with `prim`.
    NeverStarted,
    /// The peer runs the application and this node waits to be let in as its secondary.
    PeerNotReady,
    /// The peer died while this copy was half copied.
    HalfCopied,
    /// The primary is gone and `failover="off"` forbids to take over.
    FailoverOff,
    /// No heartbeat, and no witness answers (`splitbrain_failure`).
    NoQuorum,
    /// The witness says that another node holds the right to run.
    LeaseHeld(NodeId),
    /// The witness says that this copy misses acknowledged writes.
    NotInSync,
    /// The two nodes were both primary; an administrator must choose with `prim`.
    Diverged,
    /// The peer has another configuration of this module.
    ConfigurationDiffers {
        /// Digest of the local configuration.
        local: u64,
        /// Digest of the peer's.
        remote: u64,
    },
    /// The right to run was lost while running.
    Fenced,
    /// A replicated directory cannot be used; the text is the operating system's.
    Volume(String),
    /// The virtual address cannot be used; the text is the operating system's.
    Address(String),
    /// Letting leases that this node may have promised before its restart run out.
    BootHold,
    /// A failover rule holds the module until it fires no more.
    Rule {
        /// Its label.
        rule: String,
        /// The resources that decided, with their states.
        resources: Vec<String>,
    },
}

impl fmt::Display for WaitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Transition => f.write_str("starting or stopping"),
            Self::NotUpToDate => f.write_str(
                "data may be not up to date: waiting for the start of the other node \
                 (to run on this copy anyway: stop, then prim)",
            ),
            Self::NeverStarted => f.write_str(
                "first start: run `prim` on the node whose data are right, then start the other",
            ),
            Self::PeerNotReady => f.write_str("waiting for the other node to become primary"),
            Self::HalfCopied => f.write_str(
                "the primary was lost during resynchronisation: start the other node, \
                 or accept mixed data with `prim --force`",
            ),
            Self::FailoverOff => f.write_str(
                "failover is off: restart the other node, or stop this one and run `prim`",
            ),
            Self::NoQuorum => f.write_str(
                "no heartbeat and no witness answers: repair the network, or stop and run `prim`",
            ),
            Self::LeaseHeld(node) => write!(f, "the witness says that {node} may still be primary"),
            Self::NotInSync => f.write_str(
                "the witness says that this copy misses acknowledged writes: start the other node",
            ),
            Self::Diverged => f.write_str(
                "both nodes were primary separately: choose with `prim` which data to keep",
            ),
            Self::ConfigurationDiffers { local, remote } => write!(
                f,
                "the configurations differ: {local:016x} here, {remote:016x} on the other node; \
                 install the same one on both",
            ),
            Self::Fenced => f.write_str("the right to run was lost: waiting for quorum"),
            Self::Volume(error) => write!(f, "replicated directory: {error}"),
            Self::Address(error) => write!(f, "virtual address: {error}"),
            Self::BootHold => f.write_str("letting an older lease run out"),
            Self::Rule { rule, resources } if resources.is_empty() => {
                write!(f, "failover rule {rule} makes it wait")
            }
            Self::Rule { rule, resources } => {
                write!(f, "failover rule {rule} makes it wait: {}", resources.join(", "))
            }
        }
    }
}

/// Progress of a resynchronisation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Progress {
    /// Bytes known to need comparison or copying when this pass began.
    pub bytes_total: u64,
    /// Bytes compared or copied so far.
    pub bytes_done: u64,
    /// Bytes sent because they differed.
    pub bytes_copied: u64,
    /// Time since the resynchronisation began.
    pub elapsed: Duration,
}

/// Data of this node that a resynchronisation after a split brain did not overwrite but kept.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct KeptAside {
    /// The directory.
    pub place: String,
    /// Files and other entries in it, without directories.
    pub entries: u64,
}

/// One module on one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleStatus {
    /// The module.
    pub module: ModuleId,
    /// Its name.
    pub name: String,
    /// Role.
    pub state: State,
    /// Colour.
    pub phase: Phase,
    /// Why it waits, if it waits.
    pub wait: Option<WaitReason>,
    /// Why the last transition happened, in words.
    pub reason: String,
    /// When the last transition happened.
    pub since: Instant,
    /// Whether this copy holds every acknowledged write, as far as this node can know.
    pub up_to_date: bool,
    /// History of this copy.
    pub lineage: Lineage,
    /// Whether the virtual addresses are set here.
    pub address_held: bool,
    /// Whether the application may be running here (start script begun, stop script not ended).
    pub application: bool,
    /// Right to run, under policy `lease`.
    pub epoch: Option<Epoch>,
    /// When the right to run ends unless it is renewed; `None` if it has no end.
    pub right_until: Option<Instant>,
    /// Resynchronisation in progress.
    pub resync: Option<Progress>,
    /// What is still kept from split brains.
    pub kept_aside: Vec<KeptAside>,
    /// The other nodes of the module, as last heard: exactly one for a mirror.
    pub peers: Vec<PeerStatus>,
    /// How the load is shared; `None` unless the module is a farm.
    pub farm: Option<FarmStatus>,
    /// Digest of the configuration.
    pub signature: u64,
    /// How often its application was started in this run of the daemon.
    pub starts: u64,
    /// Checkers, rules, loop guard, switches.
    pub checks: ChecksStatus,
}

/// How a farm shares its load, as this node sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FarmStatus {
    /// The member that decides who shares.
    pub leader: Option<NodeId>,
    /// Every member, this node included, in order.
    pub members: Vec<MemberStatus>,
    /// The load-balancing groups; empty without virtual addresses.
    pub groups: Vec<GroupStatus>,
    /// Whether new clients are taken here.
    pub open: bool,
    /// Whether this node is being emptied.
    pub drain: Drain,
    /// Connections established here, as last counted.
    pub connections: u32,
}

/// A member of a farm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberStatus {
    /// Which.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// What it counts as.
    pub standing: Standing,
}

/// What a member of a farm counts as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Standing {
    /// Not heard.
    Silent,
    /// Heard, but its module does not serve.
    NotReady,
    /// It has another configuration of the module: never counted.
    OtherConfiguration,
    /// It serves, but the leader does not count it (yet).
    NotCounted,
    /// It keeps the clients it has.
    Draining,
    /// It shares the load.
    Sharing,
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Silent => "silent",
            Self::NotReady => "not ready",
            Self::OtherConfiguration => "other configuration",
            Self::NotCounted => "not counted",
            Self::Draining => "draining",
            Self::Sharing => "sharing",
        })
    }
}

/// How far a node is emptied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, Serialize, Deserialize)]
pub enum Drain {
    /// It takes new clients.
    #[default]
    No,
    /// It takes none, and has connections yet.
    Under,
    /// It has no connection any more.
    Done,
}

/// One load-balancing group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupStatus {
    /// Its name.
    pub name: String,
    /// Buckets of this node, of 256.
    pub share: u16,
    /// Who owns each of the 256 buckets.
    pub owners: Vec<Option<NodeId>>,
    /// Buckets that this node owns and does not take yet, because another node must let go first.
    pub withheld: u16,
}

/// Another node of a module, as last heard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// The peer.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Whether heartbeats arrive.
    pub alive: bool,
    /// Its role, if known.
    pub state: Option<(State, Phase)>,
    /// Its generation, if known.
    pub generation: Option<Generation>,
    /// Each network: its name and whether heartbeats arrive on it.
    pub links: Vec<(LinkId, String, bool)>,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// This node.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Its modules, by number.
    pub modules: Vec<ModuleStatus>,
    /// Whether the witness answered lately; `None` if there is no witness.
    pub witness: Option<bool>,
    /// Protocol version spoken.
    pub protocol: u16,
}

/// A virtual address to be set, removed or announced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VirtualIp {
    /// The address.
    pub addr: IpAddr,
    /// Prefix length; `None`: that of the interface's own network.
    pub prefix: Option<u8>,
    /// Interface; `None`: the one whose network contains the address.
    pub interface: Option<String>,
    /// Every node of a farm holds it: set without a test for other holders, and not announced
    /// unless told to.
    pub shared: bool,
}
