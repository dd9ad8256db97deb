//! The nodes that the kernel knows: number, names, open descriptor, and the way from a node to
//! its place below the replicated directory.
//!
//! A node's number is its inode number (the root is 1), so that a file with several names is one
//! node. Every name by which the kernel has met a node is kept, and every directory on the way to
//! a kept name stays known; hence a node can always be opened again from the root, and descriptors
//! are only a bounded cache. A file that lost its last known name keeps its descriptor.
//!
//! Left to others: what requests mean ([`super::serve`], [`super::perform`]).

use std::{
    collections::{HashMap, VecDeque},
    os::fd::OwnedFd,
    sync::Arc,
};

use havre_core::replication::record::{FileId, FileTime, Location, PATH_BYTES_MAX};
use rustix::{
    fs::{AtFlags, Mode, OFlags, Statx, StatxFlags},
    io::Errno,
};

use super::{
    abi::{ROOT, UNIQUE_RESEND},
    arena::{Arena, NameRow, NodeRow, Slot},
};

/// Bits of a mode that tell the kind of a file.
pub(super) const KIND_MASK: u32 = 0o170_000;
/// Kind: directory.
pub(super) const DIRECTORY: u32 = 0o040_000;
/// Kind: regular file.
pub(super) const REGULAR: u32 = 0o100_000;
/// Kind: symbolic link.
pub(super) const SYMLINK: u32 = 0o120_000;

/// In place of a parent's number: the row is the note of an exchange.
const EXCHANGE_MARK: u64 = u64::MAX;

/// A shared open descriptor.
pub(super) type Handle = Arc<OwnedFd>;

#[derive(Debug)]
struct Name {
    parent: u64,
    name: Box<[u8]>,
    slot: Slot,
}

/// What is known of one inode.
#[derive(Debug)]
struct Node {
    kind: u32,
    lookups: u64,
    /// Names kept that have this node as parent.
    children: u32,
    names: Vec<Name>,
    handle: Option<Handle>,
    /// The handle is the only way to the file.
    pinned: bool,
    /// The handle was used since the cache last looked.
    touched: bool,
    file: Option<FileId>,
    slot: Slot,
    /// Modification time that the kernel has told and the underlying file does not have yet.
    modified: Option<FileTime>,
    /// Whether the directory hands an access control list down; `None`: not looked yet.
    default_acl: Option<bool>,
}

/// A node that the kernel has forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Dropped {
    pub(super) number: u64,
    pub(super) file: Option<FileId>,
    /// It had no name left and was kept by its descriptor.
    pub(super) orphan: bool,
}

/// All nodes of one mount.
#[derive(Debug)]
pub(super) struct Tree {
    root: u8,
    root_inode: u64,
    root_device: (u32, u32),
    nodes: HashMap<u64, Node>,
    by_file: HashMap<FileId, u64>,
    next_file: u64,
    /// Exchanges that have not been replied to: request number, node that was first, slot.
    exchanges: Vec<(u64, u64, Slot)>,
    cached: VecDeque<u64>,
    cached_max: usize,
    arena: Arena,
}

impl Tree {
    /// Starts with the directory alone.
    pub(super) fn new(
        root: u8,
        directory: OwnedFd,
        arena: Arena,
        cached_max: usize,
    ) -> Result<Self, Errno> {
        let about = stat_handle(&directory)?;
        let top = Node {
            kind: DIRECTORY,
            lookups: 1,
            children: 0,
            names: Vec::new(),
            handle: Some(Arc::new(directory)),
            pinned: true,
            touched: true,
            file: None,
            slot: 0,
            modified: None,
            default_acl: None,
        };
        Ok(Self {
            root,
            root_inode: about.stx_ino,
            root_device: (about.stx_dev_major, about.stx_dev_minor),
            nodes: HashMap::from([(ROOT, top)]),
            by_file: HashMap::new(),
            next_file: 1,
            exchanges: Vec::new(),
            cached: VecDeque::new(),
            cached_max,
            arena,
        })
    }

    /// Takes over what an earlier daemon knew. `orphans` are files without a known name.
    pub(super) fn restore(
        &mut self,
        nodes: Vec<NodeRow>,
        names: Vec<NameRow>,
        orphans: Vec<(u64, OwnedFd)>,
    ) {
        for row in nodes {
            let file = (row.file != 0).then_some(FileId(row.file));
            if let Some(id) = file {
                self.by_file.insert(id, row.number);
                self.next_file = self.next_file.max(id.0 + 1);
            }
            let mut node = Node::new(row.kind, row.slot);
            node.lookups = row.lookups;
            node.file = file;
            self.nodes.insert(row.number, node);
        }
        for NameRow { slot, parent, child, name } in names {
            if parent == EXCHANGE_MARK {
                if let Ok(unique) = name.try_into() {
                    self.exchanges.push((u64::from_ne_bytes(unique), child, slot));
                }
                continue;
            }
            if !self.nodes.contains_key(&parent) {
                continue;
            }
            let Some(node) = self.nodes.get_mut(&child) else { continue };
            node.names.push(Name { parent, name: name.into(), slot });
            if let Some(directory) = self.nodes.get_mut(&parent) {
                directory.children += 1;
            }
        }
        for (number, handle) in orphans {
            if let Some(node) = self.nodes.get_mut(&number) {
                node.handle = Some(Arc::new(handle));
                node.pinned = true;
            }
        }
    }

    /// The table's memory, to hand to a holder.
    pub(super) const fn arena(&self) -> &Arena {
        &self.arena
    }

    /// How many nodes the kernel knows.
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// The kind of a node.
    pub(super) fn kind(&self, number: u64) -> Result<u32, Errno> {
        self.nodes.get(&number).map(|node| node.kind).ok_or(Errno::STALE)
    }

    /// The number that the kernel uses for an inode.
    pub(super) const fn number_of(&self, inode: u64) -> u64 {
        if inode == self.root_inode {
            ROOT
        } else if inode == ROOT {
            self.root_inode
        } else {
            inode
        }
    }

    /// An open descriptor: read and write for files, read for directories, else `O_PATH`.
    pub(super) fn handle(&mut self, number: u64) -> Result<Handle, Errno> {
        let node = self.nodes.get_mut(&number).ok_or(Errno::STALE)?;
        if let Some(handle) = &node.handle {
            node.touched = true;
            return Ok(Arc::clone(handle));
        }
        let kind = node.kind;
        let mut error = Errno::STALE;
        for index in (0..node.names.len()).rev() {
            let Some(name) = self.nodes.get(&number).and_then(|node| node.names.get(index)) else {
                break;
            };
            let (parent, name) = (name.parent, name.name.clone());
            match self.handle(parent).and_then(|directory| self.open(&directory, &name, kind)) {
                Ok((handle, inode)) if self.number_of(inode) == number => {
                    return Ok(self.cache(number, handle));
                }
                Ok(_) => error = Errno::STALE,
                Err(failed) => error = failed,
            }
        }
        Err(error)
    }

    fn open(&self, directory: &OwnedFd, name: &[u8], kind: u32) -> Result<(OwnedFd, u64), Errno> {
        let handle = open_entry(directory, name, kind)?;
        let inode = rustix::fs::fstat(&handle)?.st_ino;
        Ok((handle, inode))
    }

    /// Remembers an open descriptor of a node, and closes others if there are too many.
    pub(super) fn cache(&mut self, number: u64, handle: OwnedFd) -> Handle {
        let handle = Arc::new(handle);
        if let Some(node) = self.nodes.get_mut(&number) {
            node.handle = Some(Arc::clone(&handle));
            node.touched = true;
            self.cached.push_back(number);
        }
        // Second chance: a descriptor used since the last visit goes to the back once.
        let mut visits = 2 * self.cached.len();
        while self.cached.len() > self.cached_max && visits > 0 {
            visits -= 1;
            let Some(oldest) = self.cached.pop_front() else { break };
            let Some(node) = self.nodes.get_mut(&oldest) else { continue };
            if node.pinned || node.handle.is_none() {
                continue;
            }
            if node.touched {
                node.touched = false;
                self.cached.push_back(oldest);
            } else {
                node.handle = None;
            }
        }
        handle
    }

    /// Reads a node's attributes.
    pub(super) fn stat(&mut self, number: u64) -> Result<Statx, Errno> {
        let node = self.nodes.get(&number).ok_or(Errno::STALE)?;
        if node.handle.is_none()
            && let Some(name) = node.names.last()
            && let Some(parent) = self.nodes.get(&name.parent)
            && let Some(directory) = &parent.handle
            && let Ok(about) = stat_entry(directory, &name.name)
            && self.number_of(about.stx_ino) == number
        {
            return Ok(about);
        }
        stat_handle(&*self.handle(number)?)
    }

    /// Reads the attributes of an entry; refuses what lies on another file system.
    pub(super) fn stat_child(&mut self, parent: u64, name: &[u8]) -> Result<Statx, Errno> {
        let directory = self.handle(parent)?;
        let about = stat_entry(&directory, name)?;
        if (about.stx_dev_major, about.stx_dev_minor) == self.root_device {
            Ok(about)
        } else {
            Err(Errno::XDEV)
        }
    }

    /// Notes that the kernel is told of an entry.
    pub(super) fn learn(&mut self, parent: u64, name: &[u8], about: &Statx) -> Result<u64, Errno> {
        let number = self.meet(about)?;
        self.add_name(number, parent, name)?;
        Ok(number)
    }

    /// Notes that the kernel is told of a node that may have no name.
    pub(super) fn meet(&mut self, about: &Statx) -> Result<u64, Errno> {
        let number = self.number_of(about.stx_ino);
        let kind = u32::from(about.stx_mode) & KIND_MASK;
        if let Some(node) = self.nodes.get_mut(&number) {
            node.lookups += 1;
            if number != ROOT {
                self.arena.set_lookups(node.slot, node.lookups)?;
            }
            return Ok(number);
        }
        let slot = self.arena.add_node(number, kind, 1)?;
        self.nodes.insert(number, Node::new(kind, slot));
        Ok(number)
    }

    /// Keeps a name of a node.
    pub(super) fn add_name(&mut self, number: u64, parent: u64, name: &[u8]) -> Result<(), Errno> {
        let node = self.nodes.get_mut(&number).ok_or(Errno::STALE)?;
        if node.names.iter().any(|known| known.parent == parent && *known.name == *name) {
            return Ok(());
        }
        let slot = self.arena.add_name(parent, number, name)?;
        node.names.push(Name { parent, name: name.into(), slot });
        self.nodes.get_mut(&parent).ok_or(Errno::STALE)?.children += 1;
        Ok(())
    }

    /// Drops a name of a node, if it is known.
    pub(super) fn remove_name(
        &mut self,
        number: u64,
        parent: u64,
        name: &[u8],
    ) -> Result<(), Errno> {
        let Some(node) = self.nodes.get_mut(&number) else { return Ok(()) };
        let same = |known: &Name| known.parent == parent && *known.name == *name;
        let Some(at) = node.names.iter().position(same) else { return Ok(()) };
        let gone = node.names.swap_remove(at);
        self.arena.remove(gone.slot, &gone.name)?;
        if let Some(directory) = self.nodes.get_mut(&parent) {
            directory.children = directory.children.saturating_sub(1);
        }
        Ok(())
    }

    /// Whether this is the only name by which a node that the kernel may use is known.
    pub(super) fn is_last_name(&self, number: u64, parent: u64, name: &[u8]) -> bool {
        self.nodes.get(&number).is_some_and(|node| {
            node.lookups > 0
                && node.names.iter().all(|known| known.parent == parent && *known.name == *name)
        })
    }

    /// Holds a node's descriptor open for as long as the kernel knows the node.
    pub(super) fn pin(&mut self, number: u64) -> Result<Handle, Errno> {
        let handle = self.handle(number)?;
        if let Some(node) = self.nodes.get_mut(&number) {
            node.pinned = true;
        }
        Ok(handle)
    }

    /// Undoes [`pin`](Self::pin): the node has a name again.
    pub(super) fn unpin(&mut self, number: u64) {
        if let Some(node) = self.nodes.get_mut(&number)
            && number != ROOT
            && node.pinned
        {
            node.pinned = false;
            self.cached.push_back(number);
        }
    }

    /// Whether a node is held by its descriptor alone.
    pub(super) fn is_pinned(&self, number: u64) -> bool {
        self.nodes.get(&number).is_some_and(|node| node.pinned)
    }

    /// The kernel forgets `count` mentions of a node; says which nodes are gone for good.
    pub(super) fn forget(
        &mut self,
        number: u64,
        count: u64,
        dropped: &mut Vec<Dropped>,
    ) -> Result<(), Errno> {
        if number == ROOT {
            return Ok(());
        }
        let Some(node) = self.nodes.get_mut(&number) else { return Ok(()) };
        node.lookups = node.lookups.saturating_sub(count);
        self.arena.set_lookups(node.slot, node.lookups)?;
        let mut next = Some(number);
        while let Some(number) = next.take() {
            let unused = |node: &Node| node.lookups == 0 && node.children == 0;
            if number == ROOT || !self.nodes.get(&number).is_some_and(unused) {
                break;
            }
            let Some(node) = self.nodes.remove(&number) else { break };
            if let Some(id) = node.file {
                self.by_file.remove(&id);
            }
            dropped.push(Dropped { number, file: node.file, orphan: node.pinned });
            self.arena.remove(node.slot, b"")?;
            for name in node.names {
                self.arena.remove(name.slot, &name.name)?;
                if let Some(directory) = self.nodes.get_mut(&name.parent) {
                    directory.children = directory.children.saturating_sub(1);
                    next = Some(name.parent);
                }
            }
        }
        Ok(())
    }

    /// The place of a node, by any of its names; `None` if it has none.
    pub(super) fn location(&self, number: u64) -> Option<Location> {
        let mut parts: Vec<&[u8]> = Vec::new();
        let mut bytes = 0;
        let mut at = number;
        while at != ROOT {
            let name = self.nodes.get(&at)?.names.last()?;
            bytes += name.name.len() + 1;
            // A chain that long is a loop of stale names or deeper than any path can say.
            if bytes > PATH_BYTES_MAX {
                return None;
            }
            parts.push(&name.name);
            at = name.parent;
        }
        parts.reverse();
        Some(Location::new(self.root, parts.join(&b'/')))
    }

    /// The place of an entry of a directory.
    pub(super) fn entry(&self, parent: u64, name: &[u8]) -> Result<Location, Errno> {
        let place = self.location(parent).ok_or(Errno::NOENT)?.join(name);
        if place.path.len() > PATH_BYTES_MAX { Err(Errno::NAMETOOLONG) } else { Ok(place) }
    }

    /// A number for a file that is about to be made.
    pub(super) const fn new_file(&mut self) -> FileId {
        let id = FileId(self.next_file);
        self.next_file += 1;
        id
    }

    /// Gives a node the file id drawn for it.
    pub(super) fn set_file(&mut self, number: u64, id: FileId) -> Result<(), Errno> {
        let node = self.nodes.get_mut(&number).ok_or(Errno::STALE)?;
        node.file = Some(id);
        self.by_file.insert(id, number);
        self.arena.set_file(node.slot, id.0)
    }

    /// A node's file id; drawn now if it has none.
    pub(super) fn file(&mut self, number: u64) -> Result<FileId, Errno> {
        if let Some(id) = self.nodes.get(&number).ok_or(Errno::STALE)?.file {
            return Ok(id);
        }
        let id = self.new_file();
        self.set_file(number, id)?;
        Ok(id)
    }

    /// The node that has a file id.
    pub(super) fn by_file(&self, id: FileId) -> Option<u64> {
        self.by_file.get(&id).copied()
    }

    /// Notes a modification time to be set later; says whether none was noted before.
    pub(super) fn note_modified(&mut self, number: u64, time: FileTime) -> bool {
        self.nodes.get_mut(&number).is_some_and(|node| node.modified.replace(time).is_none())
    }

    /// The noted modification time.
    pub(super) fn modified(&self, number: u64) -> Option<FileTime> {
        self.nodes.get(&number)?.modified
    }

    /// Takes the noted modification time.
    pub(super) fn take_modified(&mut self, number: u64) -> Option<FileTime> {
        self.nodes.get_mut(&number)?.modified.take()
    }

    /// Notes, before an exchange is carried out, which node was first.
    pub(super) fn note_exchange(&mut self, unique: u64, source: u64) -> Result<(), Errno> {
        let unique = unique & !UNIQUE_RESEND;
        let slot = self.arena.add_name(EXCHANGE_MARK, source, &unique.to_ne_bytes())?;
        self.exchanges.push((unique, source, slot));
        Ok(())
    }

    /// The node that was first when the exchange with this request number began.
    pub(super) fn exchange_noted(&self, unique: u64) -> Option<u64> {
        let unique = unique & !UNIQUE_RESEND;
        self.exchanges.iter().find(|note| note.0 == unique).map(|note| note.1)
    }

    /// Drops the note of an exchange that has been replied to.
    pub(super) fn end_exchange(&mut self, unique: u64) -> Result<(), Errno> {
        let unique = unique & !UNIQUE_RESEND;
        if let Some(at) = self.exchanges.iter().position(|note| note.0 == unique) {
            let (_, _, slot) = self.exchanges.swap_remove(at);
            self.arena.remove(slot, &unique.to_ne_bytes())?;
        }
        Ok(())
    }

    /// Whether a directory hands an access control list down to what is made in it.
    pub(super) fn has_default_acl(&mut self, number: u64) -> Result<bool, Errno> {
        if let Some(known) = self.nodes.get(&number).and_then(|node| node.default_acl) {
            return Ok(known);
        }
        let handle = self.handle(number)?;
        let found = rustix::fs::fgetxattr_query(&*handle, "system.posix_acl_default").is_ok();
        if let Some(node) = self.nodes.get_mut(&number) {
            node.default_acl = Some(found);
        }
        Ok(found)
    }

    /// Lets the next question about inherited access control lists look again.
    pub(super) fn acl_changed(&mut self, number: u64) {
        if let Some(node) = self.nodes.get_mut(&number) {
            node.default_acl = None;
        }
    }
}

impl Node {
    const fn new(kind: u32, slot: Slot) -> Self {
        Self {
            kind,
            lookups: 1,
            children: 0,
            names: Vec::new(),
            handle: None,
            pinned: false,
            touched: false,
            file: None,
            slot,
            modified: None,
            default_acl: None,
        }
    }
}

/// Opens an entry in the way that suits its kind.
pub(super) fn open_entry(directory: &OwnedFd, name: &[u8], kind: u32) -> Result<OwnedFd, Errno> {
    let common = OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = |flags| rustix::fs::openat(directory, name, flags | common, Mode::empty());
    match kind {
        DIRECTORY => open(OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOATIME),
        REGULAR => match open(OFlags::RDWR | OFlags::NOATIME | OFlags::NONBLOCK) {
            // Immutable, on a read-only file system, or a running program's text.
            Err(Errno::ROFS | Errno::PERM | Errno::ACCESS | Errno::TXTBSY) => {
                open(OFlags::RDONLY | OFlags::NONBLOCK)
            }
            result => result,
        },
        _ => open(OFlags::PATH),
    }
}

fn stat_handle(handle: &OwnedFd) -> Result<Statx, Errno> {
    rustix::fs::statx(handle, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS | StatxFlags::BTIME)
}

fn stat_entry(directory: &OwnedFd, name: &[u8]) -> Result<Statx, Errno> {
    let mask = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    rustix::fs::statx(directory, name, AtFlags::SYMLINK_NOFOLLOW, mask)
}
