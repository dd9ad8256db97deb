//! Streams of the data paths over turmoil's TCP: framing, opening, time limits, the end.
//!
//! Segments cross the wire at once and wait where they arrive until the weather lets them pass;
//! while they wait nothing more is read, so that a blocked stream holds its sender back. The end
//! of a stream waits its turn behind the segments before it.

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    time::Duration,
};

use ::turmoil::net::{
    TcpStream,
    tcp::{OwnedReadHalf, OwnedWriteHalf},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::mpsc,
    task::JoinHandle,
    time::timeout,
};

use super::{host_of, ip_of};
use crate::{
    net::HostId,
    port::{Permit, Port, Wish},
    volume::Frame,
};

/// Port of the data paths.
pub(super) const STREAM_PORT: u16 = 4_810;
/// How long the kernel is given to open a stream once the way is free.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How long one frame may wait for room.
const WRITE_LIMIT: Duration = Duration::from_secs(20);
/// Segments that wait for the weather; beyond it the sender is held back.
const WAITING_MAX: usize = 1_024;
/// Bytes read at once.
const READ_BYTES: usize = 64 << 10;

/// News of a stream.
pub(super) enum StreamEvent {
    /// It stands.
    Open(TcpStream, mpsc::UnboundedReceiver<Permit>),
    /// A frame arrived.
    Frame(Frame),
    /// It is gone, or could not be opened.
    Gone(String),
}

/// Where streams tell their news: their number and what happened.
pub(super) type Events = mpsc::UnboundedSender<(u64, StreamEvent)>;

/// Which way frames come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// The end that listened: frames for a source.
    Source,
    /// The end that connected: frames for a target.
    Target,
}

/// One end of a stream. Dropped: what was sent still leaves, nothing more comes in.
pub(super) struct Stream {
    pub(super) id: u64,
    port: Rc<Port>,
    outgoing: Option<mpsc::UnboundedSender<Vec<u8>>>,
    task: JoinHandle<()>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.task.abort();
        self.port.leave(self.id);
    }
}

impl Stream {
    /// Asks the weather and then the kernel for a stream.
    pub(super) fn open(port: &Rc<Port>, to: HostId, events: Events) -> Self {
        let (id, mut permits) = port.stream();
        port.wish(Wish::Knock { stream: id, to });
        let task = tokio::task::spawn_local(async move {
            let event = match permits.recv().await {
                Some(Permit::Pass) => {
                    let address = SocketAddr::from((ip_of(to), STREAM_PORT));
                    match timeout(CONNECT_LIMIT, TcpStream::connect(address)).await {
                        Ok(Ok(tcp)) => StreamEvent::Open(tcp, permits),
                        Ok(Err(error)) => StreamEvent::Gone(format!("cannot connect: {error}")),
                        Err(_) => StreamEvent::Gone("cannot connect: no answer".into()),
                    }
                }
                _ => StreamEvent::Gone("cannot connect: the host does not answer".into()),
            };
            let _ = events.send((id, event));
        });
        Self { id, port: Rc::clone(port), outgoing: None, task }
    }

    /// Takes a stream that the peer has opened.
    pub(super) fn accepted(port: &Rc<Port>, tcp: TcpStream, from: IpAddr, events: Events) -> Self {
        let (id, permits) = port.stream();
        let mut stream = Self { id, port: Rc::clone(port), outgoing: None, task: spawn_nothing() };
        stream.stands(tcp, permits, host_of(from), Side::Source, events);
        stream
    }

    /// The stream stands: frames flow.
    pub(super) fn stands(
        &mut self,
        tcp: TcpStream,
        permits: mpsc::UnboundedReceiver<Permit>,
        peer: HostId,
        side: Side,
        events: Events,
    ) {
        let (read, write) = tcp.into_split();
        let (outgoing, frames) = mpsc::unbounded_channel();
        self.outgoing = Some(outgoing);
        tokio::task::spawn_local(send(self.id, write, frames, events.clone()));
        let incoming = Incoming {
            id: self.id,
            port: Rc::clone(&self.port),
            peer,
            side,
            buffer: Vec::new(),
            events,
        };
        self.task = tokio::task::spawn_local(incoming.receive(read, permits));
    }

    /// Sends a frame, if the stream stands.
    pub(super) fn send(&self, frame: &Frame) {
        if let Some(outgoing) = &self.outgoing {
            // A sender that gave up has told so.
            let _ = outgoing.send(frame.encode());
        }
    }
}

fn spawn_nothing() -> JoinHandle<()> {
    tokio::task::spawn_local(async {})
}

/// Sends frames until the stream's owner leaves it, then says good-bye.
async fn send(
    id: u64,
    mut write: OwnedWriteHalf,
    mut frames: mpsc::UnboundedReceiver<Vec<u8>>,
    events: Events,
) {
    while let Some(frame) = frames.recv().await {
        let reason = match timeout(WRITE_LIMIT, write.write_all(&frame)).await {
            Ok(Ok(())) => continue,
            Ok(Err(error)) => format!("cannot send: {error}"),
            Err(_) => "cannot send: the peer takes nothing".into(),
        };
        let _ = events.send((id, StreamEvent::Gone(reason)));
        return;
    }
    let _ = timeout(WRITE_LIMIT, write.shutdown()).await;
}

/// The receiving half of a stream.
struct Incoming {
    id: u64,
    port: Rc<Port>,
    peer: HostId,
    side: Side,
    buffer: Vec<u8>,
    events: Events,
}

impl Incoming {
    async fn receive(
        mut self,
        mut read: OwnedReadHalf,
        mut permits: mpsc::UnboundedReceiver<Permit>,
    ) {
        let mut waiting: VecDeque<Result<Vec<u8>, String>> = VecDeque::new();
        let mut ended = false;
        let mut bytes = vec![0; READ_BYTES];
        loop {
            tokio::select! {
                biased;
                permit = permits.recv() => {
                    let passed = match permit {
                        Some(Permit::Pass) => waiting.pop_front(),
                        _ => Some(Err("the connection timed out".into())),
                    };
                    let outcome = passed.map_or(Ok(()), |passed| self.pass(passed));
                    if let Err(reason) = outcome {
                        let _ = self.events.send((self.id, StreamEvent::Gone(reason)));
                        return;
                    }
                }
                read = read.read(&mut bytes), if !ended && waiting.len() < WAITING_MAX => {
                    waiting.push_back(match read {
                        Ok(0) => Err("the connection ended".into()),
                        Ok(length) => Ok(bytes[..length].to_vec()),
                        Err(error) => Err(format!("the connection broke: {error}")),
                    });
                    ended = matches!(waiting.back(), Some(Err(_)));
                    self.port.wish(Wish::Segment { stream: self.id, from: self.peer });
                }
            }
        }
    }

    /// Takes a segment that the weather let through; an error ends the stream.
    fn pass(&mut self, segment: Result<Vec<u8>, String>) -> Result<(), String> {
        self.buffer.extend_from_slice(&segment?);
        loop {
            let decoded = match self.side {
                Side::Source => Frame::decode_to_source(&self.buffer),
                Side::Target => Frame::decode_to_target(&self.buffer),
            };
            let Some((frame, used)) = decoded.map_err(|error| error.to_string())? else {
                return Ok(());
            };
            self.buffer.drain(..used);
            let _ = self.events.send((self.id, StreamEvent::Frame(frame)));
        }
    }
}
