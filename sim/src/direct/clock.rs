//! A host's own clock: `local = f(true time)`, with a rate that may differ from 1.

use havre_core::time::Instant;

use crate::time::SimTime;

/// The clock of one host since its boot.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    anchor: SimTime,
    anchor_local_ns: u64,
    ppm: i32,
}

impl Clock {
    /// A clock that shows `offset_ns` at `now` and runs `ppm` millionths fast.
    pub(super) const fn new(now: SimTime, offset_ns: u64, ppm: i32) -> Self {
        Self { anchor: now, anchor_local_ns: offset_ns, ppm }
    }

    fn rate(&self) -> u128 {
        u128::try_from(1_000_000 + i64::from(self.ppm)).expect("a clock runs forward")
    }

    /// What it shows at `now`.
    pub(super) fn local(&self, now: SimTime) -> Instant {
        let elapsed = u128::from(now.as_micros() - self.anchor.as_micros()) * self.rate();
        Instant::from_nanos(self.anchor_local_ns + (elapsed / 1_000) as u64)
    }

    /// The first moment at which it shows `local` or later.
    pub(super) fn when(&self, local: Instant) -> SimTime {
        let wanted = local.as_nanos().saturating_sub(self.anchor_local_ns);
        // Beyond 500,000 years: never.
        let wanted = u128::from(wanted.min(u64::MAX / 2_000)) * 1_000;
        self.anchor.plus_micros(wanted.div_ceil(self.rate()) as u64)
    }

    /// Changes the rate from `now` on.
    pub(super) fn set_rate(&mut self, now: SimTime, ppm: i32) {
        let shown = self.local(now).as_nanos();
        *self = Self::new(now, shown, ppm);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_on_a_drifting_clock_is_never_met_early() {
        for ppm in [-10_000, -7, 0, 13, 10_000] {
            let clock = Clock::new(SimTime::from_micros(17), 5_000_000_123, ppm);
            for ns in (0..5_000_000_000_u64).step_by(333_333_331) {
                let deadline = Instant::from_nanos(5_000_000_123 + ns);
                let at = clock.when(deadline);
                assert!(clock.local(at) >= deadline, "{ppm} {ns}");
                if at > SimTime::from_micros(17) {
                    let before = SimTime::from_micros(at.as_micros() - 1);
                    assert!(clock.local(before) < deadline, "{ppm} {ns}");
                }
            }
        }
    }

    #[test]
    fn a_change_of_rate_does_not_make_the_clock_jump() {
        let mut clock = Clock::new(SimTime::ZERO, 0, 10_000);
        let now = SimTime::from_secs(100);
        let before = clock.local(now);
        clock.set_rate(now, -10_000);
        assert_eq!(clock.local(now), before);
    }
}
