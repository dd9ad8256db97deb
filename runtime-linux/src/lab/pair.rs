//! Two nodes and a witness in a laboratory: real daemons with one module, and what can be done to
//! them.

use std::{
    fs::{self, File},
    io,
    net::IpAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail};
use havre_core::{
    event::EventKind,
    status::{ModuleStatus, Phase, State},
};
use havre_runtime::{
    admin::client::Client,
    cluster::{self, Membership},
    modules::Modules,
    witness::disk,
};

use crate::{
    interface,
    lab::{Lab, Machine, SharedPath, namespace::NetworkNamespace},
    netlink::{Family, Netlink},
    script,
};

/// Name of the module.
pub const MODULE: &str = "demo";
/// Number of the witness's machine.
pub const WITNESS: usize = 2;
const NAMES: [&str; 3] = ["node1", "node2", "witness"];
/// How long a node may take to serve after its start.
const START_LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(10);

/// What the pair runs.
#[derive(Debug, Clone)]
pub struct PairSpec {
    /// Silence after which a node is given up.
    pub timeout: Duration,
    /// Period of heartbeats.
    pub pulse: Duration,
    /// A directory that is replicated, at the same path on both nodes; it must exist.
    pub replicated: Option<PathBuf>,
    /// Scripts of the module: name and text.
    pub scripts: Vec<(String, String)>,
    /// `<var>`s of the module.
    pub variables: Vec<(String, String)>,
}

/// A running pair with its witness.
#[derive(Debug)]
pub struct Pair {
    lab: Lab,
    program: PathBuf,
    daemons: [Option<Child>; 3],
    spec: PairSpec,
    runtime: tokio::runtime::Runtime,
}

impl Pair {
    /// Builds the machines and installs everything; nothing runs yet. Files are kept under
    /// `directory`, which must exist and belong to this pair alone.
    ///
    /// # Errors
    /// The laboratory cannot be built (needs root), or the module is wrong.
    pub fn build(directory: &Path, program: &Path, spec: PairSpec) -> Result<Self> {
        let mut lab = Lab::new(directory, program, 1)?;
        let shared: Vec<SharedPath> =
            spec.replicated.iter().map(|path| SharedPath { path: path.clone() }).collect();
        for name in NAMES {
            let own = if name == NAMES[WITNESS] { &[][..] } else { &shared };
            lab.add_machine(name, own).with_context(|| format!("machine {name}"))?;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let program = program.to_owned();
        let pair = Self { lab, program, daemons: [None, None, None], spec, runtime };
        pair.install().context("installing the cluster and its module")?;
        Ok(pair)
    }

    fn install(&self) -> Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let xml = self.cluster_xml();
        let made = cluster::create(Path::new("cluster.xml"), &xml, NAMES[0], now_ms)?;
        let others = made.others.into_iter().map(Membership::of).collect::<Result<Vec<_>, _>>()?;
        let folder = self.lab.directory.join("module");
        self.write_module(&folder)?;
        for member in std::iter::once(made.own).chain(others) {
            let number = NAMES.iter().position(|name| *name == member.name());
            let number = number.context("a member without a machine")?;
            let state = self.state_dir(number);
            if number == WITNESS {
                disk::install(&state, &member)?;
                continue;
            }
            member.install(&state, false)?;
            let modules = Modules::of(&state);
            modules.install(MODULE, &folder, Some(1), member.config())?;
            modules.apply(MODULE, member.config())?;
        }
        Ok(())
    }

    fn cluster_xml(&self) -> String {
        let at = |number: usize| self.lab.machine(number).v4(0);
        format!(
            "<cluster><lans><lan name=\"default\"><node name=\"node1\" addr=\"{}\"/>\
             <node name=\"node2\" addr=\"{}\"/></lan></lans><witness addr=\"{}\"/></cluster>",
            at(0),
            at(1),
            at(WITNESS)
        )
    }

    fn write_module(&self, folder: &Path) -> io::Result<()> {
        fs::create_dir_all(folder.join("conf"))?;
        fs::create_dir_all(folder.join("bin"))?;
        fs::write(folder.join("conf/userconfig.xml"), self.module_xml())?;
        for (name, text) in &self.spec.scripts {
            let path = folder.join("bin").join(name);
            fs::write(&path, text)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        }
        Ok(())
    }

    fn module_xml(&self) -> String {
        let rfs = self.spec.replicated.as_ref().map_or_else(String::new, |path| {
            format!("<rfs async=\"none\"><replicated dir=\"{}\"/></rfs>", path.display())
        });
        let variables: String = (self.spec.variables.iter())
            .map(|(name, value)| format!("<var name=\"{name}\" value=\"{value}\"/>"))
            .collect();
        format!(
            "<!DOCTYPE safe>\n<safe><service mode=\"mirror\" boot=\"auto\">\
             <heart pulse=\"{}ms\" timeout=\"{}ms\"><heartbeat name=\"default\" ident=\"flow\"/>\
             </heart><vip><interface_list><interface check=\"off\"><real_interface>\
             <virtual_addr addr=\"{}\" where=\"one_side_alias\" check=\"off\"/></real_interface>\
             </interface></interface_list></vip>{rfs}<user>{variables}</user></service></safe>",
            self.spec.pulse.as_millis(),
            self.spec.timeout.as_millis(),
            self.virtual_address(),
        )
    }

    /// The virtual address of the module.
    pub fn virtual_address(&self) -> IpAddr {
        Lab::virtual_v4(0).into()
    }

    /// The laboratory.
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// The state directory of a node, or of the witness.
    pub fn state_dir(&self, number: usize) -> PathBuf {
        self.machine(number).directory().join("state")
    }

    /// Where the replicated directory of a node really is: the node sees it at the path that both
    /// have in common.
    pub fn disk(&self, number: usize) -> PathBuf {
        self.machine(number).disk(0)
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
        command.arg(if number == WITNESS { "witness" } else { "daemon" });
        command.stdin(std::process::Stdio::null()).stdout(trace.try_clone()?).stderr(trace);
        self.daemons[number] = Some(self.machine(number).spawn(&mut command)?);
        Ok(())
    }

    /// Starts everything, and the module: as primary on node 1, as secondary on node 2; returns
    /// when both serve.
    ///
    /// # Errors
    /// A daemon does not come up in time.
    pub fn start_all(&mut self) -> Result<()> {
        for number in [WITNESS, 0, 1] {
            self.start(number)?;
        }
        for number in [0, 1] {
            self.wait_for(number, State::Stop, START_LIMIT)?;
        }
        self.bring_to(0, State::Alone, "prim")?;
        self.bring_to(1, State::Second, "second")?;
        self.wait_for(0, State::Prim, START_LIMIT)
    }

    /// Waits until a node that has just been started is in a state, and gives it the order that
    /// leads there if it does not go there by itself.
    ///
    /// # Errors
    /// It does not get there in time.
    pub fn bring_to(&self, number: usize, state: State, order: &str) -> Result<()> {
        let begun = Instant::now();
        loop {
            if self.wait_for_one_of(number, &[State::Stop, state], START_LIMIT)? == state {
                return Ok(());
            }
            // Refused while the other node is not heard yet, or if it has started by itself.
            let ordered = self.order(number, order);
            let arrived = self.wait_for(number, state, Duration::from_secs(1));
            if arrived.is_ok() {
                return Ok(());
            }
            if begun.elapsed() > START_LIMIT {
                return ordered.and(arrived);
            }
        }
    }

    /// The module on a node, as its daemon says; `None` if it does not answer.
    pub fn status(&self, number: usize) -> Option<ModuleStatus> {
        let client = Client::of(&self.state_dir(number));
        let asked = async { tokio::time::timeout(Duration::from_secs(2), client.status()).await };
        let snapshot = self.runtime.block_on(asked).ok()?.ok()?;
        snapshot.node.modules.into_iter().next()
    }

    /// Gives an order to the module on a node.
    ///
    /// # Errors
    /// The daemon refuses, or does not answer.
    pub fn order(&self, number: usize, order: &str) -> Result<()> {
        let client = Client::of(&self.state_dir(number));
        self.runtime
            .block_on(client.order(MODULE, order, false, false))
            .with_context(|| format!("{order} on {}", NAMES[number]))
    }

    /// Waits until the module on a node is in a state and ready (STOP: stopped).
    ///
    /// # Errors
    /// It is not within `limit`; the text says what it is instead.
    pub fn wait_for(&self, number: usize, state: State, limit: Duration) -> Result<()> {
        self.wait_for_one_of(number, &[state], limit).map(drop)
    }

    /// Waits until the module on a node is in one of some states and ready.
    ///
    /// # Errors
    /// As [`wait_for`](Self::wait_for).
    pub fn wait_for_one_of(
        &self,
        number: usize,
        states: &[State],
        limit: Duration,
    ) -> Result<State> {
        let begun = Instant::now();
        loop {
            let status = self.status(number);
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
                bail!("{} is not {states:?} after {limit:?}: {words}", NAMES[number]);
            }
            std::thread::sleep(POLL);
        }
    }

    /// The node that serves as primary, if exactly one says so.
    pub fn primary(&self) -> Option<usize> {
        let serves = |number: &usize| {
            self.status(*number).is_some_and(|s| matches!(s.state, State::Prim | State::Alone))
        };
        let primaries: Vec<usize> = (0..2).filter(serves).collect();
        match primaries[..] {
            [only] => Some(only),
            _ => None,
        }
    }

    /// Bytes that the last resynchronisation of a node copied to it, as its log says; 0 if none
    /// has ended.
    ///
    /// # Errors
    /// The daemon does not answer.
    pub fn bytes_resynchronised(&self, number: usize) -> Result<u64> {
        let client = Client::of(&self.state_dir(number));
        let log = self.runtime.block_on(client.log(Some(MODULE), 1_000, true))?;
        let copied = log.entries.iter().rev().find_map(|entry| match entry.event.as_ref()?.kind {
            EventKind::ResyncEnded { target: true, bytes_copied } => Some(bytes_copied),
            _ => None,
        });
        Ok(copied.unwrap_or(0))
    }

    /// Looks at a node's addresses from any thread, whatever happens to the node.
    ///
    /// # Errors
    /// This process has no descriptors left.
    pub fn holder_probe(&self, number: usize) -> Result<HolderProbe> {
        let namespace = self.machine(number).namespace.try_clone()?;
        Ok(HolderProbe { namespace, addr: self.virtual_address() })
    }

    /// Cuts the cable of a node and kills everything on it at once.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn crash(&mut self, number: usize) -> Result<()> {
        self.lab.unplug(number, 0)?;
        self.lab.machine_mut(number).power_off()?;
        self.reap(number);
        Ok(())
    }

    /// Brings a crashed node back: power, cable, daemon.
    ///
    /// # Errors
    /// The kernel refuses, or the daemon cannot be started.
    pub fn revive(&mut self, number: usize) -> Result<()> {
        self.lab.machine_mut(number).power_on()?;
        self.lab.repair(number, 0)?;
        self.start(number)
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

    fn reap(&mut self, number: usize) {
        if let Some(mut daemon) = self.daemons[number].take() {
            let _ = daemon.wait();
        }
    }
}

/// Looks whether one node's kernel has the virtual address.
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

impl Drop for Pair {
    fn drop(&mut self) {
        for number in 0..self.daemons.len() {
            // Every process on the machine, so that nothing writes into the directory any more.
            let _ = self.lab.machine_mut(number).power_off();
            self.reap(number);
            // A killed daemon leaves its control groups behind, for the next one to find.
            script::forget(MODULE, &self.state_dir(number).join("var").join(MODULE));
        }
    }
}
