//! How long clients of a pair wait when roles change, and what a pair costs while nothing happens:
//! `cargo bench -p havre-linux --bench pair [-- swap|failover|hogs|idle] [ROUNDS]`.
//!
//! Real daemons, a witness and the ledger on a replicated directory, in namespaces; time-out 1 s.
//! With `HAVRE_KEEP=1` the directory with the daemons' traces stays.

use std::{
    fs, io,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use havre_core::status::State;
use havre_linux::{
    demo::{PORT, spec, workload::Workload},
    lab::pair::{Pair, WITNESS},
};

const LIMIT: Duration = Duration::from_secs(60);
/// Time that is looked at for idle processor time, and for failovers under hogs.
const WATCHED: Duration = Duration::from_secs(60);
const HOGS: usize = 16;
/// Clock ticks per second in `/proc/PID/stat`.
const TICKS: f64 = 100.0;

struct Bench {
    pair: Pair,
    address: SocketAddr,
    _directory: tempfile::TempDir,
}

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let rounds = words.iter().find_map(|word| word.parse().ok()).unwrap_or(10);
    let wanted = |part: &str| {
        let named = ["swap", "failover", "hogs", "idle"];
        words.iter().any(|w| w == part) || !words.iter().any(|w| named.contains(&w.as_str()))
    };
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root");
        return Ok(());
    }
    let mut directory = tempfile::tempdir()?;
    if std::env::var_os("HAVRE_KEEP").is_some() {
        directory.disable_cleanup(true);
        println!("traces: {}", directory.path().display());
    }
    let program = PathBuf::from(env!("CARGO_BIN_EXE_havre"));
    let spec = spec(directory.path(), &program)?;
    let mut pair = Pair::build(directory.path(), &program, spec)?;
    pair.start_all()?;
    let address = (pair.virtual_address(), PORT).into();
    let mut bench = Bench { pair, address, _directory: directory };
    if wanted("swap") {
        bench.swap(rounds)?;
    }
    if wanted("failover") {
        bench.failover(rounds)?;
    }
    if wanted("idle") {
        bench.idle()?;
    }
    if wanted("hogs") {
        bench.hogs()?;
    }
    Ok(())
}

impl Bench {
    fn workload(&self) -> Result<Workload> {
        let workload = Workload::start(self.pair.lab().client_namespace()?, self.address);
        if !workload.wait_for(100, LIMIT) {
            bail!("the application does not answer");
        }
        Ok(workload)
    }

    fn whole(&self) -> Result<usize> {
        let begun = Instant::now();
        while begun.elapsed() < LIMIT {
            if let Some(primary) = self.pair.primary()
                && self.pair.wait_for(primary, State::Prim, Duration::from_millis(20)).is_ok()
                && self.pair.wait_for(1 - primary, State::Second, Duration::from_millis(20)).is_ok()
            {
                return Ok(primary);
            }
        }
        bail!("the pair does not become whole: {:?} {:?}", self.pair.status(0), self.pair.status(1))
    }

    /// Planned exchanges of the roles.
    fn swap(&self, rounds: usize) -> Result<()> {
        let mut gaps = Vec::new();
        for _ in 0..rounds {
            let primary = self.whole()?;
            let workload = self.workload()?;
            let begun = Instant::now();
            self.pair.order(primary, "swap")?;
            self.pair.wait_for(1 - primary, State::Prim, LIMIT)?;
            if !workload.wait_for(100, LIMIT) {
                bail!("the application does not answer after the swap");
            }
            gaps.push(workload.stop().longest_gap(begun));
        }
        print("planned swap, service gap", &gaps);
        Ok(())
    }

    /// Everything on the primary is killed and its cable cut.
    fn failover(&mut self, rounds: usize) -> Result<()> {
        let mut gaps = Vec::new();
        for _ in 0..rounds {
            let primary = self.whole()?;
            let workload = self.workload()?;
            let begun = Instant::now();
            self.pair.crash(primary)?;
            self.pair.wait_for_one_of(1 - primary, &[State::Alone, State::Prim], LIMIT)?;
            if !workload.wait_for(100, LIMIT) {
                bail!("the application does not answer after the failover");
            }
            gaps.push(workload.stop().longest_gap(begun));
            self.pair.revive(primary)?;
        }
        self.whole()?;
        print("failover, service gap", &gaps);
        Ok(())
    }

    /// Processor time and memory of each daemon while no client writes.
    fn idle(&self) -> Result<()> {
        self.whole()?;
        // Marks of the last writes are cleared after two checkpoints.
        std::thread::sleep(Duration::from_secs(25));
        let names = ["node1", "node2", "witness"];
        let pids = [0, 1, WITNESS].map(|node| self.pair.daemon_pid(node));
        let before = pids.map(|pid| pid.and_then(cpu));
        let begun = Instant::now();
        std::thread::sleep(WATCHED);
        for (index, name) in names.into_iter().enumerate() {
            let pid = pids[index].with_context(|| format!("{name} does not run"))?;
            let used = cpu(pid).context("it runs")? - before[index].context("it ran")?;
            println!(
                "idle {name}: {:.2} % of a processor, {:.1} MB resident",
                used * 100.0 / begun.elapsed().as_secs_f64(),
                resident(pid)?,
            );
        }
        Ok(())
    }

    /// Whether busy processors cause a failover.
    fn hogs(&self) -> Result<()> {
        let primary = self.whole()?;
        let transitions = || [0, 1].map(|node| self.pair.status(node).map(|s| s.since));
        let before = transitions();
        let ending = Arc::new(AtomicBool::new(false));
        let hogs: Vec<_> = (0..HOGS)
            .map(|_| {
                let ending = Arc::clone(&ending);
                std::thread::spawn(move || while !ending.load(Ordering::Relaxed) {})
            })
            .collect();
        let workload = self.workload()?;
        let begun = Instant::now();
        std::thread::sleep(WATCHED);
        let seen = workload.stop();
        ending.store(true, Ordering::Relaxed);
        for hog in hogs {
            let _ = hog.join();
        }
        let same = transitions() == before && self.pair.primary() == Some(primary);
        println!(
            "{HOGS} busy threads for {} s: {}; longest wait of a client {} ms, {} records",
            WATCHED.as_secs(),
            if same { "no transition" } else { "TRANSITIONS" },
            seen.longest_gap(begun).as_millis(),
            seen.acknowledged.len(),
        );
        Ok(())
    }
}

/// Processor time of a process so far, in seconds.
fn cpu(pid: u32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok());
    Some((ticks(11)? + ticks(12)?) / TICKS)
}

/// Resident memory in MB.
fn resident(pid: u32) -> io::Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|rest| rest.trim().split(' ').next()?.parse::<f64>().ok());
    Ok(kib.unwrap_or(0.0) * 1.024 / 1_000.0)
}

fn print(what: &str, gaps: &[Duration]) {
    let mut gaps: Vec<u128> = gaps.iter().map(Duration::as_millis).collect();
    gaps.sort_unstable();
    let (least, most) = (gaps.first().copied(), gaps.last().copied());
    let median = gaps.get(gaps.len() / 2).copied();
    let [least, median, most] = [least, median, most].map(Option::unwrap_or_default);
    println!("{what}: {least} / {median} / {most} ms (least / median / most of {})", gaps.len());
}
