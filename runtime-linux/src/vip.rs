//! Virtual addresses of one module: set, kept, announced and removed.
//!
//! An address is set with a lifetime of [`LIFETIME_S`] seconds that a keeper thread renews: a
//! daemon that is frozen or killed loses its addresses by the kernel's own hand, so that a
//! successor never has to share them. Before an address is set, the network is asked whether
//! somebody else has it; a holder that still answers is given the time in which its lifetime
//! must end, then the order fails.
//!
//! Removing is synchronous and takes well under a millisecond plus the reset of connections: it
//! is the first act of self-fencing. A removal that overtakes a pending [`add`] wins.
//!
//! [`add`]: VirtualAddresses::add

pub(crate) mod detect;
mod keeper;

use std::{
    collections::BTreeMap,
    fmt, io,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use havre_core::{
    config::module::{InterfaceConfig, ModuleConfig},
    status::VirtualIp,
};
use thiserror::Error;
use tracing::{info, warn};

use crate::{
    arp::Mac,
    interface::{self, Address, Interface},
    netlink::{Family, Netlink},
    tcp_reset::reset_connections,
    vip::keeper::{Held, Keeper},
    waker::Waker,
};

pub use detect::Look;

/// Time after which the kernel removes an address that nobody renews, in seconds.
///
/// The kernel looks once a second (Linux 6.1 `net/ipv4/devinet.c`, `check_lifetime`): an
/// abandoned address is gone after 2 to 3 s.
pub const LIFETIME_S: u32 = 2;
/// How long an answering holder is waited for: its lifetime, the kernel's second, and a margin.
const PATIENCE: Duration = Duration::from_millis(3_500);
/// Pause before asking again while somebody answers.
const RETRY: Duration = Duration::from_millis(25);

/// Why a virtual address could not be set. Nothing is set then.
#[derive(Debug, Error)]
pub enum VipError {
    /// No interface fits.
    #[error(
        "{addr}: no interface has a network that contains it; name one with <interface \
         name=\"...\"> or give the node an address in that network"
    )]
    NoInterface {
        /// The virtual address.
        addr: IpAddr,
    },
    /// The named interface does not exist.
    #[error("{addr}: there is no interface {name}; `ip link` lists those of this machine")]
    UnknownInterface {
        /// The virtual address.
        addr: IpAddr,
        /// The name.
        name: String,
    },
    /// Another host answers for the address.
    #[error(
        "{addr}: another host uses it (Ethernet address {}); stop that host or choose another \
         virtual address",
        mac_text(*mac)
    )]
    InUse {
        /// The virtual address.
        addr: IpAddr,
        /// Who answered.
        mac: Mac,
    },
    /// It was removed again while it was being set.
    #[error("{addr}: removed before it was set")]
    Withdrawn {
        /// The virtual address.
        addr: IpAddr,
    },
    /// The kernel refused.
    #[error("{addr}: {error}; the daemon needs CAP_NET_ADMIN and CAP_NET_RAW")]
    System {
        /// The virtual address.
        addr: IpAddr,
        /// What it said.
        error: io::Error,
    },
}

fn mac_text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Repetition of announcements (`arp_reroute`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reroute {
    /// Period.
    pub interval: Duration,
    /// How long it goes on after the address was set.
    pub elapse: Duration,
}

/// How the addresses of one module are treated.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VipSettings {
    /// Reset the connections of an address before removing it.
    pub tcp_reset: bool,
    /// Addresses whose announcements are repeated.
    pub reroute: BTreeMap<IpAddr, Reroute>,
}

impl VipSettings {
    /// The settings that a module's configuration asks for.
    pub fn of(config: &ModuleConfig) -> Self {
        Self { tcp_reset: config.tcp_reset, reroute: reroute_of(&config.interfaces) }
    }
}

fn reroute_of(interfaces: &[InterfaceConfig]) -> BTreeMap<IpAddr, Reroute> {
    let mut reroute = BTreeMap::new();
    for interface in interfaces.iter().filter(|i| i.arp_reroute) {
        let repetition = Reroute { interval: interface.arp_interval, elapse: interface.arp_elapse };
        reroute.extend(interface.addresses.iter().map(|a| (a.addr, repetition)));
    }
    reroute
}

/// The virtual addresses of one module, in the network namespace of the thread that made this.
#[derive(Debug)]
pub struct VirtualAddresses {
    settings: VipSettings,
    friends: Friends,
    table: Arc<Mutex<Table>>,
    waker: Arc<Waker>,
    keeper: Option<JoinHandle<()>>,
}

/// Those who may have a shared address beside this node: the other nodes of a farm.
#[derive(Clone, Default)]
pub struct Friends(Option<Arc<dyn Fn(Mac) -> bool + Send + Sync>>);

impl Friends {
    /// Those for whom `is_friend` says so.
    pub fn new(is_friend: impl Fn(Mac) -> bool + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(is_friend)))
    }

    fn contains(&self, mac: Mac) -> bool {
        self.0.as_ref().is_some_and(|is_friend| is_friend(mac))
    }
}

impl fmt::Debug for Friends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Friends").field(&self.0.is_some()).finish()
    }
}

/// The place of one order among those that concern an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddOrder(u64);

/// What is held, shared with the keeper thread.
#[derive(Debug, Default)]
struct Table {
    held: BTreeMap<IpAddr, Held>,
    /// Counts orders per address, so that an addition notices that it was overtaken.
    orders: BTreeMap<IpAddr, u64>,
    closing: bool,
}

impl Table {
    fn next_order(&mut self, addr: IpAddr) -> u64 {
        let order = self.orders.entry(addr).or_insert(0);
        *order += 1;
        *order
    }
}

fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    // The table is consistent between any two statements: a panic elsewhere leaves it usable.
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

impl VirtualAddresses {
    /// Starts the keeper of a module's addresses.
    pub fn start(settings: VipSettings) -> io::Result<Self> {
        let table = Arc::new(Mutex::new(Table::default()));
        let waker = Arc::new(Waker::new()?);
        let keeper = Keeper::new(Arc::clone(&table), Arc::clone(&waker))?;
        let keeper = std::thread::Builder::new()
            .name("vip-keeper".to_owned())
            .stack_size(256 * 1024)
            .spawn(move || keeper.run())?;
        Ok(Self { settings, friends: Friends::default(), table, waker, keeper: Some(keeper) })
    }

    /// Says whose claims to a shared address are no conflict.
    #[must_use]
    pub fn with_friends(mut self, friends: Friends) -> Self {
        self.friends = friends;
        self
    }

    /// Sets and announces an address; one that is already held is announced again.
    ///
    /// Blocks for about 45 ms while the network is asked, up to 3.5 s while somebody answers.
    pub fn add(&self, vip: &VirtualIp) -> Result<(), VipError> {
        self.carry_out(vip, self.order(vip.addr), Look::Thorough)
    }

    /// Notes an order to set an address, for [`carry_out`](Self::carry_out) on another thread: a
    /// removal from now on overtakes it, whether that thread has begun or not.
    pub fn order(&self, addr: IpAddr) -> AddOrder {
        AddOrder(lock(&self.table).next_order(addr))
    }

    /// As [`add`](Self::add), in its place among the orders and with a `look` of its own.
    pub fn carry_out(&self, vip: &VirtualIp, order: AddOrder, look: Look) -> Result<(), VipError> {
        let addr = vip.addr;
        let system = |error| VipError::System { addr, error };
        let mut netlink = Netlink::open(Family::Route).map_err(system)?;
        let (interface, address) = place(&mut netlink, vip)?;
        let AddOrder(order) = order;
        let ours = interface::addresses(&mut netlink)
            .map_err(system)?
            .iter()
            .any(|a| a.addr == addr && a.index == interface.index);
        if !ours {
            self.wait_until_free(&interface, vip, order, look)?;
        }
        let reroute = self.settings.reroute.get(&addr).copied();
        let held = Held::new(address, &interface, reroute, vip.shared, Instant::now());
        {
            let mut table = lock(&self.table);
            if table.orders.get(&addr) != Some(&order) {
                return Err(VipError::Withdrawn { addr });
            }
            interface::set_address(&mut netlink, address, LIFETIME_S).map_err(system)?;
            table.held.insert(addr, held.clone());
        }
        if held.announces()
            && let Err(error) = held.announce()
        {
            warn!(%addr, %error, "the virtual address could not be announced");
        }
        self.waker.wake();
        info!(%addr, prefix = address.prefix, interface = interface.name, "virtual address set");
        Ok(())
    }

    fn wait_until_free(
        &self,
        interface: &Interface,
        vip: &VirtualIp,
        order: u64,
        look: Look,
    ) -> Result<(), VipError> {
        let (addr, begun) = (vip.addr, Instant::now());
        let is_friend = |mac| vip.shared && self.friends.contains(mac);
        loop {
            let claimant = detect::claimant_except(interface, addr, look, &is_friend)
                .map_err(|error| VipError::System { addr, error })?;
            if lock(&self.table).orders.get(&addr) != Some(&order) {
                return Err(VipError::Withdrawn { addr });
            }
            let Some(mac) = claimant else { return Ok(()) };
            if begun.elapsed() > PATIENCE {
                return Err(VipError::InUse { addr, mac });
            }
            std::thread::sleep(RETRY);
        }
    }

    /// Resets the connections of an address and removes it wherever it is set; `false` if it was
    /// not set. Leftovers of an earlier run are removed in the same way.
    pub fn remove(&self, addr: IpAddr) -> Result<bool, VipError> {
        let system = |error| VipError::System { addr, error };
        // Before anything that may fail: no renewal and no pending addition may set it again.
        let mut table = lock(&self.table);
        table.next_order(addr);
        table.held.remove(&addr);
        let mut netlink = Netlink::open(Family::Route).map_err(system)?;
        let places: Vec<_> = interface::addresses(&mut netlink)
            .map_err(system)?
            .into_iter()
            .filter(|a| a.addr == addr)
            .collect();
        if self.settings.tcp_reset && !places.is_empty() {
            match reset_connections(addr) {
                Ok(0) => {}
                Ok(count) => info!(%addr, count, "connections of the virtual address reset"),
                Err(error) => info!(%addr, %error, "connections are left to their time-outs"),
            }
        }
        for place in &places {
            interface::remove_address(&mut netlink, *place).map_err(system)?;
        }
        if !places.is_empty() {
            info!(%addr, "virtual address removed");
        }
        Ok(!places.is_empty())
    }

    /// Announces an address again, at once and a few times more; nothing if it is not held.
    pub fn announce(&self, addr: IpAddr) {
        let held = {
            let mut table = lock(&self.table);
            let Some(held) = table.held.get_mut(&addr) else { return };
            held.speak(Instant::now());
            held.clone()
        };
        if let Err(error) = held.announce() {
            warn!(%addr, %error, "the virtual address could not be announced");
        }
        self.waker.wake();
    }

    /// Announces an address no more, although it is held: another node does.
    pub fn keep_silent(&self, addr: IpAddr) {
        if let Some(held) = lock(&self.table).held.get_mut(&addr) {
            held.keep_silent();
        }
    }

    /// The addresses that are held.
    pub fn held(&self) -> Vec<IpAddr> {
        lock(&self.table).held.keys().copied().collect()
    }
}

impl Drop for VirtualAddresses {
    /// Stops the keeper and removes every address that is still held.
    fn drop(&mut self) {
        for addr in self.held() {
            if let Err(error) = self.remove(addr) {
                warn!(%error, "a virtual address could not be removed");
            }
        }
        lock(&self.table).closing = true;
        self.waker.wake();
        if let Some(keeper) = self.keeper.take() {
            let _ = keeper.join();
        }
    }
}

/// Finds the interface whose network contains a virtual address, or that it names.
pub(crate) fn interface_of(netlink: &mut Netlink, vip: &VirtualIp) -> Result<Interface, VipError> {
    Ok(place(netlink, vip)?.0)
}

/// Finds the interface and the prefix of a virtual address.
fn place(netlink: &mut Netlink, vip: &VirtualIp) -> Result<(Interface, Address), VipError> {
    let addr = vip.addr;
    let system = |error| VipError::System { addr, error };
    let interfaces = interface::interfaces(netlink).map_err(system)?;
    let addresses = interface::addresses(netlink).map_err(system)?;
    let (interface, mut address) = choose(&interfaces, &addresses, vip)?;
    if vip.shared && addr.is_ipv6() {
        // On the interface itself the kernel would name the address when it asks for a client's
        // Ethernet address, and the client would take this node's for that of the address.
        let lo = interfaces.iter().find(|i| i.name == "lo");
        let lo = lo.ok_or(VipError::NoInterface { addr })?;
        address = Address { index: lo.index, addr, prefix: 128 };
    }
    Ok((interface, address))
}

fn choose(
    interfaces: &[Interface],
    addresses: &[Address],
    vip: &VirtualIp,
) -> Result<(Interface, Address), VipError> {
    let addr = vip.addr;
    let fitting = |index: Option<u32>| {
        addresses
            .iter()
            .filter(|a| a.addr != addr && a.network_contains(addr))
            .filter(|a| index.is_none_or(|index| a.index == index))
            // The longest prefix is the most specific network, as for routes.
            .max_by_key(|a| a.prefix)
    };
    let (interface, network) = if let Some(name) = &vip.interface {
        let interface = interfaces.iter().find(|i| i.name == *name);
        let interface =
            interface.ok_or_else(|| VipError::UnknownInterface { addr, name: name.clone() })?;
        (interface, fitting(Some(interface.index)))
    } else {
        let network = fitting(None).ok_or(VipError::NoInterface { addr })?;
        let interface = interfaces.iter().find(|i| i.index == network.index);
        (interface.ok_or(VipError::NoInterface { addr })?, Some(network))
    };
    let host = if addr.is_ipv4() { 32 } else { 128 };
    let prefix = vip.prefix.or(network.map(|n| n.prefix)).unwrap_or(host);
    Ok((interface.clone(), Address { index: interface.index, addr, prefix }))
}

#[cfg(test)]
mod tests;
