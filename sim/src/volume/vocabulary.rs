//! The vocabulary of a simulated volume.

use std::time::Duration;

use havre_core::{
    config::module::RfsConfig,
    effect::{Outcome, VolumeNews, VolumeRequest},
    ids::{ModuleId, NodeId, OpId},
    replication::{intent::MarkId, source::SourceMode, target::TargetState},
};

use super::Frame;
use crate::disk::{Block, DiskDone, DiskOp};

/// How a volume is made.
#[derive(Debug, Clone, PartialEq)]
pub struct VolumeConfig {
    /// The module.
    pub module: ModuleId,
    /// Digest of the module's configuration.
    pub signature: u64,
    /// `<rfs>`.
    pub rfs: RfsConfig,
    /// Regions of the store.
    pub regions: u64,
    /// Blocks per region.
    pub region_blocks: u64,
    /// How often a source looks at its marks for clearing.
    pub checkpoint_period: Duration,
}

impl VolumeConfig {
    /// Blocks of the store.
    pub const fn blocks(&self) -> u64 {
        self.regions * self.region_blocks
    }

    pub(super) fn region_of(&self, block: u64) -> MarkId {
        MarkId(block / self.region_blocks)
    }
}

/// Names a call of the application until it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub u64);

/// A call of the application.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// Writes one block; `sync`: as on a file opened with O_SYNC.
    Write {
        /// Which.
        block: u64,
        /// Its new content.
        content: Block,
        /// Returns only when the write is safe.
        sync: bool,
    },
    /// Returns when every write that has returned is safe (fsync).
    Barrier,
    /// Reads one block.
    Read {
        /// Which.
        block: u64,
    },
}

/// The answer to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallAnswer {
    /// A write or barrier succeeded.
    Done,
    /// What was read.
    Content(Block),
    /// EIO or ENOSPC.
    Failed,
    /// EROFS: this node does not serve.
    Refused,
}

/// Facts that a volume takes.
#[derive(Debug, Clone, PartialEq)]
pub enum VolumeInput {
    /// An order of the control loop.
    Request {
        /// Its name.
        op: OpId,
        /// What.
        request: VolumeRequest,
    },
    /// The application calls.
    Call {
        /// Its name.
        id: CallId,
        /// What.
        call: Call,
    },
    /// The stream of [`VolumeAction::Connect`] stands, or the peer's volume connected.
    Connected,
    /// A frame arrived.
    Frame(Frame),
    /// The stream ended, or could not be opened. Not told for [`VolumeAction::Disconnect`].
    Disconnected {
        /// Why, in words.
        reason: String,
    },
    /// A disk operation ended.
    Disk {
        /// Its name.
        id: u64,
        /// How.
        done: DiskDone,
    },
}

/// Orders that a volume gives.
#[derive(Debug, Clone, PartialEq)]
pub enum VolumeAction {
    /// Carry out on the node's disk.
    Disk {
        /// Its name, for [`VolumeInput::Disk`].
        id: u64,
        /// What.
        op: DiskOp,
    },
    /// Open a stream to the peer's volume.
    Connect {
        /// The peer.
        peer: NodeId,
    },
    /// Send on the stream.
    Send(Frame),
    /// Close the stream, after what was sent on it.
    Disconnect,
    /// Answer the application.
    Answer {
        /// The call.
        id: CallId,
        /// The answer.
        answer: CallAnswer,
    },
    /// An order ended.
    Completed {
        /// Its name.
        op: OpId,
        /// How.
        outcome: Outcome,
    },
    /// Tell the control loop.
    News(VolumeNews),
}

/// What a volume is, for checkers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum VolumeRole {
    /// Idle, or reading its marks.
    Idle,
    /// The application writes here.
    Source(SourceMode),
    /// Follows.
    Target(TargetState),
}
