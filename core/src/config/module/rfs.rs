//! `<rfs>`: which directories are replicated, and under which contract.

use std::path::{Path, PathBuf};

use crate::config::{
    error::Report,
    module::{Contract, ReplicatedConfig, RfsConfig, WriteMode},
    read::View,
    value::path_parts,
};

pub(super) fn build(service: View<'_>, report: &mut Report<'_>) -> Option<RfsConfig> {
    let view = service.child("rfs")?;
    let mut config = RfsConfig {
        contract: match view.word("async") {
            Some("none") => Contract::Durable,
            _ => Contract::Received,
        },
        write: match view.word("write") {
            Some("through") => WriteMode::Through,
            _ => WriteMode::Back,
        },
        acl: view.is_on("acl"),
        port: view.port("port"),
        lock_timeout: view.time_or_default("locktimeout"),
        send_timeout: view.time_or_default("sendtimeout"),
        resync_bytes_per_second_max: view.count("reiallowedbw").map(|kib| kib * 1024),
        directories: Vec::new(),
    };
    let mut earlier: Vec<Vec<String>> = Vec::new();
    for view in view.children("replicated") {
        let Some(directory) = replicated(view, report) else { continue };
        let dir = directory.dir.to_string_lossy();
        let parts = path_parts(&dir);
        for (other, earlier) in config.directories.iter().zip(&earlier) {
            if let Some(message) = overlap(&dir, &parts, &other.dir, earlier) {
                report.error(view.at_attribute("dir"), message, "keep the outer one only");
            }
        }
        earlier.push(parts);
        config.directories.push(directory);
    }
    Some(config)
}

/// What is wrong with replicating both directories, if anything.
pub(super) fn overlap(
    dir: &str,
    parts: &[String],
    other: &Path,
    earlier: &[String],
) -> Option<String> {
    let other = other.display();
    if parts == earlier {
        Some(format!("{dir} is replicated twice"))
    } else if parts.starts_with(earlier) {
        Some(format!("{dir} lies inside the replicated directory {other}"))
    } else if earlier.starts_with(parts) {
        Some(format!("{dir} contains the replicated directory {other}"))
    } else {
        None
    }
}

fn replicated(view: View<'_>, report: &mut Report<'_>) -> Option<ReplicatedConfig> {
    let dir = without_end(view.word("dir")?);
    let mut config = ReplicatedConfig {
        dir: PathBuf::from(dir),
        excluded_paths: Vec::new(),
        excluded_names: Vec::new(),
        to_check: Vec::new(),
    };
    for view in view.children("notreplicated") {
        let (path, pattern) = (view.word("path"), view.word("regexpath"));
        if path.is_none() && pattern.is_none() {
            let message = "<notreplicated> has neither path nor regexpath";
            report.error(view.at(), message, "add one of them, or remove the element");
        }
        config.excluded_paths.extend(path.map(|path| PathBuf::from(without_end(path))));
        config.excluded_names.extend(pattern.map(str::to_owned));
    }
    let checked = view.children("tocheck").filter_map(|view| view.word("path"));
    config.to_check = checked.map(|path| PathBuf::from(without_end(path))).collect();
    Some(config)
}

/// The path without separators at its end.
fn without_end(path: &str) -> &str {
    path.trim_end_matches(['/', '\\'])
}
