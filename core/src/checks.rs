//! Detect, decide, repair: the checks of one module on one node.
//!
//! ```text
//!  probes, watches -> checkers -> resources -> rules -> failover machine --+
//!                        |  <errd>, <module>: act directly                 v
//!                        +------------------------------------------> loop guard -> call
//! ```
//! A *call* asks the module's mirror or farm to restart, stop, wait and so on. It is counted by
//! the loop guard, and made only when the count is durable. Left to others: whether the module
//! can do it in its present state (it refuses, and is asked again later).

pub mod checker;
mod configure;
pub mod failover;
pub mod loopguard;
mod order;
pub mod probe;
pub mod record;
pub mod resource;
pub mod rules;
pub mod settings;

use std::collections::{BTreeMap, VecDeque};

use crate::{
    effect::{Effect, Outcome, Record},
    event::{Action as Verb, Actor, Cause, Event, EventKind},
    ids::{CheckerId, ModuleId, OpId},
    machine::{Machine, Out, earliest},
    mutant::{self, Mutant},
    status::WaitReason,
    time::Instant,
};

use self::{
    checker::{Checker, Classes, Direct, earliest_of},
    failover::{Failover, Posture, Say},
    loopguard::{LoopGuard, Verdict},
    probe::{Finding, Probe},
    record::{ChecksRecord, ChecksStatus},
    resource::{ResourceName, ResourceState, Resources},
    rules::{Bound, RuleAction, evaluate},
    settings::Settings,
};

pub use order::Order;

/// The bit by which orders of the checks are told from those of the module's other parts.
const OP_BIT: u64 = 1 << 46;
/// Evaluations that one change may cause before rules that set resources count as a loop.
const ROUNDS_MAX: u32 = 8;

/// Facts.
#[derive(Debug, Clone)]
pub enum Input {
    /// What the module does now: which classes run, and whether it has a role.
    Posture {
        /// The classes.
        classes: Classes,
        /// Whether it has a role.
        running: bool,
    },
    /// A watch reports.
    Checked(CheckerId, Finding),
    /// An order was carried out.
    Completed(OpId, Outcome),
    /// The other node is heard, or not.
    PeerHeard(bool),
    /// States of the other node's exported resources.
    PeerResources(Vec<ResourceState>),
    /// A component of the module sets a resource of its own.
    Component(ResourceName, ResourceState),
    /// A module on this node: its name, whether it is Ready, and how often it was started.
    Neighbour(String, bool, u64),
    /// An administrator ordered something: repairs are counted anew.
    Administered,
    /// A detector outside ordered something (`-i`).
    Detected(RuleAction, String),
    /// A start script failed.
    StartFailed(&'static str),
    /// An administrator or a script asks for something about checks.
    Asked(crate::ids::RequestId, Order),
}

/// What the module is asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// What.
    pub verb: Verb,
    /// By whom, and why.
    pub by: Actor,
    /// Only these services (`restart_services`).
    pub services: Option<String>,
    /// Why it is to wait, if it is.
    pub wait: Option<WaitReason>,
}

/// Orders.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// To the outside.
    Effect(Effect),
    /// To the module's mirror or farm.
    Call(Call),
    /// Stay in WAIT for this reason; `None`: go on.
    Hold(Option<WaitReason>),
    /// The switch `failover` is in this position.
    Failover(bool),
}

/// Something that somebody wants to be repaired.
struct Detection {
    action: RuleAction,
    detector: String,
    rule: Option<String>,
    resources: Vec<String>,
    services: Option<String>,
}

/// The checks of one module.
#[derive(Debug, Clone)]
pub struct Checks {
    module: ModuleId,
    settings: Settings,
    ops: u64,
    resources: Resources,
    places: Vec<usize>,
    exported: Vec<usize>,
    checkers: Vec<Checker>,
    by_hand: BTreeMap<String, bool>,
    failover: Failover,
    guard: LoopGuard,
    record: ChecksRecord,
    /// Writes under way, with the call that each allows.
    writes: VecDeque<(OpId, Option<Call>)>,
    handlers: BTreeMap<OpId, usize>,
    classes: Classes,
    posture: Posture,
    peer_heard: bool,
}

impl Checks {
    /// Makes the checks of a module from its configuration and what is durable.
    pub fn new(module: ModuleId, settings: Settings, record: ChecksRecord, now: Instant) -> Self {
        let mut resources = Resources::default();
        let mut place = |name: &ResourceName| {
            resources.place(name, now).expect("the configuration bounds the checkers")
        };
        let places: Vec<usize> = settings.checkers.iter().map(|c| place(&c.resource)).collect();
        let exported = settings.exported.iter().map(&mut place).collect();
        let checkers = settings.checkers.iter().map(|c| Checker::new(module, c.clone())).collect();
        let bound = Bound::new(settings.rules.clone(), &resources);
        let failover = Failover::new(bound, settings.period, settings.handle_time);
        let guard = LoopGuard::new(settings.guard, &record, now);
        let mut checks = Self {
            module,
            settings,
            ops: 0,
            resources,
            places,
            exported,
            checkers,
            by_hand: BTreeMap::new(),
            failover,
            guard,
            record,
            writes: VecDeque::new(),
            handlers: BTreeMap::new(),
            classes: Classes::NONE,
            posture: Posture::Off,
            peer_heard: false,
        };
        checks.show_switches(now);
        checks
    }

    /// Whether an order is one of the checks.
    pub fn owns(op: OpId) -> bool {
        op.0 & OP_BIT != 0
    }

    /// What is durable or about to be.
    pub fn record(&self) -> &ChecksRecord {
        &self.record
    }

    /// Whether a started module must be let go before it leaves WAIT.
    pub fn holds(&self) -> bool {
        self.settings.holds()
    }

    /// What follows when a start script fails.
    pub fn on_start_failure(&self) -> crate::config::module::StartFailure {
        self.settings.on_start_failure
    }

    /// States of the exported resources, for heartbeats.
    pub fn exported(&self) -> Vec<ResourceState> {
        self.exported.iter().map(|place| self.resources.state(*place)).collect()
    }

    /// The picture.
    pub fn status(&self, now: Instant) -> ChecksStatus {
        ChecksStatus {
            resources: self.resources.status(),
            rule: self.failover.status(),
            guard: self.guard.status(now),
            switches: self.record.switches,
        }
    }

    fn take_op(ops: &mut u64, module: ModuleId) -> OpId {
        *ops += 1;
        OpId(u64::from(module.0) << 48 | OP_BIT | *ops)
    }

    fn notify(&self, kind: EventKind, out: &mut Out<Action>) {
        let event = Event { module: Some(self.module), kind };
        out.push(Action::Effect(Effect::Notify(event)));
    }

    /// Makes the record durable, and makes the call that this allows.
    fn persist(&mut self, now: Instant, call: Option<Call>, out: &mut Out<Action>) {
        self.guard.save(now, &mut self.record);
        let op = Self::take_op(&mut self.ops, self.module);
        let record = Record::Checks { module: self.module, record: self.record.clone() };
        out.push(Action::Effect(Effect::Persist { op, record }));
        if mutant::active(Mutant::CountNotAwaited) {
            return call.into_iter().for_each(|call| out.push(Action::Call(call)));
        }
        self.writes.push_back((op, call));
    }

    /// Somebody found something to repair: count it, then have it done.
    fn detected(&mut self, now: Instant, found: Detection, out: &mut Out<Action>) {
        if self.writes.iter().any(|(_, call)| call.is_some()) {
            return;
        }
        let verdict = self.guard.detected(now);
        let status = self.guard.status(now);
        let cause = Box::new(Cause {
            detector: found.detector,
            rule: found.rule.clone(),
            resources: found.resources.clone(),
            count: status.count,
            max: status.max,
        });
        let wait = (found.action == RuleAction::Wait).then(|| WaitReason::Rule {
            rule: found.rule.unwrap_or_default(),
            resources: found.resources,
        });
        let call = match verdict {
            Verdict::Go => Call {
                verb: verb_of(found.action),
                by: Actor::Detected(cause),
                services: found.services,
                wait,
            },
            Verdict::Exhausted => {
                Call { verb: Verb::Stop, by: Actor::MaxLoop(cause), services: None, wait: None }
            }
        };
        if self.guard.counts() {
            self.persist(now, Some(call), out);
        } else {
            self.make(call, out);
        }
    }

    fn make(&mut self, call: Call, out: &mut Out<Action>) {
        if call.verb == Verb::StopStart && self.settings.reboot {
            self.notify(EventKind::ActionCalled { action: Verb::Reboot, by: call.by }, out);
            return out.push(Action::Effect(Effect::Reboot { module: self.module }));
        }
        out.push(Action::Call(call));
    }

    fn completed(&mut self, now: Instant, op: OpId, outcome: Outcome, out: &mut Out<Action>) {
        if let Some(place) = self.writes.iter().position(|(written, _)| *written == op) {
            let call = self.writes.remove(place).and_then(|(_, call)| call);
            if let Outcome::Failed(error) = &outcome {
                let text = format!("state directory: {error}; detections are not counted durably");
                self.notify(EventKind::Failure(text), out);
            }
            // A full disk must not keep an application from being repaired.
            if let Some(call) = call {
                self.make(call, out);
            }
            return;
        }
        let finding = match outcome {
            Outcome::Probed(finding) => finding,
            Outcome::Failed(error) => Finding::Unable(error),
            other => Finding::Unable(format!("{other:?}")),
        };
        if let Some(index) = self.handlers.remove(&op) {
            return self.handled(now, index, &finding, out);
        }
        for index in 0..self.checkers.len() {
            let mut said = Out::new();
            if self.checkers[index].answered(now, op, &finding, &mut said) {
                return self.said(now, index, said, out);
            }
        }
    }

    /// A program that was to repair has ended.
    fn handled(&mut self, now: Instant, index: usize, found: &Finding, out: &mut Out<Action>) {
        let checker = &mut self.checkers[index];
        if !checker.runs() {
            return;
        }
        checker.hurry(now);
        if *found != Finding::Up {
            let resource = checker.settings().resource.clone();
            let detection = Detection {
                action: RuleAction::StopStart,
                detector: "errd".to_owned(),
                rule: None,
                resources: vec![format!("the handler of {resource} failed")],
                services: None,
            };
            self.detected(now, detection, out);
        }
    }

    /// Carries out what a checker says.
    fn said(
        &mut self,
        now: Instant,
        index: usize,
        mut said: Out<checker::Action>,
        out: &mut Out<Action>,
    ) {
        let by = self.checkers[index].settings().by;
        for action in said.drain() {
            match action {
                checker::Action::Effect(effect) => out.push(Action::Effect(effect)),
                checker::Action::Report(state, detail) => {
                    self.set(now, self.places[index], state, (by, &detail), out);
                }
                checker::Action::Detected(detail) => self.act(now, index, &detail, out),
            }
        }
    }

    /// Sets a resource, tells of it, and lets the other node's view be looked at again.
    fn set(
        &mut self,
        now: Instant,
        place: usize,
        state: ResourceState,
        (by, detail): (&str, &str),
        out: &mut Out<Action>,
    ) {
        if self.resources.set(now, place, state, (by, detail)) {
            let resource = self.resources.cells()[place].name.to_string();
            let (by, detail) = (by.to_owned(), detail.to_owned());
            self.notify(EventKind::ResourceChanged { resource, state, by, detail }, out);
        }
    }

    /// Acts without a rule.
    fn act(&mut self, now: Instant, index: usize, detail: &str, out: &mut Out<Action>) {
        let settings = self.checkers[index].settings().clone();
        let (detector, action, services) = match &settings.direct {
            Some(Direct::Act(action, services)) => {
                let kind = match &settings.probe {
                    Probe::Service { .. } => "Service",
                    _ => "Process",
                };
                let text = format!("{kind} {} not running ({detail})", settings.resource.id());
                self.notify(EventKind::Detected(text), out);
                if let crate::config::module::ProcAction::Handler(program) = action {
                    return self.run_handler(index, program, out);
                }
                (settings.by, settings::action_of(action), services.clone())
            }
            Some(Direct::OnRestart) => (settings.by, Some(RuleAction::StopStart), None),
            None => return,
        };
        // Only what has a role can be repaired; a module in WAIT is not running anyway.
        if let Some(action) = action.filter(|_| self.posture == Posture::Running) {
            let resources = vec![format!("{}: {detail}", settings.resource)];
            let detector = detector.to_owned();
            let found = Detection { action, detector, rule: None, resources, services };
            self.detected(now, found, out);
        }
    }

    fn run_handler(&mut self, index: usize, program: &str, out: &mut Out<Action>) {
        if self.handlers.values().any(|running| *running == index) {
            return;
        }
        let op = Self::take_op(&mut self.ops, self.module);
        self.handlers.insert(op, index);
        let what = Probe::Program { exec: program.to_owned(), args: Vec::new() };
        let (module, checker) = (self.module, self.checkers[index].settings().id);
        out.push(Action::Effect(Effect::Probe { op, module, checker, what, limit: None }));
    }

    /// Starts and ends checkers as classes and switches say.
    fn switch_checkers(&mut self, now: Instant, out: &mut Out<Action>) {
        for index in 0..self.checkers.len() {
            let settings = self.checkers[index].settings();
            let by_hand = match &settings.class {
                crate::config::module::Class::User(name) => {
                    self.classes.pre && self.by_hand.get(name) == Some(&true)
                }
                class => {
                    let word = order::class_word(class);
                    self.classes.run(class) && self.by_hand.get(word) != Some(&false)
                }
            };
            let switched = match settings.by {
                "errd" => self.record.switches.errd,
                _ => self.record.switches.checker,
            };
            let (on, by) = (by_hand && switched, settings.by);
            if on == self.checkers[index].runs() {
                continue;
            }
            let place = self.places[index];
            self.resources.set_active(now, place, on, by);
            self.handlers.retain(|_, handled| on || *handled != index);
            let mut said = Out::new();
            self.checkers[index].switch(now, on, &mut said);
            self.said(now, index, said, out);
        }
        self.ask(now, out);
    }

    fn ask(&mut self, now: Instant, out: &mut Out<Action>) {
        for index in 0..self.checkers.len() {
            let mut said = Out::new();
            let (ops, module) = (&mut self.ops, self.module);
            self.checkers[index].ask(now, || Self::take_op(ops, module), &mut said);
            self.said(now, index, said, out);
        }
    }

    /// Lets the rules look at everything, and carries out what they say.
    fn evaluate(&mut self, now: Instant, out: &mut Out<Action>) {
        self.failover.bound.refresh(&self.resources);
        let mut found = evaluate(&self.failover.bound, &self.resources, self.peer_heard);
        for _ in 0..ROUNDS_MAX {
            if found.assignments.is_empty() {
                break;
            }
            for (name, state, rule) in std::mem::take(&mut found.assignments) {
                if let Some(place) = self.resources.place(&name, now) {
                    self.set(now, place, state, (&rule, "by a rule"), out);
                }
            }
            self.failover.bound.refresh(&self.resources);
            found = evaluate(&self.failover.bound, &self.resources, self.peer_heard);
        }
        for say in self.failover.look(now, &found, self.posture) {
            match say {
                Say::Hold(reason) => out.push(Action::Hold(reason)),
                Say::Wakeup(rule) => {
                    let by = Actor::Rule(rule);
                    self.notify(EventKind::ActionCalled { action: Verb::Wakeup, by }, out);
                }
                Say::Act(verdict) => {
                    let detection = Detection {
                        action: verdict.action,
                        detector: "failover".to_owned(),
                        rule: Some(verdict.rule.clone()),
                        resources: verdict.resources.clone(),
                        services: None,
                    };
                    self.detected(now, detection, out);
                }
            }
        }
    }
}

/// The word of the log for an action of a rule.
const fn verb_of(action: RuleAction) -> Verb {
    match action {
        RuleAction::Stop => Verb::Stop,
        RuleAction::Wait => Verb::Wait,
        RuleAction::StopStart => Verb::StopStart,
        RuleAction::Swap => Verb::Swap,
        RuleAction::Restart => Verb::Restart,
        RuleAction::Wakeup => Verb::Wakeup,
    }
}

impl Machine for Checks {
    type Input = Input;
    type Action = Action;

    fn handle(&mut self, now: Instant, input: Input, out: &mut Out<Action>) {
        match input {
            Input::Posture { classes, running } => self.posture_changed(now, classes, running, out),
            Input::Checked(id, finding) => {
                let index = usize::from(id.0);
                let mut said = Out::new();
                if let Some(checker) = self.checkers.get_mut(index) {
                    checker.found(now, &finding, &mut said);
                    self.said(now, index, said, out);
                }
            }
            Input::Completed(op, outcome) => self.completed(now, op, outcome, out),
            Input::PeerHeard(heard) => {
                self.peer_heard = heard;
                if !heard {
                    self.peer_resources(now, &vec![ResourceState::Unknown; self.exported.len()]);
                }
            }
            Input::PeerResources(states) => self.peer_resources(now, &states),
            Input::Component(name, state) => {
                if let Some(place) = self.resources.place(&name, now) {
                    self.set(now, place, state, ("heart", ""), out);
                }
            }
            Input::Neighbour(name, ready, starts) => self.neighbour(now, &name, ready, starts, out),
            Input::Administered => {
                if self.guard.reset() {
                    self.persist(now, None, out);
                }
            }
            Input::Detected(action, detector) => {
                let (rule, resources, services) = (None, Vec::new(), None);
                let found = Detection { action, detector, rule, resources, services };
                self.detected(now, found, out);
            }
            Input::StartFailed(script) => self.start_failed(now, script, out),
            Input::Asked(request, order) => self.asked(now, request, order, out),
        }
        self.ask(now, out);
        self.evaluate(now, out);
    }

    fn handle_timeout(&mut self, now: Instant, out: &mut Out<Action>) {
        if self.deadline().is_none_or(|at| now < at) {
            return;
        }
        if self.guard.retry(now) {
            let by = Actor::Retry;
            let call = Call { verb: Verb::Start, by, services: None, wait: None };
            self.persist(now, Some(call), out);
        }
        self.ask(now, out);
        self.evaluate(now, out);
    }

    fn deadline(&self) -> Option<Instant> {
        let checkers = earliest_of(&self.checkers);
        earliest(earliest(checkers, self.failover.deadline()), self.guard.deadline())
    }
}

#[cfg(test)]
mod tests;
