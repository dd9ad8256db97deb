//! The data path of one module: everything between the application's directory and the peer's.
//!
//! One thread per module owns the FUSE sessions, the stream to the peer's data path and the disk
//! ring. It carries out [`VolumeRequest`](havre_core::effect::VolumeRequest)s and reports
//! [`VolumeNews`](havre_core::effect::VolumeNews). What it must mark, ship and wait for is decided
//! by the machines of `havre_core::replication`; the files here only carry it out.

pub mod apply;
mod cover;
pub mod helper;
mod identity;
mod idle;
pub mod marklog;
pub mod marks;
mod mounting;
mod pace;
pub mod place;
mod readonly;
pub mod resync;
mod settings;
mod source;
pub mod stream;
mod target;
#[cfg(test)]
mod testkit;
#[cfg(test)]
mod tests;
mod thread;
pub mod tree;
mod trust;
pub mod uring;

pub use mounting::end_mount;
pub use settings::Settings;
pub use stream::Security;
pub use thread::{VolumeHandle, start};
pub use trust::Trust;
