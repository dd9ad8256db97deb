//! What happened, for people and programs: module logs, their texts, tracing output.

pub mod log;
pub mod report;
pub mod text;
pub mod time;
pub mod trace;
