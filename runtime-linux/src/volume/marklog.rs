//! Durable log of write intents: small records, appended with one write each batch.
//!
//! What the records mean is decided by `havre_core::replication`; here they are bytes. Two files
//! of a fixed size are written in full when they are created, so that neither an append nor a
//! compaction ever needs space: a full disk cannot stop the application from being marked. One of
//! the two is active; [`MarkLog::replace`] writes a snapshot into the other and activates it with
//! one block.
//!
//! Layout: block 0 is the header (magic, generation, nonce, number of snapshot frames, hash); then
//! frames, each at a block boundary (magic, blocks, payload length, records, nonce, sequence, hash,
//! records as length and bytes). Blocks are 4 KiB and never rewritten within a generation, so a
//! torn append can damage nothing that was acknowledged earlier.
//!
//! Measured: prewritten with `O_DIRECT|O_DSYNC` beats a growing file (docs/performance.md).

use std::{
    ffi::OsString,
    fs::{File, OpenOptions},
    hash::{BuildHasher as _, Hasher as _, RandomState},
    io::{self, ErrorKind},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;

#[cfg(test)]
mod tests;

/// Unit of layout and of writing.
const BLOCK: usize = 4096;
/// Bytes before the payload of a frame.
const FRAME_HEAD: usize = 48;
/// Longest frame: one write of the device.
const FRAME_BLOCKS_MAX: usize = 64;
/// Longest record: a path of the longest length and some words.
pub const RECORD_BYTES_MAX: usize = FRAME_BLOCKS_MAX * BLOCK - FRAME_HEAD - 4;
/// Size of each of the two files unless the caller says otherwise.
pub const CAPACITY_DEFAULT: u64 = 8 << 20;

const HEADER_MAGIC: u64 = u64::from_le_bytes(*b"HVMARKS1");
const FRAME_MAGIC: u32 = u32::from_le_bytes(*b"HVMF");

/// Why records could not be appended. What was durable before stays durable.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The active file has no room: write a snapshot with [`MarkLog::replace`].
    #[error("the intent log is full")]
    Full,
    /// The operating system refused; whether the records are durable is unknown.
    #[error("intent log: {0}")]
    Io(#[from] io::Error),
}

/// What was found when the log was opened.
#[derive(Debug)]
pub struct Loaded {
    /// The log, ready for appending.
    pub log: MarkLog,
    /// Every record since the last snapshot, the snapshot's first.
    pub records: Vec<Vec<u8>>,
    /// Acknowledged records are damaged or missing: anything may differ from the peer.
    pub rotten: bool,
}

/// The open log. Dropping it loses nothing.
#[derive(Debug)]
pub struct MarkLog {
    files: [File; 2],
    active: usize,
    generation: u64,
    nonce: u64,
    sequence: u64,
    next_block: usize,
    capacity_blocks: usize,
    buffer: AlignedBuffer,
}

impl MarkLog {
    /// Opens the log `name` in directory `dir`, creating it if it is not there.
    ///
    /// Fails if the directory cannot be written or has no room for twice `capacity` bytes.
    pub fn open(dir: &Path, name: &str, capacity: u64) -> io::Result<Loaded> {
        let capacity_blocks = usize::try_from(capacity).map_or(2, |bytes| bytes / BLOCK).max(2);
        let paths = [file_path(dir, name, 'a'), file_path(dir, name, 'b')];
        let present = [paths[0].exists(), paths[1].exists()];
        let mut files = Vec::with_capacity(2);
        for path in &paths {
            files.push(open_prewritten(path, capacity_blocks)?);
        }
        File::open(dir)?.sync_all()?;
        let files: [File; 2] = files.try_into().expect("two paths give two files");
        let mut log = Self {
            files,
            active: 0,
            generation: 0,
            nonce: 0,
            sequence: 0,
            next_block: 1,
            capacity_blocks,
            buffer: AlignedBuffer::default(),
        };
        let (records, rotten) = log.load(present)?;
        if log.generation == 0 {
            log.replace::<&[u8]>(&[]).map_err(io::Error::other)?;
        }
        Ok(Loaded { log, records, rotten })
    }

    /// Makes `records` durable, in one write if they fit into one frame.
    pub fn append<R: AsRef<[u8]>>(&mut self, records: &[R]) -> Result<(), AppendError> {
        let mut rest = records;
        while !rest.is_empty() {
            let taken = self.buffer.fill_frame(rest, self.nonce, self.sequence)?;
            let blocks = self.buffer.blocks();
            if self.next_block + blocks > self.capacity_blocks {
                return Err(AppendError::Full);
            }
            self.write_frame(self.active)?;
            rest = &rest[taken..];
        }
        Ok(())
    }

    /// Replaces everything by `records`, atomically.
    pub fn replace<R: AsRef<[u8]>>(&mut self, records: &[R]) -> Result<(), AppendError> {
        let other = 1 - self.active;
        let before = (self.generation, self.nonce, self.sequence, self.next_block);
        self.generation += 1;
        // Drawn anew, so that frames of an abandoned attempt never pass for this one's.
        self.nonce = RandomState::new().build_hasher().finish();
        self.sequence = 0;
        self.next_block = 1;
        let written = self.write_snapshot(other, records);
        if written.is_err() {
            (self.generation, self.nonce, self.sequence, self.next_block) = before;
            return written;
        }
        self.active = other;
        Ok(())
    }

    /// Share of the active file in use, in per cent: a caller compacts when it is high.
    pub fn used_percent(&self) -> u8 {
        u8::try_from(self.next_block * 100 / self.capacity_blocks).unwrap_or(100)
    }

    fn write_snapshot<R: AsRef<[u8]>>(
        &mut self,
        file: usize,
        records: &[R],
    ) -> Result<(), AppendError> {
        let mut rest = records;
        while !rest.is_empty() {
            let taken = self.buffer.fill_frame(rest, self.nonce, self.sequence)?;
            if self.next_block + self.buffer.blocks() > self.capacity_blocks {
                return Err(AppendError::Full);
            }
            self.write_frame(file)?;
            rest = &rest[taken..];
        }
        self.buffer.fill_header(self.generation, self.nonce, self.sequence);
        self.files[file].write_all_at(self.buffer.bytes(), 0)?;
        Ok(())
    }

    fn write_frame(&mut self, file: usize) -> io::Result<()> {
        let offset = (self.next_block * BLOCK) as u64;
        self.files[file].write_all_at(self.buffer.bytes(), offset)?;
        self.next_block += self.buffer.blocks();
        self.sequence += 1;
        Ok(())
    }

    fn load(&mut self, present: [bool; 2]) -> io::Result<(Vec<Vec<u8>>, bool)> {
        let mut images = Vec::with_capacity(2);
        for file in &self.files {
            let mut image = AlignedBuffer::default();
            image.clear(self.capacity_blocks);
            file.read_exact_at(image.bytes_mut(), 0)?;
            images.push(image);
        }
        let headers = [parse_header(images[0].bytes()), parse_header(images[1].bytes())];
        let mut rotten = headers.contains(&Header::Damaged);
        let newest = (0..2)
            .filter_map(|i| match headers[i] {
                Header::Valid { generation, nonce, frames } => Some((generation, nonce, frames, i)),
                Header::Blank | Header::Damaged => None,
            })
            .max();
        let Some((generation, nonce, frames, active)) = newest else {
            return Ok((Vec::new(), rotten));
        };
        rotten |= present[0] != present[1];
        self.generation = generation;
        self.nonce = nonce;
        self.active = active;
        let image = images[active].bytes();
        let mut records = Vec::new();
        while let Some((blocks, mut found)) =
            parse_frame(image, self.next_block, nonce, Some(self.sequence))
        {
            records.append(&mut found);
            self.next_block += blocks;
            self.sequence += 1;
        }
        rotten |= self.sequence < frames;
        rotten |= (self.next_block + 1..self.capacity_blocks)
            .any(|block| parse_frame(image, block, nonce, None).is_some());
        Ok((records, rotten))
    }
}

fn file_path(dir: &Path, name: &str, which: char) -> PathBuf {
    let mut file_name = OsString::from(name);
    file_name.push(format!(".{which}"));
    dir.join(file_name)
}

/// Opens the file and makes sure that every block of it is allocated and written.
fn open_prewritten(path: &Path, capacity_blocks: usize) -> io::Result<File> {
    let length = (capacity_blocks * BLOCK) as u64;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let buffered = options.open(path)?;
    let present = buffered.metadata()?.len();
    if present < length {
        let zeros = vec![0u8; BLOCK * FRAME_BLOCKS_MAX];
        let mut offset = present;
        while offset < length {
            let step = (length - offset).min(zeros.len() as u64);
            buffered.write_all_at(&zeros[..usize::try_from(step).unwrap_or(0)], offset)?;
            offset += step;
        }
        buffered.sync_all()?;
    }
    let direct = OFlags::DIRECT.union(OFlags::DSYNC).bits();
    options.custom_flags(direct.cast_signed());
    match options.open(path) {
        Err(error) if error.kind() == ErrorKind::InvalidInput => {
            // A file system without O_DIRECT: correct all the same, only slower.
            options.custom_flags(OFlags::DSYNC.bits().cast_signed()).open(path)
        }
        other => other,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Header {
    Blank,
    Damaged,
    Valid { generation: u64, nonce: u64, frames: u64 },
}

fn parse_header(image: &[u8]) -> Header {
    let block = &image[..BLOCK];
    if block.iter().all(|byte| *byte == 0) {
        return Header::Blank;
    }
    let valid = word(block, 0) == HEADER_MAGIC
        && block[32..48] == frame_hash(&block[..32], &[])
        && word(block, 8) > 0;
    if valid {
        Header::Valid {
            generation: word(block, 8),
            nonce: word(block, 16),
            frames: word(block, 24),
        }
    } else {
        Header::Damaged
    }
}

/// Reads the frame that begins at `block`, if a whole frame of this nonce (and sequence)
/// begins there: its length in blocks, and its records.
fn parse_frame(
    image: &[u8],
    block: usize,
    nonce: u64,
    sequence: Option<u64>,
) -> Option<(usize, Vec<Vec<u8>>)> {
    let image = image.get(block * BLOCK..)?;
    let head = image.get(..FRAME_HEAD)?;
    let blocks = usize::try_from(half(head, 4)).ok()?;
    let length = usize::try_from(half(head, 8)).ok()?;
    if half(head, 0) != FRAME_MAGIC
        || word(head, 16) != nonce
        || sequence.is_some_and(|expected| word(head, 24) != expected)
        || blocks == 0
        || blocks > FRAME_BLOCKS_MAX
        || length > blocks * BLOCK - FRAME_HEAD
    {
        return None;
    }
    let payload = image.get(FRAME_HEAD..FRAME_HEAD + length)?;
    if head[32..48] != frame_hash(&head[..32], payload) {
        return None;
    }
    let mut records = Vec::new();
    let mut rest = payload;
    for _ in 0..half(head, 12) {
        let (size, tail) = rest.split_at_checked(4)?;
        let (record, tail) = tail.split_at_checked(usize::try_from(half(size, 0)).ok()?)?;
        records.push(record.to_vec());
        rest = tail;
    }
    Some((blocks, records))
}

fn frame_hash(head: &[u8], payload: &[u8]) -> [u8; 16] {
    let whole = *blake3::Hasher::new().update(head).update(payload).finalize().as_bytes();
    *whole.first_chunk().expect("a hash has 32 bytes")
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(*bytes[at..].first_chunk().expect("callers pass whole headers"))
}

fn half(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*bytes[at..].first_chunk().expect("callers pass whole headers"))
}

/// Memory aligned to a block, as `O_DIRECT` asks.
#[derive(Debug, Default)]
struct AlignedBuffer {
    memory: Vec<u8>,
    length: usize,
}

impl AlignedBuffer {
    fn clear(&mut self, blocks: usize) {
        self.length = blocks * BLOCK;
        let needed = self.length + BLOCK;
        if self.memory.len() < needed {
            self.memory = vec![0; needed];
        } else {
            self.bytes_mut().fill(0);
        }
    }

    fn start(&self) -> usize {
        self.memory.as_ptr().align_offset(BLOCK)
    }

    fn bytes(&self) -> &[u8] {
        let start = self.start();
        &self.memory[start..start + self.length]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        let start = self.start();
        &mut self.memory[start..start + self.length]
    }

    fn blocks(&self) -> usize {
        self.length / BLOCK
    }

    fn fill_header(&mut self, generation: u64, nonce: u64, frames: u64) {
        self.clear(1);
        let block = self.bytes_mut();
        block[..8].copy_from_slice(&HEADER_MAGIC.to_le_bytes());
        block[8..16].copy_from_slice(&generation.to_le_bytes());
        block[16..24].copy_from_slice(&nonce.to_le_bytes());
        block[24..32].copy_from_slice(&frames.to_le_bytes());
        let digest = frame_hash(&block[..32], &[]);
        block[32..48].copy_from_slice(&digest);
    }

    /// Packs as many records as one frame takes; returns how many.
    fn fill_frame<R: AsRef<[u8]>>(
        &mut self,
        records: &[R],
        nonce: u64,
        sequence: u64,
    ) -> io::Result<usize> {
        let mut length = 0;
        let mut count = 0;
        for record in records {
            let grown = length + 4 + record.as_ref().len();
            if grown > FRAME_BLOCKS_MAX * BLOCK - FRAME_HEAD {
                break;
            }
            length = grown;
            count += 1;
        }
        if count == 0 {
            return Err(io::Error::new(ErrorKind::InvalidInput, "an intent record is too long"));
        }
        let blocks = (FRAME_HEAD + length).div_ceil(BLOCK);
        self.clear(blocks);
        let bytes = self.bytes_mut();
        let mut at = FRAME_HEAD;
        for record in &records[..count] {
            let record = record.as_ref();
            let size = u32::try_from(record.len()).expect("a record fits into a frame");
            bytes[at..at + 4].copy_from_slice(&size.to_le_bytes());
            bytes[at + 4..at + 4 + record.len()].copy_from_slice(record);
            at += 4 + record.len();
        }
        let small = |n: usize| u32::try_from(n).expect("a frame is small").to_le_bytes();
        bytes[..4].copy_from_slice(&FRAME_MAGIC.to_le_bytes());
        bytes[4..8].copy_from_slice(&small(blocks));
        bytes[8..12].copy_from_slice(&small(length));
        bytes[12..16].copy_from_slice(&small(count));
        bytes[16..24].copy_from_slice(&nonce.to_le_bytes());
        bytes[24..32].copy_from_slice(&sequence.to_le_bytes());
        let (head, payload) = bytes.split_at(FRAME_HEAD);
        let digest = frame_hash(&head[..32], &payload[..length]);
        bytes[32..48].copy_from_slice(&digest);
        Ok(count)
    }
}
