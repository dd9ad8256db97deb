//! The turmoil engine repeats itself and agrees with the direct one.

use super::*;
use crate::{faults, report};

const RECORDED: RunOptions = RunOptions { record: true, stop_at_violation: true };

#[test]
fn two_runs_of_one_seed_print_equal_timelines() {
    let plan = faults::plan(3);
    let timelines = [run(&plan, 3, RECORDED), run(&plan, 3, RECORDED)];
    let [first, second] = timelines.map(|report| report::jsonl(&report));
    assert!(first.lines().count() > 50, "{first}");
    assert_eq!(first, second);
}
