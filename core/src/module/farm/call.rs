//! What the checks ask for: repairs, and waiting until something outside works again.

use super::{Farm, Mode, Pending};
use crate::{
    checks::{Call, checker::Classes},
    effect::{Effect, ModuleOrder},
    event::{Action as Verb, EventKind},
    machine::Out,
    module::{
        sequence::Goal,
        watch::{Facts, Told, Watchable},
    },
    status::{State, WaitReason},
    time::Instant,
};

impl Watchable for Farm {
    fn facts(&self) -> Facts {
        Facts {
            classes: self.classes(),
            running: self.shown().0 == State::Up,
            peer_heard: self.roster.peers.iter().any(|peer| self.roster.is_alive(peer.slot)),
            up_to_date: None,
            links_up: 0,
            start_failed: self.halted,
        }
    }

    fn told(&mut self, now: Instant, told: Told, out: &mut Out<Effect>) {
        self.wake(now);
        match told {
            Told::Called(call) => self.called(now, call, out),
            Told::Held(reason) => {
                self.held = reason;
            }
            // Nothing fails over in a farm.
            Told::Failover(_) => {}
            Told::Holds(holds) => self.holds = holds,
        }
        self.settle(now, out);
    }
}

impl Farm {
    /// Which classes of checkers run: those whose start scripts have ended.
    fn classes(&self) -> Classes {
        let goal = self.sequence.as_ref().map(|sequence| &sequence.goal);
        match self.mode {
            Mode::Stopped | Mode::Starting => Classes::NONE,
            Mode::Stopping if !matches!(goal, Some(Goal::Waiting(_))) => Classes::NONE,
            Mode::Up => Classes { both: true, ..Classes::PRE },
            _ => Classes::PRE,
        }
    }

    /// Whether something is under way that must end first.
    pub(super) fn busy(&self) -> bool {
        self.sequence.is_some() && self.halted.is_none()
    }

    /// A start script failed, and what follows has come: what was begun is given up.
    pub(super) fn abandon_start(&mut self) {
        if self.halted.take().is_some() {
            self.sequence = None;
        }
    }

    /// Carries out what the checks ask for, if it makes sense now.
    pub(super) fn called(&mut self, now: Instant, mut call: Call, out: &mut Out<Effect>) {
        if self.halted.is_some() && call.verb != Verb::Stop {
            call.verb = Verb::StopStart;
        }
        if self.busy() {
            // An administrator's word counts for more.
            if !matches!(self.pending, Some(Pending::Order(_))) {
                self.pending = Some(Pending::Call(call));
            }
            return;
        }
        let order = match call.verb {
            Verb::Start if self.mode == Mode::Stopped => ModuleOrder::Start,
            Verb::Wait => {
                self.held = Some(call.wait.unwrap_or(WaitReason::Transition));
                if self.mode == Mode::Up {
                    let action = Verb::Wait;
                    self.notify(EventKind::ActionCalled { action, by: call.by }, out);
                }
                return;
            }
            Verb::Stop => ModuleOrder::Stop,
            Verb::StopStart => ModuleOrder::StopStart,
            Verb::Restart => ModuleOrder::Restart,
            // Nobody hands over in a farm.
            _ => return,
        };
        match self.refusal(order).filter(|_| self.halted.is_none()) {
            Some(text) => self.notify(EventKind::Message(text), out),
            None => {
                self.services = call.services;
                self.obey(now, order, call.by, out);
            }
        }
    }
}
