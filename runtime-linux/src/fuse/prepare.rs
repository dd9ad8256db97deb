//! Turns a changing request into an [`Operation`]: what is asked, and which changes it means.

use havre_core::replication::record::{
    Access, AllocateMode, Change, FileTime, Location, NodeKind, RenameMode,
};
use rustix::{
    fs::{FallocateFlags, RenameFlags},
    io::Errno,
};

use super::{
    Files,
    abi::{
        FSYNC_FDATASYNC, IN_HEADER_BYTES, InHeader, Reader, SETXATTR_ACL_KILL_SGID, WRITE_IN_BYTES,
        WRITE_KILL_SUIDGID, fattr, op,
    },
    action::{Action, Attributes, Entry, Fresh, Stretch},
    intercept::{FileReference, Operation},
    perform::permissions,
    tree::{DIRECTORY, KIND_MASK, REGULAR},
};

const FALLOCATE_KEEP_SIZE: u32 = 1;

/// A request's meaning before it becomes an operation.
struct Draft {
    action: Action,
    changes: Vec<Change>,
    /// Regular file concerned, and the bytes of it that may change.
    file: Option<(u64, Option<std::ops::Range<u64>>)>,
    payload: std::ops::Range<usize>,
}

impl Draft {
    const fn new(action: Action, changes: Vec<Change>) -> Self {
        Self { action, changes, file: None, payload: 0..0 }
    }

    fn on(mut self, node: u64, range: Option<std::ops::Range<u64>>) -> Self {
        self.file = Some((node, range));
        self
    }
}

/// Whether requests of this kind change something or are barriers.
pub(super) const fn is_change(opcode: u32) -> bool {
    matches!(
        opcode,
        op::SETATTR
            | op::SYMLINK
            | op::MKNOD
            | op::MKDIR
            | op::UNLINK
            | op::RMDIR
            | op::RENAME
            | op::RENAME2
            | op::LINK
            | op::WRITE
            | op::FSYNC
            | op::FSYNCDIR
            | op::SYNCFS
            | op::SETXATTR
            | op::REMOVEXATTR
            | op::FALLOCATE
            | op::COPY_FILE_RANGE
            | op::COPY_FILE_RANGE_64
            | op::TMPFILE
    )
}

/// Whether the request makes a file durable with all its attributes.
pub(super) fn is_complete_sync(header: &InHeader, request: &[u8]) -> bool {
    let mut reader = Reader::new(request.get(IN_HEADER_BYTES..).unwrap_or_default());
    header.opcode == op::FSYNC
        && reader.u64().and_then(|_| reader.u32()).is_ok_and(|flags| flags & FSYNC_FDATASYNC == 0)
}

impl Files {
    /// Makes the operation for the changing request in `buffer`. The buffer comes back with an
    /// error.
    pub(super) fn prepare(
        &mut self,
        header: InHeader,
        buffer: Vec<u8>,
    ) -> Result<Operation, (Errno, Vec<u8>)> {
        match self.draft(&header, &buffer) {
            Ok(draft) => self.operation(draft, Some(&header), buffer),
            Err(error) => Err((error, buffer)),
        }
    }

    /// Makes an operation for which nobody waits: a modification time that was noted.
    pub(super) fn prepare_times(&mut self, node: u64) -> Option<Operation> {
        let modified = self.tree.take_modified(node)?;
        let target = self.target(node)?;
        let attributes = Attributes { modified: Some(modified), ..Attributes::default() };
        let change = Change::SetTimes { target, accessed: None, modified: Some(modified) };
        let draft = Draft::new(Action::SetAttributes { node, attributes }, vec![change]);
        self.operation(draft.on(node, None), None, Vec::new()).ok()
    }

    fn operation(
        &mut self,
        draft: Draft,
        header: Option<&InHeader>,
        buffer: Vec<u8>,
    ) -> Result<Operation, (Errno, Vec<u8>)> {
        let (file, range) = match draft.file {
            Some((node, range)) if self.tree.kind(node) == Ok(REGULAR) => {
                let Ok(id) = self.tree.file(node) else { return Err((Errno::STALE, buffer)) };
                let location = self.tree.location(node);
                (Some(FileReference { id, inode: self.inode(node), location }), range)
            }
            _ => (None, None),
        };
        let last_name_of = self.loses_last_name(&draft.action);
        self.next_ticket += 1;
        let operation = Operation {
            changes: draft.changes,
            file,
            range,
            last_name_of,
            payload: draft.payload,
            buffer,
            action: draft.action,
            ticket: self.next_ticket,
            prepared_at: self.applied_count,
            unique: header.map(|header| header.unique),
            resent: header.is_some_and(InHeader::resent),
        };
        self.unapplied.add(&operation);
        Ok(operation)
    }

    /// The file that has no known name after `action` though it may be in use.
    fn loses_last_name(
        &mut self,
        action: &Action,
    ) -> Option<havre_core::replication::record::FileId> {
        let entry = match action {
            Action::Unlink { entry, directory: false } => entry,
            Action::Rename { to, flags, .. } if *flags == 0 => to,
            _ => return None,
        };
        let about = self.tree.stat_child(entry.parent, &entry.name).ok()?;
        let number = self.tree.number_of(about.stx_ino);
        let is_file = u32::from(about.stx_mode) & KIND_MASK == REGULAR;
        if is_file && self.tree.is_last_name(number, entry.parent, &entry.name) {
            self.tree.file(number).ok()
        } else {
            None
        }
    }

    fn draft(&mut self, header: &InHeader, buffer: &[u8]) -> Result<Draft, Errno> {
        let node = header.node;
        let body = buffer.get(IN_HEADER_BYTES..header.len as usize).ok_or(Errno::INVAL)?;
        let mut reader = Reader::new(body);
        let reader = &mut reader;
        match header.opcode {
            op::WRITE => self.draft_write(node, reader, body.len()),
            op::SETATTR => self.draft_attributes(node, reader),
            op::MKNOD | op::MKDIR | op::SYMLINK | op::TMPFILE => self.draft_new(header, reader),
            op::UNLINK | op::RMDIR => self.draft_unlink(header, reader),
            op::RENAME | op::RENAME2 => self.draft_rename(header, reader),
            op::LINK => self.draft_link(node, reader),
            op::FALLOCATE => self.draft_allocate(header, reader),
            op::COPY_FILE_RANGE | op::COPY_FILE_RANGE_64 => self.draft_copy(header, reader),
            op::SETXATTR => {
                let (size, flags) = (reader.u32()?, reader.u32()?);
                let (more, _) = (reader.u32()?, reader.u32()?);
                let name: Box<[u8]> = reader.name()?.into();
                let value: Box<[u8]> = reader.take(size as usize)?.into();
                let kill = more & SETXATTR_ACL_KILL_SGID != 0;
                let changes = Vec::from_iter(self.target(node).map(|target| Change::SetXattr {
                    target,
                    name: name.to_vec(),
                    value: value.to_vec(),
                }));
                let action = Action::SetXattr { node, name, value, flags, kill };
                Ok(Draft::new(action, changes).on(node, None))
            }
            op::REMOVEXATTR => {
                let name: Box<[u8]> = reader.name()?.into();
                let changes = Vec::from_iter(
                    self.target(node)
                        .map(|target| Change::RemoveXattr { target, name: name.to_vec() }),
                );
                Ok(Draft::new(Action::RemoveXattr { node, name }, changes).on(node, None))
            }
            op::FSYNC | op::FSYNCDIR => {
                let (_, flags) = (reader.u64()?, reader.u32()?);
                let target = self.target(node);
                let data_only = flags & FSYNC_FDATASYNC != 0;
                let action = Action::Sync { node: Some(node), data_only };
                Ok(Draft::new(action, vec![Change::Sync { target }]).on(node, None))
            }
            op::SYNCFS => {
                let action = Action::Sync { node: None, data_only: false };
                Ok(Draft::new(action, vec![Change::Sync { target: None }]))
            }
            _ => Err(Errno::NOSYS),
        }
    }

    fn draft_write(
        &mut self,
        node: u64,
        reader: &mut Reader<'_>,
        len: usize,
    ) -> Result<Draft, Errno> {
        let (_, offset) = (reader.u64()?, reader.u64()?);
        let (size, flags) = (reader.u32()?, reader.u32()?);
        if len < WRITE_IN_BYTES + size as usize {
            return Err(Errno::INVAL);
        }
        let id = self.tree.file(node)?;
        let change = Change::Write { id, offset, len: size };
        let kill = flags & WRITE_KILL_SUIDGID != 0;
        let mut draft = Draft::new(Action::Write { node, offset, kill }, vec![change])
            .on(node, Some(offset..offset.saturating_add(u64::from(size))));
        let start = IN_HEADER_BYTES + WRITE_IN_BYTES;
        draft.payload = start..start + size as usize;
        Ok(draft)
    }

    fn draft_attributes(&mut self, node: u64, reader: &mut Reader<'_>) -> Result<Draft, Errno> {
        let new = read_attributes(reader)?;
        let mut changes = Vec::new();
        if let Some(size) = new.size {
            changes.push(Change::Truncate { id: self.tree.file(node)?, size });
        }
        if let Some(target) = self.target(node) {
            let times = new.accessed.is_some() || new.modified.is_some();
            if new.uid.is_some() || new.gid.is_some() {
                let target = target.clone();
                changes.push(Change::SetOwner { target, uid: new.uid, gid: new.gid });
            }
            if let Some(mode) = new.mode {
                let target = target.clone();
                changes.push(Change::SetMode { target, mode: permissions(mode) });
            }
            if times {
                let (accessed, modified) = (new.accessed, new.modified);
                changes.push(Change::SetTimes { target, accessed, modified });
            }
        }
        let range = new.size.map(|size| size..u64::MAX);
        Ok(Draft::new(Action::SetAttributes { node, attributes: new }, changes).on(node, range))
    }

    fn draft_new(&mut self, header: &InHeader, reader: &mut Reader<'_>) -> Result<Draft, Errno> {
        let parent = header.node;
        let mut fresh = Fresh { uid: header.uid, gid: header.gid, mode: 0, umask: 0 };
        let access = |fresh: &Fresh| Access {
            mode: permissions(fresh.mode & !fresh.umask),
            uid: fresh.uid,
            gid: fresh.gid,
        };
        if header.opcode == op::SYMLINK {
            fresh.mode = super::tree::SYMLINK | 0o777;
            let entry = Entry { parent, name: reader.name()?.into() };
            let target: Box<[u8]> = reader.name()?.into();
            let location = self.tree.entry(parent, &entry.name)?;
            let (uid, gid) = (fresh.uid, fresh.gid);
            let change = Change::Symlink { location, target: target.to_vec(), uid, gid };
            return Ok(Draft::new(Action::Symlink { entry, target, fresh }, vec![change]));
        }
        if header.opcode == op::MKDIR {
            fresh.mode = reader.u32()? & 0o7777 | DIRECTORY;
            fresh.umask = reader.u32()?;
            let entry = Entry { parent, name: reader.name()?.into() };
            let location = self.tree.entry(parent, &entry.name)?;
            let change = Change::MakeDirectory { location, access: access(&fresh) };
            return Ok(Draft::new(Action::MakeDirectory { entry, fresh }, vec![change]));
        }
        if header.opcode == op::TMPFILE {
            let (_, mode) = (reader.u32()?, reader.u32()?);
            fresh.mode = mode & 0o7777 | REGULAR;
            fresh.umask = reader.u32()?;
            let id = self.tree.new_file();
            let directory = self.tree.location(parent).ok_or(Errno::NOENT)?;
            let change = Change::Temporary { directory, id, access: access(&fresh) };
            return Ok(Draft::new(Action::Temporary { parent, fresh, id }, vec![change]));
        }
        fresh.mode = reader.u32()?;
        let rdev = reader.u32()?;
        (fresh.umask, _) = (reader.u32()?, reader.u32()?);
        let entry = Entry { parent, name: reader.name()?.into() };
        let location = self.tree.entry(parent, &entry.name)?;
        let access = access(&fresh);
        let (change, id) = match node_kind(fresh.mode, rdev)? {
            NodeKind::File => {
                let id = self.tree.new_file();
                (Change::Create { location, id, access }, Some(id))
            }
            kind => (Change::MakeNode { location, kind, access }, None),
        };
        Ok(Draft::new(Action::MakeNode { entry, fresh, rdev, id }, vec![change]))
    }

    fn draft_unlink(&mut self, header: &InHeader, reader: &mut Reader<'_>) -> Result<Draft, Errno> {
        let entry = Entry { parent: header.node, name: reader.name()?.into() };
        let location = self.tree.entry(entry.parent, &entry.name)?;
        let directory = header.opcode == op::RMDIR;
        let change = if directory {
            Change::RemoveDirectory { location }
        } else {
            Change::Unlink { location }
        };
        Ok(Draft::new(Action::Unlink { entry, directory }, vec![change]))
    }

    fn draft_rename(&mut self, header: &InHeader, reader: &mut Reader<'_>) -> Result<Draft, Errno> {
        let parent = reader.u64()?;
        let mut flags = 0;
        if header.opcode == op::RENAME2 {
            flags = reader.u32()?;
            reader.u32()?;
        }
        let mode = match RenameFlags::from_bits_retain(flags) {
            RenameFlags::EXCHANGE => RenameMode::Exchange,
            RenameFlags::NOREPLACE => RenameMode::NoReplace,
            none if none.is_empty() => RenameMode::Replace,
            // Whiteouts are for union file systems.
            _ => return Err(Errno::INVAL),
        };
        let from = Entry { parent: header.node, name: reader.name()?.into() };
        let to = Entry { parent, name: reader.name()?.into() };
        let change = Change::Rename {
            from: self.tree.entry(from.parent, &from.name)?,
            to: self.tree.entry(to.parent, &to.name)?,
            mode,
        };
        Ok(Draft::new(Action::Rename { from, to, flags }, vec![change]))
    }

    fn draft_link(&mut self, parent: u64, reader: &mut Reader<'_>) -> Result<Draft, Errno> {
        let node = reader.u64()?;
        let entry = Entry { parent, name: reader.name()?.into() };
        let to = self.tree.entry(parent, &entry.name)?;
        let old: Option<Location> = self.tree.location(node);
        let change = match old {
            Some(from) => Change::Link { from, to },
            None if self.tree.kind(node)? == REGULAR => {
                Change::LinkOpen { id: self.tree.file(node)?, location: to }
            }
            None => return Err(Errno::NOENT),
        };
        Ok(Draft::new(Action::Link { node, entry }, vec![change]).on(node, None))
    }

    fn draft_allocate(
        &mut self,
        header: &InHeader,
        reader: &mut Reader<'_>,
    ) -> Result<Draft, Errno> {
        let (_, offset, len) = (reader.u64()?, reader.u64()?, reader.u64()?);
        let bits = reader.u32()?;
        let keep = bits & FALLOCATE_KEEP_SIZE != 0;
        let mode = match FallocateFlags::from_bits_retain(bits & !FALLOCATE_KEEP_SIZE) {
            none if none.is_empty() && keep => AllocateMode::ReserveKeepSize,
            none if none.is_empty() => AllocateMode::Reserve,
            FallocateFlags::PUNCH_HOLE if keep => AllocateMode::PunchHole,
            FallocateFlags::ZERO_RANGE if keep => AllocateMode::ZeroRangeKeepSize,
            FallocateFlags::ZERO_RANGE => AllocateMode::ZeroRange,
            // Collapsing and inserting move bytes that the kernel's cache has elsewhere.
            _ => return Err(Errno::OPNOTSUPP),
        };
        let node = header.node;
        let id = self.tree.file(node)?;
        let change = Change::Allocate { id, mode, offset, len };
        let stretch = Stretch { node, offset, len };
        let action = Action::Allocate { stretch, mode: bits, kill: header.uid != 0 };
        Ok(Draft::new(action, vec![change]).on(node, Some(offset..offset.saturating_add(len))))
    }

    fn draft_copy(&mut self, header: &InHeader, reader: &mut Reader<'_>) -> Result<Draft, Errno> {
        if !self.options.copy_range {
            return Err(Errno::NOSYS);
        }
        let (_, from_offset) = (reader.u64()?, reader.u64()?);
        let (to_node, _, to_offset) = (reader.u64()?, reader.u64()?, reader.u64()?);
        let len = reader.u64()?;
        let from = Stretch { node: header.node, offset: from_offset, len };
        let to = Stretch { node: to_node, offset: to_offset, len };
        let change = Change::CopyRange {
            from: self.tree.file(header.node)?,
            from_offset,
            to: self.tree.file(to_node)?,
            to_offset,
            len,
        };
        let wide = header.opcode == op::COPY_FILE_RANGE_64;
        let action = Action::CopyRange { from, to, wide, kill: header.uid != 0 };
        let range = to_offset..to_offset.saturating_add(len);
        Ok(Draft::new(action, vec![change]).on(to_node, Some(range)))
    }
}

fn node_kind(mode: u32, rdev: u32) -> Result<NodeKind, Errno> {
    Ok(match mode & KIND_MASK {
        0 | REGULAR => NodeKind::File,
        0o010_000 => NodeKind::Fifo,
        0o140_000 => NodeKind::Socket,
        0o020_000 => NodeKind::CharacterDevice(rdev),
        0o060_000 => NodeKind::BlockDevice(rdev),
        _ => return Err(Errno::INVAL),
    })
}

/// Reads a SETATTR request's body; "now" becomes a time.
pub(super) fn read_attributes(reader: &mut Reader<'_>) -> Result<Attributes, Errno> {
    let (valid, _) = (reader.u32()?, reader.u32()?);
    let (_, size, _) = (reader.u64()?, reader.u64()?, reader.u64()?);
    let (atime, mtime, _) = (reader.u64()?, reader.u64()?, reader.u64()?);
    let (atime_ns, mtime_ns, _) = (reader.u32()?, reader.u32()?, reader.u32()?);
    let (mode, _) = (reader.u32()?, reader.u32()?);
    let (uid, gid) = (reader.u32()?, reader.u32()?);
    let has = |bit: u32| valid & bit != 0;
    let time = |set: u32, now: u32, seconds: u64, nanoseconds: u32| {
        if !has(set) {
            return None;
        }
        let given = FileTime { seconds: seconds as i64, nanoseconds };
        Some(if has(now) { time_now() } else { given })
    };
    Ok(Attributes {
        size: has(fattr::SIZE).then_some(size),
        uid: has(fattr::UID).then_some(uid),
        gid: has(fattr::GID).then_some(gid),
        mode: has(fattr::MODE).then_some(mode),
        accessed: time(fattr::ATIME, fattr::ATIME_NOW, atime, atime_ns),
        modified: time(fattr::MTIME, fattr::MTIME_NOW, mtime, mtime_ns),
        kill: has(fattr::KILL_SUIDGID),
    })
}

fn time_now() -> FileTime {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    let nanoseconds = u32::try_from(now.tv_nsec).unwrap_or(0);
    FileTime { seconds: now.tv_sec, nanoseconds }
}
