//! Datagrams that must not leave before a record is durable.

use std::collections::{BTreeMap, BTreeSet};

use havre_core::{
    effect::Route,
    ids::{NodeId, OpId},
    wire::message::Message,
};

/// Failed records remembered, so that a datagram ordered after the failure is not sent either.
const FAILED_MAX: usize = 1024;

/// A datagram to be sent.
pub(super) type Send = (NodeId, Route, Message);

/// Datagrams held back, and the records they wait for.
#[derive(Debug, Default)]
pub(super) struct Held {
    waiting: BTreeMap<OpId, Vec<Send>>,
    failed: BTreeSet<OpId>,
}

impl Held {
    /// Notes that a record is being made durable.
    pub(super) fn expect(&mut self, op: OpId) {
        self.waiting.entry(op).or_default();
    }

    /// Returns the datagram if it may leave now; holds it or drops it otherwise.
    pub(super) fn admit(&mut self, after: Option<OpId>, send: Send) -> Option<Send> {
        let Some(op) = after else { return Some(send) };
        if self.failed.contains(&op) {
            return None;
        }
        match self.waiting.get_mut(&op) {
            Some(queue) => {
                queue.push(send);
                None
            }
            None => Some(send),
        }
    }

    /// Notes how a record ended; returns the datagrams that may now leave.
    pub(super) fn settle(&mut self, op: OpId, durable: bool) -> Vec<Send> {
        let Some(queue) = self.waiting.remove(&op) else { return Vec::new() };
        if durable {
            return queue;
        }
        self.failed.insert(op);
        while self.failed.len() > FAILED_MAX {
            self.failed.pop_first();
        }
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use havre_core::{
        ids::ModuleId,
        wire::message::{ClaimVerdict, Message},
    };

    use super::*;

    fn send(nonce: u64) -> Send {
        let verdict = ClaimVerdict::Granted;
        (NodeId(1), Route::All, Message::ClaimReply { module: ModuleId(1), nonce, verdict })
    }

    #[test]
    fn a_datagram_leaves_when_its_record_is_durable() {
        let mut held = Held::default();
        held.expect(OpId(1));
        assert_eq!(held.admit(Some(OpId(1)), send(1)), None);
        assert_eq!(held.admit(None, send(2)), Some(send(2)));
        assert_eq!(held.settle(OpId(1), true), vec![send(1)]);
        assert_eq!(held.admit(Some(OpId(1)), send(3)), Some(send(3)));
    }

    #[test]
    fn a_datagram_whose_record_failed_never_leaves() {
        let mut held = Held::default();
        held.expect(OpId(1));
        assert_eq!(held.admit(Some(OpId(1)), send(1)), None);
        assert_eq!(held.settle(OpId(1), false), vec![]);
        assert_eq!(held.admit(Some(OpId(1)), send(2)), None);
    }
}
