//! The target's connection, as the source sees it.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    os::fd::{AsFd as _, BorrowedFd},
    sync::Arc,
    time::Duration,
};

use havre_core::{
    replication::{
        intent::MarkId,
        item::{Answer, Item},
        source::{PeerInput, SourceInput},
        stream::{ToSource, split_frame},
    },
    time::Instant,
};

use super::SourceSide;
use crate::{
    clock,
    volume::{
        settings::Settings,
        stream::{Connection, Frame, Security},
    },
};

/// Time in which a new connection must have proven itself and said hello.
const HELLO_LIMIT: Duration = Duration::from_secs(10);
/// How often a busy loop looks for new connections.
const LOOK_PERIOD: Duration = Duration::from_millis(10);
/// Connections that have not said hello.
const STRANGERS_MAX: usize = 4;

/// Listens, and holds the one connection that counts.
#[derive(Debug)]
pub(super) struct Peer {
    address: SocketAddr,
    security: Security,
    listener: Option<TcpListener>,
    connection: Option<Connection>,
    strangers: Vec<(Connection, Instant)>,
    /// When the listener is looked at next though nothing woke the loop.
    look_at: Instant,
}

impl Peer {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            address: settings.listen,
            security: settings.security.clone(),
            listener: None,
            connection: None,
            strangers: Vec::new(),
            look_at: Instant::ZERO,
        }
    }

    /// Somebody may be waiting to be let in: the loop was woken.
    pub(super) fn look(&mut self) {
        self.look_at = Instant::ZERO;
    }

    /// Lets the target connect.
    pub(super) fn listen(&mut self) -> Result<(), String> {
        if self.listener.is_none() {
            let explain = |error: io::Error| format!("data port {}: {error}", self.address);
            let listener = TcpListener::bind(self.address).map_err(explain)?;
            listener.set_nonblocking(true).map_err(explain)?;
            self.listener = Some(listener);
        }
        Ok(())
    }

    pub(super) fn poll(&self) -> Vec<(BorrowedFd<'_>, bool)> {
        let listener = self.listener.iter().map(|listener| (listener.as_fd(), false));
        let connections = self.connection.iter().chain(self.strangers.iter().map(|(c, _)| c));
        listener
            .chain(connections.map(|connection| (connection.as_fd(), connection.wants_write())))
            .collect()
    }

    pub(super) fn deadline(&self) -> Instant {
        self.strangers.iter().map(|(_, until)| *until).min().unwrap_or(Instant::FAR_FUTURE)
    }

    /// Where to append frames, if somebody is connected.
    pub(super) fn output(&mut self) -> Option<&mut Vec<u8>> {
        self.connection.as_mut().map(Connection::output)
    }

    pub(super) fn send(&mut self, frame: &Arc<Frame>) {
        if let Some(connection) = &mut self.connection {
            connection.send(Arc::clone(frame));
        }
    }

    /// Closes the connection after what was sent, as far as the socket takes it now.
    pub(super) fn disconnect(&mut self) {
        if let Some(mut connection) = self.connection.take() {
            // The other end learns of it one way or the other.
            let _ = connection.flush();
        }
    }

    fn accept(&mut self, now: Instant) -> bool {
        let Some(listener) = &self.listener else { return false };
        if now < self.look_at {
            return false;
        }
        self.look_at = now + LOOK_PERIOD;
        let mut active = false;
        while let Ok((socket, _)) = listener.accept() {
            active = true;
            match Connection::accepted(socket, &self.security) {
                Ok(connection) if self.strangers.len() < STRANGERS_MAX => {
                    self.strangers.push((connection, now + HELLO_LIMIT));
                }
                Ok(_) => tracing::warn!("too many connections to the data port"),
                Err(error) => tracing::warn!(%error, "a connection to the data port failed"),
            }
        }
        active
    }

    /// Looks for a stranger that says hello, and takes its connection.
    fn greet(&mut self, now: Instant) -> Option<(Connection, ToSource)> {
        let mut greeted = None;
        let mut kept = Vec::new();
        for (mut connection, until) in std::mem::take(&mut self.strangers) {
            let alive = connection.flush().and_then(|()| connection.fill());
            if let Err(error) = alive {
                tracing::warn!(%error, "a connection to the data port is refused");
                continue;
            }
            let hello = match split_frame::<ToSource>(connection.input()) {
                Ok(Some((message, _, used))) => Some((message, used)),
                Ok(None) => None,
                Err(error) => {
                    tracing::warn!(%error, "a connection to the data port is refused");
                    continue;
                }
            };
            match hello {
                Some((message, used)) if greeted.is_none() && connection.is_established() => {
                    connection.consume(used);
                    greeted = Some((connection, message));
                }
                _ if until > now => kept.push((connection, until)),
                _ => tracing::warn!("a connection to the data port said nothing"),
            }
        }
        self.strangers = kept;
        greeted
    }
}

impl SourceSide {
    pub(super) fn take_peer(&mut self) -> bool {
        let now = clock::now();
        let mut active = self.peer.accept(now);
        if !self.peer.strangers.is_empty()
            && let Some((connection, message)) = self.peer.greet(now)
        {
            active = true;
            if let ToSource::Hello(hello) = message {
                self.peer.connection = Some(connection);
                self.input(SourceInput::Peer(PeerInput::Connected(hello)));
                self.run();
            }
        }
        let Some(connection) = &mut self.peer.connection else { return active };
        match connection.fill() {
            Ok(came) => active |= came,
            Err(error) => {
                self.lose_peer(&format!("the connection ended: {error}"));
                self.run();
                return true;
            }
        }
        self.take_messages();
        active
    }

    fn take_messages(&mut self) {
        while let Some(connection) = &mut self.peer.connection {
            let message = match split_frame::<ToSource>(connection.input()) {
                Ok(Some((message, _, used))) => {
                    connection.consume(used);
                    message
                }
                Ok(None) => return,
                Err(error) => {
                    self.lose_peer(&error.to_string());
                    self.run();
                    return;
                }
            };
            self.take_message(message);
            self.run();
        }
    }

    fn take_message(&mut self, message: ToSource) {
        let input = match message {
            ToSource::Hello(hello) => PeerInput::Connected(hello),
            ToSource::Marks { items, everything, last } => {
                let mut marks: Vec<MarkId> = Vec::with_capacity(items.len() + 1);
                for item in items {
                    match Item::decode(&item.0) {
                        Ok(item) => marks.push(self.table.id(item)),
                        Err(error) => return self.lose_peer(&error.to_string()),
                    }
                }
                marks.extend(everything.then_some(MarkId::EVERYTHING));
                PeerInput::Marks { marks, last }
            }
            ToSource::Ack { received, durable } => PeerInput::Ack { received, durable },
            ToSource::Answer { body, .. } => match Answer::decode(&body) {
                Ok(answer) => return self.copying.answer(answer),
                Err(error) => PeerInput::Gone { reason: error.to_string() },
            },
            ToSource::Failed { reason } => {
                PeerInput::Gone { reason: format!("the other node says: {reason}") }
            }
        };
        self.input(SourceInput::Peer(input));
    }

    pub(super) fn lose_peer(&mut self, reason: &str) {
        let reason = reason.to_owned();
        self.input(SourceInput::Peer(PeerInput::Gone { reason }));
        self.peer.connection = None;
    }

    pub(super) fn flush_peer(&mut self) {
        let Some(connection) = &mut self.peer.connection else { return };
        if let Err(error) = connection.flush() {
            self.lose_peer(&format!("the connection broke: {error}"));
            self.run();
        }
    }
}
