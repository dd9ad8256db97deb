//! What a step has hit: a fault that hit nothing proves nothing.

use crate::{
    direct::Direct,
    net::{HostId, NETS_MAX},
};

/// How the hits of a step are counted.
#[derive(Debug, Clone)]
pub(super) enum Probe {
    /// Counted when it fired.
    Fixed(u64),
    /// Messages dropped on these links since.
    Cut(Vec<(HostId, HostId)>, u64),
    /// Messages sent over these links since.
    Sent(Vec<(HostId, HostId)>, u64),
    /// Inputs delayed since.
    Slowed(u64),
    /// Disk operations spoiled on these hosts since.
    Disks(Vec<HostId>, u64),
    /// Scripts spoiled on these hosts since.
    Scripts(Vec<HostId>, u64),
}

fn dropped(direct: &Direct<'_>, pairs: &[(HostId, HostId)]) -> u64 {
    let nets = 0..NETS_MAX as u8;
    nets.flat_map(|net| pairs.iter().map(move |(from, to)| (net, from, to)))
        .map(|(net, from, to)| direct.net.hits(net, *from, *to).cut)
        .sum()
}

fn sent(direct: &Direct<'_>, pairs: &[(HostId, HostId)]) -> u64 {
    pairs.iter().map(|(from, to)| direct.net.hits(0, *from, *to).sent).sum()
}

fn spoiled(direct: &Direct<'_>, hosts: &[HostId]) -> u64 {
    hosts.iter().map(|host| direct.machines[host.index()].disk.hits.total()).sum()
}

fn scripts(direct: &Direct<'_>, hosts: &[HostId]) -> u64 {
    hosts.iter().map(|host| direct.machines[host.index()].os.faults_hit).sum()
}

impl Probe {
    pub(super) fn cut(direct: &Direct<'_>, pairs: Vec<(HostId, HostId)>) -> Self {
        let before = dropped(direct, &pairs);
        Self::Cut(pairs, before)
    }

    pub(super) fn sent(direct: &Direct<'_>, pairs: Vec<(HostId, HostId)>) -> Self {
        let before = sent(direct, &pairs);
        Self::Sent(pairs, before)
    }

    /// `done`: the fault has struck already, so what counts is whether there is any hit at all.
    pub(super) fn disks(direct: &Direct<'_>, hosts: Vec<HostId>, done: bool) -> Self {
        let before = if done { 0 } else { spoiled(direct, &hosts) };
        Self::Disks(hosts, before)
    }

    pub(super) fn scripts(direct: &Direct<'_>, hosts: Vec<HostId>) -> Self {
        let before = scripts(direct, &hosts);
        Self::Scripts(hosts, before)
    }

    /// What was hit so far.
    pub(super) fn hits(&self, direct: &Direct<'_>) -> u64 {
        match self {
            Self::Fixed(hits) => *hits,
            Self::Cut(pairs, before) => dropped(direct, pairs) - before,
            Self::Sent(pairs, before) => sent(direct, pairs) - before,
            Self::Slowed(before) => direct.control.slowed - before,
            Self::Disks(hosts, before) => spoiled(direct, hosts).saturating_sub(*before),
            Self::Scripts(hosts, before) => scripts(direct, hosts).saturating_sub(*before),
        }
    }
}
