//! Things under way, by number: numbers are given out in ascending order, few things are under
//! way at a time, and they end in almost the order in which they began.

use std::collections::VecDeque;

/// Things under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pending<T> {
    items: VecDeque<(u64, T)>,
}

impl<T> Default for Pending<T> {
    fn default() -> Self {
        Self { items: VecDeque::new() }
    }
}

impl<T> Pending<T> {
    /// Adds the thing with the highest number so far.
    pub(crate) fn insert(&mut self, number: u64, item: T) {
        let last = self.items.back().map(|(last, _)| *last);
        assert!(last.is_none_or(|last| last < number), "numbers are given out in order");
        self.items.push_back((number, item));
    }

    /// Takes a thing out, if it is still under way.
    pub(crate) fn remove(&mut self, number: u64) -> Option<T> {
        let index = self.items.binary_search_by_key(&number, |(number, _)| *number).ok()?;
        self.items.remove(index).map(|(_, item)| item)
    }

    /// Everything, in the order in which it began.
    pub(crate) fn values(&self) -> impl Iterator<Item = &T> {
        self.items.iter().map(|(_, item)| item)
    }

    /// Takes everything out, in the order in which it began.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = (u64, T)> + use<T> {
        std::mem::take(&mut self.items).into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_removed_is_gone_and_the_rest_keeps_its_order() {
        let mut pending = Pending::default();
        for number in [2, 5, 9] {
            pending.insert(number, number * 10);
        }
        assert_eq!(pending.remove(5), Some(50));
        assert_eq!(pending.remove(5), None);
        assert_eq!(pending.drain().collect::<Vec<_>>(), [(2, 20), (9, 90)]);
        assert_eq!(pending.values().count(), 0);
    }
}
