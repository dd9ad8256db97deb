//! Whether a sync may be made in line.
//!
//! Handing a sync to the disk ring costs two changes of thread, which take as long as a fast disk
//! does. So the loop makes it itself when it has nothing else to do and syncs are known to be
//! short; it looks again from time to time when they were long.

use std::time::Duration;

/// Longest usual sync that is made in line.
const SHORT: Duration = Duration::from_millis(1);
/// Syncs not made in line after which one is, to see how long it takes.
const PROBE_EVERY: u32 = 64;

/// What is known of the disk.
#[derive(Debug, Default)]
pub(super) struct Pace {
    usual: Duration,
    left_out: u32,
}

impl Pace {
    /// Whether the next sync may be made in line.
    pub(super) fn allows(&mut self) -> bool {
        if self.usual <= SHORT {
            return true;
        }
        self.left_out = (self.left_out + 1) % PROBE_EVERY;
        self.left_out == 0
    }

    /// Notes how long a sync in line took.
    pub(super) fn took(&mut self, time: Duration) {
        self.usual = (self.usual * 7 + time) / 8;
        if self.usual > SHORT && time < SHORT / 2 {
            self.usual = time;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_disk_is_looked_at_now_and_then_and_believed_when_it_is_fast_again() {
        let mut pace = Pace::default();
        assert!(pace.allows());
        pace.took(SHORT * 100);
        let allowed = (0..10 * PROBE_EVERY).filter(|_| pace.allows()).count();
        assert_eq!(allowed, 10, "one of {PROBE_EVERY}");
        pace.took(SHORT / 10);
        assert!(pace.allows() && pace.allows());
    }
}
