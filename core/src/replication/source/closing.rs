//! The end of a source: what is open comes to its end, the target holds everything if that is
//! asked for, the local disk too.

use super::{Health, Mode, Source, SourceAction, Verdict};
use crate::{effect::Outcome, ids::OpId, machine::Out, time::Instant};

#[derive(Debug, Clone, Copy)]
pub(super) struct Closing {
    pub(super) op: OpId,
    pub(super) clean: bool,
    pub(super) step: ClosingStep,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClosingStep {
    Draining,
    Peer,
    Syncing,
    Closed,
}

impl Source {
    pub(super) fn close(
        &mut self,
        now: Instant,
        op: OpId,
        clean: bool,
        out: &mut Out<SourceAction>,
    ) {
        if let Some(earlier) = self.closing {
            out.push(SourceAction::Finished {
                op,
                outcome: Outcome::Failed(format!("order {} is closing it already", earlier.op)),
            });
            return;
        }
        self.closing = Some(Closing { op, clean, step: ClosingStep::Draining });
        self.advance_close(now, out);
    }

    pub(super) fn advance_close(&mut self, now: Instant, out: &mut Out<SourceAction>) {
        let Some(closing) = self.closing else { return };
        let enlisted = matches!(self.mode, Mode::Enlisted);
        if closing.step == ClosingStep::Draining {
            self.fail_held(Verdict::Fenced, out);
            if matches!(&self.mode, Mode::Orphaned) || self.is_stalled() {
                self.fence(Health::Fenced, out);
            } else if !enlisted {
                self.drop_stream(out);
            }
            if self.open > 0 {
                return;
            }
            if closing.clean && enlisted {
                self.ship_sync_point(now, out);
            }
            self.set_closing(ClosingStep::Peer);
        }
        let step = self.closing.map(|closing| closing.step);
        let peer_behind = enlisted && self.window.durable() < self.window.last();
        let waits = (closing.clean && peer_behind) || self.checkpoint.is_syncing();
        if step == Some(ClosingStep::Peer) && !waits {
            self.set_closing(ClosingStep::Syncing);
            out.push(SourceAction::SyncAll);
        }
    }

    pub(super) fn is_stalled(&self) -> bool {
        matches!(&self.mode, Mode::Resyncing(resync) if resync.stalled)
    }

    pub(super) fn set_closing(&mut self, step: ClosingStep) {
        if let Some(closing) = &mut self.closing {
            closing.step = step;
        }
    }

    pub(super) fn finish_close(&mut self, ok: bool, out: &mut Out<SourceAction>) {
        let Some(closing) = self.closing else { return };
        if ok && self.config.syncs_prove && matches!(self.mode, Mode::Enlisted) {
            let marks = self.intent.clear(self.window.durable());
            if !marks.is_empty() {
                out.push(SourceAction::ClearMarks { marks });
            }
        }
        self.drop_stream(out);
        self.set_closing(ClosingStep::Closed);
        let outcome = if ok {
            Outcome::Done
        } else {
            Outcome::Failed("the local disk could not make everything durable".into())
        };
        out.push(SourceAction::Finished { op: closing.op, outcome });
    }
}
