//! `havre demo`: a pair and a witness on this machine, a client that writes, a primary that dies,
//! and the count of what was lost.
//!
//! Everything runs in namespaces of its own ([`crate::lab`]). Without root the same faults run in
//! the simulator.

pub mod application;
pub mod postgresql;
mod report;
mod simulated;
pub mod workload;

use std::{
    io::Read,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use havre_core::status::State;
use havre_runtime::cli::DemoArgs;

use crate::lab::pair::{Pair, PairSpec};
use application::Application;
use report::{Report, Round};
use workload::{Seen, Workload};

/// Port of the application.
pub const PORT: u16 = 7000;
/// Silence after which the nodes of the demonstration give each other up.
const TIMEOUT: Duration = Duration::from_secs(1);
const PULSE: Duration = Duration::from_millis(100);
/// Records acknowledged before and after each fault.
const RECORDS: u64 = 500;
/// How long anything of the demonstration may take.
const LIMIT: Duration = Duration::from_secs(60);

/// Runs the demonstration. The exit code is not zero if an acknowledged write was lost.
///
/// # Errors
/// The cluster does not come up; the text names the trace of the daemon concerned.
pub fn run(args: &DemoArgs) -> Result<ExitCode> {
    if !rustix::process::geteuid().is_root() {
        return simulated::run();
    }
    let application = Application::choose(args.ledger);
    let directory = Directory::create()?;
    let program = std::env::current_exe().context("the path of this program")?;
    say(&format!("the application is {}", application.name()));
    say("building two nodes and a witness in network namespaces");
    let spec = application.spec(&directory.path, &program)?;
    let mut pair = Pair::build(&directory.path, &program, spec)?;
    application.prepare(&pair.disk(0))?;
    say("starting the daemons; node1 becomes primary, node2 copies its data");
    pair.start_all()?;
    say(&format!("the application answers at the virtual address {}", pair.virtual_address()));
    let report = rounds(&mut pair, &application, args.rounds)?;
    print!("{report}");
    if args.keep {
        keep(&pair, &directory)?;
    }
    application.verify(&pair)?.lines().for_each(say);
    drop(pair);
    Ok(if report.lost() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn say(text: &str) {
    println!("demo: {text}");
}

/// A directory that is removed at the end.
struct Directory {
    path: PathBuf,
}

impl Directory {
    fn create() -> Result<Self> {
        let name = format!("havre-demo-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).with_context(|| path.display().to_string())?;
        Ok(Self { path })
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // What cannot be removed is in the directory for temporary files.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// What the pair of the demonstration runs: a ledger on a replicated directory, which is made in
/// `directory`.
///
/// # Errors
/// The directory cannot be made.
pub fn spec(directory: &Path, program: &Path) -> Result<PairSpec> {
    let data = directory.join("data");
    std::fs::create_dir(&data).with_context(|| data.display().to_string())?;
    let start = format!(
        "#!/bin/sh\n\
         # The application: appends lines durably. It goes on in the background.\n\
         {} ledger $DATA/ledger 0.0.0.0:{PORT} &\n\
         echo $! > $SAFEUSERVAR/pid\n",
        program.display()
    );
    let stop = "#!/bin/sh\n\
         [ -r $SAFEUSERVAR/pid ] || exit 0\n\
         kill $(cat $SAFEUSERVAR/pid) 2>/dev/null\n\
         rm -f $SAFEUSERVAR/pid\n"
        .to_owned();
    Ok(PairSpec {
        timeout: TIMEOUT,
        pulse: PULSE,
        variables: vec![("DATA".to_owned(), data.display().to_string())],
        replicated: Some(data),
        scripts: vec![("start_prim".to_owned(), start), ("stop_prim".to_owned(), stop)],
    })
}

/// Kills the primary a number of times under load and reads everything back at the end.
fn rounds(pair: &mut Pair, application: &Application, count: u32) -> Result<Report> {
    let address = pair.virtual_address();
    let place = pair.lab().client_namespace()?;
    let workload = Workload::start_with(place, application.client(address));
    let mut rounds = Vec::new();
    for number in 1..=count {
        rounds.push(round(pair, &workload, number)?);
    }
    let seen = workload.stop();
    say("reading every acknowledged record back");
    let found = read_back(pair, application)?;
    for round in &mut rounds {
        round.gap = seen.longest_gap_between(round.fault_at, round.whole_at);
    }
    Ok(Report::new(&seen, &found, rounds))
}

fn round(pair: &mut Pair, workload: &Workload, number: u32) -> Result<Round> {
    await_records(workload, "before the fault")?;
    let primary = pair.primary().context("exactly one node should be primary")?;
    let name = |node: usize| format!("node{}", node + 1);
    say(&format!(
        "round {number}: {} records acknowledged; killing everything on {} and cutting its cable",
        workload.acknowledged(),
        name(primary)
    ));
    let fault_at = Instant::now();
    pair.crash(primary)?;
    let other = 1 - primary;
    pair.wait_for(other, State::Alone, LIMIT)?;
    say(&format!("{} has taken over after {} ms", name(other), fault_at.elapsed().as_millis()));
    await_records(workload, "after the takeover")?;
    say(&format!("bringing {} back: it copies what changed meanwhile", name(primary)));
    pair.revive(primary)?;
    let copied = follow_resync(pair, other, primary)?;
    say(&format!("{} is up to date again", name(primary)));
    await_records(workload, "after the resynchronisation")?;
    Ok(Round { fault_at, whole_at: Instant::now(), gap: Duration::ZERO, copied })
}

fn await_records(workload: &Workload, when: &str) -> Result<()> {
    if workload.wait_for(RECORDS, LIMIT) {
        return Ok(());
    }
    bail!("the application acknowledges no more records {when}")
}

/// Shows the progress of a resynchronisation until both nodes are whole; says how many bytes were
/// copied.
fn follow_resync(pair: &Pair, source: usize, target: usize) -> Result<u64> {
    let begun = Instant::now();
    loop {
        let status = pair.status(target);
        if let Some(progress) = status.as_ref().and_then(|status| status.resync) {
            let percent = progress.bytes_done * 100 / progress.bytes_total.max(1);
            say(&format!("resynchronising: {percent} %, {} bytes copied", progress.bytes_copied));
        }
        if status.is_some_and(|s| s.state == State::Second && s.up_to_date) {
            pair.wait_for(source, State::Prim, LIMIT)?;
            return pair.bytes_resynchronised(target);
        }
        if begun.elapsed() > LIMIT {
            bail!("not up to date in time; see {}", pair.trace_file(target).display());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Every record that the application has now.
///
/// # Errors
/// It does not answer.
pub fn read_back(pair: &Pair, application: &Application) -> Result<Vec<String>> {
    let connect = application.client(pair.virtual_address());
    pair.lab()
        .as_client(move || connect(Duration::from_secs(10))?.read())
        .context("the application cannot be read back")
}

/// Leaves everything running until the user has seen enough.
fn keep(pair: &Pair, directory: &Directory) -> Result<()> {
    say("the cluster runs on. From another terminal, as root:");
    for node in 0..2 {
        let machine = pair.lab().machine(node);
        let Some(first) = machine.first_process() else { continue };
        println!(
            "  {}: nsenter -n -m -p -t {first} {} --state-dir {} state",
            machine.name(),
            std::env::current_exe()?.display(),
            pair.state_dir(node).display()
        );
    }
    say(&format!("files are in {}; press Enter to end", directory.path.display()));
    // The end of the input ends the demonstration too.
    let _ = std::io::stdin().read(&mut [0])?;
    Ok(())
}
