//! ARP frames: probes, announcements, and whether a frame claims an address.
//!
//! Sources: RFC 826; RFC 5227 sections 2.1 (probe) and 2.3 (announcement).

use std::net::Ipv4Addr;

use crate::packet::ETHERTYPE_ARP;

/// An Ethernet address.
pub type Mac = [u8; 6];

const BROADCAST: Mac = [0xff; 6];
const REQUEST: u16 = 1;
const REPLY: u16 = 2;
const FRAME_BYTES: usize = 42;

/// Asks whether anybody has `target`, without claiming it.
pub fn probe(own: Mac, target: Ipv4Addr) -> [u8; FRAME_BYTES] {
    frame(REQUEST, own, Ipv4Addr::UNSPECIFIED, [0; 6], target)
}

/// Tells everybody that `address` is at `own`: once as request, once as reply, because some
/// switches and old stacks update their tables on one of the two forms only.
pub fn announcements(own: Mac, address: Ipv4Addr) -> [[u8; FRAME_BYTES]; 2] {
    [frame(REQUEST, own, address, [0; 6], address), frame(REPLY, own, address, BROADCAST, address)]
}

fn frame(
    operation: u16,
    sender: Mac,
    sender_ip: Ipv4Addr,
    target: Mac,
    target_ip: Ipv4Addr,
) -> [u8; FRAME_BYTES] {
    let mut bytes = [0; FRAME_BYTES];
    bytes[0..6].copy_from_slice(&BROADCAST);
    bytes[6..12].copy_from_slice(&sender);
    bytes[12..14].copy_from_slice(&ETHERTYPE_ARP.to_be_bytes());
    // Hardware: Ethernet; protocol: IPv4; lengths 6 and 4.
    bytes[14..20].copy_from_slice(&[0, 1, 8, 0, 6, 4]);
    bytes[20..22].copy_from_slice(&operation.to_be_bytes());
    bytes[22..28].copy_from_slice(&sender);
    bytes[28..32].copy_from_slice(&sender_ip.octets());
    bytes[32..38].copy_from_slice(&target);
    bytes[38..42].copy_from_slice(&target_ip.octets());
    bytes
}

/// Who else claims `address` in this frame: a host that uses it, or a host that probes for it at
/// the same time and has the lower Ethernet address (RFC 5227 makes both give up; exactly one of
/// two nodes must win here).
pub fn claimant(frame: &[u8], own: Mac, address: Ipv4Addr) -> Option<Mac> {
    if frame.get(12..20)? != [8, 6, 0, 1, 8, 0, 6, 4] {
        return None;
    }
    let sender: Mac = frame.get(22..28)?.try_into().ok()?;
    let sender_ip: [u8; 4] = frame.get(28..32)?.try_into().ok()?;
    let target_ip: [u8; 4] = frame.get(38..42)?.try_into().ok()?;
    if sender == own {
        return None;
    }
    let uses = Ipv4Addr::from(sender_ip) == address;
    let probes = sender_ip == [0; 4] && Ipv4Addr::from(target_ip) == address && sender < own;
    (uses || probes).then_some(sender)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: Mac = [2, 0, 0, 0, 0, 1];
    const B: Mac = [2, 0, 0, 0, 0, 2];
    const VIP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 100);

    #[test]
    fn an_announcement_has_the_bytes_of_rfc_5227() {
        let [request, reply] = announcements(A, VIP);
        assert_eq!(request[..14], *b"\xff\xff\xff\xff\xff\xff\x02\0\0\0\0\x01\x08\x06");
        assert_eq!(request[14..28], *b"\0\x01\x08\0\x06\x04\0\x01\x02\0\0\0\0\x01");
        assert_eq!(request[28..42], *b"\x0a\0\0\x64\0\0\0\0\0\0\x0a\0\0\x64");
        assert_eq!(reply[20..22], [0, 2]);
    }

    #[test]
    fn an_announcement_of_another_host_is_a_claim_and_our_own_is_not() {
        for frame in announcements(B, VIP) {
            assert_eq!(claimant(&frame, A, VIP), Some(B));
            assert_eq!(claimant(&frame, B, VIP), None);
            assert_eq!(claimant(&frame, A, Ipv4Addr::new(10, 0, 0, 101)), None);
        }
    }

    #[test]
    fn of_two_hosts_that_probe_at_once_the_lower_one_wins() {
        assert_eq!(claimant(&probe(A, VIP), B, VIP), Some(A));
        assert_eq!(claimant(&probe(B, VIP), A, VIP), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = claimant(&bytes, A, VIP);
        }
    }
}
