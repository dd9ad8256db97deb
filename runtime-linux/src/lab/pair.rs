//! Two nodes and a witness with one mirror module, whose virtual address is that of the laboratory:
//! a [`Cluster`] for demonstrations and tests.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Result;
use havre_core::{
    event::EventKind,
    status::{ModuleStatus, State},
};

pub use super::cluster::HolderProbe;
use super::{
    Lab,
    cluster::{Cluster, ClusterSpec, ModuleSpec},
};

/// Name of the module.
pub const MODULE: &str = "demo";
/// Number of the witness's machine.
pub const WITNESS: usize = 2;
/// How long a node may take to serve after its start.
const START_LIMIT: Duration = Duration::from_secs(60);

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

impl PairSpec {
    fn userconfig(&self) -> String {
        let rfs = self.replicated.as_ref().map_or_else(String::new, |path| {
            format!("<rfs async=\"none\"><replicated dir=\"{}\"/></rfs>", path.display())
        });
        let variables: String = (self.variables.iter())
            .map(|(name, value)| format!("<var name=\"{name}\" value=\"{value}\"/>"))
            .collect();
        format!(
            "<!DOCTYPE safe>\n<safe><service mode=\"mirror\" boot=\"auto\">\
             <heart pulse=\"{}ms\" timeout=\"{}ms\"><heartbeat name=\"net0\" ident=\"flow\"/>\
             </heart><vip><interface_list><interface check=\"off\"><real_interface>\
             <virtual_addr addr=\"{}\" where=\"one_side_alias\" check=\"off\"/></real_interface>\
             </interface></interface_list></vip>{rfs}<user>{variables}</user></service></safe>",
            self.pulse.as_millis(),
            self.timeout.as_millis(),
            Lab::virtual_v4(0),
        )
    }
}

/// A running pair with its witness.
#[derive(Debug)]
pub struct Pair {
    cluster: Cluster,
}

impl Pair {
    /// Builds the machines and installs everything; nothing runs yet. Files are kept under
    /// `directory`, which must exist and belong to this pair alone.
    ///
    /// # Errors
    /// The laboratory cannot be built (needs root), or the module is wrong.
    pub fn build(directory: &Path, program: &Path, spec: PairSpec) -> Result<Self> {
        let userconfig = spec.userconfig();
        let module = ModuleSpec { name: MODULE.to_owned(), userconfig, scripts: spec.scripts };
        let spec = ClusterSpec {
            nodes: vec!["node1".to_owned(), "node2".to_owned()],
            witness: true,
            others: Vec::new(),
            networks: 1,
            own_directories: spec.replicated.into_iter().collect(),
            modules: vec![module],
        };
        Ok(Self { cluster: Cluster::build(directory, program, spec)? })
    }

    /// The virtual address of the module.
    pub fn virtual_address(&self) -> IpAddr {
        Lab::virtual_v4(0).into()
    }

    /// The laboratory.
    pub const fn lab(&self) -> &Lab {
        self.cluster.lab()
    }

    /// The state directory of a node, or of the witness.
    pub fn state_dir(&self, number: usize) -> PathBuf {
        self.cluster.state_dir(number)
    }

    /// Where the replicated directory of a node really is: the node sees it at the path that both
    /// have in common.
    pub fn disk(&self, number: usize) -> PathBuf {
        self.lab().machine(number).disk(0)
    }

    /// Where the daemon of a node writes its trace.
    pub fn trace_file(&self, number: usize) -> PathBuf {
        self.cluster.trace_file(number)
    }

    /// Starts the daemon of a node, or the witness.
    ///
    /// # Errors
    /// The machine is off, or the program cannot be started.
    pub fn start(&mut self, number: usize) -> Result<()> {
        self.cluster.start(number)
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
        self.cluster.status(number, MODULE)
    }

    /// Gives an order to the module on a node.
    ///
    /// # Errors
    /// The daemon refuses, or does not answer.
    pub fn order(&self, number: usize, order: &str) -> Result<()> {
        self.cluster.order(number, MODULE, order, (false, false))
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
        self.cluster.wait_for(number, MODULE, states, limit)
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
        let read = async |client: havre_runtime::admin::client::Client| {
            client.log(Some(MODULE), 1_000, true).await
        };
        let log = self.cluster.ask(number, read)?;
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
        self.cluster.holder_probe(number, self.virtual_address())
    }

    /// Cuts the cable of a node and kills everything on it at once.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn crash(&mut self, number: usize) -> Result<()> {
        self.cluster.power_off(number)
    }

    /// Brings a crashed node back: power, cable, daemon.
    ///
    /// # Errors
    /// The kernel refuses, or the daemon cannot be started.
    pub fn revive(&mut self, number: usize) -> Result<()> {
        self.cluster.power_on(number)?;
        self.start(number)
    }

    /// Kills the daemon of a node alone, with SIGKILL.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill_daemon(&mut self, number: usize) -> Result<()> {
        self.cluster.kill_daemon(number)
    }

    /// Stops (SIGSTOP) or continues the daemon of a node alone.
    ///
    /// # Errors
    /// It does not run.
    pub fn freeze_daemon(&self, number: usize, frozen: bool) -> Result<()> {
        self.cluster.freeze_daemon(number, frozen)
    }

    /// The daemon's process of a node or of the witness, as seen from outside.
    pub fn daemon_pid(&self, number: usize) -> Option<u32> {
        self.cluster.daemon_pid(number)
    }
}
