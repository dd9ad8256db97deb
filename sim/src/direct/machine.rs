//! One simulated machine: power, clock, disk, operating system, and the daemon that runs on it.

use std::collections::VecDeque;

use havre_core::{
    effect::{Effect, Record, WitnessRecord},
    ids::{ModuleId, NodeId, OpId},
    machine::Out,
    node::Node,
    quorum::witness::{self, Witness},
    wire::message::Message,
};

use crate::{
    chance::{Chance, Purpose},
    direct::{clock::Clock, event::Work, hosted::HostedDaemon, os::Os, store::Store},
    disk::{DiskTiming, SimDisk},
    net::{HostId, stream::StreamId},
    pending::Pending,
    time::SimTime,
    volume::{SimVolume, VolumeAction},
};

/// Everything on one machine.
pub(super) struct Machine {
    pub(super) powered: bool,
    pub(super) paused: bool,
    /// The service manager would have started the daemon during the pause.
    pub(super) starts_on_resume: bool,
    /// Counts pauses, so that the end of an earlier one does not end a later one.
    pub(super) pauses: u32,
    /// Counts daemons and boots: what was ordered in an earlier run completes no more.
    pub(super) run: u32,
    /// Extra time that each input takes.
    pub(super) lag_us: u64,
    /// When the last delayed input will have been handled.
    pub(super) busy_until: SimTime,
    /// What arrived during a pause.
    pub(super) inbox: VecDeque<Work>,
    pub(super) clock: Clock,
    pub(super) disk: SimDisk,
    pub(super) os: Os,
    pub(super) daemon: Daemon,
    /// Durations and choices of the operating system.
    pub(super) chance: Chance,
    pub(super) draws: u64,
}

/// The process of Havre on a machine.
pub(super) enum Daemon {
    /// It does not run.
    Off,
    /// A data node's.
    Node(Box<NodeDaemon>),
    /// The witness's.
    Witness(Box<WitnessDaemon>),
    /// One that runs in the other engine.
    Hosted(Box<HostedDaemon>),
}

/// A data node's process.
pub(super) struct NodeDaemon {
    pub(super) node: Node,
    pub(super) out: Out<Effect>,
    pub(super) volume: SimVolume,
    pub(super) volume_out: Out<VolumeAction>,
    /// Operations of the data path on the disk.
    pub(super) volume_io: Pending<u64>,
    pub(super) store: Store<(OpId, Record)>,
    /// Datagrams that wait until a record is durable.
    pub(super) held: Vec<(OpId, NodeId, havre_core::effect::Route, Message)>,
    /// Orders for records that have not ended.
    pub(super) unsaved: Vec<OpId>,
    pub(super) wake: Option<SimTime>,
    pub(super) volume_wake: Option<SimTime>,
    pub(super) requests: u64,
    /// The order that lets the application in.
    pub(super) serving: Option<OpId>,
    /// The stream to the peer's data path.
    pub(super) stream: Option<StreamId>,
    /// The attempt to open one.
    pub(super) connecting: Option<u64>,
    pub(super) attempts: u64,
}

/// The witness's process.
pub(super) struct WitnessDaemon {
    pub(super) witness: Witness<ModuleId>,
    pub(super) out: Out<witness::Action<ModuleId>>,
    pub(super) store: Store<(OpId, ModuleId, WitnessRecord)>,
    pub(super) wake: Option<SimTime>,
}

impl Machine {
    pub(super) fn new(seed: u64, id: HostId, timing: DiskTiming, ppm: i32) -> Self {
        let which = u64::from(id.0);
        Self {
            powered: true,
            paused: false,
            starts_on_resume: false,
            pauses: 0,
            run: 0,
            lag_us: 0,
            busy_until: SimTime::ZERO,
            inbox: VecDeque::new(),
            clock: Clock::new(
                SimTime::ZERO,
                Chance::new(seed, Purpose::Clock, which).between(0, 1, 100_000_000_000_000),
                ppm,
            ),
            disk: SimDisk::new(seed, which, timing),
            os: Os::default(),
            daemon: Daemon::Off,
            chance: Chance::new(seed, Purpose::Os, which),
            draws: 0,
        }
    }

    /// A duration or a choice in `low..=high`.
    pub(super) fn draw(&mut self, low: u64, high: u64) -> u64 {
        self.draws += 1;
        self.chance.between(self.draws, low, high)
    }

    /// Whether the machine does anything.
    pub(super) const fn is_live(&self) -> bool {
        self.powered && !self.paused
    }

    pub(super) fn node(&self) -> Option<&NodeDaemon> {
        match &self.daemon {
            Daemon::Node(node) => Some(node),
            _ => None,
        }
    }

    pub(super) fn node_mut(&mut self) -> Option<&mut NodeDaemon> {
        match &mut self.daemon {
            Daemon::Node(node) => Some(node),
            _ => None,
        }
    }
}

/// Which host a node is.
pub(super) const fn host_of(node: NodeId) -> HostId {
    if node.0 == NodeId::WITNESS.0 { HostId::W } else { HostId::node(node.0 as u8) }
}

/// Which node a host is.
pub(super) const fn node_of(host: HostId) -> NodeId {
    match host.0 {
        0 | 1 => NodeId(host.0 as u16),
        2 => NodeId::WITNESS,
        // The router and the client are no nodes.
        number => NodeId(number as u16 - 3),
    }
}
