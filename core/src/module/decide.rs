//! What a module that waits should do next: become primary, follow, or go on waiting. Pure.

use crate::{
    ids::NodeId,
    quorum::policy::Kind,
    replication::generation::{CopyState, Generation, Lineage, Origin, Relation, compare},
    status::{Phase, WaitReason},
    wire::message::ModuleBeat,
};

/// What an administrator asked for at the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Wish {
    /// The role follows from the data.
    #[default]
    None,
    /// Be primary.
    Prim {
        /// Even with a half-copied copy.
        force: bool,
    },
    /// Be secondary.
    Second,
}

/// Everything the decision depends on.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// This node.
    pub node: NodeId,
    /// The peer.
    pub peer: NodeId,
    /// Files are replicated.
    pub replicated: bool,
    /// Who decides without the peer.
    pub policy: Kind,
    /// Digest of the local configuration.
    pub signature: u64,
    /// History of the local copy.
    pub lineage: &'a Lineage,
    /// Whether this node was the last to be primary.
    pub was_primary: bool,
    /// What an administrator asked for.
    pub wish: Wish,
    /// The peer is still being looked for.
    pub discovering: bool,
    /// The peer's latest heartbeat, if it is heard.
    pub heard: Option<&'a ModuleBeat>,
    /// The primary went away and `failover="off"` forbids to take over.
    pub failover_off: bool,
    /// This node has just handed its role to the peer.
    pub yielding: bool,
    /// This node has just consented to the peer's becoming primary.
    pub promised: bool,
    /// This node has waited so long that a peer which goes first, but gets nowhere, has had its
    /// turn: it may be heard and hear nobody.
    pub impatient: bool,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Go on waiting.
    Wait(WaitReason),
    /// Ask for the right to run.
    Promote(Origin),
    /// Become secondary.
    Follow {
        /// The primary's generation.
        generation: Generation,
        /// Keep what differs aside, under this name.
        keep_aside: Option<Generation>,
    },
}

/// Decides.
pub fn decide(view: &View<'_>) -> Decision {
    use Decision::{Promote, Wait};
    if let Some(beat) = view.heard
        && beat.signature != view.signature
    {
        return Wait(WaitReason::ConfigurationDiffers {
            local: view.signature,
            remote: beat.signature,
        });
    }
    if view.discovering {
        return Wait(WaitReason::Transition);
    }
    let Some(beat) = view.heard else { return without_peer(view) };
    if beat.serving {
        return beside_primary(view, beat);
    }
    match view.wish {
        Wish::Prim { force } => return wished(view, force),
        Wish::Second => return Wait(WaitReason::PeerNotReady),
        Wish::None => {}
    }
    // With both nodes started, the data decide who is primary, as at any start.
    if view.failover_off && !beat.started {
        return Wait(WaitReason::FailoverOff);
    }
    let stuck = view.impatient && beat.phase == Phase::NotReady;
    if view.promised || beat.wanting && !stuck {
        return Wait(WaitReason::PeerNotReady);
    }
    match standing(view, beat) {
        Standing::TheirTurn if stuck && !view.failover_off && !view.yielding => {
            Promote(origin(view))
        }
        Standing::Mine if view.yielding => Wait(WaitReason::PeerNotReady),
        Standing::Mine => Promote(origin(view)),
        Standing::Theirs | Standing::TheirTurn if view.failover_off => {
            Wait(WaitReason::FailoverOff)
        }
        Standing::Theirs | Standing::TheirTurn if view.yielding || beat.started => {
            Wait(WaitReason::PeerNotReady)
        }
        Standing::Theirs | Standing::TheirTurn => Wait(not_up_to_date(view.lineage)),
        Standing::Nobody(reason) => Wait(reason),
    }
}

/// Which of two waiting nodes should be primary.
enum Standing {
    Mine,
    Theirs,
    /// The peer goes first among equals.
    TheirTurn,
    Nobody(WaitReason),
}

fn standing(view: &View<'_>, beat: &ModuleBeat) -> Standing {
    if !view.replicated {
        return by_rank(view, beat);
    }
    let mine = usable(view.lineage);
    let theirs = usable(&beat.lineage);
    match compare(view.lineage, &beat.lineage) {
        Relation::BothBlank => Standing::Nobody(WaitReason::NeverStarted),
        Relation::Same => match (mine, theirs) {
            (true, true) => by_rank(view, beat),
            (true, false) => Standing::Mine,
            (false, true) => Standing::Theirs,
            // Each consented to the other's claim and neither began a generation, or it would be
            // here: with both present, both hold every acknowledged write.
            (false, false) => match (view.lineage.copy, beat.lineage.copy) {
                (CopyState::Outdated, CopyState::Outdated) => by_rank(view, beat),
                // Or one of the two has lost its copy since.
                (CopyState::Outdated, CopyState::Inconsistent) => Standing::Mine,
                (CopyState::Inconsistent, CopyState::Outdated) => Standing::Theirs,
                _ => Standing::Nobody(not_up_to_date(view.lineage)),
            },
        },
        Relation::LocalNewer if mine => Standing::Mine,
        Relation::LocalNewer => Standing::Nobody(not_up_to_date(view.lineage)),
        Relation::RemoteNewer => Standing::Theirs,
        // A copy that its own record calls stale or half copied claims nothing.
        Relation::Diverged | Relation::Unrelated => match (mine, theirs) {
            (true, false) => Standing::Mine,
            (false, true) => Standing::Theirs,
            _ => Standing::Nobody(WaitReason::Diverged),
        },
    }
}

/// Between equals: the last primary, else the lower number. A stopped module yields.
fn by_rank(view: &View<'_>, beat: &ModuleBeat) -> Standing {
    let mine = (!beat.started, view.was_primary, view.node < view.peer);
    let theirs = (false, beat.was_primary, view.peer < view.node);
    if mine > theirs { Standing::Mine } else { Standing::TheirTurn }
}

fn usable(lineage: &Lineage) -> bool {
    lineage.copy == CopyState::Consistent
        || crate::mutant::active(crate::mutant::Mutant::OutdatedMayPromote)
            && lineage.copy == CopyState::Outdated
}

fn origin(view: &View<'_>) -> Origin {
    match (view.lineage.current, view.was_primary) {
        (None, _) => Origin::Forced,
        (Some(_), true) => Origin::Solo,
        (Some(_), false) => Origin::Failover,
    }
}

fn without_peer(view: &View<'_>) -> Decision {
    use Decision::{Promote, Wait};
    match view.wish {
        Wish::Prim { force } => return wished(view, force),
        Wish::Second => return Wait(WaitReason::PeerNotReady),
        Wish::None => {}
    }
    if view.failover_off {
        return Wait(WaitReason::FailoverOff);
    }
    if view.yielding || view.promised {
        return Wait(WaitReason::PeerNotReady);
    }
    if view.replicated && !usable(view.lineage) {
        return Wait(not_up_to_date(view.lineage));
    }
    // Under a lease, the witness knows who holds every acknowledged write. Without one, only a
    // node that went on alone can know that its copy is the newest.
    if view.replicated && view.lineage.peer_in_sync && view.policy != Kind::Lease {
        return Wait(WaitReason::NotUpToDate);
    }
    Promote(origin(view))
}

fn wished(view: &View<'_>, force: bool) -> Decision {
    if view.lineage.copy == CopyState::Inconsistent && !force {
        return Decision::Wait(WaitReason::HalfCopied);
    }
    Decision::Promote(Origin::Forced)
}

/// The peer runs the application, or is about to.
fn beside_primary(view: &View<'_>, beat: &ModuleBeat) -> Decision {
    use Decision::{Follow, Wait};
    let Some(generation) = beat.lineage.current else {
        return Wait(WaitReason::PeerNotReady);
    };
    if !beat.open {
        return Wait(WaitReason::PeerNotReady);
    }
    match compare(view.lineage, &beat.lineage) {
        Relation::Same | Relation::RemoteNewer => Follow { generation, keep_aside: None },
        Relation::Diverged | Relation::Unrelated => {
            Follow { generation, keep_aside: view.lineage.current }
        }
        // The primary runs on an older copy: somebody forced it. Never overwrite silently.
        Relation::LocalNewer => match view.wish {
            Wish::Second => Follow { generation, keep_aside: view.lineage.current },
            _ => Wait(WaitReason::Diverged),
        },
        Relation::BothBlank => Wait(WaitReason::PeerNotReady),
    }
}

fn not_up_to_date(lineage: &Lineage) -> WaitReason {
    match lineage.copy {
        CopyState::Blank => WaitReason::NeverStarted,
        CopyState::Inconsistent => WaitReason::HalfCopied,
        CopyState::Outdated | CopyState::Consistent => WaitReason::NotUpToDate,
    }
}

/// Which of two primaries that meet stays: true if it is this node.
///
/// The one that was primary before the network was cut (reference: safekit.md section 3.8), then
/// the longer line, then the lower number. Symmetric: the other node gets the opposite answer.
pub fn stays(node: NodeId, local: &Lineage, peer: NodeId, remote: &Lineage) -> bool {
    let rank = |lineage: &Lineage, id: NodeId| {
        let g = lineage.current;
        let origin = g.map_or(0, |g| match g.origin {
            Origin::Forced => 3,
            Origin::Solo => 2,
            Origin::Failover => 1,
        });
        (origin, g.map_or(0, |g| g.number), std::cmp::Reverse(id))
    };
    rank(local, node) > rank(remote, peer)
}
