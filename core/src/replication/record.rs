//! The record of one change to a replicated directory: what travels from source to target.
//!
//! The source turns each operation of the application into [`Change`]s, in the one log order of
//! the module, and the target performs them in that order. The bytes of a write travel raw beside
//! the record; everything else is inside it.
//!
//! # A change may be performed twice
//!
//! After a lost connection, or when a resynchronisation has already copied the newer state, the
//! target performs changes again. Every change therefore names a *resulting state* (absolute
//! offset, size, owner, time; never "append" or "now"), and the target follows these rules:
//!
//! * `Create`, `MakeDirectory`, `MakeNode`, `Symlink` on a name that is taken by an entry of the
//!   same kind: give that entry the recorded owner and mode (for a symlink: target) and succeed.
//!   Of another kind: remove what is there (it is left over from a later moment), then create.
//! * `Unlink`, `RemoveDirectory`, `RemoveXattr` of what is not there: success.
//! * `Rename` whose `from` is not there: success (done already, and `to` was replaced then).
//!   An exchange is the one change that undoes itself when repeated: senders number records, and
//!   the target skips numbers it has performed; after a resynchronisation the source sends an
//!   exchange as the two resulting trees' changes.
//! * `Link`, `LinkOpen` onto a name that is taken: replace the name.
//! * `Open` of an id that is bound, `Close` of one that is not: rebind, ignore.
//! * A change with an id that could not be bound (the file has since been removed): ignore it
//!   with its payload, because no name leads to that file any more.
//!
//! # What is checked when decoding
//!
//! A decoded record never leads out of a replicated directory: paths are relative, without empty,
//! `.` or `..` components and without NUL, and within the limits of Linux. The target still must
//! not follow symbolic links when it walks a path.
//!
//! Left to others: numbering and framing (`wire`), marks and resynchronisation (`intent`,
//! `resync`), performing (the operating-system crates).

use std::fmt;

use serde::{Deserialize, Serialize};

#[cfg(test)]
mod tests;

/// Longest path inside a replicated directory, in bytes (PATH_MAX of Linux).
pub const PATH_BYTES_MAX: usize = 4096;
/// Longest name of a directory entry or of an extended attribute, in bytes (NAME_MAX).
pub const NAME_BYTES_MAX: usize = 255;
/// Longest value of an extended attribute, in bytes (XATTR_SIZE_MAX).
pub const XATTR_BYTES_MAX: usize = 65_536;
/// Longest encoded change, without a write's payload, in bytes.
pub const CHANGE_BYTES_MAX: usize = 81_920;
/// Longest payload of one [`Change::Write`], in bytes.
pub const PAYLOAD_BYTES_MAX: u32 = 16 << 20;

/// Names an open file within one connection of the data stream.
///
/// Bound by [`Change::Open`], [`Change::Create`] or [`Change::Temporary`], dropped by
/// [`Change::Close`]. The source never binds one id to two files in one connection.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct FileId(pub u64);

impl fmt::Display for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "f{}", self.0)
    }
}

/// A place below one of the module's replicated directories.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Location {
    /// Position of the replicated directory in the module's configuration.
    pub root: u8,
    /// Path relative to it, without leading or trailing slash; empty: the directory itself.
    #[serde(with = "bytes")]
    pub path: Vec<u8>,
}

impl Location {
    /// Makes a location.
    pub fn new(root: u8, path: impl Into<Vec<u8>>) -> Self {
        Self { root, path: path.into() }
    }

    /// The place called `name` in the directory at this location.
    #[must_use]
    pub fn join(&self, name: &[u8]) -> Self {
        let mut path = Vec::with_capacity(self.path.len() + 1 + name.len());
        path.extend_from_slice(&self.path);
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        Self { root: self.root, path }
    }

    /// The directory that holds this entry and the entry's name; `None` for the root.
    pub fn split(&self) -> Option<(Self, &[u8])> {
        if self.path.is_empty() {
            return None;
        }
        let cut = self.path.iter().rposition(|byte| *byte == b'/');
        let (parent, name) = match cut {
            Some(at) => (&self.path[..at], &self.path[at + 1..]),
            None => (&self.path[..0], &self.path[..]),
        };
        Some((Self::new(self.root, parent), name))
    }

    pub(crate) fn check(&self) -> Result<(), RecordError> {
        if self.path.is_empty() {
            return Ok(());
        }
        let well_formed = |part: &[u8]| {
            !part.is_empty() && part != b"." && part != b".." && part.len() <= NAME_BYTES_MAX
        };
        if self.path.len() > PATH_BYTES_MAX
            || self.path.contains(&0)
            || !self.path.split(|byte| *byte == b'/').all(well_formed)
        {
            return Err(RecordError::Path { path: self.clone() });
        }
        Ok(())
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.root, self.path.escape_ascii())
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.root, self.path.escape_ascii())
    }
}

/// What an attribute change applies to. Never follows a symbolic link.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Target {
    /// The entry with this name.
    Path(Location),
    /// An open file, which may have no name any more.
    Id(FileId),
}

/// Owner, group and permission bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Access {
    /// Permission bits including set-user-id, set-group-id and sticky: 0 to 0o7777.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// A moment of the file system's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FileTime {
    /// Seconds since 1970, negative before.
    pub seconds: i64,
    /// Nanoseconds within the second: 0 to 999 999 999.
    pub nanoseconds: u32,
}

/// What `fallocate` does to a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum AllocateMode {
    /// Reserve blocks; grow the file if the range ends beyond it.
    Reserve,
    /// Reserve blocks, keep the size.
    ReserveKeepSize,
    /// Give the blocks back; the range reads as zeros; the size stays.
    PunchHole,
    /// The range reads as zeros; grow the file if the range ends beyond it.
    ZeroRange,
    /// The range reads as zeros; keep the size.
    ZeroRangeKeepSize,
}

/// What happens to an entry that already has a rename's new name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum RenameMode {
    /// It is replaced.
    Replace,
    /// There is none: the source has refused otherwise (`RENAME_NOREPLACE`).
    NoReplace,
    /// The two entries swap names (`RENAME_EXCHANGE`).
    Exchange,
}

/// Kind of a node made by [`Change::MakeNode`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum NodeKind {
    /// A regular file (made by `mknod`).
    File,
    /// A named pipe.
    Fifo,
    /// A socket's name.
    Socket,
    /// A character device with this number (encoded as by the kernel's `new_encode_dev`).
    CharacterDevice(u32),
    /// A block device with this number.
    BlockDevice(u32),
}

/// One change. The order of variants is the wire format: append only.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are the arguments of the system call that is named")]
pub enum Change {
    /// Binds `id` to the regular file at `location`.
    Open { id: FileId, location: Location },
    /// Drops `id`; a file without a name is gone with it.
    Close { id: FileId },
    /// Writes the `len` payload bytes that travel beside this record.
    Write { id: FileId, offset: u64, len: u32 },
    /// Sets the size.
    Truncate { id: FileId, size: u64 },
    /// `fallocate`.
    Allocate { id: FileId, mode: AllocateMode, offset: u64, len: u64 },
    /// Copies `len` bytes of one open file to another (or the same; the ranges never overlap)
    /// as they are at this point of the log.
    CopyRange { from: FileId, from_offset: u64, to: FileId, to_offset: u64, len: u64 },
    /// Makes an empty regular file and binds `id` to it.
    Create { location: Location, id: FileId, access: Access },
    /// Makes a regular file without a name in a directory's file system (`O_TMPFILE`), binds `id`.
    Temporary { directory: Location, id: FileId, access: Access },
    /// Gives an open file that may have no name the name `location`.
    LinkOpen { id: FileId, location: Location },
    /// Makes a directory.
    MakeDirectory { location: Location, access: Access },
    /// Makes a device, named pipe, socket name or file.
    MakeNode { location: Location, kind: NodeKind, access: Access },
    /// Makes a symbolic link. Its permission bits have no meaning.
    Symlink {
        location: Location,
        #[serde(with = "bytes")]
        target: Vec<u8>,
        uid: u32,
        gid: u32,
    },
    /// Removes a name of anything but a directory.
    Unlink { location: Location },
    /// Removes an empty directory.
    RemoveDirectory { location: Location },
    /// Moves an entry.
    Rename { from: Location, to: Location, mode: RenameMode },
    /// Gives the file at `from` another name.
    Link { from: Location, to: Location },
    /// Sets permission bits.
    SetMode { target: Target, mode: u16 },
    /// Sets owner and group; `None` leaves as is. Performed before a `SetMode` that restores
    /// set-id bits.
    SetOwner { target: Target, uid: Option<u32>, gid: Option<u32> },
    /// Sets access and modification time; `None` leaves as is.
    SetTimes { target: Target, accessed: Option<FileTime>, modified: Option<FileTime> },
    /// Sets an extended attribute, which includes access control lists.
    SetXattr {
        target: Target,
        #[serde(with = "bytes")]
        name: Vec<u8>,
        #[serde(with = "bytes")]
        value: Vec<u8>,
    },
    /// Removes an extended attribute.
    RemoveXattr {
        target: Target,
        #[serde(with = "bytes")]
        name: Vec<u8>,
    },
    /// The application waits here until everything before this point is safe (fsync, fdatasync,
    /// fsync of a directory, syncfs). `target` is what it named; `None`: the whole file system.
    Sync { target: Option<Target> },
}

/// Why bytes are not a change. Nothing has been performed; the connection cannot be trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Not the encoding of a change, or longer than [`CHANGE_BYTES_MAX`].
    #[error("the bytes are not a change record")]
    Malformed,
    /// A path that is absolute, too long, or has empty, `.` or `..` components.
    #[error("{path} is not a path inside a replicated directory")]
    Path {
        /// The offending place.
        path: Location,
    },
    /// A name, value, mode, time or length out of its range.
    #[error("a change record has a field out of range: {field}")]
    Range {
        /// Which field.
        field: &'static str,
    },
}

impl Change {
    /// Appends the encoding to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        bincode::serde::encode_into_std_write(self, out, format())
            .expect("a change has no type that bincode refuses, and a Vec takes every byte");
    }

    /// Decodes and checks the change at the start of `bytes`; also says how long it was.
    ///
    /// # Errors
    /// [`RecordError`]: the sender is broken or hostile; close the connection.
    pub fn decode(bytes: &[u8]) -> Result<(Self, usize), RecordError> {
        let (change, len) = bincode::serde::decode_from_slice::<Self, _>(bytes, format())
            .map_err(|_| RecordError::Malformed)?;
        change.check()?;
        Ok((change, len))
    }

    /// Bytes of payload that travel beside this record.
    pub const fn payload_len(&self) -> u32 {
        match self {
            Self::Write { len, .. } => *len,
            _ => 0,
        }
    }

    /// Whether the application waits at this change until everything before it is safe.
    pub const fn is_barrier(&self) -> bool {
        matches!(self, Self::Sync { .. })
    }

    fn check(&self) -> Result<(), RecordError> {
        for location in self.locations().into_iter().flatten() {
            location.check()?;
        }
        if self.names_an_entry()
            && self.locations().into_iter().flatten().any(|l| l.path.is_empty())
        {
            return Err(RecordError::Range { field: "location" });
        }
        let in_range =
            |good: bool, field| if good { Ok(()) } else { Err(RecordError::Range { field }) };
        match self {
            Self::Write { offset, len, .. } => {
                in_range(*len <= PAYLOAD_BYTES_MAX, "len")?;
                in_range(fits(*offset, u64::from(*len)), "offset")
            }
            Self::Truncate { size, .. } => in_range(fits(*size, 0), "size"),
            Self::Allocate { offset, len, .. } => in_range(*len > 0 && fits(*offset, *len), "len"),
            Self::CopyRange { from_offset, to_offset, len, .. } => {
                in_range(fits(*from_offset, *len) && fits(*to_offset, *len), "len")
            }
            Self::Create { access, .. }
            | Self::Temporary { access, .. }
            | Self::MakeDirectory { access, .. }
            | Self::MakeNode { access, .. } => in_range(access.mode <= 0o7777, "mode"),
            Self::Symlink { target, .. } => in_range(
                !target.is_empty() && target.len() <= PATH_BYTES_MAX && !target.contains(&0),
                "target",
            ),
            Self::SetMode { mode, .. } => in_range(*mode <= 0o7777, "mode"),
            Self::SetTimes { accessed, modified, .. } => in_range(
                [accessed, modified].into_iter().flatten().all(|t| t.nanoseconds < 1_000_000_000),
                "nanoseconds",
            ),
            Self::SetXattr { name, value, .. } => {
                in_range(is_xattr_name(name), "name")?;
                in_range(value.len() <= XATTR_BYTES_MAX, "value")
            }
            Self::RemoveXattr { name, .. } => in_range(is_xattr_name(name), "name"),
            _ => Ok(()),
        }
    }

    /// Every place that the change names.
    pub fn locations(&self) -> [Option<&Location>; 2] {
        match self {
            Self::Open { location, .. }
            | Self::Create { location, .. }
            | Self::Temporary { directory: location, .. }
            | Self::LinkOpen { location, .. }
            | Self::MakeDirectory { location, .. }
            | Self::MakeNode { location, .. }
            | Self::Symlink { location, .. }
            | Self::Unlink { location }
            | Self::RemoveDirectory { location } => [Some(location), None],
            Self::Rename { from, to, .. } | Self::Link { from, to } => [Some(from), Some(to)],
            Self::SetMode { target, .. }
            | Self::SetOwner { target, .. }
            | Self::SetTimes { target, .. }
            | Self::SetXattr { target, .. }
            | Self::RemoveXattr { target, .. }
            | Self::Sync { target: Some(target) } => match target {
                Target::Path(location) => [Some(location), None],
                Target::Id(_) => [None, None],
            },
            Self::Close { .. }
            | Self::Write { .. }
            | Self::Truncate { .. }
            | Self::Allocate { .. }
            | Self::CopyRange { .. }
            | Self::Sync { target: None } => [None, None],
        }
    }

    /// Every file id that must be bound before this change; not those that it binds itself.
    pub const fn ids(&self) -> [Option<FileId>; 2] {
        match self {
            Self::Close { id }
            | Self::Write { id, .. }
            | Self::Truncate { id, .. }
            | Self::Allocate { id, .. }
            | Self::LinkOpen { id, .. } => [Some(*id), None],
            Self::CopyRange { from, to, .. } => [Some(*from), Some(*to)],
            Self::SetMode { target: Target::Id(id), .. }
            | Self::SetOwner { target: Target::Id(id), .. }
            | Self::SetTimes { target: Target::Id(id), .. }
            | Self::SetXattr { target: Target::Id(id), .. }
            | Self::RemoveXattr { target: Target::Id(id), .. }
            | Self::Sync { target: Some(Target::Id(id)) } => [Some(*id), None],
            _ => [None, None],
        }
    }

    /// Whether the places named are entries of a directory, which the root is not.
    const fn names_an_entry(&self) -> bool {
        matches!(
            self,
            Self::Open { .. }
                | Self::Create { .. }
                | Self::LinkOpen { .. }
                | Self::MakeDirectory { .. }
                | Self::MakeNode { .. }
                | Self::Symlink { .. }
                | Self::Unlink { .. }
                | Self::RemoveDirectory { .. }
                | Self::Rename { .. }
                | Self::Link { .. }
        )
    }
}

/// Whether a range lies within the largest file offset of Linux.
const fn fits(offset: u64, len: u64) -> bool {
    match offset.checked_add(len) {
        Some(end) => end <= i64::MAX as u64,
        None => false,
    }
}

fn is_xattr_name(name: &[u8]) -> bool {
    !name.is_empty() && name.len() <= NAME_BYTES_MAX && !name.contains(&0)
}

fn format() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<CHANGE_BYTES_MAX>()
}

/// Bytes as one block; serde's own way encodes a `Vec<u8>` element by element.
pub(crate) mod bytes {
    use std::fmt;

    use serde::{Deserializer, Serializer, de};

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(bytes)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        struct Bytes;
        impl de::Visitor<'_> for Bytes {
            type Value = Vec<u8>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                Ok(bytes.to_vec())
            }

            fn visit_byte_buf<E: de::Error>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
                Ok(bytes)
            }
        }
        from.deserialize_byte_buf(Bytes)
    }
}
