//! Asks the network whether somebody else has an address.
//!
//! RFC 5227 waits 2 to 6 s and RFC 4862 one second, which no failover can afford; on one switched
//! network a living host answers within a millisecond. Three probes within 24 ms and 45 ms in all
//! leave room for a lost frame and for a busy host.

use std::{
    io,
    net::IpAddr,
    time::{Duration, Instant},
};

use crate::{
    arp::{self, Mac},
    interface::Interface,
    nd,
    packet::{ETHERTYPE_ARP, ETHERTYPE_IPV6, PacketSocket},
};

const PROBES: u32 = 3;
const PROBE_PERIOD: Duration = Duration::from_millis(12);
const LISTEN: Duration = Duration::from_millis(45);
/// Frames looked at per question, so that a flooded network cannot hold up a failover.
const FRAMES_MAX: u32 = 10_000;

/// The Ethernet address of another host that claims `addr`, if one answers in time.
///
/// An interface that is down, or that needs no resolution of addresses, has no other claimant.
pub(crate) fn claimant(interface: &Interface, addr: IpAddr) -> io::Result<Option<Mac>> {
    let (Some(own), true, true) = (interface.mac, interface.resolves, interface.running) else {
        return Ok(None);
    };
    let (ethertype, probe) = match addr {
        IpAddr::V4(addr) => (ETHERTYPE_ARP, arp::probe(own, addr).to_vec()),
        IpAddr::V6(addr) => (ETHERTYPE_IPV6, nd::probe(own, addr)),
    };
    let socket = PacketSocket::open(interface.index, ethertype)?;
    if let IpAddr::V6(addr) = addr {
        // Where the probes of another host travel.
        socket.join(nd::multicast_mac(nd::solicited_node(addr)))?;
    }
    let begun = Instant::now();
    let mut buffer = [0; 256];
    let mut frames = 0;
    for sent in 0..=PROBES {
        let end = if sent < PROBES {
            socket.send(&probe)?;
            begun + PROBE_PERIOD * (sent + 1)
        } else {
            begun + LISTEN
        };
        while let Some(frame) = socket.receive(&mut buffer, end)? {
            let found = match addr {
                IpAddr::V4(addr) => arp::claimant(frame, own, addr),
                IpAddr::V6(addr) => nd::claimant(frame, own, addr),
            };
            frames += 1;
            if found.is_some() || frames > FRAMES_MAX {
                return Ok(found);
            }
        }
    }
    Ok(None)
}
