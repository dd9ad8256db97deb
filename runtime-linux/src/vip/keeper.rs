//! The thread that renews the lifetimes of held addresses, repeats announcements, and announces
//! again when an interface comes back.

use std::{
    collections::BTreeMap,
    io,
    net::IpAddr,
    os::fd::OwnedFd,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{
        AddressFamily, RecvFlags, SocketFlags, SocketType, bind, netlink::SocketAddrNetlink, recv,
        socket_with,
    },
};
use tracing::warn;

use crate::{
    arp::{self, Mac},
    interface::{self, Address, Interface},
    nd,
    netlink::{Family, Netlink, u32_at},
    packet::{ETHERTYPE_ARP, ETHERTYPE_IPV6, PacketSocket},
    priority,
    vip::{LIFETIME_S, Reroute, Table, lock},
    waker::Waker,
};

/// A quarter of the lifetime: three renewals may be late before the address goes.
const RENEW: Duration = Duration::from_millis(500);
/// Delays of the repetitions that follow every announcement.
const REPETITIONS: [Duration; 4] = [
    Duration::from_millis(20),
    Duration::from_millis(100),
    Duration::from_millis(400),
    Duration::from_millis(1_000),
];
/// `RTMGRP_LINK`: news of interfaces.
const LINK_NEWS: u32 = 1;

/// One held address.
#[derive(Debug, Clone)]
pub(super) struct Held {
    address: Address,
    /// Where it is announced: the kernel's number of the interface, and its Ethernet address.
    via: Option<(u32, Mac)>,
    /// Moments of further announcements, earliest last.
    due: Vec<Instant>,
    repetition: Option<Reroute>,
    reroute: Option<(Duration, Instant)>,
    /// Whether this node tells others where the address is.
    announces: bool,
}

impl Held {
    /// An address that was just set; `shared`: other nodes have it too, so that this one keeps
    /// silent until it is told to announce it.
    pub(super) fn new(
        address: Address,
        interface: &Interface,
        repetition: Option<Reroute>,
        shared: bool,
        now: Instant,
    ) -> Self {
        let via = interface.mac.filter(|_| interface.resolves).map(|mac| (interface.index, mac));
        let mut held =
            Self { address, via, due: Vec::new(), repetition, reroute: None, announces: false };
        if !shared {
            held.speak(now);
        }
        held
    }

    /// Begins to announce the address, for the time of its repetition.
    pub(super) fn speak(&mut self, now: Instant) {
        self.announces = true;
        self.reroute = self.repetition.map(|r| (r.interval, now + r.elapse));
        self.repeat(now);
    }

    /// Announces it no more: another node does.
    pub(super) fn keep_silent(&mut self) {
        self.announces = false;
        self.due.clear();
    }

    /// Whether this node tells others where the address is.
    pub(super) const fn announces(&self) -> bool {
        self.announces
    }

    /// Plans the repetitions that follow an announcement made now.
    pub(super) fn repeat(&mut self, now: Instant) {
        if !self.announces {
            return;
        }
        self.due = REPETITIONS.iter().rev().map(|delay| now + *delay).collect();
        if let Some((interval, end)) = self.reroute
            && now + interval <= end
        {
            self.due.insert(0, now + interval);
        }
    }

    /// Sends one announcement.
    pub(super) fn announce(&self) -> io::Result<()> {
        let Some((index, mac)) = self.via else { return Ok(()) };
        match self.address.addr {
            IpAddr::V4(addr) => {
                let socket = PacketSocket::open(index, ETHERTYPE_ARP)?;
                for frame in arp::announcements(mac, addr) {
                    socket.send(&frame)?;
                }
            }
            IpAddr::V6(addr) => {
                let socket = PacketSocket::open(index, ETHERTYPE_IPV6)?;
                socket.send(&nd::announcement(mac, addr))?;
            }
        }
        Ok(())
    }

    /// Takes the announcements that are due off the plan; whether there was one.
    fn take_due(&mut self, now: Instant) -> bool {
        let mut was_due = false;
        while self.due.last().is_some_and(|at| *at <= now) {
            let at = self.due.pop().expect("the loop condition saw it");
            was_due = true;
            if let Some((interval, end)) = self.reroute
                && self.due.is_empty()
                && at + interval <= end
            {
                self.due.push(at + interval);
            }
        }
        was_due
    }
}

/// The keeper thread's own things.
#[derive(Debug)]
pub(super) struct Keeper {
    table: Arc<Mutex<Table>>,
    waker: Arc<Waker>,
    netlink: Netlink,
    news: OwnedFd,
    renew_at: Instant,
    /// Interfaces last seen in operation or not.
    running: BTreeMap<u32, bool>,
}

impl Keeper {
    pub(super) fn new(table: Arc<Mutex<Table>>, waker: Arc<Waker>) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let news = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        bind(&news, &SocketAddrNetlink::new(0, LINK_NEWS))?;
        let netlink = Netlink::open(Family::Route)?;
        Ok(Self {
            table,
            waker,
            netlink,
            news,
            renew_at: Instant::now() + RENEW,
            running: BTreeMap::new(),
        })
    }

    pub(super) fn run(mut self) {
        // A late renewal would drop an address that is rightfully held.
        priority::raise_thread();
        while !lock(&self.table).closing {
            let now = Instant::now();
            self.renew(now);
            self.announce_due(now);
            self.sleep(now);
            if self.link_came_back() {
                let now = Instant::now();
                self.renew_at = now;
                lock(&self.table).held.values_mut().for_each(|held| held.repeat(now));
            }
        }
    }

    fn renew(&mut self, now: Instant) {
        if now < self.renew_at {
            return;
        }
        self.renew_at = now + RENEW;
        // Under the lock: a removal must not be undone by a renewal that was already under way.
        let table = lock(&self.table);
        for (addr, held) in &table.held {
            if let Err(error) = interface::set_address(&mut self.netlink, held.address, LIFETIME_S)
            {
                warn!(%addr, %error, "the virtual address could not be renewed");
            }
        }
    }

    fn announce_due(&self, now: Instant) {
        let due: Vec<Held> = lock(&self.table)
            .held
            .values_mut()
            .filter_map(|held| held.take_due(now).then(|| held.clone()))
            .collect();
        for held in due {
            if let Err(error) = held.announce() {
                let addr = held.address.addr;
                warn!(%addr, %error, "the virtual address could not be announced");
            }
        }
    }

    fn sleep(&self, now: Instant) {
        let next = {
            let table = lock(&self.table);
            let due = table.held.values().filter_map(|held| held.due.last().copied());
            // With nothing held there is nothing to renew: sleep until somebody wakes us.
            let renew = (!table.held.is_empty()).then_some(self.renew_at);
            due.chain(renew).min()
        };
        let limit = next.map(|at| at.saturating_duration_since(now));
        let limit = limit.map(|l| Timespec::try_from(l).expect("at most an arp_interval"));
        let mut fds =
            [PollFd::new(&*self.waker, PollFlags::IN), PollFd::new(&self.news, PollFlags::IN)];
        if let Err(error) = poll(&mut fds, limit.as_ref())
            && error != rustix::io::Errno::INTR
        {
            warn!(%error, "the keeper of virtual addresses cannot sleep");
            std::thread::sleep(RENEW);
        }
        self.waker.reset();
    }

    /// Reads the news of interfaces; whether one has come into operation.
    fn link_came_back(&mut self) -> bool {
        const INDEX: usize = 16 + 4;
        const FLAGS: usize = 16 + 8;
        const RUNNING_AND_UP: u32 = 0x41;
        let mut buffer = [0; 8192];
        let mut came_back = false;
        while let Ok((length, _)) = recv(&self.news, &mut buffer[..], RecvFlags::empty()) {
            let news = &buffer[..length];
            let (Some(index), Some(flags)) = (u32_at(news, INDEX), u32_at(news, FLAGS)) else {
                continue;
            };
            let running = flags & RUNNING_AND_UP == RUNNING_AND_UP;
            came_back |= running && self.running.insert(index, running) != Some(true);
            self.running.insert(index, running);
        }
        came_back
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(reroute: Option<Reroute>, now: Instant) -> Held {
        let addr = "10.0.0.1".parse().expect("an address");
        let address = Address { index: 1, addr, prefix: 24 };
        let interface = Interface {
            index: 1,
            name: "e".to_owned(),
            mac: None,
            up: true,
            running: true,
            resolves: true,
            xdp: None,
            is_veth: false,
        };
        Held::new(address, &interface, reroute, false, now)
    }

    /// Milliseconds after `start` at which announcements are made, up to `limit_ms`.
    fn announcements(mut held: Held, start: Instant, limit_ms: u64) -> Vec<u64> {
        (0..limit_ms).filter(|ms| held.take_due(start + Duration::from_millis(*ms))).collect()
    }

    #[test]
    fn an_announcement_is_repeated_quickly_and_then_never() {
        let start = Instant::now();
        assert_eq!(announcements(held(None, start), start, 10_000), [20, 100, 400, 1_000]);
    }

    #[test]
    fn with_arp_reroute_it_is_repeated_every_interval_until_elapse() {
        let start = Instant::now();
        let reroute = Reroute {
            interval: Duration::from_millis(3_000),
            elapse: Duration::from_millis(10_000),
        };
        assert_eq!(
            announcements(held(Some(reroute), start), start, 20_000),
            [20, 100, 400, 1_000, 3_000, 6_000, 9_000]
        );
    }
}
