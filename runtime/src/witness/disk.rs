//! The witness on a real machine: which clusters it serves, and where it remembers.
//!
//! `STATE/witness/clusters/ID.json` are the installed bundles, `STATE/witness/records` the
//! records, one per module of a cluster.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use havre_core::{
    effect::WitnessRecord,
    ids::{ClusterId, ModuleId},
    time::Instant,
};
use tracing::error;

use super::{Key, WitnessOs};
use crate::{
    cluster::{Bundle, ClusterError, Membership},
    store::{Store, StoreError, create_private_dir, write_private},
};

/// A witness's records on disk, and the machine's boot clock.
pub struct DiskWitness<C> {
    store: Store,
    clock: C,
}

impl<C: Fn() -> Instant + 'static> DiskWitness<C> {
    /// Opens the records of a state directory.
    ///
    /// # Errors
    /// The directory cannot be created.
    pub fn open(state_dir: &Path, clock: C) -> Result<Self, StoreError> {
        Ok(Self { store: Store::open(state_dir.join("witness").join("records"))?, clock })
    }
}

impl<C: Fn() -> Instant + 'static> WitnessOs for DiskWitness<C> {
    fn now(&self) -> Instant {
        (self.clock)()
    }

    async fn load(&self) -> Result<BTreeMap<Key, WitnessRecord>, String> {
        read_all(&self.store).map_err(|error| error.to_string())
    }

    async fn persist(&self, key: Key, record: WitnessRecord) -> bool {
        let store = self.store.clone();
        let write = move || {
            let json = serde_json::to_vec_pretty(&record).expect("records are plain values");
            store.write(&name_of(key), &json)
        };
        match tokio::task::spawn_blocking(write).await {
            Ok(Ok(())) => true,
            Ok(Err(reason)) => {
                error!(%reason, "a promise cannot be made durable and is not given");
                false
            }
            Err(_) => false,
        }
    }
}

fn name_of((cluster, module): Key) -> String {
    format!("{:016x}-{}", cluster.0, module.0)
}

fn key_of(name: &str) -> Option<Key> {
    let (cluster, module) = name.split_once('-')?;
    let cluster = u64::from_str_radix(cluster, 16).ok()?;
    Some((ClusterId(cluster), ModuleId(module.parse().ok()?)))
}

fn read_all(store: &Store) -> Result<BTreeMap<Key, WitnessRecord>, StoreError> {
    let mut records = BTreeMap::new();
    for name in store.names()? {
        let Some(key) = key_of(&name) else { continue };
        let Some(bytes) = store.read(&name)? else { continue };
        let damaged = || StoreError::Damaged(PathBuf::from(format!("witness/records/{name}")));
        records.insert(key, serde_json::from_slice(&bytes).map_err(|_| damaged())?);
    }
    Ok(records)
}

/// Makes this machine the witness of one more cluster.
///
/// # Errors
/// The disk fails.
pub fn install(state_dir: &Path, membership: &Membership) -> Result<PathBuf, ClusterError> {
    let dir = clusters_in(state_dir);
    let path = dir.join(format!("{:016x}.json", membership.cluster().0));
    let failed = |source| ClusterError::Io { path: path.clone(), source };
    create_private_dir(&dir).map_err(failed)?;
    write_private(&path, membership.bundle().text().expose().as_bytes()).map_err(failed)?;
    Ok(path)
}

/// The clusters of which this machine is the witness.
///
/// # Errors
/// An installed bundle cannot be read.
pub fn clusters(state_dir: &Path) -> Result<Vec<Membership>, ClusterError> {
    let dir = clusters_in(state_dir);
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(ClusterError::Io { path: dir, source }),
    };
    let mut paths: Vec<PathBuf> = entries.filter_map(|e| e.ok().map(|e| e.path())).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    paths.sort();
    let read = |path: &PathBuf| {
        let failed = |source| ClusterError::Io { path: path.clone(), source };
        let text = fs::read_to_string(path).map_err(failed)?;
        Membership::of(Bundle::parse(path, &text)?)
    };
    paths.iter().map(read).collect()
}

fn clusters_in(state_dir: &Path) -> PathBuf {
    state_dir.join("witness").join("clusters")
}
