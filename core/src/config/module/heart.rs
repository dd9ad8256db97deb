//! `<heart>`: over which networks the two nodes watch each other, and how patiently.

use crate::config::{
    cluster::{ClusterConfig, LinkTiming},
    error::Report,
    module::{HeartConfig, HeartbeatConfig},
    read::View,
    suggest,
    time::Written,
};

/// A time-out of fewer pulses than this makes one lost datagram look like a dead peer.
const PULSES_MIN: u32 = 3;

pub(super) fn build(
    service: View<'_>,
    cluster: &ClusterConfig,
    report: &mut Report<'_>,
) -> Option<HeartConfig> {
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
    for view in view.children("heartbeat") {
        if let Some(heartbeat) = heartbeat(view, &config, cluster, report) {
            config.heartbeats.push(heartbeat);
        }
    }
    Some(config)
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
    cluster: &ClusterConfig,
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
            let lacks = |id| !lan.nodes.iter().any(|n| Some(n.node) == id);
            for node in cluster.nodes.iter().filter(|node| lacks(cluster.node_named(node))) {
                let message = format!("network {name} does not contain node {node}");
                report.error(at, message, "add the node to it in cluster.xml, or use another");
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
