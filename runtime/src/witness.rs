//! The witness process: one UDP port, any number of clusters, durable records, and the core's
//! [`Witness`] machine which decides.
//!
//! A datagram names its cluster in clear; it is opened with that cluster's key only. An answer
//! leaves after its record is durable (the machine sees to that), towards the address from which
//! the question came.

pub mod disk;

use std::{collections::BTreeMap, net::SocketAddr, rc::Rc};

use havre_core::{
    effect::WitnessRecord,
    ids::{ClusterId, LinkId, ModuleId, NodeId, OpId},
    machine::{Machine, Out, earliest},
    quorum::witness::{Action, Input, Witness},
    time::Instant,
    wire::{frame::Header, message::Message},
};
use tokio::task::JoinSet;
use tracing::{debug, trace, warn};

use crate::{
    agent::Rejections,
    net::{Datagram, Net},
    seal::{Rejected, Sealer},
};

/// A module of a cluster.
pub type Key = (ClusterId, ModuleId);

/// Datagrams taken on one waking before the machine may act on the time.
const TAKEN_PER_WAKING_MAX: usize = 4096;

/// What the witness asks of the operating system.
#[expect(async_fn_in_trait, reason = "the witness is single-threaded: futures need not be Send")]
pub trait WitnessOs: 'static {
    /// The present moment on this machine's boot clock, time asleep included.
    fn now(&self) -> Instant;

    /// Returns at `deadline` or a little later; early is harmless.
    async fn sleep_until(&self, deadline: Instant) {
        tokio::time::sleep(deadline.since(self.now())).await;
    }

    /// Reads every record. Called once.
    ///
    /// # Errors
    /// They cannot be read; the text says why and what to do. The witness does not start: an
    /// arbiter that forgets what it promised must not go on.
    async fn load(&self) -> Result<BTreeMap<Key, WitnessRecord>, String>;

    /// Makes a record durable; whether it is.
    async fn persist(&self, key: Key, record: WitnessRecord) -> bool;
}

struct Process<N, O> {
    machine: Witness<Key>,
    net: N,
    os: Rc<O>,
    clusters: BTreeMap<ClusterId, Sealer>,
    /// Where each node was heard last.
    addresses: BTreeMap<(ClusterId, NodeId), (LinkId, SocketAddr)>,
    records: JoinSet<(OpId, bool)>,
    out: Out<Action<Key>>,
    rejections: Rejections,
}

/// Runs the witness of the given clusters until it is dropped. Must run inside a
/// `tokio::task::LocalSet`.
///
/// # Errors
/// The durable records cannot be read.
pub async fn run<N: Net, O: WitnessOs>(
    net: N,
    os: Rc<O>,
    clusters: impl IntoIterator<Item = Sealer>,
) -> Result<(), String> {
    let saved = os.load().await?;
    let clusters = clusters.into_iter().map(|sealer| (sealer.identity().cluster, sealer));
    let mut process = Process {
        machine: Witness::new(os.now(), saved),
        net,
        os,
        clusters: clusters.collect(),
        addresses: BTreeMap::new(),
        records: JoinSet::new(),
        out: Out::new(),
        rejections: Rejections::default(),
    };
    loop {
        process.turn().await;
    }
}

enum Woken {
    Recorded(OpId, bool),
    Datagram(Datagram),
    Time,
}

impl<N: Net, O: WitnessOs> Process<N, O> {
    async fn turn(&mut self) {
        let woken = self.wait().await;
        let now = self.os.now();
        match woken {
            Woken::Recorded(op, ok) => self.step(now, Input::Persisted { op, ok }),
            Woken::Datagram(datagram) => self.received(now, &datagram),
            Woken::Time => {}
        }
        for _ in 0..TAKEN_PER_WAKING_MAX {
            let Some(datagram) = self.net.try_receive() else { break };
            self.received(now, &datagram);
        }
        if self.machine.deadline().is_some_and(|deadline| deadline <= now) {
            self.machine.handle_timeout(now, &mut self.out);
            self.perform();
        }
        if let Some(report) = self.rejections.report(now) {
            warn!("{report}");
        }
    }

    async fn wait(&mut self) -> Woken {
        let deadline = earliest(self.machine.deadline(), self.rejections.deadline());
        let os = &self.os;
        tokio::select! {
            biased;
            Some(ended) = self.records.join_next() => match ended {
                Ok((op, ok)) => Woken::Recorded(op, ok),
                Err(error) => match error.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    Err(_) => Woken::Time,
                },
            },
            datagram = self.net.receive() => Woken::Datagram(datagram),
            () = os.sleep_until(deadline.unwrap_or(Instant::FAR_FUTURE)), if deadline.is_some() => {
                Woken::Time
            }
        }
    }

    fn received(&mut self, now: Instant, datagram: &Datagram) {
        match self.open(datagram) {
            Ok((cluster, from, message)) => {
                self.addresses.insert((cluster, from), (datagram.link, datagram.from));
                let Message::Witness { module, request } = message else { return };
                trace!(%cluster, %from, %module, ?request, "asked");
                self.step(now, Input::Asked { key: (cluster, module), from, request });
            }
            Err(reason) => {
                debug!(from = %datagram.from, %reason, "datagram refused");
                self.rejections.count(now, reason, datagram.from);
            }
        }
    }

    fn open(&mut self, datagram: &Datagram) -> Result<(ClusterId, NodeId, Message), Rejected> {
        let (header, _) = Header::split(&datagram.bytes)?;
        let sealer = self.clusters.get_mut(&header.cluster).ok_or(Rejected::UnknownCluster)?;
        let (from, message) = sealer.open(&datagram.bytes)?;
        Ok((header.cluster, from, message))
    }

    fn step(&mut self, now: Instant, input: Input<Key>) {
        self.machine.handle(now, input, &mut self.out);
        self.perform();
    }

    fn perform(&mut self) {
        let orders: Vec<Action<Key>> = self.out.drain().collect();
        for action in orders {
            match action {
                Action::Persist { op, key, record } => {
                    let os = Rc::clone(&self.os);
                    self.records.spawn_local(async move { (op, os.persist(key, record).await) });
                }
                Action::Reply { key: (cluster, module), to, reply } => {
                    self.send(cluster, to, &Message::WitnessReply { module, reply });
                }
            }
        }
    }

    fn send(&mut self, cluster: ClusterId, to: NodeId, message: &Message) {
        let Some((link, address)) = self.addresses.get(&(cluster, to)).copied() else { return };
        let Some(sealer) = self.clusters.get_mut(&cluster) else { return };
        match sealer.seal(to, message) {
            Ok(bytes) => self.net.send(link, address, &bytes),
            Err(error) => warn!(%cluster, %to, %error, "answer not sent"),
        }
    }
}

#[cfg(test)]
mod tests;
