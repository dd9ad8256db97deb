//! Requests that change nothing: answered at once.

use std::mem::MaybeUninit;

use havre_core::config::module::WriteMode;
use rustix::{
    fs::{RawDir, SeekFrom},
    io::Errno,
};

use super::{
    Files,
    abi::{Encoder, IN_HEADER_BYTES, InHeader, MAJOR, MINOR, Reader, init, op},
    attributes::{ENTRY_BYTES, put_absent, put_answer, put_entry, put_statx},
    tree::{Dropped, REGULAR},
};

/// Longest write request, in bytes; the kernel's own limit is 256 pages.
pub(super) const WRITE_BYTES_MAX: u32 = 1 << 20;
/// Background requests (write-back, read-ahead, asynchronous direct) under way at once.
const BACKGROUND_MAX: u16 = 128;
/// `FS_IOC_GETFLAGS`.
const GETFLAGS: u32 = 0x8008_6601;
const DIRENT_BYTES: usize = 24;

impl Files {
    /// Answers the request into `self.out`; `None`: no answer is wanted.
    pub(super) fn serve(
        &mut self,
        header: InHeader,
        request: &[u8],
        gone: &mut Vec<Dropped>,
    ) -> Option<Result<(), Errno>> {
        self.out.clear();
        let body = request.get(IN_HEADER_BYTES..header.len as usize).unwrap_or_default();
        let mut reader = Reader::new(body);
        let reader = &mut reader;
        let node = header.node;
        Some(match header.opcode {
            op::LOOKUP => self.lookup(node, reader),
            op::FORGET => {
                let count = reader.u64().unwrap_or(0);
                self.forget(node, count, gone);
                return None;
            }
            op::BATCH_FORGET => {
                self.forget_batch(reader, gone);
                return None;
            }
            op::INTERRUPT => return None,
            op::GETATTR => self.stat(node).map(|about| {
                put_answer(&mut self.out, &about, self.tree.modified(node));
            }),
            op::STATX => self.stat(node).map(|about| {
                put_statx(&mut self.out, &about, self.tree.modified(node));
            }),
            op::READLINK => self.read_link(node),
            op::READ => self.read(node, reader),
            op::READDIR => self.read_directory(node, reader, false),
            op::READDIRPLUS => self.read_directory(node, reader, true),
            op::STATFS => self.stat_file_system(),
            op::GETXATTR => self.get_xattr(node, reader),
            op::LISTXATTR => self.list_xattr(node, reader),
            op::LSEEK => self.seek(node, reader),
            op::IOCTL => self.control(node, reader),
            op::INIT => self.init(reader),
            op::DESTROY | op::RELEASE | op::RELEASEDIR => Ok(()),
            // "Not implemented" once: from then on the kernel opens and closes by itself, which
            // saves two round trips for each. A close is no barrier, so FLUSH is not wanted either.
            op::OPEN | op::OPENDIR | op::FLUSH => Err(Errno::NOSYS),
            // CREATE likewise: the kernel then makes files by MKNOD and needs no RELEASE for them.
            _ => Err(Errno::NOSYS),
        })
    }

    fn lookup(&mut self, parent: u64, reader: &mut Reader<'_>) -> Result<(), Errno> {
        let name = reader.name()?;
        match self.tree.stat_child(parent, name) {
            Ok(about) => {
                let node = self.tree.learn(parent, name, &about)?;
                put_entry(&mut self.out, node, &about, self.tree.modified(node));
                Ok(())
            }
            Err(Errno::NOENT) => {
                put_absent(&mut self.out);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn forget(&mut self, node: u64, count: u64, gone: &mut Vec<Dropped>) {
        let before = gone.len();
        if let Err(error) = self.tree.forget(node, count, gone) {
            tracing::error!(node, %error, "the node table's memory cannot be written");
        }
        for dropped in &gone[before..] {
            if dropped.orphan {
                self.keeper.release(dropped.number);
            }
        }
    }

    fn forget_batch(&mut self, reader: &mut Reader<'_>, gone: &mut Vec<Dropped>) {
        let Ok(count) = reader.u64() else { return };
        for _ in 0..count & u64::from(u32::MAX) {
            let (Ok(node), Ok(times)) = (reader.u64(), reader.u64()) else { return };
            self.forget(node, times, gone);
        }
    }

    fn read_link(&mut self, node: u64) -> Result<(), Errno> {
        let handle = self.tree.handle(node)?;
        let target = rustix::fs::readlinkat(&*handle, "", Vec::new())?;
        self.out.extend_from_slice(target.as_bytes());
        Ok(())
    }

    fn read(&mut self, node: u64, reader: &mut Reader<'_>) -> Result<(), Errno> {
        let (_, offset, size) = (reader.u64()?, reader.u64()?, reader.u32()? as usize);
        let handle = self.tree.handle(node)?;
        // Keeps its length, so that memory is cleared only when a read is longer than any before.
        let data = &mut self.data;
        if data.len() < size {
            data.resize(size, 0);
        }
        let mut filled = 0;
        while filled < size {
            match rustix::io::pread(&*handle, &mut data[filled..size], offset + filled as u64) {
                Ok(0) => break,
                Ok(more) => filled += more,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        self.data_len = Some(filled);
        Ok(())
    }

    fn read_directory(
        &mut self,
        node: u64,
        reader: &mut Reader<'_>,
        plus: bool,
    ) -> Result<(), Errno> {
        let (_, offset, size) = (reader.u64()?, reader.u64()?, reader.u32()? as usize);
        let handle = self.tree.handle(node)?;
        rustix::fs::seek(&*handle, SeekFrom::Start(offset))?;
        // Entries that do not fit are read again: take about as many as will.
        let chunk = if plus { size / 5 } else { size }.clamp(512, 64 << 10);
        let mut memory = vec![MaybeUninit::uninit(); chunk];
        let mut entries = RawDir::new(&*handle, &mut memory);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            let fixed = DIRENT_BYTES + if plus { ENTRY_BYTES } else { 0 };
            let whole = (fixed + name.len()).next_multiple_of(8);
            let start = self.out.len();
            if start + whole > size {
                break;
            }
            if plus {
                self.put_directory_entry(node, name);
            }
            self.out.put64(entry.ino());
            self.out.put64(entry.next_entry_cookie());
            self.out.put32(name.len() as u32);
            self.out.put32(entry.file_type().as_raw_mode() >> 12);
            self.out.extend_from_slice(name);
            self.out.resize(start + whole, 0);
        }
        Ok(())
    }

    /// The entry part of a directory entry; zeros tell the kernel to look it up itself.
    fn put_directory_entry(&mut self, parent: u64, name: &[u8]) {
        let start = self.out.len();
        if name != b"." && name != b".." {
            let learned = self.tree.stat_child(parent, name).and_then(|about| {
                let node = self.tree.learn(parent, name, &about)?;
                Ok((node, about))
            });
            if let Ok((node, about)) = learned {
                put_entry(&mut self.out, node, &about, self.tree.modified(node));
            }
        }
        self.out.resize(start + ENTRY_BYTES, 0);
    }

    fn stat_file_system(&mut self) -> Result<(), Errno> {
        let handle = self.tree.handle(super::abi::ROOT)?;
        let about = rustix::fs::fstatvfs(&*handle)?;
        for value in [about.f_blocks, about.f_bfree, about.f_bavail, about.f_files, about.f_ffree] {
            self.out.put64(value);
        }
        self.out.put32(u32::try_from(about.f_bsize).unwrap_or(4096));
        self.out.put32(u32::try_from(about.f_namemax).unwrap_or(255));
        self.out.put32(u32::try_from(about.f_frsize).unwrap_or(4096));
        self.out.resize(self.out.len() + 28, 0);
        Ok(())
    }

    fn get_xattr(&mut self, node: u64, reader: &mut Reader<'_>) -> Result<(), Errno> {
        let (size, _) = (reader.u32()? as usize, reader.u32()?);
        let name = reader.name()?;
        let is_open = matches!(self.tree.kind(node)?, REGULAR | super::tree::DIRECTORY);
        let mut value = vec![0; size];
        let len = if is_open {
            let handle = self.tree.handle(node)?;
            if size == 0 {
                rustix::fs::fgetxattr_query(&*handle, name)?
            } else {
                rustix::fs::fgetxattr(&*handle, name, &mut value[..])?
            }
        } else if size == 0 {
            self.on_path(node, |path| rustix::fs::getxattr_query(path, name))?
        } else {
            self.on_path(node, |path| rustix::fs::getxattr(path, name, &mut value[..]))?
        };
        self.put_sized(size, &value, len);
        Ok(())
    }

    fn list_xattr(&mut self, node: u64, reader: &mut Reader<'_>) -> Result<(), Errno> {
        let size = reader.u32()? as usize;
        let mut names = vec![0; size];
        let len = if size == 0 {
            self.on_path(node, |path| rustix::fs::listxattr_query(path))?
        } else {
            self.on_path(node, |path| rustix::fs::listxattr(path, &mut names[..]))?
        };
        self.put_sized(size, &names, len);
        Ok(())
    }

    /// A value, or its length if only that was asked.
    fn put_sized(&mut self, asked: usize, value: &[u8], len: usize) {
        if asked == 0 {
            self.out.put32(len as u32);
            self.out.put32(0);
        } else {
            self.out.extend_from_slice(&value[..len]);
        }
    }

    fn seek(&mut self, node: u64, reader: &mut Reader<'_>) -> Result<(), Errno> {
        const DATA: u32 = 3;
        const HOLE: u32 = 4;
        // The kernel's cache may hold data where the file still has a hole: without an answer
        // the kernel says that the whole file is data, which is always right.
        if self.options.write == WriteMode::Back {
            return Err(Errno::NOSYS);
        }
        let (_, offset, whence) = (reader.u64()?, reader.u64()?, reader.u32()?);
        let to = match whence {
            DATA => SeekFrom::Data(offset),
            HOLE => SeekFrom::Hole(offset),
            _ => return Err(Errno::INVAL),
        };
        let handle = self.tree.handle(node)?;
        let found = rustix::fs::seek(&*handle, to)?;
        self.out.put64(found);
        Ok(())
    }

    fn control(&mut self, node: u64, reader: &mut Reader<'_>) -> Result<(), Errno> {
        let (_, _, command) = (reader.u64()?, reader.u32()?, reader.u32()?);
        let (_, _, out_size) = (reader.u64()?, reader.u32()?, reader.u32()?);
        if command != GETFLAGS || out_size < 4 {
            return Err(Errno::NOTTY);
        }
        let handle = self.tree.handle(node)?;
        let flags = rustix::fs::ioctl_getflags(&*handle)?.bits();
        self.out.resize(16, 0);
        self.out.put32(flags);
        self.out.resize(16 + out_size as usize, 0);
        Ok(())
    }

    fn init(&mut self, reader: &mut Reader<'_>) -> Result<(), Errno> {
        let (major, minor, read_ahead) = (reader.u32()?, reader.u32()?, reader.u32()?);
        let offered = u64::from(reader.u32()?) | u64::from(reader.u32().unwrap_or(0)) << 32;
        if major != MAJOR {
            return Err(Errno::PROTO);
        }
        let mut wanted = init::ASYNC_READ
            | init::BIG_WRITES
            | init::DONT_MASK
            | init::DO_READDIRPLUS
            | init::READDIRPLUS_AUTO
            | init::ASYNC_DIO
            | init::NO_OPEN_SUPPORT
            | init::PARALLEL_DIROPS
            | init::POSIX_ACL
            | init::ABORT_ERROR
            | init::MAX_PAGES
            | init::CACHE_SYMLINKS
            | init::NO_OPENDIR_SUPPORT
            | init::EXPLICIT_INVAL_DATA
            | init::HANDLE_KILLPRIV_V2
            | init::SETXATTR_EXT
            | init::INIT_EXT
            | init::HAS_RESEND;
        if self.options.write == WriteMode::Back {
            wanted |= init::WRITEBACK_CACHE;
        }
        if offered & init::HAS_RESEND == 0 {
            tracing::warn!(minor, "this kernel cannot re-send requests: a crash will be seen");
        }
        let flags = wanted & offered;
        self.out.put32(MAJOR);
        self.out.put32(MINOR.min(minor));
        self.out.put32(read_ahead.max(WRITE_BYTES_MAX));
        self.out.put32(flags as u32);
        self.out.put16(BACKGROUND_MAX);
        self.out.put16(BACKGROUND_MAX / 4 * 3);
        self.out.put32(WRITE_BYTES_MAX);
        self.out.put32(1);
        self.out.put16((WRITE_BYTES_MAX / 4096) as u16);
        self.out.put16(0);
        self.out.put32((flags >> 32) as u32);
        self.out.resize(64, 0);
        Ok(())
    }
}
