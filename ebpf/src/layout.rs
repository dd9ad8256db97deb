//! What the program in the kernel reads: plain values of fixed size, written by the daemon.
//!
//! One [`Table`] holds everything about one interface. The kernel keeps [`TABLES`] of them and a
//! number that says which one counts, so that a change becomes visible at once and as a whole:
//! the daemon fills a table that nobody reads, then changes the number.
//!
//! Virtual addresses, rules and members are found by one look each: the daemon searches a seed
//! under which no two of them fall into the same slot (`builder`).

use crate::hash::{Words, chain, fmix32};

/// Changes whenever the layout does: pinned maps of another version are not taken over.
pub const LAYOUT_VERSION: u32 = 1;
/// Nodes that one filter can tell apart.
pub const NODES_MAX: usize = 64;
/// Groups of rules per interface.
pub const GROUPS_MAX: usize = 16;
/// Buckets of a group.
pub const BUCKETS: usize = 256;
/// Virtual addresses per interface.
pub const VIPS_MAX: usize = 16;
/// Rules per interface, after `*` was replaced by each virtual address.
pub const RULES_MAX: usize = 64;
/// Modules per interface.
pub const MODULES_MAX: usize = 16;
/// Slots of virtual addresses.
pub const VIP_SLOTS: usize = 64;
/// Slots of rules.
pub const RULE_SLOTS: usize = 512;
/// Slots of members.
pub const MEMBER_SLOTS: usize = 256;
/// Tables in the ring: one counts, the next is filled; the others give readers time to finish.
pub const TABLES: u32 = 4;
/// Entries of the map of accepted connections.
pub const FLOWS_MAX: u32 = 65_536;
/// Entries of the map of fragmented packets.
pub const FRAGMENTS_MAX: u32 = 8_192;

/// Marks the absence of a group.
pub const NO_GROUP_OF_RULE: u8 = 0xff;
/// [`Table::owners`]: nobody owns the bucket.
pub const NOBODY: u8 = 0x80;
/// [`Table::owners`]: other nodes may hold connections of the bucket, see [`Table::holders`].
pub const HELD: u8 = 0x40;
/// [`Table::owners`]: the owner's number.
pub const OWNER: u8 = 0x3f;
/// No end of a module's time.
pub const NO_DEADLINE: u64 = u64::MAX;

/// An Ethernet address in the low 48 bits, first byte highest.
pub type MacValue = u64;

/// The number of an Ethernet address.
pub const fn mac_value(mac: [u8; 6]) -> MacValue {
    let [a, b, c, d, e, f] = mac;
    u64::from_be_bytes([0, 0, a, b, c, d, e, f])
}

/// Names of the maps, as the daemon finds them in the object.
pub mod map {
    /// `u32`: number of the table that counts.
    pub const ACTIVE: &str = "ACTIVE";
    /// [`super::Table`], [`super::TABLES`] of them.
    pub const TABLES: &str = "TABLES";
    /// `u64` per module: nanoseconds of the boot clock after which nothing new is accepted.
    pub const DEADLINES: &str = "DEADLINES";
    /// `u64` per processor, group and verdict.
    pub const COUNTERS: &str = "COUNTERS";
    /// Connections that began here while their bucket was also held elsewhere.
    pub const FLOWS: &str = "FLOWS";
    /// What became of the first fragment of a packet.
    pub const FRAGMENTS: &str = "FRAGMENTS";
    /// The program.
    pub const PROGRAM: &str = "havre_filter";
}

/// By what clients are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Criterion {
    /// Client address.
    Addr = 0,
    /// Client address and source port.
    Port = 1,
    /// Identification field of IPv4; IPv6 has none, there it is [`Addr`](Self::Addr).
    IpId = 2,
}

/// Where a rule leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Target {
    /// Number of the group, or [`NO_GROUP_OF_RULE`].
    pub group: u8,
    /// A [`Criterion`] as number.
    pub criterion: u8,
}

impl Target {
    /// No rule.
    pub const NONE: Self = Self { group: NO_GROUP_OF_RULE, criterion: 0 };
}

/// [`Vip::flags`]: the slot is taken.
pub const USED: u8 = 1;
/// [`Vip::flags`]: delivered to every node under the virtual Ethernet address.
pub const INVISIBLE: u8 = 2;
/// [`Vip::flags`]: this node answers for the address if no rule spreads that.
pub const ANSWERS: u8 = 4;
/// [`Vip::flags`]: the module has no rules: everything passes.
pub const UNRULED: u8 = 8;

/// One virtual address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Vip {
    /// The address.
    pub addr: Words,
    /// The Ethernet address under which it is known: the virtual one, or this node's.
    pub mac: MacValue,
    /// Rule for TCP to any port.
    pub tcp: Target,
    /// Rule for UDP to any port.
    pub udp: Target,
    /// Group that says who answers whom, or [`NO_GROUP_OF_RULE`].
    pub arp_group: u8,
    /// Number of the module, for its deadline.
    pub module: u8,
    /// Number of the address, for rules.
    pub id: u8,
    /// [`USED`], [`INVISIBLE`], [`ANSWERS`], [`UNRULED`].
    pub flags: u8,
}

/// One rule for one address, protocol and port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Rule {
    /// [`rule_key`], or 0 for a free slot.
    pub key: u32,
    /// Where it leads.
    pub target: Target,
    /// Zero.
    pub padding: u16,
}

/// Everything about one interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Table {
    /// This node's own Ethernet address.
    pub own_mac: MacValue,
    /// This node's number.
    pub own: u32,
    /// Seed of [`vip_slot`].
    pub vip_seed: u32,
    /// Seed of [`rule_slot`].
    pub rule_seed: u32,
    /// Seed of [`member_slot`].
    pub member_seed: u32,
    /// Virtual addresses.
    pub vips: [Vip; VIP_SLOTS],
    /// Rules.
    pub rules: [Rule; RULE_SLOTS],
    /// Ethernet addresses of the other members: address * 256 + number + 1; 0 for a free slot.
    pub members: [u64; MEMBER_SLOTS],
    /// Ethernet address per node; 0 if not known.
    pub macs: [MacValue; NODES_MAX],
    /// Owner of each bucket of each group: [`OWNER`], [`HELD`], [`NOBODY`].
    pub owners: [[u8; BUCKETS]; GROUPS_MAX],
    /// Nodes, one bit each, that may hold connections of a bucket whose owner they are not.
    pub holders: [[u64; BUCKETS]; GROUPS_MAX],
}

/// Slot of a virtual address.
#[inline(always)]
pub const fn vip_slot(addr: &Words, seed: u32) -> usize {
    chain(addr, seed) as usize & (VIP_SLOTS - 1)
}

/// A rule's address, protocol and port as one number; never zero.
#[inline(always)]
pub const fn rule_key(vip: u8, protocol: u8, port: u16) -> u32 {
    (vip as u32) << 24 | (protocol as u32) << 16 | port as u32
}

/// Slot of a rule.
#[inline(always)]
pub const fn rule_slot(key: u32, seed: u32) -> usize {
    fmix32(key ^ seed) as usize & (RULE_SLOTS - 1)
}

/// Slot of a member.
#[inline(always)]
pub const fn member_slot(mac: MacValue, seed: u32) -> usize {
    fmix32(fmix32(mac as u32 ^ seed) ^ (mac >> 32) as u32) as usize & (MEMBER_SLOTS - 1)
}

/// One connection, seen from the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct Flow {
    /// The client's address.
    pub client: Words,
    /// The virtual address.
    pub vip: Words,
    /// The client's port.
    pub client_port: u16,
    /// The service's port.
    pub vip_port: u16,
}

/// One fragmented packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct FragmentKey {
    /// The sender.
    pub client: Words,
    /// Identification, 16 bits in IPv4.
    pub id: u32,
    /// Number of the virtual address.
    pub vip: u8,
    /// Protocol; IPv6 has none in later fragments, there it is 0.
    pub protocol: u8,
    /// Zero.
    pub padding: u16,
}

/// What became of the first fragment of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct FragmentFate {
    /// [`FATE_DROP`], [`FATE_ACCEPT`] or [`FATE_FORWARD`].
    pub fate: u8,
    /// To whom it was forwarded.
    pub node: u8,
    /// Its group.
    pub group: u8,
    /// Its counter.
    pub counter: u8,
}

/// [`FragmentFate::fate`]: dropped.
pub const FATE_DROP: u8 = 0;
/// [`FragmentFate::fate`]: passed to this node.
pub const FATE_ACCEPT: u8 = 1;
/// [`FragmentFate::fate`]: forwarded.
pub const FATE_FORWARD: u8 = 2;
