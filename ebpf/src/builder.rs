//! Filling a [`Table`]: what the daemon adds, so that the kernel finds each with one look.

use crate::{
    layout::{
        BUCKETS, Criterion, GROUPS_MAX, HELD, MEMBER_SLOTS, MacValue, NO_GROUP_OF_RULE, NOBODY,
        NODES_MAX, OWNER, RULE_SLOTS, RULES_MAX, Rule, Table, Target, USED, VIP_SLOTS, VIPS_MAX,
        Vip, member_slot, rule_key, rule_slot, vip_slot,
    },
    packet::{TCP, UDP},
};

/// Seeds tried before giving up. With 64 rules in 512 slots one seed in about 55 separates all.
const SEEDS_MAX: u32 = 200_000;

/// Why a table cannot be filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overflow {
    /// More than [`VIPS_MAX`] virtual addresses.
    Vips,
    /// More than [`RULES_MAX`] rules, counting each for each of its addresses.
    Rules,
    /// More than [`NODES_MAX`] nodes.
    Nodes,
    /// More than [`GROUPS_MAX`] groups.
    Groups,
    /// No seed separates them: one appears twice.
    Twins,
}

impl Overflow {
    /// What is too many, in words.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Vips => "more than 16 virtual addresses on one interface",
            Self::Rules => "more than 64 rules on one interface (each counts per address)",
            Self::Nodes => "more than 64 nodes",
            Self::Groups => "more than 16 groups of rules on one interface",
            Self::Twins => "an address or a rule appears twice on one interface",
        }
    }
}

const FREE_VIP: Vip = Vip {
    addr: [0; 4],
    mac: 0,
    tcp: Target::NONE,
    udp: Target::NONE,
    arp_group: NO_GROUP_OF_RULE,
    module: 0,
    id: 0,
    flags: 0,
};

impl Table {
    /// A table without virtual addresses: everything passes.
    pub const EMPTY: Self = Self {
        own_mac: 0,
        own: 0,
        vip_seed: 0,
        rule_seed: 0,
        member_seed: 0,
        vips: [FREE_VIP; VIP_SLOTS],
        rules: [Rule { key: 0, target: Target::NONE, padding: 0 }; RULE_SLOTS],
        members: [0; MEMBER_SLOTS],
        macs: [0; NODES_MAX],
        owners: [[NOBODY; BUCKETS]; GROUPS_MAX],
        holders: [[0; BUCKETS]; GROUPS_MAX],
    };

    /// Says who this node is.
    pub fn set_own(&mut self, node: u8, mac: MacValue) -> Result<(), Overflow> {
        let place = self.macs.get_mut(usize::from(node)).ok_or(Overflow::Nodes)?;
        *place = mac;
        self.own = u32::from(node);
        self.own_mac = mac;
        Ok(())
    }

    /// Sets the other members that can be reached: number and Ethernet address.
    pub fn set_members(&mut self, members: &[(u8, MacValue)]) -> Result<(), Overflow> {
        for (node, mac) in members {
            *self.macs.get_mut(usize::from(*node)).ok_or(Overflow::Nodes)? = *mac;
        }
        for seed in 0..SEEDS_MAX {
            let mut slots = [0; MEMBER_SLOTS];
            let fits = members.iter().all(|(node, mac)| {
                let slot = &mut slots[member_slot(*mac, seed)];
                let free = *slot == 0;
                *slot = mac << 8 | (u64::from(*node) + 1);
                free
            });
            if fits {
                self.members = slots;
                self.member_seed = seed;
                return Ok(());
            }
        }
        Err(Overflow::Twins)
    }

    /// Sets all virtual addresses, which get their `id` and `USED` from here.
    pub fn set_vips(&mut self, vips: &[Vip]) -> Result<(), Overflow> {
        if vips.len() > VIPS_MAX {
            return Err(Overflow::Vips);
        }
        for seed in 0..SEEDS_MAX {
            let mut slots = [FREE_VIP; VIP_SLOTS];
            let fits = vips.iter().enumerate().all(|(id, vip)| {
                let slot = &mut slots[vip_slot(&vip.addr, seed)];
                let free = slot.flags & USED == 0;
                *slot = Vip { id: id as u8, flags: vip.flags | USED, ..*vip };
                free
            });
            if fits {
                self.vips = slots;
                self.vip_seed = seed;
                return Ok(());
            }
        }
        Err(Overflow::Twins)
    }

    /// Adds rules with a port: number of the address (its place in [`set_vips`]), protocol, port,
    /// where it leads. Of several for the same, the first counts.
    ///
    /// [`set_vips`]: Self::set_vips
    pub fn set_rules(&mut self, rules: &[(u8, u8, u16, Target)]) -> Result<(), Overflow> {
        let mut distinct = [(0u32, Target::NONE); RULES_MAX];
        let mut count = 0;
        for (vip, protocol, port, target) in rules {
            let key = rule_key(*vip, *protocol, *port);
            if distinct[..count].iter().any(|(known, _)| *known == key) {
                continue;
            }
            *distinct.get_mut(count).ok_or(Overflow::Rules)? = (key, *target);
            count += 1;
        }
        for seed in 0..SEEDS_MAX {
            let mut slots = [Rule { key: 0, target: Target::NONE, padding: 0 }; RULE_SLOTS];
            let fits = distinct[..count].iter().all(|(key, target)| {
                let slot = &mut slots[rule_slot(*key, seed)];
                let free = slot.key == 0;
                *slot = Rule { key: *key, target: *target, padding: 0 };
                free
            });
            if fits {
                self.rules = slots;
                self.rule_seed = seed;
                return Ok(());
            }
        }
        Err(Overflow::Twins)
    }

    /// Says who owns a bucket, and who else may hold connections of it.
    pub fn set_bucket(
        &mut self,
        group: u8,
        bucket: u8,
        owner: Option<u8>,
        holders: u64,
    ) -> Result<(), Overflow> {
        let (group, bucket) = (usize::from(group), usize::from(bucket));
        let word = match owner {
            Some(owner) if usize::from(owner) < NODES_MAX => owner & OWNER,
            Some(_) => return Err(Overflow::Nodes),
            None => NOBODY,
        };
        let others = match owner {
            Some(owner) => holders & !(1 << owner),
            None => holders,
        };
        let held = if others == 0 { 0 } else { HELD };
        *self.owners.get_mut(group).ok_or(Overflow::Groups)?.get_mut(bucket).unwrap_or(&mut 0) =
            word | held;
        self.holders[group][bucket] = others;
        Ok(())
    }
}

impl Target {
    /// A rule that leads to a group.
    pub const fn new(group: u8, criterion: Criterion) -> Self {
        Self { group, criterion: criterion as u8 }
    }
}

/// Protocol numbers by name.
pub const PROTOCOLS: [(&str, u8); 2] = [("tcp", TCP), ("udp", UDP)];
