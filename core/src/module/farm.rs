//! A farm module on one node, or a light one: runs the application and takes its share of the
//! clients.
//!
//! ```text
//!           start              scripts ran, filter and address stand
//!  Stopped ------> Starting ------> Waiting ------> Rising ------> Up <-----> Restarting
//!     ^                |              ^   |            |            |              |
//!     +---- stop ------+------ Stopping <-+------------+------------+--------------+
//! ```
//! Nodes do not depend on each other: the start or stop of one changes the shares of the others
//! only. Who is alive is [`membership`](crate::membership)'s concern, who leads and shares
//! [`election`](crate::farm::election)'s, who owns which bucket [`buckets`](crate::farm::buckets)',
//! what the filter is told [`shares`]'.
//!
//! A daemon that starts and finds the application of its last run goes on with it. A node whose
//! daemon slept for longer than the others wait takes nothing until it has heard them again: its
//! filter closed by itself at [`FilterTable::until`](crate::farm::table::FilterTable::until).
//! Source: reference safekit.md section 4.

mod call;
mod order;
mod procedure;
mod roster;
mod settings;
mod shares;
mod step;
mod view;

use crate::{
    checks::Call,
    effect::{AddressRequest, Effect, ModuleOrder, ModuleRecord},
    event::{Actor, Event, EventKind},
    farm::{
        election::{self, View},
        table::{FilterNews, FilterRequest},
    },
    ids::{ModuleId, NodeId},
    machine::{Machine, Out, earliest},
    membership::link::Heard,
    module::{
        Input,
        record::{Keeper, Ops},
        sequence::Sequence,
    },
    mutant::{self, Mutant},
    status::{Drain, Phase, State, WaitReason},
    time::Instant,
};

pub use self::settings::Settings;
use self::{
    procedure::Shape,
    roster::Roster,
    shares::{Shares, Terms},
};

/// Period at which a waiting module looks again.
const EVALUATE_PERIOD: std::time::Duration = std::time::Duration::from_millis(250);
/// Pause before what the operating system refused is tried again.
const RETRY_PERIOD: std::time::Duration = std::time::Duration::from_secs(5);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Mode {
    Stopped,
    Starting,
    Waiting(WaitReason),
    Rising,
    Up,
    Restarting,
    Stopping,
}

/// Kinds of mode, for the table of transitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "explained in the state diagram of this file")]
pub enum ModeKind {
    Stopped,
    Starting,
    Waiting,
    Rising,
    Up,
    Restarting,
    Stopping,
}

/// Every transition that can happen; any other is a bug of ours.
pub const TRANSITIONS: &[(ModeKind, &[ModeKind])] = {
    use ModeKind::{Restarting, Rising, Starting, Stopped, Stopping, Up, Waiting};
    &[
        (Stopped, &[Starting]),
        (Starting, &[Waiting, Stopping]),
        (Waiting, &[Waiting, Rising, Stopping]),
        (Rising, &[Up, Stopping]),
        (Up, &[Restarting, Stopping]),
        (Restarting, &[Up, Stopping]),
        (Stopping, &[Stopped, Waiting, Stopping, Rising]),
    ]
};

impl Mode {
    fn kind(&self) -> ModeKind {
        match self {
            Self::Stopped => ModeKind::Stopped,
            Self::Starting => ModeKind::Starting,
            Self::Waiting(_) => ModeKind::Waiting,
            Self::Rising => ModeKind::Rising,
            Self::Up => ModeKind::Up,
            Self::Restarting => ModeKind::Restarting,
            Self::Stopping => ModeKind::Stopping,
        }
    }
}

/// What waits for the sequence under way to end.
#[derive(Debug, Clone)]
enum Pending {
    Order(ModuleOrder),
    Call(Call),
}

/// What a change of the record is for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Purpose {
    Step,
}

/// One farm module on one node.
#[derive(Debug, Clone)]
pub struct Farm {
    settings: Settings,
    mode: Mode,
    keeper: Keeper<Purpose>,
    ops: Ops,
    sequence: Option<Sequence>,
    pending: Option<Pending>,
    /// The checks must let a started module go before it leaves WAIT.
    holds: bool,
    /// Why the checks keep this module in WAIT.
    held: Option<WaitReason>,
    /// Only these services are restarted at present.
    services: Option<String>,
    /// The start script that failed, while what follows is waited for.
    halted: Option<&'static str>,
    roster: Roster,
    shares: Shares,
    view: View,
    /// The application runs, and traffic may come.
    open: bool,
    drain: Drain,
    /// Stop when the last connection has ended.
    drain_stops: bool,
    connections: u32,
    /// Until when this node listens before it may lead, or take what a member that it has not
    /// heard yet might be taking; `None`: it has listened.
    listening: Option<Instant>,
    /// Until when the word of a silent leader stands.
    hold: Option<Instant>,
    /// When the others count this node as lost unless it is heard again.
    until: Option<Instant>,
    /// When this node last woke up after the others had counted it as lost: what was said before
    /// that may still lie in its sockets.
    awake_since: Option<Instant>,
    /// The filter does not know yet that this node was counted as lost.
    lapsed: bool,
    /// What the filter does is known; until then an earlier run's table may stand, and this node
    /// keeps silent about the farm.
    known: bool,
    evaluate_at: Option<Instant>,
    start_after_cleaning: Option<bool>,
    address_held: bool,
    address_retries: u32,
    application: bool,
    guarded: bool,
    told_shares: Vec<u16>,
    told_open: bool,
    reason: String,
    since: Instant,
    /// Something that the filter's table is made of has changed.
    stale: bool,
}

impl Farm {
    /// Takes settings that differ only in what may change while the module runs.
    pub fn configure(
        &mut self,
        module: (ModuleId, &crate::module::ModuleSetup),
        (cluster, node): (&crate::config::cluster::ClusterConfig, NodeId),
    ) {
        self.settings = Settings::new(module, cluster, node);
    }

    /// Makes a stopped module from what is durable.
    pub fn new(settings: Settings, record: (ModuleId, ModuleRecord), now: Instant) -> Self {
        Self {
            mode: Mode::Stopping,
            keeper: Keeper::new(record.0, record.1),
            ops: Ops::new(settings.module),
            sequence: None,
            pending: None,
            holds: false,
            held: None,
            services: None,
            halted: None,
            roster: Roster::new(&settings),
            shares: Shares::new(&settings),
            view: View::default(),
            open: false,
            drain: Drain::No,
            drain_stops: false,
            connections: 0,
            listening: Some(now + settings.follower_timeout),
            hold: None,
            until: None,
            awake_since: None,
            lapsed: false,
            known: !settings.filtered(),
            evaluate_at: None,
            start_after_cleaning: None,
            address_held: false,
            address_retries: 0,
            application: false,
            guarded: false,
            told_shares: vec![0; settings.groups.len()],
            told_open: false,
            reason: "not started yet".to_owned(),
            since: now,
            stale: true,
            settings,
        }
    }

    /// Notes that every other member was sent a heartbeat at `sent` or later.
    pub fn announced(&mut self, sent: Instant, out: &mut Out<Effect>) {
        if self.roster.peers.is_empty() || !self.settings.filtered() || self.lapsed {
            return;
        }
        // A sixteenth is room for clocks that run apart and for the filter's own delay.
        let until = sent + self.settings.follower_timeout * 15 / 16;
        if self.until.is_some_and(|known| known >= until) {
            return;
        }
        self.until = Some(until);
        if self.shares.table().is_some() && !mutant::active(Mutant::FarmNeverExpires) {
            let (op, module) = (self.ops.take(), self.settings.module);
            let request = FilterRequest::Extend { until };
            out.push(Effect::Filter { op, module, request });
        }
    }

    fn shape(&self) -> Shape {
        Shape { script_control: self.settings.script_control }
    }

    fn notify(&self, kind: EventKind, out: &mut Out<Effect>) {
        out.push(Effect::Notify(Event { module: Some(self.settings.module), kind }));
    }

    /// The only place where the mode changes.
    fn transition(&mut self, now: Instant, to: Mode, reason: &str, out: &mut Out<Effect>) {
        let allowed = TRANSITIONS
            .iter()
            .any(|(from, tos)| *from == self.mode.kind() && tos.contains(&to.kind()));
        let from = self.mode.kind();
        assert!(allowed, "only listed transitions happen: {from:?} to {:?} ({reason})", to.kind());
        let before = self.shown();
        self.mode = to;
        self.evaluate_at = None;
        if let Mode::Waiting(wait) = &self.mode {
            let refused = matches!(wait, WaitReason::Address(_));
            self.evaluate_at = Some(now + if refused { RETRY_PERIOD } else { EVALUATE_PERIOD });
            if *wait != WaitReason::Transition {
                self.notify(EventKind::Waiting(wait.clone()), out);
            }
        }
        let after = self.shown();
        if before != after {
            self.since = now;
            self.reason = reason.to_owned();
            let kind = EventKind::StateChanged { from: before, to: after, reason: reason.into() };
            self.notify(kind, out);
        }
    }

    fn booted(&mut self, now: Instant, start: bool, running: bool, out: &mut Out<Effect>) {
        if running && self.settings.own.is_some() {
            self.guarded = true;
            self.application = true;
            self.shares.hold_everything();
            self.transition(now, Mode::Rising, "the daemon was restarted", out);
            return self.begin(now, procedure::resume(), out);
        }
        self.start_after_cleaning = Some(start);
        self.begin(now, procedure::clean(), out);
    }

    fn heard(
        &mut self,
        now: Instant,
        from: (NodeId, crate::ids::LinkId),
        heard: Heard,
        beat: Option<crate::wire::message::FarmBeat>,
        out: &mut Out<Effect>,
    ) {
        let Heard::Fresh { latest, echo, .. } = heard else { return };
        let Some(beat) = beat else { return };
        let old = |awake| echo.is_none_or(|echo| echo.sent < awake);
        if self.awake_since.is_some_and(old) {
            return;
        }
        let mut events = Vec::new();
        self.stale |= self.roster.heard(now, from, latest.then_some(beat), &mut events);
        events.into_iter().for_each(|kind| self.notify(kind, out));
    }

    /// A node whose daemon was asleep for longer than the others wait was counted as lost: it
    /// takes nothing until it has heard them again.
    fn wake(&mut self, now: Instant) {
        if self.until.is_some_and(|until| now >= until) {
            self.until = None;
            self.awake_since = Some(now);
            self.lapsed = true;
            self.view = View::default();
            self.hold = None;
            self.roster.forget();
            self.listening = Some(now + self.settings.follower_timeout);
            self.stale = true;
        }
    }

    /// Who leads and who shares, after whatever has happened.
    fn elect(&mut self, now: Instant, out: &mut Out<Effect>) {
        let Some(slot) = self.settings.own else { return };
        let silent = |leader| leader != slot && !self.roster.is_alive(leader);
        let lost = self.view.leader.is_some_and(silent);
        if !lost {
            self.hold = None;
        } else if self.hold.is_none()
            && self.settings.leader_timeout > self.settings.follower_timeout
        {
            self.hold = Some(now + (self.settings.leader_timeout - self.settings.follower_timeout));
        }
        let own = election::Own {
            slot,
            ready: self.open,
            draining: self.drain != Drain::No,
            listened: self.listening.is_none(),
            leader: self.view.leader,
            sharing: self.view.sharing,
            holds: self.hold.is_some_and(|hold| now < hold),
        };
        let mut view = election::elect(own, &self.roster.candidates());
        let known = self.view.sharing;
        if mutant::active(Mutant::FarmForgetsReturned) && known.len() > 1 {
            view.sharing = view.sharing.intersection(known);
        }
        if view == self.view {
            return;
        }
        let leads = view.leader == Some(slot) && self.view.leader != Some(slot);
        self.view = view;
        self.stale = true;
        let node = |slot| self.settings.node_at(slot);
        let members = view.sharing.iter().filter_map(node).collect();
        self.notify(EventKind::FarmChanged { leader: view.leader.and_then(node), members }, out);
        if leads && self.settings.directed() && self.address_held {
            let (op, module) = (self.ops.take(), self.settings.module);
            let request = AddressRequest::Announce(self.settings.addresses());
            out.push(Effect::Address { op, module, request });
        }
    }

    /// Tells the filter what has changed, one change after the other.
    fn refresh(&mut self, out: &mut Out<Effect>) {
        if !self.stale || self.shares.busy() || self.shares.table().is_none() {
            return;
        }
        self.stale = false;
        self.lapsed = false;
        self.order_filter(out);
    }

    /// Orders the table that the present view makes, if it is another one.
    fn order_filter(&mut self, out: &mut Out<Effect>) -> Option<crate::ids::OpId> {
        let terms = Terms {
            open: self.open,
            listened: self.listening.is_none(),
            draining: self.drain != Drain::No,
            until: self.until.filter(|_| !mutant::active(Mutant::FarmNeverExpires)),
        };
        let table = self.shares.due(&self.settings, self.view, &self.roster, terms)?;
        let (op, module) = (self.ops.take(), self.settings.module);
        let request = FilterRequest::Set(self.shares.ordered(op, table, self.view));
        out.push(Effect::Filter { op, module, request });
        Some(op)
    }

    fn filter_news(&mut self, now: Instant, news: FilterNews, out: &mut Out<Effect>) {
        match news {
            FilterNews::Connections { table, established, foreign } => {
                self.connections = established;
                self.stale |= self.shares.looked(table, &foreign);
                let current = self.shares.table().is_some_and(|known| known.number == table);
                let emptied = established == 0 && current && !self.shares.takes();
                if self.drain == Drain::Under && emptied && !self.shares.busy() {
                    self.drain = Drain::Done;
                    self.notify(EventKind::Drained, out);
                    if std::mem::take(&mut self.drain_stops) {
                        self.obey(now, ModuleOrder::Stop, Actor::Automatic, out);
                    }
                }
            }
            FilterNews::Failed { error } => self.unfiltered(now, error, out),
        }
    }

    /// A module that waits may go on; one that serves may have to wait.
    fn evaluate(&mut self, now: Instant, out: &mut Out<Effect>) {
        if self.sequence.is_some() {
            return;
        }
        let differs = self.held.clone().or_else(|| self.conflict());
        match (&self.mode, differs) {
            (Mode::Waiting(WaitReason::Address(_)), _) if self.evaluate_at.is_some() => {}
            (Mode::Waiting(known), Some(reason)) if *known == reason => {}
            (Mode::Waiting(_), Some(reason)) => {
                let text = reason.to_string();
                self.transition(now, Mode::Waiting(reason), &text, out);
            }
            (Mode::Waiting(_), None) => {
                self.transition(now, Mode::Rising, "start", out);
                self.begin(now, procedure::up(self.shape()), out);
            }
            (Mode::Up, Some(reason)) => {
                self.stop_to(now, &crate::module::procedure::After::Wait(reason), out);
            }
            _ => {}
        }
    }

    /// Nodes with different configurations must not both serve: the side with the lowest node does.
    fn conflict(&self) -> Option<WaitReason> {
        let (stranger, remote) = self.roster.stranger()?;
        if mutant::active(Mutant::FarmCountsAnyConfiguration) {
            return None;
        }
        let own = self.settings.own?;
        let lowest = self.view.sharing.with(own).iter().next();
        let ours = lowest.and_then(|slot| self.settings.node_at(slot));
        let yields = self.mode != Mode::Up || ours > Some(stranger);
        let local = self.settings.signature;
        yields.then_some(WaitReason::ConfigurationDiffers { local, remote })
    }

    /// Everything that follows from what has just happened.
    fn settle(&mut self, now: Instant, out: &mut Out<Effect>) {
        self.elect(now, out);
        self.evaluate(now, out);
        self.elect(now, out);
        self.refresh(out);
        self.tell(out);
        let running = self.application || !matches!(self.mode, Mode::Stopped | Mode::Waiting(_));
        if running != self.guarded && self.start_after_cleaning.is_none() {
            self.guarded = running;
            let until = running.then_some(Instant::FAR_FUTURE);
            out.push(Effect::Guard { module: self.settings.module, until });
        }
    }

    /// News of shares and of the traffic.
    fn tell(&mut self, out: &mut Out<Effect>) {
        let shares: Vec<u16> =
            (0..self.settings.groups.len()).map(|group| self.share(group)).collect();
        for (index, share) in shares.iter().enumerate() {
            if self.told_shares[index] != *share {
                let group = self.settings.groups[index].0.clone();
                self.notify(EventKind::ShareChanged { group, share: *share }, out);
            }
        }
        self.told_shares = shares;
        let open = self.takes();
        if std::mem::replace(&mut self.told_open, open) != open {
            self.notify(EventKind::TrafficChanged { open }, out);
        }
    }

    /// Role and colour.
    pub fn shown(&self) -> (State, Phase) {
        match &self.mode {
            Mode::Stopped => (State::Stop, Phase::NotReady),
            Mode::Starting | Mode::Stopping | Mode::Waiting(WaitReason::Transition) => {
                (State::Wait, Phase::Transient)
            }
            Mode::Waiting(_) => (State::Wait, Phase::NotReady),
            Mode::Rising | Mode::Restarting => (State::Up, Phase::Transient),
            Mode::Up => (State::Up, Phase::Ready),
        }
    }
}

impl Machine for Farm {
    type Input = Input;
    type Action = Effect;

    fn handle(&mut self, now: Instant, input: Input, out: &mut Out<Effect>) {
        self.wake(now);
        match input {
            Input::Booted { start, running } => self.booted(now, start, running.is_some(), out),
            Input::Started => {
                if self.mode == Mode::Stopped {
                    self.obey(now, ModuleOrder::Start, Actor::Boot, out);
                }
            }
            Input::HeardFarm { from, link, heard, beat } => {
                self.heard(now, (from, link), heard, beat, out);
            }
            Input::Ordered(request, order) => self.ordered(now, request, order, out),
            Input::Completed(op, outcome) => self.completed(now, op, outcome, out),
            Input::Filter(news) => self.filter_news(now, news, out),
            // What belongs to a mirror.
            Input::Heard { .. }
            | Input::Claimed(_)
            | Input::ClaimAnswered { .. }
            | Input::WitnessAnswered(_)
            | Input::Volume(_)
            // What concerns the checks goes to them.
            | Input::Watch(_) => {}
        }
        self.settle(now, out);
    }

    fn handle_timeout(&mut self, now: Instant, out: &mut Out<Effect>) {
        if self.deadline().is_none_or(|at| now < at) {
            return;
        }
        self.wake(now);
        let mut events = Vec::new();
        self.stale |= self.roster.handle_timeout(now, &mut events);
        events.into_iter().for_each(|kind| self.notify(kind, out));
        let listened = self.listening.take_if(|at| now >= *at).is_some();
        self.stale |= listened;
        self.evaluate_at = self.evaluate_at.filter(|at| now < *at);
        self.settle(now, out);
        self.hold = self.hold.filter(|at| now < *at);
        if matches!(self.mode, Mode::Waiting(_)) && self.evaluate_at.is_none() {
            self.evaluate_at = Some(now + EVALUATE_PERIOD);
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let waits = earliest(self.listening, self.evaluate_at);
        let members = earliest(self.roster.deadline(), self.hold);
        earliest(earliest(waits, members), self.until)
    }
}
