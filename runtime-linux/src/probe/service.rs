//! Does a systemd unit run, and when does it end?
//!
//! `systemctl show` says what systemd thinks; a pidfd of the unit's main process says at once when
//! that process ends, which is when systemd is asked again. A unit without a main process is only
//! asked for at each period.

use std::{process::Command, time::Duration};

use havre_core::checks::probe::Finding;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::{task::spawn_blocking, time::sleep};

use super::awaitable;

/// Pause between two questions while there is no main process to wait for.
const EMPTY_PERIOD: Duration = Duration::from_secs(2);
/// Time that systemd needs to notice what has just ended.
const SETTLE: Duration = Duration::from_millis(5);

/// What systemd says of a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServiceState {
    pub(super) found: Finding,
    pid: Option<i32>,
}

/// Asks systemd.
pub(super) fn state(name: &str) -> Result<ServiceState, String> {
    let output = Command::new("systemctl")
        .args(["show", "--property=LoadState,ActiveState,SubState,MainPID", "--", name])
        .output()
        .map_err(|error| format!("systemctl: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        return Err(format!("systemctl show {name}: {}", why.lines().next().unwrap_or_default()));
    }
    Ok(read(&text))
}

fn read(text: &str) -> ServiceState {
    let value = |key: &str| {
        let mut pairs = text.lines().filter_map(|line| line.split_once('='));
        pairs.find(|(name, _)| *name == key).map(|(_, value)| value.to_owned()).unwrap_or_default()
    };
    let (load, active, sub) = (value("LoadState"), value("ActiveState"), value("SubState"));
    let pid = value("MainPID").parse().ok().filter(|pid| *pid > 0);
    let found = match active.as_str() {
        "active" | "reloading" => Finding::Up,
        _ if load == "not-found" => Finding::Down("there is no such unit".to_owned()),
        _ => Finding::Down(format!("{active} ({sub})")),
    };
    ServiceState { found, pid }
}

/// Reports the state of a unit, at first and when its main process ends.
pub(super) async fn watch(name: String, report: impl Fn(Finding)) {
    let mut told = None;
    loop {
        let asked = name.clone();
        let Ok(state) = spawn_blocking(move || state(&asked)).await else { return };
        let (found, pid) = match state {
            Ok(state) => (state.found, state.pid),
            Err(error) => (Finding::Unable(error), None),
        };
        let up = found == Finding::Up;
        if told.as_ref() != Some(&found) {
            told = Some(found.clone());
            report(found);
        }
        let descriptor = pid
            .filter(|_| up)
            .and_then(Pid::from_raw)
            .and_then(|pid| pidfd_open(pid, PidfdFlags::NONBLOCK).ok())
            .and_then(|descriptor| awaitable(descriptor).ok());
        match descriptor {
            Some(descriptor) => {
                let _ = descriptor.readable().await;
                sleep(SETTLE).await;
            }
            None => sleep(EMPTY_PERIOD).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_systemd_become_up_or_down() {
        let running = "LoadState=loaded\nActiveState=active\nSubState=running\nMainPID=42\n";
        assert_eq!(read(running), ServiceState { found: Finding::Up, pid: Some(42) });
        let failed = "LoadState=loaded\nActiveState=failed\nSubState=failed\nMainPID=0\n";
        let found = Finding::Down("failed (failed)".to_owned());
        assert_eq!(read(failed), ServiceState { found, pid: None });
        let absent = "LoadState=not-found\nActiveState=inactive\nSubState=dead\nMainPID=0\n";
        assert!(matches!(read(absent).found, Finding::Down(text) if text.contains("no such")));
    }
}
