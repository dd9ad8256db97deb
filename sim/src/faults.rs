//! Fault plans from a seed. Each seed first draws which kinds of fault are on at all and how
//! dense they are (swarm testing: Groce et al., "Swarm testing", ISSTA 2012), so that rare
//! combinations are not drowned by frequent ones.

use std::time::Duration;

use havre_core::{config::module::Contract, effect::ModuleOrder};

use crate::{
    chance::{Chance, Purpose},
    disk::{DiskFaults, DiskTiming},
    expect::{Condition, Property},
    net::{HostId, Weather},
    plan::{
        Action, DiskStep, Expectations, Load, Plan, Policy, Preferred, ScriptFault, ScriptKind,
        Selector, Setup, Start, Step, Trigger, When,
    },
    scenario::{ends_of, pair_steps},
    time::SimTime,
};

mod family;
pub mod farm;
mod liveness;

/// Length of the runs with which speed is measured.
const TEN_MINUTES_US: u64 = 600_000_000;
/// When the first fault may strike: the pair has been formed by then.
const FIRST_FAULT_US: u64 = 32_000_000;
/// How long a healed cluster may take to be whole again, besides the heartbeat time-out.
const HEALED_WITHIN: Duration = Duration::from_secs(60);
/// Quiet time before copies are compared.
const SETTLE: Duration = Duration::from_secs(3);

/// A fault kind that a plan may contain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Cut,
    CutOneWay,
    Isolate,
    Weather,
    PowerCut,
    PowerCutInWrite,
    PowerCutBoth,
    Crash,
    Pause,
    Slow,
    Drift,
    DiskSlow,
    DiskFull,
    DiskErrors,
    Script,
    Order,
    AtEvent,
}

const KINDS: [Kind; 17] = [
    Kind::Cut,
    Kind::CutOneWay,
    Kind::Isolate,
    Kind::Weather,
    Kind::PowerCut,
    Kind::PowerCutInWrite,
    Kind::PowerCutBoth,
    Kind::Crash,
    Kind::Pause,
    Kind::Slow,
    Kind::Drift,
    Kind::DiskSlow,
    Kind::DiskFull,
    Kind::DiskErrors,
    Kind::Script,
    Kind::Order,
    Kind::AtEvent,
];

/// Draws in sequence; only the plan itself is made from it, never the weather of a run.
struct Draw {
    chance: Chance,
    number: u64,
}

impl Draw {
    fn between(&mut self, low: u64, high: u64) -> u64 {
        self.number += 1;
        self.chance.between(self.number, low, high)
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.between(1, n) == 1
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.between(0, of.len() as u64 - 1) as usize]
    }

    fn millis(&mut self, low: u64, high: u64) -> Duration {
        Duration::from_micros(self.between(low * 1_000, high * 1_000))
    }
}

/// What happens after the faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ending {
    /// Everything is healed.
    #[default]
    Heal,
    /// Two members are healed and must serve, if they may, before the third is healed too.
    Core,
}

/// What the clusters of fuzzed plans run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Subject {
    /// Pairs with replicated data.
    #[default]
    Mirror,
    /// Farms that share an address.
    Farm,
}

/// What a seed is made into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Recipe {
    /// What the cluster runs.
    pub subject: Subject,
    /// What happens after the faults, in plans of pairs.
    pub ending: Ending,
}

impl Recipe {
    /// The plan of a seed.
    pub fn plan(self, seed: u64) -> Plan {
        match self.subject {
            Subject::Mirror => plan_ending(seed, self.ending),
            Subject::Farm => farm::plan(seed),
        }
    }

    /// The options that ask for it on the command line.
    pub const fn flags(self) -> &'static str {
        match (self.subject, self.ending) {
            (Subject::Mirror, Ending::Heal) => "",
            (Subject::Mirror, Ending::Core) => " --liveness",
            (Subject::Farm, _) => " --kind farm",
        }
    }
}

/// The plan of a seed.
pub fn plan(seed: u64) -> Plan {
    plan_ending(seed, Ending::Heal)
}

/// The plan of a seed with this ending.
pub fn plan_ending(seed: u64, ending: Ending) -> Plan {
    let mut draw = Draw { chance: Chance::new(seed, Purpose::Plan, 0), number: 0 };
    let mut setup = setup(&mut draw);
    let mut steps = pair_steps();
    let over = if let Some(family) = family::of(seed) {
        family.bend(&mut setup, &mut draw);
        family.rounds(FIRST_FAULT_US, &setup, &mut draw, &mut steps)
    } else {
        let kinds = swarm_of(&KINDS, &mut draw);
        // Short and dense, or long and sparse.
        let long = draw.one_in(4);
        let (length_us, gap_us) = if long {
            (draw.between(200, 600) * 1_000_000, draw.between(2_000, 20_000) * 1_000)
        } else {
            (draw.between(10, 60) * 1_000_000, draw.between(100, 2_000) * 1_000)
        };
        strike(&kinds, length_us, gap_us, &setup, &mut draw, &mut steps) + gap_us
    };
    let mut at = last_at(&steps).max(over);
    if ending == Ending::Core {
        liveness::core_first(at, &setup, &mut draw, &mut steps);
        at = 0;
    }
    finish(at, &setup, &mut steps);
    whole(format!("seed {seed}"), setup, steps)
}

/// Ten minutes of an ordinary pair and its witness, with a fault of any kind every ten seconds:
/// what the engine's speed is measured with.
pub fn ten_minutes(seed: u64) -> Plan {
    let mut draw = Draw { chance: Chance::new(seed, Purpose::Plan, 3), number: 0 };
    let setup = Setup::default();
    let mut steps = pair_steps();
    let gap_us = 10_000_000;
    let length_us = TEN_MINUTES_US - FIRST_FAULT_US - gap_us * 3;
    let at = strike(&KINDS, length_us, gap_us, &setup, &mut draw, &mut steps);
    finish(last_at(&steps).max(at), &setup, &mut steps);
    whole(format!("ten minutes {seed}"), setup, steps)
}

/// Strikes with faults of these kinds, about one every `gap_us`; when the last one struck.
fn strike(
    kinds: &[Kind],
    length_us: u64,
    gap_us: u64,
    setup: &Setup,
    draw: &mut Draw,
    steps: &mut Vec<Step>,
) -> u64 {
    let mut at = FIRST_FAULT_US;
    while at < FIRST_FAULT_US + length_us {
        at += draw.between(gap_us / 10, gap_us * 2);
        if !kinds.is_empty() {
            let kind = draw.pick(kinds);
            fault(kind, at, setup, draw, steps);
        }
    }
    at
}

fn whole(name: String, setup: Setup, steps: Vec<Step>) -> Plan {
    let always = Property::ALL.into_iter().collect();
    Plan {
        name,
        ends: ends_of(&steps),
        setup,
        steps,
        expect: Expectations { always, ..Expectations::default() },
        every_fault_must_hit: false,
    }
}

fn setup(draw: &mut Draw) -> Setup {
    let timeout = Duration::from_millis(draw.pick(&[500, 1_000, 1_000, 2_000, 5_000]));
    let rough = draw.one_in(3);
    let mut drift_ppm = [0; crate::net::HOSTS];
    if draw.one_in(2) {
        for ppm in drift_ppm.iter_mut().take(3) {
            *ppm = draw.between(0, 20_000) as i32 - 10_000;
        }
    }
    let region_blocks = draw.pick(&[1, 4, 8]);
    let slow_start = draw.pick(&[40, 120, 800]);
    Setup {
        policy: Policy::Lease,
        contract: if draw.one_in(4) { Contract::Received } else { Contract::Durable },
        timeout,
        pulse: timeout / draw.pick(&[4, 5, 10]),
        failover: !draw.one_in(20),
        preferred: draw.pick(&[
            Preferred::Alone,
            Preferred::Alone,
            Preferred::Alone,
            Preferred::Node(HostId::A),
            Preferred::Node(HostId::B),
            Preferred::Last,
        ]),
        nets: draw.pick(&[1, 1, 2]),
        start: Start::Pair,
        weather: Weather {
            delay_us: draw.pick(&[(50, 300), (100, 900), (500, 8_000)]),
            loss_ppm: if rough { draw.between(0, 20_000) as u32 } else { 0 },
            duplicate_ppm: if rough { draw.between(0, 50_000) as u32 } else { 0 },
            reorder_ppm: if rough { draw.between(0, 50_000) as u32 } else { 0 },
            reorder_us: 50_000,
        },
        disk: DiskTiming {
            flush_us: draw.pick(&[(200, 3_000), (200, 3_000), (2_000, 15_000)]),
            ..DiskTiming::default()
        },
        drift_ppm,
        script_us: (1_000, slow_start * 1_000),
        load: Load {
            every: Duration::from_millis(draw.pick(&[10, 30, 100, 300])),
            blocks: draw.pick(&[16, 64, 256]),
            region_blocks,
            writes_max: draw.pick(&[1, 3, 6]),
            reads_ppm: 200_000,
            hot_blocks: draw.pick(&[0, 0, 4]),
        },
        ..Setup::default()
    }
}

/// Some of these kinds of fault.
fn swarm_of<K: Copy>(kinds: &[K], draw: &mut Draw) -> Vec<K> {
    let share = draw.pick(&[2, 2, 3, 5]);
    kinds.iter().copied().filter(|_| draw.one_in(share)).collect()
}

fn any_node(draw: &mut Draw) -> Selector {
    draw.pick(&[
        Selector::Host(HostId::A),
        Selector::Host(HostId::B),
        Selector::Primary,
        Selector::Primary,
        Selector::Secondary,
    ])
}

fn any_member(draw: &mut Draw) -> Selector {
    if draw.one_in(4) { Selector::Host(HostId::W) } else { any_node(draw) }
}

/// Adds a fault, and its end if it has one.
fn fault(kind: Kind, at: u64, setup: &Setup, draw: &mut Draw, steps: &mut Vec<Step>) {
    let timeout = crate::time::micros(setup.timeout) / 1_000;
    // About as long as the time-out: shorter, equal and longer spans are all interesting.
    let span = draw.millis(timeout / 10, timeout * 4);
    let back_after = Some(draw.millis(50, timeout * 5));
    let mut push = |at: u64, action| {
        let when = When::At(SimTime::from_micros(at));
        steps.push(Step { when, action, line: None });
    };
    let healed = at + crate::time::micros(span);
    match kind {
        Kind::Cut | Kind::CutOneWay => {
            let from = any_member(draw);
            let to = if draw.one_in(2) { Selector::Others } else { any_member(draw) };
            let net = (setup.nets == 2 && draw.one_in(2)).then(|| draw.between(0, 1) as u8);
            push(at, Action::Cut { from, to, both: kind == Kind::Cut, net });
            push(healed, Action::HealAll);
        }
        Kind::Isolate => {
            push(at, Action::Isolate(any_member(draw)));
            push(healed, Action::HealAll);
        }
        Kind::Weather => {
            let weather = Weather {
                delay_us: draw.pick(&[(100, 900), (1_000, 30_000), (20_000, 400_000)]),
                loss_ppm: draw.pick(&[0, 10_000, 200_000, 500_000]),
                duplicate_ppm: draw.pick(&[0, 50_000, 300_000]),
                reorder_ppm: draw.pick(&[0, 100_000]),
                reorder_us: draw.pick(&[20_000, 500_000]),
            };
            let (from, to) = (any_member(draw), Selector::Others);
            push(at, Action::Weather { from, to, weather, span: Some(span) });
        }
        Kind::PowerCut | Kind::PowerCutInWrite => {
            let in_write = kind == Kind::PowerCutInWrite;
            push(at, Action::PowerCut { who: any_member(draw), in_write, back_after });
        }
        Kind::PowerCutBoth => {
            for host in HostId::DATA {
                let back_after = Some(draw.millis(50, timeout * 5));
                let who = Selector::Host(host);
                let at = at + draw.between(0, 3) * draw.between(0, timeout * 1_000);
                push(at, Action::PowerCut { who, in_write: false, back_after });
            }
        }
        Kind::Crash => push(at, Action::Crash { who: any_member(draw), back_after }),
        Kind::Pause => push(at, Action::Pause { who: any_member(draw), span: Some(span) }),
        Kind::Slow => {
            let lag = Duration::from_micros(draw.between(50, 3_000));
            push(at, Action::Slow { who: any_member(draw), lag, span: Some(span) });
        }
        Kind::Drift => {
            let ppm = draw.between(0, 20_000) as i32 - 10_000;
            push(at, Action::Drift { who: any_member(draw), ppm });
        }
        _ => more_faults(kind, at, span, draw, steps),
    }
}

fn more_faults(kind: Kind, at: u64, span: Duration, draw: &mut Draw, steps: &mut Vec<Step>) {
    let mut push = |when: When, action| steps.push(Step { when, action, line: None });
    let now = When::At(SimTime::from_micros(at));
    let healthy = DiskFaults::default();
    let disk =
        |who, faults| Action::Disk { who, fault: DiskStep::Faults(faults), span: Some(span) };
    match kind {
        Kind::DiskSlow => {
            let slowdown = draw.pick(&[5, 50, 500]);
            push(now, disk(any_node(draw), DiskFaults { slowdown, ..healthy }));
        }
        Kind::DiskFull => push(now, disk(any_node(draw), DiskFaults { full: true, ..healthy })),
        Kind::DiskErrors => {
            let rate = draw.pick(&[10_000, 1_000_000]);
            let faults = if draw.one_in(2) {
                DiskFaults { flush_error_ppm: rate, ..healthy }
            } else {
                DiskFaults { write_error_ppm: rate, ..healthy }
            };
            push(now, disk(any_node(draw), faults));
        }
        Kind::Script => {
            let kind = draw.pick(&[ScriptKind::Start, ScriptKind::Stop]);
            let fault = draw.pick(&[ScriptFault::Hang, ScriptFault::Fail]);
            push(now, Action::Script { who: any_node(draw), kind, fault, times: 1 });
        }
        Kind::Order => {
            let order = draw.pick(&[
                ModuleOrder::Start,
                ModuleOrder::Start,
                ModuleOrder::Stop,
                ModuleOrder::Restart,
                ModuleOrder::StopStart,
                ModuleOrder::Swap,
                ModuleOrder::Swap,
                ModuleOrder::Second { full_resync: false },
            ]);
            push(now, Action::Order { who: any_node(draw), order });
        }
        _ => {
            // A power cut or a crash right after something happened in the protocol.
            let trigger = draw.pick(&[
                Trigger::Promotion,
                Trigger::ResyncStarts,
                Trigger::ResyncEnds,
                Trigger::AddressRemoved,
                Trigger::Record,
                Trigger::StopScript,
                Trigger::Solo,
                Trigger::Ack,
            ]);
            let delay = Duration::from_micros(draw.between(0, 30_000));
            let nth = draw.between(1, 3);
            let who = any_node(draw);
            let back_after = Some(draw.millis(50, 5_000));
            let action = if draw.one_in(2) {
                Action::Crash { who, back_after }
            } else {
                Action::PowerCut { who, in_write: false, back_after }
            };
            // The chain of events hangs on a step with a time.
            push(now, Action::Load(true));
            push(When::Event { trigger, nth, delay }, action);
        }
    }
}

/// When the last fault strikes or ends: what comes later would strike a cluster that is to heal.
fn last_at(steps: &[Step]) -> u64 {
    let times = steps.iter().filter_map(|step| match step.when {
        When::At(at) => Some(at.as_micros()),
        _ => None,
    });
    times.max().unwrap_or(0)
}

/// Heals everything, at this moment or at once, and expects the cluster to be whole again.
fn finish(at: u64, setup: &Setup, steps: &mut Vec<Step>) {
    let then = |span, action| Step { when: When::After(span), action, line: None };
    let within = HEALED_WITHIN + setup.timeout * 4;
    let when = match at {
        0 => When::After(Duration::ZERO),
        at => When::At(SimTime::from_micros(at)),
    };
    steps.push(Step { when, action: Action::Calm, line: None });
    let expect = |conditions| {
        then(Duration::ZERO, Action::Expect { conditions, within, property: Property::WaitsEnd })
    };
    steps.push(expect(vec![Condition::PrimaryServes, Condition::InSync]));
    steps.push(then(Duration::ZERO, Action::Load(false)));
    steps.push(then(SETTLE, Action::Settled));
    steps.push(then(Duration::ZERO, Action::End));
}
