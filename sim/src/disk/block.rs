//! Content of one block: eight sectors, each a number that stands for 512 bytes.

use havre_core::rng::mix;
use serde::{Deserialize, Serialize};

/// Sectors in a block: the unit that a disk writes whole or not at all.
pub const SECTORS: usize = 8;

/// 4 KiB of data. Zero stands for bytes that are zero.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Block(pub [u64; SECTORS]);

impl Block {
    /// A block whose sectors all belong to the write tagged `tag`.
    pub const fn whole(tag: u64) -> Self {
        Self([tag; SECTORS])
    }

    /// The tag, if all sectors belong to one write.
    pub fn tag(&self) -> Option<u64> {
        let first = self.0[0];
        self.0.iter().all(|sector| *sector == first).then_some(first)
    }

    /// This block after some sectors of `new`, but not all, have reached the medium.
    #[must_use]
    pub fn torn_by(self, new: Self, bits: u64) -> Self {
        // 1..=254: at least one sector new, at least one old.
        let mask = 1 + bits % 254;
        let mut torn = self;
        for (index, sector) in torn.0.iter_mut().enumerate() {
            if mask >> index & 1 == 1 {
                *sector = new.0[index];
            }
        }
        torn
    }

    /// This block with one sector spoiled.
    #[must_use]
    pub fn rotten(self, which: u64) -> Self {
        let mut spoiled = self;
        let index = (which % SECTORS as u64) as usize;
        spoiled.0[index] = mix(spoiled.0[index] ^ mix(which ^ 0xb17f_1175)) | 1 << 63;
        spoiled
    }
}
