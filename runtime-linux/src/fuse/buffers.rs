//! Receive buffers: how many are in use, and lending them to whoever sends their payload on.

use std::ops::Range;

use super::{Applied, BUFFER_BYTES, Files};

/// Receive buffers in use at most; beyond it no further request is read.
pub(super) const BUFFERS_MAX: usize = 20;
/// Buffers in use beyond which none is lent any more.
const LENT_MAX: usize = 10;

/// The buffers of one mount.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    pool: Vec<Vec<u8>>,
    out: usize,
}

impl Buffers {
    /// Whether no further one may be taken.
    pub(super) const fn are_used_up(&self) -> bool {
        self.out >= BUFFERS_MAX
    }

    /// Takes one for a request.
    pub(super) fn take(&mut self) -> Vec<u8> {
        self.out += 1;
        self.pool.pop().unwrap_or_else(|| vec![0; BUFFER_BYTES])
    }

    /// Takes one back; others are dropped.
    pub(super) fn recycle(&mut self, buffer: Vec<u8>) {
        if buffer.len() == BUFFER_BYTES {
            self.out = self.out.saturating_sub(1);
            self.pool.push(buffer);
        }
    }
}

impl Files {
    /// Takes the buffer with the payload of a write out of it, unless too few would be left;
    /// [`give_back`](Self::give_back) returns it.
    pub fn lend(&mut self, applied: &mut Applied) -> Option<(Vec<u8>, Range<usize>)> {
        let operation = &mut applied.operation;
        if self.buffers.out > LENT_MAX || operation.buffer.len() != BUFFER_BYTES {
            return None;
        }
        let payload = std::mem::replace(&mut operation.payload, 0..0);
        Some((std::mem::take(&mut operation.buffer), payload))
    }

    /// Takes a buffer back that was lent; `None`: it is lost.
    pub fn give_back(&mut self, buffer: Option<Vec<u8>>) {
        match buffer {
            Some(buffer) => self.recycle(buffer),
            None => self.buffers.out = self.buffers.out.saturating_sub(1),
        }
    }

    pub(super) fn take_buffer(&mut self) -> Vec<u8> {
        self.buffers.take()
    }

    pub(super) fn recycle(&mut self, buffer: Vec<u8>) {
        self.buffers.recycle(buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_and_a_foreign_one_does_not_count() {
        let mut buffers = Buffers::default();
        let taken: Vec<_> = (0..BUFFERS_MAX).map(|_| buffers.take()).collect();
        assert!(buffers.are_used_up());
        buffers.recycle(vec![0; 7]);
        assert!(buffers.are_used_up());
        taken.into_iter().for_each(|buffer| buffers.recycle(buffer));
        assert!(!buffers.are_used_up() && buffers.pool.len() == BUFFERS_MAX);
    }
}
