//! Havre on Linux: what the operating system is asked to do.

pub mod fuse;
pub mod volume;
