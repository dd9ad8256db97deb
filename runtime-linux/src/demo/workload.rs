//! A client that writes records one after the other and remembers which were acknowledged.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::{lab::ClientNamespace, ledger};

/// Longest wait for a connection or an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(100);
/// Pause before the next attempt when nobody answers.
const RETRY: Duration = Duration::from_millis(5);

/// What the client saw.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Records whose durability was acknowledged, and when.
    pub acknowledged: Vec<(u64, Instant)>,
    /// The last record that was tried.
    pub last: u64,
}

impl Seen {
    /// The longest time between two acknowledgements one of which lies after `from`.
    pub fn longest_gap(&self, from: Instant) -> Duration {
        self.acknowledged
            .windows(2)
            .filter(|pair| pair[1].1 >= from)
            .map(|pair| pair[1].1 - pair[0].1)
            .max()
            .unwrap_or_default()
    }

    /// As [`longest_gap`](Self::longest_gap), up to the acknowledgements at `until`.
    pub fn longest_gap_between(&self, from: Instant, until: Instant) -> Duration {
        let within = self.acknowledged.iter().copied().filter(|(_, at)| *at <= until).collect();
        Self { acknowledged: within, last: self.last }.longest_gap(from)
    }

    /// The acknowledged records that `found` lacks.
    pub fn lost<'a>(&'a self, found: &'a [String]) -> impl Iterator<Item = u64> + 'a {
        let found: std::collections::BTreeSet<&str> = found.iter().map(String::as_str).collect();
        self.acknowledged
            .iter()
            .map(|(record, _)| *record)
            .filter(move |record| !found.contains(text(*record).as_str()))
    }
}

/// The text of a record.
pub fn text(record: u64) -> String {
    format!("record {record}")
}

/// A connection to the application.
pub trait Connection {
    /// Adds a record; without error, the record is durable.
    ///
    /// # Errors
    /// It was not acknowledged: it may or may not be there.
    fn append(&mut self, text: &str) -> io::Result<()>;

    /// Reads every record.
    ///
    /// # Errors
    /// The connection broke.
    fn read(&mut self) -> io::Result<Vec<String>>;
}

impl Connection for ledger::Client {
    fn append(&mut self, text: &str) -> io::Result<()> {
        Self::append(self, text)
    }

    fn read(&mut self) -> io::Result<Vec<String>> {
        Self::read(self)
    }
}

/// Connects to the application, within a time.
pub type Connect = Box<dyn Fn(Duration) -> io::Result<Box<dyn Connection>> + Send>;

/// A running client.
#[derive(Debug)]
pub struct Workload {
    ending: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    thread: JoinHandle<Seen>,
}

impl Workload {
    /// Starts a client of the ledger at `address`.
    pub fn start(place: ClientNamespace, address: SocketAddr) -> Self {
        Self::start_with(place, to_ledger(address))
    }

    /// Starts a client of any application.
    pub fn start_with(place: ClientNamespace, connect: Connect) -> Self {
        Self::start_paced(place, connect, Duration::ZERO, 0)
    }

    /// Starts a client that pauses after each record; its records have numbers above `last`.
    pub fn start_paced(
        place: ClientNamespace,
        connect: Connect,
        pause: Duration,
        last: u64,
    ) -> Self {
        let ending = Arc::new(AtomicBool::new(false));
        let count = Arc::new(AtomicU64::new(0));
        let (end, counter) = (Arc::clone(&ending), Arc::clone(&count));
        let thread = thread::spawn(move || {
            place.move_in().expect("root may enter a namespace that it made");
            write_on(&connect, (pause, last), &end, &counter)
        });
        Self { ending, count, thread }
    }

    /// How many records are acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Waits until `more` further records are acknowledged; false if that takes longer than
    /// `limit`.
    pub fn wait_for(&self, more: u64, limit: Duration) -> bool {
        let goal = self.acknowledged() + more;
        let begun = Instant::now();
        while self.acknowledged() < goal {
            if begun.elapsed() > limit {
                return false;
            }
            thread::sleep(RETRY);
        }
        true
    }

    /// Stops the client and returns what it saw.
    pub fn stop(self) -> Seen {
        self.ending.store(true, Ordering::Relaxed);
        match self.thread.join() {
            Ok(seen) => seen,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

/// Connects to the ledger at `address`.
pub fn to_ledger(address: SocketAddr) -> Connect {
    Box::new(move |limit| Ok(Box::new(ledger::Client::connect(address, limit)?)))
}

fn write_on(
    connect: &Connect,
    (pause, last): (Duration, u64),
    ending: &AtomicBool,
    count: &AtomicU64,
) -> Seen {
    let mut seen = Seen::default();
    let mut connection = None;
    let mut record = last;
    while !ending.load(Ordering::Relaxed) {
        let Some(client) = connection.as_mut() else {
            connection = connect(ANSWER_TIMEOUT).ok();
            if connection.is_none() {
                thread::sleep(RETRY);
            }
            continue;
        };
        // A record without an acknowledgement may exist or not; its number is not used again.
        record += 1;
        match client.append(&text(record)) {
            Ok(()) => {
                seen.acknowledged.push((record, Instant::now()));
                count.fetch_add(1, Ordering::Relaxed);
            }
            Err(_) => connection = None,
        }
        seen.last = record;
        if !pause.is_zero() {
            thread::sleep(pause);
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_and_losses_are_those_after_the_fault() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let seen = Seen {
            acknowledged: vec![(1, at(0)), (2, at(900)), (4, at(910)), (5, at(960))],
            last: 5,
        };
        assert_eq!(seen.longest_gap(at(0)), Duration::from_millis(900));
        assert_eq!(seen.longest_gap(at(905)), Duration::from_millis(50));
        let found = [text(1), text(3), text(4), text(5)];
        assert_eq!(seen.lost(&found).collect::<Vec<_>>(), [2]);
    }
}
