//! Simulator of Havre: whole clusters on simulated time, networks and disks.
//!
//! - [`direct`]: the engine for volume: the core alone, driven event by event.
//! - [`turmoil`]: the production agent and sockets on simulated hosts, in the same world.
//! - [`plan`]: what happens in a run, independent of the engine.
//! - [`net`], [`disk`]: networks and disks that do what real ones do on bad days.
//! - [`fact`], [`oracle`], [`invariants`]: what was performed, and whether it was right.
//! - [`chance`]: counter-based randomness, so that removing one fault leaves the rest unchanged.

pub mod chance;
pub mod direct;
pub mod disk;
pub mod expect;
pub mod fact;
pub mod faults;
pub mod fuzz;
pub mod invariants;
pub mod ledger;
pub mod net;
pub mod oracle;
mod pending;
pub mod plan;
mod port;
pub mod report;
pub mod run;
pub mod scenario;
pub mod shrink;
pub mod time;
pub mod turmoil;
pub mod volume;
