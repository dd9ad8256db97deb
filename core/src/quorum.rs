//! Decides whether this node may run the application: obtains the right, keeps it, records who
//! holds every acknowledged write, and says when the right is lost.
//!
//! ```text
//!          Acquire              granted
//!   Idle ----------> Acquiring ---------> Held --- right ends ---> Idle (Lost)
//!     ^                  | refused          | Release
//!     +------------------+------------------+
//! ```
//!
//! Three policies, from the module's configuration:
//! - `none`: heartbeats only. A cut network makes two primaries; documented, not prevented.
//! - `ping`: the side that reaches one of the given hosts runs (SafeKit's splitbrain checker).
//! - `lease`: two of three (this node, its peer, the witness) must agree. The witness grants a
//!   lease under an epoch; a secondary that hears its primary backs it for one lease length.
//!   The holder gives up [`Lease::fence_at`] before either can be granted to the other side.
//!
//! Whatever the policy, a peer that is heard must consent before this node begins a generation
//! without it: it first makes durable that its own copy is outdated.

pub mod lease;
pub mod policy;
pub mod witness;

use std::{collections::BTreeSet, time::Duration};

use crate::{
    ids::{Epoch, Incarnation, NodeId},
    machine::{Machine, Out, earliest},
    mutant::{self, Mutant},
    replication::generation::Generation,
    time::{Instant, lengthened_by_drift},
    wire::message::{Claim, ClaimVerdict, WitnessReply, WitnessRequest, WitnessVerdict},
};

use self::{lease::Lease, policy::Kind};

/// What the machine must know beforehand.
#[derive(Debug, Clone)]
pub struct Config {
    /// The policy.
    pub kind: Kind,
    /// This node.
    pub node: NodeId,
    /// The peer.
    pub peer: NodeId,
    /// Length of a lease and of a secondary's promise.
    pub lease: Duration,
    /// How long one attempt to obtain the right may take.
    pub attempt: Duration,
    /// Period of repeated questions.
    pub resend: Duration,
}

/// Facts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// This node wants to become primary and begin this generation.
    Acquire {
        /// The generation.
        generation: Generation,
        /// An administrator forced it.
        forced: bool,
    },
    /// The primary wants to begin this generation, held by itself alone.
    CommitSolo(Generation),
    /// The peer holds every acknowledged write of this generation too.
    RecordBoth(Generation),
    /// This node has been primary until now, so that it cannot have promised anything.
    Unbound,
    /// This node runs nothing any more.
    Release,
    /// The peer is heard, or not.
    PeerAlive(bool),
    /// A heartbeat of a serving peer was heard: it counts on this node's promise.
    PeerServing,
    /// The peer backs this node, as of a heartbeat sent then.
    Backed(Instant),
    /// The peer answered a claim.
    ClaimAnswered {
        /// The claim.
        nonce: u64,
        /// The answer.
        verdict: ClaimVerdict,
    },
    /// The witness answered.
    WitnessAnswered(WitnessReply),
    /// The hosts were pinged.
    Pinged(bool),
}

/// Orders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Ask the peer.
    Claim(Claim),
    /// Ask the witness.
    Ask(WitnessRequest),
    /// Ping the hosts of the policy.
    Ping,
    /// The right is held.
    Acquired {
        /// Under this epoch, if the witness granted it.
        epoch: Option<Epoch>,
        /// The generation that the witness has on record, if any.
        recorded: Option<Generation>,
    },
    /// The right was not obtained.
    Refused(Refusal),
    /// It is on record that this node alone holds every acknowledged write of the generation.
    Committed(Generation),
    /// The right has ended: stop at once.
    Lost,
}

/// Why the right was not obtained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Nobody who could agree answered.
    NoAnswer,
    /// The peer serves, or is about to.
    PeerServing,
    /// The peer's copy is newer or unrelated.
    PeerLineage,
    /// The peer's configuration differs.
    PeerConfiguration,
    /// The witness says that the other node holds the lease.
    Held(NodeId),
    /// The witness says that this copy misses acknowledged writes.
    NotInSync,
    /// A promise made before the last restart may still bind this node.
    BootHold,
}

#[derive(Debug, Clone)]
enum Stage {
    Idle,
    Acquiring(Attempt),
    Held,
}

#[derive(Debug, Clone)]
struct Attempt {
    forced: bool,
    began: Instant,
    until: Instant,
    refusal: Refusal,
}

/// A generation to be agreed with the peer or recorded by the witness.
#[derive(Debug, Clone)]
struct Consent {
    generation: Generation,
    promote: bool,
    forced: bool,
    nonce: u64,
    first_sent: Instant,
    resend: Instant,
}

/// The right of one node to run one module.
#[derive(Debug, Clone)]
pub struct Quorum {
    config: Config,
    incarnation: Incarnation,
    stage: Stage,
    lease: Lease,
    consent: Option<Consent>,
    consented: Option<Generation>,
    committing: Option<Generation>,
    pinging: bool,
    ping_next: Option<Instant>,
    peer_alive: bool,
    /// Before this moment the witness must not be asked: an earlier promise may bind.
    bound_until: Instant,
    nonce: u64,
}

impl Quorum {
    /// Begins with no right; `now` is the start of this run.
    pub fn new(config: Config, incarnation: Incarnation, now: Instant) -> Self {
        let hold = if mutant::active(Mutant::NoBootHold) {
            Duration::ZERO
        } else {
            lengthened_by_drift(config.lease)
        };
        Self {
            lease: Lease::new(config.lease, config.resend, config.node),
            incarnation,
            stage: Stage::Idle,
            consent: None,
            consented: None,
            committing: None,
            pinging: false,
            ping_next: None,
            peer_alive: false,
            bound_until: now + hold,
            nonce: 0,
            config,
        }
    }

    /// Whether the right is held.
    pub fn held(&self) -> bool {
        matches!(self.stage, Stage::Held)
    }

    /// Whether the right is being asked for or held: the peer must not be backed.
    pub fn wanted(&self) -> bool {
        !matches!(self.stage, Stage::Idle)
    }

    /// When the right ends unless extended; `None`: no end, or not held.
    pub fn right_until(&self) -> Option<Instant> {
        (self.held() && self.config.kind == Kind::Lease).then(|| self.lease.until())
    }

    /// The epoch, if the witness granted one.
    pub fn epoch(&self) -> Option<Epoch> {
        self.lease.epoch()
    }

    /// Whether the witness answered within the last lease length; `None` without a witness.
    pub fn witness_seen(&self, now: Instant) -> Option<bool> {
        (self.config.kind == Kind::Lease).then(|| self.lease.answered_within(now))
    }

    fn next_nonce(&mut self) -> u64 {
        self.nonce += 1;
        self.nonce
    }

    fn idle(&mut self) {
        self.stage = Stage::Idle;
        self.consent = None;
        self.consented = None;
        self.committing = None;
        self.ping_next = None;
    }

    fn acquired(&mut self, now: Instant, out: &mut Out<Action>) {
        self.stage = Stage::Held;
        self.lease.begin(now);
        let recorded = self.lease.recorded();
        out.push(Action::Acquired { epoch: self.lease.epoch(), recorded });
    }

    fn refuse(&mut self, now: Instant, refusal: Refusal, out: &mut Out<Action>) {
        self.idle();
        self.release(now, out);
        out.push(Action::Refused(refusal));
    }

    /// Gives back what the witness granted.
    fn release(&mut self, now: Instant, out: &mut Out<Action>) {
        let nonce = self.next_nonce();
        if let Some(verb) = self.lease.release(now) {
            out.push(Action::Ask(WitnessRequest { nonce, incarnation: self.incarnation, verb }));
        }
    }

    fn start_consent(
        &mut self,
        now: Instant,
        generation: Generation,
        promote: bool,
        forced: bool,
        out: &mut Out<Action>,
    ) {
        let nonce = self.next_nonce();
        self.consent =
            Some(Consent { generation, promote, forced, nonce, first_sent: now, resend: now });
        self.pursue(now, out);
    }

    /// Sends whatever is due: claims, questions, pings; ends what can end.
    fn pursue(&mut self, now: Instant, out: &mut Out<Action>) {
        self.pursue_claim(now, out);
        match self.config.kind {
            Kind::None => self.pursue_none(now, out),
            Kind::Ping => self.pursue_ping(now, out),
            Kind::Lease => self.pursue_lease(now, out),
        }
    }

    fn pursue_claim(&mut self, now: Instant, out: &mut Out<Action>) {
        let Some(mut consent) = self.consent.take() else { return };
        if self.peer_alive && now >= consent.resend {
            // A consent counts from the moment of the first sending: ask anew before it is old.
            if now.since(consent.first_sent) >= self.config.lease / 2 {
                consent.nonce = self.next_nonce();
                consent.first_sent = now;
            }
            consent.resend = now + self.config.resend;
            out.push(Action::Claim(Claim {
                nonce: consent.nonce,
                incarnation: self.incarnation,
                generation: consent.generation,
                promote: consent.promote,
                forced: consent.forced,
            }));
        }
        self.consent = Some(consent);
    }

    /// Without arbiter, a silent peer is believed to be dead.
    fn pursue_none(&mut self, now: Instant, out: &mut Out<Action>) {
        if self.peer_alive {
            return;
        }
        match &self.stage {
            Stage::Acquiring(_) => self.acquired(now, out),
            Stage::Held => self.committed(out),
            Stage::Idle => {}
        }
    }

    fn pursue_ping(&mut self, now: Instant, out: &mut Out<Action>) {
        if matches!(&self.stage, Stage::Acquiring(attempt) if attempt.forced) {
            return self.pursue_none(now, out);
        }
        if self.ping_due() && self.ping_next.is_none_or(|at| now >= at) {
            self.pinging = true;
            out.push(Action::Ping);
        }
    }

    fn pursue_lease(&mut self, now: Instant, out: &mut Out<Action>) {
        let verb = match &self.stage {
            Stage::Acquiring(attempt) => {
                // A peer that is heard is asked first: it answers at once or is cut off.
                if now < self.witness_from(attempt) {
                    return;
                }
                self.lease.question_acquire(now, attempt.forced)
            }
            Stage::Held => self.lease.question_held(now),
            Stage::Idle => None,
        };
        if let Some(verb) = verb {
            let nonce = self.next_nonce();
            self.lease.asked(nonce, now, &verb);
            out.push(Action::Ask(WitnessRequest { nonce, incarnation: self.incarnation, verb }));
        }
        if matches!(self.stage, Stage::Held)
            && let Some(record) = self.lease.question_record(now)
        {
            let nonce = self.next_nonce();
            self.lease.asked(nonce, now, &record);
            out.push(Action::Ask(WitnessRequest {
                nonce,
                incarnation: self.incarnation,
                verb: record,
            }));
        }
    }

    /// When an attempt may turn to the witness: once no promise binds this node, and once a peer
    /// that is heard had its chance to consent, which is quicker.
    fn witness_from(&self, attempt: &Attempt) -> Instant {
        let peer_chance =
            if self.peer_alive { attempt.began + self.config.lease / 4 } else { attempt.began };
        self.bound_until.max(peer_chance)
    }

    fn ping_due(&self) -> bool {
        let waits = match &self.stage {
            Stage::Acquiring(_) => true,
            Stage::Held => self.committing.is_some(),
            Stage::Idle => false,
        };
        waits && !self.peer_alive && !self.pinging
    }

    fn committed(&mut self, out: &mut Out<Action>) {
        if let Some(generation) = self.committing.take() {
            if self.consent.as_ref().is_some_and(|c| !c.promote) {
                self.consent = None;
            }
            out.push(Action::Committed(generation));
        }
    }

    fn claim_answered(
        &mut self,
        now: Instant,
        nonce: u64,
        verdict: ClaimVerdict,
        out: &mut Out<Action>,
    ) {
        let Some(consent) = self.consent.as_ref().filter(|c| c.nonce == nonce) else { return };
        let (generation, sent) = (consent.generation, consent.first_sent);
        match verdict {
            ClaimVerdict::Granted if now.since(sent) < self.config.lease => {
                self.consent = None;
                self.consented = Some(generation);
                match self.stage {
                    Stage::Acquiring(_) => {
                        self.acquired(now, out);
                        self.lease.consented(sent);
                    }
                    Stage::Held if self.committing == Some(generation) => self.committed(out),
                    Stage::Held | Stage::Idle => {}
                }
            }
            // The consent is too old to count: the next repetition asks anew.
            ClaimVerdict::Granted => {}
            refused => {
                if let Stage::Acquiring(_) = self.stage {
                    let refusal = match refused {
                        ClaimVerdict::RefusedLineage => Refusal::PeerLineage,
                        ClaimVerdict::RefusedConfiguration => Refusal::PeerConfiguration,
                        _ => Refusal::PeerServing,
                    };
                    self.refuse(now, refusal, out);
                }
            }
        }
    }

    fn witness_answered(&mut self, now: Instant, reply: WitnessReply, out: &mut Out<Action>) {
        if self.config.kind != Kind::Lease {
            return;
        }
        let Some(sent) = self.lease.answered(reply.nonce, now) else { return };
        match (reply.verdict, &mut self.stage) {
            (WitnessVerdict::Granted { epoch, generation, in_sync }, Stage::Acquiring(_)) => {
                self.lease.granted(epoch, sent, generation, &in_sync);
                self.acquired(now, out);
            }
            (WitnessVerdict::Granted { epoch, generation, in_sync }, Stage::Held) => {
                self.lease.granted(epoch, sent, generation, &in_sync);
            }
            (WitnessVerdict::Granted { epoch, .. }, Stage::Idle) => {
                // Came too late to be of use: give it back.
                self.lease.granted(epoch, sent, None, &[]);
                self.release(now, out);
            }
            (WitnessVerdict::Committed { epoch }, Stage::Held) => {
                if let Some((generation, in_sync)) = self.lease.committed(reply.nonce, epoch)
                    && self.committing == Some(generation)
                    && in_sync == BTreeSet::from([self.config.node])
                {
                    self.committed(out);
                }
            }
            (WitnessVerdict::RefusedEpoch { .. }, Stage::Held) => self.lease.epoch_lost(),
            (WitnessVerdict::RefusedHeld { holder, remaining_ms }, Stage::Acquiring(attempt)) => {
                attempt.refusal = Refusal::Held(holder);
                self.lease.retry_after(now, Duration::from_millis(remaining_ms.into()));
            }
            (WitnessVerdict::RefusedNotInSync { .. }, Stage::Acquiring(attempt)) => {
                attempt.refusal = Refusal::NotInSync;
                if !self.peer_alive {
                    self.refuse(now, Refusal::NotInSync, out);
                }
            }
            (WitnessVerdict::RefusedStarting { remaining_ms }, _) => {
                self.lease.retry_after(now, Duration::from_millis(remaining_ms.into()));
            }
            _ => {}
        }
    }

    fn pinged(&mut self, now: Instant, reached: bool, out: &mut Out<Action>) {
        self.pinging = false;
        self.ping_next = Some(now + self.config.resend);
        if self.peer_alive {
            return;
        }
        match (&self.stage, reached) {
            (Stage::Acquiring(_), true) => self.acquired(now, out),
            (Stage::Acquiring(_), false) => self.refuse(now, Refusal::NoAnswer, out),
            (Stage::Held, true) => self.committed(out),
            (Stage::Held, false) if self.committing.is_some() => {
                self.idle();
                out.push(Action::Lost);
            }
            _ => {}
        }
    }

    fn commit_solo(&mut self, now: Instant, generation: Generation, out: &mut Out<Action>) {
        if !self.held() {
            return;
        }
        self.committing = Some(generation);
        self.lease.record(generation, BTreeSet::from([self.config.node]));
        if self.consented == Some(generation) {
            self.committed(out);
            self.pursue(now, out);
        } else {
            self.start_consent(now, generation, false, false, out);
        }
    }
}

impl Machine for Quorum {
    type Input = Input;
    type Action = Action;

    fn handle(&mut self, now: Instant, input: Input, out: &mut Out<Action>) {
        match input {
            Input::Acquire { generation, forced } => {
                if self.wanted() {
                    return;
                }
                let refusal =
                    if now < self.bound_until { Refusal::BootHold } else { Refusal::NoAnswer };
                self.stage = Stage::Acquiring(Attempt {
                    forced,
                    began: now,
                    until: now + self.config.attempt,
                    refusal,
                });
                self.start_consent(now, generation, true, forced, out);
            }
            Input::CommitSolo(generation) => self.commit_solo(now, generation, out),
            Input::RecordBoth(generation) => {
                let both = BTreeSet::from([self.config.node, self.config.peer]);
                self.lease.record(generation, both);
                self.consented = None;
                self.pursue(now, out);
            }
            Input::Unbound => self.bound_until = now,
            Input::Release => {
                self.idle();
                self.release(now, out);
            }
            Input::PeerAlive(alive) => {
                self.peer_alive = alive;
                self.pursue(now, out);
            }
            Input::PeerServing => {
                let bound = now + lengthened_by_drift(self.config.lease);
                self.bound_until = self.bound_until.max(bound);
            }
            Input::Backed(sent) => {
                let wrong = mutant::active(Mutant::BackingCountsFromHearing);
                if self.held() {
                    self.lease.backed(if wrong { now } else { sent });
                }
            }
            Input::ClaimAnswered { nonce, verdict } => {
                self.claim_answered(now, nonce, verdict, out);
            }
            Input::WitnessAnswered(reply) => self.witness_answered(now, reply, out),
            Input::Pinged(reached) => self.pinged(now, reached, out),
        }
    }

    fn handle_timeout(&mut self, now: Instant, out: &mut Out<Action>) {
        match &self.stage {
            Stage::Acquiring(attempt) if now >= attempt.until => {
                let refusal = attempt.refusal;
                return self.refuse(now, refusal, out);
            }
            Stage::Held if self.config.kind == Kind::Lease && now >= self.lease.fence_at() => {
                self.idle();
                self.release(now, out);
                out.push(Action::Lost);
                return;
            }
            _ => {}
        }
        self.pursue(now, out);
    }

    fn deadline(&self) -> Option<Instant> {
        let claim = self.consent.as_ref().filter(|_| self.peer_alive).map(|c| c.resend);
        let own = match &self.stage {
            Stage::Idle => return None,
            Stage::Acquiring(attempt) => Some(attempt.until),
            Stage::Held if self.config.kind == Kind::Lease => Some(self.lease.fence_at()),
            Stage::Held => None,
        };
        let arbiter = match (self.config.kind, &self.stage) {
            (Kind::Lease, Stage::Acquiring(attempt)) => {
                Some(self.lease.next_acquire().max(self.witness_from(attempt)))
            }
            (Kind::Lease, _) => Some(self.lease.next_held()),
            (Kind::Ping, _) if self.ping_due() => self.ping_next,
            _ => None,
        };
        earliest(earliest(claim, own), arbiter)
    }
}
