//! The client: transactions of a few writes and a barrier against whatever node has the address.

use std::collections::BTreeMap;

use crate::{
    chance::{Chance, Purpose},
    direct::{Direct, event::Event, machine::Daemon, os::App},
    disk::Block,
    fact::Fact,
    net::HostId,
    time::{SimTime, micros},
    volume::{Call, CallAnswer, CallId},
};

/// Transactions of which the client still awaits the end, at most.
const OPEN_MAX: usize = 4;
/// After this long the client tries another transaction beside the one that hangs.
const PATIENCE_US: u64 = 400_000;
/// After this long it gives a transaction up.
const GIVE_UP_US: u64 = 20_000_000;

/// State of the client.
#[derive(Debug, Clone)]
pub(super) struct Client {
    pub(super) on: bool,
    chance: Chance,
    turns: u64,
    calls: u64,
    open: Vec<Transaction>,
}

#[derive(Debug, Clone)]
struct Transaction {
    host: HostId,
    run: u32,
    began: SimTime,
    writes: Vec<(u64, u64)>,
    pending: BTreeMap<CallId, (u64, u64)>,
    barrier: Option<CallId>,
    /// Ordered by the plan: what becomes of it is noted.
    noted: bool,
    /// A read: the block, and what was acknowledged when it was submitted.
    read: Option<(CallId, u64, u64)>,
}

impl Client {
    pub(super) const fn new(seed: u64) -> Self {
        Self {
            on: true,
            chance: Chance::new(seed, Purpose::Load, 0),
            turns: 0,
            calls: 0,
            open: Vec::new(),
        }
    }

    fn call(&mut self) -> CallId {
        self.calls += 1;
        CallId(self.calls)
    }
}

impl Direct<'_> {
    /// The client looks for work.
    pub(super) fn client_turn(&mut self) {
        let load = self.plan.setup.load;
        let every = micros(load.every).max(1_000);
        self.client.turns += 1;
        let turn = self.client.turns;
        let pause = self.client.chance.between(turn * 16, every / 2, every * 3 / 2);
        self.at(self.now.plus_micros(pause), Event::Client);
        let machines = &self.machines;
        let now = self.now;
        self.client.open.retain(|open| {
            let young = now.since(open.began).as_micros() < GIVE_UP_US.into();
            young && machines[open.host.index()].run == open.run
        });
        if !self.client.on || load.every.is_zero() {
            return;
        }
        let waits = |open: &Transaction| now.since(open.began).as_micros() < PATIENCE_US.into();
        if self.client.open.len() >= OPEN_MAX || self.client.open.iter().any(waits) {
            return;
        }
        let draws = self.client.chance.child(turn);
        // Now and then the application writes by itself, address or not.
        let by_itself = draws.hits(1, 125_000);
        let reachable: Vec<HostId> =
            HostId::DATA.into_iter().filter(|host| self.is_reachable(*host, by_itself)).collect();
        if reachable.is_empty() {
            return;
        }
        let host = reachable[draws.below(2, reachable.len() as u64) as usize];
        self.transact(host, draws);
    }

    fn is_reachable(&self, host: HostId, by_itself: bool) -> bool {
        let machine = &self.machines[host.index()];
        let client = self.net.is_open(0, HostId::C, host) && self.net.is_open(0, host, HostId::C);
        machine.is_live()
            && machine.os.app == App::Runs
            && matches!(machine.daemon, Daemon::Node(_) | Daemon::Hosted(_))
            && (by_itself || (machine.os.address && client))
    }

    fn transact(&mut self, host: HostId, draws: Chance) {
        let load = self.plan.setup.load;
        let mut transaction = Transaction {
            host,
            run: self.machines[host.index()].run,
            began: self.now,
            writes: Vec::new(),
            pending: BTreeMap::new(),
            barrier: None,
            noted: false,
            read: None,
        };
        if draws.hits(3, load.reads_ppm) {
            let block = draws.below(4, load.blocks);
            let id = self.client.call();
            transaction.read = Some((id, block, self.oracle().ledger().acked(block)));
            self.client.open.push(transaction);
            return self.volume_call(host, id, Call::Read { block });
        }
        let mut calls = Vec::new();
        for number in 0..draws.between(5, 1, load.writes_max.max(1)) {
            let block = self.pick_block(draws, number);
            if transaction.writes.iter().any(|(b, _)| *b == block) {
                continue;
            }
            let tag = self.oracle().ledger().next_tag();
            self.fact(Fact::Submitted(host, block, tag));
            let id = self.client.call();
            transaction.writes.push((block, tag));
            transaction.pending.insert(id, (block, tag));
            let sync = draws.child(number).hits(1, 125_000);
            calls.push((id, Call::Write { block, content: Block::whole(tag), sync }));
        }
        self.client.open.push(transaction);
        for (id, call) in calls {
            self.volume_call(host, id, call);
        }
    }

    /// A program on a host writes a block, whether the host may write or not.
    pub(super) fn writes_by_itself(&mut self, host: HostId) {
        self.control.wrote[host.index()] = None;
        let block = 0;
        let tag = self.oracle().ledger().next_tag();
        self.fact(Fact::Submitted(host, block, tag));
        let id = self.client.call();
        self.client.open.push(Transaction {
            host,
            run: self.machines[host.index()].run,
            began: self.now,
            writes: vec![(block, tag)],
            pending: BTreeMap::from([(id, (block, tag))]),
            barrier: None,
            noted: true,
            read: None,
        });
        self.volume_call(host, id, Call::Write { block, content: Block::whole(tag), sync: false });
    }

    fn pick_block(&self, draws: Chance, number: u64) -> u64 {
        let load = self.plan.setup.load;
        if load.hot_blocks == 0 {
            return draws.below(16 + number, load.blocks);
        }
        let first = self.now.as_micros() / 1_000_000 % load.blocks;
        (first + draws.below(16 + number, load.hot_blocks)) % load.blocks
    }

    /// The data path answers.
    pub(super) fn answered(&mut self, host: HostId, id: CallId, answer: CallAnswer) {
        let known = |open: &Transaction| {
            open.pending.contains_key(&id)
                || open.barrier == Some(id)
                || open.read.is_some_and(|(read, ..)| read == id)
        };
        let Some(index) = self.client.open.iter().position(known) else { return };
        let open = &mut self.client.open[index];
        if let Some((_, block, floor)) = open.read {
            self.client.open.remove(index);
            if let CallAnswer::Content(content) = answer {
                self.fact(Fact::Read(host, block, content, floor));
            }
            return;
        }
        if open.noted {
            let done = answer == CallAnswer::Done;
            self.control.wrote[host.index()] = Some(done);
        }
        if answer != CallAnswer::Done {
            // The application gives the transaction up; what it wrote stays unacknowledged.
            self.client.open.remove(index);
            return;
        }
        if open.barrier == Some(id) {
            let done = self.client.open.remove(index);
            return self.fact(Fact::Acked(host, done.writes));
        }
        open.pending.remove(&id);
        if open.pending.is_empty() {
            self.client.calls += 1;
            let barrier = CallId(self.client.calls);
            self.client.open[index].barrier = Some(barrier);
            self.volume_call(host, barrier, Call::Barrier);
        }
    }
}
