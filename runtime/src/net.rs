//! What the agent asks of the network: datagrams over the networks of `cluster.xml`.
//!
//! Loss, repetition and reordering are allowed; the content is sealed before it gets here.

use std::{collections::BTreeMap, net::SocketAddr};

use havre_core::{
    effect::Route,
    ids::{LinkId, NodeId},
};

/// Largest datagram sent or accepted, in bytes: fits an IPv6 path of the minimum size of most
/// networks only when small, and is fragmented otherwise; heartbeats are a few hundred bytes.
pub const DATAGRAM_BYTES_MAX: usize = 16 * 1024;

/// A datagram that arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datagram {
    /// The network on which it arrived.
    pub link: LinkId,
    /// The address it claims to come from.
    pub from: SocketAddr,
    /// Its bytes, not yet opened.
    pub bytes: Vec<u8>,
}

/// The networks of one node.
#[expect(async_fn_in_trait, reason = "agents are single-threaded: futures need not be Send")]
pub trait Net {
    /// Sends one datagram, or drops it if that would have to wait.
    fn send(&self, link: LinkId, to: SocketAddr, bytes: &[u8]);

    /// The next datagram. Must lose nothing when its future is dropped.
    async fn receive(&self) -> Datagram;

    /// A datagram that has already arrived, if any.
    fn try_receive(&self) -> Option<Datagram>;
}

/// Where the other members of the cluster listen, network by network.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Peers {
    addresses: BTreeMap<NodeId, Vec<(LinkId, SocketAddr)>>,
}

impl Peers {
    /// Makes an empty table.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the address of a member on one network; replaces an earlier one.
    pub fn insert(&mut self, node: NodeId, link: LinkId, address: SocketAddr) {
        let links = self.addresses.entry(node).or_default();
        links.retain(|(known, _)| *known != link);
        links.push((link, address));
        links.sort_unstable();
    }

    /// The members, in order.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> {
        self.addresses.keys().copied()
    }

    /// The networks and addresses that `route` means for `to`.
    pub fn along(&self, to: NodeId, route: Route) -> impl Iterator<Item = (LinkId, SocketAddr)> {
        let known = self.addresses.get(&to).map_or(&[][..], Vec::as_slice);
        known.iter().copied().filter(move |(link, _)| match route {
            Route::All => true,
            Route::Link(only) => *link == only,
        })
    }
}
