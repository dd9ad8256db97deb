//! Three machines that share a virtual address, without daemons: filters, addresses and servers
//! run in this process, on threads in the machines' network namespaces.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use havre_core::{
    config::module::{InterfaceKind, RuleConfig, RuleFilter, RuleProtocol, VirtualMac},
    farm::{
        hash::{Client, bucket},
        set::{MemberSet, Slot},
        table::{
            FilterBucket, FilterGroup, FilterInterface, FilterMember, FilterNews, FilterRule,
            FilterTable,
        },
    },
    ids::{ModuleId, NodeId},
    status::VirtualIp,
};
use havre_linux::{
    interface::{self, Address},
    lab::Lab,
    netlink::{Family, Netlink},
    vip::{Friends, VipSettings, VirtualAddresses},
    xdp::filters::{Filters, Tell},
};
use rustix::net::{AddressFamily, SocketType, sockopt};

pub(crate) const MODULE: ModuleId = ModuleId(1);
/// Shared by client address.
pub(crate) const BY_ADDR: u16 = 7000;
/// Shared by client address and port.
pub(crate) const BY_PORT: u16 = 7001;
/// First and last of the clients' addresses, by their last byte.
pub(crate) const CLIENTS: std::ops::RangeInclusive<u8> = 120..=219;
pub(crate) const NODES: u8 = 3;

/// How a map assigns buckets: owner and holders of each.
pub(crate) type Map = dyn Fn(u8) -> (Option<u8>, u64);

pub(crate) struct Node {
    pub(crate) filters: Arc<Filters>,
    pub(crate) addresses: VirtualAddresses,
    pub(crate) news: Arc<Mutex<Vec<FilterNews>>>,
    state: PathBuf,
    serving: Arc<AtomicBool>,
}

pub(crate) struct Farm {
    pub(crate) lab: Lab,
    pub(crate) nodes: Vec<Option<Node>>,
    pub(crate) kind: InterfaceKind,
    number: u64,
    _directory: tempfile::TempDir,
}

pub(crate) fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: needs root");
    }
    root
}

pub(crate) fn vip4() -> IpAddr {
    Lab::virtual_v4(0).into()
}

pub(crate) fn vip6() -> IpAddr {
    Lab::virtual_v6(0).into()
}

pub(crate) fn invisible() -> InterfaceKind {
    InterfaceKind::VmacInvisible(VirtualMac::of(vip4()))
}

pub(crate) fn client(host: u8) -> IpAddr {
    Ipv4Addr::new(10, 77, 0, host).into()
}

pub(crate) fn client6(host: u8) -> IpAddr {
    Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, u16::from(host)).into()
}

/// The bucket that core computes.
pub(crate) fn bucket_of(port: u16, from: SocketAddr) -> u8 {
    let filter = if port == BY_ADDR { RuleFilter::OnAddr } else { RuleFilter::OnPort };
    bucket(filter, Client { addr: from.ip(), port: from.port(), ipid: 0 })
}

fn virtual_ip(addr: IpAddr) -> VirtualIp {
    VirtualIp { addr, prefix: None, interface: None, shared: true }
}

impl Farm {
    /// Builds it; every node has the addresses and serves, and the map of each is `map`.
    pub(crate) fn start(kind: InterfaceKind, map: &Map) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let program = PathBuf::from(env!("CARGO_BIN_EXE_havre"));
        let mut lab = Lab::new(directory.path(), &program, 1).expect("root may build a laboratory");
        for number in 0..NODES {
            lab.add_machine(&format!("node{number}"), &[]).expect("a machine can be added");
        }
        lab.carry_whole_frames().expect("the ports are virtual cables");
        lab.as_client(|| {
            let mut netlink = Netlink::open(Family::Route).expect("netlink opens");
            let all = interface::interfaces(&mut netlink).expect("interfaces can be read");
            let bridge = all.into_iter().find(|i| i.name == "switch0").expect("the bridge");
            for host in CLIENTS {
                for (addr, prefix) in [(client(host), 24), (client6(host), 64)] {
                    let address = Address { index: bridge.index, addr, prefix };
                    interface::set_address_for_ever(&mut netlink, address).expect("a free address");
                }
            }
        });
        let mut farm = Self { lab, nodes: Vec::new(), kind, number: 0, _directory: directory };
        for number in 0..NODES {
            let node = farm.new_node(number);
            farm.nodes.push(Some(node));
        }
        for number in 0..NODES {
            farm.set(number, map).expect("the filter can be set");
            farm.serve(number);
        }
        farm.wait_until_known();
        farm
    }

    fn new_node(&self, number: u8) -> Node {
        let machine = self.lab.machine(usize::from(number));
        let state = machine.directory().join("state");
        std::fs::create_dir_all(&state).expect("a directory");
        let news = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&news);
        machine
            .enter(|| {
                let tell =
                    Tell::new(move |_, news| heard.lock().expect("never poisoned").push(news));
                let filters = Arc::new(Filters::start(&state, tell)?);
                let known = Arc::clone(&filters);
                let settings = VipSettings { tcp_reset: true, ..VipSettings::default() };
                let addresses = VirtualAddresses::start(settings)?
                    .with_friends(Friends::new(move |mac| known.is_friend(mac)));
                let serving = Arc::new(AtomicBool::new(true));
                Ok(Node { filters, addresses, news, state: state.clone(), serving })
            })
            .expect("the machine is on")
    }

    pub(crate) fn node(&self, number: u8) -> &Node {
        self.nodes[usize::from(number)].as_ref().expect("the node runs")
    }

    pub(crate) fn table(&self, local: u8, map: &Map) -> FilterTable {
        let member = |number: u8| FilterMember {
            node: NodeId(u16::from(number) + 1),
            name: format!("node{number}"),
            addrs: vec![self.lab.machine(usize::from(number)).v4(0).to_string()],
            live: self.nodes.get(usize::from(number)).is_none_or(Option::is_some),
        };
        let rule = |protocol, port, filter, group| FilterRule {
            rule: RuleConfig { addr: None, port: Some(port), protocol, filter },
            group,
        };
        let bucket = |number: u8| {
            let (owner, holders) = map(number);
            let owner = owner.map(Slot);
            FilterBucket { owner, holders: MemberSet(holders) }
        };
        let group = |name: &str| FilterGroup {
            name: name.to_owned(),
            buckets: (0..=u8::MAX).map(bucket).collect(),
        };
        let live = (0..NODES).find(|n| self.nodes.get(usize::from(*n)).is_none_or(Option::is_some));
        FilterTable {
            number: self.number,
            local: Slot(local),
            members: (0..NODES).map(member).collect(),
            leader: live.map(Slot),
            interfaces: vec![FilterInterface {
                name: None,
                kind: self.kind,
                addresses: vec![virtual_ip(vip4()), virtual_ip(vip6())],
            }],
            rules: vec![
                rule(RuleProtocol::Tcp, BY_ADDR, RuleFilter::OnAddr, 0),
                rule(RuleProtocol::Tcp, BY_PORT, RuleFilter::OnPort, 1),
                rule(RuleProtocol::Udp, BY_PORT, RuleFilter::OnPort, 1),
            ],
            groups: vec![group("addr"), group("port")],
            keep_established: true,
            draining: false,
            until: None,
        }
    }

    /// Gives one node a map; says how long the change took.
    pub(crate) fn set(&mut self, number: u8, map: &Map) -> Result<Duration, String> {
        self.number += 1;
        let table = self.table(number, map);
        let node = self.node(number);
        let machine = self.lab.machine(usize::from(number));
        let done = machine.enter(|| {
            let ticket = node.filters.ticket(MODULE);
            let begun = Instant::now();
            let done = node.filters.set(MODULE, table, ticket);
            Ok(done.map(|()| begun.elapsed()))
        });
        done.expect("the machine is on")
    }

    /// Gives every node that runs a map.
    pub(crate) fn set_all(&mut self, map: &Map) {
        for number in 0..NODES {
            if self.nodes[usize::from(number)].is_some() {
                self.set(number, map).expect("the filter can be set");
            }
        }
    }

    /// Sets the addresses on a node and answers on every port with the node's number.
    fn serve(&self, number: u8) {
        let node = self.node(number);
        let machine = self.lab.machine(usize::from(number));
        machine
            .enter(|| {
                for addr in [vip4(), vip6()] {
                    node.addresses.add(&virtual_ip(addr)).map_err(io::Error::other)?;
                    for port in [BY_ADDR, BY_PORT] {
                        let listener = TcpListener::bind((addr, port))?;
                        let serving = Arc::clone(&node.serving);
                        std::thread::spawn(move || accept(&listener, number, &serving));
                    }
                    let socket = UdpSocket::bind((addr, BY_PORT))?;
                    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
                    let serving = Arc::clone(&node.serving);
                    std::thread::spawn(move || answer(&socket, number, &serving));
                }
                Ok(())
            })
            .expect("the addresses are free");
    }

    /// Waits until every node has learned where the others are.
    fn wait_until_known(&self) {
        // One question takes about a millisecond; a busy machine is given more.
        std::thread::sleep(Duration::from_millis(300));
    }

    /// A node dies: its processes, its addresses and its filter are gone at once.
    pub(crate) fn kill(&mut self, number: u8) {
        let node = self.nodes[usize::from(number)].take().expect("it ran");
        // First, so that nothing it does at its end reaches a client.
        self.lab.unplug(usize::from(number), 0).expect("a cable can be pulled");
        let machine = self.lab.machine(usize::from(number));
        machine
            .enter(|| {
                node.serving.store(false, Ordering::Relaxed);
                node.filters.void(MODULE);
                node.filters.clear(MODULE).map_err(io::Error::other)?;
                drop(node.addresses);
                Ok(())
            })
            .expect("the machine is on");
    }

    /// Ends a node's filters as a daemon that ends, and starts them again without a table.
    pub(crate) fn restart_filters(&mut self, number: u8) {
        let node = self.nodes[usize::from(number)].as_mut().expect("it runs");
        let machine = self.lab.machine(usize::from(number));
        node.addresses = machine
            .enter(|| VirtualAddresses::start(VipSettings::default()))
            .expect("the machine is on");
        let state = node.state.clone();
        node.filters = Arc::new(
            machine
                .enter(|| Filters::start(&state, Tell::new(|_, _| ())))
                .expect("the machine is on"),
        );
    }
}

fn accept(listener: &TcpListener, number: u8, serving: &Arc<AtomicBool>) {
    listener.set_nonblocking(true).expect("a listener can be polled");
    while serving.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, _)) => {
                let serving = Arc::clone(serving);
                std::thread::spawn(move || echo(stream, number, &serving));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

fn echo(mut stream: TcpStream, number: u8, serving: &AtomicBool) {
    stream.set_nonblocking(false).expect("a stream can wait");
    stream.set_read_timeout(Some(Duration::from_millis(50))).expect("a limit");
    let mut byte = [0];
    while serving.load(Ordering::Relaxed) {
        match stream.read(&mut byte) {
            Ok(0) => return,
            Ok(_) if stream.write_all(&[number]).is_err() => return,
            Ok(_) => {}
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(_) => return,
        }
    }
}

fn answer(socket: &UdpSocket, number: u8, serving: &AtomicBool) {
    let mut buffer = [0; 16];
    while serving.load(Ordering::Relaxed) {
        if let Ok((_, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&[number], from);
        }
    }
}

/// One client connection.
pub(crate) struct Connection {
    pub(crate) stream: TcpStream,
    pub(crate) from: SocketAddr,
    pub(crate) port: u16,
}

impl Connection {
    /// Connects from one address of the client; any port.
    pub(crate) fn open(lab: &Lab, from: IpAddr, vip: IpAddr, port: u16) -> io::Result<Self> {
        lab.as_client(|| {
            let family = if vip.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
            let socket: OwnedFd = rustix::net::socket(family, SocketType::STREAM, None)?;
            let limit = Some(Duration::from_secs(3));
            sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, limit)?;
            sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, limit)?;
            rustix::net::bind(&socket, &SocketAddr::new(from, 0))?;
            rustix::net::connect(&socket, &SocketAddr::new(vip, port))?;
            let stream = TcpStream::from(socket);
            stream.set_nodelay(true)?;
            let from = stream.local_addr()?;
            Ok(Self { stream, from, port })
        })
    }

    /// Which node answers on it.
    pub(crate) fn ask(&mut self) -> io::Result<u8> {
        let mut byte = [0];
        self.stream.write_all(b"?")?;
        self.stream.read_exact(&mut byte)?;
        Ok(byte[0])
    }

    pub(crate) fn bucket(&self) -> u8 {
        bucket_of(self.port, self.from)
    }
}

/// Sends one datagram from each of `count` ports and says which nodes answered each.
pub(crate) fn datagrams(lab: &Lab, vip: IpAddr, count: usize) -> Vec<(SocketAddr, Vec<u8>)> {
    lab.as_client(|| {
        let hosts: Vec<u8> = CLIENTS.collect();
        let sockets: Vec<UdpSocket> = (0..count)
            .map(|i| {
                let host = hosts[i % hosts.len()];
                let from = if vip.is_ipv4() { client(host) } else { client6(host) };
                let socket = UdpSocket::bind((from, 0)).expect("a free port");
                socket.set_nonblocking(true).expect("a socket can be polled");
                socket
            })
            .collect();
        for socket in &sockets {
            socket.send_to(b"?", (vip, BY_PORT)).expect("the network takes it");
            std::thread::sleep(Duration::from_micros(200));
        }
        let mut answers: BTreeMap<usize, Vec<u8>> = BTreeMap::new();
        let mut quiet_until = Instant::now() + Duration::from_millis(400);
        while Instant::now() < quiet_until {
            for (place, socket) in sockets.iter().enumerate() {
                let mut byte = [0];
                while socket.recv_from(&mut byte).is_ok() {
                    answers.entry(place).or_default().push(byte[0]);
                    quiet_until = Instant::now() + Duration::from_millis(400);
                }
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let from = |socket: &UdpSocket| socket.local_addr().expect("it is bound");
        let sockets = sockets.iter().enumerate();
        sockets.map(|(i, s)| (from(s), answers.remove(&i).unwrap_or_default())).collect()
    })
}
