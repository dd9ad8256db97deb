//! Drives the witness's machine and carries out its orders.

use havre_core::{
    ids::NodeId,
    machine::{Machine as _, Out},
    quorum::witness::{Action, Input},
    wire::message::Message,
};

use crate::{
    direct::{
        Direct, MODULE,
        event::{Event, Work},
        machine::Daemon,
    },
    disk::Ticket,
    fact::Fact,
    net::HostId,
};

/// The file of the witness's record.
pub(super) const WITNESS_FILE: &str = "witness";

type Orders = Out<Action<havre_core::ids::ModuleId>>;

impl Direct<'_> {
    pub(super) fn witness_receive(&mut self, host: HostId, from: NodeId, message: Message) {
        if let Message::Witness { module, request } = message {
            self.witness_input(host, Input::Asked { key: module, from, request });
        }
    }

    fn witness_input(&mut self, host: HostId, input: Input<havre_core::ids::ModuleId>) {
        let now = self.now;
        let machine = &mut self.machines[host.index()];
        let local = machine.clock.local(now);
        let Daemon::Witness(daemon) = &mut machine.daemon else { return };
        let mut out = std::mem::take(&mut daemon.out);
        daemon.witness.handle(local, input, &mut out);
        self.witness_orders(host, out);
    }

    pub(super) fn wake_witness(&mut self, host: HostId) {
        let now = self.now;
        let machine = &mut self.machines[host.index()];
        let local = machine.clock.local(now);
        let Daemon::Witness(daemon) = &mut machine.daemon else { return };
        daemon.wake = None;
        let mut out = std::mem::take(&mut daemon.out);
        if daemon.witness.deadline().is_some_and(|at| local >= at) {
            daemon.witness.handle_timeout(local, &mut out);
        }
        self.witness_orders(host, out);
    }

    fn witness_orders(&mut self, host: HostId, mut out: Orders) {
        for action in out.drain() {
            match action {
                Action::Persist { op, key, record } => {
                    let bytes = serde_json::to_vec(&record).expect("a record is plain data");
                    let now = self.now;
                    let machine = &mut self.machines[host.index()];
                    let disk = &mut machine.disk;
                    let Daemon::Witness(daemon) = &mut machine.daemon else { return };
                    daemon.store.push((op, key, record), WITNESS_FILE.into(), bytes);
                    let submitted = daemon.store.begin(now, disk);
                    self.await_disk(host, submitted);
                }
                Action::Reply { key, to, reply } => {
                    self.transmit(0, host, to, Message::WitnessReply { module: key, reply });
                }
            }
        }
        let now = self.now;
        let machine = &mut self.machines[host.index()];
        let (run, clock) = (machine.run, machine.clock);
        let Daemon::Witness(daemon) = &mut machine.daemon else { return };
        daemon.out = out;
        let Some(deadline) = daemon.witness.deadline() else { return };
        let at = clock.when(deadline).max(now.plus_micros(1));
        if daemon.wake.is_none_or(|wake| at < wake) {
            daemon.wake = Some(at);
            self.at(at, Event::Host { host, run, work: Work::Wake, delayed: false });
        }
    }

    pub(super) fn witness_disk_ready(&mut self, host: HostId, ticket: Ticket) {
        let now = self.now;
        let machine = &mut self.machines[host.index()];
        let Some(done) = machine.disk.complete(ticket) else { return };
        let disk = &mut machine.disk;
        let Daemon::Witness(daemon) = &mut machine.daemon else { return };
        let (next, ended) = daemon.store.done(now, &done, disk);
        self.await_disk(host, next);
        let Some(((op, key, record), result)) = ended else { return };
        let ok = result.is_ok();
        if ok && key == MODULE {
            self.fact(Fact::WitnessRecorded(record));
        }
        self.witness_input(host, Input::Persisted { op, ok });
    }
}
