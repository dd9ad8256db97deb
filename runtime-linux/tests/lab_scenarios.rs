//! The simulator's scenario files on real daemons: verdicts are those of the simulator, and what
//! reality cannot do is never green. Needs root.
//!
//! `HAVRE_SCENARIOS=FOLDER` runs every file below a folder instead of the short ones.

use std::path::{Path, PathBuf};

use havre_linux::lab::{
    firewall::Firewall,
    scenario::{self, Outcome},
};
use havre_sim::{
    expect::Property,
    fuzz::Verdict,
    scenario::{Scenario, files_below},
};

/// Other tests share the processors.
const SCALE: f64 = 1.5;

fn run(name: &str, source: &str) -> Option<Outcome> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return None;
    }
    let scenario = Scenario::parse(name, source).expect("a scenario");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let program = PathBuf::from(env!("CARGO_BIN_EXE_havre"));
    let mut tell = |at, text: &str| eprintln!("{name} {at} {text}");
    let outcome = scenario::run(&scenario.plan, directory.path(), &program, SCALE, &mut tell);
    Some(outcome.expect("the laboratory works"))
}

#[test]
fn files_of_the_simulator_pass_on_real_daemons() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace");
    let mut files = Vec::new();
    match std::env::var_os("HAVRE_SCENARIOS") {
        Some(folder) => files_below(Path::new(&folder), &mut files).expect("a folder"),
        None => files.push(root.join("scenarios/mirror/crash-of-daemon.toml")),
    }
    for file in files {
        let source = std::fs::read_to_string(&file).expect("reads");
        let name = file.display().to_string();
        let Some(outcome) = run(&name, &source) else { return };
        if outcome.skipped.is_empty() {
            assert_eq!(outcome.verdict, Verdict::Passed, "{name}");
        }
    }
}

#[test]
fn a_cut_in_one_direction_is_survived_and_counted() {
    if !Firewall::is_possible() {
        eprintln!("skipped: needs nft");
        return;
    }
    let source = r#"
        format = 1
        name = "one way"
        timeline = [
          { at = "3s", cut = "b > a" },
          { after = "3s", heal = "all" },
          { after = "0s", expect = "primary serves, in sync", within = "30s" },
        ]
    "#;
    let Some(outcome) = run("one-way", source) else { return };
    assert_eq!(outcome.verdict, Verdict::Passed);
    assert!(outcome.acknowledged > 20, "{outcome:?}");
}

#[test]
fn what_does_not_come_true_is_a_violation_that_names_the_line() {
    let source = r#"format = 1
        name = "wrong"
        timeline = [
          { at = "3s", expect = "b ALONE", within = "1s" },
        ]
    "#;
    let Some(outcome) = run("wrong", source) else { return };
    let Verdict::Violated { violation, .. } = outcome.verdict else {
        panic!("{:?}", outcome.verdict);
    };
    assert_eq!(violation.property, Property::Expected);
    assert!(violation.text.starts_with("line 4: `b ALONE` is not true after 1s"), "{violation:?}");
}

#[test]
fn what_reality_cannot_do_is_named_and_never_green() {
    let source = r#"
        format = 1
        name = "impossible"
        timeline = [
          { at = "3s", drift = "a", ppm = 100 },
          { after = "0s", expect = "in sync", within = "5s" },
        ]
    "#;
    let Some(outcome) = run("impossible", source) else { return };
    let Verdict::Inconclusive(why) = &outcome.verdict else { panic!("{:?}", outcome.verdict) };
    assert!(why.contains("drift") && why.contains("not possible here"), "{why}");
    assert_eq!(outcome.skipped, std::slice::from_ref(why));
}
