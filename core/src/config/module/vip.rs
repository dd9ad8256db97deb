//! `<vip>`: the addresses by which clients reach the service.

use std::{fmt, net::IpAddr, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::config::{
    cluster::ClusterConfig, error::Report, module::ServiceMode, read::View, value,
};

/// `<vip><interface_list><interface>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceConfig {
    /// Watch the interface (acted on by checkers). Default on.
    pub check: bool,
    /// Repeat gratuitous ARP. Default off.
    pub arp_reroute: bool,
    /// Period of that. Default 60 s.
    pub arp_interval: Duration,
    /// How long it goes on. Default 1200 s.
    pub arp_elapse: Duration,
    /// Network card; `None`: found from the address's network.
    pub name: Option<String>,
    /// How packets for its addresses reach the nodes.
    pub kind: InterfaceKind,
    /// The addresses, at least one.
    pub addresses: Vec<VirtualAddrConfig>,
}

/// `<real_interface>` or `<virtual_interface>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum InterfaceKind {
    /// The primary of a mirror holds the addresses with the card's own MAC address.
    Real,
    /// Every node of a farm holds them; one answers for the address with its own MAC address and
    /// passes packets on to the node that takes them.
    VmacDirected,
    /// Every node of a farm holds them; all answer with this MAC address, which is never a source,
    /// so that switches bring every packet to every node.
    VmacInvisible(VirtualMac),
}

/// A unicast MAC address that belongs to no card.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct VirtualMac(pub [u8; 6]);

/// `<virtual_addr>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VirtualAddrConfig {
    /// The address.
    pub addr: IpAddr,
    /// Prefix length from `netmask`; `None`: that of the network card.
    pub prefix: Option<u8>,
    /// Watch the address (acted on by checkers). Default on.
    pub check: bool,
    /// Count its connections. Default off.
    pub connections: bool,
}

impl VirtualMac {
    /// The address that a farm uses unless told otherwise: `5A:FE`, then the last four bytes of
    /// its first virtual address.
    pub fn of(addr: IpAddr) -> Self {
        let [a, b, c, d] = match addr {
            IpAddr::V4(addr) => addr.octets(),
            IpAddr::V6(addr) => {
                let [.., a, b, c, d] = addr.octets();
                [a, b, c, d]
            }
        };
        Self([0x5a, 0xfe, a, b, c, d])
    }
}

impl fmt::Display for VirtualMac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for VirtualMac {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut bytes = [0; 6];
        let mut parts = text.trim().split([':', '-']);
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2).ok_or(())?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| ())?;
        }
        if parts.next().is_some() { Err(()) } else { Ok(Self(bytes)) }
    }
}

/// The network cards with their addresses, and whether connections are reset on removal.
pub(super) fn build(
    service: View<'_>,
    mode: ServiceMode,
    cluster: &ClusterConfig,
    report: &mut Report<'_>,
) -> (Vec<InterfaceConfig>, bool) {
    let Some(vip) = service.child("vip") else { return (Vec::new(), true) };
    let mut interfaces: Vec<InterfaceConfig> = Vec::new();
    for view in vip.children("interface_list").flat_map(|list| list.children("interface")) {
        let real = view.children("real_interface").map(|real| (real, false));
        let cards = real.chain(view.children("virtual_interface").map(|card| (card, true)));
        let cards: Vec<(View<'_>, bool)> = cards.collect();
        if cards.is_empty() {
            let message = "<interface> contains no address";
            let remedy = match mode {
                ServiceMode::Farm => {
                    "add <virtual_interface type=\"vmac_directed\"><virtual_addr addr=\"...\"/>\
                     </virtual_interface>"
                }
                _ => "add <real_interface><virtual_addr addr=\"...\"/></real_interface>",
            };
            report.error(view.at(), message, remedy);
        }
        for (card, is_virtual) in cards {
            let addresses = addresses(card, mode, (cluster, &interfaces), report);
            let kind = kind(card, is_virtual, mode, &addresses, report);
            check_reroute(view, kind, report);
            if !addresses.is_empty() {
                interfaces.push(interface(view, kind, addresses));
            }
        }
    }
    (interfaces, vip.is_on("tcpreset"))
}

fn interface(
    view: View<'_>,
    kind: InterfaceKind,
    addresses: Vec<VirtualAddrConfig>,
) -> InterfaceConfig {
    InterfaceConfig {
        check: view.is_on("check"),
        arp_reroute: view.is_on("arpreroute"),
        arp_interval: view.time_or_default("arpinterval"),
        arp_elapse: view.time_or_default("arpelapse"),
        name: view.word("name").map(str::to_owned),
        kind,
        addresses,
    }
}

fn kind(
    card: View<'_>,
    is_virtual: bool,
    mode: ServiceMode,
    addresses: &[VirtualAddrConfig],
    report: &mut Report<'_>,
) -> InterfaceKind {
    if !is_virtual {
        if mode == ServiceMode::Farm {
            let message = "<real_interface> belongs to a mirror: one node at a time holds it";
            let remedy = "write <virtual_interface type=\"vmac_directed\">";
            report.error(card.at(), message, remedy);
        }
        return InterfaceKind::Real;
    }
    let invisible = card.word("type") == Some("vmac_invisible");
    let mac = match card.word("addr").map(VirtualMac::from_str) {
        Some(Ok(mac)) => mac,
        _ => addresses
            .first()
            .map_or(VirtualMac([0x5a, 0xfe, 0, 0, 0, 0]), |first| VirtualMac::of(first.addr)),
    };
    match (mode, invisible) {
        // Files exist that use it to move an address without gratuitous ARP.
        (ServiceMode::Mirror, true) => {
            let message = "vmac_invisible in a mirror is read as <real_interface>: the address \
                           moves by gratuitous ARP";
            report.warning(card.at(), message, "write <real_interface>");
            InterfaceKind::Real
        }
        (ServiceMode::Mirror, false) => {
            let message = "<virtual_interface> belongs to a farm";
            report.error(card.at(), message, "write <real_interface>");
            InterfaceKind::Real
        }
        (_, true) => InterfaceKind::VmacInvisible(mac),
        (_, false) => InterfaceKind::VmacDirected,
    }
}

fn check_reroute(interface: View<'_>, kind: InterfaceKind, report: &mut Report<'_>) {
    let rerouted = interface.is_on("arpreroute");
    match kind {
        InterfaceKind::VmacInvisible(_) if rerouted => {
            let message = "arpreroute=\"on\" with vmac_invisible: gratuitous ARP would teach \
                           switches one node's port, and the other nodes would see no packet";
            let remedy = "write arpreroute=\"off\"";
            report.error(interface.at_attribute("arpreroute"), message, remedy);
        }
        InterfaceKind::VmacDirected if !rerouted => {
            let message = "vmac_directed without arpreroute: after the death of the node that \
                           answers ARP, clients keep sending to it until their entry expires";
            let remedy = "write arpreroute=\"on\" arpinterval=\"5\" arpelapse=\"60\"";
            report.notice(interface.at(), message, remedy);
        }
        _ => {}
    }
}

fn addresses(
    card: View<'_>,
    mode: ServiceMode,
    (cluster, earlier): (&ClusterConfig, &[InterfaceConfig]),
    report: &mut Report<'_>,
) -> Vec<VirtualAddrConfig> {
    let mut found: Vec<VirtualAddrConfig> = Vec::new();
    for view in card.children("virtual_addr") {
        let Some(address) = virtual_addr(view, mode, cluster, report) else { continue };
        let mut others = earlier.iter().flat_map(|i| &i.addresses).chain(&found);
        if others.any(|other| other.addr == address.addr) {
            let message = format!("the virtual address {} occurs twice", address.addr);
            report.error(view.at_attribute("addr"), message, "remove one of the two");
        }
        found.push(address);
    }
    found
}

fn virtual_addr(
    view: View<'_>,
    mode: ServiceMode,
    cluster: &ClusterConfig,
    report: &mut Report<'_>,
) -> Option<VirtualAddrConfig> {
    check_where(view, mode, report);
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

fn check_where(view: View<'_>, mode: ServiceMode, report: &mut Report<'_>) {
    let at = view.at_attribute("where");
    match (view.word("where"), mode) {
        (Some("alias"), ServiceMode::Mirror) => {
            let message = "where=\"alias\" belongs to a farm";
            report.error(at, message, "write where=\"one_side_alias\"");
        }
        (Some(word @ ("one_side" | "one_side_alias")), ServiceMode::Farm) => {
            let message = format!("where=\"{word}\" belongs to a mirror");
            report.error(at, message, "write where=\"alias\": every node holds the address");
        }
        (Some("one_side"), _) => {
            let message = "where=\"one_side\" is read as one_side_alias: outgoing connections keep \
                           the node's own address";
            report.warning(at, message, "write where=\"one_side_alias\"");
        }
        _ => {}
    }
}

/// The name of the node that has this address of its own.
fn holder_of(addr: IpAddr, cluster: &ClusterConfig) -> Option<&str> {
    let is = |text: &str| text.parse() == Ok(addr);
    let nodes = cluster.lans.iter().flat_map(|lan| &lan.nodes);
    let mut nodes = nodes.filter(|n| is(&n.addr) || n.local_addr.as_deref().is_some_and(is));
    nodes.next().map(|n| cluster.name_of(n.node))
}
