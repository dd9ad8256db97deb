//! The client of a scenario: writes to the application at the virtual address, and at the end
//! reads everything back.

use std::time::{Duration, Instant};

use anyhow::Result;
use havre_sim::{net::HostId, plan};

use super::stage::{PORT, Stage};
use crate::{
    demo::workload::{Seen, Workload, to_ledger},
    ledger,
};

/// How long the application may take to give everything back.
const READ_LIMIT: Duration = Duration::from_secs(20);

/// The client.
#[derive(Debug)]
pub(super) struct Load {
    every: Duration,
    on: bool,
    workload: Option<Workload>,
    seen: Seen,
    told: u64,
    /// When the last acknowledgement was noticed, or the client was switched on.
    lately: Instant,
}

impl Load {
    pub(super) fn new(load: &plan::Load, scale: f64) -> Self {
        let every = load.every.mul_f64(scale);
        let lately = Instant::now();
        Self { every, on: true, workload: None, seen: Seen::default(), told: 0, lately }
    }

    /// Whether records are written, or would be if the application answered.
    pub(super) fn is_on(&self) -> bool {
        self.on && !self.every.is_zero()
    }

    /// Mean pause between records.
    pub(super) const fn every(&self) -> Duration {
        self.every
    }

    /// Time since the last acknowledgement.
    pub(super) fn silence(&self) -> Duration {
        self.lately.elapsed()
    }

    /// Starts or stops the client.
    pub(super) fn switch(&mut self, stage: &Stage, on: bool) -> Result<()> {
        self.on = on;
        self.lately = Instant::now();
        if !self.is_on() {
            self.stop();
        } else if self.workload.is_none() {
            let place = stage.cluster.place(stage.node(HostId::C))?;
            let connect = to_ledger((Stage::virtual_address(), PORT).into());
            self.workload = Some(Workload::start_paced(place, connect, self.every, self.seen.last));
        }
        Ok(())
    }

    /// Stops the client for good.
    pub(super) fn stop(&mut self) {
        let Some(workload) = self.workload.take() else { return };
        let seen = workload.stop();
        self.seen.acknowledged.extend(seen.acknowledged);
        self.seen.last = self.seen.last.max(seen.last);
    }

    /// Records acknowledged so far.
    pub(super) fn acknowledged(&self) -> u64 {
        let running = self.workload.as_ref().map_or(0, Workload::acknowledged);
        self.seen.acknowledged.len() as u64 + running
    }

    /// Records acknowledged since this was asked last.
    pub(super) fn new_acknowledgements(&mut self) -> u64 {
        let all = self.acknowledged();
        if all > self.told {
            self.lately = Instant::now();
        }
        all - std::mem::replace(&mut self.told, all)
    }

    /// Acknowledged records that the application does not have any more; `None` if it does not
    /// answer.
    pub(super) fn lost(&self, stage: &Stage) -> Option<Vec<u64>> {
        let machine = stage.cluster.lab().machine(stage.node(HostId::C));
        let address = (Stage::virtual_address(), PORT).into();
        let read = || ledger::Client::connect(address, READ_LIMIT)?.read();
        let found = machine.in_network(read).ok()?;
        Some(self.seen.lost(&found).collect())
    }
}
