//! Measures file operations in several directories in turn and prints operations per second and
//! ratios to the first: `fs_measure [--rounds N] NATIVE OTHER...`. See docs/performance.md.

use std::{
    fs,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use havre_core::rng::Rng;

const FILE_BYTES: u64 = 64 << 20;
const BLOCK: u64 = 4096;
const LENGTH: Duration = Duration::from_millis(700);
const DIRECT: i32 = libc::O_DIRECT;

type Measure = (&'static str, fn(&Path, u64) -> Result<f64>);

const MEASURES: [Measure; 9] = [
    ("4 KiB write + fdatasync", |at, seed| random(at, seed, 0, true, 1)),
    ("4 KiB random, depth 1, buffered", |at, seed| random(at, seed, 0, false, 1)),
    ("4 KiB random, depth 1, O_DIRECT", |at, seed| random(at, seed, DIRECT, false, 1)),
    ("4 KiB random, depth 16, O_DIRECT", |at, seed| random(at, seed, DIRECT, false, 16)),
    ("4 KiB random, 4 jobs, buffered", |at, seed| random(at, seed, 0, false, 4)),
    ("sequential 128 KiB + fsync", |at, _| sequential(at, 128 << 10)),
    ("sequential 1 MiB + fsync", |at, _| sequential(at, 1 << 20)),
    ("create 10 000 files of 4 KiB", |at, _| small_files(at)),
    ("open, read, close of 10 000 files", |at, _| read_files(at)),
];

fn main() -> Result<()> {
    let mut rounds = 3;
    let mut directories: Vec<PathBuf> = Vec::new();
    let mut arguments = std::env::args_os().skip(1);
    while let Some(argument) = arguments.next() {
        if argument == "--rounds" {
            let number = arguments.next().context("how many rounds?")?;
            rounds = number.to_string_lossy().parse().context("how many rounds?")?;
        } else {
            directories.push(argument.into());
        }
    }
    anyhow::ensure!(!directories.is_empty(), "which directories?");
    for (name, measure) in MEASURES {
        let mut results = vec![Vec::new(); directories.len()];
        for round in 0..rounds {
            for (directory, results) in directories.iter().zip(&mut results) {
                results.push(measure(directory, round).with_context(|| name.to_owned())?);
            }
        }
        let medians: Vec<f64> = results
            .iter_mut()
            .map(|results| {
                results.sort_by(f64::total_cmp);
                results[results.len() / 2]
            })
            .collect();
        let shown: Vec<String> =
            medians.iter().map(|each| format!("{each:>10.0} {:>5.2}", each / medians[0])).collect();
        println!("{name:<36} {}", shown.join(" | "));
    }
    Ok(())
}

/// Writes blocks at random places; operations per second.
fn random(at: &Path, seed: u64, flags: i32, sync: bool, jobs: u64) -> Result<f64> {
    let path = at.join("random");
    let file = fs::OpenOptions::new().write(true).create(true).truncate(false).open(&path)?;
    if file.metadata()?.len() != FILE_BYTES {
        for offset in (0..FILE_BYTES).step_by(1 << 20) {
            file.write_all_at(&vec![1; 1 << 20], offset)?;
        }
    }
    file.sync_all()?;
    let start = Instant::now();
    let total = thread::scope(|scope| {
        let path = &path;
        let work = move |job: u64| -> Result<u64> {
            let file = fs::OpenOptions::new().write(true).custom_flags(flags).open(path)?;
            let mut rng = Rng::new(seed * 100 + job);
            let memory = vec![job as u8; 2 * BLOCK as usize];
            let aligned = memory.as_ptr().align_offset(BLOCK as usize);
            let block = &memory[aligned..aligned + BLOCK as usize];
            let mut count = 0;
            while start.elapsed() < LENGTH {
                let place = rng.next_u64() % (FILE_BYTES / BLOCK);
                file.write_all_at(block, place * BLOCK)?;
                if sync {
                    file.sync_data()?;
                }
                count += 1;
            }
            Ok(count)
        };
        let running: Vec<_> = (0..jobs).map(|job| scope.spawn(move || work(job))).collect();
        let mut total = 0;
        for job in running {
            total += job.join().map_err(|_| anyhow::anyhow!("a job panicked"))??;
        }
        Ok::<u64, anyhow::Error>(total)
    })?;
    Ok(total as f64 / start.elapsed().as_secs_f64())
}

/// Writes a file from start to end and syncs it; mebibytes per second.
fn sequential(at: &Path, block: usize) -> Result<f64> {
    let path = at.join("sequential");
    let file = fs::OpenOptions::new().write(true).create(true).truncate(true).open(&path)?;
    let data = vec![3; block];
    let start = Instant::now();
    for offset in (0..FILE_BYTES * 2).step_by(block) {
        file.write_all_at(&data, offset)?;
    }
    file.sync_all()?;
    let rate = (FILE_BYTES * 2) as f64 / f64::from(1 << 20) / start.elapsed().as_secs_f64();
    drop(file);
    fs::remove_file(&path)?;
    Ok(rate)
}

/// Makes many small files; files per second.
fn small_files(at: &Path) -> Result<f64> {
    let top = at.join("small");
    if top.exists() {
        fs::remove_dir_all(&top)?;
    }
    fs::create_dir(&top)?;
    let start = Instant::now();
    for index in 0..10_000 {
        fs::write(top.join(format!("file-{index}")), [5; 4096])?;
    }
    Ok(10_000.0 / start.elapsed().as_secs_f64())
}

/// Reads the files that [`small_files`] made; files per second.
fn read_files(at: &Path) -> Result<f64> {
    let top = at.join("small");
    let start = Instant::now();
    for index in 0..10_000 {
        fs::read(top.join(format!("file-{index}")))?;
    }
    Ok(10_000.0 / start.elapsed().as_secs_f64())
}
