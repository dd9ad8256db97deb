//! A mirror module on one node: who is primary, when to take over, what to start and stop.
//!
//! ```text
//!              start            decide: follow                  peer in sync
//!    Stopped ---------> Waiting -----------> Secondary   Primary(ALONE) <-----> Primary(PRIM)
//!       ^               |  ^  ^                |   |        ^        |
//!       |        promote|  |  +--- peer gone --+   |takeover|        | stop, swap
//!       |               v  |                       v        |        v
//!       +--- stop --- Acquiring ----- right held -----> Promoting  Stopping --> Waiting | Stopped
//!                                                                    ^
//!                    right lost: Fencing ---------------------------/
//! ```
//!
//! A daemon that starts may find the address and the application of an earlier run: it removes
//! both before it says that it serves nothing, so every run begins in Fencing; or, if it was
//! primary and still may be, it resumes without stopping the application.
//!
//! Decisions that depend on both nodes are pure functions in [`decide`](super::decide); the steps
//! of each transition are data in [`procedure`](super::procedure); the right to run is
//! [`quorum`](crate::quorum)'s, liveness of the peer [`membership`](crate::membership)'s.
//! Source: reference safekit.md sections 3.1 to 3.8.

mod call;
mod claim;
mod order;
mod primary;
mod resume;
mod secondary;
mod settings;
mod step;
mod view;
mod waiting;

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use crate::{
    checks::Call,
    effect::{Effect, ModuleOrder, Outcome, VolumeNews},
    event::{Actor, Event, EventKind},
    ids::{Epoch, ModuleId, NodeId, OpId, RequestId},
    machine::{Out, earliest},
    module::{
        decide::Wish,
        procedure::Shape,
        record::{Keeper, Ops},
        script::Scripts,
        sequence::Sequence,
        watch::Told,
    },
    quorum::{self, policy::Kind},
    replication::generation::Generation,
    rng::Rng,
    status::{KeptAside, Phase, Progress, State, VirtualIp, WaitReason},
    time::Instant,
    wire::message::{Claim, ClaimVerdict, ModuleBeat},
};

/// What a mirror must know beforehand.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The module.
    pub module: ModuleId,
    /// Its name.
    pub name: String,
    /// This node.
    pub node: NodeId,
    /// The peer.
    pub peer: NodeId,
    /// The peer's name.
    pub peer_name: String,
    /// Digest of the configuration.
    pub signature: u64,
    /// Shape of the procedures.
    pub shape: Shape,
    /// Its scripts.
    pub scripts: Scripts,
    /// The virtual addresses.
    pub addresses: Vec<VirtualIp>,
    /// `failover=`.
    pub failover: bool,
    /// `defaultprim=`: this node is the preferred one, or resumes its role.
    pub preferred: Preferred,
    /// Who decides without the peer.
    pub policy: Kind,
    /// Longest silence of the peer.
    pub timeout: Duration,
    /// Period of heartbeats.
    pub pulse: Duration,
}

/// What `defaultprim` means on this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preferred {
    /// Whoever runs stays primary.
    Nobody,
    /// This node takes the role as soon as it is synchronised.
    ThisNode,
    /// This node takes the role back if it had it when it was stopped.
    Last,
}

/// Facts.
#[derive(Debug, Clone)]
pub enum Input {
    /// The daemon started; `start` tells whether the module starts with it.
    Booted {
        /// Start the module.
        start: bool,
        /// An earlier run of the daemon left the application running; the guard ends it then.
        running: Option<Instant>,
    },
    /// The delay of an automatic start is over.
    Started,
    /// The latest heartbeat of the peer.
    Beat(ModuleBeat),
    /// The peer is heard, or not.
    PeerAlive(bool),
    /// The peer asks for consent.
    Claimed(Claim),
    /// An order.
    Ordered(RequestId, ModuleOrder),
    /// News of the right to run.
    Quorum(quorum::Action),
    /// An order of this module was carried out.
    Completed(OpId, Outcome),
    /// News of the data path.
    Volume(VolumeNews),
    /// What the checks say.
    Told(Told),
}

/// Orders.
#[derive(Debug, Clone)]
pub enum Action {
    /// To the outside.
    Effect(Effect),
    /// To the quorum.
    Quorum(quorum::Input),
    /// Answer a claim.
    ClaimAnswer {
        /// The claim.
        nonce: u64,
        /// The answer.
        verdict: ClaimVerdict,
    },
}

/// What a change of the record is for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Purpose {
    Step,
    Consent { nonce: u64 },
    InSync,
    Adopt,
    Solo(Generation),
    Unfit,
    Note,
}

/// What waits for the sequence under way to end.
#[derive(Debug, Clone)]
enum Pending {
    Order(ModuleOrder),
    Call(Call),
}

/// How far the peer's copy is, as the primary sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    Absent,
    Admitted,
    Enlisted,
    InSync,
    Orphaned,
}

/// How far this copy is, as the secondary sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Data {
    Following,
    Adopting,
    Ready,
    /// The data path is cut, but nothing is known to have been acknowledged without this copy.
    Detached,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Mode {
    Stopped,
    Resuming { generation: Option<Generation>, until: Instant },
    Starting,
    Waiting(WaitReason),
    Acquiring { from: State, generation: Generation, by: Actor },
    Promoting,
    Primary { link: Link },
    Restarting { link: Link },
    Joining,
    Secondary { data: Data },
    Stopping,
    Fencing,
}

/// Kinds of mode, for the table of transitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "explained in the state diagram of this file")]
pub enum ModeKind {
    Stopped,
    Resuming,
    Starting,
    Waiting,
    Acquiring,
    Promoting,
    Primary,
    Restarting,
    Joining,
    Secondary,
    Stopping,
    Fencing,
}

/// Every transition that can happen; any other is a bug of ours.
pub const TRANSITIONS: &[(ModeKind, &[ModeKind])] = {
    use ModeKind::{
        Acquiring, Fencing, Joining, Primary, Promoting, Restarting, Resuming, Secondary, Starting,
        Stopped, Stopping, Waiting,
    };
    &[
        (Stopped, &[Starting]),
        (Starting, &[Waiting, Stopping]),
        (Waiting, &[Waiting, Acquiring, Joining, Stopping]),
        (Acquiring, &[Waiting, Promoting, Stopping, Secondary]),
        (Promoting, &[Primary, Stopping, Fencing]),
        (Primary, &[Primary, Restarting, Stopping, Fencing]),
        (Restarting, &[Restarting, Primary, Stopping, Fencing]),
        (Joining, &[Secondary, Stopping]),
        (Secondary, &[Secondary, Joining, Acquiring, Stopping]),
        (Stopping, &[Stopped, Waiting, Starting, Stopping, Fencing]),
        (Fencing, &[Stopping, Stopped, Resuming]),
        (Resuming, &[Resuming, Promoting, Fencing]),
    ]
};

impl Mode {
    fn kind(&self) -> ModeKind {
        match self {
            Self::Stopped => ModeKind::Stopped,
            Self::Resuming { .. } => ModeKind::Resuming,
            Self::Starting => ModeKind::Starting,
            Self::Waiting(_) => ModeKind::Waiting,
            Self::Acquiring { .. } => ModeKind::Acquiring,
            Self::Promoting => ModeKind::Promoting,
            Self::Primary { .. } => ModeKind::Primary,
            Self::Restarting { .. } => ModeKind::Restarting,
            Self::Joining => ModeKind::Joining,
            Self::Secondary { .. } => ModeKind::Secondary,
            Self::Stopping => ModeKind::Stopping,
            Self::Fencing => ModeKind::Fencing,
        }
    }
}

/// What is known of the peer.
#[derive(Debug, Clone, Default)]
struct Peer {
    alive: bool,
    beat: Option<ModuleBeat>,
    shown: Option<(State, Phase)>,
    /// A claim that came before the heartbeat that it must agree with.
    early: Option<Claim>,
}

/// One mirror module on one node.
#[derive(Debug, Clone)]
pub struct Mirror {
    settings: Settings,
    mode: Mode,
    keeper: Keeper<Purpose>,
    ops: Ops,
    rng: Rng,
    peer: Peer,
    /// The role whose stop scripts must run, kept while stopping.
    role: State,
    sequence: Option<Sequence>,
    later: VecDeque<Sequence>,
    pending: Option<Pending>,
    fencing: BTreeSet<OpId>,
    link_op: Option<OpId>,
    wish: Wish,
    full_resync: bool,
    failover_off: bool,
    was_primary_at_start: bool,
    outdated: bool,
    /// The disk of this copy failed: not fit to take over, whatever the durable record says.
    unfit: bool,
    unfit_at: Option<Instant>,
    /// The checks must let a started module go before it leaves WAIT.
    holds: bool,
    /// Why the checks keep this module in WAIT.
    held: Option<WaitReason>,
    /// Only these services are restarted at present.
    services: Option<String>,
    /// The start script that failed, while what follows is waited for.
    halted: Option<&'static str>,
    address_held: bool,
    address_retries: u32,
    /// Why the last attempt to become primary failed, while attempts go on.
    refused: Option<WaitReason>,
    start_after_cleaning: Option<bool>,
    application: bool,
    progress: Option<Progress>,
    kept_aside: Vec<KeptAside>,
    epoch: Option<Epoch>,
    reason: String,
    since: Instant,
    discovering_until: Instant,
    evaluate_at: Option<Instant>,
    follow_at: Option<Instant>,
    admit_at: Instant,
    yield_until: Instant,
    promised_until: Instant,
    swap_until: Option<Instant>,
}

/// Period at which a waiting module looks again.
const EVALUATE_PERIOD: Duration = Duration::from_millis(250);
/// Pause before a secondary connects again to a primary that refused or lost it.
const FOLLOW_PERIOD: Duration = Duration::from_millis(300);
/// How long a swap may wait for the peer to answer.
const SWAP_LIMIT: Duration = Duration::from_secs(20);
/// Attempts to remove an address that the operating system refuses to remove.
const ADDRESS_RETRIES_MAX: u32 = 20;
/// Sequences of notices that may wait for another one to end.
const LATER_MAX: usize = 4;

impl Mirror {
    /// Makes a stopped module from what is durable.
    pub fn new(
        settings: Settings,
        keeper: (ModuleId, crate::effect::ModuleRecord),
        rng: Rng,
        now: Instant,
    ) -> Self {
        Self {
            mode: Mode::Fencing,
            keeper: Keeper::new(keeper.0, keeper.1),
            ops: Ops::new(settings.module),
            rng,
            peer: Peer::default(),
            role: State::Stop,
            sequence: None,
            later: VecDeque::new(),
            pending: None,
            fencing: BTreeSet::new(),
            link_op: None,
            wish: Wish::None,
            full_resync: false,
            failover_off: false,
            was_primary_at_start: false,
            outdated: false,
            unfit: false,
            unfit_at: None,
            holds: false,
            held: None,
            services: None,
            halted: None,
            address_held: false,
            address_retries: 0,
            refused: None,
            start_after_cleaning: None,
            application: false,
            progress: None,
            kept_aside: Vec::new(),
            epoch: None,
            reason: "not started yet".to_owned(),
            since: now,
            discovering_until: now,
            evaluate_at: None,
            follow_at: None,
            admit_at: now,
            yield_until: Instant::ZERO,
            promised_until: Instant::ZERO,
            swap_until: None,
            settings,
        }
    }

    /// Takes one fact.
    pub fn handle(&mut self, now: Instant, input: Input, out: &mut Out<Action>) {
        match input {
            Input::Booted { start, running } => self.booted(now, start, running, out),
            Input::Started => {
                if self.mode == Mode::Stopped {
                    self.start(now, Wish::None, Actor::Boot, out);
                }
            }
            Input::Beat(beat) => self.heard(now, beat, out),
            Input::PeerAlive(alive) => self.peer_alive(now, alive, out),
            Input::Claimed(claim) => self.claimed(now, &claim, out),
            Input::Ordered(request, order) => self.ordered(now, request, order, out),
            Input::Quorum(news) => self.quorum_news(now, news, out),
            Input::Completed(op, outcome) => self.completed(now, op, outcome, out),
            Input::Volume(news) => self.volume_news(now, news, out),
            Input::Told(told) => self.told(now, told, out),
        }
    }

    /// Lets time pass.
    pub fn handle_timeout(&mut self, now: Instant, out: &mut Out<Action>) {
        if self.evaluate_at.is_some_and(|at| now >= at) {
            self.evaluate_at = None;
            self.resume_or_end(now, out);
            self.evaluate(now, out);
        }
        if self.follow_at.is_some_and(|at| now >= at) {
            self.follow_at = None;
            self.follow_again(now, out);
        }
        if self.unfit_at.is_some_and(|at| now >= at) {
            self.record_unfit(now, out);
        }
        if self.swap_until.is_some_and(|at| now >= at) {
            self.swap_until = None;
            self.notify(
                EventKind::Failure(
                    "swap: the other node did not hand over in time; look at its state".to_owned(),
                ),
                out,
            );
        }
    }

    /// When time matters next.
    pub fn deadline(&self) -> Option<Instant> {
        let soon = earliest(self.evaluate_at, self.follow_at);
        earliest(earliest(soon, self.unfit_at), self.swap_until)
    }

    fn notify(&self, kind: EventKind, out: &mut Out<Action>) {
        let event = Event { module: Some(self.settings.module), kind };
        out.push(Action::Effect(Effect::Notify(event)));
    }

    /// The only place where the mode changes.
    fn transition(&mut self, now: Instant, to: Mode, reason: &str, out: &mut Out<Action>) {
        let allowed = TRANSITIONS
            .iter()
            .any(|(from, tos)| *from == self.mode.kind() && tos.contains(&to.kind()));
        assert!(
            allowed,
            "only listed transitions happen: {:?} to {:?} ({reason})",
            self.mode.kind(),
            to.kind()
        );
        let before = self.shown();
        self.mode = to;
        let after = self.shown();
        if let Mode::Waiting(wait) = &self.mode {
            self.evaluate_at = Some(now + EVALUATE_PERIOD);
            let repeated = self.refused.as_ref() == Some(wait);
            if *wait != WaitReason::Transition && !repeated {
                self.notify(EventKind::Waiting(wait.clone()), out);
            }
        }
        if before != after {
            self.since = now;
            self.reason = reason.to_owned();
            self.notify(
                EventKind::StateChanged { from: before, to: after, reason: reason.to_owned() },
                out,
            );
        }
    }

    fn quorum_news(&mut self, now: Instant, news: quorum::Action, out: &mut Out<Action>) {
        match news {
            quorum::Action::Acquired { epoch, recorded } => {
                self.right_held(now, epoch, recorded, out);
            }
            quorum::Action::Refused(refusal) => self.right_refused(now, refusal, out),
            quorum::Action::Committed(generation) => self.committed(now, generation, out),
            quorum::Action::Lost => {
                self.notify(EventKind::RightLost, out);
                self.fence(now, out);
            }
            // Questions to the peer, the witness and other hosts are routed by the module.
            quorum::Action::Claim(_) | quorum::Action::Ask(_) | quorum::Action::Ping => {}
        }
    }

    fn volume_news(&mut self, now: Instant, news: VolumeNews, out: &mut Out<Action>) {
        match news {
            VolumeNews::Progress(progress) => self.progress = Some(progress),
            VolumeNews::CaughtUp { generation, bytes_copied } => {
                self.progress = None;
                self.source_caught_up(now, generation, bytes_copied, out);
                self.target_caught_up(now, generation, bytes_copied, out);
            }
            VolumeNews::PeerLost { reason } => {
                self.progress = None;
                self.lose_secondary(now, &reason, out);
                self.detach(now, &reason, out);
            }
            VolumeNews::Failed { error } => self.volume_failed(now, &error, out),
            VolumeNews::KeptAside(kept) => self.data_kept(kept, out),
        }
    }

    fn data_kept(&mut self, kept: Vec<KeptAside>, out: &mut Out<Action>) {
        for one in &kept {
            if !self.kept_aside.contains(one) {
                self.notify(EventKind::KeptAside(one.clone()), out);
            }
        }
        self.kept_aside = kept;
    }

    fn volume_failed(&mut self, now: Instant, error: &str, out: &mut Out<Action>) {
        self.notify(EventKind::Failure(format!("replicated directory: {error}")), out);
        match self.mode {
            Mode::Promoting | Mode::Primary { .. } | Mode::Restarting { .. } => {
                self.fence(now, out)
            }
            Mode::Joining | Mode::Secondary { .. } => self.copy_failed(now, error, out),
            // On the way from SECOND to ALONE, or out of SECOND.
            Mode::Acquiring { from: State::Second, .. } => {
                self.copy_failed(now, error, out);
                out.push(Action::Quorum(quorum::Input::Release));
                self.give_up(now, State::Second, WaitReason::Volume(error.to_owned()), out);
            }
            Mode::Stopping if self.role == State::Second => self.copy_failed(now, error, out),
            _ => {}
        }
    }

    fn peer_alive(&mut self, now: Instant, alive: bool, out: &mut Out<Action>) {
        self.peer.alive = alive;
        if alive {
            return;
        }
        self.peer.early = None;
        if self.peer.shown.take().is_some() {
            self.notify(EventKind::RemoteChanged { to: None }, out);
        }
        match self.mode {
            Mode::Primary { .. } | Mode::Restarting { .. } => {
                self.lose_secondary(now, "no heartbeat", out);
            }
            Mode::Secondary { .. } => self.primary_gone(now, Actor::NoHeartbeat, out),
            Mode::Waiting(_) => self.evaluate(now, out),
            _ => {}
        }
    }

    fn heard(&mut self, now: Instant, beat: ModuleBeat, out: &mut Out<Action>) {
        let shown = (beat.state, beat.phase);
        if self.peer.shown != Some(shown) {
            self.peer.shown = Some(shown);
            self.notify(EventKind::RemoteChanged { to: Some(shown) }, out);
        }
        self.peer.beat = Some(beat);
        match self.mode {
            Mode::Waiting(_) => self.evaluate(now, out),
            Mode::Acquiring { .. } => self.reconsider_acquiring(now, out),
            Mode::Resuming { .. } => self.resume(now, out),
            Mode::Primary { .. } | Mode::Restarting { .. } => self.secondary_heard(now, out),
            Mode::Secondary { .. } => self.primary_heard(now, out),
            _ => {}
        }
        if let Some(claim) = self.peer.early.take() {
            self.claimed(now, &claim, out);
            self.peer.early = None;
        }
    }

    /// The peer's latest heartbeat, if it is heard.
    fn beat(&self) -> Option<&ModuleBeat> {
        self.peer.beat.as_ref().filter(|_| self.peer.alive)
    }
}
