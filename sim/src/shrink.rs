//! Makes a failing plan small: delta debugging on its steps, as long as the same property is
//! violated with the same weather.
//!
//! Draws are counter-based, so that dropping a fault leaves the fate of everything else alone.
//! Source: Zeller, Hildebrandt: Simplifying and isolating failure-inducing input, IEEE TSE 2002.

use crate::{
    expect::Property,
    plan::{Action, Plan, Step, When},
    run::{Report, RunOptions},
    time::SimTime,
};

/// What a search found.
#[derive(Debug, Clone, PartialEq)]
pub struct Shrunk {
    /// The smallest plan that still fails.
    pub plan: Plan,
    /// Faults before.
    pub before: usize,
    /// Faults after.
    pub after: usize,
    /// Runs that the search took.
    pub runs: u32,
}

/// Makes `plan` small while `run` of it violates `property`, with at most `runs_max` runs.
pub fn shrink(
    plan: &Plan,
    property: Property,
    runs_max: u32,
    run: &dyn Fn(&Plan, RunOptions) -> Report,
) -> Shrunk {
    let mut search = Search { run, property, runs: 0, runs_max };
    let mut best = plan.clone();
    let mut chunk = faults(&best).len().div_ceil(2).max(1);
    while search.runs < search.runs_max {
        let mut progress = false;
        let mut from = 0;
        while from < faults(&best).len() && search.runs < search.runs_max {
            let dropped: Vec<usize> = faults(&best).into_iter().skip(from).take(chunk).collect();
            let candidate = without(&best, &dropped);
            if search.fails(&candidate) {
                best = candidate;
                progress = true;
            } else {
                from += chunk;
            }
        }
        if chunk > 1 {
            chunk = chunk.div_ceil(2);
        } else if !progress {
            break;
        }
    }
    let before = faults(plan).len();
    Shrunk { before, after: faults(&best).len(), runs: search.runs, plan: best }
}

struct Search<'a> {
    run: &'a dyn Fn(&Plan, RunOptions) -> Report,
    property: Property,
    runs: u32,
    runs_max: u32,
}

impl Search<'_> {
    fn fails(&mut self, plan: &Plan) -> bool {
        self.runs += 1;
        let options = RunOptions { stop_at_violation: true, ..RunOptions::default() };
        let report = (self.run)(plan, options);
        report.violations.first().is_some_and(|v| v.property == self.property)
    }
}

/// The steps that may be dropped: everything but orders that form the pair and the healing.
fn faults(plan: &Plan) -> Vec<usize> {
    let healing = plan.steps.iter().position(|step| step.action == Action::Calm);
    let last = healing.unwrap_or(plan.steps.len());
    let droppable = |index: &usize| {
        let step: &Step = &plan.steps[*index];
        !matches!(step.action, Action::Expect { .. } | Action::Hold { .. } | Action::End)
    };
    (crate::scenario::pair_steps().len().min(last)..last).filter(droppable).collect()
}

/// The plan without these steps. A step that hung on a dropped one keeps its place in the chain
/// through a step that does nothing.
fn without(plan: &Plan, dropped: &[usize]) -> Plan {
    let mut steps = Vec::with_capacity(plan.steps.len());
    for (index, step) in plan.steps.iter().enumerate() {
        if !dropped.contains(&index) {
            steps.push(step.clone());
            continue;
        }
        let next = plan.steps.get(index + 1);
        let holds_chain = next.is_some_and(|next| !matches!(next.when, When::At(_)));
        let kept = !dropped.contains(&(index + 1));
        if holds_chain && kept {
            let when = step.when.clone();
            steps.push(Step { when, action: Action::Load(true), line: None });
        }
    }
    let ends: SimTime = plan.ends;
    Plan { steps, ends, ..plan.clone() }
}
