//! `<vip>`: the addresses that follow the primary.

use std::net::IpAddr;

use crate::config::{
    cluster::ClusterConfig,
    error::Report,
    module::{InterfaceConfig, VirtualAddrConfig},
    read::View,
    value,
};

/// The network cards with their addresses, and whether connections are reset on removal.
pub(super) fn build(
    service: View<'_>,
    cluster: &ClusterConfig,
    report: &mut Report<'_>,
) -> (Vec<InterfaceConfig>, bool) {
    let Some(vip) = service.child("vip") else { return (Vec::new(), true) };
    let mut interfaces: Vec<InterfaceConfig> = Vec::new();
    for view in vip.children("interface_list").flat_map(|list| list.children("interface")) {
        let mut interface = InterfaceConfig {
            check: view.is_on("check"),
            arp_reroute: view.is_on("arpreroute"),
            arp_interval: view.time_or_default("arpinterval"),
            arp_elapse: view.time_or_default("arpelapse"),
            name: view.word("name").map(str::to_owned),
            addresses: Vec::new(),
        };
        let cards = view.children("real_interface").chain(view.children("virtual_interface"));
        if cards.count() == 0 {
            let message = "<interface> contains no address";
            let remedy = "add <real_interface><virtual_addr addr=\"...\"/></real_interface>";
            report.error(view.at(), message, remedy);
        }
        for view in view.children("real_interface").flat_map(|r| r.children("virtual_addr")) {
            let Some(address) = virtual_addr(view, cluster, report) else { continue };
            let twice = interfaces
                .iter()
                .chain([&interface])
                .flat_map(|i| &i.addresses)
                .any(|earlier| earlier.addr == address.addr);
            if twice {
                let message = format!("the virtual address {} occurs twice", address.addr);
                report.error(view.at_attribute("addr"), message, "remove one of the two");
            }
            interface.addresses.push(address);
        }
        interfaces.push(interface);
    }
    (interfaces, vip.is_on("tcpreset"))
}

fn virtual_addr(
    view: View<'_>,
    cluster: &ClusterConfig,
    report: &mut Report<'_>,
) -> Option<VirtualAddrConfig> {
    match view.word("where") {
        Some("alias") => {
            let message = "where=\"alias\" belongs to a farm";
            report.error(view.at_attribute("where"), message, "write where=\"one_side_alias\"");
        }
        Some("one_side") => {
            let message = "where=\"one_side\" is read as one_side_alias: outgoing connections keep \
                           the node's own address";
            report.warning(view.at_attribute("where"), message, "write where=\"one_side_alias\"");
        }
        _ => {}
    }
    let addr = view.address("addr")?;
    let at = view.at_attribute("addr");
    if let Some(node) = holder_of(addr, cluster) {
        let message = format!("the virtual address {addr} is the address of node {node}");
        report.error(at, message, "use a free address of the same network");
    }
    if addr.is_unspecified() || addr.is_multicast() || addr.is_loopback() {
        let message = format!("{addr} cannot be a virtual address");
        report.error(at, message, "use a free address of the nodes' network");
    }
    let prefix = view.word("netmask").and_then(value::prefix);
    if addr.is_ipv4() && prefix.is_some_and(|length| length > 32) {
        let message = "netmask is longer than 32 bits for an IPv4 address";
        report.error(view.at_attribute("netmask"), message, "write at most 32");
    }
    let check = view.is_on("check");
    Some(VirtualAddrConfig { addr, prefix, check, connections: view.is_on("connections") })
}

/// The name of the node that has this address of its own.
fn holder_of(addr: IpAddr, cluster: &ClusterConfig) -> Option<&str> {
    let is = |text: &str| text.parse() == Ok(addr);
    let nodes = cluster.lans.iter().flat_map(|lan| &lan.nodes);
    let mut nodes = nodes.filter(|n| is(&n.addr) || n.local_addr.as_deref().is_some_and(is));
    nodes.next().map(|n| cluster.name_of(n.node))
}
