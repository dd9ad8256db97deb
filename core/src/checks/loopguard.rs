//! The loop guard: an application that fails again and again is stopped instead of being repaired
//! for ever.
//!
//! ```text
//!            detection, count <= maxloop: go on          count > maxloop: stop
//!   Counting ---------------------------------> Counting ----------------------> Stopped
//!      ^  window over, or an administrator acted             maxloop_retry: back-off |
//!      +-----------------------------------------------------------------------------+
//! ```
//! The count is durable before what it allows is done: whoever is restarted by a power cut in the
//! middle of a repair goes on counting. The window does not grow while the power is off.
//! Source: reference safekit.md sections 2.3 and 3.11.

use std::time::Duration;

use super::record::{ChecksRecord, LoopStatus};
use crate::{
    mutant::{self, Mutant},
    time::Instant,
};

/// Longest pause before a start by itself.
const RETRY_PAUSE_MAX: Duration = Duration::from_hours(24);

/// How patient the guard is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoopSettings {
    /// `maxloop`.
    pub max: u32,
    /// `loop_interval`; zero switches the guard off.
    pub interval: Duration,
    /// `maxloop_retry`.
    pub retry: Option<Duration>,
}

/// What follows from a detection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Repair.
    Go,
    /// Stop: it was repaired often enough.
    Exhausted,
}

/// The loop guard of one module.
#[derive(Debug, Clone)]
pub struct LoopGuard {
    settings: LoopSettings,
    count: u32,
    /// Age of the window at `since`.
    age: Duration,
    since: Instant,
    retries: u32,
    stopped: bool,
    retry_at: Option<Instant>,
}

impl LoopGuard {
    /// Goes on where the record ends. A stop by `maxloop` before a restart is retried from now.
    pub fn new(settings: LoopSettings, record: &ChecksRecord, now: Instant) -> Self {
        let mut guard = Self {
            settings,
            count: record.count,
            age: record.age,
            since: now,
            retries: record.retries,
            stopped: record.stopped,
            retry_at: None,
        };
        if guard.stopped {
            guard.retry_at = guard.pause().map(|pause| now + pause);
        }
        guard
    }

    /// Whether detections are counted at all.
    pub fn counts(&self) -> bool {
        !self.settings.interval.is_zero()
    }

    fn age(&self, now: Instant) -> Duration {
        self.age.saturating_add(now.since(self.since))
    }

    fn expire(&mut self, now: Instant) {
        if self.count > 0 && !self.stopped && self.age(now) >= self.settings.interval {
            self.count = 0;
            self.retries = 0;
        }
    }

    /// Counts one detection.
    pub fn detected(&mut self, now: Instant) -> Verdict {
        if !self.counts() {
            return Verdict::Go;
        }
        self.expire(now);
        if self.count == 0 {
            self.age = Duration::ZERO;
            self.since = now;
        }
        self.count = self.count.saturating_add(1);
        if self.count <= self.settings.max || mutant::active(Mutant::LoopForever) {
            return Verdict::Go;
        }
        self.stopped = true;
        self.retry_at = self.pause().map(|pause| now + pause);
        Verdict::Exhausted
    }

    /// Pause before the next start by itself: doubled each time.
    fn pause(&self) -> Option<Duration> {
        let first = self.settings.retry?;
        let factor = 1u32.checked_shl(self.retries.min(20)).unwrap_or(u32::MAX);
        Some(first.saturating_mul(factor).min(RETRY_PAUSE_MAX))
    }

    /// Counts one detection that somebody else acts on (`incloop`).
    pub fn increment(&mut self, now: Instant) {
        let (stopped, retry_at) = (self.stopped, self.retry_at);
        self.detected(now);
        (self.stopped, self.retry_at) = (stopped, retry_at);
    }

    /// An administrator acted: begins anew. Whether that changes anything.
    pub fn reset(&mut self) -> bool {
        let changed = self.count > 0 || self.stopped || self.retries > 0;
        (self.count, self.retries, self.stopped, self.retry_at) = (0, 0, false, None);
        changed
    }

    /// Whether the pause after a stop is over; then the guard begins anew, with a longer pause
    /// for the next time.
    pub fn retry(&mut self, now: Instant) -> bool {
        let due = self.retry_at.is_some_and(|at| now >= at);
        if due {
            (self.count, self.stopped, self.retry_at) = (0, false, None);
            self.retries = self.retries.saturating_add(1);
        }
        due
    }

    /// When time matters next.
    pub fn deadline(&self) -> Option<Instant> {
        self.retry_at
    }

    /// What must be durable.
    pub fn save(&self, now: Instant, record: &mut ChecksRecord) {
        record.count = self.count;
        record.age = if self.count == 0 { Duration::ZERO } else { self.age(now) };
        record.retries = self.retries;
        record.stopped = self.stopped;
    }

    /// The picture.
    pub fn status(&self, now: Instant) -> LoopStatus {
        let open = self.counts() && self.count > 0 && self.age(now) < self.settings.interval;
        let count = if open || self.stopped { self.count } else { 0 };
        LoopStatus {
            count,
            max: self.settings.max,
            reached: self.counts() && count > self.settings.max,
            until: open.then(|| now + (self.settings.interval - self.age(now))),
            retry_at: self.retry_at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    fn settings(retry: Option<Duration>) -> LoopSettings {
        LoopSettings { max: 3, interval: HOUR * 24, retry }
    }

    fn at(minutes: u64) -> Instant {
        Instant::ZERO + Duration::from_mins(minutes)
    }

    fn fresh(retry: Option<Duration>) -> LoopGuard {
        LoopGuard::new(settings(retry), &ChecksRecord::default(), Instant::ZERO)
    }

    #[test]
    fn the_fourth_detection_within_the_window_stops() {
        let mut guard = fresh(None);
        let verdicts = [1, 2, 3, 4].map(|minute| guard.detected(at(minute)));
        assert_eq!(verdicts, [Verdict::Go, Verdict::Go, Verdict::Go, Verdict::Exhausted]);
        assert!(guard.status(at(4)).reached);
        assert_eq!(guard.deadline(), None, "it stays stopped");
    }

    #[test]
    fn the_window_begins_with_the_first_detection_and_ends_the_count() {
        let mut guard = fresh(None);
        for minute in [0, 1, 2] {
            guard.detected(at(minute));
        }
        assert_eq!(guard.status(at(60 * 24 - 1)).count, 3);
        assert_eq!(guard.status(at(60 * 24)).count, 0);
        assert_eq!(guard.detected(at(60 * 24)), Verdict::Go);
        assert_eq!(guard.status(at(60 * 24)).count, 1);
    }

    #[test]
    fn a_power_cut_does_not_reset_the_count() {
        let mut guard = fresh(None);
        let mut record = ChecksRecord::default();
        for minute in [10, 20, 30] {
            guard.detected(at(minute));
            guard.save(at(minute), &mut record);
        }
        assert_eq!((record.count, record.age), (3, Duration::from_mins(20)));
        let mut guard = LoopGuard::new(settings(None), &record, at(1));
        assert_eq!(guard.detected(at(2)), Verdict::Exhausted);
    }

    #[test]
    fn an_administrator_resets_the_count() {
        let mut guard = fresh(None);
        for minute in [1, 2, 3, 4] {
            guard.detected(at(minute));
        }
        assert!(guard.reset());
        assert!(!guard.reset(), "there is nothing more to reset");
        assert_eq!(guard.detected(at(5)), Verdict::Go);
    }

    #[test]
    fn retries_wait_longer_each_time_and_survive_a_restart() {
        let pause = Duration::from_mins(5);
        let mut guard = fresh(Some(pause));
        let mut now = Instant::ZERO;
        for expected in [5, 10, 20, 40] {
            while guard.detected(now) == Verdict::Go {
                now += Duration::from_secs(1);
            }
            let due = now + Duration::from_mins(expected);
            assert_eq!(guard.deadline(), Some(due));
            assert!(!guard.retry(due.before(Duration::from_nanos(1))));
            let mut record = ChecksRecord::default();
            guard.save(now, &mut record);
            let again = LoopGuard::new(settings(Some(pause)), &record, at(1));
            assert_eq!(again.deadline(), Some(at(1 + expected)), "counted from the restart");
            now = due;
            assert!(guard.retry(now));
        }
    }

    #[test]
    fn a_window_of_zero_switches_the_guard_off() {
        let none = LoopSettings { max: 0, interval: Duration::ZERO, retry: None };
        let mut guard = LoopGuard::new(none, &ChecksRecord::default(), Instant::ZERO);
        assert!((0..100).all(|minute| guard.detected(at(minute)) == Verdict::Go));
    }

    #[test]
    fn counting_for_a_handler_does_not_stop_by_itself() {
        let mut guard = fresh(Some(HOUR));
        for minute in 0..4 {
            guard.increment(at(minute));
        }
        assert!(guard.status(at(4)).reached);
        assert_eq!(guard.deadline(), None);
    }
}
