//! Putting changes into the stream: file ids bound before their first use, frames kept until the
//! target has received them.

use std::collections::{HashMap, VecDeque};

use havre_core::{
    ids::Seq,
    replication::{
        intent::MarkId,
        record::{Change as Record, FileId, FileTime, Target},
        source::Ticket,
        stream::{Element, ItemKey, StreamMessage as _, ToTarget},
    },
};

use super::{
    Pending, SourceSide,
    crossing::{self, Crossing, crosses},
    peer::Peer,
};
use crate::{
    fuse::{Applied, Files, Operation},
    volume::{
        identity::{Bound, Names, global, map_ids, needed},
        place::Places,
    },
};

/// What the target holds open, and what it has not received.
#[derive(Debug, Default)]
pub(super) struct Shipping {
    bound: Bound,
    /// What must precede a change that is being applied, as it was before.
    prefixes: HashMap<Ticket, Prefix>,
    kept: VecDeque<(Seq, Vec<u8>)>,
    spare: Vec<Vec<u8>>,
}

#[derive(Debug, Default)]
struct Prefix {
    opens: Vec<Record>,
    /// The names as of then.
    names: Names,
    /// Takes the place of the change.
    instead: Option<Crossing>,
    /// Follows the change.
    times: Option<Record>,
    /// Loses its last name by this change.
    orphan: Option<FileId>,
    /// The change names a file that the target cannot have.
    impossible: bool,
}

/// Frames whose memory is used again.
const SPARE_MAX: usize = 64;
/// Longest frame whose memory is worth keeping.
const SPARE_BYTES: usize = 256 << 10;

impl Shipping {
    /// Notes, before an operation is applied, where the files are that it names.
    pub(super) fn before(
        &mut self,
        ticket: Ticket,
        root: u8,
        operation: &Operation,
        files: &Files,
        places: &Places,
    ) {
        let mut prefix = Prefix { names: self.bound.names(), ..Prefix::default() };
        let last = operation.last_name_of();
        prefix.orphan = last.map(|id| global(root, id));
        for id in operation.changes().iter().flat_map(needed).chain(last) {
            let name = global(root, id);
            if self.bound.contains(name) {
                continue;
            }
            match files.location(id) {
                Some(location) => prefix.opens.push(Record::Open { id: name, location }),
                None => prefix.impossible = true,
            }
        }
        let links = |change: &Record| matches!(change, Record::LinkOpen { .. });
        prefix.impossible &= operation.changes().iter().any(links);
        let linked = |change: &Record| matches!(change, Record::Link { .. });
        let mut changes = operation.changes().iter();
        prefix.impossible |= changes.any(|change| linked(change) && crosses(places, change));
        if !prefix.opens.is_empty() || prefix.orphan.is_some() || prefix.impossible {
            self.prefixes.insert(ticket, prefix);
        }
    }

    /// Notes, after an operation was applied, which modification time the file has got by it: the
    /// kernel tells only of those that it keeps itself.
    pub(super) fn after(&mut self, ticket: Ticket, root: u8, id: FileId, modified: FileTime) {
        let target = Target::Id(global(root, id));
        let times = Record::SetTimes { target, accessed: None, modified: Some(modified) };
        self.prefixes.entry(ticket).or_default().times = Some(times);
    }

    /// Finds, after an operation was applied, what is shipped of a rename between what is
    /// replicated and what is not.
    pub(super) fn cross(&mut self, ticket: Ticket, applied: &Applied, places: &mut Places) {
        let renamed = |change: &&Record| matches!(change, Record::Rename { .. });
        let Some(rename) = applied.changes().iter().find(renamed) else { return };
        if !crosses(places, rename) {
            return;
        }
        self.bound.names_crossed();
        let prefix = self.prefixes.entry(ticket).or_default();
        match crossing::of(places, rename) {
            Some(crossing) => prefix.instead = Some(crossing),
            None => prefix.impossible = true,
        }
    }

    /// The operation changed nothing.
    pub(super) fn forget(&mut self, ticket: Ticket) {
        self.prefixes.remove(&ticket);
    }

    /// A file is not used any more.
    pub(super) fn closed(&mut self, id: FileId) {
        self.bound.close(id);
    }

    /// Sends a message; an element is kept.
    pub(super) fn send(&mut self, message: &ToTarget, peer: &mut Peer) {
        if let ToTarget::Element { seq, .. } = message {
            let frame = self.frame(message, &[]);
            peer.send(&frame);
            self.kept.push_back((*seq, frame));
        } else if let Some(output) = peer.output() {
            message.encode(0, output);
        }
    }

    /// Sends an element with payload, and keeps it.
    pub(super) fn send_element(
        &mut self,
        seq: Seq,
        element: Element,
        payload: &[u8],
        peer: &mut Peer,
    ) {
        let frame = self.frame(&ToTarget::Element { seq, element }, payload);
        peer.send(&frame);
        self.kept.push_back((seq, frame));
    }

    fn frame(&mut self, message: &ToTarget, payload: &[u8]) -> Vec<u8> {
        let mut frame = self.spare.pop().unwrap_or_default();
        message.encode(payload.len(), &mut frame);
        frame.extend_from_slice(payload);
        frame
    }

    /// Sends kept frames again.
    pub(super) fn resend(&mut self, after: Seq, peer: &mut Peer) {
        for (seq, frame) in &self.kept {
            if *seq > after {
                peer.send(frame);
            }
        }
    }

    /// Nothing of the stream will be sent again.
    pub(super) fn discard(&mut self) {
        self.kept.clear();
        self.bound.clear();
        self.prefixes.clear();
    }

    /// The target has everything up to here.
    pub(super) fn drop_received(&mut self, received: Seq) {
        while self.kept.front().is_some_and(|(seq, _)| *seq <= received) {
            let Some((_, mut frame)) = self.kept.pop_front() else { return };
            if self.spare.len() < SPARE_MAX && frame.capacity() <= SPARE_BYTES {
                frame.clear();
                self.spare.push(frame);
            }
        }
    }

    /// Encodes the changes of one operation, with what must precede them.
    fn encode(&mut self, prefix: &Prefix, root: u8, changes: &[Record]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(128);
        for id in self.bound.take_closing() {
            Record::Close { id }.encode(&mut bytes);
        }
        for open in &prefix.opens {
            if let Record::Open { id, .. } = open {
                self.bound.bind(*id, prefix.names);
            }
            open.encode(&mut bytes);
        }
        for change in changes {
            let mut change = change.clone();
            map_ids(&mut change, |id| global(root, id));
            if let Record::Create { id, .. } | Record::Temporary { id, .. } = &change {
                self.bound.bind(*id, prefix.names);
                if matches!(change, Record::Temporary { .. }) {
                    self.bound.keep(*id);
                }
            }
            for id in needed(&change) {
                self.bound.used(id);
            }
            change.encode(&mut bytes);
        }
        if let Some(times) = &prefix.times {
            times.encode(&mut bytes);
        }
        if let Some(orphan) = prefix.orphan {
            self.bound.keep(orphan);
        }
        bytes
    }
}

impl SourceSide {
    pub(super) fn ship(&mut self, ticket: Ticket, seq: Seq, sync: bool) {
        let Some(Pending::Done(root, applied)) = self.pending.get(&ticket) else {
            unreachable!("what is shipped has been applied");
        };
        let changes = applied.changes();
        let prefix = self.shipping.prefixes.remove(&ticket).unwrap_or_default();
        let writes = changes.iter().any(|change| change.payload_len() > 0);
        let (change, payload) = match &prefix.instead {
            Some(crossing) => {
                let mut change = self.shipping.encode(&prefix, *root, &[]);
                crossing.encode(&mut change);
                (change, &crossing.payload[..])
            }
            None => {
                let payload = if writes { applied.payload() } else { &[] };
                (self.shipping.encode(&prefix, *root, changes), payload)
            }
        };
        let element = Element::Change { change, sync };
        self.shipping.send_element(seq, element, payload, &mut self.peer);
        if prefix.impossible {
            self.lose_peer("a file that the other node does not have got a name");
        }
    }

    pub(super) fn ship_item(&mut self, item: MarkId, seq: Seq) {
        let Some((body, payload)) = self.copying.step_for(item) else { return };
        let key = self.table.item(item).map(|item| item.encode()).unwrap_or_default();
        let element = Element::Item { item: ItemKey(key), body };
        self.shipping.send_element(seq, element, &payload, &mut self.peer);
    }
}
