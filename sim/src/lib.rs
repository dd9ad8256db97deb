//! Simulator of Havre: whole clusters on simulated time, networks and disks.
//!
//! - [`chance`]: counter-based randomness, so that removing one fault leaves the rest unchanged.
//! - [`disk`]: disks that lose, tear, delay and refuse what they were given.
//! - [`volume`]: the replication machines of the core over a store of blocks.

pub mod chance;
pub mod disk;
pub mod time;
pub mod volume;
