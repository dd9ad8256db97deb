//! Orders of administrators: start, prim, second, stop, restart, stopstart, swap, forcestop.

use super::{Action, Data, Link, Mirror, Mode, Pending, SWAP_LIMIT};
use crate::{
    effect::{Answer, Effect, ModuleOrder},
    event::{Action as Verb, Actor, EventKind},
    ids::RequestId,
    machine::Out,
    module::{
        decide::Wish,
        procedure::{self, After},
    },
    quorum,
    replication::generation::CopyState,
    status::{State, WaitReason},
    time::Instant,
};

/// Silence, in pulses, after which a peer that was never heard counts as absent at start.
const DISCOVERY_PULSES: u32 = 4;

impl Mirror {
    pub(super) fn ordered(
        &mut self,
        now: Instant,
        request: RequestId,
        order: ModuleOrder,
        out: &mut Out<Action>,
    ) {
        let answer = match self.refusal(order) {
            Some(text) => Answer::Refused(text),
            None => Answer::Accepted,
        };
        let accepted = answer == Answer::Accepted;
        out.push(Action::Effect(Effect::Answer { request, answer }));
        if accepted {
            self.obey(now, order, Actor::Administrator, out);
        }
    }

    pub(super) fn refusal(&self, order: ModuleOrder) -> Option<String> {
        let name = &self.settings.name;
        let stopped = self.mode == Mode::Stopped || self.start_after_cleaning.is_some();
        let (state, phase) = self.shown();
        match order {
            ModuleOrder::Start | ModuleOrder::Prim { .. } | ModuleOrder::Second { .. }
                if !stopped && !matches!(self.mode, Mode::Waiting(_)) =>
            {
                Some(format!("{name} is {state} {phase} already: stop it first"))
            }
            ModuleOrder::Start if !stopped => {
                Some(format!("{name} is started already and waits: see `havre state -v`"))
            }
            ModuleOrder::Prim { .. } if self.beat().is_some_and(|b| b.open) => Some(format!(
                "{name} is already primary on {}: to move it here, use `swap`",
                self.settings.peer_name
            )),
            ModuleOrder::Prim { force: false, .. }
                if self.keeper.durable().lineage.copy == CopyState::Inconsistent =>
            {
                Some(
                    "data may be inconsistent: this copy was stopped during resynchronisation; \
                     start the other node, or accept mixed data with `prim --force`"
                        .to_owned(),
                )
            }
            ModuleOrder::Second { .. } if !self.beat().is_some_and(|b| b.serving) => Some(format!(
                "{name} is not primary on {}: start it there first",
                self.settings.peer_name
            )),
            ModuleOrder::Stop | ModuleOrder::ForceStop if stopped => {
                Some(format!("{name} is stopped already"))
            }
            ModuleOrder::Restart
                if !matches!(
                    self.mode,
                    Mode::Primary { .. } | Mode::Secondary { data: Data::Ready }
                ) =>
            {
                Some(format!("{name} is {state} {phase}: only a Ready module can be restarted"))
            }
            ModuleOrder::StopStart if stopped => Some(format!("{name} is stopped: use `start`")),
            ModuleOrder::Swap
                if !matches!(
                    self.mode,
                    Mode::Primary { link: Link::InSync } | Mode::Secondary { data: Data::Ready }
                ) =>
            {
                Some(format!(
                    "{name} is {state} {phase}: roles can be swapped only between PRIM \
                              Ready and SECOND Ready"
                ))
            }
            ModuleOrder::Drain { .. } | ModuleOrder::Undrain => Some(format!(
                "{name} is a mirror: only the nodes of a farm are drained; to move the application \
                 away use `swap`"
            )),
            _ => None,
        }
    }

    /// Whether something is under way that must end first.
    pub(super) fn busy(&self) -> bool {
        let under_way = self.sequence.is_some() && self.halted.is_none();
        under_way || matches!(self.mode, Mode::Fencing | Mode::Resuming { .. })
    }

    pub(super) fn obey(
        &mut self,
        now: Instant,
        order: ModuleOrder,
        by: Actor,
        out: &mut Out<Action>,
    ) {
        if self.busy() && !matches!(order, ModuleOrder::ForceStop) {
            self.pending = Some(Pending::Order(order));
            return;
        }
        self.abandon_start();
        match order {
            ModuleOrder::Start => self.start(now, Wish::None, by, out),
            ModuleOrder::Prim { full_resync, force } => {
                self.full_resync = full_resync || force;
                self.start(now, Wish::Prim { force }, by, out);
            }
            ModuleOrder::Second { full_resync } => {
                self.full_resync = full_resync;
                self.start(now, Wish::Second, by, out);
            }
            ModuleOrder::Stop => self.stop_to_stop(now, After::Stop, (Verb::Stop, by), out),
            ModuleOrder::StopStart => {
                self.stop_to_stop(now, After::StartAgain, (Verb::StopStart, by), out);
            }
            ModuleOrder::ForceStop => self.force_stop(now, out),
            ModuleOrder::Restart => self.restart(now, by, out),
            ModuleOrder::Swap => match self.mode {
                Mode::Primary { .. } => self.hand_over(now, by, out),
                _ => {
                    self.notify(EventKind::ActionCalled { action: Verb::Swap, by }, out);
                    self.swap_until = Some(now + SWAP_LIMIT);
                }
            },
            // Refused above: a mirror has nothing to share.
            ModuleOrder::Drain { .. } | ModuleOrder::Undrain => {}
        }
    }

    pub(super) fn start(&mut self, now: Instant, wish: Wish, by: Actor, out: &mut Out<Action>) {
        let action = match wish {
            Wish::None => Verb::Start,
            Wish::Prim { .. } => Verb::Prim,
            Wish::Second => Verb::Second,
        };
        self.notify(EventKind::ActionCalled { action, by }, out);
        self.wish = wish;
        self.refused = None;
        self.services = None;
        self.failover_off = false;
        self.yield_until = Instant::ZERO;
        self.discovering_until = now + self.settings.pulse * DISCOVERY_PULSES;
        self.was_primary_at_start = self.keeper.durable().was_primary;
        if matches!(self.mode, Mode::Waiting(_)) {
            return self.evaluate(now, out);
        }
        self.role = State::Wait;
        // Until the checks have looked.
        self.held = self.holds.then_some(WaitReason::Transition);
        self.transition(now, Mode::Starting, "start", out);
        self.begin(now, procedure::start(self.settings.shape), out);
    }

    fn stop_to_stop(
        &mut self,
        now: Instant,
        after: After,
        (action, by): (Verb, Actor),
        out: &mut Out<Action>,
    ) {
        self.notify(EventKind::ActionCalled { action, by }, out);
        self.wish = Wish::None;
        self.role = self.stopping_role();
        self.stop_to(now, &after, true, out);
    }

    pub(super) fn stopping_role(&self) -> State {
        match self.mode {
            Mode::Primary { .. } | Mode::Restarting { .. } => self.shown().0,
            Mode::Secondary { .. } | Mode::Joining => State::Second,
            _ => self.script_role(),
        }
    }

    /// Leaves whatever role this node has.
    pub(super) fn stop_to(
        &mut self,
        now: Instant,
        after: &After,
        clean: bool,
        out: &mut Out<Action>,
    ) {
        if matches!(self.mode, Mode::Acquiring { .. }) {
            out.push(Action::Quorum(quorum::Input::Release));
        }
        if matches!(self.mode, Mode::Primary { .. } | Mode::Restarting { .. }) {
            self.role = self.shown().0;
        }
        let reason = match after {
            After::Stop => "stop".to_owned(),
            After::StartAgain => "stopstart".to_owned(),
            After::Yield => "swap".to_owned(),
            After::Wait(reason) => reason.to_string(),
        };
        self.sequence = None;
        self.later.clear();
        self.follow_at = None;
        self.swap_until = None;
        self.link_op = None;
        let sequence = procedure::stop(self.settings.shape, self.role, after, clean);
        self.transition(now, Mode::Stopping, &reason, out);
        self.begin(now, sequence, out);
    }

    fn force_stop(&mut self, now: Instant, out: &mut Out<Action>) {
        self.notify(
            EventKind::ActionCalled { action: Verb::ForceStop, by: Actor::Administrator },
            out,
        );
        if matches!(self.mode, Mode::Acquiring { .. }) {
            out.push(Action::Quorum(quorum::Input::Release));
        }
        if self.mode == Mode::Fencing {
            // Already the hardest stop there is; STOP follows it.
            self.pending = Some(Pending::Order(ModuleOrder::Stop));
            return;
        }
        self.pending = None;
        self.later.clear();
        self.follow_at = None;
        self.link_op = None;
        let role = self.stopping_role();
        self.transition(now, Mode::Stopping, "forcestop", out);
        self.begin(now, procedure::force_stop(self.settings.shape, role), out);
    }

    fn restart(&mut self, now: Instant, by: Actor, out: &mut Out<Action>) {
        self.notify(EventKind::ActionCalled { action: Verb::Restart, by }, out);
        let state = self.shown().0;
        if let Mode::Primary { link } = self.mode {
            self.transition(now, Mode::Restarting { link }, "restart", out);
        }
        self.begin(now, procedure::restart(state), out);
    }

    /// What an order waited for has ended.
    pub(super) fn obey_pending(&mut self, now: Instant, out: &mut Out<Action>) {
        if self.sequence.is_some() {
            return;
        }
        let order = match self.pending.take() {
            Some(Pending::Order(order)) => order,
            Some(Pending::Call(call)) => return self.called(now, call, out),
            None => return,
        };
        if let Some(text) = self.refusal(order) {
            self.notify(EventKind::Failure(text), out);
            return;
        }
        self.obey(now, order, Actor::Administrator, out);
    }

    /// A sequence that stopped everything has ended.
    pub(super) fn stopped_to_wait(
        &mut self,
        now: Instant,
        reason: WaitReason,
        out: &mut Out<Action>,
    ) {
        self.role = State::Wait;
        let text = reason.to_string();
        self.transition(now, Mode::Waiting(reason.clone()), &text, out);
        self.refused = Some(reason).filter(|r| *r != WaitReason::Transition);
    }
}
