//! Finds and kills the processes that a module's scripts started, however they detached.
//!
//! With a version 2 control group (every systemd distribution since 2021) the kernel keeps the
//! account, across restarts of this daemon too. Without it, processes are known by the session
//! that a script began, by a variable in the environment they were started with, and by their
//! parents; a program that shakes off all three escapes.
//!
//! Sources: cgroups(7); Linux 6.1 `Documentation/admin-guide/cgroup-v2.rst`; proc(5).

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tracing::info;

/// Variable by which processes of a module's scripts are known.
pub(super) const MARKER: &str = "HAVRE_SCRIPTS";
/// How long killed processes may take to end.
const DEATH_LIMIT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(2);

/// The account of a module's processes.
#[derive(Debug)]
pub(super) enum Tracker {
    /// The kernel keeps it.
    Group(PathBuf),
    /// It is worked out from `/proc`.
    Sessions { key: String, sessions: Mutex<BTreeSet<i32>> },
}

impl Tracker {
    /// Opens the account under a name that is unique on this machine.
    pub(super) fn new(key: &str) -> Self {
        match own_group().and_then(|own| make_group(&own.join(key))) {
            Ok(group) => Self::Group(group),
            Err(error) => {
                info!(%error, "no control group: processes are tracked by session");
                Self::without_group(key)
            }
        }
    }

    pub(super) fn without_group(key: &str) -> Self {
        Self::Sessions { key: key.to_owned(), sessions: Mutex::default() }
    }

    /// The file into which a new process writes "0" to be counted in.
    pub(super) fn membership(&self) -> io::Result<Option<File>> {
        match self {
            Self::Group(path) => {
                // Somebody may have tidied the empty group away.
                make_group(path)?;
                OpenOptions::new().write(true).open(path.join("cgroup.procs")).map(Some)
            }
            Self::Sessions { .. } => Ok(None),
        }
    }

    /// Notes a script that was started as the leader of a session.
    pub(super) fn started(&self, pid: u32) {
        if let Self::Sessions { sessions, .. } = self
            && let Ok(pid) = i32::try_from(pid)
        {
            sessions.lock().unwrap_or_else(PoisonError::into_inner).insert(pid);
        }
    }

    /// Kills them all and waits for their ends; says how many there were.
    pub(super) fn kill(&self) -> io::Result<u32> {
        let begun = Instant::now();
        let mut killed: BTreeSet<i32> = BTreeSet::new();
        loop {
            let mut living = self.living()?;
            // A dying process gives back its memory, and with it the marker, before it has ended.
            let dying = |pid: &i32| Process::read(*pid).is_some_and(|process| !process.ended);
            living.extend(killed.iter().copied().filter(dying));
            if living.is_empty() {
                return Ok(u32::try_from(killed.len()).unwrap_or(u32::MAX));
            }
            // Again in every round: a process may have been born while the others were listed.
            if let Self::Group(path) = self {
                let _ = fs::write(path.join("cgroup.kill"), "1");
            }
            for pid in &living {
                killed.insert(*pid);
                if let Some(pid) = Pid::from_raw(*pid) {
                    // It may have ended since it was listed.
                    let _ = kill_process(pid, Signal::KILL);
                }
            }
            if begun.elapsed() > DEATH_LIMIT {
                let text = format!("processes {living:?} cannot be killed: look with `ps -l`");
                return Err(io::Error::other(text));
            }
            std::thread::sleep(POLL);
        }
    }

    fn living(&self) -> io::Result<BTreeSet<i32>> {
        match self {
            Self::Group(path) => members(path),
            Self::Sessions { key, sessions } => {
                let sessions = sessions.lock().unwrap_or_else(PoisonError::into_inner);
                of_sessions(key, &sessions)
            }
        }
    }

    /// Removes the account if nothing runs in it.
    pub(super) fn release(&self) {
        if let Self::Group(path) = self {
            // Refused by the kernel while it has members, which is what is wanted.
            let _ = fs::remove_dir(path);
        }
    }
}

/// The control group of this process.
fn own_group() -> io::Result<PathBuf> {
    let missing = || io::Error::other("no version 2 control groups are mounted");
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    // Fields: id, parent, device, root, mount point, options, ..., "-", type, source, options.
    let mount = mounts
        .lines()
        .find(|line| line.contains(" - cgroup2 "))
        .and_then(|line| line.split(' ').nth(4))
        .ok_or_else(missing)?;
    let groups = fs::read_to_string("/proc/self/cgroup")?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::")).ok_or_else(missing)?;
    Ok(Path::new(mount).join(own.trim_start_matches('/')))
}

fn make_group(path: &Path) -> io::Result<PathBuf> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(path.to_owned()),
    }
}

/// The members of a group that have not ended.
fn members(path: &Path) -> io::Result<BTreeSet<i32>> {
    match fs::read_to_string(path.join("cgroup.procs")) {
        Ok(text) => Ok(text
            .lines()
            .filter_map(|line| line.parse().ok())
            // Zero stands for processes of other process namespaces, which are not ours.
            .filter(|pid| *pid > 0 && !Process::read(*pid).is_none_or(|p| p.ended))
            .collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        Err(error) => Err(error),
    }
}

/// What `/proc/PID/stat` says.
struct Process {
    ended: bool,
    parent: i32,
    session: i32,
}

impl Process {
    fn read(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, in parentheses, may hold any character.
        let (_, rest) = stat.rsplit_once(')')?;
        let mut fields = rest.split_ascii_whitespace();
        let ended = matches!(fields.next()?, "Z" | "X");
        let parent = fields.next()?.parse().ok()?;
        let session = fields.nth(1)?.parse().ok()?;
        Some(Self { ended, parent, session })
    }
}

fn of_sessions(key: &str, sessions: &BTreeSet<i32>) -> io::Result<BTreeSet<i32>> {
    let marker = format!("{MARKER}={key}");
    let marked = |pid: i32| {
        fs::read(format!("/proc/{pid}/environ"))
            .is_ok_and(|all| all.split(|b| *b == 0).any(|v| v == marker.as_bytes()))
    };
    let mut all = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        if let Some(pid) = name.to_str().and_then(|n| n.parse().ok())
            && let Some(process) = Process::read(pid)
            && !process.ended
        {
            all.push((pid, process));
        }
    }
    let own = i32::try_from(std::process::id()).unwrap_or(i32::MAX);
    let mut found: BTreeSet<i32> = all
        .iter()
        .filter(|(pid, p)| *pid != own && (sessions.contains(&p.session) || marked(*pid)))
        .map(|(pid, _)| *pid)
        .collect();
    // Children of members are members; each pass goes one generation further.
    loop {
        let before = found.len();
        let children = all.iter().filter(|(_, p)| found.contains(&p.parent)).map(|(pid, _)| *pid);
        let children: Vec<i32> = children.collect();
        found.extend(children);
        if found.len() == before {
            return Ok(found);
        }
    }
}
