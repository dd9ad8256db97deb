//! What the engine's queue holds.

use havre_core::{
    effect::{AddressRequest, ModuleOrder, Outcome, ScriptCall, VolumeNews},
    farm::table::FilterRequest,
    ids::{CheckerId, NodeId, OpId},
    time::Instant,
    wire::message::Message,
};

use crate::{
    direct::hosted::Inbound,
    disk::Ticket,
    net::{HostId, stream::StreamId},
    time::SimTime,
    volume::{CallAnswer, CallId, Frame},
};

/// Something that a machine has to deal with; waits while the machine is paused.
#[derive(Debug, Clone)]
pub(super) enum Work {
    /// A datagram came in.
    Datagram { net: u8, from: NodeId, message: Box<Message> },
    /// The node's deadline.
    Wake,
    /// The data path's deadline.
    WakeVolume,
    /// A disk operation is ready.
    Disk(Ticket),
    /// A script ends by itself.
    ScriptEnds { op: OpId },
    /// A script has run for as long as it may.
    ScriptLimit { op: OpId },
    /// What scripts left behind is dead.
    Killed { op: OpId },
    /// An order about addresses takes effect.
    Address { op: OpId, request: AddressRequest, tries: u32 },
    /// An order about the packet filter takes effect.
    Filter { op: OpId, request: FilterRequest },
    /// A ping was answered, or not.
    Pinged { op: OpId, reached: bool },
    /// A question of a checker is answered.
    Probed { op: OpId },
    /// The system tells of what a checker watches.
    Watched { checker: CheckerId },
    /// A detector outside gives an order.
    OrderBy(ModuleOrder),
    /// A chunk of a stream came in.
    Chunk { stream: StreamId, frame: Box<Frame> },
    /// The peer's data path connected.
    Incoming { stream: StreamId },
    /// The stream that was asked for stands.
    Connected { stream: StreamId, attempt: u64 },
    /// It could not be opened.
    NotConnected { attempt: u64 },
    /// The data path answers the application.
    Answered { id: CallId, answer: CallAnswer },
    /// The data path has carried out an order.
    VolumeCompleted { op: OpId, outcome: Outcome },
    /// The data path has news.
    VolumeNews(VolumeNews),
    /// A stream is gone.
    Closed { stream: StreamId },
    /// An administrator gives an order.
    Order(ModuleOrder),
    /// Something for a daemon that runs in the other engine.
    Hosted(Inbound),
}

/// What happens.
#[derive(Debug, Clone)]
pub(super) enum Event {
    /// A machine has to deal with something, if it is still in that run.
    Host { host: HostId, run: u32, work: Work, delayed: bool },
    /// A datagram arrives.
    Datagram { net: u8, from: HostId, to: HostId, message: Box<Message> },
    /// A data path asks for a stream.
    Opening { from: HostId, run: u32, attempt: u64, to: HostId, since: SimTime },
    /// The head of one direction of a stream is due.
    Stream { id: StreamId, side: usize },
    /// One end of a stream learns that it is gone.
    StreamGone { id: StreamId, host: HostId },
    /// The client looks for work.
    Client,
    /// A step of the plan.
    Step(usize),
    /// A step of the plan ends.
    Undo(usize, HostId),
    /// The condition of a step is looked at again.
    Check(usize),
    /// Power fails now.
    PowerFails { host: HostId, run: u32, step: usize },
    /// Power returns.
    PowerReturns(HostId),
    /// The service manager starts the daemon again.
    DaemonStarts(HostId),
    /// A paused machine goes on.
    Resume { host: HostId, pause: u32 },
    /// The kernel removes an address that nobody renews.
    AddressExpires { host: HostId, boot: u32 },
    /// The moment that a guard was told.
    Guard { host: HostId, until: Instant },
    /// An administrator starts a module that is stopped.
    StartIfStopped(HostId),
    /// Clients of a farm come.
    FarmClients,
    /// Clients of a farm send.
    FarmPackets,
    /// A node of a farm looks at its connections.
    FarmLooks(HostId),
    /// The run is over.
    End,
}

/// A script that runs.
#[derive(Debug, Clone)]
pub(super) struct RunningScript {
    pub(super) op: OpId,
    pub(super) call: ScriptCall,
    pub(super) fails: bool,
}
