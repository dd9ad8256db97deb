//! `/dev/fuse` and the mount: open, mount over a directory, read requests, write replies.
//!
//! The descriptor survives its daemon when a holder keeps a duplicate; see [`super::Session`].

use std::{
    ffi::CString,
    fs,
    io::{IoSlice, IoSliceMut},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use rustix::{
    fs::{Mode, OFlags, StatVfsMountFlags},
    io::Errno,
    mount::{MountFlags, UnmountFlags},
};

use super::abi::{NOTIFY_RESEND, OUT_HEADER_BYTES};

/// Where the kernel shows its FUSE connections.
const CONTROL: &str = "/sys/fs/fuse/connections";

/// An open connection to the kernel's FUSE.
#[derive(Debug)]
pub(super) struct Device {
    fd: OwnedFd,
}

/// What one attempt to read a request gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Received {
    /// A request of this many bytes is in the buffer.
    Request(usize),
    /// There is none now.
    Nothing,
    /// The file system was unmounted or the connection aborted.
    Gone,
}

impl Device {
    /// Opens a new connection, not yet mounted.
    pub(super) fn open() -> Result<Self, Errno> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
        Ok(Self { fd: rustix::fs::open("/dev/fuse", flags, Mode::empty())? })
    }

    /// Takes over a connection that another process has mounted.
    pub(super) const fn adopt(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// The descriptor, to wait for requests and to hand to a holder.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Mounts this connection over `directory`, with the restrictions of what is beneath.
    pub(super) fn mount(&self, directory: &Path, max_read: u32) -> Result<(), Errno> {
        let options = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions,\
             max_read={max_read}",
            self.fd.as_raw_fd()
        );
        let options = CString::new(options).map_err(|_| Errno::INVAL)?;
        let beneath = rustix::fs::statvfs(directory)?.f_flag;
        let mut flags = MountFlags::NOATIME;
        for (has, means) in [
            (StatVfsMountFlags::NODEV, MountFlags::NODEV),
            (StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
            (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
        ] {
            if beneath.contains(has) {
                flags |= means;
            }
        }
        rustix::mount::mount("havre", directory, "fuse.havre", flags, options.as_c_str())
    }

    /// Reads one request.
    pub(super) fn receive(&self, buffer: &mut [u8]) -> Result<Received, Errno> {
        loop {
            match rustix::io::readv(&self.fd, &mut [IoSliceMut::new(buffer)]) {
                Ok(len) => return Ok(Received::Request(len)),
                Err(Errno::AGAIN) => return Ok(Received::Nothing),
                // ENOENT: the request was aborted before it could be read; EINTR: a signal.
                Err(Errno::INTR | Errno::NOENT) => {}
                Err(Errno::NODEV | Errno::CONNABORTED) => return Ok(Received::Gone),
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends the reply to request `unique`.
    ///
    /// `ENOENT` means that nobody waits for it any more.
    pub(super) fn reply(
        &self,
        unique: u64,
        error: Option<Errno>,
        body: &[u8],
    ) -> Result<(), Errno> {
        let code = error.map_or(0, |errno| -errno.raw_os_error());
        self.send(code, unique, body)
    }

    /// Asks the kernel to send every request again that has not been answered.
    pub(super) fn request_resend(&self) -> Result<(), Errno> {
        self.send(NOTIFY_RESEND, 0, &[])
    }

    fn send(&self, code: i32, unique: u64, body: &[u8]) -> Result<(), Errno> {
        let len = u32::try_from(OUT_HEADER_BYTES + body.len()).map_err(|_| Errno::INVAL)?;
        let mut header = [0; OUT_HEADER_BYTES];
        header[..4].copy_from_slice(&len.to_ne_bytes());
        header[4..8].copy_from_slice(&code.to_ne_bytes());
        header[8..].copy_from_slice(&unique.to_ne_bytes());
        loop {
            match rustix::io::writev(&self.fd, &[IoSlice::new(&header), IoSlice::new(body)]) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Takes the mount over `directory` away; open files keep working until they are closed.
///
/// # Errors
/// What the kernel says; `EINVAL` if nothing is mounted there.
pub fn unmount(directory: &Path) -> Result<(), Errno> {
    rustix::mount::unmount(directory, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
}

/// Whether something is mounted at `directory`, and what kind of file system.
///
/// # Errors
/// If the list of mounts cannot be read.
pub fn mounted_at(directory: &Path) -> std::io::Result<Option<Mounted>> {
    let wanted = escape(directory);
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    // The last one is the topmost.
    Ok(table.lines().rev().find_map(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        let dash = fields.iter().position(|field| *field == "-")?;
        if *fields.get(4)? != wanted {
            return None;
        }
        let connection = fields.get(2)?.split_once(':')?.1.parse().ok()?;
        Some(Mounted { kind: (*fields.get(dash + 1)?).to_owned(), connection })
    }))
}

/// A mounted file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    /// Type as in the kernel's list: `fuse.havre` for ours.
    pub kind: String,
    /// Number of its FUSE connection.
    pub connection: u32,
}

impl Mounted {
    /// Fails every request that waits for a daemon, at once and for good.
    ///
    /// # Errors
    /// If there is no such connection or its control file cannot be written.
    pub fn abort(&self) -> std::io::Result<()> {
        let control = Path::new(CONTROL);
        let path = control.join(self.connection.to_string()).join("abort");
        match fs::write(&path, "1") {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            other => return other,
        }
        // Systems without systemd do not mount the control files by themselves.
        rustix::mount::mount("fusectl", control, "fusectl", MountFlags::empty(), None)?;
        fs::write(path, "1")
    }
}

/// A path as `/proc/self/mountinfo` shows it.
fn escape(path: &Path) -> String {
    let mut shown = Vec::new();
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b' ' | b'\t' | b'\n' | b'\\' => {
                shown.extend_from_slice(format!("\\{byte:03o}").as_bytes());
            }
            _ => shown.push(*byte),
        }
    }
    String::from_utf8_lossy(&shown).into_owned()
}
