//! Write intent: which parts of the local copy may differ from the peer's.
//!
//! The unit is a mark, an opaque number that the data path gives to a region of a file, to the
//! entries of a directory or to a region of blocks. Invariant: **before any byte under a mark
//! changes locally, the mark is durable in the local mark log.** A mark is cleared, lazily and in
//! batches, only when both copies are known to hold durably everything under it.
//!
//! This file keeps the table in memory and says what must be written; the mark log itself
//! belongs to the data path. Sources: DRBD user guide, "activity log" and "quick-sync bitmap".

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::Seq;

/// A part of the copy that is marked, compared and copied as a whole.
///
/// What it stands for is known to the data path only; both ends of a stream translate it to
/// and from the bytes of [`super::stream::ItemKey`].
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct MarkId(pub u64);

impl MarkId {
    /// Stands for the whole copy: set when single marks can no longer be counted.
    pub const EVERYTHING: Self = Self(u64::MAX);
}

/// Number of a batch of marks that is made durable together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct BatchId(pub u64);

/// Marks that one change may carry.
pub const MARKS_PER_CHANGE_MAX: usize = 4;

/// Marks remembered one by one; beyond it the whole copy is marked.
pub const MARKS_MAX: usize = 1 << 20;

/// The marks of one change, without allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MarkSet {
    ids: [MarkId; MARKS_PER_CHANGE_MAX],
    count: u8,
}

impl MarkSet {
    /// A change under one mark.
    pub fn one(mark: MarkId) -> Self {
        Self::of(&[mark])
    }

    /// A change under several marks, at most [`MARKS_PER_CHANGE_MAX`]. A change that covers more
    /// must be given a coarser mark by the data path.
    pub fn of(marks: &[MarkId]) -> Self {
        assert!(marks.len() <= MARKS_PER_CHANGE_MAX, "a change carries few marks");
        let mut set = Self::default();
        for mark in marks {
            set.ids[usize::from(set.count)] = *mark;
            set.count += 1;
        }
        set
    }

    /// The marks.
    pub fn as_slice(&self) -> &[MarkId] {
        &self.ids[..usize::from(self.count)]
    }
}

#[derive(Debug, Clone, Copy)]
struct Mark {
    /// Batch that makes it durable; `None` once it is.
    pending: Option<BatchId>,
    /// Admitted changes under it whose local application has not ended.
    changes: u32,
    /// Position of the stream from which on, once durable at the target, both copies are equal
    /// under this mark; `None` if they may differ whatever the target says.
    settled: Option<Seq>,
}

/// The table of marks.
#[derive(Debug, Clone, Default)]
pub struct Intent {
    marks: BTreeMap<MarkId, Mark>,
    next: Vec<MarkId>,
    writing: Option<(BatchId, Vec<MarkId>)>,
    last_batch: BatchId,
}

impl Intent {
    /// Makes the table from what the mark log held. A log that cannot be read counts as
    /// [`MarkId::EVERYTHING`]. The caller first syncs the log that it has read: after a crash of
    /// the process a mark may be in the page cache only, and the peer forgets its own mark when
    /// this table says that it is durable here.
    pub fn recovered(marks: impl IntoIterator<Item = MarkId>) -> Self {
        let known = Mark { pending: None, changes: 0, settled: None };
        Self { marks: marks.into_iter().map(|mark| (mark, known)).collect(), ..Self::default() }
    }

    /// Marks in the table.
    pub fn count(&self) -> usize {
        self.marks.len()
    }

    /// Whether the whole copy is marked.
    pub fn everything(&self) -> bool {
        self.marks.contains_key(&MarkId::EVERYTHING)
    }

    /// Every mark, in order.
    pub fn marks(&self) -> impl Iterator<Item = MarkId> + '_ {
        self.marks.keys().copied()
    }

    /// Announces a change under `mark`. Returns the batch that the change must wait for, or
    /// `None` if the mark is durable. `settled`: see [`Intent::applied`].
    pub fn touch(&mut self, mark: MarkId, settled: Option<Seq>) -> Option<BatchId> {
        if let Some(known) = self.marks.get_mut(&mark) {
            known.changes += 1;
            return known.pending;
        }
        let batch = self.insert(mark, settled);
        self.marks.get_mut(&mark).expect("it has just been inserted").changes = 1;
        batch
    }

    /// Marks without announcing a change, because the peer's copy is marked there.
    /// Returns the batch to wait for, or `None` if the mark is durable already.
    pub fn add(&mut self, mark: MarkId) -> Option<BatchId> {
        if let Some(known) = self.marks.get_mut(&mark) {
            known.settled = None;
            return known.pending;
        }
        self.insert(mark, None)
    }

    fn insert(&mut self, mark: MarkId, settled: Option<Seq>) -> Option<BatchId> {
        if self.marks.len() >= MARKS_MAX && mark != MarkId::EVERYTHING {
            self.add(MarkId::EVERYTHING);
        }
        let batch = self.following();
        self.marks.insert(mark, Mark { pending: Some(batch), changes: 0, settled });
        self.next.push(mark);
        Some(batch)
    }

    fn following(&self) -> BatchId {
        BatchId(self.last_batch.0 + 1)
    }

    /// Ends a change under `mark`. `settled`: the position of the stream at which the change
    /// was shipped, or `None` if it was not shipped or may have changed something unknown.
    pub fn applied(&mut self, mark: MarkId, settled: Option<Seq>) {
        let known = self.marks.get_mut(&mark).expect("a mark outlives its changes");
        known.changes = known.changes.checked_sub(1).expect("each change ends once");
        known.settled = match (known.settled, settled) {
            (Some(_), Some(seq)) => Some(seq),
            // An earlier difference is not healed by a later change.
            _ => None,
        };
    }

    /// Ends a change under `mark` that changed nothing.
    pub fn unchanged(&mut self, mark: MarkId) {
        let known = self.marks.get_mut(&mark).expect("a mark outlives its changes");
        known.changes = known.changes.checked_sub(1).expect("each change ends once");
    }

    /// Records that everything under `mark` was copied up to this position of the stream.
    pub fn copied(&mut self, mark: MarkId, seq: Seq) {
        if let Some(known) = self.marks.get_mut(&mark) {
            known.settled = Some(seq);
        }
    }

    /// Records that both copies are equal everywhere as of this position of the stream, once the
    /// target holds it durably.
    pub fn settle(&mut self, seq: Seq) {
        for mark in self.marks.values_mut() {
            mark.settled = Some(mark.settled.unwrap_or(seq));
        }
    }

    /// Forgets what was shipped: under every mark the copies may differ from now on.
    pub fn unsettle(&mut self) {
        for mark in self.marks.values_mut() {
            mark.settled = None;
        }
    }

    /// Takes the next batch to be made durable, unless one is being written.
    pub fn take_batch(&mut self) -> Option<(BatchId, Vec<MarkId>)> {
        if self.writing.is_some() || self.next.is_empty() {
            return None;
        }
        self.last_batch = self.following();
        let marks = std::mem::take(&mut self.next);
        self.writing = Some((self.last_batch, marks.clone()));
        Some((self.last_batch, marks))
    }

    /// Records that a batch is durable.
    pub fn durable(&mut self, batch: BatchId) {
        let (writing, marks) = self.writing.take().expect("a batch becomes durable once");
        assert_eq!(writing, batch, "batches become durable one by one");
        for mark in marks {
            self.marks.get_mut(&mark).expect("a pending mark is not cleared").pending = None;
        }
    }

    /// The last batch that is durable.
    pub fn durable_batch(&self) -> BatchId {
        match &self.writing {
            Some((batch, _)) => BatchId(batch.0 - 1),
            None => self.last_batch,
        }
    }

    /// Removes and returns the marks that no change is using and that are settled at or before
    /// `upto`: both copies hold everything under them durably.
    pub fn clear(&mut self, upto: Seq) -> Vec<MarkId> {
        let cleared: Vec<MarkId> = self
            .marks
            .iter()
            .filter(|(_, mark)| mark.pending.is_none() && mark.changes == 0)
            .filter(|(_, mark)| mark.settled.is_some_and(|seq| seq <= upto))
            .map(|(id, _)| *id)
            .collect();
        for mark in &cleared {
            self.marks.remove(mark);
        }
        cleared
    }

    /// Whether [`Intent::clear`] would clear anything.
    pub fn clearable(&self, upto: Seq) -> bool {
        self.marks.values().any(|mark| mark.settled.is_some_and(|seq| seq <= upto))
    }

    /// Changes announced under `mark` and not ended.
    pub fn changes(&self, mark: MarkId) -> u32 {
        self.marks.get(&mark).map_or(0, |known| known.changes)
    }

    /// Whether `mark` is in the table and durable.
    pub fn is_durable(&self, mark: MarkId) -> bool {
        self.marks.get(&mark).is_some_and(|known| known.pending.is_none())
    }
}

#[cfg(test)]
mod tests;
