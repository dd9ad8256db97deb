//! Sans-IO core of Havre: decides everything, touches nothing.

pub mod checks;
pub mod config;
pub mod driver;
pub mod effect;
pub mod event;
pub mod farm;
pub mod ids;
pub mod machine;
pub mod membership;
pub mod module;
pub mod mutant;
pub mod node;
pub mod quorum;
pub mod replication;
pub mod rng;
pub mod status;
#[cfg(feature = "testkit")]
pub mod testkit;
pub mod time;
pub mod wire;
