//! Composition root of a node: heartbeats to each peer, and its modules. Routes only.

mod configure;
mod talk;

use std::{collections::BTreeMap, time::Duration};

use crate::{
    checks::Order,
    config::{
        cluster::ClusterConfig,
        module::{BootPolicy, ServiceMode},
    },
    effect::{Answer, Command, Effect, Input, ModuleRecord, Route, SavedState},
    farm::explain::explain,
    ids::{Incarnation, LinkId, ModuleId, NodeId, RequestId},
    machine::{Machine, Out, earliest},
    membership::link::Heard,
    module::{self, Module, ModuleSetup, record::Ops, watch},
    rng::Rng,
    status::{NodeStatus, Phase, State},
    time::Instant,
    wire::message::{FarmBeat, FarmHeartbeat, Heartbeat, Message, ModuleBeat},
};

use self::talk::{Due, Talk};

/// Version of the protocol spoken between nodes.
pub const PROTOCOL: u16 = 1;

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

/// One node: everything it decides.
#[derive(Debug, Clone)]
pub struct Node {
    config: NodeConfig,
    rng: Rng,
    pulses: BTreeMap<LinkId, Duration>,
    /// Longer pulses that begin at a moment, after a change of the configuration.
    slower: Option<(Instant, BTreeMap<LinkId, Duration>)>,
    peers: BTreeMap<NodeId, Talk<ModuleBeat>>,
    farm_pulses: BTreeMap<LinkId, Duration>,
    farm_peers: BTreeMap<NodeId, Talk<FarmBeat>>,
    modules: BTreeMap<ModuleId, Module>,
    boots: BTreeMap<ModuleId, Instant>,
    incarnation: Incarnation,
    /// What peers should know, as of the last fact.
    beats: Vec<ModuleBeat>,
    farms: Vec<FarmBeat>,
}

impl Node {
    /// Makes a node that waits for [`Input::Booted`].
    pub fn new(config: NodeConfig, rng: Rng) -> Self {
        let pulses = pulses_of(&config, false);
        let farm_pulses = pulses_of(&config, true);
        Self {
            config,
            rng,
            pulses,
            slower: None,
            peers: BTreeMap::new(),
            farm_pulses,
            farm_peers: BTreeMap::new(),
            modules: BTreeMap::new(),
            boots: BTreeMap::new(),
            incarnation: Incarnation(0),
            beats: Vec::new(),
            farms: Vec::new(),
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
        for index in 0..self.config.cluster.nodes.len() {
            let id = NodeId(u16::try_from(index).expect("the parser bounds the number of nodes"));
            if id != self.config.node {
                self.peers.insert(id, Talk::new(incarnation, &self.pulses, now));
            }
        }
        for (&id, setup) in &self.config.modules {
            let record = saved.modules.get(&id).cloned().unwrap_or_else(ModuleRecord::blank);
            let checks = saved.checks.get(&id).cloned().unwrap_or_default();
            let service = &setup.config.service;
            let starts = match service.boot {
                BootPolicy::On => true,
                BootPolicy::Auto => record.started,
                BootPolicy::Off => false,
                BootPolicy::Ignore => checks.switches.boot.unwrap_or(false),
            };
            let rng = self.rng.split(u64::from(id.0));
            let mut module = Module::new(
                (id, setup),
                (&self.config.cluster, self.config.node),
                (incarnation, record, checks),
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
        for id in self.peers.keys().copied() {
            if self.modules.values().any(|module| module.has_member(id)) {
                self.farm_peers.insert(id, Talk::new(incarnation, &self.farm_pulses, now));
            }
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
            Message::Farms(heartbeat) => return self.heard_farms(now, from, link, heartbeat, out),
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

    fn heard_farms(
        &mut self,
        now: Instant,
        from: NodeId,
        link: LinkId,
        heartbeat: FarmHeartbeat,
        out: &mut Out<Effect>,
    ) {
        let Some(peer) = self.farm_peers.get_mut(&from) else { return };
        let FarmHeartbeat { incarnation, number, heard, farms } = heartbeat;
        let heard = peer.conversation.receive(link, incarnation, number, heard);
        if heard == Heard::Stale {
            return;
        }
        for beat in farms {
            if let Some(module) = self.modules.get_mut(&beat.module) {
                let beat = Some(beat);
                module.handle(now, module::Input::HeardFarm { from, link, heard, beat }, out);
            }
        }
    }

    fn asked(&mut self, now: Instant, request: RequestId, command: Command, out: &mut Out<Effect>) {
        match command {
            Command::Status => {
                let answer = Answer::Status(self.status(now));
                out.push(Effect::Answer { request, answer });
            }
            Command::Configure { module, name, signature, config } => {
                let setup = ModuleSetup { name, signature, config: *config };
                let answer = self.configure(now, module, setup, out);
                out.push(Effect::Answer { request, answer });
            }
            Command::Explain { module: id, question } => {
                let table = self.modules.get(&id).and_then(Module::filter_table);
                let answer = match table {
                    Some(table) => {
                        let explanation = explain(table, question);
                        let words = explanation.words(table);
                        Answer::Explained { explanation, words }
                    }
                    None => Answer::Refused(format!(
                        "{id} shares no address here now: it is no farm with virtual addresses, \
                         or it is stopped"
                    )),
                };
                out.push(Effect::Answer { request, answer });
            }
            Command::Module { module: id, order } => match self.modules.get_mut(&id) {
                Some(module) => {
                    self.boots.remove(&id);
                    module.handle(now, module::Input::Ordered(request, order), out);
                }
                None => out.push(Effect::Answer { request, answer: unknown_module(id) }),
            },
            Command::ModuleBy { module, order, detector } => {
                self.watch(
                    now,
                    (request, module),
                    watch::Input::Detected(request, order, detector),
                    out,
                );
            }
            Command::SetResource { module, resource, state, by, history } => {
                let order = Order::Set { resource, state, by, history };
                self.watch(now, (request, module), watch::Input::Asked(request, order), out);
            }
            Command::Switch { module, switch, on } => {
                let order = Order::Switch(switch, on);
                self.watch(now, (request, module), watch::Input::Asked(request, order), out);
            }
            Command::Class { module, class, on } => {
                let order = Order::Class(class, on);
                self.watch(now, (request, module), watch::Input::Asked(request, order), out);
            }
            Command::Loop { module, verb } => {
                let order = Order::Loop(verb);
                self.watch(now, (request, module), watch::Input::Asked(request, order), out);
            }
        }
    }

    /// Something for the checks of a module.
    fn watch(
        &mut self,
        now: Instant,
        (request, id): (RequestId, ModuleId),
        input: watch::Input,
        out: &mut Out<Effect>,
    ) {
        match self.modules.get_mut(&id) {
            Some(module) => module.handle(now, module::Input::Watch(input), out),
            None => out.push(Effect::Answer { request, answer: unknown_module(id) }),
        }
    }

    /// Tells modules how the ones on this node are at which their checkers look.
    fn tell_neighbours(&mut self, now: Instant, out: &mut Out<Effect>) {
        let mut told = Vec::new();
        for (id, module) in &self.modules {
            for name in module.neighbours() {
                let of_name = |(_, setup): &(&ModuleId, &ModuleSetup)| setup.name == name;
                let other = self.config.modules.iter().find(of_name);
                let Some((other, _)) = other else { continue };
                if let Some((ready, starts)) = self.modules.get(other).map(Module::readiness) {
                    told.push((*id, name.to_owned(), ready, starts));
                }
            }
        }
        for (id, name, ready, starts) in told {
            if let Some(module) = self.modules.get_mut(&id) {
                let input = watch::Input::Neighbour(name, ready, starts);
                module.handle(now, module::Input::Watch(input), out);
            }
        }
    }

    /// Sends the heartbeats that are due, and at once those that carry news.
    fn beat(&mut self, now: Instant, out: &mut Out<Effect>) {
        self.slow_down(now);
        let incarnation = self.incarnation;
        self.beats.clear();
        self.beats.extend(self.modules.values().filter_map(Module::beat));
        let peers = self.peers.iter_mut().filter(|_| !self.beats.is_empty());
        for (&id, peer) in peers {
            if let Some(due) = peer.due(now, self.beats.iter(), &self.pulses) {
                let Due { number, heard, links, beats: modules } = due;
                let heartbeat = Heartbeat { incarnation, number, heard, modules };
                send(id, links, &Message::Heartbeat(heartbeat), out);
            }
        }
        self.farms.clear();
        self.farms.extend(self.modules.values().filter_map(Module::farm_beat));
        let mut sent: Option<Instant> = None;
        for (&id, peer) in &mut self.farm_peers {
            let shared = |beat: &&FarmBeat| {
                self.modules.get(&beat.module).is_some_and(|module| module.has_member(id))
            };
            if let Some(due) = peer.due(now, self.farms.iter().filter(shared), &self.farm_pulses) {
                let Due { number, heard, links, beats: farms } = due;
                let heartbeat = FarmHeartbeat { incarnation, number, heard, farms };
                send(id, links, &Message::Farms(heartbeat), out);
            }
            sent = Some(sent.map_or(peer.told_at(), |sent| sent.min(peer.told_at())));
        }
        if let Some(sent) = sent {
            self.modules.values_mut().for_each(|module| module.announced(sent, out));
        }
    }

    /// When the next heartbeat is due.
    fn beat_deadline(&self) -> Option<Instant> {
        let peers = self.peers.values().filter(|_| !self.beats.is_empty());
        let mirrors = peers.filter_map(Talk::deadline).min();
        earliest(mirrors, self.farm_peers.values().filter_map(Talk::deadline).min())
    }
}

/// The shortest pulse of each network among the mirrors, or among the farms.
fn pulses_of(config: &NodeConfig, farms: bool) -> BTreeMap<LinkId, Duration> {
    let mut pulses: BTreeMap<LinkId, Duration> = BTreeMap::new();
    let setups = config.modules.values();
    let kind = setups.filter(|setup| (setup.config.service.mode != ServiceMode::Mirror) == farms);
    for (name, timing) in kind.flat_map(|setup| setup.config.networks()) {
        if let Some(link) = config.cluster.lan_named(name) {
            let pulse = timing.pulse;
            pulses.entry(link).and_modify(|p| *p = pulse.min(*p)).or_insert(pulse);
        }
    }
    pulses
}

fn send(to: NodeId, links: Vec<LinkId>, message: &Message, out: &mut Out<Effect>) {
    for link in links {
        let message = message.clone();
        out.push(Effect::Send { to, route: Route::Link(link), message, after: None });
    }
}

fn unknown_module(id: ModuleId) -> Answer {
    Answer::Refused(format!("no module has number {}: see `havre module list`", id.0))
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
            Input::Checked { module: id, checker, finding } => {
                if let Some(module) = self.modules.get_mut(&id) {
                    let input = watch::Input::Checked(checker, finding);
                    module.handle(now, module::Input::Watch(input), out);
                }
            }
            Input::Filter { module: id, news } => {
                if let Some(module) = self.modules.get_mut(&id) {
                    module.handle(now, module::Input::Filter(news), out);
                }
            }
        }
        self.tell_neighbours(now, out);
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
        self.tell_neighbours(now, out);
        self.beat(now, out);
    }

    fn deadline(&self) -> Option<Instant> {
        let modules = self.modules.values().filter_map(Machine::deadline).min();
        let boots = self.boots.values().copied().min();
        earliest(modules, earliest(boots, self.beat_deadline()))
    }
}
