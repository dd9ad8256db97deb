//! Resets the connections of a virtual address, so that clients reconnect at once instead of
//! waiting for their time-outs.
//!
//! Must happen before the address is removed: without it the kernel finds no route for the
//! resets. Sources: sock_diag(7); Linux 6.1 `include/uapi/linux/inet_diag.h`, `tcp_abort`.

use std::{
    io,
    net::IpAddr,
    time::{Duration, Instant},
};

use crate::netlink::{Body, Family, Netlink};

const BY_FAMILY: u16 = 20;
const DESTROY: u16 = 21;
const BYTECODE: u16 = 1;
const SOURCE_CONDITION: u8 = 7;
/// Every state of TCP but LISTEN (10), CLOSE (7) and TIME_WAIT (6).
const STATES: u32 = 0xfff & !((1 << 10) | (1 << 7) | (1 << 6));
/// Bytes of `struct inet_diag_sockid`.
const ID_BYTES: usize = 48;
/// No more than this is spent, so that removing the address is never late.
const BUDGET: Duration = Duration::from_millis(3);

/// Resets the connections whose local address is `address`; says how many.
///
/// Needs `CAP_NET_ADMIN` and a kernel with `CONFIG_INET_DIAG_DESTROY`: `EOPNOTSUPP` or `EPERM`
/// otherwise, with nothing changed.
pub fn reset_connections(address: IpAddr) -> io::Result<u32> {
    let begun = Instant::now();
    let mut netlink = Netlink::open(Family::SockDiag)?;
    let mut count = 0;
    for &family in families(address) {
        for id in connections(&mut netlink, family, address)? {
            if begun.elapsed() > BUDGET {
                return Ok(count);
            }
            match netlink.order(DESTROY, 0, &Body::new(&request(family, &id))) {
                Ok(()) => count += 1,
                // It ended by itself in between.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(count)
}

/// A connection of this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection {
    /// Port here.
    pub local_port: u16,
    /// Address of the other end.
    pub peer: IpAddr,
    /// Port of the other end.
    pub peer_port: u16,
}

/// The connections whose local address is `address`, on the way or established.
pub fn connections_of(address: IpAddr) -> io::Result<Vec<Connection>> {
    let mut netlink = Netlink::open(Family::SockDiag)?;
    let mut found = Vec::new();
    for &family in families(address) {
        let ids = connections(&mut netlink, family, address)?;
        found.extend(ids.iter().map(|id| connection(family, id)));
    }
    Ok(found)
}

/// Reads `struct inet_diag_sockid`.
fn connection(family: u8, id: &[u8; ID_BYTES]) -> Connection {
    let port = |at: usize| u16::from_be_bytes([id[at], id[at + 1]]);
    let peer: [u8; 16] = std::array::from_fn(|i| id[20 + i]);
    let peer = if i32::from(family) == libc::AF_INET {
        IpAddr::from([peer[0], peer[1], peer[2], peer[3]])
    } else {
        IpAddr::from(peer).to_canonical()
    };
    Connection { local_port: port(0), peer, peer_port: port(2) }
}

/// Servers that listen on `::` hold their IPv4 connections in IPv6 sockets.
fn families(address: IpAddr) -> &'static [u8] {
    const INET: u8 = libc::AF_INET as u8;
    const INET6: u8 = libc::AF_INET6 as u8;
    match address {
        IpAddr::V4(_) => &[INET, INET6],
        IpAddr::V6(_) => &[INET6],
    }
}

fn connections(
    netlink: &mut Netlink,
    family: u8,
    address: IpAddr,
) -> io::Result<Vec<[u8; ID_BYTES]>> {
    let body = Body::new(&request(family, &[0; ID_BYTES])).attribute(BYTECODE, &condition(address));
    let mut found = Vec::new();
    netlink.dump(BY_FAMILY, &body, |_, answer| {
        // After family, state, timer and retransmissions comes the socket's identity.
        if let Some(id) = answer.get(4..4 + ID_BYTES).and_then(|id| id.try_into().ok()) {
            found.push(id);
        }
    })?;
    Ok(found)
}

/// `struct inet_diag_req_v2`.
fn request(family: u8, id: &[u8; ID_BYTES]) -> Vec<u8> {
    let tcp = u8::try_from(libc::IPPROTO_TCP).expect("TCP has number 6");
    let mut bytes = vec![family, tcp, 0, 0];
    bytes.extend_from_slice(&STATES.to_ne_bytes());
    bytes.extend_from_slice(id);
    bytes
}

/// A filter program of one step: the local address equals `address`.
fn condition(address: IpAddr) -> Vec<u8> {
    let (family, octets) = match address {
        IpAddr::V4(addr) => (libc::AF_INET, addr.octets().to_vec()),
        IpAddr::V6(addr) => (libc::AF_INET6, addr.octets().to_vec()),
    };
    let length = u8::try_from(12 + octets.len()).expect("at most 28");
    // A jump of four bytes past the end means: refuse.
    let mut bytes = vec![SOURCE_CONDITION, length];
    bytes.extend_from_slice(&(u16::from(length) + 4).to_ne_bytes());
    let prefix = u8::try_from(octets.len() * 8).expect("at most 128");
    bytes.extend_from_slice(&[u8::try_from(family).expect("below 256"), prefix, 0, 0]);
    // Any port.
    bytes.extend_from_slice(&(-1i32).to_ne_bytes());
    bytes.extend_from_slice(&octets);
    bytes
}

#[cfg(test)]
mod tests {
    use std::{
        io::{ErrorKind, Read},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    #[test]
    fn connections_of_the_address_are_reset_and_others_are_not() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        // Every 127.x.x.x address is local: two of them stand for two addresses of a node.
        let pair = |address: &str| {
            let listener = TcpListener::bind((address, 0)).expect("loopback can be bound");
            let port = listener.local_addr().expect("bound").port();
            let client = TcpStream::connect((address, port)).expect("it listens");
            let (server, _) = listener.accept().expect("one client");
            (client, server)
        };
        let (mut reset, _server) = pair("127.7.7.1");
        let (mut kept, _other) = pair("127.7.7.2");
        match reset_connections("127.7.7.1".parse().expect("an address")) {
            // The client's own local address is 127.0.0.1 or the same address.
            Ok(count) => assert!(count >= 1, "{count} connections reset"),
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                eprintln!("skipped: the kernel has no CONFIG_INET_DIAG_DESTROY");
                return;
            }
            Err(error) => panic!("{error}"),
        }
        let limit = Some(Duration::from_secs(5));
        reset.set_read_timeout(limit).expect("a limit");
        let error = reset.read(&mut [0]).expect_err("the connection is gone");
        assert!(
            matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted),
            "{error}"
        );
        kept.set_read_timeout(Some(Duration::from_millis(50))).expect("a limit");
        let error = kept.read(&mut [0]).expect_err("nothing was sent");
        assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
    }
}
