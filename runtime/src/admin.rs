//! Administration of a running daemon: one HTTP interface on a Unix socket and, over TLS, for the
//! other nodes; its client; and the health check that load balancers ask.

pub mod api;
pub mod client;
mod configuration;
pub mod health;
mod model;
pub mod remote;

pub use self::model::{Explained, LogReply, NodeNames, Problem, Snapshot, Staged};
