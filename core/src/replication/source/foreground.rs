//! The application's requests: admitted, applied, shipped, completed.

use super::{
    Applied, Change, ChangeKind, Health, Mode, Open, Source, SourceAction, Stage, TICKETS_MAX,
    Ticket, Verdict,
};
use crate::{
    config::module::{Contract, WriteMode},
    ids::Seq,
    machine::Out,
    mutant::{Mutant, active},
    replication::intent::BatchId,
    time::Instant,
};

impl Source {
    pub(super) fn submit(
        &mut self,
        now: Instant,
        ticket: Ticket,
        change: Change,
        out: &mut Out<SourceAction>,
    ) {
        let index = ticket.0 as usize;
        assert!(ticket.0 < TICKETS_MAX, "tickets are small numbers");
        if index >= self.tickets.len() {
            self.tickets.resize(index + 1, None);
        }
        assert!(self.tickets[index].is_none(), "a ticket is free when it is submitted");
        if !self.is_sound() || self.closing.is_some() {
            let verdict = if self.is_sound() { Verdict::Fenced } else { self.health.verdict() };
            out.push(SourceAction::Complete { ticket, verdict });
            return;
        }
        self.open += 1;
        let barrier = change.kind == ChangeKind::Barrier;
        let held = !barrier && (!self.held.is_empty() || self.must_hold(now, change.bytes));
        self.tickets[index] = Some(Open { change, stage: Stage::Held, reserved: false });
        if barrier {
            self.begin_barrier(now, ticket, out);
        } else if held {
            self.held.push_back(ticket);
        } else {
            self.admit(now, ticket, out);
        }
    }

    fn is_sound(&self) -> bool {
        self.health == Health::Sound
            || (active(Mutant::FenceIgnored) && self.health == Health::Fenced)
    }

    /// Whether changes are put into the stream, and barriers wait for the target.
    pub const fn ships(&self) -> bool {
        matches!(self.mode, Mode::Enlisted | Mode::Orphaned)
    }

    fn barriers_wait(&self) -> bool {
        match &self.mode {
            Mode::Solo => false,
            Mode::Enlisted => true,
            Mode::Resyncing(resync) => resync.stalled,
            Mode::Orphaned => !active(Mutant::CompleteBarrierWhileOrphaned),
        }
    }

    fn must_hold(&self, now: Instant, bytes: u32) -> bool {
        match &self.mode {
            Mode::Solo => false,
            Mode::Resyncing(resync) => resync.holds(now),
            Mode::Enlisted | Mode::Orphaned => !self.window.has_room(bytes),
        }
    }

    fn slot(&mut self, ticket: Ticket) -> &mut Open {
        self.tickets[ticket.0 as usize].as_mut().expect("the ticket is open")
    }

    fn admit(&mut self, now: Instant, ticket: Ticket, out: &mut Out<SourceAction>) {
        let change = self.slot(ticket).change;
        let ships = self.ships();
        let settled = ships.then(|| self.window.last());
        let mut batch: Option<BatchId> = None;
        for mark in change.marks.as_slice() {
            batch = batch.max(self.intent.touch(*mark, settled));
        }
        self.admitted += 1;
        if ships {
            self.window.reserve(change.bytes);
        }
        if let Mode::Resyncing(resync) = &mut self.mode {
            resync.admitted(now);
        }
        let waits = batch.is_some() && !active(Mutant::MarkNotAwaited);
        let open = self.slot(ticket);
        open.reserved = ships;
        open.stage = if waits { Stage::Marking } else { Stage::Applying };
        if let (Some(batch), true) = (batch, waits) {
            self.marking.push_back((batch, ticket));
        } else {
            out.push(SourceAction::Apply { ticket });
        }
        if batch.is_some() {
            self.persist_marks(out);
        }
    }

    pub(super) fn persist_marks(&mut self, out: &mut Out<SourceAction>) {
        if let Some((batch, marks)) = self.intent.take_batch() {
            out.push(SourceAction::PersistMarks { batch, marks });
        }
    }

    pub(super) fn marks_persisted(
        &mut self,
        now: Instant,
        batch: BatchId,
        result: Result<(), String>,
        out: &mut Out<SourceAction>,
    ) {
        if let Err(error) = result {
            self.poison(format!("the mark log cannot be written: {error}"), out);
            return;
        }
        self.intent.durable(batch);
        // A change under marks of this batch does not wait behind one of the next batch, or later
        // changes under the same marks would overtake it.
        for _ in 0..self.marking.len() {
            let Some((waits_for, ticket)) = self.marking.pop_front() else { break };
            if waits_for > batch {
                self.marking.push_back((waits_for, ticket));
                continue;
            }
            self.slot(ticket).stage = Stage::Applying;
            out.push(SourceAction::Apply { ticket });
        }
        self.persist_marks(out);
        self.pump(now, out);
    }

    pub(super) fn applied(
        &mut self,
        now: Instant,
        ticket: Ticket,
        applied: Applied,
        out: &mut Out<SourceAction>,
    ) {
        let open = *self.slot(ticket);
        assert_eq!(open.stage, Stage::Applying, "a change is applied once");
        self.admitted -= 1;
        if open.reserved {
            self.window.unreserve(open.change.bytes);
        }
        if applied == Applied::Refused {
            for mark in open.change.marks.as_slice() {
                self.intent.unchanged(*mark);
            }
            let verdict = self.fenced_verdict();
            self.complete(ticket, verdict, out);
            // Its room in the window is free, and nobody else may be there to give some back.
            self.pump(now, out);
            return;
        }
        let synced = open.change.kind == ChangeKind::ChangeAndBarrier;
        let ships = self.ships() && applied == Applied::Changed;
        let seq = ships.then(|| self.allot(now, open.change.bytes));
        if let Some(seq) = seq {
            let early = open.change.kind == ChangeKind::ChangeBeforeBarrier;
            let sync = (synced || early) && self.config.contract == Contract::Durable;
            if sync {
                self.sync_shipped = seq;
            }
            out.push(SourceAction::Ship { ticket, seq, sync });
        }
        for mark in open.change.marks.as_slice() {
            self.intent.applied(*mark, seq);
            if let Mode::Resyncing(resync) = &mut self.mode {
                resync.dirty.insert(*mark);
            }
        }
        if !self.is_sound() || applied == Applied::Unsure {
            let verdict = self.fenced_verdict();
            self.complete(ticket, verdict, out);
            self.pump(now, out);
        } else if synced {
            self.wait_for_barrier(ticket, seq.unwrap_or(self.window.last()), out);
        } else if let (Some(seq), WriteMode::Through) = (seq, self.config.mode) {
            self.slot(ticket).stage = Stage::Waiting { flushed: true, peer: false };
            self.awaiting_receipt.push_back((seq, ticket));
        } else {
            self.complete(ticket, Verdict::AsApplied, out);
        }
    }

    fn fenced_verdict(&self) -> Verdict {
        if self.is_sound() { Verdict::AsApplied } else { self.health.verdict() }
    }

    fn begin_barrier(&mut self, now: Instant, ticket: Ticket, out: &mut Out<SourceAction>) {
        let upto = if self.ships() && self.config.contract == Contract::Durable {
            self.ship_sync_point(now, out)
        } else {
            self.window.last()
        };
        self.wait_for_barrier(ticket, upto, out);
    }

    fn wait_for_barrier(&mut self, ticket: Ticket, upto: Seq, out: &mut Out<SourceAction>) {
        let held_by_peer = match self.config.contract {
            Contract::Received => self.window.received(),
            Contract::Durable => self.window.durable(),
        };
        let enlisted = matches!(self.mode, Mode::Enlisted);
        // Without a connection even what the target holds is not enough: it may have been
        // told to take over.
        let peer = !self.barriers_wait()
            || (enlisted && held_by_peer >= upto)
            || active(Mutant::AckBeforeReceipt);
        self.slot(ticket).stage = Stage::Waiting { flushed: false, peer };
        if !peer {
            match self.config.contract {
                Contract::Received => self.awaiting_receipt.push_back((upto, ticket)),
                Contract::Durable => self.awaiting_durable.push_back((upto, ticket)),
            }
        }
        out.push(SourceAction::Flush { ticket });
    }

    pub(super) fn flushed(&mut self, ticket: Ticket, ok: bool, out: &mut Out<SourceAction>) {
        if !ok {
            self.poison("the local disk could not make a barrier durable".into(), out);
        }
        let Stage::Waiting { flushed: false, peer } = self.slot(ticket).stage else {
            unreachable!("a barrier is flushed once");
        };
        if !self.is_sound() {
            let verdict = self.health.verdict();
            self.complete(ticket, verdict, out);
        } else if peer {
            self.complete(ticket, Verdict::AsApplied, out);
        } else {
            self.slot(ticket).stage = Stage::Waiting { flushed: true, peer };
        }
    }

    /// Completes what waited for the target and no longer does, in the order of the log.
    pub(super) fn release_acknowledged(&mut self, out: &mut Out<SourceAction>) {
        let (received, durable) = (self.window.received(), self.window.durable());
        while let Some((seq, ticket)) = self.awaiting_receipt.front().copied() {
            if seq > received {
                break;
            }
            self.awaiting_receipt.pop_front();
            self.peer_has(ticket, out);
        }
        while let Some((seq, ticket)) = self.awaiting_durable.front().copied() {
            if seq > durable {
                break;
            }
            self.awaiting_durable.pop_front();
            self.peer_has(ticket, out);
        }
    }

    /// Completes what waited for the target, because it need not wait any more.
    pub(super) fn release_from_peer(&mut self, out: &mut Out<SourceAction>) {
        while let Some((_, ticket)) = self.awaiting_receipt.pop_front() {
            self.peer_has(ticket, out);
        }
        while let Some((_, ticket)) = self.awaiting_durable.pop_front() {
            self.peer_has(ticket, out);
        }
    }

    fn peer_has(&mut self, ticket: Ticket, out: &mut Out<SourceAction>) {
        let Stage::Waiting { flushed, peer: false } = self.slot(ticket).stage else {
            unreachable!("whoever waits for the target is waiting");
        };
        if flushed {
            let verdict = self.fenced_verdict();
            self.complete(ticket, verdict, out);
        } else {
            self.slot(ticket).stage = Stage::Waiting { flushed, peer: true };
        }
    }

    fn complete(&mut self, ticket: Ticket, verdict: Verdict, out: &mut Out<SourceAction>) {
        self.tickets[ticket.0 as usize] = None;
        self.open -= 1;
        out.push(SourceAction::Complete { ticket, verdict });
    }

    /// Admits held changes as far as they may go on.
    pub(super) fn pump(&mut self, now: Instant, out: &mut Out<SourceAction>) {
        while let Some(ticket) = self.held.front().copied() {
            let bytes = self.slot(ticket).change.bytes;
            if self.must_hold(now, bytes) {
                break;
            }
            self.held.pop_front();
            self.admit(now, ticket, out);
        }
    }

    pub(super) fn fail_held(&mut self, verdict: Verdict, out: &mut Out<SourceAction>) {
        while let Some(ticket) = self.held.pop_front() {
            self.complete(ticket, verdict, out);
        }
    }

    /// Fails whatever does not wait for an order to be carried out; the rest fails when that is
    /// reported.
    pub(super) fn fail_waiting(&mut self, out: &mut Out<SourceAction>) {
        let verdict = if self.is_sound() { Verdict::Fenced } else { self.health.verdict() };
        self.fail_held(verdict, out);
        while let Some((_, ticket)) = self.marking.pop_front() {
            let open = *self.slot(ticket);
            self.admitted -= 1;
            if open.reserved {
                self.window.unreserve(open.change.bytes);
            }
            for mark in open.change.marks.as_slice() {
                self.intent.unchanged(*mark);
            }
            self.complete(ticket, verdict, out);
        }
        let mut waiting = std::mem::take(&mut self.awaiting_receipt);
        waiting.append(&mut self.awaiting_durable);
        for (_, ticket) in waiting {
            if let Stage::Waiting { flushed: true, .. } = self.slot(ticket).stage {
                self.complete(ticket, verdict, out);
            } else {
                self.slot(ticket).stage = Stage::Waiting { flushed: false, peer: true };
            }
        }
    }
}
