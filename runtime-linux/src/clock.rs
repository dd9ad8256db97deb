//! The node's clock: `CLOCK_BOOTTIME`, which goes on during suspend and while a virtual machine
//! is paused by its host's suspend, so that a node that slept notices how old its news is.
//!
//! Source: clock_gettime(2).

use havre_core::time::Instant;
use rustix::time::{ClockId, clock_gettime};

/// The present moment.
pub fn now() -> Instant {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).expect("the time since boot is not negative");
    let nanos = u64::try_from(time.tv_nsec).expect("nanoseconds are below 1e9");
    Instant::from_nanos(seconds * 1_000_000_000 + nanos)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_clock_advances_by_what_was_slept() {
        let before = now();
        std::thread::sleep(Duration::from_millis(5));
        let elapsed = now() - before;
        assert!(elapsed >= Duration::from_millis(5), "only {elapsed:?} passed");
        assert!(elapsed < Duration::from_secs(5), "{elapsed:?} passed");
    }
}
