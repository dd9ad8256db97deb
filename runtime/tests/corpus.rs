//! The seeds of the fuzzer (`fuzz/corpus`), as they are and with random changes.
//!
//! Names of the seeds for `userconfig.xml` say what must be found in them: `bad-` an error,
//! `warn-` a warning or notice and no error, `good-` no error. Each carries the row of the table
//! of real files' oddities that it stands for (reference safekit.md section 2.9).

use std::{fs, path::Path};

use havre_core::config::error::Severity;
use proptest::prelude::*;

#[path = "../../fuzz/targets.rs"]
mod targets;

/// Changed copies of each seed that are tried.
const CHANGES_PER_SEED: u32 = 24;

/// The seeds of a target with their names, in order.
fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let entries = fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut found: Vec<(String, Vec<u8>)> = entries
        .map(|entry| {
            let path = entry.expect("an entry").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            (name, fs::read(&path).expect("a seed can be read"))
        })
        .collect();
    found.sort();
    assert!(found.len() >= 3, "{target}: too few seeds");
    found
}

/// A change of some bytes: overwritten, removed, repeated.
fn change() -> impl Strategy<Value = Vec<(prop::sample::Index, u8, u8)>> {
    prop::collection::vec((any::<prop::sample::Index>(), 0u8..3, any::<u8>()), 1..6)
}

fn changed(seed: &[u8], changes: &[(prop::sample::Index, u8, u8)]) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for (place, kind, value) in changes {
        if bytes.is_empty() {
            break;
        }
        let at = place.index(bytes.len());
        match kind {
            0 => bytes[at] = *value,
            1 => {
                let end = (at + usize::from(*value)).min(bytes.len());
                bytes.drain(at..end);
            }
            _ => {
                let end = (at + usize::from(*value % 32)).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
        }
    }
    bytes
}

/// Runs a target on every seed and on changed copies.
fn exercise(target: &str, run: fn(&[u8])) {
    for (name, seed) in seeds(target) {
        run(&seed);
        let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
            cases: CHANGES_PER_SEED,
            failure_persistence: None,
            ..ProptestConfig::default()
        });
        let outcome = runner.run(&change(), |changes| {
            run(&changed(&seed, &changes));
            Ok(())
        });
        assert!(outcome.is_ok(), "{target}/{name}: {outcome:?}");
    }
}

#[test]
fn configurations_of_modules_are_survived() {
    exercise("userconfig", targets::userconfig);
}

#[test]
fn configurations_of_clusters_are_survived() {
    exercise("cluster", targets::cluster);
}

#[test]
fn rules_are_survived_and_written_as_they_are_read() {
    exercise("rules", targets::rules);
}

#[test]
fn packages_are_survived() {
    exercise("package", targets::package);
}

#[test]
fn requests_are_survived() {
    exercise("api", targets::api);
}

#[test]
fn every_oddity_is_reported_with_its_place_and_a_remedy() {
    for (name, seed) in seeds("userconfig") {
        let text = String::from_utf8(seed).unwrap_or_else(|_| panic!("{name}: not UTF-8"));
        let found = targets::read(&text).map_or_else(|errors| errors.0, |parsed| parsed.notices);
        let count = |severity| found.iter().filter(|d| d.severity == severity).count();
        let errors = count(Severity::Error);
        match name.split('-').next() {
            Some("bad") => assert!(errors > 0, "{name}: no error found"),
            Some("warn") => assert!(errors == 0 && !found.is_empty(), "{name}: {found:?}"),
            Some("good") => assert_eq!(errors, 0, "{name}: {found:?}"),
            _ => panic!("{name}: begin the name with bad-, warn- or good-"),
        }
        let silent = found.iter().find(|d| d.severity == Severity::Error && d.remedy.is_empty());
        assert_eq!(silent, None, "{name}: an error without remedy");
    }
}
