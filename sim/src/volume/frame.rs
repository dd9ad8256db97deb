//! What two simulated volumes send each other, and its bytes.

use havre_core::{
    ids::Seq,
    replication::{
        intent::MarkId,
        stream::{Element, ItemKey, StreamError, StreamMessage, ToSource, ToTarget, split_frame},
    },
};

use crate::disk::Block;

/// One frame of the data stream.
#[derive(Debug, Clone, PartialEq)]
pub enum Frame {
    /// From target to source.
    ToSource(ToSource),
    /// From source to target, with the blocks that follow the header.
    ToTarget(ToTarget, Vec<Block>),
}

impl Frame {
    /// The frame's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self {
            Self::ToSource(message) => message.encode(0, &mut bytes),
            Self::ToTarget(message, blocks) => {
                message.encode(blocks.len() * BLOCK_BYTES, &mut bytes);
                for sector in blocks.iter().flat_map(|block| block.0) {
                    bytes.extend_from_slice(&sector.to_le_bytes());
                }
            }
        }
        bytes
    }

    /// The first whole frame that a source receives, and its length.
    pub fn decode_to_source(bytes: &[u8]) -> Result<Option<(Self, usize)>, StreamError> {
        let frame = split_frame::<ToSource>(bytes)?;
        Ok(frame.map(|(message, _, used)| (Self::ToSource(message), used)))
    }

    /// The first whole frame that a target receives, and its length.
    pub fn decode_to_target(bytes: &[u8]) -> Result<Option<(Self, usize)>, StreamError> {
        let Some((message, payload, used)) = split_frame::<ToTarget>(bytes)? else {
            return Ok(None);
        };
        let blocks = payload.chunks_exact(BLOCK_BYTES).map(block_from).collect();
        Ok(Some((Self::ToTarget(message, blocks), used)))
    }
}

/// Bytes by which a block is represented on the wire.
const BLOCK_BYTES: usize = 64;

fn block_from(bytes: &[u8]) -> Block {
    let mut block = Block::default();
    for (sector, bytes) in block.0.iter_mut().zip(bytes.chunks_exact(8)) {
        *sector = number(bytes).unwrap_or_default();
    }
    block
}

fn number(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().ok().map(u64::from_le_bytes)
}

/// What the target does for one element.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Work {
    /// Writes blocks, given with their numbers.
    Write(Vec<(u64, Block)>),
    /// Compares a region with these digests, one per block.
    Compare(u64, Vec<u64>),
    /// Nothing: its place in the order is all.
    Nothing,
}

/// Makes the frame of one write of the application.
pub(super) fn change(seq: Seq, sync: bool, block: u64, content: Block) -> Frame {
    let change = block.to_le_bytes().to_vec();
    let element = Element::Change { change, sync };
    Frame::ToTarget(ToTarget::Element { seq, element }, vec![content])
}

/// A step of a region's copy, before it has its number.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Step {
    body: Vec<u8>,
    blocks: Vec<Block>,
}

impl Step {
    /// Asks which blocks of the region differ.
    pub(super) fn compare(digests: &[u64]) -> Self {
        Self { body: numbers_body(b'?', digests), blocks: Vec::new() }
    }

    /// Carries blocks of the region, given with their positions in it.
    pub(super) fn copy(blocks: &[(u64, Block)]) -> Self {
        let places: Vec<u64> = blocks.iter().map(|(place, _)| *place).collect();
        let blocks = blocks.iter().map(|(_, content)| *content).collect();
        Self { body: numbers_body(b'=', &places), blocks }
    }

    /// The frame of this step under its number.
    pub(super) fn frame(self, seq: Seq, item: MarkId) -> Frame {
        let element = Element::Item { item: key(item), body: self.body };
        Frame::ToTarget(ToTarget::Element { seq, element }, self.blocks)
    }
}

/// The region as an item of the stream.
pub(super) fn key(region: MarkId) -> ItemKey {
    ItemKey(region.0.to_le_bytes().to_vec())
}

/// The region that an item of the stream names, if it is one of `regions`.
pub(super) fn region(key: &ItemKey, regions: u64) -> Option<MarkId> {
    number(&key.0).filter(|region| *region < regions).map(MarkId)
}

fn numbers_body(kind: u8, numbers: &[u64]) -> Vec<u8> {
    let mut body = vec![kind];
    body.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
    body
}

/// The positions that a target's answer names.
pub(super) fn answer_body(places: &[u64]) -> Vec<u8> {
    numbers_body(b'!', places)
}

/// Reads [`answer_body`].
pub(super) fn places(body: &[u8]) -> Option<Vec<u64>> {
    match body {
        [b'!', rest @ ..] => rest.chunks(8).map(number).collect(),
        _ => None,
    }
}

/// What an element asks of a target whose regions have `region_blocks` blocks.
pub(super) fn work(
    element: &Element,
    blocks: &[Block],
    region_blocks: u64,
    regions: u64,
) -> Option<Work> {
    match element {
        Element::Change { change, .. } => {
            let place = number(change).filter(|block| *block < region_blocks * regions)?;
            Some(Work::Write(vec![(place, *blocks.first()?)]))
        }
        Element::Item { item, body } => {
            let region = region(item, regions)?;
            let (kind, rest) = body.split_first()?;
            let numbers: Vec<u64> = rest.chunks(8).map(number).collect::<Option<_>>()?;
            match kind {
                b'?' => Some(Work::Compare(region.0, numbers)),
                b'=' if numbers.iter().all(|place| *place < region_blocks) => {
                    let first = region.0 * region_blocks;
                    let places = numbers.iter().map(|place| first + place);
                    Some(Work::Write(places.zip(blocks.iter().copied()).collect()))
                }
                _ => None,
            }
        }
        Element::SyncPoint | Element::CaughtUp { .. } => Some(Work::Nothing),
    }
}
