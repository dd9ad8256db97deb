//! Liveness as a mode of its own: after the faults, two of the three members are healed and the
//! third stays frozen in trouble; the two must come to serve, if they may. Then all are healed.
//!
//! A cluster that only recovers when everything is repaired would pass every plan that heals
//! everything (TigerBeetle's simulator found such bugs only in a mode like this).

use std::time::Duration;

use super::{Draw, HEALED_WITHIN};
use crate::{
    expect::{Condition, Property},
    net::HostId,
    plan::{Action, Selector, Setup, Step, When},
    time::SimTime,
};

/// What becomes of the member that is not healed.
fn fate(third: HostId, draw: &mut Draw) -> Action {
    let who = Selector::Host(third);
    let cut = |from, to| Action::Cut { from, to, both: false, net: None };
    match draw.between(0, 4) {
        0 => Action::PowerCut { who, in_write: false, back_after: None },
        1 => Action::Pause { who, span: None },
        2 => Action::Isolate(who),
        // It talks and hears nothing, or hears and cannot talk.
        3 => cut(Selector::Others, who),
        _ => cut(who, Selector::Others),
    }
}

/// Heals a core and expects it to serve, then heals everything.
pub(super) fn core_first(at: u64, setup: &Setup, draw: &mut Draw, steps: &mut Vec<Step>) {
    let then = |action| Step { when: When::After(Duration::ZERO), action, line: None };
    let third = draw.pick(&[HostId::A, HostId::B, HostId::W]);
    let conditions = match third {
        HostId::W => vec![Condition::PrimaryServes, Condition::InSync],
        data => vec![Condition::ServesIfItMay(Selector::Host(data.other()))],
    };
    let within = HEALED_WITHIN + setup.timeout * 4;
    let when = When::At(SimTime::from_micros(at));
    steps.push(Step { when, action: Action::Calm, line: None });
    steps.push(then(fate(third, draw)));
    steps.push(then(Action::Expect { conditions, within, property: Property::WaitsEnd }));
}
