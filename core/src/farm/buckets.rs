//! Who owns which bucket: a pure function of the configuration and of the members that share.
//!
//! # Algorithm
//! From the powers of a group's nodes a [`Plan`] is dealt once: for each bucket an order of all
//! nodes. A bucket belongs to the first node of its order that shares. Therefore
//! - a loss moves exactly the buckets of the lost node, each to the next of its order;
//! - a return moves exactly the buckets whose order has the returning node before their owner;
//! - the map depends on the set of sharing members alone, not on how it came about: nodes with the
//!   same view have the same map without a word about it.
//!
//! The orders are dealt place by place so that shares stay level whoever is lost. A place of the
//! order of bucket `b` is decided once all nodes before it, the set `L`, are lost. When exactly
//! `L` is lost, the buckets whose orders begin with all of `L` are orphans, the others have owners
//! by what was dealt before; the orphans go one by one to the node that is farthest below its
//! share. Each place belongs to one `L` only, so what levels one loss never unlevels another.
//!
//! # What it achieves
//! Orders that are level for *every* set of lost nodes do not exist for many nodes (256 orders
//! offer fewer choices than there are sets to satisfy). Equal powers differ by at most one bucket
//! for every set of sharing nodes in farms of up to seven, and in larger farms while at most one
//! node is lost; by at most two buckets while two are; by a few more beyond that.
//!
//! # Powers
//! Shares are proportional to powers (Sainte-Laguë's method). A node whose power is 1/64 of the
//! greatest of those that share, or less, gets nothing: powers 1, 64 and 4096 are a strict chain
//! of deputies. Power 0 never gets anything.
//! Source: reference safekit.md section 4.3 (shares, chains); the algorithm is ours.

use std::collections::BTreeMap;

use super::{BUCKETS, BucketSet, MemberSet, Slot, set::buckets};

/// A node with this fraction of the greatest power, or less, is its deputy and shares nothing.
const DEPUTY: u64 = 64;
/// Places that are levelled exactly. Farther down, where so many nodes of a large farm are lost,
/// the remaining nodes follow in turn.
const LEVELLED_MAX: usize = 8;

/// For each bucket of a group, the order in which nodes own it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    powers: Vec<u64>,
    orders: Vec<Vec<Slot>>,
}

/// The owner of each bucket; `None`: no node of the group shares.
pub type Owners = [Option<Slot>; BUCKETS];

impl Plan {
    /// Deals the buckets of a group among nodes with these powers, by position.
    pub fn new(powers: &[u32]) -> Self {
        let powers: Vec<u64> = powers.iter().map(|power| u64::from(*power)).collect();
        let nodes = powers.iter().filter(|power| **power > 0).count();
        let mut plan = Self { powers, orders: vec![Vec::new(); BUCKETS] };
        for place in 0..nodes {
            plan.deal_place(place);
        }
        plan
    }

    /// The members that can ever own a bucket.
    pub fn hosts(&self) -> MemberSet {
        let slots = (0..).map(Slot).zip(&self.powers);
        slots.filter(|(_, power)| **power > 0).map(|(slot, _)| slot).collect()
    }

    /// The owner of a bucket when these members share.
    pub fn owner(&self, bucket: u8, sharing: MemberSet) -> Option<Slot> {
        let order = self.orders.get(usize::from(bucket))?;
        order.iter().copied().find(|slot| sharing.contains(*slot))
    }

    /// The owner of every bucket when these members share.
    pub fn owners(&self, sharing: MemberSet) -> Owners {
        let mut owners = [None; BUCKETS];
        for (owner, bucket) in owners.iter_mut().zip(buckets()) {
            *owner = self.owner(bucket, sharing);
        }
        owners
    }

    /// The buckets of one member when these members share.
    pub fn own(&self, slot: Slot, sharing: MemberSet) -> BucketSet {
        if !sharing.contains(slot) {
            return BucketSet::EMPTY;
        }
        buckets().filter(|bucket| self.owner(*bucket, sharing) == Some(slot)).collect()
    }

    /// The order in which nodes own a bucket.
    pub fn order(&self, bucket: u8) -> &[Slot] {
        self.orders.get(usize::from(bucket)).map_or(&[], Vec::as_slice)
    }

    /// Decides one place of every order.
    fn deal_place(&mut self, place: usize) {
        let mut orphans: BTreeMap<MemberSet, Vec<usize>> = BTreeMap::new();
        for (bucket, order) in self.orders.iter().enumerate() {
            orphans.entry(order.iter().copied().collect()).or_default().push(bucket);
        }
        for (lost, orphans) in orphans {
            let left = self.hosts().minus(lost);
            let candidates = self.eligible(left);
            let mut counts = vec![0; self.powers.len()];
            if place < LEVELLED_MAX {
                for order in &self.orders {
                    if let Some(slot) = order.iter().find(|slot| !lost.contains(**slot)) {
                        counts[usize::from(slot.0)] += 1;
                    }
                }
            }
            for bucket in orphans {
                let slot = self.neediest(candidates, &counts, bucket);
                counts[usize::from(slot.0)] += 1;
                self.orders[bucket].push(slot);
            }
        }
    }

    /// The candidate that is farthest below its share; of equals, another one for each bucket.
    fn neediest(&self, candidates: MemberSet, counts: &[u64], bucket: usize) -> Slot {
        let need = |slot: Slot| {
            let index = usize::from(slot.0);
            (2 * counts[index] + 1, self.powers[index])
        };
        // Fractions (2 count + 1) / power, compared without rounding.
        let less = |(one, of): (u64, u64), (other, than): (u64, u64)| one * than < other * of;
        let nodes = self.powers.len();
        let turns = (0..nodes).map(|turn| ((turn + bucket) % nodes) as u8).map(Slot);
        turns
            .filter(|slot| candidates.contains(*slot))
            .reduce(|best, slot| if less(need(slot), need(best)) { slot } else { best })
            .expect("a place is dealt only while a node with power is left")
    }

    /// Those among whom buckets are shared when only these are left.
    fn eligible(&self, left: MemberSet) -> MemberSet {
        let power = |slot: &Slot| self.powers[usize::from(slot.0)];
        let greatest = left.iter().map(|slot| power(&slot)).max().unwrap_or(0);
        left.iter().filter(|slot| power(slot) * DEPUTY > greatest).collect()
    }
}

#[cfg(test)]
mod tests;
