//! Carries out a resynchronisation: compares items with the peer and copies what differs.
//!
//! The source's half ([`Copier`]) runs on a helper thread, so that reading and hashing never stop
//! the application; the target's half ([`Fixer`]) runs where changes are applied, in the order of
//! the stream. What is compared when, and that a copy never overwrites something newer, is decided
//! by `havre_core::replication::source`; steps and items are described in
//! `havre_core::replication::item`.

mod aside;
mod copier;
mod fixer;
mod scan;
#[cfg(test)]
mod tests;

pub use aside::{Aside, kept_aside};
pub use copier::{Copier, Link, Stop, Tally};
pub use fixer::Fixer;
pub use scan::{Walk, is_absent};
pub(super) use scan::{read_at, split_xattrs, xattrs_at};

/// Extended attributes of an entry, for comparisons in tests.
#[cfg(test)]
pub(crate) fn testing_xattrs(dir: &std::fs::File, name: &[u8]) -> Vec<u8> {
    use std::os::fd::AsFd as _;
    scan::xattrs_at(dir.as_fd(), name).expect("extended attributes")
}
