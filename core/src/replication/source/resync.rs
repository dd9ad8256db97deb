//! Resynchronisation by passes, as in the live migration of virtual machines.
//!
//! While it runs nothing of the foreground is shipped: a pass compares and copies the marked
//! items, and what the application changes meanwhile is dirty for the next pass. When little
//! remains, the application is held for a moment, the last pass runs, the target makes everything
//! durable, and from then on every change is shipped. A copy can therefore never overwrite
//! something newer. If passes do not shrink, the application is slowed down step by step.
//!
//! ```text
//!   Gathering -> Copying -> (little is dirty) -> Draining -> Last -> Settling -> enlisted
//!                 ^    |                             |         |         |
//!                 |----|  (next pass)  <-------------|---------|---------|  held for too long
//! ```
//! Source: Clark et al., Live Migration of Virtual Machines, NSDI 2005, section 3 (pre-copy).

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use super::{Mode, ResyncInput, Source, SourceAction};
use crate::{
    effect::VolumeNews,
    ids::Seq,
    machine::{Out, earliest},
    mutant::{Mutant, active},
    replication::{
        intent::{BatchId, MarkId},
        stream::ToTarget,
    },
    status::Progress,
    time::Instant,
};

/// Items compared or copied at the same time.
const ITEMS_IN_FLIGHT_MAX: usize = 8;
/// Estimated time of the last pass, during which the application is held.
const HOLD_TARGET: Duration = Duration::from_millis(100);
/// Longest hold at the first attempt; it doubles with each attempt that was given up.
const HOLD_MAX: Duration = Duration::from_secs(1);
/// Attempts to hold the application after which it is held until the end.
const HOLDS_MAX: u32 = 6;
/// Items that are few enough for the last pass, whatever a slow network makes of them.
const ITEMS_FEW: usize = 2;
/// First delay per change when passes do not shrink, and the longest.
const THROTTLE_MIN: Duration = Duration::from_millis(1);
const THROTTLE_MAX: Duration = Duration::from_secs(1);
/// Period of progress news.
const PROGRESS_PERIOD: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The target's marks arrive and become durable here.
    Gathering { last: bool, batch: Option<BatchId> },
    /// A pass while the application writes.
    Copying,
    /// The application is held; changes already admitted come to their end.
    Draining { until: Option<Instant> },
    /// The last pass.
    Last { until: Option<Instant> },
    /// The target makes everything durable.
    Settling { until: Option<Instant>, seq: Seq },
}

/// The walk through the whole copy, for a full resynchronisation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Walk {
    None,
    Due { restart: bool },
    Asked,
    Ended,
}

#[derive(Debug, Clone)]
pub(super) struct Resync {
    /// It began while barriers were stalled, and they stay so.
    pub(super) stalled: bool,
    /// Items changed since their copy began.
    pub(super) dirty: BTreeSet<MarkId>,
    phase: Phase,
    walk: Walk,
    todo: VecDeque<MarkId>,
    copying: BTreeSet<MarkId>,
    pass: u32,
    pass_items: u64,
    pass_began: Instant,
    holds: u32,
    throttle: Duration,
    admit_at: Instant,
    copy_at: Instant,
    began: Instant,
    progress_at: Instant,
    items_done: u64,
    bytes_done: u64,
    bytes_copied: u64,
}

impl Resync {
    pub(super) fn new(now: Instant, stalled: bool) -> Self {
        Self {
            stalled,
            dirty: BTreeSet::new(),
            phase: Phase::Gathering { last: false, batch: None },
            walk: Walk::None,
            todo: VecDeque::new(),
            copying: BTreeSet::new(),
            pass: 0,
            pass_items: 0,
            pass_began: now,
            holds: 0,
            throttle: Duration::ZERO,
            admit_at: Instant::ZERO,
            copy_at: Instant::ZERO,
            began: now,
            progress_at: now + PROGRESS_PERIOD,
            items_done: 0,
            bytes_done: 0,
            bytes_copied: 0,
        }
    }

    /// Goes on only once this batch of marks is durable.
    pub(super) fn wait_for(&mut self, needed: Option<BatchId>) {
        if let Phase::Gathering { batch, .. } = &mut self.phase {
            *batch = (*batch).max(needed);
        }
    }

    /// Whether a change of the application must wait.
    pub(super) fn holds(&self, now: Instant) -> bool {
        self.is_holding() || now < self.admit_at
    }

    const fn is_holding(&self) -> bool {
        !matches!(self.phase, Phase::Gathering { .. } | Phase::Copying)
    }

    /// A change of the application was let through: the next one waits for its turn.
    pub(super) fn admitted(&mut self, now: Instant) {
        if !self.throttle.is_zero() {
            self.admit_at = now + self.throttle;
        }
    }

    pub(super) fn waits_for_target(&self) -> bool {
        match self.phase {
            Phase::Gathering { last, .. } => !last,
            Phase::Settling { .. } => true,
            Phase::Copying | Phase::Last { .. } => !self.copying.is_empty(),
            Phase::Draining { .. } => false,
        }
    }

    const fn hold_until(&self) -> Option<Instant> {
        match self.phase {
            Phase::Gathering { .. } | Phase::Copying => None,
            Phase::Draining { until } | Phase::Last { until } | Phase::Settling { until, .. } => {
                until
            }
        }
    }

    fn begin_pass(&mut self, now: Instant, items: impl IntoIterator<Item = MarkId>) {
        self.todo.extend(items.into_iter().filter(|item| *item != MarkId::EVERYTHING));
        self.pass += 1;
        self.pass_began = now;
        self.pass_items = self.todo.len() as u64;
    }

    /// Whether the application can be held for the rest.
    fn is_small(&self, now: Instant) -> bool {
        let rest = self.dirty.len();
        let per_item = now.since(self.pass_began) / (self.pass_items.max(1) as u32).max(1);
        rest <= ITEMS_FEW || per_item.saturating_mul(rest as u32) <= HOLD_TARGET
    }

    fn slow_down_unless_shrinking(&mut self) {
        if self.pass >= 2 && (self.dirty.len() as u64).saturating_mul(2) > self.pass_items {
            self.throttle = (self.throttle * 2).clamp(THROTTLE_MIN, THROTTLE_MAX);
        }
    }

    fn begin_hold(&mut self, now: Instant) {
        let limit = HOLD_MAX * 2u32.pow(self.holds.min(HOLDS_MAX));
        let until = (self.holds < HOLDS_MAX).then(|| now + limit);
        self.holds += 1;
        self.phase = Phase::Draining { until };
    }

    fn progress(&self, now: Instant, item_bytes_max: u64) -> Progress {
        let mean = self.bytes_done.checked_div(self.items_done).unwrap_or(item_bytes_max);
        let rest = (self.todo.len() + self.copying.len() + self.dirty.len()) as u64;
        Progress {
            bytes_total: self.bytes_done + rest * mean,
            bytes_done: self.bytes_done,
            bytes_copied: self.bytes_copied,
            elapsed: now.since(self.began),
        }
    }
}

impl Source {
    fn resync(&mut self) -> Option<&mut Resync> {
        match &mut self.mode {
            Mode::Resyncing(resync) => Some(resync),
            _ => None,
        }
    }

    pub(super) fn peer_marks(
        &mut self,
        now: Instant,
        marks: &[MarkId],
        last: bool,
        out: &mut Out<SourceAction>,
    ) {
        if !self.connected {
            return;
        }
        let gathering = matches!(
            &self.mode,
            Mode::Resyncing(resync) if matches!(resync.phase, Phase::Gathering { last: false, .. })
        );
        if !gathering {
            self.lose(now, "the other node sent marks out of turn".into(), out);
            return;
        }
        self.received_at = now;
        let mut needed = None;
        if !active(Mutant::TargetMarksIgnored) {
            for mark in marks {
                needed = needed.max(self.intent.add(*mark));
            }
        }
        if let Some(resync) = self.resync() {
            resync.wait_for(needed);
            if let Phase::Gathering { last: ended, .. } = &mut resync.phase {
                *ended = last;
            }
        }
        self.persist_marks(out);
    }

    pub(super) fn resync_input(
        &mut self,
        now: Instant,
        input: ResyncInput,
        out: &mut Out<SourceAction>,
    ) {
        // Reports of a resynchronisation that has ended meanwhile are stale.
        if !matches!(self.mode, Mode::Resyncing(_)) {
            return;
        }
        match input {
            ResyncInput::Step { item, bytes } => {
                let seq = self.allot(now, bytes);
                out.push(SourceAction::ShipItem { item, seq });
            }
            ResyncInput::Done { item, bytes_compared, bytes_copied } => {
                self.item_done(now, item, bytes_compared, bytes_copied);
            }
            ResyncInput::Failed { error } => {
                self.lose(now, format!("the local copy cannot be read: {error}"), out);
            }
            ResyncInput::Items { items, last } => {
                if let Some(resync) = self.resync() {
                    resync.pass_items += items.len() as u64;
                    resync.todo.extend(items);
                    resync.walk = if last { Walk::Ended } else { Walk::Due { restart: false } };
                }
            }
        }
    }

    fn item_done(&mut self, now: Instant, item: MarkId, compared: u64, copied: u64) {
        let last = self.window.last();
        let cap = self.config.resync_bytes_per_second_max.filter(|cap| *cap > 0);
        self.received_at = now;
        let Some(resync) = self.resync() else { return };
        if !resync.copying.remove(&item) {
            return;
        }
        resync.items_done += 1;
        resync.bytes_done += compared.max(copied);
        resync.bytes_copied += copied;
        if let Some(cap) = cap {
            let span = Duration::from_nanos(copied.saturating_mul(1_000_000_000) / cap);
            resync.copy_at = resync.copy_at.max(now) + span;
        }
        if !resync.dirty.contains(&item) {
            self.intent.copied(item, last);
        }
    }

    /// Takes every step that can be taken now.
    pub(super) fn advance_resync(&mut self, now: Instant, out: &mut Out<SourceAction>) {
        loop {
            let Mode::Resyncing(resync) = &self.mode else { return };
            let moved = match resync.phase {
                Phase::Gathering { last, batch } => {
                    last && batch <= Some(self.intent.durable_batch())
                        && self.start_passes(now, out)
                }
                Phase::Copying => self.copy_more(now, out) && self.end_pass(now, out),
                Phase::Draining { until } => self.admitted == 0 && self.start_last(now, until),
                Phase::Last { until } => self.copy_more(now, out) && self.settle(now, until, out),
                Phase::Settling { seq, .. } => {
                    self.window.durable() >= seq && self.enlist(now, out)
                }
            };
            if !moved {
                return;
            }
        }
    }

    fn start_passes(&mut self, now: Instant, out: &mut Out<SourceAction>) -> bool {
        out.push(SourceAction::Send(ToTarget::MarksHeld));
        let marks: Vec<MarkId> = self.intent.marks().collect();
        let everything = self.intent.everything();
        if let Some(resync) = self.resync() {
            resync.walk = if everything { Walk::Due { restart: true } } else { Walk::None };
            resync.phase = Phase::Copying;
            resync.begin_pass(now, marks);
        }
        true
    }

    /// Orders copies; returns whether the pass has come to its end.
    fn copy_more(&mut self, now: Instant, out: &mut Out<SourceAction>) -> bool {
        let Some(resync) = self.resync() else { return false };
        while resync.copying.len() < ITEMS_IN_FLIGHT_MAX && now >= resync.copy_at {
            let Some(item) = resync.todo.pop_front() else { break };
            // An item under copy would be reported once for two orders.
            if !resync.copying.insert(item) {
                resync.dirty.insert(item);
                continue;
            }
            // Everything applied so far will be read; what is applied later marks again.
            resync.dirty.remove(&item);
            out.push(SourceAction::CopyItem { item });
        }
        if !resync.todo.is_empty() {
            return false;
        }
        if let Walk::Due { restart } = resync.walk {
            resync.walk = Walk::Asked;
            out.push(SourceAction::Enumerate { restart });
        }
        resync.copying.is_empty() && matches!(resync.walk, Walk::None | Walk::Ended)
    }

    fn end_pass(&mut self, now: Instant, out: &mut Out<SourceAction>) -> bool {
        if active(Mutant::EnlistBeforeFinalPass) {
            return self.settle(now, None, out);
        }
        let everything = self.intent.everything();
        let Some(resync) = self.resync() else { return false };
        if everything && resync.walk == Walk::None {
            // So much was changed meanwhile that it is no longer counted mark by mark.
            resync.walk = Walk::Due { restart: true };
        } else if resync.is_small(now) {
            resync.begin_hold(now);
            return true;
        } else {
            resync.slow_down_unless_shrinking();
        }
        let dirty = std::mem::take(&mut resync.dirty);
        resync.begin_pass(now, dirty);
        true
    }

    fn start_last(&mut self, now: Instant, until: Option<Instant>) -> bool {
        if let Some(resync) = self.resync() {
            let dirty = std::mem::take(&mut resync.dirty);
            resync.begin_pass(now, dirty);
            resync.phase = Phase::Last { until };
        }
        true
    }

    fn settle(
        &mut self,
        now: Instant,
        until: Option<Instant>,
        out: &mut Out<SourceAction>,
    ) -> bool {
        let seq = self.ship_sync_point(now, out);
        if let Some(resync) = self.resync() {
            resync.phase = Phase::Settling { until, seq };
        }
        true
    }

    fn enlist(&mut self, now: Instant, out: &mut Out<SourceAction>) -> bool {
        let Some(resync) = self.resync() else { return false };
        let bytes_copied = resync.bytes_copied;
        self.mode = Mode::Enlisted;
        self.intent.settle(self.window.last());
        if let Some(admission) = &mut self.admission {
            admission.full = false;
        }
        self.announce_caught_up(now, bytes_copied, out);
        // Whatever waited was applied before the last pass, which the target holds.
        self.release_from_peer(out);
        self.pump(now, out);
        true
    }

    pub(super) fn resync_deadline(&self) -> Option<Instant> {
        let Mode::Resyncing(resync) = &self.mode else { return None };
        let copy = (!resync.todo.is_empty() && resync.copying.len() < ITEMS_IN_FLIGHT_MAX)
            .then_some(resync.copy_at);
        let admit = (!self.held.is_empty() && !resync.is_holding()).then_some(resync.admit_at);
        let hold = earliest(resync.hold_until(), Some(resync.progress_at));
        earliest(hold, earliest(copy, admit))
    }

    pub(super) fn resync_due(&mut self, now: Instant, out: &mut Out<SourceAction>) {
        let item_bytes_max = self.config.item_bytes_max;
        let Some(resync) = self.resync() else { return };
        if now >= resync.progress_at {
            resync.progress_at = now + PROGRESS_PERIOD;
            let progress = resync.progress(now, item_bytes_max);
            out.push(SourceAction::News(VolumeNews::Progress(progress)));
            out.push(SourceAction::Send(ToTarget::Progress(progress)));
        }
        if resync.hold_until().is_some_and(|until| until <= now) {
            // The rest goes on as a pass beside the application.
            resync.phase = Phase::Copying;
        }
        self.pump(now, out);
    }
}
