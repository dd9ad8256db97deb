//! What can go wrong with a disk, how long it takes, and what really went wrong.

use serde::{Deserialize, Serialize};

use super::DiskOp;
use crate::chance::Chance;

/// Why an operation failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum DiskError {
    /// EIO.
    Io,
    /// ENOSPC.
    Full,
}

impl std::fmt::Display for DiskError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Io => "input/output error",
            Self::Full => "no space left on device",
        })
    }
}

impl std::error::Error for DiskError {}

/// Shortest and longest duration of operations, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskTiming {
    /// Reads.
    pub read_us: (u64, u64),
    /// Writes (into the cache), renames, removals.
    pub write_us: (u64, u64),
    /// Flushes, file and directory syncs.
    pub flush_us: (u64, u64),
}

impl Default for DiskTiming {
    fn default() -> Self {
        // A solid-state disk under a file system; measured spans of docs/performance.md.
        Self { read_us: (20, 120), write_us: (5, 60), flush_us: (200, 3_000) }
    }
}

/// What goes wrong from now on. The default is a healthy disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskFaults {
    /// Every duration is multiplied by this.
    pub slowdown: u32,
    /// Writes of blocks and files fail with ENOSPC.
    pub full: bool,
    /// Reads that fail with EIO, per million.
    pub read_error_ppm: u32,
    /// Writes that fail with EIO, per million.
    pub write_error_ppm: u32,
    /// Flushes and syncs that fail with EIO, per million. What such a flush covered is forgotten.
    pub flush_error_ppm: u32,
    /// Flushes report success and do nothing (broken hardware; outside what Havre promises).
    pub lying_flush: bool,
    /// Writes that reach the neighbouring block instead, per million (broken hardware).
    pub misdirect_ppm: u32,
}

impl Default for DiskFaults {
    fn default() -> Self {
        Self {
            slowdown: 1,
            full: false,
            read_error_ppm: 0,
            write_error_ppm: 0,
            flush_error_ppm: 0,
            lying_flush: false,
            misdirect_ppm: 0,
        }
    }
}

/// What went wrong so far: a fault that hit nothing proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DiskHits {
    /// Operations that were slowed down.
    pub slowed: u64,
    /// Operations refused with ENOSPC.
    pub full: u64,
    /// Operations failed with EIO.
    pub errors: u64,
    /// Flushes that lied.
    pub lied: u64,
    /// Writes that went astray.
    pub misdirected: u64,
    /// Blocks and files spoiled.
    pub rotten: u64,
    /// Writes lost or torn at power cuts.
    pub lost_at_cut: u64,
}

impl DiskHits {
    /// All of them together.
    pub const fn total(&self) -> u64 {
        self.slowed
            + self.full
            + self.errors
            + self.lied
            + self.misdirected
            + self.rotten
            + self.lost_at_cut
    }
}

impl DiskFaults {
    /// Whether, and how, operation `number` fails.
    pub(super) fn draw(
        &self,
        chance: Chance,
        number: u64,
        op: &DiskOp,
        hits: &mut DiskHits,
    ) -> Option<DiskError> {
        hits.slowed += u64::from(self.slowdown > 1);
        let (rate, takes_space) = match op {
            DiskOp::Read(_) | DiskOp::ReadFile(_) => (self.read_error_ppm, false),
            DiskOp::Write(..) | DiskOp::WriteFile(..) => (self.write_error_ppm, true),
            DiskOp::Flush | DiskOp::SyncFile(_) | DiskOp::SyncNames => {
                (self.flush_error_ppm, false)
            }
            DiskOp::Rename(..) | DiskOp::RemoveFile(_) => (0, false),
        };
        if self.full && takes_space {
            hits.full += 1;
            return Some(DiskError::Full);
        }
        if chance.hits(number, rate) {
            hits.errors += 1;
            return Some(DiskError::Io);
        }
        None
    }
}
