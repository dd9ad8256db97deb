//! The one loop that drives a node: a fact or the deadline, one step of the machine, then the
//! orders it gave.
//!
//! ```text
//!  sockets ──open──┐                       ┌── Send ── (durable first?) ── seal ── sockets
//!  inbox ──────────┼─ input ─> machine ─> ─┼── Persist, Volume, Address ── one after the other
//!  ended orders ───┘            ^          ├── RunScript, KillScripts, Ping ── at once
//!                            deadline      └── Answer, Notify
//! ```
//! When the loop wakes it first takes everything that has arrived and only then lets the machine
//! act on the passing of time: a node that was starved or stopped must not believe its peer dead
//! while its heartbeats sit in the socket.

mod held;
mod inbox;
mod lanes;
mod rejections;

use std::{collections::BTreeMap, rc::Rc};

use havre_core::{
    effect::{Answer, Effect, Input, Outcome, VolumeRequest},
    event::{Event, EventKind},
    ids::{Incarnation, NodeId, OpId, RequestId},
    machine::{Machine, Out},
    time::Instant,
};
use tokio::{
    sync::oneshot,
    task::{JoinError, JoinSet},
};
use tracing::{debug, trace};

pub use self::inbox::{AgentGone, Inbox, Letters, inbox};
pub(crate) use self::rejections::Rejections;
use self::{
    held::Held,
    inbox::Letter,
    lanes::{Lane, Lanes},
};
use crate::{
    net::{Datagram, Net, Peers},
    os::Os,
    seal::Sealer,
};

/// Datagrams and letters taken on one waking before the machine may act on the time.
const TAKEN_PER_WAKING_MAX: usize = 4096;

/// What an agent needs besides its machine and its two leaves.
#[derive(Debug)]
pub struct AgentConfig {
    /// This run of the daemon.
    pub incarnation: Incarnation,
    /// Where the other members listen.
    pub peers: Peers,
    /// Seals and opens datagrams.
    pub sealer: Sealer,
}

/// The agent of one node.
struct Agent<M, N, O> {
    machine: M,
    net: N,
    os: Rc<O>,
    peers: Peers,
    sealer: Sealer,
    letters: Letters,
    out: Out<Effect>,
    asked: BTreeMap<RequestId, oneshot::Sender<Answer>>,
    next_request: RequestId,
    held: Held,
    lanes: Lanes,
    orders: JoinSet<(OpId, Option<Lane>, Outcome)>,
    rejections: Rejections,
}

/// Runs a node until [`Inbox::stop`] is called or every [`Inbox`] is gone.
///
/// Must run inside a `tokio::task::LocalSet`. Orders that are still under way are dropped.
///
/// # Errors
/// The durable records cannot be read.
pub async fn run<M, N, O>(
    machine: M,
    net: N,
    os: Rc<O>,
    config: AgentConfig,
    letters: Letters,
) -> Result<(), String>
where
    M: Machine<Input = Input, Action = Effect>,
    N: Net,
    O: Os,
{
    let saved = os.load().await?;
    let mut agent = Agent {
        machine,
        net,
        os,
        peers: config.peers,
        sealer: config.sealer,
        letters,
        out: Out::new(),
        asked: BTreeMap::new(),
        next_request: RequestId(1),
        held: Held::default(),
        lanes: Lanes::default(),
        orders: JoinSet::new(),
        rejections: Rejections::default(),
    };
    let now = agent.os.now();
    agent.step(now, Input::Booted { incarnation: config.incarnation, saved });
    while agent.turn().await {}
    // What orders hold of the operating system is free when this returns.
    agent.orders.shutdown().await;
    Ok(())
}

/// What woke the loop.
enum Woken {
    Ended(Result<(OpId, Option<Lane>, Outcome), JoinError>),
    Datagram(Datagram),
    Letter(Option<Letter>),
    Time,
}

impl<M, N, O> Agent<M, N, O>
where
    M: Machine<Input = Input, Action = Effect>,
    N: Net,
    O: Os,
{
    /// One waking; false if the agent is to end.
    async fn turn(&mut self) -> bool {
        let woken = self.wait().await;
        // One pass through the scheduler lets the sockets' readiness be seen before the clock is
        // believed.
        let now = self.os.now();
        tokio::task::yield_now().await;
        let goes_on = match woken {
            Woken::Ended(ended) => self.ended(now, ended),
            Woken::Datagram(datagram) => self.received(now, &datagram),
            Woken::Letter(letter) => self.read(now, letter),
            Woken::Time => true,
        };
        if !goes_on || !self.take_arrived(now) {
            return false;
        }
        if self.machine.deadline().is_some_and(|deadline| deadline <= now) {
            self.os.journal(now, None);
            self.machine.handle_timeout(now, &mut self.out);
            self.perform(now);
        }
        if let Some(report) = self.rejections.report(now) {
            self.os.notify(&Event { module: None, kind: EventKind::Failure(report) });
        }
        true
    }

    async fn wait(&mut self) -> Woken {
        let deadline = self.machine.deadline();
        let deadline = havre_core::machine::earliest(deadline, self.rejections.deadline());
        let os = &self.os;
        tokio::select! {
            biased;
            Some(ended) = self.orders.join_next() => Woken::Ended(ended),
            datagram = self.net.receive() => Woken::Datagram(datagram),
            letter = self.letters.next() => Woken::Letter(letter),
            () = os.sleep_until(deadline.unwrap_or(Instant::FAR_FUTURE)), if deadline.is_some() => {
                Woken::Time
            }
        }
    }

    /// Takes everything that has already arrived; false if the agent is to end.
    fn take_arrived(&mut self, now: Instant) -> bool {
        let mut goes_on = true;
        for _ in 0..TAKEN_PER_WAKING_MAX {
            if let Some(ended) = self.orders.try_join_next() {
                goes_on &= self.ended(now, ended);
            } else if let Some(datagram) = self.net.try_receive() {
                goes_on &= self.received(now, &datagram);
            } else if let Some(letter) = self.letters.try_next() {
                goes_on &= self.read(now, Some(letter));
            } else {
                break;
            }
        }
        goes_on
    }

    fn step(&mut self, now: Instant, input: Input) {
        trace!(%now, ?input, "input");
        self.os.journal(now, Some(&input));
        self.machine.handle(now, input, &mut self.out);
        self.perform(now);
    }

    fn ended(
        &mut self,
        now: Instant,
        ended: Result<(OpId, Option<Lane>, Outcome), JoinError>,
    ) -> bool {
        let (op, lane, outcome) = match ended {
            Ok(ended) => ended,
            // An order's code broke an invariant: the daemon must end as if it had itself.
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => return true,
            },
        };
        if let Some(effect) = lane.and_then(|lane| self.lanes.ended(lane)) {
            self.start(effect);
        }
        let durable = outcome == Outcome::Done;
        for (to, route, message) in self.held.settle(op, durable) {
            self.send(now, to, route, &message);
        }
        self.step(now, Input::Completed { op, outcome });
        true
    }

    fn received(&mut self, now: Instant, datagram: &Datagram) -> bool {
        match self.sealer.open(&datagram.bytes) {
            Ok((from, message)) => {
                let link = datagram.link;
                self.step(now, Input::Received { from, link, message });
            }
            Err(reason) => {
                debug!(from = %datagram.from, link = %datagram.link, %reason, "datagram refused");
                self.rejections.count(now, reason, datagram.from);
            }
        }
        true
    }

    fn read(&mut self, now: Instant, letter: Option<Letter>) -> bool {
        match letter {
            Some(Letter::Ask { command, answer }) => {
                let request = self.next_request;
                self.next_request = request.next();
                self.asked.insert(request, answer);
                self.step(now, Input::Asked { request, command });
                true
            }
            Some(Letter::Volume { module, news }) => {
                self.step(now, Input::Volume { module, news });
                true
            }
            Some(Letter::Filter { module, news }) => {
                self.step(now, Input::Filter { module, news });
                true
            }
            Some(Letter::Checked { module, checker, finding }) => {
                self.step(now, Input::Checked { module, checker, finding });
                true
            }
            Some(Letter::Stop) | None => false,
        }
    }

    /// Carries out the orders of the last step.
    fn perform(&mut self, now: Instant) {
        let orders: Vec<Effect> = self.out.drain().collect();
        for effect in &orders {
            if let Effect::Persist { op, .. } = effect {
                self.held.expect(*op);
            }
        }
        for effect in orders {
            match effect {
                Effect::Send { to, route, message, after } => {
                    if let Some(send) = self.held.admit(after, (to, route, message)) {
                        self.send(now, send.0, send.1, &send.2);
                    }
                }
                Effect::Answer { request, answer } => {
                    if let Some(asker) = self.asked.remove(&request) {
                        // An asker that has gone away does not want the answer.
                        let _ = asker.send(answer);
                    }
                }
                Effect::Notify(event) => {
                    self.os.notify(&event);
                    self.letters.tell();
                }
                Effect::Guard { module, until } => self.os.guard(module, until),
                Effect::Watch { module, checker, what } => self.os.watch(module, checker, what),
                Effect::Unwatch { module, checker } => self.os.unwatch(module, checker),
                Effect::Reboot { module } => self.os.reboot(module),
                other => {
                    for void in self.lanes.withdrawn_by(&other) {
                        self.end(&void, "it was removed before that".into());
                    }
                    if let Some(effect) = self.lanes.admit(other) {
                        self.start(effect);
                    }
                }
            }
        }
    }

    fn send(
        &mut self,
        now: Instant,
        to: NodeId,
        route: havre_core::effect::Route,
        message: &havre_core::wire::message::Message,
    ) {
        trace!(%now, %to, ?route, ?message, "send");
        for (link, address) in self.peers.along(to, route) {
            match self.sealer.seal(to, message) {
                Ok(bytes) => self.net.send(link, address, &bytes),
                Err(error) => {
                    let kind = EventKind::Failure(error.to_string());
                    self.os.notify(&Event { module: None, kind });
                    return;
                }
            }
        }
    }

    /// Reports that an order has failed before it began.
    fn end(&mut self, effect: &Effect, reason: String) {
        let Some(op) = op_of(effect) else { return };
        self.orders.spawn_local(async move { (op, None, Outcome::Failed(reason)) });
    }

    /// Begins an order whose turn has come; its end comes back through `orders`.
    fn start(&mut self, effect: Effect) {
        let lane = Lane::of(&effect);
        let os = Rc::clone(&self.os);
        let Some(op) = op_of(&effect) else { return };
        self.orders.spawn_local(async move { (op, lane, carry_out(&*os, effect).await) });
    }
}

fn op_of(effect: &Effect) -> Option<OpId> {
    match effect {
        Effect::Persist { op, .. }
        | Effect::Volume { op, .. }
        | Effect::RunScript { op, .. }
        | Effect::KillScripts { op, .. }
        | Effect::Address { op, .. }
        | Effect::Filter { op, .. }
        | Effect::Probe { op, .. }
        | Effect::Ping { op, .. } => Some(*op),
        Effect::Send { .. }
        | Effect::Answer { .. }
        | Effect::Notify(_)
        | Effect::Watch { .. }
        | Effect::Unwatch { .. }
        | Effect::Reboot { .. }
        | Effect::Guard { .. } => None,
    }
}

async fn carry_out<O: Os>(os: &O, effect: Effect) -> Outcome {
    match effect {
        Effect::Persist { record, .. } => os.persist(record).await,
        Effect::Volume { module, request, .. } => os.volume(module, request).await,
        Effect::RunScript { module, call, .. } => {
            Outcome::Script(os.run_script(module, call).await)
        }
        Effect::KillScripts { module, .. } => os.kill_scripts(module).await,
        Effect::Address { module, request, .. } => os.address(module, request).await,
        Effect::Filter { module, request, .. } => os.filter(module, request).await,
        Effect::Ping { targets, limit, .. } => Outcome::Reached(os.ping(targets, limit).await),
        Effect::Probe { module, checker, what, limit, .. } => {
            Outcome::Probed(os.probe(module, checker, what, limit).await)
        }
        Effect::Send { .. }
        | Effect::Answer { .. }
        | Effect::Notify(_)
        | Effect::Watch { .. }
        | Effect::Unwatch { .. }
        | Effect::Reboot { .. }
        | Effect::Guard { .. } => Outcome::Done,
    }
}

/// Whether an order to a data path must not wait for earlier ones.
pub(crate) fn overtakes(request: &VolumeRequest) -> bool {
    matches!(request, VolumeRequest::Fence)
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
