//! `<service>`: how the module starts and how patient it is.

use crate::{
    config::{
        cluster::ClusterConfig,
        error::Report,
        module::{BootPolicy, DefaultPrimary, ServiceConfig, ServiceMode, StartFailure},
        read::View,
        suggest,
    },
    ids::NodeId,
};

pub(super) fn build(
    view: View<'_>,
    (mode, members): (ServiceMode, Option<&[NodeId]>),
    cluster: &ClusterConfig,
    report: &mut Report<'_>,
) -> ServiceConfig {
    let boot = match view.word("boot") {
        Some("on") => BootPolicy::On,
        Some("off") => BootPolicy::Off,
        Some("auto") => BootPolicy::Auto,
        _ => BootPolicy::Ignore,
    };
    let default_primary = match mode {
        ServiceMode::Mirror => default_primary(view, members, cluster, report),
        ServiceMode::Farm | ServiceMode::Light => DefaultPrimary::Alone,
    };
    ServiceConfig {
        mode,
        boot,
        boot_delay: view.time_or_default("boot_delay"),
        failover: view.is_on("failover"),
        default_primary,
        maxloop: view.count("maxloop").and_then(|n| u32::try_from(n).ok()).unwrap_or(3),
        loop_interval: view.time_or_default("loop_interval"),
        automatic_reboot: view.is_on("automatic_reboot"),
        maxloop_retry: view.time("maxloop_retry"),
        on_start_failure: on_start_failure(view, mode, report),
    }
}

fn on_start_failure(view: View<'_>, mode: ServiceMode, report: &mut Report<'_>) -> StartFailure {
    match view.word("onstartfailure") {
        Some("stop") => StartFailure::Stop,
        Some("failover") => {
            if mode != ServiceMode::Mirror {
                let message = "onstartfailure=\"failover\" belongs to a mirror";
                let remedy = "write \"stop\" or \"ignore\"";
                report.error(view.at_attribute("onstartfailure"), message, remedy);
            }
            StartFailure::Failover
        }
        _ => StartFailure::Ignore,
    }
}

fn default_primary(
    view: View<'_>,
    members: Option<&[NodeId]>,
    cluster: &ClusterConfig,
    report: &mut Report<'_>,
) -> DefaultPrimary {
    let name = match view.word("defaultprim") {
        None | Some("alone") => return DefaultPrimary::Alone,
        Some("lastprim") => return DefaultPrimary::Last,
        Some(name) => name,
    };
    if let Some(node) = cluster.node_named(name) {
        if members.is_some_and(|members| !members.contains(&node)) {
            let message = format!("defaultprim=\"{name}\" is not a node of this module");
            report.error(view.at_attribute("defaultprim"), message, "name a node on its networks");
        }
        return DefaultPrimary::Node(node);
    }
    let known = ["alone", "lastprim"].into_iter().chain(cluster.nodes.iter().map(String::as_str));
    let message = format!("defaultprim=\"{name}\" is not a node of the cluster");
    report.error(view.at_attribute("defaultprim"), message, suggest::remedy(name, known));
    DefaultPrimary::Alone
}
