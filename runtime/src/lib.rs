//! Tokio half of Havre, shared by the simulator and the operating systems.
//!
//! [`agent`] is the only loop that drives a node. It is generic over two leaves: [`net::Net`]
//! (datagrams) and [`os::Os`] (clock, disk, scripts, addresses, data paths). Invariant: nothing
//! on the agent's path starts a thread, reads a real clock or depends on the order of a hash map,
//! so that the simulator can run it unchanged.

pub mod admin;
pub mod agent;
pub mod cli;
pub mod cluster;
pub mod daemon;
pub mod events;
mod expiry;
pub mod journal;
pub mod modules;
pub mod net;
pub mod os;
pub mod package;
pub mod probe;
pub mod redacted;
pub mod seal;
pub mod snapshot;
pub mod store;
pub mod transport;
pub mod witness;
