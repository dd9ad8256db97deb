//! Steps a machine and writes down what it was told, so that any run can be repeated exactly.
//!
//! A machine is a function of its configuration, its seed and its inputs. The journal holds the
//! inputs with their moments; [`replay`] feeds them to a fresh machine and compares nothing: the
//! caller compares the effects.

use serde::{Deserialize, Serialize};

use crate::{
    machine::{Machine, Out},
    time::Instant,
};

/// Largest journal entry that is read back, in bytes.
pub const ENTRY_BYTES_MAX: usize = 1 << 20;

/// One step of a machine: a fact, or the passing of time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry<I> {
    /// When.
    pub now: Instant,
    /// What; `None`: time passed.
    pub input: Option<I>,
}

/// Why a journal entry cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EntryError {
    /// The entry could not be written.
    #[error("journal entry cannot be encoded: {0}")]
    Encode(#[from] bincode::error::EncodeError),
    /// The bytes are no entry: cut off, rotten, or of another version.
    #[error("journal entry cannot be read (cut off, damaged, or of another version): {0}")]
    Decode(#[from] bincode::error::DecodeError),
}

impl<I: Serialize + for<'de> Deserialize<'de>> Entry<I> {
    /// Writes an entry behind its length (4 bytes, little-endian).
    pub fn encode(&self, bytes: &mut Vec<u8>) -> Result<(), EntryError> {
        let start = bytes.len();
        bytes.extend_from_slice(&[0; 4]);
        let body = bincode::serde::encode_to_vec(self, bincode::config::standard())?;
        bytes.extend_from_slice(&body);
        let length = u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes();
        bytes[start..start + 4].copy_from_slice(&length);
        Ok(())
    }

    /// Reads every whole entry; a torn last one ends the journal without error.
    pub fn decode_all(mut bytes: &[u8]) -> Result<Vec<Self>, EntryError> {
        let mut entries = Vec::new();
        while let Some((head, rest)) = bytes.split_first_chunk::<4>() {
            let length = u32::from_le_bytes(*head) as usize;
            if length > ENTRY_BYTES_MAX || rest.len() < length {
                break;
            }
            let config = bincode::config::standard().with_limit::<ENTRY_BYTES_MAX>();
            let (entry, _) = bincode::serde::decode_from_slice(&rest[..length], config)?;
            entries.push(entry);
            bytes = &rest[length..];
        }
        Ok(entries)
    }
}

/// Carries one entry out.
pub fn step<M: Machine>(
    machine: &mut M,
    now: Instant,
    input: Option<M::Input>,
    out: &mut Out<M::Action>,
) {
    match input {
        Some(input) => machine.handle(now, input, out),
        None => machine.handle_timeout(now, out),
    }
}

/// Feeds a journal to a fresh machine: everything it ordered, entry by entry.
pub fn replay<M: Machine>(
    machine: &mut M,
    entries: impl IntoIterator<Item = Entry<M::Input>>,
) -> Vec<(Instant, Vec<M::Action>)> {
    let mut out = Out::new();
    entries
        .into_iter()
        .map(|entry| {
            step(machine, entry.now, entry.input, &mut out);
            (entry.now, out.drain().collect())
        })
        .collect()
}
