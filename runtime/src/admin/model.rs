//! What the interface says. JSON; fields are added, never changed, within version 1.

use std::collections::BTreeMap;

use havre_core::{
    config::difference::Change, farm::explain::Explanation, status::NodeStatus, time::Instant,
};
use serde::{Deserialize, Serialize};

use crate::events::log::Entry;

/// The picture of a node at a moment of its own clock.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The moment.
    pub now: Instant,
    /// The picture.
    pub node: NodeStatus,
    /// For each module that waits: why, and what to do.
    pub waits: BTreeMap<String, String>,
}

impl Snapshot {
    /// Adds the words to a picture.
    pub fn of(now: Instant, node: NodeStatus) -> Self {
        let words = |module: &havre_core::status::ModuleStatus| {
            Some((module.name.clone(), module.wait.as_ref()?.to_string()))
        };
        let waits = node.modules.iter().filter_map(words).collect();
        Self { now, node, waits }
    }
}

/// Which node of a farm takes a client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explained {
    /// Who and by what.
    pub explanation: Explanation,
    /// The same in words.
    pub words: String,
}

/// Entries of a log, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogReply {
    /// The entries.
    pub entries: Vec<Entry>,
}

/// The nodes of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeNames {
    /// The node that answers.
    pub own: String,
    /// All of them, the one that answers included, in the order of `cluster.xml`.
    pub nodes: Vec<String>,
}

/// A configuration that is ready to be applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Staged {
    /// Digest of what the nodes must agree about.
    pub signature: u64,
    /// Digest of everything.
    pub revision: u64,
    /// Whether a configuration of the module is active now.
    pub active: bool,
    /// Whether the module must be stopped for it.
    pub needs_stop: bool,
    /// Whether the module runs.
    pub running: bool,
    /// What differs from the active one.
    pub changes: Vec<Change>,
}

/// Why a request was not carried out, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// In words.
    pub error: String,
}
