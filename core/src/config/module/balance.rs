//! `<loadbalancing_list>`: which packets of a farm are shared, by what, and among whom.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{
    config::{
        cluster::ClusterConfig,
        error::Report,
        module::{InterfaceConfig, InterfaceKind},
        read::View,
        suggest, value,
    },
    ids::NodeId,
};

/// Most groups of one farm: their shares are maps of the packet filter.
pub const GROUPS_MAX: usize = 16;
/// Most rules of one farm.
pub const RULES_MAX: usize = 256;

/// `<group>`: packets that are shared alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupConfig {
    /// Its name; its resource is `NAME_0`.
    pub name: String,
    /// Its nodes with their weights, in the order of the cluster; every member of the farm unless
    /// `<cluster>` names some. At least one weight is not 0.
    pub hosts: Vec<HostPower>,
    /// Its rules, at least one.
    pub rules: Vec<RuleConfig>,
}

/// `<host>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPower {
    /// Which node.
    pub node: NodeId,
    /// Its weight; 0: no load. Default 1.
    pub power: u32,
}

/// `<rule>`. Of several that match a packet the first in the order of the file wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleConfig {
    /// The virtual address it applies to; `None`: all of the farm.
    pub addr: Option<IpAddr>,
    /// The destination port it applies to; `None`: all. Always `None` for ARP.
    pub port: Option<u16>,
    /// Which packets.
    pub protocol: RuleProtocol,
    /// What decides which node takes a packet.
    pub filter: RuleFilter,
}

/// `proto=`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RuleProtocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// Questions for the address itself: ARP and neighbour discovery. With `vmac_directed` only.
    Arp,
}

/// `filter=`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RuleFilter {
    /// The client's address: one client stays on one node.
    OnAddr,
    /// The client's address and port: one client's connections are spread.
    OnPort,
    /// The identification field of IPv4: datagrams of one client are spread.
    OnIpid,
}

impl RuleConfig {
    /// Whether this rule matches every packet that `other` matches.
    fn covers(&self, other: &Self) -> bool {
        self.protocol == other.protocol
            && (self.addr.is_none() || self.addr == other.addr)
            && (self.port.is_none() || self.port == other.port)
    }
}

impl RuleProtocol {
    const fn word(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Arp => "arp",
        }
    }
}

/// The groups of a farm.
pub(super) fn build(
    service: View<'_>,
    interfaces: &[InterfaceConfig],
    (cluster, members): (&ClusterConfig, &[NodeId]),
    report: &mut Report<'_>,
) -> Vec<GroupConfig> {
    let Some(vip) = service.child("vip") else { return Vec::new() };
    let mut groups: Vec<GroupConfig> = Vec::new();
    for view in vip.children("loadbalancing_list").flat_map(|list| list.children("group")) {
        let name = view.word("name").unwrap_or_default().to_owned();
        if groups.iter().any(|group| group.name == name && !name.is_empty()) {
            let message = format!("two groups are called {name}");
            report.error(view.at_attribute("name"), message, "give each group its own name");
        }
        if groups.len() >= GROUPS_MAX {
            report.error(view.at(), format!("more than {GROUPS_MAX} groups"), "join some");
            break;
        }
        let hosts = hosts(view, cluster, members, report);
        let mut group = GroupConfig { name, hosts, rules: Vec::new() };
        for view in view.children("rule") {
            let Some(rule) = rule(view, interfaces, report) else { continue };
            let mut earlier = groups.iter().flat_map(|group| &group.rules).chain(&group.rules);
            if earlier.any(|earlier| earlier.covers(&rule)) {
                let message = "an earlier rule matches every packet that this one matches: it \
                               never applies";
                report.error(view.at(), message, "remove it, or put it in front of the other");
            }
            group.rules.push(rule);
        }
        groups.push(group);
    }
    let total = groups.iter().map(|group| group.rules.len()).sum::<usize>();
    if total > RULES_MAX {
        report.error(vip.at(), format!("more than {RULES_MAX} rules"), "join some");
    }
    if total == 0 && !interfaces.is_empty() && !report.has_errors() {
        let message = "no rule shares the traffic of the virtual addresses: all of it is denied";
        let remedy = "add <loadbalancing_list><group name=\"...\"><rule port=\"...\" proto=\"tcp\" \
                      filter=\"on_addr\"/></group></loadbalancing_list>";
        report.error(vip.at(), message, remedy);
    }
    groups
}

fn hosts(
    group: View<'_>,
    cluster: &ClusterConfig,
    members: &[NodeId],
    report: &mut Report<'_>,
) -> Vec<HostPower> {
    let mut hosts: Vec<HostPower> = Vec::new();
    let mut all_known = true;
    for view in group.children("cluster").flat_map(|cluster| cluster.children("host")) {
        all_known = false;
        let Some(name) = view.word("name") else { continue };
        let at = view.at_attribute("name");
        let Some(node) = cluster.node_named(name) else {
            let known = cluster.nodes.iter().map(String::as_str);
            let message = format!("{name} is not a node of the cluster");
            report.error(at, message, suggest::remedy(name, known));
            continue;
        };
        if !members.contains(&node) {
            let message = format!("node {name} is on no network of <farm>");
            report.error(at, message, "add it to the <lan> in cluster.xml, or remove the host");
            continue;
        }
        if hosts.iter().any(|host| host.node == node) {
            report.error(at, format!("node {name} occurs twice"), "remove one of the two");
            continue;
        }
        let power = view.count("power").and_then(|n| u32::try_from(n).ok()).unwrap_or(1);
        hosts.push(HostPower { node, power });
        all_known = true;
    }
    hosts.sort_by_key(|host| host.node);
    if hosts.is_empty() && all_known {
        return members.iter().map(|&node| HostPower { node, power: 1 }).collect();
    }
    if !hosts.is_empty() && hosts.iter().all(|host| host.power == 0) {
        let at = group.child("cluster").map_or(group.at(), |cluster| cluster.at());
        let message = "every node of the group has power 0: nobody would answer";
        report.error(at, message, "give at least one node a power of 1 or more");
    }
    hosts
}

fn rule(
    view: View<'_>,
    interfaces: &[InterfaceConfig],
    report: &mut Report<'_>,
) -> Option<RuleConfig> {
    let protocol = match view.word("proto")? {
        "udp" => RuleProtocol::Udp,
        "arp" => RuleProtocol::Arp,
        _ => RuleProtocol::Tcp,
    };
    let filter = match view.word("filter")? {
        "on_port" => RuleFilter::OnPort,
        "on_ipid" => RuleFilter::OnIpid,
        _ => RuleFilter::OnAddr,
    };
    let rule = RuleConfig {
        addr: rule_addr(view, interfaces, report)?,
        port: view.word("port").and_then(|port| port.parse().ok()),
        protocol,
        filter,
    };
    check_arp(view, rule, interfaces, report);
    check_ipid(view, rule, interfaces, report);
    Some(rule)
}

/// The address of a rule; the inner `None` stands for all.
fn rule_addr(
    view: View<'_>,
    interfaces: &[InterfaceConfig],
    report: &mut Report<'_>,
) -> Option<Option<IpAddr>> {
    let word = view.word("virtual_addr")?;
    if word == "*" {
        return Some(None);
    }
    let addr = value::address(word)?;
    if !interfaces.iter().flat_map(|i| &i.addresses).any(|a| a.addr == addr) {
        let message = format!("{addr} is not a virtual address of this module");
        let remedy = "write an addr of a <virtual_addr> above, or *";
        report.error(view.at_attribute("virtual_addr"), message, remedy);
    }
    Some(Some(addr))
}

/// The interfaces a rule applies to.
fn concerned(
    rule: RuleConfig,
    interfaces: &[InterfaceConfig],
) -> impl Iterator<Item = &InterfaceConfig> {
    let has = move |i: &InterfaceConfig, addr| i.addresses.iter().any(|a| a.addr == addr);
    interfaces.iter().filter(move |i| rule.addr.is_none_or(|addr| has(i, addr)))
}

fn check_arp(
    view: View<'_>,
    rule: RuleConfig,
    interfaces: &[InterfaceConfig],
    report: &mut Report<'_>,
) {
    if rule.protocol != RuleProtocol::Arp {
        return;
    }
    let directed = |i: &InterfaceConfig| i.kind == InterfaceKind::VmacDirected;
    if !concerned(rule, interfaces).all(directed) {
        let message = "proto=\"arp\" outside of vmac_directed: with vmac_invisible every node \
                       gives the same virtual MAC address, there is nothing to share";
        let remedy = "remove the rule, or write type=\"vmac_directed\"";
        report.error(view.at_attribute("proto"), message, remedy);
    }
    if rule.filter != RuleFilter::OnAddr {
        let message = "proto=\"arp\" has no port and no IP identification";
        report.error(view.at_attribute("filter"), message, "write filter=\"on_addr\"");
    }
    if rule.port.is_some() {
        let message = "proto=\"arp\" has no port";
        report.error(view.at_attribute("port"), message, "remove port");
    }
}

fn check_ipid(
    view: View<'_>,
    rule: RuleConfig,
    interfaces: &[InterfaceConfig],
    report: &mut Report<'_>,
) {
    if rule.filter != RuleFilter::OnIpid || rule.protocol == RuleProtocol::Arp {
        return;
    }
    let at = view.at_attribute("filter");
    if rule.protocol == RuleProtocol::Tcp {
        let word = rule.protocol.word();
        let message = format!(
            "filter=\"on_ipid\" with proto=\"{word}\": the packets of one connection would go to \
             different nodes"
        );
        report.error(at, message, "write filter=\"on_addr\" or filter=\"on_port\"");
    }
    let addresses = concerned(rule, interfaces).flat_map(|i| &i.addresses);
    let mut addresses = addresses.filter(|a| rule.addr.is_none_or(|addr| addr == a.addr));
    if let Some(six) = addresses.find(|a| a.addr.is_ipv6()) {
        let message =
            format!("filter=\"on_ipid\" and the IPv6 address {}: IPv6 has no such field", six.addr);
        report.error(at, message, "write virtual_addr with an IPv4 address, or another filter");
    }
}
