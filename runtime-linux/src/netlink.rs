//! Netlink: how this program reads and changes the kernel's interfaces, addresses and sockets.
//!
//! Blocking on purpose: an address must be removed within a millisecond or two even when the
//! asynchronous runtime is busy, and the kernel answers these requests without waiting.
//!
//! Sources: netlink(7), rtnetlink(7), sock_diag(7); Linux 6.1 `include/uapi/linux/netlink.h`.

use std::{io, os::fd::OwnedFd, time::Duration};

use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send,
    socket_with, sockopt,
};

/// Ask for a positive acknowledgement (`NLM_F_ACK`).
const ACK: u16 = 0x4;
/// This is a request (`NLM_F_REQUEST`).
const REQUEST: u16 = 0x1;
/// Return every object (`NLM_F_DUMP`).
const DUMP: u16 = 0x300;
/// Replace an object that exists (`NLM_F_REPLACE`).
pub const REPLACE: u16 = 0x100;
/// Fail if the object exists (`NLM_F_EXCL`).
pub const EXCLUSIVE: u16 = 0x200;
/// Create an object that does not exist (`NLM_F_CREATE`).
pub const CREATE: u16 = 0x400;

const MESSAGE_ERROR: u16 = 2;
const MESSAGE_DONE: u16 = 3;
const HEADER_BYTES: usize = 16;
/// The kernel never sends more than 32 KiB in one datagram of a dump (`NLMSG_GOODSIZE`).
const BUFFER_BYTES: usize = 64 * 1024;
/// Answers come at once; a silence of this length means that the kernel refuses us.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Which part of the kernel is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Interfaces, addresses, neighbours (`NETLINK_ROUTE`).
    Route,
    /// Sockets (`NETLINK_SOCK_DIAG`).
    SockDiag,
}

/// One conversation with the kernel, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    /// Opens a conversation.
    pub fn open(family: Family) -> io::Result<Self> {
        let protocol = match family {
            Family::Route => None,
            Family::SockDiag => Some(rustix::net::netlink::SOCK_DIAG),
        };
        let socket = open_socket(protocol)?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(ANSWER_TIMEOUT))?;
        Ok(Self { socket, sequence: 0, buffer: vec![0; BUFFER_BYTES] })
    }

    /// Orders one change and waits until the kernel has made it or refused it.
    pub fn order(&mut self, kind: u16, flags: u16, body: &Body) -> io::Result<()> {
        self.send(kind, flags | ACK, body)?;
        self.answers(|_, _| {})
    }

    /// Reads every object of one kind and passes each to `each` with its message type.
    pub fn dump(&mut self, kind: u16, body: &Body, each: impl FnMut(u16, &[u8])) -> io::Result<()> {
        self.send(kind, DUMP, body)?;
        self.answers(each)
    }

    fn send(&mut self, kind: u16, flags: u16, body: &Body) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let length = u32::try_from(HEADER_BYTES + body.0.len()).map_err(io::Error::other)?;
        let mut message = Vec::with_capacity(HEADER_BYTES + body.0.len());
        message.extend_from_slice(&length.to_ne_bytes());
        message.extend_from_slice(&kind.to_ne_bytes());
        message.extend_from_slice(&(flags | REQUEST).to_ne_bytes());
        message.extend_from_slice(&self.sequence.to_ne_bytes());
        message.extend_from_slice(&0u32.to_ne_bytes());
        message.extend_from_slice(&body.0);
        send(&self.socket, &message, SendFlags::empty())?;
        Ok(())
    }

    /// Reads until the acknowledgement, the error, or the end of the dump.
    fn answers(&mut self, mut each: impl FnMut(u16, &[u8])) -> io::Result<()> {
        loop {
            let (length, _) = recv(&self.socket, self.buffer.as_mut_slice(), RecvFlags::empty())?;
            let mut rest = &self.buffer[..length];
            while let Some((header, body, after)) = split_message(rest) {
                rest = after;
                if header.sequence != self.sequence {
                    // The late answer to an earlier request that ran into the time-out.
                    continue;
                }
                match header.kind {
                    MESSAGE_DONE => return Ok(()),
                    MESSAGE_ERROR => return error_of(body),
                    kind => each(kind, body),
                }
            }
        }
    }
}

fn open_socket(protocol: Option<Protocol>) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC;
    Ok(socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?)
}

struct Header {
    kind: u16,
    sequence: u32,
}

/// Splits the first message off: its header, its body, what follows.
fn split_message(bytes: &[u8]) -> Option<(Header, &[u8], &[u8])> {
    let length = usize::try_from(u32_at(bytes, 0)?).ok()?;
    let kind = u16_at(bytes, 4)?;
    let sequence = u32_at(bytes, 8)?;
    let body = bytes.get(HEADER_BYTES..length)?;
    let after = bytes.get(aligned(length)..).unwrap_or_default();
    Some((Header { kind, sequence }, body, after))
}

fn error_of(body: &[u8]) -> io::Result<()> {
    match i32_at(body, 0) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(-code)),
        None => Err(io::Error::from(io::ErrorKind::InvalidData)),
    }
}

/// The body of a request: a fixed part, then attributes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Body(Vec<u8>);

impl Body {
    /// Starts with the fixed part of the request.
    pub fn new(fixed: &[u8]) -> Self {
        let mut body = Self(fixed.to_vec());
        body.pad();
        body
    }

    /// Appends one attribute.
    #[must_use]
    pub fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(4 + value.len()).expect("attributes of requests are short");
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.pad();
        self
    }

    /// Appends one attribute that holds text, with the zero byte the kernel wants.
    #[must_use]
    pub fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes)
    }

    /// Appends one attribute that holds attributes.
    #[must_use]
    pub fn nested(self, kind: u16, inner: &Self) -> Self {
        self.attribute(kind, &inner.0)
    }

    fn pad(&mut self) {
        self.0.resize(aligned(self.0.len()), 0);
    }
}

const fn aligned(length: usize) -> usize {
    (length + 3) & !3
}

/// The attributes that follow the fixed part of an answer; stops at the first malformed one.
pub fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(rest, 0)?);
        // The two highest bits are flags (nested, network byte order).
        let kind = u16_at(rest, 2)? & 0x3fff;
        let value = rest.get(4..length)?;
        rest = rest.get(aligned(length)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The two bytes at `offset` in host order.
pub fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    let bytes = bytes.get(offset..offset.checked_add(2)?)?;
    Some(u16::from_ne_bytes(bytes.try_into().ok()?))
}

/// The four bytes at `offset` in host order.
pub fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    let bytes = bytes.get(offset..offset.checked_add(4)?)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

fn i32_at(bytes: &[u8], offset: usize) -> Option<i32> {
    u32_at(bytes, offset).map(u32::cast_signed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_read_back_as_they_were_written() {
        let inner = Body::default().text(1, "veth");
        let body = Body::new(&[0; 8]).attribute(3, &[1, 2, 3]).nested(18, &inner);
        let read: Vec<_> = attributes(&body.0[8..]).collect();
        assert_eq!(read[0], (3, &[1u8, 2, 3][..]));
        assert_eq!(attributes(read[1].1).next(), Some((1, &b"veth\0"[..])));
        assert_eq!(read.len(), 2);
    }

    #[test]
    fn truncated_answers_end_the_iteration_without_panic() {
        let body = Body::new(&[]).attribute(3, &[1, 2, 3, 4, 5]);
        for length in 0..body.0.len() - 3 {
            assert_eq!(attributes(&body.0[..length]).count(), 0, "cut at {length}");
        }
    }

    #[test]
    fn a_refusal_of_the_kernel_carries_its_error_number() {
        let error = error_of(&(-17i32).to_ne_bytes()).expect_err("-17 is a refusal");
        assert_eq!(error.raw_os_error(), Some(17));
    }
}
