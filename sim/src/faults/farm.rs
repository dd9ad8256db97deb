//! Fault plans of farms from a seed: two to five nodes, now and then eight.

use std::time::Duration;

use havre_core::effect::ModuleOrder;

use super::{Draw, HEALED_WITHIN, SETTLE, last_at, swarm_of};
use crate::{
    chance::{Chance, Purpose},
    expect::{Condition, Property},
    net::{HostId, Weather},
    plan::{
        Action, Expectations, FarmSetup, Plan, ScriptFault, ScriptKind, Selector, Setup, Start,
        Step, Trigger, When,
    },
    scenario::{ends_of, farm_steps},
    time::{SimTime, micros},
};

/// When the first fault may strike: the farm has been formed by then.
const FIRST_FAULT_US: u64 = 15_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Cut,
    CutOneWay,
    Isolate,
    Weather,
    PowerCut,
    Crash,
    Pause,
    Slow,
    Drift,
    Script,
    Order,
    AtEvent,
}

const KINDS: [Kind; 12] = [
    Kind::Cut,
    Kind::CutOneWay,
    Kind::Isolate,
    Kind::Weather,
    Kind::PowerCut,
    Kind::Crash,
    Kind::Pause,
    Kind::Slow,
    Kind::Drift,
    Kind::Script,
    Kind::Order,
    Kind::AtEvent,
];

/// The plan of a seed.
pub fn plan(seed: u64) -> Plan {
    let mut draw = Draw { chance: Chance::new(seed, Purpose::Plan, 2), number: 0 };
    let setup = setup(&mut draw);
    let kinds = swarm_of(&KINDS, &mut draw);
    let length_us = draw.between(10, 60) * 1_000_000;
    let gap_us = draw.between(300, 4_000) * 1_000;
    let mut steps = farm_steps();
    let mut at = FIRST_FAULT_US;
    while at < FIRST_FAULT_US + length_us {
        at += draw.between(gap_us / 10, gap_us * 2);
        if !kinds.is_empty() {
            let kind = draw.pick(&kinds);
            fault(kind, at, &setup, &mut draw, &mut steps);
        }
    }
    finish(last_at(&steps).max(at) + gap_us, &setup, &mut steps);
    let expect =
        Expectations { always: Property::ALL.into_iter().collect(), ..Expectations::default() };
    Plan {
        name: format!("farm seed {seed}"),
        ends: ends_of(&steps),
        setup,
        steps,
        expect,
        every_fault_must_hit: false,
    }
}

fn setup(draw: &mut Draw) -> Setup {
    let rough = draw.one_in(3);
    let mut drift_ppm = [0; crate::net::HOSTS];
    if draw.one_in(2) {
        for ppm in drift_ppm.iter_mut().take(2) {
            *ppm = draw.between(0, 20_000) as i32 - 10_000;
        }
    }
    let pulse = Duration::from_millis(draw.pick(&[20, 100, 100, 200]));
    let slost = draw.pick(&[5, 10, 10, 20]);
    Setup {
        start: Start::Farm,
        pulse,
        timeout: pulse * slost,
        nets: draw.pick(&[1, 1, 2]),
        weather: Weather {
            delay_us: draw.pick(&[(50, 300), (100, 900), (500, 4_000)]),
            loss_ppm: if rough { draw.between(0, 20_000) as u32 } else { 0 },
            duplicate_ppm: if rough { draw.between(0, 50_000) as u32 } else { 0 },
            reorder_ppm: if rough { draw.between(0, 50_000) as u32 } else { 0 },
            reorder_us: 10_000,
        },
        drift_ppm,
        script_us: (1_000, draw.pick(&[40, 120, 800]) * 1_000),
        farm: Some(FarmSetup {
            nodes: draw.pick(&[2, 2, 3, 3, 4, 5, 8]),
            leader_pulses: slost * draw.pick(&[1, 2, 2]),
            clients_every: Duration::from_millis(draw.pick(&[10, 30, 100])),
            powers: Vec::new(),
        }),
        ..Setup::default()
    }
}

fn any_node(setup: &Setup, draw: &mut Draw) -> Selector {
    let nodes = setup.farm.as_ref().map_or(2, |farm| farm.nodes);
    Selector::Host(HostId::node(draw.between(0, u64::from(nodes) - 1) as u8))
}

fn fault(kind: Kind, at: u64, setup: &Setup, draw: &mut Draw, steps: &mut Vec<Step>) {
    let timeout = micros(setup.leader_timeout()) / 1_000;
    let span = draw.millis(timeout / 20, timeout * 3);
    let back_after = Some(draw.millis(50, timeout * 4));
    let who = any_node(setup, draw);
    let now = When::At(SimTime::from_micros(at));
    let mut push = |when: When, action| steps.push(Step { when, action, line: None });
    let healed = When::At(SimTime::from_micros(at + micros(span)));
    match kind {
        Kind::Cut | Kind::CutOneWay => {
            let to = if draw.one_in(2) { Selector::Nodes } else { any_node(setup, draw) };
            let net = (setup.nets == 2 && draw.one_in(2)).then(|| draw.between(0, 1) as u8);
            push(now, Action::Cut { from: who, to, both: kind == Kind::Cut, net });
            push(healed, Action::HealAll);
        }
        Kind::Isolate => {
            push(now, Action::Isolate(who));
            push(healed, Action::HealAll);
        }
        Kind::Weather => {
            let weather = Weather {
                delay_us: draw.pick(&[(100, 900), (1_000, 30_000), (20_000, 300_000)]),
                loss_ppm: draw.pick(&[0, 50_000, 200_000, 500_000]),
                duplicate_ppm: draw.pick(&[0, 300_000]),
                reorder_ppm: draw.pick(&[0, 100_000]),
                reorder_us: 20_000,
            };
            let to = Selector::Nodes;
            push(now, Action::Weather { from: who, to, weather, span: Some(span) });
        }
        Kind::PowerCut => push(now, Action::PowerCut { who, in_write: false, back_after }),
        Kind::Crash => push(now, Action::Crash { who, back_after }),
        Kind::Pause => push(now, Action::Pause { who, span: Some(span) }),
        Kind::Slow => {
            let lag = Duration::from_micros(draw.between(50, 1_000));
            push(now, Action::Slow { who, lag, span: Some(span) });
        }
        Kind::Drift => {
            let ppm = draw.between(0, 20_000) as i32 - 10_000;
            push(now, Action::Drift { who, ppm });
        }
        Kind::Script => {
            let kind = draw.pick(&[ScriptKind::Start, ScriptKind::Stop]);
            push(now, Action::Script { who, kind, fault: ScriptFault::Fail, times: 1 });
        }
        Kind::Order => {
            let order = draw.pick(&[
                ModuleOrder::Start,
                ModuleOrder::Stop,
                ModuleOrder::ForceStop,
                ModuleOrder::Restart,
                ModuleOrder::StopStart,
                ModuleOrder::Drain { stop: false },
                ModuleOrder::Drain { stop: true },
                ModuleOrder::Undrain,
            ]);
            push(now, Action::Order { who, order });
        }
        Kind::AtEvent => {
            let trigger = draw.pick(&[Trigger::AddressSet, Trigger::Promotion, Trigger::Record]);
            let delay = Duration::from_micros(draw.between(0, 30_000));
            let action = match draw.between(0, 2) {
                0 => Action::Crash { who, back_after },
                1 => Action::Pause { who, span: Some(span) },
                _ => Action::PowerCut { who, in_write: false, back_after },
            };
            // The chain of events hangs on a step with a time.
            push(now, Action::Order { who, order: ModuleOrder::StopStart });
            push(When::Event { trigger, nth: 1, delay }, action);
        }
    }
}

/// Heals everything and expects the farm to be whole again.
fn finish(at: u64, setup: &Setup, steps: &mut Vec<Step>) {
    let then = |span, action| Step { when: When::After(span), action, line: None };
    let within = HEALED_WITHIN + setup.leader_timeout() * 4;
    let when = When::At(SimTime::from_micros(at));
    steps.push(Step { when, action: Action::Calm, line: None });
    // Whoever was being drained takes clients again; the others refuse.
    let who = Selector::Nodes;
    let undrain = Action::Order { who, order: ModuleOrder::Undrain };
    steps.push(then(Duration::from_secs(30), undrain));
    let conditions = vec![Condition::SharesWhole, Condition::SharesEven];
    let property = Property::WaitsEnd;
    steps.push(then(Duration::ZERO, Action::Expect { conditions, within, property }));
    steps.push(then(SETTLE, Action::Settled));
    steps.push(then(Duration::ZERO, Action::End));
}
