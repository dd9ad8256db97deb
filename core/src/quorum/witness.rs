//! The arbiter: grants each module of each cluster to one node at a time, and remembers which
//! nodes hold every acknowledged write.
//!
//! ```text
//!   free --Acquire--> granting (record being made durable) --durable--> held --expiry--> free
//! ```
//!
//! Everything that the witness promises is durable before the answer leaves. After its own
//! restart it lets the longest lease it may have granted run out before it grants to another
//! node. Leases run on the witness's own clock.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    effect::WitnessRecord,
    ids::{Epoch, Incarnation, NodeId, OpId},
    machine::{Machine, Out},
    mutant::{self, Mutant},
    time::Instant,
    wire::message::{WitnessReply, WitnessRequest, WitnessVerb, WitnessVerdict},
};

/// Longest lease that is granted, whatever is asked, in milliseconds.
const LEASE_MS_MAX: u32 = 60_000;
/// Grants in a row that a holder may have asked for anew, without a sign that it heard one, before
/// another node that asks comes first.
const UNHEARD_MAX: u32 = 30;
/// Ended runs per node and module whose last question number is remembered.
const RUNS_MAX: usize = 8;

/// Facts. `K` names a module of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input<K> {
    /// A node asks.
    Asked {
        /// The module.
        key: K,
        /// Who asks.
        from: NodeId,
        /// What.
        request: WitnessRequest,
    },
    /// A record is durable, or could not be made so.
    Persisted {
        /// The order.
        op: OpId,
        /// Whether it is durable.
        ok: bool,
    },
}

/// Orders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action<K> {
    /// Make a record durable.
    Persist {
        /// Reported by [`Input::Persisted`].
        op: OpId,
        /// The module.
        key: K,
        /// Its record.
        record: WitnessRecord,
    },
    /// Answer.
    Reply {
        /// The module.
        key: K,
        /// To whom.
        to: NodeId,
        /// What.
        reply: WitnessReply,
    },
}

#[derive(Debug, Clone, Default)]
struct Entry {
    record: WitnessRecord,
    until: Option<Instant>,
    pending: Option<Pending>,
    /// Grants to the present holder since the last sign that it heard one.
    unheard: u32,
    /// When another node was last refused that would have been granted otherwise.
    rival: Option<Instant>,
    runs: Vec<(NodeId, Incarnation, u64)>,
}

#[derive(Debug, Clone)]
struct Pending {
    op: OpId,
    record: WitnessRecord,
    from: NodeId,
    nonce: u64,
    verdict: WitnessVerdict,
    lease: Option<Duration>,
}

/// The arbiter of any number of modules.
#[derive(Debug, Clone)]
pub struct Witness<K> {
    entries: BTreeMap<K, Entry>,
    started: Instant,
    next_op: OpId,
}

impl<K: Ord + Clone> Witness<K> {
    /// Starts at `now` with what was durable.
    pub fn new(now: Instant, saved: BTreeMap<K, WitnessRecord>) -> Self {
        let entries = saved
            .into_iter()
            .map(|(key, record)| (key, Entry { record, ..Entry::default() }))
            .collect();
        Self { entries, started: now, next_op: OpId(1) }
    }

    /// What is on record for a module.
    pub fn record(&self, key: &K) -> Option<&WitnessRecord> {
        self.entries.get(key).map(|e| &e.record)
    }

    fn asked(
        &mut self,
        now: Instant,
        key: K,
        from: NodeId,
        request: WitnessRequest,
        out: &mut Out<Action<K>>,
    ) {
        let started = self.started;
        let entry = self.entries.entry(key.clone()).or_default();
        // One record at a time; whoever is not answered asks again.
        if entry.pending.is_some() || !entry.is_new(from, &request) {
            return;
        }
        let nonce = request.nonce;
        entry.note(now, started, from, &request.verb);
        match entry.judge(now, started, from, &request.verb) {
            Judgement::Answer(verdict) => {
                out.push(Action::Reply { key, to: from, reply: WitnessReply { nonce, verdict } });
            }
            Judgement::Record { record, verdict, lease } => {
                let op = self.next_op;
                self.next_op = op.next();
                out.push(Action::Persist { op, key: key.clone(), record: record.clone() });
                if mutant::active(Mutant::WitnessGrantsBeforeDurable) {
                    let reply = WitnessReply { nonce, verdict: verdict.clone() };
                    out.push(Action::Reply { key, to: from, reply });
                }
                entry.pending = Some(Pending { op, record, from, nonce, verdict, lease });
            }
            Judgement::Extend { verdict, lease } => {
                entry.until = Some(now + lease);
                out.push(Action::Reply { key, to: from, reply: WitnessReply { nonce, verdict } });
            }
            Judgement::Silence => {}
        }
    }

    fn persisted(&mut self, now: Instant, op: OpId, ok: bool, out: &mut Out<Action<K>>) {
        let found =
            self.entries.iter_mut().find(|(_, e)| e.pending.as_ref().is_some_and(|p| p.op == op));
        let Some((key, entry)) = found else { return };
        let pending = entry.pending.take().expect("the entry was found by its pending order");
        if !ok {
            // Nothing was promised; the node asks again.
            return;
        }
        if matches!(pending.verdict, WitnessVerdict::Granted { .. }) {
            let again = entry.record.holder == pending.record.holder;
            entry.unheard = if again { entry.unheard + 1 } else { 1 };
            entry.rival = entry.rival.filter(|_| again);
        }
        entry.record = pending.record;
        if let Some(lease) = pending.lease {
            entry.until = Some(now + lease);
        }
        out.push(Action::Reply {
            key: key.clone(),
            to: pending.from,
            reply: WitnessReply { nonce: pending.nonce, verdict: pending.verdict },
        });
    }
}

enum Judgement {
    Answer(WitnessVerdict),
    Extend { verdict: WitnessVerdict, lease: Duration },
    Record { record: WitnessRecord, verdict: WitnessVerdict, lease: Option<Duration> },
    Silence,
}

impl Entry {
    /// Whether a question is new. Numbers of one run only grow: a late repetition is dropped.
    fn is_new(&mut self, from: NodeId, request: &WitnessRequest) -> bool {
        let run = self.runs.iter_mut().find(|(n, i, _)| *n == from && *i == request.incarnation);
        match run {
            Some((_, _, last)) if request.nonce <= *last => false,
            Some((_, _, last)) => {
                *last = request.nonce;
                true
            }
            None => {
                if self.runs.len() == RUNS_MAX {
                    self.runs.remove(0);
                }
                self.runs.push((from, request.incarnation, request.nonce));
                true
            }
        }
    }

    /// Takes note of who hears this witness, and of who waits for whom.
    fn note(&mut self, now: Instant, started: Instant, from: NodeId, verb: &WitnessVerb) {
        match verb {
            WitnessVerb::Renew { epoch, .. } | WitnessVerb::Commit { epoch, .. }
                if self.holds(from, *epoch) =>
            {
                self.unheard = 0;
            }
            WitnessVerb::Acquire { forced, .. }
                if self.record.holder.is_some_and(|holder| holder != from)
                    && !self.remaining(now, started).is_zero()
                    && (*forced || self.record.in_sync.contains(&from)) =>
            {
                self.rival = Some(now);
            }
            _ => {}
        }
    }

    /// Whether the holder asks again and again, as one does that is heard and hears nobody, while
    /// another node waits.
    fn must_yield(&self, now: Instant, from: NodeId) -> bool {
        let span = Duration::from_millis(self.record.lease_ms_max.into()) * 2;
        self.record.holder == Some(from)
            && self.unheard >= UNHEARD_MAX
            && self.rival.is_some_and(|at| now.since(at) < span)
    }

    /// How long another node than the holder must wait; zero if the lease is free.
    fn remaining(&self, now: Instant, started: Instant) -> Duration {
        let boot_end = if mutant::active(Mutant::WitnessForgetsLeases) {
            started
        } else {
            started + Duration::from_millis(self.record.lease_ms_max.into())
        };
        let end = self.until.unwrap_or(boot_end);
        end.since(now)
    }

    fn judge(&self, now: Instant, started: Instant, from: NodeId, verb: &WitnessVerb) -> Judgement {
        match verb {
            WitnessVerb::Acquire { lease_ms, forced } => {
                self.judge_acquire(now, started, from, *lease_ms, *forced)
            }
            WitnessVerb::Renew { lease_ms, epoch } => self.judge_renew(from, *lease_ms, *epoch),
            WitnessVerb::Commit { epoch, generation, in_sync } => {
                if !self.holds(from, *epoch) {
                    return self.wrong_epoch();
                }
                let record = &self.record;
                let old = record.generation;
                let grows =
                    old == Some(*generation) && record.in_sync.iter().all(|n| in_sync.contains(n));
                let follows = old.is_none_or(|g| generation.number > g.number);
                if !(grows || follows || record.forced) {
                    // A late repetition of something that has been overtaken.
                    return Judgement::Silence;
                }
                let record = WitnessRecord {
                    generation: Some(*generation),
                    in_sync: in_sync.clone(),
                    forced: false,
                    ..record.clone()
                };
                let verdict = WitnessVerdict::Committed { epoch: *epoch };
                Judgement::Record { record, verdict, lease: None }
            }
            WitnessVerb::Release { epoch } => {
                if !self.holds(from, *epoch) {
                    return self.wrong_epoch();
                }
                let record = WitnessRecord { holder: None, ..self.record.clone() };
                let verdict = WitnessVerdict::RefusedEpoch { epoch: *epoch };
                Judgement::Record { record, verdict, lease: Some(Duration::ZERO) }
            }
        }
    }

    fn judge_acquire(
        &self,
        now: Instant,
        started: Instant,
        from: NodeId,
        lease_ms: u32,
        forced: bool,
    ) -> Judgement {
        let record = &self.record;
        let remaining = self.remaining(now, started);
        // The holder of record may come back at any time: the old lease was its own.
        if !remaining.is_zero()
            && let Some(holder) = record.holder.filter(|h| *h != from)
        {
            let remaining_ms = u32::try_from(remaining.as_millis()).unwrap_or(u32::MAX).max(1);
            return Judgement::Answer(if self.until.is_some() {
                WitnessVerdict::RefusedHeld { holder, remaining_ms }
            } else {
                WitnessVerdict::RefusedStarting { remaining_ms }
            });
        }
        if self.must_yield(now, from) {
            let remaining_ms = record.lease_ms_max.max(1);
            return Judgement::Answer(WitnessVerdict::RefusedStarting { remaining_ms });
        }
        if record.generation.is_some() && !record.in_sync.contains(&from) && !forced {
            return Judgement::Answer(WitnessVerdict::RefusedNotInSync {
                in_sync: record.in_sync.clone(),
            });
        }
        if record.generation.is_none() && !forced {
            return Judgement::Answer(WitnessVerdict::RefusedNotInSync { in_sync: Vec::new() });
        }
        let lease_ms = lease_ms.min(LEASE_MS_MAX);
        let epoch = record.epoch.next();
        let next = WitnessRecord {
            epoch,
            holder: Some(from),
            lease_ms_max: record.lease_ms_max.max(lease_ms),
            forced,
            ..record.clone()
        };
        let verdict = WitnessVerdict::Granted {
            epoch,
            generation: record.generation,
            in_sync: record.in_sync.clone(),
        };
        Judgement::Record {
            record: next,
            verdict,
            lease: Some(Duration::from_millis(lease_ms.into())),
        }
    }

    fn judge_renew(&self, from: NodeId, lease_ms: u32, epoch: Epoch) -> Judgement {
        if !self.holds(from, epoch) {
            return self.wrong_epoch();
        }
        // Holder and epoch are durable already; a longer lease than any before would not be.
        let lease = Duration::from_millis(lease_ms.min(self.record.lease_ms_max).into());
        let verdict = WitnessVerdict::Granted {
            epoch,
            generation: self.record.generation,
            in_sync: self.record.in_sync.clone(),
        };
        Judgement::Extend { verdict, lease }
    }

    fn holds(&self, node: NodeId, epoch: Epoch) -> bool {
        self.record.holder == Some(node) && self.record.epoch == epoch
    }

    fn wrong_epoch(&self) -> Judgement {
        Judgement::Answer(WitnessVerdict::RefusedEpoch { epoch: self.record.epoch })
    }
}

impl<K: Ord + Clone> Machine for Witness<K> {
    type Input = Input<K>;
    type Action = Action<K>;

    fn handle(&mut self, now: Instant, input: Input<K>, out: &mut Out<Action<K>>) {
        match input {
            Input::Asked { key, from, request } => self.asked(now, key, from, request, out),
            Input::Persisted { op, ok } => self.persisted(now, op, ok, out),
        }
    }

    fn handle_timeout(&mut self, _now: Instant, _out: &mut Out<Action<K>>) {}

    fn deadline(&self) -> Option<Instant> {
        None
    }
}
