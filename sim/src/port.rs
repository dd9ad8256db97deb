//! What a machine and a daemon that runs in the turmoil engine tell each other.
//!
//! The machine (power, clock, disk, scripts, addresses, links) stays in the discrete-event
//! world; the daemon runs as tasks on a turmoil host. The daemon lays its wishes on the *desk*,
//! which the world reads after every tick; the world answers through the channels of the port,
//! which wake the daemon in the next tick. One port serves one run of one daemon.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
};

use havre_core::{
    checks::probe::Finding,
    effect::{
        AddressRequest, Answer, Command, Outcome, Record, SavedState, ScriptCall, VolumeNews,
        VolumeRequest, WitnessRecord,
    },
    event::Event,
    farm::table::{FilterNews, FilterRequest},
    ids::{CheckerId, Incarnation, OpId},
    node::{Node, NodeConfig},
    time::Instant,
};
use havre_runtime::net::Datagram;
use tokio::sync::{Notify, mpsc, oneshot};

use crate::{
    disk::DiskOp,
    net::HostId,
    volume::{CallAnswer, CallId, VolumeConfig, VolumeInput},
};

/// A record on its way to the disk.
#[derive(Debug, Clone)]
pub(crate) enum Saved {
    /// A node's.
    Node(Record),
    /// The witness's.
    Witness(WitnessRecord),
}

/// What a daemon wants of its machine.
#[derive(Debug, Clone)]
pub(crate) enum Wish {
    /// A datagram with this number left: its fate is to be drawn.
    Sent { net: u8, to: HostId, number: u64 },
    /// The datagram with this number came over the wire.
    Came { net: u8, from: HostId, number: u64, bytes: Vec<u8> },
    /// Make a record durable.
    Persist { op: OpId, record: Saved },
    /// Run a script.
    Script { op: OpId, call: ScriptCall },
    /// Kill what scripts started.
    KillScripts { op: OpId },
    /// An order about addresses.
    Address { op: OpId, request: AddressRequest },
    /// An order about the packet filter.
    Filter { op: OpId, request: FilterRequest },
    /// Ask the router.
    Ping { op: OpId, limit_us: u64 },
    /// A question of a checker.
    Probe { op: OpId, checker: CheckerId, limit_us: Option<u64> },
    /// A checker begins to watch.
    Watch(CheckerId),
    /// It ends.
    Unwatch(CheckerId),
    /// The machine is to be rebooted.
    Reboot,
    /// The independent guard.
    Guard(Option<Instant>),
    /// News for the world.
    News(Event),
    /// The data path was given an order.
    Ordered(VolumeRequest),
    /// The data path serves.
    Serves,
    /// The data path told its node something.
    Told(VolumeNews),
    /// An operation of the data path on the disk.
    Disk { id: u64, op: DiskOp },
    /// The data path answers the application.
    Called { id: CallId, answer: CallAnswer },
    /// The node answers the administrator.
    Answered(Answer),
    /// May a stream be opened?
    Knock { stream: u64, to: HostId },
    /// A segment of a stream, or its end, came over the wire.
    Segment { stream: u64, from: HostId },
    /// Nothing more of this stream matters.
    Left { stream: u64 },
}

/// What the weather allows on a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Permit {
    /// One segment may pass, or the stream may be opened.
    Pass,
    /// The kernel gives the stream up.
    Broken,
}

/// What a daemon begins with.
#[derive(Debug, Clone)]
pub(crate) struct Birth {
    /// A node's configuration; the witness has none.
    pub(crate) node: Option<(NodeConfig, VolumeConfig)>,
    /// Seed of the daemon.
    pub(crate) secret: u64,
    /// The new run.
    pub(crate) incarnation: Incarnation,
    /// Durable records of a node.
    pub(crate) saved: SavedState,
    /// Durable record of the witness.
    pub(crate) witness: Option<WitnessRecord>,
}

/// The daemon's ends of the channels; taken once.
pub(crate) struct Ends {
    pub(crate) datagrams: mpsc::UnboundedReceiver<Datagram>,
    pub(crate) commands: mpsc::UnboundedReceiver<Command>,
    pub(crate) volume: mpsc::UnboundedReceiver<VolumeInput>,
    pub(crate) findings: mpsc::UnboundedReceiver<(CheckerId, Finding)>,
    pub(crate) filter: mpsc::UnboundedReceiver<FilterNews>,
}

/// Wakes a task at a moment of the machine's clock.
#[derive(Debug, Default)]
pub(crate) struct Alarm {
    deadline: Cell<Option<Instant>>,
    wake: Notify,
}

impl Alarm {
    /// When it is set to.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline.get()
    }

    /// Rings.
    pub(crate) fn ring(&self) {
        self.deadline.set(None);
        self.wake.notify_one();
    }

    /// Waits until it rings; early is harmless.
    pub(crate) async fn wait(&self, until: Option<Instant>) {
        self.deadline.set(until);
        self.wake.notified().await;
    }
}

/// Connects one run of a daemon with its machine.
pub(crate) struct Port {
    pub(crate) host: HostId,
    pub(crate) run: u32,
    pub(crate) birth: Birth,
    /// A flush failed since the machine started: outlives the daemon, not the power.
    pub(crate) distrusts_cache: Cell<bool>,
    clock: Cell<Instant>,
    desk: RefCell<Vec<Wish>>,
    pub(crate) node_alarm: Alarm,
    pub(crate) volume_alarm: Alarm,
    last_op: Cell<u64>,
    waiting: RefCell<BTreeMap<OpId, oneshot::Sender<Outcome>>>,
    streams: RefCell<BTreeMap<u64, mpsc::UnboundedSender<Permit>>>,
    last_stream: Cell<u64>,
    datagrams: mpsc::UnboundedSender<Datagram>,
    commands: mpsc::UnboundedSender<Command>,
    volume: mpsc::UnboundedSender<VolumeInput>,
    findings: mpsc::UnboundedSender<(CheckerId, Finding)>,
    filter: mpsc::UnboundedSender<FilterNews>,
    ends: RefCell<Option<Ends>>,
    node: RefCell<Option<Rc<RefCell<Node>>>>,
}

impl Port {
    /// Makes the port of a daemon that starts now.
    pub(crate) fn new(
        host: HostId,
        run: u32,
        now: Instant,
        birth: Birth,
        distrusts_cache: bool,
    ) -> Rc<Self> {
        let (datagrams, datagrams_end) = mpsc::unbounded_channel();
        let (commands, commands_end) = mpsc::unbounded_channel();
        let (volume, volume_end) = mpsc::unbounded_channel();
        let (findings, findings_end) = mpsc::unbounded_channel();
        let (filter, filter_end) = mpsc::unbounded_channel();
        let ends = Ends {
            datagrams: datagrams_end,
            commands: commands_end,
            volume: volume_end,
            findings: findings_end,
            filter: filter_end,
        };
        Rc::new(Self {
            host,
            run,
            birth,
            distrusts_cache: Cell::new(distrusts_cache),
            clock: Cell::new(now),
            desk: RefCell::default(),
            node_alarm: Alarm::default(),
            volume_alarm: Alarm::default(),
            last_op: Cell::new(0),
            waiting: RefCell::default(),
            streams: RefCell::default(),
            last_stream: Cell::new(0),
            datagrams,
            commands,
            volume,
            findings,
            filter,
            ends: RefCell::new(Some(ends)),
            node: RefCell::default(),
        })
    }

    // The daemon's side.

    /// The machine's clock.
    pub(crate) fn now(&self) -> Instant {
        self.clock.get()
    }

    /// The daemon's ends of the channels.
    pub(crate) fn take_ends(&self) -> Ends {
        self.ends.borrow_mut().take().expect("a daemon starts once per port")
    }

    /// Shows the node's state to the oracle.
    pub(crate) fn show(&self, node: Rc<RefCell<Node>>) {
        *self.node.borrow_mut() = Some(node);
    }

    /// Lays a wish on the desk.
    pub(crate) fn wish(&self, wish: Wish) {
        self.desk.borrow_mut().push(wish);
    }

    /// Lays a wish on the desk and waits until the machine has carried it out.
    pub(crate) async fn order(&self, wish: impl FnOnce(OpId) -> Wish) -> Outcome {
        let (op, ended) = self.expect_end();
        self.wish(wish(op));
        ended.await.unwrap_or_else(|_| Outcome::Failed("the machine is gone".into()))
    }

    /// A new order, and where its end is told.
    pub(crate) fn expect_end(&self) -> (OpId, oneshot::Receiver<Outcome>) {
        let op = OpId(self.last_op.get() + 1);
        self.last_op.set(op.0);
        let (tell, ended) = oneshot::channel();
        self.waiting.borrow_mut().insert(op, tell);
        (op, ended)
    }

    /// A new stream, and what the weather allows on it.
    pub(crate) fn stream(&self) -> (u64, mpsc::UnboundedReceiver<Permit>) {
        let stream = self.last_stream.get() + 1;
        self.last_stream.set(stream);
        let (tell, permits) = mpsc::unbounded_channel();
        self.streams.borrow_mut().insert(stream, tell);
        (stream, permits)
    }

    /// A stream is over.
    pub(crate) fn leave(&self, stream: u64) {
        self.streams.borrow_mut().remove(&stream);
        self.wish(Wish::Left { stream });
    }

    // The world's side. What the daemon does not wait for any more is dropped.

    pub(crate) fn set_clock(&self, now: Instant) {
        self.clock.set(now);
    }

    pub(crate) fn take_wishes(&self) -> Vec<Wish> {
        std::mem::take(&mut self.desk.borrow_mut())
    }

    pub(crate) fn completed(&self, op: OpId, outcome: Outcome) {
        if let Some(tell) = self.waiting.borrow_mut().remove(&op) {
            let _ = tell.send(outcome);
        }
    }

    pub(crate) fn datagram(&self, datagram: Datagram) {
        let _ = self.datagrams.send(datagram);
    }

    pub(crate) fn command(&self, command: Command) {
        let _ = self.commands.send(command);
    }

    pub(crate) fn filter_news(&self, news: FilterNews) {
        let _ = self.filter.send(news);
    }

    pub(crate) fn volume_input(&self, input: VolumeInput) {
        let _ = self.volume.send(input);
    }

    pub(crate) fn checked(&self, checker: CheckerId, finding: Finding) {
        let _ = self.findings.send((checker, finding));
    }

    pub(crate) fn permit(&self, stream: u64, permit: Permit) {
        if let Some(tell) = self.streams.borrow().get(&stream) {
            let _ = tell.send(permit);
        }
    }

    pub(crate) fn with_node<T>(&self, look: impl FnOnce(&Node) -> T) -> Option<T> {
        let node = self.node.borrow();
        let node = node.as_ref()?.try_borrow().ok()?;
        Some(look(&node))
    }
}
