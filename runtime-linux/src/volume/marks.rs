//! Which parts of the local copy may differ from the peer's: names for items, and their durability.
//!
//! The source's machine knows marks as numbers; here they stand for
//! [`Item`](havre_core::replication::item::Item)s and live in the [`MarkLog`]. Clearing is lazy: a
//! mark that is cleared here and not yet in the log costs a comparison after a crash, nothing else.
//! When even a snapshot does not fit, the log holds one record that stands for everything.
//!
//! Hints ride along: renames and links done since the copies were last equal. They save copying;
//! nothing depends on them.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    path::Path,
};

use havre_core::replication::{
    intent::MarkId,
    item::{Item, Step},
};

use super::marklog::{AppendError, CAPACITY_DEFAULT, MarkLog};

#[cfg(test)]
mod tests;

/// Hints kept at most; without them renamed directories are copied.
const HINTS_MAX: usize = 1_024;
/// Cleared marks still in the log after which a snapshot is written.
const STALE_MAX: usize = 2_048;

const TAG_EVERYTHING: u8 = 0;
const TAG_ITEM: u8 = 1;
const TAG_HINT: u8 = 2;

/// The marks of one module on this node.
#[derive(Debug)]
pub struct MarkTable {
    log: MarkLog,
    ids: HashMap<Item, MarkId>,
    items: HashMap<MarkId, Item>,
    /// Marks in the log, with the ones that a crash would bring back left out.
    marked: BTreeMap<MarkId, ()>,
    everything: bool,
    hints: Vec<Step>,
    hints_logged: usize,
    stale: usize,
    /// The log may hold less than is marked here.
    unsure: bool,
    next: u64,
}

impl MarkTable {
    /// Opens the log of module `name` in the state directory. A rotten log marks everything.
    pub fn open(state: &Path, name: &str) -> io::Result<Self> {
        let loaded = MarkLog::open(state, name, CAPACITY_DEFAULT)?;
        let mut table = Self {
            log: loaded.log,
            ids: HashMap::new(),
            items: HashMap::new(),
            marked: BTreeMap::new(),
            everything: false,
            hints: Vec::new(),
            hints_logged: 0,
            stale: 0,
            unsure: false,
            next: 0,
        };
        let mut rotten = loaded.rotten;
        for record in &loaded.records {
            match record.split_first() {
                Some((&TAG_EVERYTHING, [])) => table.everything = true,
                Some((&TAG_ITEM, bytes)) => match Item::decode(bytes) {
                    Ok(item) => {
                        let id = table.id(item);
                        table.marked.insert(id, ());
                    }
                    Err(_) => rotten = true,
                },
                Some((&TAG_HINT, bytes)) => {
                    if let Ok(hint) = Step::decode(bytes) {
                        table.hint(hint);
                    }
                }
                _ => rotten = true,
            }
        }
        table.hints_logged = table.hints.len();
        if rotten {
            tracing::error!(name, "the intent log is damaged: the whole copy will be compared");
            table.everything = true;
            table.snapshot().map_err(io::Error::other)?;
        }
        Ok(table)
    }

    /// Every mark in the log, [`MarkId::EVERYTHING`] among them if the whole copy is marked.
    pub fn marks(&self) -> Vec<MarkId> {
        let everything = self.everything.then_some(MarkId::EVERYTHING);
        self.marked.keys().copied().chain(everything).collect()
    }

    /// The number that stands for `item`.
    pub fn id(&mut self, item: Item) -> MarkId {
        if let Some(id) = self.ids.get(&item) {
            return *id;
        }
        let id = MarkId(self.next);
        self.next += 1;
        self.items.insert(id, item.clone());
        self.ids.insert(item, id);
        id
    }

    /// What a number stands for.
    pub fn item(&self, id: MarkId) -> Option<&Item> {
        self.items.get(&id)
    }

    /// Whether `item` is marked durably.
    pub fn is_marked(&self, item: &Item) -> bool {
        self.ids.get(item).is_some_and(|id| self.marked.contains_key(id))
    }

    /// Whether the whole copy is marked.
    pub const fn is_everything(&self) -> bool {
        self.everything
    }

    /// Remembers a rename or link.
    pub fn hint(&mut self, hint: Step) {
        if self.hints.len() < HINTS_MAX {
            self.hints.push(hint);
        }
    }

    /// What to try before anything is copied.
    pub fn hints(&self) -> Vec<Step> {
        self.hints.clone()
    }

    /// Makes marks durable.
    ///
    /// Fails if the log cannot be written; then nothing may change that is not marked already.
    pub fn persist(&mut self, marks: &[MarkId]) -> Result<(), String> {
        let everything = marks.contains(&MarkId::EVERYTHING);
        let mut records = Vec::with_capacity(marks.len());
        for id in marks {
            if let Some(item) = self.items.get(id)
                && self.marked.insert(*id, ()).is_none()
            {
                records.push(tagged(TAG_ITEM, &item.encode()));
            }
        }
        if everything && !self.everything {
            self.everything = true;
            records.push(vec![TAG_EVERYTHING]);
        }
        for hint in &self.hints[self.hints_logged..] {
            records.push(tagged(TAG_HINT, &hint.encode()));
        }
        let appended = if self.unsure { Err(AppendError::Full) } else { self.log.append(&records) };
        let written = match appended {
            Err(AppendError::Full) => self.snapshot(),
            other => other,
        };
        self.unsure = written.is_err();
        written.map_err(|error| error.to_string())?;
        self.hints_logged = self.hints.len();
        Ok(())
    }

    /// Writes the whole log anew: what is in it may have been read from a cache only.
    pub fn rewrite(&mut self) -> Result<(), String> {
        self.snapshot().map_err(|error| error.to_string())
    }

    /// Takes marks out, in the log at leisure.
    pub fn clear(&mut self, marks: &[MarkId]) {
        for id in marks {
            if self.marked.remove(id).is_some() {
                self.stale += 1;
            }
            if *id == MarkId::EVERYTHING && self.everything {
                self.everything = false;
                self.stale += 1;
            }
            if let Some(item) = self.items.remove(id) {
                self.ids.remove(&item);
            }
        }
        let empty = self.marked.is_empty() && !self.everything;
        if empty {
            self.hints.clear();
            self.hints_logged = 0;
        }
        if self.stale > 0 && (empty || self.stale > STALE_MAX) {
            // Failing costs nothing: the old records stand.
            if let Err(error) = self.snapshot() {
                tracing::warn!(%error, "the intent log cannot be compacted");
            }
        }
    }

    /// Takes every mark out, durably: the peer holds them.
    pub fn clear_all(&mut self) {
        let marks = self.marks();
        self.clear(&marks);
    }

    fn snapshot(&mut self) -> Result<(), AppendError> {
        let mut records: Vec<Vec<u8>> = Vec::with_capacity(self.marked.len() + 1);
        if self.everything {
            records.push(vec![TAG_EVERYTHING]);
        }
        let items = self.marked.keys().filter_map(|id| self.items.get(id));
        records.extend(items.map(|item| tagged(TAG_ITEM, &item.encode())));
        records.extend(self.hints.iter().map(|hint| tagged(TAG_HINT, &hint.encode())));
        match self.log.replace(&records) {
            Err(AppendError::Full) => {
                self.everything = true;
                self.hints.clear();
                self.log.replace(&[[TAG_EVERYTHING]])?;
            }
            other => other?,
        }
        self.hints_logged = self.hints.len();
        self.stale = 0;
        Ok(())
    }
}

fn tagged(tag: u8, bytes: &[u8]) -> Vec<u8> {
    let mut record = Vec::with_capacity(1 + bytes.len());
    record.push(tag);
    record.extend_from_slice(bytes);
    record
}
