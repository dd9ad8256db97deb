//! Datagrams of the production agent over turmoil's UDP.
//!
//! A datagram crosses the wire at once, behind its number; its fate (lost, late, twice, dropped
//! by a cut) is drawn when it leaves and carried out where it arrives, so that a sender that dies
//! a moment later does not take back what it sent.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    future::poll_fn,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    rc::Rc,
};

use ::turmoil::net::UdpSocket;
use havre_core::ids::LinkId;
use havre_runtime::net::{DATAGRAM_BYTES_MAX, Datagram, Net};
use tokio::sync::mpsc;

use super::{host_of, port_of};
use crate::{
    net::{HostId, NETS_MAX},
    port::{Port, Wish},
};

/// Bytes of the number before a datagram.
const NUMBER_BYTES: usize = 8;

/// One socket per network.
pub(super) type Sockets = Rc<[UdpSocket; NETS_MAX]>;

/// Opens the sockets of a host.
pub(super) async fn bind() -> Result<Sockets, String> {
    let open = async |net| {
        let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        UdpSocket::bind((any, port_of(net))).await.map_err(|error| error.to_string())
    };
    Ok(Rc::new([open(0).await?, open(1).await?]))
}

/// Passes on what comes in, for ever.
pub(super) async fn listen(port: &Port, sockets: &Sockets) -> Result<(), String> {
    tokio::try_join!(receive(port, &sockets[0], 0), receive(port, &sockets[1], 1)).map(|_| ())
}

async fn receive(port: &Port, socket: &UdpSocket, net: u8) -> Result<(), String> {
    let mut buffer = vec![0; NUMBER_BYTES + DATAGRAM_BYTES_MAX];
    loop {
        let received = socket.recv_from(&mut buffer).await;
        let (length, from) = received.map_err(|error| error.to_string())?;
        if let Some((number, bytes)) = buffer[..length].split_first_chunk::<NUMBER_BYTES>() {
            let number = u64::from_le_bytes(*number);
            let from = host_of(from.ip());
            port.wish(Wish::Came { net, from, number, bytes: bytes.to_vec() });
        }
    }
}

/// The networks of one host.
pub(super) struct HostNet {
    port: Rc<Port>,
    sockets: Sockets,
    numbers: RefCell<BTreeMap<(u8, HostId), u64>>,
    arrived: RefCell<mpsc::UnboundedReceiver<Datagram>>,
}

impl HostNet {
    pub(super) fn new(
        port: Rc<Port>,
        sockets: Sockets,
        arrived: mpsc::UnboundedReceiver<Datagram>,
    ) -> Self {
        Self { port, sockets, numbers: RefCell::default(), arrived: RefCell::new(arrived) }
    }
}

impl Net for HostNet {
    fn send(&self, link: LinkId, to: SocketAddr, bytes: &[u8]) {
        // The way to the witness is the first network.
        let net = if usize::from(link.0) < NETS_MAX { link.0 as u8 } else { 0 };
        let host = host_of(to.ip());
        let mut numbers = self.numbers.borrow_mut();
        // Numbers of one run are told apart from those of another.
        let number = numbers.entry((net, host)).or_insert(u64::from(self.port.run) << 32);
        *number += 1;
        let mut datagram = number.to_le_bytes().to_vec();
        datagram.extend_from_slice(bytes);
        self.port.wish(Wish::Sent { net, to: host, number: *number });
        // Nobody may be listening there: as on a real network, nobody is told.
        let _ = self.sockets[usize::from(net)].try_send_to(&datagram, to);
    }

    async fn receive(&self) -> Datagram {
        match poll_fn(|cx| self.arrived.borrow_mut().poll_recv(cx)).await {
            Some(datagram) => datagram,
            None => std::future::pending().await,
        }
    }

    fn try_receive(&self) -> Option<Datagram> {
        self.arrived.borrow_mut().try_recv().ok()
    }
}
