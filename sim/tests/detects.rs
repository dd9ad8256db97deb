//! The simulator is trusted because it finds bugs that were planted on purpose.
//!
//! Each planted bug shows in the run of one known seed, and that run is clean without it. How many
//! seeds it takes to find each bug from scratch is measured (some minutes) by
//! `cargo test --release -p havre-sim --test detects -- --ignored --nocapture`.

use std::path::Path;

use havre_core::mutant::{self, Mutant};
use havre_sim::{
    faults::{Recipe, Subject},
    fuzz::{self, Verdict, run_scenario},
    run::{Engine, Report, RunOptions},
    scenario::Scenario,
};

/// First seed tried when the bugs are looked for.
const FIRST: u64 = 1_000;
/// Seeds within which every planted bug must show.
const SEEDS: u64 = 600;

/// A seed for each bug: a short run in which it shows. To be looked for anew, as above, when plans
/// or machines change.
const KNOWN: [(Mutant, u64); 21] = [
    (Mutant::LeaseOutlivesPromise, 1_003),
    (Mutant::NoBootHold, 1_173),
    (Mutant::WitnessGrantsBeforeDurable, 1_454),
    (Mutant::WitnessForgetsLeases, 1_040),
    (Mutant::SoloBeforeCommit, 1_014),
    (Mutant::OutdatedMayPromote, 1_291),
    (Mutant::ConsentBeforeDurable, 1_332),
    (Mutant::ConsistentTooEarly, 1_008),
    (Mutant::FenceKeepsAddress, 1_028),
    (Mutant::BackingCountsFromHearing, 1_042),
    (Mutant::HealNotAnnounced, 1_003),
    (Mutant::MarkNotAwaited, 1_000),
    (Mutant::ClearMarksEarly, 1_002),
    (Mutant::AckBeforeReceipt, 1_002),
    (Mutant::EnlistBeforeFinalPass, 1_000),
    (Mutant::CompleteBarrierWhileOrphaned, 1_332),
    (Mutant::FenceIgnored, 1_047),
    (Mutant::TargetAcksBeforeSync, 1_393),
    (Mutant::CaughtUpTooEarly, 1_002),
    (Mutant::PromoteWithoutDrain, 1_018),
    (Mutant::TargetMarksIgnored, 1_011),
];

/// Bugs of the checks, and the scenario that shows each: random plans have no checkers.
const BY_SCENARIO: [(Mutant, &str); 4] = [
    (Mutant::LoopForever, "t-chk-01a-process-restart"),
    (Mutant::CountNotAwaited, "count-is-awaited"),
    (Mutant::WakesTooEarly, "held-until-reported"),
    (Mutant::SharedIgnored, "t-chk-03b-shared-target"),
];

/// Which plans can show a bug.
fn recipe(mutant: Mutant) -> Recipe {
    let farm = mutant.name().starts_with("Farm");
    let subject = if farm { Subject::Farm } else { Subject::Mirror };
    Recipe { subject, ..Recipe::default() }
}

/// The planted bugs of a pair and its witness.
fn of_a_pair() -> impl Iterator<Item = &'static Mutant> {
    let of_a_pair = |m: &&Mutant| recipe(**m).subject == Subject::Mirror && !by_scenario(m);
    Mutant::ALL.iter().filter(of_a_pair)
}

fn run(recipe: Recipe, mutant: Option<Mutant>, seed: u64) -> Report {
    mutant::select(mutant);
    let options = RunOptions { stop_at_violation: true, ..RunOptions::default() };
    let report = fuzz::perform(Engine::Direct, &recipe.plan(seed), seed, options);
    mutant::select(None);
    report
}

/// Whether the bug shows in this run, and nothing is wrong without it.
fn shows(mutant: Mutant, seed: u64) -> bool {
    let recipe = recipe(mutant);
    !run(recipe, Some(mutant), seed).violations.is_empty()
        && run(recipe, None, seed).violations.is_empty()
}

fn by_scenario(mutant: &Mutant) -> bool {
    BY_SCENARIO.iter().any(|(known, _)| known == mutant)
}

#[test]
fn planted_bugs_of_the_checks_are_found_by_their_scenarios() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios/checkers");
    for (mutant, name) in BY_SCENARIO {
        let path = folder.join(name).with_extension("toml");
        let source = std::fs::read_to_string(&path).expect("a scenario is readable");
        let scenario = Scenario::parse(name, &source).unwrap_or_else(|error| panic!("{error}"));
        let clean = run_scenario(Engine::Direct, &scenario, 1, scenario.runs);
        assert!(matches!(clean, Verdict::Passed), "{name} without a bug: {clean:?}");
        mutant::select(Some(mutant));
        let verdict = run_scenario(Engine::Direct, &scenario, 1, scenario.runs);
        mutant::select(None);
        assert!(
            matches!(verdict, Verdict::Violated { .. }),
            "{} is not found by {name}: {verdict:?}",
            mutant.name()
        );
    }
}

#[test]
fn each_planted_bug_shows_in_its_run_and_only_there() {
    let mut missed = Vec::new();
    for mutant in of_a_pair() {
        let known = KNOWN.iter().find(|(known, _)| known == mutant);
        let (_, seed) = known.unwrap_or_else(|| panic!("no seed shows {}", mutant.name()));
        if !shows(*mutant, *seed) {
            missed.push((mutant.name(), *seed));
        }
    }
    assert!(missed.is_empty(), "not shown: {missed:?}");
}

#[test]
#[ignore = "takes minutes"]
fn planted_bugs_of_a_farm_are_found() {
    let farms = Mutant::ALL.iter().filter(|mutant| recipe(**mutant).subject == Subject::Farm);
    let mut missed = Vec::new();
    for mutant in farms {
        match (1..SEEDS).find(|seed| shows(*mutant, *seed)) {
            Some(seed) => println!("{}: {seed} seeds", mutant.name()),
            None => missed.push(mutant.name()),
        }
    }
    assert!(missed.is_empty(), "not found within {SEEDS} seeds: {missed:?}");
}

#[test]
#[ignore = "takes minutes in a release build"]
fn planted_bugs_are_found_within_so_many_seeds() {
    let mut missed = Vec::new();
    for mutant in of_a_pair() {
        let mut found = (FIRST..FIRST + SEEDS).filter(|seed| shows(*mutant, *seed));
        let Some(first) = found.next() else {
            println!("{}: not within {SEEDS} seeds", mutant.name());
            missed.push(mutant.name());
            continue;
        };
        // Of the first few, the one that is quickest to run.
        let recipe = recipe(*mutant);
        let events = |bug, seed: &u64| run(recipe, bug, *seed).events;
        let cost = |seed: &u64| events(Some(*mutant), seed) + events(None, seed);
        let short = found.take(4).chain([first]).min_by_key(cost).unwrap_or(first);
        println!("{}: {} seeds; short: {short}", mutant.name(), first - FIRST + 1);
    }
    assert!(missed.is_empty(), "not found within {SEEDS} seeds: {missed:?}");
}
