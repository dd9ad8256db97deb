//! The kinds of work, and doing one of them in a directory.
//!
//! Work on files runs in a process of its own, as applications do, so that the daemon's memory
//! can be told from theirs.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::Path,
    time::{Duration, Instant},
};

use super::aio::{self, Aligned, BLOCK};

/// Size of the file that is written at random.
const FILE_BYTES: u64 = 64 << 20;
/// Size of the file that is written from start to end, then synced, again and again.
const SEQUENTIAL_BYTES: u64 = 256 << 20;
/// Files of the small-files work.
const SMALL_FILES: usize = 10_000;

/// One kind of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    /// Overwrite a block, make it durable.
    WriteSync,
    /// Append a block, make it durable.
    AppendSync,
    /// Overwrite blocks at random.
    Random,
    /// The same past the cache, with so many under way from one thread.
    Direct { depth: usize },
    /// The same from so many threads.
    Threads { count: usize },
    /// Write a file from start to end and sync it.
    Sequential { bytes: usize },
    /// Create many.
    SmallFiles,
    /// SQLite, one row per transaction.
    Sqlite(Journal),
    /// PostgreSQL's own benchmark.
    PgBench { clients: u32 },
}

/// How SQLite makes transactions durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Journal {
    /// Write-ahead log, synced at each commit.
    WalFull,
    /// Write-ahead log, synced at checkpoints.
    WalNormal,
    /// Rollback journal, deleted at each commit.
    Delete,
}

impl Work {
    /// All, in the order of the table.
    pub(super) const ALL: [Self; 14] = [
        Self::WriteSync,
        Self::AppendSync,
        Self::Random,
        Self::Direct { depth: 1 },
        Self::Direct { depth: 16 },
        Self::Threads { count: 16 },
        Self::Sequential { bytes: 128 << 10 },
        Self::Sequential { bytes: 1 << 20 },
        Self::SmallFiles,
        Self::Sqlite(Journal::WalFull),
        Self::Sqlite(Journal::WalNormal),
        Self::Sqlite(Journal::Delete),
        Self::PgBench { clients: 1 },
        Self::PgBench { clients: 8 },
    ];

    /// What the table calls it; unique.
    pub(super) fn name(self) -> String {
        match self {
            Self::WriteSync => "4 KiB write + fdatasync".into(),
            Self::AppendSync => "4 KiB append + fdatasync".into(),
            Self::Random => "4 KiB random, buffered".into(),
            Self::Direct { depth } => format!("4 KiB random, O_DIRECT, depth {depth}"),
            Self::Threads { count } => format!("4 KiB random, O_DIRECT, {count} threads"),
            Self::Sequential { bytes } => format!("sequential {} KiB", bytes >> 10),
            Self::SmallFiles => "create 10 000 files of 4 KiB".into(),
            Self::Sqlite(Journal::WalFull) => "SQLite, WAL, synchronous=full".into(),
            Self::Sqlite(Journal::WalNormal) => "SQLite, WAL, synchronous=normal".into(),
            Self::Sqlite(Journal::Delete) => "SQLite, delete journal".into(),
            Self::PgBench { clients } => format!("PostgreSQL pgbench, {clients} clients"),
        }
    }

    /// Does the work in `directory` for about `time`; operations per second.
    ///
    /// # Errors
    /// What the operating system says; databases are not done here.
    pub(super) fn measure(self, directory: &Path, time: Duration) -> io::Result<f64> {
        match self {
            Self::WriteSync => {
                let (file, mut offset) = (filled(directory, 0)?, 0);
                let block = [1u8; BLOCK];
                repeat(time, || {
                    file.write_all_at(&block, offset % FILE_BYTES)?;
                    offset += BLOCK as u64;
                    file.sync_data()
                })
            }
            Self::AppendSync => {
                let (file, mut offset) = (File::create(directory.join("appended"))?, 0);
                let block = [1u8; BLOCK];
                repeat(time, || {
                    file.write_all_at(&block, offset)?;
                    offset += BLOCK as u64;
                    file.sync_data()
                })
            }
            Self::Random => {
                let (file, mut offsets) = (filled(directory, 0)?, Offsets(1));
                let block = [2u8; BLOCK];
                repeat(time, || file.write_all_at(&block, offsets.next()))
            }
            Self::Direct { depth } => {
                let (file, mut offsets) = (filled(directory, direct())?, Offsets(3));
                aio::write(&file, depth, time, || offsets.next())
            }
            Self::Threads { count } => threads(directory, count, time),
            Self::Sequential { bytes } => sequential(directory, bytes, time),
            Self::SmallFiles => small_files(directory),
            Self::Sqlite(_) | Self::PgBench { .. } => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

/// A cheap sequence of offsets.
struct Offsets(u64);

impl Offsets {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) % (FILE_BYTES / BLOCK as u64) * BLOCK as u64
    }
}

/// Operations per second.
fn repeat(time: Duration, mut operation: impl FnMut() -> io::Result<()>) -> io::Result<f64> {
    let (begun, mut count) = (Instant::now(), 0u64);
    while begun.elapsed() < time {
        operation()?;
        count += 1;
    }
    Ok(count as f64 / begun.elapsed().as_secs_f64())
}

const fn direct() -> i32 {
    rustix::fs::OFlags::DIRECT.bits().cast_signed()
}

/// A file that has all its blocks, on the disk.
fn filled(directory: &Path, flags: i32) -> io::Result<File> {
    let path = directory.join("random");
    if fs::metadata(&path).map_or(0, |about| about.len()) < FILE_BYTES {
        let file = File::create(&path)?;
        let block = vec![0u8; 1 << 20];
        for offset in 0..FILE_BYTES >> 20 {
            file.write_all_at(&block, offset << 20)?;
        }
        file.sync_all()?;
    }
    OpenOptions::new().write(true).custom_flags(flags).open(path)
}

fn threads(directory: &Path, count: usize, time: Duration) -> io::Result<f64> {
    let file = filled(directory, direct())?;
    let rates: Vec<io::Result<f64>> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..count)
            .map(|worker| {
                let file = &file;
                scope.spawn(move || {
                    let (memory, mut offsets) = (Aligned::new(5), Offsets(worker as u64 + 7));
                    repeat(time, || file.write_all_at(memory.block(), offsets.next()))
                })
            })
            .collect();
        workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into())))
            .collect()
    });
    rates.into_iter().sum()
}

fn sequential(directory: &Path, bytes: usize, time: Duration) -> io::Result<f64> {
    let file = File::create(directory.join("sequential"))?;
    let block = vec![3u8; bytes];
    let (begun, mut count) = (Instant::now(), 0u64);
    while begun.elapsed() < time {
        for offset in (0..SEQUENTIAL_BYTES).step_by(bytes) {
            file.write_all_at(&block, offset)?;
            count += 1;
        }
        // What is only in a cache is not written yet.
        file.sync_all()?;
    }
    Ok(count as f64 / begun.elapsed().as_secs_f64())
}

fn small_files(directory: &Path) -> io::Result<f64> {
    let directory = directory.join("small");
    fs::create_dir(&directory)?;
    let block = [5u8; BLOCK];
    let begun = Instant::now();
    for number in 0..SMALL_FILES {
        fs::write(directory.join(format!("file{number:05}")), block)?;
    }
    Ok(SMALL_FILES as f64 / begun.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_works_differ() {
        let names: std::collections::BTreeSet<String> =
            Work::ALL.iter().map(|work| work.name()).collect();
        assert_eq!(names.len(), Work::ALL.len());
    }
}
