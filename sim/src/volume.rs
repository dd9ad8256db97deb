//! A simulated data path: the replication machines of the core over a store of blocks.
//!
//! It does for numbered blocks what the Linux volume does for files: marks a region durably
//! before one of its blocks changes, ships writes to the peer's volume, compares and copies
//! regions. It is sans-IO like the core: inputs are requests of the control loop, calls of the
//! application, frames of the peer's volume and completions of the disk; outputs are
//! [`VolumeAction`]s. Both engines host it. After a crash or a power cut the host makes a new one
//! on what is left of the disk.
//!
//! Areas of the disk: the data from block 0, the mark log from [`MARK_LOG`], one block per region
//! (all zeros: not marked; anything else, torn or rotten included: marked).
//!
//! Contract with the host: frames arrive in order and whole; a new connection replaces the old
//! one, of which nothing arrives any more; every disk operation is completed once, unless the
//! volume is dropped; operations on one block do not overtake each other.

use std::collections::{BTreeSet, VecDeque};

use havre_core::{
    effect::{Outcome, VolumeRequest},
    ids::{NodeId, OpId},
    machine::Out,
    replication::{
        generation::Generation,
        intent::{Intent, MarkId},
        source::{Source, SourceConfig, SourceOrder},
        target::{Target, TargetConfig, TargetInput, TargetOrder},
    },
    rng::Rng,
    time::Instant,
};

use crate::{
    disk::{Block, DiskDone, DiskOp},
    pending::Pending,
};

mod frame;
mod source;
mod target;
#[cfg(test)]
mod tests;
mod vocabulary;

pub use frame::Frame;
use source::SourceSide;
use target::TargetSide;
pub use vocabulary::*;

/// First block of the mark log.
pub const MARK_LOG: u64 = 1 << 32;

enum Role {
    Idle,
    Source(Box<SourceSide>),
    Target(Box<TargetSide>),
}

/// Why a disk operation was ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Job {
    /// Reading the mark of a region at the start.
    Recover { region: u64 },
    /// Writing a mark again whose page the system may hold clean without having written it.
    Rewrite,
    /// Making what was read durable.
    RecoverFlush,
    /// Taking a mark out of the log: nobody waits.
    Clear,
    /// A read of the application.
    Read { call: CallId },
    /// For the source of this number.
    Source { life: u64, job: source::Job },
    /// For the target of this number.
    Target { life: u64, job: target::Job },
}

impl Job {
    const fn is_flush(self) -> bool {
        matches!(
            self,
            Self::RecoverFlush
                | Self::Source {
                    job: source::Job::Flush(_) | source::Job::Sync | source::Job::MarkFlush(_),
                    ..
                }
                | Self::Target { job: target::Job::Sync, .. }
        )
    }
}

/// An order under way.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Running {
    op: OpId,
    request: VolumeRequest,
}

/// A simulated data path.
pub struct SimVolume {
    config: VolumeConfig,
    rng: Rng,
    role: Role,
    /// Number of the present role's life: reports for an earlier one are dropped.
    life: u64,
    /// What the mark log holds or is about to hold; `None` before it was read.
    marks: Option<BTreeSet<MarkId>>,
    recovering: u64,
    rewriting_failed: bool,
    /// A mark could not be written: the log may hold less than was meant.
    log_unsure: bool,
    /// A flush failed since the machine started: what is cached may not be on the disk, and no
    /// later flush says so.
    distrusts_cache: bool,
    found: BTreeSet<MarkId>,
    jobs: Pending<Job>,
    last_job: u64,
    running: Option<Running>,
    queue: VecDeque<Running>,
}

/// What both sides use of their volume.
struct Cx<'a> {
    now: Instant,
    config: &'a VolumeConfig,
    distrusts_cache: &'a mut bool,
    marks: &'a mut BTreeSet<MarkId>,
    jobs: &'a mut Pending<Job>,
    last_job: &'a mut u64,
    life: u64,
    out: &'a mut Out<VolumeAction>,
    /// The order that has just ended.
    finished: &'a mut Option<Outcome>,
}

impl Cx<'_> {
    fn disk(&mut self, job: Job, op: DiskOp) {
        *self.last_job += 1;
        let id = *self.last_job;
        self.jobs.insert(id, job);
        self.out.push(VolumeAction::Disk { id, op });
    }

    fn clear_marks(&mut self, marks: impl IntoIterator<Item = MarkId>) {
        for mark in marks {
            self.marks.remove(&mark);
            let place = self.place(mark);
            self.disk(Job::Clear, DiskOp::Write(place, Block::default()));
        }
    }

    /// Where a mark is in the log: the mark of everything follows the last region's.
    fn place(&self, mark: MarkId) -> u64 {
        MARK_LOG + mark.0.min(self.config.regions)
    }
}

impl SimVolume {
    /// Makes a volume on whatever the disk holds. Nothing is read before `Prepare`.
    pub fn new(config: VolumeConfig, rng: Rng) -> Self {
        Self {
            config,
            rng,
            role: Role::Idle,
            life: 0,
            marks: None,
            recovering: 0,
            rewriting_failed: false,
            log_unsure: false,
            distrusts_cache: false,
            found: BTreeSet::new(),
            jobs: Pending::default(),
            last_job: 0,
            running: None,
            queue: VecDeque::new(),
        }
    }

    /// Whether a flush failed since the machine started. Holds across restarts of the daemon.
    pub fn distrusts_cache(&self) -> bool {
        self.distrusts_cache
    }

    /// Takes over from an earlier run that a flush failed since the machine started.
    pub fn distrust_cache(&mut self) {
        self.distrusts_cache = true;
    }

    /// What this volume is.
    pub fn role(&self) -> VolumeRole {
        match &self.role {
            Role::Idle => VolumeRole::Idle,
            Role::Source(side) => VolumeRole::Source(side.machine.mode()),
            Role::Target(side) => VolumeRole::Target(side.machine.state()),
        }
    }

    /// Takes one fact.
    pub fn handle(&mut self, now: Instant, input: VolumeInput, out: &mut Out<VolumeAction>) {
        match input {
            VolumeInput::Request { op, request } => self.request(now, op, request, out),
            VolumeInput::Call { id, call } => self.call(now, id, call, out),
            VolumeInput::Disk { id, done } => self.disk_done(now, id, done, out),
            VolumeInput::Connected => match &self.role {
                Role::Idle => out.push(VolumeAction::Disconnect),
                // A source waits for the target's first words.
                Role::Source(_) => {}
                Role::Target(_) => self.target(now, out, |side, cx| {
                    side.input(TargetInput::Connected, cx);
                }),
            },
            VolumeInput::Frame(frame) => match &self.role {
                Role::Idle => out.push(VolumeAction::Disconnect),
                Role::Source(_) => self.source(now, out, |side, cx| side.frame(frame, cx)),
                Role::Target(_) => self.target(now, out, |side, cx| side.frame(frame, cx)),
            },
            VolumeInput::Disconnected { reason } => match &self.role {
                Role::Idle => {}
                Role::Source(_) => self.source(now, out, |side, cx| side.gone(reason, cx)),
                Role::Target(_) => self.target(now, out, |side, cx| {
                    side.input(TargetInput::Disconnected { reason }, cx);
                }),
            },
        }
    }

    /// Lets the volume act on the passing of time.
    pub fn handle_timeout(&mut self, now: Instant, out: &mut Out<VolumeAction>) {
        match &self.role {
            Role::Idle => {}
            Role::Source(_) => self.source(now, out, |side, cx| side.timeout(cx)),
            Role::Target(_) => self.target(now, out, |side, cx| side.timeout(cx)),
        }
    }

    /// When [`SimVolume::handle_timeout`] must be called next.
    pub fn deadline(&self) -> Option<Instant> {
        match &self.role {
            Role::Idle => None,
            Role::Source(side) => side.deadline(),
            Role::Target(side) => side.deadline(),
        }
    }

    fn source(
        &mut self,
        now: Instant,
        out: &mut Out<VolumeAction>,
        act: impl FnOnce(&mut SourceSide, &mut Cx<'_>),
    ) {
        self.in_role(now, out, |role, cx| {
            if let Role::Source(side) = role {
                act(side, cx);
            }
        });
    }

    fn target(
        &mut self,
        now: Instant,
        out: &mut Out<VolumeAction>,
        act: impl FnOnce(&mut TargetSide, &mut Cx<'_>),
    ) {
        self.in_role(now, out, |role, cx| {
            if let Role::Target(side) = role {
                act(side, cx);
            }
        });
    }

    /// Lets the side that is in role act, and ends the order that it has carried out.
    fn in_role(
        &mut self,
        now: Instant,
        out: &mut Out<VolumeAction>,
        act: impl FnOnce(&mut Role, &mut Cx<'_>),
    ) {
        let Some(marks) = &mut self.marks else { return };
        let mut finished = None;
        let mut cx = Cx {
            now,
            config: &self.config,
            distrusts_cache: &mut self.distrusts_cache,
            marks,
            jobs: &mut self.jobs,
            last_job: &mut self.last_job,
            life: self.life,
            out,
            finished: &mut finished,
        };
        act(&mut self.role, &mut cx);
        if let Some(outcome) = finished {
            self.role_finished(now, outcome, out);
        }
    }

    fn request(
        &mut self,
        now: Instant,
        op: OpId,
        request: VolumeRequest,
        out: &mut Out<VolumeAction>,
    ) {
        if request == VolumeRequest::Fence {
            // At once, whatever is under way.
            self.source(now, out, |side, cx| {
                side.order(OpId(0), SourceOrder::Fence, cx);
                *cx.finished = None;
            });
            out.push(VolumeAction::Completed { op, outcome: Outcome::Done });
            return;
        }
        self.queue.push_back(Running { op, request });
        self.run_queue(now, out);
    }

    fn run_queue(&mut self, now: Instant, out: &mut Out<VolumeAction>) {
        while self.running.is_none() {
            let Some(next) = self.queue.pop_front() else { return };
            let request = next.request.clone();
            self.running = Some(next);
            self.start(now, request, out);
        }
    }

    fn finish(&mut self, outcome: Outcome, out: &mut Out<VolumeAction>) {
        if let Some(Running { op, .. }) = self.running.take() {
            out.push(VolumeAction::Completed { op, outcome });
        }
    }

    fn start(&mut self, now: Instant, request: VolumeRequest, out: &mut Out<VolumeAction>) {
        if self.marks.is_none() {
            // Whatever is asked first, the marks are read first.
            return self.recover(out);
        }
        let op = self.running.as_ref().map_or(OpId(0), |running| running.op);
        match (request, &self.role) {
            (VolumeRequest::Prepare, _) => self.finish(Outcome::Done, out),
            (VolumeRequest::Serve { generation }, Role::Source(_)) => {
                self.source(now, out, |side, cx| {
                    side.order(op, SourceOrder::Serve(generation), cx);
                });
            }
            (VolumeRequest::Serve { generation }, Role::Idle) => {
                self.become_source(generation);
                self.finish(Outcome::Done, out);
            }
            (VolumeRequest::Serve { .. }, Role::Target(_)) => {
                self.target(now, out, |side, cx| side.order(op, TargetOrder::Serve, cx));
            }
            (VolumeRequest::Admit { full, .. }, Role::Source(_)) => {
                self.source(now, out, |side, cx| {
                    side.order(op, SourceOrder::Admit { full }, cx);
                });
            }
            (VolumeRequest::Solo { generation }, Role::Source(_)) => {
                self.source(now, out, |side, cx| {
                    side.order(op, SourceOrder::Solo(generation), cx);
                });
            }
            (VolumeRequest::Admit { .. } | VolumeRequest::Solo { .. }, _) => {
                self.finish(Outcome::Failed("this node does not serve".into()), out);
            }
            (VolumeRequest::Follow { source, generation, .. }, Role::Idle) => {
                self.become_target(now, source, generation);
                self.finish(Outcome::Done, out);
            }
            (VolumeRequest::Close { .. }, Role::Idle) => self.finish(Outcome::Done, out),
            (VolumeRequest::Follow { .. }, Role::Source(_)) => {
                self.source(now, out, |side, cx| {
                    side.order(op, SourceOrder::Close { clean: false }, cx);
                });
            }
            (VolumeRequest::Close { clean }, Role::Source(_)) => {
                self.source(now, out, |side, cx| {
                    side.order(op, SourceOrder::Close { clean }, cx);
                });
            }
            (VolumeRequest::Follow { .. } | VolumeRequest::Close { .. }, Role::Target(_)) => {
                self.target(now, out, |side, cx| side.order(op, TargetOrder::Close, cx));
            }
            (VolumeRequest::Fence, _) => unreachable!("a fence is not queued"),
        }
    }

    /// The side that is in role has carried an order out.
    fn role_finished(&mut self, now: Instant, outcome: Outcome, out: &mut Out<VolumeAction>) {
        let Some(request) = self.running.as_ref().map(|running| running.request.clone()) else {
            return;
        };
        match (request, &self.role) {
            (VolumeRequest::Serve { generation }, Role::Target(_)) => {
                if outcome == Outcome::Done {
                    self.become_source(generation);
                }
                self.finish(outcome, out);
            }
            (VolumeRequest::Follow { source, generation, .. }, _) => {
                // A copy that failed here is what following repairs.
                self.become_target(now, source, generation);
                self.finish(Outcome::Done, out);
            }
            (VolumeRequest::Close { .. }, _) => {
                self.life += 1;
                self.role = Role::Idle;
                if self.distrusts_cache || std::mem::take(&mut self.log_unsure) {
                    // What the log holds must be found out, and written, again.
                    self.marks = None;
                }
                self.finish(outcome, out);
            }
            (_, _) => self.finish(outcome, out),
        }
        self.run_queue(now, out);
    }

    fn become_source(&mut self, generation: Generation) {
        self.life += 1;
        let config = &self.config;
        let bytes = config.region_blocks * 4_096;
        let source = SourceConfig {
            checkpoint_period: config.checkpoint_period,
            syncs_prove: !self.distrusts_cache,
            ..SourceConfig::new(config.module, config.signature, &config.rfs, bytes)
        };
        let marks = self.marks.iter().flatten().copied();
        let rng = self.rng.split(self.life);
        let machine = Source::new(source, generation, Intent::recovered(marks), rng);
        self.role = Role::Source(Box::new(SourceSide::new(machine)));
    }

    fn become_target(&mut self, now: Instant, peer: NodeId, generation: Generation) {
        self.life += 1;
        let config = TargetConfig {
            module: self.config.module,
            signature: self.config.signature,
            generation,
            answer_timeout: self.config.rfs.send_timeout,
        };
        self.role = Role::Target(Box::new(TargetSide::new(Target::new(config, now), peer)));
    }

    fn recover(&mut self, out: &mut Out<VolumeAction>) {
        self.recovering = self.config.regions + 1;
        self.marks = None;
        for region in 0..=self.config.regions {
            self.last_job += 1;
            let id = self.last_job;
            self.jobs.insert(id, Job::Recover { region });
            out.push(VolumeAction::Disk { id, op: DiskOp::Read(MARK_LOG + region) });
        }
    }

    fn recovered(&mut self, region: u64, done: &DiskDone, out: &mut Out<VolumeAction>) {
        self.recovering -= 1;
        if *done != DiskDone::Block(Block::default()) {
            // Marked, torn, rotten or unreadable: all count as marked.
            let everything = region == self.config.regions;
            let mark = if everything { MarkId::EVERYTHING } else { MarkId(region) };
            self.found.insert(mark);
        }
        if self.recovering > 0 {
            return;
        }
        if self.distrusts_cache {
            for mark in self.found.clone() {
                let place = MARK_LOG + mark.0.min(self.config.regions);
                self.recovering += 1;
                self.recovery_disk(Job::Rewrite, DiskOp::Write(place, Block::whole(1)), out);
            }
        }
        if self.recovering == 0 {
            self.recovery_disk(Job::RecoverFlush, DiskOp::Flush, out);
        }
    }

    fn recovery_disk(&mut self, job: Job, op: DiskOp, out: &mut Out<VolumeAction>) {
        self.last_job += 1;
        self.jobs.insert(self.last_job, job);
        out.push(VolumeAction::Disk { id: self.last_job, op });
    }

    fn rewritten(&mut self, now: Instant, done: &DiskDone, out: &mut Out<VolumeAction>) {
        self.recovering -= 1;
        if let DiskDone::Failed(_) = done {
            self.rewriting_failed = true;
        }
        if self.recovering > 0 {
            return;
        }
        if std::mem::take(&mut self.rewriting_failed) {
            self.recovery_flushed(now, done, out);
        } else {
            // A mark that a crash left in the cache is not durable yet, and counts as if it were.
            self.recovery_disk(Job::RecoverFlush, DiskOp::Flush, out);
        }
    }

    fn recovery_flushed(&mut self, now: Instant, done: &DiskDone, out: &mut Out<VolumeAction>) {
        if let DiskDone::Failed(error) = done {
            self.found.clear();
            self.finish(Outcome::Failed(format!("the mark log: {error}")), out);
            self.run_queue(now, out);
        } else {
            self.marks = Some(std::mem::take(&mut self.found));
            if let Some(running) = self.running.take() {
                self.queue.push_front(running);
            }
            self.run_queue(now, out);
        }
    }

    fn disk_done(&mut self, now: Instant, id: u64, done: DiskDone, out: &mut Out<VolumeAction>) {
        let Some(job) = self.jobs.remove(id) else { return };
        if job.is_flush() && matches!(done, DiskDone::Failed(_)) {
            self.distrusts_cache = true;
        }
        if matches!(job, Job::Source { job: source::Job::Mark(_), .. })
            && matches!(done, DiskDone::Failed(_))
        {
            self.log_unsure = true;
        }
        match job {
            Job::Recover { region } => self.recovered(region, &done, out),
            Job::Rewrite => self.rewritten(now, &done, out),
            Job::RecoverFlush => self.recovery_flushed(now, &done, out),
            Job::Clear => {}
            Job::Read { call } => {
                let answer = match done {
                    DiskDone::Block(content) => CallAnswer::Content(content),
                    _ => CallAnswer::Failed,
                };
                out.push(VolumeAction::Answer { id: call, answer });
            }
            Job::Source { life, job } if life == self.life => {
                self.source(now, out, |side, cx| side.disk_done(job, done, cx));
            }
            Job::Target { life, job } if life == self.life => {
                self.target(now, out, |side, cx| side.disk_done(job, done, cx));
            }
            Job::Source { .. } | Job::Target { .. } => {}
        }
    }

    fn call(&mut self, now: Instant, id: CallId, call: Call, out: &mut Out<VolumeAction>) {
        let serves = matches!(self.role, Role::Source(_));
        match call {
            _ if !serves => {
                out.push(VolumeAction::Answer { id, answer: CallAnswer::Refused });
            }
            Call::Read { block } => self.source(now, out, |_, cx| {
                cx.disk(Job::Read { call: id }, DiskOp::Read(block));
            }),
            call => self.source(now, out, |side, cx| side.call(id, call, cx)),
        }
    }
}
