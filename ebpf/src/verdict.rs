//! The decision about one frame.
//!
//! ```text
//! not to a virtual address, or to another host's Ethernet address ─> pass, untouched
//! ARP request, neighbour solicitation for one ─> answer, or leave it to the node that answers
//! to one: no rule ─> drop
//!   bucket is ours:     a connection that others may hold, and we do not ─> relay to them
//!                       else ─> accept
//!   bucket is another's: a connection relayed to us, or that we hold ─> accept
//!                       every node sees the frame ─> drop     only we see it ─> forward
//! ```
//!
//! Connections survive the movement of their bucket: docs/adr/0006-moved-connections-relayed.md.
//! Fragments follow the first fragment of their packet; a later one that comes before the first
//! is accepted by every node under a virtual Ethernet address (it is worth nothing alone), and
//! dropped elsewhere. Errors of ICMP follow the connection that they speak of.

use crate::{
    counters::{Counter, NO_GROUP},
    hash::{Words, bucket, mapped, on_addr, on_ipid, on_port},
    layout::{
        ANSWERS, BUCKETS, Criterion, FATE_ACCEPT, FATE_DROP, FATE_FORWARD, Flow, FragmentFate,
        FragmentKey, GROUPS_MAX, HELD, INVISIBLE, MEMBER_SLOTS, NO_GROUP_OF_RULE, NOBODY,
        NODES_MAX, OWNER, RULE_SLOTS, Table, Target, UNRULED, USED, VIP_SLOTS, Vip, member_slot,
        rule_key, rule_slot, vip_slot,
    },
    packet::{
        ARP, Ethernet, Fields, ICMP, ICMPV6, IPV4, IPV6, Packet, TCP, UDP, ethernet, extensions,
    },
};

/// What else the filter asks, and remembers.
pub trait Kernel {
    /// Whether this node has a socket of this connection, a listening one apart.
    fn has_socket(&self, flow: &Flow) -> bool;
    /// Whether [`began`](Self::began) was called for it and it was not forgotten since.
    fn has_begun(&self, flow: &Flow) -> bool;
    /// A connection began here.
    fn began(&self, flow: &Flow);
    /// Whether the module's time has passed.
    fn is_expired(&self, module: u8) -> bool;
    /// What became of the first fragment.
    fn fate(&self, key: &FragmentKey) -> Option<FragmentFate>;
    /// Remembers what became of the first fragment.
    fn set_fate(&self, key: &FragmentKey, fate: FragmentFate);
}

/// What is done with a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Nothing: it goes its way.
    Pass,
    /// It goes to this node's stack, under this node's own Ethernet address.
    Accept,
    /// It ends here.
    Drop,
    /// It goes back to the network, to this node.
    Forward {
        /// Number of the node.
        node: u8,
        /// Where the header of IP begins.
        at: u8,
    },
    /// It becomes the answer to a question of ARP.
    AnswerArp {
        /// The address's Ethernet address.
        mac: u64,
        /// Where the question begins.
        at: u8,
    },
    /// It becomes a neighbour advertisement.
    AnswerNeighbour {
        /// The address's Ethernet address.
        mac: u64,
        /// Where the header of IPv6 begins.
        at: u8,
    },
}

/// An action, and how it is counted; `None`: nothing to do with virtual addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// What is done.
    pub action: Action,
    /// Group and counter.
    pub counted: Option<(u8, Counter)>,
}

impl Verdict {
    const PASS: Self = Self { action: Action::Pass, counted: None };
    const DENIED: Self = Self::new(Action::Drop, NO_GROUP, Counter::Denied);

    const fn new(action: Action, group: u8, counter: Counter) -> Self {
        Self { action, counted: Some((group, counter)) }
    }
}

/// A packet to a virtual address.
#[derive(Clone, Copy)]
struct Arrival<'a> {
    vip: &'a Vip,
    /// Ethernet address of whoever sent the frame.
    from: u64,
    /// Every node of the farm sees this frame.
    shared: bool,
    /// Where the header of IP begins.
    at: u8,
    client: Words,
    ipid: Option<u16>,
}

/// A packet with ports.
#[derive(Clone, Copy)]
struct Segment {
    protocol: u8,
    client_port: u16,
    vip_port: u16,
    /// Not the first packet of a connection.
    midstream: bool,
}

/// Decides about one frame.
#[inline(always)]
pub fn judge<P: Packet + ?Sized, K: Kernel>(packet: &P, table: &Table, kernel: &K) -> Verdict {
    let Some(frame) = ethernet(packet) else { return Verdict::PASS };
    match frame.ethertype {
        IPV4 => ipv4(packet, table, kernel, &frame),
        IPV6 => ipv6(packet, table, kernel, &frame),
        ARP => arp(packet, table, &frame),
        _ => Verdict::PASS,
    }
}

#[inline(always)]
fn ipv4<P: Packet + ?Sized, K: Kernel>(
    packet: &P,
    table: &Table,
    kernel: &K,
    frame: &Ethernet,
) -> Verdict {
    let Some(header) = packet.part::<20>(frame.next) else { return Verdict::PASS };
    let Some(vip) = find_vip(table, &mapped(header.be32(16))) else { return Verdict::PASS };
    let client = mapped(header.be32(12));
    let ipid = header.be16(4);
    let arrival = match arrive(table, vip, frame, client, Some(ipid)) {
        Ok(arrival) => arrival,
        Err(verdict) => return verdict,
    };
    let length = (header[0] & 0xf) as usize * 4;
    if header[0] >> 4 != 4 || length < 20 {
        return Verdict::DENIED;
    }
    let (fragment, protocol) = (header.be16(6), header[9]);
    let key = FragmentKey { client, id: u32::from(ipid), vip: vip.id, protocol, padding: 0 };
    if fragment & 0x1fff != 0 {
        return later_fragment(kernel, &arrival, &key);
    }
    let at = frame.next + length;
    let verdict = match protocol {
        ICMP => icmp(packet, table, kernel, &arrival, at),
        _ => segment(packet, table, kernel, &arrival, protocol, at),
    };
    if fragment & 0x2000 != 0 {
        kernel.set_fate(&key, fate_of(&verdict));
    }
    verdict
}

#[inline(always)]
fn ipv6<P: Packet + ?Sized, K: Kernel>(
    packet: &P,
    table: &Table,
    kernel: &K,
    frame: &Ethernet,
) -> Verdict {
    let Some(header) = packet.part::<40>(frame.next) else { return Verdict::PASS };
    let client = [header.be32(8), header.be32(12), header.be32(16), header.be32(20)];
    let next = header[6];
    if next == ICMPV6
        && header[7] == 255
        && let Some(message) = packet.part::<24>(frame.next + 40)
        && message[0] == SOLICITATION
    {
        return solicitation(message, table, frame, &client);
    }
    let to = [header.be32(24), header.be32(28), header.be32(32), header.be32(36)];
    let Some(vip) = find_vip(table, &to) else { return Verdict::PASS };
    let arrival = match arrive(table, vip, frame, client, None) {
        Ok(arrival) => arrival,
        Err(verdict) => return verdict,
    };
    let Some(payload) = extensions(packet, next, frame.next + 40) else { return Verdict::DENIED };
    let key = FragmentKey { client, id: payload.id, vip: vip.id, protocol: 0, padding: 0 };
    if payload.is_later() {
        return later_fragment(kernel, &arrival, &key);
    }
    let verdict = match payload.protocol {
        ICMPV6 => icmpv6(packet, table, kernel, &arrival, payload.at),
        protocol => segment(packet, table, kernel, &arrival, protocol, payload.at),
    };
    if payload.is_first() {
        kernel.set_fate(&key, fate_of(&verdict));
    }
    verdict
}

/// Whether the frame is for this node, and whether others see it too.
#[inline(always)]
fn arrive<'a>(
    table: &Table,
    vip: &'a Vip,
    frame: &Ethernet,
    client: Words,
    ipid: Option<u16>,
) -> Result<Arrival<'a>, Verdict> {
    let shared = vip.flags & INVISIBLE != 0 && frame.to == vip.mac;
    if !shared && frame.to != table.own_mac {
        // A frame for everybody would be accepted by every node; one for another host is its.
        let to_many = frame.to >> 40 & 1 != 0;
        return Err(if to_many { Verdict::DENIED } else { Verdict::PASS });
    }
    Ok(Arrival { vip, from: frame.from, shared, at: frame.next as u8, client, ipid })
}

/// A packet that should have ports.
#[inline(always)]
fn segment<P: Packet + ?Sized, K: Kernel>(
    packet: &P,
    table: &Table,
    kernel: &K,
    arrival: &Arrival<'_>,
    protocol: u8,
    at: usize,
) -> Verdict {
    let segment = match protocol {
        TCP => {
            let Some(header) = packet.part::<14>(at) else { return Verdict::DENIED };
            // Flags: ACK 0x10, SYN 0x02.
            let midstream = header[13] & 0x12 != 0x02;
            Segment { protocol, client_port: header.be16(0), vip_port: header.be16(2), midstream }
        }
        UDP => {
            let Some(header) = packet.part::<4>(at) else { return Verdict::DENIED };
            let (client_port, vip_port) = (header.be16(0), header.be16(2));
            Segment { protocol, client_port, vip_port, midstream: false }
        }
        _ if arrival.vip.flags & UNRULED != 0 => {
            return Verdict::new(Action::Accept, NO_GROUP, Counter::Accepted);
        }
        _ => return Verdict::DENIED,
    };
    decide(table, kernel, arrival, &segment)
}

/// Echo is answered by every node that gets it; an error goes where its connection is.
#[inline(always)]
fn icmp<P: Packet + ?Sized, K: Kernel>(
    packet: &P,
    table: &Table,
    kernel: &K,
    arrival: &Arrival<'_>,
    at: usize,
) -> Verdict {
    const ACCEPT: Verdict = Verdict::new(Action::Accept, NO_GROUP, Counter::Accepted);
    if arrival.shared {
        return ACCEPT;
    }
    let Some(kind) = packet.part::<8>(at) else { return Verdict::DENIED };
    // Destination unreachable, time exceeded, parameter problem (RFC 792).
    if !matches!(kind[0], 3 | 11 | 12) {
        return ACCEPT;
    }
    let Some(inner) = packet.part::<20>(at + 8) else { return ACCEPT };
    let length = (inner[0] & 0xf) as usize * 4;
    let client = mapped(inner.be32(16));
    embedded(packet, table, kernel, &Arrival { client, ..*arrival }, inner[9], at + 8 + length)
}

#[inline(always)]
fn icmpv6<P: Packet + ?Sized, K: Kernel>(
    packet: &P,
    table: &Table,
    kernel: &K,
    arrival: &Arrival<'_>,
    at: usize,
) -> Verdict {
    const ACCEPT: Verdict = Verdict::new(Action::Accept, NO_GROUP, Counter::Accepted);
    if arrival.shared {
        return ACCEPT;
    }
    let Some(kind) = packet.part::<8>(at) else { return Verdict::DENIED };
    // Errors are 1 to 4 (RFC 4443 section 2.1).
    if !matches!(kind[0], 1..=4) {
        return ACCEPT;
    }
    let Some(inner) = packet.part::<40>(at + 8) else { return ACCEPT };
    let client = [inner.be32(24), inner.be32(28), inner.be32(32), inner.be32(36)];
    embedded(packet, table, kernel, &Arrival { client, ..*arrival }, inner[6], at + 48)
}

/// The packet inside an error was sent from the virtual address to the client.
#[inline(always)]
fn embedded<P: Packet + ?Sized, K: Kernel>(
    packet: &P,
    table: &Table,
    kernel: &K,
    arrival: &Arrival<'_>,
    protocol: u8,
    at: usize,
) -> Verdict {
    if !matches!(protocol, TCP | UDP) {
        return Verdict::new(Action::Accept, NO_GROUP, Counter::Accepted);
    }
    let Some(ports) = packet.part::<4>(at) else { return Verdict::DENIED };
    let (vip_port, client_port) = (ports.be16(0), ports.be16(2));
    let midstream = protocol == TCP;
    decide(table, kernel, arrival, &Segment { protocol, client_port, vip_port, midstream })
}

/// Finds rule and bucket, then judges by the bucket's owner.
#[inline(always)]
fn decide<K: Kernel>(
    table: &Table,
    kernel: &K,
    arrival: &Arrival<'_>,
    segment: &Segment,
) -> Verdict {
    let target = find_rule(table, arrival.vip, segment.protocol, segment.vip_port);
    if target.group == NO_GROUP_OF_RULE {
        if arrival.vip.flags & UNRULED != 0 {
            return Verdict::new(Action::Accept, NO_GROUP, Counter::Accepted);
        }
        return Verdict::DENIED;
    }
    let hash = if target.criterion == Criterion::Port as u8 {
        on_port(&arrival.client, segment.client_port)
    } else if target.criterion == Criterion::IpId as u8
        && let Some(ipid) = arrival.ipid
    {
        on_ipid(ipid)
    } else {
        on_addr(&arrival.client)
    };
    let (group, bucket) = (target.group & (GROUPS_MAX as u8 - 1), bucket(hash));
    let word = table.owners[group as usize][bucket as usize & (BUCKETS - 1)];
    let (action, counter) = if word & OWNER == table.own as u8 && word & NOBODY == 0 {
        own_bucket(table, kernel, arrival, segment, (group, bucket))
    } else {
        foreign_bucket(table, kernel, arrival, segment, (group, bucket))
    };
    Verdict::new(action, group, counter)
}

#[inline(always)]
fn flow_of(arrival: &Arrival<'_>, segment: &Segment) -> Flow {
    Flow {
        client: arrival.client,
        vip: arrival.vip.addr,
        client_port: segment.client_port,
        vip_port: segment.vip_port,
    }
}

#[inline(always)]
fn holders(table: &Table, (group, bucket): (u8, u8)) -> u64 {
    table.holders[group as usize & (GROUPS_MAX - 1)][bucket as usize & (BUCKETS - 1)]
}

#[inline(always)]
fn owner_word(table: &Table, (group, bucket): (u8, u8)) -> u8 {
    table.owners[group as usize & (GROUPS_MAX - 1)][bucket as usize & (BUCKETS - 1)]
}

#[inline(always)]
const fn bit(node: u32) -> u64 {
    1 << (node & (NODES_MAX as u32 - 1))
}

#[inline(always)]
fn own_bucket<K: Kernel>(
    table: &Table,
    kernel: &K,
    arrival: &Arrival<'_>,
    segment: &Segment,
    place: (u8, u8),
) -> (Action, Counter) {
    if !segment.midstream && kernel.is_expired(arrival.vip.module) {
        return (Action::Drop, Counter::Expired);
    }
    if owner_word(table, place) & HELD == 0 || segment.protocol != TCP {
        return (Action::Accept, Counter::Accepted);
    }
    let flow = flow_of(arrival, segment);
    if !segment.midstream {
        kernel.began(&flow);
        return (Action::Accept, Counter::Accepted);
    }
    if kernel.has_begun(&flow) || kernel.has_socket(&flow) {
        return (Action::Accept, Counter::Accepted);
    }
    let mut others = holders(table, place) & !bit(table.own);
    if let Some(member) = find_member(table, arrival.from) {
        others &= !bit(member);
    }
    match relay(arrival, others) {
        Some(relayed) => (relayed, Counter::Relayed),
        // Nobody can have it: our stack answers with a reset, and the client connects again.
        None => (Action::Accept, Counter::Accepted),
    }
}

/// The first of some nodes.
#[inline(always)]
fn relay(arrival: &Arrival<'_>, nodes: u64) -> Option<Action> {
    let node = lowest(nodes);
    (nodes != 0).then_some(Action::Forward { node, at: arrival.at })
}

/// Number of the lowest bit; the kernel's instruction set has no such instruction.
#[inline(always)]
const fn lowest(nodes: u64) -> u8 {
    let alone = nodes & nodes.wrapping_neg();
    let mut number = 0;
    if alone & 0xffff_ffff_0000_0000 != 0 {
        number |= 32;
    }
    if alone & 0xffff_0000_ffff_0000 != 0 {
        number |= 16;
    }
    if alone & 0xff00_ff00_ff00_ff00 != 0 {
        number |= 8;
    }
    if alone & 0xf0f0_f0f0_f0f0_f0f0 != 0 {
        number |= 4;
    }
    if alone & 0xcccc_cccc_cccc_cccc != 0 {
        number |= 2;
    }
    if alone & 0xaaaa_aaaa_aaaa_aaaa != 0 {
        number |= 1;
    }
    number
}

#[inline(always)]
fn foreign_bucket<K: Kernel>(
    table: &Table,
    kernel: &K,
    arrival: &Arrival<'_>,
    segment: &Segment,
    place: (u8, u8),
) -> (Action, Counter) {
    let word = owner_word(table, place);
    let nobody = word & NOBODY != 0;
    let own = bit(table.own);
    let may_hold = segment.midstream && word & HELD != 0 && holders(table, place) & own != 0;
    // Under a shared address the owner sees the packet too, and relays it to us if need be.
    if may_hold && (!arrival.shared || nobody) {
        if kernel.has_socket(&flow_of(arrival, segment)) {
            return (Action::Accept, Counter::Kept);
        }
        if let Some(member) = find_member(table, arrival.from) {
            let earlier = bit(member) | bit(member).wrapping_sub(1) | own | own.wrapping_sub(1);
            let from_owner = !nobody && member == u32::from(word & OWNER);
            let passed = if from_owner { own | own.wrapping_sub(1) | bit(member) } else { earlier };
            return match relay(arrival, holders(table, place) & !passed) {
                Some(relayed) => (relayed, Counter::Relayed),
                // The end of the chain: nobody has it, our stack answers with a reset.
                None => (Action::Accept, Counter::Kept),
            };
        }
    }
    if nobody {
        return (Action::Drop, Counter::Unowned);
    }
    if arrival.shared {
        return (Action::Drop, Counter::Foreign);
    }
    if find_member(table, arrival.from).is_some() {
        return (Action::Drop, Counter::Looped);
    }
    (Action::Forward { node: word & OWNER, at: arrival.at }, Counter::Forwarded)
}

#[inline(always)]
fn later_fragment<K: Kernel>(kernel: &K, arrival: &Arrival<'_>, key: &FragmentKey) -> Verdict {
    let Some(fate) = kernel.fate(key) else {
        let action = if arrival.shared { Action::Accept } else { Action::Drop };
        return Verdict::new(action, NO_GROUP, Counter::Fragment);
    };
    let action = match fate.fate {
        FATE_ACCEPT => Action::Accept,
        FATE_FORWARD => Action::Forward { node: fate.node, at: arrival.at },
        _ => Action::Drop,
    };
    let counter = match fate.counter {
        c if c == Counter::Accepted as u8 => Counter::Accepted,
        c if c == Counter::Kept as u8 => Counter::Kept,
        c if c == Counter::Forwarded as u8 => Counter::Forwarded,
        c if c == Counter::Relayed as u8 => Counter::Relayed,
        c if c == Counter::Foreign as u8 => Counter::Foreign,
        _ => Counter::Denied,
    };
    Verdict::new(action, fate.group, counter)
}

#[inline(always)]
fn fate_of(verdict: &Verdict) -> FragmentFate {
    let (group, counter) = verdict.counted.unwrap_or((NO_GROUP, Counter::Denied));
    let (fate, node) = match verdict.action {
        Action::Accept => (FATE_ACCEPT, 0),
        Action::Forward { node, .. } => (FATE_FORWARD, node),
        _ => (FATE_DROP, 0),
    };
    FragmentFate { fate, node, group, counter: counter as u8 }
}

/// Type of a neighbour solicitation (RFC 4861 section 4.3).
const SOLICITATION: u8 = 135;

#[inline(always)]
fn arp<P: Packet + ?Sized>(packet: &P, table: &Table, frame: &Ethernet) -> Verdict {
    let Some(question) = packet.part::<28>(frame.next) else { return Verdict::PASS };
    // Ethernet, IPv4, lengths 6 and 4, request.
    if question.be32(0) != 0x0001_0800 || question.be32(4) != 0x0604_0001 {
        return Verdict::PASS;
    }
    let Some(vip) = find_vip(table, &mapped(question.be32(24))) else { return Verdict::PASS };
    match answers(table, vip, frame.from, &mapped(question.be32(14))) {
        true => {
            let action = Action::AnswerArp { mac: vip.mac, at: frame.next as u8 };
            Verdict::new(action, NO_GROUP, Counter::Answered)
        }
        false => Verdict::new(Action::Drop, NO_GROUP, Counter::Unanswered),
    }
}

#[inline(always)]
fn solicitation(message: &[u8; 24], table: &Table, frame: &Ethernet, asker: &Words) -> Verdict {
    let target = [message.be32(8), message.be32(12), message.be32(16), message.be32(20)];
    let Some(vip) = find_vip(table, &target) else { return Verdict::PASS };
    match answers(table, vip, frame.from, asker) {
        true => {
            let action = Action::AnswerNeighbour { mac: vip.mac, at: frame.next as u8 };
            Verdict::new(action, NO_GROUP, Counter::Answered)
        }
        false => Verdict::new(Action::Drop, NO_GROUP, Counter::Unanswered),
    }
}

/// Whether this node tells the asker where a virtual address is. Members never need to know:
/// they have the address themselves, and their question is whether a stranger has it too.
#[inline(always)]
fn answers(table: &Table, vip: &Vip, from: u64, asker: &Words) -> bool {
    if find_member(table, from).is_some() {
        return false;
    }
    if vip.flags & INVISIBLE != 0 {
        return true;
    }
    if vip.arp_group == NO_GROUP_OF_RULE {
        return vip.flags & ANSWERS != 0;
    }
    let word = owner_word(table, (vip.arp_group, bucket(on_addr(asker))));
    word & NOBODY == 0 && word & OWNER == table.own as u8
}

#[inline(always)]
fn find_vip<'a>(table: &'a Table, addr: &Words) -> Option<&'a Vip> {
    let vip = &table.vips[vip_slot(addr, table.vip_seed) & (VIP_SLOTS - 1)];
    let same = vip.addr[3] == addr[3]
        && vip.addr[2] == addr[2]
        && vip.addr[1] == addr[1]
        && vip.addr[0] == addr[0];
    (same && vip.flags & USED != 0).then_some(vip)
}

#[inline(always)]
fn find_rule(table: &Table, vip: &Vip, protocol: u8, port: u16) -> Target {
    let key = rule_key(vip.id, protocol, port);
    let rule = &table.rules[rule_slot(key, table.rule_seed) & (RULE_SLOTS - 1)];
    if rule.key == key {
        return rule.target;
    }
    if protocol == TCP { vip.tcp } else { vip.udp }
}

/// The number of the other member with this Ethernet address.
#[inline(always)]
fn find_member(table: &Table, mac: u64) -> Option<u32> {
    let slot = table.members[member_slot(mac, table.member_seed) & (MEMBER_SLOTS - 1)];
    if slot >> 8 != mac || slot == 0 {
        return None;
    }
    Some((slot as u32 & 0xff).wrapping_sub(1) & (NODES_MAX as u32 - 1))
}

#[cfg(test)]
mod tests;
