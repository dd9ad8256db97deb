//! Tests of what the words of checkers print, and of which lines they are.

use clap::Parser;
use havre_core::checks::record::{ChecksStatus, RuleStatus};

use super::*;
use crate::{
    admin::Snapshot,
    cli::{Cli, samples},
};

fn resource(name: &str, state: ResourceState, remote: Option<ResourceState>) -> ResourceStatus {
    ResourceStatus {
        name: name.parse().expect("a name"),
        state,
        remote,
        since: Instant::from_millis(10_000),
        by: "havre".to_owned(),
        detail: String::new(),
        history: Vec::new(),
    }
}

fn module() -> ModuleStatus {
    let mut module = samples::module_status("db");
    let mut disk = resource("custom.disk", ResourceState::Down, Some(ResourceState::Up));
    disk.detail = "3 % free".to_owned();
    module.checks = ChecksStatus {
        resources: vec![disk, resource("proc.ledger", ResourceState::Up, None)],
        rule: Some(RuleStatus {
            rule: "c_disk".to_owned(),
            action: "wait".to_owned(),
            resources: vec!["custom.disk".to_owned()],
            at: Some(Instant::from_millis(75_000)),
        }),
        guard: LoopStatus {
            count: 2,
            max: 3,
            until: Some(Instant::from_millis(7_270_000)),
            ..LoopStatus::default()
        },
        switches: Switches { errd: false, ..Switches::default() },
    };
    module
}

#[test]
fn state_lists_resources_the_rule_and_the_loop_counter() {
    let mut node = samples::node_status(&[]);
    node.modules.push(module());
    let snapshot = Snapshot::of(Instant::from_millis(70_000), node);
    let text = state::text_of(&snapshot, true, false);
    for part in [
        "resource       custom.disk down 60 s, remote up: 3 % free\n",
        "resource       proc.ledger up 60 s\n",
        "rule           c_disk: wait because of custom.disk, in 5 s\n",
        "switched off   errd\n",
        "loop guard     2 of 3 detections, the window ends in 2 h\n",
    ] {
        assert!(text.contains(part), "{part:?} is missing in:\n{text}");
    }
    assert!(!state::text_of(&snapshot, false, false).contains("resource"));
}

#[test]
fn a_resource_is_read_as_either_node_sees_it() {
    let state = |name: &str| state_in(&module(), &name.parse().expect("a name"));
    assert_eq!(state("custom.disk").expect("there"), ResourceState::Down);
    assert_eq!(state("local.custom.disk").expect("there"), ResourceState::Down);
    assert_eq!(state("remote.custom.disk").expect("there"), ResourceState::Up);
    assert!(state("remote.proc.ledger").expect_err("not sent").to_string().contains("travel"));
    assert!(state("custom.other").expect_err("not there").to_string().contains("no resource"));
}

#[test]
fn the_list_of_errd_has_processes_and_the_switch_only() {
    let text = watched(&module(), Instant::from_millis(70_000));
    assert_eq!(text, "errd off\nproc.ledger up 60 s\n");
}

#[test]
fn a_switch_that_nobody_turned_is_as_configured() {
    let switches = Switches { boot: Some(true), ..Switches::default() };
    assert_eq!(position(switches, Switch::Boot), "on");
    assert_eq!(position(switches, Switch::Failover), "as configured");
    assert_eq!(position(switches, Switch::Errd), "on");
}

#[test]
fn the_loop_guard_says_that_its_limit_is_reached_and_when_it_starts_again() {
    let now = Instant::from_millis(1_000);
    let guard = LoopStatus {
        count: 4,
        max: 3,
        reached: true,
        until: None,
        retry_at: Some(Instant::from_millis(6_000)),
    };
    let expected = "4 of 3 detections, the limit is reached, starts again in 5 s";
    assert_eq!(detections(&guard, now), expected);
}

#[test]
fn the_lines_of_safekit_are_understood() {
    for line in [
        "havre get -m AM -r custom.disk",
        "havre set -m AM -r custom.disk -v up -n -i checker",
        "havre set -m AM -r custom.disk -v unknown -l",
        "havre errd off -m AM",
        "havre errd enable myclass -m AM",
        "havre errd list -m AM",
        "havre checker off -m AM",
        "havre failover on -m AM",
        "havre boot status -m AM",
        "havre incloop -m AM -i handler",
        "havre resetloop -m AM",
        "havre checkloop -m AM",
        "havre restart -m AM -i handler",
        "havre -H * failover off -m AM",
    ] {
        let parsed = Cli::try_parse_from(line.split(' '));
        let cli = parsed.unwrap_or_else(|error| panic!("{line}: {error}"));
        assert!(cli.command.can_be_remote(), "{line}");
    }
    for line in [
        "havre set -m AM -r custom.disk -v sideways",
        "havre set -m AM -r disk -v up",
        "havre set -m AM -r custom.disk -v up -n -l",
        "havre errd dance -m AM",
        "havre checker maybe -m AM",
        "havre stop -m AM -i two\nlines",
    ] {
        assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
    }
}
