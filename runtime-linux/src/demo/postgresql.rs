//! PostgreSQL as the application of a demonstration or a test: the module's own scripts, a new
//! database with data checksums, and a client that inserts one row per transaction.

mod client;

use std::{
    io::Write,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use havre_core::status::State;

use super::{PORT, workload::Connect};
use crate::lab::pair::Pair;
use client::Client;

/// Where Debian keeps one directory per version.
const VERSIONS: &str = "/usr/lib/postgresql";
/// The system user and the database user.
pub(crate) const OWNER: &str = "postgres";
/// How long the service may take to stop.
const STOP_LIMIT: Duration = Duration::from_secs(60);

const FUNCTIONS: &str = include_str!("../../../modules/postgresql/bin/postgresql.sh");
const PRESTART: &str = include_str!("../../../modules/postgresql/bin/prestart");
const START: &str = include_str!("../../../modules/postgresql/bin/start_prim");
const STOP: &str = include_str!("../../../modules/postgresql/bin/stop_prim");

/// An installed PostgreSQL.
#[derive(Debug, Clone)]
pub struct PostgreSql {
    bin: PathBuf,
}

impl PostgreSql {
    /// The newest that is installed as Debian does it, with a system user of its own.
    pub fn installed() -> Option<Self> {
        let passwords = std::fs::read_to_string("/etc/passwd").ok()?;
        if !passwords.lines().any(|line| line.split(':').next() == Some(OWNER)) {
            return None;
        }
        let versions = std::fs::read_dir(VERSIONS).ok()?.flatten().map(|entry| entry.path());
        let complete = |bin: &PathBuf| {
            ["initdb", "pg_ctl", "postgres", "pg_checksums", "pg_amcheck"]
                .iter()
                .all(|name| bin.join(name).is_file())
        };
        let number = |bin: &PathBuf| {
            let version = bin.parent().and_then(Path::file_name).and_then(|v| v.to_str());
            version.and_then(|v| v.parse::<u32>().ok())
        };
        let bin = versions.map(|v| v.join("bin")).filter(complete).max_by_key(number)?;
        Some(Self { bin })
    }

    /// Directory of its programs.
    pub fn bin(&self) -> &Path {
        &self.bin
    }

    /// The `<var>`s of the module, for a database below the replicated directory `replicated`.
    pub fn variables(&self, replicated: &Path) -> Vec<(String, String)> {
        vec![
            ("PGDATA".to_owned(), data_in(replicated).display().to_string()),
            ("PGBIN".to_owned(), self.bin.display().to_string()),
            ("PGPORT".to_owned(), PORT.to_string()),
        ]
    }

    /// The scripts of `modules/postgresql`. Both nodes share this machine's files, so sockets and
    /// logs are kept in one directory per network namespace below `directory`.
    pub fn scripts(&self, directory: &Path) -> Vec<(String, String)> {
        let places = format!(
            "PGSOCKETS={}/run-$(readlink /proc/self/ns/net | tr -dc 0-9)\n\
             PGLOG=$PGSOCKETS/server.log\n",
            directory.display()
        );
        let scripts = [
            ("postgresql.sh", format!("{places}{FUNCTIONS}")),
            ("prestart", PRESTART.to_owned()),
            ("start_prim", START.to_owned()),
            ("stop_prim", STOP.to_owned()),
        ];
        scripts.map(|(name, text)| (name.to_owned(), text)).to_vec()
    }

    /// Makes a database with data checksums and an empty table, in the directory `disk` of a node.
    ///
    /// # Errors
    /// A program of PostgreSQL fails; the text is its own.
    pub fn create(&self, disk: &Path) -> Result<()> {
        let data = data_in(disk);
        std::fs::create_dir(&data).with_context(|| data.display().to_string())?;
        output(Command::new("chown").arg(OWNER).arg(&data))?;
        let mut make = self.as_owner("initdb");
        make.args(["--data-checksums", "--no-sync", "--auth=trust", "--locale=C"]);
        output(make.args(["--encoding=UTF8", "-D"]).arg(&data))?;
        let access = data.join("pg_hba.conf");
        let mut access = std::fs::File::options().append(true).open(access)?;
        access.write_all(b"host all all samenet trust\n")?;
        let mut single = self.as_owner("postgres");
        single.arg("--single").arg("-D").arg(&data).arg("postgres");
        single.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut single = single.spawn().context("postgres --single")?;
        let mut order = single.stdin.take().context("no standard input")?;
        order.write_all(b"CREATE TABLE records (record text PRIMARY KEY)\n")?;
        drop(order);
        if !single.wait()?.success() {
            bail!("postgres --single cannot make the table");
        }
        Ok(())
    }

    /// Connects to the server.
    pub fn client(address: SocketAddr) -> Connect {
        Box::new(move |limit| Ok(Box::new(Client::connect(address, OWNER, limit)?)))
    }

    /// Compares every table with its indexes, stops the service, and verifies the checksum of
    /// every page on the node that served last. Says what was looked at.
    ///
    /// # Errors
    /// The data are damaged, or the service does not stop.
    pub fn verify(&self, pair: &Pair) -> Result<String> {
        let mut compare = Command::new(self.bin.join("pg_amcheck"));
        compare.args(["--install-missing", "--heapallindexed", "-U", OWNER, "-d", "postgres"]);
        compare.arg("-h").arg(pair.virtual_address().to_string()).args(["-p", &PORT.to_string()]);
        pair.lab().as_client(|| output(&mut compare)).context("tables or indexes are damaged")?;
        let primary = pair.primary().context("exactly one node should be primary")?;
        for node in [1 - primary, primary] {
            pair.order(node, "stop")?;
            pair.wait_for(node, State::Stop, STOP_LIMIT)?;
        }
        let mut sums = self.as_owner("pg_checksums");
        sums.arg("--check").arg("-D").arg(data_in(&pair.disk(primary)));
        let said = output(&mut sums).context("pages are damaged")?;
        let number = |name: &str| {
            let line = said.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|rest| rest.trim_start_matches(':').trim().parse::<u64>().ok())
        };
        let blocks = number("Blocks scanned").context("pg_checksums says no number of pages")?;
        if number("Bad checksums") != Some(0) {
            bail!("pg_checksums: {said}");
        }
        Ok(format!(
            "pg_amcheck finds tables and indexes sound; the checksums of {blocks} pages are right"
        ))
    }

    /// A program of PostgreSQL, run as its system user.
    pub(crate) fn as_owner(&self, program: &str) -> Command {
        let mut command = Command::new("runuser");
        command.current_dir("/").args(["-u", OWNER, "--"]).arg(self.bin.join(program));
        command
    }
}

/// The database, below the replicated directory: that one stays open to the daemon's user.
pub(crate) fn data_in(replicated: &Path) -> PathBuf {
    replicated.join("database")
}

/// Runs a program to its end and returns what it printed.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let name = command.get_program().display().to_string();
    let done = command.stdin(Stdio::null()).output().with_context(|| name.clone())?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        let also = String::from_utf8_lossy(&done.stdout);
        bail!("{name}: {}: {}{}", done.status, also, said);
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}
