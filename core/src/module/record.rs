//! Keeps a module's durable record: one change after the other, each told about when it is
//! durable, so that nothing is believed before its fsync.

use std::collections::VecDeque;

use crate::{
    effect::{Effect, ModuleRecord, Record},
    ids::{Epoch, ModuleId, OpId},
    machine::Out,
    replication::generation::{CopyState, Generation, Lineage},
};

/// Changes that may wait for an earlier one to become durable.
const QUEUE_MAX: usize = 32;

/// Numbers the orders of one module, so that completions find their way back.
#[derive(Debug, Clone)]
pub struct Ops {
    module: ModuleId,
    next: u64,
}

impl Ops {
    /// Starts at the first number of this module.
    pub const fn new(module: ModuleId) -> Self {
        Self { module, next: 0 }
    }

    /// The module to which an order belongs.
    pub const fn module_of(op: OpId) -> ModuleId {
        ModuleId((op.0 >> 48) as u16)
    }

    /// The next number.
    pub fn take(&mut self) -> OpId {
        self.next += 1;
        OpId((self.module.0 as u64) << 48 | self.next)
    }
}

/// A change of the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// This node begins a generation, alone.
    Advance(Generation),
    /// The copy is being overwritten by a resynchronisation.
    Inconsistent,
    /// The peer goes on without this copy.
    Outdated,
    /// The copy equals the source's, whose lineage this is.
    Adopt(Lineage),
    /// The peer holds every acknowledged write too.
    PeerInSync,
    /// The module was started, or stopped by an administrator.
    Started(bool),
    /// The last of the two to be primary was this node, or the other.
    WasPrimary(bool),
    /// The right to run was held under this epoch.
    Epoch(Epoch),
    /// The witness has a generation on record that this node committed and did not yet begin.
    Recorded(Generation),
}

impl Change {
    fn apply(&self, record: &mut ModuleRecord) {
        let lineage = &mut record.lineage;
        match self {
            Self::Advance(generation) => lineage.advance(*generation),
            Self::Recorded(generation) => {
                let copy = lineage.copy;
                lineage.advance(*generation);
                lineage.copy = copy;
            }
            Self::Inconsistent => lineage.copy = CopyState::Inconsistent,
            Self::Outdated if lineage.copy == CopyState::Consistent => {
                lineage.copy = CopyState::Outdated;
            }
            Self::Outdated => {}
            Self::Adopt(source) => lineage.adopt(source),
            Self::PeerInSync => lineage.peer_in_sync = true,
            Self::Started(started) => record.started = *started,
            Self::WasPrimary(was) => record.was_primary = *was,
            Self::Epoch(epoch) => record.epoch = record.epoch.max(*epoch),
        }
    }
}

#[derive(Debug, Clone)]
struct Flight<P> {
    op: OpId,
    record: ModuleRecord,
    purpose: P,
}

/// The record and what is on its way to the disk. `P` tells what a change was for.
#[derive(Debug, Clone)]
pub struct Keeper<P> {
    module: ModuleId,
    durable: ModuleRecord,
    queue: VecDeque<(Vec<Change>, P)>,
    flight: Option<Flight<P>>,
}

impl<P: Clone> Keeper<P> {
    /// Starts with what is durable.
    pub fn new(module: ModuleId, durable: ModuleRecord) -> Self {
        Self { module, durable, queue: VecDeque::new(), flight: None }
    }

    /// What is durable.
    pub fn durable(&self) -> &ModuleRecord {
        &self.durable
    }

    /// What each change that is not durable yet is for.
    pub fn pending(&self) -> impl Iterator<Item = &P> {
        self.flight.iter().map(|f| &f.purpose).chain(self.queue.iter().map(|(_, p)| p))
    }

    /// Whether a change that is not durable yet moves the copy on to another generation.
    pub fn advances(&self) -> bool {
        let moves = |change: &Change| {
            matches!(change, Change::Advance(_) | Change::Recorded(_) | Change::Adopt(_))
        };
        let current = self.durable.lineage.current;
        self.flight.as_ref().is_some_and(|f| f.record.lineage.current != current)
            || self.queue.iter().any(|(changes, _)| changes.iter().any(moves))
    }

    /// Orders a change. Told about by [`completed`](Self::completed).
    pub fn submit(
        &mut self,
        changes: Vec<Change>,
        purpose: P,
        ops: &mut Ops,
        out: &mut Out<Effect>,
    ) {
        assert!(self.queue.len() < QUEUE_MAX, "few changes of a record wait at the same time");
        self.queue.push_back((changes, purpose));
        self.start(ops, out);
    }

    fn start(&mut self, ops: &mut Ops, out: &mut Out<Effect>) {
        if self.flight.is_some() {
            return;
        }
        let Some((changes, purpose)) = self.queue.pop_front() else { return };
        let mut record = self.durable.clone();
        for change in &changes {
            change.apply(&mut record);
        }
        let op = ops.take();
        out.push(Effect::Persist {
            op,
            record: Record::Module { module: self.module, record: record.clone() },
        });
        self.flight = Some(Flight { op, record, purpose });
    }

    /// Takes a completion: what the change was for, and whether it is durable.
    pub fn completed(
        &mut self,
        op: OpId,
        ok: bool,
        ops: &mut Ops,
        out: &mut Out<Effect>,
    ) -> Option<(P, bool)> {
        let flight = self.flight.take_if(|f| f.op == op)?;
        if ok {
            self.durable = flight.record;
        }
        self.start(ops, out);
        Some((flight.purpose, ok))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ids::NodeId, replication::generation::Origin};

    #[test]
    fn a_change_to_another_generation_is_known_before_it_is_durable() {
        let (mut ops, mut out) = (Ops::new(ModuleId(1)), Out::new());
        let mut keeper = Keeper::new(ModuleId(1), ModuleRecord::blank());
        let generation =
            Generation { number: 1, creator: NodeId(0), nonce: 1, origin: Origin::Forced };
        keeper.submit(vec![Change::Started(true)], (), &mut ops, &mut out);
        assert!(!keeper.advances());
        keeper.submit(vec![Change::Advance(generation)], (), &mut ops, &mut out);
        for _ in 0..2 {
            assert!(keeper.advances());
            let Some(Effect::Persist { op, .. }) = out.drain().next_back() else {
                panic!("one change after the other is made durable");
            };
            keeper.completed(op, true, &mut ops, &mut out);
        }
        assert!(!keeper.advances());
    }
}
