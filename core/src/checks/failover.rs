//! The failover machine: an action of the rules is carried out once it has stayed the same for
//! long enough; what makes a module wait lets it go on when no rule says so any more.
//!
//! A module that has just been started is held in WAIT until every checker that a wait rule looks
//! at has reported, and goes on at once when none of them fires. Evaluated at every change, not
//! only at each period: `handle_time` counts from the change itself.
//! Source: reference safekit.md section 3.10.

use std::time::Duration;

use super::{
    record::RuleStatus,
    rules::{Bound, Evaluation, RuleAction, Verdict},
};
use crate::{
    mutant::{self, Mutant},
    status::WaitReason,
    time::Instant,
};

/// The rule under which a module goes on.
pub const WAKEUP_RULE: &str = "Implicit_wakeup";

/// Pause before an action that could not be carried out is said again, at least.
const REPEAT_MIN: Duration = Duration::from_secs(1);

/// What the module does at present, as far as rules are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Posture {
    /// Its checkers do not run.
    Off,
    /// It is started, in WAIT.
    Waiting,
    /// It has a role.
    Running,
}

/// What the failover machine says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Say {
    /// Stay in WAIT for this reason; `None`: the rules have nothing against going on.
    Hold(Option<WaitReason>),
    /// Carry this out.
    Act(Verdict),
    /// The module goes on, under this rule.
    Wakeup(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Hold {
    Free,
    /// Somebody has not reported yet.
    Pending,
    /// A wait rule fired.
    Rule(Verdict),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Candidate {
    verdict: Verdict,
    /// When it has stayed the same for long enough.
    at: Instant,
}

/// The failover machine of one module.
#[derive(Debug, Clone)]
pub struct Failover {
    /// The rules.
    pub bound: Bound,
    handle_time: Duration,
    posture: Posture,
    hold: Hold,
    candidate: Option<Candidate>,
}

impl Failover {
    /// Makes the machine; `handle_time` counts in whole periods.
    pub fn new(bound: Bound, period: Duration, handle_time: Duration) -> Self {
        let period_ns = period.as_nanos().max(1);
        let periods = handle_time.as_nanos().div_ceil(period_ns);
        let rounded = u64::try_from(periods.saturating_mul(period_ns)).unwrap_or(u64::MAX);
        Self {
            bound,
            handle_time: Duration::from_nanos(rounded),
            posture: Posture::Off,
            hold: Hold::Free,
            candidate: None,
        }
    }

    /// When time matters next.
    pub fn deadline(&self) -> Option<Instant> {
        self.candidate.as_ref().map(|candidate| candidate.at)
    }

    /// Takes what the rules say at present.
    pub fn look(&mut self, now: Instant, found: &Evaluation, posture: Posture) -> Vec<Say> {
        let before = std::mem::replace(&mut self.posture, posture);
        match posture {
            Posture::Off => {
                self.hold = Hold::Free;
                self.candidate = None;
                Vec::new()
            }
            Posture::Waiting => self.look_waiting(now, found, before),
            Posture::Running => self.look_running(now, found),
        }
    }

    fn look_waiting(&mut self, now: Instant, found: &Evaluation, before: Posture) -> Vec<Say> {
        let fires = found.verdict.as_ref().filter(|v| v.action == RuleAction::Wait);
        let pending = found.pending.is_some() && !mutant::active(Mutant::WakesTooEarly);
        let hold = match (&self.hold, fires) {
            (_, Some(verdict)) => Hold::Rule(verdict.clone()),
            (Hold::Free, None) if pending && before == Posture::Off => Hold::Pending,
            (Hold::Pending, None) if pending => Hold::Pending,
            (Hold::Free | Hold::Pending, None) => Hold::Free,
            (Hold::Rule(verdict), None) => return self.wake(now, found, verdict.clone(), before),
        };
        self.candidate = None;
        let same = std::mem::discriminant(&hold) == std::mem::discriminant(&self.hold);
        let told = same && before == Posture::Waiting;
        self.hold = hold;
        if told { Vec::new() } else { vec![Say::Hold(self.reason())] }
    }

    /// A wait rule fires no more: the module goes on when that has lasted.
    fn wake(
        &mut self,
        now: Instant,
        found: &Evaluation,
        held: Verdict,
        before: Posture,
    ) -> Vec<Say> {
        let mut says = Vec::new();
        if before != Posture::Waiting {
            says.push(Say::Hold(self.reason()));
        }
        if found.pending.is_some() {
            self.candidate = None;
            return says;
        }
        let by_rule = found.verdict.as_ref().filter(|v| v.action == RuleAction::Wakeup);
        let rule = by_rule.map_or(WAKEUP_RULE, |verdict| &verdict.rule).to_owned();
        let verdict = Verdict { action: RuleAction::Wakeup, rule, resources: held.resources };
        if self.ripe(now, verdict.clone()) {
            self.hold = Hold::Free;
            self.candidate = None;
            says.extend([Say::Wakeup(verdict.rule), Say::Hold(None)]);
        }
        says
    }

    fn look_running(&mut self, now: Instant, found: &Evaluation) -> Vec<Say> {
        let acts = |v: &&Verdict| v.action != RuleAction::Wakeup;
        let Some(verdict) = found.verdict.as_ref().filter(acts) else {
            self.candidate = None;
            return Vec::new();
        };
        if !self.ripe(now, verdict.clone()) {
            return Vec::new();
        }
        // If it cannot be carried out now, it is said again after the same time.
        let at = now + self.handle_time.max(REPEAT_MIN);
        self.candidate = Some(Candidate { verdict: verdict.clone(), at });
        if verdict.action == RuleAction::Wait {
            self.hold = Hold::Rule(verdict.clone());
        }
        vec![Say::Act(verdict.clone())]
    }

    /// Whether this action has stayed the same for long enough.
    fn ripe(&mut self, now: Instant, verdict: Verdict) -> bool {
        let at = match &self.candidate {
            Some(candidate) if candidate.verdict.action == verdict.action => candidate.at,
            _ => now + self.handle_time,
        };
        self.candidate = Some(Candidate { verdict, at });
        now >= at
    }

    fn reason(&self) -> Option<WaitReason> {
        match &self.hold {
            Hold::Free => None,
            Hold::Pending => Some(WaitReason::Transition),
            Hold::Rule(verdict) => Some(wait_reason(verdict)),
        }
    }

    /// The rule that decides at present.
    pub fn status(&self) -> Option<RuleStatus> {
        let shown = |verdict: &Verdict, at| RuleStatus {
            rule: verdict.rule.clone(),
            action: verdict.action.word().to_owned(),
            resources: verdict.resources.clone(),
            at,
        };
        match (&self.candidate, &self.hold) {
            (Some(candidate), _) => Some(shown(&candidate.verdict, self.deadline())),
            (None, Hold::Rule(verdict)) => Some(shown(verdict, None)),
            (None, _) => None,
        }
    }
}

/// Why a module waits under a rule.
pub fn wait_reason(verdict: &Verdict) -> WaitReason {
    WaitReason::Rule { rule: verdict.rule.clone(), resources: verdict.resources.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: &str = "p_gw";

    fn machine() -> Failover {
        Failover::new(Bound::default(), Duration::from_secs(5), Duration::from_secs(15))
    }

    fn at(second: u64) -> Instant {
        Instant::from_millis(second * 1_000)
    }

    fn says(action: RuleAction) -> Evaluation {
        let verdict =
            Verdict { action, rule: WAIT.into(), resources: vec!["ping.gw is down".into()] };
        Evaluation { verdict: Some(verdict), ..Evaluation::default() }
    }

    fn pending() -> Evaluation {
        let pending = crate::checks::rules::Pending { rule: WAIT.into(), resources: Vec::new() };
        Evaluation { pending: Some(pending), ..Evaluation::default() }
    }

    fn nothing() -> Evaluation {
        Evaluation::default()
    }

    #[test]
    fn an_action_is_carried_out_after_it_stayed_the_same() {
        let mut machine = machine();
        let restart = says(RuleAction::Restart);
        assert_eq!(machine.look(at(0), &restart, Posture::Running), []);
        assert_eq!(machine.deadline(), Some(at(15)));
        assert_eq!(machine.look(at(10), &nothing(), Posture::Running), [], "it recovers");
        assert_eq!(machine.deadline(), None);
        assert_eq!(machine.look(at(12), &restart, Posture::Running), []);
        assert_eq!(machine.look(at(26), &restart, Posture::Running), []);
        let said = machine.look(at(27), &restart, Posture::Running);
        assert!(matches!(said.as_slice(), [Say::Act(v)] if v.action == RuleAction::Restart));
        assert_eq!(machine.deadline(), Some(at(42)), "said again if nothing changes");
    }

    #[test]
    fn a_started_module_is_held_until_everybody_has_reported() {
        let mut machine = machine();
        let held = machine.look(at(0), &pending(), Posture::Waiting);
        assert_eq!(held, [Say::Hold(Some(WaitReason::Transition))]);
        assert_eq!(machine.look(at(1), &pending(), Posture::Waiting), []);
        assert_eq!(machine.look(at(2), &nothing(), Posture::Waiting), [Say::Hold(None)]);
        // Checkers that begin anew later do not stop a module that waits for other reasons.
        assert_eq!(machine.look(at(3), &pending(), Posture::Waiting), []);
    }

    #[test]
    fn a_module_that_a_rule_made_wait_goes_on_when_the_rule_has_been_silent_for_long_enough() {
        let mut machine = machine();
        let wait = says(RuleAction::Wait);
        machine.look(at(0), &wait, Posture::Running);
        assert!(matches!(machine.look(at(15), &wait, Posture::Running)[..], [Say::Act(_)]));
        let held = machine.look(at(16), &wait, Posture::Waiting);
        assert!(matches!(held[..], [Say::Hold(Some(WaitReason::Rule { .. }))]), "{held:?}");
        assert_eq!(machine.look(at(20), &nothing(), Posture::Waiting), []);
        assert_eq!(machine.deadline(), Some(at(35)));
        assert_eq!(
            machine.look(at(35), &nothing(), Posture::Waiting),
            [Say::Wakeup(WAKEUP_RULE.to_owned()), Say::Hold(None)]
        );
    }

    #[test]
    fn a_wait_rule_that_fires_before_there_is_a_role_needs_no_time() {
        let mut machine = machine();
        let held = machine.look(at(0), &says(RuleAction::Wait), Posture::Waiting);
        assert!(matches!(held[..], [Say::Hold(Some(WaitReason::Rule { .. }))]));
    }

    #[test]
    fn handle_time_counts_in_whole_periods() {
        let handle = Duration::from_millis(12_500);
        let mut machine = Failover::new(Bound::default(), Duration::from_secs(5), handle);
        machine.look(at(0), &says(RuleAction::Stop), Posture::Running);
        assert_eq!(machine.deadline(), Some(at(15)));
    }
}
