//! What this installation is: `havre level` and `havre paths`, in the lines that SafeKit prints.

use std::{fs, path::Path, process::ExitCode};

use anyhow::Result;

use super::{Target, print, with_client};

/// `havre level`.
pub(super) fn level(target: &Target) -> Result<ExitCode> {
    print(&text(target))?;
    Ok(ExitCode::SUCCESS)
}

/// Host, system, version, and whether the daemon runs.
pub(super) fn text(target: &Target) -> String {
    let host = fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()
        .or_else(|| std::env::var("COMPUTERNAME").ok())
        .unwrap_or_else(|| "unknown".to_owned());
    let daemon = with_client(target, async |client| Ok(client.status().await?));
    let daemon = match daemon {
        Ok(snapshot) => format!("runs as node {}", snapshot.node.name),
        Err(error) => error.to_string(),
    };
    format!(
        "Host: {}\nOS: {}\nHavre: {}\nLicense: Apache-2.0, none needed\nDaemon: {daemon}\n",
        host.trim(),
        system(),
        env!("CARGO_PKG_VERSION"),
    )
}

/// The name that the system gives itself.
fn system() -> String {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let pretty = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    let pretty = pretty.map_or(std::env::consts::OS, |name| name.trim_matches('"'));
    format!("{pretty} {}", std::env::consts::ARCH)
}

/// `havre paths`, SafeKit's `-p`: what scripts find in their environment.
pub(super) fn paths(state_dir: &Path) -> Result<ExitCode> {
    let safe = state_dir.join("safe");
    print(&format!(
        "SAFE={}\nSAFEVAR={}\nSAFEBIN={}\n",
        safe.display(),
        state_dir.display(),
        safe.join("bin").display()
    ))?;
    Ok(ExitCode::SUCCESS)
}
