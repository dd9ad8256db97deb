//! Whether a condition of a scenario holds now, and which hosts a selector means now: the
//! simulator's meanings, looked up on real machines.

use std::time::Duration;

use havre_core::status::{Phase, State};
use havre_sim::{
    expect::{Condition, Property},
    net::HostId,
    plan::{Action, Selector},
};

use super::{Run, judging};

/// Silence of the client's writes that is not tolerated, at least.
const ACK_SILENCE_MIN: Duration = Duration::from_secs(2);

impl Run<'_> {
    /// The hosts that a selector means now. `not`: the other side of a cut.
    pub(super) fn hosts(&self, selector: Selector, not: &[HostId]) -> Vec<HostId> {
        let all: Vec<HostId> = match selector {
            Selector::Host(host) => return vec![host],
            Selector::Primary => self.primary().into_iter().collect(),
            Selector::Secondary => self.primary().map(HostId::other).into_iter().collect(),
            Selector::SyncTarget => HostId::DATA
                .into_iter()
                .filter(|host| self.shows(*host, State::Second, Some(Phase::Transient)))
                .collect(),
            Selector::Others => vec![HostId::A, HostId::B, HostId::W, HostId::R],
            Selector::Nodes => HostId::DATA.to_vec(),
            Selector::All => HostId::ALL.to_vec(),
        };
        all.into_iter().filter(|host| !not.contains(host)).collect()
    }

    /// Each sender and receiver between two sides.
    pub(super) fn pairs(&self, from: Selector, to: Selector, both: bool) -> Vec<(HostId, HostId)> {
        let from = self.hosts(from, &[]);
        let to = self.hosts(to, if to == Selector::All { &[] } else { &from });
        let mut pairs = Vec::new();
        for from in &from {
            for to in to.iter().filter(|to| *to != from) {
                pairs.push((*from, *to));
                if both {
                    pairs.push((*to, *from));
                }
            }
        }
        pairs
    }

    fn primary(&self) -> Option<HostId> {
        HostId::DATA.into_iter().find(|host| self.runs(*host))
    }

    fn runs(&self, host: HostId) -> bool {
        self.stage.is_live(host) && self.senses.application(host)
    }

    fn shows(&self, host: HostId, state: State, phase: Option<Phase>) -> bool {
        self.stage.status(host).is_some_and(|module| {
            module.state == state && phase.is_none_or(|phase| module.phase == phase)
        })
    }

    fn serves(&self, host: HostId) -> bool {
        self.runs(host)
            && self.senses.holds_address(host)
            && self.stage.status(host).is_some_and(|module| {
                matches!(module.state, State::Prim | State::Alone) && module.phase == Phase::Ready
            })
    }

    fn acks_flow(&self) -> bool {
        !self.load.is_on() || self.load.silence() <= self.load.every() * 20 + ACK_SILENCE_MIN
    }

    /// Whether `condition` holds now.
    fn holds(&self, condition: Condition) -> bool {
        let every = |who: Selector, test: &dyn Fn(HostId) -> bool| {
            let hosts = self.hosts(who, &[]);
            !hosts.is_empty() && hosts.into_iter().all(test)
        };
        match condition {
            Condition::State(who, state, phase) => every(who, &|h| self.shows(h, state, phase)),
            Condition::PrimaryServes => {
                let serving = HostId::DATA.into_iter().filter(|host| self.serves(*host)).count();
                serving == 1 && self.acks_flow()
            }
            Condition::NobodyServes => !HostId::DATA.into_iter().any(|host| self.runs(host)),
            Condition::BothServe => HostId::DATA.into_iter().all(|host| self.serves(host)),
            Condition::Runs(who) => every(who, &|host| self.runs(host)),
            Condition::Idle(who) => every(who, &|host| !self.runs(host)),
            Condition::HoldsAddress(who) => every(who, &|host| self.senses.holds_address(host)),
            Condition::CopiesIdentical => judging::copies_differ(&self.stage).is_none(),
            Condition::InSync => HostId::DATA.into_iter().any(|host| {
                self.shows(host, State::Prim, Some(Phase::Ready))
                    && self.shows(host.other(), State::Second, Some(Phase::Ready))
            }),
            Condition::Waits(who, word) => every(who, &|host| {
                self.stage.status(host).is_some_and(|module| {
                    let reason = module.wait.as_ref().filter(|_| module.state == State::Wait);
                    reason.is_some_and(|reason| word.is_for(reason))
                })
            }),
            Condition::Refused(who) => every(who, &|h| self.refused.get(&h) == Some(&true)),
            Condition::WriteRefused(who) => every(who, &|h| self.wrote.get(&h) == Some(&false)),
            // What the nodes have on record is not looked at here.
            Condition::ServesIfItMay(_) => self.holds(Condition::PrimaryServes),
            // The machines here are pairs, which share no clients.
            Condition::SharesWhole
            | Condition::SharesEven
            | Condition::Share(..)
            | Condition::Connected(_) => false,
            Condition::NeverStopped(who) => {
                every(who, &|host| self.runs(host) && self.app_starts.get(&host) == Some(&1))
            }
        }
    }

    /// Looks at the conditions of all steps that wait.
    pub(super) fn check_all(&mut self) {
        for (index, since) in std::mem::take(&mut self.waiting) {
            if self.check(index, since) {
                self.prepare_step(index + 1);
            } else {
                self.waiting.push((index, since));
            }
        }
    }

    /// Whether a step that waits is done, for better or worse.
    fn check(&mut self, index: usize, since: havre_sim::time::SimTime) -> bool {
        let plan = self.plan;
        // Before the look: a look takes its time, and what is true at its end was late.
        let waited = self.now().since(since);
        let (conditions, property, text) = match &plan.steps[index].action {
            Action::Expect { conditions, within, property } => {
                let wrong = conditions.iter().find(|condition| !self.holds(**condition));
                let Some(wrong) = wrong else { return true };
                if waited < *within {
                    return false;
                }
                (wrong, *property, format!("is not true after {within:?}"))
            }
            Action::Hold { conditions, span } => {
                let wrong = conditions.iter().find(|condition| !self.holds(**condition));
                let Some(wrong) = wrong else { return waited >= *span };
                (wrong, Property::Expected, format!("did not last, after {waited:?}"))
            }
            _ => return true,
        };
        let line = plan.steps[index].line.map_or_else(String::new, |line| format!("line {line}: "));
        let text = format!("{line}`{conditions}` {text}: {}", self.picture());
        self.oracle.report(self.now(), property, text);
        true
    }

    /// What both nodes show, for messages.
    fn picture(&self) -> String {
        let words = |host: HostId| {
            let facts = format!(
                "{}{}",
                if self.runs(host) { ", runs" } else { "" },
                if self.senses.holds_address(host) { ", holds the address" } else { "" }
            );
            match self.stage.status(host) {
                None if !self.stage.is_live(host) => format!("{host} is off or stands still"),
                None => format!("{host} does not answer{facts}"),
                Some(module) => {
                    let wait = module.wait.map_or_else(String::new, |wait| format!(" ({wait})"));
                    format!("{host} {} {}{wait}{facts}", module.state, module.phase)
                }
            }
        };
        HostId::DATA.map(words).join("; ")
    }
}
