//! Administration of a running daemon: one HTTP interface on a Unix socket, and its client.

pub mod api;
pub mod client;
mod model;

pub use self::model::{LogReply, Problem, Snapshot};
