//! Carries out what the target machine orders.

use std::collections::VecDeque;

use havre_core::{
    ids::{NodeId, OpId, Seq},
    machine::{Machine, Out},
    replication::{
        intent::MarkId,
        stream::{Element, ItemKey, MARKS_PER_MESSAGE_MAX, ToSource, ToTarget},
        target::{ElementKind, Target, TargetAction, TargetInput, TargetOrder, TargetState},
    },
    time::Instant,
};

use super::{
    Cx, Frame, VolumeAction,
    frame::{self, Work},
    source::digest,
};
use crate::disk::{Block, DiskDone, DiskOp};

/// Why the target side ordered a disk operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Job {
    /// A write of the element that is being carried out.
    Write,
    /// A read for its comparison, at this position.
    Read { place: u64 },
    /// [`TargetAction::SyncAll`].
    Sync,
}

/// The element that is being carried out.
#[derive(Debug, Clone)]
struct Current {
    seq: Seq,
    left: usize,
    error: Option<String>,
    /// For a comparison: the item, the source's digests, the positions that differ.
    comparison: Option<(MarkId, Vec<u64>, Vec<u64>)>,
}

/// The target machine and what it has under way.
pub(super) struct TargetSide {
    pub(super) machine: Target,
    peer: NodeId,
    out: Out<TargetAction>,
    /// Elements that wait for their turn to be carried out.
    arrived: VecDeque<(Seq, Element, Vec<Block>)>,
    /// Whether the element that has just arrived is to be carried out.
    ordered: bool,
    current: Option<Current>,
    connected: bool,
}

impl TargetSide {
    pub(super) fn new(machine: Target, peer: NodeId) -> Self {
        Self {
            machine,
            peer,
            out: Out::new(),
            arrived: VecDeque::new(),
            ordered: false,
            current: None,
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

    pub(super) fn input(&mut self, input: TargetInput, cx: &mut Cx<'_>) {
        match &input {
            TargetInput::Connected => self.connected = true,
            TargetInput::Disconnected { .. } => self.connected = false,
            _ => {}
        }
        self.machine.handle(cx.now, input, &mut self.out);
        self.perform(cx);
    }

    pub(super) fn order(&mut self, op: OpId, order: TargetOrder, cx: &mut Cx<'_>) {
        self.input(TargetInput::Order { op, order }, cx);
    }

    pub(super) fn frame(&mut self, frame: Frame, cx: &mut Cx<'_>) {
        let Frame::ToTarget(message, blocks) = frame else { return };
        if !self.connected {
            return;
        }
        match message {
            ToTarget::Element { seq, element } => {
                let kind = ElementKind::from(&element);
                self.ordered = false;
                self.input(TargetInput::Received { seq, kind }, cx);
                // What is not ordered was a repetition or came out of turn.
                if self.ordered {
                    self.arrived.push_back((seq, element, blocks));
                }
                self.carry_on(cx);
            }
            message => self.input(TargetInput::Message(message), cx),
        }
        self.input(TargetInput::BatchEnd, cx);
    }

    pub(super) fn disk_done(&mut self, job: Job, done: DiskDone, cx: &mut Cx<'_>) {
        let error = match &done {
            DiskDone::Failed(error) => Some(error.to_string()),
            _ => None,
        };
        if job == Job::Sync {
            self.input(TargetInput::Synced { ok: error.is_none() }, cx);
            return;
        }
        let Some(current) = &mut self.current else { return };
        current.error = current.error.take().or(error);
        current.left -= 1;
        if let (Job::Read { place }, DiskDone::Block(content)) = (job, &done)
            && let Some((_, digests, differing)) = &mut current.comparison
            && digests.get(place as usize) != Some(&digest(content))
        {
            differing.push(place);
        }
        if current.left == 0 {
            self.finish_current(cx);
            self.carry_on(cx);
        }
    }

    fn finish_current(&mut self, cx: &mut Cx<'_>) {
        let Some(Current { seq, error, comparison, .. }) = self.current.take() else { return };
        if let (Some((item, _, mut differing)), None) = (comparison, &error) {
            differing.sort_unstable();
            let body = frame::answer_body(&differing);
            self.send(ToSource::Answer { item: frame::key(item), body }, cx);
        }
        let result = error.map_or(Ok(()), Err);
        self.input(TargetInput::Applied { seq, result }, cx);
    }

    /// Carries out the next element whose turn it is.
    fn carry_on(&mut self, cx: &mut Cx<'_>) {
        if self.machine.state() == TargetState::Failed {
            self.arrived.clear();
        }
        while self.current.is_none() {
            let Some((seq, element, blocks)) = self.arrived.pop_front() else { return };
            self.begin(seq, &element, &blocks, cx);
        }
    }

    fn begin(&mut self, seq: Seq, element: &Element, blocks: &[Block], cx: &mut Cx<'_>) {
        let config = cx.config;
        let work = frame::work(element, blocks, config.region_blocks, config.regions);
        let mut current = Current { seq, left: 0, error: None, comparison: None };
        match work {
            None => current.error = Some("the element cannot be understood".into()),
            Some(Work::Nothing) => {}
            Some(Work::Write(writes)) => {
                current.left = writes.len();
                for (block, content) in writes {
                    cx.target_disk(Job::Write, DiskOp::Write(block, content));
                }
            }
            // What is read may be cached only: everything is to be written again.
            Some(Work::Compare(region, digests)) if *cx.distrusts_cache => {
                let all = (0..config.region_blocks).collect();
                current.comparison = Some((MarkId(region), digests, all));
            }
            Some(Work::Compare(region, digests)) => {
                current.left = config.region_blocks as usize;
                current.comparison = Some((MarkId(region), digests, Vec::new()));
                for place in 0..config.region_blocks {
                    let block = region * config.region_blocks + place;
                    cx.target_disk(Job::Read { place }, DiskOp::Read(block));
                }
            }
        }
        let at_once = current.left == 0;
        self.current = Some(current);
        if at_once {
            self.finish_current(cx);
        }
    }

    fn perform(&mut self, cx: &mut Cx<'_>) {
        let mut out = std::mem::take(&mut self.out);
        for action in out.drain() {
            self.perform_one(action, cx);
        }
        self.out = out;
    }

    fn perform_one(&mut self, action: TargetAction, cx: &mut Cx<'_>) {
        match action {
            TargetAction::Connect => cx.out.push(VolumeAction::Connect { peer: self.peer }),
            TargetAction::Disconnect => {
                self.connected = false;
                cx.out.push(VolumeAction::Disconnect);
            }
            TargetAction::Send(message) => self.send(message, cx),
            TargetAction::SendMarks => self.send_marks(cx),
            TargetAction::ForgetMarks => {
                let marks: Vec<MarkId> = cx.marks.iter().copied().collect();
                cx.clear_marks(marks);
            }
            TargetAction::Apply { .. } => self.ordered = true,
            TargetAction::SyncAll => cx.target_disk(Job::Sync, DiskOp::Flush),
            TargetAction::News(news) => {
                if matches!(news, havre_core::effect::VolumeNews::CaughtUp { .. }) {
                    // Whatever might have been cached only has been written and flushed again.
                    *cx.distrusts_cache = false;
                }
                cx.out.push(VolumeAction::News(news));
            }
            TargetAction::Finished { outcome, .. } => *cx.finished = Some(outcome),
        }
    }

    fn send(&self, message: ToSource, cx: &mut Cx<'_>) {
        if self.connected {
            cx.out.push(VolumeAction::Send(Frame::ToSource(message)));
        }
    }

    fn send_marks(&self, cx: &mut Cx<'_>) {
        let everything = cx.marks.contains(&MarkId::EVERYTHING);
        let items: Vec<ItemKey> = cx
            .marks
            .iter()
            .filter(|mark| **mark != MarkId::EVERYTHING)
            .map(|mark| frame::key(*mark))
            .collect();
        for chunk in items.chunks(MARKS_PER_MESSAGE_MAX) {
            let items = chunk.to_vec();
            self.send(ToSource::Marks { items, everything, last: false }, cx);
        }
        self.send(ToSource::Marks { items: Vec::new(), everything, last: true }, cx);
    }
}

impl Cx<'_> {
    fn target_disk(&mut self, job: Job, op: DiskOp) {
        let life = self.life;
        self.disk(super::Job::Target { life, job }, op);
    }
}
