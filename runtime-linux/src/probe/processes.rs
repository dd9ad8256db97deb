//! Which processes run, and when one of them ends.
//!
//! `/proc` says what runs; a pidfd of each process found says at once when it ends (pidfd_open(2)),
//! whoever its parent is. Expressions are the `regex` crate's: matched in linear time.

use std::{fs, io, time::Duration};

use havre_core::checks::probe::Finding;
use regex::bytes::{Regex, RegexBuilder};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::{
    task::{JoinSet, spawn_blocking},
    time::{Instant, sleep, sleep_until},
};

use super::awaitable;

/// Length to which the kernel cuts the name of a command.
const NAME_BYTES: usize = 15;
/// Size of a compiled expression.
const REGEX_BYTES_MAX: usize = 1 << 20;
/// What is read of a command line.
const LINE_BYTES_MAX: usize = 64 * 1024;
/// Processes that are waited for; more are only counted.
const WAITED_MAX: usize = 1024;
/// Pause between two looks while nothing is found that could be waited for.
const EMPTY_PERIOD: Duration = Duration::from_millis(500);
/// Looks take at most this share of the time, however many processes come and go.
const SHARE: u32 = 4;

/// Which processes are meant.
#[derive(Debug, Clone)]
pub(super) struct Pattern {
    name: Vec<u8>,
    name_regex: Option<Regex>,
    arg_regex: Option<Regex>,
}

impl Pattern {
    /// Compiles the expressions; the error says which is wrong.
    pub(super) fn new(
        name: &str,
        name_regex: Option<&str>,
        arg_regex: Option<&str>,
    ) -> Result<Self, String> {
        let compile = |text: &str| {
            RegexBuilder::new(text)
                .size_limit(REGEX_BYTES_MAX)
                .build()
                .map_err(|error| format!("expression \"{text}\": {error}"))
        };
        let name = name.as_bytes();
        Ok(Self {
            name: name[..name.len().min(NAME_BYTES)].to_vec(),
            name_regex: name_regex.map(compile).transpose()?,
            arg_regex: arg_regex.map(compile).transpose()?,
        })
    }

    fn matches_name(&self, name: &[u8]) -> bool {
        match &self.name_regex {
            Some(regex) => regex.is_match(name),
            None => name == self.name,
        }
    }

    /// Whether the process runs and is meant.
    fn matches(&self, pid: u32) -> bool {
        let Ok(stat) = fs::read(format!("/proc/{pid}/stat")) else { return false };
        let Some((name, state)) = name_and_state(&stat) else { return false };
        if matches!(state, b'Z' | b'X' | b'x') || !self.matches_name(name) {
            return false;
        }
        let Some(regex) = &self.arg_regex else { return true };
        let Ok(mut line) = fs::read(format!("/proc/{pid}/cmdline")) else { return false };
        line.truncate(LINE_BYTES_MAX);
        while line.last() == Some(&0) {
            line.pop();
        }
        line.iter_mut().filter(|byte| **byte == 0).for_each(|byte| *byte = b' ');
        regex.is_match(&line)
    }

    /// The processes that are meant.
    fn scan(&self) -> io::Result<Vec<u32>> {
        let own = std::process::id();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let pid = entry?.file_name().to_str().and_then(|name| name.parse().ok());
            if let Some(pid) = pid.filter(|pid| *pid != own && self.matches(*pid)) {
                found.push(pid);
            }
        }
        Ok(found)
    }
}

/// Name of the command and state: `pid (name) S ...`, proc_pid_stat(5). A name may contain
/// parentheses.
fn name_and_state(stat: &[u8]) -> Option<(&[u8], u8)> {
    let open = stat.iter().position(|byte| *byte == b'(')?;
    let close = stat.iter().rposition(|byte| *byte == b')')?;
    Some((stat.get(open + 1..close)?, *stat.get(close + 2)?))
}

/// How many processes match now.
pub(super) fn count(pattern: &Pattern) -> Finding {
    match pattern.scan() {
        Ok(found) => counted(found.len()),
        Err(error) => Finding::Unable(format!("/proc: {error}")),
    }
}

fn counted(number: usize) -> Finding {
    Finding::Count(u32::try_from(number).unwrap_or(u32::MAX))
}

/// Reports how many processes match, at first and whenever one of them ends.
pub(super) async fn watch(pattern: Pattern, report: impl Fn(Finding)) {
    let mut told = None;
    loop {
        let begun = Instant::now();
        let again = pattern.clone();
        let found = match spawn_blocking(move || again.scan()).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => return report(Finding::Unable(format!("/proc: {error}"))),
            Err(_) => return,
        };
        let cost = begun.elapsed();
        if told != Some(found.len()) {
            told = Some(found.len());
            report(counted(found.len()));
        }
        let ended = first_end(&found);
        match ended {
            Some(mut ends) => {
                ends.join_next().await;
            }
            None => sleep(EMPTY_PERIOD).await,
        }
        sleep_until(begun + cost * SHARE).await;
    }
}

/// Tasks that end with the processes; `None` if none can be waited for.
fn first_end(found: &[u32]) -> Option<JoinSet<()>> {
    let mut ends = JoinSet::new();
    for pid in found.iter().take(WAITED_MAX) {
        let Some(pid) = i32::try_from(*pid).ok().and_then(Pid::from_raw) else { continue };
        match pidfd_open(pid, PidfdFlags::NONBLOCK) {
            Ok(descriptor) => {
                let Ok(descriptor) = awaitable(descriptor) else { continue };
                ends.spawn_local(async move {
                    let _ = descriptor.readable().await;
                });
            }
            // It has ended since it was seen.
            Err(rustix::io::Errno::SRCH) => {
                ends.spawn_local(async {});
            }
            Err(_) => {}
        }
    }
    (!ends.is_empty()).then_some(ends)
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use tokio::{runtime::Builder, sync::mpsc, task::LocalSet, time::timeout};

    use super::*;

    /// A process that is named by its argument.
    fn sleeper(mark: &str) -> Child {
        let script = format!("exec sleep 60.{mark}");
        Command::new("sh").args(["-c", &script]).spawn().expect("sh is installed")
    }

    fn mark(number: u32) -> String {
        format!("{}{number}", std::process::id())
    }

    fn pattern(mark: &str) -> Pattern {
        Pattern::new("sleep", None, Some(&format!("60\\.{mark}$"))).expect("a good expression")
    }

    /// Waits until `sh` has become `sleep`.
    fn until_counted(pattern: &Pattern, expected: u32) {
        for _ in 0..500 {
            if count(pattern) == Finding::Count(expected) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("{expected} processes are not seen: {:?}", count(pattern));
    }

    #[test]
    fn names_may_contain_parentheses_and_states_are_found_behind_them() {
        assert_eq!(name_and_state(b"7 (a) b) S 1 2"), Some((&b"a) b"[..], b'S')));
        assert_eq!(name_and_state(b"7 (x"), None);
    }

    #[test]
    fn processes_are_counted_by_name_and_command_line() {
        let mark = mark(1);
        let pattern = pattern(&mark);
        let mut sleepers = [sleeper(&mark), sleeper(&mark)];
        until_counted(&pattern, 2);
        let by_regex = Pattern::new("x", Some("^sl.ep$"), Some(&mark)).expect("good");
        assert_eq!(count(&by_regex), Finding::Count(2));
        // A zombie, which nobody has waited for, runs no more.
        sleepers[0].kill().expect("it runs");
        until_counted(&pattern, 1);
        for sleeper in &mut sleepers {
            let _ = sleeper.kill();
            sleeper.wait().expect("it is ours");
        }
        assert_eq!(count(&pattern), Finding::Count(0));
    }

    #[test]
    fn the_death_of_a_watched_process_is_told() {
        let mark = mark(2);
        let mut sleeper = sleeper(&mark);
        until_counted(&pattern(&mark), 1);
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (tell, mut told) = mpsc::unbounded_channel();
        let report = move |finding| drop(tell.send(finding));
        let watching = async {
            let watch = tokio::task::spawn_local(watch(pattern(&mark), report));
            let limit = Duration::from_secs(20);
            let first = timeout(limit, told.recv()).await.expect("in time");
            sleeper.kill().expect("it runs");
            let second = timeout(limit, told.recv()).await.expect("in time");
            watch.abort();
            (first, second)
        };
        let found = LocalSet::new().block_on(&runtime, watching);
        sleeper.wait().expect("it is ours");
        assert_eq!(found, (Some(Finding::Count(1)), Some(Finding::Count(0))));
    }

    #[test]
    fn an_expression_that_is_none_or_too_large_is_refused() {
        assert!(Pattern::new("x", Some("("), None).is_err());
        assert!(Pattern::new("x", None, Some("(a{1000}){1000}")).is_err());
    }
}
