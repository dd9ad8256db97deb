//! What others see of a farm: heartbeat, status, shares.

use super::Farm;
use crate::{
    farm::{BUCKETS, Slot, table::FilterTable},
    replication::generation::Lineage,
    status::{FarmStatus, GroupStatus, MemberStatus, ModuleStatus, PeerStatus, Standing},
    wire::message::FarmBeat,
};

impl Farm {
    /// What the other members must know; `None` while this node does not know itself what its
    /// filter does.
    pub fn beat(&self) -> Option<FarmBeat> {
        let (state, phase) = self.shown();
        self.known.then(|| FarmBeat {
            module: self.settings.module,
            signature: self.settings.signature,
            state,
            phase,
            ready: self.open,
            listening: self.listening.is_some(),
            draining: self.drain != crate::status::Drain::No,
            hears: self.roster.hears(),
            leader: self.view.leader,
            sharing: self.view.sharing,
            claims: self.shares.claims(),
            held: self.shares.held(),
        })
    }

    /// The nodes with which heartbeats are exchanged.
    pub fn is_member(&self, node: crate::ids::NodeId) -> bool {
        self.roster.peers.iter().any(|peer| peer.node == node)
    }

    /// The table of the packet filter, for `havre farm explain`.
    pub fn table(&self) -> Option<&FilterTable> {
        self.shares.table()
    }

    /// Buckets of a group that this node owns by the present view, of 256.
    pub(super) fn share(&self, group: usize) -> u16 {
        let Some(own) = self.settings.own.filter(|_| self.open) else { return 0 };
        let Some((_, plan)) = self.settings.groups.get(group) else { return 0 };
        let share = plan.own(own, self.view.sharing).len();
        u16::try_from(share).unwrap_or(BUCKETS as u16)
    }

    /// Whether new clients are taken here.
    pub(super) fn takes(&self) -> bool {
        if self.settings.filtered() { self.shares.takes() } else { self.open }
    }

    /// The picture of this module.
    pub fn status(&self) -> ModuleStatus {
        let (state, phase) = self.shown();
        ModuleStatus {
            module: self.settings.module,
            name: self.settings.name.clone(),
            state,
            phase,
            wait: match &self.mode {
                super::Mode::Waiting(reason) => Some(reason.clone()),
                _ => None,
            },
            reason: self.reason.clone(),
            since: self.since,
            up_to_date: true,
            lineage: Lineage::blank(),
            address_held: self.address_held,
            application: self.application,
            epoch: None,
            right_until: None,
            resync: None,
            kept_aside: Vec::new(),
            peers: self.peers(),
            farm: Some(FarmStatus {
                leader: self.view.leader.and_then(|slot| self.settings.node_at(slot)),
                members: self.members(),
                groups: self.groups(),
                open: self.takes(),
                drain: self.drain,
                connections: self.connections,
            }),
            signature: self.settings.signature,
            // Added by the module's checks.
            starts: 0,
            checks: Default::default(),
        }
    }

    fn peers(&self) -> Vec<PeerStatus> {
        let name = |slot: Slot| self.settings.members[usize::from(slot.0)].name.clone();
        let links = &self.settings.links;
        let peer = |peer: &super::roster::Peer| PeerStatus {
            node: peer.node,
            name: name(peer.slot),
            alive: peer.alive(),
            state: peer.beat.as_ref().filter(|_| peer.alive()).map(|b| (b.state, b.phase)),
            generation: None,
            links: links
                .iter()
                .map(|(id, name, _)| (*id, name.clone(), peer.link_up(*id)))
                .collect(),
        };
        self.roster.peers.iter().map(peer).collect()
    }

    fn members(&self) -> Vec<MemberStatus> {
        let members = (0..).map(Slot).zip(&self.settings.members);
        members
            .map(|(slot, member)| MemberStatus {
                node: member.node,
                name: member.name.clone(),
                standing: self.standing(slot),
            })
            .collect()
    }

    fn standing(&self, slot: Slot) -> Standing {
        let (ready, draining) = if Some(slot) == self.settings.own {
            (self.open, self.drain != crate::status::Drain::No)
        } else {
            let counted = self.roster.counted().find(|(other, _)| *other == slot);
            match counted {
                Some((_, beat)) => (beat.ready, beat.draining),
                None if self.roster.is_alive(slot) => return Standing::OtherConfiguration,
                None => return Standing::Silent,
            }
        };
        match (ready, draining, self.view.sharing.contains(slot)) {
            (false, ..) => Standing::NotReady,
            (true, true, _) => Standing::Draining,
            (true, false, false) => Standing::NotCounted,
            (true, false, true) => Standing::Sharing,
        }
    }

    fn groups(&self) -> Vec<GroupStatus> {
        let group = |(index, (name, plan)): (usize, &(String, crate::farm::buckets::Plan))| {
            let owners = plan.owners(self.view.sharing);
            let own = self.share(index);
            let taken = self.shares.table().map_or(0, |table| table.own(index).len());
            let node = |slot: Option<Slot>| slot.and_then(|slot| self.settings.node_at(slot));
            GroupStatus {
                name: name.clone(),
                share: own,
                owners: owners.into_iter().map(node).collect(),
                withheld: own.saturating_sub(u16::try_from(taken).unwrap_or(u16::MAX)),
            }
        };
        self.settings.groups.iter().enumerate().map(group).collect()
    }
}
