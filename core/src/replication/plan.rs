//! Who copies to whom, and how much: a pure decision from what both sides know of their copies.
//!
//! Marks are independent of lineage: they cover whatever may differ since the two copies were
//! last equal, so even diverged copies are compared by marks alone. A copy that was never equal
//! to the other one, or whose mark log is lost, is compared in full.

use crate::{
    ids::NodeId,
    replication::generation::{CopyState, Generation, Lineage, Relation, compare},
};

/// One side's copy, as known to the decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copy<'a> {
    /// The node.
    pub node: NodeId,
    /// Its history.
    pub lineage: &'a Lineage,
    /// Whether its mark log could be read.
    pub marks_intact: bool,
}

/// How much is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Extent {
    /// Marked parts.
    Delta,
    /// Everything.
    Full,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The node that is copied from.
    pub source: NodeId,
    /// How much.
    pub extent: Extent,
    /// Keep what differs on the target aside under this generation's name first.
    pub keep_aside: Option<Generation>,
    /// Why.
    pub reason: &'static str,
}

/// Why nothing may be copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// Neither side ever held data: an administrator must say which one is right.
    BothBlank,
    /// Both went on separately: an administrator must choose.
    Diverged,
    /// The copies have no common history: an administrator must choose.
    Unrelated,
    /// Both copies are half copied: an administrator must choose.
    BothHalfCopied,
    /// Both copies are of one generation, and neither is known to be better.
    Undecided,
}

/// Decides without an administrator's word. `running`: the node that serves already, if any.
pub fn plan(a: Copy<'_>, b: Copy<'_>, running: Option<NodeId>) -> Result<Plan, Refusal> {
    match compare(a.lineage, b.lineage) {
        Relation::BothBlank => Err(Refusal::BothBlank),
        Relation::LocalNewer => from(a, b, "its history continues the other's"),
        Relation::RemoteNewer => from(b, a, "its history continues the other's"),
        Relation::Same => same(a, b, running),
        Relation::Diverged => Err(Refusal::Diverged),
        Relation::Unrelated => Err(Refusal::Unrelated),
    }
}

/// Decides when an administrator has named the source: whatever the other side holds that the
/// source never had is kept aside.
pub fn plan_chosen(source: Copy<'_>, target: Copy<'_>) -> Plan {
    let relation = compare(source.lineage, target.lineage);
    let lost = match relation {
        Relation::Diverged | Relation::Unrelated | Relation::RemoteNewer => target.lineage.current,
        Relation::BothBlank | Relation::Same | Relation::LocalNewer => None,
    };
    Plan {
        source: source.node,
        extent: extent(source, target, relation),
        keep_aside: lost,
        reason: "an administrator chose it",
    }
}

fn from(source: Copy<'_>, target: Copy<'_>, reason: &'static str) -> Result<Plan, Refusal> {
    if source.lineage.copy == CopyState::Inconsistent {
        return Err(Refusal::BothHalfCopied);
    }
    let relation = compare(source.lineage, target.lineage);
    let extent = extent(source, target, relation);
    Ok(Plan { source: source.node, extent, keep_aside: None, reason })
}

fn same(a: Copy<'_>, b: Copy<'_>, running: Option<NodeId>) -> Result<Plan, Refusal> {
    let whole = |copy: &Copy<'_>| copy.lineage.copy == CopyState::Consistent;
    match (whole(&a), whole(&b)) {
        (true, false) => from(a, b, "the other copy is not whole or is outdated"),
        (false, true) => from(b, a, "the other copy is not whole or is outdated"),
        (false, false) => Err(Refusal::BothHalfCopied),
        (true, true) => match running {
            Some(node) if node == a.node => from(a, b, "it serves already"),
            Some(node) if node == b.node => from(b, a, "it serves already"),
            _ => Err(Refusal::Undecided),
        },
    }
}

fn extent(source: Copy<'_>, target: Copy<'_>, relation: Relation) -> Extent {
    let blank = target.lineage.current.is_none() || source.lineage.current.is_none();
    let known = !matches!(relation, Relation::Unrelated | Relation::BothBlank) && !blank;
    if known && source.marks_intact && target.marks_intact { Extent::Delta } else { Extent::Full }
}

#[cfg(test)]
mod tests;
