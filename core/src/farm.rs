//! How a farm shares its clients: pure decisions, and the vocabulary of the packet filter.
//!
//! ```text
//!  client packet --hash--> one of 256 buckets of its group --buckets--> the node that takes it
//! ```
//! Which node owns a bucket is a function of the configuration and of the set of nodes that
//! share, so that nodes with the same view agree without asking each other. Members are numbered
//! by their position among the module's nodes ([`Slot`]).

pub mod buckets;
pub mod election;
pub mod explain;
pub mod hash;
pub mod set;
pub mod table;

pub use set::{BucketSet, MemberSet, Slot};

/// Buckets of a group.
pub const BUCKETS: usize = 256;
