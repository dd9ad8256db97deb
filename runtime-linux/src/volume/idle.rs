//! When a loop with nothing to do goes to sleep.
//!
//! Being woken takes 5 to 20 microseconds and more, so a loop looks around for a moment before it
//! sleeps: for a short one always, for a longer one while what comes next usually comes within it,
//! as the next request of an application does that waits for each.

use std::time::Duration;

use havre_core::time::Instant;

/// How long a loop always looks around.
const SHORT: Duration = Duration::from_micros(15);
/// How long it looks around while something usually comes within that time.
const LONG: Duration = Duration::from_micros(80);
/// Longest pause that counts.
const PAUSE_MAX: Duration = Duration::from_micros(400);

/// What is known of the pauses of a loop.
#[derive(Debug, Default)]
pub(super) struct Idle {
    since: Option<Instant>,
    usual: Duration,
}

impl Idle {
    /// Something was done.
    pub(super) fn active(&mut self, now: Instant) {
        if let Some(since) = self.since.take() {
            self.usual = (self.usual * 3 + now.since(since).min(PAUSE_MAX)) / 4;
        }
    }

    /// Nothing was to be done; says whether to sleep.
    pub(super) fn rests(&mut self, now: Instant) -> bool {
        let since = *self.since.get_or_insert(now);
        now.since(since) >= if self.usual < LONG { LONG } else { SHORT }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(micros: u64) -> Instant {
        Instant::ZERO + Duration::from_micros(micros)
    }

    /// Lets pauses of so many microseconds pass, and says after how long the loop would sleep.
    fn patience(idle: &mut Idle, pause: u64) -> u64 {
        for turn in 0..20 {
            assert!(!idle.rests(at(turn * pause)), "it looks around first");
            idle.active(at((turn + 1) * pause));
        }
        let start = 1_000_000;
        let slept = (0..1000).find(|micros| idle.rests(at(start + micros)));
        idle.active(at(start));
        slept.expect("it sleeps at last")
    }

    #[test]
    fn a_loop_is_patient_only_while_patience_pays() {
        let mut idle = Idle::default();
        assert_eq!(patience(&mut idle, 30), 80);
        assert_eq!(patience(&mut idle, 5_000), 15);
        assert_eq!(patience(&mut idle, 30), 80);
    }
}
