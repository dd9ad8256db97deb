//! Real daemons and a real PostgreSQL under the real `pgbench` with several clients: whatever
//! kills the primary, every transaction that `pgbench` logged as done is there, the sums agree,
//! and no page is damaged. Needs root and PostgreSQL.
//!
//! Each transaction is that of TPC-B and one more row, numbered by client and run, so that every
//! single acknowledgement can be checked. `HAVRE_ROUNDS=10` fails over that often, instead of once.

use std::{
    collections::BTreeSet,
    fs,
    net::IpAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use havre_core::status::State;
use havre_linux::{
    demo::{PORT, application::Application, postgresql::PostgreSql, workload::Workload},
    lab::{ClientNamespace, pair::Pair},
};

const LIMIT: Duration = Duration::from_secs(120);
const CLIENTS: u32 = 4;
/// Seconds of one run of `pgbench`: what it did is known when it has ended.
const RUN_SECONDS: u32 = 3;
const SCALE: u32 = 2;
/// A run that ends sooner found no server.
const REFUSED: Duration = Duration::from_millis(100);

/// TPC-B as `pgbench` has it, and the row by which a transaction is found again.
const TRANSACTION: &str = "\
\\set aid random(1, 100000 * :scale)
\\set bid random(1, 1 * :scale)
\\set tid random(1, 10 * :scale)
\\set delta random(-5000, 5000)
BEGIN;
UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :aid;
SELECT abalance FROM pgbench_accounts WHERE aid = :aid;
UPDATE pgbench_tellers SET tbalance = tbalance + :delta WHERE tid = :tid;
UPDATE pgbench_branches SET bbalance = bbalance + :delta WHERE bid = :bid;
INSERT INTO pgbench_history (tid, bid, aid, delta, mtime)
  VALUES (:tid, :bid, :aid, :delta, CURRENT_TIMESTAMP);
INSERT INTO done (run, client, number) VALUES (:run, :client_id, :number);
END;
\\set number :number + 1
";

fn rounds() -> usize {
    std::env::var("HAVRE_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(1)
}

/// A transaction: run, client, number.
type Done = (u32, u32, u64);

/// Programs of PostgreSQL that talk to the server at the virtual address.
#[derive(Clone)]
struct Programs {
    bin: PathBuf,
    address: IpAddr,
    directory: PathBuf,
}

impl Programs {
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        command.current_dir(&self.directory).stdin(Stdio::null());
        command
    }

    /// A dead server is noticed by what it does not acknowledge.
    fn connection(&self) -> String {
        format!(
            "host={} port={PORT} user=postgres dbname=postgres connect_timeout=2 \
             tcp_user_timeout=1000",
            self.address
        )
    }

    fn ask(&self, query: &str) -> String {
        let mut psql = self.command("psql");
        psql.args(["-X", "-A", "-t", "-c", query]).arg(self.connection());
        let done = psql.output().expect("psql runs");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8_lossy(&done.stdout).trim().to_owned()
    }

    fn prepare(&self) {
        let mut make = self.command("pgbench");
        make.args(["-i", "-q", "-s", &SCALE.to_string()]).arg(self.connection());
        let made = make.output().expect("pgbench runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        self.ask("CREATE TABLE done (run int, client int, number bigint)");
        fs::write(self.directory.join("transaction.sql"), TRANSACTION).expect("a new file");
    }

    /// One run; connections may break in it.
    fn run(&self, run: u32) {
        let mut bench = self.command("pgbench");
        bench.args(["-n", "-l", "-c", &CLIENTS.to_string(), "-j", "2"]);
        bench.args(["-T", &RUN_SECONDS.to_string(), "-f", "transaction.sql"]);
        bench.args(["-D", &format!("run={run}"), "-D", "number=1"]);
        bench.args(["-D", &format!("scale={SCALE}"), "--log-prefix", &format!("run{run}")]);
        bench.arg(self.connection()).stdout(Stdio::null()).stderr(Stdio::null());
        bench.status().expect("pgbench runs");
    }
}

/// Runs of `pgbench`, one after the other, until told to end.
struct Load {
    ending: Arc<AtomicBool>,
    thread: JoinHandle<u32>,
}

impl Load {
    fn start(programs: Programs, place: ClientNamespace) -> Self {
        let ending = Arc::new(AtomicBool::new(false));
        let end = Arc::clone(&ending);
        let thread = std::thread::spawn(move || {
            place.move_in().expect("root may enter a namespace that it made");
            let mut run = 0;
            while !end.load(Ordering::Relaxed) {
                let begun = Instant::now();
                programs.run(run);
                run += 1;
                if begun.elapsed() < REFUSED {
                    std::thread::sleep(REFUSED);
                }
            }
            run
        });
        Self { ending, thread }
    }

    fn end(self) -> u32 {
        self.ending.store(true, Ordering::Relaxed);
        self.thread.join().expect("pgbench can be started")
    }
}

/// What `pgbench` logged as done: `client transaction time script seconds microseconds`, where
/// the transactions of a client are numbered from 1.
fn acknowledged(directory: &Path) -> BTreeSet<Done> {
    let mut all = BTreeSet::new();
    for entry in fs::read_dir(directory).expect("our own").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(rest) = name.strip_prefix("run") else { continue };
        let run = rest.split('.').next().and_then(|run| run.parse().ok()).expect("a number");
        for line in fs::read_to_string(entry.path()).expect("readable").lines() {
            let mut words = line.split(' ');
            let mut word = || words.next().and_then(|word| word.parse::<u64>().ok());
            // A line that was cut is no acknowledgement.
            let (Some(client), Some(number), Some(_)) = (word(), word(), word()) else { continue };
            all.insert((run, u32::try_from(client).expect("few clients"), number));
        }
    }
    all
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

/// Hurts the primary in the way of this round, waits for the other node, heals.
fn fail_over(pair: &mut Pair, round: usize, workload: &Workload) {
    let primary = whole(pair);
    let fault = ["everything killed", "cable cut", "daemon stopped"][round % 3];
    let begun = Instant::now();
    match round % 3 {
        0 => pair.crash(primary).expect("the machine can be killed"),
        1 => pair.lab().isolate(primary, 0).expect("it is cut"),
        _ => pair.freeze_daemon(primary, true).expect("the daemon runs"),
    }
    pair.wait_for_one_of(1 - primary, &[State::Alone, State::Prim], LIMIT)
        .expect("the other node takes over");
    assert!(workload.wait_for(100, LIMIT), "round {round}: no commits after the fault");
    eprintln!("round {round}: {fault}: 100 rows {} ms later", begun.elapsed().as_millis());
    match round % 3 {
        0 => pair.revive(primary).expect("the machine starts again"),
        1 => pair.lab().repair(primary, 0).expect("it is repaired"),
        _ => pair.freeze_daemon(primary, false).expect("the daemon exists"),
    }
    whole(pair);
}

/// Every acknowledged transaction is there, and the sums of TPC-B agree.
fn verify(pair: &Pair, programs: &Programs) -> usize {
    let done = acknowledged(&programs.directory);
    let rows = pair.lab().as_client(|| programs.ask("SELECT run, client, number FROM done"));
    let found: BTreeSet<Done> = (rows.lines())
        .map(|row| {
            let mut parts = row.split('|').map(|part| part.parse::<u64>().expect("a number"));
            let mut part = || parts.next().expect("three columns");
            let (run, client) = (part(), part());
            (run as u32, client as u32, part())
        })
        .collect();
    assert_eq!(found.len(), rows.lines().count(), "no transaction is there twice");
    let lost: Vec<&Done> = done.difference(&found).collect();
    assert!(lost.is_empty(), "{} of {} lost: {lost:?}", lost.len(), done.len());
    let sums = pair.lab().as_client(|| {
        programs.ask(
            "SELECT (SELECT sum(abalance) FROM pgbench_accounts), \
             (SELECT sum(tbalance) FROM pgbench_tellers), \
             (SELECT sum(bbalance) FROM pgbench_branches), \
             (SELECT coalesce(sum(delta), 0) FROM pgbench_history)",
        )
    });
    let sums: Vec<&str> = sums.split('|').collect();
    assert!(sums.iter().all(|sum| *sum == sums[0]), "{sums:?}");
    let history = pair.lab().as_client(|| programs.ask("SELECT count(*) FROM pgbench_history"));
    assert_eq!(history, found.len().to_string(), "each row has its transaction");
    done.len()
}

#[test]
fn no_transaction_that_pgbench_saw_done_is_lost_when_the_primary_fails() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let Some(server) = PostgreSql::installed().filter(|s| s.bin().join("pgbench").is_file()) else {
        eprintln!("skipped: needs PostgreSQL with pgbench (apt install postgresql)");
        return;
    };
    let bin = server.bin().to_owned();
    let application = Application::PostgreSql(server);
    let program = PathBuf::from(env!("CARGO_BIN_EXE_havre"));
    let directory = tempfile::tempdir().expect("a temporary directory");
    // The server runs as a user of its own.
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("our own");
    let spec = application.spec(directory.path(), &program).expect("a new directory");
    let mut pair = Pair::build(directory.path(), &program, spec).expect("root may build a pair");
    application.prepare(&pair.disk(0)).expect("a new database");
    pair.start_all().expect("the pair starts");
    let logs = tempfile::tempdir().expect("a temporary directory");
    let address = pair.virtual_address();
    let programs = Programs { bin, address, directory: logs.path().to_owned() };
    pair.lab().as_client(|| programs.prepare());
    let place = || pair.lab().client_namespace().expect("a copy of a descriptor");
    let load = Load::start(programs.clone(), place());
    let workload = Workload::start_with(place(), application.client(address));
    for round in 0..rounds() {
        assert!(workload.wait_for(100, LIMIT), "round {round}: no commits before the fault");
        fail_over(&mut pair, round, &workload);
    }
    let runs = load.end();
    workload.stop();
    let done = verify(&pair, &programs);
    assert!(done >= 100, "{done} transactions are hardly a load");
    eprintln!("{done} transactions in {runs} runs of pgbench acknowledged, 0 lost");
    eprintln!("{}", application.verify(&pair).expect("no page is damaged"));
}
