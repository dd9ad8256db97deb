//! Which counters of a sender were heard already (RFC 4303, section 3.4.3).

/// Counters below the highest that are still told apart.
pub(crate) const WINDOW_COUNTERS: u64 = 1024;

const WORDS: usize = (WINDOW_COUNTERS / 64) as usize;

/// A sliding window of counters.
#[derive(Debug, Clone)]
pub(super) struct Window {
    highest: u64,
    /// Bit `counter % WINDOW_COUNTERS`, meaningful for the last `WINDOW_COUNTERS` counters.
    heard: [u64; WORDS],
}

impl Window {
    /// Makes a window in which `counter` was just heard, and any earlier one may still come.
    pub(super) fn starting_at(counter: u64) -> Self {
        let mut window = Self { highest: counter, heard: [0; WORDS] };
        window.set(counter);
        window
    }

    /// Notes a counter; false if it was heard before or is too old to tell.
    pub(super) fn note(&mut self, counter: u64) -> bool {
        if counter > self.highest {
            let first = (self.highest + 1).max(counter.saturating_sub(WINDOW_COUNTERS - 1));
            for skipped in first..=counter {
                self.clear(skipped);
            }
            self.highest = counter;
        } else if self.highest - counter >= WINDOW_COUNTERS || self.is_set(counter) {
            return false;
        }
        self.set(counter);
        true
    }

    fn place(counter: u64) -> (usize, u64) {
        let bit = counter % WINDOW_COUNTERS;
        ((bit / 64) as usize, 1 << (bit % 64))
    }

    fn set(&mut self, counter: u64) {
        let (word, bit) = Self::place(counter);
        self.heard[word] |= bit;
    }

    fn clear(&mut self, counter: u64) {
        let (word, bit) = Self::place(counter);
        self.heard[word] &= !bit;
    }

    fn is_set(&self, counter: u64) -> bool {
        let (word, bit) = Self::place(counter);
        self.heard[word] & bit != 0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_counter_is_accepted_once_and_never_when_too_old(
            counters in prop::collection::vec(0u64..5_000, 1..300),
        ) {
            let mut window = Window::starting_at(counters[0]);
            let mut heard = BTreeSet::from([counters[0]]);
            let mut highest = counters[0];
            for &counter in &counters[1..] {
                let too_old = highest.saturating_sub(counter) >= WINDOW_COUNTERS;
                let expected = !too_old && !heard.contains(&counter);
                prop_assert_eq!(window.note(counter), expected);
                heard.insert(counter);
                highest = highest.max(counter);
            }
        }
    }

    #[test]
    fn the_largest_counter_is_survived() {
        let mut window = Window::starting_at(1);
        assert!(window.note(u64::MAX));
        assert!(!window.note(u64::MAX));
        assert!(!window.note(1));
    }
}
