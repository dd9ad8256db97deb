//! Plans of one kind of trouble, in several rounds: what a swarm of independent faults reaches too
//! rarely, because several things must happen within a part of a time-out.

use std::time::Duration;

use havre_core::{config::module::Contract, effect::ModuleOrder};

use super::{Draw, KINDS, fault};
use crate::{
    chance::{Chance, Purpose},
    disk::DiskFaults,
    net::HostId,
    plan::{Action, DiskStep, Preferred, Selector, Setup, Step, Trigger, When},
    time::{SimTime, micros},
};

/// One seed in so many is of a family.
const ONE_IN: u64 = 4;
/// Time after a round in which the pair forms again, besides some time-outs.
const RECOVERY_US: u64 = 4_000_000;

/// A kind of trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    /// The witness restarts while its lease is what keeps an isolated primary running.
    ForgetfulWitness,
    /// A secondary restarts while its promise is all that a primary has.
    HastyRestart,
    /// A secondary hears no primary, but the primary hears its secondary, and no witness.
    DeafSecondary,
    /// A secondary takes over with much to be carried out before.
    Backlog,
    /// Roles are exchanged under load, and whoever is being resynchronised dies.
    BusySwaps,
}

const FAMILIES: [Family; 5] = [
    Family::ForgetfulWitness,
    Family::HastyRestart,
    Family::DeafSecondary,
    Family::Backlog,
    Family::BusySwaps,
];

/// The family of a seed, if it has one.
pub(super) fn of(seed: u64) -> Option<Family> {
    let chance = Chance::new(seed, Purpose::Plan, 2);
    let index = chance.below(2, FAMILIES.len() as u64) as usize;
    (chance.below(1, ONE_IN) == 0).then(|| FAMILIES[index])
}

const PRIMARY: Selector = Selector::Primary;
const SECONDARY: Selector = Selector::Secondary;
const WITNESS: Selector = Selector::Host(HostId::W);

/// A timeline that grows.
struct Round<'a> {
    draw: &'a mut Draw,
    steps: &'a mut Vec<Step>,
    /// The time-out of heartbeats, in microseconds.
    timeout: u64,
    began: u64,
}

impl Round<'_> {
    /// A moment so many hundredths of a time-out after the beginning of the round.
    fn at(&mut self, low: u64, high: u64) -> u64 {
        let share = self.draw.between(low * 1_000, high * 1_000);
        self.began + self.timeout * share / 100_000
    }

    fn push(&mut self, at: u64, action: Action) {
        let when = When::At(SimTime::from_micros(at));
        self.steps.push(Step { when, action, line: None });
    }

    fn cut(&mut self, at: u64, from: Selector, to: Selector, both: bool) {
        self.push(at, Action::Cut { from, to, both, net: None });
    }

    fn crash(&mut self, at: u64, who: Selector, back_ms: (u64, u64)) {
        let back_after = Some(self.draw.millis(back_ms.0, back_ms.1));
        self.push(at, Action::Crash { who, back_after });
    }

    fn heal(&mut self, at: u64) -> u64 {
        self.push(at, Action::HealAll);
        at
    }
}

impl Family {
    /// Bends the setup to what this trouble needs.
    pub(super) fn bend(self, setup: &mut Setup, draw: &mut Draw) {
        setup.failover = true;
        setup.weather.delay_us = draw.pick(&[(50, 300), (100, 900)]);
        setup.script_us = (1_000, 30_000);
        match self {
            Self::ForgetfulWitness | Self::HastyRestart | Self::DeafSecondary => {
                setup.timeout = Duration::from_millis(draw.pick(&[1_000, 2_000]));
                setup.pulse = setup.timeout / 10;
                setup.preferred = Preferred::Alone;
            }
            Self::Backlog => {
                setup.timeout = Duration::from_millis(draw.pick(&[500, 1_000]));
                setup.pulse = setup.timeout / 5;
                setup.contract = Contract::Received;
                setup.load.every = Duration::from_millis(10);
                setup.load.writes_max = 6;
                setup.load.reads_ppm = 50_000;
            }
            Self::BusySwaps => setup.load.every = Duration::from_millis(10),
        }
    }

    /// Several rounds from `at` on; when the last one is over.
    pub(super) fn rounds(
        self,
        mut at: u64,
        setup: &Setup,
        draw: &mut Draw,
        steps: &mut Vec<Step>,
    ) -> u64 {
        for _ in 0..draw.between(2, 6) {
            if draw.one_in(6) {
                let kind = draw.pick(&KINDS);
                fault(kind, at, setup, draw, steps);
            }
            let timeout = micros(setup.timeout);
            let mut round = Round { draw, steps, timeout, began: at };
            let over = self.round(&mut round);
            at = over + timeout * draw.between(3, 6) + RECOVERY_US;
        }
        at
    }

    fn round(self, round: &mut Round<'_>) -> u64 {
        match self {
            Self::ForgetfulWitness => {
                // Both notice the cut after one time-out; until then the witness renews the lease.
                round.cut(round.began, PRIMARY, SECONDARY, true);
                let alone = round.at(70, 98);
                let restart = round.at(60, 100);
                round.cut(alone, PRIMARY, WITNESS, true);
                round.crash(restart, WITNESS, (1, 30));
                round.heal(round.began + round.timeout * 3)
            }
            Self::HastyRestart => {
                // The lease has long run out when the secondary dies.
                round.cut(round.began, PRIMARY, WITNESS, true);
                let at = round.at(120, 250);
                let apart = round.draw.between(0, 5_000);
                round.cut(at, PRIMARY, SECONDARY, true);
                round.crash(at + apart, SECONDARY, (1, 15));
                round.heal(at + round.timeout * 2)
            }
            Self::DeafSecondary => {
                round.cut(round.began, PRIMARY, WITNESS, true);
                let at = round.at(20, 250);
                round.cut(at, PRIMARY, SECONDARY, false);
                round.heal(at + round.timeout * 3)
            }
            Self::Backlog => Self::backlog(round),
            Self::BusySwaps => Self::busy_swap(round),
        }
    }

    fn backlog(round: &mut Round<'_>) -> u64 {
        let slowdown = round.draw.pick(&[100, 500, 500]);
        let faults = DiskFaults { slowdown, ..DiskFaults::default() };
        let span = Some(Duration::from_micros(round.timeout * 6));
        let fault = DiskStep::Faults(faults);
        round.push(round.began, Action::Disk { who: SECONDARY, fault, span });
        let at = round.at(50, 300);
        let back_after = Some(round.draw.millis(50, 500));
        let action = match round.draw.between(0, 2) {
            0 => Action::PowerCut { who: PRIMARY, in_write: false, back_after },
            1 => Action::Isolate(PRIMARY),
            _ => Action::Order { who: PRIMARY, order: ModuleOrder::ForceStop },
        };
        round.push(at, action);
        let over = round.heal(round.began + round.timeout * 8);
        for host in HostId::DATA {
            let who = Selector::Host(host);
            round.push(over, Action::Order { who, order: ModuleOrder::Start });
        }
        over
    }

    fn busy_swap(round: &mut Round<'_>) -> u64 {
        let who = round.draw.pick(&[PRIMARY, SECONDARY]);
        round.push(round.began, Action::Order { who, order: ModuleOrder::Swap });
        let trigger = round.draw.pick(&[
            Trigger::Promotion,
            Trigger::ResyncStarts,
            Trigger::ResyncEnds,
            Trigger::StopScript,
            Trigger::Record,
        ]);
        let delay = Duration::from_micros(round.draw.between(0, 20_000));
        let nth = round.draw.between(1, 2);
        let who = round.draw.pick(&[SECONDARY, Selector::SyncTarget, PRIMARY]);
        let back_after = Some(round.draw.millis(20, 1_500));
        let action = match round.draw.between(0, 3) {
            0 => Action::PowerCut { who, in_write: false, back_after },
            1 => Action::Crash { who, back_after },
            2 => Action::Order { who: SECONDARY, order: ModuleOrder::Swap },
            _ => Action::Load(true),
        };
        round.steps.push(Step { when: When::Event { trigger, nth, delay }, action, line: None });
        round.began + round.timeout * 2
    }
}
