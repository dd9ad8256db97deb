//! Carries out what the source machine orders.

use std::collections::{BTreeMap, VecDeque};

use havre_core::{
    ids::{OpId, Seq},
    machine::{Machine, Out},
    replication::{
        intent::{BatchId, MarkId, MarkSet},
        source::{
            Applied, Change, ChangeKind, PeerInput, ResyncInput, Source, SourceAction, SourceInput,
            SourceOrder, Ticket, Verdict,
        },
        stream::{ToSource, ToTarget},
    },
    rng::mix,
    time::Instant,
};

use super::{Call, CallAnswer, CallId, Cx, Frame, VolumeAction, frame, frame::Step};
use crate::disk::{Block, DiskDone, DiskError, DiskOp};

/// Why the source side ordered a disk operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Job {
    /// The write of a change.
    Apply(Ticket),
    /// The flush of a barrier.
    Flush(Ticket),
    /// One of the writes of a batch of marks.
    Mark(BatchId),
    /// The flush after them.
    MarkFlush(BatchId),
    /// [`SourceAction::SyncAll`].
    Sync,
    /// Reading a block of a region that is being copied, at this position.
    Read { copy: u64, place: u64 },
}

/// The copy of one region.
#[derive(Debug, Clone)]
struct Copy {
    item: MarkId,
    comparing: bool,
    reads: usize,
    blocks: BTreeMap<u64, Block>,
}

/// An open call.
#[derive(Debug, Clone, Copy)]
struct OpenCall {
    id: CallId,
    call: Call,
    failed: bool,
}

/// The source machine and what it has under way.
pub(super) struct SourceSide {
    pub(super) machine: Source,
    out: Out<SourceAction>,
    calls: Vec<Option<OpenCall>>,
    free: Vec<u32>,
    batch_writes: usize,
    batch_error: Option<DiskError>,
    copies: BTreeMap<u64, Copy>,
    last_copy: u64,
    /// The step that is being given its number.
    step: Option<Step>,
    listed: u64,
    /// Frames that a resumed stream may need again.
    kept: VecDeque<(Seq, Frame)>,
    connected: bool,
}

impl SourceSide {
    pub(super) fn new(machine: Source) -> Self {
        Self {
            machine,
            out: Out::new(),
            calls: Vec::new(),
            free: Vec::new(),
            batch_writes: 0,
            batch_error: None,
            copies: BTreeMap::new(),
            last_copy: 0,
            step: None,
            listed: 0,
            kept: VecDeque::new(),
            connected: false,
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.machine.deadline()
    }

    pub(super) fn timeout(&mut self, cx: &mut Cx<'_>) {
        self.machine.handle_timeout(cx.now, &mut self.out);
        self.perform(cx);
    }

    fn input(&mut self, input: SourceInput, cx: &mut Cx<'_>) {
        self.machine.handle(cx.now, input, &mut self.out);
        self.perform(cx);
    }

    pub(super) fn order(&mut self, op: OpId, order: SourceOrder, cx: &mut Cx<'_>) {
        self.input(SourceInput::Order { op, order }, cx);
    }

    pub(super) fn gone(&mut self, reason: String, cx: &mut Cx<'_>) {
        self.connected = false;
        self.input(SourceInput::Peer(PeerInput::Gone { reason }), cx);
    }

    pub(super) fn call(&mut self, id: CallId, call: Call, cx: &mut Cx<'_>) {
        let ticket = Ticket(self.free.pop().unwrap_or(self.calls.len() as u32));
        if ticket.0 as usize == self.calls.len() {
            self.calls.push(None);
        }
        self.calls[ticket.0 as usize] = Some(OpenCall { id, call, failed: false });
        let change = match call {
            Call::Write { block, sync, .. } => Change {
                kind: if sync { ChangeKind::ChangeAndBarrier } else { ChangeKind::Change },
                bytes: 4_096,
                marks: MarkSet::one(cx.config.region_of(block)),
            },
            Call::Barrier | Call::Read { .. } => {
                Change { kind: ChangeKind::Barrier, bytes: 0, marks: MarkSet::default() }
            }
        };
        self.input(SourceInput::Submit { ticket, change }, cx);
    }

    pub(super) fn frame(&mut self, frame: Frame, cx: &mut Cx<'_>) {
        let Frame::ToSource(message) = frame else { return };
        let input = match message {
            ToSource::Hello(hello) => {
                self.connected = true;
                PeerInput::Connected(hello)
            }
            _ if !self.connected => return,
            ToSource::Marks { items, everything, last } => {
                let mut marks: Vec<MarkId> = items
                    .iter()
                    .filter_map(|item| frame::region(item, cx.config.regions))
                    .collect();
                if everything {
                    marks.push(MarkId::EVERYTHING);
                }
                PeerInput::Marks { marks, last }
            }
            ToSource::Ack { received, durable } => PeerInput::Ack { received, durable },
            ToSource::Answer { item, body } => {
                let item = frame::region(&item, cx.config.regions);
                return match (item, frame::places(&body)) {
                    (Some(item), Some(places)) => self.answered(item, &places, cx),
                    _ => self.gone("the other node's answer is malformed".into(), cx),
                };
            }
            ToSource::Failed { reason } => PeerInput::Gone { reason },
        };
        self.input(SourceInput::Peer(input), cx);
        let received = self.machine.received();
        while self.kept.front().is_some_and(|(seq, _)| *seq <= received) {
            self.kept.pop_front();
        }
    }

    pub(super) fn disk_done(&mut self, job: Job, done: DiskDone, cx: &mut Cx<'_>) {
        let error = match &done {
            DiskDone::Failed(error) => Some(*error),
            _ => None,
        };
        match job {
            Job::Apply(ticket) => {
                let applied = match error {
                    None => Applied::Changed,
                    Some(DiskError::Full) => Applied::Refused,
                    Some(DiskError::Io) => Applied::Unsure,
                };
                if let Some(open) = &mut self.calls[ticket.0 as usize] {
                    open.failed = error.is_some();
                }
                self.input(SourceInput::Applied { ticket, applied }, cx);
                if applied == Applied::Unsure {
                    // Only comparing tells what the disk made of it.
                    cx.out.push(VolumeAction::Disconnect);
                    self.gone("a write failed halfway".to_owned(), cx);
                }
            }
            Job::Flush(ticket) => {
                self.input(SourceInput::Flushed { ticket, ok: error.is_none() }, cx);
            }
            Job::Sync => self.input(SourceInput::Synced { ok: error.is_none() }, cx),
            Job::Mark(batch) => {
                self.batch_error = self.batch_error.or(error);
                self.batch_writes -= 1;
                if self.batch_writes == 0 {
                    match self.batch_error.take() {
                        None => cx.source_disk(Job::MarkFlush(batch), DiskOp::Flush),
                        Some(error) => self.marks_persisted(batch, Some(error), cx),
                    }
                }
            }
            Job::MarkFlush(batch) => self.marks_persisted(batch, error, cx),
            Job::Read { copy, place } => self.read(copy, place, &done, cx),
        }
    }

    fn marks_persisted(&mut self, batch: BatchId, error: Option<DiskError>, cx: &mut Cx<'_>) {
        let result = error.map_or(Ok(()), |error| Err(error.to_string()));
        self.input(SourceInput::MarksPersisted { batch, result }, cx);
    }

    fn perform(&mut self, cx: &mut Cx<'_>) {
        let mut out = std::mem::take(&mut self.out);
        for action in out.drain() {
            self.perform_one(action, cx);
        }
        self.out = out;
    }

    fn perform_one(&mut self, action: SourceAction, cx: &mut Cx<'_>) {
        match action {
            SourceAction::PersistMarks { batch, marks } => {
                self.batch_writes = marks.len();
                for mark in marks {
                    cx.marks.insert(mark);
                    let place = cx.place(mark);
                    cx.source_disk(Job::Mark(batch), DiskOp::Write(place, Block::whole(1)));
                }
            }
            SourceAction::ClearMarks { marks } => cx.clear_marks(marks),
            SourceAction::Apply { ticket } => {
                if let Some((block, content)) = self.written(ticket) {
                    cx.source_disk(Job::Apply(ticket), DiskOp::Write(block, content));
                }
            }
            SourceAction::Flush { ticket } => cx.source_disk(Job::Flush(ticket), DiskOp::Flush),
            SourceAction::Ship { ticket, seq, sync } => {
                if let Some((block, content)) = self.written(ticket) {
                    self.ship(seq, frame::change(seq, sync, block, content), cx);
                }
            }
            SourceAction::Complete { ticket, verdict } => self.complete(ticket, verdict, cx),
            SourceAction::SyncAll => cx.source_disk(Job::Sync, DiskOp::Flush),
            SourceAction::Send(message) => match message {
                ToTarget::Element { seq, .. } => {
                    self.ship(seq, Frame::ToTarget(message, Vec::new()), cx);
                }
                _ => self.send(Frame::ToTarget(message, Vec::new()), cx),
            },
            SourceAction::ShipItem { item, seq } => {
                if let Some(step) = self.step.take() {
                    self.send(step.frame(seq, item), cx);
                }
            }
            SourceAction::Resend { after } => {
                for (_, frame) in self.kept.iter().filter(|(seq, _)| *seq > after) {
                    cx.out.push(VolumeAction::Send(frame.clone()));
                }
            }
            SourceAction::Discard => {
                self.kept.clear();
                self.copies.clear();
            }
            SourceAction::CopyItem { item } => self.copy(item, cx),
            SourceAction::Enumerate { restart } => self.list(restart, cx),
            SourceAction::Disconnect => {
                self.connected = false;
                cx.out.push(VolumeAction::Disconnect);
            }
            SourceAction::News(news) => cx.out.push(VolumeAction::News(news)),
            SourceAction::Finished { outcome, .. } => *cx.finished = Some(outcome),
        }
    }

    fn written(&self, ticket: Ticket) -> Option<(u64, Block)> {
        match self.calls[ticket.0 as usize].map(|open| open.call) {
            Some(Call::Write { block, content, .. }) => Some((block, content)),
            _ => None,
        }
    }

    fn ship(&mut self, seq: Seq, frame: Frame, cx: &mut Cx<'_>) {
        self.kept.push_back((seq, frame.clone()));
        self.send(frame, cx);
    }

    fn send(&self, frame: Frame, cx: &mut Cx<'_>) {
        if self.connected {
            cx.out.push(VolumeAction::Send(frame));
        }
    }

    fn complete(&mut self, ticket: Ticket, verdict: Verdict, cx: &mut Cx<'_>) {
        let Some(open) = self.calls[ticket.0 as usize].take() else { return };
        self.free.push(ticket.0);
        let answer = match verdict {
            Verdict::AsApplied if !open.failed => CallAnswer::Done,
            Verdict::AsApplied | Verdict::LocalFailure => CallAnswer::Failed,
            Verdict::Fenced => CallAnswer::Refused,
        };
        cx.out.push(VolumeAction::Answer { id: open.id, answer });
    }

    fn list(&mut self, restart: bool, cx: &mut Cx<'_>) {
        const LIST_MAX: u64 = 16;
        if restart {
            self.listed = 0;
        }
        let end = (self.listed + LIST_MAX).min(cx.config.regions);
        let items = (self.listed..end).map(MarkId).collect();
        self.listed = end;
        let last = end == cx.config.regions;
        self.input(SourceInput::Resync(ResyncInput::Items { items, last }), cx);
    }

    fn copy(&mut self, item: MarkId, cx: &mut Cx<'_>) {
        let places: Vec<u64> = (0..cx.config.region_blocks).collect();
        self.start_reads(item, true, &places, cx);
    }

    fn start_reads(&mut self, item: MarkId, comparing: bool, places: &[u64], cx: &mut Cx<'_>) {
        self.last_copy += 1;
        let copy = self.last_copy;
        let blocks = BTreeMap::new();
        self.copies.insert(copy, Copy { item, comparing, reads: places.len(), blocks });
        for place in places.iter().copied() {
            let block = item.0 * cx.config.region_blocks + place;
            cx.source_disk(Job::Read { copy, place }, DiskOp::Read(block));
        }
    }

    fn read(&mut self, id: u64, place: u64, done: &DiskDone, cx: &mut Cx<'_>) {
        let Some(copy) = self.copies.get_mut(&id) else { return };
        let DiskDone::Block(content) = done else {
            self.copies.remove(&id);
            let error = "input/output error".into();
            self.input(SourceInput::Resync(ResyncInput::Failed { error }), cx);
            return;
        };
        copy.blocks.insert(place, *content);
        copy.reads -= 1;
        if copy.reads > 0 {
            return;
        }
        let Copy { item, comparing, blocks, .. } = copy.clone();
        if comparing {
            let digests: Vec<u64> = blocks.values().map(digest).collect();
            self.send_step(item, Step::compare(&digests), 0, cx);
            return;
        }
        self.copies.remove(&id);
        let blocks: Vec<(u64, Block)> = blocks.into_iter().collect();
        let bytes = 4_096 * blocks.len() as u32;
        self.send_step(item, Step::copy(&blocks), bytes, cx);
        self.copied(item, u64::from(bytes), cx);
    }

    fn send_step(&mut self, item: MarkId, step: Step, bytes: u32, cx: &mut Cx<'_>) {
        self.step = Some(step);
        self.input(SourceInput::Resync(ResyncInput::Step { item, bytes }), cx);
        self.step = None;
    }

    fn answered(&mut self, item: MarkId, places: &[u64], cx: &mut Cx<'_>) {
        let compared = self.copies.iter().find(|(_, copy)| copy.item == item && copy.comparing);
        let Some(id) = compared.map(|(id, _)| *id) else { return };
        self.copies.remove(&id);
        if places.is_empty() {
            self.copied(item, 0, cx);
        } else {
            self.start_reads(item, false, places, cx);
        }
    }

    fn copied(&mut self, item: MarkId, bytes_copied: u64, cx: &mut Cx<'_>) {
        let bytes_compared = cx.config.region_blocks * 4_096;
        let done = ResyncInput::Done { item, bytes_compared, bytes_copied };
        self.input(SourceInput::Resync(done), cx);
    }
}

impl Cx<'_> {
    fn source_disk(&mut self, job: Job, op: DiskOp) {
        let life = self.life;
        self.disk(super::Job::Source { life, job }, op);
    }
}

/// What stands for a block's content in a comparison.
pub(super) fn digest(block: &Block) -> u64 {
    block.0.iter().fold(0, |sum, sector| mix(sum ^ mix(*sector)).wrapping_add(1))
}
