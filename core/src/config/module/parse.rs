//! Reads `userconfig.xml`: tree, macros, table, then each part into its type.

use std::{collections::BTreeMap, path::Path};

use crate::config::{
    cluster::ClusterConfig,
    error::{ConfigErrors, Parsed, Position, Report},
    macros::Names,
    module::{
        ChecksConfig, ModuleConfig, Neighbours, QuorumPolicy, ServiceMode, checkers, failover,
        farm, heart, mode, neighbours, quorum, rfs, service, user, vip,
    },
    read::{self, View},
    schema::SAFE,
    suggest,
    xml::{self, Element},
};

/// Reads the text of a `userconfig.xml` for the given cluster; `file` is its name in messages and
/// `environment` the variables that `%name%` may use.
///
/// # Errors
/// Everything that is wrong with it, in the order of the file; nothing is read half.
pub fn parse(
    file: &Path,
    text: &str,
    cluster: &ClusterConfig,
    environment: &BTreeMap<String, String>,
) -> Result<Parsed<ModuleConfig>, ConfigErrors> {
    parse_beside(file, text, (cluster, environment), &Neighbours::default())
}

/// As [`parse`], for a module that runs beside others: what it shares with them is an error too.
///
/// # Errors
/// Everything that is wrong with it, in the order of the file; nothing is read half.
pub fn parse_beside(
    file: &Path,
    text: &str,
    (cluster, environment): (&ClusterConfig, &BTreeMap<String, String>),
    neighbours: &Neighbours<'_>,
) -> Result<Parsed<ModuleConfig>, ConfigErrors> {
    let mut report = Report::new(file);
    let value = tree(text, environment, &mut report).and_then(|safe| {
        read::check(&safe, &SAFE, false, &mut report);
        let service = View::new(&safe, &SAFE).child("service")?;
        let config = build(service, cluster, &mut report)?;
        neighbours::check(service, &config, neighbours, &mut report);
        Some(config)
    });
    report.finish(value)
}

/// The tree of a file, macros expanded.
pub(crate) fn tree(
    text: &str,
    environment: &BTreeMap<String, String>,
    report: &mut Report<'_>,
) -> Option<Element> {
    let tops = xml::read(text, report);
    let mut safe = root(tops, report)?;
    let macros = safe.children.iter().filter(|c| c.name == "macro");
    let names = Names::collect(macros, environment, report);
    names.expand_tree(&mut safe, report);
    flatten_checks(&mut safe, report);
    Some(safe)
}

/// The one `<safe>`, with the macros that stand in front of it.
fn root(tops: Vec<Element>, report: &mut Report<'_>) -> Option<Element> {
    let mut safe: Option<Element> = None;
    let mut macros: Vec<Element> = Vec::new();
    for top in tops {
        let near = suggest::nearest(&top.name, [SAFE.name]).is_some();
        match top.name.as_str() {
            "macro" => {
                let message = "<macro> stands outside of <safe>";
                report.warning(top.at, message, "move it inside, in front of <service>");
                macros.push(top);
            }
            "safe" if safe.is_some() => {
                report.error(top.at, "a second <safe>", "keep one <safe> per file");
            }
            "safe" => safe = Some(top),
            name => {
                let remedy = match name {
                    "cluster" => "this is the file of the cluster, cluster.xml",
                    "service" => "put <safe> around <service>",
                    _ if near => "did you mean <safe>?",
                    _ => "the file must hold one <safe>",
                };
                report.error(top.at, format!("<{name}> in the place of <safe>"), remedy);
                if near && safe.is_none() {
                    safe = Some(top);
                }
            }
        }
    }
    if safe.is_none() && !report.has_errors() {
        let at = Position { line: 1, column: 1 };
        report.error(at, "the file contains no <safe>", "begin it with <!DOCTYPE safe> and <safe>");
    }
    let mut safe = safe?;
    // The macros count as the first: whatever uses them comes later.
    macros.append(&mut safe.children);
    safe.children = macros;
    Some(safe)
}

/// Lifts the checkers of a `<check>` inside a `<check>`.
fn flatten_checks(safe: &mut Element, report: &mut Report<'_>) {
    for service in safe.children.iter_mut().filter(|c| c.name == "service") {
        for outer in service.children.iter_mut().filter(|c| c.name == "check") {
            while let Some(place) = outer.children.iter().position(|c| c.name == "check") {
                let inner = outer.children.remove(place);
                let message = "<check> inside <check>: read as one";
                report.warning(inner.at, message, "remove the inner <check> and </check>");
                outer.children.extend(inner.children);
            }
        }
    }
}

fn build(view: View<'_>, cluster: &ClusterConfig, report: &mut Report<'_>) -> Option<ModuleConfig> {
    let mode = mode::of(view)?;
    mode::check(view, mode, report);
    quorum::check_through_own_address(view, mode, report);
    let (interfaces, tcp_reset) = vip::build(view, mode, cluster, report);
    let user = user::build(view, report);
    let mut heart = heart::none();
    let (mut farm, mut rfs, mut quorum) = (None, None, QuorumPolicy::None);
    let members = match mode {
        ServiceMode::Mirror => {
            let found = heart::build(view, cluster, report);
            rfs = rfs::build(view, report);
            quorum = quorum::build(view, cluster, report);
            found.map(|(found, members)| {
                heart = found;
                members
            })
        }
        ServiceMode::Farm => {
            farm::build(view, &interfaces, cluster, report).map(|(found, members)| {
                farm = Some(found);
                members
            })
        }
        ServiceMode::Light => Some(cluster.node_ids().collect()),
    };
    // Even without members: the service itself may have more errors.
    let service = service::build(view, (mode, members.as_deref()), cluster, report);
    let errd = checkers::build_errd(view, mode, report);
    let checkers = checkers::build(view, mode, (&interfaces, &quorum), report);
    let failover = failover::build(view, &checkers, errd.as_ref(), report);
    Some(ModuleConfig {
        service,
        members: members?,
        heart,
        farm,
        interfaces,
        tcp_reset,
        rfs,
        user,
        quorum,
        checks: ChecksConfig { errd, checkers, failover },
    })
}
