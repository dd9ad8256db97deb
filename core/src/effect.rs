//! The whole vocabulary of a node with the outside: facts in ([`Input`]), orders out
//! ([`Effect`]), results back ([`Outcome`]). Nothing else enters or leaves, so a journal of
//! inputs replays a node exactly.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    checks::{
        probe::{Finding, Probe},
        record::{ChecksRecord, LoopStatus, Switch},
        resource::{ResourceName, ResourceState},
    },
    config::module::ModuleConfig,
    event::Event,
    farm::{
        explain::{Explanation, Question},
        table::{FilterNews, FilterRequest},
    },
    ids::{CheckerId, Epoch, Incarnation, LinkId, ModuleId, NodeId, OpId, RequestId},
    replication::generation::{Generation, Lineage},
    status::{KeptAside, NodeStatus, Progress, VirtualIp},
    time::Instant,
    wire::message::Message,
};

mod script;

pub use script::{ScriptAction, ScriptCall, ScriptEnd, ScriptName};

/// A fact that happened outside.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Input {
    /// The daemon started; what it had made durable earlier.
    Booted {
        /// The new run.
        incarnation: Incarnation,
        /// Durable records.
        saved: SavedState,
    },
    /// A datagram arrived, already opened and checked.
    Received {
        /// The sender, as authenticated by the seal.
        from: NodeId,
        /// The network on which it arrived.
        link: LinkId,
        /// Its content.
        message: Message,
    },
    /// Somebody asked for something.
    Asked {
        /// Number under which the answer is expected.
        request: RequestId,
        /// What is asked.
        command: Command,
    },
    /// An order was carried out, or failed.
    Completed {
        /// The order.
        op: OpId,
        /// How it ended.
        outcome: Outcome,
    },
    /// A module's data path has news.
    Volume {
        /// The module.
        module: ModuleId,
        /// What happened.
        news: VolumeNews,
    },
    /// A module's packet filter has news.
    Filter {
        /// The module.
        module: ModuleId,
        /// What happened.
        news: FilterNews,
    },
    /// A watch of a checker reports.
    Checked {
        /// The module.
        module: ModuleId,
        /// Its checker.
        checker: CheckerId,
        /// What was found.
        finding: Finding,
    },
}

/// What survives a restart, read before anything is decided.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SavedState {
    /// One record per module that ever ran here.
    pub modules: BTreeMap<ModuleId, ModuleRecord>,
    /// What the checks of each module remember.
    pub checks: BTreeMap<ModuleId, ChecksRecord>,
    /// Modules whose application, address and mount an earlier run of the daemon left in place,
    /// and until when the guard lets each go on. Found out at start, not durable.
    pub running: BTreeMap<ModuleId, Instant>,
}

/// The durable record of one module on one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleRecord {
    /// History of the local copy.
    pub lineage: Lineage,
    /// Whether this node was the last of the two to be primary, as far as it knows.
    pub was_primary: bool,
    /// Whether the module was started (and not stopped by an administrator).
    pub started: bool,
    /// Highest epoch under which this node held the right to run.
    pub epoch: Epoch,
}

impl ModuleRecord {
    /// The record of a module that never ran here.
    pub const fn blank() -> Self {
        Self { lineage: Lineage::blank(), was_primary: false, started: false, epoch: Epoch(0) }
    }
}

/// What the witness remembers of one module of one cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct WitnessRecord {
    /// Number of the newest lease.
    pub epoch: Epoch,
    /// Who was given it.
    pub holder: Option<NodeId>,
    /// Longest lease ever granted, in milliseconds: what to wait for after a restart.
    pub lease_ms_max: u32,
    /// Recorded generation.
    pub generation: Option<Generation>,
    /// Nodes that hold every acknowledged write of it.
    pub in_sync: Vec<NodeId>,
    /// The holder overrode `in_sync` and has not recorded a generation of its own yet.
    pub forced: bool,
}

/// A record to be made durable: replaces the earlier one of the same key, or fails and leaves it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    /// The state of one module.
    Module {
        /// The module.
        module: ModuleId,
        /// Its new record.
        record: ModuleRecord,
    },
    /// What the checks of one module remember.
    Checks {
        /// The module.
        module: ModuleId,
        /// Its new record.
        record: ChecksRecord,
    },
}

/// What a person or a program may ask of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// The picture of the node.
    Status,
    /// New settings of a module that runs.
    Configure {
        /// The module.
        module: ModuleId,
        /// Its name.
        name: String,
        /// Digest of what its nodes must agree about.
        signature: u64,
        /// Its whole configuration.
        config: Box<ModuleConfig>,
    },
    /// An order to one module.
    Module {
        /// The module.
        module: ModuleId,
        /// The order.
        order: ModuleOrder,
    },
    /// Which node of a farm takes a packet, and why.
    Explain {
        /// The module.
        module: ModuleId,
        /// The packet.
        question: Question,
    },
    /// An order that a detector outside gives (`-i`): counted by the loop guard.
    ModuleBy {
        /// The module.
        module: ModuleId,
        /// The order: restart, stopstart, stop or swap.
        order: ModuleOrder,
        /// Who found something.
        detector: String,
    },
    /// Set a resource of a module (`set -r`).
    SetResource {
        /// The module.
        module: ModuleId,
        /// Which.
        resource: ResourceName,
        /// To what.
        state: ResourceState,
        /// Who says so.
        by: String,
        /// Whether the change is kept in the history.
        history: bool,
    },
    /// Turn a maintenance switch of a module.
    Switch {
        /// The module.
        module: ModuleId,
        /// Which.
        switch: Switch,
        /// Its new position.
        on: bool,
    },
    /// Watch a class of a module, or not (`errd enable`, `errd disable`).
    Class {
        /// The module.
        module: ModuleId,
        /// The class.
        class: String,
        /// Watch it.
        on: bool,
    },
    /// Ask or change the loop guard of a module.
    Loop {
        /// The module.
        module: ModuleId,
        /// What.
        verb: LoopVerb,
    },
}

/// What can be done with a loop guard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LoopVerb {
    /// Count one detection (`incloop`).
    Increment {
        /// Who found something.
        by: String,
    },
    /// Forget every detection (`resetloop`).
    Reset,
    /// Only look (`checkloop`).
    Check,
}

/// Orders to a module (reference: safekit.md section 3.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ModuleOrder {
    /// Start; the role follows from the data.
    Start,
    /// Start as primary.
    Prim {
        /// Copy everything to the secondary when it comes.
        full_resync: bool,
        /// Accept a half-copied or outdated copy (`primforce`).
        force: bool,
    },
    /// Start as secondary.
    Second {
        /// Copy everything.
        full_resync: bool,
    },
    /// Stop the application, the address and the replication.
    Stop,
    /// Stop even if scripts fail or hang.
    ForceStop,
    /// Stop and start the application in place.
    Restart,
    /// Stop everything, then start again; a primary thereby fails over.
    StopStart,
    /// Exchange roles with the peer.
    Swap,
    /// Farm: take no new clients, and let the connections of the old ones end.
    Drain {
        /// Stop the module when the last connection has ended.
        stop: bool,
    },
    /// Farm: take new clients again.
    Undrain,
}

/// The answer to a [`Command`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Answer {
    /// The picture of the node.
    Status(NodeStatus),
    /// Which node of a farm takes a packet.
    Explained {
        /// Who and by what.
        explanation: Explanation,
        /// The same in words.
        words: String,
    },
    /// The order was accepted and is under way.
    Accepted,
    /// The order was refused; the text says why and what to do.
    Refused(String),
    /// The loop guard, after what was asked.
    Loop(LoopStatus),
}

/// An order to the outside.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Effect {
    /// Send a datagram.
    Send {
        /// To whom.
        to: NodeId,
        /// Over which networks.
        route: Route,
        /// What.
        message: Message,
        /// Not before this record is durable; if it fails, not at all.
        after: Option<OpId>,
    },
    /// Make a record durable (written, fsynced, directory fsynced), then report.
    Persist {
        /// Reported by `Completed { op, Outcome::Done | Outcome::Failed }`.
        op: OpId,
        /// What.
        record: Record,
    },
    /// An order to a module's data path. Orders to one module are carried out in sequence.
    Volume {
        /// Reported by `Completed`.
        op: OpId,
        /// The module.
        module: ModuleId,
        /// What.
        request: VolumeRequest,
    },
    /// Run a script.
    RunScript {
        /// Reported by `Completed { op, Outcome::Script(..) }`.
        op: OpId,
        /// The module.
        module: ModuleId,
        /// What.
        call: ScriptCall,
    },
    /// Kill every process that scripts of this module started and that still runs in the
    /// process groups of those scripts.
    KillScripts {
        /// Reported by `Completed`.
        op: OpId,
        /// The module.
        module: ModuleId,
    },
    /// Set, remove or announce the module's virtual addresses.
    Address {
        /// Reported by `Completed`.
        op: OpId,
        /// The module.
        module: ModuleId,
        /// What.
        request: AddressRequest,
    },
    /// Change how packets to the module's virtual addresses are judged. Carried out in sequence.
    Filter {
        /// Reported by `Completed`.
        op: OpId,
        /// The module.
        module: ModuleId,
        /// What.
        request: FilterRequest,
    },
    /// Look whether any of these hosts answers a ping.
    Ping {
        /// Reported by `Completed { op, Outcome::Reached(bool) }`.
        op: OpId,
        /// The hosts.
        targets: Vec<IpAddr>,
        /// How long to wait.
        limit: Duration,
    },
    /// Ask something for a checker.
    Probe {
        /// Reported by `Completed { op, Outcome::Probed(..) }`.
        op: OpId,
        /// The module.
        module: ModuleId,
        /// The checker.
        checker: CheckerId,
        /// What is asked.
        what: Probe,
        /// How long it may take; `None`: as long as it likes.
        limit: Option<Duration>,
    },
    /// Report of it whenever it changes, until [`Effect::Unwatch`].
    Watch {
        /// The module.
        module: ModuleId,
        /// The checker.
        checker: CheckerId,
        /// What is watched.
        what: Probe,
    },
    /// End the watch of a checker, and what is being asked for it; its program is killed.
    Unwatch {
        /// The module.
        module: ModuleId,
        /// The checker.
        checker: CheckerId,
    },
    /// Reboot this machine (`automatic_reboot`).
    Reboot {
        /// The module because of which.
        module: ModuleId,
    },
    /// Tell the independent guard until when the module may serve here. If that moment comes and
    /// nothing more was said, the guard removes address and application, whatever the daemon does.
    Guard {
        /// The module.
        module: ModuleId,
        /// The moment; `None`: nothing serves here, the guard need not watch.
        until: Option<Instant>,
    },
    /// Answer a command.
    Answer {
        /// The command's number.
        request: RequestId,
        /// The answer.
        answer: Answer,
    },
    /// Tell the world.
    Notify(Event),
}

/// Networks a datagram takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Route {
    /// Every network shared with the receiver.
    All,
    /// One network.
    Link(LinkId),
}

/// Orders to a module's data path.
///
/// A data path is idle, source (the application writes here) or target (follows a source).
/// Resynchronisation and shipping run between the two data paths without the control loop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum VolumeRequest {
    /// Check the directories and read what is known to possibly differ from the peer.
    Prepare,
    /// Become source: finish and make durable everything received, then let the application in.
    ///
    /// Until `Admit`, nothing is shipped and every change is durably marked before it is made.
    Serve {
        /// The generation under which changes are made.
        generation: Generation,
    },
    /// Source: let the peer's data path connect, resynchronise it, then ship changes to it.
    /// The data path reports `CaughtUp` at the moment from which it completes barriers only
    /// when the peer has them too.
    Admit {
        /// The peer.
        peer: NodeId,
        /// Copy everything, whatever is marked.
        full: bool,
    },
    /// Source: barriers no longer wait for the peer; changes are marked. Ordered only once
    /// the new generation is durable wherever it must be.
    Solo {
        /// The generation from now on.
        generation: Generation,
    },
    /// Become target: hide the directories from writers, connect to the source, resynchronise.
    Follow {
        /// The source.
        source: NodeId,
        /// The source's generation.
        generation: Generation,
        /// Keep differing files aside under this generation's name first (split brain).
        keep_aside: Option<Generation>,
    },
    /// Complete no further change of the application as successful, at once.
    Fence,
    /// Become idle: make everything durable, unmount. `clean`: on a source, first wait until
    /// the peer holds everything (bounded by the data path's own time limits).
    Close {
        /// Whether to wait for the peer.
        clean: bool,
    },
}

/// News of a data path that nobody ordered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum VolumeNews {
    /// Resynchronisation goes on.
    Progress(Progress),
    /// Source: the peer holds everything durably, and barriers wait for it from now on.
    /// Target: the copy equals the source's as of a moment after `Follow`, durably.
    CaughtUp {
        /// The source's generation.
        generation: Generation,
        /// Bytes that were sent because they differed.
        bytes_copied: u64,
    },
    /// The other data path is gone, refuses, or is too slow. A source that was caught up
    /// completes no barrier until `Solo` or until the peer is caught up again.
    PeerLost {
        /// Why, in words.
        reason: String,
    },
    /// The local disk or mount failed: this copy cannot be relied on until it is
    /// resynchronised.
    Failed {
        /// What the operating system said.
        error: String,
    },
    /// Everything that is kept from split brains on this node; replaces what was said before.
    KeptAside(Vec<KeptAside>),
}

/// Orders about virtual addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AddressRequest {
    /// Set and announce them; fails if another host answers for one of them.
    Add(Vec<VirtualIp>),
    /// As `Add`, right after the other node of the pair has said that it gave them up: a quick
    /// look for other hosts suffices.
    Take(Vec<VirtualIp>),
    /// Remove them; one that is not there is no error.
    Remove(Vec<VirtualIp>),
    /// Announce them again (gratuitous ARP, unsolicited neighbour advertisement).
    Announce(Vec<VirtualIp>),
}

/// How an order ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It was carried out; a record is durable.
    Done,
    /// It was not; the text says why and what to do. What it would have replaced still stands.
    Failed(String),
    /// A script ended.
    Script(ScriptEnd),
    /// Whether any host answered.
    Reached(bool),
    /// What a checker was told.
    Probed(Finding),
}
