//! One seed is one run: within a process, between processes, whatever ran before.

use std::process::Command;

use havre_sim::{direct, faults, run::RunOptions};

#[test]
fn a_seed_runs_equally_twice_in_one_process() {
    let options = RunOptions { record: true, stop_at_violation: false };
    for seed in 1..6 {
        let plan = faults::plan(seed);
        let first = direct::run(&plan, seed, options);
        direct::run(&faults::plan(seed + 100), 3, RunOptions::default());
        assert_eq!(first, direct::run(&plan, seed, options), "seed {seed}");
        assert!(first.acked > 0, "seed {seed} tests something");
    }
}

#[test]
fn two_processes_print_equal_bytes_for_one_seed() {
    for engine in ["direct", "turmoil"] {
        processes_print_equal_bytes(engine);
    }
}

fn processes_print_equal_bytes(engine: &str) {
    let timeline = |seed: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_havre-sim"))
            .args(["replay", "--seed", seed, "--engine", engine, "--jsonl", "--all"])
            .output()
            .expect("the simulator can be started");
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    for seed in ["2", "3"] {
        let first = timeline(seed);
        assert!(first.len() > 10_000, "a timeline has content");
        assert_eq!(first, timeline(seed), "seed {seed}");
    }
    assert_ne!(timeline("2"), timeline("3"));
}
