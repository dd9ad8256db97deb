//! New settings for the checks of a module that runs.

use super::{Action, Checks, Input, settings::Settings};
use crate::{
    checks::checker::Classes,
    machine::{Machine, Out},
    time::Instant,
};

impl Checks {
    /// Ends every checker and begins anew with these settings. What is durable, counts and
    /// switches go on; the caller tells the posture again.
    pub fn configure(&mut self, now: Instant, settings: Settings, out: &mut Out<Action>) {
        let mut said = Out::new();
        let off = Input::Posture { classes: Classes::NONE, running: false };
        self.handle(now, off, &mut said);
        // The module itself goes on as it is: nothing that follows from an end of checks counts.
        for action in said.drain().filter(|action| matches!(action, Action::Effect(_))) {
            out.push(action);
        }
        self.guard.save(now, &mut self.record);
        let mut fresh = Self::new(self.module, settings, self.record.clone(), now);
        // Numbers of orders are never used twice: what is under way may still be answered.
        fresh.ops = self.ops;
        fresh.by_hand = std::mem::take(&mut self.by_hand);
        fresh.writes = std::mem::take(&mut self.writes);
        fresh.peer_heard = self.peer_heard;
        *self = fresh;
    }
}
