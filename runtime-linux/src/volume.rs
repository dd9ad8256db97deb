//! The data path of one module: everything between the application's directory and the peer's.
//!
//! One thread per module owns the FUSE sessions, the stream to the peer's data path and the disk
//! ring. It carries out [`VolumeRequest`](havre_core::effect::VolumeRequest)s and reports
//! [`VolumeNews`](havre_core::effect::VolumeNews). What it must mark, ship and wait for is decided
//! by the machines of `havre_core::replication`; the files here only carry it out.

pub mod apply;
pub mod marklog;
pub mod place;
pub mod resync;
pub mod stream;
#[cfg(test)]
mod testkit;
pub mod tree;
pub mod uring;
