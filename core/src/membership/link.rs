//! The heartbeat conversation with one peer: numbers, echoes, repetitions.
//!
//! Each heartbeat is numbered and tells which number of the other side was heard last. The moment
//! at which an echoed heartbeat was *sent* bounds what its hearer has promised, whatever the
//! network did meanwhile. Late, repeated and foreign datagrams are told apart here.

use std::collections::{BTreeMap, VecDeque};

use crate::{
    ids::{Incarnation, LinkId},
    time::Instant,
};

/// Heartbeats whose time of sending is remembered.
const SENT_MAX: usize = 256;
/// Ended runs of the peer that are remembered, so that a late datagram does not revive them.
const RETIRED_MAX: usize = 8;

/// What a received heartbeat turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// Late, repeated, or of an ended run: says nothing about the present.
    Stale,
    /// New on this network.
    Fresh {
        /// The peer's daemon was restarted since the last one.
        restarted: bool,
        /// No newer heartbeat has been heard on any network: its content is the latest.
        latest: bool,
        /// When the heartbeat of ours that it echoes was sent, if it did echo one.
        echo: Option<Echo>,
    },
}

/// An echoed heartbeat of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Echo {
    /// Its number.
    pub number: u64,
    /// When it was sent.
    pub sent: Instant,
}

/// State of the conversation with one peer.
#[derive(Debug, Clone)]
pub struct Conversation {
    incarnation: Incarnation,
    number: u64,
    sent: VecDeque<(u64, Instant)>,
    peer: Option<Incarnation>,
    peer_number: u64,
    per_link: BTreeMap<LinkId, u64>,
    retired: VecDeque<Incarnation>,
}

impl Conversation {
    /// Begins a conversation in this run of ours.
    pub fn new(incarnation: Incarnation) -> Self {
        Self {
            incarnation,
            number: 0,
            sent: VecDeque::new(),
            peer: None,
            peer_number: 0,
            per_link: BTreeMap::new(),
            retired: VecDeque::new(),
        }
    }

    /// Numbers a heartbeat that is sent now.
    pub fn sending(&mut self, now: Instant) -> u64 {
        self.number += 1;
        if self.sent.len() == SENT_MAX {
            self.sent.pop_front();
        }
        self.sent.push_back((self.number, now));
        self.number
    }

    /// The peer's run and the highest number heard of it.
    pub fn heard(&self) -> Option<(Incarnation, u64)> {
        self.peer.map(|p| (p, self.peer_number))
    }

    /// The peer's present run.
    pub fn peer(&self) -> Option<Incarnation> {
        self.peer
    }

    /// Judges a heartbeat that arrived on `link`.
    pub fn receive(
        &mut self,
        link: LinkId,
        incarnation: Incarnation,
        number: u64,
        heard: Option<(Incarnation, u64)>,
    ) -> Heard {
        let mut restarted = false;
        if self.peer != Some(incarnation) {
            if self.retired.contains(&incarnation) {
                return Heard::Stale;
            }
            if let Some(old) = self.peer.replace(incarnation) {
                restarted = true;
                if self.retired.len() == RETIRED_MAX {
                    self.retired.pop_front();
                }
                self.retired.push_back(old);
            }
            self.peer_number = 0;
            self.per_link.clear();
        }
        let last = self.per_link.entry(link).or_insert(0);
        if number <= *last {
            return Heard::Stale;
        }
        *last = number;
        let latest = number > self.peer_number;
        self.peer_number = self.peer_number.max(number);
        let echo = heard.filter(|(run, _)| *run == self.incarnation).and_then(|(_, n)| {
            self.sent
                .iter()
                .rev()
                .find(|(sent, _)| *sent == n)
                .map(|&(number, sent)| Echo { number, sent })
        });
        Heard::Fresh { restarted, latest, echo }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_millis(ms)
    }

    #[test]
    fn repeated_and_reordered_heartbeats_are_stale() {
        let mut c = Conversation::new(Incarnation(1));
        let lan = LinkId(0);
        assert!(matches!(c.receive(lan, Incarnation(9), 2, None), Heard::Fresh { .. }));
        assert_eq!(c.receive(lan, Incarnation(9), 2, None), Heard::Stale);
        assert_eq!(c.receive(lan, Incarnation(9), 1, None), Heard::Stale);
        // The same number on another network is news about that network, not about the peer.
        assert_eq!(
            c.receive(LinkId(1), Incarnation(9), 2, None),
            Heard::Fresh { restarted: false, latest: false, echo: None }
        );
    }

    #[test]
    fn an_ended_run_is_never_revived() {
        let mut c = Conversation::new(Incarnation(1));
        let lan = LinkId(0);
        c.receive(lan, Incarnation(9), 5, None);
        assert_eq!(
            c.receive(lan, Incarnation(10), 1, None),
            Heard::Fresh { restarted: true, latest: true, echo: None }
        );
        assert_eq!(c.receive(lan, Incarnation(9), 6, None), Heard::Stale);
    }

    #[test]
    fn an_echo_names_the_moment_of_sending() {
        let mut c = Conversation::new(Incarnation(1));
        let one = c.sending(at(10));
        c.sending(at(20));
        let Heard::Fresh { echo: Some(echo), .. } =
            c.receive(LinkId(0), Incarnation(9), 1, Some((Incarnation(1), one)))
        else {
            panic!("the echo of our own run is found");
        };
        assert_eq!(echo.sent, at(10));
        // An echo of an earlier run of ours promises nothing to this one.
        assert!(matches!(
            c.receive(LinkId(0), Incarnation(9), 2, Some((Incarnation(0), one))),
            Heard::Fresh { echo: None, .. }
        ));
    }
}
