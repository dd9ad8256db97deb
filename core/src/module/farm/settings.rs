//! From a module's configuration to what its farm machine must know.

use std::time::Duration;

use crate::{
    config::{
        cluster::{ClusterConfig, LinkTiming},
        module::{GroupConfig, InterfaceKind, RuleConfig, ServiceMode},
    },
    farm::{
        Slot,
        buckets::Plan,
        set::MEMBERS_MAX,
        table::{FilterInterface, FilterMember, FilterRule},
    },
    ids::{LinkId, ModuleId, NodeId},
    module::{ModuleSetup, script::Scripts},
    status::VirtualIp,
};

/// What a farm must know beforehand.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The module.
    pub module: ModuleId,
    /// Its name.
    pub name: String,
    /// This node's position among the members; `None`: it is on none of the farm's networks.
    pub own: Option<Slot>,
    /// The members, in order.
    pub members: Vec<FilterMember>,
    /// Digest of the configuration.
    pub signature: u64,
    /// Its scripts.
    pub scripts: Scripts,
    /// The networks by which members watch each other.
    pub links: Vec<(LinkId, String, LinkTiming)>,
    /// Period of heartbeats.
    pub pulse: Duration,
    /// Silence after which a follower counts as lost.
    pub follower_timeout: Duration,
    /// Silence after which the leader counts as lost.
    pub leader_timeout: Duration,
    /// Traffic is open while the scripts run, not only between them (`scriptcontrol`).
    pub script_control: bool,
    /// The network cards with virtual addresses.
    pub interfaces: Vec<FilterInterface>,
    /// The rules of all groups; the first one that matches decides.
    pub rules: Vec<FilterRule>,
    /// The groups and how their buckets are dealt.
    pub groups: Vec<(String, Plan)>,
}

impl Settings {
    /// Reads the configuration of one module for one node.
    pub fn new(
        (module, setup): (ModuleId, &ModuleSetup),
        cluster: &ClusterConfig,
        node: NodeId,
    ) -> Self {
        let config = &setup.config;
        let farm = config.farm.as_ref();
        let nodes = match config.service.mode {
            ServiceMode::Light => vec![node],
            _ => config.members.iter().copied().take(MEMBERS_MAX).collect(),
        };
        let networks = config.networks();
        let links: Vec<_> = networks
            .iter()
            .filter_map(|(name, timing)| {
                Some((cluster.lan_named(name)?, (*name).to_owned(), *timing))
            })
            .collect();
        let member = |node: &NodeId| FilterMember {
            node: *node,
            name: cluster.name_of(*node).to_owned(),
            addrs: addresses_of(cluster, &links, *node),
            live: false,
        };
        let groups = farm.map_or(&[][..], |farm| &farm.groups);
        let own = nodes.iter().position(|member| *member == node);
        let pulse = farm.map_or(Duration::from_secs(1), |farm| farm.pulse);
        Self {
            module,
            name: setup.name.clone(),
            own: own.and_then(|own| u8::try_from(own).ok()).map(Slot),
            members: nodes.iter().map(member).collect(),
            signature: setup.signature,
            scripts: Scripts::new(module, config),
            pulse,
            follower_timeout: farm.map_or(pulse, |farm| farm.follower_timeout()),
            leader_timeout: farm.map_or(pulse, |farm| farm.leader_timeout()),
            script_control: farm.is_some_and(|farm| farm.script_control),
            interfaces: interfaces(setup),
            rules: rules(groups),
            groups: groups.iter().map(|group| (group.name.clone(), plan(group, &nodes))).collect(),
            links,
        }
    }

    /// Whether clients come through a packet filter of this node.
    pub fn filtered(&self) -> bool {
        !self.groups.is_empty()
    }

    /// Every virtual address.
    pub fn addresses(&self) -> Vec<VirtualIp> {
        self.interfaces.iter().flat_map(|interface| interface.addresses.clone()).collect()
    }

    /// Whether one node answers for the addresses and passes packets on.
    pub fn directed(&self) -> bool {
        self.interfaces.iter().any(|interface| interface.kind == InterfaceKind::VmacDirected)
    }

    /// The position of a node among the members.
    pub fn slot_of(&self, node: NodeId) -> Option<Slot> {
        let index = self.members.iter().position(|member| member.node == node)?;
        u8::try_from(index).ok().map(Slot)
    }

    /// The node at a position.
    pub fn node_at(&self, slot: Slot) -> Option<NodeId> {
        self.members.get(usize::from(slot.0)).map(|member| member.node)
    }
}

fn addresses_of(
    cluster: &ClusterConfig,
    links: &[(LinkId, String, LinkTiming)],
    node: NodeId,
) -> Vec<String> {
    let lans = links.iter().filter_map(|(link, _, _)| cluster.lans.get(usize::from(link.0)));
    let here = lans.flat_map(|lan| &lan.nodes).filter(|member| member.node == node);
    here.map(|member| member.addr.clone()).collect()
}

fn interfaces(setup: &ModuleSetup) -> Vec<FilterInterface> {
    let interface = |config: &crate::config::module::InterfaceConfig| FilterInterface {
        name: config.name.clone(),
        kind: config.kind,
        addresses: config
            .addresses
            .iter()
            .map(|address| VirtualIp {
                addr: address.addr,
                prefix: address.prefix,
                interface: config.name.clone(),
                shared: true,
            })
            .collect(),
    };
    setup.config.interfaces.iter().map(interface).collect()
}

/// The rules of all groups, the most particular first: one that names its address, then one that
/// names its port.
fn rules(groups: &[GroupConfig]) -> Vec<FilterRule> {
    let rank = |rule: &RuleConfig| (rule.addr.is_none(), rule.port.is_none());
    let lines = (0..).zip(groups).flat_map(|(group, config)| {
        config.rules.iter().map(move |rule| FilterRule { rule: *rule, group })
    });
    let mut rules: Vec<_> = lines.collect();
    rules.sort_by_key(|line| rank(&line.rule));
    rules
}

fn plan(group: &GroupConfig, nodes: &[NodeId]) -> Plan {
    let power = |node: &NodeId| {
        let host = group.hosts.iter().find(|host| host.node == *node);
        host.map_or(0, |host| host.power)
    };
    Plan::new(&nodes.iter().map(power).collect::<Vec<_>>())
}
