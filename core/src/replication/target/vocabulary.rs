//! The vocabulary of a target: what the data path and the control loop tell it, what it orders.

use std::time::Duration;

use crate::{
    effect::{Outcome, VolumeNews},
    ids::{ModuleId, OpId, Seq},
    replication::{
        generation::Generation,
        stream::{Element, ToSource, ToTarget},
    },
};

/// What a target needs to know beforehand.
#[derive(Debug, Clone, PartialEq)]
pub struct TargetConfig {
    /// The module.
    pub module: ModuleId,
    /// Digest of the module's configuration.
    pub signature: u64,
    /// The source's generation.
    pub generation: Generation,
    /// Silence of a source that owes an answer before the connection is given up.
    pub answer_timeout: Duration,
}

/// Orders of the control loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetOrder {
    /// Carry out what was received, make it durable, end: this node becomes source.
    Serve,
    /// The same, and this node becomes idle.
    Close,
}

/// Facts that a target takes.
#[derive(Debug, Clone, PartialEq)]
pub enum TargetInput {
    /// [`TargetAction::Connect`] succeeded.
    Connected,
    /// It failed, or the connection ended.
    Disconnected {
        /// Why, in words.
        reason: String,
    },
    /// A message that is not an element arrived.
    Message(ToTarget),
    /// An element arrived; its content stays with the data path.
    Received {
        /// Its number.
        seq: Seq,
        /// Its kind.
        kind: ElementKind,
    },
    /// Nothing more can be read at once: a good moment for an acknowledgement.
    BatchEnd,
    /// [`TargetAction::Apply`] ended. Reported in the order of the numbers.
    Applied {
        /// The number.
        seq: Seq,
        /// Whether the copy now is as the element says; otherwise the system's message.
        result: Result<(), String>,
    },
    /// [`TargetAction::SyncAll`] ended.
    Synced {
        /// Whether everything carried out before the order is durable.
        ok: bool,
    },
    /// An order; reported by [`TargetAction::Finished`].
    Order {
        /// Its name.
        op: OpId,
        /// What.
        order: TargetOrder,
    },
}

/// What the target must know of an [`Element`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ElementKind {
    /// To be carried out by the data path.
    Work {
        /// Somebody waits until it is durable.
        sync: bool,
    },
    /// [`Element::SyncPoint`].
    SyncPoint,
    /// [`Element::CaughtUp`].
    CaughtUp {
        /// The source's generation.
        generation: Generation,
        /// Bytes that were copied.
        bytes_copied: u64,
    },
}

impl From<&Element> for ElementKind {
    fn from(element: &Element) -> Self {
        match element {
            Element::Change { sync, .. } => Self::Work { sync: *sync },
            Element::Item { .. } => Self::Work { sync: false },
            Element::SyncPoint => Self::SyncPoint,
            Element::CaughtUp { generation, bytes_copied } => {
                Self::CaughtUp { generation: *generation, bytes_copied: *bytes_copied }
            }
        }
    }
}

/// Orders that a target gives.
#[derive(Debug, Clone, PartialEq)]
pub enum TargetAction {
    /// Connect to the source's data path.
    Connect,
    /// Close the connection.
    Disconnect,
    /// Send a message.
    Send(ToSource),
    /// Send all local marks as [`ToSource::Marks`], the last message with `last: true`.
    SendMarks,
    /// The source holds these marks durably: take them all out of the local mark log.
    ForgetMarks,
    /// Carry this element out, after all earlier ones. One without content is reported as
    /// applied in its turn.
    Apply {
        /// Its number.
        seq: Seq,
    },
    /// Make everything carried out so far durable (what was reported by `Applied`).
    SyncAll,
    /// Tell the control loop.
    News(VolumeNews),
    /// An order ended.
    Finished {
        /// Its name.
        op: OpId,
        /// How.
        outcome: Outcome,
    },
}
