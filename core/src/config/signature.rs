//! A number that is equal on two nodes exactly if they were configured alike.

use serde::Serialize;

use crate::config::{cluster::ClusterConfig, difference::fixed, module::ModuleConfig};

/// FNV-1a, 64 bits: http://www.isthe.com/chongo/tech/comp/fnv/ (offset basis and prime).
const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01b3;

/// Digest of everything both nodes of a module must agree about while they run.
///
/// What may change under a running module is left out: the nodes need not change at one instant.
/// Stable across machines and restarts for one version of the types. Not a protection against
/// forgery: configurations arrive over authenticated channels.
pub fn signature(cluster: &ClusterConfig, module: &ModuleConfig) -> u64 {
    digest(&(cluster, fixed(module)))
}

/// Digest of a whole configuration: equal exactly if every setting is.
pub fn revision(cluster: &ClusterConfig, module: &ModuleConfig) -> u64 {
    digest(&(cluster, module))
}

fn digest(shared: &impl Serialize) -> u64 {
    let bytes = bincode::serde::encode_to_vec(shared, bincode::config::standard())
        .expect("configurations hold text, numbers and lists only, which always encode");
    bytes.iter().fold(BASIS, |digest, &byte| (digest ^ u64::from(byte)).wrapping_mul(PRIME))
}
