//! Machines whose daemons run in the turmoil engine: this side of the [`Port`].
//!
//! Everything but the daemon is the direct engine's: power, clocks, disks, scripts, addresses,
//! the weather, the client, the plan. So that both engines mean the same by the same fault.

use std::{collections::BTreeMap, net::SocketAddr, rc::Rc};

use havre_core::{
    effect::{Answer, Command, Input, ModuleOrder, Outcome, Record},
    ids::{Incarnation, LinkId, OpId},
    status::{NodeStatus, Phase, State},
};
use havre_runtime::net::Datagram;

use crate::{
    chance::{Chance, Purpose},
    direct::{
        Direct, MODULE, boot,
        event::{Event, Work},
        machine::Daemon,
        node::record_file,
        store::Store,
        witness::WITNESS_FILE,
    },
    disk::{DiskDone, Ticket},
    fact::Fact,
    net::{Arrivals, HostId, stream::BREAK_AFTER_US},
    pending::Pending,
    plan::Plan,
    port::{Birth, Permit, Port, Saved, Wish},
    run::{Report, RunOptions},
    time::SimTime,
    turmoil,
    volume::VolumeInput,
};

/// Pause between two looks at a blocked stream.
const RETRY_US: u64 = 200_000;
/// Pause between two attempts of a connecting kernel.
const KNOCK_RETRY_US: u64 = 1_000_000;

/// A daemon that runs elsewhere.
pub(super) struct HostedDaemon {
    pub(super) port: Rc<Port>,
    store: Store<(OpId, Saved)>,
    volume_io: Pending<u64>,
    /// When the node's and the data path's alarms are to ring.
    wakes: [Option<SimTime>; 2],
    gates: BTreeMap<u64, Gate>,
}

/// What the weather does to one stream on its way in.
struct Gate {
    from: HostId,
    delay: Chance,
    segments: u64,
    last: SimTime,
    blocked_since: Option<SimTime>,
}

/// What comes in for a daemon that runs elsewhere.
#[derive(Debug, Clone)]
pub(super) enum Inbound {
    Datagram { net: u8, from: HostId, bytes: Vec<u8> },
    Knock { stream: u64, to: HostId, since: SimTime },
    Segment { stream: u64 },
    Broken { stream: u64 },
}

/// What becomes of a host of the other engine.
#[derive(Clone)]
pub(crate) enum Change {
    /// Its daemon starts with this port.
    Starts(Rc<Port>),
    /// Its daemon dies, its kernel lives.
    Dies,
    /// Its power fails.
    PowerFails,
}

/// State of the world while daemons run elsewhere.
#[derive(Default)]
pub(super) struct Hosting {
    changes: Vec<(HostId, Change)>,
    fates: BTreeMap<(u8, HostId, HostId, u64), Arrivals>,
}

/// The world around daemons that run elsewhere.
pub(crate) struct Stage<'p>(Direct<'p>);

impl<'p> Stage<'p> {
    /// Makes the world of a plan and lets its daemons start.
    pub(crate) fn new(plan: &'p Plan, seed: u64, options: RunOptions) -> Self {
        let mut direct = Direct::new(plan, seed, options);
        direct.hosting = Some(Hosting::default());
        direct.begin();
        Self(direct)
    }

    /// Whether the run is over.
    pub(crate) fn ended(&self) -> bool {
        self.0.ended
    }

    /// Lets everything happen up to this moment.
    pub(crate) fn advance(&mut self, until: SimTime) {
        let direct = &mut self.0;
        while !direct.ended && direct.queue.next_at().is_some_and(|at| at <= until) {
            direct.step();
        }
        direct.now = direct.now.max(until);
        for machine in &direct.machines {
            if let Daemon::Hosted(daemon) = &machine.daemon {
                daemon.port.set_clock(machine.clock.local(direct.now));
            }
        }
    }

    /// What became of hosts since the last call.
    pub(crate) fn changes(&mut self) -> Vec<(HostId, Change)> {
        self.0.hosting.as_mut().map_or_else(Vec::new, |h| std::mem::take(&mut h.changes))
    }

    /// The port of the daemon that runs on a host.
    fn port(&self, host: HostId) -> Option<Rc<Port>> {
        match &self.0.machines[host.index()].daemon {
            Daemon::Hosted(daemon) => Some(Rc::clone(&daemon.port)),
            _ => None,
        }
    }

    /// Reads the desks: what the daemons wished for in the tick that is over.
    pub(crate) fn read_desks(&mut self) {
        for host in self.0.plan.setup.daemons() {
            let Some(port) = self.port(host) else { continue };
            for wish in port.take_wishes() {
                if self.0.machines[host.index()].run == port.run {
                    self.0.fulfil(host, wish);
                }
            }
            self.0.set_alarms(host);
        }
    }

    /// The code under test panicked.
    pub(crate) fn panicked(&mut self, text: String) {
        self.0.violated(crate::expect::Property::NoPanic, text);
        self.0.ended = true;
    }

    /// The result.
    pub(crate) fn finish(self) -> Report {
        self.0.finish()
    }
}

impl Direct<'_> {
    fn hosted(&mut self, host: HostId) -> Option<&mut HostedDaemon> {
        match &mut self.machines[host.index()].daemon {
            Daemon::Hosted(daemon) => Some(daemon),
            _ => None,
        }
    }

    /// Starts a daemon elsewhere.
    pub(super) fn hosted_starts(&mut self, host: HostId, secret: u64) {
        let node = (host != HostId::W).then(|| boot::daemon_config(&self.plan.setup, host));
        let machine = &mut self.machines[host.index()];
        let witness = machine
            .disk
            .peek_file(WITNESS_FILE)
            .and_then(|bytes| serde_json::from_slice(bytes).ok());
        let birth = Birth {
            node,
            secret,
            incarnation: Incarnation(secret | 1),
            saved: boot::saved_state(machine),
            witness,
        };
        let now = machine.clock.local(self.now);
        let port = Port::new(host, machine.run, now, birth, machine.os.distrusts_cache);
        machine.daemon = Daemon::Hosted(Box::new(HostedDaemon {
            port: Rc::clone(&port),
            store: Store::default(),
            volume_io: Pending::default(),
            wakes: [None; 2],
            gates: BTreeMap::new(),
        }));
        self.hosted_changes(host, Change::Starts(port));
    }

    /// Tells the other engine.
    pub(super) fn hosted_changes(&mut self, host: HostId, change: Change) {
        let Some(hosting) = &mut self.hosting else { return };
        let told = !matches!(change, Change::PowerFails);
        hosting.changes.push((host, change));
        if told {
            return;
        }
        // Nobody tells the other ends: their keep-alive finds out.
        for other in self.plan.setup.nodes().into_iter().filter(|other| *other != host) {
            let streams: Vec<u64> = self.hosted(other).map_or_else(Vec::new, |daemon| {
                let of = daemon.gates.iter().filter(|(_, gate)| gate.from == host);
                of.map(|(stream, _)| *stream).collect()
            });
            for stream in streams {
                let work = Work::Hosted(Inbound::Broken { stream });
                self.later(other, BREAK_AFTER_US, work);
            }
        }
    }

    /// The picture of a node that runs elsewhere.
    pub(super) fn hosted_status(&self, host: HostId) -> Option<NodeStatus> {
        let machine = &self.machines[host.index()];
        let Daemon::Hosted(daemon) = &machine.daemon else { return None };
        let now = machine.clock.local(self.now);
        daemon.port.with_node(|node| node.status(now))
    }

    /// What the module on a node that runs elsewhere shows.
    pub(super) fn hosted_shows(&self, host: HostId) -> Option<(State, Phase)> {
        let Daemon::Hosted(daemon) = &self.machines[host.index()].daemon else { return None };
        daemon.port.with_node(|node| node.shown(MODULE))?
    }

    /// A fact for a node that runs elsewhere; whether there is one.
    pub(super) fn hosted_input(&mut self, host: HostId, input: &Input) -> bool {
        let Some(daemon) = self.hosted(host) else { return false };
        match input {
            Input::Completed { op, outcome } => daemon.port.completed(*op, outcome.clone()),
            Input::Filter { news, .. } => daemon.port.filter_news(news.clone()),
            _ => {}
        }
        true
    }

    /// A fact for a data path that runs elsewhere; `None` if there is one.
    pub(super) fn hosted_volume(
        &mut self,
        host: HostId,
        input: VolumeInput,
    ) -> Option<VolumeInput> {
        match self.hosted(host) {
            Some(daemon) => {
                daemon.port.volume_input(input);
                None
            }
            None => Some(input),
        }
    }

    /// An alarm rings; whether there is one.
    pub(super) fn hosted_wakes(&mut self, host: HostId, which: usize) -> bool {
        let Some(daemon) = self.hosted(host) else { return false };
        daemon.wakes[which] = None;
        let port = &daemon.port;
        [&port.node_alarm, &port.volume_alarm][which].ring();
        true
    }

    fn set_alarms(&mut self, host: HostId) {
        let now = self.now;
        let machine = &self.machines[host.index()];
        let (run, clock) = (machine.run, machine.clock);
        let Some(daemon) = self.hosted(host) else { return };
        let port = Rc::clone(&daemon.port);
        let deadlines = [port.node_alarm.deadline(), port.volume_alarm.deadline()];
        for (which, deadline) in deadlines.into_iter().enumerate() {
            let Some(at) = deadline.map(|deadline| clock.when(deadline)) else { continue };
            let at = at.max(now.plus_micros(1));
            let Some(daemon) = self.hosted(host) else { return };
            if daemon.wakes[which].is_none_or(|wake| at < wake) {
                daemon.wakes[which] = Some(at);
                let work = if which == 0 { Work::Wake } else { Work::WakeVolume };
                self.at(at, Event::Host { host, run, work, delayed: false });
            }
        }
    }

    /// An administrator gives an order to a node that runs elsewhere; whether there is one.
    pub(super) fn hosted_order(&mut self, host: HostId, order: ModuleOrder) -> bool {
        if self.hosted(host).is_none() {
            return false;
        }
        self.control.refused[host.index()] = false;
        self.fact(Fact::Ordered(host, order));
        if let Some(daemon) = self.hosted(host) {
            daemon.port.command(Command::Module { module: MODULE, order });
        }
        true
    }

    /// A disk operation of a daemon elsewhere is ready.
    pub(super) fn hosted_disk_ready(&mut self, host: HostId, ticket: Ticket, done: DiskDone) {
        let now = self.now;
        let machine = &mut self.machines[host.index()];
        let disk = &mut machine.disk;
        let Daemon::Hosted(daemon) = &mut machine.daemon else { return };
        if !daemon.store.owns(ticket) {
            if let Some(id) = daemon.volume_io.remove(ticket.0) {
                daemon.port.volume_input(VolumeInput::Disk { id, done });
            }
            return;
        }
        let (next, ended) = daemon.store.done(now, &done, disk);
        self.await_disk(host, next);
        let Some(((op, record), result)) = ended else { return };
        let outcome = match result {
            Ok(()) => {
                self.fact(match record {
                    Saved::Node(Record::Module { record, .. }) => Fact::Recorded(host, record),
                    Saved::Node(Record::Checks { .. }) => Fact::ChecksRecorded(host),
                    Saved::Witness(record) => Fact::WitnessRecorded(record),
                });
                Outcome::Done
            }
            Err(error) => Outcome::Failed(error),
        };
        self.completed(host, op, outcome);
    }

    fn fulfil(&mut self, host: HostId, wish: Wish) {
        match wish {
            Wish::Persist { op, record } => self.hosted_persists(host, op, record),
            Wish::Script { op, call } => self.run_script(host, op, call),
            Wish::KillScripts { op } => self.kill_scripts(host, op),
            Wish::Address { op, request } => self.address(host, op, request),
            Wish::Filter { op, request } => self.filter(host, op, request),
            Wish::Ping { op, limit_us } => self.ping(host, op, limit_us),
            Wish::Probe { op, checker, limit_us } => self.probe(host, op, checker, limit_us),
            Wish::Watch(checker) => self.watch(host, checker),
            Wish::Unwatch(checker) => self.unwatch(host, checker),
            Wish::Reboot => self.reboot(host),
            Wish::Guard(until) => self.guard(host, until),
            Wish::News(event) => self.fact(Fact::News(host, event)),
            Wish::Ordered(request) => self.fact(Fact::VolumeOrdered(host, request)),
            Wish::Serves => self.app_goes_on(host),
            Wish::Told(news) => self.fact(Fact::VolumeTold(host, news)),
            Wish::Called { id, answer } => self.answered(host, id, answer),
            Wish::Answered(Answer::Refused(why)) => {
                self.control.refused[host.index()] = true;
                self.fact(Fact::Refused(host, why));
            }
            Wish::Answered(_) => {}
            Wish::Disk { id, op } => {
                let submitted = self.machines[host.index()].disk.submit(self.now, op);
                if let Some(daemon) = self.hosted(host) {
                    daemon.volume_io.insert(submitted.ticket.0, id);
                }
                self.await_disk(host, Some(submitted));
            }
            wish => self.carry(host, wish),
        }
    }

    fn hosted_persists(&mut self, host: HostId, op: OpId, record: Saved) {
        let (name, bytes) = match &record {
            Saved::Node(record) => record_file(record),
            Saved::Witness(record) => {
                let bytes = serde_json::to_vec(record).expect("a record is plain data");
                (WITNESS_FILE.into(), bytes)
            }
        };
        let now = self.now;
        let machine = &mut self.machines[host.index()];
        let Daemon::Hosted(daemon) = &mut machine.daemon else { return };
        daemon.store.push((op, record), name, bytes);
        let submitted = daemon.store.begin(now, &mut machine.disk);
        self.await_disk(host, submitted);
    }

    /// Wishes about the network.
    fn carry(&mut self, host: HostId, wish: Wish) {
        let now = self.now;
        match wish {
            Wish::Sent { net, to, number } => {
                let fate = self.net.send(now, net, host, to);
                if let Some(hosting) = &mut self.hosting {
                    hosting.fates.insert((net, host, to, number), fate);
                }
            }
            Wish::Came { net, from, number, bytes } => {
                let fate = self
                    .hosting
                    .as_mut()
                    .and_then(|hosting| hosting.fates.remove(&(net, from, host, number)));
                let run = self.machines[host.index()].run;
                for at in fate.into_iter().flatten().flatten() {
                    let inbound = Inbound::Datagram { net, from, bytes: bytes.clone() };
                    let work = Work::Hosted(inbound);
                    self.at(at, Event::Host { host, run, work, delayed: false });
                }
            }
            Wish::Knock { stream, to } => {
                let delay = self.machines[host.index()].draw(200, 2_000);
                let work = Work::Hosted(Inbound::Knock { stream, to, since: now });
                self.later(host, delay, work);
            }
            Wish::Segment { stream, from } => self.segment_came(host, stream, from),
            Wish::Left { stream } => {
                if let Some(daemon) = self.hosted(host) {
                    daemon.gates.remove(&stream);
                }
            }
            _ => {}
        }
    }

    fn segment_came(&mut self, host: HostId, stream: u64, from: HostId) {
        let now = self.now;
        let weather = self.net.weather(0, from, host);
        let seed = self.seed;
        let run = self.machines[host.index()].run;
        let which = (u64::from(run) << 32 | stream) * 8 + u64::from(host.0);
        let Some(daemon) = self.hosted(host) else { return };
        let gate = daemon.gates.entry(stream).or_insert_with(|| Gate {
            from,
            delay: Chance::new(seed, Purpose::StreamDelay, which),
            segments: 0,
            last: SimTime::ZERO,
            blocked_since: None,
        });
        let number = gate.segments;
        gate.segments += 1;
        let (low, high) = weather.delay_us;
        let mut delay = gate.delay.between(number, low, high).max(1);
        let mut again = 0;
        while again < 5 && gate.delay.child(number).hits(again, weather.loss_ppm) {
            delay += RETRY_US;
            again += 1;
        }
        gate.last = gate.last.max(now.plus_micros(delay));
        let at = gate.last;
        let work = Work::Hosted(Inbound::Segment { stream });
        self.at(at, Event::Host { host, run, work, delayed: false });
    }

    /// Something comes in for a daemon elsewhere.
    pub(super) fn inbound(&mut self, host: HostId, inbound: Inbound) {
        match inbound {
            Inbound::Datagram { net, from, bytes } => {
                if self.net.arrives(net, from, host)
                    && let Some(daemon) = self.hosted(host)
                {
                    let from = SocketAddr::from((turmoil::ip_of(from), turmoil::port_of(net)));
                    let link = LinkId(u16::from(net));
                    daemon.port.datagram(Datagram { link, from, bytes });
                }
            }
            Inbound::Knock { stream, to, since } => self.knocks(host, stream, to, since),
            Inbound::Segment { stream } => self.segment_due(host, stream),
            Inbound::Broken { stream } => {
                if let Some(daemon) = self.hosted(host) {
                    daemon.port.permit(stream, Permit::Broken);
                }
            }
        }
    }

    fn knocks(&mut self, host: HostId, stream: u64, to: HostId, since: SimTime) {
        let open = self.net.arrives(0, host, to) && self.net.arrives(0, to, host);
        let given_up = self.now.since(since).as_micros() as u64 >= BREAK_AFTER_US;
        if open && self.machines[to.index()].powered || given_up {
            let permit = if given_up { Permit::Broken } else { Permit::Pass };
            if let Some(daemon) = self.hosted(host) {
                daemon.port.permit(stream, permit);
            }
            return;
        }
        let work = Work::Hosted(Inbound::Knock { stream, to, since });
        self.later(host, KNOCK_RETRY_US, work);
    }

    /// A segment has been on its way for as long as the weather wants.
    fn segment_due(&mut self, host: HostId, stream: u64) {
        let now = self.now;
        let Some(gate) = self.hosted(host).and_then(|d| d.gates.get(&stream)) else { return };
        let from = gate.from;
        // Without acknowledgements the sender cannot go on either.
        let open = self.net.arrives(0, from, host) && self.net.is_open(0, host, from);
        let Some(daemon) = self.hosted(host) else { return };
        let Some(gate) = daemon.gates.get_mut(&stream) else { return };
        if open {
            gate.blocked_since = None;
            return daemon.port.permit(stream, Permit::Pass);
        }
        let since = *gate.blocked_since.get_or_insert(now);
        if now.since(since).as_micros() as u64 >= BREAK_AFTER_US {
            daemon.port.permit(stream, Permit::Broken);
            // The sender's kernel has tried for as long.
            if let Some(peer) = self.hosted(from) {
                for (stream, _) in peer.gates.iter().filter(|(_, gate)| gate.from == host) {
                    peer.port.permit(*stream, Permit::Broken);
                }
            }
            return;
        }
        self.later(host, RETRY_US, Work::Hosted(Inbound::Segment { stream }));
    }
}
