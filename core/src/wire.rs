//! What travels between nodes: messages, frames, versions, seals.

pub mod message;
