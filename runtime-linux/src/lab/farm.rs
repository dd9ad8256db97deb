//! A farm in a laboratory: real daemons on some nodes, a small web server on each that says its
//! node's name, one shared address, and a machine with any number of clients.

pub mod server;

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use havre_core::{
    config::module::RuleProtocol,
    farm::{
        explain::{Explanation, Question},
        hash::Client,
    },
    status::{ModuleStatus, Phase, Standing, State},
};
use rustix::net::{AddressFamily, SocketType, ipproto};

use super::{
    Lab,
    cluster::{Cluster, ClusterSpec, ModuleSpec},
};

/// Name of the module.
pub const MODULE: &str = "web";
/// Port of the web servers.
pub const PORT: u16 = 80;
const CLIENT: &str = "client";
/// How long nodes may take to share.
const START_LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(10);

/// What the farm runs.
#[derive(Debug, Clone)]
pub struct FarmSpec {
    /// Number of nodes.
    pub nodes: usize,
    /// `vmac_invisible` or `vmac_directed`; `None`: no address and no filter.
    pub interface: Option<&'static str>,
    /// `on_addr` or `on_port`.
    pub filter: &'static str,
    /// Period of heartbeats.
    pub pulse: Duration,
    /// Heartbeats missing before a follower counts as lost, and before the leader does.
    pub lost_counts: (u32, u32),
    /// Scripts of the module: name and text.
    pub scripts: Vec<(String, String)>,
}

impl FarmSpec {
    /// Nodes that share by the client's address, with the given web server.
    pub fn of(nodes: usize, interface: Option<&'static str>, server: &Server) -> Self {
        Self {
            nodes,
            interface,
            filter: "on_addr",
            pulse: Duration::from_millis(100),
            lost_counts: (10, 20),
            scripts: server.scripts(),
        }
    }

    fn userconfig(&self) -> String {
        let vip = self.interface.map_or_else(String::new, |interface| {
            format!(
                "<vip><interface_list><interface check=\"off\">\
                 <virtual_interface type=\"{interface}\">\
                 <virtual_addr addr=\"{}\" where=\"alias\" check=\"off\"/></virtual_interface>\
                 </interface></interface_list><loadbalancing_list><group name=\"web\">\
                 <rule port=\"{PORT}\" proto=\"tcp\" filter=\"{}\"/></group>\
                 </loadbalancing_list></vip>",
                Lab::virtual_v4(0),
                self.filter
            )
        });
        let (follower, leader) = self.lost_counts;
        format!(
            "<!DOCTYPE safe>\n<safe><service mode=\"farm\" boot=\"auto\">\
             <farm pulse=\"{}ms\" slost_count=\"{follower}\" mlost_count=\"{leader}\">\
             <lan name=\"net0\"/></farm>{vip}<user/></service></safe>",
            self.pulse.as_millis()
        )
    }

    /// Silence after which a node counts as lost, the leader included.
    pub fn timeout(&self) -> Duration {
        self.pulse * self.lost_counts.0.max(self.lost_counts.1)
    }
}

/// The web server of each node: answers every request with the node's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Server {
    /// nginx of the distribution.
    Nginx,
    /// That of this program ([`server`]), where there is no nginx.
    Own(PathBuf),
}

impl Server {
    /// nginx if it is installed, or else this program.
    pub fn choose(program: &Path) -> Self {
        let found = Command::new("nginx").arg("-v").stderr(std::process::Stdio::null()).status();
        match found {
            Ok(status) if status.success() => Self::Nginx,
            _ => Self::Own(program.to_owned()),
        }
    }

    fn scripts(&self) -> Vec<(String, String)> {
        // .../NAME-OF-MACHINE/state/var/MODULE
        let head = "#!/bin/sh\nnode=$(basename \"${SAFEUSERVAR%/state/var/*}\")\n\
             cd \"$SAFEUSERVAR\" || exit 1\n";
        let start = match self {
            Self::Nginx => format!(
                "{head}cat >nginx.conf <<END\nworker_processes 1;\npid $SAFEUSERVAR/pid;\n\
                 error_log $SAFEUSERVAR/error.log;\n\
                 events {{ worker_connections 4096; }}\n\
                 http {{ access_log off; keepalive_timeout 600; keepalive_requests 1000000; \
                 server {{ listen {PORT}; location / {{ return 200 \"$node\\n\"; }} }} }}\nEND\n\
                 nginx -p \"$SAFEUSERVAR\" -c nginx.conf\n"
            ),
            Self::Own(program) => format!(
                "{head}{} {} \"$node\" 0.0.0.0:{PORT} &\necho $! >pid\n",
                program.display(),
                server::COMMAND
            ),
        };
        let stop = format!(
            "{head}[ -r pid ] || exit 0\npid=$(cat pid)\nkill \"$pid\" 2>/dev/null\n\
             while kill -0 \"$pid\" 2>/dev/null; do sleep 0.02; done\nrm -f pid\n"
        );
        vec![("start_both".to_owned(), start), ("stop_both".to_owned(), stop)]
    }
}

/// A running farm.
#[derive(Debug)]
pub struct Farm {
    cluster: Cluster,
    spec: FarmSpec,
}

impl Farm {
    /// Builds the machines and installs everything; nothing runs yet. Files are kept under
    /// `directory`, which must exist and belong to this farm alone.
    ///
    /// # Errors
    /// The laboratory cannot be built (needs root), or the module is wrong.
    pub fn build(directory: &Path, program: &Path, spec: FarmSpec) -> Result<Self> {
        let module = ModuleSpec {
            name: MODULE.to_owned(),
            userconfig: spec.userconfig(),
            scripts: spec.scripts.clone(),
        };
        let cluster = ClusterSpec {
            nodes: (1..=spec.nodes).map(|number| format!("node{number}")).collect(),
            witness: false,
            others: vec![CLIENT.to_owned()],
            networks: 1,
            own_directories: Vec::new(),
            modules: vec![module],
        };
        let mut cluster = Cluster::build(directory, program, cluster)?;
        if spec.interface.is_some() {
            cluster.lab_mut().carry_whole_frames()?;
        }
        Ok(Self { cluster, spec })
    }

    /// The cluster.
    pub const fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The cluster, to break it.
    pub const fn cluster_mut(&mut self) -> &mut Cluster {
        &mut self.cluster
    }

    /// What it runs.
    pub const fn spec(&self) -> &FarmSpec {
        &self.spec
    }

    /// Where the clients are.
    pub fn client(&self) -> usize {
        self.cluster.machine_named(CLIENT).expect("built above")
    }

    /// The shared address.
    pub fn address(&self) -> SocketAddr {
        (Lab::virtual_v4(0), PORT).into()
    }

    /// Starts every daemon and the module; returns when all nodes share.
    ///
    /// # Errors
    /// They do not in time.
    pub fn start_all(&mut self) -> Result<()> {
        for node in 0..self.spec.nodes {
            self.cluster.start(node)?;
        }
        for node in 0..self.spec.nodes {
            self.cluster.wait_for(node, MODULE, &[State::Stop], START_LIMIT)?;
            self.cluster.order(node, MODULE, "start", (false, false))?;
        }
        self.wait_shared(&(0..self.spec.nodes).collect::<Vec<_>>(), START_LIMIT)
    }

    /// The module on a node.
    pub fn status(&self, node: usize) -> Option<ModuleStatus> {
        self.cluster.status(node, MODULE)
    }

    /// Waits until exactly these nodes share, every one of them sees it so, and none waits for
    /// another to let go.
    ///
    /// # Errors
    /// Not within `limit`; the text shows what is instead.
    pub fn wait_shared(&self, nodes: &[usize], limit: Duration) -> Result<()> {
        let begun = Instant::now();
        loop {
            let statuses: Vec<_> = nodes.iter().map(|node| self.status(*node)).collect();
            if statuses.iter().all(|status| status.as_ref().is_some_and(|s| shared(s, nodes.len())))
            {
                return Ok(());
            }
            if begun.elapsed() > limit {
                bail!("{nodes:?} do not share after {limit:?}: {statuses:#?}");
            }
            std::thread::sleep(POLL);
        }
    }

    /// Gives the client machine addresses of its own network, from which `count` clients ask, and
    /// every node the way back.
    ///
    /// # Errors
    /// The program `ip` is missing, or refuses.
    pub fn add_clients(&self, count: usize) -> Result<Vec<Ipv4Addr>> {
        let addresses: Vec<Ipv4Addr> = (0..count).map(client_address).collect();
        let batch: String = addresses.iter().map(|a| format!("addr add {a}/32 dev lo\n")).collect();
        let machine = self.cluster.lab().machine(self.client());
        machine.in_network(|| ip(&["-batch", "-"], &batch))?;
        let via = machine.v4(0).to_string();
        for node in 0..self.spec.nodes {
            let node = self.cluster.lab().machine(node);
            node.in_network(|| ip(&["route", "replace", "10.78.0.0/16", "via", &via], ""))?;
        }
        Ok(addresses)
    }

    /// The node that takes a client's new connections, as a daemon explains it.
    ///
    /// # Errors
    /// The daemon does not answer, or nobody takes them.
    pub fn owner(&self, asked: usize, client: SocketAddr) -> Result<usize> {
        let question = Question {
            client: Client { addr: client.ip(), port: client.port(), ipid: 0 },
            addr: self.address().ip(),
            protocol: RuleProtocol::Tcp,
            port: PORT,
        };
        let explained =
            self.cluster.ask(asked, async |daemon| daemon.explain(MODULE, question).await)?;
        match explained.explanation {
            Explanation::Shared { owner: Some(slot), .. } => Ok(usize::from(slot.0)),
            _ => bail!("nobody takes {client}: {}", explained.words),
        }
    }
}

/// Whether a node works and sees that many nodes share.
fn shared(status: &ModuleStatus, count: usize) -> bool {
    let Some(farm) = &status.farm else { return false };
    let sharing = farm.members.iter().filter(|m| m.standing == Standing::Sharing).count();
    let settled = farm
        .groups
        .iter()
        .all(|group| group.withheld == 0 && group.owners.iter().all(Option::is_some));
    (status.state, status.phase) == (State::Up, Phase::Ready) && sharing == count && settled
}

fn client_address(number: usize) -> Ipv4Addr {
    let [high, low] = u16::try_from(number + 1).expect("few clients").to_be_bytes();
    Ipv4Addr::new(10, 78, high, low)
}

fn ip(arguments: &[&str], input: &str) -> Result<()> {
    let mut command = Command::new("ip");
    command.args(arguments).stdin(std::process::Stdio::piped());
    let mut child = command.spawn().context("the program ip (package iproute2)")?;
    child.stdin.take().expect("stdin was asked for").write_all(input.as_bytes())?;
    let status = child.wait()?;
    if !status.success() {
        bail!("ip {}: {status}", arguments.join(" "));
    }
    Ok(())
}

/// A client's connection to a web server. Runs in the calling thread's network.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
}

impl Connection {
    /// Connects from an address of this machine.
    ///
    /// # Errors
    /// Nobody answers within `limit`, which then bounds each answer too.
    pub fn open(from: IpAddr, to: SocketAddr, limit: Duration) -> io::Result<Self> {
        let socket =
            rustix::net::socket(AddressFamily::INET, SocketType::STREAM, Some(ipproto::TCP))?;
        rustix::net::bind(&socket, &SocketAddr::new(from, 0))?;
        rustix::net::sockopt::set_socket_timeout(
            &socket,
            rustix::net::sockopt::Timeout::Send,
            Some(limit),
        )?;
        rustix::net::connect(&socket, &to)?;
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(limit))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream })
    }

    /// The client's side.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn local(&self) -> io::Result<SocketAddr> {
        self.stream.local_addr()
    }

    /// Asks once; the name of the node that answered.
    ///
    /// # Errors
    /// The connection is broken, or nobody answers in time.
    pub fn ask(&mut self) -> io::Result<String> {
        self.stream.write_all(b"GET / HTTP/1.1\r\nhost: farm\r\n\r\n")?;
        let mut answer = Vec::new();
        let mut buffer = [0; 1024];
        loop {
            let count = self.stream.read(&mut buffer)?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            answer.extend_from_slice(&buffer[..count]);
            let text = String::from_utf8_lossy(&answer);
            // The body is one line.
            if let Some((_, body)) = text.split_once("\r\n\r\n")
                && let Some(name) = body.strip_suffix('\n')
            {
                return Ok(name.to_owned());
            }
        }
    }
}
