//! Counter-based randomness: every draw is a function of (seed, purpose, which, counter).
//!
//! A generator that is shared between purposes shifts all later draws when one fault is removed
//! from a plan, which ruins minimisation. Here the weather of link 2 at its 100th message is the
//! same whatever happens elsewhere (simulation.md section 2.3).

use havre_core::rng::mix;

/// What a draw is for. Two purposes never share draws.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Purpose {
    /// Latency of a disk operation.
    DiskLatency = 1,
    /// Whether a disk operation fails or goes astray.
    DiskFault = 2,
    /// What a power cut leaves of an unsynced write.
    DiskFate = 3,
    /// Which sectors of a torn write reached the medium.
    DiskTear = 4,
    /// Delay of a message.
    LinkDelay = 5,
    /// Loss of a message.
    LinkLoss = 6,
    /// Duplication of a message.
    LinkDuplicate = 7,
    /// Extra delay that makes a message overtake or be overtaken.
    LinkReorder = 8,
    /// Delay of a chunk of a stream.
    StreamDelay = 9,
    /// Duration of a script, of an address change, of a ping.
    Os = 10,
    /// Clock rate and offset of a host.
    Clock = 11,
    /// What the client writes, where and when.
    Load = 12,
    /// The faults of a plan.
    Plan = 13,
    /// Seed of a node's own generator.
    Node = 14,
    /// Choices of a fault at the moment at which it fires.
    Fault = 15,
}

/// A stream of draws for one purpose and one thing (a link, a disk, a host).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chance {
    key: u64,
}

impl Chance {
    /// The draws of `purpose` for the thing numbered `which`.
    pub const fn new(seed: u64, purpose: Purpose, which: u64) -> Self {
        let tagged = mix(seed ^ mix((purpose as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        Self { key: mix(tagged ^ mix(which.wrapping_add(0x51_7c_c1_b7_27_22_0a_95))) }
    }

    /// The draw with this number.
    pub const fn bits(self, counter: u64) -> u64 {
        mix(self.key.wrapping_add(counter.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }

    /// A number in `0..bound`; zero if `bound` is zero.
    pub const fn below(self, counter: u64, bound: u64) -> u64 {
        if bound == 0 {
            return 0;
        }
        ((self.bits(counter) as u128 * bound as u128) >> 64) as u64
    }

    /// A number in `low..=high`.
    pub const fn between(self, counter: u64, low: u64, high: u64) -> u64 {
        if high <= low {
            return low;
        }
        low + self.below(counter, high - low + 1)
    }

    /// True in `per_million` of a million draws.
    pub const fn hits(self, counter: u64, per_million: u32) -> bool {
        per_million > 0 && self.below(counter, 1_000_000) < per_million as u64
    }

    /// A sub-stream for the draw with this number.
    pub const fn child(self, counter: u64) -> Self {
        Self { key: mix(self.bits(counter) ^ 0xd1b5_4a32_d192_ed03) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draw_depends_on_nothing_but_its_own_numbers() {
        let link = Chance::new(7, Purpose::LinkLoss, 2);
        assert_eq!(link.bits(100), Chance::new(7, Purpose::LinkLoss, 2).bits(100));
        assert_ne!(link.bits(100), Chance::new(7, Purpose::LinkLoss, 3).bits(100));
        assert_ne!(link.bits(100), Chance::new(7, Purpose::LinkDelay, 2).bits(100));
        assert_ne!(link.bits(100), Chance::new(8, Purpose::LinkLoss, 2).bits(100));
    }

    #[test]
    fn a_rate_of_one_in_a_hundred_hits_about_one_in_a_hundred() {
        let loss = Chance::new(1, Purpose::LinkLoss, 0);
        let hits = (0..100_000).filter(|n| loss.hits(*n, 10_000)).count();
        assert!((800..1_200).contains(&hits), "{hits}");
    }
}
