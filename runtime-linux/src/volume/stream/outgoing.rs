//! What waits to be sent on a connection: bytes of messages, and frames that their owner keeps.
//!
//! Bytes of a write pass from the buffer in which the kernel gave them straight to the socket or to
//! the cipher, without being copied together.

use std::{collections::VecDeque, io::IoSlice, ops::Range, sync::Arc};

/// Pieces handed over at once at most.
const SLICES_MAX: usize = 32;
/// Longest buffer whose memory is used again.
const SPARE_BYTES: usize = 64 << 10;

/// A frame that is kept until the other end has received it.
#[derive(Debug, Default)]
pub struct Frame {
    /// Its beginning: prefix, header, and a payload that was copied.
    pub head: Vec<u8>,
    /// A buffer with the rest of it, and where that is.
    pub rest: Option<(Vec<u8>, Range<usize>)>,
}

impl Frame {
    fn parts(&self) -> [&[u8]; 2] {
        let rest = self.rest.as_ref().map_or(&[][..], |(buffer, range)| &buffer[range.clone()]);
        [&self.head, rest]
    }
}

#[derive(Debug)]
enum Segment {
    Bytes(Vec<u8>),
    Frame(Arc<Frame>),
}

impl Segment {
    fn parts(&self) -> [&[u8]; 2] {
        match self {
            Self::Bytes(bytes) => [bytes, &[]],
            Self::Frame(frame) => frame.parts(),
        }
    }

    fn len(&self) -> usize {
        self.parts().iter().map(|part| part.len()).sum()
    }
}

/// The queue.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    queue: VecDeque<Segment>,
    /// Bytes of the first segment that have been taken.
    taken: usize,
    spare: Vec<u8>,
}

impl Outgoing {
    /// Where to append bytes.
    pub(super) fn bytes(&mut self) -> &mut Vec<u8> {
        if !matches!(self.queue.back(), Some(Segment::Bytes(_))) {
            self.queue.push_back(Segment::Bytes(std::mem::take(&mut self.spare)));
        }
        match self.queue.back_mut() {
            Some(Segment::Bytes(bytes)) => bytes,
            _ => unreachable!("it has been appended"),
        }
    }

    /// Appends a frame.
    pub(super) fn frame(&mut self, frame: Arc<Frame>) {
        self.queue.push_back(Segment::Frame(frame));
    }

    /// Whether everything was taken.
    pub(super) fn is_empty(&self) -> bool {
        let mut taken = self.taken;
        self.queue.iter().all(|segment| {
            let left = segment.len().saturating_sub(taken);
            taken = taken.saturating_sub(segment.len());
            left == 0
        })
    }

    /// Calls `act` with the first bytes, at most `bytes_max`.
    pub(super) fn peek<T>(&self, bytes_max: usize, act: impl FnOnce(&[IoSlice<'_>]) -> T) -> T {
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let (mut count, mut room, mut skip) = (0, bytes_max, self.taken);
        'queue: for segment in &self.queue {
            for part in segment.parts() {
                let skipped = skip.min(part.len());
                skip -= skipped;
                let part = &part[skipped..];
                if part.is_empty() {
                    continue;
                }
                if count == SLICES_MAX || room == 0 {
                    break 'queue;
                }
                let part = &part[..part.len().min(room)];
                room -= part.len();
                slices[count] = IoSlice::new(part);
                count += 1;
            }
        }
        act(&slices[..count])
    }

    /// Notes that the first `count` bytes were taken.
    pub(super) fn consume(&mut self, count: usize) {
        self.taken += count;
        while let Some(first) = self.queue.front() {
            let len = first.len();
            if self.taken < len {
                return;
            }
            self.taken -= len;
            if let Some(Segment::Bytes(mut bytes)) = self.queue.pop_front()
                && bytes.capacity() <= SPARE_BYTES
            {
                bytes.clear();
                self.spare = bytes;
            }
        }
        assert_eq!(self.taken, 0, "no more is taken than was there");
    }
}

#[cfg(test)]
mod tests {
    //! Tests of the queue.

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn bytes_leave_in_the_order_in_which_they_came(
            parts in prop::collection::vec((any::<bool>(), 0usize..50, 0usize..50), 0..40),
            steps in prop::collection::vec((1usize..80, 0usize..80), 1..200),
        ) {
            let mut queue = Outgoing::default();
            let mut expected = Vec::new();
            for (index, (is_frame, head, rest)) in parts.into_iter().enumerate() {
                let head = vec![index as u8; head];
                expected.extend_from_slice(&head);
                if is_frame {
                    let buffer = vec![200; rest + 7];
                    expected.extend_from_slice(&buffer[7..]);
                    let frame = Frame { head, rest: Some((buffer, 7..rest + 7)) };
                    queue.frame(Arc::new(frame));
                } else {
                    queue.bytes().extend_from_slice(&head);
                }
            }
            let mut left = Vec::new();
            for (limit, used) in steps.into_iter().chain(std::iter::repeat_n((9, 9), 1000)) {
                let bytes: Vec<u8> = queue.peek(limit, |slices| {
                    slices.iter().flat_map(|slice| slice.iter().copied()).collect()
                });
                prop_assert!(bytes.len() <= limit);
                let used = used.min(bytes.len());
                left.extend_from_slice(&bytes[..used]);
                queue.consume(used);
                prop_assert_eq!(queue.is_empty(), left.len() == expected.len());
            }
            prop_assert_eq!(left, expected);
        }
    }
}
