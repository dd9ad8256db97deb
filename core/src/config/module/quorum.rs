//! Who decides when all heartbeats are lost: `quorum=`, `<witness>` and `<splitbrain>`.

use std::net::IpAddr;

use crate::config::{
    cluster::ClusterConfig,
    error::Report,
    module::{QuorumPolicy, ServiceMode},
    read::View,
    value,
};

pub(super) fn build(
    service: View<'_>,
    cluster: &ClusterConfig,
    report: &mut Report<'_>,
) -> QuorumPolicy {
    let checkers: Vec<View<'_>> =
        service.children("check").flat_map(|check| check.children("splitbrain")).collect();
    let mut targets: Vec<IpAddr> = Vec::new();
    for checker in &checkers {
        targets.extend(ping_targets(*checker, Some(report)));
    }
    if let [_, second, ..] = checkers.as_slice() {
        let message = "a second <splitbrain>";
        report.error(second.at(), message, "name all addresses in the arg of one <splitbrain>");
    }
    let at = service.at_attribute("quorum");
    match service.word("quorum") {
        Some("none") => QuorumPolicy::None,
        Some("ping") => {
            if checkers.is_empty() {
                let message = "quorum=\"ping\" without a <splitbrain> checker";
                let remedy = "add <check><splitbrain exec=\"ping\" arg=\"ADDRESS\"/></check>";
                report.error(at, message, remedy);
            }
            QuorumPolicy::Ping(targets)
        }
        Some("lease") => {
            if cluster.witness.is_none() {
                let message = "quorum=\"lease\" without a witness";
                let remedy = "add <witness addr=\"...\"/> to <cluster> in cluster.xml";
                report.error(at, message, remedy);
            }
            QuorumPolicy::Lease
        }
        _ if cluster.witness.is_some() => {
            if let Some(checker) = checkers.first() {
                let message = "<splitbrain> has no effect: the witness of cluster.xml decides";
                let remedy = "remove it, or write <service quorum=\"ping\">";
                report.notice(checker.at(), message, remedy);
            }
            QuorumPolicy::Lease
        }
        _ if !checkers.is_empty() => QuorumPolicy::Ping(targets),
        _ => {
            let message = "no witness: if all networks between the nodes fail, both run";
            let remedy = "add <witness addr=\"...\"/> to cluster.xml, a third machine";
            report.notice(service.at(), message, remedy);
            QuorumPolicy::None
        }
    }
}

/// The hosts of a `<splitbrain>`; tells what is wrong with them if there is a report to write to.
pub(super) fn ping_targets(checker: View<'_>, mut report: Option<&mut Report<'_>>) -> Vec<IpAddr> {
    let words = checker.word("arg").unwrap_or_default();
    let mut targets = Vec::new();
    for word in words.split_whitespace() {
        match value::address(word) {
            Some(address) => targets.push(address),
            None => {
                let message = format!("<splitbrain arg>: {word} is not a numeric address");
                let remedy = "write IPv4 or IPv6 addresses separated by blanks";
                if let Some(report) = &mut report {
                    report.error(checker.at_attribute("arg"), message, remedy);
                }
            }
        }
    }
    targets
}

/// Warns of a TCP checker that goes through the module's own virtual address: in a farm it tests
/// whichever node the connection happens to reach.
pub(super) fn check_through_own_address(
    service: View<'_>,
    mode: ServiceMode,
    report: &mut Report<'_>,
) {
    if mode != ServiceMode::Farm {
        return;
    }
    let interfaces = service.children("vip").flat_map(|vip| vip.children("interface_list"));
    let cards = interfaces.flat_map(|list| list.children("interface"));
    let virtuals = cards.flat_map(|card| card.children("virtual_interface"));
    let addresses = virtuals.flat_map(|v| v.children("virtual_addr"));
    let own: Vec<IpAddr> = addresses.filter_map(|address| address.address("addr")).collect();
    for tcp in service.children("check").flat_map(|check| check.children("tcp")) {
        for to in tcp.children("to") {
            let target = to.word("addr").and_then(value::address);
            if target.is_some_and(|target| own.contains(&target)) {
                let message = "this checker goes through the farm's virtual address: it tests \
                               whichever node answers, not this one";
                report.warning(to.at_attribute("addr"), message, "check an address of the node");
            }
        }
    }
}
