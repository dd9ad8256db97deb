//! Something for each block of a disk: the data, and the mark log far behind it.

use super::BlockNumber;

/// First number of the second of two dense areas.
const SECOND: BlockNumber = 1 << 32;
/// Blocks in one area at most.
const BLOCKS_MAX: u64 = 1 << 20;

/// A value for each block; those never set have the default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Area<T> {
    areas: [Vec<T>; 2],
}

impl<T> Default for Area<T> {
    fn default() -> Self {
        Self { areas: [Vec::new(), Vec::new()] }
    }
}

const fn place(block: BlockNumber) -> (usize, u64) {
    if block >= SECOND { (1, block - SECOND) } else { (0, block) }
}

impl<T: Copy + Default> Area<T> {
    /// The value of a block.
    pub(super) fn get(&self, block: BlockNumber) -> T {
        let (area, index) = place(block);
        self.areas[area].get(index as usize).copied().unwrap_or_default()
    }

    /// The value of a block, to be changed.
    pub(super) fn at(&mut self, block: BlockNumber) -> &mut T {
        let (area, index) = place(block);
        assert!(index < BLOCKS_MAX, "a simulated disk has few blocks");
        let area = &mut self.areas[area];
        if area.len() <= index as usize {
            area.resize(index as usize + 1, T::default());
        }
        &mut area[index as usize]
    }

    /// Gives every block the default again.
    pub(super) fn clear(&mut self) {
        self.areas.iter_mut().for_each(Vec::clear);
    }
}
