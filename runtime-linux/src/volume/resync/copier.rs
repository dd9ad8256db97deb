//! The source's half: reads items, asks the target what differs, sends that.

use std::{
    fmt, io,
    os::fd::{AsFd, BorrowedFd},
};

use havre_core::replication::{
    item::{Answer, BLOCK_BYTES, Entry, Item, Kind, LISTING_BYTES, REGION_BYTES, Step, Want},
    record::Location,
};

use super::scan::{
    attributes_of, data_end, entry_at, is_absent, next_data, open_file, read_at, region_digests,
    size_of, xattrs_at,
};
use crate::volume::{place::Places, tree};

/// An open directory and a name in it.
type InDirectory<'a> = (std::sync::Arc<std::os::fd::OwnedFd>, &'a [u8]);

/// Bytes of one write step.
const WRITE_BYTES: u64 = 1 << 20;
/// Attempts to bring the directories above an item to the target.
const ATTEMPTS_MAX: u32 = 2;

/// The way to the target's [`Fixer`](super::Fixer).
pub trait Link {
    /// Sends a step that does not ask.
    fn send(&mut self, step: &Step, payload: &[u8]) -> Result<(), Stop>;

    /// Sends a step that asks, and waits for the answer.
    fn ask(&mut self, step: &Step) -> Result<Answer, Stop>;
}

/// Why copying an item ended early.
#[derive(Debug)]
pub enum Stop {
    /// The resynchronisation was given up.
    Cancelled,
    /// The local copy cannot be read.
    Local(io::Error),
    /// The target's answers make no sense.
    Peer(&'static str),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Local(error)
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cancelled => f.write_str("given up"),
            Self::Local(error) => error.fmt(f),
            Self::Peer(what) => f.write_str(what),
        }
    }
}

/// What copying an item took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Bytes compared.
    pub compared: u64,
    /// Bytes sent because they differed.
    pub copied: u64,
}

/// Copies items of the local copy, one after the other.
#[derive(Debug)]
pub struct Copier {
    places: Places,
    tally: Tally,
}

/// A directory still to be listed.
struct Due {
    directory: Location,
    deep: bool,
}

impl Copier {
    /// Makes one that reads these directories.
    pub fn new(places: Places) -> Self {
        Self { places, tally: Tally::default() }
    }

    /// The directories.
    pub fn places(&mut self) -> &mut Places {
        &mut self.places
    }

    /// Makes the target's copy of `item` equal to the local one, as of some moment during the
    /// call for each byte and attribute. An item that is not there is done: the entries of its
    /// directory are another item.
    pub fn copy(&mut self, item: &Item, link: &mut dyn Link) -> Result<Tally, Stop> {
        self.tally = Tally::default();
        // Descriptors of directories follow them when they are renamed; paths must not.
        self.places.forget_parents();
        if !self.places.excludes(item.place()) {
            match item {
                Item::Region { file, index } => self.regions(file, *index, *index, link),
                Item::File { file } => self.regions(file, 0, u32::MAX, link),
                Item::Attributes { at } => self.inspect(at, link),
                Item::Entries { directory } => self.directory(directory, false, link),
                Item::Tree { directory } => self.directory(directory, true, link),
            }
            .or_else(|stop| match stop {
                Stop::Local(error) if is_absent(&error) => Ok(()),
                other => Err(other),
            })?;
        }
        Ok(self.tally)
    }

    fn regions(
        &mut self,
        file: &Location,
        first: u32,
        last: u32,
        link: &mut dyn Link,
    ) -> Result<(), Stop> {
        let Some((open, stat)) = open_file(&self.places, file)? else { return Ok(()) };
        let size = size_of(&stat);
        let count = u32::try_from(size.div_ceil(REGION_BYTES)).unwrap_or(u32::MAX).max(1);
        for index in first..=last.min(count - 1).max(first) {
            let digests = region_digests(open.as_fd(), index, size)?;
            self.tally.compared += digests.len() as u64 * BLOCK_BYTES;
            let count = digests.len();
            let step = Step::Compare { file: file.clone(), size, index, digests };
            match link.ask(&step)? {
                Answer::Blocks(blocks) => {
                    if blocks.iter().any(|block| usize::from(*block) >= count) {
                        return Err(Stop::Peer("a block that was not compared"));
                    }
                    let start = u64::from(index) * REGION_BYTES;
                    self.send_blocks(file, open.as_fd(), start, &blocks, size, link)?;
                }
                Answer::Absent => return self.bring(file, link),
                Answer::Wanted(_) => return Err(Stop::Peer("an answer to another step")),
            }
        }
        let attributes = attributes_of(&stat);
        link.send(&Step::Finish { file: file.clone(), size, attributes }, &[])
    }

    /// Sends the blocks at these positions of a region, neighbours together.
    #[expect(clippy::too_many_arguments, reason = "each is one coordinate of what is sent")]
    fn send_blocks(
        &mut self,
        file: &Location,
        open: BorrowedFd<'_>,
        start: u64,
        blocks: &[u16],
        size: u64,
        link: &mut dyn Link,
    ) -> Result<(), Stop> {
        let mut rest = blocks;
        while let Some(first) = rest.first().copied() {
            let run = rest
                .iter()
                .enumerate()
                .take_while(|(at, block)| {
                    usize::from(**block) == usize::from(first) + at
                        && *at < (WRITE_BYTES / BLOCK_BYTES) as usize
                })
                .count();
            rest = &rest[run..];
            let offset = start + u64::from(first) * BLOCK_BYTES;
            let len = (run as u64 * BLOCK_BYTES).min(size.saturating_sub(offset));
            self.send_range(file, open, offset, len, link)?;
        }
        Ok(())
    }

    fn send_range(
        &mut self,
        file: &Location,
        open: BorrowedFd<'_>,
        offset: u64,
        len: u64,
        link: &mut dyn Link,
    ) -> Result<(), Stop> {
        let mut bytes = vec![0u8; usize::try_from(len).unwrap_or(0)];
        let read = read_at(open, &mut bytes, offset)?;
        // The file has become shorter meanwhile: what follows is another pass.
        bytes.truncate(read);
        let file = file.clone();
        if bytes.iter().all(|byte| *byte == 0) {
            return link.send(&Step::Zero { file, offset, len }, &[]);
        }
        self.tally.copied += bytes.len() as u64;
        link.send(&Step::Write { file, offset }, &bytes)
    }

    /// Sends a whole file.
    fn content(&mut self, file: &Location, link: &mut dyn Link) -> Result<(), Stop> {
        let Some((open, stat)) = open_file(&self.places, file)? else { return Ok(()) };
        let size = size_of(&stat);
        link.send(&Step::Create { file: file.clone() }, &[])?;
        let mut at = next_data(open.as_fd(), 0)?;
        while let Some(start) = at.filter(|start| *start < size) {
            let end = data_end(open.as_fd(), start, size)?;
            let mut offset = start;
            while offset < end {
                let len = (end - offset).min(WRITE_BYTES);
                self.send_range(file, open.as_fd(), offset, len, link)?;
                offset += len;
            }
            at = if end > start { next_data(open.as_fd(), end)? } else { None };
        }
        self.tally.compared += size;
        if let Some((dir, name)) = self.parent(file)? {
            let xattrs = xattrs_at(dir.as_fd(), name)?;
            if !xattrs.is_empty() {
                link.send(&Step::Xattrs { at: file.clone() }, &xattrs)?;
            }
        }
        let attributes = attributes_of(&stat);
        link.send(&Step::Finish { file: file.clone(), size, attributes }, &[])
    }

    fn parent<'a>(&mut self, place: &'a Location) -> Result<Option<InDirectory<'a>>, Stop> {
        if place.path.is_empty() {
            return Ok(Some((self.places.directory(place)?, b".")));
        }
        match self.places.parent(place) {
            Err(error) if is_absent(&error) => Ok(None),
            other => Ok(Some(other?)),
        }
    }

    fn describe(&mut self, at: &Location) -> Result<Option<Entry>, Stop> {
        let Some((dir, name)) = self.parent(at)? else { return Ok(None) };
        match entry_at(dir.as_fd(), name, false) {
            Err(error) if is_absent(&error) => Ok(None),
            other => Ok(Some(Entry { name: Vec::new(), ..other? })),
        }
    }

    /// Makes the target have this entry with these attributes.
    fn inspect(&mut self, at: &Location, link: &mut dyn Link) -> Result<(), Stop> {
        let Some(entry) = self.describe(at)? else { return Ok(()) };
        match link.ask(&Step::Inspect { at: at.clone(), entry })? {
            Answer::Wanted(wants) => {
                for (_, want) in wants {
                    match want {
                        Want::Entries => self.directory(at, true, link)?,
                        want => self.satisfy(at, want, false, link)?,
                    }
                }
                Ok(())
            }
            Answer::Absent => self.bring(at, link),
            Answer::Blocks(_) => Err(Stop::Peer("an answer to another step")),
        }
    }

    /// Brings an item whose directories the target does not have: the uppermost missing one comes
    /// with everything in it.
    fn bring(&mut self, place: &Location, link: &mut dyn Link) -> Result<(), Stop> {
        let mut chain = vec![place.clone()];
        while let Some((parent, _)) = chain.last().and_then(Location::split) {
            if parent.path.is_empty() {
                break;
            }
            chain.push(parent);
        }
        while let Some(at) = chain.pop() {
            let Some(entry) = self.describe(&at)? else { return Ok(()) };
            let Answer::Wanted(wants) = link.ask(&Step::Inspect { at: at.clone(), entry })? else {
                return Err(Stop::Peer("a directory is missing that was there just now"));
            };
            for (_, want) in wants {
                match want {
                    Want::Entries => return self.directory(&at, true, link),
                    want => self.satisfy(&at, want, true, link)?,
                }
            }
        }
        Ok(())
    }

    fn satisfy(
        &mut self,
        place: &Location,
        want: Want,
        deep: bool,
        link: &mut dyn Link,
    ) -> Result<(), Stop> {
        match want {
            Want::Content => self.content(place, link),
            Want::Comparison => self.regions(place, 0, if deep { u32::MAX } else { 0 }, link),
            Want::Xattrs => {
                let Some((dir, name)) = self.parent(place)? else { return Ok(()) };
                let xattrs = xattrs_at(dir.as_fd(), name)?;
                link.send(&Step::Xattrs { at: place.clone() }, &xattrs)
            }
            Want::Entries => Ok(()),
        }
    }

    fn directory(
        &mut self,
        directory: &Location,
        deep: bool,
        link: &mut dyn Link,
    ) -> Result<(), Stop> {
        let mut due = vec![Due { directory: directory.clone(), deep }];
        while let Some(next) = due.pop() {
            match self.list(&next, &mut due, link) {
                Err(Stop::Local(error)) if is_absent(&error) => {}
                other => other?,
            }
        }
        Ok(())
    }

    fn list(&mut self, due: &Due, more: &mut Vec<Due>, link: &mut dyn Link) -> Result<(), Stop> {
        let dir = self.places.directory(&due.directory)?;
        let mut names = tree::entries(dir.as_fd())?.into_iter().map(|(name, _)| name).peekable();
        let mut after = Vec::new();
        loop {
            let mut entries = Vec::new();
            let mut bytes = 0;
            while bytes < LISTING_BYTES
                && let Some(name) = names.next()
            {
                let place = due.directory.join(&name);
                if self.places.excludes(&place) {
                    continue;
                }
                match entry_at(dir.as_fd(), &name, true) {
                    Err(error) if is_absent(&error) => {}
                    entry => {
                        let entry = entry?;
                        bytes += entry.encoded_len_max();
                        self.count(&entry);
                        entries.push(entry);
                    }
                }
            }
            let ends = names.peek().is_none();
            let next_after = entries.last().map(|entry: &Entry| entry.name.clone());
            self.send_list(due, std::mem::take(&mut after), ends, entries, more, link)?;
            match next_after {
                Some(name) if !ends => after = name,
                _ => return Ok(()),
            }
        }
    }

    fn count(&mut self, entry: &Entry) {
        if let Kind::File { size, digest: Some(_), .. } = entry.kind {
            self.tally.compared += size;
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one listing, and where to")]
    fn send_list(
        &mut self,
        due: &Due,
        after: Vec<u8>,
        ends: bool,
        entries: Vec<Entry>,
        more: &mut Vec<Due>,
        link: &mut dyn Link,
    ) -> Result<(), Stop> {
        let directory = due.directory.clone();
        let step = Step::List { directory, after, ends, entries };
        let mut wants = None;
        for _ in 0..ATTEMPTS_MAX {
            match link.ask(&step)? {
                Answer::Wanted(wanted) => {
                    wants = Some(wanted);
                    break;
                }
                Answer::Absent => self.bring(&due.directory, link)?,
                Answer::Blocks(_) => return Err(Stop::Peer("an answer to another step")),
            }
        }
        let wants = wants.ok_or(Stop::Peer("a directory cannot be made"))?;
        let Step::List { entries, .. } = step else { return Ok(()) };
        for (index, want) in wants {
            let entry = usize::try_from(index).ok().and_then(|index| entries.get(index));
            let entry = entry.ok_or(Stop::Peer("an entry that was not listed"))?;
            let place = due.directory.join(&entry.name);
            match want {
                Want::Entries => more.push(Due { directory: place, deep: true }),
                want => self.satisfy(&place, want, due.deep, link)?,
            }
        }
        if due.deep {
            for entry in &entries {
                let place = due.directory.join(&entry.name);
                let known = more.iter().any(|due| due.directory == place);
                if entry.kind == Kind::Directory && !known {
                    more.push(Due { directory: place, deep: true });
                }
            }
        }
        Ok(())
    }
}
