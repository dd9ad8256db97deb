//! Sets of members and of buckets, as small as they travel.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::BUCKETS;

/// A member of a farm: its position among the module's nodes, which is the same on all of them.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Slot(pub u8);

/// Most members of a farm: as many as nodes of a cluster.
pub const MEMBERS_MAX: usize = 64;

/// A set of members.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct MemberSet(pub u64);

impl MemberSet {
    /// Nobody.
    pub const EMPTY: Self = Self(0);

    /// One member.
    pub const fn only(slot: Slot) -> Self {
        Self(1 << (slot.0 as u32 % u64::BITS))
    }

    /// Whether nobody is in it.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many are in it.
    pub const fn len(self) -> u32 {
        self.0.count_ones()
    }

    /// Whether a member is in it.
    pub const fn contains(self, slot: Slot) -> bool {
        self.0 & Self::only(slot).0 != 0
    }

    /// With one more member.
    #[must_use]
    pub const fn with(self, slot: Slot) -> Self {
        Self(self.0 | Self::only(slot).0)
    }

    /// Without a member.
    #[must_use]
    pub const fn without(self, slot: Slot) -> Self {
        Self(self.0 & !Self::only(slot).0)
    }

    /// Without these members.
    #[must_use]
    pub const fn minus(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }

    /// With these members.
    #[must_use]
    pub const fn union(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    /// Those also among these members.
    #[must_use]
    pub const fn intersection(self, others: Self) -> Self {
        Self(self.0 & others.0)
    }

    /// The members, in order.
    pub fn iter(self) -> impl Iterator<Item = Slot> {
        (0..MEMBERS_MAX as u8).map(Slot).filter(move |slot| self.contains(*slot))
    }
}

impl FromIterator<Slot> for MemberSet {
    fn from_iter<I: IntoIterator<Item = Slot>>(slots: I) -> Self {
        slots.into_iter().fold(Self::EMPTY, Self::with)
    }
}

impl fmt::Debug for MemberSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(|slot| slot.0)).finish()
    }
}

/// A set of buckets of one group.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct BucketSet([u64; 4]);

impl BucketSet {
    /// No bucket.
    pub const EMPTY: Self = Self([0; 4]);

    /// Whether no bucket is in it.
    pub fn is_empty(&self) -> bool {
        self.0 == [0; 4]
    }

    /// How many buckets are in it.
    pub fn len(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    /// Whether a bucket is in it.
    pub fn contains(&self, bucket: u8) -> bool {
        self.0[usize::from(bucket >> 6)] & 1 << (bucket & 63) != 0
    }

    /// Adds a bucket.
    pub fn insert(&mut self, bucket: u8) {
        self.0[usize::from(bucket >> 6)] |= 1 << (bucket & 63);
    }

    /// Takes a bucket out.
    pub fn remove(&mut self, bucket: u8) {
        self.0[usize::from(bucket >> 6)] &= !(1 << (bucket & 63));
    }

    /// The buckets, in order.
    pub fn iter(&self) -> impl Iterator<Item = u8> + '_ {
        buckets().filter(|bucket| self.contains(*bucket))
    }
}

impl FromIterator<u8> for BucketSet {
    fn from_iter<I: IntoIterator<Item = u8>>(buckets: I) -> Self {
        let mut set = Self::EMPTY;
        buckets.into_iter().for_each(|bucket| set.insert(bucket));
        set
    }
}

impl fmt::Debug for BucketSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{BUCKETS} buckets", self.len())
    }
}

/// Every bucket, in order.
pub fn buckets() -> impl Iterator<Item = u8> {
    0..=u8::MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_what_was_put_in() {
        let set: BucketSet = [0, 63, 64, 255].into_iter().collect();
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 63, 64, 255]);
        assert_eq!(set.len(), 4);
        assert!(!set.contains(1) && !set.is_empty());
        let members: MemberSet = [Slot(63), Slot(0)].into_iter().collect();
        assert_eq!(members.iter().collect::<Vec<_>>(), [Slot(0), Slot(63)]);
        assert_eq!(members.without(Slot(63)), MemberSet::only(Slot(0)));
    }
}
