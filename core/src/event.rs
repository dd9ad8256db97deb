//! Typed news: log lines, console, metrics and the simulator's checkers all read these values.

use serde::{Deserialize, Serialize};

use crate::{
    checks::resource::ResourceState,
    ids::{Epoch, ModuleId, NodeId},
    replication::generation::Generation,
    status::{KeptAside, Phase, State, WaitReason},
};

/// What a detection found, and how often something was found before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// The part of Havre, or the program, that found it.
    pub detector: String,
    /// The rule that fired, if one did.
    pub rule: Option<String>,
    /// The resources that decided, with what was seen.
    pub resources: Vec<String>,
    /// Detections counted so far, this one included.
    pub count: u32,
    /// How many are allowed.
    pub max: u32,
}

/// Who ordered an action.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Actor {
    /// A command of an administrator.
    Administrator,
    /// Automatic start at boot.
    Boot,
    /// All heartbeats of the peer are lost.
    NoHeartbeat,
    /// The peer said that it stopped.
    RemoteStop,
    /// `failover="off"`.
    FailoverOff,
    /// `defaultprim` names this node or the other.
    DefaultPrimary,
    /// The right to run was lost.
    Fencing,
    /// Two primaries met.
    SplitBrain,
    /// The module itself, as a consequence of an earlier action.
    Automatic,
    /// A checker, a rule, or a detector outside.
    Detected(Box<Cause>),
    /// The loop guard, after too many detections; this is the last one.
    MaxLoop(Box<Cause>),
    /// A rule that fires no more, or lets the module go on.
    Rule(String),
    /// The loop guard, after a pause (`maxloop_retry`).
    Retry,
}

/// What is done to a module, in the words of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names are the words of the log")]
pub enum Action {
    Start,
    Prim,
    Second,
    Alone,
    Wait,
    Wakeup,
    Stop,
    ForceStop,
    Restart,
    StopStart,
    Swap,
    Drain,
    Undrain,
    Reboot,
}

/// How much an event matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Level {
    /// `D`: for developers.
    Debug,
    /// `I`: detail.
    Info,
    /// `S`: scripts.
    Script,
    /// `E`: what an operator follows.
    Event,
    /// `W`: degraded.
    Warning,
    /// `C`: the operator must act.
    Critical,
}

/// One piece of news of one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The module concerned; `None` for the node itself.
    pub module: Option<ModuleId>,
    /// What happened.
    pub kind: EventKind,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventKind {
    /// The local role or colour changed.
    StateChanged {
        /// Role and colour before.
        from: (State, Phase),
        /// Role and colour now.
        to: (State, Phase),
        /// Why.
        reason: String,
    },
    /// The peer's role or colour changed, or became unknown.
    RemoteChanged {
        /// Role and colour now; `None`: unknown.
        to: Option<(State, Phase)>,
    },
    /// An action began.
    ActionCalled {
        /// The action.
        action: Action,
        /// Who ordered it.
        by: Actor,
    },
    /// The module waits, and why.
    Waiting(WaitReason),
    /// A script began.
    ScriptStarted {
        /// Its name with arguments.
        script: String,
    },
    /// A script ended.
    ScriptEnded {
        /// Its name.
        script: String,
        /// How it ended, in words.
        outcome: String,
        /// Whether it did what it should.
        ok: bool,
    },
    /// A virtual address was set or removed here.
    AddressChanged {
        /// Set rather than removed.
        held: bool,
    },
    /// A new generation is durable.
    GenerationBegun(Generation),
    /// The right to run was obtained or renewed under a new epoch.
    RightObtained {
        /// The epoch, if a witness granted it.
        epoch: Option<Epoch>,
    },
    /// The right to run was lost.
    RightLost,
    /// A heartbeat link changed.
    LinkChanged {
        /// The other end.
        peer: NodeId,
        /// Name of the network.
        link: String,
        /// Whether heartbeats arrive.
        up: bool,
    },
    /// A resynchronisation of this copy, or of the peer's, began.
    ResyncStarted {
        /// Whether this node is the target.
        target: bool,
        /// Whether everything is copied.
        full: bool,
    },
    /// It ended with equal copies.
    ResyncEnded {
        /// Whether this node was the target.
        target: bool,
        /// Bytes that were sent because they differed.
        bytes_copied: u64,
    },
    /// Replication to the peer stopped; the application goes on.
    ReplicationLost {
        /// Why, in words.
        reason: String,
    },
    /// Split brain was detected: this node's differing data are kept aside or win.
    SplitBrain {
        /// Whether this node stays primary.
        stays: bool,
    },
    /// The nodes that share a farm's load changed.
    FarmChanged {
        /// Who decides this.
        leader: Option<NodeId>,
        /// Who shares, in order.
        members: Vec<NodeId>,
    },
    /// This node's share of a group changed.
    ShareChanged {
        /// The group.
        group: String,
        /// Buckets of this node, of 256.
        share: u16,
    },
    /// New clients are taken here from now on, or not any more.
    TrafficChanged {
        /// Whether they are.
        open: bool,
    },
    /// A member of a farm has another configuration, and is not counted.
    MemberRefused {
        /// The member.
        peer: NodeId,
        /// Digest of the local configuration.
        local: u64,
        /// Digest of the member's.
        remote: u64,
    },
    /// A node that is being drained has no connection any more.
    Drained,
    /// A resource changed.
    ResourceChanged {
        /// Its name.
        resource: String,
        /// Its state now.
        state: ResourceState,
        /// Who says so.
        by: String,
        /// What was seen, in words; empty if nothing more is known.
        detail: String,
    },
    /// A detector found something, in the words that operators know.
    Detected(String),
    /// This node's data that differed are kept there since a split brain.
    KeptAside(KeptAside),
    /// Something went wrong; the text says what to do.
    Failure(String),
    /// Free text of a script or of the runtime.
    Message(String),
}

impl EventKind {
    /// How much this event matters.
    pub const fn level(&self) -> Level {
        match self {
            Self::StateChanged { .. }
            | Self::LinkChanged { up: true, .. }
            | Self::RemoteChanged { .. }
            | Self::ActionCalled { .. }
            | Self::AddressChanged { .. }
            | Self::ResourceChanged { .. }
            | Self::ResyncStarted { .. }
            | Self::ResyncEnded { .. }
            | Self::FarmChanged { .. }
            | Self::ShareChanged { .. }
            | Self::TrafficChanged { .. }
            | Self::Drained => Level::Event,
            Self::ScriptStarted { .. } | Self::ScriptEnded { ok: true, .. } => Level::Script,
            Self::Waiting(_)
            | Self::ReplicationLost { .. }
            | Self::Detected(_)
            | Self::KeptAside(_)
            | Self::LinkChanged { up: false, .. }
            | Self::ScriptEnded { ok: false, .. } => Level::Warning,
            Self::RightLost
            | Self::SplitBrain { .. }
            | Self::MemberRefused { .. }
            | Self::Failure(_) => Level::Critical,
            Self::GenerationBegun(_) | Self::RightObtained { .. } | Self::Message(_) => Level::Info,
        }
    }
}
