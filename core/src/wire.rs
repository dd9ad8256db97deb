//! What travels between nodes: messages, frames, versions. Seals are made by the runtime.

pub mod frame;
pub mod message;
pub mod version;
