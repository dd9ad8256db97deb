//! Demonstration (see below).
pub mod workload;
