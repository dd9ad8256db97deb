//! The file that makes a machine a member: everything it needs, in one JSON text.

use std::path::{Path, PathBuf};

use havre_core::ids::ClusterId;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::hex;
use crate::{redacted::Redacted, seal::Key};

/// Name of the witness where nodes have theirs.
pub const WITNESS_NAME: &str = "witness";

const FORMAT: u32 = 1;

/// What a member gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    /// The cluster.
    pub cluster: ClusterId,
    /// Name of the node, or [`WITNESS_NAME`].
    pub name: String,
    /// The text of `cluster.xml`.
    pub cluster_xml: String,
    /// The cluster's key; for the witness, the key of traffic with the witness.
    pub key: Key,
    /// Certificate of the cluster's authority, PEM.
    pub authority: String,
    /// Certificate of the member, PEM.
    pub certificate: String,
    /// Its private key, PEM.
    pub private_key: Redacted<String>,
    /// The smallest number that a run of this member may have.
    pub run_floor: u64,
}

/// Why a bundle cannot be read.
#[derive(Debug, Error)]
pub enum BundleError {
    /// Not a bundle, or cut off.
    #[error(
        "{}: not a bundle of `havre cluster init`, or damaged on the way ({why}); copy it again",
        .path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        why: String,
    },
    /// Written by another release.
    #[error(
        "{}: bundle format {found}, this release reads {FORMAT}; upgrade havre here",
        .path.display()
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
}

/// The JSON text. Never printed: holds the secrets in clear.
#[derive(Serialize, Deserialize)]
struct Text {
    havre_bundle: u32,
    cluster: String,
    name: String,
    key: String,
    authority: String,
    certificate: String,
    private_key: String,
    run_floor: u64,
    cluster_xml: String,
}

impl Bundle {
    /// The text of the file, with the secrets.
    pub fn text(&self) -> Redacted<String> {
        let text = Text {
            havre_bundle: FORMAT,
            cluster: hex::of_u64(self.cluster.0),
            name: self.name.clone(),
            key: hex::of(self.key.expose()),
            authority: self.authority.clone(),
            certificate: self.certificate.clone(),
            private_key: self.private_key.expose().clone(),
            run_floor: self.run_floor,
            cluster_xml: self.cluster_xml.clone(),
        };
        Redacted::new(serde_json::to_string_pretty(&text).expect("plain values") + "\n")
    }

    /// Reads the text of a file; `path` is its name in messages.
    ///
    /// # Errors
    /// It is not a bundle.
    pub fn parse(path: &Path, text: &str) -> Result<Self, BundleError> {
        let damaged = |why: String| BundleError::Damaged { path: path.to_owned(), why };
        let text: Text = serde_json::from_str(text).map_err(|e| damaged(e.to_string()))?;
        if text.havre_bundle != FORMAT {
            return Err(BundleError::Format { path: path.to_owned(), found: text.havre_bundle });
        }
        let cluster = hex::to(&text.cluster).ok_or_else(|| damaged("cluster".to_owned()))?;
        let key = hex::to(&text.key).ok_or_else(|| damaged("key".to_owned()))?;
        Ok(Self {
            cluster: ClusterId(u64::from_be_bytes(cluster)),
            name: text.name,
            cluster_xml: text.cluster_xml,
            key: Redacted::new(key),
            authority: text.authority,
            certificate: text.certificate,
            private_key: Redacted::new(text.private_key),
            run_floor: text.run_floor,
        })
    }

    /// The name of the file in which it travels.
    pub fn file_name(&self) -> String {
        let safe = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let name: String = self.name.chars().map(|c| if safe(c) { c } else { '_' }).collect();
        format!("havre-{name}.bundle")
    }
}
