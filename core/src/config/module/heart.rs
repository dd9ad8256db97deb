//! `<heart>`: over which networks the two nodes watch each other, and how patiently.

use std::time::Duration;

use crate::{
    config::{
        cluster::{ClusterConfig, LinkTiming},
        error::Report,
        module::{HeartConfig, HeartbeatConfig},
        read::View,
        suggest,
        time::Written,
    },
    ids::NodeId,
};

/// A time-out of fewer pulses than this makes one lost datagram look like a dead peer.
const PULSES_MIN: u32 = 3;

pub(super) fn build(
    service: View<'_>,
    cluster: &ClusterConfig,
    report: &mut Report<'_>,
) -> Option<(HeartConfig, Vec<NodeId>)> {
    let Some(view) = service.child("heart") else {
        let message = "<service mode=\"mirror\"> contains no <heart>";
        let lan = cluster.lans.first().map_or("default", |lan| lan.name.as_str());
        let remedy = format!("add <heart><heartbeat name=\"{lan}\"/></heart>");
        if report.is_intact() {
            report.error(service.at(), message, remedy);
        }
        return None;
    };
    let timing = LinkTiming {
        pulse: view.time_or_default("pulse"),
        timeout: view.time_or_default("timeout"),
    };
    check_timing(view, timing, report);
    let mut config = HeartConfig { timing, heartbeats: Vec::new() };
    let members = members(view, cluster);
    for view in view.children("heartbeat") {
        if let Some(heartbeat) = heartbeat(view, &config, (cluster, &members), report) {
            config.heartbeats.push(heartbeat);
        }
    }
    if members.len() != 2 && !config.heartbeats.is_empty() && !report.has_errors() {
        let lan = &config.heartbeats[0].name;
        let message =
            format!("a mirror needs exactly 2 nodes, the network {lan} has {}", members.len());
        let remedy = "name a <lan> of cluster.xml that holds the two nodes of this module only";
        report.error(view.at(), message, remedy);
    }
    Some((config, members))
}

/// What a module without `<heart>` holds in its place: the table's times and no network.
pub(super) fn none() -> HeartConfig {
    let timing = LinkTiming { pulse: Duration::from_millis(700), timeout: Duration::from_secs(30) };
    HeartConfig { timing, heartbeats: Vec::new() }
}

/// The nodes of the module: those on the first of its networks that exists. In a cluster of two
/// both, so that a network that lacks one is told.
fn members(heart: View<'_>, cluster: &ClusterConfig) -> Vec<NodeId> {
    if cluster.nodes.len() == 2 {
        return cluster.node_ids().collect();
    }
    let names = heart.children("heartbeat").filter_map(|heartbeat| heartbeat.word("name"));
    let lan = names.filter_map(|name| cluster.lans.iter().find(|lan| lan.name == name)).next();
    let mut members: Vec<NodeId> = lan.iter().flat_map(|l| &l.nodes).map(|n| n.node).collect();
    members.sort_unstable();
    members
}

fn check_timing(view: View<'_>, timing: LinkTiming, report: &mut Report<'_>) {
    if timing.timeout < timing.pulse * PULSES_MIN {
        let message = format!(
            "timeout {} is less than {PULSES_MIN} x pulse {}: one lost datagram causes a failover",
            Written(timing.timeout),
            Written(timing.pulse)
        );
        let remedy = format!("write timeout=\"{}\" or more", Written(timing.pulse * PULSES_MIN));
        report.warning(view.at_attribute("timeout"), message, remedy);
    }
}

fn heartbeat(
    view: View<'_>,
    heart: &HeartConfig,
    (cluster, members): (&ClusterConfig, &[NodeId]),
    report: &mut Report<'_>,
) -> Option<HeartbeatConfig> {
    let timing = LinkTiming {
        pulse: view.time("pulse").unwrap_or(heart.timing.pulse),
        timeout: view.time("timeout").unwrap_or(heart.timing.timeout),
    };
    if timing != heart.timing {
        check_timing(view, timing, report);
    }
    let name = view.word("name")?;
    let at = view.at_attribute("name");
    match cluster.lans.iter().find(|lan| lan.name == name) {
        None => {
            let known = cluster.lans.iter().map(|lan| lan.name.as_str());
            let message = format!("cluster.xml has no network {name}");
            report.error(at, message, suggest::remedy(name, known));
        }
        Some(lan) => {
            let lacks = |id: &&NodeId| !lan.nodes.iter().any(|n| n.node == **id);
            for node in members.iter().filter(lacks) {
                let node = cluster.name_of(*node);
                let message = format!("network {name} does not contain node {node}");
                report.error(at, message, "add the node to it in cluster.xml, or use another");
            }
            for node in lan.nodes.iter().filter(|n| !members.contains(&n.node)) {
                let node = cluster.name_of(node.node);
                let message =
                    format!("network {name} contains node {node}, which is not of this module");
                report.error(at, message, "use a network with the same two nodes");
            }
        }
    }
    if heart.heartbeats.iter().any(|h| h.name == name) {
        let message = format!("two heartbeats on network {name}");
        report.error(at, message, "keep one <heartbeat> per network");
    }
    let ident = view.word("ident").unwrap_or(name);
    if heart.heartbeats.iter().any(|h| h.ident == ident) {
        let message = match ident {
            "flow" => "a second heartbeat has ident=\"flow\"".to_owned(),
            _ => format!("two heartbeats have the ident {ident}"),
        };
        report.error(view.at_attribute("ident"), message, "give each heartbeat its own ident");
    }
    Some(HeartbeatConfig { name: name.to_owned(), ident: ident.to_owned(), timing })
}
