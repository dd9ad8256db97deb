//! Administration of a running daemon: one HTTP interface on a Unix socket, its client, and the
//! health check that load balancers ask.

pub mod api;
pub mod client;
pub mod health;
mod model;

pub use self::model::{LogReply, Problem, Snapshot};
