//! The daemon's side of the conversation with its holder.

use std::{
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::{Path, PathBuf},
};

use rustix::{
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType},
};

use super::message::{Kind, Packet, receive, send};
use crate::fuse::{Keeper, Parts};

/// Files told to a backlog after which the holder is asked to read it.
const BACKLOG_MAX: u32 = 64;

/// What a holder kept of a mount.
#[derive(Debug)]
pub struct Held {
    /// The session's descriptors: for [`Session::resume`](crate::fuse::Session::resume).
    pub parts: Parts<OwnedFd>,
    /// Files without a name that applications may still use.
    pub orphans: Vec<(u64, OwnedFd)>,
}

/// A connection to a holder.
#[derive(Debug)]
pub struct HolderClient {
    socket: OwnedFd,
    path: PathBuf,
}

impl HolderClient {
    /// Connects to the holder that listens at `path`.
    ///
    /// # Errors
    /// `NotFound` or `ConnectionRefused`: no holder runs; start one.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(Self { socket, path: path.to_owned() })
    }

    /// Has the holder keep a session of the mount over `directory`, in place of what it had. The
    /// keeper that comes back is for [`Session::set_keeper`](crate::fuse::Session::set_keeper).
    ///
    /// # Errors
    /// If the holder is gone.
    pub fn hold(&self, directory: &Path, parts: &Parts<OwnedFd>) -> io::Result<HolderKeeper> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (mine, its) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        let name = directory.as_os_str().as_bytes();
        let descriptors =
            [parts.device.as_fd(), parts.directory.as_fd(), parts.table.as_fd(), its.as_fd()];
        send(&self.socket, Kind::Hold, 0, name, &descriptors)?;
        self.wait_done()?;
        let control = Self::connect(&self.path)?;
        Ok(HolderKeeper { control, backlog: mine, name: name.to_vec(), unread: 0 })
    }

    /// Fetches what the holder keeps of the mount over `directory`; it goes on keeping it.
    ///
    /// # Errors
    /// If the holder is gone.
    pub fn fetch(&self, directory: &Path) -> io::Result<Option<Held>> {
        send(&self.socket, Kind::Fetch, 0, directory.as_os_str().as_bytes(), &[])?;
        let mut parts = None;
        let mut orphans = Vec::new();
        loop {
            let mut packet = self.next()?;
            match packet.kind {
                Kind::Mount => {
                    let mut taken = packet.descriptors.drain(..);
                    if let (Some(device), Some(directory), Some(table)) =
                        (taken.next(), taken.next(), taken.next())
                    {
                        parts = Some(Parts { device, directory, table });
                    }
                }
                Kind::Orphan => {
                    orphans.extend(packet.descriptors.pop().map(|fd| (packet.number, fd)));
                }
                _ => return Ok(parts.map(|parts| Held { parts, orphans })),
            }
        }
    }

    /// The directories whose mounts the holder keeps.
    ///
    /// # Errors
    /// If the holder is gone.
    pub fn directories(&self) -> io::Result<Vec<PathBuf>> {
        send(&self.socket, Kind::Names, 0, &[], &[])?;
        let mut found = Vec::new();
        loop {
            let packet = self.next()?;
            if packet.kind != Kind::Mount {
                return Ok(found);
            }
            found.push(PathBuf::from(std::ffi::OsString::from_vec(packet.name)));
        }
    }

    /// Has the holder let go of the mount over `directory`: call it after a clean unmount.
    ///
    /// # Errors
    /// If the holder is gone.
    pub fn release(&self, directory: &Path) -> io::Result<()> {
        send(&self.socket, Kind::Drop, 0, directory.as_os_str().as_bytes(), &[])?;
        self.wait_done()
    }

    /// Has the holder unmount what it keeps and exit.
    ///
    /// # Errors
    /// If the holder is gone already.
    pub fn stop(&self) -> io::Result<()> {
        send(&self.socket, Kind::Stop, 0, &[], &[])?;
        self.wait_done()
    }

    fn purge(&self, name: &[u8]) -> io::Result<()> {
        send(&self.socket, Kind::Purge, 0, name, &[])?;
        self.wait_done()
    }

    fn next(&self) -> io::Result<Packet> {
        receive(&self.socket)?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    fn wait_done(&self) -> io::Result<()> {
        self.next().map(|_| ())
    }
}

/// Tells a holder which files must outlive the daemon.
///
/// It writes into a socket whose other end only the holder has and which the holder does not read
/// until asked: that costs no wake-up, and what is queued there survives the daemon.
#[derive(Debug)]
pub struct HolderKeeper {
    control: HolderClient,
    backlog: OwnedFd,
    name: Vec<u8>,
    /// Packets in the backlog at most.
    unread: u32,
}

impl HolderKeeper {
    fn tell(&mut self, kind: Kind, node: u64, descriptors: &[BorrowedFd<'_>]) {
        if self.unread >= BACKLOG_MAX {
            self.settle();
        }
        self.unread += 1;
        let mut sent = send(&self.backlog, kind, node, &[], descriptors);
        if sent == Err(Errno::AGAIN) {
            self.settle();
            sent = send(&self.backlog, kind, node, &[], descriptors);
        }
        if let Err(error) = sent {
            tracing::warn!(node, %error, "the holder does not take a file's descriptor");
        }
    }
}

impl Keeper for HolderKeeper {
    fn keep(&mut self, node: u64, descriptor: BorrowedFd<'_>) {
        self.tell(Kind::Keep, node, &[descriptor]);
    }

    fn release(&mut self, node: u64) {
        self.tell(Kind::Release, node, &[]);
    }

    fn settle(&mut self) {
        if self.unread == 0 {
            return;
        }
        self.unread = 0;
        if let Err(error) = self.control.purge(&self.name) {
            tracing::warn!(%error, "the holder does not answer: a crash will be seen");
        }
    }
}
