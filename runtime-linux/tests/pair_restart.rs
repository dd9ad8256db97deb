//! The daemon of the primary dies alone: restarted in time, its application has seen a pause and
//! nothing else; otherwise the guard ends the service and the other node takes over. Needs root.

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant, SystemTime},
};

use havre_core::status::State;
use havre_linux::{
    demo::{PORT, spec, workload::Workload},
    lab::pair::{HolderProbe, MODULE, Pair},
    ledger,
};

const LIMIT: Duration = Duration::from_secs(60);
/// Silence after which a node is given up: time enough for a restart on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(4);

struct Scene {
    pair: Pair,
    workload: Workload,
    address: SocketAddr,
    _directory: tempfile::TempDir,
}

impl Scene {
    fn start() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return None;
        }
        let program = PathBuf::from(env!("CARGO_BIN_EXE_havre"));
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut spec = spec(directory.path(), &program).expect("a new directory");
        spec.timeout = TIMEOUT;
        let mut pair = Pair::build(directory.path(), &program, spec).expect("root may build it");
        pair.start_all().expect("the pair starts");
        let address: SocketAddr = (pair.virtual_address(), PORT).into();
        let place = pair.lab().client_namespace().expect("a copy of a descriptor");
        let workload = Workload::start(place, address);
        assert!(workload.wait_for(100, LIMIT), "nobody answers before the fault");
        Some(Self { pair, workload, address, _directory: directory })
    }

    /// The process of the application on a node, and when its script noted it.
    fn application(&self, node: usize) -> (String, SystemTime) {
        let path = self.pair.state_dir(node).join("var").join(MODULE).join("pid");
        let noted = fs::metadata(&path).and_then(|about| about.modified());
        (fs::read_to_string(&path).unwrap_or_default(), noted.expect("start_prim noted it"))
    }

    /// Every acknowledged record is read back; returns the longest pause since `fault`.
    fn nothing_is_lost(self, fault: Instant) -> Duration {
        let seen = self.workload.stop();
        let read = || ledger::Client::connect(self.address, Duration::from_secs(10))?.read();
        let found = self.pair.lab().as_client(read).expect("it can be read back");
        let lost: Vec<u64> = seen.lost(&found).collect();
        assert!(lost.is_empty(), "{} of {} lost: {lost:?}", lost.len(), seen.acknowledged.len());
        seen.longest_gap(fault)
    }
}

/// Looks at both nodes until told to end: never two holders of the address.
fn watch(probes: &[HolderProbe; 2], ending: &AtomicBool, looks: &AtomicU64) {
    while !ending.load(Ordering::Relaxed) {
        let held = probes.each_ref().map(HolderProbe::holds);
        assert_ne!(held, [true, true], "two holders of the address");
        looks.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn watched(scene: &mut Scene, fault: impl FnOnce(&mut Scene)) {
    let probes = [0, 1].map(|node| scene.pair.holder_probe(node).expect("the machine exists"));
    let (ending, looks) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let watching = scope.spawn(|| watch(&probes, &ending, &looks));
        fault(scene);
        ending.store(true, Ordering::Relaxed);
        watching.join().expect("never two holders");
    });
    assert!(looks.into_inner() > 10, "hardly looked");
}

#[test]
fn an_application_sees_only_a_pause_when_its_daemon_is_killed_and_restarted() {
    let Some(mut scene) = Scene::start() else { return };
    let before = scene.application(0);
    let fault = Instant::now();
    watched(&mut scene, |scene| {
        scene.pair.kill_daemon(0).expect("the daemon runs");
        scene.pair.start(0).expect("it starts again");
        let limit = scene.workload.wait_for(100, LIMIT);
        assert!(
            limit,
            "nobody answers again: {:?} {:?}",
            scene.pair.status(0),
            scene.pair.status(1)
        );
        scene.pair.wait_for(0, State::Prim, LIMIT).expect("it goes on as primary");
        scene.pair.wait_for(1, State::Second, LIMIT).expect("its peer follows again");
    });
    assert_eq!(scene.application(0), before, "the application was started anew");
    assert!(scene.workload.wait_for(100, LIMIT), "nobody answers in the end");
    let pause = scene.nothing_is_lost(fault);
    eprintln!("pause {} ms", pause.as_millis());
    assert!(pause < TIMEOUT * 2, "{pause:?}");
}

#[test]
fn the_guard_ends_the_service_of_a_daemon_that_stays_away_and_the_peer_takes_over() {
    let Some(mut scene) = Scene::start() else { return };
    let fault = Instant::now();
    watched(&mut scene, |scene| {
        scene.pair.kill_daemon(0).expect("the daemon runs");
        scene.pair.wait_for(1, State::Alone, LIMIT).expect("the peer takes over");
        assert!(scene.workload.wait_for(100, LIMIT), "nobody answers after the takeover");
        scene.pair.start(0).expect("it starts again");
        scene.pair.wait_for(0, State::Second, LIMIT).expect("it follows");
        scene.pair.wait_for(1, State::Prim, LIMIT).expect("the peer goes on");
    });
    assert!(scene.workload.wait_for(100, LIMIT), "nobody answers in the end");
    let pause = scene.nothing_is_lost(fault);
    eprintln!("service gap {} ms", pause.as_millis());
}
