//! One checker: asks when it is time, counts answers, says what state its resource is in.
//!
//! ```text
//!   Off ---- its class runs ----> On: ask, wait for the answer, pause, ask again
//!    ^                             |        standing watches report in between
//!    +--- its class ends ----------+
//! ```
//! A watch tells of a process's death at once; asking at each period is the safety net. What is
//! asked for and comes too late, after the class has ended, is dropped.

use std::time::Duration;

use super::{
    probe::{Finding, Probe},
    resource::{ResourceName, ResourceState},
};
use crate::{
    config::module::{Class, ProcAction},
    effect::Effect,
    ids::{CheckerId, ModuleId, OpId},
    machine::{Out, earliest},
    time::Instant,
};

/// Pause between two looks for a process that has not appeared yet.
const APPEARING_PERIOD: Duration = Duration::from_millis(500);

/// What a checker must know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckerSettings {
    /// Its number.
    pub id: CheckerId,
    /// The resource that it sets.
    pub resource: ResourceName,
    /// Its name in the log.
    pub by: &'static str,
    /// When it runs.
    pub class: Class,
    /// What it asks.
    pub probe: Probe,
    /// Whether the outside reports by itself, too.
    pub watches: bool,
    /// Period.
    pub interval: Duration,
    /// Limit of one question; `None`: none.
    pub limit: Option<Duration>,
    /// Pause before the first question.
    pub delay: Duration,
    /// Failures in a row that make the resource down.
    pub fall: u32,
    /// Successes in a row that make it up again.
    pub rise: u32,
    /// How many processes are right: at least, and below.
    pub range: (u32, u32),
    /// What follows without a rule.
    pub direct: Option<Direct>,
    /// The other node's view counts, too.
    pub shared: bool,
}

/// What follows without a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Direct {
    /// `<errd>`: this action, perhaps on some services only.
    Act(ProcAction, Option<String>),
    /// `<module>`: a stopstart when the other module's application was started again.
    OnRestart,
}

/// What a checker says.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// To the outside.
    Effect(Effect),
    /// Its resource is in this state; the text says what was seen.
    Report(ResourceState, String),
    /// It found its resource down, and has something to do about it.
    Detected(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Running {
    next: Instant,
    asked: Option<OpId>,
    /// Until then a process that is missing is only late.
    late_until: Instant,
    seen_up: bool,
    /// The program says by other means what it found.
    told: bool,
    failures: u32,
    successes: u32,
    starts: u64,
}

/// One checker of one module.
#[derive(Debug, Clone)]
pub struct Checker {
    module: ModuleId,
    settings: CheckerSettings,
    running: Option<Running>,
    state: ResourceState,
}

impl Checker {
    /// Makes a checker that does not run.
    pub fn new(module: ModuleId, settings: CheckerSettings) -> Self {
        Self { module, settings, running: None, state: ResourceState::Init }
    }

    /// What it must know.
    pub fn settings(&self) -> &CheckerSettings {
        &self.settings
    }

    /// Whether it runs.
    pub fn runs(&self) -> bool {
        self.running.is_some()
    }

    /// Starts or ends it.
    pub fn switch(&mut self, now: Instant, on: bool, out: &mut Out<Action>) {
        if on == self.runs() {
            return;
        }
        self.state = ResourceState::Init;
        let (module, checker) = (self.module, self.settings.id);
        if !on {
            self.running = None;
            if self.asks() {
                out.push(Action::Effect(Effect::Unwatch { module, checker }));
            }
            return;
        }
        let first = now + self.settings.delay;
        self.running = Some(Running {
            next: first,
            asked: None,
            late_until: first + self.settings.interval,
            seen_up: false,
            told: false,
            failures: 0,
            successes: 0,
            starts: 0,
        });
        if self.settings.watches {
            let what = self.settings.probe.clone();
            out.push(Action::Effect(Effect::Watch { module, checker, what }));
        }
    }

    /// Whether it asks the outside; a module on this node is known without.
    fn asks(&self) -> bool {
        !matches!(&self.settings.probe, Probe::Module { addr, .. } if addr.is_empty())
    }

    /// When time matters next.
    pub fn deadline(&self) -> Option<Instant> {
        let running = self.running.as_ref().filter(|_| self.asks())?;
        let waiting = running.asked.is_some();
        (!waiting).then_some(running.next)
    }

    /// Asks if it is time.
    pub fn ask(&mut self, now: Instant, take_op: impl FnOnce() -> OpId, out: &mut Out<Action>) {
        if self.deadline().is_none_or(|at| now < at) {
            return;
        }
        let Some(running) = self.running.as_mut() else { return };
        let op = take_op();
        running.asked = Some(op);
        running.next = now + self.settings.interval;
        running.told = false;
        out.push(Action::Effect(Effect::Probe {
            op,
            module: self.module,
            checker: self.settings.id,
            what: self.settings.probe.clone(),
            limit: self.settings.limit,
        }));
    }

    /// Asks again as soon as it may.
    pub fn hurry(&mut self, now: Instant) {
        if let Some(running) = self.running.as_mut() {
            running.next = running.next.min(now);
        }
    }

    /// The resource was set by other means while the program ran.
    pub fn told(&mut self) {
        if let Some(running) = self.running.as_mut() {
            running.told = true;
        }
    }

    /// The answer to a question; false if it is not this checker's.
    pub fn answered(
        &mut self,
        now: Instant,
        op: OpId,
        finding: &Finding,
        out: &mut Out<Action>,
    ) -> bool {
        let Some(running) = self.running.as_mut() else { return false };
        if running.asked.take_if(|asked| *asked == op).is_none() {
            return false;
        }
        // A program that ran for longer than the period is started again after a whole one.
        if matches!(self.settings.probe, Probe::Program { .. }) {
            running.next = now + self.settings.interval;
            if running.told {
                return true;
            }
        }
        self.found(now, finding, out);
        true
    }

    /// Something was found, asked for or not.
    pub fn found(&mut self, now: Instant, finding: &Finding, out: &mut Out<Action>) {
        let by = self.settings.by;
        let Some(running) = self.running.as_mut() else { return };
        let (healthy, detail) = match finding {
            Finding::Up => (true, String::new()),
            Finding::Down(text) => (false, text.clone()),
            Finding::Count(count) => {
                let (least, below) = self.settings.range;
                let right = *count >= least && *count < below;
                (right, format!("{count} running"))
            }
            Finding::Module { ready, starts } => {
                let restarted = running.starts != 0 && *starts != 0 && *starts != running.starts;
                running.starts = *starts;
                if restarted && self.settings.direct == Some(Direct::OnRestart) {
                    out.push(Action::Detected("it was started again".to_owned()));
                }
                (*ready, if *ready { String::new() } else { "not Ready".to_owned() })
            }
            Finding::Unable(text) => {
                let detail = format!("{by} cannot ask: {text}");
                return self.report(ResourceState::Unknown, detail, out);
            }
        };
        if healthy {
            running.seen_up = true;
            (running.failures, running.successes) = (0, running.successes.saturating_add(1));
            let first = self.state == ResourceState::Init;
            if first || running.successes >= self.settings.rise {
                self.report(ResourceState::Up, detail, out);
            }
            return;
        }
        (running.failures, running.successes) = (running.failures.saturating_add(1), 0);
        // A process that its start script has just begun may not be there at the first look.
        if matches!(finding, Finding::Count(_) | Finding::Down(_))
            && self.settings.watches
            && matches!(self.settings.direct, Some(Direct::Act(..)))
            && !running.seen_up
            && now < running.late_until
        {
            running.next = running.next.min(now + APPEARING_PERIOD).min(running.late_until);
            return;
        }
        if running.failures < self.settings.fall {
            return;
        }
        self.report(ResourceState::Down, detail.clone(), out);
        if matches!(self.settings.direct, Some(Direct::Act(..))) {
            out.push(Action::Detected(detail));
        }
    }

    fn report(&mut self, state: ResourceState, detail: String, out: &mut Out<Action>) {
        self.state = state;
        out.push(Action::Report(state, detail));
    }
}

/// Which classes run at present.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "the names are the classes'")]
pub struct Classes {
    pub pre: bool,
    pub prim: bool,
    pub second: bool,
    pub both: bool,
    pub sec: bool,
}

impl Classes {
    /// Nothing runs.
    pub const NONE: Self = Self { pre: false, prim: false, second: false, both: false, sec: false };
    /// Started, in no role.
    pub const PRE: Self = Self { pre: true, ..Self::NONE };

    /// Whether a class that is not switched by hand runs.
    pub fn run(self, class: &Class) -> bool {
        match class {
            Class::Pre => self.pre,
            Class::Prim => self.prim,
            Class::Second => self.second,
            Class::Both => self.both,
            Class::Sec => self.sec,
            Class::User(_) => false,
        }
    }
}

/// The earliest moment at which one of these checkers asks.
pub(super) fn earliest_of(checkers: &[Checker]) -> Option<Instant> {
    checkers.iter().fold(None, |soonest, checker| earliest(soonest, checker.deadline()))
}
