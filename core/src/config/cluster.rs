//! `cluster.xml`: who the nodes are and over which networks they talk.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ids::{LinkId, NodeId};

mod parse;

pub use parse::{LANS_MAX, NODES_MAX, parse};

/// The whole of `cluster.xml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterConfig {
    /// UDP port of the nodes' datagrams. Default 4800.
    pub port: u16,
    /// Names of the nodes in the order of their first appearance; the position is the [`NodeId`].
    pub nodes: Vec<String>,
    /// The networks; the position is the [`LinkId`].
    pub lans: Vec<Lan>,
    /// The third-party arbiter, if there is one (Havre's own element `<witness addr port>`).
    pub witness: Option<WitnessAddress>,
}

/// One network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lan {
    /// Logical name used by modules.
    pub name: String,
    /// Whether distributed commands use this network. Default off.
    pub command: bool,
    /// The nodes on it.
    pub nodes: Vec<LanNode>,
}

/// One node on one network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LanNode {
    /// Which node.
    pub node: NodeId,
    /// Address at which the others reach it: IPv4, IPv6 (brackets removed), or a name.
    pub addr: String,
    /// Address to bind locally where the node is behind NAT.
    pub local_addr: Option<String>,
}

/// Where the witness listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WitnessAddress {
    /// IPv4, IPv6, or a name.
    pub addr: String,
    /// UDP port. Default 4799.
    pub port: u16,
}

/// UDP port of the nodes' datagrams unless `<lans port>` says otherwise.
pub const CLUSTER_PORT_DEFAULT: u16 = 4800;
/// UDP port of the witness unless `<witness port>` says otherwise.
pub const WITNESS_PORT_DEFAULT: u16 = 4799;

impl ClusterConfig {
    /// The node of that name.
    pub fn node_named(&self, name: &str) -> Option<NodeId> {
        let index = self.nodes.iter().position(|n| n == name)?;
        u16::try_from(index).ok().map(NodeId)
    }

    /// The nodes, in order.
    pub fn node_ids(&self) -> impl Iterator<Item = NodeId> + use<> {
        let count = u16::try_from(self.nodes.len()).expect("the parser bounds their number");
        (0..count).map(NodeId)
    }

    /// The name of a node; `witness` for the witness, `?` for a number that is not a member.
    pub fn name_of(&self, node: NodeId) -> &str {
        if node == NodeId::WITNESS {
            return "witness";
        }
        self.nodes.get(usize::from(node.0)).map_or("?", String::as_str)
    }

    /// The network of that name.
    pub fn lan_named(&self, name: &str) -> Option<LinkId> {
        let index = self.lans.iter().position(|l| l.name == name)?;
        u16::try_from(index).ok().map(LinkId)
    }
}

/// Pulse and time-out of one network, in a module's or the cluster's view.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkTiming {
    /// Period between heartbeats.
    pub pulse: Duration,
    /// Silence after which the network counts as lost.
    pub timeout: Duration,
}
