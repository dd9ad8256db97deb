//! The engine's queue: what happens next. Of two events at one time, the one scheduled first
//! comes first.
//!
//! The heap orders small keys; the events themselves stay where they are, because they are large
//! and moving them was a tenth of a run's time.

use std::{cmp::Reverse, collections::BinaryHeap};

use crate::{direct::event::Event, time::SimTime};

/// When, in which order it was scheduled, and in which slot it is: one number, because comparing
/// keys is what a heap does all the time.
type Key = Reverse<u128>;

/// Bits of a slot's number, and of an event's.
const SLOT_BITS: u32 = 20;
const NUMBER_BITS: u32 = 44;

fn key(at: SimTime, number: u64, slot: u32) -> Key {
    assert!(slot < 1 << SLOT_BITS, "few events wait at the same time");
    let low = u128::from(number) << SLOT_BITS | u128::from(slot);
    Reverse(u128::from(at.as_micros()) << (SLOT_BITS + NUMBER_BITS) | low)
}

const fn at_of(key: u128) -> SimTime {
    SimTime::from_micros((key >> (SLOT_BITS + NUMBER_BITS)) as u64)
}

/// Events to come.
pub(super) struct Queue {
    keys: BinaryHeap<Key>,
    slots: Vec<Option<Event>>,
    free: Vec<u32>,
    scheduled: u64,
}

impl Queue {
    pub(super) fn new() -> Self {
        Self {
            keys: BinaryHeap::with_capacity(256),
            slots: Vec::with_capacity(256),
            free: Vec::with_capacity(256),
            scheduled: 0,
        }
    }

    /// Schedules an event.
    pub(super) fn push(&mut self, at: SimTime, event: Event) {
        self.scheduled += 1;
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            u32::try_from(self.slots.len() - 1).expect("few events wait at the same time")
        });
        self.slots[slot as usize] = Some(event);
        self.keys.push(key(at, self.scheduled, slot));
    }

    /// Takes the next event: when it happens, its number, and what it is.
    pub(super) fn pop(&mut self) -> Option<(SimTime, u64, Event)> {
        let Reverse(key) = self.keys.pop()?;
        let slot = key as u32 & ((1 << SLOT_BITS) - 1);
        let number = (key >> SLOT_BITS) as u64 & ((1 << NUMBER_BITS) - 1);
        self.free.push(slot);
        let event = self.slots[slot as usize].take().expect("a key's slot is full");
        Some((at_of(key), number, event))
    }

    /// When the next event happens.
    pub(super) fn next_at(&self) -> Option<SimTime> {
        self.keys.peek().map(|Reverse(key)| at_of(*key))
    }
}
