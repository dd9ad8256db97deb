//! The daemons of a cluster, put together as the production binaries put them together.

use std::{cell::RefCell, collections::BTreeMap, net::SocketAddr, rc::Rc};

use havre_core::{
    checks::probe::Finding,
    effect::{Command, Effect, Input, WitnessRecord},
    farm::table::FilterNews,
    ids::{CheckerId, ClusterId, LinkId, NodeId},
    machine::{Machine, Out},
    node::Node,
    rng::Rng,
    time::Instant,
};
use havre_runtime::{
    agent::{self, AgentConfig, Inbox, inbox},
    net::Peers,
    redacted::Redacted,
    seal::{Identity, KEY_BYTES, Key, Sealer, witness_key},
    witness,
};
use tokio::sync::mpsc;

use super::{
    ip_of,
    net::{HostNet, bind, listen},
    os::HostOs,
    port_of, volume,
};
use crate::{
    direct::MODULE,
    net::{HostId, NETS_MAX},
    port::{Port, Wish},
};

/// The one cluster of a simulation.
pub(super) const CLUSTER: ClusterId = ClusterId(0x4a76);

/// Runs the daemon of a host until it is crashed.
pub(super) async fn daemon(port: Rc<Port>) -> Result<(), String> {
    if port.host == HostId::W { arbiter(port).await } else { member(port).await }
}

fn cluster_key() -> Key {
    Redacted::new([0x48; KEY_BYTES])
}

/// A node's machine that the oracle may look at between two steps.
struct Watched(Rc<RefCell<Node>>);

impl Machine for Watched {
    type Input = Input;
    type Action = Effect;

    fn handle(&mut self, now: Instant, input: Input, out: &mut Out<Effect>) {
        self.0.borrow_mut().handle(now, input, out);
    }

    fn handle_timeout(&mut self, now: Instant, out: &mut Out<Effect>) {
        self.0.borrow_mut().handle_timeout(now, out);
    }

    fn deadline(&self) -> Option<Instant> {
        self.0.borrow().deadline()
    }
}

async fn member(port: Rc<Port>) -> Result<(), String> {
    let (config, volume) = port.birth.node.clone().ok_or("a data node has a configuration")?;
    let ends = port.take_ends();
    let own = config.node;
    let mut peers = Peers::new();
    for (net, lan) in config.cluster.lans.iter().enumerate().take(NETS_MAX) {
        for node in lan.nodes.iter().filter(|node| node.node != own) {
            let address =
                SocketAddr::from((ip_of(HostId::node(node.node.0 as u8)), port_of(net as u8)));
            peers.insert(node.node, LinkId(net as u16), address);
        }
    }
    let witness = SocketAddr::from((ip_of(HostId::W), port_of(0)));
    peers.insert(NodeId::WITNESS, LinkId::WITNESS, witness);
    let identity = Identity::of_node(CLUSTER, own, &cluster_key());
    let config_of_agent = AgentConfig {
        incarnation: port.birth.incarnation,
        peers,
        sealer: Sealer::new(identity, u64::from(port.run)),
    };
    let sockets = bind().await?;
    let net = HostNet::new(Rc::clone(&port), Rc::clone(&sockets), ends.datagrams);
    let secret = port.birth.secret;
    let node = Rc::new(RefCell::new(Node::new(config, Rng::new(secret))));
    port.show(Rc::clone(&node));
    let os = Rc::new(HostOs::new(Rc::clone(&port)));
    let (inbox, letters) = inbox();
    // The data path's loop comes first: an order that the agent gives finds it listening.
    tokio::select! {
        biased;
        ended = volume::run(Rc::clone(&port), volume, ends.volume, inbox.clone()) => ended,
        ended = listen(&port, &sockets) => ended,
        () = administer(&port, ends.commands, &inbox) => Ok(()),
        () = watch(ends.findings, &inbox) => Ok(()),
        () = tell_of_connections(ends.filter, &inbox) => Ok(()),
        ended = agent::run(Watched(node), net, os, config_of_agent, letters) => ended,
    }
}

/// Passes an administrator's orders on, and the answers back.
async fn administer(port: &Port, mut commands: mpsc::UnboundedReceiver<Command>, inbox: &Inbox) {
    while let Some(command) = commands.recv().await {
        if let Ok(answer) = inbox.ask(command).await {
            port.wish(Wish::Answered(answer));
        }
    }
}

/// Passes on what checkers are told.
async fn watch(mut findings: mpsc::UnboundedReceiver<(CheckerId, Finding)>, inbox: &Inbox) {
    while let Some((checker, finding)) = findings.recv().await {
        inbox.checked(MODULE, checker, finding);
    }
}

/// Passes on what the operating system sees of a farm's connections.
async fn tell_of_connections(mut news: mpsc::UnboundedReceiver<FilterNews>, inbox: &Inbox) {
    while let Some(news) = news.recv().await {
        inbox.filter_news(MODULE, news);
    }
}

async fn arbiter(port: Rc<Port>) -> Result<(), String> {
    let ends = port.take_ends();
    let identity = Identity::of_witness(CLUSTER, witness_key(&cluster_key()));
    let sealer = Sealer::new(identity, u64::from(port.run));
    let sockets = bind().await?;
    let net = HostNet::new(Rc::clone(&port), Rc::clone(&sockets), ends.datagrams);
    let os = Rc::new(HostOs::new(Rc::clone(&port)));
    tokio::select! {
        biased;
        ended = listen(&port, &sockets) => ended,
        ended = witness::run(net, os, [sealer]) => ended,
    }
}

/// What the witness finds on its disk.
pub(super) fn witness_records(port: &Port) -> BTreeMap<witness::Key, WitnessRecord> {
    port.birth.witness.iter().map(|record| ((CLUSTER, MODULE), record.clone())).collect()
}
