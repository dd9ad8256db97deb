//! Orders of administrators: start, stop, restart, stopstart, forcestop, drain, undrain.

use super::{Farm, Mode, Pending, procedure};
use crate::{
    effect::{Answer, Effect, ModuleOrder},
    event::{Action as Verb, Actor, EventKind},
    ids::RequestId,
    machine::Out,
    module::procedure::After,
    status::{Drain, WaitReason},
    time::Instant,
};

impl Farm {
    pub(super) fn ordered(
        &mut self,
        now: Instant,
        request: RequestId,
        order: ModuleOrder,
        out: &mut Out<Effect>,
    ) {
        let refusal = self.refusal(order);
        let accepted = refusal.is_none();
        let answer = refusal.map_or(Answer::Accepted, Answer::Refused);
        out.push(Effect::Answer { request, answer });
        if accepted {
            self.obey(now, order, Actor::Administrator, out);
        }
    }

    pub(super) fn refusal(&self, order: ModuleOrder) -> Option<String> {
        let name = &self.settings.name;
        let stopped = self.mode == Mode::Stopped || self.start_after_cleaning.is_some();
        let (state, phase) = self.shown();
        match order {
            ModuleOrder::Start if self.settings.own.is_none() => Some(format!(
                "{name}: this node is on none of the farm's networks: add it to a <lan> of \
                 cluster.xml that <farm> names"
            )),
            ModuleOrder::Start if !stopped => {
                Some(format!("{name} is {state} {phase} already: see `havre state -v`"))
            }
            ModuleOrder::Prim { .. } | ModuleOrder::Second { .. } | ModuleOrder::Swap => {
                Some(format!("{name} has no primary: every node of it serves; use `start`"))
            }
            ModuleOrder::Stop | ModuleOrder::ForceStop if stopped => {
                Some(format!("{name} is stopped already"))
            }
            ModuleOrder::StopStart if stopped => Some(format!("{name} is stopped: use `start`")),
            ModuleOrder::Restart | ModuleOrder::Drain { .. } | ModuleOrder::Undrain
                if self.mode != Mode::Up =>
            {
                Some(format!("{name} is {state} {phase}: only UP Ready can do that"))
            }
            ModuleOrder::Drain { .. } if !self.settings.filtered() => Some(format!(
                "{name} shares no virtual address: take this node out of the load balancer instead"
            )),
            ModuleOrder::Drain { .. } if self.drain != Drain::No => {
                Some(format!("{name} is being drained already"))
            }
            ModuleOrder::Drain { .. } if !self.others_share() => {
                Some(format!("{name}: no other node would take the clients of this one"))
            }
            ModuleOrder::Undrain if self.drain == Drain::No => {
                Some(format!("{name} is not being drained"))
            }
            _ => None,
        }
    }

    fn others_share(&self) -> bool {
        let others = self.settings.own.map(|own| self.view.sharing.without(own));
        others.is_some_and(|others| !others.is_empty())
    }

    pub(super) fn obey(
        &mut self,
        now: Instant,
        order: ModuleOrder,
        by: Actor,
        out: &mut Out<Effect>,
    ) {
        if self.busy() && order != ModuleOrder::ForceStop {
            self.pending = Some(Pending::Order(order));
            return;
        }
        self.abandon_start();
        let action = match order {
            ModuleOrder::Stop => Verb::Stop,
            ModuleOrder::ForceStop => Verb::ForceStop,
            ModuleOrder::Restart => Verb::Restart,
            ModuleOrder::StopStart => Verb::StopStart,
            ModuleOrder::Drain { .. } => Verb::Drain,
            ModuleOrder::Undrain => Verb::Undrain,
            // The others are refused above.
            _ => Verb::Start,
        };
        self.notify(EventKind::ActionCalled { action, by }, out);
        match order {
            ModuleOrder::Stop => self.stop_to(now, &After::Stop, out),
            ModuleOrder::StopStart => self.stop_to(now, &After::StartAgain, out),
            ModuleOrder::ForceStop => self.force_stop(now, out),
            ModuleOrder::Restart => {
                self.transition(now, Mode::Restarting, "restart", out);
                self.begin(now, procedure::restart(self.shape()), out);
            }
            ModuleOrder::Drain { stop } => {
                self.drain = Drain::Under;
                self.drain_stops = stop;
                self.stale = true;
            }
            ModuleOrder::Undrain => {
                self.drain = Drain::No;
                self.drain_stops = false;
                self.stale = true;
            }
            _ => self.start(now, out),
        }
    }

    fn start(&mut self, now: Instant, out: &mut Out<Effect>) {
        if self.mode != Mode::Stopped || self.settings.own.is_none() {
            return;
        }
        // Until the checks have looked.
        self.held = self.holds.then_some(WaitReason::Transition);
        self.services = None;
        self.transition(now, Mode::Starting, "start", out);
        self.begin(now, procedure::start(), out);
    }

    fn force_stop(&mut self, now: Instant, out: &mut Out<Effect>) {
        self.pending = None;
        self.start_after_cleaning = None;
        self.open = false;
        let from = self.shown().0;
        if self.mode == Mode::Stopped {
            return;
        }
        self.transition(now, Mode::Stopping, "forcestop", out);
        self.begin(now, procedure::force_stop(from), out);
    }

    /// What an order waited for has ended.
    pub(super) fn obey_pending(&mut self, now: Instant, out: &mut Out<Effect>) {
        if self.sequence.is_some() {
            return;
        }
        let order = match self.pending.take() {
            Some(Pending::Order(order)) => order,
            Some(Pending::Call(call)) => return self.called(now, call, out),
            None => return,
        };
        let waits = self.mode == Mode::Waiting(WaitReason::Transition);
        if waits && matches!(order, ModuleOrder::Restart | ModuleOrder::Drain { .. }) {
            // It was given while the module was starting: it has not come up yet.
            self.pending = Some(Pending::Order(order));
            return;
        }
        match self.refusal(order) {
            Some(text) => self.notify(EventKind::Failure(text), out),
            None => self.obey(now, order, Actor::Administrator, out),
        }
    }
}
