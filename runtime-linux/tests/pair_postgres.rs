//! Real daemons and a real PostgreSQL under a client that commits row after row: every failover
//! keeps every acknowledged transaction, and no page is damaged. Needs root and PostgreSQL.
//!
//! `HAVRE_ROUNDS=10` fails over that often, instead of once.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    time::{Duration, Instant},
};

use havre_core::status::State;
use havre_linux::{
    demo::{application::Application, postgresql::PostgreSql, read_back, workload::Workload},
    lab::pair::Pair,
};

const LIMIT: Duration = Duration::from_secs(120);

fn rounds() -> usize {
    std::env::var("HAVRE_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(1)
}

/// Waits until both nodes serve; returns the primary.
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

#[test]
fn no_acknowledged_transaction_is_lost_when_the_primary_dies() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let Some(server) = PostgreSql::installed() else {
        eprintln!("skipped: needs PostgreSQL (apt install postgresql)");
        return;
    };
    let application = Application::PostgreSql(server);
    let program = PathBuf::from(env!("CARGO_BIN_EXE_havre"));
    let directory = tempfile::tempdir().expect("a temporary directory");
    // The server runs as a user of its own.
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("our own");
    let spec = application.spec(directory.path(), &program).expect("a new directory");
    let mut pair = Pair::build(directory.path(), &program, spec).expect("root may build a pair");
    application.prepare(&pair.disk(0)).expect("a new database");
    pair.start_all().expect("the pair starts");
    let place = pair.lab().client_namespace().expect("a copy of a descriptor");
    let workload = Workload::start_with(place, application.client(pair.virtual_address()));
    for round in 0..rounds() {
        assert!(workload.wait_for(100, LIMIT), "round {round}: no commits before the fault");
        let primary = whole(&pair);
        let fault_at = Instant::now();
        pair.crash(primary).expect("the machine can be killed");
        pair.wait_for_one_of(1 - primary, &[State::Alone, State::Prim], LIMIT)
            .expect("the other node takes over");
        assert!(workload.wait_for(100, LIMIT), "round {round}: no commits after the fault");
        eprintln!("round {round}: 100 commits {} ms after", fault_at.elapsed().as_millis());
        pair.revive(primary).expect("the machine starts again");
        whole(&pair);
    }
    let seen = workload.stop();
    let found = read_back(&pair, &application).expect("the database can be read");
    let lost: Vec<u64> = seen.lost(&found).collect();
    assert!(lost.is_empty(), "{} of {} lost: {lost:?}", lost.len(), seen.acknowledged.len());
    assert!(seen.acknowledged.len() >= 200, "{} acknowledged", seen.acknowledged.len());
    eprintln!("{} acknowledged, 0 lost", seen.acknowledged.len());
    eprintln!("{}", application.verify(&pair).expect("no page is damaged"));
}
