//! Copying items beside the application: a helper thread reads and compares, the loop ships.
//!
//! The thread sees the target through a [`Link`] whose steps go to the loop, which gives each its
//! place in the stream; answers come back through a channel. A bounded number of payload bytes is
//! under way. Cancelling closes the channels: the thread's current item ends, nothing is reported.

use std::{
    collections::{HashMap, VecDeque},
    io,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, Sender, SyncSender, channel, sync_channel},
    },
};

use havre_core::replication::{
    intent::MarkId,
    item::{Answer, Item, Step},
    source::{ENUMERATE_MAX, ResyncInput, SourceInput},
};

use super::SourceSide;
use crate::{
    volume::{
        helper::Helper,
        place::Places,
        resync::{Copier, Link, Stop, Tally, Walk},
    },
    waker::Waker,
};

/// A step of a resynchronisation and its payload, as they travel.
type EncodedStep = (Vec<u8>, Vec<u8>);

/// Steps made and not yet taken by the loop.
const STEPS_MAX: usize = 8;

/// What the thread reports.
pub(in crate::volume) struct Report {
    round: u64,
    what: What,
}

enum What {
    Step { item: MarkId, body: Vec<u8>, payload: Vec<u8> },
    Done { item: MarkId, tally: Tally },
    Failed { error: String },
    Items { items: Vec<Item>, last: bool },
}

/// Channels of one round: from its first item until it is cancelled.
struct Round {
    steps: Receiver<Report>,
    sender: SyncSender<Report>,
    answers: Sender<Answer>,
    incoming: Arc<Mutex<Receiver<Answer>>>,
    hinted: bool,
}

impl Round {
    fn new() -> Self {
        let (sender, steps) = sync_channel(STEPS_MAX);
        let (answers, incoming) = channel();
        Self { steps, sender, answers, incoming: Arc::new(Mutex::new(incoming)), hinted: false }
    }
}

/// The thread, and what it has made.
pub(super) struct Copying {
    helper: Helper<Report>,
    copier: Arc<Mutex<Copier>>,
    walk: Arc<Mutex<Walk>>,
    waker: Arc<Waker>,
    number: u64,
    round: Round,
    ready: HashMap<MarkId, VecDeque<EncodedStep>>,
}

struct ToLoop {
    item: MarkId,
    round: u64,
    sender: SyncSender<Report>,
    answers: Arc<Mutex<Receiver<Answer>>>,
    waker: Arc<Waker>,
}

impl Link for ToLoop {
    fn send(&mut self, step: &Step, payload: &[u8]) -> Result<(), Stop> {
        let what = What::Step { item: self.item, body: step.encode(), payload: payload.to_vec() };
        self.waker.wake();
        let report = Report { round: self.round, what };
        let sent = self.sender.send(report).map_err(|_| Stop::Cancelled);
        self.waker.wake();
        sent
    }

    fn ask(&mut self, step: &Step) -> Result<Answer, Stop> {
        self.send(step, &[])?;
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.recv().map_err(|_| Stop::Cancelled)
    }
}

impl Copying {
    pub(super) fn new(places: Places, waker: &Arc<Waker>) -> io::Result<Self> {
        Ok(Self {
            helper: Helper::start("havre-resync", Arc::clone(waker))?,
            walk: Arc::new(Mutex::new(Walk::default())),
            copier: Arc::new(Mutex::new(Copier::new(places))),
            waker: Arc::clone(waker),
            number: 0,
            round: Round::new(),
            ready: HashMap::new(),
        })
    }

    /// Ends the round without a report.
    pub(super) fn cancel(&mut self) {
        self.number += 1;
        self.round = Round::new();
        self.ready.clear();
    }

    /// Hands the target's answer to the thread.
    pub(super) fn answer(&self, answer: Answer) {
        // A thread that has ended its round wants no answer.
        let _ = self.round.answers.send(answer);
    }

    /// Takes the next step of an item that is to be shipped.
    pub(super) fn step_for(&mut self, item: MarkId) -> Option<(Vec<u8>, Vec<u8>)> {
        let steps = self.ready.get_mut(&item)?;
        let step = steps.pop_front();
        if steps.is_empty() {
            self.ready.remove(&item);
        }
        step
    }

    fn copy(&mut self, id: MarkId, item: Item, hints: impl FnOnce() -> Vec<Step>) {
        let hints = if self.round.hinted { Vec::new() } else { hints() };
        self.round.hinted = true;
        let mut link = ToLoop {
            item: id,
            round: self.number,
            sender: self.round.sender.clone(),
            answers: Arc::clone(&self.round.incoming),
            waker: Arc::clone(&self.waker),
        };
        let copier = Arc::clone(&self.copier);
        self.helper.run(move |_| {
            let mut copier = copier.lock().unwrap_or_else(PoisonError::into_inner);
            let copied = hints
                .iter()
                .try_for_each(|hint| link.send(hint, &[]))
                .and_then(|()| copier.copy(&item, &mut link));
            let what = match copied {
                Ok(tally) => What::Done { item: id, tally },
                Err(Stop::Cancelled) => return,
                Err(error) => What::Failed { error: error.to_string() },
            };
            // The loop may have cancelled meanwhile.
            let _ = link.sender.send(Report { round: link.round, what });
        });
    }

    pub(super) fn enumerate(&mut self, restart: bool) {
        let (copier, walk) = (Arc::clone(&self.copier), Arc::clone(&self.walk));
        let (round, sender) = (self.number, self.round.sender.clone());
        self.helper.run(move |_| {
            let mut copier = copier.lock().unwrap_or_else(PoisonError::into_inner);
            let mut walk = walk.lock().unwrap_or_else(PoisonError::into_inner);
            if restart {
                *walk = Walk::new(copier.places());
            }
            let what = match walk.next(copier.places(), ENUMERATE_MAX) {
                Ok(items) => {
                    let last = items.len() < ENUMERATE_MAX;
                    What::Items { items, last }
                }
                Err(error) => What::Failed { error: error.to_string() },
            };
            let _ = sender.send(Report { round, what });
        });
    }

    pub(super) fn report(&mut self) -> Option<Report> {
        // Of an earlier round nothing can be here: its channel is gone.
        self.round.steps.try_recv().ok()
    }
}

impl SourceSide {
    pub(super) fn copy_item(&mut self, id: MarkId) {
        let Some(item) = self.table.item(id).cloned() else {
            let done = ResyncInput::Done { item: id, bytes_compared: 0, bytes_copied: 0 };
            return self.input(SourceInput::Resync(done));
        };
        let table = &self.table;
        self.copying.copy(id, item, || table.hints());
    }

    pub(super) fn copied(&mut self, report: Report) {
        if report.round != self.copying.number {
            return;
        }
        let input = match report.what {
            What::Step { item, body, payload } => {
                let bytes = u32::try_from(payload.len()).unwrap_or(u32::MAX);
                self.copying.ready.entry(item).or_default().push_back((body, payload));
                ResyncInput::Step { item, bytes }
            }
            What::Done { item, tally } => ResyncInput::Done {
                item,
                bytes_compared: tally.compared,
                bytes_copied: tally.copied,
            },
            What::Failed { error } => ResyncInput::Failed { error },
            What::Items { items, last } => {
                let items = items.into_iter().map(|item| self.table.id(item)).collect();
                ResyncInput::Items { items, last }
            }
        };
        self.input(SourceInput::Resync(input));
    }
}
