//! Carrying out a verdict on the frame's bytes.

use crate::{
    layout::{MacValue, NODES_MAX, Table},
    packet::{Fields, Packet},
    verdict::Action,
};

/// What the kernel does with the frame afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// To this node's stack.
    Pass,
    /// Nowhere.
    Drop,
    /// Back to the network.
    Transmit,
}

/// Changes the frame as the action wants. A frame that cannot be changed is dropped.
#[inline(always)]
pub fn apply<P: Packet + ?Sized>(packet: &mut P, table: &Table, action: Action) -> Fate {
    let done = match action {
        Action::Pass => return Fate::Pass,
        Action::Drop => return Fate::Drop,
        Action::Accept => {
            // The stack ignores a frame for a virtual Ethernet address.
            return match packet.part_mut::<12>(0) {
                Some(ethernet) => {
                    set_mac::<12>(ethernet, 0, table.own_mac);
                    Fate::Pass
                }
                None => Fate::Drop,
            };
        }
        Action::Forward { node, at } => forward(packet, table, node, at as usize),
        Action::AnswerArp { mac, at } => answer_arp(packet, table, mac, at as usize),
        Action::AnswerNeighbour { mac, at } => advertise(packet, table, mac, at as usize),
    };
    if done.is_some() { Fate::Transmit } else { Fate::Drop }
}

#[inline(always)]
fn set_mac<const N: usize>(bytes: &mut [u8; N], at: usize, mac: MacValue) {
    bytes[at] = (mac >> 40) as u8;
    bytes[at + 1] = (mac >> 32) as u8;
    bytes[at + 2] = (mac >> 24) as u8;
    bytes[at + 3] = (mac >> 16) as u8;
    bytes[at + 4] = (mac >> 8) as u8;
    bytes[at + 5] = mac as u8;
}

/// Sends a packet on to another node. Its hop limit counts down, so that two nodes that disagree
/// about an owner cannot play ball with it for ever.
#[inline(always)]
fn forward<P: Packet + ?Sized>(packet: &mut P, table: &Table, node: u8, at: usize) -> Option<()> {
    let mac = table.macs[node as usize & (NODES_MAX - 1)];
    if mac == 0 {
        return None;
    }
    let header = packet.part_mut::<20>(at)?;
    if header[0] >> 4 == 4 {
        let left = header[8].checked_sub(1)?;
        if left == 0 {
            return None;
        }
        header[8] = left;
        // RFC 1624: the checksum grows by what the word loses, 0x0100, with end-around carry.
        let sum = u32::from(header.be16(10)) + 0x0100;
        let sum = (sum + (sum >> 16)) as u16;
        header[10] = (sum >> 8) as u8;
        header[11] = sum as u8;
    } else {
        let left = header[7].checked_sub(1)?;
        if left == 0 {
            return None;
        }
        header[7] = left;
    }
    let ethernet = packet.part_mut::<12>(0)?;
    set_mac::<12>(ethernet, 0, mac);
    set_mac::<12>(ethernet, 6, table.own_mac);
    Some(())
}

/// Turns a request into its reply. The frame comes from this node's own address: a switch must
/// never learn where a virtual Ethernet address is, or it would stop sending to every node.
#[inline(always)]
fn answer_arp<P: Packet + ?Sized>(
    packet: &mut P,
    table: &Table,
    mac: MacValue,
    at: usize,
) -> Option<()> {
    let arp = packet.part_mut::<28>(at)?;
    let asker_mac = u64::from(arp.be16(8)) << 32 | u64::from(arp.be32(10));
    let asker = [arp[14], arp[15], arp[16], arp[17]];
    let target = [arp[24], arp[25], arp[26], arp[27]];
    arp[7] = 2;
    set_mac::<28>(arp, 8, mac);
    arp[14] = target[0];
    arp[15] = target[1];
    arp[16] = target[2];
    arp[17] = target[3];
    set_mac::<28>(arp, 18, asker_mac);
    arp[24] = asker[0];
    arp[25] = asker[1];
    arp[26] = asker[2];
    arp[27] = asker[3];
    reply_to(packet, table, asker_mac)
}

#[inline(always)]
fn reply_to<P: Packet + ?Sized>(packet: &mut P, table: &Table, mac: MacValue) -> Option<()> {
    let ethernet = packet.part_mut::<12>(0)?;
    set_mac::<12>(ethernet, 0, mac);
    set_mac::<12>(ethernet, 6, table.own_mac);
    Some(())
}

/// Headers of IPv6 and of an advertisement.
const ADVERTISEMENT: usize = 40 + 24;
/// The option that holds an Ethernet address.
const OPTION: usize = 8;

/// Turns a neighbour solicitation into an advertisement of the same length (RFC 4861 section
/// 4.4). A solicitation without room for the Ethernet address comes from a host that looks for
/// duplicates, and for that the advertisement alone is enough.
#[inline(always)]
fn advertise<P: Packet + ?Sized>(
    packet: &mut P,
    table: &Table,
    mac: MacValue,
    at: usize,
) -> Option<()> {
    let asker_mac = {
        let ethernet = packet.part::<12>(0)?;
        u64::from(ethernet.be16(6)) << 32 | u64::from(ethernet.be32(8))
    };
    let mut sum;
    let with_option = packet.part::<{ ADVERTISEMENT + OPTION }>(at).is_some();
    let length: u8 = if with_option { 32 } else { 24 };
    let unspecified;
    {
        let bytes = packet.part_mut::<ADVERTISEMENT>(at)?;
        bytes[4] = 0;
        bytes[5] = length;
        unspecified = bytes.be32(8) | bytes.be32(12) | bytes.be32(16) | bytes.be32(20) == 0;
        // To the asker, or to all nodes if it has no address yet; from the address asked for.
        let mut i = 0;
        while i < 16 {
            bytes[24 + i] = if unspecified { ALL_NODES[i] } else { bytes[8 + i] };
            bytes[8 + i] = bytes[48 + i];
            i += 1;
        }
        bytes[40] = 136;
        bytes[41] = 0;
        bytes[42] = 0;
        bytes[43] = 0;
        // Override; solicited only if somebody in particular asked.
        bytes[44] = if unspecified { 0x20 } else { 0x60 };
        bytes[45] = 0;
        bytes[46] = 0;
        bytes[47] = 0;
        // The pseudo header: both addresses, length and protocol; then the message.
        sum = u32::from(length) + 58;
        let mut word = 8;
        while word < ADVERTISEMENT {
            sum += u32::from(bytes.be16(word));
            word += 2;
        }
    }
    if with_option {
        let option = packet.part_mut::<OPTION>(at + ADVERTISEMENT)?;
        option[0] = 2;
        option[1] = 1;
        set_mac::<OPTION>(option, 2, mac);
        sum += 0x0201 + (mac >> 32 & 0xffff) as u32 + (mac >> 16 & 0xffff) as u32;
        sum += (mac & 0xffff) as u32;
    }
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    let checksum = !(sum as u16);
    let bytes = packet.part_mut::<ADVERTISEMENT>(at)?;
    bytes[42] = (checksum >> 8) as u8;
    bytes[43] = checksum as u8;
    let to = if unspecified { 0x3333_0000_0001 } else { asker_mac };
    reply_to(packet, table, to)
}

const ALL_NODES: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

#[cfg(test)]
mod tests;
