//! Random sequences of operations: the mount against a plain directory, and one file against a
//! vector of bytes.

mod fs_support;

use std::{
    cell::Cell,
    fs,
    os::{
        fd::OwnedFd,
        unix::fs::{FileExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use fs_support::{Served, assert_same_trees, is_root, pair, temporary};
use proptest::{prelude::*, test_runner::TestRunner};
use rustix::{
    fs::{CWD, FallocateFlags, Mode, OFlags, RenameFlags, XattrFlags},
    io::Errno,
    mm::{MapFlags, MsyncFlags, ProtFlags},
};

#[test]
#[ignore = "not a test: started by the others"]
fn helper_process() {
    fs_support::help();
}

/// A place in a small tree, so that operations meet.
type Spot = (u8, u8, bool);

#[derive(Debug, Clone)]
enum Step {
    Write(Spot, u16, u16),
    Append(Spot, u8),
    Truncate(Spot, u16),
    Allocate(Spot, u8, u16, u16),
    MakeDirectory(Spot),
    Unlink(Spot),
    RemoveDirectory(Spot),
    Rename(Spot, Spot, u8),
    Link(Spot, Spot),
    Symlink(Spot, Spot),
    SetMode(Spot, u16),
    SetXattr(Spot, u8),
    Keep(Spot),
    WriteKept(u16, u8),
    Sync,
}

fn spot() -> impl Strategy<Value = Spot> {
    (0u8..3, 0u8..3, any::<bool>())
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (spot(), 0u16..20_000, 1u16..9000).prop_map(|(s, at, len)| Step::Write(s, at, len)),
        1 => (spot(), any::<u8>()).prop_map(|(s, len)| Step::Append(s, len)),
        1 => (spot(), 0u16..20_000).prop_map(|(s, size)| Step::Truncate(s, size)),
        1 => (spot(), 0u8..4, 0u16..20_000, 1u16..9000)
            .prop_map(|(s, mode, at, len)| Step::Allocate(s, mode, at, len)),
        3 => spot().prop_map(Step::MakeDirectory),
        2 => spot().prop_map(Step::Unlink),
        1 => spot().prop_map(Step::RemoveDirectory),
        4 => (spot(), spot(), 0u8..3).prop_map(|(from, to, mode)| Step::Rename(from, to, mode)),
        2 => (spot(), spot()).prop_map(|(from, to)| Step::Link(from, to)),
        1 => (spot(), spot()).prop_map(|(from, to)| Step::Symlink(from, to)),
        1 => (spot(), 0u16..0o10000).prop_map(|(s, mode)| Step::SetMode(s, mode)),
        1 => (spot(), any::<u8>()).prop_map(|(s, value)| Step::SetXattr(s, value)),
        2 => spot().prop_map(Step::Keep),
        2 => (0u16..20_000, any::<u8>()).prop_map(|(at, value)| Step::WriteKept(at, value)),
        1 => Just(Step::Sync),
    ]
}

/// One of the two directories, and the file that is kept open in it.
struct Side {
    top: PathBuf,
    kept: Option<OwnedFd>,
}

impl Side {
    fn at(&self, (directory, name, deep): Spot) -> PathBuf {
        let name = format!("n{name}");
        if deep { self.top.join(format!("n{directory}")).join(name) } else { self.top.join(name) }
    }

    fn open(&self, spot: Spot, flags: OFlags) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::NOFOLLOW;
        rustix::fs::open(self.at(spot), flags, Mode::from_raw_mode(0o644))
    }

    fn run(&mut self, step: &Step) -> Result<(), Errno> {
        match step {
            Step::Write(spot, at, len) => {
                let file = self.open(*spot, OFlags::RDWR | OFlags::CREATE)?;
                let data = vec![(*at % 255) as u8 + 1; usize::from(*len)];
                rustix::io::pwrite(&file, &data, u64::from(*at)).map(drop)
            }
            Step::Append(spot, len) => {
                let file = self.open(*spot, OFlags::WRONLY | OFlags::APPEND)?;
                rustix::io::write(&file, &vec![*len; usize::from(*len)]).map(drop)
            }
            Step::Truncate(spot, size) => {
                rustix::fs::ftruncate(self.open(*spot, OFlags::RDWR)?, u64::from(*size))
            }
            Step::Allocate(spot, mode, at, len) => {
                let keep = FallocateFlags::KEEP_SIZE;
                let modes = [
                    FallocateFlags::empty(),
                    keep,
                    FallocateFlags::PUNCH_HOLE | keep,
                    FallocateFlags::ZERO_RANGE,
                ];
                let file = self.open(*spot, OFlags::RDWR)?;
                let mode = modes[usize::from(*mode)];
                rustix::fs::fallocate(&file, mode, u64::from(*at), u64::from(*len))
            }
            Step::MakeDirectory(spot) => {
                rustix::fs::mkdir(self.at(*spot), Mode::from_raw_mode(0o755))
            }
            Step::Unlink(spot) => rustix::fs::unlink(self.at(*spot)),
            Step::RemoveDirectory(spot) => rustix::fs::rmdir(self.at(*spot)),
            Step::Rename(from, to, mode) => {
                let modes = [RenameFlags::empty(), RenameFlags::NOREPLACE, RenameFlags::EXCHANGE];
                let (from, to) = (self.at(*from), self.at(*to));
                rustix::fs::renameat_with(CWD, from, CWD, to, modes[usize::from(*mode)])
            }
            Step::Link(from, to) => rustix::fs::link(self.at(*from), self.at(*to)),
            Step::Symlink(from, to) => rustix::fs::symlink(format!("n{}", from.1), self.at(*to)),
            Step::SetMode(spot, mode) => {
                let file = self.open(*spot, OFlags::RDONLY)?;
                rustix::fs::fchmod(&file, Mode::from_raw_mode(u32::from(*mode)))
            }
            Step::SetXattr(spot, value) => {
                let file = self.open(*spot, OFlags::RDONLY)?;
                rustix::fs::fsetxattr(&file, "user.x", &[*value], XattrFlags::empty())
            }
            Step::Keep(spot) => {
                self.kept = Some(self.open(*spot, OFlags::RDWR)?);
                Ok(())
            }
            Step::WriteKept(at, value) => {
                let file = self.kept.as_ref().ok_or(Errno::BADF)?;
                rustix::io::pwrite(file, &[*value; 777], u64::from(*at))?;
                let mut back = [0; 777];
                rustix::io::pread(file, &mut back, u64::from(*at))?;
                assert_eq!(back, [*value; 777]);
                Ok(())
            }
            Step::Sync => self.kept.as_ref().map_or(Ok(()), rustix::fs::fsync),
        }
    }
}

#[track_caller]
fn compare_random_trees(mode: &str) {
    if !is_root() {
        return;
    }
    let top = temporary();
    let (mounted, plain) = pair(top.path()).expect("fresh directories");
    let replica = top.path().join("replica");
    fs::create_dir(&replica).expect("a fresh directory");
    let served = Served::start(&mounted, mode);
    let mut runner = TestRunner::new(ProptestConfig {
        cases: 40,
        failure_persistence: None,
        max_shrink_iters: 200,
        ..ProptestConfig::default()
    });
    let count = Cell::new(0u32);
    let steps = proptest::collection::vec(step(), 1..120);
    let outcome = runner.run(&steps, |steps| {
        let number = count.get() + 1;
        count.set(number);
        let name = format!("case-{number}");
        let side = |top: &Path| {
            fs::create_dir(top.join(&name)).expect("a fresh directory");
            Side { top: top.join(&name), kept: None }
        };
        let (mut left, mut right) = (side(&mounted), side(&plain));
        for (index, step) in steps.iter().enumerate() {
            let (here, there) = (left.run(step), right.run(step));
            prop_assert_eq!(here, there, "step {}: {:?}", index, step);
        }
        assert_same_trees(&left.top, &right.top);
        Ok(())
    });
    drop(served);
    outcome.expect("both sides did the same");
    assert_same_trees(&mounted, &plain);
    if mode.starts_with("mirror") {
        assert_same_trees(&replica, &plain);
    }
}

#[test]
fn random_operations_give_equal_trees_with_write_back() {
    compare_random_trees("back");
}

#[test]
fn random_operations_give_equal_trees_with_write_through() {
    compare_random_trees("through");
}

#[test]
fn changes_of_random_operations_make_an_equal_replica_with_write_back() {
    compare_random_trees("mirror-back");
}

#[test]
fn changes_of_random_operations_make_an_equal_replica_with_write_through() {
    compare_random_trees("mirror-through");
}

const FILE_BYTES_MAX: usize = 300_000;

#[derive(Debug, Clone)]
enum Touch {
    Read(u32, u32),
    Write(u32, u32, u8),
    DirectWrite(u8, u8),
    MapWrite(u32, u32, u8),
    MapRead(u32, u32),
    Truncate(u32),
    Punch(u32, u32),
    Zero(u32, u32),
    Copy(u32, u32, u32),
    Sync,
    Reopen,
}

fn touch() -> impl Strategy<Value = Touch> {
    let at = || 0u32..250_000;
    let len = || 1u32..40_000;
    prop_oneof![
        3 => (at(), len()).prop_map(|(at, len)| Touch::Read(at, len)),
        4 => (at(), len(), any::<u8>()).prop_map(|(at, len, value)| Touch::Write(at, len, value)),
        1 => (0u8..60, any::<u8>()).prop_map(|(block, value)| Touch::DirectWrite(block, value)),
        2 => (at(), len(), any::<u8>())
            .prop_map(|(at, len, value)| Touch::MapWrite(at, len, value)),
        1 => (at(), len()).prop_map(|(at, len)| Touch::MapRead(at, len)),
        2 => at().prop_map(Touch::Truncate),
        1 => (at(), len()).prop_map(|(at, len)| Touch::Punch(at, len)),
        1 => (at(), len()).prop_map(|(at, len)| Touch::Zero(at, len)),
        1 => (at(), at(), len()).prop_map(|(from, to, len)| Touch::Copy(from, to, len)),
        1 => Just(Touch::Sync),
        1 => Just(Touch::Reopen),
    ]
}

fn open_file(path: &Path, flags: OFlags) -> fs::File {
    fs::OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(flags.bits() as i32)
        .open(path)
        .expect("it exists")
}

/// Bytes `from` to `to` of the file by memory mapping; `value`: written there.
fn map(file: &fs::File, from: usize, to: usize, value: Option<u8>) -> Vec<u8> {
    let start = from / 4096 * 4096;
    let len = to - start;
    // SAFETY: a fresh mapping within the file's present size, used here only and unmapped before
    // anything else touches the file.
    unsafe {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let at = rustix::mm::mmap(
            std::ptr::null_mut(),
            len,
            protection,
            MapFlags::SHARED,
            file,
            start as u64,
        )
        .expect("a file can be mapped");
        let bytes = std::slice::from_raw_parts_mut(at.cast::<u8>(), len);
        if let Some(value) = value {
            bytes[from - start..].fill(value);
            if value % 2 == 0 {
                rustix::mm::msync(at, len, MsyncFlags::SYNC).expect("msync");
            }
        }
        let copy = bytes[from - start..].to_vec();
        rustix::mm::munmap(at, len).expect("it is mapped");
        copy
    }
}

struct Model {
    path: PathBuf,
    file: fs::File,
    bytes: Vec<u8>,
}

impl Model {
    fn fill(&mut self, at: usize, len: usize, value: u8) {
        if self.bytes.len() < at + len {
            self.bytes.resize(at + len, 0);
        }
        self.bytes[at..at + len].fill(value);
    }

    /// The part of a range that lies within the file.
    fn within(&self, at: u32, len: u32) -> Option<(usize, usize)> {
        let (from, size) = (at as usize, self.bytes.len());
        (from < size).then(|| (from, size.min(from + len as usize)))
    }

    fn run(&mut self, touch: &Touch) {
        match *touch {
            Touch::Read(at, len) => {
                let mut data = vec![0; len as usize];
                let got = self.file.read_at(&mut data, u64::from(at)).expect("read");
                let expected = self.within(at, len).map_or(&[][..], |(a, b)| &self.bytes[a..b]);
                assert!(data[..got] == *expected, "{touch:?}");
            }
            Touch::Write(at, len, value) => {
                let data = vec![value; len as usize];
                self.file.write_all_at(&data, u64::from(at)).expect("write");
                self.fill(at as usize, len as usize, value);
            }
            Touch::DirectWrite(block, value) => {
                let memory = vec![value; 2 * 4096];
                let start = memory.as_ptr().align_offset(4096);
                let direct = open_file(&self.path, OFlags::DIRECT);
                let at = u64::from(block) * 4096;
                direct.write_all_at(&memory[start..start + 4096], at).expect("direct write");
                self.fill(at as usize, 4096, value);
            }
            Touch::MapWrite(at, len, value) => {
                if let Some((from, to)) = self.within(at, len) {
                    map(&self.file, from, to, Some(value));
                    self.bytes[from..to].fill(value);
                }
            }
            Touch::MapRead(at, len) => {
                if let Some((from, to)) = self.within(at, len) {
                    assert!(map(&self.file, from, to, None) == self.bytes[from..to], "{touch:?}");
                }
            }
            Touch::Truncate(size) => {
                self.file.set_len(u64::from(size)).expect("truncate");
                self.bytes.resize(size as usize, 0);
            }
            Touch::Punch(at, len) => {
                let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                rustix::fs::fallocate(&self.file, flags, u64::from(at), u64::from(len))
                    .expect("punch");
                if let Some((from, to)) = self.within(at, len) {
                    self.bytes[from..to].fill(0);
                }
            }
            Touch::Zero(at, len) => {
                let flags = FallocateFlags::ZERO_RANGE;
                rustix::fs::fallocate(&self.file, flags, u64::from(at), u64::from(len))
                    .expect("zero");
                self.fill(at as usize, len as usize, 0);
            }
            Touch::Copy(from, to, len) => self.copy(from, to, len),
            Touch::Sync => self.file.sync_all().expect("fsync"),
            Touch::Reopen => self.file = open_file(&self.path, OFlags::empty()),
        }
        let len = self.file.metadata().expect("stat").len();
        assert_eq!(len, self.bytes.len() as u64, "size after {touch:?}");
    }

    fn copy(&mut self, from: u32, to: u32, len: u32) {
        let Some((start, end)) = self.within(from, len) else { return };
        let to = to as usize;
        if to < end && start < to + (end - start) {
            return;
        }
        let (mut source, mut target) = (u64::from(from), to as u64);
        while source < end as u64 {
            let left = (end as u64 - source) as usize;
            let (from, to) = (Some(&mut source), Some(&mut target));
            let copied =
                rustix::fs::copy_file_range(&self.file, from, &self.file, to, left).expect("copy");
            assert!(copied > 0, "a copy within the file goes on");
        }
        let data = self.bytes[start..end].to_vec();
        self.fill(to, data.len(), 0);
        self.bytes[to..to + data.len()].copy_from_slice(&data);
    }
}

#[track_caller]
fn torment_one_file(mode: &str) {
    if !is_root() {
        return;
    }
    let top = temporary();
    let served = Served::start(top.path(), mode);
    let mut runner = TestRunner::new(ProptestConfig {
        cases: 25,
        failure_persistence: None,
        max_shrink_iters: 200,
        ..ProptestConfig::default()
    });
    let count = Cell::new(0u32);
    let steps = proptest::collection::vec(touch(), 1..120);
    let outcome = runner.run(&steps, |steps| {
        let number = count.get() + 1;
        count.set(number);
        let path = top.path().join(format!("file-{number}"));
        fs::write(&path, "").expect("create");
        let file = open_file(&path, OFlags::empty());
        let mut model = Model { path: path.clone(), file, bytes: Vec::new() };
        for step in &steps {
            model.run(step);
        }
        assert!(model.bytes.len() <= FILE_BYTES_MAX, "the steps are bounded");
        assert!(fs::read(&path).expect("read") == model.bytes, "the whole file");
        let bytes = model.bytes.clone();
        drop(model);
        // What lies beneath: seen through another mount of the same file system it would be the
        // same; here after the kernel has let go of its cache.
        rustix::fs::fsync(open_file(&path, OFlags::empty())).expect("fsync");
        let file = open_file(&path, OFlags::empty());
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("fadvise");
        drop(file);
        assert!(fs::read(&path).expect("read") == bytes, "the file beneath");
        Ok(())
    });
    drop(served);
    outcome.expect("the file is what the model says");
}

#[test]
fn one_file_stays_equal_to_its_model_with_write_back() {
    torment_one_file("back");
}

#[test]
fn one_file_stays_equal_to_its_model_with_write_through() {
    torment_one_file("through");
}

#[test]
fn one_file_stays_equal_to_its_model_with_copies_in_one_change() {
    torment_one_file("copy");
}
