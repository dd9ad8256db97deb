//! A few farm nodes joined by a network that tests cut and heal: machines only, no operating
//! system. Scripts, addresses and filters take a millisecond or two.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    path::Path,
    time::Duration,
};

use havre_core::{
    checks::probe::Finding,
    config::{cluster, module},
    effect::{
        Answer, Command, Effect, Input, ModuleOrder, Outcome, Route, SavedState, ScriptEnd,
        ScriptName,
    },
    event::EventKind,
    farm::{
        BUCKETS, MemberSet,
        table::{FilterNews, FilterRequest, FilterTable},
    },
    ids::{Incarnation, ModuleId, NodeId, RequestId},
    machine::{Machine, Out},
    module::ModuleSetup,
    node::{Node, NodeConfig},
    rng::Rng,
    status::{FarmStatus, ModuleStatus, Phase, State},
    time::Instant,
};

pub(crate) const M: ModuleId = ModuleId(1);

/// What nodes are configured with.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    pub(crate) nodes: u16,
    pub(crate) signature: u64,
    pub(crate) farm: &'static str,
    pub(crate) vip: &'static str,
    pub(crate) groups: &'static str,
}

impl Setup {
    pub(crate) fn of(nodes: u16) -> Self {
        Self {
            nodes,
            signature: 7,
            farm: "",
            vip: "",
            groups: r#"<group name="web">
                <rule port="80" proto="tcp" filter="on_addr"/>
            </group>"#,
        }
    }

    pub(crate) fn node(&self, n: usize) -> NodeConfig {
        let member = |n: u16| format!("<node name=\"n{n}\" addr=\"10.0.0.{}\"/>", n + 1);
        let members: String = (0..self.nodes).map(member).collect();
        let text = format!("<cluster><lans><lan name=\"default\">{members}</lan></lans></cluster>");
        let cluster = cluster::parse(Path::new("cluster.xml"), &text).expect("a cluster").value;
        let text = format!(
            "<safe><service mode=\"farm\"><farm {}><lan name=\"default\"/></farm>\
             <vip {}><interface_list><interface arpreroute=\"on\">\
             <virtual_interface type=\"vmac_directed\">\
             <virtual_addr addr=\"10.0.0.100\" where=\"alias\"/></virtual_interface></interface>\
             </interface_list><loadbalancing_list>{}</loadbalancing_list></vip><user/>\
             </service></safe>",
            self.farm, self.vip, self.groups
        );
        let read = module::parse(Path::new("u.xml"), &text, &cluster, &BTreeMap::new());
        let config = read.unwrap_or_else(|errors| panic!("{errors}")).value;
        let setup = ModuleSetup { name: "web".into(), signature: self.signature, config };
        let node = NodeId(u16::try_from(n).expect("few nodes"));
        NodeConfig { cluster, node, modules: BTreeMap::from([(M, setup)]) }
    }
}

enum What {
    Input(Input),
    Filter(havre_core::ids::OpId, FilterRequest),
}

pub(crate) struct World {
    pub(crate) now: Instant,
    setups: Vec<Setup>,
    nodes: Vec<Option<Node>>,
    pub(crate) asleep: BTreeSet<usize>,
    runs: Vec<u64>,
    pub(crate) filters: Vec<Option<FilterTable>>,
    pub(crate) running: Vec<bool>,
    /// Buckets in which each node has connections.
    pub(crate) connections: Vec<BTreeSet<u8>>,
    pub(crate) cut: BTreeSet<(usize, usize)>,
    queue: BinaryHeap<Reverse<(Instant, u64)>>,
    what: BTreeMap<u64, (usize, u64, What)>,
    count: u64,
    pub(crate) filter_fails: BTreeSet<usize>,
    pub(crate) log: Vec<String>,
    pub(crate) refusals: Vec<String>,
}

impl World {
    pub(crate) fn new(setup: &Setup) -> Self {
        let nodes = usize::from(setup.nodes);
        let mut world = Self {
            now: Instant::from_millis(1_000),
            setups: vec![setup.clone(); nodes],
            nodes: (0..nodes).map(|_| None).collect(),
            asleep: BTreeSet::new(),
            runs: vec![0; nodes],
            filters: vec![None; nodes],
            running: vec![false; nodes],
            connections: vec![BTreeSet::new(); nodes],
            cut: BTreeSet::new(),
            queue: BinaryHeap::new(),
            what: BTreeMap::new(),
            count: 0,
            filter_fails: BTreeSet::new(),
            log: Vec::new(),
            refusals: Vec::new(),
        };
        (0..nodes).for_each(|n| world.boot(n, false));
        world
    }

    /// A farm of which every node is up.
    #[track_caller]
    pub(crate) fn up(setup: &Setup) -> Self {
        let mut world = Self::new(setup);
        (0..world.nodes.len()).for_each(|n| world.order(n, ModuleOrder::Start));
        world.run_ms(3_000);
        for n in 0..world.nodes.len() {
            assert_eq!(world.state(n), (State::Up, Phase::Ready), "{:#?}", world.log);
        }
        world
    }

    /// The first of two nodes, up; the other one is off.
    #[track_caller]
    pub(crate) fn alone(setup: &Setup) -> Self {
        let mut world = Self::new(setup);
        world.kill(1);
        world.run_ms(2_000);
        world.order(0, ModuleOrder::Start);
        world.run_ms(1_000);
        assert_eq!(world.state(0), (State::Up, Phase::Ready), "{:#?}", world.log);
        world
    }

    pub(crate) fn configure(&mut self, n: usize, setup: Setup) {
        self.setups[n] = setup;
    }

    /// Starts the daemon; `survived`: the application, the filter and the connections are there.
    pub(crate) fn boot(&mut self, n: usize, survived: bool) {
        self.runs[n] += 1;
        self.nodes[n] = Some(Node::new(self.setups[n].node(n), Rng::new(n as u64)));
        let mut saved = SavedState::default();
        if survived {
            saved.running.insert(M, Instant::FAR_FUTURE);
        }
        let incarnation = Incarnation(self.runs[n] * 100 + n as u64);
        self.input(n, Input::Booted { incarnation, saved });
    }

    /// The power fails.
    pub(crate) fn kill(&mut self, n: usize) {
        self.runs[n] += 1;
        (self.nodes[n], self.filters[n], self.running[n]) = (None, None, false);
        self.connections[n].clear();
    }

    /// The daemon alone dies.
    pub(crate) fn crash(&mut self, n: usize) {
        self.runs[n] += 1;
        self.nodes[n] = None;
    }

    pub(crate) fn isolate(&mut self, n: usize) {
        for other in 0..self.nodes.len() {
            self.cut.extend([(n, other), (other, n)]);
        }
    }

    pub(crate) fn order(&mut self, n: usize, order: ModuleOrder) {
        let command = Command::Module { module: M, order };
        self.input(n, Input::Asked { request: RequestId(self.count), command });
    }

    fn later(&mut self, ms: u64, n: usize, what: What) {
        self.count += 1;
        self.queue.push(Reverse((self.now + Duration::from_millis(ms), self.count)));
        self.what.insert(self.count, (n, self.runs[n], what));
    }

    pub(crate) fn input(&mut self, n: usize, input: Input) {
        let Some(node) = &mut self.nodes[n] else { return };
        let mut out = Out::new();
        node.handle(self.now, input, &mut out);
        self.perform(n, out);
    }

    fn perform(&mut self, n: usize, mut out: Out<Effect>) {
        let done = |op| What::Input(Input::Completed { op, outcome: Outcome::Done });
        for effect in out.drain().collect::<Vec<_>>() {
            match effect {
                Effect::Send { to, route, message, .. } => {
                    let (to, Route::Link(link)) = (usize::from(to.0), route) else { continue };
                    if !self.cut.contains(&(n, to)) && self.nodes[to].is_some() {
                        let from = NodeId(u16::try_from(n).expect("few nodes"));
                        self.later(1, to, What::Input(Input::Received { from, link, message }));
                    }
                }
                Effect::RunScript { op, call, .. } => {
                    match call.name {
                        ScriptName::StartBoth => self.running[n] = true,
                        ScriptName::StopBoth => {
                            let takes = !self.taken(n).is_empty();
                            assert!(!takes, "n{n} stops while it takes clients: {:#?}", self.log);
                            self.running[n] = false;
                            self.connections[n].clear();
                        }
                        _ => {}
                    }
                    let outcome = Outcome::Script(ScriptEnd::Exited(0));
                    self.later(20, n, What::Input(Input::Completed { op, outcome }));
                }
                Effect::Persist { op, .. }
                | Effect::KillScripts { op, .. }
                | Effect::Address { op, .. } => self.later(1, n, done(op)),
                Effect::Filter { op, request, .. } => self.later(2, n, What::Filter(op, request)),
                Effect::Answer { answer: Answer::Refused(text), .. } => self.refusals.push(text),
                Effect::Notify(event) => {
                    if !matches!(event.kind, EventKind::RemoteChanged { .. }) {
                        self.log.push(format!("{} n{n} {:?}", self.now, event.kind));
                    }
                }
                Effect::Probe { op, .. } => {
                    let outcome = Outcome::Probed(Finding::Up);
                    self.later(1, n, What::Input(Input::Completed { op, outcome }));
                }
                Effect::Answer { .. }
                | Effect::Guard { .. }
                | Effect::Watch { .. }
                | Effect::Unwatch { .. } => {}
                other => panic!("a farm does not order {other:?}"),
            }
        }
    }

    fn filter(&mut self, n: usize, op: havre_core::ids::OpId, request: FilterRequest) {
        let outcome = match request {
            FilterRequest::Set(_) if self.filter_fails.contains(&n) => {
                Outcome::Failed("CAP_BPF is missing".into())
            }
            FilterRequest::Set(table) => {
                self.filters[n] = Some(*table);
                Outcome::Done
            }
            FilterRequest::Extend { until } => {
                if let Some(table) = &mut self.filters[n] {
                    table.until = Some(until);
                }
                Outcome::Done
            }
            FilterRequest::Clear => {
                self.filters[n] = None;
                Outcome::Done
            }
        };
        self.nobody_shares_a_client();
        self.input(n, Input::Completed { op, outcome });
    }

    /// The operating system counts connections.
    pub(crate) fn look(&mut self, n: usize) {
        let Some(table) = &self.filters[n] else { return };
        let own = table.own(0);
        let foreign = self.connections[n].iter().copied().filter(|b| !own.contains(*b)).collect();
        let news = FilterNews::Connections {
            table: table.number,
            established: u32::try_from(self.connections[n].len()).expect("few"),
            foreign: vec![foreign],
        };
        self.input(n, Input::Filter { module: M, news });
    }

    pub(crate) fn run_ms(&mut self, ms: u64) {
        let end = self.now + Duration::from_millis(ms);
        loop {
            let due = self.queue.peek().map(|Reverse((at, _))| *at);
            let awake = |n: &usize| !self.asleep.contains(n);
            let wakes = (0..self.nodes.len()).filter(awake);
            let wakes = wakes.filter_map(|n| Some((self.nodes[n].as_ref()?.deadline()?, n))).min();
            let next = [due, wakes.map(|(at, _)| at)].into_iter().flatten().min();
            let Some(at) = next.filter(|at| *at <= end) else { break };
            self.now = self.now.max(at);
            if due.is_some_and(|due| due <= self.now) {
                let Some(Reverse((_, number))) = self.queue.pop() else { break };
                let (n, run, what) = self.what.remove(&number).expect("queued");
                if self.runs[n] != run {
                    continue;
                }
                match what {
                    _ if self.asleep.contains(&n) => self.later(5, n, what),
                    What::Input(input) => self.input(n, input),
                    What::Filter(op, request) => self.filter(n, op, request),
                }
            } else if let Some((_, n)) = wakes {
                let mut out = Out::new();
                if let Some(node) = &mut self.nodes[n] {
                    node.handle_timeout(self.now, &mut out);
                }
                self.perform(n, out);
            }
        }
        self.now = end;
    }

    /// The buckets in which a node takes new clients now.
    pub(crate) fn taken(&self, n: usize) -> BTreeSet<u8> {
        let Some(table) = &self.filters[n] else { return BTreeSet::new() };
        if table.until.is_some_and(|until| self.now >= until) {
            return BTreeSet::new();
        }
        table.own(0).iter().collect()
    }

    /// How many buckets each node takes.
    pub(crate) fn loads(&self) -> Vec<usize> {
        (0..self.nodes.len()).map(|n| self.taken(n).len()).collect()
    }

    /// Each bucket is taken by exactly one node.
    #[track_caller]
    pub(crate) fn is_partition(&self) {
        let total: usize = self.loads().iter().sum();
        assert_eq!(total, BUCKETS, "{:?} {:#?}", self.loads(), self.log);
    }

    /// Two nodes that have heard each other all the time never take the same client.
    fn nobody_shares_a_client(&self) {
        if !self.cut.is_empty() {
            return;
        }
        for one in 0..self.nodes.len() {
            for other in 0..one {
                let both = self.taken(one).intersection(&self.taken(other)).count();
                assert_eq!(both, 0, "n{one} and n{other} at {}: {:#?}", self.now, self.log);
            }
        }
    }

    pub(crate) fn status(&self, n: usize) -> ModuleStatus {
        let node = self.nodes[n].as_ref().expect("the daemon runs");
        node.status(self.now).modules.remove(0)
    }

    pub(crate) fn farm(&self, n: usize) -> FarmStatus {
        self.status(n).farm.expect("a farm")
    }

    pub(crate) fn state(&self, n: usize) -> (State, Phase) {
        let status = self.status(n);
        (status.state, status.phase)
    }

    /// Who may have connections of a bucket, as a node's filter knows.
    pub(crate) fn holders(&self, n: usize, bucket: u8) -> MemberSet {
        let table = self.filters[n].as_ref().expect("a filter");
        table.groups[0].buckets[usize::from(bucket)].holders
    }
}
