//! Real databases: SQLite's shell with one row per transaction, PostgreSQL with its own benchmark.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use super::work::Journal;
use crate::demo::postgresql::{OWNER, PostgreSql, data_in, output};

/// Rows of pgbench's largest table, in units of 100 000.
const SCALE: &str = "10";
/// Shortest run of pgbench: connections take part of it.
const PGBENCH_MIN: Duration = Duration::from_secs(3);

/// Whether SQLite's shell is installed.
pub(super) fn has_sqlite() -> bool {
    Command::new("sqlite3").arg("-version").output().is_ok_and(|done| done.status.success())
}

/// Transactions per second.
pub(super) fn sqlite(directory: &Path, journal: Journal, time: Duration) -> Result<f64> {
    let (mode, synchronous, per_second) = match journal {
        Journal::WalFull => ("wal", "full", 2_000.0),
        Journal::WalNormal => ("wal", "normal", 60_000.0),
        Journal::Delete => ("delete", "full", 500.0),
    };
    let database = directory.join(format!("{mode}-{synchronous}.sqlite"));
    let table = format!("pragma journal_mode={mode}; create table t (id integer, text text);");
    shell(&database, &table)?;
    let rows = (per_second * time.as_secs_f64()).max(100.0) as u32;
    let mut orders = format!("pragma synchronous={synchronous};\n");
    for row in 0..rows {
        orders.push_str(&format!("insert into t values ({row}, '{:0100}');\n", row));
    }
    let begun = Instant::now();
    shell(&database, &orders)?;
    Ok(f64::from(rows) / begun.elapsed().as_secs_f64())
}

fn shell(database: &Path, orders: &str) -> Result<()> {
    let mut shell = Command::new("sqlite3");
    shell.args(["-batch", "-bail"]).arg(database).stdin(Stdio::piped()).stdout(Stdio::null());
    let mut shell = shell.spawn().context("sqlite3")?;
    let mut input = shell.stdin.take().context("no standard input")?;
    // It ends early only with an error, which is seen below.
    let _ = input.write_all(orders.as_bytes());
    drop(input);
    ensure!(shell.wait()?.success(), "sqlite3 failed on {}", database.display());
    Ok(())
}

/// A running server with pgbench's tables.
pub(super) struct Server {
    postgresql: PostgreSql,
    data: PathBuf,
    sockets: PathBuf,
}

impl Server {
    /// Whether pgbench can be run.
    pub(super) fn is_installed() -> bool {
        PostgreSql::installed().is_some_and(|found| found.bin().join("pgbench").is_file())
    }

    /// Makes a database below `directory` and starts it; its sockets are in `outside`.
    pub(super) fn start(directory: &Path, outside: &Path) -> Result<Self> {
        let postgresql = PostgreSql::installed().context("PostgreSQL is not installed")?;
        postgresql.create(directory)?;
        let data = data_in(directory);
        let sockets = outside.join("sockets");
        fs::create_dir_all(&sockets)?;
        output(Command::new("chown").arg(OWNER).arg(&sockets))?;
        let options = format!("-k {} -c listen_addresses=", sockets.display());
        let mut start = postgresql.as_owner("pg_ctl");
        start.args(["start", "-w", "-s", "-o", &options, "-D"]).arg(&data);
        // The server inherits them, and a pipe would never end.
        start.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        ensure!(start.status().context("pg_ctl")?.success(), "PostgreSQL does not start");
        let server = Self { postgresql, data, sockets };
        output(server.pgbench().args(["-i", "-q", "-s", SCALE]))?;
        Ok(server)
    }

    fn pgbench(&self) -> Command {
        let mut command = self.postgresql.as_owner("pgbench");
        command.arg("-h").arg(&self.sockets).env("PGDATABASE", "postgres");
        command
    }

    /// Transactions per second.
    pub(super) fn measure(&self, clients: u32, time: Duration) -> Result<f64> {
        let seconds = time.max(PGBENCH_MIN).as_secs_f64().ceil().to_string();
        let clients = clients.to_string();
        let said = output(self.pgbench().args(["-n", "-c", &clients, "-j", "1", "-T", &seconds]))?;
        let tps = said.lines().find_map(|line| line.strip_prefix("tps = "));
        let tps = tps.and_then(|rest| rest.split(' ').next()?.parse().ok());
        let Some(tps) = tps else { bail!("pgbench says no rate: {said}") };
        Ok(tps)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let mut stop = self.postgresql.as_owner("pg_ctl");
        stop.args(["stop", "-w", "-s", "-m", "fast", "-D"]).arg(&self.data);
        if let Err(error) = output(&mut stop) {
            tracing::warn!(%error, "PostgreSQL does not stop");
        }
    }
}
