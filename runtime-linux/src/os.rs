//! Linux under one agent: binds clock, disk, scripts, virtual addresses, ping and data paths.
//!
//! Orders that may take time run on threads of the runtime's blocking pool; removing an address
//! runs at once on the agent's own thread, because it is the first act of self-fencing and takes
//! about a millisecond.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use havre_core::{
    checks::probe::{Finding, Probe},
    config::module::ModuleConfig,
    effect::{
        AddressRequest, Input, Outcome, Record, SavedState, ScriptCall, ScriptEnd, VolumeRequest,
    },
    event::{Event, EventKind},
    farm::table::{FilterRequest, FilterTable},
    ids::{CheckerId, ModuleId},
    status::VirtualIp,
    time::Instant,
};
use havre_runtime::{
    agent::Inbox, events::report::Reporter, journal::Journal, modules::Module, os::Os,
    store::ModuleRecords,
};
use tokio::task::spawn_blocking;

use crate::{
    clock,
    guard::{Deadlines, Guard},
    ping,
    probe::{self, Probes},
    script::{ScriptPlace, Scripts, Sink},
    vip::{AddOrder, Friends, Look, VipSettings, VirtualAddresses},
    xdp::filters::{Filters, Tell},
};

/// The agent looks at the clock at least this often: timers of the kernel stand still while the
/// machine sleeps, the boot clock does not.
const SLEEP_MAX: Duration = Duration::from_millis(100);

/// The data path of one module.
#[expect(async_fn_in_trait, reason = "agents are single-threaded: futures need not be Send")]
pub trait DataPath: 'static {
    /// Carries out one order. [`VolumeRequest::Fence`] may be asked while another is pending.
    async fn order(&self, request: VolumeRequest) -> Outcome;

    /// Whether the mounts of an earlier run stand, so that its application may still go on.
    fn mounts_outlived(&self) -> bool;
}

/// What an agent on Linux is made of.
#[derive(Debug)]
pub struct LinuxParts<V> {
    /// The state directory.
    pub state_dir: PathBuf,
    /// Durable records.
    pub records: ModuleRecords,
    /// Takes news.
    pub reporter: Arc<Reporter>,
    /// Takes inputs.
    pub journal: Journal,
    /// The modules, each with its data path; `None` if it replicates nothing.
    pub modules: Vec<(Module, Option<V>)>,
    /// The independent guard.
    pub guard: Guard,
    /// Takes what watches find.
    pub inbox: Inbox,
}

/// One module's leaves.
#[derive(Debug)]
struct Leaves<V> {
    /// `None`: no `<user>`, so no script runs.
    scripts: RefCell<Option<Arc<Scripts>>>,
    addresses: Arc<VirtualAddresses>,
    volume: Option<V>,
}

/// Linux under one agent.
#[derive(Debug)]
pub struct LinuxOs<V> {
    state_dir: PathBuf,
    records: ModuleRecords,
    modules: BTreeMap<ModuleId, Leaves<V>>,
    reporter: Arc<Reporter>,
    journal: RefCell<Journal>,
    guard: RefCell<Guard>,
    probes: Probes,
    filters: Arc<Filters>,
}

impl<V: DataPath> LinuxOs<V> {
    /// Prepares the modules of a node.
    ///
    /// # Errors
    /// A directory cannot be made, or the kernel refuses a thread or a descriptor.
    pub fn start(parts: LinuxParts<V>) -> io::Result<Self> {
        let reporter = parts.reporter;
        let inbox = parts.inbox.clone();
        let tell = Tell::new(move |module, news| inbox.filter_news(module, news));
        let filters = Arc::new(Filters::start(&parts.state_dir, tell)?);
        let mut modules = BTreeMap::new();
        let mut places = BTreeMap::new();
        for (module, volume) in parts.modules {
            places.extend(script_place(&parts.state_dir, &module).map(|place| (module.id, place)));
            let scripts = scripts_of(&parts.state_dir, &module, &reporter)?;
            let known = Arc::clone(&filters);
            let addresses = VirtualAddresses::start(VipSettings::of(&module.config))?
                .with_friends(Friends::new(move |mac| known.is_friend(mac)));
            let addresses = Arc::new(addresses);
            let scripts = RefCell::new(scripts);
            modules.insert(module.id, Leaves { scripts, addresses, volume });
        }
        let (journal, guard) = (RefCell::new(parts.journal), RefCell::new(parts.guard));
        let probes = Probes::new(parts.inbox, places);
        let (state_dir, records) = (parts.state_dir, parts.records);
        Ok(Self { state_dir, records, modules, reporter, journal, guard, probes, filters })
    }

    /// Modules whose application, address and mounts an earlier run left in place, and until when
    /// its guard lets each go on. The others are guarded no longer: they are cleaned up.
    fn running(&self) -> Deadlines {
        let mut guard = self.guard.borrow_mut();
        let now = clock::now();
        let stands = |(module, until): &(&ModuleId, &Instant)| {
            let leaves = self.modules.get(module);
            **until > now
                && leaves.is_some_and(|l| l.volume.as_ref().is_none_or(V::mounts_outlived))
        };
        let running: Deadlines =
            guard.told().iter().filter(stands).map(|(id, until)| (*id, *until)).collect();
        let others: Vec<ModuleId> =
            guard.told().keys().filter(|id| !running.contains_key(id)).copied().collect();
        for module in others {
            if let Err(error) = guard.tell(module, None) {
                self.complain(format!("the guard cannot be told that a module ends: {error}"));
            }
        }
        running
    }

    /// Addresses that another node of the farm announces are not announced here.
    fn keep_silent(&self, module: ModuleId, table: &FilterTable) {
        let Some(leaves) = self.modules.get(&module) else { return };
        if table.leader == Some(table.local) {
            return;
        }
        let addresses = table.interfaces.iter().flat_map(|interface| &interface.addresses);
        addresses.for_each(|vip| leaves.addresses.keep_silent(vip.addr));
    }

    fn complain(&self, text: String) {
        self.notify(&Event { module: None, kind: EventKind::Failure(text) });
    }
}

/// Every virtual address of a configuration.
pub fn virtual_addresses(config: &ModuleConfig) -> impl Iterator<Item = IpAddr> + '_ {
    config.interfaces.iter().flat_map(|interface| &interface.addresses).map(|a| a.addr)
}

/// Where the scripts of a module are and what they are told.
pub fn script_place(state_dir: &Path, module: &Module) -> Option<ScriptPlace> {
    let user = module.config.user.as_ref()?;
    let safe = state_dir.join("safe");
    Some(ScriptPlace {
        module: module.name.clone(),
        safe_bin: safe.join("bin"),
        safe,
        safe_var: state_dir.to_owned(),
        user_bin: module.dir.join("bin"),
        user_conf: module.dir.join("conf"),
        user_var: state_dir.join("var").join(&module.name),
        variables: user.variables.clone(),
        logging: user.logging,
    })
}

fn scripts_of(
    state_dir: &Path,
    module: &Module,
    reporter: &Arc<Reporter>,
) -> io::Result<Option<Arc<Scripts>>> {
    let Some(place) = script_place(state_dir, module) else {
        return Ok(None);
    };
    let (reporter, id) = (Arc::clone(reporter), module.id);
    let sink =
        Sink::new(move |script, line| reporter.script_line(id, &format!("{script}: {line}")));
    Scripts::new(place, sink).map(Arc::new).map(Some)
}

/// The end of work on another thread; a panic there goes on here.
async fn on_a_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Only a runtime that shuts down cancels, and then nobody waits for the result.
            Err(_) => std::future::pending().await,
        },
    }
}

fn outcome(result: Result<(), String>) -> Outcome {
    match result {
        Ok(()) => Outcome::Done,
        Err(error) => Outcome::Failed(error),
    }
}

/// Sets all of them, or none.
fn add_all(
    addresses: &VirtualAddresses,
    all: &[(VirtualIp, AddOrder)],
    look: Look,
) -> Result<(), String> {
    for (index, (vip, order)) in all.iter().enumerate() {
        if let Err(error) = addresses.carry_out(vip, *order, look) {
            for (set, _) in &all[..index] {
                if let Err(second) = addresses.remove(set.addr) {
                    return Err(format!("{error}; and {second}"));
                }
            }
            return Err(error.to_string());
        }
    }
    Ok(())
}

/// Removes all of them, whatever happens to one.
fn remove_all(addresses: &VirtualAddresses, all: &[VirtualIp]) -> Result<(), String> {
    let errors: Vec<String> = all
        .iter()
        .filter_map(|vip| addresses.remove(vip.addr).err())
        .map(|error| error.to_string())
        .collect();
    if errors.is_empty() { Ok(()) } else { Err(errors.join("; ")) }
}

fn unknown(module: ModuleId) -> Outcome {
    Outcome::Failed(format!("{module} is not installed on this node: restart the daemon"))
}

impl<V: DataPath> Os for LinuxOs<V> {
    fn now(&self) -> Instant {
        clock::now()
    }

    async fn sleep_until(&self, deadline: Instant) {
        tokio::time::sleep(deadline.since(clock::now()).min(SLEEP_MAX)).await;
    }

    async fn load(&self) -> Result<SavedState, String> {
        let (mut saved, complaints) = self.records.load().map_err(|error| error.to_string())?;
        complaints.into_iter().for_each(|text| self.complain(text));
        saved.running = self.running();
        Ok(saved)
    }

    async fn persist(&self, record: Record) -> Outcome {
        let records = self.records.clone();
        outcome(on_a_thread(move || records.save(&record).map_err(|e| e.to_string())).await)
    }

    async fn run_script(&self, module: ModuleId, call: ScriptCall) -> ScriptEnd {
        match self.modules.get(&module).and_then(|leaves| leaves.scripts.borrow().clone()) {
            Some(scripts) => on_a_thread(move || scripts.run(&call)).await,
            None => ScriptEnd::Absent,
        }
    }

    async fn kill_scripts(&self, module: ModuleId) -> Outcome {
        match self.modules.get(&module).and_then(|leaves| leaves.scripts.borrow().clone()) {
            Some(scripts) => {
                let killed = on_a_thread(move || scripts.kill()).await;
                outcome(killed.map(drop).map_err(|error| error.to_string()))
            }
            None => Outcome::Done,
        }
    }

    async fn address(&self, module: ModuleId, request: AddressRequest) -> Outcome {
        let Some(leaves) = self.modules.get(&module) else { return unknown(module) };
        let addresses = Arc::clone(&leaves.addresses);
        let look = match &request {
            AddressRequest::Take(_) => Look::Quick,
            _ => Look::Thorough,
        };
        match request {
            AddressRequest::Add(all) | AddressRequest::Take(all) => {
                // Ordered here and now: a removal that comes next finds it, begun or not.
                let order = |vip: VirtualIp| {
                    let order = addresses.order(vip.addr);
                    (vip, order)
                };
                let all: Vec<_> = all.into_iter().map(order).collect();
                outcome(on_a_thread(move || add_all(&addresses, &all, look)).await)
            }
            AddressRequest::Remove(all) => outcome(remove_all(&addresses, &all)),
            AddressRequest::Announce(all) => {
                all.iter().for_each(|vip| addresses.announce(vip.addr));
                Outcome::Done
            }
        }
    }

    async fn filter(&self, module: ModuleId, request: FilterRequest) -> Outcome {
        let filters = Arc::clone(&self.filters);
        if let FilterRequest::Clear = request {
            filters.void(module);
            return outcome(on_a_thread(move || filters.clear(module)).await);
        }
        let ticket = filters.ticket(module);
        match request {
            FilterRequest::Set(table) => {
                self.keep_silent(module, &table);
                outcome(on_a_thread(move || filters.set(module, *table, ticket)).await)
            }
            FilterRequest::Extend { until } => outcome(filters.extend(module, until, ticket)),
            FilterRequest::Clear => unreachable!("answered above"),
        }
    }

    async fn ping(&self, targets: Vec<IpAddr>, limit: Duration) -> bool {
        on_a_thread(move || ping::any_answers(&targets, limit)).await
    }

    async fn probe(
        &self,
        module: ModuleId,
        checker: CheckerId,
        what: Probe,
        limit: Option<Duration>,
    ) -> Finding {
        self.probes.ask((module, checker), what, limit).await
    }

    fn watch(&self, module: ModuleId, checker: CheckerId, what: Probe) {
        self.probes.watch((module, checker), what);
    }

    fn unwatch(&self, module: ModuleId, checker: CheckerId) {
        self.probes.unwatch((module, checker));
    }

    fn reboot(&self, module: ModuleId) {
        if let Err(error) = probe::reboot() {
            self.complain(format!("{module} cannot reboot this machine: {error}"));
        }
    }

    async fn volume(&self, module: ModuleId, request: VolumeRequest) -> Outcome {
        match self.modules.get(&module).map(|leaves| &leaves.volume) {
            Some(Some(volume)) => volume.order(request).await,
            Some(None) => Outcome::Done,
            None => unknown(module),
        }
    }

    fn guard(&self, module: ModuleId, until: Option<Instant>) {
        if let Err(error) = self.guard.borrow_mut().tell(module, until) {
            // What stands in its file is older, so it acts too early rather than too late.
            self.complain(format!("the guard cannot be told how long it may wait: {error}"));
        }
    }

    fn configure(&self, module: &Module) {
        let Some(leaves) = self.modules.get(&module.id) else { return };
        match scripts_of(&self.state_dir, module, &self.reporter) {
            Ok(scripts) => *leaves.scripts.borrow_mut() = scripts,
            Err(error) => self.complain(format!("scripts go on with what they were told: {error}")),
        }
    }

    fn notify(&self, event: &Event) {
        self.reporter.report(event);
    }

    fn journal(&self, now: Instant, input: Option<&Input>) {
        self.journal.borrow_mut().take(now, input);
    }
}
