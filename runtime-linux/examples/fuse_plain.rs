//! Serves a directory through the intercepting file system without replication, until it is
//! unmounted: `fuse_plain DIRECTORY [back|through]`. For measurements (docs/performance.md).

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use havre_core::config::module::WriteMode;
use havre_linux::fuse::{Options, PassThrough, Session, Turn};
use rustix::event::{PollFd, PollFlags, Timespec};

/// How long the loop looks for the next request before it sleeps: waking costs more than that.
const SPIN: Duration = Duration::from_micros(50);

fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let directory = PathBuf::from(arguments.next().context("which directory?")?);
    let through = arguments.next().is_some_and(|word| word == "through");
    let write = if through { WriteMode::Through } else { WriteMode::Back };
    let mut session = Session::mount(&directory, Options::new(0, write)).context("mount")?;
    let second = Timespec { tv_sec: 1, tv_nsec: 0 };
    let mut settled = Instant::now();
    let mut busy = Instant::now();
    loop {
        match session.turn(&mut PassThrough) {
            Turn::Ended => return Ok(()),
            Turn::Handled(_) | Turn::Full => busy = Instant::now(),
            Turn::Idle if busy.elapsed() < SPIN => std::hint::spin_loop(),
            Turn::Idle => {
                let fd = session.fd();
                let mut fds = [PollFd::new(&fd, PollFlags::IN)];
                rustix::event::poll(&mut fds, Some(&second)).context("poll")?;
            }
        }
        if settled.elapsed().as_secs() >= 1 {
            session.settle(&mut PassThrough);
            settled = Instant::now();
        }
    }
}
