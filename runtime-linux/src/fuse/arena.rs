//! The node table outside the daemon: a memory file that a holder keeps while a daemon restarts.
//!
//! Slots of 64 bytes or multiples. A slot is written whole before its tag makes it valid, and a
//! killed process stops between two writes, so what a later daemon reads is never torn. What may
//! be missing is the last change; the kernel sends the request that made it again.
//!
//! Slot: tag u8 (0 free, 1 node, 2 name), units u8, length of name u16, kind u32, then three
//! numbers: of a node its number, its lookup count, its file id; of a name the parent's number,
//! the child's number, and zero; then the name's bytes.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{fs::MemfdFlags, io::Errno};

const UNIT_BYTES: usize = 64;
const FIXED_BYTES: usize = 32;
const TAG_FREE: u8 = 0;
const TAG_NODE: u8 = 1;
const TAG_NAME: u8 = 2;
const COUNT_AT: u64 = 16;
const FILE_AT: u64 = 24;

/// Position of a slot, in units.
pub(super) type Slot = u32;

/// A node as the table has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NodeRow {
    pub(super) slot: Slot,
    pub(super) number: u64,
    pub(super) kind: u32,
    pub(super) lookups: u64,
    pub(super) file: u64,
}

/// A name as the table has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NameRow {
    pub(super) slot: Slot,
    pub(super) parent: u64,
    pub(super) child: u64,
    pub(super) name: Vec<u8>,
}

/// The table's memory.
#[derive(Debug)]
pub(super) struct Arena {
    memory: OwnedFd,
    /// First slot never used.
    end: Slot,
    /// Free slots by their length in units.
    free: BTreeMap<u8, Vec<Slot>>,
}

impl Arena {
    /// Makes an empty table.
    pub(super) fn create() -> Result<Self, Errno> {
        let memory = rustix::fs::memfd_create("havre-nodes", MemfdFlags::CLOEXEC)?;
        Ok(Self { memory, end: 0, free: BTreeMap::new() })
    }

    /// Reads the table that an earlier daemon left.
    pub(super) fn load(memory: OwnedFd) -> Result<(Self, Vec<NodeRow>, Vec<NameRow>), Errno> {
        let len = usize::try_from(rustix::fs::fstat(&memory)?.st_size).map_err(|_| Errno::FBIG)?;
        let mut bytes = vec![0; len];
        let mut have = 0;
        while have < len {
            match rustix::io::pread(&memory, &mut bytes[have..], have as u64)? {
                0 => break,
                more => have += more,
            }
        }
        let mut arena = Self { memory, end: 0, free: BTreeMap::new() };
        let (mut nodes, mut names) = (Vec::new(), Vec::new());
        while let Some(slot) = bytes.get(arena.end as usize * UNIT_BYTES..) {
            let Some(fixed) = slot.first_chunk::<FIXED_BYTES>() else { break };
            let units = fixed[1];
            if units == 0 {
                break;
            }
            let number =
                |at: usize| u64::from_ne_bytes(std::array::from_fn(|index| fixed[at + index]));
            let kind = u32::from_ne_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]);
            let here = arena.end;
            match fixed[0] {
                TAG_NODE => nodes.push(NodeRow {
                    slot: here,
                    number: number(8),
                    kind,
                    lookups: number(16),
                    file: number(24),
                }),
                TAG_NAME => {
                    let len = usize::from(u16::from_ne_bytes([fixed[2], fixed[3]]));
                    let name = slot.get(FIXED_BYTES..FIXED_BYTES + len).unwrap_or_default();
                    let (parent, child) = (number(8), number(16));
                    names.push(NameRow { slot: here, parent, child, name: name.to_vec() });
                }
                _ => arena.free.entry(units).or_default().push(here),
            }
            arena.end += Slot::from(units);
        }
        Ok((arena, nodes, names))
    }

    /// The memory, to hand to a holder.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }

    /// Adds a node.
    pub(super) fn add_node(&mut self, number: u64, kind: u32, lookups: u64) -> Result<Slot, Errno> {
        self.add(TAG_NODE, kind, [number, lookups, 0], &[])
    }

    /// Adds a name.
    pub(super) fn add_name(&mut self, parent: u64, child: u64, name: &[u8]) -> Result<Slot, Errno> {
        self.add(TAG_NAME, 0, [parent, child, 0], name)
    }

    /// Sets a node's lookup count.
    pub(super) fn set_lookups(&self, slot: Slot, lookups: u64) -> Result<(), Errno> {
        self.write(&lookups.to_ne_bytes(), Self::position(slot) + COUNT_AT)
    }

    /// Sets a node's file id.
    pub(super) fn set_file(&self, slot: Slot, file: u64) -> Result<(), Errno> {
        self.write(&file.to_ne_bytes(), Self::position(slot) + FILE_AT)
    }

    /// Frees a slot; `name` is the name it holds, empty for a node.
    pub(super) fn remove(&mut self, slot: Slot, name: &[u8]) -> Result<(), Errno> {
        self.write(&[TAG_FREE], Self::position(slot))?;
        self.free.entry(units_for(name)).or_default().push(slot);
        Ok(())
    }

    fn add(&mut self, tag: u8, kind: u32, fields: [u64; 3], name: &[u8]) -> Result<Slot, Errno> {
        let units = units_for(name);
        let slot = match self.free.get_mut(&units).and_then(Vec::pop) {
            Some(slot) => slot,
            None => {
                let slot = self.end;
                self.end = slot.checked_add(Slot::from(units)).ok_or(Errno::NOSPC)?;
                slot
            }
        };
        let mut bytes = [0u8; FIXED_BYTES + 256];
        let name_len = u16::try_from(name.len()).map_err(|_| Errno::NAMETOOLONG)?;
        bytes[0] = TAG_FREE;
        bytes[1] = units;
        bytes[2..4].copy_from_slice(&name_len.to_ne_bytes());
        bytes[4..8].copy_from_slice(&kind.to_ne_bytes());
        for (index, field) in fields.iter().enumerate() {
            bytes[8 + 8 * index..16 + 8 * index].copy_from_slice(&field.to_ne_bytes());
        }
        let len = FIXED_BYTES + name.len();
        bytes.get_mut(FIXED_BYTES..len).ok_or(Errno::NAMETOOLONG)?.copy_from_slice(name);
        // The whole slot first, so that the file always ends at a slot's end; then the tag.
        let whole = usize::from(units) * UNIT_BYTES;
        let mut padded = [0u8; 320];
        padded[..len].copy_from_slice(&bytes[..len]);
        self.write(&padded[..whole], Self::position(slot))?;
        self.write(&[tag], Self::position(slot))?;
        Ok(slot)
    }

    fn write(&self, bytes: &[u8], at: u64) -> Result<(), Errno> {
        let written = rustix::io::pwrite(&self.memory, bytes, at)?;
        if written == bytes.len() { Ok(()) } else { Err(Errno::NOSPC) }
    }

    fn position(slot: Slot) -> u64 {
        u64::from(slot) * UNIT_BYTES as u64
    }
}

/// Length of the slot that holds `name`, in units. Names have at most 255 bytes: 5 units.
fn units_for(name: &[u8]) -> u8 {
    u8::try_from((FIXED_BYTES + name.len()).div_ceil(UNIT_BYTES)).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    //! Tests of the node table's memory.

    use super::*;

    #[test]
    fn a_later_daemon_reads_what_an_earlier_one_wrote() -> Result<(), Errno> {
        let mut arena = Arena::create()?;
        let node = arena.add_node(12, 0o100_000, 1)?;
        let short = arena.add_name(1, 12, b"a")?;
        let long = arena.add_name(1, 12, &[b'n'; 255])?;
        arena.set_lookups(node, 7)?;
        arena.set_file(node, 99)?;
        arena.remove(short, b"a")?;
        let again = arena.add_name(5, 12, b"b")?;
        assert_eq!(again, short, "a freed slot is used again");
        let other = arena.add_node(13, 0o040_000, 2)?;
        arena.remove(other, b"")?;

        let (_, nodes, mut names) = Arena::load(arena.memory)?;
        let row = NodeRow { slot: node, number: 12, kind: 0o100_000, lookups: 7, file: 99 };
        assert_eq!(nodes, [row]);
        names.sort_by_key(|row| row.parent);
        assert_eq!(names[0], NameRow { slot: long, parent: 1, child: 12, name: vec![b'n'; 255] });
        assert_eq!(names[1], NameRow { slot: again, parent: 5, child: 12, name: b"b".to_vec() });
        Ok(())
    }
}
