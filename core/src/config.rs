//! Configuration: `cluster.xml` and `userconfig.xml`, from text to types that cannot be wrong.
//!
//! ```text
//! text -> xml (repair, tree with places) -> macros -> read (schema: names, values) -> types
//! ```
//!
//! [`cluster::parse`] and [`module::parse`] report every error of a file at once, each with
//! file, line, column and remedy. One table ([`schema`]) drives the parser and the manual.
//! Left to others: reading files and the environment, showing the findings.
//! Source: docs/user/reference/userconfig.md

pub mod cluster;
pub mod difference;
pub mod error;
mod macros;
pub mod module;
pub mod pattern;
mod read;
pub mod schema;
pub mod script;
mod signature;
pub mod suggest;
pub mod time;
mod value;
mod xml;

pub use macros::{expanded, names};
pub use signature::{revision, signature};

#[cfg(test)]
mod tests;
