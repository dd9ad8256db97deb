//! The kernel's interfaces and addresses: reading them, and adding or removing one address.
//!
//! Source: rtnetlink(7); Linux 6.1 `include/uapi/linux/{if_addr,if_link,rtnetlink}.h`.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use crate::netlink::{Body, CREATE, EXCLUSIVE, Netlink, REPLACE, attributes, u32_at};

const NEW_LINK: u16 = 16;
const GET_LINK: u16 = 18;
const NEW_ADDRESS: u16 = 20;
const DELETE_ADDRESS: u16 = 21;
const GET_ADDRESS: u16 = 22;
const NEW_NEIGHBOUR: u16 = 28;
const DELETE_NEIGHBOUR: u16 = 29;

const LINK_ADDRESS: u16 = 1;
const LINK_NAME: u16 = 3;
const LINK_INFO: u16 = 18;
const INFO_KIND: u16 = 1;
const LINK_XDP: u16 = 43;
const XDP_ATTACHED: u16 = 2;
const NEIGHBOUR_MAC: u16 = 2;
/// An entry of the interface itself, not of a bridge above it (`NTF_SELF`).
const OF_ITSELF: u8 = 2;
/// It never ages (`NUD_PERMANENT`).
const PERMANENT: u16 = 0x80;
const ADDRESS_ADDRESS: u16 = 1;
const ADDRESS_LOCAL: u16 = 2;
const ADDRESS_BROADCAST: u16 = 4;
const ADDRESS_CACHE: u16 = 6;
const ADDRESS_FLAGS: u16 = 8;

/// No duplicate address detection by the kernel (`IFA_F_NODAD`): ours is faster.
const NO_DUPLICATE_DETECTION: u32 = 0x02;

const UP: u32 = 0x1;
const LOOPBACK: u32 = 0x8;
const RUNNING: u32 = 0x40;
const NO_ARP: u32 = 0x80;

/// One network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// The kernel's number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its Ethernet address; `None` if it has none of six bytes.
    pub mac: Option<[u8; 6]>,
    /// Whether it is switched on.
    pub up: bool,
    /// Whether it is switched on and its cable works.
    pub running: bool,
    /// Whether neighbours are found by ARP or neighbour discovery.
    pub resolves: bool,
    /// How an XDP program is attached, if one is.
    pub xdp: Option<XdpAttached>,
    /// Whether it is one end of a virtual cable.
    pub is_veth: bool,
}

/// Where an XDP program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XdpAttached {
    /// In the driver.
    Native,
    /// In the kernel's common path.
    Generic,
    /// In the card, or in several places.
    Other,
}

/// One address of one interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// The kernel's number of the interface.
    pub index: u32,
    /// The address.
    pub addr: IpAddr,
    /// Length of its network prefix.
    pub prefix: u8,
}

impl Address {
    /// Whether `other` lies in the network of this address.
    pub fn network_contains(&self, other: IpAddr) -> bool {
        match (self.addr, other) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let shift = 32 - u32::from(self.prefix.min(32));
                let mask = u32::MAX.checked_shl(shift).unwrap_or(0);
                (own.to_bits() ^ other.to_bits()) & mask == 0
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let shift = 128 - u32::from(self.prefix.min(128));
                let mask = u128::MAX.checked_shl(shift).unwrap_or(0);
                (own.to_bits() ^ other.to_bits()) & mask == 0
            }
            _ => false,
        }
    }
}

/// Reads every interface.
pub fn interfaces(netlink: &mut Netlink) -> io::Result<Vec<Interface>> {
    let mut found = Vec::new();
    netlink.dump(GET_LINK, &Body::new(&[0; 16]), |kind, body| {
        if kind == NEW_LINK {
            found.extend(parse_interface(body));
        }
    })?;
    Ok(found)
}

/// Reads every address.
pub fn addresses(netlink: &mut Netlink) -> io::Result<Vec<Address>> {
    let mut found = Vec::new();
    netlink.dump(GET_ADDRESS, &Body::new(&[0; 8]), |kind, body| {
        if kind == NEW_ADDRESS {
            found.extend(parse_address(body));
        }
    })?;
    Ok(found)
}

/// Sets an address, or renews the one that is there, for `seconds`; the kernel removes it by
/// itself when that time passes without renewal.
pub fn set_address(netlink: &mut Netlink, address: Address, seconds: u32) -> io::Result<()> {
    netlink.order(NEW_ADDRESS, CREATE | REPLACE, &address_body(address, Some(seconds)))
}

/// Sets an address without an end.
pub fn set_address_for_ever(netlink: &mut Netlink, address: Address) -> io::Result<()> {
    netlink.order(NEW_ADDRESS, CREATE | REPLACE, &address_body(address, None))
}

/// Removes an address; `false` if it was not there.
pub fn remove_address(netlink: &mut Netlink, address: Address) -> io::Result<bool> {
    match netlink.order(DELETE_ADDRESS, 0, &address_body(address, None)) {
        Ok(()) => Ok(true),
        // IPv4 says EADDRNOTAVAIL, as IPv6; a vanished interface says ENODEV.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::ENODEV)) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Lets an interface receive frames for one more Ethernet address; one that it already receives
/// is no error. The interface's own address stays as it is.
pub fn add_unicast(netlink: &mut Netlink, index: u32, mac: [u8; 6]) -> io::Result<()> {
    match netlink.order(NEW_NEIGHBOUR, CREATE | EXCLUSIVE, &unicast_body(index, mac)) {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        other => other,
    }
}

/// Ends that; one that is not received is no error.
pub fn remove_unicast(netlink: &mut Netlink, index: u32, mac: [u8; 6]) -> io::Result<()> {
    match netlink.order(DELETE_NEIGHBOUR, 0, &unicast_body(index, mac)) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => Ok(()),
        other => other,
    }
}

/// `struct ndmsg` and the address.
fn unicast_body(index: u32, mac: [u8; 6]) -> Body {
    let family = u8::try_from(libc::AF_BRIDGE).expect("families are below 256");
    let mut fixed = vec![family, 0, 0, 0];
    fixed.extend_from_slice(&index.to_ne_bytes());
    fixed.extend_from_slice(&PERMANENT.to_ne_bytes());
    fixed.extend_from_slice(&[OF_ITSELF, 0]);
    Body::new(&fixed).attribute(NEIGHBOUR_MAC, &mac)
}

fn address_body(address: Address, seconds: Option<u32>) -> Body {
    let (family, bytes) = match address.addr {
        IpAddr::V4(addr) => (libc::AF_INET, addr.octets().to_vec()),
        IpAddr::V6(addr) => (libc::AF_INET6, addr.octets().to_vec()),
    };
    let family = u8::try_from(family).expect("both families are below 256");
    let mut fixed = vec![family, address.prefix, 0, 0];
    fixed.extend_from_slice(&address.index.to_ne_bytes());
    let mut body =
        Body::new(&fixed).attribute(ADDRESS_LOCAL, &bytes).attribute(ADDRESS_ADDRESS, &bytes);
    let mut flags = 0;
    match address.addr {
        IpAddr::V4(addr) => {
            if address.prefix < 31 {
                let host = u32::MAX >> address.prefix;
                let broadcast = Ipv4Addr::from_bits(addr.to_bits() | host);
                body = body.attribute(ADDRESS_BROADCAST, &broadcast.octets());
            }
        }
        IpAddr::V6(_) => flags = NO_DUPLICATE_DETECTION,
    }
    if flags != 0 {
        body = body.attribute(ADDRESS_FLAGS, &u32::to_ne_bytes(flags));
    }
    if let Some(seconds) = seconds {
        // Preferred time zero keeps a virtual IPv6 address from being the source of the node's
        // own connections (RFC 6724 section 5, rule 3); IPv4 has no such rule.
        let preferred = if address.addr.is_ipv6() { 0 } else { seconds };
        let mut cache = Vec::with_capacity(16);
        cache.extend_from_slice(&preferred.to_ne_bytes());
        cache.extend_from_slice(&seconds.to_ne_bytes());
        cache.extend_from_slice(&[0; 8]);
        body = body.attribute(ADDRESS_CACHE, &cache);
    }
    body
}

fn parse_interface(body: &[u8]) -> Option<Interface> {
    let index = u32_at(body, 4)?;
    let flags = u32_at(body, 8)?;
    let mut interface = Interface {
        index,
        name: String::new(),
        mac: None,
        up: flags & UP != 0,
        running: flags & UP != 0 && flags & RUNNING != 0,
        resolves: flags & (LOOPBACK | NO_ARP) == 0,
        xdp: None,
        is_veth: false,
    };
    for (kind, value) in attributes(body.get(16..)?) {
        match kind {
            LINK_NAME => {
                let name = value.strip_suffix(&[0]).unwrap_or(value);
                interface.name = String::from_utf8_lossy(name).into_owned();
            }
            LINK_ADDRESS => interface.mac = value.try_into().ok(),
            LINK_INFO => {
                let kind = attributes(value).find(|(kind, _)| *kind == INFO_KIND);
                interface.is_veth = kind.is_some_and(|(_, value)| value.starts_with(b"veth"));
            }
            LINK_XDP => {
                let attached = attributes(value).find(|(kind, _)| *kind == XDP_ATTACHED);
                interface.xdp = match attached.and_then(|(_, value)| value.first()) {
                    None | Some(0) => None,
                    Some(1) => Some(XdpAttached::Native),
                    Some(2) => Some(XdpAttached::Generic),
                    Some(_) => Some(XdpAttached::Other),
                };
            }
            _ => {}
        }
    }
    Some(interface)
}

fn parse_address(body: &[u8]) -> Option<Address> {
    let prefix = *body.get(1)?;
    let index = u32_at(body, 4)?;
    let mut peer = None;
    let mut local = None;
    for (kind, value) in attributes(body.get(8..)?) {
        match kind {
            ADDRESS_LOCAL => local = ip_of(value),
            ADDRESS_ADDRESS => peer = ip_of(value),
            _ => {}
        }
    }
    // IPv4 gives the own address in LOCAL, IPv6 gives it in ADDRESS only.
    Some(Address { index, addr: local.or(peer)?, prefix })
}

fn ip_of(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(octets).into());
    }
    let octets = <[u8; 16]>::try_from(bytes).ok()?;
    Some(Ipv6Addr::from(octets).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::Family;

    #[test]
    fn the_loopback_interface_and_its_address_are_found() {
        let mut netlink = Netlink::open(Family::Route).expect("netlink is open to everybody");
        let all = interfaces(&mut netlink).expect("interfaces can be read");
        let lo = all.iter().find(|i| i.name == "lo").expect("every machine has lo");
        assert!(!lo.resolves, "lo needs no ARP");
        let all = addresses(&mut netlink).expect("addresses can be read");
        assert!(
            all.iter().any(|a| a.index == lo.index && a.addr.is_loopback()),
            "127.0.0.1 is missing among {all:?}"
        );
    }

    #[test]
    fn a_network_contains_its_own_addresses_only() {
        let net = |addr: &str, prefix| Address {
            index: 1,
            addr: addr.parse().expect("an address"),
            prefix,
        };
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        assert!(net("10.0.0.1", 24).network_contains(ip("10.0.0.200")));
        assert!(!net("10.0.0.1", 24).network_contains(ip("10.0.1.200")));
        assert!(net("10.0.0.1", 0).network_contains(ip("192.0.2.1")));
        assert!(!net("10.0.0.1", 32).network_contains(ip("10.0.0.2")));
        assert!(net("fd00::1", 64).network_contains(ip("fd00::2")));
        assert!(!net("fd00::1", 64).network_contains(ip("fd00:0:0:1::2")));
        assert!(!net("fd00::1", 0).network_contains(ip("10.0.0.1")));
    }
}
