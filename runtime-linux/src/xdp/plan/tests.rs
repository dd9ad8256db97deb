//! The kernel's table says the same as the modules' tables.

use havre_core::{
    config::module::{RuleConfig, VirtualMac},
    farm::{
        hash::{Client, bucket},
        set::{MemberSet, Slot},
        table::{FilterBucket, FilterGroup, FilterMember, FilterRule},
    },
    status::VirtualIp,
};
use havre_ebpf::{
    counters::Counter,
    frames::{Content, Frame},
    hash,
    layout::{Flow, FragmentFate, FragmentKey},
    verdict::{Action, Kernel, judge},
};
use proptest::prelude::*;

use super::*;

const OWN: Mac = [2, 0, 0, 0, 0, 1];
const CLIENT: Mac = [2, 0, 0, 0, 0, 0x99];
const VIRTUAL: Mac = [0x5a, 0xfe, 10, 0, 0, 100];

struct Nothing;

impl Kernel for Nothing {
    fn has_socket(&self, _: &Flow) -> bool {
        false
    }
    fn has_begun(&self, _: &Flow) -> bool {
        false
    }
    fn began(&self, _: &Flow) {}
    fn is_expired(&self, _: u8) -> bool {
        false
    }
    fn fate(&self, _: &FragmentKey) -> Option<FragmentFate> {
        None
    }
    fn set_fate(&self, _: &FragmentKey, _: FragmentFate) {}
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn rule(protocol: RuleProtocol, port: Option<u16>, filter: RuleFilter, group: u8) -> FilterRule {
    FilterRule { rule: RuleConfig { addr: None, port, protocol, filter }, group }
}

/// Nodes 3, 5 and 9 of the cluster; this one is `local` of them. Bucket b belongs to b mod 3.
fn table(local: u8, rules: Vec<FilterRule>, groups: usize) -> FilterTable {
    let member = |node: u16| FilterMember {
        node: NodeId(node),
        name: format!("node{node}"),
        addrs: Vec::new(),
        live: true,
    };
    let bucket =
        |bucket: u8| FilterBucket { owner: Some(Slot(bucket % 3)), holders: MemberSet::EMPTY };
    let group = FilterGroup { name: "g".to_owned(), buckets: (0..=255).map(bucket).collect() };
    FilterTable {
        number: 1,
        local: Slot(local),
        members: [3, 5, 9].map(member).to_vec(),
        leader: Some(Slot(0)),
        interfaces: Vec::new(),
        rules,
        groups: vec![group; groups],
        keep_established: true,
        draining: false,
        until: None,
    }
}

fn interface(kind: InterfaceKind, addresses: &[&str]) -> FilterInterface {
    let vip =
        |addr: &&str| VirtualIp { addr: ip(addr), prefix: None, interface: None, shared: true };
    FilterInterface { name: None, kind, addresses: addresses.iter().map(vip).collect() }
}

fn macs() -> BTreeMap<NodeId, Mac> {
    [3, 5, 9].map(|node| (NodeId(node), [2, 0, 0, 0, 1, node.to_le_bytes()[0]])).into()
}

fn judged(plan: &Plan, frame: &Frame) -> (Action, Option<(u8, Counter)>) {
    let verdict = judge(frame.bytes().as_slice(), &plan.table, &Nothing);
    (verdict.action, verdict.counted)
}

#[test]
fn the_first_rule_that_matches_decides() {
    use RuleFilter::{OnAddr, OnPort};
    use RuleProtocol::{Tcp, Udp};
    let rules = vec![
        rule(Tcp, Some(80), OnAddr, 0),
        rule(Tcp, None, OnPort, 1),
        rule(Tcp, Some(443), OnAddr, 0),
        rule(Udp, Some(53), OnAddr, 1),
        rule(Udp, Some(53), OnPort, 0),
    ];
    let table = table(0, rules, 2);
    let interface = interface(InterfaceKind::VmacInvisible(VirtualMac(VIRTUAL)), &["10.0.0.100"]);
    let share = Share { table: &table, interface: &interface, number: 0 };
    let plan = plan(&[share], OWN, &macs()).expect("fits");
    let frame = Frame::new(mac_value(VIRTUAL), mac_value(CLIENT), ip("10.0.0.1"), ip("10.0.0.100"));
    let group = |content| judged(&plan, &frame.with(content)).1.map(|(group, _)| group);
    assert_eq!(group(Content::Tcp { from: 1, to: 80, flags: 2 }), Some(0));
    assert_eq!(group(Content::Tcp { from: 1, to: 443, flags: 2 }), Some(1), "hidden by *");
    assert_eq!(group(Content::Udp { from: 1, to: 53 }), Some(1), "the first of two");
    let (action, counted) = judged(&plan, &frame.with(Content::Udp { from: 1, to: 54 }));
    assert_eq!((action, counted.map(|c| c.1)), (Action::Drop, Some(Counter::Denied)));
}

#[test]
fn two_modules_share_an_interface() {
    let rules = vec![rule(RuleProtocol::Tcp, Some(80), RuleFilter::OnAddr, 0)];
    let (one, mut two) = (table(0, rules.clone(), 1), table(0, rules, 1));
    // The second module runs on nodes 3 and 4 only, and node 4 has every bucket.
    two.members.truncate(2);
    two.members[1].node = NodeId(4);
    two.groups[0].buckets.iter_mut().for_each(|bucket| bucket.owner = Some(Slot(1)));
    let first = interface(InterfaceKind::VmacDirected, &["10.0.0.100"]);
    let second = interface(InterfaceKind::VmacDirected, &["10.0.0.101"]);
    let shares = [
        Share { table: &one, interface: &first, number: 0 },
        Share { table: &two, interface: &second, number: 1 },
    ];
    let mut macs = macs();
    macs.insert(NodeId(4), [2, 0, 0, 0, 1, 4]);
    let plan = plan(&shares, OWN, &macs).expect("fits");
    assert_eq!(plan.groups, [0, 1]);
    let frame = |vip| Frame::new(mac_value(OWN), mac_value(CLIENT), ip("10.0.0.1"), ip(vip));
    let (action, counted) = judged(&plan, &frame("10.0.0.101"));
    let Action::Forward { node, .. } = action else { panic!("{action:?}") };
    assert_eq!(plan.table.macs[usize::from(node)], mac_value([2, 0, 0, 0, 1, 4]));
    assert_eq!(counted, Some((1, Counter::Forwarded)));
}

#[test]
fn only_the_leader_answers_for_a_directed_address() {
    for (local, answers) in [(0, true), (1, false)] {
        let table = table(local, Vec::new(), 0);
        let interface = interface(InterfaceKind::VmacDirected, &["10.0.0.100"]);
        let share = Share { table: &table, interface: &interface, number: 0 };
        let plan = plan(&[share], OWN, &macs()).expect("fits");
        let found = plan.table.vips.iter().any(|vip| vip.flags & ANSWERS != 0);
        assert_eq!(found, answers, "member {local}");
    }
}

#[test]
fn more_than_fits_is_refused_with_the_reason() {
    let table = table(0, Vec::new(), 17);
    let interface = interface(InterfaceKind::VmacDirected, &["10.0.0.100"]);
    let share = Share { table: &table, interface: &interface, number: 0 };
    assert_eq!(plan(&[share], OWN, &macs()).err(), Some(Overflow::Groups));
}

proptest! {
    #[test]
    fn core_and_filter_compute_the_same_bucket(
        v6 in any::<u128>(), v4 in any::<u32>(), port in any::<u16>(), ipid in any::<u16>(),
    ) {
        for addr in [IpAddr::V4(v4.into()), IpAddr::V6(v6.into())] {
            // Addresses of the form ::ffff:a.b.c.d never travel (RFC 5156 section 2.2).
            prop_assume!(!hash::is_mapped(&words(addr)) || addr.is_ipv4());
            let client = Client { addr, port, ipid };
            let words = words(addr);
            let by_addr = hash::bucket(hash::on_addr(&words));
            prop_assert_eq!(bucket(RuleFilter::OnAddr, client), by_addr);
            let by_port = hash::bucket(hash::on_port(&words, port));
            prop_assert_eq!(bucket(RuleFilter::OnPort, client), by_port);
            let by_id = if addr.is_ipv4() { hash::bucket(hash::on_ipid(ipid)) } else { by_addr };
            prop_assert_eq!(bucket(RuleFilter::OnIpid, client), by_id);
        }
    }

    #[test]
    fn of_the_nodes_of_a_farm_exactly_the_owner_accepts(
        host in any::<u32>(), from in any::<u16>(),
    ) {
        let rules = vec![rule(RuleProtocol::Tcp, Some(80), RuleFilter::OnPort, 0)];
        let interface =
            interface(InterfaceKind::VmacInvisible(VirtualMac(VIRTUAL)), &["10.0.0.100"]);
        let client = IpAddr::V4(host.into());
        let frame =
            Frame::new(mac_value(VIRTUAL), mac_value(CLIENT), client, ip("10.0.0.100"))
                .with(Content::Tcp { from, to: 80, flags: 2 });
        let number = bucket(RuleFilter::OnPort, Client { addr: client, port: from, ipid: 0 });
        for local in 0..3 {
            let table = table(local, rules.clone(), 1);
            let share = Share { table: &table, interface: &interface, number: 0 };
            let plan = plan(&[share], OWN, &macs()).expect("fits");
            let accepted = judged(&plan, &frame).0 == Action::Accept;
            prop_assert_eq!(accepted, number % 3 == local);
        }
    }
}
