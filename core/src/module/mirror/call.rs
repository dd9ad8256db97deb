//! What the checks ask for: repairs, and waiting until something outside works again.

use super::{Action, Data, Link, Mirror, Mode, Pending};
use crate::{
    checks::{Call, checker::Classes},
    effect::ModuleOrder,
    event::{Action as Verb, EventKind},
    machine::Out,
    module::{
        decide::Wish,
        procedure::After,
        sequence::Goal,
        watch::{Facts, Told},
    },
    quorum,
    status::{State, WaitReason},
    time::Instant,
};

impl Mirror {
    /// What the checks must know.
    pub fn facts(&self) -> Facts {
        let (state, _) = self.shown();
        Facts {
            classes: self.classes(),
            running: !matches!(state, State::Stop | State::Wait),
            peer_heard: self.peer.alive,
            up_to_date: self.settings.shape.replicated.then(|| self.up_to_date()),
            links_up: 0,
            start_failed: self.halted,
        }
    }

    /// Which classes of checkers run: those whose start scripts have ended.
    fn classes(&self) -> Classes {
        let goal = self.sequence.as_ref().map(|sequence| &sequence.goal);
        match self.mode {
            Mode::Stopped | Mode::Starting | Mode::Resuming { .. } => Classes::NONE,
            Mode::Fencing if self.start_after_cleaning.is_some() => Classes::NONE,
            Mode::Stopping if !matches!(goal, Some(Goal::Waiting(_) | Goal::Yielded)) => {
                Classes::NONE
            }
            Mode::Primary { link } => {
                let sec = link != Link::InSync;
                Classes { pre: true, prim: true, both: true, second: false, sec }
            }
            Mode::Secondary { .. } if goal != Some(&Goal::Restarted) => {
                Classes { pre: true, prim: false, both: true, second: true, sec: true }
            }
            _ => Classes::PRE,
        }
    }

    /// Whether a rule keeps this module in WAIT: the peer need not wait for it.
    pub(super) fn kept_waiting(&self) -> bool {
        self.held.as_ref().is_some_and(|reason| *reason != WaitReason::Transition)
    }

    pub(super) fn told(&mut self, now: Instant, told: Told, out: &mut Out<Action>) {
        match told {
            Told::Called(call) => self.called(now, call, out),
            Told::Held(reason) => self.hold(now, reason, out),
            Told::Failover(on) => self.settings.failover = on,
            Told::Holds(holds) => self.holds = holds,
        }
    }

    fn hold(&mut self, now: Instant, reason: Option<WaitReason>, out: &mut Out<Action>) {
        self.held.clone_from(&reason);
        match (&self.mode, reason) {
            (Mode::Waiting(_), _) => self.evaluate(now, out),
            (Mode::Acquiring { from: State::Wait, .. }, Some(reason)) => {
                out.push(Action::Quorum(quorum::Input::Release));
                self.give_up(now, State::Wait, reason, out);
            }
            _ => {}
        }
    }

    /// A start script failed, and what follows has come: what was begun is given up.
    pub(super) fn abandon_start(&mut self) {
        if self.halted.take().is_some() {
            self.sequence = None;
            if self.mode == Mode::Promoting {
                self.role = State::Alone;
            }
        }
    }

    /// Carries out what the checks ask for, if it makes sense now.
    pub(super) fn called(&mut self, now: Instant, mut call: Call, out: &mut Out<Action>) {
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
            Verb::Start if self.mode == Mode::Stopped => {
                return self.start(now, Wish::None, call.by, out);
            }
            Verb::Wait => return self.wait(now, call, out),
            Verb::Stop => ModuleOrder::Stop,
            Verb::StopStart => ModuleOrder::StopStart,
            Verb::Restart => ModuleOrder::Restart,
            Verb::Swap => ModuleOrder::Swap,
            _ => return,
        };
        match self.refusal(order) {
            Some(text) => self.notify(EventKind::Message(text), out),
            None => {
                self.services = call.services;
                self.obey(now, order, call.by, out);
            }
        }
    }

    fn wait(&mut self, now: Instant, call: Call, out: &mut Out<Action>) {
        let reason = call.wait.unwrap_or(WaitReason::Transition);
        let serves = matches!(
            self.mode,
            Mode::Primary { .. }
                | Mode::Secondary { data: Data::Following | Data::Ready | Data::Detached }
        );
        self.held = Some(reason.clone());
        if serves {
            self.notify(EventKind::ActionCalled { action: Verb::Wait, by: call.by }, out);
            self.role = self.stopping_role();
            self.stop_to(now, &After::Wait(reason), true, out);
        }
    }
}
