//! The holder: a tiny process that keeps a daemon's mounts alive while the daemon restarts.
//!
//! The kernel fails every request of a FUSE mount when the last descriptor of its connection is
//! closed. The holder has duplicates: of `/dev/fuse`, of the directory beneath the mount, of the
//! node table, and of files that have lost their name but may still be open. A restarted daemon
//! fetches them ([`HolderClient::fetch`]) and goes on ([`Session::resume`]); applications see a
//! pause.
//!
//! The holder runs in a session of its own and ends only when told to ([`HolderClient::stop`]); a
//! service manager must be told to leave it alone when it kills the daemon. It never looks into
//! what it keeps. Several daemons on one machine have one holder each: the socket lies in the
//! daemon's state directory.
//!
//! [`Session::resume`]: crate::fuse::Session::resume

mod client;
mod message;

use std::{
    collections::BTreeMap,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags},
    fs::Mode,
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType},
    process::{Resource, Rlimit},
};

pub use self::client::{Held, HolderClient, HolderKeeper};
use self::message::{Kind, Packet, receive, send};
use crate::fuse::{Parts, unmount};

/// Connections served at once; a daemon has one and one more for each mount.
const CONNECTIONS_MAX: usize = 256;

/// Time in which a new holder must listen.
const START_LIMIT: Duration = Duration::from_secs(5);

/// What is kept of one mount.
#[derive(Debug)]
struct Mount {
    parts: Parts<OwnedFd>,
    /// Where the daemon announces files; read only when asked.
    backlog: OwnedFd,
    orphans: BTreeMap<u64, OwnedFd>,
}

impl Mount {
    /// Takes in what the daemon has announced.
    fn read_backlog(&mut self) {
        while let Ok(Some(mut packet)) = receive(&self.backlog) {
            match packet.kind {
                Kind::Keep => {
                    if let Some(descriptor) = packet.descriptors.pop() {
                        self.orphans.insert(packet.number, descriptor);
                    }
                }
                Kind::Release => {
                    self.orphans.remove(&packet.number);
                }
                _ => {}
            }
        }
    }
}

#[derive(Debug, Default)]
struct Holder {
    mounts: BTreeMap<Vec<u8>, Mount>,
}

/// Runs a holder that listens at `socket`, until it is told to stop.
///
/// # Errors
/// `AddrInUse`: another holder is at work there. Otherwise what the system says; nothing is held
/// then.
pub fn run(socket: &Path) -> io::Result<()> {
    let listener = listen(socket)?;
    prepare_process();
    let mut holder = Holder::default();
    let mut connections: Vec<OwnedFd> = Vec::new();
    loop {
        let mut fds: Vec<PollFd<'_>> = vec![PollFd::new(&listener, PollFlags::IN)];
        fds.extend(connections.iter().map(|fd| PollFd::new(fd, PollFlags::IN)));
        match rustix::event::poll(&mut fds, None) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(fds);
        for index in (0..connections.len()).rev().filter(|index| ready[index + 1]) {
            match holder.serve(&connections[index]) {
                Ok(Next::Stop) => {
                    // Nobody connects in vain to a holder that is gone.
                    let _ = std::fs::remove_file(socket);
                    return Ok(());
                }
                Ok(Next::GoOn) => {}
                Ok(Next::Close) | Err(_) => {
                    connections.swap_remove(index);
                }
            }
        }
        if ready[0]
            && connections.len() < CONNECTIONS_MAX
            && let Ok(connection) = rustix::net::accept_with(&listener, SocketFlags::CLOEXEC)
        {
            connections.push(connection);
        }
    }
}

/// Makes sure that a holder listens at `socket`: that of an earlier run of the daemon, or a new
/// one, which is the command `holder` of `program`.
///
/// # Errors
/// It cannot be started, or does not listen in time.
pub fn ensure(program: &Path, socket: &Path) -> io::Result<()> {
    if HolderClient::connect(socket).is_ok() {
        return Ok(());
    }
    let mut process = Command::new(program)
        .arg("holder")
        .arg(socket)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()?;
    let begun = Instant::now();
    while HolderClient::connect(socket).is_err() {
        if let Some(status) = process.try_wait()? {
            return Err(io::Error::other(format!("the holder ended: {status}")));
        }
        if begun.elapsed() > START_LIMIT {
            return Err(io::ErrorKind::TimedOut.into());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// What to do with a connection after a packet.
enum Next {
    GoOn,
    Close,
    Stop,
}

impl Holder {
    fn serve(&mut self, connection: &OwnedFd) -> Result<Next, Errno> {
        let Some(packet) = receive(connection)? else { return Ok(Next::Close) };
        match packet.kind {
            Kind::Hold => self.hold(packet)?,
            Kind::Fetch => self.send_mount(connection, &packet.name)?,
            Kind::Names => {
                for name in self.mounts.keys() {
                    send(connection, Kind::Mount, 0, name, &[])?;
                }
            }
            Kind::Purge => {
                if let Some(mount) = self.mounts.get_mut(&packet.name) {
                    mount.read_backlog();
                }
            }
            Kind::Drop => {
                self.mounts.remove(&packet.name);
            }
            Kind::Stop => {
                for name in self.mounts.keys() {
                    // Not mounted any more is as good.
                    let _ = unmount(Path::new(std::ffi::OsStr::from_bytes(name)));
                }
                send(connection, Kind::Done, 0, &[], &[])?;
                return Ok(Next::Stop);
            }
            _ => return Err(Errno::PROTO),
        }
        send(connection, Kind::Done, 0, &[], &[])?;
        Ok(Next::GoOn)
    }

    fn hold(&mut self, packet: Packet) -> Result<(), Errno> {
        let Ok([device, directory, table, backlog]) = <[OwnedFd; 4]>::try_from(packet.descriptors)
        else {
            return Err(Errno::PROTO);
        };
        let mut orphans = BTreeMap::new();
        if let Some(mut old) = self.mounts.remove(&packet.name) {
            old.read_backlog();
            orphans = old.orphans;
        }
        let parts = Parts { device, directory, table };
        self.mounts.insert(packet.name, Mount { parts, backlog, orphans });
        Ok(())
    }

    fn send_mount(&mut self, connection: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
        let Some(mount) = self.mounts.get_mut(name) else { return Ok(()) };
        mount.read_backlog();
        let Parts { device, directory, table } = &mount.parts;
        let descriptors = [device.as_fd(), directory.as_fd(), table.as_fd()];
        send(connection, Kind::Mount, 0, name, &descriptors)?;
        for (node, descriptor) in &mount.orphans {
            send(connection, Kind::Orphan, *node, &[], &[descriptor.as_fd()])?;
        }
        Ok(())
    }
}

/// Listens at `path`, in place of a holder that died.
fn listen(path: &Path) -> io::Result<OwnedFd> {
    if HolderClient::connect(path).is_ok() {
        return Err(io::ErrorKind::AddrInUse.into());
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    // The name appears with its final rights: a socket takes its mode from the mask.
    let mask = rustix::process::umask(Mode::from_raw_mode(0o177));
    let bound = rustix::net::bind(&socket, &SocketAddrUnix::new(path)?);
    rustix::process::umask(mask);
    bound?;
    rustix::net::listen(&socket, 16)?;
    Ok(socket)
}

/// Own session, safe from the terminal and the memory killer, many descriptors. Each of these is
/// a help, not a need.
fn prepare_process() {
    let _ = rustix::process::setsid();
    let _ = std::fs::write("/proc/self/oom_score_adj", "-1000");
    let limit = rustix::process::getrlimit(Resource::Nofile).maximum;
    let _ = rustix::process::setrlimit(Resource::Nofile, Rlimit { current: limit, maximum: limit });
}

/// Where the holder of the daemon with this state directory listens.
pub fn socket_in(state_directory: &Path) -> PathBuf {
    state_directory.join("holder.socket")
}
