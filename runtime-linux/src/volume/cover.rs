//! Which items an operation changes: the marks it must carry.
//!
//! As few as possible, because a new mark costs a durable append: a file made while its
//! directory's entries are marked needs none of its own for its first region, nor do attributes
//! under a mark that covers them. An operation on a file without a name changes nothing that
//! could differ.

use std::collections::HashMap;

use havre_core::replication::{
    intent::{MARKS_PER_CHANGE_MAX, MarkSet},
    item::{Item, REGION_BYTES, Step},
    record::{Change, FileId, Location, RenameMode, Target},
};
use rustix::fs::{AtFlags, FileType};

use super::{identity::global, marks::MarkTable, place::Places};
use crate::fuse::Operation;

/// Files remembered as made under a marked directory; more are marked by themselves.
const MADE_MAX: usize = 65_536;
/// Regions of one operation that are marked one by one.
const REGIONS_FEW: u64 = 3;

/// Finds the items of operations.
#[derive(Debug, Default)]
pub(super) struct Cover {
    /// Files made while the entries of this directory were marked.
    made: HashMap<FileId, Location>,
}

impl Cover {
    /// The marks of an operation that has not been applied.
    pub(super) fn marks(
        &mut self,
        table: &mut MarkTable,
        places: &mut Places,
        operation: &Operation,
        root: u8,
    ) -> MarkSet {
        let mut items: Vec<Item> = Vec::new();
        for change in operation.changes() {
            self.add(table, places, (operation, root), change, &mut items);
        }
        items.retain(|item| item.place().path.is_empty() || !places.excludes(item.place()));
        items.sort();
        items.dedup();
        if items.len() > MARKS_PER_CHANGE_MAX {
            let root = items[0].place().root;
            items = vec![Item::Tree { directory: Location::new(root, *b"") }];
        }
        let ids: Vec<_> = items.into_iter().map(|item| table.id(item)).collect();
        MarkSet::of(&ids)
    }

    /// A file is forgotten.
    pub(super) fn closed(&mut self, id: FileId) {
        self.made.remove(&id);
    }

    fn add(
        &mut self,
        table: &mut MarkTable,
        places: &mut Places,
        (operation, root): (&Operation, u8),
        change: &Change,
        items: &mut Vec<Item>,
    ) {
        let own = || operation.file().and_then(|file| file.location.clone());
        match change {
            Change::Write { .. }
            | Change::Truncate { .. }
            | Change::Allocate { .. }
            | Change::CopyRange { .. } => self.add_range(table, operation, root, items),
            Change::Create { location, id, .. } => {
                items.extend(entries_of(location));
                if let Some((directory, _)) = location.split()
                    && self.made.len() < MADE_MAX
                {
                    self.made.insert(global(root, *id), directory);
                }
            }
            Change::LinkOpen { location, .. } => {
                items.extend(entries_of(location));
                items.push(Item::File { file: location.clone() });
            }
            Change::MakeDirectory { location, .. }
            | Change::MakeNode { location, .. }
            | Change::Symlink { location, .. }
            | Change::Unlink { location }
            | Change::RemoveDirectory { location } => items.extend(entries_of(location)),
            Change::Rename { from, to, mode } => {
                items.extend(entries_of(from));
                items.extend(entries_of(to));
                items.extend(moved(places, from, to));
                if *mode == RenameMode::Exchange {
                    items.extend(moved(places, to, from));
                } else {
                    table.hint(Step::Renamed { from: from.clone(), to: to.clone() });
                }
            }
            Change::Link { from, to } => {
                items.extend(entries_of(to));
                table.hint(Step::Linked { from: from.clone(), to: to.clone() });
            }
            Change::SetMode { target, .. }
            | Change::SetOwner { target, .. }
            | Change::SetTimes { target, .. } => {
                let place = match target {
                    Target::Path(place) => Some(place.clone()),
                    Target::Id(_) => own(),
                };
                items.extend(place.map(|place| attributes(table, place, true)));
            }
            Change::SetXattr { target, .. } | Change::RemoveXattr { target, .. } => {
                let place = match target {
                    Target::Path(place) => Some(place.clone()),
                    Target::Id(_) => own(),
                };
                items.extend(place.map(|place| attributes(table, place, false)));
            }
            Change::Open { .. }
            | Change::Close { .. }
            | Change::Temporary { .. }
            | Change::Sync { .. } => {}
        }
    }

    fn add_range(&self, table: &MarkTable, operation: &Operation, root: u8, items: &mut Vec<Item>) {
        let Some(file) = operation.file() else { return };
        let Some(place) = file.location.clone() else { return };
        let range = operation.range().cloned().unwrap_or(0..u64::MAX);
        let first = range.start / REGION_BYTES;
        let last = range.end.saturating_sub(1).max(range.start) / REGION_BYTES;
        if last - first >= REGIONS_FEW || u32::try_from(last).is_err() {
            items.push(Item::File { file: place });
            return;
        }
        for index in first..=last {
            let index = u32::try_from(index).unwrap_or(u32::MAX);
            let made_in = self.made.get(&global(root, file.id)).filter(|_| index == 0);
            let covered = made_in
                .filter(|made_in| {
                    place.split().is_some_and(|(directory, _)| directory == **made_in)
                })
                .map(|directory| Item::Entries { directory: directory.clone() })
                .filter(|entries| table.is_marked(entries));
            items.push(covered.unwrap_or(Item::Region { file: place.clone(), index }));
        }
    }
}

fn entries_of(place: &Location) -> Option<Item> {
    place.split().map(|(directory, _)| Item::Entries { directory })
}

/// What covers the attributes of an entry: a mark that is there already, or one of its own.
fn attributes(table: &MarkTable, place: Location, by_region: bool) -> Item {
    if let Some(entries) = entries_of(&place)
        && table.is_marked(&entries)
    {
        return entries;
    }
    let region = Item::Region { file: place.clone(), index: 0 };
    if by_region && table.is_marked(&region) {
        return region;
    }
    Item::Attributes { at: place }
}

/// What a rename moves besides two names: a directory's whole tree, a large file's content.
fn moved(places: &mut Places, from: &Location, to: &Location) -> Option<Item> {
    let (dir, name) = places.parent(from).ok()?;
    let stat = rustix::fs::statat(&*dir, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Some(Item::Tree { directory: to.clone() }),
        FileType::RegularFile if u64::try_from(stat.st_size).ok()? > REGION_BYTES => {
            Some(Item::File { file: to.clone() })
        }
        _ => None,
    }
}
