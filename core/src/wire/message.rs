//! What nodes and the witness say to each other in datagrams. Loss, repetition and reordering
//! are expected: every message is either periodic or repeated until it is answered.

use serde::{Deserialize, Serialize};

use crate::{
    checks::resource::ResourceState,
    farm::set::{BucketSet, MemberSet, Slot},
    ids::{Epoch, Incarnation, ModuleId, NodeId},
    replication::generation::{Generation, Lineage},
    status::{Phase, State},
};

/// One datagram's content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// "I am alive, this is the state of my modules."
    Heartbeat(Heartbeat),
    /// A node asks its peer for consent.
    Claim {
        /// The module concerned.
        module: ModuleId,
        /// What is asked.
        claim: Claim,
    },
    /// The peer's answer.
    ClaimReply {
        /// The module concerned.
        module: ModuleId,
        /// The number of the claim that is answered.
        nonce: u64,
        /// Whether the peer consents.
        verdict: ClaimVerdict,
    },
    /// A node asks the witness.
    Witness {
        /// The module concerned.
        module: ModuleId,
        /// What is asked.
        request: WitnessRequest,
    },
    /// The witness answers.
    WitnessReply {
        /// The module concerned.
        module: ModuleId,
        /// The answer.
        reply: WitnessReply,
    },
    /// "I am alive, this is the state of my farms." Counted apart from heartbeats of mirrors,
    /// because farms have pulses of their own.
    Farms(FarmHeartbeat),
}

/// Periodic liveness message between two nodes that share farms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FarmHeartbeat {
    /// The sender's run.
    pub incarnation: Incarnation,
    /// Counts up by one with each message of this kind of this run to this peer.
    pub number: u64,
    /// The receiver's run and the highest number the sender has heard of it, on any link.
    pub heard: Option<(Incarnation, u64)>,
    /// Every farm of the sender.
    pub farms: Vec<FarmBeat>,
}

/// State of one farm on one node, as the other members need to know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FarmBeat {
    /// The module.
    pub module: ModuleId,
    /// Digest of the module's configuration; nodes with different digests do not cooperate.
    pub signature: u64,
    /// The role.
    pub state: State,
    /// The colour.
    pub phase: Phase,
    /// Whether it would take clients.
    pub ready: bool,
    /// Whether it does not know yet who else is there: it is not to be counted until it does.
    pub listening: bool,
    /// Whether it takes no new clients because an administrator drains it.
    pub draining: bool,
    /// The members whose heartbeats arrive here.
    pub hears: MemberSet,
    /// Whom this node follows; itself if it leads.
    pub leader: Option<Slot>,
    /// Who shares the load, by its leader.
    pub sharing: MemberSet,
    /// Sets of sharing members by whose map new connections are accepted here, or may be before
    /// the next message: at most the one that stands and those that are being put in place.
    pub claims: Vec<MemberSet>,
    /// Group by group: buckets that this node does not own and in which it may have connections.
    pub held: Vec<BucketSet>,
}

/// Periodic liveness message between two nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// The sender's run.
    pub incarnation: Incarnation,
    /// Counts up by one with each heartbeat of this run to this peer.
    pub number: u64,
    /// The receiver's run and the highest number the sender has heard of it, on any link.
    pub heard: Option<(Incarnation, u64)>,
    /// Every configured module of the sender.
    pub modules: Vec<ModuleBeat>,
}

/// State of one module, as its peer needs to know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleBeat {
    /// The module.
    pub module: ModuleId,
    /// Digest of the module's configuration; nodes with different digests do not cooperate.
    pub signature: u64,
    /// The role.
    pub state: State,
    /// The colour.
    pub phase: Phase,
    /// Whether this node runs, starts or stops the application, or may still hold the address.
    pub serving: bool,
    /// Promise: this node does not take over for one lease length after hearing a heartbeat of a
    /// primary, and the number it has heard stands in [`Heartbeat::heard`].
    pub backing: bool,
    /// Whether the application runs and a secondary may come.
    pub open: bool,
    /// Whether the module is started.
    pub started: bool,
    /// Whether this node is asking for the right to run.
    pub wanting: bool,
    /// History of the local copy, durable.
    pub lineage: Lineage,
    /// Whether this node was the last to be primary, as far as it knows.
    pub was_primary: bool,
    /// Set by a primary that hands its role over: the secondary should take it now.
    pub yielding: bool,
    /// Set by a node that asks the running primary to hand its role over.
    pub swap_wanted: bool,
    /// Set by a secondary that will refuse automatic takeover (`failover="off"`).
    pub failover: bool,
    /// Set by a node told `second fullsync`: everything is to be copied to it.
    pub full_resync: bool,
    /// Resources at which rules look from the other node, in the order of the configuration.
    pub resources: Vec<ResourceState>,
}

/// A question to the peer. Repeated until answered; `nonce` tells repetitions from new questions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Number of the question, unique within one run of the asking node.
    pub nonce: u64,
    /// The asking node's run.
    pub incarnation: Incarnation,
    /// The generation that the asking node is about to begin. A peer that consents first makes
    /// durable that its own copy is outdated by it.
    pub generation: Generation,
    /// Whether the asking node wants to become primary (otherwise it already is, and wants to go
    /// on alone).
    pub promote: bool,
    /// An administrator forced it: consent even if the peer's copy is newer or related otherwise.
    pub forced: bool,
}

/// The peer's answer to a [`Claim`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClaimVerdict {
    /// The peer's copy is durably marked as outdated, and the peer will not become primary while
    /// it hears the asking node.
    Granted,
    /// The peer is primary or becoming primary itself.
    RefusedServing,
    /// The peer's copy is newer, or history diverged.
    RefusedLineage,
    /// The configurations differ.
    RefusedConfiguration,
}

/// What a node asks of the witness.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WitnessRequest {
    /// Number of the question, unique within one run of the asking node; echoed in the reply.
    pub nonce: u64,
    /// The asking node's run.
    pub incarnation: Incarnation,
    /// What is asked.
    pub verb: WitnessVerb,
}

/// Verbs of the conversation with the witness.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum WitnessVerb {
    /// Asks for the lease in order to become primary.
    Acquire {
        /// Length of the lease, in milliseconds.
        lease_ms: u32,
        /// Ignore who is recorded as in sync (an administrator forced this node).
        forced: bool,
    },
    /// Extends the lease held under `epoch`.
    Renew {
        /// Length of the lease from now, in milliseconds.
        lease_ms: u32,
        /// The epoch under which the lease was granted.
        epoch: Epoch,
    },
    /// Records who holds every acknowledged write.
    Commit {
        /// The epoch under which the lease is held.
        epoch: Epoch,
        /// The generation from now on.
        generation: Generation,
        /// The nodes that hold every acknowledged write of it.
        in_sync: Vec<NodeId>,
    },
    /// Gives the lease back.
    Release {
        /// The epoch under which the lease was held.
        epoch: Epoch,
    },
}

/// What the witness answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WitnessReply {
    /// The number of the question.
    pub nonce: u64,
    /// The answer.
    pub verdict: WitnessVerdict,
}

/// The witness's verdicts. Durable on the witness before they leave it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum WitnessVerdict {
    /// The lease is held, counted from the moment at which the question was sent.
    Granted {
        /// The epoch of the lease.
        epoch: Epoch,
        /// The recorded generation, if any.
        generation: Option<Generation>,
        /// The nodes recorded as in sync.
        in_sync: Vec<NodeId>,
    },
    /// The record is durable.
    Committed {
        /// The epoch of the lease.
        epoch: Epoch,
    },
    /// Another node holds the lease, for at most this long.
    RefusedHeld {
        /// The holder.
        holder: NodeId,
        /// Rest of its lease, in milliseconds.
        remaining_ms: u32,
    },
    /// The asking node is not recorded as holding every acknowledged write.
    RefusedNotInSync {
        /// The nodes that are.
        in_sync: Vec<NodeId>,
    },
    /// The epoch named in the question is not the current one.
    RefusedEpoch {
        /// The current epoch.
        epoch: Epoch,
    },
    /// The witness itself has just started and must let old leases run out.
    RefusedStarting {
        /// How long that takes, in milliseconds.
        remaining_ms: u32,
    },
}
