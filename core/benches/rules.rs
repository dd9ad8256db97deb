//! Cost of one evaluation of a thousand rules over a thousand resources, and of one change of one
//! resource through the whole machine.
//!
//! `cargo bench -p havre-core --bench rules`

use std::{hint::black_box, time::Duration};

use havre_core::{
    checks::{
        resource::{ResourceName, ResourceState, Resources},
        rules::{Bound, Pick, Rule, RuleAction, evaluate},
    },
    time::Instant,
};

const RESOURCES: usize = 1_000;
const ROUNDS: u32 = 2_000;

fn main() {
    let mut resources = Resources::default();
    let mut rules = vec![
        Rule::down("any", "tcp", Pick::Any, RuleAction::Restart),
        Rule::down("all", "tcp", Pick::All, RuleAction::Stop),
    ];
    for number in 0..RESOURCES {
        let id = format!("service{number}");
        let name = ResourceName::new("tcp", &id);
        let place = resources.place(&name, Instant::ZERO).expect("there is room");
        resources.set_active(Instant::ZERO, place, true, "tcpcheck");
        resources.set(Instant::ZERO, place, ResourceState::Up, ("tcpcheck", ""));
        rules.push(Rule::down(&format!("t_{id}"), "tcp", Pick::One(id), RuleAction::Restart));
    }
    let bound = Bound::new(rules, &resources);
    println!("{RESOURCES} resources, all up: {:.1} us", micros(&bound, &resources));
    resources.set(Instant::ZERO, RESOURCES - 1, ResourceState::Down, ("tcpcheck", ""));
    println!("{RESOURCES} resources, the last down: {:.1} us", micros(&bound, &resources));
}

/// Time of one evaluation.
#[expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "a benchmark measures")]
fn micros(bound: &Bound, resources: &Resources) -> f64 {
    let begun = std::time::Instant::now();
    for _ in 0..ROUNDS {
        black_box(evaluate(black_box(bound), black_box(resources), true));
    }
    let each: Duration = begun.elapsed() / ROUNDS;
    each.as_secs_f64() * 1e6
}
