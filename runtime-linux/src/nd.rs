//! Neighbour discovery frames of IPv6: solicitations that detect a duplicate, unsolicited
//! advertisements, and whether a frame claims an address.
//!
//! Sources: RFC 4861 sections 4.3, 4.4 and 7.2.6; RFC 4862 section 5.4; RFC 4443 section 2.3.

use std::net::Ipv6Addr;

use crate::{arp::Mac, packet::ETHERTYPE_IPV6};

const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const ICMPV6: u8 = 58;
const HEADERS: usize = 14 + 40;
/// Hop limit that proves that no router forwarded the packet.
const HOP_LIMIT: u8 = 255;
const OVERRIDE: u8 = 0x20;

/// Asks whether anybody has `target`, from the unspecified address: duplicate detection.
pub fn probe(own: Mac, target: Ipv6Addr) -> Vec<u8> {
    let mut icmp = vec![SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
    icmp.extend_from_slice(&target.octets());
    packet(own, Ipv6Addr::UNSPECIFIED, solicited_node(target), icmp)
}

/// Tells everybody that `address` is at `own`, overriding what they knew.
pub fn announcement(own: Mac, address: Ipv6Addr) -> Vec<u8> {
    let mut icmp = vec![ADVERTISEMENT, 0, 0, 0, OVERRIDE, 0, 0, 0];
    icmp.extend_from_slice(&address.octets());
    // Option 2: the sender's link-layer address, one unit of eight bytes.
    icmp.extend_from_slice(&[2, 1]);
    icmp.extend_from_slice(&own);
    packet(own, address, Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1), icmp)
}

/// The multicast address on which solicitations for `target` travel.
pub fn solicited_node(target: Ipv6Addr) -> Ipv6Addr {
    let tail = target.to_bits() & 0xff_ffff;
    Ipv6Addr::from_bits(0xff02_0000_0000_0000_0000_0001_ff00_0000 | tail)
}

/// The Ethernet address of an IPv6 multicast group (RFC 2464 section 7).
pub fn multicast_mac(group: Ipv6Addr) -> Mac {
    let octets = group.octets();
    [0x33, 0x33, octets[12], octets[13], octets[14], octets[15]]
}

fn packet(own: Mac, from: Ipv6Addr, to: Ipv6Addr, mut icmp: Vec<u8>) -> Vec<u8> {
    let sum = checksum(from, to, &icmp);
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    let length = u16::try_from(icmp.len()).expect("our messages have 24 or 32 bytes");
    let mut frame = Vec::with_capacity(HEADERS + icmp.len());
    frame.extend_from_slice(&multicast_mac(to));
    frame.extend_from_slice(&own);
    frame.extend_from_slice(&ETHERTYPE_IPV6.to_be_bytes());
    frame.extend_from_slice(&[0x60, 0, 0, 0]);
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&[ICMPV6, HOP_LIMIT]);
    frame.extend_from_slice(&from.octets());
    frame.extend_from_slice(&to.octets());
    frame.extend_from_slice(&icmp);
    frame
}

/// The Internet checksum over the pseudo header and the message, whose own field is zero.
fn checksum(from: Ipv6Addr, to: Ipv6Addr, icmp: &[u8]) -> u16 {
    let mut sum = u32::from(ICMPV6) + u32::try_from(icmp.len()).expect("messages are short");
    for bytes in [&from.octets()[..], &to.octets()[..], icmp] {
        for pair in bytes.chunks(2) {
            let low = pair.get(1).copied().unwrap_or(0);
            sum += u32::from(u16::from_be_bytes([pair[0], low]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("the carry was folded in")
}

/// Who else claims `address` in this frame: a host that advertises it, or a host that probes for
/// it at the same time and has the lower Ethernet address.
pub fn claimant(frame: &[u8], own: Mac, address: Ipv6Addr) -> Option<Mac> {
    let sender: Mac = frame.get(6..12)?.try_into().ok()?;
    let is_icmp = frame.get(12..14)? == ETHERTYPE_IPV6.to_be_bytes()
        && frame.get(20..22)? == [ICMPV6, HOP_LIMIT];
    let source: [u8; 16] = frame.get(22..38)?.try_into().ok()?;
    let kind = *frame.get(HEADERS)?;
    let target: [u8; 16] = frame.get(HEADERS + 8..HEADERS + 24)?.try_into().ok()?;
    if !is_icmp || sender == own || Ipv6Addr::from(target) != address {
        return None;
    }
    let uses = kind == ADVERTISEMENT;
    let probes = kind == SOLICITATION && source == [0; 16] && sender < own;
    (uses || probes).then_some(sender)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: Mac = [2, 0, 0, 0, 0, 1];
    const B: Mac = [2, 0, 0, 0, 0, 2];
    const VIP: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0x12, 0x3456);

    #[test]
    fn solicitations_travel_to_the_group_of_rfc_4291() {
        let group: Ipv6Addr = "ff02::1:ff12:3456".parse().expect("an address");
        let target: Ipv6Addr = "fd00::12:3456".parse().expect("an address");
        assert_eq!(solicited_node(target), group);
        assert_eq!(multicast_mac(group), [0x33, 0x33, 0xff, 0x12, 0x34, 0x56]);
    }

    #[test]
    fn a_checksum_makes_the_sum_over_the_packet_all_ones() {
        let frame = announcement(A, VIP);
        let icmp = &frame[HEADERS..];
        let from: [u8; 16] = frame[22..38].try_into().expect("16 bytes");
        let to: [u8; 16] = frame[38..54].try_into().expect("16 bytes");
        assert_eq!(checksum(from.into(), to.into(), icmp), 0);
    }

    #[test]
    fn an_advertisement_of_another_host_is_a_claim_and_our_own_is_not() {
        let frame = announcement(B, VIP);
        assert_eq!(claimant(&frame, A, VIP), Some(B));
        assert_eq!(claimant(&frame, B, VIP), None);
        assert_eq!(claimant(&frame, A, Ipv6Addr::LOCALHOST), None);
    }

    #[test]
    fn of_two_hosts_that_probe_at_once_the_lower_one_wins() {
        assert_eq!(claimant(&probe(A, VIP), B, VIP), Some(A));
        assert_eq!(claimant(&probe(B, VIP), A, VIP), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = claimant(&bytes, A, VIP);
        }
    }
}
