//! Laws that every machine obeys, as functions that panic with the law that was broken.

use std::{fmt::Debug, time::Duration};

use crate::{
    machine::{Machine, Out},
    time::Instant,
};

/// One step of a run: after this pause, this input, or the deadline if there is none.
pub type Step<I> = (Duration, Option<I>);

/// Runs a machine and checks the laws on the way; returns what it ordered, with moments.
///
/// Laws: the same inputs give the same orders; a time-out before the deadline changes nothing;
/// after a time-out the deadline is later; no input panics.
#[track_caller]
pub fn run<M>(fresh: impl Fn() -> M, steps: &[Step<M::Input>]) -> Vec<(Instant, M::Action)>
where
    M: Machine,
    M::Input: Clone,
    M::Action: Debug + PartialEq,
{
    let once = timeline(&mut fresh(), steps, false);
    let again = timeline(&mut fresh(), steps, true);
    assert_eq!(once, again, "law: same inputs, same timeline, spurious time-outs or not");
    once
}

#[track_caller]
fn timeline<M>(
    machine: &mut M,
    steps: &[Step<M::Input>],
    spurious: bool,
) -> Vec<(Instant, M::Action)>
where
    M: Machine,
    M::Input: Clone,
    M::Action: Debug + PartialEq,
{
    let mut now = Instant::ZERO;
    let mut orders = Vec::new();
    let mut out = Out::new();
    for (pause, input) in steps {
        let until = now + *pause;
        fire_deadlines(machine, &mut now, until, &mut orders);
        now = until;
        if spurious && machine.deadline().is_none_or(|at| at > now) {
            machine.handle_timeout(now, &mut out);
            assert!(
                out.is_empty(),
                "law: a spurious time-out orders nothing: {:?}",
                out.as_slice()
            );
        }
        if let Some(input) = input {
            machine.handle(now, input.clone(), &mut out);
        }
        orders.extend(out.drain().map(|action| (now, action)));
    }
    orders
}

/// Lets time pass up to `until`, waking the machine at each of its deadlines.
#[track_caller]
fn fire_deadlines<M: Machine>(
    machine: &mut M,
    now: &mut Instant,
    until: Instant,
    orders: &mut Vec<(Instant, M::Action)>,
) {
    let mut out = Out::new();
    let mut fired = 0;
    while let Some(at) = machine.deadline().filter(|at| *at <= until) {
        *now = at.max(*now);
        machine.handle_timeout(*now, &mut out);
        orders.extend(out.drain().map(|action| (*now, action)));
        let next = machine.deadline();
        assert!(
            next.is_none_or(|next| next > *now),
            "law: after a time-out at {now} the deadline moves on, it is {next:?}"
        );
        fired += 1;
        assert!(fired < 1_000_000, "law: deadlines do not come without end");
    }
}
