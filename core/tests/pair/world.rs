//! Two nodes and a witness on a perfect network with data paths that do as told: enough to see
//! whether the machines agree. Faults and real data paths are the simulator's.

use std::{
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    time::Duration,
};

use havre_core::{
    config::{
        cluster::{ClusterConfig, Lan, LanNode, LinkTiming},
        module::*,
    },
    effect::*,
    event::EventKind,
    ids::*,
    machine::{Machine, Out},
    module::ModuleSetup,
    node::{Node, NodeConfig},
    quorum::witness::{self, Witness},
    rng::Rng,
    status::{ModuleStatus, Phase, State},
    time::Instant,
    wire::message::Message,
};

pub(crate) const M: ModuleId = ModuleId(1);

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Due(Instant, u64);

enum What {
    Node(usize, u64, Input),
    Witness(witness::Input<ModuleId>),
}

#[derive(Default, Clone, PartialEq, Debug)]
enum Volume {
    #[default]
    Idle,
    Source(bool),
    Target,
}

pub(crate) struct World {
    pub(crate) now: Instant,
    configs: Vec<NodeConfig>,
    nodes: Vec<Option<Node>>,
    runs: Vec<u64>,
    saved: Vec<SavedState>,
    volumes: Vec<Volume>,
    admitted: Option<Instant>,
    pub(crate) guards: [Option<Instant>; 2],
    pub(crate) cut: bool,
    pub(crate) witness_cut: BTreeSet<usize>,
    /// A node that talks and hears nobody.
    pub(crate) deaf: Option<usize>,
    witness: Witness<ModuleId>,
    queue: BinaryHeap<std::cmp::Reverse<Due>>,
    what: BTreeMap<u64, What>,
    count: u64,
    pub(crate) addresses: BTreeSet<usize>,
    pub(crate) log: Vec<String>,
    pub(crate) refusals: Vec<String>,
}

pub(crate) fn config(quorum: QuorumPolicy, failover: bool, prim: DefaultPrimary) -> ModuleConfig {
    let timing =
        LinkTiming { pulse: Duration::from_millis(100), timeout: Duration::from_millis(1000) };
    let ip = "10.0.0.9".parse().expect("an address");
    ModuleConfig {
        service: ServiceConfig {
            mode: ServiceMode::Mirror,
            boot: BootPolicy::Off,
            boot_delay: Duration::ZERO,
            failover,
            default_primary: prim,
            maxloop: 3,
            loop_interval: Duration::from_secs(86_400),
            automatic_reboot: false,
            maxloop_retry: None,
            on_start_failure: StartFailure::Ignore,
        },
        members: vec![NodeId(0), NodeId(1)],
        farm: None,
        heart: HeartConfig {
            timing,
            heartbeats: vec![HeartbeatConfig {
                name: "default".into(),
                ident: "flow".into(),
                timing,
            }],
        },
        interfaces: vec![InterfaceConfig {
            check: true,
            arp_reroute: false,
            arp_interval: Duration::from_secs(60),
            arp_elapse: Duration::from_secs(1200),
            name: None,
            kind: InterfaceKind::Real,
            addresses: vec![VirtualAddrConfig {
                addr: ip,
                prefix: None,
                check: true,
                connections: false,
            }],
        }],
        tcp_reset: true,
        checks: ChecksConfig::default(),
        rfs: Some(RfsConfig {
            contract: Contract::Received,
            write: WriteMode::Back,
            acl: false,
            port: None,
            lock_timeout: Duration::from_secs(100),
            send_timeout: Duration::from_secs(30),
            resync_bytes_per_second_max: None,
            directories: vec![],
        }),
        user: Some(UserConfig {
            nice_stop_timeout: Duration::from_secs(300),
            force_stop_timeout: Duration::from_secs(300),
            logging: true,
            log_size_kib: 2048,
            variables: vec![],
        }),
        quorum,
    }
}

impl World {
    /// Node `n` of two, with one module.
    pub(crate) fn node_config(config: &ModuleConfig, n: u16) -> NodeConfig {
        let lan = Lan {
            name: "default".into(),
            command: true,
            nodes: (0..2)
                .map(|n| LanNode { node: NodeId(n), addr: format!("10.0.0.{n}"), local_addr: None })
                .collect(),
        };
        let cluster = ClusterConfig {
            port: 4800,
            nodes: vec!["a".into(), "b".into()],
            lans: vec![lan],
            witness: None,
        };
        let setup = ModuleSetup { name: "app".into(), signature: 7, config: config.clone() };
        NodeConfig { cluster, node: NodeId(n), modules: BTreeMap::from([(M, setup)]) }
    }

    pub(crate) fn new(config: &ModuleConfig) -> Self {
        let configs = (0..2).map(|n| Self::node_config(config, n)).collect();
        let mut world = Self {
            now: Instant::from_millis(60_000),
            configs,
            nodes: vec![None, None],
            runs: vec![0, 0],
            saved: vec![SavedState::default(), SavedState::default()],
            volumes: vec![Volume::Idle, Volume::Idle],
            admitted: None,
            guards: [None; 2],
            cut: false,
            witness_cut: BTreeSet::new(),
            deaf: None,
            witness: Witness::new(Instant::ZERO, BTreeMap::new()),
            queue: BinaryHeap::new(),
            what: BTreeMap::new(),
            count: 0,
            addresses: BTreeSet::new(),
            log: Vec::new(),
            refusals: Vec::new(),
        };
        world.boot(0);
        world.boot(1);
        world
    }

    /// The daemon alone dies and comes back; application, address and mount stay.
    pub(crate) fn restart_daemon(&mut self, n: usize) {
        self.nodes[n] = None;
        self.volume_cut(n);
        self.run_for(200);
        let until = self.guards[n].expect("it served");
        self.saved[n].running.insert(M, until);
        self.boot(n);
        self.saved[n].running.clear();
    }

    pub(crate) fn boot(&mut self, n: usize) {
        self.runs[n] += 1;
        let seed = 100 * n as u64 + self.runs[n];
        self.nodes[n] = Some(Node::new(self.configs[n].clone(), Rng::new(seed)));
        let incarnation = Incarnation(seed);
        let saved = self.saved[n].clone();
        self.step(n, Some(Input::Booted { incarnation, saved }));
    }

    /// Everything on the node is gone at once.
    pub(crate) fn kill(&mut self, n: usize) {
        self.nodes[n] = None;
        self.guards[n] = None;
        self.volumes[n] = Volume::Idle;
        self.addresses.remove(&n);
        self.volume_cut(n);
    }

    fn volume_cut(&mut self, n: usize) {
        self.admitted = None;
        let lost = VolumeNews::PeerLost { reason: "connection closed".into() };
        if matches!(self.volumes[1 - n], Volume::Source(true) | Volume::Target) {
            self.later(1, 1 - n, Input::Volume { module: M, news: lost });
        }
    }

    fn push(&mut self, after_ms: u64, what: What) {
        self.count += 1;
        let at = self.now + Duration::from_millis(after_ms);
        self.queue.push(std::cmp::Reverse(Due(at, self.count)));
        self.what.insert(self.count, what);
    }

    fn later(&mut self, after_ms: u64, n: usize, input: Input) {
        let run = self.runs[n];
        self.push(after_ms, What::Node(n, run, input));
    }

    /// The disk beneath a data path fails.
    pub(crate) fn volume_fails(&mut self, n: usize) {
        let news = VolumeNews::Failed { error: "input/output error".into() };
        self.step(n, Some(Input::Volume { module: M, news }));
    }

    pub(crate) fn order(&mut self, n: usize, order: ModuleOrder) {
        let command = Command::Module { module: M, order };
        self.step(n, Some(Input::Asked { request: RequestId(1), command }));
    }

    /// Brings a new configuration to a node that runs.
    pub(crate) fn configure(&mut self, n: usize, config: &ModuleConfig) {
        let command = Command::Configure {
            module: M,
            name: "app".into(),
            signature: 7,
            config: Box::new(config.clone()),
        };
        self.step(n, Some(Input::Asked { request: RequestId(1), command }));
    }

    fn step(&mut self, n: usize, input: Option<Input>) {
        let Some(node) = self.nodes[n].as_mut() else { return };
        let mut out = Out::new();
        match input {
            Some(input) => node.handle(self.now, input, &mut out),
            None => node.handle_timeout(self.now, &mut out),
        }
        let effects: Vec<_> = out.drain().collect();
        effects.into_iter().for_each(|e| self.perform(n, e));
    }

    fn perform(&mut self, n: usize, effect: Effect) {
        let done = |op| Input::Completed { op, outcome: Outcome::Done };
        match effect {
            Effect::Send { to: NodeId::WITNESS, message, .. } => {
                let Message::Witness { module, request } = message else {
                    panic!("only questions go to the witness")
                };
                if !self.witness_cut.contains(&n) {
                    let from = NodeId(n as u16);
                    let asked = witness::Input::Asked { key: module, from, request };
                    self.push(1, What::Witness(asked));
                }
            }
            Effect::Send { to, message, .. } => {
                if !self.cut && self.deaf != Some(to.0.into()) {
                    let (from, link) = (NodeId(n as u16), LinkId(0));
                    self.later(1, to.0.into(), Input::Received { from, link, message });
                }
            }
            Effect::Persist { op, record } => {
                match record {
                    Record::Module { module, record } => {
                        self.saved[n].modules.insert(module, record);
                    }
                    Record::Checks { module, record } => {
                        self.saved[n].checks.insert(module, record);
                    }
                }
                self.later(1, n, done(op));
            }
            Effect::RunScript { op, .. } => {
                let outcome = Outcome::Script(ScriptEnd::Exited(0));
                self.later(5, n, Input::Completed { op, outcome });
            }
            Effect::KillScripts { op, .. } => self.later(1, n, done(op)),
            Effect::Ping { op, .. } => {
                let outcome = Outcome::Reached(!self.witness_cut.contains(&n));
                self.later(2, n, Input::Completed { op, outcome });
            }
            Effect::Address { op, request, .. } => {
                match request {
                    AddressRequest::Add(_) | AddressRequest::Take(_) => self.addresses.insert(n),
                    AddressRequest::Remove(_) => self.addresses.remove(&n),
                    AddressRequest::Announce(_) => true,
                };
                assert!(self.addresses.len() < 2, "both hold the address at {}", self.now);
                self.later(1, n, done(op));
            }
            Effect::Filter { .. } => panic!("a mirror has no packet filter"),
            Effect::Probe { .. }
            | Effect::Watch { .. }
            | Effect::Unwatch { .. }
            | Effect::Reboot { .. } => panic!("no checkers are configured"),
            Effect::Volume { op, request, .. } => {
                self.volume(n, request);
                self.later(2, n, done(op));
            }
            Effect::Guard { until, .. } => self.guards[n] = until,
            Effect::Answer { answer, .. } => {
                if let Answer::Refused(text) = answer {
                    self.refusals.push(text);
                }
            }
            Effect::Notify(event) => {
                if !matches!(event.kind, EventKind::RemoteChanged { .. }) {
                    self.log.push(format!("{} {n} {:?}", self.now, event.kind));
                }
            }
        }
    }

    fn volume(&mut self, n: usize, request: VolumeRequest) {
        match request {
            VolumeRequest::Serve { .. } => {
                if self.volumes[n] == Volume::Target {
                    self.volume_cut(n);
                }
                self.volumes[n] = Volume::Source(false);
            }
            VolumeRequest::Admit { .. } => self.volumes[n] = Volume::Source(true),
            VolumeRequest::Follow { .. } => self.volumes[n] = Volume::Target,
            VolumeRequest::Solo { .. } => {
                self.volume_cut(n);
                self.volumes[n] = Volume::Source(false);
            }
            VolumeRequest::Close { .. } | VolumeRequest::Fence => {
                if self.volumes[n] != Volume::Idle {
                    self.volume_cut(n);
                }
                self.volumes[n] = Volume::Idle;
            }
            VolumeRequest::Prepare => {}
        }
        let connected = self.volumes.contains(&Volume::Source(true))
            && self.volumes.contains(&Volume::Target)
            && !self.cut;
        if connected && self.admitted.is_none() {
            self.admitted = Some(self.now);
            let source = self.volumes.iter().position(|v| *v == Volume::Source(true));
            let source = source.expect("connected");
            let generation = self.saved[source].modules[&M].lineage.current.expect("serves");
            for n in 0..2 {
                let news = VolumeNews::CaughtUp { generation, bytes_copied: 1 };
                self.later(50, n, Input::Volume { module: M, news });
            }
        }
    }

    /// Cuts everything between the two nodes.
    pub(crate) fn cut_now(&mut self) {
        self.cut = true;
        let targets: Vec<_> = (0..2)
            .filter(|n| matches!(self.volumes[*n], Volume::Source(true) | Volume::Target))
            .collect();
        self.admitted = None;
        for n in targets {
            let news = VolumeNews::PeerLost { reason: "cut".into() };
            self.later(1_500, n, Input::Volume { module: M, news });
        }
    }

    pub(crate) fn run_for(&mut self, ms: u64) {
        let end = self.now + Duration::from_millis(ms);
        loop {
            let event = self.queue.peek().map(|r| r.0.0);
            let wake = (0..2).filter_map(|n| Some((self.nodes[n].as_ref()?.deadline()?, n))).min();
            let wake_first = match (event, wake) {
                (None, None) => break,
                (Some(e), Some((w, _))) => w < e,
                (None, Some(_)) => true,
                (Some(_), None) => false,
            };
            if wake_first {
                let (at, n) = wake.expect("chosen");
                if at > end {
                    break;
                }
                self.now = self.now.max(at);
                self.step(n, None);
                let next = self.nodes[n].as_ref().and_then(Machine::deadline);
                assert!(next.is_none_or(|d| d > self.now), "the deadline moves on");
            } else {
                let Due(at, id) = self.queue.peek().expect("chosen").0.clone();
                if at > end {
                    break;
                }
                self.queue.pop();
                self.now = at;
                match self.what.remove(&id).expect("queued with its content") {
                    What::Node(n, run, input) if run == self.runs[n] => self.step(n, Some(input)),
                    What::Node(n, _, input @ Input::Received { .. }) => self.step(n, Some(input)),
                    What::Node(..) => {}
                    What::Witness(input) => self.step_witness(input),
                }
            }
        }
        self.now = end;
    }

    fn step_witness(&mut self, input: witness::Input<ModuleId>) {
        let mut out = Out::new();
        self.witness.handle(self.now, input, &mut out);
        let actions: Vec<_> = out.drain().collect();
        for action in actions {
            match action {
                witness::Action::Persist { op, .. } => {
                    self.push(1, What::Witness(witness::Input::Persisted { op, ok: true }));
                }
                witness::Action::Reply { key, to, reply } => {
                    if !self.witness_cut.contains(&usize::from(to.0))
                        && self.deaf != Some(to.0.into())
                    {
                        let message = Message::WitnessReply { module: key, reply };
                        let (from, link) = (NodeId::WITNESS, LinkId(0));
                        self.later(1, to.0.into(), Input::Received { from, link, message });
                    }
                }
            }
        }
    }

    pub(crate) fn status(&self, n: usize) -> ModuleStatus {
        self.nodes[n].as_ref().expect("it runs").status(self.now).modules[0].clone()
    }

    #[track_caller]
    pub(crate) fn expect(&self, n: usize, state: State, phase: Phase) {
        let status = self.status(n);
        assert_eq!(
            (status.state, status.phase),
            (state, phase),
            "node {n} at {}, waits for {:?}\n{}",
            self.now,
            status.wait,
            self.log.join("\n")
        );
    }
}
