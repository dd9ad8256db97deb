//! Drives the node's machine and carries out its orders.

use havre_core::{
    effect::{Answer, Command, Effect, Input, ModuleOrder, Outcome, Record, Route},
    ids::{LinkId, ModuleId, NodeId, OpId, RequestId},
    machine::Machine as _,
    wire::message::Message,
};

use crate::{
    direct::{
        Direct, MODULE,
        event::{Event, Work},
        is_witness,
        machine::host_of,
    },
    disk::{DiskDone, Submitted, Ticket},
    fact::Fact,
    net::HostId,
    time::micros,
};

/// The file of a module's record.
pub(super) fn record_name(module: ModuleId) -> String {
    format!("{module}")
}

/// The file of the record of a module's checks.
pub(super) fn checks_name(module: ModuleId) -> String {
    format!("checks-{module}")
}

/// Where a record is kept, and its bytes.
pub(super) fn record_file(record: &Record) -> (String, Vec<u8>) {
    let (name, bytes) = match record {
        Record::Module { module, record } => (record_name(*module), serde_json::to_vec(record)),
        Record::Checks { module, record } => (checks_name(*module), serde_json::to_vec(record)),
    };
    (name, bytes.expect("a record is plain data"))
}

impl Direct<'_> {
    /// A fact for a node.
    pub(super) fn node_input(&mut self, host: HostId, input: Input) {
        if self.hosted_input(host, &input) {
            return;
        }
        let now = self.now;
        let machine = &mut self.machines[host.index()];
        let local = machine.clock.local(now);
        let Some(daemon) = machine.node_mut() else { return };
        let mut out = std::mem::take(&mut daemon.out);
        daemon.node.handle(local, input, &mut out);
        self.node_orders(host, out);
    }

    /// The node's deadline may have come.
    pub(super) fn wake(&mut self, host: HostId) {
        if self.hosted_wakes(host, 0) {
            return;
        }
        if is_witness(host) {
            return self.wake_witness(host);
        }
        let now = self.now;
        let machine = &mut self.machines[host.index()];
        let local = machine.clock.local(now);
        let Some(daemon) = machine.node_mut() else { return };
        daemon.wake = None;
        let mut out = std::mem::take(&mut daemon.out);
        if daemon.node.deadline().is_some_and(|at| local >= at) {
            daemon.node.handle_timeout(local, &mut out);
        }
        self.node_orders(host, out);
    }

    fn node_orders(&mut self, host: HostId, mut out: havre_core::machine::Out<Effect>) {
        let run = self.machines[host.index()].run;
        for effect in out.drain() {
            self.carry_out(host, effect);
        }
        let now = self.now;
        let machine = &mut self.machines[host.index()];
        if machine.run != run {
            return;
        }
        let clock = machine.clock;
        let Some(daemon) = machine.node_mut() else { return };
        daemon.out = out;
        let Some(deadline) = daemon.node.deadline() else { return };
        let at = clock.when(deadline).max(now.plus_micros(1));
        if daemon.wake.is_none_or(|wake| at < wake) {
            daemon.wake = Some(at);
            self.at(at, Event::Host { host, run, work: Work::Wake, delayed: false });
        }
    }

    fn carry_out(&mut self, host: HostId, effect: Effect) {
        match effect {
            Effect::Send { to, route, message, after } => {
                self.send(host, to, route, message, after)
            }
            Effect::Persist { op, record } => self.persist(host, op, record),
            Effect::Volume { op, module: _, request } => self.volume_order(host, op, request),
            Effect::RunScript { op, module: _, call } => self.run_script(host, op, call),
            Effect::KillScripts { op, module: _ } => self.kill_scripts(host, op),
            Effect::Address { op, module: _, request } => self.address(host, op, request),
            Effect::Filter { op, module: _, request } => self.filter(host, op, request),
            Effect::Ping { op, targets: _, limit } => self.ping(host, op, micros(limit)),
            Effect::Answer { request: _, answer } => {
                if let Answer::Refused(why) = answer {
                    self.control.refused[host.index()] = true;
                    self.fact(Fact::Refused(host, why));
                }
            }
            Effect::Probe { op, module: _, checker, what: _, limit } => {
                self.probe(host, op, checker, limit.map(micros));
            }
            Effect::Watch { module: _, checker, what: _ } => self.watch(host, checker),
            Effect::Unwatch { module: _, checker } => self.unwatch(host, checker),
            Effect::Reboot { module: _ } => self.reboot(host),
            Effect::Guard { module: _, until } => self.guard(host, until),
            Effect::Notify(event) => self.fact(Fact::News(host, event)),
        }
    }

    fn send(
        &mut self,
        host: HostId,
        to: NodeId,
        route: Route,
        message: Message,
        after: Option<OpId>,
    ) {
        if let Some(op) = after
            && let Some(daemon) = self.machines[host.index()].node_mut()
            && daemon.unsaved.contains(&op)
        {
            daemon.held.push((op, to, route, message));
            return;
        }
        let nets = self.plan.setup.nets.clamp(1, 2);
        match route {
            // The witness has one address.
            Route::All if to == NodeId::WITNESS => self.transmit(0, host, to, message),
            Route::All => {
                for net in 1..nets {
                    self.transmit(net, host, to, message.clone());
                }
                self.transmit(0, host, to, message);
            }
            Route::Link(LinkId(net)) => self.transmit(net as u8, host, to, message),
        }
    }

    /// Puts a datagram on its way.
    pub(super) fn transmit(&mut self, net: u8, from: HostId, to: NodeId, message: Message) {
        let to = host_of(to);
        let [first, second] = self.net.send(self.now, net, from, to);
        let message = Box::new(message);
        if let Some(at) = second {
            self.at(at, Event::Datagram { net, from, to, message: message.clone() });
        }
        if let Some(at) = first {
            self.at(at, Event::Datagram { net, from, to, message });
        }
    }

    /// A datagram came in.
    pub(super) fn receive(&mut self, host: HostId, net: u8, from: NodeId, message: Message) {
        if is_witness(host) {
            return self.witness_receive(host, from, message);
        }
        let link = LinkId(u16::from(net));
        self.node_input(host, Input::Received { from, link, message });
    }

    fn persist(&mut self, host: HostId, op: OpId, record: Record) {
        let now = self.now;
        let machine = &mut self.machines[host.index()];
        let (name, bytes) = record_file(&record);
        let disk = &mut machine.disk;
        let crate::direct::machine::Daemon::Node(daemon) = &mut machine.daemon else { return };
        daemon.unsaved.push(op);
        daemon.store.push((op, record), name, bytes);
        let submitted = daemon.store.begin(now, disk);
        self.await_disk(host, submitted);
    }

    /// Schedules the end of a disk operation.
    pub(super) fn await_disk(&mut self, host: HostId, submitted: Option<Submitted>) {
        if let Some(Submitted { ticket, ready }) = submitted {
            let run = self.machines[host.index()].run;
            self.at(ready, Event::Host { host, run, work: Work::Disk(ticket), delayed: false });
            self.disk_used(host, ready);
        }
    }

    /// A disk operation is ready.
    pub(super) fn disk_ready(&mut self, host: HostId, ticket: Ticket) {
        if is_witness(host) && self.hosting.is_none() {
            return self.witness_disk_ready(host, ticket);
        }
        let machine = &mut self.machines[host.index()];
        let Some(done) = machine.disk.complete(ticket) else { return };
        if self.hosting.is_some() {
            return self.hosted_disk_ready(host, ticket, done);
        }
        let machine = &mut self.machines[host.index()];
        let Some(daemon) = machine.node_mut() else { return };
        if daemon.store.owns(ticket) {
            self.record_step(host, &done);
        } else if let Some(io) = daemon.volume_io.remove(ticket.0) {
            self.volume_disk_done(host, io, done);
        }
    }

    fn record_step(&mut self, host: HostId, done: &DiskDone) {
        let now = self.now;
        let machine = &mut self.machines[host.index()];
        let disk = &mut machine.disk;
        let crate::direct::machine::Daemon::Node(daemon) = &mut machine.daemon else { return };
        let (next, ended) = daemon.store.done(now, done, disk);
        self.await_disk(host, next);
        let Some(((op, record), result)) = ended else { return };
        let Some(daemon) = self.machines[host.index()].node_mut() else { return };
        daemon.unsaved.retain(|unsaved| *unsaved != op);
        let (released, held) =
            std::mem::take(&mut daemon.held).into_iter().partition(|(after, ..)| *after == op);
        daemon.held = held;
        let released: Vec<_> = released;
        match result {
            Ok(()) => {
                self.fact(match record {
                    Record::Module { record, .. } => Fact::Recorded(host, record),
                    Record::Checks { .. } => Fact::ChecksRecorded(host),
                });
                for (_, to, route, message) in released {
                    self.send(host, to, route, message, None);
                }
                self.completed(host, op, Outcome::Done);
            }
            // What waited for a record that could not be made durable is never sent.
            Err(error) => self.completed(host, op, Outcome::Failed(error)),
        }
    }

    /// An order of the node has ended.
    pub(super) fn completed(&mut self, host: HostId, op: OpId, outcome: Outcome) {
        self.node_input(host, Input::Completed { op, outcome });
    }

    pub(super) fn ping(&mut self, host: HostId, op: OpId, limit_us: u64) {
        let there = self.net.send(self.now, 0, host, HostId::R)[0];
        let back = there.and_then(|at| self.net.send(at, 0, HostId::R, host)[0]);
        let (micros, reached) = match back {
            Some(at) if micros(at - self.now) <= limit_us => (micros(at - self.now), true),
            _ => (limit_us, false),
        };
        self.later(host, micros, Work::Pinged { op, reached });
    }

    pub(super) fn pinged(&mut self, host: HostId, op: OpId, reached: bool) {
        self.completed(host, op, Outcome::Reached(reached));
    }

    /// An administrator gives an order.
    pub(super) fn order(&mut self, host: HostId, order: ModuleOrder) {
        if self.hosted_order(host, order) {
            return;
        }
        let Some(daemon) = self.machines[host.index()].node_mut() else { return };
        daemon.requests += 1;
        let request = RequestId(daemon.requests);
        self.control.refused[host.index()] = false;
        self.fact(Fact::Ordered(host, order));
        let command = Command::Module { module: MODULE, order };
        self.node_input(host, Input::Asked { request, command });
    }
}
