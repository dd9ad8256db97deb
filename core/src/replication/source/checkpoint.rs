//! Checkpoints: when marks may be cleared.
//!
//! A mark is cleared when everything under it is durable on both disks. The local half is one
//! sync of the whole copy, taken rarely; the target's half is its acknowledgement.

use super::{Mode, Source, SourceAction};
use crate::{
    ids::Seq,
    machine::Out,
    mutant::{Mutant, active},
    time::Instant,
};

/// Marks beyond which a checkpoint is taken even if all of them are in use.
const MARKS_BUSY: usize = 4_096;

#[derive(Debug, Clone)]
pub(super) struct Checkpoint {
    step: Step,
    due: Instant,
    /// The last position of the stream one period ago: what is settled before it is cold.
    cold: Seq,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Idle,
    /// The local disk syncs; `upto` is `None` once nothing may be cleared after it.
    Local {
        upto: Option<Seq>,
    },
    /// The local disk has synced; the target has not.
    Target {
        upto: Seq,
    },
}

impl Checkpoint {
    pub(super) fn new() -> Self {
        Self { step: Step::Idle, due: Instant::ZERO, cold: Seq(0) }
    }

    pub(super) const fn is_syncing(&self) -> bool {
        matches!(self.step, Step::Local { .. })
    }

    /// What was shipped is forgotten: nothing may be cleared on its behalf.
    pub(super) fn abandon(&mut self) {
        self.step = match self.step {
            Step::Local { .. } => Step::Local { upto: None },
            Step::Idle | Step::Target { .. } => Step::Idle,
        };
    }
}

impl Source {
    const fn may_clear(&self) -> bool {
        self.config.syncs_prove
            && matches!(self.mode, Mode::Enlisted | Mode::Resyncing(_))
            && self.closing.is_none()
    }

    pub(super) fn checkpoint_deadline(&self) -> Option<Instant> {
        let idle = matches!(self.checkpoint.step, Step::Idle);
        (idle && self.may_clear() && self.intent.count() > 0).then_some(self.checkpoint.due)
    }

    pub(super) fn checkpoint_due(&mut self, now: Instant, out: &mut Out<SourceAction>) {
        if self.checkpoint_deadline().is_none_or(|due| now < due) {
            return;
        }
        let cold = self.checkpoint.cold;
        self.checkpoint.cold = self.window.last();
        self.checkpoint.due = now + self.config.checkpoint_period;
        if self.intent.clearable(cold) || self.intent.count() > MARKS_BUSY {
            self.checkpoint.step = Step::Local { upto: Some(self.window.last()) };
            out.push(SourceAction::SyncAll);
        }
    }

    pub(super) fn checkpoint_synced(
        &mut self,
        now: Instant,
        ok: bool,
        out: &mut Out<SourceAction>,
    ) {
        let Step::Local { upto } = self.checkpoint.step else { return };
        self.checkpoint.step = match upto {
            Some(upto) if ok => Step::Target { upto },
            _ => Step::Idle,
        };
        self.checkpoint.due = now + self.config.checkpoint_period;
        self.checkpoint_acknowledged(out);
    }

    /// Clears marks once the target's disk has what the local disk has.
    pub(super) fn checkpoint_acknowledged(&mut self, out: &mut Out<SourceAction>) {
        let Step::Target { upto } = self.checkpoint.step else { return };
        if self.window.durable() < upto && !active(Mutant::ClearMarksEarly) {
            return;
        }
        self.checkpoint.step = Step::Idle;
        let marks = self.intent.clear(upto);
        if !marks.is_empty() {
            out.push(SourceAction::ClearMarks { marks });
        }
    }
}
