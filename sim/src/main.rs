//! Command line of the simulator.
use havre_sim::{direct, faults, report, run::RunOptions};
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let first: u64 = args[1].parse().expect("seed");
    let count: u64 = args[2].parse().expect("count");
    let mut stats = std::collections::BTreeMap::new();
    let t = std::time::Instant::now();
    let mut events = 0;
    let mut simulated = 0;
    for seed in first..first + count {
        let plan = faults::plan(seed);
        let r = std::panic::catch_unwind(|| {
            direct::run(&plan, seed, RunOptions { record: count == 1, stop_at_violation: true })
        });
        let Ok(r) = r else {
            println!("seed {seed} PANIC");
            *stats.entry("panic".to_string()).or_insert(0) += 1;
            continue;
        };
        events += r.events;
        simulated += r.ended.as_micros();
        if count == 1 {
            print!("{}", report::timeline(&r, args.len() > 3));
            println!("acked {} events {} seen {:?}", r.acked, r.events, r.seen);
        }
        if let Some(v) = r.violations.first() {
            *stats.entry(v.property.name().to_string()).or_insert(0) += 1;
            if count > 1 {
                println!("seed {seed}: {} {} {}", v.at, v.property, v.text);
            }
        } else {
            *stats.entry("ok".into()).or_insert(0) += 1;
        }
    }
    println!(
        "{stats:?} {events} events, {} simulated s in {:?}",
        simulated / 1_000_000,
        t.elapsed()
    );
}
