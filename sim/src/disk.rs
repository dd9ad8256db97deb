//! A simulated disk: what was written is not what survives.
//!
//! One [`SimDisk`] per node, two faces. *Blocks* are the medium of a module's data: 4 KiB each,
//! written, read and flushed. *Records* are small files with write, fsync, rename and
//! directory-fsync semantics ([`records`]), the medium of a node's own durable state.
//!
//! The disk is passive: [`SimDisk::submit`] takes an operation and says when it will be ready,
//! the engine calls [`SimDisk::complete`] at that time. Between the two the operation is in
//! flight and a power cut may lose, keep or tear it. A completed write is in the cache: reads see
//! it, a crash of the process keeps it, a power cut may lose, keep or tear it, each write
//! independently of the others (so writes reach the medium in any order). Only a flush, submitted
//! after the write was complete, makes it durable.
//!
//! Sources: turmoil's model has no misdirected write, lasting rot, failing or lying flush, nor a
//! power cut inside a write (simulation.md 1.4); a failed flush drops the dirty mark without the
//! data being durable, as Linux does ("fsyncgate", 2018).

use std::collections::BTreeMap;

use crate::{
    chance::{Chance, Purpose},
    pending::Pending,
    time::SimTime,
};

mod area;
pub mod block;
pub mod faults;
pub mod records;

use area::Area;
pub use block::Block;
pub use faults::{DiskError, DiskFaults, DiskHits, DiskTiming};
use records::Records;

/// Completed writes that wait for a flush at most; beyond it the oldest become durable, as the
/// kernel's own write-back would make them.
const UNSYNCED_MAX: usize = 4_096;

/// Names one operation until it is completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub(crate) u64);

/// Where a block is: the caller divides the numbers into areas as it likes.
pub type BlockNumber = u64;

/// An operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskOp {
    /// Reads one block; one never written reads as zeros.
    Read(BlockNumber),
    /// Writes one block.
    Write(BlockNumber, Block),
    /// Makes every block write that was complete at submission durable.
    Flush,
    /// Reads a file; `None` if there is none.
    ReadFile(String),
    /// Creates or replaces a file's content.
    WriteFile(String, Vec<u8>),
    /// Makes a file's content durable, but not its name.
    SyncFile(String),
    /// Renames a file, replacing the target; atomic, durable after [`DiskOp::SyncNames`].
    Rename(String, String),
    /// Removes a file, durable after [`DiskOp::SyncNames`].
    RemoveFile(String),
    /// Makes creations, renames and removals durable.
    SyncNames,
}

/// How an operation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskDone {
    /// It was carried out.
    Ok,
    /// The block that was read.
    Block(Block),
    /// The file that was read.
    File(Option<Vec<u8>>),
    /// It was not carried out (a failed write may have been, in part).
    Failed(DiskError),
}

/// An operation under way.
#[derive(Debug, Clone, PartialEq, Eq)]
struct InFlight {
    op: DiskOp,
    /// For a flush: the writes it covers are those with a lower number.
    covers: u64,
    outcome: Option<DiskError>,
}

/// A completed write that is not durable yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Unsynced {
    number: u64,
    block: BlockNumber,
    content: Block,
    /// A flush that failed or lied has forgotten it: no later flush makes it durable.
    forgotten: bool,
}

/// What a power cut did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cut {
    /// Writes of which nothing reached the medium.
    pub lost: u32,
    /// Writes that reached it whole.
    pub kept: u32,
    /// Writes of which some sectors reached it.
    pub torn: u32,
    /// How many of these were still in flight.
    pub in_flight: u32,
}

/// The disk of one node.
#[derive(Debug, Clone)]
pub struct SimDisk {
    timing: DiskTiming,
    /// What goes wrong from now on. Changed by the fault plan while the simulation runs.
    pub faults: DiskFaults,
    /// What went wrong so far.
    pub hits: DiskHits,
    latency: Chance,
    chance: Chance,
    fate: Chance,
    durable: Area<Block>,
    cached: Area<Block>,
    unsynced: Vec<Unsynced>,
    in_flight: Pending<InFlight>,
    /// When the newest operation on a block will be ready: writes to one block do not overtake.
    busy_until: Area<SimTime>,
    records: Records,
    submitted: u64,
    completed_writes: u64,
}

/// An accepted operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Submitted {
    /// To be handed to [`SimDisk::complete`].
    pub ticket: Ticket,
    /// When.
    pub ready: SimTime,
}

impl SimDisk {
    /// Makes an empty disk. `which` tells the disks of one simulation apart.
    pub fn new(seed: u64, which: u64, timing: DiskTiming) -> Self {
        Self {
            timing,
            faults: DiskFaults::default(),
            hits: DiskHits::default(),
            latency: Chance::new(seed, Purpose::DiskLatency, which),
            chance: Chance::new(seed, Purpose::DiskFault, which),
            fate: Chance::new(seed, Purpose::DiskFate, which),
            durable: Area::default(),
            cached: Area::default(),
            unsynced: Vec::new(),
            in_flight: Pending::default(),
            busy_until: Area::default(),
            records: Records::default(),
            submitted: 0,
            completed_writes: 0,
        }
    }

    /// Takes an operation and says when it will be ready.
    pub fn submit(&mut self, now: SimTime, op: DiskOp) -> Submitted {
        self.submitted += 1;
        let number = self.submitted;
        let ticket = Ticket(number);
        let mut ready = now.plus_micros(self.duration_us(number, &op));
        if let DiskOp::Write(block, _) | DiskOp::Read(block) = &op {
            let busy = self.busy_until.at(*block);
            ready = ready.max(*busy);
            *busy = ready;
        }
        let outcome = self.faults.draw(self.chance, number, &op, &mut self.hits);
        let covers = self.completed_writes;
        self.in_flight.insert(number, InFlight { op, covers, outcome });
        Submitted { ticket, ready }
    }

    /// How many operations were submitted so far: the counter that event-triggered faults watch.
    pub const fn submitted(&self) -> u64 {
        self.submitted
    }

    /// Ends an operation. `None`: a crash or a power cut ended it before.
    pub fn complete(&mut self, ticket: Ticket) -> Option<DiskDone> {
        let InFlight { op, covers, outcome } = self.in_flight.remove(ticket.0)?;
        if let Some(error) = outcome {
            self.fail(ticket, &op, covers, error);
            return Some(DiskDone::Failed(error));
        }
        Some(match op {
            DiskOp::Read(block) => DiskDone::Block(self.peek(block)),
            DiskOp::Write(block, content) => {
                self.write(ticket, block, content);
                DiskDone::Ok
            }
            DiskOp::Flush => {
                self.flush(covers);
                DiskDone::Ok
            }
            op => self.records.perform(op, self.faults.lying_flush),
        })
    }

    /// The process that uses the disk dies: what is complete stays in the cache, what is in
    /// flight is carried out or not.
    pub fn process_crash(&mut self) {
        for (number, InFlight { op, outcome, .. }) in self.in_flight.drain() {
            if outcome.is_some() || self.fate.bits(number) & 1 == 0 {
                continue;
            }
            match op {
                DiskOp::Write(block, content) => self.write(Ticket(number), block, content),
                DiskOp::WriteFile(..) | DiskOp::Rename(..) | DiskOp::RemoveFile(..) => {
                    self.records.perform(op, false);
                }
                _ => {}
            }
        }
        self.busy_until.clear();
    }

    /// The power fails: what is not durable is lost, kept or torn, each write for itself.
    pub fn power_cut(&mut self) -> Cut {
        let mut cut = Cut::default();
        let mut fates: Vec<Unsynced> = std::mem::take(&mut self.unsynced);
        for (number, InFlight { op, outcome, .. }) in self.in_flight.drain() {
            if outcome.is_some() {
                continue;
            }
            match op {
                DiskOp::Write(block, content) => {
                    cut.in_flight += 1;
                    fates.push(Unsynced { number, block, content, forgotten: false });
                }
                op => self.records.interrupt(op, self.fate, number),
            }
        }
        for Unsynced { number, block, content, .. } in fates {
            let medium = self.durable.at(block);
            match self.fate.below(number, 3) {
                0 => cut.lost += 1,
                1 => {
                    *medium = content;
                    cut.kept += 1;
                }
                _ => {
                    *medium = medium.torn_by(content, self.fate.child(number).bits(0));
                    cut.torn += 1;
                }
            }
        }
        self.cached.clone_from(&self.durable);
        self.records.power_cut(self.fate, self.submitted);
        self.busy_until.clear();
        self.hits.lost_at_cut += u64::from(cut.lost + cut.torn);
        cut
    }

    /// The whole disk is replaced by an empty one.
    pub fn replace(&mut self) {
        self.durable.clear();
        self.cached.clear();
        self.unsynced.clear();
        self.in_flight = Pending::default();
        self.busy_until.clear();
        self.records = Records::default();
    }

    /// What a read of this block would see now.
    pub fn peek(&self, block: BlockNumber) -> Block {
        self.cached.get(block)
    }

    /// What would be left of this block if every unsynced write were lost.
    pub fn durable(&self, block: BlockNumber) -> Block {
        self.durable.get(block)
    }

    /// The file a reader would see now.
    pub fn peek_file(&self, name: &str) -> Option<&[u8]> {
        self.records.peek(name)
    }

    /// Block writes that are in flight.
    pub fn writes_in_flight(&self) -> usize {
        self.in_flight.values().filter(|f| matches!(f.op, DiskOp::Write(..))).count()
    }

    /// Spoils a block on the medium and in the cache, for good. The caller sees to it that it is
    /// not the last good copy.
    pub fn rot(&mut self, block: BlockNumber, which: u64) {
        let spoiled = self.peek(block).rotten(which);
        *self.durable.at(block) = spoiled;
        *self.cached.at(block) = spoiled;
        self.hits.rotten += 1;
    }

    /// Spoils a file's content, for good; whether there was one.
    pub fn rot_file(&mut self, name: &str, which: u64) -> bool {
        let hit = self.records.rot(name, which);
        self.hits.rotten += u64::from(hit);
        hit
    }

    fn duration_us(&self, number: u64, op: &DiskOp) -> u64 {
        let (low, high) = match op {
            DiskOp::Read(_) | DiskOp::ReadFile(_) => self.timing.read_us,
            DiskOp::Write(..)
            | DiskOp::WriteFile(..)
            | DiskOp::Rename(..)
            | DiskOp::RemoveFile(..) => self.timing.write_us,
            DiskOp::Flush | DiskOp::SyncFile(_) | DiskOp::SyncNames => self.timing.flush_us,
        };
        let spent = self.latency.between(number, low, high).max(1);
        spent.saturating_mul(u64::from(self.faults.slowdown.max(1)))
    }

    fn write(&mut self, ticket: Ticket, block: BlockNumber, content: Block) {
        let mut target = block;
        if self.chance.child(ticket.0).hits(1, self.faults.misdirect_ppm) {
            // The write goes to a neighbour: the target keeps its old content, silently.
            target = block ^ 1;
            self.hits.misdirected += 1;
        }
        self.completed_writes += 1;
        let number = self.completed_writes;
        *self.cached.at(target) = content;
        self.unsynced.push(Unsynced { number, block: target, content, forgotten: false });
        if self.unsynced.len() > UNSYNCED_MAX {
            let oldest = self.unsynced.remove(0);
            if !oldest.forgotten {
                *self.durable.at(oldest.block) = oldest.content;
            }
        }
    }

    fn flush(&mut self, covers: u64) {
        if self.faults.lying_flush {
            self.hits.lied += 1;
            self.forget(covers);
            return;
        }
        for write in self.unsynced.iter().filter(|w| w.number <= covers && !w.forgotten) {
            *self.durable.at(write.block) = write.content;
        }
        if !self.unsynced.iter().any(|write| write.forgotten) {
            self.unsynced.retain(|write| write.number > covers);
            return;
        }
        let mut newest = BTreeMap::new();
        for write in self.unsynced.iter().filter(|w| w.number <= covers && !w.forgotten) {
            newest.insert(write.block, write.number);
        }
        // A write that an earlier flush forgot is overwritten for good by a later one.
        self.unsynced.retain(|write| newest.get(&write.block).is_none_or(|n| write.number > *n));
    }

    fn forget(&mut self, covers: u64) {
        for write in &mut self.unsynced {
            write.forgotten |= write.number <= covers;
        }
    }

    fn fail(&mut self, ticket: Ticket, op: &DiskOp, covers: u64, error: DiskError) {
        match op {
            // A write that failed with EIO may have reached some sectors.
            DiskOp::Write(block, content) if error == DiskError::Io => {
                let torn = self.peek(*block).torn_by(*content, self.fate.child(ticket.0).bits(1));
                self.write(ticket, *block, torn);
            }
            DiskOp::Flush => self.forget(covers),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
