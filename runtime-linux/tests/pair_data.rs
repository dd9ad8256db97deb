//! Real daemons, a replicated directory and an application that makes each record durable: no
//! acknowledged record is lost, whatever kills the primary. Needs root.
//!
//! `HAVRE_ROUNDS=50` runs more rounds than the one that each fault gets otherwise.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use havre_core::status::State;
use havre_linux::{
    demo::{spec, workload::Workload},
    lab::pair::{HolderProbe, Pair},
    ledger,
};

const LIMIT: Duration = Duration::from_secs(60);

fn rounds() -> usize {
    std::env::var("HAVRE_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(1)
}

fn whole(pair: &Pair) -> usize {
    let begun = Instant::now();
    loop {
        if let Some(primary) = pair.primary()
            && pair.wait_for(primary, State::Prim, Duration::from_millis(50)).is_ok()
            && pair.wait_for(1 - primary, State::Second, Duration::from_millis(50)).is_ok()
        {
            return primary;
        }
        assert!(begun.elapsed() < LIMIT, "{:?} {:?}", pair.status(0), pair.status(1));
    }
}

/// Looks at both nodes for as long as it lives: the address never has two holders.
struct Watch {
    ending: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Watch {
    fn start(pair: &Pair) -> Self {
        let probes = [0, 1].map(|node| pair.holder_probe(node).expect("the machine exists"));
        let ending = Arc::new(AtomicBool::new(false));
        let end = Arc::clone(&ending);
        let thread = std::thread::spawn(move || {
            let mut looks = 0;
            while !end.load(Ordering::Relaxed) {
                let held = probes.each_ref().map(HolderProbe::holds);
                assert_ne!(held, [true, true], "two holders of the address");
                looks += 1;
                std::thread::sleep(Duration::from_millis(2));
            }
            looks
        });
        Self { ending, thread }
    }

    /// Ends; says how often it looked.
    fn end(self) -> u64 {
        self.ending.store(true, Ordering::Relaxed);
        self.thread.join().expect("never two holders")
    }
}

/// Hurts the primary under load, heals it, and reads every acknowledged record back.
fn nothing_is_lost(hurt: impl Fn(&mut Pair, usize), heal: impl Fn(&mut Pair, usize)) {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let program = PathBuf::from(env!("CARGO_BIN_EXE_havre"));
    let directory = tempfile::tempdir().expect("a temporary directory");
    let spec = spec(directory.path(), &program).expect("a new directory");
    let mut pair = Pair::build(directory.path(), &program, spec).expect("root may build a pair");
    pair.start_all().expect("the pair starts");
    let address: SocketAddr = (pair.virtual_address(), havre_linux::demo::PORT).into();
    let place = pair.lab().client_namespace().expect("a copy of a descriptor");
    let workload = Workload::start(place, address);
    let watch = Watch::start(&pair);
    let mut faults = Vec::new();
    for round in 0..rounds() {
        assert!(workload.wait_for(100, LIMIT), "round {round}: nobody answers before the fault");
        let primary = whole(&pair);
        faults.push(Instant::now());
        hurt(&mut pair, primary);
        pair.wait_for_one_of(1 - primary, &[State::Alone, State::Prim], LIMIT)
            .expect("the other node takes over");
        assert!(workload.wait_for(100, LIMIT), "round {round}: nobody answers after the fault");
        heal(&mut pair, primary);
        whole(&pair);
    }
    let seen = workload.stop();
    let looks = watch.end();
    let found = pair
        .lab()
        .as_client(|| ledger::Client::connect(address, Duration::from_secs(10))?.read())
        .expect("the application can be read back");
    let lost: Vec<u64> = seen.lost(&found).collect();
    assert!(lost.is_empty(), "{} of {} lost: {lost:?}", lost.len(), seen.acknowledged.len());
    assert!(seen.acknowledged.len() >= 200, "{} acknowledged", seen.acknowledged.len());
    faults.push(Instant::now());
    let gaps: Vec<u128> = (faults.windows(2))
        .map(|round| seen.longest_gap_between(round[0], round[1]).as_millis())
        .collect();
    let acknowledged = seen.acknowledged.len();
    eprintln!(
        "{acknowledged} acknowledged, 0 lost, gaps {gaps:?} ms, {looks} looks at the address"
    );
}

#[test]
fn no_acknowledged_record_is_lost_when_everything_on_the_primary_is_killed() {
    nothing_is_lost(
        |pair, primary| pair.crash(primary).expect("the machine can be killed"),
        |pair, primary| pair.revive(primary).expect("the machine starts again"),
    );
}

#[test]
fn no_acknowledged_record_is_lost_when_the_cable_of_the_primary_is_cut() {
    nothing_is_lost(
        |pair, primary| pair.lab().isolate(primary, 0).expect("it is cut"),
        |pair, primary| pair.lab().repair(primary, 0).expect("it is repaired"),
    );
}

#[test]
fn no_acknowledged_record_is_lost_when_the_daemon_of_the_primary_is_stopped() {
    nothing_is_lost(
        |pair, primary| pair.freeze_daemon(primary, true).expect("the daemon runs"),
        |pair, primary| pair.freeze_daemon(primary, false).expect("the daemon exists"),
    );
}
