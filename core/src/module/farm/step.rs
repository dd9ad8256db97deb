//! Carries out the steps of a sequence, one by one, and ends it.

use super::{Farm, Mode, Purpose, procedure};
use crate::{
    effect::{AddressRequest, Effect, ModuleOrder, Outcome, ScriptName},
    event::{Actor, EventKind},
    farm::table::FilterRequest,
    ids::OpId,
    machine::Out,
    module::{
        procedure::After,
        record::Change,
        script,
        sequence::{Goal, Sequence, Step},
    },
    mutant::{self, Mutant},
    status::{Drain, State, WaitReason},
    time::Instant,
};

/// Attempts to remove what the operating system refuses to remove.
const RETRIES_MAX: u32 = 20;

impl Farm {
    /// Starts a sequence; whatever sequence was under way is abandoned.
    pub(super) fn begin(&mut self, now: Instant, sequence: Sequence, out: &mut Out<Effect>) {
        self.sequence = Some(sequence);
        self.halted = None;
        self.advance(now, out);
    }

    /// Starts the next step, and the ones after it that need no waiting.
    fn advance(&mut self, now: Instant, out: &mut Out<Effect>) {
        while let Some(sequence) = self.sequence.as_mut() {
            let Some(step) = sequence.take_next() else { break };
            if let Some(op) = self.perform(now, &step, out)
                && let Some(sequence) = self.sequence.as_mut()
            {
                sequence.wait_for(op, step);
            }
        }
        if self.sequence.as_ref().is_some_and(Sequence::done) {
            let sequence = self.sequence.take().expect("it was just looked at");
            self.reached(now, sequence.goal, out);
            self.obey_pending(now, out);
        }
    }

    /// Gives the orders of one step. `None`: nothing to wait for.
    fn perform(&mut self, now: Instant, step: &Step, out: &mut Out<Effect>) -> Option<OpId> {
        let module = self.settings.module;
        let filtered = self.settings.filtered();
        match step {
            Step::Script(name) => self.script(*name, false, out),
            Step::Force(name) => self.script(*name, true, out),
            Step::AddressAdd | Step::AddressTake | Step::AddressRemove => {
                let addresses = self.settings.addresses();
                if addresses.is_empty() {
                    return None;
                }
                let request = if *step == Step::AddressRemove {
                    AddressRequest::Remove(addresses)
                } else {
                    self.address_held = true;
                    AddressRequest::Add(addresses)
                };
                let op = self.ops.take();
                out.push(Effect::Address { op, module, request });
                Some(op)
            }
            Step::Record(changes) => {
                self.persist(changes.clone(), out);
                // Completed by purpose, not by number.
                Some(OpId(0))
            }
            Step::Kill => {
                let op = self.ops.take();
                out.push(Effect::KillScripts { op, module });
                Some(op)
            }
            Step::Filter if filtered => self.order_filter(out),
            Step::FilterClear if filtered => {
                self.shares.cleared();
                let op = self.ops.take();
                out.push(Effect::Filter { op, module, request: FilterRequest::Clear });
                Some(op)
            }
            Step::Open => {
                self.open = true;
                self.stale = true;
                self.elect(now, out);
                None
            }
            Step::Close if mutant::active(Mutant::FarmStopsBeforeClosing) => None,
            Step::Close => {
                self.open = false;
                self.elect(now, out);
                if !filtered {
                    return None;
                }
                self.order_filter(out).or_else(|| self.shares.last_order())
            }
            // What only a mirror does.
            Step::Filter
            | Step::FilterClear
            | Step::Volume(_)
            | Step::Commit(_)
            | Step::Release => None,
        }
    }

    fn persist(&mut self, changes: Vec<Change>, out: &mut Out<Effect>) {
        self.keeper.submit(changes, Purpose::Step, &mut self.ops, out);
    }

    fn script(&mut self, name: ScriptName, force: bool, out: &mut Out<Effect>) -> Option<OpId> {
        if name == ScriptName::StartBoth {
            self.application = true;
        }
        let sequence = self.sequence.as_ref()?;
        let ops = &mut self.ops;
        let (op, started, order) =
            self.settings.scripts.order(sequence, (name, force), &self.services, || ops.take())?;
        self.notify(started, out);
        out.push(order);
        Some(op)
    }

    pub(super) fn completed(
        &mut self,
        now: Instant,
        op: OpId,
        outcome: Outcome,
        out: &mut Out<Effect>,
    ) {
        if let Some((_, ok)) =
            self.keeper.completed(op, outcome == Outcome::Done, &mut self.ops, out)
        {
            return self.recorded(now, ok, &outcome, out);
        }
        if self.shares.completed(op) {
            self.stale = true;
            self.known = true;
            if let Outcome::Failed(error) = outcome {
                return self.unfiltered(now, error, out);
            }
        }
        let Some(step) = self.sequence.as_mut().and_then(|s| s.completed(op)) else { return };
        self.step_ended(now, step, outcome, out);
    }

    fn recorded(&mut self, now: Instant, ok: bool, outcome: &Outcome, out: &mut Out<Effect>) {
        if !ok {
            // A farm keeps no data: what is lost is whether to start it at boot.
            let text = format!("state directory: {outcome:?}; free space or repair the disk");
            self.notify(EventKind::Failure(text), out);
        }
        if self.sequence.as_mut().and_then(|s| s.completed(OpId(0))).is_some() {
            self.advance(now, out);
        }
    }

    fn step_ended(&mut self, now: Instant, step: Step, outcome: Outcome, out: &mut Out<Effect>) {
        match (&step, outcome) {
            (Step::Script(name) | Step::Force(name), Outcome::Script(end)) => {
                let (ok, outcome) = script::outcome(&end);
                let script = name.file_name().to_owned();
                self.notify(EventKind::ScriptEnded { script, outcome, ok }, out);
                if !ok && script::is_start(*name) && self.settings.scripts.start_failures_count {
                    // The checks count it, and say what follows.
                    self.halted = Some(name.file_name());
                    return;
                }
                if !ok
                    && script::is_stop(*name)
                    && let Some(sequence) = self.sequence.as_mut()
                {
                    // What a stop script did not stop must not outlive it.
                    let forced = matches!(step, Step::Force(_));
                    sequence.insert(if forced { Step::Kill } else { Step::Force(*name) });
                }
            }
            (Step::FilterClear, Outcome::Done) => self.known = true,
            (Step::AddressAdd, Outcome::Done) => {
                self.notify(EventKind::AddressChanged { held: true }, out);
            }
            (Step::AddressRemove, Outcome::Done) if self.address_held => {
                self.address_held = false;
                self.notify(EventKind::AddressChanged { held: false }, out);
            }
            (Step::AddressAdd, Outcome::Failed(error)) => {
                return self.refused(now, WaitReason::Address(error), out);
            }
            (Step::AddressRemove | Step::FilterClear, Outcome::Failed(error)) => {
                self.notify(EventKind::Failure(format!("virtual address: {error}")), out);
                self.address_retries += 1;
                if self.address_retries < RETRIES_MAX
                    && let Some(sequence) = self.sequence.as_mut()
                {
                    sequence.insert(step);
                }
            }
            _ => {}
        }
        self.advance(now, out);
    }

    /// The filter does not work: this node takes nothing.
    pub(super) fn unfiltered(&mut self, now: Instant, error: String, out: &mut Out<Effect>) {
        self.refused(now, WaitReason::Address(format!("packet filter: {error}")), out);
    }

    /// The operating system refuses what the rest depends on.
    fn refused(&mut self, now: Instant, reason: WaitReason, out: &mut Out<Effect>) {
        self.notify(EventKind::Failure(reason.to_string()), out);
        match self.mode {
            Mode::Rising | Mode::Up | Mode::Restarting => {
                self.stop_to(now, &After::Wait(reason), out);
            }
            // On the way out the filter is cleared anyway.
            Mode::Stopping => {
                let step = self.sequence.as_mut().and_then(Sequence::abandon);
                if step.is_some() {
                    self.advance(now, out);
                }
            }
            Mode::Stopped | Mode::Starting | Mode::Waiting(_) => {}
        }
    }

    /// Leaves whatever state this node is in.
    pub(super) fn stop_to(&mut self, now: Instant, after: &After, out: &mut Out<Effect>) {
        let from = if self.application { State::Up } else { self.shown().0 };
        let reason = match after {
            After::Stop | After::Yield => "stop".to_owned(),
            After::StartAgain => "stopstart".to_owned(),
            After::Wait(reason) => reason.to_string(),
        };
        self.drain = Drain::No;
        self.drain_stops = false;
        self.transition(now, Mode::Stopping, &reason, out);
        self.begin(now, procedure::stop(self.shape(), from, after), out);
    }

    /// A sequence has ended.
    fn reached(&mut self, now: Instant, goal: Goal, out: &mut Out<Effect>) {
        if matches!(goal, Goal::Waiting(_) | Goal::StartAgain | Goal::Stopped) {
            self.application = false;
            self.open = false;
            self.address_retries = 0;
            self.connections = 0;
        }
        match goal {
            Goal::Started => {
                self.transition(now, Mode::Waiting(WaitReason::Transition), "ready to start", out)
            }
            Goal::Promoted => self.transition(now, Mode::Up, "started", out),
            Goal::Restarted => {
                self.services = None;
                self.transition(now, Mode::Up, "restarted", out);
            }
            Goal::Waiting(reason) => {
                let text = reason.to_string();
                self.transition(now, Mode::Waiting(reason), &text, out);
            }
            Goal::StartAgain => {
                self.transition(now, Mode::Stopped, "stopstart", out);
                self.obey(now, ModuleOrder::Start, Actor::Automatic, out);
            }
            Goal::Stopped => {
                self.transition(now, Mode::Stopped, "stopped", out);
                if self.start_after_cleaning.take() == Some(true) {
                    self.obey(now, ModuleOrder::Start, Actor::Boot, out);
                }
            }
            // What only a mirror reaches.
            Goal::Following | Goal::Notice | Goal::Yielded => {}
        }
    }
}
