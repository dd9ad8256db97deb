//! New settings for a pair that runs: heartbeats, limits, hosts of the quorum.

use super::{Pair, mirror};
use crate::{
    config::{cluster::ClusterConfig, module::QuorumPolicy},
    ids::NodeId,
    module::ModuleSetup,
    time::Instant,
};

impl Pair {
    /// Takes what may change while the module runs. Under a lease the time-outs stay, so that the
    /// quorum's promises keep their length.
    pub fn configure(
        &mut self,
        now: Instant,
        setup: &ModuleSetup,
        (cluster, node): (&ClusterConfig, NodeId),
    ) {
        let heartbeats = setup.config.heart.heartbeats.iter();
        let links: Vec<_> = heartbeats
            .filter_map(|h| Some((cluster.lan_named(&h.name)?, h.timing, h.name.clone())))
            .collect();
        let settings = mirror::Settings::new((self.id, setup), cluster, node);
        self.timeout = settings.timeout;
        self.link_names = links.iter().map(|(id, _, name)| (*id, name.clone())).collect();
        if let QuorumPolicy::Ping(targets) = &setup.config.quorum {
            self.ping_targets.clone_from(targets);
        }
        self.membership.configure(now, links.into_iter().map(|(id, timing, _)| (id, timing)));
        self.mirror.configure(settings);
    }
}
