//! Runs a module's scripts and kills what they left behind.
//!
//! A script runs in a session of its own, with `[force] FROM TO ACTION` as arguments and SafeKit's
//! variables in its environment (reference: safekit.md section 6.4). Programs that it leaves in
//! the background belong to the module: they live on when the script ends and when this daemon
//! is restarted, and end only by the stop script or by [`Scripts::kill`].

mod commands;
mod output;
mod processes;

use std::{
    ffi::OsString,
    fs::{self, File},
    io,
    os::unix::process::{CommandExt, ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use havre_core::effect::{ScriptCall, ScriptEnd};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, getpid, kill_process_group, pidfd_open},
};
use tracing::warn;

use crate::priority;
use output::Output;
pub use output::Sink;
use processes::Tracker;

/// Time between the polite and the final signal to a script that exceeded its limit.
const GRACE: Duration = Duration::from_secs(2);
/// Variables of the service manager that are none of a script's business.
const PRIVATE_VARIABLES: [&str; 5] =
    ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID"];

/// Where a module's scripts are and what they are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScriptPlace {
    /// Name of the module (`SAFEMODULE`).
    pub module: String,
    /// Where scripts find the commands `safekit` and `havre` (`SAFE`). Made if need be.
    pub safe: PathBuf,
    /// The same commands, where SafeKit keeps its own programs (`SAFEBIN`). Made if need be.
    pub safe_bin: PathBuf,
    /// The node's state directory (`SAFEVAR`, and `HAVRE_STATE_DIR` for the commands).
    pub safe_var: PathBuf,
    /// The module's scripts (`SAFEUSERBIN`).
    pub user_bin: PathBuf,
    /// The module's configuration (`SAFEUSERCONF`).
    pub user_conf: PathBuf,
    /// The module's working files (`SAFEUSERVAR`).
    pub user_var: PathBuf,
    /// `<var>`s of the configuration.
    pub variables: Vec<(String, String)>,
    /// Whether what scripts print is kept.
    pub logging: bool,
}

impl ScriptPlace {
    /// What programs of the module find in their environment.
    pub(crate) fn environment(&self) -> Vec<(String, OsString)> {
        let paths = [
            ("SAFE", &self.safe),
            ("SAFEBIN", &self.safe_bin),
            ("SAFEVAR", &self.safe_var),
            ("HAVRE_STATE_DIR", &self.safe_var),
            ("SAFEUSERBIN", &self.user_bin),
            ("SAFEUSERCONF", &self.user_conf),
            ("SAFEUSERVAR", &self.user_var),
        ];
        let mut all = vec![("SAFEMODULE".to_owned(), OsString::from(&self.module))];
        all.extend(paths.map(|(name, path)| (name.to_owned(), path.clone().into_os_string())));
        all.extend(self.variables.iter().map(|(name, value)| (name.clone(), value.into())));
        all
    }

    /// A name that no other module of any daemon on this machine has.
    fn key(&self) -> String {
        key_of(&self.module, &self.user_var)
    }
}

fn key_of(module: &str, user_var: &Path) -> String {
    let place = user_var.as_os_str().as_encoded_bytes();
    format!("havre-{module}-{}", &blake3::hash(place).to_hex()[..12])
}

/// Removes the account of the processes of a module that will run here no more; `user_var` as in
/// [`ScriptPlace`]. Nothing happens while any of them runs.
pub fn forget(module: &str, user_var: &Path) {
    Tracker::new(&key_of(module, user_var)).release();
}

/// The scripts of one module.
#[derive(Debug)]
pub struct Scripts {
    place: ScriptPlace,
    tracker: Tracker,
    output: Option<Output>,
}

impl Scripts {
    /// Prepares the scripts of a module; `sink` takes each line that they print.
    pub fn new(place: ScriptPlace, sink: Sink) -> io::Result<Self> {
        fs::create_dir_all(&place.user_var)?;
        commands::put(&place)?;
        let tracker = Tracker::new(&place.key());
        let output = place.logging.then(|| Output::start(&place.user_var, sink)).transpose()?;
        Ok(Self { place, tracker, output })
    }

    /// Runs a script to its end, or kills its process group at its limit. Blocks.
    pub fn run(&self, call: &ScriptCall) -> ScriptEnd {
        let path = self.place.user_bin.join(call.name.file_name());
        if !path.exists() {
            return ScriptEnd::Absent;
        }
        let mut child = match self.start(call, &path) {
            Ok(child) => child,
            Err(error) => return ScriptEnd::NotStarted(remedy(&path, &error)),
        };
        let end = match wait(&mut child, call.limit) {
            Ok(Some(status)) => ended(status),
            Ok(None) => {
                kill_group(&mut child);
                ScriptEnd::TimedOut
            }
            Err(error) => {
                kill_group(&mut child);
                ScriptEnd::NotStarted(format!("{}: {error}", path.display()))
            }
        };
        if let Some(output) = &self.output {
            output.drain();
        }
        end
    }

    fn start(&self, call: &ScriptCall, path: &Path) -> io::Result<Child> {
        let mut command = Command::new(path);
        if call.force {
            command.arg("force");
        }
        command
            .arg(call.from.to_string())
            .arg(call.to.to_string())
            .arg(call.action.word())
            .args(services_argument(call))
            .current_dir(&self.place.user_bin)
            .envs(self.place.environment())
            .env(processes::MARKER, self.place.key())
            .stdin(Stdio::null());
        for variable in PRIVATE_VARIABLES {
            command.env_remove(variable);
        }
        match &self.output {
            Some(output) => {
                let end = output.open(call.name.file_name())?;
                command.stderr(end.try_clone()?).stdout(end);
            }
            None => {
                command.stdout(Stdio::null()).stderr(Stdio::null());
            }
        }
        let membership: Option<Arc<File>> = self.tracker.membership()?.map(Arc::new);
        let prepare = move || {
            rustix::process::setsid()?;
            if let Some(file) = &membership {
                // "0" names the writing process itself (cgroups(7)).
                rustix::io::write(file, b"0")?;
            }
            priority::reset_after_fork()
        };
        // SAFETY: between fork and exec only plain system calls are made (setsid, write,
        // sched_setscheduler, setpriority); nothing allocates and no lock is taken.
        unsafe { command.pre_exec(prepare) };
        let child = command.spawn()?;
        self.tracker.started(child.id());
        Ok(child)
    }

    /// Kills every process that the module's scripts started and that still runs; says how many.
    ///
    /// Returns when they have ended. Blocks for at most ten seconds.
    pub fn kill(&self) -> io::Result<u32> {
        self.tracker.kill()
    }
}

impl Drop for Scripts {
    fn drop(&mut self) {
        self.tracker.release();
    }
}

/// Kills every process that the scripts of a module started and that still runs, whoever's run
/// started them; says how many.
pub fn kill_all(place: &ScriptPlace) -> io::Result<u32> {
    Tracker::new(&place.key()).kill()
}

fn ended(status: ExitStatus) -> ScriptEnd {
    match (status.code(), status.signal()) {
        (Some(code), _) => ScriptEnd::Exited(code),
        (None, Some(signal)) => ScriptEnd::Signalled(signal),
        (None, None) => unreachable!("a process that was waited for exited or was signalled"),
    }
}

/// `-Services "a, b"`, if only some services are meant.
fn services_argument(call: &ScriptCall) -> Vec<&str> {
    call.services.as_deref().map(|services| vec!["-Services", services]).unwrap_or_default()
}

/// Waits for the end of a process; `None` if it did not come within `limit`.
fn wait(child: &mut Child, limit: Option<Duration>) -> io::Result<Option<ExitStatus>> {
    let begun = Instant::now();
    let pid = Pid::from_child(child);
    let descriptor = pidfd_open(pid, PidfdFlags::empty())?;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        let rest = limit.map(|limit| limit.saturating_sub(begun.elapsed()));
        if rest == Some(Duration::ZERO) {
            return Ok(None);
        }
        let rest = rest.map(Timespec::try_from).transpose().map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&descriptor, PollFlags::IN)], rest.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Ends a script and the processes of its group, politely first.
fn kill_group(child: &mut Child) {
    let group = Pid::from_child(child);
    assert_ne!(group, getpid(), "a script is never the daemon itself");
    for (signal, patience) in [(Signal::TERM, GRACE), (Signal::KILL, GRACE)] {
        // An error means that the group has ended.
        let _ = kill_process_group(group, signal);
        match wait(child, Some(patience)) {
            // Members that ignored the polite signal may outlive the script itself.
            Ok(Some(_)) if signal == Signal::TERM => {}
            Ok(Some(_)) => return,
            Ok(None) => {}
            Err(error) => warn!(%error, "a script that exceeded its limit cannot be waited for"),
        }
    }
}

/// Says what to do about a script that cannot be started.
fn remedy(path: &Path, error: &io::Error) -> String {
    let path = path.display();
    match error.raw_os_error() {
        Some(libc::EACCES) => {
            format!("{path} is not executable: run `chmod +x {path}` and install the module again")
        }
        Some(libc::ENOENT) => format!(
            "{path}: the interpreter named in its first line does not exist on this node (a file \
             with Windows line ends looks like this too: convert it with `dos2unix`)"
        ),
        Some(libc::ENOEXEC) => {
            format!(
                "{path} is no program for this machine: its first line must be like `#!/bin/sh`"
            )
        }
        Some(libc::ETXTBSY) => format!("{path} is being written: start again when that is done"),
        _ => format!("{path}: {error}"),
    }
}

#[cfg(test)]
mod tests;
