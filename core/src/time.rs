//! Time as the core sees it: nanoseconds since this node booted, suspend included.

use std::{
    fmt,
    ops::{Add, AddAssign, Sub},
    time::Duration,
};

use serde::{Deserialize, Serialize};

/// A moment on one node's own clock, in nanoseconds since that node booted (suspend included).
///
/// Moments of two nodes must never be compared: their clocks start and run apart.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Instant(u64);

impl Instant {
    /// The moment of boot.
    pub const ZERO: Self = Self(0);
    /// A moment that never comes.
    pub const FAR_FUTURE: Self = Self(u64::MAX);

    /// Makes a moment from nanoseconds since boot.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Makes a moment from milliseconds since boot.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis * 1_000_000)
    }

    /// Nanoseconds since boot.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Time since `earlier`; zero if `earlier` is later than this moment.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// This moment moved back by `span`, not before boot.
    pub fn before(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(nanos(span)))
    }
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

impl Add<Duration> for Instant {
    type Output = Self;
    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(nanos(span)))
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, span: Duration) {
        *self = *self + span;
    }
}

impl Sub for Instant {
    type Output = Duration;
    fn sub(self, earlier: Self) -> Duration {
        self.since(earlier)
    }
}

impl fmt::Display for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}s", self.0 / 1_000_000_000, self.0 / 1_000 % 1_000_000)
    }
}

/// Shortens `span` so that it ends no later than intended on a clock that runs up to
/// [`DRIFT_PER_MILLE_MAX`] slow against the granting clock.
pub fn shortened_by_drift(span: Duration) -> Duration {
    span - span / 1_000 * DRIFT_PER_MILLE_MAX
}

/// Lengthens `span` so that it ends no earlier than intended on a clock that runs up to
/// [`DRIFT_PER_MILLE_MAX`] fast against the other party's.
pub fn lengthened_by_drift(span: Duration) -> Duration {
    span + span / 1_000 * DRIFT_PER_MILLE_MAX
}

/// Largest difference in rate between any two clocks of a cluster that leases tolerate: 2 %, so
/// that two clocks that are each up to 1 % off a true clock stay covered.
pub const DRIFT_PER_MILLE_MAX: u32 = 20;
