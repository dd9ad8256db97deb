//! Flushes end, with their own results, also when there are more than the ring has room for.

use std::{collections::BTreeSet, fs::File, io::Write as _};

use rustix::event::{PollFd, PollFlags, poll};

use super::*;

fn wait(ring: &mut Ring) -> (u64, io::Result<()>) {
    ring.submit().expect("submitted");
    loop {
        if let Some(done) = ring.completed() {
            return done;
        }
        let mut fds = [PollFd::new(ring, PollFlags::IN)];
        poll(&mut fds, None).expect("poll");
    }
}

#[test]
fn each_flush_is_reported_once() {
    let mut ring = Ring::new().expect("a ring");
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(b"content").expect("write");
    let file = Arc::new(OwnedFd::from(file));
    let mut done = BTreeSet::new();
    for token in 0..600 {
        ring.flush(token, Arc::clone(&file), token % 2 == 0).expect("queued");
    }
    while ring.pending() > 0 {
        let (token, result) = wait(&mut ring);
        result.expect("flushed");
        assert!(done.insert(token));
    }
    assert_eq!(done.len(), 600);
}

#[test]
fn a_flush_that_is_impossible_reports_an_error() {
    let mut ring = Ring::new().expect("a ring");
    let socket = File::open("/proc/self/mounts").expect("open");
    ring.flush(7, Arc::new(OwnedFd::from(socket)), false).expect("queued");
    let (token, result) = wait(&mut ring);
    assert_eq!(token, 7);
    assert!(result.is_err());
}
