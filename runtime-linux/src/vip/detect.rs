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

/// How carefully to look for another host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Nobody knows who had the address.
    Thorough,
    /// The node that had it has just said that it gave it up.
    Quick,
}

impl Look {
    const fn probes(self) -> u32 {
        match self {
            Self::Thorough => 3,
            Self::Quick => 2,
        }
    }

    const fn period(self) -> Duration {
        Duration::from_millis(match self {
            Self::Thorough => 12,
            Self::Quick => 2,
        })
    }

    /// The whole time.
    const fn listen(self) -> Duration {
        Duration::from_millis(match self {
            Self::Thorough => 45,
            Self::Quick => 6,
        })
    }
}

/// Frames looked at per question, so that a flooded network cannot hold up a failover.
const FRAMES_MAX: u32 = 10_000;

/// The Ethernet address of another host that claims `addr`, if one answers in time.
///
/// An interface that is down, or that needs no resolution of addresses, has no other claimant.
pub(crate) fn claimant(interface: &Interface, addr: IpAddr, look: Look) -> io::Result<Option<Mac>> {
    claimant_except(interface, addr, look, &|_| false)
}

/// The same, but for those who may claim it beside this node.
pub(crate) fn claimant_except(
    interface: &Interface,
    addr: IpAddr,
    look: Look,
    ignored: &dyn Fn(Mac) -> bool,
) -> io::Result<Option<Mac>> {
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
    for sent in 0..=look.probes() {
        let end = if sent < look.probes() {
            socket.send(&probe)?;
            begun + look.period() * (sent + 1)
        } else {
            begun + look.listen()
        };
        while let Some(frame) = socket.receive(&mut buffer, end)? {
            let found = match addr {
                IpAddr::V4(addr) => arp::claimant(frame, own, addr),
                IpAddr::V6(addr) => nd::claimant(frame, own, addr),
            };
            let found = found.filter(|mac| !ignored(*mac));
            frames += 1;
            if found.is_some() || frames > FRAMES_MAX {
                return Ok(found);
            }
        }
    }
    Ok(None)
}
