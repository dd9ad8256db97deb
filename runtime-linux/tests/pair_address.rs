//! Real daemons, a real witness and a real application in namespaces: who holds the virtual
//! address when nodes, daemons and cables fail. Needs root.
//!
//! `HAVRE_ROUNDS=50` runs more rounds than the two that each fault gets otherwise.

use std::{
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use havre_core::status::State;
use havre_linux::{
    demo::workload::Workload,
    lab::pair::{Pair, PairSpec},
};

const PORT: u16 = 7000;
const LIMIT: Duration = Duration::from_secs(30);

fn rounds() -> usize {
    std::env::var("HAVRE_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(2)
}

/// The ledger without replication: each node has its own; only the address matters here.
fn start() -> Option<(Pair, tempfile::TempDir)> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return None;
    }
    let program = PathBuf::from(env!("CARGO_BIN_EXE_havre"));
    let start = format!(
        "#!/bin/sh\n{} ledger $SAFEUSERVAR/ledger 0.0.0.0:{PORT} &\necho $! > $SAFEUSERVAR/pid\n",
        program.display()
    );
    let stop = "#!/bin/sh\nkill -9 $(cat $SAFEUSERVAR/pid) || true\n".to_owned();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let spec = PairSpec {
        timeout: Duration::from_secs(1),
        pulse: Duration::from_millis(100),
        replicated: None,
        scripts: vec![("start_prim".to_owned(), start), ("stop_prim".to_owned(), stop)],
        variables: Vec::new(),
    };
    let mut pair = Pair::build(directory.path(), &program, spec).expect("root may build a pair");
    pair.start_all().expect("the pair starts");
    Some((pair, directory))
}

/// Runs a fault while watching that the address never has two holders.
fn watched<T>(pair: &mut Pair, fault: impl FnOnce(&mut Pair) -> T) -> T {
    let ending = AtomicBool::new(false);
    let begun = Instant::now();
    let machines = [0, 1].map(|number| pair.holder_probe(number).expect("the machine exists"));
    std::thread::scope(|scope| {
        let watching = scope.spawn(|| {
            let mut looks = 0u64;
            while !ending.load(Ordering::Relaxed) {
                let held = machines.each_ref().map(|machine| machine.holds());
                assert_ne!(held, [true, true], "two holders of the address");
                looks += 1;
                std::thread::sleep(Duration::from_millis(1));
            }
            looks
        });
        let result = fault(pair);
        ending.store(true, Ordering::Relaxed);
        let looks = watching.join().expect("never two holders");
        // A look takes about a millisecond; a busy machine is given fifty times that.
        let wanted = u64::try_from(begun.elapsed().as_millis() / 50).unwrap_or(u64::MAX) + 1;
        assert!(looks >= wanted, "only {looks} looks in {:?}", begun.elapsed());
        result
    })
}

fn both_serve(pair: &Pair) {
    let other = |number: usize| 1 - number;
    let begun = Instant::now();
    let primary = loop {
        if let Some(primary) = pair.primary() {
            break primary;
        }
        assert!(begun.elapsed() < LIMIT, "nobody serves");
        std::thread::sleep(Duration::from_millis(20));
    };
    pair.wait_for(primary, State::Prim, LIMIT).expect("the pair is whole again");
    pair.wait_for(other(primary), State::Second, LIMIT).expect("the pair is whole again");
}

/// Clients get through to the new primary; how long that took.
fn gap(pair: &mut Pair, fault: impl FnOnce(&mut Pair)) -> Duration {
    let place = pair.lab().client_namespace().expect("a copy of a descriptor");
    let workload = Workload::start(place, (pair.virtual_address(), PORT).into());
    assert!(workload.wait_for(20, LIMIT), "the application does not answer");
    let begun = Instant::now();
    watched(pair, |pair| {
        fault(pair);
        assert!(workload.wait_for(20, LIMIT), "the application does not answer again");
    });
    workload.stop().longest_gap(begun)
}

#[test]
fn the_address_moves_when_everything_on_the_primary_is_killed_and_its_cable_cut() {
    let Some((mut pair, _directory)) = start() else { return };
    for round in 0..rounds() {
        let primary = pair.primary().expect("one node serves");
        let took = gap(&mut pair, |pair| pair.crash(primary).expect("the machine can be killed"));
        eprintln!("round {round}: service gap {} ms", took.as_millis());
        assert!(took < Duration::from_secs(4), "{took:?}");
        watched(&mut pair, |pair| {
            pair.revive(primary).expect("the machine starts again");
            both_serve(pair);
        });
    }
}

#[test]
fn a_frozen_daemon_loses_the_address_before_the_other_node_sets_it() {
    let Some((mut pair, _directory)) = start() else { return };
    for round in 0..rounds() {
        let primary = pair.primary().expect("one node serves");
        let took = gap(&mut pair, |pair| {
            pair.freeze_daemon(primary, true).expect("the daemon runs");
            pair.wait_for(1 - primary, State::Alone, LIMIT).expect("the other takes over");
        });
        eprintln!("round {round}: service gap {} ms", took.as_millis());
        assert!(took < Duration::from_secs(6), "{took:?}");
        watched(&mut pair, |pair| {
            pair.freeze_daemon(primary, false).expect("the daemon exists");
            both_serve(pair);
        });
    }
}

#[test]
fn a_cut_cable_never_makes_two_holders_and_clients_find_the_right_node_after_the_repair() {
    let Some((mut pair, _directory)) = start() else { return };
    for round in 0..rounds() {
        let primary = pair.primary().expect("one node serves");
        let took = gap(&mut pair, |pair| pair.lab().isolate(primary, 0).expect("it is cut"));
        eprintln!("round {round}: service gap {} ms", took.as_millis());
        let after = gap(&mut pair, |pair| pair.lab().repair(primary, 0).expect("it is repaired"));
        eprintln!("round {round}: gap around the repair {} ms", after.as_millis());
        assert!(after < Duration::from_millis(100), "{after:?}");
        watched(&mut pair, |pair| both_serve(pair));
    }
}

#[test]
fn a_swap_moves_the_address() {
    let Some((mut pair, _directory)) = start() else { return };
    for round in 0..rounds() {
        let primary = pair.primary().expect("one node serves");
        let took = gap(&mut pair, |pair| {
            pair.order(primary, "swap").expect("the daemon obeys");
            pair.wait_for(1 - primary, State::Prim, LIMIT).expect("the roles are exchanged");
        });
        eprintln!("round {round}: service gap {} ms", took.as_millis());
        assert!(took < Duration::from_secs(2), "{took:?}");
        both_serve(&pair);
    }
}
