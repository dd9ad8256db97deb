//! The data stream between the two data paths of a module: its messages and frames.
//!
//! The target connects and speaks first. One frame is `header length (u32 LE)`, `payload length
//! (u32 LE)`, header (bincode), payload (raw bytes of a write or of a copied part).
//!
//! ```text
//! target                                source
//!   Hello            ------------------>        who, which generation, what it still holds
//!                    <------------------        Accept, or Refused and the end
//!   Marks ...        ------------------>        only if the stream does not resume an earlier one
//!                    <------------------        MarksHeld: the target may forget its own marks
//!                    <------------------        Element(Item) ...: compare and copy
//!   Answer, Ack      ------------------>
//!                    <------------------        Element(CaughtUp)
//!                    <------------------        Element(Change | SyncPoint) ...
//!   Ack              ------------------>
//! ```
//!
//! Everything that the target must carry out in order is an [`Element`] with a [`Seq`]; the
//! numbers of one stream have no gaps. Bytes from the wire are never trusted: every length is
//! bounded before anything is allocated.

use serde::{Deserialize, Serialize};

use crate::{
    ids::{ModuleId, Seq},
    replication::{generation::Generation, record::CHANGE_BYTES_MAX},
    status::Progress,
};

/// Version of this stream.
pub const STREAM_PROTOCOL: u16 = 1;
/// Longest header of a frame.
pub const HEADER_BYTES_MAX: usize = 256 << 10;
/// Longest payload of a frame.
pub const PAYLOAD_BYTES_MAX: usize = 16 << 20;
/// Bytes of a frame before its header.
pub const PREFIX_BYTES: usize = 8;
/// Longest encoded item.
pub const ITEM_KEY_BYTES_MAX: usize = CHANGE_BYTES_MAX;
/// Items in one [`ToSource::Marks`].
pub const MARKS_PER_MESSAGE_MAX: usize = 1_024;

/// What a mark stands for, in a form that both data paths understand.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct ItemKey(pub Vec<u8>);

/// What one connection continues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resume {
    /// The stream, as named by the source in [`ToTarget::Accept`].
    pub session: u64,
    /// The last element of it that the target received.
    pub received: Seq,
}

/// The target's first words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`STREAM_PROTOCOL`].
    pub protocol: u16,
    /// The module.
    pub module: ModuleId,
    /// Digest of the module's configuration.
    pub signature: u64,
    /// The source's generation, as the target was told.
    pub generation: Generation,
    /// The stream that was cut, if the target was caught up in it.
    pub resume: Option<Resume>,
}

/// From target to source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToSource {
    /// First message.
    Hello(Hello),
    /// Parts of the target's copy that may differ.
    Marks {
        /// The parts.
        items: Vec<ItemKey>,
        /// The whole copy may differ.
        everything: bool,
        /// No further `Marks` follow.
        last: bool,
    },
    /// Cumulative acknowledgement.
    Ack {
        /// Everything up to here was received.
        received: Seq,
        /// Everything up to here is carried out and durable.
        durable: Seq,
    },
    /// The answer to an [`Element::Item`] that asked for a comparison.
    Answer {
        /// The item.
        item: ItemKey,
        /// Defined by the data paths.
        body: Vec<u8>,
    },
    /// The target cannot go on.
    Failed {
        /// What its operating system said.
        reason: String,
    },
}

/// From source to target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToTarget {
    /// The target is let in.
    Accept {
        /// [`STREAM_PROTOCOL`] or lower: the version spoken.
        protocol: u16,
        /// Name of the stream.
        session: u64,
        /// The next element carries the number after this one.
        after: Seq,
        /// The stream goes on where it was cut, without resynchronisation.
        resumed: bool,
        /// The whole copy is compared.
        full: bool,
    },
    /// The target is not let in.
    Refused {
        /// Why, and what to do.
        reason: String,
    },
    /// The source holds the target's marks durably: the target may forget them.
    MarksHeld,
    /// Something to carry out in order.
    Element {
        /// Its place in the order.
        seq: Seq,
        /// What.
        element: Element,
    },
    /// How far the resynchronisation is, for display.
    Progress(Progress),
}

/// What the target carries out, strictly in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Element {
    /// A change of the application: an encoded [`super::record::Change`], its bytes as payload.
    Change {
        /// The encoded change.
        change: Vec<u8>,
        /// The application waits until this is durable.
        sync: bool,
    },
    /// A step of the comparison or copy of one item, defined by the data paths.
    Item {
        /// The item.
        item: ItemKey,
        /// Hashes to compare, or a description of the payload.
        body: Vec<u8>,
    },
    /// Everything before this is to be made durable at once.
    SyncPoint,
    /// The target's copy equals the source's as of here, and barriers wait for the target.
    CaughtUp {
        /// The source's generation.
        generation: Generation,
        /// Bytes that were copied because they differed.
        bytes_copied: u64,
    },
}

impl Element {
    /// Whether somebody waits until this is durable.
    pub const fn wants_sync(&self) -> bool {
        match self {
            Self::Change { sync, .. } => *sync,
            Self::Item { .. } => false,
            Self::SyncPoint | Self::CaughtUp { .. } => true,
        }
    }
}

/// Why bytes are not a frame. The connection is to be closed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// A length is beyond its limit.
    #[error("a frame announces a header of {header} and a payload of {payload} bytes")]
    TooLong {
        /// Announced header length.
        header: usize,
        /// Announced payload length.
        payload: usize,
    },
    /// The header is not a message.
    #[error("a frame's header is malformed: {0}")]
    Malformed(String),
}

/// Lengths of a frame, from its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FramePrefix {
    /// Length of the header.
    pub header: usize,
    /// Length of the payload.
    pub payload: usize,
}

impl FramePrefix {
    /// Reads the first [`PREFIX_BYTES`] of a frame.
    pub fn decode(bytes: [u8; PREFIX_BYTES]) -> Result<Self, StreamError> {
        let [a, b, c, d, e, f, g, h] = bytes;
        let header = u32::from_le_bytes([a, b, c, d]) as usize;
        let payload = u32::from_le_bytes([e, f, g, h]) as usize;
        if header == 0 || header > HEADER_BYTES_MAX || payload > PAYLOAD_BYTES_MAX {
            return Err(StreamError::TooLong { header, payload });
        }
        Ok(Self { header, payload })
    }
}

/// A message that travels in this stream.
pub trait StreamMessage: Serialize + serde::de::DeserializeOwned {
    /// Appends prefix and header of a frame whose payload has this length; the payload itself
    /// is to follow.
    fn encode(&self, payload_len: usize, out: &mut Vec<u8>) {
        assert!(payload_len <= PAYLOAD_BYTES_MAX, "payloads are cut before they are framed");
        let start = out.len();
        out.extend_from_slice(&[0; PREFIX_BYTES]);
        bincode::serde::encode_into_std_write(self, out, format())
            .expect("messages have no type that bincode refuses, and a Vec takes every byte");
        let header_len = out.len() - start - PREFIX_BYTES;
        assert!(header_len <= HEADER_BYTES_MAX, "messages are bounded where they are made");
        out[start..start + 4].copy_from_slice(&(header_len as u32).to_le_bytes());
        out[start + 4..start + 8].copy_from_slice(&(payload_len as u32).to_le_bytes());
    }

    /// Reads a header of exactly these bytes.
    fn decode(header: &[u8]) -> Result<Self, StreamError> {
        let (message, used) = bincode::serde::decode_from_slice::<Self, _>(header, format())
            .map_err(|error| StreamError::Malformed(error.to_string()))?;
        if used != header.len() {
            return Err(StreamError::Malformed(format!("{} bytes left", header.len() - used)));
        }
        Ok(message)
    }
}

impl StreamMessage for ToSource {}
impl StreamMessage for ToTarget {}

/// A whole frame: the message, its payload, and the bytes used.
pub type Frame<'a, M> = (M, &'a [u8], usize);

/// Takes the first whole frame out of `bytes`; `None` if more bytes are needed.
pub fn split_frame<M: StreamMessage>(bytes: &[u8]) -> Result<Option<Frame<'_, M>>, StreamError> {
    let Some((prefix, rest)) = bytes.split_first_chunk::<PREFIX_BYTES>() else {
        return Ok(None);
    };
    let prefix = FramePrefix::decode(*prefix)?;
    let Some(header) = rest.get(..prefix.header) else { return Ok(None) };
    let Some(payload) = rest.get(prefix.header..prefix.header + prefix.payload) else {
        return Ok(None);
    };
    let message = M::decode(header)?;
    Ok(Some((message, payload, PREFIX_BYTES + prefix.header + prefix.payload)))
}

fn format() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<HEADER_BYTES_MAX>()
}

#[cfg(test)]
mod tests;
