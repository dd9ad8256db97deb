//! New settings for a module that runs.

use super::{Kind, Module, ModuleSetup};
use crate::{
    config::cluster::ClusterConfig,
    effect::Effect,
    ids::{ModuleId, NodeId},
    machine::Out,
    status::{Phase, State},
    time::Instant,
};

impl Module {
    /// Why the module cannot take new settings at this moment.
    pub fn busy(&self) -> Option<&'static str> {
        match self.shown() {
            (State::Stop, _) => None,
            (_, Phase::Transient) => Some("it is on the way from one state to another"),
            (State::Wait, _) => Some("it waits"),
            _ => None,
        }
    }

    /// Takes the part of a configuration that may change while the module runs; the caller has
    /// compared the rest.
    pub fn configure(
        &mut self,
        now: Instant,
        (id, setup): (ModuleId, &ModuleSetup),
        (cluster, node): (&ClusterConfig, NodeId),
        out: &mut Out<Effect>,
    ) {
        match &mut self.kind {
            Kind::Mirror(pair) => pair.configure(now, setup, (cluster, node)),
            Kind::Farm(farm) => farm.configure((id, setup), (cluster, node)),
        }
        let networks = setup.config.networks();
        let links: Vec<String> = networks.iter().map(|(name, _)| (*name).to_owned()).collect();
        self.watch.configure(now, (&setup.name, &setup.config), &links, &mut self.kind, out);
    }
}
