//! A thread beside the module's own for what blocks: syncing whole file systems, reading for a
//! resynchronisation. Jobs run one after the other; their results come back through a channel and
//! wake the loop.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
    thread::JoinHandle,
};

use rustix::event::EventfdFlags;

/// Wakes the module's thread out of its poll.
#[derive(Debug, Clone)]
pub struct Waker(Arc<OwnedFd>);

impl Waker {
    /// Makes one.
    pub fn new() -> io::Result<Self> {
        let flags = EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC;
        Ok(Self(Arc::new(rustix::event::eventfd(0, flags)?)))
    }

    /// Makes the descriptor readable.
    pub fn wake(&self) {
        // A counter that is full wakes as well.
        let _ = rustix::io::write(&*self.0, &1u64.to_ne_bytes());
    }

    /// Makes it unreadable again.
    pub fn reset(&self) {
        let mut count = [0u8; 8];
        let _ = rustix::io::read(&*self.0, &mut count);
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

type Job<R> = Box<dyn FnOnce(&Sender<R>) + Send>;

/// The thread; it ends when this is dropped and its last job is done.
pub struct Helper<R> {
    jobs: Option<Sender<Job<R>>>,
    results: Receiver<R>,
    thread: Option<JoinHandle<()>>,
}

impl<R: Send + 'static> Helper<R> {
    /// Starts the thread.
    pub fn start(name: &str, waker: Waker) -> io::Result<Self> {
        let (jobs, queue) = channel::<Job<R>>();
        let (sender, results) = channel();
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            while let Ok(job) = queue.recv() {
                job(&sender);
                waker.wake();
            }
        })?;
        Ok(Self { jobs: Some(jobs), results, thread: Some(thread) })
    }

    /// Queues a job; what it sends arrives in [`result`](Self::result).
    pub fn run(&self, job: impl FnOnce(&Sender<R>) + Send + 'static) {
        if let Some(jobs) = &self.jobs {
            // The thread ends only after `jobs` is dropped.
            let _ = jobs.send(Box::new(job));
        }
    }

    /// What a job has sent, if anything.
    pub fn result(&self) -> Option<R> {
        self.results.try_recv().ok()
    }
}

impl<R> Drop for Helper<R> {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
