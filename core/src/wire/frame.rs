//! Datagrams as bytes: a header in clear that says who talks to whom, then the sealed message.
//!
//! ```text
//!  0  magic 'H'        1  version of the content    2  newest version the sender speaks   3  zero
//!  4  cluster id (8)  12  sender (2)               14  receiver (2)
//! 16  run of the sender's daemon (8)               24  counter (8)
//! 32  sealed message, then its tag
//! ```
//! Numbers of the header are big-endian. The message is in bincode's standard encoding, version
//! 2 of that crate, which is pinned. Sealing itself is the runtime's.

use thiserror::Error;

use crate::{
    ids::{ClusterId, NodeId},
    wire::{
        message::Message,
        version::{OURS, VERSION_NEWEST, VersionMismatch, VersionRange, negotiate},
    },
};

/// Largest encoded message, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 8 * 1024;
/// Length of the header, in bytes.
pub const HEADER_BYTES: usize = 32;

const MAGIC: u8 = b'H';

/// The part of a datagram that is sent in clear, and authenticated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Version of the content.
    pub version: u8,
    /// Newest version the sender speaks.
    pub newest: u8,
    /// The cluster.
    pub cluster: ClusterId,
    /// The sender.
    pub from: NodeId,
    /// The receiver.
    pub to: NodeId,
    /// One run of the sender's daemon; grows with each run.
    pub run: u64,
    /// Grows with each datagram of a run.
    pub counter: u64,
}

/// Why bytes are not a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// Too short, too long, or not marked as ours: something else uses this port.
    #[error("not a datagram of Havre")]
    Foreign,
    /// The sender is too new or too old.
    #[error(transparent)]
    Version(#[from] VersionMismatch),
    /// Opened, but not a message of that version: a fault of the sender.
    #[error("a datagram of the right version has a content that cannot be read")]
    Malformed,
}

/// The message is larger than [`MESSAGE_BYTES_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a message is larger than {MESSAGE_BYTES_MAX} bytes: too many modules for one heartbeat")]
pub struct TooLarge;

impl Header {
    /// Makes the header of a message in the newest version.
    pub const fn new(cluster: ClusterId, from: NodeId, to: NodeId, run: u64, counter: u64) -> Self {
        let (version, newest) = (VERSION_NEWEST, VERSION_NEWEST);
        Self { version, newest, cluster, from, to, run, counter }
    }

    /// The header's bytes.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0] = MAGIC;
        bytes[1] = self.version;
        bytes[2] = self.newest;
        bytes[4..12].copy_from_slice(&self.cluster.0.to_be_bytes());
        bytes[12..14].copy_from_slice(&self.from.0.to_be_bytes());
        bytes[14..16].copy_from_slice(&self.to.0.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.run.to_be_bytes());
        bytes[24..32].copy_from_slice(&self.counter.to_be_bytes());
        bytes
    }

    /// Splits a datagram into header and sealed message.
    ///
    /// # Errors
    /// [`DecodeError::Foreign`] or [`DecodeError::Version`].
    pub fn split(datagram: &[u8]) -> Result<(Self, &[u8]), DecodeError> {
        let (head, sealed) =
            datagram.split_first_chunk::<HEADER_BYTES>().ok_or(DecodeError::Foreign)?;
        if head[0] != MAGIC || head[3] != 0 {
            return Err(DecodeError::Foreign);
        }
        let (version, newest) = (head[1], head[2]);
        if newest < version {
            return Err(DecodeError::Foreign);
        }
        negotiate(OURS, VersionRange { oldest: version, newest: version })?;
        let header = Self {
            version,
            newest,
            cluster: ClusterId(u64::from_be_bytes(array(&head[4..12]))),
            from: NodeId(u16::from_be_bytes([head[12], head[13]])),
            to: NodeId(u16::from_be_bytes([head[14], head[15]])),
            run: u64::from_be_bytes(array(&head[16..24])),
            counter: u64::from_be_bytes(array(&head[24..32])),
        };
        Ok((header, sealed))
    }
}

fn array(bytes: &[u8]) -> [u8; 8] {
    bytes.try_into().expect("callers pass eight bytes")
}

/// The bytes of a message, in the newest version.
///
/// # Errors
/// The message is too large.
pub fn encode(message: &Message) -> Result<Vec<u8>, TooLarge> {
    let bytes = bincode::serde::encode_to_vec(message, bincode::config::standard())
        .map_err(|_| TooLarge)?;
    if bytes.len() > MESSAGE_BYTES_MAX { Err(TooLarge) } else { Ok(bytes) }
}

/// The message that `bytes` are. Survives any bytes.
///
/// # Errors
/// [`DecodeError::Malformed`], also if bytes are left over.
pub fn decode(bytes: &[u8]) -> Result<Message, DecodeError> {
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(DecodeError::Malformed);
    }
    let config = bincode::config::standard().with_limit::<{ MESSAGE_BYTES_MAX * 8 }>();
    let (message, used) =
        bincode::serde::decode_from_slice(bytes, config).map_err(|_| DecodeError::Malformed)?;
    if used == bytes.len() { Ok(message) } else { Err(DecodeError::Malformed) }
}

#[cfg(test)]
mod tests;
