//! Programs of checkers and error handlers: bounded in time and in what is kept of their output,
//! killed with everything they started in their process group.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use havre_core::checks::probe::Finding;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::{Child, Command},
    time::timeout,
};

use super::Asker;
use crate::{priority, script::ScriptPlace};

/// What is kept of a program's output, for the message; the rest is read and dropped.
const KEPT_BYTES: usize = 512;

/// The programs that run.
#[derive(Debug, Default)]
pub(super) struct Programs {
    groups: RefCell<BTreeMap<Asker, Pid>>,
}

impl Programs {
    /// Runs a program to its end, to its limit, or until it is killed.
    pub(super) async fn run(
        &self,
        asker: Asker,
        path: PathBuf,
        args: &[String],
        place: &ScriptPlace,
        limit: Option<Duration>,
    ) -> Finding {
        let mut child = match start(&path, args, place) {
            Ok(child) => child,
            Err(error) => return Finding::Unable(format!("{}: {error}", path.display())),
        };
        let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let Some(group) = group else { return Finding::Unable("it ended at once".to_owned()) };
        self.groups.borrow_mut().insert(asker, group);
        let end = Ending { programs: self, asker, group };
        let output = child.stdout.take();
        let work = async {
            let kept = first_of(output).await;
            (child.wait().await, kept)
        };
        let ended = match limit {
            Some(limit) => timeout(limit, work).await.map_err(|_| limit),
            None => Ok(work.await),
        };
        drop(end);
        match ended {
            Ok((Ok(status), _)) if status.success() => Finding::Up,
            Ok((Ok(status), kept)) => {
                let text =
                    if kept.is_empty() { status.to_string() } else { format!("{status}: {kept}") };
                Finding::Down(text)
            }
            Ok((Err(error), _)) => Finding::Unable(error.to_string()),
            Err(limit) => Finding::Down(format!("it ran for more than {} ms", limit.as_millis())),
        }
    }

    /// Kills the program of a checker, if it runs.
    pub(super) fn kill(&self, asker: Asker) {
        if let Some(group) = self.groups.borrow_mut().remove(&asker) {
            // An error means that the group has ended.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// Kills what is left of a program when nobody waits for it any more.
struct Ending<'p> {
    programs: &'p Programs,
    asker: Asker,
    group: Pid,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        let mut groups = self.programs.groups.borrow_mut();
        if groups.get(&self.asker) == Some(&self.group) {
            groups.remove(&self.asker);
            let _ = kill_process_group(self.group, Signal::KILL);
        }
    }
}

fn start(path: &Path, args: &[String], place: &ScriptPlace) -> io::Result<Child> {
    let mut command = Command::new(path);
    command
        .args(args)
        .current_dir(&place.user_bin)
        .envs(place.environment())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true);
    // SAFETY: between fork and exec only plain system calls are made (sched_setscheduler,
    // setpriority); nothing allocates and no lock is taken.
    unsafe { command.pre_exec(priority::reset_after_fork) };
    command.spawn()
}

/// The first line of what is printed; reads to the end.
async fn first_of(output: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut output) = output else { return String::new() };
    let mut kept = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = output.read(&mut buffer).await {
        let room = KEPT_BYTES.saturating_sub(kept.len());
        kept.extend_from_slice(&buffer[..length.min(room)]);
    }
    String::from_utf8_lossy(&kept).lines().next().unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt, rc::Rc};

    use havre_core::ids::{CheckerId, ModuleId};
    use tempfile::TempDir;
    use tokio::{runtime::Builder, task::LocalSet};

    use super::*;

    const ASKER: Asker = (ModuleId(1), CheckerId(0));

    fn place(dir: &Path) -> ScriptPlace {
        ScriptPlace {
            module: "db".to_owned(),
            safe: dir.to_owned(),
            safe_bin: dir.to_owned(),
            safe_var: dir.to_owned(),
            user_bin: dir.to_owned(),
            user_conf: dir.to_owned(),
            user_var: dir.to_owned(),
            variables: Vec::new(),
            logging: false,
        }
    }

    fn script(dir: &TempDir, text: &str) -> PathBuf {
        let path = dir.path().join("check");
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("made executable");
        path
    }

    fn ran(text: &str, limit: Option<Duration>) -> Finding {
        let dir = TempDir::new().expect("a directory");
        let path = script(&dir, text);
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let args = ["db".to_owned(), "custom.app".to_owned(), "more".to_owned()];
        let place = place(dir.path());
        let programs = Programs::default();
        runtime.block_on(programs.run(ASKER, path, &args, &place, limit))
    }

    #[test]
    fn the_exit_status_decides_and_the_first_line_says_why() {
        assert_eq!(ran("exit 0", None), Finding::Up);
        let down = ran("echo the site is gone; echo more; exit 3", None);
        assert!(matches!(&down, Finding::Down(text) if text.ends_with("3: the site is gone")));
    }

    #[test]
    fn arguments_and_environment_are_safekits() {
        let text = "test \"$1 $2 $3\" = 'db custom.app more' && test $SAFEMODULE = db";
        assert_eq!(ran(text, None), Finding::Up);
    }

    #[test]
    fn a_program_that_hangs_or_floods_is_bounded() {
        let limit = Some(Duration::from_millis(300));
        assert!(matches!(ran("sleep 60", limit), Finding::Down(text) if text.contains("300 ms")));
        let flood = ran("head -c 3000000 /dev/zero | tr '\\0' x; exit 1", None);
        assert!(matches!(flood, Finding::Down(text) if text.len() < 2 * KEPT_BYTES));
    }

    #[test]
    fn a_program_ends_when_its_checker_ends() {
        let dir = TempDir::new().expect("a directory");
        let path = script(&dir, "sleep 60");
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let programs = Rc::new(Programs::default());
        let place = place(dir.path());
        let killer = Rc::clone(&programs);
        let work = async {
            tokio::task::spawn_local(async move {
                tokio::time::sleep(Duration::from_millis(100)).await;
                killer.kill(ASKER);
            });
            programs.run(ASKER, path, &[], &place, None).await
        };
        let finding = LocalSet::new().block_on(&runtime, work);
        assert!(matches!(finding, Finding::Down(text) if text.contains("signal")));
    }
}
