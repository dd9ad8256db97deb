//! Replication: data lineage, the write path on both sides, resynchronisation.

pub mod generation;
pub mod record;
