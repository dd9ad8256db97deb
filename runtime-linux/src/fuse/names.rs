//! Carries out what takes names away and moves them: unlink, rmdir, rename, exchange, link.
//!
//! The node table is kept such that a daemon that dies at any point leaves it usable: see
//! [`super::tree`]. Requests that are sent again: see [`super::perform`].

use rustix::{
    fs::{AtFlags, RenameFlags},
    io::Errno,
};

use super::{
    Files,
    action::Entry,
    perform::{Outcome, accept},
};

impl Files {
    pub(super) fn unlink(
        &mut self,
        entry: &Entry,
        is_directory: bool,
        resent: bool,
    ) -> Result<Outcome, Errno> {
        let directory = self.tree.handle(entry.parent)?;
        let about = match self.tree.stat_child(entry.parent, &entry.name) {
            Err(Errno::NOENT) if resent => return Ok(Outcome::Done),
            about => about?,
        };
        let number = self.tree.number_of(about.stx_ino);
        let orphan = self.tree.is_last_name(number, entry.parent, &entry.name);
        if orphan {
            self.keep(number)?;
        }
        let flags = if is_directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        if let Err(error) = rustix::fs::unlinkat(&*directory, &*entry.name, flags) {
            if orphan {
                self.release_kept(number);
            }
            return Err(error);
        }
        self.tree.remove_name(number, entry.parent, &entry.name)?;
        Ok(Outcome::Done)
    }

    pub(super) fn rename(
        &mut self,
        from: &Entry,
        to: &Entry,
        flags: u32,
        resent: bool,
    ) -> Result<Outcome, Errno> {
        let (from_fd, to_fd) = (self.tree.handle(from.parent)?, self.tree.handle(to.parent)?);
        let source = match self.tree.stat_child(from.parent, &from.name) {
            // Carried out before: only the table may lack it.
            Err(Errno::NOENT) if resent => {
                let moved = self.tree.stat_child(to.parent, &to.name)?;
                self.renamed(self.tree.number_of(moved.stx_ino), from, to)?;
                return Ok(Outcome::Done);
            }
            about => self.tree.number_of(about?.stx_ino),
        };
        let replaced = match self.tree.stat_child(to.parent, &to.name) {
            Ok(about) => Some(self.tree.number_of(about.stx_ino)),
            Err(Errno::NOENT) => None,
            Err(error) => return Err(error),
        };
        let flags = RenameFlags::from_bits_retain(flags);
        let call = || rustix::fs::renameat_with(&*from_fd, &*from.name, &*to_fd, &*to.name, flags);
        if replaced == Some(source) {
            // Two names of one file: the kernel does nothing, both names stay.
            return call().map(|()| Outcome::Done);
        }
        let orphan = replaced.filter(|n| self.tree.is_last_name(*n, to.parent, &to.name));
        if let Some(number) = orphan {
            self.keep(number)?;
        }
        // Both names are known while the kernel moves the entry, in case this process dies now.
        if self.tree.kind(source).is_ok() {
            self.tree.add_name(source, to.parent, &to.name)?;
        }
        if let Err(error) = call() {
            if let Some(number) = orphan {
                self.release_kept(number);
            }
            self.tree.remove_name(source, to.parent, &to.name)?;
            return Err(error);
        }
        if let Some(number) = replaced {
            self.tree.remove_name(number, to.parent, &to.name)?;
        }
        self.renamed(source, from, to)?;
        Ok(Outcome::Done)
    }

    /// Swaps two entries. Doing it twice would undo it, so the table first notes which node was
    /// where: a repeated request finds the note under its number.
    pub(super) fn exchange(
        &mut self,
        from: &Entry,
        to: &Entry,
        unique: Option<u64>,
    ) -> Result<Outcome, Errno> {
        let (from_fd, to_fd) = (self.tree.handle(from.parent)?, self.tree.handle(to.parent)?);
        let at = |files: &mut Self, entry: &Entry| {
            let about = files.tree.stat_child(entry.parent, &entry.name)?;
            Ok::<u64, Errno>(files.tree.number_of(about.stx_ino))
        };
        let (source, other) = (at(self, from)?, at(self, to)?);
        let unique = unique.unwrap_or_default();
        if let Some(original) = self.tree.exchange_noted(unique) {
            if source != original {
                self.renamed(other, from, to)?;
                self.renamed(source, to, from)?;
                return Ok(Outcome::Done);
            }
        } else {
            self.tree.note_exchange(unique, source)?;
        }
        for (number, entry) in [(source, to), (other, from)] {
            if self.tree.kind(number).is_ok() {
                self.tree.add_name(number, entry.parent, &entry.name)?;
            }
        }
        let flags = RenameFlags::EXCHANGE;
        let result = rustix::fs::renameat_with(&*from_fd, &*from.name, &*to_fd, &*to.name, flags);
        let (source_left, other_left) = if result.is_ok() { (from, to) } else { (to, from) };
        if source != other {
            self.tree.remove_name(source, source_left.parent, &source_left.name)?;
            self.tree.remove_name(other, other_left.parent, &other_left.name)?;
        }
        result.map(|()| Outcome::Done)
    }

    /// Notes in the table that a node is called `to` and no longer `from`.
    fn renamed(&mut self, number: u64, from: &Entry, to: &Entry) -> Result<(), Errno> {
        if self.tree.kind(number).is_ok() {
            self.tree.add_name(number, to.parent, &to.name)?;
            self.tree.remove_name(number, from.parent, &from.name)?;
        }
        Ok(())
    }

    pub(super) fn link(
        &mut self,
        node: u64,
        entry: &Entry,
        resent: bool,
    ) -> Result<Outcome, Errno> {
        let (handle, directory) = (self.tree.handle(node)?, self.tree.handle(entry.parent)?);
        let made = rustix::fs::linkat(&*handle, "", &*directory, &*entry.name, AtFlags::EMPTY_PATH);
        accept(made, Errno::EXIST, resent)?;
        let about = self.tree.stat_child(entry.parent, &entry.name)?;
        let number = self.tree.learn(entry.parent, &entry.name, &about)?;
        if number != node {
            return Err(Errno::EXIST);
        }
        if self.tree.is_pinned(node) {
            self.release_kept(node);
        }
        Ok(Outcome::Entry(number, about))
    }
}
