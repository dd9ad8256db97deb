//! Carries changing requests out on the underlying directory.
//!
//! A request that the kernel sends again to a restarted daemon may have been carried out already.
//! The kernel sends MKNOD, MKDIR, SYMLINK and LINK only for names that are free, and UNLINK, RMDIR
//! and RENAME only for names that are taken, and it holds the directories' locks until the reply;
//! Havre is the only writer. So a resent request that finds its result in place has succeeded.

use std::os::fd::OwnedFd;

use havre_core::replication::record::{Access, Change, FileTime, Target};
use rustix::{
    fs::{
        AtFlags, FallocateFlags, FileType, Gid, Mode, OFlags, RenameFlags, Statx, Timespec,
        Timestamps, Uid, XattrFlags,
    },
    io::Errno,
};

use super::{
    Files,
    action::{Action, Attributes, Entry, Fresh, Stretch},
    intercept::Operation,
    tree::{DIRECTORY, Handle, KIND_MASK, REGULAR, SYMLINK, open_entry},
};
use crate::pieces::write_at;

const SET_ID_BITS: u32 = 0o6000;
const PERMISSION_BITS: u32 = 0o7777;

/// What a request that succeeded answers.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Nothing but success.
    Done,
    /// A node of which the kernel is told.
    Entry(u64, Statx),
    /// The same, and a descriptor was opened with it.
    Opened(u64, Statx),
    /// New attributes of a node.
    Attributes(u64, Statx),
    /// So many bytes; 64 bits wide or 32.
    Count(u64, bool),
}

impl Files {
    /// Carries `operation` out and corrects its changes to what really happened.
    pub(super) fn perform(&mut self, operation: &mut Operation) -> Result<Outcome, Errno> {
        if operation.prepared_at != self.applied_count {
            self.refresh(operation);
        }
        self.applied_count += 1;
        let resent = operation.resent;
        let action = operation.action.clone();
        match action {
            Action::Write { node, offset, kill } => self.write(operation, node, offset, kill),
            Action::SetAttributes { node, attributes } => {
                self.set_attributes(operation, node, attributes)
            }
            Action::MakeNode { entry, fresh, rdev, id } => {
                let directory = self.tree.handle(entry.parent)?;
                let made = make_node(&directory, &entry.name, &fresh, rdev);
                accept(made, Errno::EXIST, resent)?;
                let outcome = self.made(operation, &directory, &entry, &fresh)?;
                if let (Some(id), Outcome::Entry(number, _)) = (id, &outcome) {
                    self.tree.set_file(*number, id)?;
                }
                Ok(outcome)
            }
            Action::MakeDirectory { entry, fresh } => {
                let directory = self.tree.handle(entry.parent)?;
                let made = rustix::fs::mkdirat(&*directory, &*entry.name, mode(fresh.mode));
                accept(made, Errno::EXIST, resent)?;
                self.made(operation, &directory, &entry, &fresh)
            }
            Action::Symlink { entry, target, fresh } => {
                let directory = self.tree.handle(entry.parent)?;
                let made = rustix::fs::symlinkat(&*target, &*directory, &*entry.name);
                accept(made, Errno::EXIST, resent)?;
                self.made(operation, &directory, &entry, &fresh)
            }
            Action::Temporary { parent, fresh, id } => {
                let outcome = self.temporary(operation, parent, &fresh)?;
                if let Outcome::Opened(number, _) = &outcome {
                    self.tree.set_file(*number, id)?;
                }
                Ok(outcome)
            }
            Action::Unlink { entry, directory } => self.unlink(&entry, directory, resent),
            Action::Rename { from, to, flags } if flags & RenameFlags::EXCHANGE.bits() != 0 => {
                self.exchange(&from, &to, operation.unique)
            }
            Action::Rename { from, to, flags } => self.rename(&from, &to, flags, resent),
            Action::Link { node, entry } => self.link(node, &entry, resent),
            Action::Allocate { stretch, mode, kill } => {
                self.allocate(operation, stretch, mode, kill)
            }
            Action::CopyRange { from, to, wide, kill } => {
                self.copy_range(operation, from, to, kill).map(|len| Outcome::Count(len, wide))
            }
            Action::SetXattr { node, name, value, flags, kill } => {
                self.set_xattr(node, &name, &value, flags, resent)?;
                if kill {
                    self.kill_set_id(operation, node)?;
                }
                Ok(Outcome::Done)
            }
            Action::RemoveXattr { node, name } => {
                let removed = self.on_path(node, |path| rustix::fs::removexattr(path, &*name));
                accept(removed, Errno::NODATA, resent)?;
                self.tree.acl_changed(node);
                Ok(Outcome::Done)
            }
            Action::Sync { node, data_only } => {
                let handle = self.tree.handle(node.unwrap_or(super::abi::ROOT))?;
                match node {
                    None => rustix::fs::syncfs(&*handle)?,
                    Some(_) if data_only => rustix::fs::fdatasync(&*handle)?,
                    Some(_) => rustix::fs::fsync(&*handle)?,
                }
                Ok(Outcome::Done)
            }
        }
    }

    /// Names the file anew in the changes of an operation that was kept while others were applied:
    /// the name that was chosen may be gone.
    pub(super) fn refresh(&mut self, operation: &mut Operation) {
        let node = match &operation.action {
            Action::SetAttributes { node, .. }
            | Action::SetXattr { node, .. }
            | Action::RemoveXattr { node, .. }
            | Action::Link { node, .. } => *node,
            Action::Sync { node: Some(node), .. } => *node,
            _ => return,
        };
        let Some(now) = self.target(node) else { return };
        for change in &mut operation.changes {
            match change {
                Change::SetMode { target, .. }
                | Change::SetOwner { target, .. }
                | Change::SetTimes { target, .. }
                | Change::SetXattr { target, .. }
                | Change::RemoveXattr { target, .. }
                | Change::Sync { target: Some(target) } => *target = now.clone(),
                Change::Link { from, to } => match &now {
                    Target::Path(location) => *from = location.clone(),
                    Target::Id(id) => {
                        *change = Change::LinkOpen { id: *id, location: to.clone() };
                    }
                },
                _ => {}
            }
        }
    }

    fn write(
        &mut self,
        operation: &mut Operation,
        node: u64,
        offset: u64,
        kill: bool,
    ) -> Result<Outcome, Errno> {
        let handle = self.tree.handle(node)?;
        let payload = operation.payload();
        let (written, result) = write_at(&*handle, payload, offset);
        if written == 0 {
            result?;
        }
        self.written(operation, node, written, kill)
    }

    /// Notes that `written` bytes of a write's payload were written.
    pub(super) fn written(
        &mut self,
        operation: &mut Operation,
        node: u64,
        written: usize,
        kill: bool,
    ) -> Result<Outcome, Errno> {
        operation.payload.end = operation.payload.start + written;
        if let Some(Change::Write { len, .. }) = operation.changes.first_mut() {
            *len = u32::try_from(written).map_err(|_| Errno::FBIG)?;
        }
        if kill {
            self.kill_set_id(operation, node)?;
        }
        Ok(Outcome::Count(written as u64, false))
    }

    /// Clears set-id bits as the kernel does when a file's content changes.
    fn kill_set_id(&mut self, operation: &mut Operation, node: u64) -> Result<(), Errno> {
        let handle = self.tree.handle(node)?;
        let old = rustix::fs::fstat(&*handle)?.st_mode;
        let mut new = old & !0o4000;
        if old & 0o2010 == 0o2010 {
            new &= !0o2000;
        }
        if new != old {
            self.set_mode(node, new)?;
            if let Some(target) = self.target(node) {
                operation.changes.push(Change::SetMode { target, mode: permissions(new) });
            }
        }
        Ok(())
    }

    fn set_mode(&mut self, node: u64, bits: u32) -> Result<(), Errno> {
        let handle = self.tree.handle(node)?;
        if matches!(self.tree.kind(node)?, DIRECTORY | REGULAR) {
            rustix::fs::fchmod(&*handle, mode(bits))
        } else {
            let path = path_of(&handle);
            rustix::fs::chmod(path.as_str(), mode(bits))
        }
    }

    fn set_attributes(
        &mut self,
        operation: &mut Operation,
        node: u64,
        new: Attributes,
    ) -> Result<Outcome, Errno> {
        let handle = self.tree.handle(node)?;
        let mut done = 0;
        let mut perform = || -> Result<(), Errno> {
            if let Some(size) = new.size {
                rustix::fs::ftruncate(&*handle, size)?;
                done += 1;
            }
            if new.uid.is_some() || new.gid.is_some() {
                let (uid, gid) = (new.uid.map(Uid::from_raw), new.gid.map(Gid::from_raw));
                rustix::fs::chownat(&*handle, "", uid, gid, AtFlags::EMPTY_PATH)?;
                done += 1;
            }
            Ok(())
        };
        let mut result = perform();
        if result.is_ok()
            && let Some(bits) = new.mode
        {
            result = self.set_mode(node, bits);
            done += usize::from(result.is_ok());
        }
        if result.is_ok() && (new.accessed.is_some() || new.modified.is_some()) {
            result = set_times(&handle, new.accessed, new.modified);
            done += usize::from(result.is_ok());
        }
        // What was done before a failure is done: the peer must learn of it.
        operation.changes.truncate(done);
        result?;
        if new.kill && new.size.is_some() {
            self.kill_set_id(operation, node)?;
        }
        Ok(Outcome::Attributes(node, self.stat(node)?))
    }

    /// Gives what was just made its owner and mode, and tells the change what they are.
    fn made(
        &mut self,
        operation: &mut Operation,
        directory: &Handle,
        entry: &Entry,
        fresh: &Fresh,
    ) -> Result<Outcome, Errno> {
        let mut about = self.tree.stat_child(entry.parent, &entry.name)?;
        let kind = u32::from(about.stx_mode) & KIND_MASK;
        if kind != fresh.mode & KIND_MASK {
            return Err(Errno::EXIST);
        }
        if self.differs(entry.parent, &about, fresh)? {
            let handle = open_entry(directory, &entry.name, kind)?;
            self.adopt(entry.parent, &handle, &about, fresh)?;
            about = self.tree.stat_child(entry.parent, &entry.name)?;
        }
        correct_access(&mut operation.changes, &about);
        let number = self.tree.learn(entry.parent, &entry.name, &about)?;
        Ok(Outcome::Entry(number, about))
    }

    fn differs(&mut self, parent: u64, about: &Statx, fresh: &Fresh) -> Result<bool, Errno> {
        Ok(about.stx_uid != fresh.uid
            || about.stx_gid != self.group_for(parent, fresh)?
            || self.mode_for(parent, about, fresh)?.is_some_and(|m| m != u32::from(about.stx_mode)))
    }

    /// The group that something new gets: the directory's, if that has the set-group-id bit.
    fn group_for(&mut self, parent: u64, fresh: &Fresh) -> Result<u32, Errno> {
        let directory = self.tree.handle(parent)?;
        let about = rustix::fs::fstat(&*directory)?;
        Ok(if about.st_mode & 0o2000 != 0 { about.st_gid } else { fresh.gid })
    }

    /// The mode that something new gets; `None`: as the file system made it.
    fn mode_for(
        &mut self,
        parent: u64,
        about: &Statx,
        fresh: &Fresh,
    ) -> Result<Option<u32>, Errno> {
        if fresh.mode & KIND_MASK == SYMLINK || self.tree.has_default_acl(parent)? {
            return Ok(None);
        }
        let inherited = match fresh.mode & KIND_MASK {
            // A directory in a set-group-id directory is one itself.
            DIRECTORY => u32::from(about.stx_mode) & 0o2000,
            _ => 0,
        };
        Ok(Some(fresh.mode & !(fresh.umask & 0o777) | inherited))
    }

    fn adopt(
        &mut self,
        parent: u64,
        handle: &OwnedFd,
        about: &Statx,
        fresh: &Fresh,
    ) -> Result<(), Errno> {
        let gid = self.group_for(parent, fresh)?;
        if about.stx_uid != fresh.uid || about.stx_gid != gid {
            let (uid, gid) = (Uid::from_raw(fresh.uid), Gid::from_raw(gid));
            rustix::fs::chownat(handle, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)?;
        }
        // A change of owner clears set-id bits, so the mode comes last.
        let wanted = self.mode_for(parent, about, fresh)?.unwrap_or(u32::from(about.stx_mode));
        let is_link = fresh.mode & KIND_MASK == SYMLINK;
        if !is_link && (wanted != u32::from(about.stx_mode) || wanted & SET_ID_BITS != 0) {
            rustix::fs::chmod(path_of(handle).as_str(), mode(wanted))?;
        }
        Ok(())
    }

    fn temporary(
        &mut self,
        operation: &mut Operation,
        parent: u64,
        fresh: &Fresh,
    ) -> Result<Outcome, Errno> {
        let directory = self.tree.handle(parent)?;
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let handle = rustix::fs::openat(&*directory, ".", flags, mode(fresh.mode))?;
        let stat = |handle: &OwnedFd| {
            let mask = rustix::fs::StatxFlags::BASIC_STATS | rustix::fs::StatxFlags::BTIME;
            rustix::fs::statx(handle, "", AtFlags::EMPTY_PATH, mask)
        };
        let mut about = stat(&handle)?;
        if self.differs(parent, &about, fresh)? {
            self.adopt(parent, &handle, &about, fresh)?;
            about = stat(&handle)?;
        }
        correct_access(&mut operation.changes, &about);
        let number = self.tree.meet(&about)?;
        self.tree.cache(number, handle);
        self.keep(number)?;
        Ok(Outcome::Opened(number, about))
    }

    fn allocate(
        &mut self,
        operation: &mut Operation,
        stretch: Stretch,
        mode: u32,
        kill: bool,
    ) -> Result<Outcome, Errno> {
        let handle = self.tree.handle(stretch.node)?;
        let flags = FallocateFlags::from_bits_retain(mode);
        rustix::fs::fallocate(&*handle, flags, stretch.offset, stretch.len)?;
        if kill {
            self.kill_set_id(operation, stretch.node)?;
        }
        Ok(Outcome::Done)
    }

    fn copy_range(
        &mut self,
        operation: &mut Operation,
        from: Stretch,
        to: Stretch,
        kill: bool,
    ) -> Result<u64, Errno> {
        let (source, target) = (self.tree.handle(from.node)?, self.tree.handle(to.node)?);
        let len = usize::try_from(to.len).unwrap_or(usize::MAX).min(1 << 30);
        let (mut from_at, mut to_at) = (from.offset, to.offset);
        let copied = rustix::fs::copy_file_range(
            &*source,
            Some(&mut from_at),
            &*target,
            Some(&mut to_at),
            len,
        )? as u64;
        match operation.changes.first_mut() {
            Some(Change::CopyRange { len, .. }) if copied > 0 => *len = copied,
            _ => operation.changes.clear(),
        }
        if kill && copied > 0 {
            self.kill_set_id(operation, to.node)?;
        }
        Ok(copied)
    }

    fn set_xattr(
        &mut self,
        node: u64,
        name: &[u8],
        value: &[u8],
        flags: u32,
        resent: bool,
    ) -> Result<(), Errno> {
        let flags = if resent { XattrFlags::empty() } else { XattrFlags::from_bits_retain(flags) };
        self.on_path(node, |path| rustix::fs::setxattr(path, name, value, flags))?;
        self.tree.acl_changed(node);
        Ok(())
    }

    /// Calls `act` with a path that leads to the node whatever its kind.
    pub(super) fn on_path<T>(
        &mut self,
        node: u64,
        act: impl FnOnce(&str) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let handle = self.tree.handle(node)?;
        act(&path_of(&handle))
    }

    /// What attribute changes of a node name: its place, or its id if it has none.
    pub(super) fn target(&mut self, node: u64) -> Option<Target> {
        if let Some(location) = self.tree.location(node) {
            return Some(Target::Path(location));
        }
        // Something without a name that is no file is gone for everyone but its present users.
        let is_file = self.tree.kind(node) == Ok(REGULAR);
        is_file.then(|| self.tree.file(node).ok().map(Target::Id)).flatten()
    }
}

/// Success, or the error that a repeated request gets when it was carried out before.
pub(super) fn accept(result: Result<(), Errno>, done: Errno, resent: bool) -> Result<(), Errno> {
    match result {
        Err(error) if resent && error == done => Ok(()),
        result => result,
    }
}

fn make_node(directory: &OwnedFd, name: &[u8], fresh: &Fresh, rdev: u32) -> Result<(), Errno> {
    let device = rustix::fs::makedev((rdev & 0xf_ff00) >> 8, rdev & 0xff | (rdev >> 12) & 0xf_ff00);
    let kind = FileType::from_raw_mode(fresh.mode);
    rustix::fs::mknodat(directory, name, kind, mode(fresh.mode), device)
}

/// Sets the times of an open node; `None` leaves as is.
pub(super) fn set_times(
    handle: &OwnedFd,
    accessed: Option<FileTime>,
    modified: Option<FileTime>,
) -> Result<(), Errno> {
    let spec = |time: Option<FileTime>| {
        time.map_or(Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT }, |time| Timespec {
            tv_sec: time.seconds,
            tv_nsec: i64::from(time.nanoseconds),
        })
    };
    let times = Timestamps { last_access: spec(accessed), last_modification: spec(modified) };
    rustix::fs::utimensat(handle, "", &times, AtFlags::EMPTY_PATH)
}

fn correct_access(changes: &mut [Change], about: &Statx) {
    let real = Access {
        mode: permissions(u32::from(about.stx_mode)),
        uid: about.stx_uid,
        gid: about.stx_gid,
    };
    match changes.first_mut() {
        Some(
            Change::Create { access, .. }
            | Change::Temporary { access, .. }
            | Change::MakeDirectory { access, .. }
            | Change::MakeNode { access, .. },
        ) => *access = real,
        Some(Change::Symlink { uid, gid, .. }) => (*uid, *gid) = (real.uid, real.gid),
        _ => {}
    }
}

/// The permission bits of a mode.
pub(super) const fn permissions(mode: u32) -> u16 {
    (mode & PERMISSION_BITS) as u16
}

fn mode(bits: u32) -> Mode {
    Mode::from_raw_mode(bits & PERMISSION_BITS)
}

fn path_of(handle: &OwnedFd) -> String {
    use std::os::fd::AsRawFd;
    format!("/proc/self/fd/{}", handle.as_raw_fd())
}
