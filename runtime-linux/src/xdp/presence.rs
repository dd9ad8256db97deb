//! What an interface needs beside the filter so that virtual addresses work on it.
//!
//! - It receives frames for a virtual Ethernet address (`ip link`'s address stays as it is).
//! - It receives questions for virtual IPv6 addresses, which are set on the loopback interface:
//!   on this one the kernel would name them, with its own Ethernet address, when it asks for a
//!   client's (`vip`), and the client would believe that.
//! - It does not name virtual IPv4 addresses when it asks: `arp_announce=2`.
//!
//! Sources: Linux 6.1 `net/core/rtnetlink.c` (`ndo_dflt_fdb_add`), `net/ipv4/arp.c`
//! (`arp_solicit`), `net/ipv6/ndisc.c` (`ndisc_solicit`), Documentation/networking/ip-sysctl.rst.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::Ipv6Addr,
    os::fd::OwnedFd,
};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with, sockopt};
use tracing::warn;

use crate::{
    arp::Mac,
    interface::{self, Interface},
    nd::solicited_node,
    netlink::{Family, Netlink},
};

/// The preparations of one interface; [`end`](Self::end) takes them back.
#[derive(Debug, Default)]
pub(super) struct Presence {
    macs: BTreeSet<Mac>,
    /// Each socket keeps the interface in a multicast group.
    groups: BTreeMap<Ipv6Addr, OwnedFd>,
    /// The value of `arp_announce` before.
    announced: Option<String>,
}

impl Presence {
    /// Makes the interface fit for these Ethernet addresses and IPv6 addresses, and only these.
    pub(super) fn set(
        &mut self,
        interface: &Interface,
        macs: &BTreeSet<Mac>,
        addresses: &[Ipv6Addr],
    ) -> io::Result<()> {
        let mut netlink = Netlink::open(Family::Route)?;
        for mac in macs.difference(&self.macs) {
            interface::add_unicast(&mut netlink, interface.index, *mac)?;
        }
        for mac in self.macs.difference(macs) {
            interface::remove_unicast(&mut netlink, interface.index, *mac)?;
        }
        self.macs.clone_from(macs);
        let wanted: BTreeSet<Ipv6Addr> = addresses.iter().map(|a| solicited_node(*a)).collect();
        self.groups.retain(|group, _| wanted.contains(group));
        for group in wanted {
            if let std::collections::btree_map::Entry::Vacant(entry) = self.groups.entry(group) {
                entry.insert(join(interface.index, group)?);
            }
        }
        if self.announced.is_none() {
            self.announced = Some(quieten(&interface.name));
        }
        Ok(())
    }

    /// Leaves the interface as it was.
    pub(super) fn end(self, interface: &Interface) -> io::Result<()> {
        if let Some(before) = self.announced.filter(|value| !value.is_empty()) {
            // An interface that is gone needs nothing.
            let _ = fs::write(announce_file(&interface.name), before);
        }
        let mut netlink = Netlink::open(Family::Route)?;
        for mac in self.macs {
            interface::remove_unicast(&mut netlink, interface.index, mac)?;
        }
        Ok(())
    }
}

fn join(index: u32, group: Ipv6Addr) -> io::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::INET6, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_ipv6_add_membership(&socket, &group, index)?;
    Ok(socket)
}

fn announce_file(interface: &str) -> String {
    format!("/proc/sys/net/ipv4/conf/{interface}/arp_announce")
}

/// Sets `arp_announce=2`; the value before, empty if it cannot be set.
fn quieten(interface: &str) -> String {
    let file = announce_file(interface);
    let done = fs::read_to_string(&file).and_then(|before| {
        fs::write(&file, "2")?;
        Ok(before.trim().to_owned())
    });
    match done {
        Ok(before) => before,
        Err(error) => {
            warn!(
                file,
                %error,
                "clients may learn this node's own Ethernet address for the virtual address: \
                 set it to 2"
            );
            String::new()
        }
    }
}
