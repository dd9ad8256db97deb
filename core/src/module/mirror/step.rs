//! Carries out the steps of a sequence, one by one, and ends it.

use super::{ADDRESS_RETRIES_MAX, Action, LATER_MAX, Mirror, Mode, Purpose};
use crate::{
    effect::{AddressRequest, Effect, Outcome, ScriptEnd, ScriptName, VolumeRequest},
    event::EventKind,
    ids::OpId,
    machine::Out,
    module::{
        procedure::{self, After},
        record::Change,
        script,
        sequence::{Goal, Sequence, Step},
    },
    quorum,
    replication::generation::Generation,
    status::{State, WaitReason},
    time::Instant,
};

impl Mirror {
    /// Starts a sequence; whatever sequence was under way is abandoned.
    pub(super) fn begin(&mut self, now: Instant, sequence: Sequence, out: &mut Out<Action>) {
        self.sequence = Some(sequence);
        self.halted = None;
        self.advance(now, out);
    }

    /// Runs scripts that only tell of a change, now or after what is under way.
    pub(super) fn notice(&mut self, now: Instant, sequence: Sequence, out: &mut Out<Action>) {
        if self.sequence.is_none() {
            self.begin(now, sequence, out);
        } else if self.later.len() < LATER_MAX {
            self.later.push_back(sequence);
        }
    }

    pub(super) fn persist(
        &mut self,
        changes: Vec<Change>,
        purpose: Purpose,
        out: &mut Out<Action>,
    ) {
        let mut effects = Out::new();
        self.keeper.submit(changes, purpose, &mut self.ops, &mut effects);
        effects.drain().for_each(|e| out.push(Action::Effect(e)));
    }

    pub(super) fn volume(&mut self, request: VolumeRequest, out: &mut Out<Action>) -> OpId {
        let (op, module) = (self.ops.take(), self.settings.module);
        out.push(Action::Effect(Effect::Volume { op, module, request }));
        op
    }

    /// Starts the next step, and the ones after it that need no waiting.
    fn advance(&mut self, now: Instant, out: &mut Out<Action>) {
        while let Some(sequence) = self.sequence.as_mut() {
            let Some(step) = sequence.take_next() else { break };
            if let Some(op) = self.perform(&step, out)
                && let Some(sequence) = self.sequence.as_mut()
            {
                sequence.wait_for(op, step);
            }
        }
        if self.sequence.as_ref().is_some_and(Sequence::done) {
            let sequence = self.sequence.take().expect("it was just looked at");
            self.reached(now, sequence.goal, out);
            self.obey_pending(now, out);
            if self.sequence.is_none()
                && let Some(later) = self.later.pop_front()
            {
                self.begin(now, later, out);
            }
        }
    }

    /// Gives the orders of one step. `None`: nothing to wait for.
    fn perform(&mut self, step: &Step, out: &mut Out<Action>) -> Option<OpId> {
        let module = self.settings.module;
        match step {
            Step::Script(name) => self.script(*name, false, out),
            Step::Force(name) => self.script(*name, true, out),
            Step::Volume(request) => Some(self.volume(request.clone(), out)),
            Step::AddressAdd | Step::AddressTake | Step::AddressRemove => {
                if self.settings.addresses.is_empty() {
                    return None;
                }
                let addresses = self.settings.addresses.clone();
                // Set from the moment of the order: the peer must count on it.
                self.address_held |= *step != Step::AddressRemove;
                let request = match step {
                    Step::AddressAdd => AddressRequest::Add(addresses),
                    Step::AddressTake => AddressRequest::Take(addresses),
                    _ => AddressRequest::Remove(addresses),
                };
                let op = self.ops.take();
                out.push(Action::Effect(Effect::Address { op, module, request }));
                Some(op)
            }
            Step::Record(changes) => {
                self.persist(changes.clone(), Purpose::Step, out);
                // Completed by purpose, not by number: other changes may stand before it.
                Some(OpId(0))
            }
            Step::Commit(generation) => {
                out.push(Action::Quorum(quorum::Input::CommitSolo(*generation)));
                Some(OpId(0))
            }
            Step::Release => {
                out.push(Action::Quorum(quorum::Input::Release));
                self.epoch = None;
                None
            }
            Step::Kill => {
                let op = self.ops.take();
                out.push(Action::Effect(Effect::KillScripts { op, module }));
                Some(op)
            }
            // What only a farm does.
            Step::Filter | Step::FilterClear | Step::Open | Step::Close => None,
        }
    }

    fn script(&mut self, name: ScriptName, force: bool, out: &mut Out<Action>) -> Option<OpId> {
        let sequence = self.sequence.as_ref()?;
        let ops = &mut self.ops;
        let (op, started, order) =
            self.settings.scripts.order(sequence, (name, force), &self.services, || ops.take())?;
        self.notify(started, out);
        out.push(Action::Effect(order));
        Some(op)
    }

    pub(super) fn completed(
        &mut self,
        now: Instant,
        op: OpId,
        outcome: Outcome,
        out: &mut Out<Action>,
    ) {
        let mut effects = Out::new();
        let ok = outcome == Outcome::Done;
        let kept = self.keeper.completed(op, ok, &mut self.ops, &mut effects);
        effects.drain().for_each(|e| out.push(Action::Effect(e)));
        if let Some((purpose, ok)) = kept {
            return self.recorded(now, purpose, ok, &outcome, out);
        }
        if self.fencing.remove(&op) {
            if let Outcome::Failed(error) = &outcome {
                self.notify(EventKind::Failure(format!("while fencing: {error}")), out);
            }
            if self.fencing.is_empty() && self.mode == Mode::Fencing {
                self.fenced(now, out);
            }
            return;
        }
        if self.link_op == Some(op) {
            self.link_op = None;
            return;
        }
        let Some(step) = self.sequence.as_mut().and_then(|s| s.completed(op)) else { return };
        self.step_ended(now, step, outcome, out);
    }

    fn recorded(
        &mut self,
        now: Instant,
        purpose: Purpose,
        ok: bool,
        outcome: &Outcome,
        out: &mut Out<Action>,
    ) {
        if !ok {
            let error = match outcome {
                Outcome::Failed(error) => error.clone(),
                other => format!("{other:?}"),
            };
            let text = format!("state directory: {error}; free space or repair the disk");
            self.notify(EventKind::Failure(text.clone()), out);
            match purpose {
                Purpose::Step => {
                    let step = self.sequence.as_mut().and_then(|s| s.completed(OpId(0)));
                    if step.is_some() && self.mode == Mode::Stopping {
                        // What is stopped stays stopped; the record tells of it later or never.
                        self.advance(now, out);
                    } else if step.is_some() {
                        self.step_failed(now, WaitReason::Volume(text), out);
                    }
                }
                // A primary that cannot write its record must not go on as if it had.
                Purpose::Solo(_) => self.fence(now, out),
                Purpose::Adopt => self.adopted_not(now, out),
                Purpose::InSync | Purpose::Consent { .. } | Purpose::Unfit | Purpose::Note => {}
            }
            return;
        }
        match purpose {
            Purpose::Step => {
                let step = self.sequence.as_mut().and_then(|s| s.completed(OpId(0)));
                if let Some(step) = step {
                    self.step_ended(now, step, Outcome::Done, out);
                }
            }
            Purpose::Consent { nonce } => self.consented(nonce, out),
            Purpose::InSync => self.in_sync(now, out),
            Purpose::Adopt => self.adopted(now, out),
            Purpose::Solo(generation) => self.went_solo(now, generation, out),
            Purpose::Unfit | Purpose::Note => {}
        }
    }

    fn adopted_not(&mut self, now: Instant, out: &mut Out<Action>) {
        if matches!(self.mode, Mode::Secondary { .. }) {
            let to = Mode::Secondary { data: super::Data::Following };
            self.transition(now, to, "the record could not be written", out);
            self.follow_at = Some(now + super::FOLLOW_PERIOD);
        }
    }

    /// The quorum recorded the generation that a promotion begins.
    pub(super) fn step_committed(
        &mut self,
        now: Instant,
        generation: Generation,
        out: &mut Out<Action>,
    ) {
        let waits = self
            .sequence
            .as_ref()
            .and_then(Sequence::current)
            .is_some_and(|step| matches!(step, Step::Commit(g) if *g == generation));
        if waits && let Some(step) = self.sequence.as_mut().and_then(|s| s.completed(OpId(0))) {
            self.step_ended(now, step, Outcome::Done, out);
        }
    }

    fn step_ended(&mut self, now: Instant, step: Step, outcome: Outcome, out: &mut Out<Action>) {
        match (&step, outcome) {
            (Step::Script(name) | Step::Force(name), Outcome::Script(end)) => {
                self.script_ended(*name, matches!(step, Step::Force(_)), &end, out);
            }
            (Step::AddressAdd | Step::AddressTake, Outcome::Done) => {
                self.notify(EventKind::AddressChanged { held: true }, out);
            }
            (Step::AddressRemove, Outcome::Done) if self.address_held => {
                self.address_held = false;
                self.notify(EventKind::AddressChanged { held: false }, out);
            }
            (Step::AddressAdd | Step::AddressTake, Outcome::Failed(error)) => {
                return self.step_failed(now, WaitReason::Address(error), out);
            }
            (Step::AddressRemove, Outcome::Failed(error)) => {
                // Left in place it would be a second holder: try again, and say so.
                self.notify(EventKind::Failure(format!("virtual address: {error}")), out);
                self.address_retries += 1;
                if self.address_retries < ADDRESS_RETRIES_MAX
                    && let Some(sequence) = self.sequence.as_mut()
                {
                    sequence.insert(Step::AddressRemove);
                }
            }
            (Step::Volume(VolumeRequest::Close { .. }), Outcome::Failed(error)) => {
                self.notify(EventKind::Failure(format!("replicated directory: {error}")), out);
            }
            (Step::Volume(_), Outcome::Failed(error)) => {
                return self.step_failed(now, WaitReason::Volume(error), out);
            }
            (Step::Record(_), _) => {
                if let Some(generation) = self.begun() {
                    self.notify(EventKind::GenerationBegun(generation), out);
                }
            }
            _ => {}
        }
        if self.halted.is_none() {
            self.advance(now, out);
        }
    }

    fn begun(&self) -> Option<Generation> {
        if self.mode == Mode::Promoting { self.keeper.durable().lineage.current } else { None }
    }

    fn script_ended(
        &mut self,
        name: ScriptName,
        force: bool,
        end: &ScriptEnd,
        out: &mut Out<Action>,
    ) {
        let (ok, outcome) = script::outcome(end);
        let script = name.file_name().to_owned();
        self.notify(EventKind::ScriptEnded { script, outcome, ok }, out);
        // What a stop script did not stop must not outlive it: the peer may be about to start.
        if !ok
            && script::is_stop(name)
            && let Some(sequence) = self.sequence.as_mut()
        {
            sequence.insert(if force { Step::Kill } else { Step::Force(name) });
        }
        if matches!(name, ScriptName::StopPrim) && self.mode == Mode::Stopping {
            self.application = self.application && !ok;
        }
        if !ok && script::is_start(name) && self.settings.scripts.start_failures_count {
            // The checks count it, and say what follows: nothing more is started meanwhile.
            self.halted = Some(name.file_name());
        }
    }

    /// A step that the rest depends on failed.
    fn step_failed(&mut self, now: Instant, reason: WaitReason, out: &mut Out<Action>) {
        let text = reason.to_string();
        self.notify(EventKind::Failure(text), out);
        self.sequence = None;
        self.later.clear();
        match self.mode {
            Mode::Promoting => {
                self.role = State::Alone;
                let sequence =
                    procedure::stop(self.settings.shape, State::Alone, &After::Wait(reason), false);
                self.transition(now, Mode::Stopping, "could not become primary", out);
                self.begin(now, sequence, out);
            }
            Mode::Joining | Mode::Starting => {
                let role = if self.mode == Mode::Joining { State::Second } else { State::Wait };
                let sequence =
                    procedure::stop(self.settings.shape, role, &After::Wait(reason), false);
                self.transition(now, Mode::Stopping, "could not start", out);
                self.begin(now, sequence, out);
            }
            _ => {}
        }
    }

    /// A sequence has ended.
    fn reached(&mut self, now: Instant, goal: Goal, out: &mut Out<Action>) {
        let stopped =
            matches!(goal, Goal::Waiting(_) | Goal::Yielded | Goal::StartAgain | Goal::Stopped);
        if stopped {
            self.application = false;
            self.address_retries = 0;
            self.progress = None;
        }
        match goal {
            Goal::Started => {
                self.stopped_to_wait(now, WaitReason::Transition, out);
                self.evaluate(now, out);
            }
            Goal::Promoted => self.promoted(now, out),
            Goal::Following => self.joined(now, out),
            Goal::Restarted => {
                self.services = None;
                if let Mode::Restarting { link } = self.mode {
                    self.transition(now, Mode::Primary { link }, "restarted", out);
                }
            }
            Goal::Notice => {}
            Goal::Waiting(reason) => self.stopped_to_wait(now, reason, out),
            Goal::Yielded => {
                self.yield_until = now + self.settings.timeout.max(super::SWAP_LIMIT / 4);
                self.persist(vec![Change::WasPrimary(false)], Purpose::Note, out);
                self.stopped_to_wait(now, WaitReason::PeerNotReady, out);
            }
            Goal::StartAgain => {
                self.role = State::Stop;
                self.transition(now, Mode::Stopped, "stopstart", out);
                let by = crate::event::Actor::Automatic;
                self.start(now, crate::module::decide::Wish::None, by, out);
            }
            Goal::Stopped => {
                self.role = State::Stop;
                self.transition(now, Mode::Stopped, "stopped", out);
            }
        }
    }
}
