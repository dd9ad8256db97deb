//! The records of a node: one per module, and the number of the daemon's run.

use std::{
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use havre_core::{
    checks::record::ChecksRecord,
    effect::{ModuleRecord, Record, SavedState},
    ids::ModuleId,
    replication::generation::CopyState,
};

use serde::de::DeserializeOwned;

use super::{Store, StoreError};

/// What the names of records of checks begin with.
const CHECKS_PREFIX: &str = "checks-";

/// Durable records of a node's modules, in `STATE/records`.
#[derive(Debug, Clone)]
pub struct ModuleRecords {
    store: Store,
}

impl ModuleRecords {
    /// Opens the records of a state directory.
    ///
    /// # Errors
    /// The directory cannot be created.
    pub fn open(state_dir: &Path) -> Result<Self, StoreError> {
        Ok(Self { store: Store::open(state_dir.join("records"))? })
    }

    /// Makes a record durable.
    ///
    /// # Errors
    /// The disk is full or failing; the old record stands.
    pub fn save(&self, record: &Record) -> Result<(), StoreError> {
        let (name, json) = match record {
            Record::Module { module, record } => {
                (format!("module-{}", module.0), serde_json::to_vec_pretty(record))
            }
            Record::Checks { module, record } => {
                (format!("{CHECKS_PREFIX}{}", module.0), serde_json::to_vec_pretty(record))
            }
        };
        self.store.write(&name, &json.expect("records are plain values"))
    }

    /// Reads every record, and says which were damaged.
    ///
    /// A damaged record of checks begins anew: switches in their first position, nothing counted.
    ///
    /// The copy of a module with a damaged record counts as half copied: it is never taken for
    /// up to date, and is repaired by a full resynchronisation from the other node.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn load(&self) -> Result<(SavedState, Vec<String>), StoreError> {
        let mut saved = SavedState::default();
        let mut complaints = Vec::new();
        for name in self.store.names()? {
            if let Some(module) = name.strip_prefix(CHECKS_PREFIX).and_then(|n| n.parse().ok()) {
                let record = self.read(&name).unwrap_or_else(|error| {
                    complaints.push(error.to_string());
                    ChecksRecord::default()
                });
                saved.checks.insert(ModuleId(module), record);
                continue;
            }
            let Some(module) = name.strip_prefix("module-").and_then(|n| n.parse().ok()) else {
                continue;
            };
            let record = self.read(&name).unwrap_or_else(|error| {
                complaints.push(error.to_string());
                let mut record = ModuleRecord::blank();
                record.lineage.copy = CopyState::Inconsistent;
                record
            });
            saved.modules.insert(ModuleId(module), record);
        }
        Ok((saved, complaints))
    }

    /// Removes everything that is noted about a module.
    ///
    /// # Errors
    /// The operating system refuses.
    pub fn forget(&self, module: ModuleId) -> Result<(), StoreError> {
        let suffix = format!("-{}", module.0);
        for name in self.store.names()?.iter().filter(|name| name.ends_with(&suffix)) {
            self.store.remove(name)?;
        }
        Ok(())
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> Result<T, StoreError> {
        let damaged = || StoreError::Damaged(self.store.path(name));
        let bytes = self.store.read(name)?.ok_or_else(damaged)?;
        serde_json::from_slice(&bytes).map_err(|_| damaged())
    }
}

/// The number of a new run of this member: larger than all before, and than the milliseconds
/// since 1970 where the clock is right. Durable before it is returned.
///
/// # Errors
/// The record is damaged or cannot be written.
pub fn next_run(state_dir: &Path, floor: u64) -> Result<u64, StoreError> {
    let store = Store::open(state_dir.join("records"))?;
    let last = match store.read("run") {
        Ok(bytes) => bytes.and_then(|b| String::from_utf8(b).ok()).and_then(|t| t.parse().ok()),
        // The clock is the second guard; a damaged counter must not stop the node.
        Err(StoreError::Damaged(_)) => None,
        Err(error) => return Err(error),
    };
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let clock = u64::try_from(clock).unwrap_or(u64::MAX);
    let run = clock.max(floor).max(last.unwrap_or(0u64).saturating_add(1));
    store.write("run", run.to_string().as_bytes())?;
    Ok(run)
}
