//! Membership of a cluster: who this node is, the secrets it shares, and how it got them.
//!
//! `havre cluster init` makes the cluster's key and certificate authority, and one *bundle* per
//! other node and for the witness. A technician copies each bundle to its machine, where
//! `havre cluster join` installs it. A bundle holds secrets: files are of mode 0600.
//!
//! Installed in `STATE/cluster`: `membership.json` (the bundle) and `cluster.xml` (a copy to
//! read).

pub mod authority;
pub mod bundle;
mod hex;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use havre_core::{
    config::{
        cluster::{self, ClusterConfig},
        error::ConfigErrors,
    },
    ids::{ClusterId, NodeId},
};
use thiserror::Error;

pub use self::bundle::{Bundle, BundleError};
use self::{
    authority::{Authority, CertificateError},
    bundle::WITNESS_NAME,
};
use crate::{
    redacted::Redacted,
    seal::{Identity, KEY_BYTES, Key, witness_key},
    store::{create_private_dir, write_private},
    transport::tls::{StreamSecurity, TlsError},
};

/// Why a cluster cannot be made, joined or read.
#[derive(Debug, Error)]
pub enum ClusterError {
    /// The configuration cannot be used.
    #[error("{0}")]
    Config(#[from] ConfigErrors),
    /// The configuration does not name the node.
    #[error(
        "\"{name}\" is not a node of cluster.xml, which names {}; use --node with one of them",
        .known.join(", ")
    )]
    UnknownNode {
        /// The name that was given.
        name: String,
        /// The names that exist.
        known: Vec<String>,
    },
    /// A node has the name that stands for the witness.
    #[error("cluster.xml: \"{WITNESS_NAME}\" is reserved for the witness; rename that node")]
    ReservedName,
    /// This machine is a member already.
    #[error(
        "this machine is already \"{name}\" of cluster {cluster}; to make it a member of \
         another cluster, stop the daemon and add --replace"
    )]
    Member {
        /// Its name there.
        name: String,
        /// The cluster.
        cluster: String,
    },
    /// This machine is not a member.
    #[error(
        "{}: this machine belongs to no cluster yet; run `havre cluster init` on the first \
         node, or `havre cluster join BUNDLE` on the others",
        .0.display()
    )]
    NotMember(PathBuf),
    /// The bundle is for another node.
    #[error("this bundle is for \"{bundle}\", not for \"{wanted}\"; use havre-{wanted}.bundle")]
    OtherNode {
        /// Whom the bundle is for.
        bundle: String,
        /// Who was asked for.
        wanted: String,
    },
    /// The bundle cannot be read.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// A certificate cannot be made.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// A certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The operating system refused.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// The operating system gives no randomness.
    #[error("the operating system gives no random numbers")]
    Randomness,
}

/// What a member of a cluster knows.
#[derive(Debug, Clone)]
pub struct Membership {
    bundle: Bundle,
    config: ClusterConfig,
    node: NodeId,
}

impl Membership {
    /// Reads the membership of a state directory.
    ///
    /// # Errors
    /// [`ClusterError::NotMember`], or what is installed cannot be used.
    pub fn load(state_dir: &Path) -> Result<Self, ClusterError> {
        let path = path_in(state_dir);
        let text = fs::read_to_string(&path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => ClusterError::NotMember(state_dir.to_owned()),
            _ => ClusterError::Io { path: path.clone(), source },
        })?;
        Self::of(Bundle::parse(&path, &text)?)
    }

    /// Takes a bundle for what it says.
    ///
    /// # Errors
    /// Its configuration is wrong, or does not name its node.
    pub fn of(bundle: Bundle) -> Result<Self, ClusterError> {
        let config = cluster::parse(Path::new("cluster.xml"), &bundle.cluster_xml)?.value;
        let node = node_of(&config, &bundle.name)?;
        Ok(Self { bundle, config, node })
    }

    /// Whether it may be installed there.
    ///
    /// # Errors
    /// This machine is a member of another cluster, or another member, and `replace` is not set.
    pub fn check_installable(&self, state_dir: &Path, replace: bool) -> Result<(), ClusterError> {
        match Self::load(state_dir) {
            Ok(old)
                if !replace && (old.cluster() != self.cluster() || old.name() != self.name()) =>
            {
                let cluster = hex::of_u64(old.cluster().0);
                Err(ClusterError::Member { name: old.name().to_owned(), cluster })
            }
            _ => Ok(()),
        }
    }

    /// Installs it, durably.
    ///
    /// # Errors
    /// As [`check_installable`](Self::check_installable), or the disk fails.
    pub fn install(&self, state_dir: &Path, replace: bool) -> Result<(), ClusterError> {
        self.check_installable(state_dir, replace)?;
        let path = path_in(state_dir);
        let dir = state_dir.join("cluster");
        let failed = |path: &Path| {
            let path = path.to_owned();
            |source| ClusterError::Io { path, source }
        };
        create_private_dir(&dir).map_err(failed(&dir))?;
        let copy = dir.join("cluster.xml");
        write_private(&copy, self.bundle.cluster_xml.as_bytes()).map_err(failed(&copy))?;
        write_private(&path, self.bundle.text().expose().as_bytes()).map_err(failed(&path))
    }

    /// The configuration.
    pub fn config(&self) -> &ClusterConfig {
        &self.config
    }

    /// This member.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Its name; `witness` for the witness.
    pub fn name(&self) -> &str {
        &self.bundle.name
    }

    /// The cluster.
    pub fn cluster(&self) -> ClusterId {
        self.bundle.cluster
    }

    /// The smallest number that a run of this member may have.
    pub fn run_floor(&self) -> u64 {
        self.bundle.run_floor
    }

    /// Who this member is towards the others' datagrams.
    pub fn identity(&self) -> Identity {
        if self.node == NodeId::WITNESS {
            Identity::of_witness(self.cluster(), self.bundle.key.clone())
        } else {
            Identity::of_node(self.cluster(), self.node, &self.bundle.key)
        }
    }

    /// How this node's streams are protected.
    ///
    /// # Errors
    /// A certificate is expired or damaged.
    pub fn stream_security(&self) -> Result<StreamSecurity, ClusterError> {
        let Bundle { authority, certificate, private_key, .. } = &self.bundle;
        let names = self.config.nodes.clone();
        Ok(StreamSecurity::new(authority, certificate, private_key, names, self.name())?)
    }

    /// The bundle it came from.
    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }
}

/// What `havre cluster init` made.
#[derive(Debug)]
pub struct NewCluster {
    /// The first node.
    pub own: Membership,
    /// Bundles of the other nodes and of the witness.
    pub others: Vec<Bundle>,
}

/// Makes the secrets of a new cluster. `name` is the node on which this runs; `now_ms` the
/// milliseconds since 1970, from which the end of the certificates follows.
///
/// # Errors
/// The configuration is wrong, or does not name `name`.
pub fn create(
    file: &Path,
    cluster_xml: &str,
    name: &str,
    now_ms: u64,
) -> Result<NewCluster, ClusterError> {
    let config = cluster::parse(file, cluster_xml)?.value;
    if config.node_named(WITNESS_NAME).is_some() {
        return Err(ClusterError::ReservedName);
    }
    node_of(&config, name)?;
    let id = ClusterId(u64::from_be_bytes(random()?));
    let key: Key = Redacted::new(random::<KEY_BYTES>()?);
    issue(&config, cluster_xml, (id, key), name, now_ms)
}

/// Makes new certificates for every member of the cluster of `own`, under a new authority; name
/// and key of the cluster stay, so that heartbeats go on while the bundles are installed.
///
/// # Errors
/// The operating system gives no randomness.
pub fn renew(own: &Membership, now_ms: u64) -> Result<NewCluster, ClusterError> {
    let Bundle { cluster, key, cluster_xml, name, .. } = own.bundle();
    issue(own.config(), cluster_xml, (*cluster, key.clone()), name, now_ms)
}

/// One bundle for each member, all under a new authority.
fn issue(
    config: &ClusterConfig,
    cluster_xml: &str,
    (id, key): (ClusterId, Key),
    name: &str,
    now_ms: u64,
) -> Result<NewCluster, ClusterError> {
    let authority = Authority::create(id, authority::year_of(now_ms))?;
    let mut own = None;
    let mut others = Vec::new();
    let witness = config.witness.iter().map(|_| WITNESS_NAME);
    for member in config.nodes.iter().map(String::as_str).chain(witness) {
        let certificate = authority.issue(member)?;
        let key = if member == WITNESS_NAME { witness_key(&key) } else { key.clone() };
        let bundle = Bundle {
            cluster: id,
            name: member.to_owned(),
            cluster_xml: cluster_xml.to_owned(),
            key,
            authority: authority.certificate().to_owned(),
            certificate: certificate.pem,
            private_key: certificate.key_pem,
            run_floor: now_ms,
        };
        if member == name {
            own = Some(Membership::of(bundle)?);
        } else {
            others.push(bundle);
        }
    }
    let own = own.expect("the name was looked up in this configuration");
    Ok(NewCluster { own, others })
}

/// Reads a bundle file meant for `wanted`, or for whomever it names.
///
/// # Errors
/// The file cannot be read, is damaged, or is meant for another node.
pub fn open_bundle(path: &Path, wanted: Option<&str>) -> Result<Membership, ClusterError> {
    let text = fs::read_to_string(path)
        .map_err(|source| ClusterError::Io { path: path.to_owned(), source })?;
    let bundle = Bundle::parse(path, &text)?;
    match wanted {
        Some(wanted) if wanted != bundle.name => {
            Err(ClusterError::OtherNode { bundle: bundle.name, wanted: wanted.to_owned() })
        }
        _ => Membership::of(bundle),
    }
}

fn node_of(config: &ClusterConfig, name: &str) -> Result<NodeId, ClusterError> {
    if name == WITNESS_NAME {
        return Ok(NodeId::WITNESS);
    }
    config.node_named(name).ok_or_else(|| ClusterError::UnknownNode {
        name: name.to_owned(),
        known: config.nodes.clone(),
    })
}

fn path_in(state_dir: &Path) -> PathBuf {
    state_dir.join("cluster").join("membership.json")
}

/// Bytes from the operating system's generator.
///
/// # Errors
/// It gives none.
pub fn random<const N: usize>() -> Result<[u8; N], ClusterError> {
    use ring::rand::SecureRandom;
    let mut bytes = [0; N];
    ring::rand::SystemRandom::new().fill(&mut bytes).map_err(|_| ClusterError::Randomness)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
