//! Names of open files on the stream: those of several mounts in one space, bound when needed.
//!
//! Each mount numbers its files from 1; on the stream the number of the replicated directory
//! stands in the top byte.

use std::collections::HashMap;

use havre_core::replication::record::{Change, FileId, Target};

/// Files bound at once; the one unused for longest is closed for another.
const BOUND_MAX: usize = 4_096;
/// Bits of a file's number within its mount.
const ROOT_SHIFT: u32 = 56;

/// Gives a mount's file id its name on the stream.
pub(super) const fn global(root: u8, id: FileId) -> FileId {
    FileId(id.0 | (root as u64) << ROOT_SHIFT)
}

/// Applies `map` to every file id that a change names.
pub(super) fn map_ids(change: &mut Change, map: impl Fn(FileId) -> FileId) {
    match change {
        Change::Open { id, .. }
        | Change::Close { id }
        | Change::Write { id, .. }
        | Change::Truncate { id, .. }
        | Change::Allocate { id, .. }
        | Change::Create { id, .. }
        | Change::Temporary { id, .. }
        | Change::LinkOpen { id, .. } => *id = map(*id),
        Change::CopyRange { from, to, .. } => {
            *from = map(*from);
            *to = map(*to);
        }
        Change::SetMode { target, .. }
        | Change::SetOwner { target, .. }
        | Change::SetTimes { target, .. }
        | Change::SetXattr { target, .. }
        | Change::RemoveXattr { target, .. }
        | Change::Sync { target: Some(target) } => {
            if let Target::Id(id) = target {
                *id = map(*id);
            }
        }
        _ => {}
    }
}

/// Ids that a change needs bound before it.
pub(super) fn needed(change: &Change) -> Vec<FileId> {
    match change {
        Change::Create { .. } | Change::Temporary { .. } | Change::Close { .. } => Vec::new(),
        Change::CopyRange { from, to, .. } => vec![*from, *to],
        other => {
            let found = std::cell::Cell::new(None);
            map_ids(&mut other.clone(), |id| {
                found.set(Some(id));
                id
            });
            found.get().into_iter().collect()
        }
    }
}

/// A number for the names as of some moment.
pub(super) type Names = u64;

#[derive(Debug, Clone, Copy)]
struct Bond {
    /// When it was last used; `None`: it has no name and must stay.
    last: Option<u64>,
    /// The names by which it was bound.
    names: Names,
}

/// Ids bound at the target.
#[derive(Debug, Default)]
pub(super) struct Bound {
    files: HashMap<FileId, Bond>,
    clock: u64,
    /// Grows when entries cross between what is replicated and what is not: what was bound by an
    /// older name may be unknown to the target.
    names: Names,
    /// To be closed with the next change.
    closing: Vec<FileId>,
}

impl Bound {
    pub(super) fn clear(&mut self) {
        self.files.clear();
        self.closing.clear();
    }

    /// Whether `id` need not be bound before its next use.
    pub(super) fn contains(&self, id: FileId) -> bool {
        self.files.get(&id).is_some_and(|bond| bond.last.is_none() || bond.names == self.names)
    }

    /// The names as they are now.
    pub(super) const fn names(&self) -> Names {
        self.names
    }

    /// Everything that has a name is to be bound again before its next use.
    pub(super) const fn names_crossed(&mut self) {
        self.names += 1;
    }

    /// Notes that a change that uses `id` is shipped.
    pub(super) fn used(&mut self, id: FileId) {
        self.clock += 1;
        if let Some(Bond { last: Some(last), .. }) = self.files.get_mut(&id) {
            *last = self.clock;
        }
    }

    /// Notes that a change that binds `id` by one of these names is shipped.
    pub(super) fn bind(&mut self, id: FileId, names: Names) {
        self.clock += 1;
        let bond = self.files.entry(id).or_insert(Bond { last: Some(self.clock), names });
        bond.names = names;
        if bond.last.is_some() {
            bond.last = Some(self.clock);
        }
        self.closing.retain(|closing| *closing != id);
        if self.files.len() > BOUND_MAX {
            self.evict();
        }
    }

    /// The file has lost its last name: it can never be bound again.
    pub(super) fn keep(&mut self, id: FileId) {
        if let Some(bond) = self.files.get_mut(&id) {
            bond.last = None;
        }
    }

    /// The file is not used any more.
    pub(super) fn close(&mut self, id: FileId) {
        if self.files.remove(&id).is_some() {
            self.closing.push(id);
        }
    }

    /// Takes what is to be closed before the next change, a bounded number.
    pub(super) fn take_closing(&mut self) -> Vec<FileId> {
        let count = self.closing.len().min(BOUND_MAX);
        self.closing.drain(..count).collect()
    }

    fn evict(&mut self) {
        let mut times: Vec<u64> = self.files.values().filter_map(|bond| bond.last).collect();
        times.sort_unstable();
        let Some(limit) = times.get(BOUND_MAX / 4).copied() else { return };
        let old: Vec<FileId> = self
            .files
            .iter()
            .filter(|(_, bond)| bond.last.is_some_and(|last| last < limit))
            .map(|(id, _)| *id)
            .collect();
        for id in old {
            self.close(id);
        }
    }
}
