//! The verdict about frames made by hand, and about any frames against a plain description of
//! the rules.

use core::{
    cell::RefCell,
    net::{IpAddr, Ipv4Addr},
};
use std::{
    boxed::Box,
    collections::{BTreeMap, BTreeSet},
    vec,
    vec::Vec,
};

use proptest::prelude::*;

use super::*;
use crate::{
    frames::{Content, Fragment, Frame, arp_request, solicitation, words},
    layout::{NO_GROUP_OF_RULE, USED},
};

const OWN: u64 = 0x0200_0000_0001;
const OTHER: u64 = 0x0200_0000_0002;
const THIRD: u64 = 0x0200_0000_0003;
const CLIENT: u64 = 0x0200_0000_0099;
const VIRTUAL: u64 = 0x5afe_0a00_0064;
const SYN: u8 = 2;
const ACK: u8 = 16;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// What the kernel would know.
#[derive(Default)]
struct Fake {
    sockets: BTreeSet<Flow>,
    begun: RefCell<BTreeSet<Flow>>,
    fates: RefCell<BTreeMap<FragmentKey, FragmentFate>>,
    expired: bool,
}

impl Kernel for Fake {
    fn has_socket(&self, flow: &Flow) -> bool {
        self.sockets.contains(flow)
    }
    fn has_begun(&self, flow: &Flow) -> bool {
        self.begun.borrow().contains(flow)
    }
    fn began(&self, flow: &Flow) {
        self.begun.borrow_mut().insert(*flow);
    }
    fn is_expired(&self, _module: u8) -> bool {
        self.expired
    }
    fn fate(&self, key: &FragmentKey) -> Option<FragmentFate> {
        self.fates.borrow().get(key).copied()
    }
    fn set_fate(&self, key: &FragmentKey, fate: FragmentFate) {
        self.fates.borrow_mut().insert(*key, fate);
    }
}

const VIPS: [(&str, bool); 4] =
    [("10.0.0.100", true), ("10.0.0.101", false), ("fd00::100", true), ("fd00::101", false)];

/// Node 0 is this one, 1 and 2 are members. Group 0: TCP 80 by address; group 1: UDP 53 by
/// identification, TCP 443 by port. Bucket b belongs to node b mod 3.
fn table() -> Box<Table> {
    let mut table = Box::new(Table::EMPTY);
    table.set_own(0, OWN).expect("fits");
    table.set_members(&[(1, OTHER), (2, THIRD)]).expect("fits");
    let vip = |(addr, invisible): (&str, bool)| Vip {
        addr: words(ip(addr)),
        mac: if invisible { VIRTUAL } else { OWN },
        tcp: Target::NONE,
        udp: Target::NONE,
        arp_group: NO_GROUP_OF_RULE,
        module: 0,
        id: 0,
        flags: if invisible { INVISIBLE } else { ANSWERS },
    };
    table.set_vips(&VIPS.map(vip)).expect("fits");
    let mut rules = Vec::new();
    for id in 0..4 {
        rules.push((id, TCP, 80, Target::new(0, Criterion::Addr)));
        rules.push((id, UDP, 53, Target::new(1, Criterion::IpId)));
        rules.push((id, TCP, 443, Target::new(1, Criterion::Port)));
    }
    table.set_rules(&rules).expect("fits");
    for bucket in 0..=255u8 {
        table.set_bucket(0, bucket, Some(bucket % 3), 0).expect("fits");
        table.set_bucket(1, bucket, Some(bucket % 3), 0).expect("fits");
    }
    table
}

/// A client whose bucket by address belongs to `node`.
fn client_of(node: u8) -> IpAddr {
    (1..200)
        .map(|host| IpAddr::V4(Ipv4Addr::new(10, 0, 0, host)))
        .find(|client| bucket(on_addr(&words(*client))) % 3 == node)
        .expect("a third of all clients")
}

fn to_invisible(client: IpAddr) -> Frame {
    Frame::new(VIRTUAL, CLIENT, client, ip("10.0.0.100"))
}

fn to_directed(client: IpAddr) -> Frame {
    Frame::new(OWN, CLIENT, client, ip("10.0.0.101"))
}

fn tcp(port: u16, flags: u8) -> Content {
    Content::Tcp { from: 40_000, to: port, flags }
}

#[track_caller]
fn expect(table: &Table, kernel: &Fake, frame: &Frame, action: Action, counter: Counter) {
    let verdict = judge(frame.bytes().as_slice(), table, kernel);
    assert_eq!(verdict.action, action, "{frame:?}");
    assert_eq!(verdict.counted.map(|(_, counter)| counter), Some(counter), "{frame:?}");
}

fn forward(node: u8) -> Action {
    Action::Forward { node, at: 14 }
}

#[test]
fn own_buckets_are_accepted_and_others_dropped_or_forwarded() {
    let (table, kernel) = (table(), Fake::default());
    let (mine, theirs) = (client_of(0), client_of(2));
    expect(&table, &kernel, &to_invisible(mine), Action::Accept, Counter::Accepted);
    expect(&table, &kernel, &to_invisible(theirs), Action::Drop, Counter::Foreign);
    expect(&table, &kernel, &to_directed(mine), Action::Accept, Counter::Accepted);
    expect(&table, &kernel, &to_directed(theirs), forward(2), Counter::Forwarded);
}

#[test]
fn what_is_not_for_a_virtual_address_passes_untouched() {
    let (table, kernel) = (table(), Fake::default());
    let other_ip = Frame::new(OWN, CLIENT, client_of(2), ip("10.0.0.1"));
    // A directed frame to another host, seen because the interface is promiscuous.
    let other_mac = Frame { to: OTHER, ..to_directed(client_of(2)) };
    for frame in [other_ip, other_mac] {
        let verdict = judge(frame.bytes().as_slice(), &table, &kernel);
        assert_eq!(verdict, Verdict::PASS, "{frame:?}");
    }
    for length in 0..34 {
        let cut = &to_invisible(client_of(2)).bytes()[..length];
        assert_eq!(judge(cut, &table, &kernel), Verdict::PASS, "no header in {length} bytes");
    }
}

#[test]
fn what_no_rule_matches_is_denied() {
    let (table, kernel) = (table(), Fake::default());
    let frame = to_invisible(client_of(0));
    for content in [tcp(81, SYN), Content::Udp { from: 1, to: 80 }, Content::Other(47)] {
        expect(&table, &kernel, &frame.with(content), Action::Drop, Counter::Denied);
    }
    let broadcast = Frame { to: 0xffff_ffff_ffff, ..frame.clone() };
    expect(&table, &kernel, &broadcast, Action::Drop, Counter::Denied);
    let cut = &frame.bytes()[..14 + 20 + 13];
    assert_eq!(judge(cut, &table, &kernel), Verdict::DENIED, "TCP without its flags");
}

#[test]
fn echo_is_answered_by_every_node_that_gets_it() {
    let (table, kernel) = (table(), Fake::default());
    for client in [client_of(0), client_of(1)] {
        for frame in [to_invisible(client), to_directed(client)] {
            let echo = frame.with(Content::Echo);
            expect(&table, &kernel, &echo, Action::Accept, Counter::Accepted);
        }
    }
}

#[test]
fn an_error_of_icmp_follows_its_connection() {
    let (table, kernel) = (table(), Fake::default());
    let router = ip("10.0.0.200");
    for node in 0..3 {
        let client = client_of(node);
        let content = Content::TooBig { client, client_port: 40_000, vip_port: 80, protocol: TCP };
        let directed = to_directed(router).with(content);
        let shared = to_invisible(router).with(content);
        let wanted = if node == 0 { Action::Accept } else { forward(node) };
        let verdict = judge(directed.bytes().as_slice(), &table, &kernel);
        assert_eq!(verdict.action, wanted, "node {node}");
        expect(&table, &kernel, &shared, Action::Accept, Counter::Accepted);
    }
}

#[test]
fn all_fragments_of_a_packet_go_the_same_way() {
    let table = table();
    for frame in [to_invisible(client_of(0)), to_invisible(client_of(1)), to_directed(client_of(2))]
    {
        let kernel = Fake::default();
        let fragment = |offset, more| Frame {
            fragment: Some(Fragment { id: 77, offset, more }),
            ..frame.with(tcp(80, ACK))
        };
        let early = judge(fragment(3, true).bytes().as_slice(), &table, &kernel);
        let shared = frame.to == VIRTUAL;
        let wanted = if shared { Action::Accept } else { Action::Drop };
        assert_eq!(early.action, wanted, "before the first: all under a shared address, or none");
        let first = judge(fragment(0, true).bytes().as_slice(), &table, &kernel);
        let whole = judge(frame.with(tcp(80, ACK)).bytes().as_slice(), &table, &kernel);
        assert_eq!(first, whole);
        for later in [fragment(3, true), fragment(6, false)] {
            assert_eq!(judge(later.bytes().as_slice(), &table, &kernel), whole, "{later:?}");
        }
    }
}

/// The flow of `to_invisible(client)` or `to_directed(client)` on port 80.
fn flow(client: IpAddr, vip: &str) -> Flow {
    Flow { client: words(client), vip: words(ip(vip)), client_port: 40_000, vip_port: 80 }
}

/// Every bucket of group 0 may also be held by these nodes.
fn held_by(table: &mut Table, nodes: u64) {
    for bucket in 0..=255u8 {
        table.set_bucket(0, bucket, Some(bucket % 3), nodes).expect("fits");
    }
}

#[test]
fn a_connection_that_the_owner_does_not_have_is_relayed_to_its_holders() {
    let mut table = table();
    held_by(&mut table, 0b110);
    let client = client_of(0);
    for (frame, vip) in [(to_invisible(client), "10.0.0.100"), (to_directed(client), "10.0.0.101")]
    {
        let midstream = frame.with(tcp(80, ACK));
        let mut kernel = Fake::default();
        expect(&table, &kernel, &midstream, forward(1), Counter::Relayed);
        kernel.sockets.insert(flow(client, vip));
        expect(&table, &kernel, &midstream, Action::Accept, Counter::Accepted);
        // One that began here while others held the bucket needs no socket of this node: it may
        // be a container's.
        let kernel = Fake::default();
        expect(&table, &kernel, &frame.with(tcp(80, SYN)), Action::Accept, Counter::Accepted);
        expect(&table, &kernel, &midstream, Action::Accept, Counter::Accepted);
    }
}

#[test]
fn without_holders_the_owner_takes_strangers_and_resets_them() {
    let (table, kernel) = (table(), Fake::default());
    let midstream = to_invisible(client_of(0)).with(tcp(80, ACK));
    expect(&table, &kernel, &midstream, Action::Accept, Counter::Accepted);
}

#[test]
fn a_relayed_packet_is_kept_or_handed_on_along_the_holders() {
    let mut table = table();
    let client = client_of(1);
    // Relayed to this node's own address by the owner, node 1; nodes 0 and 2 are holders.
    held_by(&mut table, 0b101);
    let relayed = Frame { to: OWN, from: OTHER, ..to_invisible(client) }.with(tcp(80, ACK));
    let mut kernel = Fake::default();
    expect(&table, &kernel, &relayed, forward(2), Counter::Relayed);
    kernel.sockets.insert(flow(client, "10.0.0.100"));
    expect(&table, &kernel, &relayed, Action::Accept, Counter::Kept);
    // The last of the chain takes it whatever it is, and its stack answers.
    held_by(&mut table, 0b001);
    expect(&table, &Fake::default(), &relayed, Action::Accept, Counter::Kept);
    // A first packet is never relayed.
    let syn = relayed.with(tcp(80, SYN));
    expect(&table, &Fake::default(), &syn, Action::Drop, Counter::Looped);
    // The shared frame itself is the owner's business, even for a holder.
    let shared = to_invisible(client).with(tcp(80, ACK));
    expect(&table, &kernel, &shared, Action::Drop, Counter::Foreign);
}

#[test]
fn a_holder_that_answers_arp_takes_its_connections_itself() {
    let mut table = table();
    held_by(&mut table, 0b001);
    let client = client_of(2);
    let midstream = to_directed(client).with(tcp(80, ACK));
    let mut kernel = Fake::default();
    expect(&table, &kernel, &midstream, forward(2), Counter::Forwarded);
    kernel.sockets.insert(flow(client, "10.0.0.101"));
    expect(&table, &kernel, &midstream, Action::Accept, Counter::Kept);
    expect(&table, &kernel, &to_directed(client), forward(2), Counter::Forwarded);
}

#[test]
fn a_forwarded_packet_is_not_forwarded_back() {
    let (table, kernel) = (table(), Fake::default());
    for member in [OTHER, THIRD] {
        let frame = Frame { from: member, ..to_directed(client_of(2)) };
        expect(&table, &kernel, &frame, Action::Drop, Counter::Looped);
        let mine = Frame { from: member, ..to_directed(client_of(0)) };
        expect(&table, &kernel, &mine, Action::Accept, Counter::Accepted);
    }
}

#[test]
fn after_the_deadline_nothing_new_is_accepted_and_the_rest_goes_on() {
    let table = table();
    let kernel = Fake { expired: true, ..Fake::default() };
    let frame = to_invisible(client_of(0));
    expect(&table, &kernel, &frame, Action::Drop, Counter::Expired);
    expect(&table, &kernel, &frame.with(tcp(80, ACK)), Action::Accept, Counter::Accepted);
}

#[test]
fn a_bucket_without_owner_serves_the_connections_it_has() {
    let mut table = table();
    for bucket in 0..=255u8 {
        table.set_bucket(0, bucket, None, 0b001).expect("fits");
    }
    let frame = to_invisible(client_of(0));
    let mut kernel = Fake::default();
    expect(&table, &kernel, &frame, Action::Drop, Counter::Unowned);
    expect(&table, &kernel, &frame.with(tcp(80, ACK)), Action::Drop, Counter::Unowned);
    kernel.sockets.insert(flow(client_of(0), "10.0.0.100"));
    expect(&table, &kernel, &frame.with(tcp(80, ACK)), Action::Accept, Counter::Kept);
}

#[test]
fn questions_are_answered_by_all_or_by_one() {
    let mut table = table();
    let kernel = Fake::default();
    let ask = |from: u64, vip: &str| match vip.parse().expect("an address") {
        IpAddr::V4(vip) => arp_request(from, "10.0.0.7".parse().expect("an address"), vip),
        IpAddr::V6(vip) => solicitation(from, "fd00::7".parse().expect("an address"), vip),
    };
    let answer = |table: &Table, from, vip| judge(ask(from, vip).as_slice(), table, &kernel).action;
    let arp = |mac| Action::AnswerArp { mac, at: 14 };
    let neighbour = |mac| Action::AnswerNeighbour { mac, at: 14 };
    assert_eq!(answer(&table, CLIENT, "10.0.0.100"), arp(VIRTUAL));
    assert_eq!(answer(&table, CLIENT, "10.0.0.101"), arp(OWN));
    assert_eq!(answer(&table, CLIENT, "fd00::100"), neighbour(VIRTUAL));
    assert_eq!(answer(&table, CLIENT, "fd00::101"), neighbour(OWN));
    assert_eq!(answer(&table, CLIENT, "10.0.0.1"), Action::Pass);
    assert_eq!(answer(&table, CLIENT, "fd00::1"), Action::Pass);
    for vip in VIPS.map(|(addr, _)| addr) {
        assert_eq!(answer(&table, OTHER, vip), Action::Drop, "a member asks for {vip}");
    }
    table.vips.iter_mut().for_each(|vip| vip.flags &= !ANSWERS);
    assert_eq!(answer(&table, CLIENT, "10.0.0.100"), arp(VIRTUAL));
    assert_eq!(answer(&table, CLIENT, "10.0.0.101"), Action::Drop);
    // A group that spreads the answers: each asker has one node that answers.
    table.vips.iter_mut().for_each(|vip| vip.arp_group = 0);
    for host in 1..50 {
        let asker = Ipv4Addr::new(10, 0, 0, host);
        let question = arp_request(CLIENT, asker, "10.0.0.101".parse().expect("an address"));
        let owner = bucket(on_addr(&words(asker.into()))) % 3;
        let wanted = if owner == 0 { arp(OWN) } else { Action::Drop };
        assert_eq!(judge(question.as_slice(), &table, &kernel).action, wanted, "{asker}");
    }
}

/// The verdict worked out from the frame's description instead of its bytes.
fn described(frame: &Frame) -> (Action, Option<(u8, Counter)>) {
    const PASS: (Action, Option<(u8, Counter)>) = (Action::Pass, None);
    let deny = (Action::Drop, Some((NO_GROUP, Counter::Denied)));
    let Some((_, invisible)) = VIPS.iter().find(|(addr, _)| ip(addr) == frame.target) else {
        return PASS;
    };
    let shared = *invisible && frame.to == VIRTUAL;
    if !shared && frame.to != OWN {
        return if frame.to >> 40 & 1 == 1 { deny } else { PASS };
    }
    if frame.source.is_ipv6() && frame.options > 6 {
        return deny;
    }
    let (group, hash) = match frame.content {
        Content::Tcp { to: 80, .. } => (0, on_addr(&words(frame.source))),
        Content::Tcp { to: 443, from, .. } => (1, on_port(&words(frame.source), from)),
        Content::Udp { to: 53, .. } if frame.source.is_ipv4() => (1, on_ipid(frame.ipid)),
        Content::Udp { to: 53, .. } => (1, on_addr(&words(frame.source))),
        Content::Echo => return (Action::Accept, Some((NO_GROUP, Counter::Accepted))),
        _ => return deny,
    };
    let owner = bucket(hash) % 3;
    let at = 14 + 4 * frame.tags.len() as u8;
    match owner {
        0 => (Action::Accept, Some((group, Counter::Accepted))),
        _ if shared => (Action::Drop, Some((group, Counter::Foreign))),
        _ if [OTHER, THIRD].contains(&frame.from) => (Action::Drop, Some((group, Counter::Looped))),
        node => (Action::Forward { node, at }, Some((group, Counter::Forwarded))),
    }
}

prop_compose! {
    fn frames()(
        v4 in any::<bool>(),
        to in prop::sample::select(vec![OWN, VIRTUAL, OTHER, 0xffff_ffff_ffff]),
        from in prop::sample::select(vec![CLIENT, OTHER, THIRD]),
        tags in prop::collection::vec(0u16..4095, 0..3),
        host in any::<u32>(),
        target in 0usize..3,
        options in 0u8..9,
        ipid in any::<u16>(),
        kind in 0u8..5,
        client_port in any::<u16>(),
        port in prop::sample::select(vec![80u16, 443, 53, 22]),
        flags in any::<u8>(),
    ) -> Frame {
        let source = if v4 { IpAddr::V4(host.into()) } else {
            IpAddr::V6((0xfd00u128 << 112 | u128::from(host) << 32 | 5).into())
        };
        let targets = if v4 { ["10.0.0.100", "10.0.0.101", "10.0.0.9"] } else {
            ["fd00::100", "fd00::101", "fd00::9"]
        };
        let content = match kind {
            0 | 1 => Content::Tcp { from: client_port, to: port, flags },
            2 => Content::Udp { from: client_port, to: port },
            3 => Content::Echo,
            _ => Content::Other(132),
        };
        let mut frame = Frame::new(to, from, source, ip(targets[target])).with(content);
        (frame.tags, frame.options, frame.ipid) = (tags, options, ipid);
        frame
    }
}

proptest! {
    #[test]
    fn the_verdict_follows_from_the_description_of_the_frame(frame in frames()) {
        let table = table();
        let verdict = judge(frame.bytes().as_slice(), &table, &Fake::default());
        prop_assert_eq!((verdict.action, verdict.counted), described(&frame));
    }

    #[test]
    fn any_bytes_are_judged_without_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..120),
        frame in frames(),
        cut in 0usize..200,
    ) {
        let (table, kernel) = (table(), Fake::default());
        judge(bytes.as_slice(), &table, &kernel);
        let whole = frame.bytes();
        judge(&whole[..cut.min(whole.len())], &table, &kernel);
    }

    #[test]
    fn exactly_one_node_takes_a_new_connection(frame in frames()) {
        // The same frame under the shared address, judged by each of the three nodes.
        let frame = Frame { to: VIRTUAL, from: CLIENT, ..frame };
        let takers = (0..3u8).filter(|node| {
            let mut table = table();
            table.own = u32::from(*node);
            let verdict = judge(frame.bytes().as_slice(), &table, &Fake::default());
            verdict.action == Action::Accept
        });
        let (takers, echo) = (takers.count(), frame.content == Content::Echo);
        let (action, _) = described(&frame);
        let wanted = match action {
            Action::Accept if echo => 3,
            Action::Accept | Action::Drop if described(&frame).1.map(|(g, _)| g) != Some(NO_GROUP)
                => 1,
            _ => 0,
        };
        prop_assert_eq!(takers, wanted);
    }

    #[test]
    fn the_lowest_bit_is_found(nodes in 1u64..) {
        prop_assert_eq!(u32::from(lowest(nodes)), nodes.trailing_zeros());
    }
}

#[test]
fn tables_hold_what_the_layout_promises_and_refuse_more() {
    let mut table = Table::EMPTY;
    let vip = |n: u32| Vip { addr: mapped(0x0a00_0000 | n), flags: 0, ..table_vip() };
    let full: Vec<Vip> = (0..16).map(vip).collect();
    table.set_vips(&full).expect("16 addresses fit");
    assert_eq!(table.vips.iter().filter(|v| v.flags & USED != 0).count(), 16);
    let too_many: Vec<Vip> = (0..17).map(vip).collect();
    assert_eq!(table.set_vips(&too_many), Err(crate::builder::Overflow::Vips));
    let rules: Vec<_> =
        (0..64).map(|n| (0u8, TCP, 1000 + n, Target::new(0, Criterion::Addr))).collect();
    table.set_rules(&rules).expect("64 rules fit");
    let more = [rules, vec![(1, TCP, 1, Target::new(0, Criterion::Addr))]].concat();
    assert_eq!(table.set_rules(&more), Err(crate::builder::Overflow::Rules));
    let members: Vec<_> = (0..64u8).map(|n| (n, 0x0200_0000_0000 + u64::from(n) * 77)).collect();
    table.set_members(&members).expect("64 members fit");
    for (node, mac) in &members {
        assert_eq!(find_member(&table, *mac), Some(u32::from(*node)));
    }
}

fn table_vip() -> Vip {
    Vip {
        addr: [0; 4],
        mac: 0,
        tcp: Target::NONE,
        udp: Target::NONE,
        arp_group: NO_GROUP_OF_RULE,
        module: 0,
        id: 0,
        flags: 0,
    }
}

#[test]
fn the_layout_has_no_hidden_bytes() {
    use core::mem::size_of;
    let table = 8 + 4 * 4 + 64 * size_of::<Vip>() + 512 * 8 + 256 * 8 + 64 * 8 + 16 * 256 * 9;
    assert_eq!(size_of::<Table>(), table);
    assert_eq!(size_of::<Vip>(), 16 + 8 + 4 + 4);
    assert_eq!(size_of::<Rule>(), 8);
    assert_eq!(size_of::<Flow>(), 36);
    assert_eq!(size_of::<FragmentKey>(), 24);
    assert_eq!(size_of::<FragmentFate>(), 4);
}

use crate::layout::Rule;
