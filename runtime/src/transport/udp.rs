//! Datagrams over the system's UDP sockets: one socket per network, bound to the node's address
//! on it, and one for the witness.
//!
//! A network whose address does not exist yet (card down at boot) is tried again every second;
//! the node works with the others meanwhile.

use std::{
    cell::{Cell, RefCell},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs},
    task::{Context, Poll},
    time::Duration,
};

use havre_core::{
    config::cluster::ClusterConfig,
    ids::{LinkId, NodeId},
};
use thiserror::Error;
use tokio::{
    io::ReadBuf,
    net::UdpSocket,
    time::{Instant, sleep_until},
};
use tracing::{debug, info, warn};

use crate::net::{DATAGRAM_BYTES_MAX, Datagram, Net, Peers};

/// Time between two attempts to open a network's socket.
const RETRY_PERIOD: Duration = Duration::from_secs(1);
/// Errors of one socket skipped per call, so that a failing one cannot hold the loop.
const SOCKET_ERRORS_MAX: usize = 16;

/// Why a node cannot use its networks.
#[derive(Debug, Error)]
pub enum UdpError {
    /// A name has no address.
    #[error(
        "cannot find the address of \"{name}\" ({source}): use an IP address in cluster.xml, or \
         repair name resolution"
    )]
    Resolve {
        /// The name.
        name: String,
        /// What the system said.
        source: io::Error,
    },
    /// Another program has the port.
    #[error(
        "UDP port {} is in use on {}: stop the other program, or choose another port in \
         cluster.xml on all nodes", .0.port(), .0.ip()
    )]
    InUse(SocketAddr),
    /// The system refuses the socket.
    #[error("cannot open {address}: {source}")]
    Socket {
        /// The local address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// One network.
struct Link {
    id: LinkId,
    local: SocketAddr,
    socket: RefCell<Option<Socket>>,
}

/// One socket, held twice.
struct Socket {
    /// Wakes the node when something arrives.
    waking: UdpSocket,
    /// Sends, and takes what has arrived, by plain calls: tokio's own do nothing as long as its
    /// event loop has not seen that the socket is ready, which is when a starved node needs them.
    direct: std::net::UdpSocket,
}

/// The networks of a node.
pub struct UdpNet {
    links: Vec<Link>,
    retry_at: Cell<Instant>,
    /// The network asked first next time, so that a busy one cannot starve the others.
    first: Cell<usize>,
}

impl UdpNet {
    /// Opens the networks on which `node` is. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// A port is in use, or an address cannot be found.
    pub fn open(config: &ClusterConfig, node: NodeId) -> Result<Self, UdpError> {
        let mut links = Vec::new();
        for (id, lan) in (0u16..).map(LinkId).zip(&config.lans) {
            let Some(member) = lan.nodes.iter().find(|member| member.node == node) else {
                continue;
            };
            let local = member.local_addr.as_ref().unwrap_or(&member.addr);
            links.push(Link::open(id, resolve(local, config.port)?)?);
        }
        if let Some(witness) = &config.witness {
            let any = match resolve(&witness.addr, witness.port)?.ip() {
                IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            };
            links.push(Link::open(LinkId::WITNESS, SocketAddr::new(any, 0))?);
        }
        Ok(Self { links, retry_at: Cell::new(Instant::now() + RETRY_PERIOD), first: Cell::new(0) })
    }

    /// Opens one socket on which any sender is heard, as the witness does.
    ///
    /// # Errors
    /// The port is in use, or no network card has the address.
    pub fn listen(local: SocketAddr) -> Result<Self, UdpError> {
        let socket = bind(local)?.ok_or_else(|| UdpError::Socket {
            address: local,
            source: io::ErrorKind::AddrNotAvailable.into(),
        })?;
        let link = Link { id: LinkId::WITNESS, local, socket: RefCell::new(Some(socket)) };
        let retry_at = Cell::new(Instant::now() + RETRY_PERIOD);
        Ok(Self { links: vec![link], retry_at, first: Cell::new(0) })
    }

    /// The address of the first network's socket.
    pub fn local_address(&self) -> Option<SocketAddr> {
        self.links.first()?.socket.borrow().as_ref()?.direct.local_addr().ok()
    }

    /// Tries again to open what could not be opened.
    fn retry(&self) {
        if Instant::now() < self.retry_at.get() {
            return;
        }
        self.retry_at.set(Instant::now() + RETRY_PERIOD);
        for link in &self.links {
            if link.socket.borrow().is_none()
                && let Ok(Some(socket)) = bind(link.local)
            {
                info!(link = %link.id, address = %link.local, "network opened");
                link.socket.replace(Some(socket));
            }
        }
    }

    fn all_open(&self) -> bool {
        self.links.iter().all(|link| link.socket.borrow().is_some())
    }

    fn poll_receive(&self, context: &mut Context<'_>) -> Poll<Datagram> {
        let first = self.first.get();
        for offset in 0..self.links.len() {
            let index = (first + offset) % self.links.len();
            if let Poll::Ready(datagram) = self.links[index].poll_receive(context) {
                self.first.set((index + 1) % self.links.len());
                return Poll::Ready(datagram);
            }
        }
        Poll::Pending
    }
}

impl Net for UdpNet {
    fn send(&self, link: LinkId, to: SocketAddr, bytes: &[u8]) {
        let Some(link) = self.links.iter().find(|known| known.id == link) else { return };
        if let Some(socket) = link.socket.borrow().as_ref()
            && let Err(error) = socket.direct.send_to(bytes, to)
        {
            debug!(link = %link.id, %to, %error, "datagram not sent");
        }
    }

    async fn receive(&self) -> Datagram {
        loop {
            self.retry();
            let arrived = std::future::poll_fn(|context| self.poll_receive(context));
            tokio::select! {
                biased;
                datagram = arrived => return datagram,
                () = sleep_until(self.retry_at.get()), if !self.all_open() => {}
            }
        }
    }

    fn try_receive(&self) -> Option<Datagram> {
        self.links.iter().find_map(Link::try_receive)
    }
}

impl Link {
    fn open(id: LinkId, local: SocketAddr) -> Result<Self, UdpError> {
        let socket = bind(local)?;
        if socket.is_none() {
            warn!(link = %id, address = %local, "no network card has this address yet");
        }
        Ok(Self { id, local, socket: RefCell::new(socket) })
    }

    fn poll_receive(&self, context: &mut Context<'_>) -> Poll<Datagram> {
        let socket = self.socket.borrow();
        let Some(socket) = socket.as_ref() else { return Poll::Pending };
        let mut bytes = vec![0; DATAGRAM_BYTES_MAX];
        for _ in 0..SOCKET_ERRORS_MAX {
            let mut buffer = ReadBuf::new(&mut bytes);
            match socket.waking.poll_recv_from(context, &mut buffer) {
                Poll::Ready(Ok(from)) => {
                    let length = buffer.filled().len();
                    bytes.truncate(length);
                    return Poll::Ready(Datagram { link: self.id, from, bytes });
                }
                // An error report about an earlier datagram: the next call reads on.
                Poll::Ready(Err(error)) => debug!(link = %self.id, %error, "receive failed"),
                Poll::Pending => return Poll::Pending,
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    fn try_receive(&self) -> Option<Datagram> {
        let socket = self.socket.borrow();
        let mut bytes = vec![0; DATAGRAM_BYTES_MAX];
        let (length, from) = socket.as_ref()?.direct.recv_from(&mut bytes).ok()?;
        bytes.truncate(length);
        Some(Datagram { link: self.id, from, bytes })
    }
}

/// Opens a socket; `None` if no network card has the address at present.
fn bind(local: SocketAddr) -> Result<Option<Socket>, UdpError> {
    let opened = std::net::UdpSocket::bind(local).and_then(|direct| {
        direct.set_nonblocking(true)?;
        let waking = UdpSocket::from_std(direct.try_clone()?)?;
        Ok(Socket { waking, direct })
    });
    match opened {
        Ok(socket) => Ok(Some(socket)),
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(UdpError::InUse(local)),
        Err(source) => Err(UdpError::Socket { address: local, source }),
    }
}

/// Where the members of a cluster listen, as seen from `node`. Looks names up.
///
/// # Errors
/// A name has no address.
pub fn peers(config: &ClusterConfig, node: NodeId) -> Result<Peers, UdpError> {
    let mut peers = Peers::new();
    for (link, lan) in (0u16..).map(LinkId).zip(&config.lans) {
        if lan.nodes.iter().all(|member| member.node != node) {
            continue;
        }
        for member in lan.nodes.iter().filter(|member| member.node != node) {
            peers.insert(member.node, link, resolve(&member.addr, config.port)?);
        }
    }
    if let Some(witness) = &config.witness {
        let address = resolve(&witness.addr, witness.port)?;
        peers.insert(NodeId::WITNESS, LinkId::WITNESS, address);
    }
    Ok(peers)
}

/// The first address of a name.
///
/// # Errors
/// It has none.
pub fn resolve(name: &str, port: u16) -> Result<SocketAddr, UdpError> {
    let failed = |source| UdpError::Resolve { name: name.to_owned(), source };
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Ok(SocketAddr::new(address, port));
    }
    let mut found = (bare, port).to_socket_addrs().map_err(failed)?;
    found.next().ok_or_else(|| failed(io::Error::other("no address")))
}

#[cfg(test)]
mod tests;
