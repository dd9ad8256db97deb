//! The thread of one module's data path: role, loop, and the way in for the control loop.
//!
//! ```text
//!            Serve                    Follow
//!   source <------- idle ---------------------> target
//!      |             ^                             |
//!      |---- Close --|-------- Close --------------|
//!      ^------------------- Serve -----------------|   (everything received is durable first)
//! ```
//! The loop takes what is ready from every descriptor, spins for a moment when it was busy, then
//! sleeps in `poll`.

use std::{
    io,
    os::fd::AsFd as _,
    sync::{
        Arc,
        mpsc::{Receiver, Sender, TryRecvError, channel},
    },
    time::Duration,
};

use havre_core::{
    effect::{Outcome, VolumeNews, VolumeRequest},
    ids::OpId,
    replication::{generation::Generation, source::SourceOrder, target::TargetOrder},
    time::Instant,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::sync::{mpsc, oneshot};

use super::{
    idle::Idle, marks::MarkTable, mounting, readonly, resync::kept_aside, settings::Settings,
    source::SourceSide, target, target::TargetSide,
};
use crate::{clock, waker::Waker};

/// Longest sleep, so that a lost wake-up is a delay and no standstill.
const SLEEP_MAX: Duration = Duration::from_secs(1);

enum Control {
    Request(VolumeRequest, oneshot::Sender<Outcome>),
    End,
    /// The daemon dies: nothing is unmounted, nobody is answered.
    #[cfg(test)]
    Die,
}

/// The way to a module's data path. When it is dropped, the data path ends.
#[derive(Debug)]
pub struct VolumeHandle {
    mounts_outlived: bool,
    control: Sender<Control>,
    waker: Arc<Waker>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl VolumeHandle {
    /// Whether an earlier daemon left every mount to the holder when it died, at the time of the
    /// start: applications wait there, and the next source takes the mounts over.
    pub const fn mounts_outlived(&self) -> bool {
        self.mounts_outlived
    }

    /// Carries out one order. Orders are carried out in the sequence of the calls, except that a
    /// [`VolumeRequest::Fence`] overtakes the others.
    pub async fn request(&self, request: VolumeRequest) -> Outcome {
        let (sender, receiver) = oneshot::channel();
        let ended = || Outcome::Failed("the data path has ended: restart the module".into());
        if self.control.send(Control::Request(request, sender)).is_err() {
            return ended();
        }
        self.waker.wake();
        receiver.await.unwrap_or_else(|_| ended())
    }
}

#[cfg(test)]
impl VolumeHandle {
    /// Ends as a killed daemon does.
    pub(super) fn die(mut self) {
        self.control.send(Control::Die).expect("the thread runs");
        self.waker.wake();
        let thread = self.thread.take().expect("the thread has been started");
        thread.join().expect("the thread ends");
    }
}

impl Drop for VolumeHandle {
    fn drop(&mut self) {
        // The thread may have ended already.
        let _ = self.control.send(Control::End);
        self.waker.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Starts the data path of a module: idle. News come through the second value.
///
/// Fails if the thread or its descriptors cannot be made; directories are looked at only by
/// [`VolumeRequest::Prepare`].
pub fn start(
    settings: Settings,
) -> io::Result<(VolumeHandle, mpsc::UnboundedReceiver<VolumeNews>)> {
    let mounts_outlived = mounting::all_are_held(&settings);
    let waker = Arc::new(Waker::new()?);
    let (control, orders) = channel();
    let (news, receiver) = mpsc::unbounded_channel();
    let name = format!("havre-{}", settings.module);
    let own = Arc::clone(&waker);
    let thread = std::thread::Builder::new().name(name).spawn(move || {
        let role = Role::Idle { table: None };
        Volume { settings, waker: own, orders, news, role: Some(role), asked: None, next_op: 0 }
            .run();
    })?;
    let thread = Some(thread);
    Ok((VolumeHandle { mounts_outlived, control, waker, thread }, receiver))
}

#[expect(clippy::large_enum_variant, reason = "there is one role in a thread")]
enum Role {
    Idle { table: Option<MarkTable> },
    Source(Box<SourceSide>),
    Target(Box<TargetSide>),
}

/// What the loop does after it has looked at its orders.
enum Next {
    GoOn,
    /// The daemon goes away: requests under way fail, marks stay, directories are freed.
    End,
    #[cfg(test)]
    Die,
}

/// An order that has been given to a role.
struct Asked {
    op: OpId,
    request: VolumeRequest,
    answer: oneshot::Sender<Outcome>,
}

struct Volume {
    settings: Settings,
    waker: Arc<Waker>,
    orders: Receiver<Control>,
    news: mpsc::UnboundedSender<VolumeNews>,
    /// `None` only while a role changes.
    role: Option<Role>,
    asked: Option<Asked>,
    next_op: u64,
}

impl Volume {
    fn run(mut self) {
        let mut later = std::collections::VecDeque::new();
        let mut idle = Idle::default();
        loop {
            match self.take_orders(&mut later) {
                Next::GoOn => {}
                Next::End => return self.become_idle(),
                #[cfg(test)]
                Next::Die => return,
            }
            let mut active = match self.role.as_mut().expect("a role is set between turns") {
                Role::Idle { .. } => false,
                Role::Source(source) => source.turn(),
                Role::Target(target) => target.turn(),
            };
            active |= self.take_results();
            let now = clock::now();
            if active {
                idle.active(now);
            } else if idle.rests(now) {
                self.sleep(!later.is_empty() && self.asked.is_none());
                if let Some(Role::Source(source)) = &mut self.role {
                    source.woken();
                }
            } else {
                // Looking around must not keep others from the processor.
                std::thread::yield_now();
            }
        }
    }

    fn take_orders(
        &mut self,
        later: &mut std::collections::VecDeque<(VolumeRequest, oneshot::Sender<Outcome>)>,
    ) -> Next {
        loop {
            match self.orders.try_recv() {
                Ok(Control::Request(VolumeRequest::Fence, answer)) => {
                    self.fence();
                    let _ = answer.send(Outcome::Done);
                }
                Ok(Control::Request(request, answer)) => later.push_back((request, answer)),
                Ok(Control::End) | Err(TryRecvError::Disconnected) => return Next::End,
                #[cfg(test)]
                Ok(Control::Die) => return Next::Die,
                Err(TryRecvError::Empty) => break,
            }
        }
        while self.asked.is_none()
            && let Some((request, answer)) = later.pop_front()
        {
            self.ask(request, answer);
        }
        Next::GoOn
    }

    fn fence(&mut self) {
        if let Some(Role::Source(source)) = &mut self.role {
            self.next_op += 1;
            source.order(OpId(self.next_op), SourceOrder::Fence);
        }
    }

    fn ask(&mut self, request: VolumeRequest, answer: oneshot::Sender<Outcome>) {
        self.next_op += 1;
        let op = OpId(self.next_op);
        let outcome = self.give(op, &request);
        match outcome {
            // The asking side may have gone away: nobody wants to know then.
            Some(outcome) => drop(answer.send(outcome)),
            None => self.asked = Some(Asked { op, request, answer }),
        }
    }

    /// Gives an order to the role; `None`: its end will be reported.
    fn give(&mut self, op: OpId, request: &VolumeRequest) -> Option<Outcome> {
        let role = self.role.as_mut().expect("a role is set between turns");
        match (request, role) {
            (VolumeRequest::Prepare, Role::Idle { .. }) => Some(outcome(self.prepare())),
            (VolumeRequest::Prepare | VolumeRequest::Fence, _) => Some(Outcome::Done),
            (VolumeRequest::Serve { generation }, Role::Idle { .. }) => {
                Some(outcome(self.become_source(*generation)))
            }
            (VolumeRequest::Serve { generation }, Role::Source(source)) => {
                source.order(op, SourceOrder::Serve(*generation));
                None
            }
            (VolumeRequest::Serve { .. }, Role::Target(target)) => {
                target.order(op, TargetOrder::Serve);
                None
            }
            (VolumeRequest::Admit { full, .. }, Role::Source(source)) => {
                source.order(op, SourceOrder::Admit { full: *full });
                None
            }
            (VolumeRequest::Solo { generation }, Role::Source(source)) => {
                source.order(op, SourceOrder::Solo(*generation));
                None
            }
            (VolumeRequest::Follow { generation, keep_aside, .. }, _) => {
                Some(outcome(self.become_target(*generation, *keep_aside)))
            }
            (VolumeRequest::Close { clean }, Role::Source(source)) => {
                source.order(op, SourceOrder::Close { clean: *clean });
                None
            }
            (VolumeRequest::Close { .. }, Role::Target(target)) => {
                target.order(op, TargetOrder::Close);
                None
            }
            (VolumeRequest::Close { .. }, Role::Idle { .. }) => {
                self.end_left_mounts();
                Some(Outcome::Done)
            }
            (VolumeRequest::Admit { .. } | VolumeRequest::Solo { .. }, _) => {
                Some(Outcome::Failed("this node is not the primary".into()))
            }
        }
    }

    fn take_results(&mut self) -> bool {
        let (news, finished) = match self.role.as_mut().expect("a role is set between turns") {
            Role::Idle { .. } => return false,
            Role::Source(source) => (&mut source.news, &mut source.finished),
            Role::Target(target) => (&mut target.news, &mut target.finished),
        };
        let mut active = false;
        for one in news.drain(..) {
            active = true;
            // Nobody listens only while the daemon ends.
            let _ = self.news.send(one);
        }
        let finished = std::mem::take(finished);
        for (op, outcome) in finished {
            active = true;
            if self.asked.as_ref().is_some_and(|asked| asked.op == op)
                && let Some(asked) = self.asked.take()
            {
                let outcome = self.conclude(&asked.request, outcome);
                let _ = asked.answer.send(outcome);
            }
        }
        active
    }

    /// Changes the role after an order that needed the old one to finish.
    fn conclude(&mut self, request: &VolumeRequest, done: Outcome) -> Outcome {
        match (request, &self.role) {
            (VolumeRequest::Close { .. }, _) => {
                self.become_idle();
                done
            }
            (VolumeRequest::Serve { generation }, Some(Role::Target(_))) => {
                if done != Outcome::Done {
                    return done;
                }
                outcome(self.become_source(*generation))
            }
            _ => done,
        }
    }

    /// Ends the role and takes its marks.
    fn become_idle(&mut self) {
        let table = match self.role.take().expect("a role is set between turns") {
            Role::Idle { table } => table,
            Role::Source(source) => Some(source.end(&self.settings)),
            Role::Target(target) => Some(target.end()),
        };
        self.role = Some(Role::Idle { table });
    }

    fn take_table(&mut self) -> Result<MarkTable, String> {
        self.become_idle();
        if let Some(Role::Idle { table }) = &mut self.role
            && let Some(table) = table.take()
        {
            return Ok(table);
        }
        let name = format!("{}.intent", self.settings.module);
        let explain = |error| format!("intent log: {error}");
        let opened = MarkTable::open(&self.settings.state_dir, &name);
        let mut table = opened.map_err(|error| explain(error.to_string()))?;
        if !self.settings.trust.holds() {
            table.rewrite().map_err(explain)?;
        }
        Ok(table)
    }

    fn prepare(&mut self) -> Result<(), String> {
        for config in &self.settings.rfs.directories {
            if mounting::is_held(&self.settings, &config.dir) {
                continue;
            }
            // Left by a daemon that died without a holder: whoever waits there is told so.
            mounting::close(&self.settings, &config.dir, false);
            readonly::uncover(&config.dir);
            target::check(&config.dir)?;
            for path in &config.to_check {
                let path = config.dir.join(path);
                path.symlink_metadata().map_err(|error| format!("{}: {error}", path.display()))?;
            }
        }
        let table = self.take_table()?;
        self.role = Some(Role::Idle { table: Some(table) });
        // A mount that waits to be served again would make this thread wait for itself.
        let held = |dir: &std::path::Path| mounting::is_held(&self.settings, dir);
        if !self.settings.rfs.directories.iter().any(|config| held(&config.dir)) {
            let kept = kept_aside(&self.settings);
            // Nobody listens only while the daemon ends.
            let _ = self.news.send(VolumeNews::KeptAside(kept));
        }
        Ok(())
    }

    /// Mounts of an earlier daemon, which this one will not serve: kept by a holder, or dead
    /// because the guard has ended them since [`prepare`](Self::prepare) left them alone.
    fn end_left_mounts(&self) {
        for config in &self.settings.rfs.directories {
            if mounting::is_ours(&config.dir) {
                mounting::close(&self.settings, &config.dir, false);
            }
        }
    }

    fn become_source(&mut self, generation: Generation) -> Result<(), String> {
        let table = self.take_table()?;
        let made = SourceSide::start(&self.settings, table, generation, &self.waker);
        self.set_role(made.map(|source| Role::Source(Box::new(source))))
    }

    fn become_target(
        &mut self,
        generation: Generation,
        keep_aside: Option<Generation>,
    ) -> Result<(), String> {
        let table = self.take_table()?;
        self.end_left_mounts();
        let made = TargetSide::start(&self.settings, table, generation, keep_aside, &self.waker);
        self.set_role(made.map(|target| Role::Target(Box::new(target))))
    }

    fn set_role(&mut self, made: Result<Role, (MarkTable, String)>) -> Result<(), String> {
        match made {
            Ok(role) => {
                self.role = Some(role);
                Ok(())
            }
            Err((table, error)) => {
                self.role = Some(Role::Idle { table: Some(table) });
                Err(error)
            }
        }
    }

    fn sleep(&self, more: bool) {
        let (reading, peers, deadline) = match &self.role {
            Some(Role::Source(source)) => {
                (source.descriptors(), source.peer_poll(), source.deadline())
            }
            Some(Role::Target(target)) => {
                (target.descriptors(), target.peer_poll(), target.deadline())
            }
            _ => (Vec::new(), Vec::new(), Instant::FAR_FUTURE),
        };
        let mut fds = vec![PollFd::from_borrowed_fd(self.waker.as_fd(), PollFlags::IN)];
        fds.extend(reading.into_iter().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        fds.extend(peers.into_iter().map(|(fd, writing)| {
            let flags = if writing { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
            PollFd::from_borrowed_fd(fd, flags)
        }));
        let span = if more { Duration::ZERO } else { deadline.since(clock::now()).min(SLEEP_MAX) };
        let limit = Timespec {
            tv_sec: i64::try_from(span.as_secs()).unwrap_or(1),
            tv_nsec: span.subsec_nanos().into(),
        };
        // Interrupted or not: the loop looks at everything.
        let _ = poll(&mut fds, Some(&limit));
        self.waker.reset();
    }
}

fn outcome(result: Result<(), String>) -> Outcome {
    match result {
        Ok(()) => Outcome::Done,
        Err(error) => Outcome::Failed(error),
    }
}
