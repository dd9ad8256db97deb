//! Hosts the simulated data path: one loop, one inbox, its streams over TCP.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    rc::Rc,
};

use ::turmoil::net::{TcpListener, TcpStream};
use havre_core::{ids::NodeId, machine::Out, rng::Rng};
use havre_runtime::agent::Inbox;
use tokio::sync::mpsc;

use super::stream::{Events, STREAM_PORT, Side, Stream, StreamEvent};
use crate::{
    direct::MODULE,
    net::HostId,
    port::{Port, Wish},
    volume::{SimVolume, VolumeAction, VolumeConfig, VolumeInput},
};

/// The data path of one host.
struct DataPath {
    port: Rc<Port>,
    volume: SimVolume,
    out: Out<VolumeAction>,
    inbox: Inbox,
    events: Events,
    stream: Option<Stream>,
    peer: HostId,
}

/// What woke the loop.
enum Woken {
    Input(VolumeInput),
    Stream(u64, StreamEvent),
    Accepted(TcpStream, SocketAddr),
    Time,
}

/// Runs the data path for as long as the daemon lives.
pub(super) async fn run(
    port: Rc<Port>,
    config: VolumeConfig,
    mut inputs: mpsc::UnboundedReceiver<VolumeInput>,
    inbox: Inbox,
) -> Result<(), String> {
    let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let listener = TcpListener::bind((any, STREAM_PORT)).await.map_err(|e| e.to_string())?;
    let (events, mut news) = mpsc::unbounded_channel();
    let mut volume = SimVolume::new(config, Rng::new(port.birth.secret ^ 1));
    if port.distrusts_cache.get() {
        volume.distrust_cache();
    }
    let peer = port.host.other();
    let mut path = DataPath {
        port: Rc::clone(&port),
        volume,
        out: Out::new(),
        inbox,
        events,
        stream: None,
        peer,
    };
    loop {
        let deadline = path.volume.deadline();
        let woken = tokio::select! {
            biased;
            Some(input) = inputs.recv() => Woken::Input(input),
            Some((stream, event)) = news.recv() => Woken::Stream(stream, event),
            accepted = listener.accept() => {
                let (tcp, from) = accepted.map_err(|error| error.to_string())?;
                Woken::Accepted(tcp, from)
            }
            () = port.volume_alarm.wait(deadline) => Woken::Time,
        };
        path.woken(woken);
    }
}

impl DataPath {
    fn woken(&mut self, woken: Woken) {
        match woken {
            Woken::Input(input) => self.input(input),
            Woken::Stream(stream, event) => self.stream_event(stream, event),
            Woken::Accepted(tcp, from) => {
                let events = self.events.clone();
                // The earlier stream is gone, whatever it was.
                self.stream = Some(Stream::accepted(&self.port, tcp, from.ip(), events));
                self.input(VolumeInput::Connected);
            }
            Woken::Time => {}
        }
        let now = self.port.now();
        if self.volume.deadline().is_some_and(|deadline| deadline <= now) {
            self.volume.handle_timeout(now, &mut self.out);
            self.perform();
        }
    }

    fn stream_event(&mut self, id: u64, event: StreamEvent) {
        let Some(stream) = self.stream.as_mut().filter(|stream| stream.id == id) else { return };
        match event {
            StreamEvent::Open(tcp, permits) => {
                stream.stands(tcp, permits, self.peer, Side::Target, self.events.clone());
                self.input(VolumeInput::Connected);
            }
            StreamEvent::Frame(frame) => self.input(VolumeInput::Frame(frame)),
            StreamEvent::Gone(reason) => {
                self.stream = None;
                self.input(VolumeInput::Disconnected { reason });
            }
        }
    }

    fn input(&mut self, input: VolumeInput) {
        self.volume.handle(self.port.now(), input, &mut self.out);
        self.port.distrusts_cache.set(self.volume.distrusts_cache());
        self.perform();
    }

    fn perform(&mut self) {
        let actions: Vec<VolumeAction> = self.out.drain().collect();
        for action in actions {
            match action {
                VolumeAction::Disk { id, op } => self.port.wish(Wish::Disk { id, op }),
                VolumeAction::Connect { peer: NodeId(peer) } => {
                    self.stream = None;
                    let to = HostId(peer as u8);
                    self.stream = Some(Stream::open(&self.port, to, self.events.clone()));
                }
                VolumeAction::Send(frame) => {
                    if let Some(stream) = &self.stream {
                        stream.send(&frame);
                    }
                }
                VolumeAction::Disconnect => self.stream = None,
                VolumeAction::Answer { id, answer } => {
                    self.port.wish(Wish::Called { id, answer });
                }
                VolumeAction::Completed { op, outcome } => self.port.completed(op, outcome),
                VolumeAction::News(news) => {
                    self.port.wish(Wish::Told(news.clone()));
                    self.inbox.volume_news(MODULE, news);
                }
            }
        }
    }
}
