//! A cluster in a laboratory: real daemons on any number of nodes, a witness, and further machines
//! without a daemon (clients, a router); what can be done to them, and what can be seen.

use std::{
    fs::{self, File},
    io,
    net::IpAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail};
use havre_core::status::{ModuleStatus, Phase, State};
use havre_runtime::{
    admin::{Snapshot, client::Client},
    cluster::{self, Membership},
    modules::Modules,
    witness::disk,
};

use crate::{
    interface,
    lab::{ClientNamespace, Lab, Machine, SharedPath, namespace::NetworkNamespace},
    netlink::{Family, Netlink},
    script,
};

/// Name of the witness's machine.
pub const WITNESS_NAME: &str = "witness";
/// How long a daemon may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(10);

/// A module that is installed on every node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModuleSpec {
    /// Its name.
    pub name: String,
    /// Its `userconfig.xml`.
    pub userconfig: String,
    /// Its scripts: name and text.
    pub scripts: Vec<(String, String)>,
}

/// What a cluster consists of.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClusterSpec {
    /// Names of the nodes; machines 0 and up.
    pub nodes: Vec<String>,
    /// Whether there is a witness; the machine after the nodes.
    pub witness: bool,
    /// Names of machines without a daemon; after those.
    pub others: Vec<String>,
    /// Networks, named `net0` and up in `cluster.xml`.
    pub networks: u8,
    /// Existing directories that are each node's own at the same path.
    pub own_directories: Vec<PathBuf>,
    /// Modules, numbered from 1.
    pub modules: Vec<ModuleSpec>,
}

/// A built cluster.
#[derive(Debug)]
pub struct Cluster {
    lab: Lab,
    program: PathBuf,
    spec: ClusterSpec,
    daemons: Vec<Option<Child>>,
    runtime: tokio::runtime::Runtime,
}

impl Cluster {
    /// Builds the machines and installs everything; no daemon runs yet. Files are kept under
    /// `directory`, which must exist and belong to this cluster alone.
    ///
    /// # Errors
    /// The laboratory cannot be built (needs root), or a module is wrong.
    pub fn build(directory: &Path, program: &Path, spec: ClusterSpec) -> Result<Self> {
        let mut lab = Lab::new(directory, program, spec.networks)?;
        let shared: Vec<SharedPath> =
            spec.own_directories.iter().map(|path| SharedPath { path: path.clone() }).collect();
        let witness = spec.witness.then(|| WITNESS_NAME.to_owned());
        let names = spec.nodes.iter().chain(&witness).chain(&spec.others);
        for (number, name) in names.enumerate() {
            let own = if number < spec.nodes.len() { &shared } else { &Vec::new() };
            lab.add_machine(name, own).with_context(|| format!("machine {name}"))?;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let daemons = (0..spec.nodes.len() + usize::from(spec.witness)).map(|_| None).collect();
        let cluster = Self { lab, program: program.to_owned(), spec, daemons, runtime };
        cluster.install().context("installing the cluster and its modules")?;
        Ok(cluster)
    }

    fn install(&self) -> Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let first = self.spec.nodes.first().context("a cluster has nodes")?;
        let made = cluster::create(Path::new("cluster.xml"), &self.cluster_xml(), first, now_ms)?;
        let others = made.others.into_iter().map(Membership::of).collect::<Result<Vec<_>, _>>()?;
        for member in std::iter::once(made.own).chain(others) {
            if Some(member.name()) == self.witness().map(|_| WITNESS_NAME) {
                disk::install(&self.state_dir(self.spec.nodes.len()), &member)?;
                continue;
            }
            let number = self.spec.nodes.iter().position(|name| *name == member.name());
            let state = self.state_dir(number.context("a member without a machine")?);
            member.install(&state, false)?;
            let modules = Modules::of(&state);
            for (index, module) in self.spec.modules.iter().enumerate() {
                let folder = self.lab.directory.join(format!("module-{}", module.name));
                write_module(&folder, module)?;
                let id = u16::try_from(index + 1).context("few modules")?;
                modules.install(&module.name, &folder, Some(id), member.config())?;
                modules.apply(&module.name, member.config())?;
            }
        }
        Ok(())
    }

    fn cluster_xml(&self) -> String {
        let node = |network: u8, number: usize, name: &str| {
            format!("<node name=\"{name}\" addr=\"{}\"/>", self.lab.machine(number).v4(network))
        };
        let lan = |network: u8| {
            let nodes = self.spec.nodes.iter().enumerate();
            let nodes: String = nodes.map(|(number, name)| node(network, number, name)).collect();
            format!("<lan name=\"net{network}\">{nodes}</lan>")
        };
        let lans: String = (0..self.spec.networks).map(lan).collect();
        let witness = self.witness().map_or_else(String::new, |number| {
            format!("<witness addr=\"{}\"/>", self.lab.machine(number).v4(0))
        });
        format!("<cluster><lans>{lans}</lans>{witness}</cluster>")
    }

    /// Number of nodes; they are machines 0 and up.
    pub fn nodes(&self) -> usize {
        self.spec.nodes.len()
    }

    /// The witness's machine.
    pub fn witness(&self) -> Option<usize> {
        self.spec.witness.then_some(self.spec.nodes.len())
    }

    /// The machine of that name.
    pub fn machine_named(&self, name: &str) -> Option<usize> {
        (0..self.lab.machines.len()).find(|number| self.lab.machine(*number).name() == name)
    }

    /// The laboratory.
    pub const fn lab(&self) -> &Lab {
        &self.lab
    }

    /// The laboratory, to add machines.
    pub const fn lab_mut(&mut self) -> &mut Lab {
        &mut self.lab
    }

    /// The state directory of a node, or of the witness.
    pub fn state_dir(&self, number: usize) -> PathBuf {
        self.machine(number).directory().join("state")
    }

    /// Where the daemon of a node writes its trace.
    pub fn trace_file(&self, number: usize) -> PathBuf {
        self.machine(number).directory().join("trace.log")
    }

    fn machine(&self, number: usize) -> &Machine {
        self.lab.machine(number)
    }

    /// Starts the daemon of a node, or the witness.
    ///
    /// # Errors
    /// The machine is off, or the program cannot be started.
    pub fn start(&mut self, number: usize) -> Result<()> {
        let trace = File::options().create(true).append(true).open(self.trace_file(number))?;
        let mut command = Command::new(&self.program);
        command.arg("--state-dir").arg(self.state_dir(number));
        command.arg(if Some(number) == self.witness() { "witness" } else { "daemon" });
        command.stdin(Stdio::null()).stdout(trace.try_clone()?).stderr(trace);
        self.daemons[number] = Some(self.machine(number).spawn(&mut command)?);
        Ok(())
    }

    /// Whether the daemon of a node has ended by itself, and how. It is forgotten then.
    pub fn ended(&mut self, number: usize) -> Option<ExitStatus> {
        let status = self.daemons[number].as_mut()?.try_wait().ok()??;
        self.daemons[number] = None;
        Some(status)
    }

    /// Whether a daemon runs on a node, or stands still there.
    pub fn runs(&self, number: usize) -> bool {
        self.daemons[number].is_some()
    }

    /// The picture of a node as its daemon gives it; `None` if it does not answer.
    pub fn snapshot(&self, number: usize) -> Option<Snapshot> {
        let client = Client::of(&self.state_dir(number));
        let asked = async { tokio::time::timeout(ANSWER_LIMIT, client.status()).await };
        self.runtime.block_on(asked).ok()?.ok()
    }

    /// A module on a node, as its daemon says; `None` if it does not answer.
    pub fn status(&self, number: usize, module: &str) -> Option<ModuleStatus> {
        let snapshot = self.snapshot(number)?;
        snapshot.node.modules.into_iter().find(|status| status.name == module)
    }

    /// Gives an order to a module on a node.
    ///
    /// # Errors
    /// The daemon refuses, or does not answer.
    pub fn order(
        &self,
        number: usize,
        module: &str,
        order: &str,
        (full, force): (bool, bool),
    ) -> Result<()> {
        self.ask(number, async |client| client.order(module, order, full, force).await)
            .with_context(|| format!("{order} on {}", self.machine(number).name()))
    }

    /// Asks the daemon of a node anything.
    ///
    /// # Errors
    /// The daemon refuses, or does not answer.
    pub fn ask<T, E>(
        &self,
        number: usize,
        exchange: impl AsyncFnOnce(Client) -> Result<T, E>,
    ) -> Result<T>
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        let client = Client::of(&self.state_dir(number));
        Ok(self.runtime.block_on(exchange(client))?)
    }

    /// Waits until a module on a node is in one of some states and ready (STOP: stopped).
    ///
    /// # Errors
    /// It is not within `limit`; the text says what it is instead.
    pub fn wait_for(
        &self,
        number: usize,
        module: &str,
        states: &[State],
        limit: Duration,
    ) -> Result<State> {
        let begun = Instant::now();
        loop {
            let status = self.status(number, module);
            if let Some(status) = &status
                && states.contains(&status.state)
                && (status.phase == Phase::Ready || status.state == State::Stop)
            {
                return Ok(status.state);
            }
            if begun.elapsed() > limit {
                let words = status.map_or_else(
                    || format!("no answer; see {}", self.trace_file(number).display()),
                    |s| format!("{} {} {:?} ({})", s.state, s.phase, s.wait, s.reason),
                );
                let name = self.machine(number).name();
                bail!("{name} is not {states:?} after {limit:?}: {words}");
            }
            std::thread::sleep(POLL);
        }
    }

    /// Looks at a node's addresses from any thread, whatever happens to the node.
    ///
    /// # Errors
    /// This process has no descriptors left.
    pub fn holder_probe(&self, number: usize, addr: IpAddr) -> Result<HolderProbe> {
        let namespace = self.machine(number).namespace.try_clone()?;
        Ok(HolderProbe { namespace, addr })
    }

    /// A handle with which threads of any lifetime can act from a machine's network.
    ///
    /// # Errors
    /// This process has no descriptors left.
    pub fn place(&self, number: usize) -> io::Result<ClientNamespace> {
        Ok(ClientNamespace(self.machine(number).namespace.try_clone()?))
    }

    /// Kills every process on a machine at once and cuts its cables.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn power_off(&mut self, number: usize) -> Result<()> {
        for network in 0..self.spec.networks {
            self.lab.unplug(number, network)?;
        }
        self.lab.machine_mut(number).power_off()?;
        self.reap(number);
        Ok(())
    }

    /// Brings a machine back: power and cables, no daemon.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn power_on(&mut self, number: usize) -> Result<()> {
        self.lab.machine_mut(number).power_on()?;
        for network in 0..self.spec.networks {
            self.lab.repair(number, network)?;
        }
        Ok(())
    }

    /// Kills the daemon of a node alone, with SIGKILL.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill_daemon(&mut self, number: usize) -> Result<()> {
        let daemon = self.daemons[number].as_mut().context("no daemon runs there")?;
        daemon.kill()?;
        self.reap(number);
        Ok(())
    }

    /// Stops (SIGSTOP) or continues the daemon of a node alone.
    ///
    /// # Errors
    /// It does not run.
    pub fn freeze_daemon(&self, number: usize, frozen: bool) -> Result<()> {
        use rustix::process::{Pid, Signal, kill_process};
        let daemon = self.daemons[number].as_ref().context("no daemon runs there")?;
        let signal = if frozen { Signal::STOP } else { Signal::CONT };
        kill_process(Pid::from_child(daemon), signal)?;
        Ok(())
    }

    /// The daemon's process of a node or of the witness, as seen from outside.
    pub fn daemon_pid(&self, number: usize) -> Option<u32> {
        self.daemons.get(number)?.as_ref().map(Child::id)
    }

    fn reap(&mut self, number: usize) {
        if let Some(mut daemon) = self.daemons.get_mut(number).and_then(Option::take) {
            let _ = daemon.wait();
        }
    }
}

fn write_module(folder: &Path, module: &ModuleSpec) -> io::Result<()> {
    fs::create_dir_all(folder.join("conf"))?;
    fs::create_dir_all(folder.join("bin"))?;
    fs::write(folder.join("conf/userconfig.xml"), &module.userconfig)?;
    for (name, text) in &module.scripts {
        let path = folder.join("bin").join(name);
        fs::write(&path, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

/// Looks whether one node's kernel has a virtual address.
#[derive(Debug)]
pub struct HolderProbe {
    namespace: NetworkNamespace,
    addr: IpAddr,
}

impl HolderProbe {
    /// Whether it is set there now.
    pub fn holds(&self) -> bool {
        let read = || interface::addresses(&mut Netlink::open(Family::Route)?);
        let all: io::Result<Vec<_>> = self.namespace.enter(read);
        all.is_ok_and(|all| all.iter().any(|a| a.addr == self.addr))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for number in 0..self.lab.machines.len() {
            // Every process on the machine, so that nothing writes into the directory any more.
            let _ = self.lab.machine_mut(number).power_off();
            self.reap(number);
        }
        for number in 0..self.nodes() {
            for module in &self.spec.modules {
                // A killed daemon leaves its control groups behind, for the next one to find.
                let var = self.state_dir(number).join("var").join(&module.name);
                script::forget(&module.name, &var);
            }
        }
    }
}
