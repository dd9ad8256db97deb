//! Saves records one after the other through the node's disk.

use std::collections::VecDeque;

use crate::{
    disk::{DiskDone, SimDisk, Submitted, Ticket, records::SaveJob},
    time::SimTime,
};

/// An order that has ended, and what the disk said.
pub(super) type Ended<T> = (T, Result<(), String>);

/// Records waiting to be saved; `T` names the order.
#[derive(Debug, Clone)]
pub(super) struct Store<T> {
    queue: VecDeque<(T, SaveJob)>,
    ticket: Option<Ticket>,
}

impl<T> Default for Store<T> {
    fn default() -> Self {
        Self { queue: VecDeque::new(), ticket: None }
    }
}

impl<T> Store<T> {
    /// Takes a record to be saved.
    pub(super) fn push(&mut self, order: T, name: String, bytes: Vec<u8>) {
        self.queue.push_back((order, SaveJob::new(name, bytes)));
    }

    /// Whether this operation is the store's.
    pub(super) fn owns(&self, ticket: Ticket) -> bool {
        self.ticket == Some(ticket)
    }

    /// Begins the next operation, unless one is under way or nothing waits.
    pub(super) fn begin(&mut self, now: SimTime, disk: &mut SimDisk) -> Option<Submitted> {
        if self.ticket.is_some() {
            return None;
        }
        let (_, job) = self.queue.front_mut()?;
        let op = job.next_op()?;
        let submitted = disk.submit(now, op);
        self.ticket = Some(submitted.ticket);
        Some(submitted)
    }

    /// An operation ended. Either the job's next operation begins, or the order has ended, well
    /// or not.
    pub(super) fn done(
        &mut self,
        now: SimTime,
        done: &DiskDone,
        disk: &mut SimDisk,
    ) -> (Option<Submitted>, Option<Ended<T>>) {
        self.ticket = None;
        if let DiskDone::Failed(error) = done {
            let (order, _) = self.queue.pop_front().expect("its job was under way");
            return (self.begin(now, disk), Some((order, Err(error.to_string()))));
        }
        if let Some(submitted) = self.begin(now, disk) {
            return (Some(submitted), None);
        }
        let (order, _) = self.queue.pop_front().expect("its job was under way");
        (self.begin(now, disk), Some((order, Ok(()))))
    }
}
