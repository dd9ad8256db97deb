//! From the tables of modules to the one table of an interface. Pure.
//!
//! Several modules may have virtual addresses on one interface: their nodes, groups and rules
//! are brought under one numbering. Nodes are numbered in the order of their cluster-wide
//! numbers, so that all nodes agree on the order in which holders are asked.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use havre_core::{
    config::module::{InterfaceKind, RuleFilter, RuleProtocol},
    farm::table::{FilterInterface, FilterTable},
    ids::NodeId,
};
use havre_ebpf::{
    builder::Overflow,
    hash::{Words, mapped},
    layout::{
        ANSWERS, Criterion, GROUPS_MAX, INVISIBLE, NO_GROUP_OF_RULE, NODES_MAX, Table, Target,
        UNRULED, VIPS_MAX, Vip, mac_value,
    },
    packet::{TCP, UDP},
};

use crate::arp::Mac;

/// What one module has on an interface.
#[derive(Debug, Clone, Copy)]
pub struct Share<'a> {
    /// Its table.
    pub table: &'a FilterTable,
    /// Which of its interfaces this is.
    pub interface: &'a FilterInterface,
    /// Number under which its deadline is kept.
    pub number: u8,
}

/// The table of an interface.
#[derive(Debug)]
pub struct Plan {
    /// As the kernel reads it.
    pub table: Box<Table>,
    /// Per module, in the order given: the first of its groups' numbers.
    pub groups: Vec<u8>,
}

/// The words of an address.
pub fn words(addr: IpAddr) -> Words {
    match addr {
        IpAddr::V4(addr) => mapped(addr.to_bits()),
        IpAddr::V6(addr) => {
            let bits = addr.to_bits();
            [96, 64, 32, 0].map(|shift| u32::try_from(bits >> shift & 0xffff_ffff).unwrap_or(0))
        }
    }
}

fn criterion(filter: RuleFilter) -> Criterion {
    match filter {
        RuleFilter::OnAddr => Criterion::Addr,
        RuleFilter::OnPort => Criterion::Port,
        RuleFilter::OnIpid => Criterion::IpId,
    }
}

/// The number of each node on the interface.
fn number_nodes(shares: &[Share<'_>]) -> Result<BTreeMap<NodeId, u8>, Overflow> {
    let nodes: BTreeSet<NodeId> =
        shares.iter().flat_map(|share| share.table.members.iter().map(|m| m.node)).collect();
    if nodes.len() > NODES_MAX {
        return Err(Overflow::Nodes);
    }
    Ok((0..).zip(nodes).map(|(number, node)| (node, number)).collect())
}

/// Brings modules under one table. `own`: this node's Ethernet address there; `macs`: those of
/// the other nodes, as far as known.
pub fn plan(
    shares: &[Share<'_>],
    own: Mac,
    macs: &BTreeMap<NodeId, Mac>,
) -> Result<Plan, Overflow> {
    let mut table = Box::new(Table::EMPTY);
    let nodes = number_nodes(shares)?;
    let local = shares.first().and_then(|s| s.table.members.get(usize::from(s.table.local.0)));
    let local = local.map(|member| member.node);
    if let Some(number) = local.and_then(|node| nodes.get(&node)) {
        table.set_own(*number, mac_value(own))?;
    }
    let members: Vec<(u8, u64)> = nodes
        .iter()
        .filter(|(node, _)| Some(**node) != local)
        .filter_map(|(node, number)| Some((*number, mac_value(*macs.get(node)?))))
        .collect();
    table.set_members(&members)?;
    let (mut vips, mut rules, mut groups) = (Vec::new(), Vec::new(), Vec::new());
    let mut groups_used = 0;
    for share in shares {
        let first = u8::try_from(groups_used).map_err(|_| Overflow::Groups)?;
        groups.push(first);
        groups_used += share.table.groups.len();
        if groups_used > GROUPS_MAX {
            return Err(Overflow::Groups);
        }
        set_buckets(&mut table, share, first, &nodes)?;
        for address in &share.interface.addresses {
            if vips.len() >= VIPS_MAX {
                return Err(Overflow::Vips);
            }
            let id = u8::try_from(vips.len()).map_err(|_| Overflow::Vips)?;
            vips.push(vip(share, address.addr, first, own, id, &mut rules));
        }
    }
    table.set_vips(&vips)?;
    table.set_rules(&rules)?;
    Ok(Plan { table, groups })
}

fn set_buckets(
    table: &mut Table,
    share: &Share<'_>,
    first: u8,
    nodes: &BTreeMap<NodeId, u8>,
) -> Result<(), Overflow> {
    let of_slot = |slot: u8| {
        let member = share.table.members.get(usize::from(slot))?;
        nodes.get(&member.node).copied()
    };
    for (group, line) in (first..).zip(&share.table.groups) {
        for (bucket, entry) in (0..=u8::MAX).zip(&line.buckets) {
            let owner = entry.owner.and_then(|slot| of_slot(slot.0));
            let holders = if share.table.keep_established {
                let numbers = entry.holders.iter().filter_map(|slot| of_slot(slot.0));
                numbers.fold(0, |set, number| set | 1 << number)
            } else {
                0
            };
            table.set_bucket(group, bucket, owner, holders)?;
        }
    }
    Ok(())
}

/// One virtual address, and its rules with a port. A rule for any port hides those after it.
fn vip(
    share: &Share<'_>,
    addr: IpAddr,
    first: u8,
    own: Mac,
    id: u8,
    rules: &mut Vec<(u8, u8, u16, Target)>,
) -> Vip {
    let mut vip = Vip {
        addr: words(addr),
        mac: mac_value(own),
        tcp: Target::NONE,
        udp: Target::NONE,
        arp_group: NO_GROUP_OF_RULE,
        module: share.number,
        id,
        flags: 0,
    };
    if let InterfaceKind::VmacInvisible(mac) = share.interface.kind {
        vip.mac = mac_value(mac.0);
        vip.flags |= INVISIBLE;
    }
    if share.table.leader == Some(share.table.local) {
        vip.flags |= ANSWERS;
    }
    if share.table.groups.is_empty() {
        vip.flags |= UNRULED;
    }
    for rule in &share.table.rules {
        if rule.rule.addr.is_some_and(|only| only != addr) {
            continue;
        }
        let target = Target::new(first + rule.group, criterion(rule.rule.filter));
        let (protocol, any) = match rule.rule.protocol {
            RuleProtocol::Tcp => (TCP, &mut vip.tcp),
            RuleProtocol::Udp => (UDP, &mut vip.udp),
            RuleProtocol::Arp => {
                if vip.arp_group == NO_GROUP_OF_RULE {
                    vip.arp_group = target.group;
                }
                continue;
            }
        };
        if *any != Target::NONE {
            continue;
        }
        match rule.rule.port {
            Some(port) => rules.push((id, protocol, port, target)),
            None => *any = target,
        }
    }
    vip
}

#[cfg(test)]
mod tests;
