//! Which operations have been submitted and not applied, and what must not overtake them.

use std::ops::Range;

use super::intercept::Operation;

#[derive(Debug)]
struct Entry {
    ticket: u64,
    /// File and bytes that will change.
    data: Option<(u64, Range<u64>)>,
    moves_names: bool,
}

/// The operations that an interceptor holds.
#[derive(Debug, Default)]
pub(super) struct Unapplied {
    entries: Vec<Entry>,
}

impl Unapplied {
    /// Notes an operation.
    pub(super) fn add(&mut self, operation: &Operation) {
        let data = match (&operation.file, &operation.range) {
            (Some(file), Some(range)) => Some((file.inode, range.clone())),
            _ => None,
        };
        let moves_names = operation.action.moves_names();
        self.entries.push(Entry { ticket: operation.ticket, data, moves_names });
    }

    /// Drops an operation that was applied.
    pub(super) fn remove(&mut self, ticket: u64) {
        if let Some(at) = self.entries.iter().position(|entry| entry.ticket == ticket) {
            self.entries.swap_remove(at);
        }
    }

    /// Whether every operation was applied.
    pub(super) const fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether one of them changes the paths of other files.
    pub(super) fn moves_names(&self) -> bool {
        self.entries.iter().any(|entry| entry.moves_names)
    }

    /// Whether one of them changes bytes of a file within `range`.
    pub(super) fn touches(&self, inode: u64, range: Range<u64>) -> bool {
        self.entries.iter().filter_map(|entry| entry.data.as_ref()).any(|(file, changed)| {
            *file == inode && changed.start < range.end && range.start < changed.end
        })
    }
}
