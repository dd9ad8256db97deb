//! Data lineage: decides which copy is up to date. Never by clocks.
//!
//! A [`Generation`] names a stretch of a module's history during which the same set of nodes held
//! every acknowledged write. A node that starts to write without its peer first makes a new
//! generation durable. Two copies are compared by [`compare`], which is a pure function.
//!
//! Sources: DRBD's generation identifiers (drbd user guide, "generation identifiers");
//! docs/internals/replication.md.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::NodeId;

/// Ancestors remembered in a [`Lineage`]; a peer that missed more than this many changes of
/// generation is resynchronised in full.
pub const ANCESTORS_MAX: usize = 16;

/// Why a generation was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Origin {
    /// An administrator forced this node to be primary (`prim`).
    Forced,
    /// A primary went on without its secondary.
    Solo,
    /// A secondary took over.
    Failover,
}

/// The name of one stretch of history. Two generations are the same only if all fields are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Generation {
    /// How many generations came before on this line.
    pub number: u32,
    /// The node that began it.
    pub creator: NodeId,
    /// Drawn at random by the creator, so that a reinstalled node never repeats a name.
    pub nonce: u64,
    /// Why it was begun.
    pub origin: Origin,
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "g{}.{}.{:08x}", self.number, self.creator, self.nonce as u32)
    }
}

/// What a node knows of its own copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum CopyState {
    /// Never held the module's data.
    Blank,
    /// A resynchronisation began and has not ended: parts are old, parts are new.
    Inconsistent,
    /// Whole, but the peer is known to have gone on without it.
    Outdated,
    /// Whole, and holds every acknowledged write of its generation as far as this node knows.
    Consistent,
}

/// The durable record of a copy's history.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Lineage {
    /// The generation the copy belongs to; `None` for a blank copy.
    pub current: Option<Generation>,
    /// Earlier generations, the most recent first, at most [`ANCESTORS_MAX`].
    pub ancestors: Vec<Generation>,
    /// What this node knows of its own copy.
    pub copy: CopyState,
    /// Whether the peer may hold every acknowledged write of `current` too.
    pub peer_in_sync: bool,
}

/// How two copies relate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Relation {
    /// Neither side ever held data.
    BothBlank,
    /// The same generation.
    Same,
    /// The local copy descends from the remote one: the remote is resynchronised from here.
    LocalNewer,
    /// The remote copy descends from the local one.
    RemoteNewer,
    /// Both went on separately from a common ancestor: split brain happened.
    Diverged,
    /// No common ancestor is known.
    Unrelated,
}

impl Lineage {
    /// The lineage of a copy that never held data.
    pub const fn blank() -> Self {
        Self { current: None, ancestors: Vec::new(), copy: CopyState::Blank, peer_in_sync: false }
    }

    /// The generation that would follow the current one.
    pub fn successor(&self, creator: NodeId, nonce: u64, origin: Origin) -> Generation {
        let number = self.current.map_or(1, |g| g.number.saturating_add(1));
        Generation { number, creator, nonce, origin }
    }

    /// Moves on to `generation`, which this node holds alone.
    pub fn advance(&mut self, generation: Generation) {
        if self.current == Some(generation) {
            return;
        }
        if let Some(old) = self.current {
            self.ancestors.insert(0, old);
            self.ancestors.truncate(ANCESTORS_MAX);
        }
        self.current = Some(generation);
        self.copy = CopyState::Consistent;
        self.peer_in_sync = false;
    }

    /// Takes over the history of `source` at the end of a resynchronisation.
    pub fn adopt(&mut self, source: &Self) {
        self.current = source.current;
        self.ancestors.clone_from(&source.ancestors);
        self.copy = CopyState::Consistent;
        self.peer_in_sync = true;
    }

    fn knows(&self, generation: Generation) -> bool {
        self.current == Some(generation) || self.ancestors.contains(&generation)
    }
}

/// Compares the histories of two copies.
pub fn compare(local: &Lineage, remote: &Lineage) -> Relation {
    let (mine, theirs) = match (local.current, remote.current) {
        (None, None) => return Relation::BothBlank,
        (Some(_), None) => return Relation::LocalNewer,
        (None, Some(_)) => return Relation::RemoteNewer,
        (Some(mine), Some(theirs)) => (mine, theirs),
    };
    if mine == theirs {
        return Relation::Same;
    }
    match (local.knows(theirs), remote.knows(mine)) {
        (true, false) => Relation::LocalNewer,
        (false, true) => Relation::RemoteNewer,
        // Each among the other's ancestors cannot happen: names are never reused.
        (true, true) => Relation::Diverged,
        (false, false) => {
            if local.ancestors.iter().any(|g| remote.knows(*g)) {
                Relation::Diverged
            } else {
                Relation::Unrelated
            }
        }
    }
}

#[cfg(test)]
mod tests;
