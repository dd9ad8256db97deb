//! `havre bench`: what replication costs on this machine, as ratios to the plain directory.

use std::{ffi::OsString, fs, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context, Result, bail};
use clap::Parser;
use havre_core::ids::NodeId;
use havre_runtime::{
    cluster::{self, Membership},
    transport::tls::StreamSecurity,
};

use crate::volume::{Security, bench};

/// Two nodes that recognise each other.
const CLUSTER: &str = "<cluster><lans><lan name=\"default\">\
    <node name=\"source\" addr=\"127.0.0.1\"/><node name=\"target\" addr=\"127.0.0.1\"/>\
    </lan></lans></cluster>";

/// Measures the replicated directory against the native one: operations per second natively, and
/// ratios to that through the mount alone and replicated under both contracts.
#[derive(Debug, Parser)]
#[command(name = "havre bench", max_term_width = 100)]
struct Arguments {
    /// Directory on the file system to be measured; what is made in it is removed.
    #[arg(default_value_os_t = std::env::temp_dir())]
    directory: PathBuf,
    /// Time per kind of work and place.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Rounds, of which the median counts.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Replicates without encryption, to see what that costs.
    #[arg(long)]
    plain: bool,
}

/// Measures and prints the table.
///
/// # Errors
/// Not root, or a mount or a stream fails; the text names it.
pub fn run(words: &[OsString]) -> Result<ExitCode> {
    let name = OsString::from("havre bench");
    let arguments = match Arguments::try_parse_from(std::iter::once(&name).chain(words)) {
        Ok(arguments) => arguments,
        Err(error) => {
            error.print()?;
            return Ok(ExitCode::from(if error.use_stderr() { 2 } else { 0 }));
        }
    };
    if !rustix::process::geteuid().is_root() {
        bail!("the measurement mounts a file system, which needs root: run it with sudo");
    }
    let time = Duration::try_from_secs_f64(arguments.seconds).context("--seconds")?;
    let security = if arguments.plain {
        (Security::Plain, Security::Plain)
    } else {
        secured().context("TLS")?
    };
    let plan =
        bench::Plan { directory: arguments.directory, time, rounds: arguments.rounds, security };
    println!("{}", machine());
    let table = bench::run(&plan).map_err(anyhow::Error::msg)?;
    print!("{table}");
    println!("native: operations per second; others: ratio to native. second, none: contracts;");
    println!("thr: write-through. Source and target share this machine's processors.");
    Ok(ExitCode::SUCCESS)
}

/// Certificates of a cluster that exists for this run only.
fn secured() -> Result<(Security, Security)> {
    let made = cluster::create(std::path::Path::new("cluster.xml"), CLUSTER, "source", now_ms())?;
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
