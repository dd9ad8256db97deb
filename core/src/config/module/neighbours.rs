//! What modules of one node must not share: virtual addresses, replicated directories, ports.

use std::path::{Path, PathBuf};

use crate::{
    config::{
        error::Report,
        module::{ModuleConfig, rfs::overlap},
        read::View,
        value::path_parts,
    },
    ids::ModuleId,
};

/// What is on the nodes of a module besides it.
#[derive(Debug, Clone)]
pub struct Neighbours<'a> {
    /// Number of the module itself.
    pub id: ModuleId,
    /// The other modules.
    pub others: Vec<Neighbour<'a>>,
    /// TCP ports that the daemon uses, and what for.
    pub ports: Vec<(u16, String)>,
    /// Directories of the daemon, and what they hold.
    pub directories: Vec<(PathBuf, String)>,
}

/// Another module.
#[derive(Debug, Clone, Copy)]
pub struct Neighbour<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its number.
    pub id: ModuleId,
    /// Its configuration.
    pub config: &'a ModuleConfig,
}

impl Default for Neighbours<'_> {
    fn default() -> Self {
        let id = ModuleId(1);
        Self { id, others: Vec::new(), ports: Vec::new(), directories: Vec::new() }
    }
}

/// Reports everything that the module shares with another or with the daemon, at its own place.
pub(super) fn check(
    service: View<'_>,
    config: &ModuleConfig,
    neighbours: &Neighbours<'_>,
    report: &mut Report<'_>,
) {
    // Modules on different nodes only meet nowhere.
    let meets = |other: &&Neighbour<'_>| {
        config.members.iter().any(|member| other.config.members.contains(member))
    };
    let others: Vec<&Neighbour<'_>> = neighbours.others.iter().filter(meets).collect();
    // An address is one on the whole network, whichever nodes hold it.
    check_addresses(service, &neighbours.others, report);
    check_directories(service, &others, neighbours, report);
    check_port(service, config, &others, neighbours, report);
}

fn check_addresses(service: View<'_>, others: &[Neighbour<'_>], report: &mut Report<'_>) {
    let lists = service.children("vip").flat_map(|vip| vip.children("interface_list"));
    for card in lists.flat_map(|list| list.children("interface")) {
        let kinds = card.children("real_interface").chain(card.children("virtual_interface"));
        for view in kinds.flat_map(|kind| kind.children("virtual_addr")) {
            let Some(addr) = view.address("addr") else { continue };
            let has = |other: &&Neighbour<'_>| {
                other.config.interfaces.iter().flat_map(|i| &i.addresses).any(|a| a.addr == addr)
            };
            if let Some(other) = others.iter().find(has) {
                let message = format!("the virtual address {addr} is one of module {}", other.name);
                report.error(view.at_attribute("addr"), message, "use another address");
            }
        }
    }
}

fn check_directories(
    service: View<'_>,
    others: &[&Neighbour<'_>],
    neighbours: &Neighbours<'_>,
    report: &mut Report<'_>,
) {
    for view in service.children("rfs").flat_map(|rfs| rfs.children("replicated")) {
        let Some(dir) = view.word("dir").map(|dir| dir.trim_end_matches(['/', '\\'])) else {
            continue;
        };
        let parts = path_parts(dir);
        let at = view.at_attribute("dir");
        for other in others {
            for replicated in other.config.rfs.iter().flat_map(|rfs| &rfs.directories) {
                let earlier = path_parts(&replicated.dir.to_string_lossy());
                if let Some(message) = overlap(dir, &parts, &replicated.dir, &earlier) {
                    let message = format!("{message} (module {})", other.name);
                    report.error(at, message, "replicate each directory in one module only");
                }
            }
        }
        for (own, purpose) in &neighbours.directories {
            let earlier = path_parts(&own.to_string_lossy());
            let own: &Path = own;
            if overlap(dir, &parts, own, &earlier).is_some() {
                let message = format!("{dir} and {} ({purpose}) overlap", own.display());
                report.error(at, message, "replicate a directory of the application");
            }
        }
    }
}

fn check_port(
    service: View<'_>,
    config: &ModuleConfig,
    others: &[&Neighbour<'_>],
    neighbours: &Neighbours<'_>,
    report: &mut Report<'_>,
) {
    let Some(view) = service.child("rfs").filter(|_| config.rfs.is_some()) else { return };
    let port = config.data_port(neighbours.id);
    let at = view.at_attribute("port");
    let used = others
        .iter()
        .find(|other| other.config.rfs.is_some() && other.config.data_port(other.id) == port);
    if let Some(other) = used {
        let message = format!("TCP port {port} of <rfs> is that of module {}", other.name);
        report.error(at, message, "write port=\"...\" with a free one, on all nodes");
    }
    if let Some((_, purpose)) = neighbours.ports.iter().find(|(own, _)| *own == port) {
        let message = format!("TCP port {port} of <rfs> is used by the daemon ({purpose})");
        report.error(at, message, "write port=\"...\" with a free one, on all nodes");
    }
}
