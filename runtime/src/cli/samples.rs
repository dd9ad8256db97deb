//! States for tests of what shows them.

use havre_core::{
    checks::record::ChecksStatus,
    ids::{LinkId, ModuleId, NodeId},
    replication::generation::Lineage,
    status::{ModuleStatus, NodeStatus, PeerStatus, Phase, State},
    time::Instant,
};

/// A node with modules of these names, all primary.
pub(crate) fn node_status(modules: &[&str]) -> NodeStatus {
    NodeStatus {
        node: NodeId(0),
        name: "node1".to_owned(),
        modules: modules.iter().map(|name| module_status(name)).collect(),
        witness: Some(true),
        protocol: 1,
    }
}

/// A primary with its secondary.
pub(crate) fn module_status(name: &str) -> ModuleStatus {
    ModuleStatus {
        module: ModuleId(1),
        name: name.to_owned(),
        state: State::Prim,
        phase: Phase::Ready,
        wait: None,
        reason: "the secondary is synchronised".to_owned(),
        since: Instant::from_millis(10_000),
        up_to_date: true,
        lineage: Lineage::blank(),
        address_held: true,
        application: true,
        epoch: None,
        right_until: None,
        resync: None,
        kept_aside: Vec::new(),
        peers: vec![PeerStatus {
            node: NodeId(1),
            name: "node2".to_owned(),
            alive: true,
            state: Some((State::Second, Phase::Ready)),
            generation: None,
            links: vec![(LinkId(0), "default".to_owned(), true)],
        }],
        farm: None,
        signature: 0xfeed,
        starts: 1,
        checks: ChecksStatus::default(),
    }
}
