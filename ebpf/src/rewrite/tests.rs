//! The bytes of frames after a verdict.

use core::net::IpAddr;
use std::{boxed::Box, vec::Vec};

use proptest::prelude::*;

use super::*;
use crate::frames::{Content, Frame, arp_request, checksum, checksum_v6, solicitation};

const OWN: u64 = 0x0200_0000_0001;
const OTHER: u64 = 0x0200_0000_0002;
const CLIENT: u64 = 0x0200_0000_0099;
const VIRTUAL: u64 = 0x5afe_0a00_0064;

fn table() -> Box<Table> {
    let mut table = Box::new(Table::EMPTY);
    table.set_own(0, OWN).expect("fits");
    table.set_members(&[(1, OTHER)]).expect("fits");
    table
}

fn applied(bytes: &[u8], action: Action) -> (Fate, Vec<u8>) {
    let mut bytes = bytes.to_vec();
    let fate = apply(bytes.as_mut_slice(), &table(), action);
    (fate, bytes)
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn mac_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 6].iter().fold(0, |mac, byte| mac << 8 | u64::from(*byte))
}

#[test]
fn an_accepted_frame_is_addressed_to_this_node() {
    let frame = Frame::new(VIRTUAL, CLIENT, ip("10.0.0.1"), ip("10.0.0.100")).bytes();
    let (fate, after) = applied(&frame, Action::Accept);
    assert_eq!(fate, Fate::Pass);
    assert_eq!(mac_at(&after, 0), OWN);
    assert_eq!(after[6..], frame[6..]);
    assert_eq!(applied(&frame, Action::Pass), (Fate::Pass, frame.clone()));
    assert_eq!(applied(&frame, Action::Drop).0, Fate::Drop);
}

proptest! {
    #[test]
    fn a_forwarded_packet_loses_one_hop_and_keeps_a_right_checksum(
        hops in 0u8..=255, ipid in any::<u16>(), options in 0u8..10, v6 in any::<bool>(),
    ) {
        let (source, target) = if v6 { ("fd00::1", "fd00::100") } else {
            ("10.0.0.1", "10.0.0.100")
        };
        let mut frame = Frame::new(OWN, CLIENT, ip(source), ip(target));
        (frame.hops, frame.ipid, frame.options) = (hops, ipid, options);
        let before = frame.bytes();
        let (fate, after) = applied(&before, Action::Forward { node: 1, at: 14 });
        if hops < 2 {
            prop_assert_eq!(fate, Fate::Drop);
            return Ok(());
        }
        prop_assert_eq!(fate, Fate::Transmit);
        frame.hops -= 1;
        (frame.to, frame.from) = (OTHER, OWN);
        let wanted = frame.bytes();
        if v6 {
            prop_assert_eq!(after, wanted);
        } else {
            let length = usize::from(after[14] & 0xf) * 4;
            prop_assert_eq!(checksum(&after[14..14 + length]), 0, "sum over a right header");
            prop_assert_eq!(&after[..24], &wanted[..24]);
            prop_assert_eq!(&after[26..], &wanted[26..]);
        }
    }
}

#[test]
fn a_node_without_known_address_gets_nothing() {
    let frame = Frame::new(OWN, CLIENT, ip("10.0.0.1"), ip("10.0.0.100")).bytes();
    assert_eq!(applied(&frame, Action::Forward { node: 5, at: 14 }).0, Fate::Drop);
    let cut = &frame[..20];
    assert_eq!(applied(cut, Action::Forward { node: 1, at: 14 }).0, Fate::Drop);
}

#[test]
fn the_answer_to_arp_names_the_virtual_address_and_comes_from_the_real_one() {
    let sender = "10.0.0.7".parse().expect("an address");
    let target = "10.0.0.100".parse().expect("an address");
    let question = arp_request(CLIENT, sender, target);
    let (fate, after) = applied(&question, Action::AnswerArp { mac: VIRTUAL, at: 14 });
    assert_eq!(fate, Fate::Transmit);
    assert_eq!((mac_at(&after, 0), mac_at(&after, 6)), (CLIENT, OWN));
    assert_eq!(after[20..22], [0, 2], "a reply");
    assert_eq!((mac_at(&after, 22), &after[28..32]), (VIRTUAL, &[10, 0, 0, 100][..]));
    assert_eq!((mac_at(&after, 32), &after[38..42]), (CLIENT, &[10, 0, 0, 7][..]));
}

#[test]
fn an_advertisement_is_complete_and_its_checksum_right() {
    let target: core::net::Ipv6Addr = "fd00::100".parse().expect("an address");
    for (sender, to) in [("fd00::7", CLIENT), ("::", 0x3333_0000_0001)] {
        let question = solicitation(CLIENT, sender.parse().expect("an address"), target);
        let (fate, after) = applied(&question, Action::AnswerNeighbour { mac: VIRTUAL, at: 14 });
        assert_eq!(fate, Fate::Transmit);
        assert_eq!((mac_at(&after, 0), mac_at(&after, 6)), (to, OWN));
        let (from, icmp) = (&after[22..38], &after[54..]);
        assert_eq!(from, target.octets());
        assert_eq!((icmp[0], &icmp[8..24]), (136, &target.octets()[..]));
        assert_eq!(after[18..20], (icmp.len() as u16).to_be_bytes());
        let addresses = |at: usize| after[at..at + 16].try_into().expect("16 bytes");
        assert_eq!(checksum_v6(&addresses(22), &addresses(38), icmp), 0);
        if sender == "::" {
            assert_eq!(icmp[4], 0x20, "override, to everybody");
            assert_eq!(addresses(38), ALL_NODES);
        } else {
            assert_eq!(icmp[4], 0x60, "override, solicited");
            assert_eq!((icmp[24], icmp[25], mac_at(icmp, 26)), (2, 1, VIRTUAL));
            assert_eq!(addresses(38), question[22..38]);
        }
    }
    let _ = Content::Echo;
}
