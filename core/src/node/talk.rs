//! What one node tells another periodically, and at once when something has changed.
//!
//! Mirrors and farms have pulses of their own, so a node may have one talk of each kind with the
//! same peer.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    ids::{Incarnation, LinkId},
    membership::link::Conversation,
    time::Instant,
};

/// Shortest pause between two heartbeats that news cause.
const NEWS_PAUSE: Duration = Duration::from_millis(2);

/// One talk with one peer.
#[derive(Debug, Clone)]
pub(super) struct Talk<B> {
    pub(super) conversation: Conversation,
    next: BTreeMap<LinkId, Instant>,
    told: Vec<B>,
    /// What it was told last is not so any more.
    news: bool,
    told_at: Instant,
}

/// A heartbeat that is due.
pub(super) struct Due<B> {
    pub(super) number: u64,
    pub(super) heard: Option<(Incarnation, u64)>,
    pub(super) links: Vec<LinkId>,
    pub(super) beats: Vec<B>,
}

impl<B: Clone + PartialEq> Talk<B> {
    pub(super) fn new(
        incarnation: Incarnation,
        pulses: &BTreeMap<LinkId, Duration>,
        now: Instant,
    ) -> Self {
        Self {
            conversation: Conversation::new(incarnation),
            next: pulses.keys().map(|link| (*link, now)).collect(),
            told: Vec::new(),
            news: false,
            told_at: now,
        }
    }

    /// Uses these networks from now on.
    pub(super) fn use_links(&mut self, pulses: &BTreeMap<LinkId, Duration>, now: Instant) {
        self.next.retain(|link, _| pulses.contains_key(link));
        for link in pulses.keys() {
            self.next.entry(*link).or_insert(now);
        }
    }

    /// The heartbeat that is due now, on the networks on which it is. `beats`: what is so now.
    pub(super) fn due<'b>(
        &mut self,
        now: Instant,
        beats: impl Iterator<Item = &'b B> + Clone,
        pulses: &BTreeMap<LinkId, Duration>,
    ) -> Option<Due<B>>
    where
        B: 'b,
    {
        self.news = !self.told.iter().eq(beats.clone());
        let news = self.news && now >= self.told_at + NEWS_PAUSE;
        let due = |(link, at): (&LinkId, &Instant)| (news || now >= *at).then_some(*link);
        let links: Vec<LinkId> = self.next.iter().filter_map(due).collect();
        if links.is_empty() {
            return None;
        }
        for link in &links {
            if let (Some(next), Some(pulse)) = (self.next.get_mut(link), pulses.get(link)) {
                *next = now + *pulse;
            }
        }
        self.told_at = now;
        if std::mem::take(&mut self.news) {
            self.told = beats.cloned().collect();
        }
        let heard = self.conversation.heard();
        Some(Due { number: self.conversation.sending(now), heard, links, beats: self.told.clone() })
    }

    /// When the last heartbeat was sent.
    pub(super) fn told_at(&self) -> Instant {
        self.told_at
    }

    /// When the next one is due, as far as was known when the last one was asked for.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let pulse = self.next.values().copied().min();
        crate::machine::earliest(pulse, self.news.then_some(self.told_at + NEWS_PAUSE))
    }
}
