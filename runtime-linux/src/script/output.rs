//! What scripts and the programs they start print, line by line, bounded.
//!
//! Each script prints into a named pipe of its own, opened for reading and writing: a program
//! that outlives a restart of this daemon neither gets an error nor loses its output, and the
//! next run finds the pipe by its name. More lines than [`Limiter`] allows are counted and left
//! out, so that a flood neither blocks the program nor fills the disk.

use std::{
    collections::BTreeMap,
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Read},
    os::unix::fs::{FileTypeExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::Instant,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{CWD, FileType, Mode, mknodat},
};
use tracing::warn;

use crate::waker::Waker;

/// Lines that may come at once.
const LINES_BURST: u32 = 500;
/// Lines per second in the long run.
const LINES_PER_SECOND: u32 = 100;
/// Longer lines are cut into pieces of this length.
const LINE_BYTES_MAX: usize = 2_000;
/// Read in one go before anything else gets its turn.
const DRAIN_BYTES_MAX: usize = 1024 * 1024;
const SUFFIX: &str = "output";

/// What is done with one line: of which script, and its text.
type TakeLine = dyn Fn(&str, &str) + Send + Sync;

/// Takes one line: the script's name and the text.
#[derive(Clone)]
pub struct Sink(Arc<TakeLine>);

impl Sink {
    /// Wraps a function.
    pub fn new(sink: impl Fn(&str, &str) + Send + Sync + 'static) -> Self {
        Self(Arc::new(sink))
    }
}

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sink")
    }
}

/// The pipes of one module and the thread that reads them.
#[derive(Debug)]
pub(super) struct Output {
    directory: PathBuf,
    shared: Arc<Shared>,
    reader: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    pipes: Mutex<Pipes>,
    waker: Waker,
    sink: Sink,
}

#[derive(Debug, Default)]
struct Pipes {
    by_script: BTreeMap<String, Pipe>,
    closing: bool,
}

impl Output {
    /// Starts reading; pipes of an earlier run are read on.
    pub(super) fn start(directory: &Path, sink: Sink) -> io::Result<Self> {
        let shared = Arc::new(Shared { pipes: Mutex::default(), waker: Waker::new()?, sink });
        let mut output =
            Self { directory: directory.to_owned(), shared: Arc::clone(&shared), reader: None };
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            if path.extension().is_some_and(|e| e == SUFFIX)
                && let Some(script) = path.file_stem().and_then(|s| s.to_str())
            {
                output.open(script)?;
            }
        }
        let thread = std::thread::Builder::new().name("script-output".to_owned());
        output.reader = Some(thread.stack_size(128 * 1024).spawn(move || shared.read_on())?);
        Ok(output)
    }

    /// Opens the pipe of a script for a process to print into.
    pub(super) fn open(&self, script: &str) -> io::Result<File> {
        let path = self.directory.join(format!("{script}.{SUFFIX}"));
        let is_pipe = fs::symlink_metadata(&path).map(|m| m.file_type().is_fifo());
        match is_pipe {
            Ok(true) => {}
            Ok(false) => {
                let text = format!("{} is not a pipe: remove it", path.display());
                return Err(io::Error::other(text));
            }
            Err(_) => mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?,
        }
        let both = OpenOptions::new().read(true).write(true).open(&path)?;
        let mut pipes = self.shared.lock();
        if !pipes.by_script.contains_key(script) {
            // Open for writing too: a pipe whose last writer has gone would be ready for ever.
            let mut options = OpenOptions::new();
            options.read(true).write(true).custom_flags(libc::O_NONBLOCK);
            let read = options.open(&path)?;
            let pipe = Pipe { read, partial: Vec::new(), limiter: Limiter::new(Instant::now()) };
            pipes.by_script.insert(script.to_owned(), pipe);
            self.shared.waker.wake();
        }
        Ok(both)
    }

    /// Passes on everything that has been printed so far.
    pub(super) fn drain(&self) {
        self.shared.drain();
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.waker.wake();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Pipes> {
        self.pipes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_on(&self) {
        loop {
            let ends: io::Result<Vec<File>> = {
                let pipes = self.lock();
                if pipes.closing {
                    return;
                }
                pipes.by_script.values().map(|pipe| pipe.read.try_clone()).collect()
            };
            let ends = ends.unwrap_or_else(|error| {
                warn!(%error, "what scripts print cannot be read for the moment");
                std::thread::sleep(std::time::Duration::from_secs(1));
                Vec::new()
            });
            let mut fds: Vec<PollFd<'_>> =
                ends.iter().map(|end| PollFd::new(end, PollFlags::IN)).collect();
            fds.push(PollFd::new(&self.waker, PollFlags::IN));
            // An interruption leads to one more look.
            let _ = poll(&mut fds, None);
            self.waker.reset();
            self.drain();
        }
    }

    fn drain(&self) {
        let now = Instant::now();
        for (script, pipe) in &mut self.lock().by_script {
            pipe.drain(now, |line| (self.sink.0)(script, line));
        }
    }
}

#[derive(Debug)]
struct Pipe {
    read: File,
    partial: Vec<u8>,
    limiter: Limiter,
}

impl Pipe {
    fn drain(&mut self, now: Instant, mut each: impl FnMut(&str)) {
        let mut buffer = [0; 16 * 1024];
        let mut bytes = 0;
        while bytes < DRAIN_BYTES_MAX {
            let length = match self.read.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // Nothing is there now.
                Err(_) => break,
            };
            bytes += length;
            self.partial.extend_from_slice(&buffer[..length]);
            for line in take_lines(&mut self.partial) {
                self.limiter.pass(now, &line, &mut each);
            }
        }
    }
}

/// Takes the complete lines out of `bytes`; a line that is too long counts as complete.
fn take_lines(bytes: &mut Vec<u8>) -> Vec<String> {
    let mut lines = Vec::new();
    let mut start = 0;
    while let Some(rest) = bytes.get(start..).filter(|rest| !rest.is_empty()) {
        let window = &rest[..rest.len().min(LINE_BYTES_MAX)];
        let (line, taken) = match window.iter().position(|byte| *byte == b'\n') {
            Some(end) => (&window[..end], end + 1),
            None if window.len() == LINE_BYTES_MAX => (window, LINE_BYTES_MAX),
            None => break,
        };
        let line = String::from_utf8_lossy(line);
        // A log is read on terminals: no control characters but the tabulator.
        let clean = |c: char| if c.is_control() && c != '\t' { ' ' } else { c };
        lines.push(line.trim_end().chars().map(clean).collect());
        start += taken;
    }
    bytes.drain(..start);
    lines
}

/// Lets a bounded number of lines per second pass.
#[derive(Debug)]
struct Limiter {
    /// Thousandths of a line.
    credit: u64,
    since: Instant,
    left_out: u64,
}

impl Limiter {
    const fn new(now: Instant) -> Self {
        Self { credit: LINES_BURST as u64 * 1_000, since: now, left_out: 0 }
    }

    fn pass(&mut self, now: Instant, line: &str, each: &mut impl FnMut(&str)) {
        let elapsed_ms = now.saturating_duration_since(self.since).as_millis();
        let earned = u64::try_from(elapsed_ms).unwrap_or(u64::MAX);
        let earned = earned.saturating_mul(u64::from(LINES_PER_SECOND));
        self.credit = self.credit.saturating_add(earned).min(u64::from(LINES_BURST) * 1_000);
        self.since = now;
        if self.credit < 1_000 {
            self.left_out += 1;
            return;
        }
        if self.left_out > 0 {
            each(&format!("... {} lines left out: too many at once", self.left_out));
            self.left_out = 0;
        }
        self.credit -= 1_000;
        each(line);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_flood_is_cut_and_the_number_of_lost_lines_is_told() {
        let start = Instant::now();
        let mut limiter = Limiter::new(start);
        let mut lines = Vec::new();
        for _ in 0..2_000 {
            limiter.pass(start, "x", &mut |line| lines.push(line.to_owned()));
        }
        assert_eq!(lines.len(), LINES_BURST as usize);
        limiter.pass(start + Duration::from_secs(1), "y", &mut |line| lines.push(line.to_owned()));
        let told = format!("... {} lines left out: too many at once", 2_000 - LINES_BURST);
        assert_eq!(lines[LINES_BURST as usize..], [told, "y".to_owned()]);
    }

    #[test]
    fn a_pipe_whose_last_writer_has_gone_is_not_ready_for_ever() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let sink = Sink::new(|_, _| {});
        let output = Output::start(directory.path(), sink).expect("starts");
        let mut writer = output.open("start_prim").expect("opens");
        std::io::Write::write_all(&mut writer, b"the end\n").expect("written");
        drop(writer);
        output.drain();
        let pipes = output.shared.lock();
        let end = &pipes.by_script.get("start_prim").expect("it was opened").read;
        let none = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        let ready = poll(&mut [PollFd::new(end, PollFlags::IN)], Some(&none));
        assert_eq!(ready, Ok(0), "the reader would never sleep again");
        drop(pipes);
    }

    #[test]
    fn lines_are_cut_at_their_ends_and_at_the_longest_length() {
        let mut bytes = b"one\r\ntwo\n".to_vec();
        bytes.extend(vec![b'x'; LINE_BYTES_MAX + 3]);
        let lines = take_lines(&mut bytes);
        assert_eq!(lines[..2], ["one", "two"]);
        assert_eq!(lines[2].len(), LINE_BYTES_MAX);
        assert_eq!(bytes, b"xxx");
    }

    proptest! {
        #[test]
        fn no_byte_is_kept_beyond_one_line(
            bytes in proptest::collection::vec(any::<u8>(), 0..9000),
        ) {
            let mut bytes = bytes;
            let lines = take_lines(&mut bytes);
            prop_assert!(bytes.len() < LINE_BYTES_MAX);
            prop_assert!(!bytes.contains(&b'\n'));
            prop_assert!(lines.iter().all(|line| !line.contains('\n')));
        }
    }
}
