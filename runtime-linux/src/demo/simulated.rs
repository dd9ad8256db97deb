//! The demonstration without root: the same fault in the simulator, on simulated time, network and
//! disks.

use std::process::ExitCode;

use anyhow::{Context, Result};
use havre_sim::{
    fuzz::{self, Verdict},
    report,
    run::{Engine, RunOptions},
    scenario::Scenario,
};

use super::say;

const NAME: &str = "scenarios/mirror/t-mir-09-power-off-of-primary.toml";
const SCENARIO: &str = include_str!("../../../scenarios/mirror/t-mir-09-power-off-of-primary.toml");
/// Runs, each with a weather of its own.
const RUNS: u32 = 100;
const BASE_SEED: u64 = 1;
/// What of a timeline is shown: `havre-sim replay` shows all of it.
const TOLD: [&str; 6] = [
    "power off",
    "daemon starts",
    "StateChanged",
    "RightObtained",
    "AddressChanged",
    "ResyncEnded",
];

/// Runs the scenario and prints what it showed.
pub(super) fn run() -> Result<ExitCode> {
    say("real nodes need network namespaces, which need root: run this with sudo to see them");
    say(&format!("without root, the same happens in the simulator: {NAME}"));
    let scenario = Scenario::parse(NAME, SCENARIO).context("the scenario of this program")?;
    // A panic in a run is a violation; its text is in the verdict.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let verdict = fuzz::run_scenario(Engine::Direct, &scenario, BASE_SEED, RUNS);
    let seed = match &verdict {
        Verdict::Violated { seed, .. } => *seed,
        Verdict::Passed | Verdict::Inconclusive(_) => fuzz::sub_seed(BASE_SEED, 0),
    };
    let options = RunOptions { record: true, ..RunOptions::default() };
    let shown = fuzz::perform(Engine::Direct, &scenario.plan, seed, options);
    std::panic::set_hook(hook);
    let timeline = report::timeline(&shown, false);
    let told = |line: &&str| TOLD.iter().any(|word| line.contains(word));
    timeline.lines().filter(told).for_each(|line| println!("{line}"));
    say(&format!("that was the run of seed {seed}: {} writes acknowledged", shown.acked));
    Ok(match verdict {
        Verdict::Passed => {
            say(&format!(
                "PASSED: in {RUNS} runs the secondary took over, the node came back, \
                 and no acknowledged write was lost"
            ));
            ExitCode::SUCCESS
        }
        Verdict::Violated { violation, .. } => {
            say(&format!("FAILED: {}: {}", violation.property, violation.text));
            ExitCode::FAILURE
        }
        Verdict::Inconclusive(why) => {
            say(&format!("FAILED: the runs show nothing: {why}"));
            ExitCode::FAILURE
        }
    })
}
