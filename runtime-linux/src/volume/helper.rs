//! A thread beside the module's own for what blocks: syncing whole file systems, reading for a
//! resynchronisation. Jobs run one after the other; their results come back through a channel and
//! wake the loop.

use std::{
    io,
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
    thread::JoinHandle,
};

use crate::waker::Waker;

type Job<R> = Box<dyn FnOnce(&Sender<R>) + Send>;

/// The thread; it ends when this is dropped and its last job is done.
pub struct Helper<R> {
    jobs: Option<Sender<Job<R>>>,
    results: Receiver<R>,
    thread: Option<JoinHandle<()>>,
}

impl<R: Send + 'static> Helper<R> {
    /// Starts the thread.
    pub fn start(name: &str, waker: Arc<Waker>) -> io::Result<Self> {
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
