//! What the packet filter of one node is told: everything a loader needs, nothing it must decide.
//!
//! The filter judges packets to the virtual addresses like this:
//! - a packet of a TCP connection that exists on this node is taken here, whoever owns its bucket;
//! - one that would begin a connection, or has none (UDP), is taken by the bucket's owner alone:
//!   elsewhere it is dropped ([`InterfaceKind::VmacInvisible`]) or passed on to the owner's MAC
//!   address ([`InterfaceKind::VmacDirected`]);
//! - a TCP packet of a connection that its bucket's owner does not know belongs to one of the
//!   bucket's *holders*, if there are any: the owner stays silent (invisible) or passes it on to
//!   the holders one after the other (directed), and never answers with a reset;
//! - what no rule matches is denied.
//!
//! [`InterfaceKind::VmacInvisible`]: crate::config::module::InterfaceKind::VmacInvisible
//! [`InterfaceKind::VmacDirected`]: crate::config::module::InterfaceKind::VmacDirected

use serde::{Deserialize, Serialize};

use super::{BUCKETS, BucketSet, MemberSet, Slot};
use crate::{
    config::module::{InterfaceKind, RuleConfig},
    ids::NodeId,
    status::VirtualIp,
    time::Instant,
};

/// Orders to a module's packet filter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FilterRequest {
    /// From now on judge by this table; the change is atomic. Done only once packets are judged
    /// by it. A node on which this fails must accept nothing.
    Set(Box<FilterTable>),
    /// The table stands, and is valid until this moment.
    Extend {
        /// As [`FilterTable::until`].
        until: Instant,
    },
    /// Take the filter away; one that is not there is no error. Waits for nothing, and voids what
    /// waits.
    Clear,
}

/// News of a packet filter that nobody ordered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FilterNews {
    /// Connections to the virtual addresses, looked at about once per second while a table stands.
    Connections {
        /// Number of the table by which they were looked at.
        table: u64,
        /// All that are established on this node.
        established: u32,
        /// Group by group: the buckets that this node does not own and in which it has
        /// established connections.
        foreign: Vec<BucketSet>,
    },
    /// The filter does not work any more: this node accepts nothing.
    Failed {
        /// What the operating system said, and what to do.
        error: String,
    },
}

/// How packets are judged. Groups, members and rules are in the order of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilterTable {
    /// Grows with each table of one run of the daemon.
    pub number: u64,
    /// This node.
    pub local: Slot,
    /// Every node of the farm, at most [`MEMBERS_MAX`](super::set::MEMBERS_MAX); owners and
    /// holders are positions here.
    pub members: Vec<FilterMember>,
    /// Who answers ARP and neighbour discovery for the addresses of directed interfaces with its
    /// own MAC address, and announces them, unless a rule for ARP spreads this.
    pub leader: Option<Slot>,
    /// The network cards with their addresses.
    pub interfaces: Vec<FilterInterface>,
    /// Rules of all groups; the first one that matches a packet decides.
    pub rules: Vec<FilterRule>,
    /// The groups.
    pub groups: Vec<FilterGroup>,
    /// Whether connections whose bucket moves stay where they are.
    pub keep_established: bool,
    /// Whether this node takes no new clients because an administrator drains it.
    pub draining: bool,
    /// From this moment on (clock of this node since boot) nothing new is accepted: the others
    /// count this node as lost then. `None`: no end.
    pub until: Option<Instant>,
}

/// A node of the farm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilterMember {
    /// Which.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Its addresses on the farm's networks, as `cluster.xml` writes them: its MAC address is
    /// learned by asking for them.
    pub addrs: Vec<String>,
    /// Whether it is heard and counted.
    pub live: bool,
}

/// A network card with virtual addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilterInterface {
    /// Its name; `None`: the one whose network contains the first address.
    pub name: Option<String>,
    /// How packets reach the nodes.
    pub kind: InterfaceKind,
    /// Its virtual addresses.
    pub addresses: Vec<VirtualIp>,
}

/// A rule and the group it belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilterRule {
    /// What it matches, and by what packets are shared.
    pub rule: RuleConfig,
    /// Position of its group.
    pub group: u8,
}

/// How one group's packets are shared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilterGroup {
    /// Its name.
    pub name: String,
    /// Its buckets, exactly [`BUCKETS`].
    pub buckets: Vec<FilterBucket>,
}

/// One bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FilterBucket {
    /// Who takes new connections; `None`: nobody now, they are dropped.
    pub owner: Option<Slot>,
    /// Live members, the owner excluded, that may still have established connections.
    pub holders: MemberSet,
}

impl FilterTable {
    /// The buckets of a group that this node owns.
    pub fn own(&self, group: usize) -> BucketSet {
        self.owned_by(group, self.local)
    }

    /// The buckets of a group that a member owns.
    pub fn owned_by(&self, group: usize, slot: Slot) -> BucketSet {
        let Some(group) = self.groups.get(group) else { return BucketSet::EMPTY };
        assert_eq!(group.buckets.len(), BUCKETS, "every bucket of a group has its line");
        let owned = super::set::buckets().zip(&group.buckets);
        owned.filter(|(_, bucket)| bucket.owner == Some(slot)).map(|(number, _)| number).collect()
    }
}
