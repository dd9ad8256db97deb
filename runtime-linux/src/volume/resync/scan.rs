//! Reading what is compared: attributes, digests of contents, and the walk through a whole copy.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use havre_core::replication::{
    item::{Attributes, BLOCK_BYTES, Digest, Entry, Item, Kind, REGION_BYTES},
    record::{FileTime, Location},
};
use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, SeekFrom, Stat},
    io::Errno,
};

use crate::volume::{
    place::{Places, magic_path},
    tree,
};

/// How a file is opened for reading. `NONBLOCK`: a named pipe must not block.
pub(super) const READ: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOFOLLOW);

/// Whether a place could not be reached because part of its path is not there.
pub fn is_absent(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO | Errno::XDEV)
    )
}

/// First half of a BLAKE3 hash.
pub(super) fn digest(bytes: &[u8]) -> Digest {
    *blake3::hash(bytes).as_bytes().first_chunk().expect("a hash has 32 bytes")
}

/// Reads up to the length of `buffer`; less only at the end of the file.
pub(in crate::volume) fn read_at(
    file: BorrowedFd<'_>,
    buffer: &mut [u8],
    offset: u64,
) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match rustix::io::pread(file, &mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(done)
}

/// The size that `stat` tells.
pub(super) fn size_of(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}

/// The attributes that `stat` tells.
pub(super) fn attributes_of(stat: &Stat) -> Attributes {
    let nanoseconds = u32::try_from(stat.st_mtime_nsec).unwrap_or(0);
    Attributes {
        mode: u16::try_from(stat.st_mode & 0o7777).unwrap_or(0),
        uid: stat.st_uid,
        gid: stat.st_gid,
        modified: FileTime { seconds: stat.st_mtime, nanoseconds },
    }
}

/// The kernel's `new_encode_dev`.
#[expect(clippy::useless_conversion, reason = "the type of a device number varies")]
fn device_number(stat: &Stat) -> u32 {
    let device = u64::from(stat.st_rdev);
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

/// Describes an entry of a directory; the digest of a small file's content included if `content`.
pub(super) fn entry_at(dir: BorrowedFd<'_>, name: &[u8], content: bool) -> io::Result<Entry> {
    let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {
            let size = size_of(&stat);
            let identity = (stat.st_nlink > 1).then_some(stat.st_ino);
            let digest = (content && size <= BLOCK_BYTES)
                .then(|| small_digest(dir, name, size))
                .transpose()?;
            Kind::File { size, identity, digest }
        }
        FileType::Directory => Kind::Directory,
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(dir, name, Vec::new())?.into_bytes();
            Kind::Symlink { target }
        }
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        FileType::CharacterDevice => Kind::CharacterDevice(device_number(&stat)),
        FileType::BlockDevice => Kind::BlockDevice(device_number(&stat)),
        FileType::Unknown => return Err(Errno::INVAL.into()),
    };
    let xattrs = digest(&xattrs_at(dir, name)?);
    let name = if name == b"." { Vec::new() } else { name.to_vec() };
    Ok(Entry { name, kind, attributes: attributes_of(&stat), xattrs })
}

/// The digest of a small file's whole content.
pub(super) fn small_digest(dir: BorrowedFd<'_>, name: &[u8], size: u64) -> io::Result<Digest> {
    let file = rustix::fs::openat(dir, name, READ | OFlags::CLOEXEC, Mode::empty())?;
    let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
    let len = read_at(file.as_fd(), &mut bytes, 0)?;
    Ok(digest(&bytes[..len]))
}

/// Every extended attribute of an entry, sorted by name, in one encoding: length of name (u16),
/// name, length of value (u32), value.
pub(in crate::volume) fn xattrs_at(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<Vec<u8>> {
    let path = magic_path(dir, name);
    let mut list = [0u8; 4096];
    let names = match rustix::fs::llistxattr(&path, &mut list[..]) {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Ok(len) => list[..len].to_vec(),
        Err(Errno::RANGE) => {
            let mut list = vec![0u8; 64 << 10];
            let len = rustix::fs::llistxattr(&path, &mut list[..])?;
            list.truncate(len);
            list
        }
        Err(error) => return Err(error.into()),
    };
    let mut names: Vec<&[u8]> =
        names.split(|byte| *byte == 0).filter(|name| !name.is_empty()).collect();
    names.sort_unstable();
    let mut all = Vec::new();
    let mut value = vec![0u8; 64 << 10];
    for name in names {
        let len = match rustix::fs::lgetxattr(&path, name, &mut value[..]) {
            Ok(len) => len,
            Err(Errno::NODATA | Errno::OPNOTSUPP) => continue,
            Err(error) => return Err(error.into()),
        };
        all.extend_from_slice(&u16::try_from(name.len()).unwrap_or(0).to_le_bytes());
        all.extend_from_slice(name);
        all.extend_from_slice(&u32::try_from(len).unwrap_or(0).to_le_bytes());
        all.extend_from_slice(&value[..len]);
    }
    Ok(all)
}

/// Takes the encoding of [`xattrs_at`] apart; `None` if it is not one.
pub(in crate::volume) fn split_xattrs(mut bytes: &[u8]) -> Option<Vec<(&[u8], &[u8])>> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let (len, rest) = bytes.split_first_chunk::<2>()?;
        let (name, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*len)))?;
        let (len, rest) = rest.split_first_chunk::<4>()?;
        let len = usize::try_from(u32::from_le_bytes(*len)).ok()?;
        let (value, rest) = rest.split_at_checked(len)?;
        all.push((name, value));
        bytes = rest;
    }
    Some(all)
}

/// Digests of the blocks of one region of a file of this size.
pub(super) fn region_digests(
    file: BorrowedFd<'_>,
    index: u32,
    size: u64,
) -> io::Result<Vec<Digest>> {
    let start = u64::from(index) * REGION_BYTES;
    let end = size.min(start + REGION_BYTES);
    let mut digests = Vec::new();
    let mut block = vec![0u8; usize::try_from(BLOCK_BYTES).unwrap_or(0)];
    let mut offset = start;
    let mut data = next_data(file, start)?;
    let zeros: Digest = digest(&block);
    while offset < end {
        let wanted = usize::try_from((end - offset).min(BLOCK_BYTES)).unwrap_or(0);
        if data.is_some_and(|at| at < offset) {
            data = next_data(file, offset)?;
        }
        let hole = data.is_none_or(|at| at >= offset + wanted as u64);
        if hole && wanted == block.len() {
            digests.push(zeros);
        } else {
            let len = read_at(file, &mut block[..wanted], offset)?;
            block[len..wanted].fill(0);
            digests.push(digest(&block[..wanted]));
        }
        offset += wanted as u64;
    }
    Ok(digests)
}

/// Where the next data begin at or after `offset`; `None`: only a hole follows. A file system
/// that cannot tell counts as data everywhere.
pub(super) fn next_data(file: BorrowedFd<'_>, offset: u64) -> io::Result<Option<u64>> {
    match rustix::fs::seek(file, SeekFrom::Data(offset)) {
        Ok(at) => Ok(Some(at)),
        Err(Errno::NXIO) => Ok(None),
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(Some(offset)),
        Err(error) => Err(error.into()),
    }
}

/// Where the data that begin at `offset` end.
pub(super) fn data_end(file: BorrowedFd<'_>, offset: u64, size: u64) -> io::Result<u64> {
    match rustix::fs::seek(file, SeekFrom::Hole(offset)) {
        Ok(at) => Ok(at.min(size)),
        Err(Errno::NXIO) => Ok(offset),
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(size),
        Err(error) => Err(error.into()),
    }
}

/// Walks through a whole copy and names its items, a few at a time: each directory's entries, and
/// the regions of large files that those do not cover.
#[derive(Debug, Default)]
pub struct Walk {
    directories: Vec<Location>,
    ready: Vec<Item>,
}

impl Walk {
    /// Begins at the roots.
    pub fn new(places: &Places) -> Self {
        let roots = 0..u8::try_from(places.len()).unwrap_or(u8::MAX);
        Self {
            directories: roots.rev().map(|root| Location::new(root, *b"")).collect(),
            ready: Vec::new(),
        }
    }

    /// The next items, at most `count`; none at the end.
    pub fn next(&mut self, places: &mut Places, count: usize) -> io::Result<Vec<Item>> {
        while self.ready.len() < count {
            let Some(directory) = self.directories.pop() else { break };
            match self.visit(places, &directory) {
                Err(error) if is_absent(&error) => {}
                other => other?,
            }
            if directory.path.is_empty() {
                self.ready.push(Item::Attributes { at: directory.clone() });
            }
            self.ready.push(Item::Entries { directory });
        }
        let kept = self.ready.len().saturating_sub(count);
        let mut items = self.ready.split_off(kept);
        items.reverse();
        Ok(items)
    }

    fn visit(&mut self, places: &mut Places, directory: &Location) -> io::Result<()> {
        let dir = places.directory(directory)?;
        for (name, kind) in tree::entries(dir.as_fd())? {
            let place = directory.join(&name);
            if places.excludes(&place) {
                continue;
            }
            if kind == FileType::Directory {
                self.directories.push(place);
            } else if kind == FileType::RegularFile {
                let stat = rustix::fs::statat(&*dir, &name, AtFlags::SYMLINK_NOFOLLOW);
                let size = stat.map_or(0, |stat| size_of(&stat));
                let regions = u32::try_from(size.div_ceil(REGION_BYTES)).unwrap_or(u32::MAX);
                let file = |index| Item::Region { file: place.clone(), index };
                self.ready.extend((1..regions).map(file));
            }
        }
        Ok(())
    }
}

/// Opens a regular file for reading; `None` if there is none at this place.
pub(super) fn open_file(places: &Places, file: &Location) -> io::Result<Option<(OwnedFd, Stat)>> {
    let opened = match places.open(file, READ) {
        Err(error) if is_absent(&error) => return Ok(None),
        other => other?,
    };
    let stat = rustix::fs::fstat(&opened)?;
    let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    Ok(regular.then_some((opened, stat)))
}
