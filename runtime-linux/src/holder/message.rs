//! One packet between a daemon and its holder: a kind, a number, a name, and descriptors.

use std::{
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    io::Errno,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags,
    },
};

/// Descriptors in one packet at most.
pub(super) const DESCRIPTORS_MAX: usize = 4;
/// Longest name (a directory's path), in bytes.
pub(super) const NAME_BYTES_MAX: usize = 4096;
const FIXED_BYTES: usize = 9;

/// What a packet means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// To the holder: keep these descriptors of the mount `name`.
    Hold,
    /// To the holder: send what is kept of the mount `name`.
    Fetch,
    /// To the holder: send the names of all mounts.
    Names,
    /// To the holder: read the backlog of the mount `name`.
    Purge,
    /// To the holder: let go of the mount `name`.
    Drop,
    /// To the holder: unmount everything and exit.
    Stop,
    /// To the holder, in a backlog: keep the descriptor of file `number`.
    Keep,
    /// To the holder, in a backlog: let go of file `number`.
    Release,
    /// From the holder: a mount's descriptors or name.
    Mount,
    /// From the holder: the descriptor of file `number`.
    Orphan,
    /// From the holder: done; nothing more follows.
    Done,
}

const KINDS: [Kind; 11] = [
    Kind::Hold,
    Kind::Fetch,
    Kind::Names,
    Kind::Purge,
    Kind::Drop,
    Kind::Stop,
    Kind::Keep,
    Kind::Release,
    Kind::Mount,
    Kind::Orphan,
    Kind::Done,
];

/// A received packet.
#[derive(Debug)]
pub(super) struct Packet {
    pub(super) kind: Kind,
    pub(super) number: u64,
    pub(super) name: Vec<u8>,
    pub(super) descriptors: Vec<OwnedFd>,
}

/// Sends one packet.
pub(super) fn send(
    socket: impl AsFd,
    kind: Kind,
    number: u64,
    name: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> Result<(), Errno> {
    let code = KINDS.iter().position(|known| *known == kind).unwrap_or_default() as u8;
    let number = number.to_ne_bytes();
    let parts =
        [IoSlice::new(std::slice::from_ref(&code)), IoSlice::new(&number), IoSlice::new(name)];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(Errno::INVAL);
    }
    loop {
        match rustix::net::sendmsg(&socket, &parts, &mut control, SendFlags::NOSIGNAL) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Receives one packet; `None`: the other side has closed.
pub(super) fn receive(socket: impl AsFd) -> Result<Option<Packet>, Errno> {
    let mut bytes = vec![0; FIXED_BYTES + NAME_BYTES_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let len = loop {
        let mut parts = [IoSliceMut::new(&mut bytes)];
        match rustix::net::recvmsg(&socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Ok(message) => break message.bytes,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    };
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            descriptors.extend(received);
        }
    }
    if len == 0 {
        return Ok(None);
    }
    let (Some(code), Some(number)) = (bytes.first(), bytes[1..len.max(1)].first_chunk::<8>())
    else {
        return Err(Errno::PROTO);
    };
    let kind = *KINDS.get(usize::from(*code)).ok_or(Errno::PROTO)?;
    let number = u64::from_ne_bytes(*number);
    Ok(Some(Packet { kind, number, name: bytes[FIXED_BYTES..len].to_vec(), descriptors }))
}
