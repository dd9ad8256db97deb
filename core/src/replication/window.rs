//! The window: records shipped and not yet received by the target, bounded in number and bytes.
//!
//! Room is reserved when a change is admitted, before it is applied, because an applied change
//! must be shipped: there is no way to take it back.

use std::collections::VecDeque;

use crate::ids::Seq;

/// Payload bytes admitted and not yet received by the target.
pub const WINDOW_BYTES_MAX: u64 = 8 << 20;

/// Records admitted and not yet received by the target.
pub const WINDOW_RECORDS_MAX: usize = 4_096;

/// Counts what is under way to the target and what the target said.
#[derive(Debug, Clone)]
pub struct Window {
    shipped: VecDeque<(Seq, u32)>,
    shipped_bytes: u64,
    reserved: usize,
    reserved_bytes: u64,
    last: Seq,
    received: Seq,
    durable: Seq,
}

/// An acknowledgement that contradicts what was shipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the target acknowledged {received} received and {durable} durable of {last} shipped")]
pub struct BadAck {
    received: Seq,
    durable: Seq,
    last: Seq,
}

impl Default for Window {
    fn default() -> Self {
        Self {
            shipped: VecDeque::with_capacity(WINDOW_RECORDS_MAX + 64),
            shipped_bytes: 0,
            reserved: 0,
            reserved_bytes: 0,
            last: Seq(0),
            received: Seq(0),
            durable: Seq(0),
        }
    }
}

impl Window {
    /// The last position given out.
    pub const fn last(&self) -> Seq {
        self.last
    }

    /// Everything up to here was received by the target.
    pub const fn received(&self) -> Seq {
        self.received
    }

    /// Everything up to here is durable at the target.
    pub const fn durable(&self) -> Seq {
        self.durable
    }

    /// Whether another change of `bytes` may be admitted. A change larger than the whole window
    /// is admitted alone.
    pub fn has_room(&self, bytes: u32) -> bool {
        let records = self.shipped.len() + self.reserved;
        let used = self.shipped_bytes + self.reserved_bytes;
        records == 0
            || (records < WINDOW_RECORDS_MAX && used + u64::from(bytes) <= WINDOW_BYTES_MAX)
    }

    /// Sets room aside for an admitted change.
    pub fn reserve(&mut self, bytes: u32) {
        self.reserved += 1;
        self.reserved_bytes += u64::from(bytes);
    }

    /// Gives the room of an admitted change back, because it will be shipped now or never.
    pub fn unreserve(&mut self, bytes: u32) {
        self.reserved -= 1;
        self.reserved_bytes -= u64::from(bytes);
    }

    /// Gives out the next position for something that counts `bytes`.
    pub fn ship(&mut self, bytes: u32) -> Seq {
        self.last = self.last.next();
        self.shipped.push_back((self.last, bytes));
        self.shipped_bytes += u64::from(bytes);
        self.last
    }

    /// Takes an acknowledgement; returns whether it says anything new.
    pub fn acknowledge(&mut self, received: Seq, durable: Seq) -> Result<bool, BadAck> {
        if received > self.last || durable > received {
            return Err(BadAck { received, durable, last: self.last });
        }
        let news = received > self.received || durable > self.durable;
        self.received = self.received.max(received);
        self.durable = self.durable.max(durable);
        while let Some((seq, bytes)) = self.shipped.front().copied() {
            if seq > self.received {
                break;
            }
            self.shipped_bytes -= u64::from(bytes);
            self.shipped.pop_front();
        }
        Ok(news)
    }

    /// Forgets what was shipped: positions go on, nothing is under way.
    pub fn discard(&mut self) {
        self.shipped.clear();
        self.shipped_bytes = 0;
        self.received = self.last;
        self.durable = self.last;
    }

    /// Whether everything from `after` on is still remembered, so that it can be sent again.
    pub fn can_resume(&self, after: Seq) -> bool {
        after >= self.received && after <= self.last
    }

    /// Whether the target still owes an acknowledgement of receipt.
    pub fn is_waiting(&self) -> bool {
        self.received < self.last
    }
}

#[cfg(test)]
mod tests;
