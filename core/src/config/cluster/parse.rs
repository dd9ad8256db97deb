//! Reads `cluster.xml`.

use std::path::Path;

use crate::{
    config::{
        cluster::{ClusterConfig, Lan, LanNode, WITNESS_PORT_DEFAULT, WitnessAddress},
        error::{ConfigErrors, Parsed, Position, Report},
        read::{self, View},
        schema::CLUSTER,
        suggest, value, xml,
    },
    ids::NodeId,
};

/// Most nodes of one cluster.
pub const NODES_MAX: usize = 64;
/// Most networks of one cluster.
pub const LANS_MAX: usize = 16;

/// Reads the text of a `cluster.xml`; `file` is its name in messages.
///
/// # Errors
/// Everything that is wrong with it, in the order of the file; nothing is read half.
pub fn parse(file: &Path, text: &str) -> Result<Parsed<ClusterConfig>, ConfigErrors> {
    let mut report = Report::new(file);
    let tops = xml::read(text, &mut report);
    let mut value = None;
    for top in &tops {
        if top.name == CLUSTER.name && value.is_none() {
            read::check(top, &CLUSTER, false, &mut report);
            value = Some(build(View::new(top, &CLUSTER), &mut report));
        } else if top.name == CLUSTER.name {
            report.error(top.at, "a second <cluster>", "keep one <cluster> per file");
        } else {
            let remedy = match top.name.as_str() {
                "safe" => "this is a module's file, userconfig.xml".to_owned(),
                name => suggest::remedy(name, [CLUSTER.name]),
            };
            report.error(top.at, format!("<{}> in the place of <cluster>", top.name), remedy);
        }
    }
    if value.is_none() && !report.has_errors() {
        let message = "the file contains no <cluster>";
        report.error(Position { line: 1, column: 1 }, message, "begin it with <cluster>");
    }
    report.finish(value)
}

fn build(cluster: View<'_>, report: &mut Report<'_>) -> ClusterConfig {
    let lans_view = cluster.child("lans");
    let port = lans_view.and_then(|lans| lans.port("port"));
    let mut config = ClusterConfig {
        port: port.unwrap_or(super::CLUSTER_PORT_DEFAULT),
        nodes: Vec::new(),
        lans: Vec::new(),
        witness: None,
    };
    for view in lans_view.iter().flat_map(|lans| lans.children("lan")) {
        lan(view, &mut config, report);
    }
    if let Some(view) = lans_view {
        check_whole(view, &config, report);
    }
    if let Some(view) = cluster.child("witness") {
        config.witness = witness(view, &config, report);
    }
    config
}

fn lan(view: View<'_>, config: &mut ClusterConfig, report: &mut Report<'_>) {
    let name = view.word("name").unwrap_or_default().to_owned();
    if !name.is_empty() && config.lans.iter().any(|lan| lan.name == name) {
        let message = format!("two networks are called {name}");
        report.error(view.at_attribute("name"), message, "give each network its own name");
    }
    let command = view.is_on("command");
    if command && config.lans.iter().any(|lan| lan.command) {
        let message = "a second network has command=\"on\"";
        report.error(view.at_attribute("command"), message, "leave it at one network");
    }
    let mut lan = Lan { name, command, nodes: Vec::new() };
    for view in view.children("node") {
        if let Some(node) = node(view, &lan, config, report) {
            lan.nodes.push(node);
        }
    }
    if config.lans.len() < LANS_MAX {
        config.lans.push(lan);
    } else {
        let message = format!("more than {LANS_MAX} networks");
        report.error(view.at(), message, "remove some");
    }
}

fn node(
    view: View<'_>,
    lan: &Lan,
    config: &mut ClusterConfig,
    report: &mut Report<'_>,
) -> Option<LanNode> {
    let name = view.word("name")?;
    let at = view.at_attribute("name");
    if name == "witness" {
        report.error(at, "a node is called witness", "choose another name: it is reserved");
        return None;
    }
    let node = known_or_new(name, at, config, report)?;
    if lan.nodes.iter().any(|n| n.node == node) {
        let message = format!("node {name} occurs twice on network {}", lan.name);
        report.error(at, message, "remove one of the two");
    }
    let addr = value::host(view.word("addr")?);
    if let Some(other) = lan.nodes.iter().find(|n| n.addr == addr && n.node != node) {
        let message = format!("{} and {name} have the same address", config.name_of(other.node));
        report.error(view.at_attribute("addr"), message, "give each node its own address");
    }
    let local_addr = view.word("laddr").map(value::host);
    Some(LanNode { node, addr, local_addr })
}

fn known_or_new(
    name: &str,
    at: Position,
    config: &mut ClusterConfig,
    report: &mut Report<'_>,
) -> Option<NodeId> {
    if let Some(known) = config.node_named(name) {
        return Some(known);
    }
    if let Some(near) = config.nodes.iter().find(|n| n.eq_ignore_ascii_case(name)) {
        let message = format!("nodes {near} and {name} differ in case only");
        report.warning(at, message, "write the same name on every network");
    }
    if config.nodes.len() >= NODES_MAX {
        report.error(at, format!("more than {NODES_MAX} nodes"), "remove some");
        return None;
    }
    config.nodes.push(name.to_owned());
    config.node_named(name)
}

fn check_whole(view: View<'_>, config: &ClusterConfig, report: &mut Report<'_>) {
    if report.has_errors() {
        // What is missing here may stand in a line that could not be read.
        return;
    }
    let count = config.nodes.len();
    if count < 2 {
        let message = format!("the cluster has {count} node, it needs at least 2");
        report.error(view.at(), message, "add the other <node> to every <lan>");
    }
    if !config.lans.iter().any(|lan| lan.nodes.len() == count) {
        let message = "no network contains all nodes";
        let remedy = format!("make one <lan> with all of {}", config.nodes.join(", "));
        report.error(view.at(), message, remedy);
    }
    for (lan, view) in config.lans.iter().zip(view.children("lan")) {
        if lan.command && lan.nodes.len() < count {
            let message = format!("network {} has command=\"on\" and lacks nodes", lan.name);
            report.error(view.at(), message, "add them, or move command=\"on\"");
        }
    }
}

fn witness(
    view: View<'_>,
    config: &ClusterConfig,
    report: &mut Report<'_>,
) -> Option<WitnessAddress> {
    let addr = value::host(view.word("addr")?);
    let same = |n: &&LanNode| n.addr == addr || n.local_addr.as_deref() == Some(addr.as_str());
    if let Some(node) = config.lans.iter().flat_map(|lan| &lan.nodes).find(same) {
        let message = format!("the witness has the address of node {}", config.name_of(node.node));
        report.error(view.at_attribute("addr"), message, "run the witness on a third machine");
    }
    Some(WitnessAddress { addr, port: view.port("port").unwrap_or(WITNESS_PORT_DEFAULT) })
}
