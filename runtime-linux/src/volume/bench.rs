//! Measures what replication costs: the same work on the plain directory, through the mount
//! alone, and replicated under both contracts, in one run, as ratios.
//!
//! Source and target run in this process and talk over the loopback interface (under TLS unless
//! [`Security::Plain`] is given), so that they share the processors with the application: ratios
//! understate what two machines reach. Results are kept in docs/performance.md.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io,
    net::{SocketAddr, TcpListener},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use havre_core::{
    config::module::{Contract, ReplicatedConfig, RfsConfig, WriteMode},
    effect::{Outcome, VolumeNews, VolumeRequest},
    ids::{ModuleId, NodeId},
    replication::generation::{Generation, Origin},
};

use super::{Security, Settings, Trust, VolumeHandle, start};

/// Size of the file that is written at random.
const FILE_BYTES: u64 = 64 << 20;
/// Files of the small-files work.
const SMALL_FILES: usize = 10_000;
/// Longest wait for the two sides to be in sync.
const SYNC_LIMIT: Duration = Duration::from_secs(60);

/// What is measured.
#[derive(Debug, Clone)]
pub struct Plan {
    /// A directory on the file system to be measured; emptied of what the run makes.
    pub directory: PathBuf,
    /// Time per work and configuration.
    pub time: Duration,
    /// Rounds, interleaved; the median counts.
    pub rounds: u32,
    /// How source (first) and target (second) recognise each other.
    pub security: (Security, Security),
}

/// Where the work is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Native,
    Mount(WriteMode),
    Replicated(Contract, WriteMode),
}

impl Place {
    const ALL: [Self; 7] = [
        Self::Native,
        Self::Mount(WriteMode::Back),
        Self::Mount(WriteMode::Through),
        Self::Replicated(Contract::Received, WriteMode::Back),
        Self::Replicated(Contract::Durable, WriteMode::Back),
        Self::Replicated(Contract::Received, WriteMode::Through),
        Self::Replicated(Contract::Durable, WriteMode::Through),
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Mount(WriteMode::Back) => "mount",
            Self::Mount(WriteMode::Through) => "mount thr",
            Self::Replicated(Contract::Received, WriteMode::Back) => "second",
            Self::Replicated(Contract::Durable, WriteMode::Back) => "none",
            Self::Replicated(Contract::Received, WriteMode::Through) => "second thr",
            Self::Replicated(Contract::Durable, WriteMode::Through) => "none thr",
        }
    }
}

/// One kind of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    WriteSync,
    RandomBuffered,
    RandomDirect { depth: usize },
    Sequential { bytes: usize },
    SmallFiles,
}

impl Work {
    const ALL: [Self; 7] = [
        Self::WriteSync,
        Self::RandomBuffered,
        Self::RandomDirect { depth: 1 },
        Self::RandomDirect { depth: 16 },
        Self::Sequential { bytes: 128 << 10 },
        Self::Sequential { bytes: 1 << 20 },
        Self::SmallFiles,
    ];

    fn name(self) -> String {
        match self {
            Self::WriteSync => "4 KiB write + fdatasync".into(),
            Self::RandomBuffered => "4 KiB random, buffered".into(),
            Self::RandomDirect { depth } => format!("4 KiB random, O_DIRECT, depth {depth}"),
            Self::Sequential { bytes } => format!("sequential {} KiB", bytes >> 10),
            Self::SmallFiles => "create 10 000 files of 4 KiB".into(),
        }
    }
}

/// Operations per second of each work in each place.
#[derive(Debug, Clone)]
pub struct Table {
    rows: Vec<(Work, Vec<f64>)>,
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:34}{:>11}", "operations per second", "native")?;
        for place in &Place::ALL[1..] {
            write!(f, "{:>11}", place.name())?;
        }
        writeln!(f)?;
        for (work, rates) in &self.rows {
            let native = rates.first().copied().unwrap_or(0.0);
            write!(f, "{:34}{native:>11.0}", work.name())?;
            for rate in rates.iter().skip(1) {
                write!(f, "{:>11.2}", rate / native)?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// Runs the whole plan. Needs root.
///
/// Fails with what the operating system or a data path says.
pub fn run(plan: &Plan) -> Result<Table, String> {
    let mut rows: Vec<(Work, Vec<Vec<f64>>)> =
        Work::ALL.iter().map(|work| (*work, vec![Vec::new(); Place::ALL.len()])).collect();
    for _ in 0..plan.rounds.max(1) {
        for (column, place) in Place::ALL.iter().enumerate() {
            let site = Site::open(plan, *place)?;
            for (work, columns) in &mut rows {
                let rate = measure(&site.directory, *work, plan.time)
                    .map_err(|error| format!("{} in {}: {error}", work.name(), place.name()))?;
                columns[column].push(rate);
            }
            site.close()?;
        }
    }
    let rows = rows
        .into_iter()
        .map(|(work, columns)| (work, columns.into_iter().map(median).collect()))
        .collect();
    Ok(Table { rows })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// A directory to work in, with whatever serves it.
struct Site {
    directory: PathBuf,
    base: PathBuf,
    volumes: Vec<VolumeHandle>,
}

impl Site {
    fn open(plan: &Plan, place: Place) -> Result<Self, String> {
        let base = plan.directory.join("havre-bench");
        // Left by a run that was cut.
        let _ = fs::remove_dir_all(&base);
        let words = |error: io::Error| format!("{}: {error}", base.display());
        for name in ["source", "target", "source-state", "target-state"] {
            fs::create_dir_all(base.join(name)).map_err(words)?;
        }
        let mut site = Self { directory: base.join("source"), base, volumes: Vec::new() };
        let (contract, write) = match place {
            Place::Native => return Ok(site),
            Place::Mount(write) => (Contract::Received, write),
            Place::Replicated(contract, write) => (contract, write),
        };
        let listen = free_address().map_err(|error| error.to_string())?;
        let settings = |name: &str, security: &Security| Settings {
            module: ModuleId(1),
            signature: 1,
            rfs: rfs(&site.base.join(name), contract, write),
            state_dir: site.base.join(format!("{name}-state")),
            listen,
            peer: listen,
            security: security.clone(),
            holder: None,
            trust: Trust::noted_in(site.base.join(format!("{name}-unsynced"))),
            seed: 1,
        };
        let generation =
            Generation { number: 1, creator: NodeId(0), nonce: 1, origin: Origin::Forced };
        let words = |error: io::Error| error.to_string();
        let (source, mut news) = start(settings("source", &plan.security.0)).map_err(words)?;
        ask(&source, VolumeRequest::Prepare)?;
        ask(&source, VolumeRequest::Serve { generation })?;
        if let Place::Replicated(..) = place {
            let (target, _) = start(settings("target", &plan.security.1)).map_err(words)?;
            ask(&source, VolumeRequest::Admit { peer: NodeId(1), full: false })?;
            ask(&target, VolumeRequest::Prepare)?;
            let source = NodeId(0);
            ask(&target, VolumeRequest::Follow { source, generation, keep_aside: None })?;
            site.volumes.push(target);
            let end = Instant::now() + SYNC_LIMIT;
            while !matches!(news.try_recv(), Ok(VolumeNews::CaughtUp { .. })) {
                if Instant::now() > end {
                    return Err("source and target do not get in sync".into());
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        // The source ends first: a target alone would only reconnect.
        site.volumes.insert(0, source);
        Ok(site)
    }

    fn close(self) -> Result<(), String> {
        for volume in &self.volumes {
            ask(volume, VolumeRequest::Close { clean: true })?;
        }
        drop(self.volumes);
        fs::remove_dir_all(&self.base).map_err(|error| error.to_string())
    }
}

fn rfs(directory: &Path, contract: Contract, write: WriteMode) -> RfsConfig {
    RfsConfig {
        contract,
        write,
        acl: true,
        port: None,
        lock_timeout: Duration::from_secs(100),
        send_timeout: Duration::from_secs(30),
        resync_bytes_per_second_max: None,
        directories: vec![ReplicatedConfig {
            dir: directory.to_owned(),
            excluded_paths: Vec::new(),
            excluded_names: Vec::new(),
            to_check: Vec::new(),
        }],
    }
}

fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}

fn ask(volume: &VolumeHandle, request: VolumeRequest) -> Result<(), String> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().build().map_err(|error| error.to_string())?;
    match runtime.block_on(volume.request(request)) {
        Outcome::Done => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

/// A cheap sequence of offsets.
struct Offsets(u64);

impl Offsets {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) % (FILE_BYTES / 4096) * 4096
    }
}

fn measure(directory: &Path, work: Work, time: Duration) -> io::Result<f64> {
    match work {
        Work::SmallFiles => small_files(directory),
        Work::WriteSync => {
            let file = File::create(directory.join("synced"))?;
            let block = vec![1u8; 4096];
            let mut offset = 0;
            repeat(time, || {
                file.write_all_at(&block, offset % FILE_BYTES)?;
                offset += 4096;
                file.sync_data()
            })
        }
        Work::RandomBuffered => {
            let file = filled(directory, 0)?;
            let block = vec![2u8; 4096];
            let mut offsets = Offsets(1);
            repeat(time, || file.write_all_at(&block, offsets.next()))
        }
        Work::RandomDirect { depth } => direct(directory, depth, time),
        Work::Sequential { bytes } => {
            let file = File::create(directory.join("sequential"))?;
            let block = vec![3u8; bytes];
            let mut offset = 0;
            let begun = Instant::now();
            let rate = repeat(time, || {
                file.write_all_at(&block, offset % (4 * FILE_BYTES))?;
                offset += bytes as u64;
                Ok(())
            })?;
            let written = rate * time.as_secs_f64();
            file.sync_all()?;
            // What is only in a cache is not written yet.
            Ok(written / begun.elapsed().as_secs_f64())
        }
    }
}

/// Operations per second.
fn repeat(time: Duration, mut operation: impl FnMut() -> io::Result<()>) -> io::Result<f64> {
    let begun = Instant::now();
    let mut count = 0u32;
    while begun.elapsed() < time {
        operation()?;
        count += 1;
    }
    Ok(f64::from(count) / begun.elapsed().as_secs_f64())
}

fn filled(directory: &Path, flags: i32) -> io::Result<File> {
    let path = directory.join("random");
    if !path.exists() {
        let file = File::create(&path)?;
        let block = vec![0u8; 1 << 20];
        for offset in 0..FILE_BYTES >> 20 {
            file.write_all_at(&block, offset << 20)?;
        }
        file.sync_all()?;
    }
    OpenOptions::new().write(true).custom_flags(flags).open(path)
}

/// Aligned writes past the cache, from as many threads as the depth says.
fn direct(directory: &Path, depth: usize, time: Duration) -> io::Result<f64> {
    let flags = rustix::fs::OFlags::DIRECT.bits().cast_signed();
    let file = filled(directory, flags)?;
    let rates: Vec<io::Result<f64>> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..depth)
            .map(|worker| {
                let file = &file;
                scope.spawn(move || {
                    let memory = vec![4u8; 8192];
                    let start = memory.as_ptr().align_offset(4096);
                    let block = &memory[start..start + 4096];
                    let mut offsets = Offsets(worker as u64 + 7);
                    repeat(time, || file.write_all_at(block, offsets.next()))
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

fn small_files(directory: &Path) -> io::Result<f64> {
    let directory = directory.join("small");
    fs::create_dir(&directory)?;
    let block = vec![5u8; 4096];
    let begun = Instant::now();
    for number in 0..SMALL_FILES {
        fs::write(directory.join(format!("file{number:05}")), &block)?;
    }
    Ok(SMALL_FILES as f64 / begun.elapsed().as_secs_f64())
}
