//! Putting changes into the stream: file ids bound before their first use, frames kept until the
//! target has received them.

use std::{
    collections::{HashMap, VecDeque},
    ops::Range,
    sync::Arc,
};

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
        stream::Frame,
    },
};

/// What the target holds open, and what it has not received.
#[derive(Debug, Default)]
pub(super) struct Shipping {
    bound: Bound,
    /// What must precede a change that is being applied, as it was before.
    prefixes: HashMap<Ticket, Prefix>,
    kept: VecDeque<(Seq, Kept)>,
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

/// A frame that the target has not received.
#[derive(Debug)]
struct Kept {
    frame: Arc<Frame>,
    /// The mount that has lent a buffer to the frame.
    lender: Option<u8>,
}

/// A payload on its way into a frame.
pub(super) enum Payload<'a> {
    /// To be copied.
    Copied(&'a [u8]),
    /// In a buffer of this mount, which gets it back.
    Lent(u8, Vec<u8>, Range<usize>),
}

/// Buffers of frames that the target has, with the mounts that have lent them; `None`: the buffer
/// is lost, because the connection still has it.
pub(super) type Returned = Vec<(u8, Option<Vec<u8>>)>;

/// Frames whose memory is used again.
const SPARE_MAX: usize = 64;
/// Longest frame whose memory is worth keeping.
const SPARE_BYTES: usize = 40 << 10;
/// Payloads up to this length are copied: a buffer of the mount is much longer.
const COPIED_BYTES_MAX: usize = 32 << 10;

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
            self.keep(*seq, message, Payload::Copied(&[]), peer);
        } else if let Some(output) = peer.output() {
            message.encode(0, output);
        }
    }

    /// Sends an element with payload, and keeps it.
    pub(super) fn send_element(
        &mut self,
        seq: Seq,
        element: Element,
        payload: Payload<'_>,
        peer: &mut Peer,
    ) {
        self.keep(seq, &ToTarget::Element { seq, element }, payload, peer);
    }

    fn keep(&mut self, seq: Seq, message: &ToTarget, payload: Payload<'_>, peer: &mut Peer) {
        let mut head = self.spare.pop().unwrap_or_default();
        let (rest, lender) = match payload {
            Payload::Copied(bytes) => {
                message.encode(bytes.len(), &mut head);
                head.extend_from_slice(bytes);
                (None, None)
            }
            Payload::Lent(root, buffer, range) => {
                message.encode(range.len(), &mut head);
                (Some((buffer, range)), Some(root))
            }
        };
        let frame = Arc::new(Frame { head, rest });
        peer.send(&frame);
        self.kept.push_back((seq, Kept { frame, lender }));
    }

    /// Sends kept frames again.
    pub(super) fn resend(&mut self, after: Seq, peer: &mut Peer) {
        for (seq, kept) in &self.kept {
            if *seq > after {
                peer.send(&kept.frame);
            }
        }
    }

    /// Nothing of the stream will be sent again.
    pub(super) fn discard(&mut self) -> Returned {
        self.bound.clear();
        self.prefixes.clear();
        self.drop_received(Seq(u64::MAX))
    }

    /// The target has everything up to here.
    pub(super) fn drop_received(&mut self, received: Seq) -> Returned {
        let mut returned = Returned::new();
        while self.kept.front().is_some_and(|(seq, _)| *seq <= received) {
            let Some((_, Kept { frame, lender })) = self.kept.pop_front() else { break };
            // The connection still has it only while it is being given up.
            let frame = Arc::into_inner(frame);
            let (head, rest) = frame.map_or((None, None), |frame| (Some(frame.head), frame.rest));
            if let Some(root) = lender {
                returned.push((root, rest.map(|(buffer, _)| buffer)));
            }
            if let Some(mut head) = head
                && self.spare.len() < SPARE_MAX
                && head.capacity() <= SPARE_BYTES
            {
                head.clear();
                self.spare.push(head);
            }
        }
        returned
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
        let Some(Pending::Done(root, applied)) = self.pending.get_mut(&ticket) else {
            unreachable!("what is shipped has been applied");
        };
        let root = *root;
        let files = self.sessions[usize::from(root)].files();
        let prefix = self.shipping.prefixes.remove(&ticket).unwrap_or_default();
        let writes = applied.changes().iter().any(|change| change.payload_len() > 0);
        let (change, payload) = match &prefix.instead {
            Some(crossing) => {
                let mut change = self.shipping.encode(&prefix, root, &[]);
                crossing.encode(&mut change);
                (change, Payload::Copied(&crossing.payload))
            }
            None => {
                let change = self.shipping.encode(&prefix, root, applied.changes());
                let long = writes && applied.payload().len() > COPIED_BYTES_MAX;
                let payload = match if long { files.lend(applied) } else { None } {
                    Some((buffer, range)) => Payload::Lent(root, buffer, range),
                    None if writes => Payload::Copied(applied.payload()),
                    None => Payload::Copied(&[]),
                };
                (change, payload)
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
        self.shipping.send_element(seq, element, Payload::Copied(&payload), &mut self.peer);
    }
}

impl SourceSide {
    /// Gives the mounts their buffers back.
    pub(super) fn give_back(&mut self, returned: Returned) {
        for (root, buffer) in returned {
            self.sessions[usize::from(root)].files().give_back(buffer);
        }
    }
}
