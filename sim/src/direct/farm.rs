//! A farm's clients, and what each node's packet filter lets in.
//!
//! Packets of a client reach every node (`vmac_invisible`); each node's kernel judges by its own
//! table: a new connection is taken by the owner of its bucket, a packet of a connection that the
//! owner does not know is answered with a reset unless others may hold it.

use std::{collections::BTreeMap, net::IpAddr, path::Path, time::Duration};

use havre_core::{
    config::{cluster, module, module::ServiceMode},
    effect::{Input, ScriptName},
    farm::{
        BucketSet,
        explain::{Explanation, Question, explain},
        hash::Client as Identity,
        table::{FilterNews, FilterTable},
    },
    module::ModuleSetup,
    node::NodeConfig,
};

use crate::{
    chance::{Chance, Purpose},
    direct::{Direct, MODULE, event::Event, machine::node_of, os::App},
    fact::Fact,
    net::{HostId, NETS_MAX},
    plan::{FarmSetup, Setup},
    time::{SimTime, micros},
};

/// Clients that wait for a node at most.
const WAITING_MAX: usize = 64;
/// Pause between two attempts of a client.
const RETRY: Duration = Duration::from_millis(250);
/// Pause between two packets of a connection.
const PACKET: Duration = Duration::from_millis(100);
/// A node whose daemon was away is known again within this time.
const KNOWN_AGAIN: Duration = Duration::from_secs(2);
/// Pause between two looks of a node at its connections.
const LOOK: Duration = Duration::from_secs(1);
/// Messages lost, per million, from which on two nodes do not count as joined.
const ROUGH_PPM: u32 = 60_000;
/// Delay from which on they do not, in microseconds.
const SLOW_US: u64 = 40_000;

/// The address of a farm.
const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 100));

/// The clients, and who has not been joined with whom since when.
#[derive(Debug, Clone)]
pub(super) struct Farm {
    chance: Chance,
    turns: u64,
    waiting: Vec<(u32, SimTime)>,
    connections: Vec<Connection>,
    apart_at: BTreeMap<(HostId, HostId), SimTime>,
    /// When a node could last not be heard because it or its daemon did not run.
    silent_at: BTreeMap<HostId, SimTime>,
}

#[derive(Debug, Clone)]
struct Connection {
    client: u32,
    host: HostId,
    /// Which life of the application and of the address.
    life: (u32, u32),
    ends: SimTime,
}

impl Farm {
    pub(super) const fn new(seed: u64) -> Self {
        Self {
            chance: Chance::new(seed, Purpose::Load, 1),
            turns: 0,
            waiting: Vec::new(),
            connections: Vec::new(),
            apart_at: BTreeMap::new(),
            silent_at: BTreeMap::new(),
        }
    }
}

fn identity(client: u32) -> Identity {
    let port = (client >> 16) as u16 | 1_024;
    Identity { addr: IpAddr::from(client.to_be_bytes()), port, ipid: 0 }
}

fn question(client: u32) -> Question {
    let protocol = module::RuleProtocol::Tcp;
    Question { client: identity(client), addr: ADDRESS, protocol, port: 80 }
}

impl Direct<'_> {
    /// Schedules the clients and the looks of a farm.
    pub(super) fn begin_farm(&mut self) {
        if self.plan.setup.farm.is_none() {
            return;
        }
        self.at(SimTime::from_millis(100), Event::FarmClients);
        self.at(SimTime::from_millis(150), Event::FarmPackets);
        for host in self.plan.setup.nodes() {
            self.at(SimTime::from_millis(200 + u64::from(host.0)), Event::FarmLooks(host));
        }
    }

    /// New clients come, and those that wait try again.
    pub(super) fn farm_clients(&mut self) {
        let Some(FarmSetup { clients_every, .. }) = self.plan.setup.farm else { return };
        let every = micros(clients_every).max(1_000);
        self.farm.turns += 1;
        let turn = self.farm.turns;
        let pause = self.farm.chance.between(turn * 4, every / 2, every * 3 / 2);
        self.at(self.now.plus_micros(pause), Event::FarmClients);
        if !self.client.on {
            return;
        }
        let now = self.now;
        let mut tries: Vec<u32> = Vec::new();
        for (client, at) in &mut self.farm.waiting {
            if now.since(*at) >= RETRY {
                *at = now;
                tries.push(*client);
            }
        }
        let client = self.farm.chance.bits(turn * 4 + 1) as u32;
        if self.farm.waiting.len() < WAITING_MAX {
            self.farm.waiting.push((client, now));
            tries.push(client);
        }
        for client in tries {
            self.connect(client);
        }
    }

    fn connect(&mut self, client: u32) {
        let takers: Vec<HostId> = self
            .plan
            .setup
            .nodes()
            .into_iter()
            .filter(|host| self.is_reached(*host) && self.owns(*host, client) == Some(true))
            .collect();
        let Some(host) = takers.first().copied() else { return };
        if self.machines[host.index()].os.app != App::Runs {
            return self.fact(Fact::TurnedAway(client, host));
        }
        self.farm.waiting.retain(|(waiting, _)| *waiting != client);
        let lasts = self.farm.chance.child(u64::from(client)).between(1, 100_000, 12_000_000);
        let life = self.life(host);
        let ends = self.now.plus_micros(lasts);
        self.farm.connections.push(Connection { client, host, life, ends });
        self.fact(Fact::Taken(client, takers));
    }

    fn life(&self, host: HostId) -> (u32, u32) {
        let os = &self.machines[host.index()].os;
        (os.app_lives, os.address_sets)
    }

    /// Whether packets of clients reach the node and answers come back.
    fn is_reached(&self, host: HostId) -> bool {
        let machine = &self.machines[host.index()];
        let open = self.net.is_open(0, HostId::C, host) && self.net.is_open(0, host, HostId::C);
        machine.is_live() && machine.os.address && open
    }

    fn table(&self, host: HostId) -> Option<&FilterTable> {
        let machine = &self.machines[host.index()];
        let table = machine.os.filter.as_deref()?;
        let valid = table.until.is_none_or(|until| machine.clock.local(self.now) < until);
        valid.then_some(table)
    }

    /// Whether the filter of a node lets the client in as the owner of its bucket; `None`: it is
    /// not the owner, or takes nobody. `Some(false)`: others may have its connection.
    fn owns(&self, host: HostId, client: u32) -> Option<bool> {
        let table = self.table(host)?;
        match explain(table, question(client)) {
            Explanation::Shared { owner, .. } => (owner == Some(table.local)).then_some(true),
            _ => None,
        }
    }

    /// Connections send and receive.
    pub(super) fn farm_packets(&mut self) {
        self.at(self.now + PACKET, Event::FarmPackets);
        for host in self.plan.setup.nodes() {
            if !self.daemon_runs(host) || !self.machines[host.index()].is_live() {
                self.farm.silent_at.insert(host, self.now);
            }
        }
        let connections = std::mem::take(&mut self.farm.connections);
        let mut left = Vec::with_capacity(connections.len());
        let mut facts = Vec::new();
        for connection in connections {
            if connection.ends <= self.now {
                continue;
            }
            let machine = &self.machines[connection.host.index()];
            let path = self.net.is_open(0, HostId::C, connection.host)
                && self.net.is_open(0, connection.host, HostId::C);
            let lives = self.life(connection.host) == connection.life
                && machine.powered
                && machine.os.app == App::Runs
                && machine.os.address
                && machine.os.filter.is_some();
            if !lives {
                facts.push(Fact::Lost(connection.client, connection.host));
                continue;
            }
            let resets = |host: &HostId| {
                *host != connection.host
                    && path
                    && machine.is_live()
                    && self.resets(*host, connection.client)
            };
            let silent = self.farm.silent_at.get(&connection.host);
            let heard = silent.is_none_or(|at| self.now.since(*at) >= KNOWN_AGAIN);
            match self.plan.setup.nodes().into_iter().find(resets) {
                Some(_) if !heard => facts.push(Fact::Lost(connection.client, connection.host)),
                Some(by) => facts.push(Fact::Reset(connection.client, connection.host, by)),
                None => left.push(connection),
            }
        }
        self.farm.connections = left;
        facts.into_iter().for_each(|fact| self.fact(fact));
    }

    /// Whether a node that does not know the client's connection answers it with a reset.
    fn resets(&self, host: HostId, client: u32) -> bool {
        let Some(table) = self.table(host).filter(|_| self.is_reached(host)) else { return false };
        matches!(
            explain(table, question(client)),
            Explanation::Shared { owner, holders, .. }
                if owner == Some(table.local) && holders.is_empty()
        )
    }

    /// A node looks at its connections.
    pub(super) fn farm_looks(&mut self, host: HostId) {
        self.at(self.now + LOOK, Event::FarmLooks(host));
        let machine = &self.machines[host.index()];
        let Some(table) = machine.os.filter.as_deref().filter(|_| machine.is_live()) else {
            return;
        };
        let here = self.farm.connections.iter().filter(|connection| connection.host == host);
        let mut established = 0;
        let mut foreign = vec![BucketSet::EMPTY; table.groups.len()];
        for connection in here {
            established += 1;
            if let Explanation::Shared { bucket, owner, .. } =
                explain(table, question(connection.client))
                && owner != Some(table.local)
                && let Some(group) = foreign.first_mut()
            {
                group.insert(bucket);
            }
        }
        let news = FilterNews::Connections { table: table.number, established, foreign };
        self.node_input(host, Input::Filter { module: MODULE, news });
    }

    /// Whether a connection of a client is on a node.
    pub(super) fn is_connected(&self, host: HostId) -> bool {
        self.farm.connections.iter().any(|connection| connection.host == host)
    }

    /// The buckets in which a node takes new clients now.
    pub(super) fn taken_by(&self, host: HostId) -> BucketSet {
        let machine = &self.machines[host.index()];
        if !machine.is_live() || !machine.os.address {
            return BucketSet::EMPTY;
        }
        self.table(host).map_or(BucketSet::EMPTY, |table| table.own(0))
    }

    fn are_joined(&self, one: HostId, other: HostId) -> bool {
        let smooth = |net: u8, from, to| {
            let weather = self.net.weather(net, from, to);
            self.net.is_open(net, from, to)
                && weather.loss_ppm < ROUGH_PPM
                && weather.delay_us.1 < SLOW_US
        };
        let prompt = |host: HostId| self.machines[host.index()].lag_us == 0;
        let nets = 0..self.plan.setup.nets.clamp(1, NETS_MAX as u8);
        let mut nets = nets.filter(|net| smooth(*net, one, other) && smooth(*net, other, one));
        nets.next().is_some() && prompt(one) && prompt(other)
    }

    /// Notes which nodes are apart; asked before and after anything that changes it.
    pub(super) fn note_apart(&mut self) {
        if self.plan.setup.farm.is_none() {
            return;
        }
        let nodes = self.plan.setup.nodes();
        for (index, one) in nodes.iter().enumerate() {
            for other in &nodes[..index] {
                if !self.are_joined(*one, *other) {
                    self.farm.apart_at.insert((*other, *one), self.now);
                }
            }
        }
    }

    /// For how long two nodes have been joined.
    pub(super) fn joined_since(&self, one: HostId, other: HostId) -> Duration {
        if !self.are_joined(one, other) {
            return Duration::ZERO;
        }
        let pair = (one.min(other), one.max(other));
        let since = self.farm.apart_at.get(&pair).copied().unwrap_or(SimTime::ZERO);
        self.now.since(since)
    }

    /// Which script starts the application, and which stops it.
    pub(super) const fn app_scripts(&self) -> (ScriptName, ScriptName) {
        if self.plan.setup.farm.is_some() {
            (ScriptName::StartBoth, ScriptName::StopBoth)
        } else {
            (ScriptName::StartPrim, ScriptName::StopPrim)
        }
    }
}

/// The configuration of a node of a farm, by way of the files that people write.
pub(super) fn node_config(setup: &Setup, farm: &FarmSetup, host: HostId) -> NodeConfig {
    let lan = |net: u8| {
        let member = |n: u8| format!("<node name=\"n{}\" addr=\"10.0.{net}.{}\"/>", n + 1, n + 1);
        let members: String = (0..farm.nodes).map(member).collect();
        format!("<lan name=\"net{net}\">{members}</lan>")
    };
    let nets = 0..setup.nets.clamp(1, NETS_MAX as u8);
    let lans: String = nets.clone().map(lan).collect();
    let text = format!("<cluster><lans>{lans}</lans></cluster>");
    let cluster = cluster::parse(Path::new("cluster.xml"), &text).expect("a farm's cluster").value;
    let used: String = nets.map(|net| format!("<lan name=\"net{net}\"/>")).collect();
    let power = |n: u8| farm.powers.get(usize::from(n)).copied().unwrap_or(1);
    let host_line = |n: u8| format!("<host name=\"n{}\" power=\"{}\"/>", n + 1, power(n));
    let hosts: String = (0..farm.nodes).map(host_line).collect();
    let pulse = setup.pulse.as_millis();
    let slost = setup.timeout.as_millis() / pulse.max(1);
    let text = format!(
        "<safe><service mode=\"farm\" boot=\"auto\">\
         <farm pulse=\"{pulse}ms\" slost_count=\"{slost}\" mlost_count=\"{}\">{used}</farm>\
         <vip><interface_list><interface><virtual_interface type=\"vmac_invisible\">\
         <virtual_addr addr=\"{ADDRESS}\" where=\"alias\"/></virtual_interface></interface>\
         </interface_list><loadbalancing_list><group name=\"web\"><cluster>{hosts}</cluster>\
         <rule port=\"80\" proto=\"tcp\" filter=\"on_addr\"/></group></loadbalancing_list></vip>\
         <user/></service></safe>",
        farm.leader_pulses
    );
    let read = module::parse(Path::new("userconfig.xml"), &text, &cluster, &BTreeMap::new());
    let config = read.unwrap_or_else(|errors| panic!("a farm's configuration: {errors}")).value;
    assert!(config.service.mode == ServiceMode::Farm, "what was written was read");
    let module = ModuleSetup { name: "web".into(), signature: 0xfa53, config };
    NodeConfig { cluster, node: node_of(host), modules: BTreeMap::from([(MODULE, module)]) }
}
