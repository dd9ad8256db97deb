//! The machines of a scenario: two nodes `a` and `b`, the witness, a router that answers pings and
//! a client; the module that the simulator's setup describes, with a ledger as application.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    process::ExitStatus,
};

use anyhow::{Context, Result};
use havre_core::{config::module::Contract, status::ModuleStatus};
use havre_sim::{
    net::{HostId, Weather},
    plan::{Policy, Preferred, Setup},
};

use crate::lab::{
    Lab,
    cluster::{Cluster, ClusterSpec, ModuleSpec, WITNESS_NAME},
};

/// Name of the module.
pub(super) const MODULE: &str = "ledger";
/// Port of the application.
pub(super) const PORT: u16 = 7000;
const ROUTER: &str = "r";
const CLIENT: &str = "c";

/// The application in the background; `take` does what a scenario's script fault says, once per
/// line of `fault-KIND`.
const SCRIPTS: &str = r#"
take() {
    file=$SAFEUSERVAR/fault-$1
    [ -s "$file" ] || return 0
    fault=$(head -n 1 "$file")
    sed -i 1d "$file"
    echo "$1 $fault" >>"$SAFEUSERVAR/faults-hit"
    case $fault in
        hang) while [ ! -e "$SAFEUSERVAR/release" ]; do sleep 0.1; done ;;
        fail) exit 1 ;;
    esac
}
"#;

/// The machines and what was done to them.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) cluster: Cluster,
    pub(super) networks: u8,
    /// The replicated directory, as the nodes see it.
    data: PathBuf,
    frozen: Vec<HostId>,
}

/// What a setup demands that real machines cannot give.
pub(super) fn impossible(setup: &Setup) -> Option<String> {
    let mut demands = Vec::new();
    if setup.drift_ppm.iter().any(|ppm| *ppm != 0) {
        demands.push("clocks of different rates");
    }
    let weather = Weather { loss_ppm: setup.weather.loss_ppm, ..Weather::default() };
    if setup.weather != weather {
        demands.push("delays, duplicates and reordering of messages");
    }
    if setup.disk != havre_sim::disk::DiskTiming::default() {
        demands.push("disks of a given speed");
    }
    let list = demands.join(", ");
    (!demands.is_empty()).then(|| format!("not possible here: {list}; the machine's own are used"))
}

impl Stage {
    pub(super) fn build(
        setup: &Setup,
        directory: &Path,
        program: &Path,
        scale: f64,
    ) -> Result<Self> {
        let data = directory.join("data");
        fs::create_dir_all(&data).with_context(|| data.display().to_string())?;
        let start = format!(
            "#!/bin/sh\n{SCRIPTS}\ntake start\n\
             {} ledger \"$DATA/ledger\" 0.0.0.0:{PORT} &\necho $! >\"$SAFEUSERVAR/pid\"\n",
            program.display()
        );
        let stop = format!(
            "#!/bin/sh\n{SCRIPTS}\ntake stop\n[ -r \"$SAFEUSERVAR/pid\" ] || exit 0\n\
             kill \"$(cat \"$SAFEUSERVAR/pid\")\" 2>/dev/null\nrm -f \"$SAFEUSERVAR/pid\"\n"
        );
        let module = ModuleSpec {
            name: MODULE.to_owned(),
            userconfig: userconfig(setup, &data, scale),
            scripts: vec![("start_prim".to_owned(), start), ("stop_prim".to_owned(), stop)],
        };
        let networks = setup.nets.clamp(1, 2);
        let spec = ClusterSpec {
            nodes: HostId::DATA.iter().map(|host| host.name().to_owned()).collect(),
            witness: setup.policy == Policy::Lease,
            others: vec![ROUTER.to_owned(), CLIENT.to_owned()],
            networks,
            own_directories: vec![data.clone()],
            modules: vec![module],
        };
        let cluster = Cluster::build(directory, program, spec)?;
        Ok(Self { cluster, networks, data, frozen: Vec::new() })
    }

    /// Lets a program on a host write to the replicated directory; whether it could.
    pub(super) fn write(&self, host: HostId) -> bool {
        let file = self.data.join("by-itself");
        let machine = self.cluster.lab().machine(self.node(host));
        machine.enter(|| fs::write(&file, "a line\n")).is_ok()
    }

    /// The machine of a host; `None` if this cluster has none (a witness without a lease).
    pub(super) fn machine(&self, host: HostId) -> Option<usize> {
        let name = if host == HostId::W { WITNESS_NAME } else { host.name() };
        self.cluster.machine_named(name)
    }

    /// The machine of a host that every cluster has.
    pub(super) fn node(&self, host: HostId) -> usize {
        self.machine(host).expect("nodes, router and client are always there")
    }

    /// The virtual address.
    pub(super) fn virtual_address() -> IpAddr {
        Lab::virtual_v4(0).into()
    }

    pub(super) fn start_all(&mut self) -> Result<()> {
        for host in [HostId::W, HostId::A, HostId::B] {
            if let Some(machine) = self.machine(host) {
                self.cluster.start(machine)?;
            }
        }
        Ok(())
    }

    /// Whether every node answers and hears its peer.
    pub(super) fn all_hear(&self) -> bool {
        HostId::DATA
            .iter()
            .all(|host| self.status(*host).is_some_and(|s| s.peers.iter().all(|p| p.alive)))
    }

    /// The traces of the nodes, for messages.
    pub(super) fn traces(&self) -> String {
        let files = HostId::DATA.iter().map(|host| self.cluster.trace_file(self.node(*host)));
        files.map(|file| file.display().to_string()).collect::<Vec<_>>().join(" and ")
    }

    /// The module's picture as its daemon gives it; `None` if it cannot.
    pub(super) fn status(&self, host: HostId) -> Option<ModuleStatus> {
        let machine = self.node(host);
        if self.is_frozen(host) || !self.cluster.runs(machine) {
            return None;
        }
        self.cluster.status(machine, MODULE)
    }

    /// Whether a machine has power and does not stand still.
    pub(super) fn is_live(&self, host: HostId) -> bool {
        let on =
            self.machine(host).is_some_and(|machine| self.cluster.lab().machine(machine).is_on());
        on && !self.is_frozen(host)
    }

    pub(super) fn is_frozen(&self, host: HostId) -> bool {
        self.frozen.contains(&host)
    }

    /// Stops or continues every process of a machine; false if nothing changes.
    pub(super) fn freeze(&mut self, host: HostId, frozen: bool) -> Result<bool> {
        let Some(machine) = self.machine(host) else { return Ok(false) };
        if self.is_frozen(host) == frozen || !self.cluster.lab().machine(machine).is_on() {
            return Ok(false);
        }
        if frozen {
            self.cluster.lab().machine(machine).freeze()?;
            self.frozen.push(host);
        } else {
            self.cluster.lab().machine(machine).thaw()?;
            self.frozen.retain(|other| *other != host);
        }
        Ok(true)
    }

    pub(super) fn power_off(&mut self, host: HostId) -> Result<bool> {
        let Some(machine) = self.machine(host) else { return Ok(false) };
        if !self.cluster.lab().machine(machine).is_on() {
            return Ok(false);
        }
        self.frozen.retain(|other| *other != host);
        self.cluster.power_off(machine)?;
        Ok(true)
    }

    /// Gives a machine power and starts its daemon, whichever it lacks; false if it lacks neither.
    pub(super) fn power_on(&mut self, host: HostId) -> Result<bool> {
        let Some(machine) = self.machine(host) else { return Ok(false) };
        let off = !self.cluster.lab().machine(machine).is_on();
        if off {
            self.cluster.power_on(machine)?;
        }
        let dead = !self.cluster.runs(machine);
        if dead {
            self.cluster.start(machine)?;
        }
        Ok(off || dead)
    }

    pub(super) fn crash(&mut self, host: HostId) -> Result<bool> {
        match self.machine(host) {
            Some(machine) if self.cluster.runs(machine) => {
                self.cluster.kill_daemon(machine)?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// A daemon that ended without being told to.
    pub(super) fn ended_by_itself(&mut self) -> Option<(HostId, ExitStatus)> {
        [HostId::A, HostId::B, HostId::W].into_iter().find_map(|host| {
            let machine = self.machine(host)?;
            Some((host, self.cluster.ended(machine)?))
        })
    }

    /// Working files of the module on a node.
    pub(super) fn user_var(&self, host: HostId) -> PathBuf {
        self.cluster.state_dir(self.node(host)).join("var").join(MODULE)
    }
}

fn userconfig(setup: &Setup, data: &Path, scale: f64) -> String {
    let millis = |span: std::time::Duration| span.mul_f64(scale).as_millis();
    let heartbeats: String = (0..setup.nets.clamp(1, 2))
        .map(|net| {
            let flow = if net == 0 { " ident=\"flow\"" } else { "" };
            format!("<heartbeat name=\"net{net}\"{flow}/>")
        })
        .collect();
    let (policy, check) = match setup.policy {
        Policy::None => ("none", String::new()),
        Policy::Lease => ("lease", String::new()),
        Policy::Ping => {
            // The router is the machine after the nodes.
            let router = Lab::machine_v4(0, HostId::DATA.len());
            ("ping", format!("<check><splitbrain exec=\"ping\" arg=\"{router}\"/></check>"))
        }
    };
    let primary = match setup.preferred {
        Preferred::Alone => "alone",
        Preferred::Node(host) => host.name(),
        Preferred::Last => "lastprim",
    };
    let contract = if setup.contract == Contract::Durable { "none" } else { "second" };
    format!(
        "<!DOCTYPE safe>\n<safe><service mode=\"mirror\" boot=\"auto\" quorum=\"{policy}\" \
         defaultprim=\"{primary}\" failover=\"{}\">\
         <heart pulse=\"{}ms\" timeout=\"{}ms\">{heartbeats}</heart>\
         <vip><interface_list><interface check=\"off\"><real_interface>\
         <virtual_addr addr=\"{}\" where=\"one_side_alias\" check=\"off\"/></real_interface>\
         </interface></interface_list></vip>\
         <rfs async=\"{contract}\"><replicated dir=\"{data}\"/></rfs>\
         <user nicestoptimeout=\"5\" forcestoptimeout=\"5\"><var name=\"DATA\" value=\"{data}\"/>\
         </user>{check}</service></safe>",
        if setup.failover { "on" } else { "off" },
        millis(setup.pulse),
        millis(setup.timeout),
        Stage::virtual_address(),
        data = data.display(),
    )
}
