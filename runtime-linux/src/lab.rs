//! A laboratory on one machine: nodes in network, mount and process namespaces of their own,
//! joined by virtual switches that can be cut in every way a real network fails.
//!
//! Nothing outside is touched: namespaces have no names, and live only as long as descriptors of
//! this process keep them; when this process ends, however it ends, everything in them ends.
//! Needs root.
//!
//! ```text
//!   machine 1 [net0] --veth--+                       each machine: own network namespace for its
//!             [net1] --veth--|-- switch namespace    whole life; own mount and process namespaces
//!   machine 2 [net0] --veth--+   (bridges net0,      from power-on to power-off, so that killing
//!             [net1] --veth--+   net1; clients)      a machine is one kill of its first process
//! ```

mod boot;
pub mod cable;
pub mod cluster;
pub mod command;
pub mod farm;
pub mod firewall;
pub mod init;
mod namespace;
pub mod pair;
pub mod scenario;
mod wiring;

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    process::{Child, Command},
};

use boot::Boot;
use havre_ebpf::layout::Table;
use namespace::NetworkNamespace;
use wiring::{Port, PortState};

use crate::xdp::{Filter, bpffs};

/// Machines that fit in one laboratory: the last byte of an address is its number.
const MACHINES_MAX: usize = 90;
/// Last byte of the switch's own address, at which clients run.
const CLIENT_HOST: u8 = 254;

/// One laboratory: a switch with some networks, and machines.
#[derive(Debug)]
pub struct Lab {
    directory: PathBuf,
    program: PathBuf,
    switch: NetworkNamespace,
    networks: u8,
    machines: Vec<Machine>,
    /// Of the switch's ports.
    filters: Vec<Filter>,
}

/// A directory that every machine sees at the same path, each with contents of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedPath {
    /// The path on every machine.
    pub path: PathBuf,
}

impl Lab {
    /// Builds a switch with `networks` networks. Files are kept under `directory`, which must
    /// exist and belong to this laboratory alone; `program` is the `havre` executable.
    pub fn new(directory: &Path, program: &Path, networks: u8) -> io::Result<Self> {
        if !rustix::process::geteuid().is_root() {
            let text = "a laboratory of network namespaces needs root";
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        }
        let switch = NetworkNamespace::new()?;
        switch.enter(|| {
            wiring::switch_on("lo")?;
            for network in 0..networks {
                let bridge = bridge_name(network);
                wiring::create_bridge(&bridge)?;
                wiring::switch_on(&bridge)?;
                wiring::give_address(&bridge, address_v4(network, CLIENT_HOST).into(), 24)?;
                wiring::give_address(&bridge, address_v6(network, CLIENT_HOST).into(), 64)?;
            }
            io::Result::Ok(())
        })?;
        Ok(Self {
            directory: directory.to_owned(),
            program: program.to_owned(),
            switch,
            networks,
            machines: Vec::new(),
            filters: Vec::new(),
        })
    }

    /// Adds a machine connected to every network, switched on. Its first interface is `net0`.
    ///
    /// `shared`: absolute paths of existing directories that become the machine's own.
    pub fn add_machine(&mut self, name: &str, shared: &[SharedPath]) -> io::Result<usize> {
        let number = self.machines.len();
        assert!(number < MACHINES_MAX, "a laboratory has at most {MACHINES_MAX} machines");
        let host = u8::try_from(number + 1).expect("bounded above");
        let namespace = NetworkNamespace::new()?;
        namespace.enter(|| wiring::switch_on("lo"))?;
        let mut ports = Vec::new();
        for network in 0..self.networks {
            let port = self.connect(&namespace, network, host)?;
            ports.push(port);
        }
        let directory = self.directory.join(name);
        fs::create_dir_all(&directory)?;
        let mut binds = Vec::new();
        for (index, path) in shared.iter().enumerate() {
            let own = disk(&directory, index);
            fs::create_dir_all(&own)?;
            binds.push((own, path.path.clone()));
        }
        let mut machine = Machine {
            name: name.to_owned(),
            host,
            directory,
            program: self.program.clone(),
            namespace,
            ports,
            binds,
            boot: None,
        };
        machine.power_on()?;
        self.machines.push(machine);
        Ok(number)
    }

    fn connect(&self, namespace: &NetworkNamespace, network: u8, host: u8) -> io::Result<Port> {
        let inner = interface_name(network);
        let outer = format!("p{network}m{host}");
        self.switch.enter(|| {
            wiring::create_veth(&outer, &inner, namespace)?;
            wiring::join_bridge(&outer, &bridge_name(network))?;
            wiring::switch_on(&outer)
        })?;
        namespace.enter(|| {
            wiring::switch_on(&inner)?;
            wiring::give_address(&inner, address_v4(network, host).into(), 24)?;
            wiring::give_address(&inner, address_v6(network, host).into(), 64)
        })?;
        Ok(Port { name: outer })
    }

    /// Lets packet filters of machines send frames back to the network, as they can with real
    /// cards. Costs some speed, so only laboratories with farms ask for it.
    pub fn carry_whole_frames(&mut self) -> io::Result<()> {
        let names: Vec<String> =
            self.machines.iter().flat_map(|m| &m.ports).map(|port| port.name.clone()).collect();
        let directory = &self.directory;
        // A virtual cable takes frames from the filter at its one end only if there is one at the
        // other: an empty one, that lives as long as this laboratory.
        let filters = self.switch.enter(|| {
            let mount = bpffs::mount(directory)?;
            let filter = |name: &String| {
                let index = wiring::finish_checksums(name)?;
                let mut filter = Filter::open(name, index, &mount).map_err(io::Error::other)?;
                filter.set(&Table::EMPTY).map_err(io::Error::other)?;
                Ok(filter)
            };
            let filters: io::Result<Vec<Filter>> = names.iter().map(filter).collect();
            bpffs::unmount(directory)?;
            filters
        });
        self.filters = filters?;
        Ok(())
    }

    /// The machine with that number, in the order in which they were added.
    pub fn machine(&self, number: usize) -> &Machine {
        &self.machines[number]
    }

    /// The machine with that number, to power it on and off.
    pub fn machine_mut(&mut self, number: usize) -> &mut Machine {
        &mut self.machines[number]
    }

    /// Cuts one machine's cable: both ends see that the link is down.
    pub fn unplug(&self, machine: usize, network: u8) -> io::Result<()> {
        let port = &self.machines[machine].ports[usize::from(network)];
        self.switch.enter(|| wiring::switch_off(&port.name))
    }

    /// Lets the switch drop every frame from and to one machine: nobody sees a link go down.
    pub fn isolate(&self, machine: usize, network: u8) -> io::Result<()> {
        let port = &self.machines[machine].ports[usize::from(network)];
        self.switch.enter(|| wiring::set_port_state(&port.name, PortState::Disabled))
    }

    /// Repairs what [`unplug`](Self::unplug) and [`isolate`](Self::isolate) did.
    pub fn repair(&self, machine: usize, network: u8) -> io::Result<()> {
        let port = &self.machines[machine].ports[usize::from(network)];
        self.switch.enter(|| {
            wiring::switch_on(&port.name)?;
            wiring::set_port_state(&port.name, PortState::Forwarding)
        })
    }

    /// Loses everything that `from` sends to `to` on one network, silently, and nothing else.
    pub fn cut_one_way(&self, from: usize, to: usize, network: u8) -> io::Result<()> {
        let to = address_v4(network, self.machines[to].host).into();
        let interface = interface_name(network);
        self.machines[from].namespace.enter(|| wiring::misdirect(&interface, to))
    }

    /// Repairs what [`cut_one_way`](Self::cut_one_way) did.
    pub fn heal_one_way(&self, from: usize, to: usize, network: u8) -> io::Result<()> {
        let to = address_v4(network, self.machines[to].host).into();
        let interface = interface_name(network);
        self.machines[from].namespace.enter(|| wiring::forget_neighbour(&interface, to))
    }

    /// Runs `job` as a client of every network: on a thread in the switch's namespace. Sockets
    /// made there stay there.
    pub fn as_client<T: Send>(&self, job: impl FnOnce() -> T + Send) -> T {
        self.switch.enter(job)
    }

    /// A handle with which threads of any lifetime can act as clients.
    pub fn client_namespace(&self) -> io::Result<ClientNamespace> {
        Ok(ClientNamespace(self.switch.try_clone()?))
    }

    /// The IPv4 address on one network of the machine that is added as number `machine`.
    pub fn machine_v4(network: u8, machine: usize) -> Ipv4Addr {
        address_v4(network, u8::try_from(machine + 1).expect("a laboratory has few machines"))
    }

    /// A free IPv4 address of one network, for a virtual address.
    pub fn virtual_v4(network: u8) -> Ipv4Addr {
        address_v4(network, 100)
    }

    /// A free IPv6 address of one network, for a virtual address.
    pub fn virtual_v6(network: u8) -> Ipv6Addr {
        address_v6(network, 100)
    }
}

/// The place in which clients run.
#[derive(Debug)]
pub struct ClientNamespace(NetworkNamespace);

impl ClientNamespace {
    /// Moves the calling thread there for the rest of its life.
    pub fn move_in(&self) -> io::Result<()> {
        self.0.move_in()
    }
}

/// One machine of a laboratory.
#[derive(Debug)]
pub struct Machine {
    name: String,
    host: u8,
    directory: PathBuf,
    program: PathBuf,
    namespace: NetworkNamespace,
    ports: Vec<Port>,
    binds: Vec<(PathBuf, PathBuf)>,
    boot: Option<Boot>,
}

fn disk(directory: &Path, index: usize) -> PathBuf {
    directory.join(format!("disk{index}"))
}

impl Machine {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its IPv4 address on one network.
    pub fn v4(&self, network: u8) -> Ipv4Addr {
        address_v4(network, self.host)
    }

    /// Its IPv6 address on one network.
    pub fn v6(&self, network: u8) -> Ipv6Addr {
        address_v6(network, self.host)
    }

    /// A directory of its own that outlives power cuts.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where its own contents of a shared path are kept, in the order given to
    /// [`Lab::add_machine`].
    pub fn disk(&self, index: usize) -> PathBuf {
        disk(&self.directory, index)
    }

    /// Whether it is switched on.
    pub fn is_on(&self) -> bool {
        self.boot.is_some()
    }

    /// The first process, as seen from outside: `nsenter -a -t PID` gives a shell there.
    pub fn first_process(&self) -> Option<u32> {
        self.boot.as_ref().map(Boot::pid)
    }

    /// Switches it on: new mount and process namespaces, its disks mounted, no program running.
    pub fn power_on(&mut self) -> io::Result<()> {
        if self.boot.is_none() {
            self.boot = Some(Boot::start(&self.program, &self.namespace, &self.binds)?);
        }
        Ok(())
    }

    /// Kills every process on it at once, with SIGKILL; mounts vanish, addresses added since
    /// power-on vanish too, as in a machine that loses its power.
    pub fn power_off(&mut self) -> io::Result<()> {
        if let Some(boot) = self.boot.take() {
            boot.kill()?;
        }
        let own: Vec<IpAddr> = (0..self.ports.len())
            .map(|network| u8::try_from(network).expect("few networks"))
            .flat_map(|network| [self.v4(network).into(), self.v6(network).into()])
            .collect();
        self.namespace.enter(|| wiring::remove_addresses_except(&own))
    }

    /// Starts a program on it.
    pub fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        self.boot()?.spawn(command)
    }

    /// Runs `job` on a thread in its network and with its mounts; threads started there stay
    /// there. Programs are started with [`spawn`](Self::spawn).
    pub fn enter<T: Send>(&self, job: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        self.boot()?.enter(job)
    }

    /// Runs `job` on a thread in its network, whether it is switched on or not.
    pub fn in_network<T: Send>(&self, job: impl FnOnce() -> T + Send) -> T {
        self.namespace.enter(job)
    }

    /// Stops every process on it (SIGSTOP) without telling them; its kernel goes on.
    pub fn freeze(&self) -> io::Result<()> {
        self.boot()?.signal_all(rustix::process::Signal::STOP)
    }

    /// Lets a frozen machine go on.
    pub fn thaw(&self) -> io::Result<()> {
        self.boot()?.signal_all(rustix::process::Signal::CONT)
    }

    fn boot(&self) -> io::Result<&Boot> {
        self.boot.as_ref().ok_or_else(|| io::Error::other(format!("{} is off", self.name)))
    }
}

fn bridge_name(network: u8) -> String {
    format!("switch{network}")
}

fn interface_name(network: u8) -> String {
    format!("net{network}")
}

fn address_v4(network: u8, host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, network, host)
}

fn address_v6(network: u8, host: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd77, u16::from(network), 0, 0, 0, 0, 0, u16::from(host))
}
