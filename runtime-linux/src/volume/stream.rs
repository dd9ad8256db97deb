//! One TCP connection between the two data paths, nonblocking, under TLS 1.3.
//!
//! The connection is driven by the poll loop of the module's thread: [`Connection::fill`] takes
//! what the socket has, [`Connection::flush`] gives it what was queued. What is queued between two
//! flushes leaves in one write (corked), the socket itself never delays (`TCP_NODELAY`). Frames
//! are those of `havre_core::replication::stream`; how much may be queued is bounded by the
//! source's window.
//!
//! Both sides authenticate: the certificate must be signed by the cluster's own authority *and*
//! name the node that is expected, so that another node of the cluster cannot take a peer's place.

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use rustix::{
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, sockopt},
};
use rustls::{
    ClientConnection, ServerConnection,
    pki_types::ServerName,
    server::{ParsedCertificate, ServerConnectionData},
};

mod outgoing;
#[cfg(test)]
mod tests;

pub use outgoing::Frame;
use outgoing::Outgoing;

/// Bytes read from the socket in one go.
const READ_BYTES: usize = 256 << 10;
/// Bytes that one [`Connection::fill`] takes at most, so that one loop round stays short.
const FILL_BYTES_MAX: usize = 1 << 20;
/// Plain bytes handed to TLS before it must have written them.
const TLS_CHUNK: usize = 128 << 10;
/// Silence of the network after which the kernel gives the connection up.
const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// How the two data paths trust each other.
#[derive(Debug, Clone)]
pub enum Security {
    /// Not at all: tests within one process only.
    Plain,
    /// TLS 1.3 in both directions.
    Tls {
        /// Presents this node's certificate when it connects.
        client: Arc<rustls::ClientConfig>,
        /// Presents this node's certificate when it is connected to; asks for the peer's.
        server: Arc<rustls::ServerConfig>,
        /// The name that the peer's certificate must carry.
        peer: ServerName<'static>,
    },
}

/// One connection; see the module's description.
#[derive(Debug)]
pub struct Connection {
    socket: TcpStream,
    session: Session,
    connecting: bool,
    /// What one read of the socket gave.
    wire: Vec<u8>,
    input: Vec<u8>,
    input_start: usize,
    output: Outgoing,
}

#[derive(Debug)]
enum Session {
    Plain,
    Client(Box<ClientConnection>),
    Server { tls: Box<ServerConnection>, peer: ServerName<'static>, verified: bool },
}

impl Connection {
    /// Begins to connect to the source at `to`, from the local address `from`.
    pub fn connect(
        to: SocketAddr,
        from: Option<SocketAddr>,
        security: &Security,
    ) -> io::Result<Self> {
        let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
        if let Some(mut from) = from {
            from.set_port(0);
            rustix::net::bind(&socket, &from)?;
        }
        let connecting = match rustix::net::connect(&socket, &to) {
            Ok(()) => false,
            Err(Errno::INPROGRESS) => true,
            Err(error) => return Err(error.into()),
        };
        let session = match security {
            Security::Plain => Session::Plain,
            Security::Tls { client, peer, .. } => {
                let tls = ClientConnection::new(Arc::clone(client), peer.clone())
                    .map_err(io::Error::other)?;
                Session::Client(Box::new(tls))
            }
        };
        Self::new(socket, session, connecting)
    }

    /// Takes over a connection that the listening socket accepted.
    pub fn accepted(socket: TcpStream, security: &Security) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let session = match security {
            Security::Plain => Session::Plain,
            Security::Tls { server, peer, .. } => {
                let tls = ServerConnection::new(Arc::clone(server)).map_err(io::Error::other)?;
                Session::Server { tls: Box::new(tls), peer: peer.clone(), verified: false }
            }
        };
        Self::new(OwnedFd::from(socket), session, false)
    }

    fn new(socket: OwnedFd, session: Session, connecting: bool) -> io::Result<Self> {
        sockopt::set_tcp_nodelay(&socket, true)?;
        sockopt::set_socket_keepalive(&socket, true)?;
        sockopt::set_tcp_keepidle(&socket, Duration::from_secs(5))?;
        sockopt::set_tcp_keepintvl(&socket, Duration::from_secs(5))?;
        let timeout_ms = u32::try_from(USER_TIMEOUT.as_millis()).unwrap_or(u32::MAX);
        sockopt::set_tcp_user_timeout(&socket, timeout_ms)?;
        Ok(Self {
            socket: TcpStream::from(socket),
            session,
            connecting,
            wire: vec![0; READ_BYTES],
            input: Vec::new(),
            input_start: 0,
            output: Outgoing::default(),
        })
    }

    /// Whether the other end is connected and has proven who it is.
    pub fn is_established(&self) -> bool {
        !self.connecting
            && match &self.session {
                Session::Plain => true,
                Session::Client(tls) => !tls.is_handshaking(),
                Session::Server { verified, .. } => *verified,
            }
    }

    /// Where to append frames that the next [`flush`](Self::flush) sends.
    pub fn output(&mut self) -> &mut Vec<u8> {
        self.output.bytes()
    }

    /// Appends a frame that is kept elsewhere too.
    pub fn send(&mut self, frame: Arc<Frame>) {
        self.output.frame(frame);
    }

    /// Whether the loop must wait until the socket takes more.
    pub fn wants_write(&self) -> bool {
        self.connecting
            || match &self.session {
                Session::Plain => !self.output.is_empty(),
                Session::Client(tls) => {
                    tls.wants_write() || (!tls.is_handshaking() && !self.output.is_empty())
                }
                Session::Server { tls, verified, .. } => {
                    tls.wants_write() || (*verified && !self.output.is_empty())
                }
            }
    }

    /// Gives the socket what it takes now.
    ///
    /// Fails if the connection is gone or the peer is not who it must be.
    pub fn flush(&mut self) -> io::Result<()> {
        if self.connecting && !self.finish_connecting()? {
            return Ok(());
        }
        loop {
            let written = match &mut self.session {
                Session::Plain => {
                    if self.output.is_empty() {
                        break;
                    }
                    let socket = &mut self.socket;
                    let taken =
                        self.output.peek(usize::MAX, |slices| socket.write_vectored(slices));
                    if let Ok(count) = &taken {
                        self.output.consume(*count);
                    }
                    taken
                }
                Session::Client(tls) => {
                    let ready = !tls.is_handshaking();
                    feed(tls, ready, &mut self.output)?;
                    if !tls.wants_write() {
                        break;
                    }
                    tls.write_tls(&mut self.socket)
                }
                Session::Server { tls, verified, .. } => {
                    feed(tls, *verified, &mut self.output)?;
                    if !tls.wants_write() {
                        break;
                    }
                    tls.write_tls(&mut self.socket)
                }
            };
            match written {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn finish_connecting(&mut self) -> io::Result<bool> {
        if let Some(error) = self.socket.take_error()? {
            return Err(error);
        }
        match self.socket.peer_addr() {
            Ok(_) => self.connecting = false,
            Err(error) if error.kind() == ErrorKind::NotConnected => {}
            Err(error) => return Err(error),
        }
        Ok(!self.connecting)
    }

    /// Takes what the socket has now; says whether anything came.
    ///
    /// Fails if the connection is gone (an orderly end is `UnexpectedEof`) or the peer is not who
    /// it must be.
    pub fn fill(&mut self) -> io::Result<bool> {
        if self.connecting && !self.finish_connecting()? {
            return Ok(false);
        }
        if self.input_start > 0 {
            self.input.drain(..self.input_start);
            self.input_start = 0;
        }
        let before = self.input.len();
        while self.input.len() - before < FILL_BYTES_MAX {
            let read = self.socket.read(&mut self.wire);
            let wire = &self.wire[..*read.as_ref().unwrap_or(&0)];
            match &mut self.session {
                Session::Plain => self.input.extend_from_slice(wire),
                Session::Client(tls) => take_wire(tls, wire, &mut self.input, |_| Ok(()))?,
                Session::Server { tls, peer, verified } => {
                    take_wire(tls, wire, &mut self.input, |tls| {
                        if !*verified && !tls.is_handshaking() {
                            verify_peer(tls, peer)?;
                            *verified = true;
                        }
                        Ok(())
                    })?;
                }
            }
            match read {
                // The last words count: the end is reported by the next call.
                Ok(0) | Err(_) if self.input.len() > before => break,
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(self.input.len() > before)
    }

    /// Sends what is queued and says that nothing follows. Keep the connection and
    /// [`discard`](Self::discard) what arrives until that fails: closing it at once would make
    /// the kernel throw away what the other end has not read.
    pub fn finish(&mut self) {
        match &mut self.session {
            Session::Plain => {}
            Session::Client(tls) => tls.send_close_notify(),
            Session::Server { tls, .. } => tls.send_close_notify(),
        }
        // Whatever fails: the connection is given up.
        let _ = self.flush();
        let _ = self.socket.shutdown(std::net::Shutdown::Write);
    }

    /// Takes what arrives and forgets it.
    pub fn discard(&mut self) -> io::Result<()> {
        self.fill()?;
        self.consume(self.input().len());
        Ok(())
    }

    /// What arrived and was not consumed.
    pub fn input(&self) -> &[u8] {
        &self.input[self.input_start..]
    }

    /// Takes everything that arrived; [`give_back`](Self::give_back) returns what was not used.
    pub fn take_input(&mut self) -> Vec<u8> {
        let mut input = std::mem::take(&mut self.input);
        input.drain(..self.input_start);
        self.input_start = 0;
        input
    }

    /// Returns the buffer of [`take_input`](Self::take_input), of which `used` bytes are done.
    pub fn give_back(&mut self, input: Vec<u8>, used: usize) {
        assert!(self.input.is_empty(), "nothing is read meanwhile");
        self.input = input;
        self.input_start = used;
    }

    /// Drops the first `count` bytes of [`input`](Self::input).
    pub fn consume(&mut self, count: usize) {
        self.input_start = (self.input_start + count).min(self.input.len());
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Hands plain bytes to TLS if it has nothing left to write.
fn feed<Data>(
    tls: &mut rustls::ConnectionCommon<Data>,
    ready: bool,
    output: &mut Outgoing,
) -> io::Result<()> {
    if ready && !tls.wants_write() && !output.is_empty() {
        let count = output.peek(TLS_CHUNK, |slices| tls.writer().write_vectored(slices))?;
        output.consume(count);
    }
    Ok(())
}

/// Has TLS take what came from the socket; `check` is called before anything is believed.
fn take_wire<Data>(
    tls: &mut rustls::ConnectionCommon<Data>,
    mut wire: &[u8],
    input: &mut Vec<u8>,
    mut check: impl FnMut(&rustls::ConnectionCommon<Data>) -> io::Result<()>,
) -> io::Result<()> {
    while !wire.is_empty() {
        // It takes a few KiB at a time.
        tls.read_tls(&mut wire)?;
        tls.process_new_packets().map_err(io::Error::other)?;
        check(tls)?;
        drain_plain(tls.reader(), input)?;
    }
    Ok(())
}

fn drain_plain(mut reader: rustls::Reader<'_>, input: &mut Vec<u8>) -> io::Result<()> {
    match reader.read_to_end(input) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(error),
    }
}

/// A client's certificate must name the expected node, as a server's must.
fn verify_peer(
    tls: &rustls::ConnectionCommon<ServerConnectionData>,
    peer: &ServerName<'static>,
) -> io::Result<()> {
    let certificate = tls
        .peer_certificates()
        .and_then(<[_]>::first)
        .ok_or_else(|| io::Error::other("the peer shows no certificate"))?;
    let parsed = ParsedCertificate::try_from(certificate).map_err(io::Error::other)?;
    rustls::client::verify_server_name(&parsed, peer).map_err(io::Error::other)
}
