//! The packet filters of a node: which modules have virtual addresses on which interface, and
//! what each interface's filter is told.
//!
//! Every change is made under one lock and takes some milliseconds, apart from the first one of
//! an interface, which loads the program. A withdrawal is noted at once
//! ([`void`](Filters::void)), so that an order that still waits for the lock does nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use havre_core::{
    config::module::InterfaceKind,
    farm::table::{FilterInterface, FilterNews, FilterTable},
    ids::{ModuleId, NodeId},
    time::Instant,
};
use havre_ebpf::{
    counters::{Counter, NO_GROUP},
    layout::MODULES_MAX,
};
use tracing::{info, warn};

use super::{
    Filter, Mode, bpffs,
    keeper::Keeper,
    plan::{Share, plan},
    presence::Presence,
    remove_leftovers,
};
use crate::{
    arp::Mac,
    interface::Interface,
    netlink::{Family, Netlink},
    vip,
    waker::Waker,
};

/// Takes news of filters.
#[derive(Clone)]
pub struct Tell(Arc<dyn Fn(ModuleId, FilterNews) + Send + Sync>);

impl Tell {
    /// Passes them to `take`, which must return at once.
    pub fn new(take: impl Fn(ModuleId, FilterNews) + Send + Sync + 'static) -> Self {
        Self(Arc::new(take))
    }

    pub(super) fn tell(&self, module: ModuleId, news: FilterNews) {
        (self.0)(module, news);
    }
}

impl fmt::Debug for Tell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tell")
    }
}

/// All packet filters of one daemon.
pub struct Filters {
    shared: Arc<Shared>,
    keeper: Option<JoinHandle<()>>,
}

/// What the keeper thread shares.
pub(super) struct Shared {
    state_dir: PathBuf,
    state: Mutex<State>,
    /// Withdrawals per module so far.
    voids: Mutex<BTreeMap<ModuleId, u64>>,
    pub(super) waker: Waker,
    pub(super) tell: Tell,
}

/// Place of an order before later withdrawals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket(u64);

/// What is in force.
#[derive(Default)]
pub(super) struct State {
    pub(super) modules: BTreeMap<ModuleId, Placed>,
    pub(super) interfaces: BTreeMap<u32, Card>,
    /// Ethernet addresses of other nodes, by interface.
    pub(super) macs: BTreeMap<(u32, NodeId), Mac>,
    pub(super) closing: bool,
}

/// One module's table, and where it applies.
pub(super) struct Placed {
    pub(super) table: FilterTable,
    number: u8,
    /// The kernel's number of each of the table's interfaces.
    pub(super) places: Vec<u32>,
}

/// One interface with virtual addresses.
pub(super) struct Card {
    pub(super) interface: Interface,
    pub(super) filter: Filter,
    presence: Presence,
    /// First group of each module.
    groups: BTreeMap<ModuleId, u8>,
}

/// Packets of one group by verdict; without name: those that no group counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupCounters {
    /// The interface.
    pub interface: String,
    /// Name of the group.
    pub group: Option<String>,
    /// Packets, in the order of [`Counter::ALL`].
    pub packets: Vec<(Counter, u64)>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind the locks is consistent between any two statements.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn ticket(&self, module: ModuleId) -> Ticket {
        Ticket(lock(&self.voids).get(&module).copied().unwrap_or(0))
    }
}

impl Filters {
    /// Begins with nothing; filters that an earlier daemon left stay in force until the first
    /// order about their module.
    ///
    /// # Errors
    /// The kernel refuses a thread or a descriptor.
    pub fn start(state_dir: &Path, tell: Tell) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            state_dir: state_dir.to_owned(),
            state: Mutex::default(),
            voids: Mutex::default(),
            waker: Waker::new()?,
            tell,
        });
        let keeper = Keeper::new(Arc::clone(&shared));
        let keeper = std::thread::Builder::new()
            .name("filter-keeper".to_owned())
            .spawn(move || keeper.run())?;
        Ok(Self { shared, keeper: Some(keeper) })
    }

    /// To be taken when an order is given, and shown when it is carried out.
    pub fn ticket(&self, module: ModuleId) -> Ticket {
        self.shared.ticket(module)
    }

    /// Makes every order about a module void that was not carried out yet.
    pub fn void(&self, module: ModuleId) {
        *lock(&self.shared.voids).entry(module).or_insert(0) += 1;
    }

    /// From now on judges a module's packets by this table.
    ///
    /// # Errors
    /// The text says why and what to do. The table before, if any, is still in force.
    pub fn set(&self, module: ModuleId, table: FilterTable, ticket: Ticket) -> Result<(), String> {
        let places = self.places(&table)?;
        let mut state = self.shared.state();
        if self.shared.ticket(module) != ticket {
            return Err("the packet filter was taken away before it was set".to_owned());
        }
        let number = match state.modules.get(&module) {
            Some(placed) => placed.number,
            None => state.free_number().ok_or("too many modules with packet filters")?,
        };
        for interface in &places {
            state.open(&self.shared.state_dir, interface)?;
            let deadline = table.until.map(Instant::as_nanos);
            let card = state.interfaces.get_mut(&interface.index).expect("just opened");
            card.filter.set_deadline(number, deadline).map_err(|error| error.to_string())?;
        }
        let places: Vec<u32> = places.iter().map(|interface| interface.index).collect();
        let before = state.modules.insert(module, Placed { table, number, places });
        let done = state.apply_all();
        if let Err(error) = done {
            // What was in force still is, in the kernel and here.
            match before {
                Some(before) => state.modules.insert(module, before),
                None => state.modules.remove(&module),
            };
            if let Err(second) = state.apply_all() {
                warn!(%module, error = second, "the packet filter before cannot be restored");
            }
            return Err(error);
        }
        drop(state);
        self.shared.waker.wake();
        Ok(())
    }

    /// Extends the time of a module's table.
    ///
    /// # Errors
    /// No table is set, or the kernel refuses.
    pub fn extend(&self, module: ModuleId, until: Instant, ticket: Ticket) -> Result<(), String> {
        let mut state = self.shared.state();
        let state = &mut *state;
        let placed = state.modules.get_mut(&module).filter(|_| self.ticket(module) == ticket);
        let placed = placed.ok_or("no packet filter is set whose time could be extended")?;
        placed.table.until = Some(until);
        for index in &placed.places {
            let Some(card) = state.interfaces.get_mut(index) else { continue };
            let extended = card.filter.set_deadline(placed.number, Some(until.as_nanos()));
            extended.map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// Takes a module's filter away. What an earlier daemon left goes with the last one.
    ///
    /// # Errors
    /// The kernel refuses; everything that could be taken away was.
    pub fn clear(&self, module: ModuleId) -> Result<(), String> {
        let mut state = self.shared.state();
        state.modules.remove(&module);
        let mut done = state.apply_all();
        if state.interfaces.is_empty() {
            let place = bpffs::place(&self.shared.state_dir);
            let removed = remove_leftovers(&place)
                .and_then(|()| bpffs::unmount(&self.shared.state_dir))
                .map_err(|error| format!("{}: {error}", place.display()));
            done = done.and(removed);
        }
        done
    }

    /// Ethernet addresses that belong to this farm's nodes or are virtual: one that answers for a
    /// virtual address is no stranger.
    pub fn is_friend(&self, mac: Mac) -> bool {
        let state = self.shared.state();
        let virtual_macs = state.modules.values().flat_map(|placed| &placed.table.interfaces);
        let mut virtual_macs = virtual_macs.filter_map(virtual_mac);
        virtual_macs.any(|known| known == mac) || state.macs.values().any(|known| *known == mac)
    }

    /// What was counted for a module, interface by interface and group by group.
    ///
    /// # Errors
    /// The kernel does not give the numbers.
    pub fn counters(&self, module: ModuleId) -> Result<Vec<GroupCounters>, String> {
        let state = self.shared.state();
        let Some(placed) = state.modules.get(&module) else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        for index in &placed.places {
            let Some(card) = state.interfaces.get(index) else { continue };
            let first = card.groups.get(&module).copied().unwrap_or(0);
            let named = placed.table.groups.iter().map(|group| Some(group.name.clone()));
            let groups = (first..).zip(named).chain([(NO_GROUP, None)]);
            for (number, group) in groups {
                let packets = card.filter.counters(number).map_err(|error| error.to_string())?;
                let interface = card.interface.name.clone();
                found.push(GroupCounters { interface, group, packets });
            }
        }
        Ok(found)
    }

    /// How the filter of each interface is attached.
    pub fn modes(&self) -> Vec<(String, Option<Mode>)> {
        let state = self.shared.state();
        let cards = state.interfaces.values();
        cards.map(|card| (card.interface.name.clone(), card.filter.mode())).collect()
    }

    /// Finds the interface of each of a table's.
    fn places(&self, table: &FilterTable) -> Result<Vec<Interface>, String> {
        let system = |error: io::Error| format!("the interfaces cannot be read: {error}");
        let mut netlink = Netlink::open(Family::Route).map_err(system)?;
        let mut found = Vec::new();
        for interface in &table.interfaces {
            let Some(first) = interface.addresses.first() else {
                return Err("an interface without virtual address needs no packet filter".into());
            };
            let mut wanted = first.clone();
            wanted.interface = interface.name.clone().or(wanted.interface);
            let place = vip::interface_of(&mut netlink, &wanted);
            found.push(place.map_err(|error| error.to_string())?);
        }
        Ok(found)
    }
}

/// The Ethernet address under which an interface's addresses are known to clients.
pub(super) fn virtual_mac(interface: &FilterInterface) -> Option<Mac> {
    match interface.kind {
        InterfaceKind::VmacInvisible(mac) => Some(mac.0),
        InterfaceKind::VmacDirected | InterfaceKind::Real => None,
    }
}

impl State {
    fn free_number(&self) -> Option<u8> {
        let taken: BTreeSet<u8> = self.modules.values().map(|placed| placed.number).collect();
        (0..MODULES_MAX).filter_map(|n| u8::try_from(n).ok()).find(|n| !taken.contains(n))
    }

    fn open(&mut self, state_dir: &Path, interface: &Interface) -> Result<(), String> {
        if let Some(card) = self.interfaces.get_mut(&interface.index) {
            card.interface = interface.clone();
            return Ok(());
        }
        let dir = bpffs::mount(state_dir).map_err(|error| {
            let dir = bpffs::place(state_dir);
            super::FilterError::NoFileSystem { dir, error }.to_string()
        })?;
        let filter = Filter::open(&interface.name, interface.index, &dir);
        let filter = filter.map_err(|error| error.to_string())?;
        let card = Card {
            interface: interface.clone(),
            filter,
            presence: Presence::default(),
            groups: BTreeMap::new(),
        };
        self.interfaces.insert(interface.index, card);
        Ok(())
    }

    /// Tells every interface what its modules want; one that no module wants is given up.
    pub(super) fn apply_all(&mut self) -> Result<(), String> {
        let mut done = Ok(());
        for index in self.interfaces.keys().copied().collect::<Vec<_>>() {
            let wanted = self.modules.values().any(|placed| placed.places.contains(&index));
            let applied = if wanted { self.apply(index) } else { self.give_up(index) };
            done = done.and(applied);
        }
        done
    }

    /// Tells one interface what its modules want.
    pub(super) fn apply(&mut self, index: u32) -> Result<(), String> {
        let card = self.interfaces.get_mut(&index).expect("asked for a known interface");
        let name = &card.interface.name;
        let own = card.interface.mac;
        let own = own.ok_or_else(|| format!("{name} has no Ethernet address to share"))?;
        let (mut shares, mut owners) = (Vec::new(), Vec::new());
        let (mut macs, mut addresses) = (BTreeSet::new(), Vec::new());
        for (module, placed) in &self.modules {
            for (interface, place) in placed.table.interfaces.iter().zip(&placed.places) {
                if *place != index {
                    continue;
                }
                shares.push(Share { table: &placed.table, interface, number: placed.number });
                owners.push(*module);
                macs.extend(virtual_mac(interface));
                addresses.extend(interface.addresses.iter().filter_map(|a| match a.addr {
                    IpAddr::V6(addr) => Some(addr),
                    IpAddr::V4(_) => None,
                }));
            }
        }
        let known = self.macs.range((index, NodeId(0))..=(index, NodeId(u16::MAX)));
        let known = known.map(|((_, node), mac)| (*node, *mac)).collect();
        let plan = plan(&shares, own, &known)
            .map_err(|overflow| format!("the packet filter on {name}: {}", overflow.text()))?;
        if card.interface.is_veth && !macs.is_empty() {
            // A virtual cable in native mode passes a frame on as one for another host, although
            // the filter has put this host's Ethernet address into it (Linux 6.1
            // `drivers/net/veth.c`: `eth_type_trans` twice).
            card.filter.prefer_generic();
        }
        card.filter.set(&plan.table).map_err(|error| error.to_string())?;
        card.groups = owners.into_iter().zip(plan.groups).collect();
        let present = card.presence.set(&card.interface, &macs, &addresses);
        present.map_err(|error| format!("{name} cannot receive for the virtual address: {error}"))
    }

    fn give_up(&mut self, index: u32) -> Result<(), String> {
        let Some(card) = self.interfaces.remove(&index) else { return Ok(()) };
        self.macs.retain(|(place, _), _| *place != index);
        let name = card.interface.name.clone();
        let ended = card.presence.end(&card.interface);
        if let Err(error) = ended
            && error.raw_os_error() != Some(libc::ENODEV)
        {
            warn!(interface = name, %error, "a virtual Ethernet address stays on the interface");
        }
        let detached = card.filter.detach();
        detached.map_err(|error| format!("the packet filter stays on {name}: {error}"))?;
        info!(interface = name, "packet filter taken away");
        Ok(())
    }
}

impl Drop for Filters {
    /// Ends the keeper; filters stay in force for the next daemon.
    fn drop(&mut self) {
        self.shared.state().closing = true;
        self.shared.waker.wake();
        if let Some(keeper) = self.keeper.take() {
            let _ = keeper.join();
        }
    }
}

impl fmt::Debug for Filters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.shared.state();
        let interfaces: Vec<&str> =
            state.interfaces.values().map(|card| card.interface.name.as_str()).collect();
        f.debug_struct("Filters").field("interfaces", &interfaces).finish_non_exhaustive()
    }
}

/// Pause between two looks of the keeper.
pub(super) const LOOK: Duration = Duration::from_secs(1);
