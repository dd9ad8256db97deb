//! Checks a `userconfig.xml` of which the cluster is unknown: networks and nodes are taken as the
//! file names them, and the reader is told that they were.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use havre_core::config::{
    self,
    cluster::ClusterConfig,
    error::{Diagnostic, Severity},
};

use super::config::module_of;
use crate::modules::environment;

/// Most names taken from one file.
const NAMES_MAX: usize = 32;

/// Everything found in modules, given with their texts.
pub(super) fn check(modules: &[(PathBuf, String)]) -> Vec<Diagnostic> {
    let mut findings = Vec::new();
    for (file, text) in modules {
        let lans = named(text, &["heartbeat", "lan"], "name");
        let mut nodes = named(text, &["host"], "name");
        nodes.extend(named(text, &["service"], "defaultprim").into_iter().filter(|n| n != "alone"));
        if let Some(cluster) = imagined(&lans, &nodes, text.contains("\"lease\"")) {
            let parsed =
                config::module::parse(file, text, &cluster, &environment(&module_of(file)));
            let found = match parsed {
                Ok(parsed) => parsed.notices,
                Err(errors) => errors.0,
            };
            // Names behind macros, which only the cluster can tell right from wrong.
            findings.extend(found.into_iter().filter(|one| !one.message.contains("cluster.xml")));
        }
        findings.push(not_checked(file, &lans, &nodes));
    }
    findings
}

/// The values of one attribute of these elements, as long as they are plain names.
fn named(text: &str, elements: &[&str], attribute: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for tag in text.split('<').skip(1) {
        let tag = tag.split('>').next().unwrap_or_default();
        let mut words = tag.split(|c: char| c.is_whitespace() || c == '/');
        if !words.next().is_some_and(|element| elements.contains(&element)) {
            continue;
        }
        let value = tag.split_once(&format!("{attribute}=\"")).and_then(|(_, v)| v.split_once('"'));
        let plain = |c: char| c.is_alphanumeric() || "-_.".contains(c);
        if let Some((name, _)) = value
            && !name.is_empty()
            && name.chars().all(plain)
            && names.len() < NAMES_MAX
        {
            names.insert(name.to_owned());
        }
    }
    names
}

/// A cluster in which every name of the file exists.
fn imagined(
    lans: &BTreeSet<String>,
    nodes: &BTreeSet<String>,
    witness: bool,
) -> Option<ClusterConfig> {
    let mut nodes: Vec<String> = nodes.iter().cloned().collect();
    for number in 1.. {
        if nodes.len() >= 2 {
            break;
        }
        nodes.push(format!("node-{number}"));
    }
    let unnamed = BTreeSet::from(["default".to_owned()]);
    let lans = if lans.is_empty() { &unnamed } else { lans };
    let mut xml = "<cluster><lans>".to_owned();
    for (network, lan) in lans.iter().enumerate() {
        xml += &format!("<lan name=\"{lan}\">");
        for (host, node) in nodes.iter().enumerate() {
            // Addresses for documentation (RFC 5737, RFC 2544).
            xml += &format!("<node name=\"{node}\" addr=\"198.18.{network}.{}\"/>", host + 1);
        }
        xml += "</lan>";
    }
    xml += "</lans>";
    if witness {
        xml += "<witness addr=\"192.0.2.1\"/>";
    }
    xml += "</cluster>";
    config::cluster::parse(Path::new("cluster.xml"), &xml).ok().map(|parsed| parsed.value)
}

fn not_checked(file: &Path, lans: &BTreeSet<String>, nodes: &BTreeSet<String>) -> Diagnostic {
    let list = |names: &BTreeSet<String>| names.iter().cloned().collect::<Vec<_>>().join(", ");
    let mut what = vec!["witness".to_owned()];
    if !nodes.is_empty() {
        what.insert(0, format!("nodes ({})", list(nodes)));
    }
    if !lans.is_empty() {
        what.insert(0, format!("networks ({})", list(lans)));
    }
    Diagnostic {
        file: file.to_owned(),
        line: 1,
        column: 1,
        severity: Severity::Notice,
        message: format!("not checked without a cluster.xml: {}", what.join(", ")),
        remedy: "give the cluster.xml too, or run this on a member of the cluster".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<Diagnostic> {
        check(&[(PathBuf::from("db/conf/userconfig.xml"), text.to_owned())])
    }

    #[test]
    fn a_good_module_has_no_error_and_is_told_what_was_not_checked() {
        let all = found(
            "<safe><service mode=\"mirror\" defaultprim=\"alone\">\n\
             <heart><heartbeat name=\"repli\" ident=\"flow\"/><heartbeat name=\"net2\"/></heart>\n\
             </service></safe>",
        );
        assert!(all.iter().all(|one| one.severity != Severity::Error), "{all:?}");
        let last = all.last().expect("a notice");
        assert_eq!(
            last.message,
            "not checked without a cluster.xml: networks (net2, repli), witness"
        );
    }

    #[test]
    fn errors_that_need_no_cluster_are_found_at_their_place() {
        let all = found("<safe><service mode=\"mirror\">\n<hart/>\n</service></safe>");
        let at_its_place = |one: &&Diagnostic| (one.line, one.column) == (2, 1);
        let error = all.iter().find(at_its_place).expect("the misspelt element is named");
        assert_eq!(error.severity, Severity::Error, "{error}");
    }
}
