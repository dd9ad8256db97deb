//! Composition root of a node: heartbeats to each peer, and its modules. Routes only.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    config::{
        cluster::{ClusterConfig, LinkTiming},
        module::BootPolicy,
    },
    effect::{Answer, Command, Effect, Input, ModuleRecord, Route, SavedState},
    ids::{Incarnation, LinkId, ModuleId, NodeId, RequestId},
    machine::{Machine, Out, earliest},
    membership::link::{Conversation, Heard},
    module::{self, Module, ModuleSetup, record::Ops},
    rng::Rng,
    status::{NodeStatus, Phase, State},
    time::Instant,
    wire::message::{Heartbeat, Message, ModuleBeat},
};

/// Version of the protocol spoken between nodes.
pub const PROTOCOL: u16 = 1;
/// Shortest pause between two heartbeats that news of a module cause.
const NEWS_PAUSE: Duration = Duration::from_millis(2);

/// A node as configured.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// The cluster.
    pub cluster: ClusterConfig,
    /// Which node this is.
    pub node: NodeId,
    /// The modules on it.
    pub modules: BTreeMap<ModuleId, ModuleSetup>,
}

#[derive(Debug, Clone)]
struct Peer {
    conversation: Conversation,
    next: BTreeMap<LinkId, Instant>,
    told: Vec<ModuleBeat>,
    /// What it was told last is not so any more.
    news: bool,
    told_at: Instant,
}

/// One node: everything it decides.
#[derive(Debug, Clone)]
pub struct Node {
    config: NodeConfig,
    rng: Rng,
    pulses: BTreeMap<LinkId, Duration>,
    peers: BTreeMap<NodeId, Peer>,
    modules: BTreeMap<ModuleId, Module>,
    boots: BTreeMap<ModuleId, Instant>,
    incarnation: Incarnation,
    /// What peers should know, as of the last fact.
    beats: Vec<ModuleBeat>,
}

impl Node {
    /// Makes a node that waits for [`Input::Booted`].
    pub fn new(config: NodeConfig, rng: Rng) -> Self {
        let mut pulses: BTreeMap<LinkId, Duration> = BTreeMap::new();
        for setup in config.modules.values() {
            for heartbeat in &setup.config.heart.heartbeats {
                let LinkTiming { pulse, .. } = heartbeat.timing;
                if let Some(link) = config.cluster.lan_named(&heartbeat.name) {
                    pulses.entry(link).and_modify(|p| *p = pulse.min(*p)).or_insert(pulse);
                }
            }
        }
        Self {
            config,
            rng,
            pulses,
            peers: BTreeMap::new(),
            modules: BTreeMap::new(),
            boots: BTreeMap::new(),
            incarnation: Incarnation(0),
            beats: Vec::new(),
        }
    }

    /// The picture of this node.
    pub fn status(&self, now: Instant) -> NodeStatus {
        NodeStatus {
            node: self.config.node,
            name: self.config.cluster.name_of(self.config.node).to_owned(),
            modules: self.modules.values().map(|m| m.status(now)).collect(),
            witness: self.modules.values().filter_map(|m| m.witness_seen(now)).reduce(|a, b| a | b),
            protocol: PROTOCOL,
        }
    }

    /// Role and colour of one module.
    pub fn shown(&self, module: ModuleId) -> Option<(State, Phase)> {
        self.modules.get(&module).map(Module::shown)
    }

    fn booted(
        &mut self,
        now: Instant,
        incarnation: Incarnation,
        saved: &SavedState,
        out: &mut Out<Effect>,
    ) {
        self.incarnation = incarnation;
        let first: BTreeMap<_, _> = self.pulses.keys().map(|link| (*link, now)).collect();
        for index in 0..self.config.cluster.nodes.len() {
            let id = NodeId(u16::try_from(index).expect("the parser bounds the number of nodes"));
            if id != self.config.node {
                let peer = Peer {
                    conversation: Conversation::new(incarnation),
                    next: first.clone(),
                    told: Vec::new(),
                    news: false,
                    told_at: now,
                };
                self.peers.insert(id, peer);
            }
        }
        for (&id, setup) in &self.config.modules {
            let record = saved.modules.get(&id).cloned().unwrap_or_else(ModuleRecord::blank);
            let service = &setup.config.service;
            let starts = match service.boot {
                BootPolicy::On => true,
                BootPolicy::Auto => record.started,
                BootPolicy::Off | BootPolicy::Ignore => false,
            };
            let rng = self.rng.split(u64::from(id.0));
            let mut module = Module::new(
                (id, setup),
                (&self.config.cluster, self.config.node),
                (incarnation, record),
                rng,
                now,
            );
            let delayed = starts && !service.boot_delay.is_zero();
            if delayed {
                self.boots.insert(id, now + service.boot_delay);
            }
            let running = saved.running.get(&id).copied();
            let start = starts && !delayed;
            module.handle(now, module::Input::Booted { start, running }, out);
            self.modules.insert(id, module);
        }
    }

    fn received(
        &mut self,
        now: Instant,
        from: NodeId,
        link: LinkId,
        message: Message,
        out: &mut Out<Effect>,
    ) {
        let (id, input) = match message {
            Message::Heartbeat(heartbeat) => return self.heard(now, from, link, heartbeat, out),
            Message::Claim { module, claim } => (module, module::Input::Claimed(claim)),
            Message::ClaimReply { module, nonce, verdict } => {
                (module, module::Input::ClaimAnswered { nonce, verdict })
            }
            Message::WitnessReply { module, reply } if from == NodeId::WITNESS => {
                (module, module::Input::WitnessAnswered(reply))
            }
            // A node is no witness, and the witness asks nothing.
            Message::Witness { .. } | Message::WitnessReply { .. } => return,
        };
        if let Some(module) = self.modules.get_mut(&id) {
            module.handle(now, input, out);
        }
    }

    fn heard(
        &mut self,
        now: Instant,
        from: NodeId,
        link: LinkId,
        heartbeat: Heartbeat,
        out: &mut Out<Effect>,
    ) {
        let Some(peer) = self.peers.get_mut(&from) else { return };
        let Heartbeat { incarnation, number, heard, modules: beats } = heartbeat;
        let heard = peer.conversation.receive(link, incarnation, number, heard);
        if heard == Heard::Stale {
            return;
        }
        for (id, module) in &mut self.modules {
            let beat = beats.iter().find(|b| b.module == *id).cloned();
            module.handle(now, module::Input::Heard { link, heard, beat }, out);
        }
    }

    fn asked(&mut self, now: Instant, request: RequestId, command: Command, out: &mut Out<Effect>) {
        match command {
            Command::Status => {
                let answer = Answer::Status(self.status(now));
                out.push(Effect::Answer { request, answer });
            }
            Command::Module { module: id, order } => match self.modules.get_mut(&id) {
                Some(module) => {
                    self.boots.remove(&id);
                    module.handle(now, module::Input::Ordered(request, order), out);
                }
                None => {
                    let text = format!("no module has number {}: see `havre module list`", id.0);
                    out.push(Effect::Answer { request, answer: Answer::Refused(text) });
                }
            },
        }
    }

    /// Sends the heartbeats that are due, and at once those that carry news.
    fn beat(&mut self, now: Instant, out: &mut Out<Effect>) {
        if self.modules.is_empty() {
            return;
        }
        self.beats.clear();
        self.beats.extend(self.modules.values().map(Module::beat));
        let beats = &self.beats;
        for (&id, peer) in &mut self.peers {
            peer.news = peer.told != *beats;
            let news = peer.news && now >= peer.told_at + NEWS_PAUSE;
            let due = |(link, at): (&LinkId, &Instant)| (news || now >= *at).then_some(*link);
            let links: Vec<LinkId> = peer.next.iter().filter_map(due).collect();
            if links.is_empty() {
                continue;
            }
            let heartbeat = Heartbeat {
                incarnation: self.incarnation,
                number: peer.conversation.sending(now),
                heard: peer.conversation.heard(),
                modules: beats.clone(),
            };
            for link in links {
                if let (Some(next), Some(pulse)) =
                    (peer.next.get_mut(&link), self.pulses.get(&link))
                {
                    *next = now + *pulse;
                }
                let message = Message::Heartbeat(heartbeat.clone());
                out.push(Effect::Send { to: id, route: Route::Link(link), message, after: None });
            }
            peer.told_at = now;
            if std::mem::take(&mut peer.news) {
                peer.told.clone_from(beats);
            }
        }
    }

    fn news_deadline(&self) -> Option<Instant> {
        self.peers.values().filter(|p| p.news).map(|p| p.told_at + NEWS_PAUSE).min()
    }
}

impl Machine for Node {
    type Input = Input;
    type Action = Effect;

    fn handle(&mut self, now: Instant, input: Input, out: &mut Out<Effect>) {
        match input {
            Input::Booted { incarnation, saved } => self.booted(now, incarnation, &saved, out),
            Input::Received { from, link, message } => self.received(now, from, link, message, out),
            Input::Asked { request, command } => self.asked(now, request, command, out),
            Input::Completed { op, outcome } => {
                if let Some(module) = self.modules.get_mut(&Ops::module_of(op)) {
                    module.handle(now, module::Input::Completed(op, outcome), out);
                }
            }
            Input::Volume { module: id, news } => {
                if let Some(module) = self.modules.get_mut(&id) {
                    module.handle(now, module::Input::Volume(news), out);
                }
            }
            Input::Filter { module: id, news } => {
                if let Some(module) = self.modules.get_mut(&id) {
                    module.handle(now, module::Input::Filter(news), out);
                }
            }
        }
        self.beat(now, out);
    }

    fn handle_timeout(&mut self, now: Instant, out: &mut Out<Effect>) {
        let due: Vec<_> =
            self.boots.iter().filter(|(_, at)| now >= **at).map(|(id, _)| *id).collect();
        for id in due {
            self.boots.remove(&id);
            if let Some(module) = self.modules.get_mut(&id) {
                module.handle(now, module::Input::Started, out);
            }
        }
        for module in self.modules.values_mut() {
            if module.deadline().is_some_and(|at| now >= at) {
                module.handle_timeout(now, out);
            }
        }
        self.beat(now, out);
    }

    fn deadline(&self) -> Option<Instant> {
        let modules = self.modules.values().filter_map(Machine::deadline).min();
        let beats = if self.modules.is_empty() {
            None
        } else {
            self.peers.values().flat_map(|p| p.next.values().copied()).min()
        };
        let boots = self.boots.values().copied().min();
        earliest(earliest(modules, beats), earliest(boots, self.news_deadline()))
    }
}
