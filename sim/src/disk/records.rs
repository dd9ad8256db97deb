//! Small files of a simulated disk: content and names become durable separately.
//!
//! A file's content is durable after its own sync, its name after the directory's. A rename is
//! atomic: after a power cut either the old or the new name stands, but if the content was not
//! synced before, the new name may show torn content. [`SaveJob`] is the one right sequence.

use std::collections::BTreeMap;

use super::{DiskDone, DiskOp};
use crate::chance::Chance;

/// Number of a file's content, whatever its name is.
type Inode = u64;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Content {
    cached: Vec<u8>,
    durable: Vec<u8>,
}

/// A change of names that is not durable yet.
#[derive(Debug, Clone, PartialEq, Eq)]
enum NameChange {
    Create(String, Inode),
    Rename(String, String),
    Remove(String),
}

/// The files of one disk.
#[derive(Debug, Clone, Default)]
pub(super) struct Records {
    contents: BTreeMap<Inode, Content>,
    names: BTreeMap<String, Inode>,
    durable_names: BTreeMap<String, Inode>,
    changes: Vec<NameChange>,
    next: Inode,
}

fn apply(names: &mut BTreeMap<String, Inode>, change: &NameChange) {
    match change {
        NameChange::Create(name, inode) => {
            names.insert(name.clone(), *inode);
        }
        NameChange::Rename(from, to) => {
            if let Some(inode) = names.remove(from) {
                names.insert(to.clone(), inode);
            }
        }
        NameChange::Remove(name) => {
            names.remove(name);
        }
    }
}

impl Records {
    pub(super) fn perform(&mut self, op: DiskOp, lying: bool) -> DiskDone {
        match op {
            DiskOp::ReadFile(name) => {
                return DiskDone::File(self.peek(&name).map(<[u8]>::to_vec));
            }
            DiskOp::WriteFile(name, bytes) => self.write(name, bytes),
            DiskOp::SyncFile(name) if !lying => {
                if let Some(inode) = self.names.get(&name)
                    && let Some(content) = self.contents.get_mut(inode)
                {
                    content.durable.clone_from(&content.cached);
                }
            }
            DiskOp::Rename(from, to) => self.change(NameChange::Rename(from, to)),
            DiskOp::RemoveFile(name) => self.change(NameChange::Remove(name)),
            DiskOp::SyncNames if !lying => {
                self.durable_names.clone_from(&self.names);
                self.changes.clear();
                self.forget_unnamed();
            }
            _ => {}
        }
        DiskDone::Ok
    }

    pub(super) fn peek(&self, name: &str) -> Option<&[u8]> {
        let content = self.contents.get(self.names.get(name)?)?;
        Some(&content.cached)
    }

    /// Ends an operation that was in flight when the power failed: done or not done.
    pub(super) fn interrupt(&mut self, op: DiskOp, fate: Chance, number: u64) {
        if fate.bits(number) & 1 == 1 {
            self.perform(op, false);
        }
    }

    /// Keeps what is durable, and of the rest whatever chance keeps.
    pub(super) fn power_cut(&mut self, fate: Chance, salt: u64) {
        // A journalling file system makes changes of names durable in order: some prefix stands.
        let kept = fate.child(salt).below(0, self.changes.len() as u64 + 1) as usize;
        for change in self.changes.drain(..).take(kept) {
            apply(&mut self.durable_names, &change);
        }
        self.names.clone_from(&self.durable_names);
        for (inode, content) in &mut self.contents {
            if content.cached != content.durable {
                // Any prefix of the new content may have reached the medium.
                let length = content.cached.len() as u64;
                let kept = fate.child(salt).below(inode + 1, length + 1) as usize;
                content.durable = content.cached[..kept].to_vec();
            }
            content.cached.clone_from(&content.durable);
        }
        self.forget_unnamed();
    }

    pub(super) fn rot(&mut self, name: &str, which: u64) -> bool {
        let Some(content) = self.names.get(name).and_then(|inode| self.contents.get_mut(inode))
        else {
            return false;
        };
        let Some(last) = (content.cached.len() as u64).checked_sub(1) else {
            return false;
        };
        let index = (which % (last + 1)) as usize;
        content.cached[index] ^= 0x40;
        content.durable.clone_from(&content.cached);
        true
    }

    fn write(&mut self, name: String, bytes: Vec<u8>) {
        // Written in place: a file that exists keeps its inode.
        if let Some(inode) = self.names.get(&name)
            && let Some(content) = self.contents.get_mut(inode)
        {
            content.cached = bytes;
            return;
        }
        self.next += 1;
        self.contents.insert(self.next, Content { cached: bytes, durable: Vec::new() });
        self.change(NameChange::Create(name, self.next));
    }

    fn change(&mut self, change: NameChange) {
        apply(&mut self.names, &change);
        self.changes.push(change);
    }

    fn forget_unnamed(&mut self) {
        let (names, durable) = (&self.names, &self.durable_names);
        self.contents
            .retain(|inode, _| names.values().chain(durable.values()).any(|named| named == inode));
    }
}

/// Replaces a file so that after a power cut at any point either the old or the new content
/// stands: write beside it, sync, rename, sync the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SaveJob {
    name: String,
    bytes: Vec<u8>,
    step: u8,
}

impl SaveJob {
    /// Begins to save `bytes` under `name`.
    pub const fn new(name: String, bytes: Vec<u8>) -> Self {
        Self { name, bytes, step: 0 }
    }

    /// The next operation; `None`: everything is durable. To be called again only after the
    /// operation before has succeeded.
    pub fn next_op(&mut self) -> Option<DiskOp> {
        self.step += 1;
        let beside = format!("{}.new", self.name);
        match self.step {
            1 => Some(DiskOp::WriteFile(beside, std::mem::take(&mut self.bytes))),
            2 => Some(DiskOp::SyncFile(beside)),
            3 => Some(DiskOp::Rename(beside, self.name.clone())),
            4 => Some(DiskOp::SyncNames),
            _ => None,
        }
    }
}
