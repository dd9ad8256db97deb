//! The intercepting file system: a FUSE mount over a replicated directory that passes every
//! operation through to the directory beneath, and gives every change to an [`Interceptor`].
//!
//! ```text
//! application -> kernel -> /dev/fuse -> Session::turn -> serve    (answers at once)
//!                                            |
//!                                            +-> prepare -> Interceptor::submit(Operation)
//!                                                            ... Files::apply ... Files::reply
//! ```
//!
//! The directory beneath is opened before the mount covers it and is reached through descriptors
//! ever after. One thread owns a session; nothing here blocks except the system calls on the
//! directory beneath. The session never touches the mounted path itself, which would wait for
//! itself.
//!
//! Havre is the only writer beneath the mount, so the kernel may keep names, attributes and data
//! for ever. The kernel opens and closes files without asking; POSIX and `flock` locks are its own
//! business.
//!
//! A session can be taken over by another process ([`Session::resume`]) that has the descriptors
//! of [`Session::parts`]: see [`crate::holder`].
//!
//! Known differences from the directory beneath: access times do not move (the mount is
//! `noatime`); other file systems mounted beneath are refused (`EXDEV`); `FALLOC_FL_COLLAPSE_RANGE`
//! and `INSERT_RANGE` are refused (`EOPNOTSUPP`); with [`WriteMode::Back`] a full disk is reported
//! by `fsync` or `close` rather than `write`, and `SEEK_HOLE` sees no holes; `syncfs` writes the
//! kernel's cache but is no barrier, because the kernel does not tell.
//!
//! Sources: Linux `fs/fuse`, `include/uapi/linux/fuse.h`; docs/internals/datapath.md.

mod abi;
mod action;
mod arena;
mod attributes;
mod buffers;
mod device;
pub mod intercept;
mod keeper;
mod names;
mod order;
mod perform;
mod prepare;
mod serve;
mod tree;

use std::{
    collections::VecDeque,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    sync::Arc,
};

use havre_core::{
    config::module::WriteMode,
    replication::record::{FileId, FileTime, Location},
};
use rustix::{
    fs::{Mode, OFlags, Statx},
    io::Errno,
    process::{Resource, Rlimit},
};

use self::{
    abi::{Encoder, IN_HEADER_BYTES, InHeader, ROOT, Reader, WRITE_IN_BYTES, fattr, op},
    action::Action,
    arena::Arena,
    buffers::Buffers,
    device::{Device, Received},
    order::Unapplied,
    perform::Outcome,
    serve::WRITE_BYTES_MAX,
    tree::{Dropped, REGULAR, Tree},
};
pub use self::{
    device::{Mounted, mounted_at, unmount},
    intercept::{Applied, FileReference, Interceptor, Operation, PassThrough, RawRequest},
    keeper::{Keeper, NoKeeper},
};

/// Requests that one [`Session::turn`] handles at most.
const TURN_REQUESTS_MAX: u32 = 64;
/// Length of a receive buffer: the longest write and its headers, rounded up to pages.
const BUFFER_BYTES: usize = WRITE_BYTES_MAX as usize + 4096;
/// Noted modification times that are set when so many have gathered.
const NOTED_TIMES_MAX: usize = 4096;

/// How a directory is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Position of the directory in the module's configuration: the `root` of every location.
    pub root: u8,
    /// Whether the kernel keeps writes until a barrier ([`WriteMode::Back`]) or passes each on.
    pub write: WriteMode,
    /// Open descriptors kept at most. Default 4096.
    pub descriptors_max: usize,
    /// Whether `copy_file_range` becomes one change ([`Change::CopyRange`]) rather than reads and
    /// writes. Default off: the peer's copy of the source may not be up to date yet.
    ///
    /// [`Change::CopyRange`]: havre_core::replication::record::Change::CopyRange
    pub copy_range: bool,
}

impl Options {
    /// The defaults for directory number `root`.
    pub const fn new(root: u8, write: WriteMode) -> Self {
        Self { root, write, descriptors_max: 4096, copy_range: false }
    }
}

/// What one [`Session::turn`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// No request was waiting.
    Idle,
    /// So many requests were handled; there may be more.
    Handled(u32),
    /// The interceptor keeps so many operations that no more are taken.
    Full,
    /// The mount is gone.
    Ended,
}

/// The descriptors that make a session; duplicates let another process take it over.
#[derive(Debug)]
pub struct Parts<F> {
    /// `/dev/fuse`.
    pub device: F,
    /// The directory beneath the mount.
    pub directory: F,
    /// The node table.
    pub table: F,
}

/// The directory beneath, its nodes, and the replies: what an [`Interceptor`] works with.
pub struct Files {
    device: Device,
    tree: Tree,
    options: Options,
    keeper: Box<dyn Keeper>,
    unapplied: Unapplied,
    next_ticket: u64,
    applied_count: u64,
    /// Reply under construction.
    out: Vec<u8>,
    /// Bytes of the last read, and how many of them are the reply.
    data: Vec<u8>,
    data_len: Option<usize>,
    buffers: Buffers,
}

/// A mounted directory.
pub struct Session {
    files: Files,
    /// Requests that wait until an operation has been applied.
    deferred: VecDeque<Vec<u8>>,
    /// Nodes with a noted modification time.
    noted: Vec<u64>,
    ended: bool,
}

impl Session {
    /// Mounts over `directory`.
    ///
    /// # Errors
    /// `EBUSY`: a Havre mount is there already; what the kernel says otherwise. Nothing is
    /// mounted then.
    pub fn mount(directory: &Path, options: Options) -> Result<Self, Errno> {
        let is_ours = |mounted: Mounted| mounted.kind == "fuse.havre";
        if mounted_at(directory).ok().flatten().is_some_and(is_ours) {
            return Err(Errno::BUSY);
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOATIME;
        let beneath = rustix::fs::open(directory, flags, Mode::empty())?;
        let tree = Tree::new(options.root, beneath, Arena::create()?, options.descriptors_max)?;
        let device = Device::open()?;
        device.mount(directory, WRITE_BYTES_MAX)?;
        Ok(Self::assemble(device, tree, options))
    }

    /// Takes over a session whose process died, and has its unanswered requests sent again.
    ///
    /// `orphans` are the descriptors that a [`Keeper`] was told to keep.
    ///
    /// # Errors
    /// If the table cannot be read or the mount is gone.
    pub fn resume(
        parts: Parts<OwnedFd>,
        orphans: Vec<(u64, OwnedFd)>,
        options: Options,
    ) -> Result<Self, Errno> {
        let (arena, nodes, names) = Arena::load(parts.table)?;
        let mut tree = Tree::new(options.root, parts.directory, arena, options.descriptors_max)?;
        tree.restore(nodes, names, orphans);
        let device = Device::adopt(parts.device);
        device.request_resend()?;
        Ok(Self::assemble(device, tree, options))
    }

    fn assemble(device: Device, tree: Tree, options: Options) -> Self {
        // Without many descriptors it goes slower, not wrong.
        let limit = rustix::process::getrlimit(Resource::Nofile).maximum;
        let _ =
            rustix::process::setrlimit(Resource::Nofile, Rlimit { current: limit, maximum: limit });
        let files = Files {
            device,
            tree,
            options,
            keeper: Box::new(NoKeeper),
            unapplied: Unapplied::default(),
            next_ticket: 0,
            applied_count: 0,
            out: Vec::new(),
            data: Vec::new(),
            data_len: None,
            buffers: Buffers::default(),
        };
        Self { files, deferred: VecDeque::new(), noted: Vec::new(), ended: false }
    }

    /// Tells `keeper` from now on which descriptors must outlive this process.
    pub fn set_keeper(&mut self, keeper: Box<dyn Keeper>) {
        self.files.keeper = keeper;
    }

    /// Readable when requests wait: poll it, then call [`turn`](Self::turn).
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.files.device.fd()
    }

    /// The descriptors to hand to a holder.
    ///
    /// # Errors
    /// Never in practice: the directory is always open.
    pub fn parts(&mut self) -> Result<Parts<OwnedFd>, Errno> {
        let directory = self.files.tree.handle(ROOT)?;
        let copy = |fd: BorrowedFd<'_>| rustix::io::fcntl_dupfd_cloexec(fd, 3);
        Ok(Parts {
            device: copy(self.files.device.fd())?,
            directory: copy(directory.as_fd())?,
            table: copy(self.files.tree.arena().fd())?,
        })
    }

    /// What the interceptor works with, between turns.
    pub const fn files(&mut self) -> &mut Files {
        &mut self.files
    }

    /// Handles the requests that wait now, up to a bound, without blocking for more.
    ///
    /// Call it again after [`Files::apply`]: requests may have waited for that.
    pub fn turn(&mut self, interceptor: &mut impl Interceptor) -> Turn {
        if self.ended {
            return Turn::Ended;
        }
        let mut handled = self.retry_deferred(interceptor);
        while handled < TURN_REQUESTS_MAX {
            if self.files.buffers.are_used_up() {
                return if handled > 0 { Turn::Handled(handled) } else { Turn::Full };
            }
            let mut buffer = self.files.take_buffer();
            match self.files.device.receive(&mut buffer) {
                Ok(Received::Request(len)) => {
                    handled += 1;
                    self.handle(len, buffer, interceptor);
                }
                Ok(Received::Nothing) => {
                    self.files.recycle(buffer);
                    break;
                }
                Ok(Received::Gone) => {
                    self.files.recycle(buffer);
                    self.ended = true;
                    return Turn::Ended;
                }
                Err(error) => {
                    self.files.recycle(buffer);
                    tracing::error!(%error, "reading /dev/fuse failed");
                    self.ended = true;
                    return Turn::Ended;
                }
            }
        }
        if handled == 0 { Turn::Idle } else { Turn::Handled(handled) }
    }

    /// Sets the modification times that the kernel told and that were only noted, and tells the
    /// keeper which files are done with. Call it about once a second, and before a clean end.
    pub fn settle(&mut self, interceptor: &mut impl Interceptor) {
        self.files.keeper.settle();
        for node in std::mem::take(&mut self.noted) {
            if let Some(operation) = self.files.prepare_times(node) {
                interceptor.submit(&mut self.files, operation);
            }
        }
    }

    fn retry_deferred(&mut self, interceptor: &mut impl Interceptor) -> u32 {
        let mut handled = 0;
        for _ in 0..self.deferred.len() {
            let Some(buffer) = self.deferred.pop_front() else { break };
            let len = InHeader::parse(&buffer).map_or(0, |header| header.len as usize);
            handled += 1;
            self.handle(len, buffer, interceptor);
        }
        handled
    }

    fn handle(&mut self, len: usize, buffer: Vec<u8>, interceptor: &mut impl Interceptor) {
        let header = match InHeader::parse(&buffer) {
            Ok(header) if header.len as usize == len && len >= IN_HEADER_BYTES => header,
            _ => {
                tracing::error!(len, "a request of the kernel has a wrong length");
                self.files.recycle(buffer);
                return;
            }
        };
        if self.must_wait(&header, &buffer) {
            self.deferred.push_back(buffer);
            return;
        }
        if self.note_time(&header, &buffer) {
            self.files.recycle(buffer);
            if self.noted.len() >= NOTED_TIMES_MAX {
                self.settle(interceptor);
            }
            return;
        }
        if prepare::is_change(header.opcode) {
            self.change(header, buffer, interceptor);
            return;
        }
        let mut gone = Vec::new();
        let answer = self.files.serve(header, &buffer[..len], &mut gone);
        if let Some(result) = answer {
            self.files.answer(header.unique, result);
        }
        self.files.recycle(buffer);
        for dropped in gone {
            if let Some(id) = dropped.file {
                interceptor.closed(id);
            }
        }
    }

    fn change(&mut self, header: InHeader, buffer: Vec<u8>, interceptor: &mut impl Interceptor) {
        // A complete sync covers the modification time too, one of the data alone does not.
        if prepare::is_complete_sync(&header, &buffer)
            && let Some(operation) = self.files.prepare_times(header.node)
        {
            interceptor.submit(&mut self.files, operation);
        }
        match self.files.prepare(header, buffer) {
            Ok(operation) => interceptor.submit(&mut self.files, operation),
            Err((error, buffer)) => {
                self.files.answer(header.unique, Err(error));
                self.files.recycle(buffer);
            }
        }
    }

    /// Whether a request must not overtake operations that have not been applied.
    fn must_wait(&self, header: &InHeader, request: &[u8]) -> bool {
        if self.files.unapplied.is_empty() {
            return false;
        }
        if matches!(header.opcode, op::FORGET | op::BATCH_FORGET | op::INTERRUPT) {
            return false;
        }
        if self.files.unapplied.moves_names() {
            return true;
        }
        let mut reader = Reader::new(request.get(IN_HEADER_BYTES..).unwrap_or_default());
        match header.opcode {
            op::READ => {
                let (Ok(_), Ok(offset), Ok(size)) = (reader.u64(), reader.u64(), reader.u32())
                else {
                    return false;
                };
                let end = offset.saturating_add(u64::from(size));
                self.files.unapplied.touches(header.node, offset..end)
            }
            op::LSEEK | op::COPY_FILE_RANGE | op::COPY_FILE_RANGE_64 => {
                self.files.unapplied.touches(header.node, 0..u64::MAX)
            }
            _ => false,
        }
    }

    /// With the write-back cache the kernel tells a file's modification time after each flush.
    /// It is noted and set a little later: the write itself has set one that is nearly right.
    fn note_time(&mut self, header: &InHeader, request: &[u8]) -> bool {
        const ONLY: u32 = fattr::MTIME | fattr::CTIME | fattr::FH | fattr::LOCKOWNER;
        if header.opcode != op::SETATTR
            || self.files.options.write != WriteMode::Back
            || self.files.tree.kind(header.node) != Ok(REGULAR)
        {
            return false;
        }
        let body = request.get(IN_HEADER_BYTES..).unwrap_or_default();
        let Ok(valid) = Reader::new(body).u32() else { return false };
        if valid & fattr::MTIME == 0 || valid & !ONLY != 0 {
            // Another explicit time replaces the noted one.
            if valid & fattr::MTIME != 0 {
                self.files.tree.take_modified(header.node);
            }
            return false;
        }
        let Ok(attributes) = prepare::read_attributes(&mut Reader::new(body)) else { return false };
        let Some(time) = attributes.modified else { return false };
        let Ok(about) = self.files.stat(header.node) else { return false };
        if self.files.tree.note_modified(header.node, time) {
            self.noted.push(header.node);
        }
        self.files.out.clear();
        attributes::put_answer(&mut self.files.out, &about, Some(time));
        self.files.answer(header.unique, Ok(()));
        true
    }
}

impl Files {
    /// Carries an operation out on the directory beneath.
    pub fn apply(&mut self, mut operation: Operation) -> Applied {
        let outcome = self.perform(&mut operation);
        self.finish(operation, outcome)
    }

    /// The system call that the interceptor may make itself instead of calling
    /// [`apply`](Self::apply); then it calls [`applied`](Self::applied). `None`: call `apply`.
    pub fn raw(&mut self, operation: &Operation) -> Option<RawRequest> {
        match operation.action {
            Action::Write { node, offset, .. } => {
                Some(RawRequest::Write(self.tree.handle(node).ok()?, offset))
            }
            Action::Sync { node: Some(node), data_only } => {
                let handle: Arc<OwnedFd> = self.tree.handle(node).ok()?;
                Some(if data_only {
                    RawRequest::SyncData(handle)
                } else {
                    RawRequest::SyncAll(handle)
                })
            }
            _ => None,
        }
    }

    /// Takes the result of the system call that [`raw`](Self::raw) named: bytes written, or 0.
    pub fn applied(&mut self, mut operation: Operation, result: Result<u32, Errno>) -> Applied {
        if operation.prepared_at != self.applied_count {
            self.refresh(&mut operation);
        }
        self.applied_count += 1;
        let outcome = match (result, operation.action.clone()) {
            (Err(error), _) => Err(error),
            (Ok(written), Action::Write { node, kill, .. }) => {
                self.written(&mut operation, node, written as usize, kill)
            }
            (Ok(_), _) => Ok(Outcome::Done),
        };
        self.finish(operation, outcome)
    }

    fn finish(&mut self, mut operation: Operation, outcome: Result<Outcome, Errno>) -> Applied {
        self.unapplied.remove(operation.ticket);
        let partly = matches!(operation.action, Action::SetAttributes { .. });
        if outcome.is_err() && !partly {
            operation.changes.clear();
        }
        Applied { operation, outcome }
    }

    /// Lets the application go on.
    pub fn reply(&mut self, applied: Applied) {
        let Applied { operation, outcome } = applied;
        self.out.clear();
        let mut told = None;
        let result = outcome.map(|outcome| match outcome {
            Outcome::Done => {}
            Outcome::Entry(node, about) | Outcome::Opened(node, about) => {
                told = Some(node);
                attributes::put_entry(&mut self.out, node, &about, None);
                if matches!(operation.action, Action::Temporary { .. }) {
                    self.out.put64(0);
                    self.out.put32(abi::FOPEN_KEEP_CACHE);
                    self.out.put32(0);
                }
            }
            Outcome::Attributes(node, about) => {
                attributes::put_answer(&mut self.out, &about, self.tree.modified(node));
            }
            Outcome::Count(count, wide) => {
                if wide {
                    self.out.put64(count);
                } else {
                    self.out.put32(count as u32);
                    self.out.put32(0);
                }
            }
        });
        if let Some(unique) = operation.unique {
            let delivered = self.answer(unique, result);
            if let (false, Some(node)) = (delivered, told) {
                let mut gone: Vec<Dropped> = Vec::new();
                if let Err(error) = self.tree.forget(node, 1, &mut gone) {
                    tracing::error!(node, %error, "the node table's memory cannot be written");
                }
            }
            if operation.action.moves_names()
                && let Err(error) = self.tree.end_exchange(unique)
            {
                tracing::error!(%error, "the node table's memory cannot be written");
            }
        }
        self.recycle(operation.buffer);
    }

    /// Where a file is now, to bind its id on a connection; `None`: it has no known name.
    pub fn location(&self, id: FileId) -> Option<Location> {
        self.tree.location(self.tree.by_file(id)?)
    }

    /// An open descriptor of a file, for instance to read what a resynchronisation sends.
    pub fn descriptor(&mut self, id: FileId) -> Option<Arc<OwnedFd>> {
        let node = self.tree.by_file(id)?;
        self.tree.handle(node).ok()
    }

    /// The modification time that a file will get, if one is noted.
    pub fn noted_time(&self, id: FileId) -> Option<FileTime> {
        self.tree.modified(self.tree.by_file(id)?)
    }

    /// How many nodes the kernel knows.
    pub fn nodes(&self) -> usize {
        self.tree.len()
    }

    /// Whether operations have been submitted and not applied.
    pub fn has_unapplied(&self) -> bool {
        !self.unapplied.is_empty()
    }

    /// Sends `self.out`, or what was read, or an error; says whether somebody took it.
    fn answer(&mut self, unique: u64, result: Result<(), Errno>) -> bool {
        let read = self.data_len.take();
        let sent = match (result, read) {
            (Err(error), _) => self.device.reply(unique, Some(error), &[]),
            (Ok(()), Some(len)) => self.device.reply(unique, None, &self.data[..len]),
            (Ok(()), None) => self.device.reply(unique, None, &self.out),
        };
        match sent {
            Ok(()) => true,
            // Nobody waits any more: the mount is going away.
            Err(Errno::NOENT | Errno::NODEV | Errno::CONNABORTED) => false,
            Err(error) => {
                tracing::error!(%error, "writing /dev/fuse failed");
                false
            }
        }
    }

    fn stat(&mut self, node: u64) -> Result<Statx, Errno> {
        self.tree.stat(node)
    }

    fn inode(&mut self, node: u64) -> u64 {
        // The mapping of numbers undoes itself.
        self.tree.number_of(node)
    }

    /// Holds a file's descriptor here and in the holder: its last known name is about to go.
    fn keep(&mut self, node: u64) -> Result<(), Errno> {
        let handle = self.tree.pin(node)?;
        self.keeper.keep(node, handle.as_fd());
        Ok(())
    }

    fn release_kept(&mut self, node: u64) {
        self.tree.unpin(node);
        self.keeper.release(node);
    }
}

const _: () = assert!(BUFFER_BYTES >= WRITE_BYTES_MAX as usize + IN_HEADER_BYTES + WRITE_IN_BYTES);
