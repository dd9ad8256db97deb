//! From a module's configuration to what its mirror machine must know.

use super::{Mirror, Preferred, Settings};
use crate::{
    config::{cluster::ClusterConfig, module::DefaultPrimary},
    ids::{ModuleId, NodeId},
    module::{ModuleSetup, procedure::Shape, script::Scripts},
    quorum::policy::Kind,
    status::VirtualIp,
};

impl Settings {
    /// Reads the configuration of one module for one node.
    pub fn new(
        (module, setup): (ModuleId, &ModuleSetup),
        cluster: &ClusterConfig,
        node: NodeId,
    ) -> Self {
        let config = &setup.config;
        let peer = config.members.iter().copied().find(|id| *id != node).unwrap_or(node);
        let timings = config.heart.heartbeats.iter().map(|h| h.timing);
        let timeout = timings.clone().map(|t| t.timeout).max();
        let pulse = timings.map(|t| t.pulse).max();
        let addresses = config
            .interfaces
            .iter()
            .flat_map(|interface| {
                interface.addresses.iter().map(|a| VirtualIp {
                    addr: a.addr,
                    prefix: a.prefix,
                    interface: interface.name.clone(),
                    shared: false,
                })
            })
            .collect();
        Self {
            module,
            name: setup.name.clone(),
            node,
            peer,
            peer_name: cluster.name_of(peer).to_owned(),
            signature: setup.signature,
            shape: Shape { replicated: config.rfs.is_some() },
            scripts: Scripts::new(module, config),
            addresses,
            failover: config.service.failover,
            preferred: match config.service.default_primary {
                DefaultPrimary::Alone => Preferred::Nobody,
                DefaultPrimary::Node(preferred) if preferred == node => Preferred::ThisNode,
                DefaultPrimary::Node(_) => Preferred::Nobody,
                DefaultPrimary::Last => Preferred::Last,
            },
            policy: Kind::from(&config.quorum),
            timeout: timeout.unwrap_or(config.heart.timing.timeout),
            pulse: pulse.unwrap_or(config.heart.timing.pulse),
        }
    }
}

impl Mirror {
    /// Takes settings that differ only in what may change while the module runs.
    pub fn configure(&mut self, settings: Settings) {
        self.settings = settings;
    }
}
