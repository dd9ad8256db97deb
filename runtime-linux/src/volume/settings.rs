//! What a data path needs to know beforehand.

use std::{net::SocketAddr, path::PathBuf};

use havre_core::{config::module::RfsConfig, ids::ModuleId};

use super::{stream::Security, trust::Trust};

/// Settings of one module's data path on one node.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The module.
    pub module: ModuleId,
    /// Digest of the module's configuration; data paths with different ones do not cooperate.
    pub signature: u64,
    /// `<rfs>`.
    pub rfs: RfsConfig,
    /// Directory for the intent log: durable, not replicated.
    pub state_dir: PathBuf,
    /// Where a source listens: this node's address on the network of replication, and
    /// `ModuleConfig::data_port`.
    pub listen: SocketAddr,
    /// Where a target connects: the peer's.
    pub peer: SocketAddr,
    /// How the peer is recognised.
    pub security: Security,
    /// Socket of the process that keeps mounts while this daemon restarts; see [`crate::holder`].
    pub holder: Option<PathBuf>,
    /// Whether syncs of the replicated directories can be believed.
    pub trust: Trust,
    /// For names of streams; drawn at random for each run of the daemon.
    pub seed: u64,
}
