//! Dependency arrows: between crates, and between the modules of core. One way only.

use std::collections::BTreeSet;

use anyhow::{Context, Result};

use super::Source;

/// Each crate, and the crates of this workspace it may use.
const CRATES: [(&str, &[&str]); 7] = [
    ("core", &["havre-core"]),
    ("runtime", &["havre-core"]),
    ("sim", &["havre-core", "havre-runtime"]),
    ("runtime-linux", &["havre-core", "havre-runtime", "havre-sim", "havre-ebpf"]),
    ("runtime-windows", &["havre-core", "havre-runtime"]),
    ("ebpf", &[]),
    ("xtask", &["havre-core", "havre-runtime"]),
];

/// Parts of core: they use types, and never each other.
const PARTS: [&str; 5] = ["membership", "quorum", "replication", "farm", "checks"];
/// What stands above the parts, lowest first.
const ROOTS: [&str; 3] = ["module", "node", "driver"];
/// Types that live in a part's folder because they are about it.
const TYPES_OF_PARTS: [&str; 8] = [
    "farm::explain",
    "farm::set",
    "farm::table",
    "replication::generation",
    "checks::probe",
    "checks::record",
    "checks::resource",
    "checks::rules",
];

/// Crates that use what they must not use.
pub(super) fn between_crates(files: &[Source]) -> Result<Vec<String>> {
    let mut findings = Vec::new();
    let manifests = files.iter().filter(|f| f.path.ends_with("/Cargo.toml"));
    for file in manifests {
        let name = file.path.trim_end_matches("/Cargo.toml");
        let Some((_, allowed)) = CRATES.iter().find(|(known, _)| *known == name) else {
            continue;
        };
        let manifest: toml::Table =
            file.text.parse().with_context(|| format!("cannot read {}", file.path))?;
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let Some(table) = manifest.get(section).and_then(toml::Value::as_table) else {
                continue;
            };
            for used in table.keys().filter(|used| used.starts_with("havre-")) {
                let own = section == "dev-dependencies" && *used == format!("havre-{name}");
                if !own && !allowed.contains(&used.as_str()) {
                    findings.push(format!(
                        "{}: {name} must not use {used} (arrows: ARCHITECTURE.md)",
                        file.path
                    ));
                }
            }
        }
    }
    Ok(findings)
}

/// Height of a module of core: types 0, parts 1, then the roots.
fn height(module: &str) -> usize {
    match ROOTS.iter().position(|root| *root == module) {
        Some(place) => place + 2,
        None => usize::from(PARTS.contains(&module)),
    }
}

/// Uses inside core that go up, or from one part to another.
pub(super) fn inside_core(file: &Source) -> Vec<String> {
    let Some(inner) = file.path.strip_prefix("core/src/") else { return Vec::new() };
    let inner = inner.trim_end_matches(".rs");
    let module = inner.split('/').next().unwrap_or(inner);
    // The crate's map names every module; tests and laws drive whatever they need.
    if module == "lib" || module == "testkit" || inner.contains("tests") {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for used in uses(&file.text) {
        let top = used.split("::").next().unwrap_or(&used);
        if top == module || TYPES_OF_PARTS.iter().any(|t| used.starts_with(t)) {
            continue;
        }
        let (own, other) = (height(module), height(top));
        let sibling = own == 1 && other == 1;
        if other > own || sibling {
            let why = if sibling { "parts do not use each other" } else { "arrows go down" };
            findings.push(format!("{}: uses crate::{used} ({why})", file.path));
        }
    }
    findings
}

/// Paths behind `crate::` in the text before its inline tests, two names deep.
fn uses(text: &str) -> BTreeSet<String> {
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or(text);
    let code: String = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let mut found = BTreeSet::new();
    for piece in code.split("crate::").skip(1) {
        match piece.strip_prefix('{') {
            Some(group) => {
                for entry in top_entries(group) {
                    found.extend(two_names_each(entry.trim()));
                }
            }
            None => found.extend(two_names_each(piece)),
        }
    }
    found.retain(|path| !path.is_empty());
    found
}

/// The entries of a group `{a::{b, c}, d}` whose opening brace has been read.
fn top_entries(group: &str) -> Vec<&str> {
    let (mut depth, mut begin) = (0usize, 0);
    let mut entries = Vec::new();
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                entries.push(&group[begin..at]);
                return entries;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                entries.push(&group[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
    }
    entries
}

/// The first two names of every path of an entry: `a::{b::C, d}` has `a::b` and `a::d`.
fn two_names_each(entry: &str) -> Vec<String> {
    match entry.split_once("::{") {
        Some((first, group)) if !first.contains("::") => {
            // A comma behind the last name leaves an empty entry.
            let inner = top_entries(group).into_iter().map(str::trim).filter(|n| !n.is_empty());
            inner.map(|name| two_names(&format!("{first}::{name}"))).collect()
        }
        _ => vec![two_names(entry)],
    }
}

/// The first two names of a path; the second only if it is a module.
fn two_names(path: &str) -> String {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let mut names = path.split("::").map(|name| {
        let end = name.find(|c| !is_name(c)).unwrap_or(name.len());
        &name[..end]
    });
    let first = names.next().unwrap_or_default();
    match names.next().filter(|second| second.starts_with(|c: char| c.is_lowercase())) {
        Some(second) => format!("{first}::{second}"),
        None => first.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn core(path: &str, text: &str) -> Vec<String> {
        inside_core(&Source { path: format!("core/src/{path}"), text: text.to_owned() })
    }

    #[test]
    fn parts_use_types_and_never_each_other_or_what_stands_above() {
        assert!(core("quorum.rs", "use crate::{ids::{NodeId, Epoch}, time::Instant};").is_empty());
        assert!(core("effect.rs", "use crate::replication::generation::Lineage;").is_empty());
        let nested = "use crate::{farm::{set::Slot, table::{FilterNews, FilterTable},}, time::T};";
        assert!(core("effect.rs", nested).is_empty());
        assert_eq!(core("effect.rs", "use crate::farm::{set::Slot, buckets::assign};").len(), 1);
        assert!(core("module.rs", "use crate::{quorum::Quorum, membership::view};").is_empty());
        assert_eq!(core("quorum.rs", "use crate::membership::View;").len(), 1);
        assert_eq!(core("quorum/policy.rs", "use crate::{\n ids::X,\n node::Node,\n};").len(), 1);
        assert_eq!(core("effect.rs", "fn f(x: crate::replication::sender::S) {}").len(), 1);
        assert_eq!(core("module.rs", "use crate::node::Node;").len(), 1);
        assert!(core("quorum/tests.rs", "use crate::membership::View;").is_empty());
    }

    #[test]
    fn crates_use_only_what_lies_below_them() {
        let manifest = |name: &str, used: &str| Source {
            path: format!("{name}/Cargo.toml"),
            text: format!("[dependencies]\n{used}.workspace = true\n"),
        };
        let found = between_crates(&[
            manifest("sim", "havre-runtime"),
            manifest("runtime", "havre-sim"),
            manifest("core", "havre-runtime"),
        ]);
        let found = found.expect("the manifests are readable");
        assert_eq!(found.len(), 2, "{found:?}");
    }
}
