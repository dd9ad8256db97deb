//! What the filter counts: packets by group and verdict, one array per processor.

use crate::layout::GROUPS_MAX;

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Counter {
    /// Passed to this node's own stack, because the bucket is its own.
    Accepted,
    /// Dropped, because the bucket is another node's, which sees the packet too.
    Foreign,
    /// Sent on to the owner of the bucket.
    Forwarded,
    /// Passed although the bucket is another node's: a connection that this node holds.
    Kept,
    /// Sent on to a node that may hold the connection, although the bucket is this node's.
    Relayed,
    /// No rule matches, or no header could be read: dropped.
    Denied,
    /// A new connection after the table's time had passed: dropped.
    Expired,
    /// Nobody owns the bucket: dropped.
    Unowned,
    /// Came from a member that had already forwarded it, and does not belong here: dropped.
    Looped,
    /// A later fragment whose first one was not seen: dropped.
    Fragment,
    /// A question for the virtual address's Ethernet address, answered here.
    Answered,
    /// Such a question, left to another node.
    Unanswered,
}

/// Counters per group, rounded up to a power of two.
pub const COUNTERS: usize = 16;
/// Group under which everything is counted that no rule assigns to a group.
pub const NO_GROUP: u8 = GROUPS_MAX as u8;
/// Length of the array of counters.
pub const COUNTERS_TOTAL: usize = (GROUPS_MAX + 1) * COUNTERS;

impl Counter {
    /// Every counter, in the order of the array.
    pub const ALL: [Self; 12] = [
        Self::Accepted,
        Self::Foreign,
        Self::Forwarded,
        Self::Kept,
        Self::Relayed,
        Self::Denied,
        Self::Expired,
        Self::Unowned,
        Self::Looped,
        Self::Fragment,
        Self::Answered,
        Self::Unanswered,
    ];

    /// Place of this counter of a group in the array.
    #[inline(always)]
    pub const fn index(self, group: u8) -> u32 {
        group as u32 * COUNTERS as u32 + self as u32
    }

    /// The word shown to people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Foreign => "foreign",
            Self::Forwarded => "forwarded",
            Self::Kept => "kept",
            Self::Relayed => "relayed",
            Self::Denied => "denied",
            Self::Expired => "expired",
            Self::Unowned => "unowned",
            Self::Looped => "looped",
            Self::Fragment => "fragment",
            Self::Answered => "answered",
            Self::Unanswered => "unanswered",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_of_every_group_has_a_place_of_its_own() {
        let mut seen = std::collections::BTreeSet::new();
        for group in 0..=NO_GROUP {
            for counter in Counter::ALL {
                assert!(seen.insert(counter.index(group)), "{} of {group}", counter.name());
            }
        }
        assert!(seen.iter().all(|index| (*index as usize) < COUNTERS_TOTAL));
    }
}
