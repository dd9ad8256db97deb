//! Replication: data lineage, the write path on both sides, resynchronisation.
//!
//! The application writes on the *source*; the *target* follows it. Every replicated change has
//! one place in one log order per module. What may differ between the copies is marked durably
//! before it changes ([`intent`]), so that after any stop only marked parts are compared.
//!
//! [`source`] and [`target`] decide; the data path of the operating system performs their orders
//! and carries the bytes ([`record`], [`stream`]). [`generation`] compares the histories of
//! copies.

pub mod generation;
pub mod intent;
pub mod item;
pub mod record;
pub mod source;
pub mod stream;
pub mod target;
pub mod window;
