//! Tests of the checks machine.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::{
    checks::record::Switch,
    config::module::{
        CheckAction, CheckerConfig, CheckerKind, ChecksConfig, Class, ErrdConfig, FailoverConfig,
        ProcAction, ProcConfig, StartFailure,
    },
    effect::LoopVerb,
    ids::RequestId,
    testkit,
};

const M: ModuleId = ModuleId(1);

fn proc(action: ProcAction) -> ProcConfig {
    ProcConfig {
        name: "app".into(),
        service: false,
        name_regex: None,
        arg_regex: None,
        class: Class::Prim,
        action,
        restart_services: None,
        at_least: Some(1),
        at_max: None,
        start_after: 0,
    }
}

fn ping(shared: bool) -> CheckerConfig {
    CheckerConfig {
        ident: "gw".into(),
        when: Class::Pre,
        action: CheckAction::Wait,
        shared,
        interval: Duration::from_secs(10),
        timeout: Duration::from_secs(5),
        kind: CheckerKind::Ping { addr: "192.0.2.1".into() },
    }
}

fn settings(action: ProcAction, shared: bool) -> Settings {
    let poll = Duration::from_secs(30);
    let checks = ChecksConfig {
        errd: Some(ErrdConfig { poll, procs: vec![proc(action)] }),
        checkers: vec![ping(shared)],
        failover: FailoverConfig::default(),
    };
    Settings::of(
        "db",
        &checks,
        settings::Guarding {
            guard: loopguard::LoopSettings {
                max: 3,
                interval: Duration::from_hours(24),
                retry: None,
            },
            reboot: false,
            on_start_failure: StartFailure::Stop,
            boot_by_switch: true,
            exclusive: true,
        },
    )
}

fn fresh(action: ProcAction) -> Checks {
    Checks::new(M, settings(action, false), ChecksRecord::default(), Instant::ZERO)
}

fn primary() -> Input {
    let classes = Classes { pre: true, prim: true, both: true, second: false, sec: true };
    Input::Posture { classes, running: true }
}

fn waiting() -> Input {
    Input::Posture { classes: Classes::PRE, running: false }
}

fn at(second: u64) -> Instant {
    Instant::from_millis(second * 1_000)
}

#[track_caller]
fn tell(checks: &mut Checks, second: u64, input: Input) -> Vec<Action> {
    let mut out = Out::new();
    checks.handle(at(second), input, &mut out);
    out.drain().collect()
}

fn calls(actions: &[Action]) -> Vec<&Call> {
    let call = |action: &'_ Action| matches!(action, Action::Call(_));
    let of = actions.iter().filter(|a| call(a));
    of.filter_map(|a| if let Action::Call(call) = a { Some(call) } else { None }).collect()
}

fn write_of(actions: &[Action]) -> Option<(OpId, u32)> {
    actions.iter().find_map(|action| match action {
        Action::Effect(Effect::Persist { op, record: Record::Checks { record, .. } }) => {
            Some((*op, record.count))
        }
        _ => None,
    })
}

fn counted(number: u32) -> Input {
    Input::Checked(CheckerId(0), Finding::Count(number))
}

#[test]
fn a_death_is_repaired_only_when_its_count_is_durable() {
    let mut checks = fresh(ProcAction::Restart);
    tell(&mut checks, 0, primary());
    tell(&mut checks, 1, counted(1));
    let found = tell(&mut checks, 2, counted(0));
    assert_eq!(calls(&found), Vec::<&Call>::new());
    let (op, count) = write_of(&found).expect("the count is written first");
    assert_eq!(count, 1);
    let done = tell(&mut checks, 3, Input::Completed(op, Outcome::Done));
    let [call] = calls(&done)[..] else { panic!("one call: {done:?}") };
    assert_eq!(call.verb, Verb::Restart);
    let Actor::Detected(cause) = &call.by else { panic!("by a detection: {call:?}") };
    assert_eq!((cause.detector.as_str(), cause.count, cause.max), ("errd", 1, 3));
    assert_eq!(cause.resources, ["proc.app: 0 running"]);
}

#[test]
fn a_full_disk_does_not_keep_an_application_from_being_repaired() {
    let mut checks = fresh(ProcAction::StopStart);
    tell(&mut checks, 0, primary());
    tell(&mut checks, 1, counted(1));
    let (op, _) = write_of(&tell(&mut checks, 2, counted(0))).expect("a write");
    let failed = tell(&mut checks, 3, Input::Completed(op, Outcome::Failed("full".into())));
    assert_eq!(calls(&failed).len(), 1);
}

#[test]
fn the_fourth_detection_stops_and_an_administrator_begins_the_count_anew() {
    let mut checks = fresh(ProcAction::Restart);
    let mut verbs = Vec::new();
    for round in 0..4u64 {
        tell(&mut checks, round * 10, primary());
        tell(&mut checks, round * 10 + 1, counted(1));
        let (op, _) = write_of(&tell(&mut checks, round * 10 + 2, counted(0))).expect("a write");
        let done = tell(&mut checks, round * 10 + 3, Input::Completed(op, Outcome::Done));
        verbs.extend(calls(&done).iter().map(|call| call.verb));
        tell(&mut checks, round * 10 + 4, waiting());
    }
    assert_eq!(verbs, [Verb::Restart, Verb::Restart, Verb::Restart, Verb::Stop]);
    assert!(checks.status(at(60)).guard.reached);
    tell(&mut checks, 61, Input::Administered);
    assert_eq!(checks.status(at(61)).guard.count, 0);
}

#[test]
fn a_process_that_is_late_to_appear_is_not_dead() {
    let mut checks = fresh(ProcAction::Restart);
    tell(&mut checks, 0, primary());
    assert_eq!(write_of(&tell(&mut checks, 0, counted(0))), None);
    assert_eq!(write_of(&tell(&mut checks, 5, counted(0))), None);
    assert!(write_of(&tell(&mut checks, 31, counted(0))).is_some(), "it never came");
}

#[test]
fn a_started_module_is_held_until_its_checkers_have_reported() {
    let mut checks = fresh(ProcAction::Restart);
    let begun = tell(&mut checks, 0, waiting());
    assert!(begun.contains(&Action::Hold(Some(WaitReason::Transition))));
    let asked = begun.iter().find_map(|action| match action {
        Action::Effect(Effect::Probe { op, what: Probe::Ping { .. }, .. }) => Some(*op),
        _ => None,
    });
    let op = asked.expect("the gateway is pinged at once");
    let up = tell(&mut checks, 1, Input::Completed(op, Outcome::Probed(Finding::Up)));
    assert!(up.contains(&Action::Hold(None)), "{up:?}");
}

#[test]
fn a_shared_target_that_nobody_reaches_makes_nobody_wait() {
    let settings = settings(ProcAction::Nothing, true);
    let mut checks = Checks::new(M, settings, ChecksRecord::default(), Instant::ZERO);
    assert_eq!(checks.exported(), [ResourceState::Init]);
    tell(&mut checks, 0, Input::PeerHeard(true));
    tell(&mut checks, 0, Input::PeerResources(vec![ResourceState::Down]));
    tell(&mut checks, 0, primary());
    tell(&mut checks, 1, Input::Checked(CheckerId(1), Finding::Down("silent".into())));
    assert_eq!(checks.status(at(1)).rule, None, "the other node does not reach it either");
    tell(&mut checks, 2, Input::PeerResources(vec![ResourceState::Up]));
    let rule = checks.status(at(2)).rule.expect("the other node could do better");
    assert_eq!((rule.rule.as_str(), rule.at), ("p_gw", Some(at(17))));
}

#[test]
fn switches_end_checkers_and_are_durable() {
    let mut checks = fresh(ProcAction::Restart);
    tell(&mut checks, 0, primary());
    tell(&mut checks, 1, counted(1));
    let off = Input::Asked(RequestId(1), Order::Switch(Switch::Errd, false));
    let off = tell(&mut checks, 2, off);
    let module = M;
    let unwatch = Action::Effect(Effect::Unwatch { module, checker: CheckerId(0) });
    assert!(off.contains(&unwatch), "{off:?}");
    assert!(write_of(&off).is_some());
    assert_eq!(write_of(&tell(&mut checks, 3, counted(0))), None, "nobody is watching");
    let again =
        Checks::new(M, settings(ProcAction::Restart, false), checks.record().clone(), at(4));
    assert!(!again.status(at(4)).switches.errd);
}

#[test]
fn resources_of_havre_are_not_set_from_outside() {
    let mut checks = fresh(ProcAction::Restart);
    for (name, accepted) in [("custom.page", true), ("proc.app", false), ("rfs.uptodate", false)] {
        let order = Order::Set {
            resource: name.parse().expect("a name"),
            state: ResourceState::Down,
            by: "root".into(),
            history: true,
        };
        let said = tell(&mut checks, 1, Input::Asked(RequestId(1), order));
        let answer = said.iter().any(|action| {
            matches!(action, Action::Effect(Effect::Answer { answer, .. })
                if *answer == crate::effect::Answer::Accepted)
        });
        assert_eq!(answer, accepted, "{name}");
    }
}

fn any_input() -> impl Strategy<Value = Input> {
    let finding = prop_oneof![
        Just(Finding::Up),
        Just(Finding::Down("x".into())),
        (0u32..3).prop_map(Finding::Count),
        Just(Finding::Unable("y".into())),
    ];
    let state = prop_oneof![
        Just(ResourceState::Init),
        Just(ResourceState::Up),
        Just(ResourceState::Down),
        Just(ResourceState::Unknown),
    ];
    let op = (0u64..60).prop_map(|n| OpId(u64::from(M.0) << 48 | OP_BIT | n));
    prop_oneof![
        3 => Just(primary()),
        3 => Just(waiting()),
        1 => Just(Input::Posture { classes: Classes::NONE, running: false }),
        4 => (0u16..3, finding.clone()).prop_map(|(id, f)| Input::Checked(CheckerId(id), f)),
        4 => (op.clone(), finding).prop_map(|(op, f)| Input::Completed(op, Outcome::Probed(f))),
        3 => op.clone().prop_map(|op| Input::Completed(op, Outcome::Done)),
        1 => op.prop_map(|op| Input::Completed(op, Outcome::Failed("full".into()))),
        1 => any::<bool>().prop_map(Input::PeerHeard),
        1 => proptest::collection::vec(state, 0..3).prop_map(Input::PeerResources),
        1 => Just(Input::Administered),
        1 => Just(Input::Detected(RuleAction::Restart, "detector".into())),
        1 => Just(Input::StartFailed("start_prim")),
        1 => any::<bool>().prop_map(|on| {
            Input::Asked(RequestId(1), Order::Switch(Switch::Checker, on))
        }),
        1 => Just(Input::Asked(RequestId(2), Order::Loop(LoopVerb::Check))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn checks_obey_the_laws(
        steps in proptest::collection::vec(
            (0u64..20_000, proptest::option::of(any_input())),
            1..60,
        ),
        shared in any::<bool>(),
    ) {
        let steps: Vec<_> = steps
            .into_iter()
            .map(|(pause, input)| (Duration::from_millis(pause), input))
            .collect();
        let fresh = || {
            let settings = settings(ProcAction::Restart, shared);
            Checks::new(M, settings, ChecksRecord::default(), Instant::ZERO)
        };
        testkit::run(fresh, &steps);
    }

    #[test]
    fn calls_never_exceed_maxloop_without_an_administrator(
        steps in proptest::collection::vec((0u64..20_000, any_input()), 1..80),
    ) {
        let mut checks = fresh(ProcAction::Restart);
        let (mut now, mut repairs) = (Instant::ZERO, 0);
        let mut out = Out::new();
        for (pause, input) in steps {
            now += Duration::from_millis(pause);
            if matches!(input, Input::Administered) {
                repairs = 0;
            }
            checks.handle_timeout(now, &mut out);
            checks.handle(now, input, &mut out);
            for action in out.drain() {
                if let Action::Call(Call { by: Actor::Detected(_), .. }) = action {
                    repairs += 1;
                }
            }
            prop_assert!(repairs <= 3 + 1, "{} repairs", repairs);
        }
    }
}
