//! Raw Ethernet frames of one interface (`AF_PACKET`), for ARP and neighbour discovery.
//!
//! Source: packet(7).

use std::{
    io,
    mem::size_of,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with},
};

/// EtherType of ARP.
pub const ETHERTYPE_ARP: u16 = 0x0806;
/// EtherType of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;

/// A socket that sends and receives whole frames of one type on one interface.
#[derive(Debug)]
pub struct PacketSocket {
    fd: OwnedFd,
    index: i32,
}

impl PacketSocket {
    /// Opens a socket on the interface with the kernel's number `index`. Needs `CAP_NET_RAW`.
    pub fn open(index: u32, ethertype: u16) -> io::Result<Self> {
        // Protocol 0 receives nothing: frames of other interfaces must not arrive before bind.
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = socket_with(AddressFamily::PACKET, SocketType::RAW, flags, None)?;
        let index = i32::try_from(index).map_err(io::Error::other)?;
        let socket = Self { fd, index };
        socket.bind(ethertype)?;
        Ok(socket)
    }

    fn bind(&self, ethertype: u16) -> io::Result<()> {
        let address = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as libc::c_ushort,
            sll_protocol: ethertype.to_be(),
            sll_ifindex: self.index,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        // SAFETY: `address` is a complete sockaddr_ll that lives across the call, and the length
        // passed is its size; the descriptor is owned by `self`.
        let result = unsafe {
            libc::bind(
                self.fd.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Also receives frames sent to this Ethernet multicast address.
    pub fn join(&self, group: [u8; 6]) -> io::Result<()> {
        let mut address = [0; 8];
        address[..6].copy_from_slice(&group);
        let request = libc::packet_mreq {
            mr_ifindex: self.index,
            mr_type: libc::PACKET_MR_MULTICAST as libc::c_ushort,
            mr_alen: 6,
            mr_address: address,
        };
        // SAFETY: `request` is a complete packet_mreq that lives across the call, and the length
        // passed is its size; the descriptor is owned by `self`.
        let result = unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_ADD_MEMBERSHIP,
                (&raw const request).cast(),
                size_of::<libc::packet_mreq>() as libc::socklen_t,
            )
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Sends one frame, Ethernet header included.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        send(&self.fd, frame, SendFlags::empty())?;
        Ok(())
    }

    /// Waits for one frame until `deadline`; `None` if none came. Frames longer than the buffer
    /// are cut.
    pub fn receive<'a>(
        &self,
        buffer: &'a mut [u8],
        deadline: Instant,
    ) -> io::Result<Option<&'a [u8]>> {
        loop {
            match recv(&self.fd, &mut *buffer, RecvFlags::empty()) {
                Ok((length, _)) => return Ok(Some(&buffer[..length])),
                Err(rustix::io::Errno::AGAIN) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            let Some(rest) = deadline.checked_duration_since(Instant::now()) else {
                return Ok(None);
            };
            wait_readable(&self.fd, rest)?;
        }
    }
}

/// Waits until one descriptor can be read, or `limit` has passed.
pub fn wait_readable(fd: impl AsFd, limit: Duration) -> io::Result<bool> {
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    let limit = Timespec::try_from(limit).map_err(io::Error::other)?;
    match poll(&mut fds, Some(&limit)) {
        Ok(count) => Ok(count > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
