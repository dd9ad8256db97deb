//! The daemon died and came back while the application went on: is it still entitled to run?
//!
//! If nobody took over meanwhile, the application sees no more than a pause of its files. The
//! right to run is asked for anew; without it, everything is removed as in fencing.

use super::{Action, Mirror, Mode};
use crate::{
    event::{Action as Verb, Actor, EventKind},
    ids::Epoch,
    machine::Out,
    module::procedure,
    quorum,
    replication::generation::{CopyState, Generation, Origin},
    status::State,
    time::Instant,
};

/// Silence, in pulses, after which a peer that was not heard since the restart counts as dead.
const DISCOVERY_PULSES: u32 = 4;

impl Mirror {
    /// The daemon started.
    pub(super) fn booted(
        &mut self,
        now: Instant,
        start: bool,
        running: Option<Instant>,
        out: &mut Out<Action>,
    ) {
        self.start_after_cleaning = Some(start);
        let record = self.keeper.durable();
        let whole = record.lineage.copy == CopyState::Consistent || !self.settings.shape.replicated;
        let entitled = record.started && record.was_primary && whole;
        let Some(until) = running.filter(|until| entitled && *until > now) else {
            return self.clean(out);
        };
        self.role = State::Alone;
        self.application = true;
        self.address_held = true;
        let by = Actor::Automatic;
        self.notify(EventKind::ActionCalled { action: Verb::Alone, by }, out);
        let reason = "the daemon was restarted while the application ran";
        // Asking takes time, and the guard must not act in the middle of a resumption.
        let until = until.before(self.settings.timeout / 16);
        self.transition(now, Mode::Resuming { generation: None, until }, reason, out);
        self.evaluate_at = Some((now + self.settings.pulse * DISCOVERY_PULSES).min(until));
    }

    /// The peer stayed silent, or the time to resume is over.
    pub(super) fn resume_or_end(&mut self, now: Instant, out: &mut Out<Action>) {
        match self.mode {
            Mode::Resuming { until, .. } if now >= until => self.fence(now, out),
            Mode::Resuming { generation: None, .. } => self.resume(now, out),
            _ => {}
        }
    }

    /// The peer was heard, or has been silent long enough.
    pub(super) fn resume(&mut self, now: Instant, out: &mut Out<Action>) {
        let Mode::Resuming { generation: None, until } = self.mode else { return };
        self.evaluate_at = Some(until);
        if self.beat().is_some_and(|b| b.serving) {
            return self.fence(now, out);
        }
        let generation = self.new_generation(Origin::Solo);
        let mode = Mode::Resuming { generation: Some(generation), until };
        self.transition(now, mode, "asking for quorum", out);
        out.push(Action::Quorum(quorum::Input::Unbound));
        let forced = !self.settings.shape.replicated;
        out.push(Action::Quorum(quorum::Input::Acquire { generation, forced }));
    }

    /// The right to run is held again.
    pub(super) fn resumed(
        &mut self,
        now: Instant,
        epoch: Option<Epoch>,
        mut generation: Generation,
        recorded: Option<Generation>,
        out: &mut Out<Action>,
    ) {
        self.evaluate_at = None;
        let before = self.prepared(epoch, recorded, &mut generation, out);
        self.start_after_cleaning = None;
        self.transition(now, Mode::Promoting, "goes on after a restart of the daemon", out);
        let sequence = procedure::resume(self.settings.shape, before, generation);
        self.begin(now, sequence, out);
    }
}
