//! One life of a machine, from power-on to power-off: a process namespace and a mount namespace.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader},
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    process::{Pid, Signal, kill_process},
    thread::{LinkNameSpaceType, UnshareFlags},
};

use crate::lab::{
    init,
    namespace::{NetworkNamespace, join, on_own_thread, unshare},
};

/// How long killed processes may take to end.
const DEATH_LIMIT: Duration = Duration::from_secs(10);

/// A running machine. Its first process ends when this value does, and everything with it.
#[derive(Debug)]
pub(super) struct Boot {
    first: Child,
    network: NetworkNamespace,
    mounts: File,
    processes: File,
}

impl Boot {
    /// Starts the first process and waits until the disks are mounted.
    pub(super) fn start(
        program: &Path,
        network: &NetworkNamespace,
        binds: &[(PathBuf, PathBuf)],
    ) -> io::Result<Self> {
        let mut command = Command::new(program);
        command.arg(init::COMMAND);
        for (from, to) in binds {
            command.arg(from).arg(to);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut first = on_own_thread(|| {
            network.move_in()?;
            unshare(UnshareFlags::NEWPID | UnshareFlags::NEWNS)?;
            command.spawn()
        })?;
        let mut answer = String::new();
        let output = first.stdout.take().expect("stdout was asked for");
        BufReader::new(output).read_line(&mut answer)?;
        if answer.trim_end() != init::READY {
            let _ = first.kill();
            let _ = first.wait();
            let text = format!("the first process did not start: {}", answer.trim_end());
            return Err(io::Error::other(text));
        }
        let namespaces = PathBuf::from(format!("/proc/{}/ns", first.id()));
        Ok(Self {
            network: network.try_clone()?,
            mounts: File::open(namespaces.join("mnt"))?,
            processes: File::open(namespaces.join("pid"))?,
            first,
        })
    }

    pub(super) fn pid(&self) -> u32 {
        self.first.id()
    }

    /// Runs `job` on a thread in the machine's network, with its mounts.
    pub(super) fn enter<T: Send>(
        &self,
        job: impl FnOnce() -> io::Result<T> + Send,
    ) -> io::Result<T> {
        on_own_thread(|| {
            self.move_in()?;
            job()
        })
    }

    /// Starts a program in all of the machine's namespaces.
    pub(super) fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        on_own_thread(|| {
            // A thread whose children belong to another process namespace cannot start threads:
            // it only starts the program.
            join(self.processes.as_fd(), LinkNameSpaceType::ProcessID)?;
            self.move_in()?;
            command.spawn()
        })
    }

    fn move_in(&self) -> io::Result<()> {
        self.network.move_in()?;
        // A thread may change its mount namespace only with a working directory of its own.
        unshare(UnshareFlags::FS)?;
        join(self.mounts.as_fd(), LinkNameSpaceType::Mount)
    }

    /// Kills the first process; the kernel kills all others of its namespace with it. Returns
    /// when none of them runs any more.
    pub(super) fn kill(mut self) -> io::Result<()> {
        self.first.kill()?;
        let begun = Instant::now();
        while !self.living()?.is_empty() {
            if begun.elapsed() > DEATH_LIMIT {
                return Err(io::Error::other("processes of the machine survive its power cut"));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Sends a signal to every process but the first.
    pub(super) fn signal_all(&self, signal: Signal) -> io::Result<()> {
        for pid in self.living()? {
            // It may have ended since it was listed.
            let _ = kill_process(pid, signal);
        }
        Ok(())
    }

    /// The processes of the machine without the first one and without those that have ended.
    fn living(&self) -> io::Result<Vec<Pid>> {
        let own = format!("pid:[{}]", self.processes.metadata()?.ino());
        let mut living = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let name = entry?.file_name();
            let Some(pid) = name.to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
            let same = fs::read_link(format!("/proc/{pid}/ns/pid"))
                .is_ok_and(|namespace| namespace.as_os_str() == own.as_str());
            let first = u32::try_from(pid).is_ok_and(|pid| pid == self.first.id());
            if same && !first && !has_ended(pid) {
                living.extend(Pid::from_raw(pid));
            }
        }
        Ok(living)
    }
}

/// Whether a process has ended, reaped by its parent or not.
fn has_ended(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The state follows the name, which is in parentheses and may hold any character.
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
    matches!(state, None | Some('Z' | 'X'))
}

impl Drop for Boot {
    fn drop(&mut self) {
        let _ = self.first.kill();
        // The first process ends only when the parents of all others have taken note of their
        // ends, and such a parent may be the caller: never wait for it here.
        for _ in 0..100 {
            if !matches!(self.first.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
