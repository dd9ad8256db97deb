//! `havre bench`: what replication costs on this machine, as ratios to the plain directory.
//!
//! The same work is done in the plain directory, through the mount alone, and replicated under
//! both contracts, place after place in each round; the median of the rounds counts. Application,
//! source and target share the processors of one machine: ratios understate what two machines
//! reach. Results are kept in docs/performance.md.

mod aio;
mod database;
mod site;
mod work;

use std::{
    ffi::OsString,
    fmt, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use havre_core::ids::NodeId;
use havre_runtime::{
    cluster::{self, Membership},
    transport::tls::StreamSecurity,
};

use self::{
    database::Server,
    site::{Place, Site},
    work::Work,
};
use crate::volume::Security;

/// Two nodes that recognise each other.
const CLUSTER: &str = "<cluster><lans><lan name=\"default\">\
    <node name=\"source\" addr=\"10.77.77.1\"/><node name=\"target\" addr=\"10.77.77.2\"/>\
    </lan></lans></cluster>";

/// Measures the replicated directory against the native one: operations per second natively, and
/// ratios to that through the mount alone and replicated under both contracts.
#[derive(Debug, Parser)]
#[command(name = "havre bench", max_term_width = 100)]
struct Arguments {
    /// Directory on the file system to be measured; what is made in it is removed.
    #[arg(default_value_os_t = std::env::temp_dir())]
    directory: PathBuf,
    /// Directory for the secondary's copy, best on a file system of its own: two copies on one
    /// wait for each other's syncs.
    #[arg(long)]
    target: Option<PathBuf>,
    /// Time per kind of work and place.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Rounds, of which the median counts.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Only works whose name contains this; may be repeated.
    #[arg(long)]
    only: Vec<String>,
    /// Measures write="through" too.
    #[arg(long)]
    through: bool,
    /// Only these columns besides the native one; may be repeated.
    #[arg(long)]
    place: Vec<String>,
    /// Replicates without encryption, to see what that costs.
    #[arg(long)]
    plain: bool,
    /// Does one kind of work in the directory and prints the rate: the measurement's own processes.
    #[arg(long, hide = true)]
    work: Option<String>,
}

/// What is measured, where.
struct Plan {
    directory: PathBuf,
    target: PathBuf,
    time: Duration,
    rounds: u32,
    works: Vec<Work>,
    places: Vec<Place>,
    /// How source (first) and target (second) recognise each other.
    security: (Security, Security),
    /// Starts this program as a process that does one kind of work.
    worker: Vec<OsString>,
}

/// Measures and prints the table. `program`: the words that lead to this function.
///
/// # Errors
/// Not root, or a mount or a stream fails; the text names it.
pub fn run(program: &[OsString], words: &[OsString]) -> Result<ExitCode> {
    let name = OsString::from("havre bench");
    let arguments = match Arguments::try_parse_from(std::iter::once(&name).chain(words)) {
        Ok(arguments) => arguments,
        Err(error) => {
            error.print()?;
            return Ok(ExitCode::from(if error.use_stderr() { 2 } else { 0 }));
        }
    };
    let time = Duration::try_from_secs_f64(arguments.seconds).context("--seconds")?;
    if let Some(name) = &arguments.work {
        let work = Work::ALL.into_iter().find(|work| work.name() == *name);
        let work = work.with_context(|| format!("there is no work called {name}"))?;
        println!("{}", work.measure(&arguments.directory, time)?);
        return Ok(ExitCode::SUCCESS);
    }
    if !rustix::process::geteuid().is_root() {
        bail!("the measurement mounts a file system, which needs root: run it with sudo");
    }
    let security = if arguments.plain {
        (Security::Plain, Security::Plain)
    } else {
        secured().context("TLS")?
    };
    let mut worker = vec![std::env::current_exe().context("this program")?.into_os_string()];
    worker.extend_from_slice(program);
    let absolute = |directory: &Path| {
        fs::canonicalize(directory).with_context(|| directory.display().to_string())
    };
    let directory = absolute(&arguments.directory)?;
    let plan = Plan {
        target: arguments.target.map_or_else(|| Ok(directory.clone()), |t| absolute(&t))?,
        directory,
        time,
        rounds: arguments.rounds,
        works: works(&arguments.only)?,
        places: places(arguments.through, &arguments.place)?,
        security,
        worker,
    };
    println!("{}", machine());
    print!("{}", measure(&plan)?);
    println!("native: operations per second; others: ratio to native. mount: not replicated;");
    println!("second, none: replicated with that contract; thr: write-through. Source, target");
    println!("and application share this machine's processors.");
    Ok(ExitCode::SUCCESS)
}

/// The native directory and the places asked for.
fn places(through: bool, only: &[String]) -> Result<Vec<Place>> {
    let asked = |place: &Place| {
        only.is_empty() || *place == Place::Native || only.contains(&place.name().into())
    };
    let places: Vec<Place> = Place::list(through).into_iter().filter(asked).collect();
    ensure!(places.len() > 1, "nothing to compare: --place fits no column");
    Ok(places)
}

/// The works asked for that can be done here.
fn works(only: &[String]) -> Result<Vec<Work>> {
    let (sqlite, postgresql) = (database::has_sqlite(), Server::is_installed());
    let asked = |work: &Work| only.is_empty() || only.iter().any(|o| work.name().contains(o));
    let possible = |work: &Work| match work {
        Work::Sqlite(_) => sqlite,
        Work::PgBench { .. } => postgresql,
        _ => true,
    };
    let (works, left_out): (Vec<Work>, Vec<Work>) =
        Work::ALL.into_iter().filter(asked).partition(possible);
    for work in left_out {
        println!("left out, not installed: {}", work.name());
    }
    ensure!(!works.is_empty(), "nothing to measure: --only fits no work");
    Ok(works)
}

/// Operations per second of each work in each place.
struct Table {
    places: Vec<Place>,
    rows: Vec<(Work, Vec<f64>)>,
    /// Most memory of this process, with both data paths in it, in each place.
    memory_kib: Vec<u64>,
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:36}", "operations per second")?;
        for place in &self.places {
            write!(f, "{:>11}", place.name())?;
        }
        writeln!(f)?;
        for (work, rates) in &self.rows {
            let native = rates.first().copied().unwrap_or(0.0);
            write!(f, "{:36}{native:>11.0}", work.name())?;
            for rate in rates.iter().skip(1) {
                write!(f, "{:>11.2}", rate / native)?;
            }
            writeln!(f)?;
        }
        write!(f, "{:36}", "most resident memory, MB")?;
        for kib in &self.memory_kib {
            write!(f, "{:>11.1}", *kib as f64 / 1000.0 * 1.024)?;
        }
        writeln!(f)
    }
}

fn measure(plan: &Plan) -> Result<Table> {
    let mut cells = vec![vec![Vec::new(); plan.places.len()]; plan.works.len()];
    let mut memory_kib = vec![0; plan.places.len()];
    for _ in 0..plan.rounds {
        for (column, place) in plan.places.iter().enumerate() {
            // From here on the kernel counts the most anew.
            fs::write("/proc/self/clear_refs", "5").context("/proc/self/clear_refs")?;
            let mut site = Site::open(plan, *place)?;
            for (row, work) in plan.works.iter().enumerate() {
                let context = || format!("{} in {}", work.name(), place.name());
                cells[row][column].push(one(plan, &mut site, *work).with_context(context)?);
                site.settle()?;
            }
            site.close()?;
            memory_kib[column] = memory_kib[column].max(memory_most_kib());
        }
    }
    let median = |mut rates: Vec<f64>| {
        rates.sort_by(f64::total_cmp);
        rates.get(rates.len() / 2).copied().unwrap_or(0.0)
    };
    let rows = plan.works.iter().copied().zip(cells);
    let rows = rows.map(|(work, columns)| (work, columns.into_iter().map(median).collect()));
    Ok(Table { places: plan.places.clone(), rows: rows.collect(), memory_kib })
}

fn one(plan: &Plan, site: &mut Site, work: Work) -> Result<f64> {
    match work {
        Work::Sqlite(journal) => database::sqlite(site.directory(), journal, plan.time),
        Work::PgBench { clients } => site.server()?.measure(clients, plan.time),
        _ => in_process(plan, site.directory(), work),
    }
}

fn in_process(plan: &Plan, directory: &Path, work: Work) -> Result<f64> {
    let [program, words @ ..] = &plan.worker[..] else { bail!("the program has a name") };
    let seconds = plan.time.as_secs_f64().to_string();
    let mut command = Command::new(program);
    command.args(words).arg(directory).args(["--seconds", &seconds, "--work", &work.name()]);
    let done = command.stderr(Stdio::inherit()).output()?;
    ensure!(done.status.success(), "its process failed: {}", done.status);
    Ok(String::from_utf8_lossy(&done.stdout).trim().parse()?)
}

/// The most memory that this process has had resident since the count was cleared.
fn memory_most_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|rest| rest.trim().split(' ').next()?.parse().ok()).unwrap_or(0)
}

/// Certificates of a cluster that exists for this run only.
fn secured() -> Result<(Security, Security)> {
    let made = cluster::create(Path::new("cluster.xml"), CLUSTER, "source", now_ms())?;
    let other = made.others.into_iter().next().context("no second node")?;
    let (source, target) = (made.own, Membership::of(other)?);
    let (to_target, to_source) = (target.node(), source.node());
    Ok((
        security(&source.stream_security()?, to_target)?,
        security(&target.stream_security()?, to_source)?,
    ))
}

fn security(streams: &StreamSecurity, peer: NodeId) -> Result<Security> {
    let peer = streams.name_of(peer).context("the peer's name")?;
    Ok(Security::Tls { client: streams.client(), server: streams.server(), peer })
}

fn now_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    u64::try_from(now.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

/// The machine in one line.
fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).map(str::to_owned);
        line.and_then(|l| l.split_once(':').map(|(_, v)| v.trim().to_owned())).unwrap_or_default()
    };
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    format!(
        "Linux {}, {processors} processors {}, memory {}, load {}",
        read("/proc/sys/kernel/osrelease").trim(),
        field(&read("/proc/cpuinfo"), "model name"),
        field(&read("/proc/meminfo"), "MemTotal"),
        read("/proc/loadavg").trim()
    )
}
