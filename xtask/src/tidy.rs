//! What the style guide asks and neither rustfmt nor clippy sees.
//!
//! Each check returns its findings as lines `file:line: what (what to do)`. Files are those git
//! knows, so build output and scratch files do not count.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

mod arrows;
mod manifests;
mod sources;

/// A file of the project, read as text.
pub(crate) struct Source {
    /// Path from the workspace's directory, with `/`.
    pub(crate) path: String,
    /// Its text; bytes that are not UTF-8 are replaced.
    pub(crate) text: String,
}

/// Runs all checks.
pub(crate) fn run(root: &Path) -> Result<()> {
    let files = files(root)?;
    let mut findings = Vec::new();
    for file in &files {
        findings.extend(sources::size(file));
        findings.extend(sources::header(file));
        findings.extend(sources::machine_paths(file, root));
        findings.extend(arrows::inside_core(file));
    }
    findings.extend(arrows::between_crates(&files)?);
    findings.extend(manifests::dependencies_explained(&files)?);
    findings.extend(manifests::core_bans(&files));
    if findings.is_empty() {
        return Ok(());
    }
    bail!("{}\ntidy: {} findings", findings.join("\n"), findings.len())
}

fn files(root: &Path) -> Result<Vec<Source>> {
    let listed = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .context("cannot run git ls-files")?;
    if !listed.status.success() {
        bail!("git ls-files: {}", String::from_utf8_lossy(&listed.stderr));
    }
    let names = String::from_utf8(listed.stdout).context("a file name is not UTF-8")?;
    let mut found = Vec::new();
    for path in names.split('\0').filter(|name| !name.is_empty()) {
        let place: PathBuf = root.join(path);
        // Deleted in the work tree, or a link to elsewhere.
        if !place.is_file() {
            continue;
        }
        let bytes = fs::read(&place).with_context(|| format!("cannot read {path}"))?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        found.push(Source { path: path.to_owned(), text });
    }
    Ok(found)
}

/// The text of one file.
pub(crate) fn text_of<'a>(files: &'a [Source], path: &str) -> Option<&'a str> {
    files.iter().find(|f| f.path == path).map(|f| f.text.as_str())
}
