//! What a resynchronisation compares and copies, and the steps in which it does so.
//!
//! An [`Item`] is what a mark stands for. The source reads it and sends [`Step`]s; the target
//! carries each out in its turn and gives an [`Answer`] to those that ask. Items cover each other
//! so that few marks suffice:
//!
//! * `Entries` of a directory: names, kinds, attributes of all entries, the first region of each
//!   regular file directly in it, and whole subdirectories that the target lacks. Hence what is
//!   created under an active mark of its directory needs no mark of its own.
//! * `Tree`: the same for everything below, and all regions of all files.
//! * `Region`: one stretch of [`REGION_BYTES`] of a file, with the file's size and attributes.
//! * `File`: all regions. `Attributes`: owner, mode, times, extended attributes of one entry.
//!
//! Bytes from the peer are checked like those of a change: no path leads out.

use serde::{Deserialize, Serialize};

use super::record::{FileTime, Location, NAME_BYTES_MAX, PATH_BYTES_MAX, RecordError};

#[cfg(test)]
mod tests;

/// Length of one region.
pub const REGION_BYTES: u64 = 4 << 20;
/// Length of the blocks that are compared by digest and copied whole.
pub const BLOCK_BYTES: u64 = 64 << 10;
/// Longest encoding of a step or answer.
pub const STEP_BYTES_MAX: usize = 192 << 10;
/// Encoded entries after which a listing is cut into another step.
pub const LISTING_BYTES: usize = 96 << 10;

/// The first half of a BLAKE3 hash.
pub type Digest = [u8; 16];

/// What a mark stands for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[expect(missing_docs, reason = "see the description of the module")]
pub enum Item {
    Region { file: Location, index: u32 },
    File { file: Location },
    Attributes { at: Location },
    Entries { directory: Location },
    Tree { directory: Location },
}

/// Attributes that are compared and set. Access times are not replicated by comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    /// Permission bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time; not compared for directories.
    pub modified: FileTime,
}

/// Kind of an entry, with what cannot be changed in place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "kinds of files")]
pub enum Kind {
    File {
        /// Length in bytes.
        size: u64,
        /// Equal for all names of one file, if it has several.
        identity: Option<u64>,
        /// Of the whole content, if it is at most [`BLOCK_BYTES`].
        digest: Option<Digest>,
    },
    Directory,
    Symlink {
        #[serde(with = "crate::replication::record::bytes")]
        target: Vec<u8>,
    },
    Fifo,
    Socket,
    CharacterDevice(u32),
    BlockDevice(u32),
}

/// One entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its name; empty where the entry is named otherwise.
    #[serde(with = "crate::replication::record::bytes")]
    pub name: Vec<u8>,
    /// Its kind.
    pub kind: Kind,
    /// Its attributes.
    pub attributes: Attributes,
    /// Digest of all its extended attributes.
    pub xattrs: Digest,
}

/// What the target carries out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// A hint, before everything else: if `from` is there and `to` is not, rename it, so that it
    /// need not be copied.
    Renamed {
        /// The old place.
        from: Location,
        /// The new place.
        to: Location,
    },
    /// A hint: if `from` is there and `to` is not, make it another name of it.
    Linked {
        /// A name.
        from: Location,
        /// The new name.
        to: Location,
    },
    /// Entries of a directory in the order of their names, from the first after `after` to
    /// `upto` (`None`: to the end). Asks: [`Answer::Wanted`] or [`Answer::Absent`].
    List {
        /// The directory.
        directory: Location,
        /// Where the last list ended.
        #[serde(with = "crate::replication::record::bytes")]
        after: Vec<u8>,
        /// Whether the directory ends here.
        ends: bool,
        /// The entries.
        entries: Vec<Entry>,
    },
    /// One entry, to be there with this kind and these attributes. Asks: [`Answer::Wanted`] or
    /// [`Answer::Absent`].
    Inspect {
        /// Where it is.
        at: Location,
        /// What it is; its name is empty.
        entry: Entry,
    },
    /// Digests of a region's blocks. Asks: [`Answer::Blocks`] or [`Answer::Absent`].
    Compare {
        /// The file.
        file: Location,
        /// Its size.
        size: u64,
        /// The region.
        index: u32,
        /// Of each block up to the end of region or file.
        digests: Vec<Digest>,
    },
    /// An empty regular file takes this place.
    Create {
        /// The file.
        file: Location,
    },
    /// The payload is written.
    Write {
        /// The file.
        file: Location,
        /// Where.
        offset: u64,
    },
    /// A range reads as zeros.
    Zero {
        /// The file.
        file: Location,
        /// Where.
        offset: u64,
        /// How long.
        len: u64,
    },
    /// The payload holds all extended attributes of an entry.
    Xattrs {
        /// The entry.
        at: Location,
    },
    /// The content is complete: set size and attributes.
    Finish {
        /// The file.
        file: Location,
        /// Its size.
        size: u64,
        /// Its attributes.
        attributes: Attributes,
    },
}

/// What the target says to a step that asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// To [`Step::List`] and [`Step::Inspect`]: what to send, by position of the entry.
    Wanted(Vec<(u32, Want)>),
    /// To [`Step::Compare`]: positions of the blocks that differ.
    Blocks(Vec<u16>),
    /// There is no such directory or file.
    Absent,
}

/// What the target needs of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Want {
    /// A regular file's whole content: it is not there, or it is another one.
    Content,
    /// A comparison of the file's regions.
    Comparison,
    /// The entries of a directory that was not there.
    Entries,
    /// The extended attributes.
    Xattrs,
}

impl Item {
    /// The encoding, as an [`ItemKey`](super::stream) or a record of the mark log.
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// Decodes and checks.
    ///
    /// # Errors
    /// [`RecordError`]: the sender or the log is broken.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let item: Self = decode(bytes)?;
        item.place().check()?;
        Ok(item)
    }

    /// The place that the item is about.
    pub const fn place(&self) -> &Location {
        match self {
            Self::Region { file, .. } | Self::File { file } => file,
            Self::Attributes { at } => at,
            Self::Entries { directory } | Self::Tree { directory } => directory,
        }
    }
}

impl Step {
    /// The encoding, as the body of an element.
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// Whether the target answers.
    pub const fn asks(&self) -> bool {
        matches!(self, Self::List { .. } | Self::Inspect { .. } | Self::Compare { .. })
    }

    /// Decodes and checks.
    ///
    /// # Errors
    /// [`RecordError`]: the sender is broken or hostile; close the connection.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let step: Self = decode(bytes)?;
        for place in step.places().into_iter().flatten() {
            place.check()?;
        }
        match &step {
            Self::List { entries, .. } => {
                if !entries.windows(2).all(|pair| pair[0].name < pair[1].name) {
                    return Err(RecordError::Range { field: "entries" });
                }
                entries.iter().try_for_each(|entry| entry.check(true))?;
            }
            Self::Inspect { entry, .. } => entry.check(false)?,
            Self::Zero { offset, len, .. } => check_range(*offset, *len)?,
            Self::Write { offset, .. } => check_range(*offset, 0)?,
            Self::Finish { size, attributes, .. } => {
                check_range(*size, 0)?;
                attributes.check()?;
            }
            Self::Compare { digests, .. } => {
                if digests.len() as u64 > REGION_BYTES / BLOCK_BYTES {
                    return Err(RecordError::Range { field: "digests" });
                }
            }
            Self::Renamed { .. }
            | Self::Linked { .. }
            | Self::Create { .. }
            | Self::Xattrs { .. } => {}
        }
        Ok(step)
    }

    const fn places(&self) -> [Option<&Location>; 2] {
        match self {
            Self::Renamed { from, to } | Self::Linked { from, to } => [Some(from), Some(to)],
            Self::List { directory, .. } => [Some(directory), None],
            Self::Inspect { at, .. } | Self::Xattrs { at } => [Some(at), None],
            Self::Compare { file, .. }
            | Self::Create { file }
            | Self::Write { file, .. }
            | Self::Zero { file, .. }
            | Self::Finish { file, .. } => [Some(file), None],
        }
    }
}

impl Answer {
    /// The encoding, as the body of an answer.
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// Decodes. Positions are checked where they are used.
    ///
    /// # Errors
    /// [`RecordError`]: the sender is broken or hostile; close the connection.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        decode(bytes)
    }
}

impl Entry {
    /// Bytes of the encoding, at most.
    pub fn encoded_len_max(&self) -> usize {
        let target = if let Kind::Symlink { target } = &self.kind { target.len() } else { 0 };
        self.name.len() + target + 128
    }

    fn check(&self, named: bool) -> Result<(), RecordError> {
        let name = &self.name;
        let good = name.len() <= NAME_BYTES_MAX
            && !name.contains(&b'/')
            && !name.contains(&0)
            && name != b"."
            && name != b".."
            && name.is_empty() != named;
        if !good {
            return Err(RecordError::Range { field: "name" });
        }
        self.attributes.check()?;
        match &self.kind {
            Kind::File { size, .. } => check_range(*size, 0),
            Kind::Symlink { target } => {
                let good =
                    !target.is_empty() && target.len() <= PATH_BYTES_MAX && !target.contains(&0);
                if good { Ok(()) } else { Err(RecordError::Range { field: "target" }) }
            }
            _ => Ok(()),
        }
    }
}

impl Attributes {
    fn check(&self) -> Result<(), RecordError> {
        if self.mode > 0o7777 || self.modified.nanoseconds >= 1_000_000_000 {
            return Err(RecordError::Range { field: "attributes" });
        }
        Ok(())
    }
}

fn check_range(offset: u64, len: u64) -> Result<(), RecordError> {
    match offset.checked_add(len) {
        Some(end) if end <= i64::MAX as u64 => Ok(()),
        _ => Err(RecordError::Range { field: "offset" }),
    }
}

fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    bincode::serde::encode_to_vec(value, format()).expect("steps have no type that bincode refuses")
}

fn decode<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, RecordError> {
    let (value, used) =
        bincode::serde::decode_from_slice(bytes, format()).map_err(|_| RecordError::Malformed)?;
    if used == bytes.len() { Ok(value) } else { Err(RecordError::Malformed) }
}

fn format() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<STEP_BYTES_MAX>()
}
