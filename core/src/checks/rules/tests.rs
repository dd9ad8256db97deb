//! Tests of the rule language.

use proptest::prelude::*;

use super::*;
use crate::{checks::resource::Resources, time::Instant};

fn table(states: &[(&str, ResourceState)]) -> Resources {
    let mut resources = Resources::default();
    for (name, state) in states {
        let name = name.parse().expect("a name");
        let place = resources.place(&name, Instant::ZERO).expect("room");
        resources.set_active(Instant::ZERO, place, true, "test");
        resources.set(Instant::ZERO, place, *state, ("test", ""));
    }
    resources
}

#[track_caller]
fn judged(text: &str, states: &[(&str, ResourceState)]) -> Evaluation {
    let resources = table(states);
    let rules = parse(text).expect("the rules are well formed");
    evaluate(&Bound::new(rules, &resources), &resources, true)
}

#[track_caller]
fn action(text: &str, states: &[(&str, ResourceState)]) -> Option<RuleAction> {
    judged(text, states).verdict.map(|verdict| verdict.action)
}

use ResourceState::{Down, Init, Unknown, Up};

#[test]
fn a_rule_fires_when_its_resource_is_down_and_names_it() {
    let text = "p_gw: if (ping.gw == down) then wait();";
    let verdict = judged(text, &[("ping.gw", Down)]).verdict.expect("it fires");
    assert_eq!(verdict.rule, "p_gw");
    assert_eq!(verdict.action, RuleAction::Wait);
    assert_eq!(verdict.resources, ["ping.gw is down"]);
    assert_eq!(action(text, &[("ping.gw", Up)]), None);
}

#[test]
fn a_question_mark_means_any_and_a_star_means_all() {
    let any = "r: if (intf.? == down) then wait();";
    let all = "r: if (intf.* == down) then wait();";
    let one = [("intf.a", Down), ("intf.b", Up)];
    let both = [("intf.a", Down), ("intf.b", Down)];
    assert_eq!(action(any, &one), Some(RuleAction::Wait));
    assert_eq!(action(all, &one), None);
    assert_eq!(action(all, &both), Some(RuleAction::Wait));
    for text in [any, all] {
        assert_eq!(action(text, &[("tcp.a", Down)]), None, "nothing of that class");
    }
}

#[test]
fn a_resource_that_has_not_reported_leaves_a_wait_rule_undecided() {
    let text = "r: if (ping.? == down) then wait();";
    let states = [("ping.a", Init), ("ping.b", Up)];
    let evaluation = judged(text, &states);
    assert_eq!(evaluation.verdict, None);
    let pending = evaluation.pending.expect("it is undecided");
    assert_eq!(pending.resources, ["ping.a is init"]);
    let decided = judged(text, &[("ping.a", Init), ("ping.b", Down)]);
    assert_eq!(decided.verdict.map(|v| v.action), Some(RuleAction::Wait), "one is enough for ?");
    assert_eq!(judged("r: if (ping.a == init) then wait();", &states).pending, None);
}

#[test]
fn a_checker_that_does_not_run_matches_nothing_but_init() {
    let mut resources = table(&[("tcp.app", Down)]);
    resources.set_active(Instant::ZERO, 0, false, "tcpcheck");
    for (condition, fires) in
        [("tcp.app != up", false), ("tcp.app == down", false), ("tcp.app == init", true)]
    {
        let rules = parse(&format!("r: if ({condition}) then wait();")).expect("well formed");
        let evaluation = evaluate(&Bound::new(rules, &resources), &resources, true);
        assert_eq!(evaluation.verdict.is_some(), fires, "{condition}");
        assert_eq!(evaluation.pending, None, "{condition}");
    }
}

#[test]
fn the_strongest_action_wins_and_of_equal_ones_the_first() {
    let text = "a: if (tcp.x == down) then restart();
                b: if (tcp.x == down) then stopstart();
                c: if (tcp.x == down) then stopstart();";
    let verdict = judged(text, &[("tcp.x", Down)]).verdict.expect("it fires");
    assert_eq!((verdict.action, verdict.rule.as_str()), (RuleAction::StopStart, "b"));
}

#[test]
fn conditions_join_and_remote_resources_are_the_other_nodes() {
    let text = "/* shared */ p: if (local.ping.gw == down && remote.0/ping.gw == up) then wait();
                # not both sides
                q: if (!(ping.gw == up || cluster() == up)) then stop();";
    let mut resources = table(&[("ping.gw", Down)]);
    let bound = Bound::new(parse(text).expect("well formed"), &resources);
    assert_eq!(evaluate(&bound, &resources, true).verdict, None);
    let alone = evaluate(&bound, &resources, false).verdict.expect("it fires");
    assert_eq!(alone.rule, "q");
    assert_eq!(alone.resources, ["ping.gw is down", "the other node is silent"]);
    resources.set_remote(0, Up);
    let verdict = evaluate(&bound, &resources, true).verdict.expect("it fires");
    assert_eq!(verdict.resources, ["ping.gw is down", "ping.gw is up on the other node"]);
}

#[test]
fn an_assignment_is_told_until_it_holds() {
    let text = "r: if (ping.gw == down) then custom.site = down;";
    let name: ResourceName = "custom.site".parse().expect("a name");
    let evaluation = judged(text, &[("ping.gw", Down)]);
    assert_eq!(evaluation.assignments, [(name, Down, "r".to_owned())]);
    let settled = judged(text, &[("ping.gw", Down), ("custom.site", Down)]);
    assert_eq!(settled.assignments, []);
}

#[test]
fn a_resource_that_nobody_declared_is_unknown() {
    assert_eq!(action("r: if (custom.x == down) then stop();", &[]), None);
    assert_eq!(action("r: if (custom.x == unknown) then stop();", &[]), Some(RuleAction::Stop));
    assert_eq!(
        action("r: if (custom.x != up) then stop();", &[("custom.x", Unknown)]),
        Some(RuleAction::Stop)
    );
}

#[test]
fn every_fault_of_a_text_is_reported_with_its_place_and_remedy() {
    let text = "a: if (ping.gw = down) then wait();
b: if (ping.gw == dwn) then wait();
c if (ping.gw == down) then wait();
d: if (ping.gw == down) then reboot();
e: if (ping.gw == down) then wait()
f: if (ping.gw & ping.x) then wait();
a: if (gw == down) then wait();
g: if (x.y == up) then rfs.uptodate = up;";
    let errors = parse(text).expect_err("it is full of faults");
    let places: Vec<(u32, u32)> = errors.iter().map(|e| (e.line, e.column)).collect();
    assert_eq!(places, [(1, 16), (2, 19), (3, 3), (4, 30), (6, 1), (6, 16), (7, 8), (8, 24)]);
    assert_eq!(errors[0].message, "\"=\" sets, it does not compare");
    assert!(errors.iter().all(|e| !e.remedy.is_empty()));
}

#[test]
fn rules_in_lua_are_refused_with_the_same_rule_in_language_1() {
    let text = "--Lua Rules
Rules = Rules + { t_web = if_then(\"tcp.web\", \"down\", Action.stopstart), _group=\"checker\" }
Rules.disable(\"ip_failure\")";
    let errors = parse(text).expect_err("Lua is refused");
    assert_eq!(errors.len(), 2);
    let remedy = &errors[0].remedy;
    assert_eq!(remedy, "write: t_web: if (tcp.web == down) then stopstart();");
    let rule = remedy.strip_prefix("write: ").expect("it begins with that");
    assert_eq!(parse(rule).expect("the remedy is well formed").len(), 1);
    assert!(errors[1].remedy.contains("ip_failure"));
}

#[test]
fn conditions_inside_conditions_are_bounded() {
    let deep = format!("r: if ({}ping.x == up{}) then stop();", "(".repeat(2000), ")".repeat(2000));
    assert!(parse(&deep).is_err());
    let nots = format!("r: if ({}ping.x == up) then stop();", "!".repeat(5000));
    assert!(parse(&nots).is_err());
}

fn any_expr() -> impl Strategy<Value = Expr> {
    let id =
        prop_oneof!["[a-z][a-z0-9]{0,4}".prop_map(Pick::One), Just(Pick::Any), Just(Pick::All)];
    let side = prop_oneof![Just(Side::Local), Just(Side::Remote)];
    let class = prop_oneof![Just("tcp"), Just("ping"), Just("custom")];
    let state = prop_oneof![Just(Init), Just(Up), Just(Down), Just(Unknown)];
    let compare = (side, class, id, any::<bool>(), state.clone()).prop_map(
        |(side, class, pick, equal, state)| Expr::Compare {
            reference: Reference { side, class: class.to_owned(), pick },
            equal,
            state,
        },
    );
    let cluster = (any::<bool>(), state).prop_map(|(equal, state)| Expr::Cluster { equal, state });
    let leaf = prop_oneof![4 => compare, 1 => cluster];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            inner.clone().prop_map(|e| Expr::Not(Box::new(e))),
            proptest::collection::vec(inner.clone(), 2..4).prop_map(Expr::And),
            proptest::collection::vec(inner, 2..4).prop_map(Expr::Or),
        ]
    })
}

/// Joins nested lists of the same kind, as the parser reads them from text without parentheses.
fn same_meaning(a: &Expr, b: &Expr, states: &[ResourceState]) -> bool {
    let names = ["tcp.a", "tcp.b", "ping.a", "custom.c"];
    let pairs: Vec<_> = names.into_iter().zip(states.iter().copied()).collect();
    let mut resources = table(&pairs);
    resources.set_remote(0, states[4]);
    let judge = |when: &Expr| {
        let rule =
            Rule { label: "r".into(), when: when.clone(), then: Then::Act(RuleAction::Wait) };
        evaluate(&Bound::new(vec![rule], &resources), &resources, states[5] == Up)
    };
    judge(a) == judge(b)
}

proptest! {
    #[test]
    fn what_is_printed_is_read_back_with_the_same_meaning(
        when in any_expr(),
        states in proptest::collection::vec(
            prop_oneof![Just(Init), Just(Up), Just(Down), Just(Unknown)], 6),
    ) {
        let rule = Rule { label: "r".into(), when, then: Then::Act(RuleAction::Wait) };
        let text = rule.to_string();
        let read = parse(&text).map_err(|e| TestCaseError::fail(format!("{text}: {e:?}")))?;
        prop_assert!(same_meaning(&read[0].when, &rule.when, &states), "{}", text);
    }

    #[test]
    fn any_text_is_survived(text in "[ a-z.:;()!&|=?*/#\n-]{0,200}") {
        let _ = parse(&text);
    }

    #[test]
    fn a_wait_rule_that_fires_or_is_undecided_is_never_both(
        when in any_expr(),
        states in proptest::collection::vec(
            prop_oneof![Just(Init), Just(Up), Just(Down), Just(Unknown)], 4),
    ) {
        let names = ["tcp.a", "tcp.b", "ping.a", "custom.c"];
        let pairs: Vec<_> = names.into_iter().zip(states).collect();
        let resources = table(&pairs);
        let rule = Rule { label: "r".into(), when, then: Then::Act(RuleAction::Wait) };
        let evaluation = evaluate(&Bound::new(vec![rule], &resources), &resources, true);
        prop_assert!(!(evaluation.verdict.is_some() && evaluation.pending.is_some()));
    }
}
