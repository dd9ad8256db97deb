//! `<farm>`: over which networks the nodes of a farm watch each other, and how patiently.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    config::{
        cluster::{ClusterConfig, Lan, LinkTiming},
        error::Report,
        module::{GroupConfig, InterfaceConfig, balance},
        read::View,
        suggest,
        time::Written,
    },
    ids::NodeId,
};

/// Nodes are declared lost too hastily on a busy machine below this silence.
const SILENCE_MIN: Duration = Duration::from_millis(30);

/// `<farm>`, and what `<vip>` says about sharing the load.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FarmConfig {
    /// Period of membership packets. Default 100 ms.
    pub pulse: Duration,
    /// Missing packets after which a new leader is elected. Default 20.
    pub mlost_count: u32,
    /// Missing packets after which a follower counts as lost. Default 10.
    pub slost_count: u32,
    /// Names of the `<lan>`s of `cluster.xml` that are used, at least one.
    pub lans: Vec<String>,
    /// `<vip scriptcontrol>`: scripts open and close the traffic. Default off.
    pub script_control: bool,
    /// `<loadbalancing_list>`. Empty exactly if the farm has no virtual address.
    pub groups: Vec<GroupConfig>,
}

impl FarmConfig {
    /// Silence after which a follower counts as lost.
    pub fn follower_timeout(&self) -> Duration {
        self.pulse * self.slost_count
    }

    /// Silence after which the leader counts as lost.
    pub fn leader_timeout(&self) -> Duration {
        self.pulse * self.mlost_count
    }

    /// The networks with their timing; the time-out is that of a follower.
    pub fn networks(&self) -> impl Iterator<Item = (&str, LinkTiming)> {
        let timing = LinkTiming { pulse: self.pulse, timeout: self.follower_timeout() };
        self.lans.iter().map(move |lan| (lan.as_str(), timing))
    }
}

/// The farm and its members.
pub(super) fn build(
    service: View<'_>,
    interfaces: &[InterfaceConfig],
    cluster: &ClusterConfig,
    report: &mut Report<'_>,
) -> Option<(FarmConfig, Vec<NodeId>)> {
    let Some(view) = service.child("farm") else {
        let message = "<service mode=\"farm\"> contains no <farm>";
        let lan = cluster.lans.first().map_or("default", |lan| lan.name.as_str());
        if report.is_intact() {
            report.error(service.at(), message, format!("add <farm><lan name=\"{lan}\"/></farm>"));
        }
        return None;
    };
    let count = |name| view.count(name).and_then(|n| u32::try_from(n).ok());
    let mut config = FarmConfig {
        pulse: view.time_or_default("pulse"),
        mlost_count: count("mlost_count").unwrap_or(20),
        slost_count: count("slost_count").unwrap_or(10),
        lans: Vec::new(),
        script_control: service.child("vip").is_some_and(|vip| vip.is_on("scriptcontrol")),
        groups: Vec::new(),
    };
    check_timing(view, &config, report);
    let mut members = Vec::new();
    for view in view.children("lan") {
        let Some(lan) = lan(view, &config, cluster, report) else { continue };
        for node in &lan.nodes {
            if !members.contains(&node.node) {
                members.push(node.node);
            }
        }
        config.lans.push(lan.name.clone());
    }
    members.sort_unstable();
    config.groups = balance::build(service, interfaces, (cluster, &members), report);
    Some((config, members))
}

fn check_timing(view: View<'_>, config: &FarmConfig, report: &mut Report<'_>) {
    let silence = config.follower_timeout();
    if silence < SILENCE_MIN {
        let message = format!(
            "a node counts as lost after {} of silence (slost_count x pulse): a busy machine is \
             late by more",
            Written(silence)
        );
        let remedy = format!("make slost_count x pulse at least {}", Written(SILENCE_MIN));
        report.warning(view.at_attribute("slost_count"), message, remedy);
    }
    if config.mlost_count < config.slost_count {
        let message = "mlost_count is less than slost_count: a leader that is late is replaced \
                       before it counts as lost";
        report.warning(view.at_attribute("mlost_count"), message, "raise mlost_count");
    }
}

/// The network of the cluster that the element names.
fn lan<'c>(
    view: View<'_>,
    farm: &FarmConfig,
    cluster: &'c ClusterConfig,
    report: &mut Report<'_>,
) -> Option<&'c Lan> {
    let name = view.word("name")?;
    let at = view.at_attribute("name");
    let Some(lan) = cluster.lans.iter().find(|lan| lan.name == name) else {
        let known = cluster.lans.iter().map(|lan| lan.name.as_str());
        let message = format!("cluster.xml has no network {name}");
        report.error(at, message, suggest::remedy(name, known));
        return None;
    };
    if farm.lans.iter().any(|earlier| earlier == name) {
        let message = format!("network {name} occurs twice in <farm>");
        report.error(at, message, "keep one <lan> per network");
        return None;
    }
    Some(lan)
}
