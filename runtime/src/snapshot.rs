//! Snapshots for support: what is known about a node and its modules, in one zip archive.
//!
//! Secrets never get in: of the cluster only `cluster.xml`, and values that look like passwords are
//! masked in every file. On request, names and addresses are replaced too ([`anonymous`]).

pub mod anonymous;

use std::{
    collections::BTreeMap,
    fs, io,
    io::{Cursor, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::LazyLock,
};

use regex::bytes::Regex;
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

use self::anonymous::Replacer;

/// Most that is kept of one text, in bytes: its end.
const TEXT_BYTES_MAX: u64 = 8 << 20;
/// Most levels of folders that are looked into.
const DEPTH_MAX: usize = 8;
/// Most files of one folder tree.
const FILES_MAX: usize = 2_000;

/// What an operating system tells about itself: file in the archive, and where to read it.
const SYSTEM_FILES: [(&str, &str); 6] = [
    ("system/os-release", "/etc/os-release"),
    ("system/version", "/proc/version"),
    ("system/meminfo", "/proc/meminfo"),
    ("system/loadavg", "/proc/loadavg"),
    ("system/mounts", "/proc/mounts"),
    ("system/uptime", "/proc/uptime"),
];
/// The same of commands.
const SYSTEM_COMMANDS: [(&str, &[&str]); 3] = [
    ("system/addresses", &["ip", "-d", "address"]),
    ("system/routes", &["ip", "route", "show", "table", "all"]),
    ("system/neighbours", &["ip", "neighbour"]),
];

/// A value whose name says that it is secret, in XML attributes, shell and INI files.
static SECRET: LazyLock<Regex> = LazyLock::new(|| {
    let name = r"[\w.-]*(?:passw|passphrase|pwd|secret|token|credential)[\w.-]*";
    let xml = format!(r#"((?i:name\s*=\s*"{name}"\s+value\s*=\s*"))[^"]*"#);
    let plain = format!(r#"((?i:\b{name}\s*[=:]\s*["']?))[^\s"'<>;]+"#);
    Regex::new(&format!("(?-u){xml}|{plain}")).expect("the expression is constant")
});

/// What goes into a snapshot.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// The module; `None`: all of them.
    pub module: Option<String>,
    /// Whether the input journal goes in, which `havre-sim replay` repeats.
    pub journal: bool,
    /// Whether names and addresses are replaced. Leaves the journal out.
    pub anonymous: bool,
}

/// The files of a snapshot by their paths in it. `more` are added: what only the caller knows.
/// What cannot be read is named in `missing.txt` instead.
pub fn collect(
    state_dir: &Path,
    wanted: &Wanted,
    more: Vec<(String, Vec<u8>)>,
) -> BTreeMap<String, Vec<u8>> {
    let mut files: BTreeMap<String, Vec<u8>> = more.into_iter().collect();
    let mut missing = String::new();
    let mut take = |name: String, path: &Path| match tail(path) {
        Ok(bytes) => drop(files.insert(name, bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => missing += &format!("{name}: {error}\n"),
    };
    take("cluster/cluster.xml".to_owned(), &state_dir.join("cluster/cluster.xml"));
    for folder in ["modules", "active", "var", "log"] {
        for (name, path) in tree(&state_dir.join(folder)) {
            if is_of(wanted.module.as_deref(), folder, &name) {
                take(format!("{folder}/{name}"), &path);
            }
        }
    }
    for (name, path) in SYSTEM_FILES {
        take(name.to_owned(), Path::new(path));
    }
    for (name, words) in SYSTEM_COMMANDS {
        if let Some(output) = output_of(words) {
            files.insert(name.to_owned(), output);
        }
    }
    for content in files.values_mut() {
        *content = SECRET.replace_all(content, &b"$1$2***"[..]).into_owned();
    }
    if wanted.anonymous {
        files = Replacer::of(state_dir).replace(files);
    } else if wanted.journal {
        for name in ["inputs.seed", "inputs.journal", "inputs.journal.1"] {
            match fs::read(state_dir.join(name)) {
                Ok(bytes) => drop(files.insert(format!("journal/{name}"), bytes)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => missing += &format!("journal/{name}: {error}\n"),
            }
        }
    }
    if !missing.is_empty() {
        files.insert("missing.txt".to_owned(), missing.into_bytes());
    }
    files
}

/// Whether a file of a folder of the state directory concerns the module.
fn is_of(module: Option<&str>, folder: &str, name: &str) -> bool {
    let Some(module) = module else { return true };
    let first = name.split('/').next().unwrap_or(name);
    match folder {
        "log" => {
            !first.ends_with(".jsonl") && !first.ends_with(".jsonl.1")
                || ["node", "commands.log", module].iter().any(|log| {
                    first.strip_prefix(log).is_some_and(|rest| rest.starts_with(".jsonl"))
                })
        }
        _ => first == module,
    }
}

/// The plain files under a folder, with their paths in it. Links are not followed.
fn tree(folder: &Path) -> Vec<(String, PathBuf)> {
    let mut found = Vec::new();
    let mut open = vec![(String::new(), folder.to_owned(), 0)];
    while let Some((prefix, folder, depth)) = open.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            let Ok(kind) = entry.file_type() else { continue };
            let name = format!("{prefix}{}", entry.file_name().display());
            if kind.is_dir() && depth < DEPTH_MAX {
                open.push((format!("{name}/"), entry.path(), depth + 1));
            } else if kind.is_file() && found.len() < FILES_MAX {
                found.push((name, entry.path()));
            }
        }
    }
    found
}

/// The end of a file.
fn tail(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = fs::File::open(path)?;
    let length = file.metadata()?.len();
    if length > TEXT_BYTES_MAX {
        file.seek(SeekFrom::Start(length - TEXT_BYTES_MAX))?;
    }
    let mut bytes = Vec::new();
    file.take(TEXT_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn output_of(words: &[&str]) -> Option<Vec<u8>> {
    let (program, arguments) = words.split_first()?;
    let run = Command::new(program).args(arguments).stdin(Stdio::null()).output().ok()?;
    run.status.success().then_some(run.stdout)
}

/// Writes files as a zip archive. An archive of that name stays as it is.
///
/// # Errors
/// There is such a file already, or the disk refuses; nothing is left behind then.
pub fn write(path: &Path, files: &BTreeMap<String, Vec<u8>>) -> io::Result<()> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
    for (name, bytes) in files {
        writer.start_file(name.as_str(), options).map_err(io::Error::other)?;
        writer.write_all(bytes)?;
    }
    let bytes = writer.finish().map_err(io::Error::other)?.into_inner();
    let mut file = fs::OpenOptions::new().write(true).create_new(true).open(path)?;
    let written = file.write_all(&bytes).and_then(|()| file.sync_all());
    if written.is_err() {
        // What is left of it is of no use; the error that matters is the first one.
        let _ = fs::remove_file(path);
    }
    written
}

#[cfg(test)]
mod tests;
