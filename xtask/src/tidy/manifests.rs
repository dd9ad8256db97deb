//! Every dependency is explained, and core's bans stay complete.

use std::collections::BTreeSet;

use anyhow::{Context, Result};

use super::{Source, text_of};

const EXPLAINED: &str = "docs/dependencies.md";
/// What core must never touch; `core/clippy.toml` bans each.
const BANNED: [&str; 12] = [
    "std::time::Instant",
    "std::time::SystemTime",
    "std::collections::HashMap",
    "std::collections::HashSet",
    "std::net::TcpStream",
    "std::net::TcpListener",
    "std::net::UdpSocket",
    "std::fs::File",
    "std::process::Command",
    "std::thread::spawn",
    "std::thread::sleep",
    "std::env::var",
];

/// Dependencies of the workspace without a line in the list, and lines without a dependency.
pub(super) fn dependencies_explained(files: &[Source]) -> Result<Vec<String>> {
    let manifest = text_of(files, "Cargo.toml").context("no Cargo.toml")?;
    let manifest: toml::Table = manifest.parse().context("cannot read Cargo.toml")?;
    let table = manifest.get("workspace").and_then(|w| w.get("dependencies"));
    let table = table.and_then(toml::Value::as_table).context("no [workspace.dependencies]")?;
    let own = |value: &toml::Value| value.get("path").is_some();
    let used: BTreeSet<&str> =
        table.iter().filter(|(_, value)| !own(value)).map(|(name, _)| name.as_str()).collect();

    let text = text_of(files, EXPLAINED).with_context(|| format!("no {EXPLAINED}"))?;
    let first_cell = |line: &'_ str| {
        let cell = line.strip_prefix("| `")?.split_once("` |")?.0;
        Some(cell.to_owned())
    };
    let explained: BTreeSet<String> = text.lines().filter_map(first_cell).collect();

    let mut findings = Vec::new();
    for name in used.iter().filter(|name| !explained.contains(**name)) {
        findings.push(format!("Cargo.toml: {name} has no line in {EXPLAINED} (say what for)"));
    }
    for name in explained.iter().filter(|name| !used.contains(name.as_str())) {
        findings.push(format!("{EXPLAINED}: {name} is not used (remove its line)"));
    }
    Ok(findings)
}

/// Bans that core's rules lack.
pub(super) fn core_bans(files: &[Source]) -> Vec<String> {
    let rules = text_of(files, "core/clippy.toml").unwrap_or_default();
    let missing = BANNED.iter().filter(|path| !rules.contains(&format!("path = \"{path}\"")));
    missing.map(|path| format!("core/clippy.toml: {path} is not banned (ban it)")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> Source {
        Source { path: path.to_owned(), text: text.to_owned() }
    }

    #[test]
    fn dependencies_and_their_explanations_are_the_same_set() {
        let files = [
            file(
                "Cargo.toml",
                "[workspace.dependencies]\na = \"1\"\nb = { path = \"b\" }\nc = \"1\"\n",
            ),
            file(EXPLAINED, "| `a` | for a |\n| `d` | for d |\n"),
        ];
        let found = dependencies_explained(&files).expect("the manifest is readable");
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].contains(": c has no line") && found[1].contains(": d is not used"));
    }

    #[test]
    fn a_ban_that_disappears_is_noticed() {
        assert_eq!(core_bans(&[]).len(), BANNED.len());
        let rules: String =
            BANNED.iter().map(|path| format!("{{ path = \"{path}\" }}\n")).collect();
        assert!(core_bans(&[file("core/clippy.toml", &rules)]).is_empty());
    }
}
