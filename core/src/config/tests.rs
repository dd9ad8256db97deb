//! What the two parsers accept and say, by example; real files' oddities one by one.

use std::{collections::BTreeMap, path::Path};

use super::{
    cluster::{self, ClusterConfig},
    error::{ConfigErrors, Parsed, Severity},
    module::{self, ModuleConfig},
};

mod checkers;
mod cluster_xml;
mod difference;
mod farm;
mod limits;
mod neighbours;
mod oddities;
mod userconfig_xml;

const CLUSTER: &str = r#"<cluster><lans>
<lan name="default"><node name="node1" addr="10.0.0.1"/><node name="node2" addr="10.0.0.2"/></lan>
<lan name="private"><node name="node1" addr="10.1.0.1"/><node name="node2" addr="10.1.0.2"/></lan>
</lans></cluster>"#;

/// The cluster that modules of these tests belong to.
fn pair() -> ClusterConfig {
    cluster::parse(Path::new("cluster.xml"), CLUSTER).expect("the sample is correct").value
}

fn parse(text: &str) -> Result<Parsed<ModuleConfig>, ConfigErrors> {
    module::parse(Path::new("u.xml"), text, &pair(), &BTreeMap::new())
}

#[track_caller]
fn accepted(text: &str) -> Parsed<ModuleConfig> {
    match parse(text) {
        Ok(parsed) => parsed,
        Err(errors) => panic!("refused:\n{errors}"),
    }
}

/// The errors of a refused file, without warnings and notices.
#[track_caller]
fn errors(text: &str) -> Vec<String> {
    let found = parse(text).expect_err("the file has errors").0;
    let found = found.iter().filter(|d| d.severity == Severity::Error);
    found.map(ToString::to_string).collect()
}

/// Warnings and notices of an accepted file.
#[track_caller]
fn notices(text: &str) -> Vec<String> {
    accepted(text).notices.iter().map(ToString::to_string).collect()
}

#[track_caller]
fn has(lines: &[String], part: &str) {
    assert!(lines.iter().any(|line| line.contains(part)), "no {part:?} in:\n{}", lines.join("\n"));
}

/// A mirror with `inside` added to its service.
fn mirror(inside: &str) -> String {
    format!(
        "<safe><service mode=\"mirror\"><heart><heartbeat name=\"default\"/></heart>\n{inside}\n\
         <user/></service></safe>"
    )
}
