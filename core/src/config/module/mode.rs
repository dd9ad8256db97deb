//! `mode=`: the architecture of a module, and which elements belong to which.

use serde::{Deserialize, Serialize};

use crate::config::{error::Report, read::View};

/// `<service mode>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServiceMode {
    /// Two nodes, one of which runs the application; files are replicated to the other.
    Mirror,
    /// Every node runs the application; clients are shared among them.
    Farm,
    /// Every node runs the application for itself and knows nothing of the others.
    Light,
}

impl ServiceMode {
    /// The word of the file.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Mirror => "mirror",
            Self::Farm => "farm",
            Self::Light => "light",
        }
    }
}

/// The mode as written; a wrong or absent one has been reported.
pub(super) fn of(service: View<'_>) -> Option<ServiceMode> {
    match service.word("mode") {
        Some("mirror") => Some(ServiceMode::Mirror),
        Some("farm") => Some(ServiceMode::Farm),
        Some("light") => Some(ServiceMode::Light),
        _ => None,
    }
}

/// Reports elements and attributes of another mode.
pub(super) fn check(service: View<'_>, mode: ServiceMode, report: &mut Report<'_>) {
    if mode == ServiceMode::Mirror {
        let vip = service.child("vip");
        let lists = vip.iter().flat_map(|vip| vip.children("loadbalancing_list"));
        for view in service.children("farm").chain(lists) {
            let message = format!("<{}> has no effect in a mirror", view.name());
            report.notice(view.at(), message, "it can be removed");
        }
        return;
    }
    let word = mode.word();
    for (name, remedy) in misplaced(mode) {
        for view in service.children(name) {
            let message = format!("<{name}> does not belong to mode=\"{word}\"");
            report.error(view.at(), message, *remedy);
        }
    }
    for view in service.children("check").flat_map(|check| check.children("splitbrain")) {
        let message = format!("<splitbrain> does not belong to mode=\"{word}\"");
        let remedy = "remove it: only a mirror must decide which of two nodes runs";
        report.error(view.at(), message, remedy);
    }
    for name in ["failover", "defaultprim", "quorum"] {
        if service.is_written(name) {
            let message = format!("{name} has no effect in mode=\"{word}\"");
            report.notice(service.at_attribute(name), message, "it can be removed");
        }
    }
}

/// Elements that a mode other than mirror must not have, each with what to do.
const fn misplaced(mode: ServiceMode) -> &'static [(&'static str, &'static str)] {
    match mode {
        ServiceMode::Mirror => &[],
        ServiceMode::Farm => &[
            ("heart", "write <farm><lan name=\"...\"/></farm>: the nodes of a farm are equal"),
            ("rfs", "replicate in a module of its own, with mode=\"mirror\""),
        ],
        ServiceMode::Light => &[
            ("heart", "remove it: a light module has no peer"),
            ("farm", "remove it, or write mode=\"farm\""),
            ("rfs", "remove it, or write mode=\"mirror\": a light module has no peer"),
            ("vip", "remove it, or write mode=\"mirror\" or mode=\"farm\""),
        ],
    }
}
