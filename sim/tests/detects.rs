//! The simulator is trusted because it finds bugs that were planted on purpose.

#![cfg(feature = "mutants")]

use havre_core::mutant::{self, Mutant};
use havre_sim::{faults, fuzz, run::RunOptions};

/// Seeds within which every planted bug must show.
const SEEDS: u64 = 400;

fn found(mutant: Mutant) -> Option<u64> {
    mutant::select(Some(mutant));
    let options = RunOptions { stop_at_violation: true, ..RunOptions::default() };
    let seed = (1_000..1_000 + SEEDS)
        .find(|seed| !fuzz::perform(&faults::plan(*seed), *seed, options).violations.is_empty());
    mutant::select(None);
    seed
}

#[test]
fn every_planted_bug_is_found() {
    let missed: Vec<&str> =
        Mutant::ALL.iter().filter(|m| found(**m).is_none()).map(|m| m.name()).collect();
    assert!(missed.is_empty(), "not found within {SEEDS} seeds: {missed:?}");
}
