//! Two volumes, their disks, one stream, an application, and the least control loop that keeps
//! the contract of `VolumeRequest`: an arbiter that knows who holds every acknowledged write.

use std::collections::{BTreeMap, BTreeSet};

use havre_core::{
    config::module::{Contract, RfsConfig, WriteMode},
    effect::{Outcome, VolumeNews, VolumeRequest},
    ids::{ModuleId, NodeId, OpId},
    machine::Out,
    replication::generation::{Generation, Origin},
    replication::{source::SourceMode, target::TargetState},
    rng::Rng,
    time::Instant,
};
use std::time::Duration;

use super::super::{
    Call, CallAnswer, CallId, Frame, MARK_LOG, SimVolume, VolumeAction, VolumeConfig, VolumeInput,
    VolumeRole,
};
use crate::{
    disk::{Block, DiskTiming, SimDisk, Ticket, block::SECTORS},
    time::SimTime,
};

pub(super) const REGIONS: u64 = 8;
pub(super) const REGION_BLOCKS: u64 = 4;
const BLOCKS: u64 = REGIONS * REGION_BLOCKS;
fn rfs(contract: Contract, write: WriteMode) -> RfsConfig {
    RfsConfig {
        contract,
        write,
        acl: false,
        port: None,
        lock_timeout: Duration::from_secs(2),
        send_timeout: Duration::from_secs(1),
        resync_bytes_per_second_max: None,
        directories: Vec::new(),
    }
}

#[derive(Debug)]
enum Event {
    Disk { node: usize, life: u64, id: u64, ticket: Ticket },
    Frame { connection: u64, to: usize, frame: Frame },
    Open { connection: u64, target: usize },
    Closed { connection: u64, to: usize },
    Solo { number: u32 },
    Restart { node: usize },
}

struct Node {
    disk: SimDisk,
    volume: Option<SimVolume>,
    life: u64,
    /// What the durable lineage of a real node would say.
    consistent: bool,
    generation: Option<Generation>,
}

/// What the application knows of one block.
#[derive(Debug, Clone, Default)]
struct History {
    /// Sectors that the survivor may hold although no write since says so.
    base: Vec<Block>,
    /// Writes issued since, in order.
    writes: Vec<u64>,
    /// Index of the last write that returned from a barrier.
    safe: Option<usize>,
}

#[derive(Debug, Clone, Copy)]
enum Pending {
    Write { block: u64, index: usize, sync: bool },
    Barrier,
    Read,
}

/// What one life is like.
#[derive(Debug, Clone, Copy)]
pub(super) struct Profile {
    pub(super) contract: Contract,
    /// How often marks are looked at.
    pub(super) checkpoint: Duration,
    /// Time that the control loop takes to declare a lost target outdated.
    pub(super) solo_delay_us: u64,
    /// Longest time until a dead node is back.
    pub(super) restart_us: u64,
    /// How much slower than the other's each disk is.
    pub(super) slowdown: [u32; 2],
    /// Longest time that a frame is under way.
    pub(super) network_us: u64,
    pub(super) write: WriteMode,
}

impl Profile {
    pub(super) fn plain(contract: Contract) -> Self {
        Self {
            contract,
            checkpoint: Duration::from_secs(10),
            solo_delay_us: 30_000,
            restart_us: 400_000,
            slowdown: [1, 1],
            network_us: 400,
            write: WriteMode::Back,
        }
    }

    pub(super) fn draw(rng: &mut Rng, contract: Contract) -> Self {
        Self {
            contract,
            checkpoint: Duration::from_millis([20, 200, 10_000][rng.below(3) as usize]),
            solo_delay_us: [2_000, 30_000, 300_000][rng.below(3) as usize],
            restart_us: [20_000, 400_000][rng.below(2) as usize],
            slowdown: [[1, 1], [1, 30], [30, 1]][rng.below(3) as usize],
            network_us: [400, 400, 20_000][rng.below(3) as usize],
            write: if rng.chance(200_000) { WriteMode::Through } else { WriteMode::Back },
        }
    }
}

pub(super) struct World {
    pub(super) now: SimTime,
    rng: Rng,
    profile: Profile,
    contract: Contract,
    nodes: [Node; 2],
    events: BTreeMap<(SimTime, u64), Event>,
    last_event: u64,
    connection: Option<u64>,
    last_connection: u64,
    /// The last moment at which something of each direction arrives: streams keep their order.
    arrival: [SimTime; 2],
    primary: Option<usize>,
    generation: Generation,
    in_sync: BTreeSet<usize>,
    admitted_full: bool,
    /// The copies were equal once: from then on marks cover every difference.
    pub(super) paired: bool,
    checked_life: (usize, u64, u32),
    history: BTreeMap<u64, History>,
    pending: BTreeMap<CallId, Pending>,
    /// For each pending barrier: the write of each block that it covers.
    covered: BTreeMap<CallId, BTreeMap<u64, usize>>,
    returned: BTreeMap<u64, usize>,
    last_call: u64,
    last_tag: u64,
    last_op: u64,
    pub(super) violations: Vec<String>,
    pub(super) caught_up: u32,
    pub(super) failovers: u32,
    pub(super) bytes_copied: u64,
    pub(super) answered: u32,
}

impl World {
    pub(super) fn new(seed: u64, profile: Profile) -> Self {
        let contract = profile.contract;
        let disk = |which: u64| {
            let mut disk = SimDisk::new(seed, which, DiskTiming::default());
            disk.faults.slowdown = profile.slowdown[which as usize];
            disk
        };
        let node = |which: u64| Node {
            disk: disk(which),
            volume: None,
            life: 0,
            consistent: which == 0,
            generation: None,
        };
        let mut rng = Rng::new(seed);
        let generation = Generation {
            number: 1,
            creator: NodeId(0),
            nonce: rng.next_u64(),
            origin: Origin::Forced,
        };
        let mut world = Self {
            now: SimTime::ZERO,
            rng,
            profile,
            contract,
            nodes: [node(0), node(1)],
            events: BTreeMap::new(),
            last_event: 0,
            connection: None,
            last_connection: 0,
            arrival: [SimTime::ZERO; 2],
            primary: None,
            generation,
            in_sync: BTreeSet::from([0]),
            admitted_full: true,
            paired: false,
            checked_life: (0, 0, 0),
            history: BTreeMap::new(),
            pending: BTreeMap::new(),
            covered: BTreeMap::new(),
            returned: BTreeMap::new(),
            last_call: 0,
            last_tag: 0,
            last_op: 0,
            violations: Vec::new(),
            caught_up: 0,
            failovers: 0,
            bytes_copied: 0,
            answered: 0,
        };
        world.start(0);
        world.start(1);
        world
    }

    /// Each node boots at its own moment.
    fn local(&self, node: usize) -> Instant {
        Instant::from_nanos(self.now.as_micros() * 1_000 + 7_000_000_000 * node as u64)
    }

    fn at(&mut self, delay_us: u64, event: Event) {
        self.at_time(self.now.plus_micros(delay_us), event);
    }

    fn at_time(&mut self, at: SimTime, event: Event) {
        self.last_event += 1;
        self.events.insert((at, self.last_event), event);
    }

    fn start(&mut self, node: usize) {
        let config = VolumeConfig {
            module: ModuleId(1),
            signature: 7,
            rfs: rfs(self.contract, self.profile.write),
            regions: REGIONS,
            region_blocks: REGION_BLOCKS,
            checkpoint_period: self.profile.checkpoint,
        };
        let rng = self.rng.split(node as u64);
        self.nodes[node].life += 1;
        self.nodes[node].volume = Some(SimVolume::new(config, rng));
        self.order(node, VolumeRequest::Prepare);
        self.choose_roles();
    }

    fn new_generation(&mut self, creator: usize) {
        self.generation = Generation {
            number: self.generation.number + 1,
            creator: NodeId(creator as u16),
            nonce: self.rng.next_u64(),
            origin: Origin::Solo,
        };
    }

    /// The control loop: who serves, who follows.
    fn choose_roles(&mut self) {
        if self.primary.is_none() {
            let able = |node: &usize| {
                let it = &self.nodes[*node];
                it.volume.is_some() && it.consistent && self.in_sync.contains(node)
            };
            let Some(next) = [0, 1].into_iter().find(able) else { return };
            if self.in_sync.len() > 1 {
                self.new_generation(next);
            }
            self.in_sync = BTreeSet::from([next]);
            self.primary = Some(next);
            self.failovers += 1;
            self.nodes[next].generation = Some(self.generation);
            self.order(next, VolumeRequest::Serve { generation: self.generation });
            self.completed(next);
            let full = self.admitted_full;
            self.order(next, VolumeRequest::Admit { peer: NodeId(1 - next as u16), full });
        }
        let Some(primary) = self.primary else { return };
        let other = 1 - primary;
        if self.nodes[other].volume.is_some()
            && self.nodes[other].generation != Some(self.generation)
        {
            self.nodes[other].generation = Some(self.generation);
            self.nodes[other].consistent = false;
            let source = NodeId(primary as u16);
            let generation = self.generation;
            self.order(other, VolumeRequest::Follow { source, generation, keep_aside: None });
        }
    }

    fn order(&mut self, node: usize, request: VolumeRequest) {
        self.last_op += 1;
        let op = OpId(self.last_op);
        self.input(node, VolumeInput::Request { op, request });
    }

    fn input(&mut self, node: usize, input: VolumeInput) {
        let now = self.local(node);
        let mut out = Out::new();
        if let Some(volume) = &mut self.nodes[node].volume {
            volume.handle(now, input, &mut out);
        }
        self.perform(node, out);
    }

    fn perform(&mut self, node: usize, mut out: Out<VolumeAction>) {
        let actions: Vec<VolumeAction> = out.drain().collect();
        for action in actions {
            match action {
                VolumeAction::Disk { id, op } => {
                    let life = self.nodes[node].life;
                    let submitted = self.nodes[node].disk.submit(self.now, op);
                    let ticket = submitted.ticket;
                    self.at_time(submitted.ready, Event::Disk { node, life, id, ticket });
                }
                VolumeAction::Connect { .. } => {
                    self.last_connection += 1;
                    let connection = self.last_connection;
                    let delay = 100 + self.rng.below(900);
                    self.at(delay, Event::Open { connection, target: node });
                }
                VolumeAction::Send(frame) => self.send(node, frame),
                VolumeAction::Disconnect => {
                    if let Some(connection) = self.connection.take() {
                        self.at(500, Event::Closed { connection, to: 1 - node });
                    }
                }
                VolumeAction::Answer { id, answer } => self.answered(node, id, answer),
                VolumeAction::Completed { outcome, .. } => {
                    if let Outcome::Failed(reason) = outcome {
                        self.violations.push(format!("an order failed: {reason}"));
                    }
                }
                VolumeAction::News(news) => self.news(node, news),
            }
        }
    }

    fn send(&mut self, node: usize, frame: Frame) {
        let Some(connection) = self.connection else { return };
        let bytes = frame.encode();
        let decoded = match &frame {
            Frame::ToSource(_) => Frame::decode_to_source(&bytes),
            Frame::ToTarget(..) => Frame::decode_to_target(&bytes),
        };
        assert_eq!(decoded, Ok(Some((frame.clone(), bytes.len()))), "frames survive their bytes");
        let to = 1 - node;
        let at = self
            .now
            .plus_micros(50 + self.rng.below(self.profile.network_us))
            .max(self.arrival[to]);
        self.arrival[to] = at;
        self.at_time(at, Event::Frame { connection, to, frame });
    }

    fn news(&mut self, node: usize, news: VolumeNews) {
        let current = |generation| generation == self.generation;
        match news {
            VolumeNews::CaughtUp { generation, bytes_copied } if current(generation) => {
                if self.primary == Some(node) {
                    self.in_sync = BTreeSet::from([0, 1]);
                    self.admitted_full = false;
                    self.paired = true;
                    self.caught_up += 1;
                    self.bytes_copied = bytes_copied;
                } else {
                    self.nodes[node].consistent = true;
                    let source = self.role(1 - node);
                    if source == VolumeRole::Source(SourceMode::Resyncing) {
                        self.violations
                            .push("the target caught up before the source says so".into());
                    }
                }
            }
            VolumeNews::PeerLost { .. } if self.primary == Some(node) => {
                let number = self.generation.number;
                self.at(self.profile.solo_delay_us, Event::Solo { number });
            }
            VolumeNews::Failed { error } => {
                self.violations.push(format!("a healthy disk failed: {error}"));
            }
            _ => {}
        }
    }

    fn go_solo(&mut self, number: u32) {
        let Some(primary) = self.primary else { return };
        let role = self.role(primary);
        let lost = matches!(role, VolumeRole::Source(SourceMode::Orphaned | SourceMode::Resyncing));
        if number != self.generation.number || !lost || self.in_sync.len() < 2 {
            return;
        }
        self.new_generation(primary);
        self.in_sync = BTreeSet::from([primary]);
        self.nodes[primary].generation = Some(self.generation);
        self.order(primary, VolumeRequest::Solo { generation: self.generation });
        self.choose_roles();
    }

    pub(super) fn role(&self, node: usize) -> VolumeRole {
        self.nodes[node].volume.as_ref().map_or(VolumeRole::Idle, SimVolume::role)
    }

    pub(super) const fn primary(&self) -> Option<usize> {
        self.primary
    }

    // ---- the application

    fn call(&mut self, pending: Pending, call: Call) {
        let Some(primary) = self.primary else { return };
        self.last_call += 1;
        let id = CallId(self.last_call);
        self.pending.insert(id, pending);
        self.input(primary, VolumeInput::Call { id, call });
    }

    pub(super) fn write(&mut self, block: u64, sync: bool) {
        let block = block % BLOCKS;
        if self.primary.is_none() {
            return;
        }
        self.last_tag += 1;
        let tag = self.last_tag;
        let history = self.history.entry(block).or_default();
        history.writes.push(tag);
        let index = history.writes.len() - 1;
        let content = Block::whole(tag);
        self.call(Pending::Write { block, index, sync }, Call::Write { block, content, sync });
    }

    pub(super) fn barrier(&mut self) {
        let id = CallId(self.last_call + 1);
        self.covered.insert(id, self.returned.clone());
        self.call(Pending::Barrier, Call::Barrier);
    }

    pub(super) fn read(&mut self, block: u64) {
        self.call(Pending::Read, Call::Read { block: block % BLOCKS });
    }

    fn answered(&mut self, node: usize, id: CallId, answer: CallAnswer) {
        let Some(pending) = self.pending.remove(&id) else { return };
        let done = answer == CallAnswer::Done;
        if !done || self.primary != Some(node) {
            self.covered.remove(&id);
            return;
        }
        self.answered += 1;
        match pending {
            Pending::Write { block, index, sync } => {
                let last = self.returned.entry(block).or_default();
                *last = (*last).max(index);
                if sync {
                    self.make_safe(block, index);
                }
            }
            Pending::Barrier => {
                for (block, index) in self.covered.remove(&id).unwrap_or_default() {
                    self.make_safe(block, index);
                }
            }
            Pending::Read => {}
        }
    }

    fn make_safe(&mut self, block: u64, index: usize) {
        let history = self.history.entry(block).or_default();
        history.safe = history.safe.max(Some(index));
    }

    /// After the copy of `node` became the one that counts: it holds what was acknowledged.
    fn check_survivor(&mut self, node: usize) {
        for block in 0..BLOCKS {
            let content = self.nodes[node].disk.peek(block);
            let history = self.history.entry(block).or_default();
            let from = history.safe.unwrap_or(0);
            for sector in 0..SECTORS {
                let value = content.0[sector];
                let old = history.safe.is_none()
                    && (value == 0 && history.base.is_empty()
                        || history.base.iter().any(|block| block.0[sector] == value));
                if !old && !history.writes[from.min(history.writes.len())..].contains(&value) {
                    self.violations.push(format!(
                        "block {block} of node {node} holds {value}, acknowledged was {:?} of {:?}",
                        history.safe, history.writes
                    ));
                    break;
                }
            }
            // What is only in the cache may still be lost, which brings an older write back.
            let mut base = vec![content];
            if self.nodes[node].disk.durable(block) != content {
                base.push(self.nodes[node].disk.durable(block));
                let since = from.min(history.writes.len());
                base.extend(history.writes[since..].iter().map(|tag| Block::whole(*tag)));
                if history.safe.is_none() {
                    base.append(&mut history.base);
                    base.push(Block::default());
                }
            }
            *history = History { base, writes: Vec::new(), safe: None };
        }
        self.returned.clear();
        self.covered.clear();
        self.pending.clear();
    }

    // ---- faults

    /// The process dies; with `power`, so does everything that is not durable.
    pub(super) fn kill(&mut self, node: usize, power: bool) {
        let promoting =
            self.primary == Some(node) && matches!(self.role(node), VolumeRole::Target(_));
        if promoting && self.contract == Contract::Received {
            // A second failure before the survivor's disk has what it had received: not promised.
            return;
        }
        if self.nodes[node].volume.take().is_none() {
            return;
        }
        self.nodes[node].life += 1;
        self.nodes[node].generation = None;
        if power {
            self.nodes[node].disk.power_cut();
        } else {
            self.nodes[node].disk.process_crash();
        }
        self.cut_stream();
        let follower = self.primary != Some(node);
        if follower && self.contract == Contract::Received {
            // Received is not durable: a second failure at once loses it, as documented.
            self.nodes[node].consistent = false;
        }
        if !follower {
            self.primary = None;
            self.pending.clear();
        }
        let delay = 5_000 + self.rng.below(self.profile.restart_us);
        self.at(delay, Event::Restart { node });
    }

    /// Takes the right to complete changes away from the primary.
    pub(super) fn fence(&mut self) {
        if let Some(primary) = self.primary {
            self.order(primary, VolumeRequest::Fence);
        }
    }

    pub(super) fn cut_stream(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.at(100, Event::Closed { connection, to: 0 });
            self.at(100, Event::Closed { connection, to: 1 });
        }
    }

    /// Lets the survivor take over, if the primary is gone.
    pub(super) fn fail_over(&mut self) {
        if self.primary.is_some() {
            return;
        }
        self.choose_roles();
    }

    // ---- time

    fn step(&mut self) -> bool {
        let next = self.events.first_key_value().map(|((at, _), _)| *at);
        let deadline = (0..2).filter_map(|node| self.deadline(node)).min();
        match (next, deadline) {
            (None, None) => return false,
            (Some(at), deadline) if deadline.is_none_or(|due| at.as_micros() <= due) => {
                self.now = self.now.max(at);
                if let Some((_, event)) = self.events.pop_first() {
                    self.happen(event);
                }
            }
            (_, Some(due)) => {
                self.now = self.now.max(SimTime::from_micros(due));
                self.timeouts();
            }
            (Some(_), None) => {}
        }
        self.check_marks();
        true
    }

    /// The next deadline of a node, in microseconds of true time, rounded up.
    fn deadline(&self, node: usize) -> Option<u64> {
        let at = self.nodes[node].volume.as_ref()?.deadline()?;
        Some(at.as_nanos().saturating_sub(7_000_000_000 * node as u64).div_ceil(1_000))
    }

    fn timeouts(&mut self) {
        for node in 0..2 {
            let now = self.local(node);
            let mut out = Out::new();
            if let Some(volume) = &mut self.nodes[node].volume
                && volume.deadline().is_some_and(|due| due <= now)
            {
                volume.handle_timeout(now, &mut out);
                let next = volume.deadline();
                assert!(next.is_none_or(|next| next > now), "deadlines move on: {:?}", next);
            }
            self.perform(node, out);
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Disk { node, life, id, ticket } => {
                if self.nodes[node].life == life
                    && let Some(done) = self.nodes[node].disk.complete(ticket)
                {
                    self.input(node, VolumeInput::Disk { id, done });
                    self.completed(node);
                }
            }
            Event::Frame { connection, to, frame } => {
                if self.connection == Some(connection) {
                    self.input(to, VolumeInput::Frame(frame));
                }
            }
            Event::Open { connection, target } => {
                let source = 1 - target;
                if self.nodes[target].volume.is_none() {
                    return;
                }
                if self.nodes[source].volume.is_none() {
                    let reason = "nobody answers".into();
                    self.input(target, VolumeInput::Disconnected { reason });
                    return;
                }
                self.connection = Some(connection);
                self.arrival = [self.now; 2];
                self.input(source, VolumeInput::Connected);
                self.input(target, VolumeInput::Connected);
            }
            Event::Closed { connection, to } => {
                // Nobody hears the end of a connection that another one has replaced.
                if self.connection.is_none() && connection == self.last_connection {
                    let reason = "the connection was cut".into();
                    self.input(to, VolumeInput::Disconnected { reason });
                }
            }
            Event::Solo { number } => self.go_solo(number),
            Event::Restart { node } => {
                if self.nodes[node].volume.is_none() {
                    self.start(node);
                }
            }
        }
    }

    /// A serving volume that has just come out of its preparation or of its drain.
    fn completed(&mut self, node: usize) {
        if self.primary == Some(node)
            && self.checked_life != (node, self.nodes[node].life, self.failovers)
            && matches!(self.role(node), VolumeRole::Source(_))
        {
            self.checked_life = (node, self.nodes[node].life, self.failovers);
            self.check_survivor(node);
        }
    }

    pub(super) fn run_for(&mut self, micros: u64) {
        let end = self.now.plus_micros(micros);
        while self.events.first_key_value().is_some_and(|((at, _), _)| *at <= end)
            || (0..2).any(|node| self.deadline(node).is_some_and(|due| due <= end.as_micros()))
        {
            if !self.violations.is_empty() || !self.step() {
                return;
            }
        }
        self.now = end;
    }

    // ---- checks

    /// Every difference is marked durably on one of the two nodes (S14).
    fn check_marks(&mut self) {
        if !self.paired {
            return;
        }
        let marked = |node: &Node, region: u64| {
            node.disk.durable(MARK_LOG + region) != Block::default()
                || node.disk.durable(MARK_LOG + REGIONS) != Block::default()
        };
        for region in 0..REGIONS {
            let blocks = region * REGION_BLOCKS..(region + 1) * REGION_BLOCKS;
            let [a, b] = &self.nodes;
            let differs = blocks.clone().any(|block| {
                a.disk.peek(block) != b.disk.peek(block)
                    || a.disk.durable(block) != b.disk.durable(block)
            });
            if differs && !marked(a, region) && !marked(b, region) {
                self.violations.push(format!("region {region} differs and is marked nowhere"));
            }
        }
    }

    /// Both copies are equal, and each is durable.
    pub(super) fn check_equal(&mut self) {
        for block in 0..BLOCKS {
            let [a, b] = &self.nodes;
            let (here, there) = (a.disk.peek(block), b.disk.peek(block));
            if here != there {
                self.violations.push(format!("block {block}: {here:?} here, {there:?} there"));
            }
        }
    }

    /// Marks that either log still holds.
    pub(super) fn marks(&self) -> usize {
        let marked = |node: &Node, place: u64| node.disk.peek(MARK_LOG + place) != Block::default();
        (0..=REGIONS).filter(|place| self.nodes.iter().any(|node| marked(node, *place))).count()
    }

    /// Whether the pair is whole: one serves, the other follows.
    pub(super) fn is_whole(&self) -> bool {
        self.primary.is_some_and(|primary| {
            self.role(primary) == VolumeRole::Source(SourceMode::Enlisted)
                && self.role(1 - primary) == VolumeRole::Target(TargetState::Following)
        })
    }
}
