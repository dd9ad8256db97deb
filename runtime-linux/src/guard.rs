//! The guard: a process of its own that ends a module's service here when the daemon no longer
//! says that it may go on.
//!
//! A daemon that hangs, is stopped by a debugger or is killed cannot fence itself. It therefore
//! writes after each step until when each module may serve (`Effect::Guard`);
//! the guard removes the virtual addresses and kills the application when that moment passes
//! without renewal, which is before the peer may take over. It reads nothing but that file and
//! speaks to nothing but the kernel.
//!
//! ```text
//!  daemon --(deadlines)--> STATE/guard --(read at each deadline)--> guard: VIP off, scripts killed
//!     \---- standard input of the guard: its end says that the daemon is gone
//! ```

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{self, BufRead as _, BufReader, Read},
    net::IpAddr,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use havre_core::{ids::ModuleId, time::Instant};
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};
use tracing::{error, warn};

use crate::{
    clock, priority,
    script::ScriptPlace,
    vip::{VipSettings, VirtualAddresses},
};

/// The hidden command that runs the guard.
pub const COMMAND: &str = "guard";
/// Modules of a node that can be guarded.
const MODULES_MAX: usize = 512;
/// A deadline that moves by less than this is not written again.
const STEP: Duration = Duration::from_millis(20);
/// Longest pause between two looks: bounds how late a first deadline is noticed.
const LOOK: Duration = Duration::from_millis(50);
/// What the process says once it is at work.
const READY: &str = "ready";
const MAGIC: u64 = 0x4755_4152_4456_0001;

/// Until when each module may serve.
pub type Deadlines = BTreeMap<ModuleId, Instant>;

/// Writes deadlines for the guard to read.
#[derive(Debug)]
pub struct GuardFile {
    file: File,
    owner: u64,
    /// `None`: nothing yet, so that the file still says what an earlier run wrote.
    written: Option<Deadlines>,
}

impl GuardFile {
    /// Takes over the file of a state directory for the run named `owner`. Nothing is guarded
    /// until the first [`publish`](Self::publish), except what an earlier run left, which its own
    /// guard goes on guarding.
    ///
    /// # Errors
    /// The file cannot be created.
    pub fn create(state_dir: &Path, owner: u64) -> io::Result<Self> {
        let path = path_in(state_dir);
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
        Ok(Self { file, owner, written: None })
    }

    /// Says until when each module may serve; a module that is not named serves nothing.
    ///
    /// # Errors
    /// The file cannot be written. What it said before stands, so the guard errs on the safe side.
    pub fn publish(&mut self, deadlines: &Deadlines) -> io::Result<()> {
        if self.written.as_ref().is_some_and(|written| is_close(written, deadlines)) {
            return Ok(());
        }
        self.file.write_all_at(&encode(self.owner, deadlines), 0)?;
        self.written = Some(deadlines.clone());
        Ok(())
    }
}

/// Whether what was written may stand for what is to be: never later, and earlier by a step.
fn is_close(written: &Deadlines, deadlines: &Deadlines) -> bool {
    written.len() == deadlines.len()
        && deadlines.iter().all(|(module, until)| {
            let written = written.get(module);
            written.is_some_and(|written| written <= until && until.since(*written) < STEP)
        })
}

fn path_in(state_dir: &Path) -> PathBuf {
    state_dir.join("guard")
}

/// Magic, owner, count, entries, sum: all 64-bit words, so that a torn read is noticed.
fn encode(owner: u64, deadlines: &Deadlines) -> Vec<u8> {
    let mut words = vec![MAGIC, owner, deadlines.len() as u64];
    for (module, until) in deadlines {
        words.extend([u64::from(module.0), until.as_nanos()]);
    }
    words.push(sum(&words));
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn sum(words: &[u64]) -> u64 {
    words.iter().fold(0, |sum, word| havre_core::rng::mix(sum ^ *word))
}

/// The owner and its deadlines; `None` if the bytes are torn.
fn decode(bytes: &[u8]) -> Option<(u64, Deadlines)> {
    let words: Vec<u64> = bytes
        .chunks_exact(8)
        .map(|word| u64::from_le_bytes(word.try_into().expect("chunks of eight bytes")))
        .collect();
    let [MAGIC, owner, count, rest @ ..] = words.as_slice() else { return None };
    let count = usize::try_from(*count).ok().filter(|count| *count <= MODULES_MAX)?;
    let entries = rest.get(..count * 2)?;
    if *rest.get(count * 2)? != sum(&words[..3 + count * 2]) {
        return None;
    }
    let deadline =
        |pair: &[u64]| Some((ModuleId(u16::try_from(pair[0]).ok()?), Instant::from_nanos(pair[1])));
    let deadlines = entries.chunks_exact(2).map(deadline).collect::<Option<_>>()?;
    Some((*owner, deadlines))
}

/// What is ended on expiry.
#[derive(Debug)]
pub struct Guarded {
    /// Its virtual addresses.
    pub addresses: Vec<IpAddr>,
    /// Whether their connections are reset.
    pub tcp_reset: bool,
    /// Its scripts, if it has any.
    pub scripts: Option<ScriptPlace>,
    /// Where the holder listens that keeps its mounts.
    pub holder: PathBuf,
    /// Its replicated directories.
    pub directories: Vec<PathBuf>,
}

/// The daemon's end: a running guard and what it was told.
#[derive(Debug)]
pub struct Guard {
    file: GuardFile,
    deadlines: Deadlines,
    process: Child,
}

impl Guard {
    /// Starts a guard for the run of the daemon named `owner`, as a process of its own. It takes
    /// over what an earlier run's guard still watches; see [`told`](Self::told).
    ///
    /// # Errors
    /// The file cannot be created, or the process cannot be started.
    pub fn start(program: &Path, state_dir: &Path, owner: u64) -> io::Result<Self> {
        let mut file = GuardFile::create(state_dir, owner)?;
        let deadlines = left_by_earlier_run(state_dir)?;
        let mut process = Command::new(program)
            .arg(COMMAND)
            .arg(state_dir)
            .arg(owner.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        // The earlier guard goes when it reads the new owner's name: the new one is at work then.
        let mut answer = String::new();
        let output = process.stdout.take().expect("a pipe was asked for");
        BufReader::new(output).read_line(&mut answer)?;
        if answer.trim_end() != READY {
            return Err(io::Error::other("it ended at once: see what it has written above"));
        }
        file.publish(&deadlines)?;
        Ok(Self { file, deadlines, process })
    }

    /// Until when each module may serve, as the guard was told last; at first, what the earlier
    /// run's guard watched and had not ended.
    pub const fn told(&self) -> &Deadlines {
        &self.deadlines
    }

    /// Says until when a module may serve; `None`: it serves nothing.
    ///
    /// # Errors
    /// As [`GuardFile::publish`].
    pub fn tell(&mut self, module: ModuleId, until: Option<Instant>) -> io::Result<()> {
        match until {
            Some(until) => self.deadlines.insert(module, until),
            None => self.deadlines.remove(&module),
        };
        self.file.publish(&self.deadlines)
    }
}

/// What a guard of an earlier run watches and has not ended yet. Without such a guard (the
/// machine was switched off meanwhile) nothing that it watched runs any more.
fn left_by_earlier_run(state_dir: &Path) -> io::Result<Deadlines> {
    let file = File::open(path_in(state_dir))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => return Ok(Deadlines::new()),
        Err(Errno::WOULDBLOCK) => {}
        Err(error) => return Err(error.into()),
    }
    let now = clock::now();
    let (_, mut deadlines) = read(&file).unwrap_or_default();
    deadlines.retain(|_, until| *until > now);
    Ok(deadlines)
}

impl Drop for Guard {
    /// Lets the guard go: it ends when nothing is left to guard.
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        for _ in 0..100 {
            if !self.deadlines.is_empty() || !matches!(self.process.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Guards the modules of one run of the daemon; returns when that run needs no guard any more.
///
/// # Errors
/// The file of deadlines cannot be opened.
pub fn run(state_dir: &Path, owner: u64, modules: &BTreeMap<ModuleId, Guarded>) -> io::Result<()> {
    // A terminal's or service manager's signals are for the daemon; the guard outlives it.
    let _ = rustix::process::setsid();
    priority::raise_thread();
    let file = File::open(path_in(state_dir))?;
    // Says that a guard is at work, for as long as it is.
    flock(&file, FlockOperation::LockShared)?;
    println!("{READY}");
    static DAEMON_GONE: AtomicBool = AtomicBool::new(false);
    std::thread::Builder::new().stack_size(64 * 1024).spawn(|| {
        let mut byte = [0];
        while matches!(io::stdin().read(&mut byte), Ok(1..)) {}
        DAEMON_GONE.store(true, Ordering::Release);
    })?;
    let mut ended = Deadlines::new();
    loop {
        let gone = DAEMON_GONE.load(Ordering::Acquire);
        if let Some((writer, deadlines)) = read(&file) {
            if writer != owner {
                // A later run has its own guard; an earlier one has left what it guards itself.
                if gone {
                    return Ok(());
                }
                std::thread::sleep(LOOK);
                continue;
            }
            let now = clock::now();
            expire(now, &deadlines, &mut ended, modules);
            if gone && deadlines.keys().all(|module| ended.contains_key(module)) {
                return Ok(());
            }
            std::thread::sleep(pause(now, &deadlines, &ended));
        }
    }
}

fn read(file: &File) -> Option<(u64, Deadlines)> {
    let mut bytes = vec![0; 8 * (4 + 2 * MODULES_MAX)];
    let length = file.read_at(&mut bytes, 0).ok()?;
    let read = decode(&bytes[..length]);
    if read.is_none() {
        // Torn by a write under way, or not yet written.
        std::thread::sleep(Duration::from_millis(1));
    }
    read
}

fn pause(now: Instant, deadlines: &Deadlines, ended: &Deadlines) -> Duration {
    let open = deadlines.iter().filter(|(module, until)| ended.get(module) != Some(until));
    open.map(|(_, until)| until.since(now)).min().unwrap_or(LOOK).min(LOOK)
}

/// Ends what has passed its deadline, once per deadline.
fn expire(
    now: Instant,
    deadlines: &Deadlines,
    ended: &mut Deadlines,
    modules: &BTreeMap<ModuleId, Guarded>,
) {
    ended.retain(|module, until| deadlines.get(module) == Some(until));
    for (module, until) in deadlines {
        if *until <= now && !ended.contains_key(module) {
            ended.insert(*module, *until);
            if let Some(guarded) = modules.get(module) {
                error!(%module, "the daemon is silent: its service here is ended");
                end(guarded);
            }
        }
    }
}

fn end(guarded: &Guarded) {
    let settings = VipSettings { tcp_reset: guarded.tcp_reset, ..VipSettings::default() };
    match VirtualAddresses::start(settings) {
        Ok(addresses) => {
            for addr in &guarded.addresses {
                if let Err(error) = addresses.remove(*addr) {
                    warn!(%error, "a virtual address could not be removed");
                }
            }
        }
        Err(error) => warn!(%error, "virtual addresses could not be removed"),
    }
    // Before its users are killed: who waits for a file of a silent daemon cannot die.
    guarded.directories.iter().for_each(|dir| crate::volume::end_mount(&guarded.holder, dir));
    if let Some(place) = &guarded.scripts
        && let Err(error) = crate::script::kill_all(place)
    {
        warn!(%error, "the application could not be killed");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn deadlines(entries: &[(u16, u64)]) -> Deadlines {
        let typed = |(module, ms): &(u16, u64)| (ModuleId(*module), Instant::from_millis(*ms));
        entries.iter().map(typed).collect()
    }

    #[test]
    fn the_guard_reads_what_the_daemon_wrote_last() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut writer = GuardFile::create(directory.path(), 7).expect("creates");
        let file = File::open(path_in(directory.path())).expect("opens");
        assert_eq!(read(&file), None);
        for expected in [deadlines(&[(1, 500), (2, 700)]), deadlines(&[(2, 900)]), deadlines(&[])] {
            writer.publish(&expected).expect("writes");
            assert_eq!(read(&file), Some((7, expected)));
        }
    }

    #[test]
    fn small_moves_are_not_written_and_a_withdrawn_right_is_at_once() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut writer = GuardFile::create(directory.path(), 7).expect("creates");
        let file = File::open(path_in(directory.path())).expect("opens");
        writer.publish(&deadlines(&[(1, 500)])).expect("writes");
        writer.publish(&deadlines(&[(1, 510)])).expect("nothing to do");
        assert_eq!(read(&file), Some((7, deadlines(&[(1, 500)]))));
        writer.publish(&deadlines(&[(1, 499)])).expect("writes");
        assert_eq!(read(&file), Some((7, deadlines(&[(1, 499)]))));
    }

    #[test]
    fn a_run_that_serves_nothing_replaces_what_an_earlier_one_left() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut earlier = GuardFile::create(directory.path(), 7).expect("creates");
        earlier.publish(&deadlines(&[(1, 500)])).expect("writes");
        let mut later = GuardFile::create(directory.path(), 8).expect("opens");
        let file = File::open(path_in(directory.path())).expect("opens");
        assert_eq!(read(&file), Some((7, deadlines(&[(1, 500)]))));
        later.publish(&Deadlines::new()).expect("writes");
        assert_eq!(read(&file), Some((8, Deadlines::new())));
    }

    #[test]
    fn each_deadline_is_acted_on_once_and_again_after_a_renewal() {
        let mut ended = Deadlines::new();
        let none = BTreeMap::new();
        let now = Instant::from_millis(1_000);
        let first = deadlines(&[(1, 900), (2, 1_100)]);
        expire(now, &first, &mut ended, &none);
        assert_eq!(ended, deadlines(&[(1, 900)]));
        assert_eq!(pause(now, &first, &ended), LOOK);
        let renewed = deadlines(&[(1, 1_030), (2, 1_100)]);
        expire(now, &renewed, &mut ended, &none);
        assert!(ended.is_empty());
        assert_eq!(pause(now, &renewed, &ended), Duration::from_millis(30));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
        }

        #[test]
        fn a_torn_record_is_never_taken_for_a_whole_one(cut in 1usize..64) {
            let old = encode(7, &deadlines(&[(1, 500), (2, 700)]));
            let new = encode(7, &deadlines(&[(1, 900), (2, 950)]));
            let mut torn = new[..cut].to_vec();
            torn.extend_from_slice(&old[cut..]);
            prop_assert!(torn == old || torn == new || decode(&torn).is_none());
        }
    }
}
