//! The direct engine: whole clusters as discrete events at a resolution of 1 us.
//!
//! Drives the core's machines without sockets, threads or clocks, so that ten minutes of a
//! cluster's life take a few hundredths of a second. Everything is a function of (plan, seed).
//! What it leaves out (framing, sessions, tasks) is the other engine's job.

use std::time::Duration;

use havre_core::{
    checks::checker::CheckerSettings, effect::ModuleRecord, farm::BucketSet, ids::ModuleId,
    rng::mix, status::ModuleStatus,
};

use crate::{
    disk::Block,
    expect::Property,
    fact::Fact,
    net::{HostId, Network, stream::Streams},
    oracle::{Oracle, World},
    plan::Plan,
    run::{Report, RunOptions},
    time::SimTime,
    volume::Frame,
};

mod boot;
mod checks;
pub(crate) use checks::checkers;
mod client;
mod clock;
mod conditions;
mod control;
mod datapath;
mod event;
mod farm;
pub(crate) mod hosted;
mod machine;
mod node;
mod os;
mod queue;
mod store;
mod witness;

use client::Client;
use control::Control;
use event::{Event, Work};
use farm::Farm;
use machine::{Daemon, Machine};
use queue::Queue;

/// The one module of a simulated cluster.
pub const MODULE: ModuleId = ModuleId(1);
/// Events of one run at most: beyond it something spins.
const EVENTS_MAX: u64 = 50_000_000;
/// Inputs that wait for a paused machine at most; its kernel drops more.
const INBOX_MAX: usize = 4_096;

/// One run.
struct Direct<'p> {
    plan: &'p Plan,
    seed: u64,
    options: RunOptions,
    now: SimTime,
    queue: Queue,
    events: u64,
    hash: u64,
    machines: Vec<Machine>,
    net: Network,
    streams: Streams<Frame>,
    /// Away only while it observes.
    oracle: Option<Box<Oracle>>,
    client: Client,
    farm: Farm,
    control: Control,
    timeline: Vec<(SimTime, Fact)>,
    ended: bool,
    /// The checkers of the module.
    checkers: Vec<CheckerSettings>,
    /// Present if the daemons run in the other engine.
    hosting: Option<hosted::Hosting>,
}

/// Performs `plan` with the weather of `seed`.
pub fn run(plan: &Plan, seed: u64, options: RunOptions) -> Report {
    let mut direct = Direct::new(plan, seed, options);
    direct.begin();
    while !direct.ended && direct.step() {}
    direct.finish()
}

impl<'p> Direct<'p> {
    fn new(plan: &'p Plan, seed: u64, options: RunOptions) -> Self {
        let setup = &plan.setup;
        let everybody = setup.everybody();
        // Behind the nodes of a mirror and the witness, the router and the client do nothing.
        let machines = if setup.farm.is_some() { &everybody[..] } else { &everybody[..3] };
        let machines = machines
            .iter()
            .map(|id| Machine::new(seed, *id, setup.disk, setup.drift_of(*id)))
            .collect();
        Self {
            plan,
            seed,
            options,
            now: SimTime::ZERO,
            queue: Queue::new(),
            events: 0,
            hash: seed,
            machines,
            net: Network::new(seed, setup.weather, everybody.len()),
            streams: Streams::new(seed),
            oracle: Some(Box::new(Oracle::new(setup, &plan.expect.judged()))),
            client: Client::new(seed),
            farm: Farm::new(seed),
            control: Control::new(plan),
            timeline: Vec::new(),
            ended: false,
            checkers: checks::checkers(setup),
            hosting: None,
        }
    }

    fn begin(&mut self) {
        for host in self.plan.setup.daemons() {
            self.daemon_starts(host);
        }
        self.begin_steps();
        if self.plan.setup.farm.is_none() {
            self.at(SimTime::from_millis(100), Event::Client);
        }
        self.begin_farm();
        self.at(self.plan.ends, Event::End);
    }

    /// Takes the next event; whether there was one.
    fn step(&mut self) -> bool {
        let Some((at, seq, event)) = self.queue.pop() else { return false };
        assert!(at >= self.now, "time goes forward");
        self.now = at;
        self.events += 1;
        assert!(self.events < EVENTS_MAX, "a run ends");
        self.hash = mix(self.hash ^ at.as_micros() ^ seq.rotate_left(32));
        self.happens(event);
        true
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Host { host, run, work, delayed } => self.host_event(host, run, work, delayed),
            Event::Datagram { net, from, to, message } => {
                if self.net.arrives(net, from, to) {
                    let from = machine::node_of(from);
                    self.works(to, Work::Datagram { net, from, message });
                }
            }
            Event::Opening { from, run, attempt, to, since } => {
                self.stream_opens(from, run, attempt, to, since);
            }
            Event::Stream { id, side } => self.stream_step(id, side),
            Event::StreamGone { id, host } => self.stream_gone(id, host),
            Event::Client => self.client_turn(),
            Event::Step(index) => self.perform_step(index),
            Event::Undo(index, host) => self.undo_step(index, host),
            Event::Check(index) => self.check_step(index),
            Event::PowerFails { host, run, step } => self.power_fails_in_write(host, run, step),
            Event::PowerReturns(host) => {
                self.power_returns(host);
            }
            Event::DaemonStarts(host) => self.daemon_starts(host),
            Event::Resume { host, pause } => self.resume(host, Some(pause)),
            Event::AddressExpires { host, boot } => {
                if self.machines[host.index()].os.address_sets == boot {
                    self.address_removed(host);
                }
            }
            Event::Guard { host, until } => self.guard_acts(host, until),
            Event::StartIfStopped(host) => self.start_if_stopped(host),
            Event::FarmClients => self.farm_clients(),
            Event::FarmPackets => self.farm_packets(),
            Event::FarmLooks(host) => self.farm_looks(host),
            Event::End => self.ended = true,
        }
    }

    /// Schedules an event.
    fn at(&mut self, at: SimTime, event: Event) {
        self.queue.push(at.max(self.now), event);
    }

    /// Schedules work for the present run of a machine.
    fn later(&mut self, host: HostId, micros: u64, work: Work) {
        let run = self.machines[host.index()].run;
        let event = Event::Host { host, run, work, delayed: false };
        self.at(self.now.plus_micros(micros), event);
    }

    fn works(&mut self, host: HostId, work: Work) {
        let run = self.machines[host.index()].run;
        self.host_event(host, run, work, false);
    }

    fn host_event(&mut self, host: HostId, run: u32, work: Work, delayed: bool) {
        let now = self.now;
        let machine = &mut self.machines[host.index()];
        if machine.run != run || !machine.powered {
            return;
        }
        if machine.paused {
            if machine.inbox.len() < INBOX_MAX {
                machine.inbox.push_back(work);
            }
            return;
        }
        if machine.lag_us > 0 && !delayed {
            // One input after the other, each taking longer.
            let at = machine.busy_until.max(now).plus_micros(machine.lag_us);
            machine.busy_until = at;
            self.control.slowed += 1;
            self.at(at, Event::Host { host, run, work, delayed: true });
            return;
        }
        self.deal_with(host, work);
    }

    fn deal_with(&mut self, host: HostId, work: Work) {
        match work {
            Work::Datagram { net, from, message } => self.receive(host, net, from, *message),
            Work::Wake => self.wake(host),
            Work::WakeVolume => self.wake_volume(host),
            Work::Disk(ticket) => self.disk_ready(host, ticket),
            Work::ScriptEnds { op } => self.script_ends(host, op),
            Work::ScriptLimit { op } => self.script_limit(host, op),
            Work::Killed { op } => self.killed(host, op),
            Work::Address { op, request, tries } => self.address_now(host, op, request, tries),
            Work::Filter { op, request } => self.filter_now(host, op, request),
            Work::Pinged { op, reached } => self.pinged(host, op, reached),
            Work::Chunk { stream, frame } => self.chunk(host, stream, *frame),
            Work::Incoming { stream } => self.incoming(host, stream),
            Work::Connected { stream, attempt } => self.connected(host, stream, attempt),
            Work::NotConnected { attempt } => self.not_connected(host, attempt),
            Work::Answered { id, answer } => self.answered(host, id, answer),
            Work::VolumeCompleted { op, outcome } => self.volume_completed(host, op, outcome),
            Work::VolumeNews(news) => self.volume_news(host, news),
            Work::Closed { stream } => self.closed(host, stream),
            Work::Probed { op } => self.probed(host, op),
            Work::Watched { checker } => self.watched(host, checker),
            Work::OrderBy(order) => self.order_by(host, order),
            Work::Order(order) => self.order(host, order),
            Work::Hosted(inbound) => self.inbound(host, inbound),
        }
    }

    fn take_oracle(&mut self) -> Box<Oracle> {
        self.oracle.take().expect("the oracle observes one fact at a time")
    }

    fn oracle(&self) -> &Oracle {
        self.oracle.as_deref().expect("nobody asks the oracle while it observes")
    }

    /// Something really happened: the oracle judges it, triggers may fire, the timeline keeps it.
    fn fact(&mut self, fact: Fact) {
        let mut oracle = self.take_oracle();
        oracle.observe(self.now, &fact, self);
        let violated = !oracle.violations().is_empty();
        self.oracle = Some(oracle);
        self.triggered(&fact);
        if self.options.record {
            self.timeline.push((self.now, fact));
        }
        if self.options.stop_at_violation && violated {
            self.ended = true;
        }
    }

    /// An expectation of the plan did not come true.
    fn violated(&mut self, property: Property, text: String) {
        let now = self.now;
        if let Some(oracle) = &mut self.oracle {
            oracle.report(now, property, text);
        }
        if self.options.stop_at_violation {
            self.ended = true;
        }
    }

    fn finish(mut self) -> Report {
        let settled = self.control.settled;
        let mut oracle = self.take_oracle();
        oracle.finish(self.now, settled, &self);
        Report {
            seed: self.seed,
            violations: oracle.violations().to_vec(),
            seen: oracle.seen().to_vec(),
            idle_steps: self.idle_steps(),
            acked: oracle.ledger().acked_count(),
            events: self.events,
            hash: self.hash,
            ended: self.now,
            timeline: std::mem::take(&mut self.timeline),
        }
    }
}

impl World for Direct<'_> {
    fn content(&self, host: HostId, block: u64) -> Block {
        self.machines[host.index()].disk.peek(block)
    }

    fn is_live(&self, host: HostId) -> bool {
        self.machines[host.index()].is_live()
    }

    fn is_prompt(&self, host: HostId) -> bool {
        let machine = &self.machines[host.index()];
        machine.is_live() && machine.lag_us == 0 && machine.busy_until <= self.now
    }

    fn module(&self, host: HostId) -> Option<ModuleStatus> {
        let machine = &self.machines[host.index()];
        if self.hosting.is_some() {
            return self.hosted_status(host)?.modules.into_iter().next();
        }
        let now = machine.clock.local(self.now);
        machine.node()?.node.status(now).modules.into_iter().next()
    }

    fn taken(&self, host: HostId) -> BucketSet {
        self.taken_by(host)
    }

    fn joined_for(&self, one: HostId, other: HostId) -> Duration {
        self.joined_since(one, other)
    }

    fn record(&self, host: HostId) -> Option<ModuleRecord> {
        let bytes = self.machines[host.index()].disk.peek_file(&node::record_name(MODULE))?;
        serde_json::from_slice(bytes).ok()
    }
}

/// Which daemon a machine runs.
const fn is_witness(host: HostId) -> bool {
    host.0 == HostId::W.0
}

impl Direct<'_> {
    fn daemon_runs(&self, host: HostId) -> bool {
        let machine = &self.machines[host.index()];
        machine.powered && !matches!(machine.daemon, Daemon::Off)
    }
}
