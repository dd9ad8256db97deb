//! Every scenario file says the truth, in both engines.

use std::path::{Path, PathBuf};

use havre_sim::{
    fuzz::{Verdict, run_scenario},
    run::Engine,
    scenario::Scenario,
};

/// Sub-seeds per file, so that the whole suite stays short in a debug build.
const RUNS_MAX: u32 = 6;

fn files(folder: &Path, into: &mut Vec<PathBuf>) {
    let entries = std::fs::read_dir(folder).expect("the folder of scenarios is readable");
    for entry in entries {
        let path = entry.expect("its entries are readable").path();
        if path.is_dir() {
            files(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "toml") {
            into.push(path);
        }
    }
}

fn check(engine: Engine, folder: &str, at_least: usize) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios").join(folder);
    let mut paths = Vec::new();
    files(&root, &mut paths);
    paths.sort();
    assert!(paths.len() >= at_least, "{folder} holds {} files", paths.len());
    let mut wrong = Vec::new();
    for path in paths {
        let name = path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
        let source = std::fs::read_to_string(&path).expect("a scenario is readable");
        let scenario = Scenario::parse(&name, &source).unwrap_or_else(|error| panic!("{error}"));
        let first = engine.runs_first(scenario.runs).min(RUNS_MAX);
        match run_scenario(engine, &scenario, 1, first) {
            Verdict::Violated { seed, violation } => wrong.push(format!(
                "{name}: {}: {}; havre-sim replay --engine {} --scenario \
                 scenarios/{folder}/{name} --seed {seed}",
                violation.property,
                violation.text,
                engine.name()
            )),
            // Few sub-seeds may miss what the file's own number reaches.
            Verdict::Inconclusive(_) => match run_scenario(engine, &scenario, 1, scenario.runs) {
                Verdict::Passed => {}
                verdict => wrong.push(format!("{name}: {verdict:?}")),
            },
            Verdict::Passed => {}
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_scenario_of_a_mirror_passes() {
    check(Engine::Direct, "mirror", 24);
}

#[test]
fn every_scenario_of_replication_passes() {
    check(Engine::Direct, "replication", 4);
}

#[test]
fn every_scenario_of_quorum_shows_what_its_policy_promises() {
    check(Engine::Direct, "quorum", 3);
}

#[test]
fn every_scenario_of_a_farm_passes() {
    check(Engine::Direct, "farm", 14);
}

#[test]
fn every_scenario_of_a_farm_passes_with_the_production_agent() {
    check(Engine::Turmoil, "farm", 14);
}

#[test]
fn every_scenario_of_checkers_passes() {
    check(Engine::Direct, "checkers", 18);
}

#[test]
fn every_scenario_of_checkers_passes_with_the_production_agent() {
    check(Engine::Turmoil, "checkers", 18);
}

#[test]
fn every_bug_that_was_found_once_stays_fixed() {
    check(Engine::Direct, "regressions", 4);
}

#[test]
fn every_scenario_of_a_mirror_passes_with_the_production_agent() {
    check(Engine::Turmoil, "mirror", 24);
}

#[test]
fn every_scenario_of_replication_passes_with_the_production_agent() {
    check(Engine::Turmoil, "replication", 4);
}

#[test]
fn every_scenario_of_quorum_shows_what_its_policy_promises_with_the_production_agent() {
    check(Engine::Turmoil, "quorum", 3);
}
