//! The holder's side of a lease: until when it may run, and what to ask the witness next.
//!
//! All moments are on the holder's clock and count from the *sending* of the question or of the
//! heartbeat that was answered; spans are shortened by the tolerated drift of clocks.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use crate::{
    ids::{Epoch, NodeId},
    mutant::{self, Mutant},
    replication::generation::Generation,
    time::{Instant, shortened_by_drift},
    wire::message::WitnessVerb,
};

/// Questions whose time of sending is remembered.
const ASKED_MAX: usize = 32;

type InSync = (Generation, BTreeSet<NodeId>);

/// State of the right under policy `lease`.
#[derive(Debug, Clone)]
pub struct Lease {
    length: Duration,
    resend: Duration,
    node: NodeId,
    epoch: Option<Epoch>,
    witness_until: Instant,
    peer_until: Instant,
    began: Instant,
    consented: bool,
    asked: VecDeque<(u64, Instant, Option<InSync>)>,
    answered: Option<Instant>,
    next_acquire: Instant,
    next_renew: Instant,
    next_record: Instant,
    wanted: Option<InSync>,
    recorded: Option<Generation>,
    written: Option<InSync>,
}

impl Lease {
    /// Holds nothing.
    pub fn new(length: Duration, resend: Duration, node: NodeId) -> Self {
        Self {
            length,
            resend,
            node,
            epoch: None,
            witness_until: Instant::ZERO,
            peer_until: Instant::ZERO,
            began: Instant::ZERO,
            consented: false,
            asked: VecDeque::new(),
            answered: None,
            next_acquire: Instant::ZERO,
            next_renew: Instant::ZERO,
            next_record: Instant::ZERO,
            wanted: None,
            recorded: None,
            written: None,
        }
    }

    /// When the right ends: the later of the witness's and the peer's promise.
    pub fn until(&self) -> Instant {
        let until = self.witness_until.max(self.peer_until);
        if mutant::active(Mutant::LeaseOutlivesPromise) { until + self.length } else { until }
    }

    /// When to give up, so that address and application are gone before the right ends.
    pub fn fence_at(&self) -> Instant {
        self.until().before(self.length / 8)
    }

    /// The epoch, if the witness granted one.
    pub fn epoch(&self) -> Option<Epoch> {
        self.epoch
    }

    /// The generation on the witness's record at the time of the grant.
    pub fn recorded(&self) -> Option<Generation> {
        self.recorded
    }

    /// Whether the witness answered within the last two lease lengths.
    pub fn answered_within(&self, now: Instant) -> bool {
        self.answered.is_some_and(|at| now.since(at) <= self.length * 2)
    }

    /// The right was obtained now; promises made for earlier heartbeats do not count for it.
    pub fn begin(&mut self, now: Instant) {
        self.began = now;
        self.next_renew = now + self.length / 3;
        self.next_record = now;
    }

    /// The peer consented to a claim sent then: it is bound for one lease length, and the witness
    /// may be told to ignore who it has on record.
    pub fn consented(&mut self, sent: Instant) {
        self.consented = true;
        self.peer_until = sent + shortened_by_drift(self.length);
    }

    /// The peer backs this node as of something sent then.
    pub fn backed(&mut self, sent: Instant) {
        if sent >= self.began {
            self.peer_until = self.peer_until.max(sent + shortened_by_drift(self.length));
        }
    }

    /// Remembers when a question was sent.
    pub fn asked(&mut self, nonce: u64, now: Instant, verb: &WitnessVerb) {
        if self.asked.len() == ASKED_MAX {
            self.asked.pop_front();
        }
        let record = match verb {
            WitnessVerb::Commit { generation, in_sync, .. } => {
                Some((*generation, in_sync.iter().copied().collect()))
            }
            _ => None,
        };
        self.asked.push_back((nonce, now, record));
    }

    /// Finds when the answered question was sent.
    pub fn answered(&mut self, nonce: u64, now: Instant) -> Option<Instant> {
        let sent = self.asked.iter().find(|(n, _, _)| *n == nonce)?.1;
        self.answered = Some(now);
        Some(sent)
    }

    /// The witness granted or renewed the lease, asked for at `sent`.
    pub fn granted(
        &mut self,
        epoch: Epoch,
        sent: Instant,
        generation: Option<Generation>,
        in_sync: &[NodeId],
    ) {
        self.epoch = Some(epoch);
        self.recorded = generation;
        self.written = generation.map(|g| (g, in_sync.iter().copied().collect()));
        self.witness_until = self.witness_until.max(sent + shortened_by_drift(self.length));
    }

    /// The witness made a record durable: returns which.
    pub fn committed(&mut self, nonce: u64, epoch: Epoch) -> Option<InSync> {
        if self.epoch != Some(epoch) {
            return None;
        }
        let record = self.asked.iter().find(|(n, _, _)| *n == nonce)?.2.clone()?;
        self.written = Some(record.clone());
        Some(record)
    }

    /// The witness knows a newer epoch: its lease is gone.
    pub fn epoch_lost(&mut self) {
        self.epoch = None;
        self.witness_until = Instant::ZERO;
    }

    /// Asks the witness for the lease no earlier than after this long.
    pub fn retry_after(&mut self, now: Instant, span: Duration) {
        self.next_acquire = now + span.clamp(Duration::from_millis(1), self.length);
    }

    /// What is to be on the witness's record.
    pub fn record(&mut self, generation: Generation, in_sync: BTreeSet<NodeId>) {
        self.wanted = Some((generation, in_sync));
        self.next_record = Instant::ZERO;
    }

    /// Holds nothing any more; what to tell the witness, if it granted something.
    pub fn release(&mut self, now: Instant) -> Option<WitnessVerb> {
        let told = self.epoch.filter(|_| self.witness_until > now);
        let keep = (self.length, self.resend, self.node, self.answered);
        *self = Self { answered: keep.3, ..Self::new(keep.0, keep.1, keep.2) };
        told.map(|epoch| WitnessVerb::Release { epoch })
    }

    /// The question that asks for the lease, if it is due.
    pub fn question_acquire(&mut self, now: Instant, forced: bool) -> Option<WitnessVerb> {
        if now < self.next_acquire {
            return None;
        }
        self.next_acquire = now + self.resend;
        Some(WitnessVerb::Acquire { lease_ms: self.lease_ms(), forced: forced || self.consented })
    }

    /// The question that keeps (or, after an acquisition by consent, obtains) the lease.
    pub fn question_held(&mut self, now: Instant) -> Option<WitnessVerb> {
        let Some(epoch) = self.epoch else { return self.question_acquire(now, true) };
        if now < self.next_renew {
            return None;
        }
        // A renewal is due every third of a lease, and is repeated faster near the end.
        let urgent = self.witness_until.since(now) < self.length / 2;
        self.next_renew = now + if urgent { self.resend } else { self.length / 3 };
        Some(WitnessVerb::Renew { lease_ms: self.lease_ms(), epoch })
    }

    /// The question that brings the witness's record up to date, if it is due.
    pub fn question_record(&mut self, now: Instant) -> Option<WitnessVerb> {
        let epoch = self.epoch?;
        if self.wanted == self.written || now < self.next_record {
            return None;
        }
        let (generation, in_sync) = self.wanted.as_ref()?;
        self.next_record = now + self.resend;
        Some(WitnessVerb::Commit {
            epoch,
            generation: *generation,
            in_sync: in_sync.iter().copied().collect(),
        })
    }

    /// When the lease is to be asked for next.
    pub fn next_acquire(&self) -> Instant {
        self.next_acquire
    }

    /// When something is to be asked next while the right is held.
    pub fn next_held(&self) -> Instant {
        let lease = if self.epoch.is_some() { self.next_renew } else { self.next_acquire };
        if self.epoch.is_some() && self.wanted.is_some() && self.wanted != self.written {
            return lease.min(self.next_record);
        }
        lease
    }

    fn lease_ms(&self) -> u32 {
        u32::try_from(self.length.as_millis()).unwrap_or(u32::MAX)
    }
}
