//! The other members of a farm: who is heard, and what each said last.

use crate::{
    event::EventKind,
    farm::{MemberSet, Slot, election},
    ids::{LinkId, NodeId},
    machine::{Machine, Out},
    membership::{self, Membership},
    status::State,
    time::Instant,
    wire::message::FarmBeat,
};

use super::settings::Settings;

/// Another member.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    pub(super) slot: Slot,
    pub(super) node: NodeId,
    membership: Membership,
    /// What it said last; `None`: nothing, or nothing since this node was asleep.
    pub(super) beat: Option<FarmBeat>,
    /// The foreign configuration that was told of already.
    refused: Option<u64>,
}

/// The other members, in order.
#[derive(Debug, Clone)]
pub(super) struct Roster {
    signature: u64,
    pub(super) peers: Vec<Peer>,
    link_names: Vec<(LinkId, String)>,
}

impl Roster {
    pub(super) fn new(settings: &Settings) -> Self {
        let own = settings.own.unwrap_or_default();
        let links = || settings.links.iter().map(|(link, _, timing)| (*link, *timing));
        let peer = |(slot, node): (Slot, NodeId)| Peer {
            slot,
            node,
            membership: Membership::new(links()),
            beat: None,
            refused: None,
        };
        let members = (0..).map(Slot).zip(settings.members.iter().map(|member| member.node));
        Self {
            signature: settings.signature,
            peers: members.filter(|(slot, _)| *slot != own).map(peer).collect(),
            link_names: settings.links.iter().map(|(id, name, _)| (*id, name.clone())).collect(),
        }
    }

    /// A new heartbeat; whether what is known of the member changed.
    pub(super) fn heard(
        &mut self,
        now: Instant,
        (from, link): (NodeId, LinkId),
        beat: Option<FarmBeat>,
        events: &mut Vec<EventKind>,
    ) -> bool {
        let Some(peer) = self.peers.iter_mut().find(|peer| peer.node == from) else {
            return false;
        };
        let mut actions = Out::new();
        peer.membership.handle(now, membership::Input::Heard(link), &mut actions);
        let woken = report(peer.node, &self.link_names, &mut actions, events);
        let Some(beat) = beat else { return woken };
        if beat.signature != self.signature && peer.refused != Some(beat.signature) {
            peer.refused = Some(beat.signature);
            let (local, remote) = (self.signature, beat.signature);
            events.push(EventKind::MemberRefused { peer: from, local, remote });
        }
        let changed = peer.beat.as_ref() != Some(&beat);
        if peer.beat.as_ref().map(|b| (b.state, b.phase)) != Some((beat.state, beat.phase)) {
            events.push(EventKind::RemoteChanged { to: Some((beat.state, beat.phase)) });
        }
        peer.beat = Some(beat);
        changed || woken
    }

    /// Lets time pass; whether a member was lost.
    pub(super) fn handle_timeout(&mut self, now: Instant, events: &mut Vec<EventKind>) -> bool {
        let mut lost = false;
        for peer in &mut self.peers {
            if peer.membership.deadline().is_none_or(|at| now < at) {
                continue;
            }
            let mut actions = Out::new();
            peer.membership.handle_timeout(now, &mut actions);
            lost |= report(peer.node, &self.link_names, &mut actions, events);
        }
        lost
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.peers.iter().filter_map(|peer| peer.membership.deadline()).min()
    }

    /// This node was asleep: what was said before says nothing about the present.
    pub(super) fn forget(&mut self) {
        self.peers.iter_mut().for_each(|peer| peer.beat = None);
    }

    /// Whether a member's heartbeats arrive.
    pub(super) fn is_alive(&self, slot: Slot) -> bool {
        self.peers.iter().any(|peer| peer.slot == slot && peer.membership.alive())
    }

    /// The members whose heartbeats arrive.
    pub(super) fn hears(&self) -> MemberSet {
        self.peers.iter().filter(|peer| peer.membership.alive()).map(|peer| peer.slot).collect()
    }

    /// Members that are heard, with the same configuration, and what they said last.
    pub(super) fn counted(&self) -> impl Iterator<Item = (Slot, &FarmBeat)> {
        let foreign = crate::mutant::active(crate::mutant::Mutant::FarmCountsAnyConfiguration);
        self.peers.iter().filter(|peer| peer.membership.alive()).filter_map(move |peer| {
            let beat = peer.beat.as_ref()?;
            (beat.signature == self.signature || foreign).then_some((peer.slot, beat))
        })
    }

    /// What the election must know of the others.
    pub(super) fn candidates(&self) -> Vec<election::Other> {
        let other = |(slot, beat): (Slot, &FarmBeat)| election::Other {
            slot,
            ready: beat.ready,
            listening: beat.listening,
            draining: beat.draining,
            hears: beat.hears,
            leader: beat.leader,
            sharing: beat.sharing,
        };
        self.counted().map(other).collect()
    }

    /// The lowest node that serves with another configuration, and that configuration.
    pub(super) fn stranger(&self) -> Option<(NodeId, u64)> {
        let strange = |peer: &&Peer| {
            let beat = peer.beat.as_ref().filter(|beat| beat.signature != self.signature);
            peer.membership.alive() && beat.is_some_and(|beat| beat.state == State::Up)
        };
        let stranger = self.peers.iter().find(strange)?;
        stranger.beat.as_ref().map(|beat| (stranger.node, beat.signature))
    }
}

impl Peer {
    pub(super) fn alive(&self) -> bool {
        self.membership.alive()
    }

    pub(super) fn link_up(&self, link: LinkId) -> bool {
        self.membership.link_up(link)
    }
}

/// Turns what the membership said into events; whether the member came or went.
fn report(
    peer: NodeId,
    names: &[(LinkId, String)],
    actions: &mut Out<membership::Action>,
    events: &mut Vec<EventKind>,
) -> bool {
    let mut changed = false;
    for action in actions.drain() {
        match action {
            membership::Action::LinkChanged { link, up } => {
                let name = names.iter().find(|(id, _)| *id == link);
                let link = name.map_or_else(String::new, |(_, name)| name.clone());
                events.push(EventKind::LinkChanged { peer, link, up });
            }
            membership::Action::PeerAlive | membership::Action::PeerSilent => changed = true,
        }
    }
    changed
}
