//! Sealed datagrams: nobody without the cluster's key can read, forge or repeat one.
//!
//! Each run of a daemon seals under a key of its own, derived from the cluster's key, the
//! sender's number and the number of the run, so that a counter is enough as nonce
//! (ChaCha20-Poly1305, RFC 8439). Traffic with the witness uses a second key: a witness cannot
//! speak for a node. A receiver keeps one window of counters per sender (RFC 4303, section
//! 3.4.3) and refuses runs older than the newest it has heard.
//!
//! The one repetition that gets through is that of an old run towards a receiver that has just
//! restarted, while the true sender is silent; messages themselves name the receiver's run.

mod window;

use std::collections::BTreeMap;

use havre_core::{
    ids::{ClusterId, NodeId},
    wire::{
        frame::{self, DecodeError, HEADER_BYTES, Header, TooLarge},
        message::Message,
    },
};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use thiserror::Error;

use self::window::Window;
use crate::redacted::Redacted;

/// Length of a key, in bytes.
pub const KEY_BYTES: usize = 32;

/// A secret shared by the members of a cluster.
pub type Key = Redacted<[u8; KEY_BYTES]>;

/// Who a member is, and the secrets it holds.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The cluster.
    pub cluster: ClusterId,
    /// The member.
    pub node: NodeId,
    /// Secret of the nodes; the witness does not have it.
    pub nodes_key: Option<Key>,
    /// Secret of the nodes and the witness.
    pub witness_key: Key,
}

impl Identity {
    /// Makes the identity of a node from the cluster's key.
    pub fn of_node(cluster: ClusterId, node: NodeId, cluster_key: &Key) -> Self {
        let witness_key = witness_key(cluster_key);
        Self { cluster, node, nodes_key: Some(cluster_key.clone()), witness_key }
    }

    /// Makes the identity of a cluster's witness.
    pub fn of_witness(cluster: ClusterId, witness_key: Key) -> Self {
        Self { cluster, node: NodeId::WITNESS, nodes_key: None, witness_key }
    }

    fn key_between(&self, a: NodeId, b: NodeId) -> Option<&Key> {
        if a == NodeId::WITNESS || b == NodeId::WITNESS {
            Some(&self.witness_key)
        } else {
            self.nodes_key.as_ref()
        }
    }
}

/// The key for traffic with the witness, as given to the witness.
pub fn witness_key(cluster_key: &Key) -> Key {
    Redacted::new(blake3::derive_key("havre 2026-11 witness traffic", cluster_key.expose()))
}

/// Why a datagram is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Error)]
pub enum Rejected {
    /// Not ours at all.
    #[error("not a datagram of Havre: another program uses this port")]
    Foreign,
    /// Of a release too far away.
    #[error("the sender speaks a protocol version that this release does not")]
    Version,
    /// Of another cluster.
    #[error("from another cluster: two clusters share an address and port")]
    OtherCluster,
    /// Of a cluster that this witness does not serve.
    #[error(
        "of a cluster that this witness does not serve: run `havre cluster join` here with that \
         cluster's havre-witness.bundle, and restart the witness"
    )]
    UnknownCluster,
    /// For somebody else, or from this node itself.
    #[error("addressed to another node: check the addresses in cluster.xml")]
    Misaddressed,
    /// The seal does not open.
    #[error("sealed with a wrong key, or altered: repeat `havre cluster join` on the sender")]
    Seal,
    /// Heard before, or too old to tell.
    #[error("repeated datagram")]
    Replayed,
    /// Of a run that ended: somebody repeats it, or the sender's clock was set back.
    #[error("from an earlier run of the sender: restart the daemons if its clock was set back")]
    OldRun,
    /// Sealed well, but not readable.
    #[error("unreadable content: nodes run different builds of one version")]
    Malformed,
}

impl From<DecodeError> for Rejected {
    fn from(error: DecodeError) -> Self {
        match error {
            DecodeError::Foreign => Self::Foreign,
            DecodeError::Version(_) => Self::Version,
            DecodeError::Malformed => Self::Malformed,
        }
    }
}

/// Seals and opens the datagrams of one run of one member.
#[derive(Debug)]
pub struct Sealer {
    identity: Identity,
    run: u64,
    counter: u64,
    own_keys: BTreeMap<bool, LessSafeKey>,
    heard: BTreeMap<NodeId, Heard>,
}

#[derive(Debug)]
struct Heard {
    run: u64,
    key: LessSafeKey,
    window: Window,
}

impl Sealer {
    /// Makes the sealer of a run. `run` must be larger than that of every earlier run of this
    /// member: a repeated run would repeat nonces.
    pub fn new(identity: Identity, run: u64) -> Self {
        Self { identity, run, counter: 0, own_keys: BTreeMap::new(), heard: BTreeMap::new() }
    }

    /// The member.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The datagram that carries `message` to `to`.
    ///
    /// # Errors
    /// The message is too large for a datagram.
    pub fn seal(&mut self, to: NodeId, message: &Message) -> Result<Vec<u8>, TooLarge> {
        let content = frame::encode(message)?;
        self.counter += 1;
        let from = self.identity.node;
        let header = Header::new(self.identity.cluster, from, to, self.run, self.counter);
        let master = self.identity.key_between(from, to);
        let master = master.expect("a witness never writes to a witness");
        let key = self
            .own_keys
            .entry(to == NodeId::WITNESS)
            .or_insert_with(|| run_key(master, from, self.run));
        let clear = header.encode();
        let mut datagram = Vec::with_capacity(HEADER_BYTES + content.len() + 16);
        datagram.extend_from_slice(&clear);
        let mut sealed = content;
        key.seal_in_place_append_tag(nonce(self.counter), Aad::from(clear), &mut sealed)
            .expect("a datagram is far below the cipher's limit");
        datagram.extend_from_slice(&sealed);
        Ok(datagram)
    }

    /// The sender and the message of a datagram. Survives any bytes.
    ///
    /// # Errors
    /// The datagram is not accepted; nothing changed.
    pub fn open(&mut self, datagram: &[u8]) -> Result<(NodeId, Message), Rejected> {
        let (header, sealed) = Header::split(datagram)?;
        if header.cluster != self.identity.cluster {
            return Err(Rejected::OtherCluster);
        }
        let me = self.identity.node;
        if header.to != me || header.from == me {
            return Err(Rejected::Misaddressed);
        }
        let known = self.heard.get(&header.from).filter(|heard| heard.run == header.run);
        let fresh;
        let key = match known {
            Some(heard) => &heard.key,
            None => {
                let master = self.identity.key_between(header.from, me);
                fresh = run_key(master.ok_or(Rejected::Misaddressed)?, header.from, header.run);
                &fresh
            }
        };
        let mut content = sealed.to_vec();
        let clear = &datagram[..HEADER_BYTES];
        let content = key
            .open_in_place(nonce(header.counter), Aad::from(clear), &mut content)
            .map_err(|_| Rejected::Seal)?;
        self.note(&header)?;
        Ok((header.from, frame::decode(content)?))
    }

    /// Notes an authenticated counter, or refuses it.
    fn note(&mut self, header: &Header) -> Result<(), Rejected> {
        if let Some(heard) = self.heard.get_mut(&header.from) {
            if header.run < heard.run {
                return Err(Rejected::OldRun);
            }
            if header.run == heard.run {
                return if heard.window.note(header.counter) {
                    Ok(())
                } else {
                    Err(Rejected::Replayed)
                };
            }
        }
        let me = self.identity.node;
        let master = self.identity.key_between(header.from, me).ok_or(Rejected::Misaddressed)?;
        let key = run_key(master, header.from, header.run);
        let window = Window::starting_at(header.counter);
        self.heard.insert(header.from, Heard { run: header.run, key, window });
        Ok(())
    }
}

fn run_key(master: &Key, from: NodeId, run: u64) -> LessSafeKey {
    let mut material = Vec::with_capacity(KEY_BYTES + 10);
    material.extend_from_slice(master.expose());
    material.extend_from_slice(&from.0.to_be_bytes());
    material.extend_from_slice(&run.to_be_bytes());
    let bytes = blake3::derive_key("havre 2026-11 datagrams of one run", &material);
    let key = UnboundKey::new(&CHACHA20_POLY1305, &bytes).expect("the key has the cipher's length");
    LessSafeKey::new(key)
}

fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[NONCE_LEN - 8..].copy_from_slice(&counter.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

#[cfg(test)]
mod tests;
