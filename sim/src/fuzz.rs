//! Runs many seeds, scenario files with many sub-seeds, and says what they showed.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::{
    chance::{Chance, Purpose},
    direct,
    expect::{Property, Sometimes},
    oracle::Violation,
    plan::Plan,
    run::{Engine, Report, RunOptions},
    scenario::Scenario,
    turmoil,
};

/// Performs one run; a panic of the code under test is a violation like any other.
pub fn perform(engine: Engine, plan: &Plan, seed: u64, options: RunOptions) -> Report {
    let run = match engine {
        Engine::Direct => direct::run,
        Engine::Turmoil => turmoil::run,
    };
    let outcome = catch_unwind(AssertUnwindSafe(|| run(plan, seed, options)));
    outcome.unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_else(|| "a panic without text".to_owned());
        let at = crate::time::SimTime::ZERO;
        let violation = Violation { at, property: Property::NoPanic, text };
        Report { violations: vec![violation], seed, ..Report::empty() }
    })
}

/// How a scenario ended over all its sub-seeds.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// As the file says.
    Passed,
    /// A property did not hold that had to, in this run.
    Violated {
        /// The sub-seed.
        seed: u64,
        /// What.
        violation: Violation,
    },
    /// Nothing wrong was seen, but the file did not test what it says.
    Inconclusive(String),
}

/// The weather of sub-seed `number` of a scenario.
pub fn sub_seed(base: u64, number: u32) -> u64 {
    Chance::new(base, Purpose::Plan, 1).bits(u64::from(number)) >> 16
}

/// Runs a scenario with `runs` sub-seeds.
pub fn run_scenario(engine: Engine, scenario: &Scenario, base: u64, runs: u32) -> Verdict {
    let plan = &scenario.plan;
    let seeds = (0..runs).map(|number| sub_seed(base, number));
    judge(plan, seeds.map(|seed| perform(engine, plan, seed, RunOptions::default())))
}

/// What runs of a plan have shown together, up to the first that shows what must not be.
pub fn judge(plan: &Plan, reports: impl IntoIterator<Item = Report>) -> Verdict {
    let mut seen: Vec<Sometimes> = Vec::new();
    let mut violated: Vec<Property> = Vec::new();
    let mut idle: Option<Vec<usize>> = None;
    for report in reports {
        let wrong = report.violations.iter().find(|v| !plan.expect.violated.contains(&v.property));
        if let Some(violation) = wrong {
            return Verdict::Violated { seed: report.seed, violation: violation.clone() };
        }
        seen.extend(report.seen.iter().filter(|s| !seen.contains(s)).copied().collect::<Vec<_>>());
        violated.extend(report.violated());
        // A step must hit something in some run.
        let these = report.idle_steps;
        idle = Some(match idle {
            None => these,
            Some(before) => before.into_iter().filter(|step| these.contains(step)).collect(),
        });
    }
    if let Some(missing) = plan.expect.violated.iter().find(|p| !violated.contains(p)) {
        return Verdict::Inconclusive(format!("no run violates {missing}, as the file expects"));
    }
    if let Some(missing) = plan.expect.sometimes.iter().find(|s| !seen.contains(s)) {
        return Verdict::Inconclusive(format!("`{}` never happened", missing.name()));
    }
    if let Some(step) = idle.unwrap_or_default().first() {
        let step = &plan.steps[*step];
        let line = step.line.map_or_else(String::new, |line| format!("line {line}: "));
        let text = crate::scenario::step_text(step);
        return Verdict::Inconclusive(format!("{line}{text} hit nothing"));
    }
    Verdict::Passed
}
