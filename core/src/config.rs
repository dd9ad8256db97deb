//! Configuration: text to elements with positions, elements to types that cannot be wrong.
//!
//! `cluster.xml` becomes a [`cluster::ClusterConfig`], `userconfig.xml` a [`module::ModuleConfig`].

pub mod cluster;
pub mod module;
