//! Cables and switches: virtual Ethernet pairs and bridges, in the namespace of the calling
//! thread.
//!
//! Source: rtnetlink(7); Linux 6.1 `include/uapi/linux/{if_link,if_bridge,neighbour,veth}.h`.

use std::{
    io,
    net::IpAddr,
    os::fd::{AsFd, AsRawFd},
};

use crate::{
    interface::{self, Address},
    lab::namespace::NetworkNamespace,
    netlink::{Body, CREATE, EXCLUSIVE, Family, Netlink, REPLACE},
};

const NEW_LINK: u16 = 16;
const SET_LINK: u16 = 19;
const NEW_NEIGHBOUR: u16 = 28;
const DELETE_NEIGHBOUR: u16 = 29;

const LINK_NAME: u16 = 3;
const LINK_MASTER: u16 = 10;
const LINK_PROTOCOL_INFO: u16 = 12;
const LINK_INFO: u16 = 18;
const LINK_NAMESPACE: u16 = 28;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const VETH_PEER: u16 = 1;
const NESTED: u16 = 0x8000;
const PORT_STATE: u16 = 1;
const NEIGHBOUR_ADDRESS: u16 = 1;
const NEIGHBOUR_MAC: u16 = 2;
const PERMANENT: u16 = 0x80;
const UP: u32 = 1;
/// A locally administered Ethernet address that nobody has.
const NOBODY: [u8; 6] = [0x02, 0xde, 0xad, 0, 0, 1];

/// The switch's end of a machine's cable.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) name: String,
}

/// What a switch does with the frames of one port.
#[derive(Debug, Clone, Copy)]
pub(super) enum PortState {
    /// Carries them.
    Forwarding = 3,
    /// Drops them in both directions without a sign. (A port that is only "blocking" is taken
    /// back to forwarding by the kernel's own choice of port states.)
    Disabled = 0,
}

/// `struct ifinfomsg`.
fn link(family: i32, index: u32, flags: u32, change: u32) -> Vec<u8> {
    let family = u8::try_from(family).expect("families are below 256");
    let mut bytes = vec![family, 0, 0, 0];
    bytes.extend_from_slice(&index.to_ne_bytes());
    bytes.extend_from_slice(&flags.to_ne_bytes());
    bytes.extend_from_slice(&change.to_ne_bytes());
    bytes
}

fn index_of(netlink: &mut Netlink, name: &str) -> io::Result<u32> {
    let all = interface::interfaces(netlink)?;
    let found = all.into_iter().find(|i| i.name == name);
    found.map(|i| i.index).ok_or_else(|| io::Error::other(format!("no interface {name}")))
}

pub(super) fn create_bridge(name: &str) -> io::Result<()> {
    let info = Body::default().text(INFO_KIND, "bridge");
    let body = Body::new(&link(0, 0, 0, 0)).text(LINK_NAME, name).nested(LINK_INFO, &info);
    Netlink::open(Family::Route)?.order(NEW_LINK, CREATE | EXCLUSIVE, &body)
}

/// Makes a cable with one end here and the other in `namespace`.
pub(super) fn create_veth(here: &str, there: &str, namespace: &NetworkNamespace) -> io::Result<()> {
    let descriptor = namespace.as_fd().as_raw_fd();
    let peer = Body::new(&link(0, 0, 0, 0))
        .text(LINK_NAME, there)
        .attribute(LINK_NAMESPACE, &descriptor.to_ne_bytes());
    let data = Body::default().nested(VETH_PEER, &peer);
    let info = Body::default().text(INFO_KIND, "veth").nested(INFO_DATA, &data);
    let body = Body::new(&link(0, 0, 0, 0)).text(LINK_NAME, here).nested(LINK_INFO, &info);
    Netlink::open(Family::Route)?.order(NEW_LINK, CREATE | EXCLUSIVE, &body)
}

pub(super) fn join_bridge(port: &str, bridge: &str) -> io::Result<()> {
    let mut netlink = Netlink::open(Family::Route)?;
    let master = index_of(&mut netlink, bridge)?;
    let index = index_of(&mut netlink, port)?;
    let body = Body::new(&link(0, index, 0, 0)).attribute(LINK_MASTER, &master.to_ne_bytes());
    netlink.order(NEW_LINK, 0, &body)
}

/// Makes a port of a switch finish checksums before it sends, as a real card does. Virtual cables
/// pass them on unfinished, which a packet filter that sends frames back cannot make good. Returns
/// the kernel's number of the port.
pub(super) fn finish_checksums(port: &str) -> io::Result<u32> {
    const SET_TRANSMIT_CHECKSUM: u32 = 0x17;
    set_offload(port, SET_TRANSMIT_CHECKSUM, 0)?;
    index_of(&mut Netlink::open(Family::Route)?, port)
}

/// Source: ethtool(8); Linux 6.1 `include/uapi/linux/ethtool.h`.
fn set_offload(interface: &str, command: u32, value: u32) -> io::Result<()> {
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        None,
    )?;
    let mut order = [command, value];
    // SAFETY: `ifreq` consists of integers, arrays and pointers, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().zip(interface.bytes().take(15)) {
        *place = byte as libc::c_char;
    }
    request.ifr_ifru.ifru_data = order.as_mut_ptr().cast();
    // SAFETY: the request names an interface with a terminating zero and points to an order of
    // two words, and both live across the call.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

pub(super) fn switch_on(name: &str) -> io::Result<()> {
    set_flags(name, UP)
}

pub(super) fn switch_off(name: &str) -> io::Result<()> {
    set_flags(name, 0)
}

fn set_flags(name: &str, flags: u32) -> io::Result<()> {
    let mut netlink = Netlink::open(Family::Route)?;
    let index = index_of(&mut netlink, name)?;
    netlink.order(NEW_LINK, 0, &Body::new(&link(0, index, flags, UP)))
}

pub(super) fn set_port_state(port: &str, state: PortState) -> io::Result<()> {
    let mut netlink = Netlink::open(Family::Route)?;
    let index = index_of(&mut netlink, port)?;
    let info = Body::default().attribute(PORT_STATE, &[state as u8]);
    let body =
        Body::new(&link(libc::AF_BRIDGE, index, 0, 0)).nested(LINK_PROTOCOL_INFO | NESTED, &info);
    match netlink.order(SET_LINK, 0, &body) {
        // A port that was unplugged is set to forwarding by the kernel when its link is up again.
        Err(error) if error.raw_os_error() == Some(libc::ENETDOWN) => Ok(()),
        other => other,
    }
}

pub(super) fn give_address(name: &str, addr: IpAddr, prefix: u8) -> io::Result<()> {
    let mut netlink = Netlink::open(Family::Route)?;
    let index = index_of(&mut netlink, name)?;
    interface::set_address_for_ever(&mut netlink, Address { index, addr, prefix })
}

/// Removes what a machine's programs left set: a machine without power has no addresses.
pub(super) fn remove_addresses_except(own: &[IpAddr]) -> io::Result<()> {
    let mut netlink = Netlink::open(Family::Route)?;
    for address in interface::addresses(&mut netlink)? {
        let link_local = match address.addr {
            IpAddr::V4(addr) => addr.is_link_local(),
            IpAddr::V6(addr) => addr.is_unicast_link_local(),
        };
        if !own.contains(&address.addr) && !address.addr.is_loopback() && !link_local {
            interface::remove_address(&mut netlink, address)?;
        }
    }
    Ok(())
}

/// Sends everything for `addr` to an Ethernet address that nobody has.
pub(super) fn misdirect(name: &str, addr: IpAddr) -> io::Result<()> {
    let mut netlink = Netlink::open(Family::Route)?;
    let index = index_of(&mut netlink, name)?;
    let body = neighbour(index, addr, PERMANENT).attribute(NEIGHBOUR_MAC, &NOBODY);
    netlink.order(NEW_NEIGHBOUR, CREATE | REPLACE, &body)
}

pub(super) fn forget_neighbour(name: &str, addr: IpAddr) -> io::Result<()> {
    let mut netlink = Netlink::open(Family::Route)?;
    let index = index_of(&mut netlink, name)?;
    netlink.order(DELETE_NEIGHBOUR, 0, &neighbour(index, addr, 0))
}

/// `struct ndmsg` and the neighbour's address.
fn neighbour(index: u32, addr: IpAddr, state: u16) -> Body {
    let (family, octets) = match addr {
        IpAddr::V4(addr) => (libc::AF_INET, addr.octets().to_vec()),
        IpAddr::V6(addr) => (libc::AF_INET6, addr.octets().to_vec()),
    };
    let mut bytes = vec![u8::try_from(family).expect("families are below 256"), 0, 0, 0];
    bytes.extend_from_slice(&index.to_ne_bytes());
    bytes.extend_from_slice(&state.to_ne_bytes());
    bytes.extend_from_slice(&[0, 0]);
    Body::new(&bytes).attribute(NEIGHBOUR_ADDRESS, &octets)
}
