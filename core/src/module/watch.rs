//! Between a module's kind (mirror or farm) and its checks: facts one way, calls the other.
//!
//! The kind tells nothing by itself: after each step it is looked at ([`Watchable::facts`]), and
//! what has changed goes to the checks. Routes only; the loop that carries things around is
//! bounded.

use crate::{
    checks::{
        self, Call, Checks, Order,
        checker::Classes,
        record::ChecksRecord,
        resource::{ResourceName, ResourceState},
        rules::RuleAction,
        settings::Settings,
    },
    config::module::ModuleConfig,
    effect::{Answer, Effect, ModuleOrder, Outcome},
    ids::{CheckerId, ModuleId, OpId, RequestId},
    machine::{Machine, Out},
    status::{ModuleStatus, WaitReason},
    time::Instant,
};

/// Rounds of facts and calls that one step may cause before it is a bug of ours.
const ROUNDS_MAX: u32 = 100;
/// Heartbeat networks that have a resource.
pub const LINKS_MAX: usize = 64;

/// What the checks must know of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Facts {
    /// Which classes run.
    pub classes: Classes,
    /// Whether it has a role: anything but STOP and WAIT.
    pub running: bool,
    /// Whether another node is heard.
    pub peer_heard: bool,
    /// Whether the copy is up to date; `None` if nothing is replicated.
    pub up_to_date: Option<bool>,
    /// Which heartbeat networks carry heartbeats, a bit each.
    pub links_up: u64,
    /// A start script failed, and what follows is waited for.
    pub start_failed: Option<&'static str>,
}

/// What the checks tell a kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// Do this, or refuse if it makes no sense now.
    Called(Call),
    /// Stay in WAIT for this reason; `None`: the checks have nothing against going on.
    Held(Option<WaitReason>),
    /// Position of the switch `failover`.
    Failover(bool),
    /// Whether a started module must be let go before it leaves WAIT.
    Holds(bool),
}

/// A kind of module that is watched.
pub trait Watchable {
    /// What the checks must know.
    fn facts(&self) -> Facts;
    /// Takes what the checks say.
    fn told(&mut self, now: Instant, told: Told, out: &mut Out<Effect>);
}

/// What reaches the checks from outside.
#[derive(Debug, Clone)]
pub enum Input {
    /// A watch reports.
    Checked(CheckerId, checks::probe::Finding),
    /// An administrator or a script asks for something about checks.
    Asked(RequestId, Order),
    /// A detector outside orders something.
    Detected(RequestId, ModuleOrder, String),
    /// A module on the same node.
    Neighbour(String, bool, u64),
}

/// The checks of a module, and what they were last told of it.
#[derive(Debug, Clone)]
pub struct Watch {
    checks: Checks,
    links: Vec<ResourceName>,
    told: Facts,
    starts: u64,
}

impl Watch {
    /// Makes the checks of a module; `links` are the names of its heartbeat networks.
    pub fn new(
        (id, name, config): (ModuleId, &str, &ModuleConfig),
        links: &[String],
        record: ChecksRecord,
        now: Instant,
    ) -> Self {
        let checks = Checks::new(id, Settings::new(name, config), record, now);
        let links = links.iter().take(LINKS_MAX);
        let links = links.map(|link| ResourceName::new("heartbeat", link)).collect();
        Self { checks, links, told: Facts::default(), starts: 0 }
    }

    /// Tells a kind that was just made what outlives restarts.
    pub fn introduce(&self, now: Instant, kind: &mut impl Watchable) {
        kind.told(now, Told::Holds(self.checks.holds()), &mut Out::new());
        if let Some(on) = self.checks.record().switches.failover {
            // It has no consequence before the module is started.
            kind.told(now, Told::Failover(on), &mut Out::new());
        }
    }

    /// Takes new settings while the module runs.
    pub fn configure(
        &mut self,
        now: Instant,
        (name, config): (&str, &ModuleConfig),
        links: &[String],
        kind: &mut impl Watchable,
        out: &mut Out<Effect>,
    ) {
        let mut actions = Out::new();
        self.checks.configure(now, Settings::new(name, config), &mut actions);
        self.carry_out(now, actions, kind, out);
        let links = links.iter().take(LINKS_MAX);
        self.links = links.map(|link| ResourceName::new("heartbeat", link)).collect();
        kind.told(now, Told::Holds(self.checks.holds()), out);
        // Everything is news to the new checks, except that the application was started.
        let starts = self.starts;
        self.told = Facts::default();
        self.settle(now, kind, out);
        self.starts = starts;
    }

    /// States of the resources that travel in heartbeats.
    pub fn exported(&self) -> Vec<ResourceState> {
        self.checks.exported()
    }

    /// Modules of this node at which a checker looks.
    pub fn neighbours(&self) -> impl Iterator<Item = &str> {
        self.checks.neighbours()
    }

    /// How often the application was started in this run of the daemon.
    pub fn starts(&self) -> u64 {
        self.starts
    }

    /// Adds what the checks know to the picture of a module.
    pub fn complete(&self, now: Instant, status: &mut ModuleStatus) {
        status.starts = self.starts;
        status.checks = self.checks.status(now);
    }

    /// Whether an order is one of the checks.
    pub fn owns(op: OpId) -> bool {
        Checks::owns(op)
    }

    /// Takes a fact from outside.
    pub fn handle(
        &mut self,
        now: Instant,
        input: Input,
        kind: &mut impl Watchable,
        out: &mut Out<Effect>,
    ) {
        let input = match input {
            Input::Checked(id, finding) => checks::Input::Checked(id, finding),
            Input::Asked(request, order) => checks::Input::Asked(request, order),
            Input::Neighbour(name, ready, starts) => checks::Input::Neighbour(name, ready, starts),
            Input::Detected(request, order, detector) => {
                let (answer, action) = match order {
                    ModuleOrder::Restart => (Answer::Accepted, Some(RuleAction::Restart)),
                    ModuleOrder::StopStart => (Answer::Accepted, Some(RuleAction::StopStart)),
                    ModuleOrder::Stop => (Answer::Accepted, Some(RuleAction::Stop)),
                    ModuleOrder::Swap => (Answer::Accepted, Some(RuleAction::Swap)),
                    _ => {
                        let text = "-i goes with restart, stopstart, stop and swap";
                        (Answer::Refused(text.to_owned()), None)
                    }
                };
                out.push(Effect::Answer { request, answer });
                let Some(action) = action else { return };
                checks::Input::Detected(action, detector)
            }
        };
        self.tell(now, input, kind, out);
        self.settle(now, kind, out);
    }

    /// An order of the checks was carried out.
    pub fn completed(
        &mut self,
        now: Instant,
        (op, outcome): (OpId, Outcome),
        kind: &mut impl Watchable,
        out: &mut Out<Effect>,
    ) {
        self.tell(now, checks::Input::Completed(op, outcome), kind, out);
        self.settle(now, kind, out);
    }

    /// The peer says how it sees the resources that travel.
    pub fn peer_says(
        &mut self,
        now: Instant,
        states: Vec<ResourceState>,
        kind: &mut impl Watchable,
        out: &mut Out<Effect>,
    ) {
        if !states.is_empty() {
            self.tell(now, checks::Input::PeerResources(states), kind, out);
        }
    }

    /// An administrator ordered something.
    pub fn administered(&mut self, now: Instant, kind: &mut impl Watchable, out: &mut Out<Effect>) {
        self.tell(now, checks::Input::Administered, kind, out);
    }

    /// Lets time pass.
    pub fn handle_timeout(
        &mut self,
        now: Instant,
        kind: &mut impl Watchable,
        out: &mut Out<Effect>,
    ) {
        if self.deadline().is_some_and(|at| now >= at) {
            let mut actions = Out::new();
            self.checks.handle_timeout(now, &mut actions);
            self.carry_out(now, actions, kind, out);
            self.settle(now, kind, out);
        }
    }

    /// When time matters next.
    pub fn deadline(&self) -> Option<Instant> {
        self.checks.deadline()
    }

    /// Tells the checks what has changed in the kind, until nothing changes any more.
    pub fn settle(&mut self, now: Instant, kind: &mut impl Watchable, out: &mut Out<Effect>) {
        let mut rounds = 0;
        loop {
            let facts = kind.facts();
            let told = std::mem::replace(&mut self.told, facts);
            if facts == told {
                return;
            }
            rounds += 1;
            assert!(rounds <= ROUNDS_MAX, "a module and its checks settle after few rounds");
            for input in self.news(told, facts) {
                self.tell(now, input, kind, out);
            }
        }
    }

    fn news(&mut self, before: Facts, after: Facts) -> Vec<checks::Input> {
        let mut news = Vec::new();
        let state = |up: bool| if up { ResourceState::Up } else { ResourceState::Down };
        if before.peer_heard != after.peer_heard {
            news.push(checks::Input::PeerHeard(after.peer_heard));
        }
        for (bit, name) in self.links.iter().enumerate() {
            let up = |facts: Facts| facts.links_up >> bit & 1 == 1;
            if up(before) != up(after) {
                news.push(checks::Input::Component(name.clone(), state(up(after))));
            }
        }
        if let Some(up) = after.up_to_date.filter(|_| before.up_to_date != after.up_to_date) {
            let name = ResourceName::new("rfs", "uptodate");
            news.push(checks::Input::Component(name, state(up)));
        }
        let started = |classes: Classes| classes.prim || classes.both;
        if started(after.classes) && !started(before.classes) {
            self.starts += 1;
        }
        if (before.classes, before.running) != (after.classes, after.running) {
            let (classes, running) = (after.classes, after.running);
            news.push(checks::Input::Posture { classes, running });
        }
        if let Some(script) = after.start_failed.filter(|_| before.start_failed.is_none()) {
            news.push(checks::Input::StartFailed(script));
        }
        news
    }

    fn tell(
        &mut self,
        now: Instant,
        input: checks::Input,
        kind: &mut impl Watchable,
        out: &mut Out<Effect>,
    ) {
        let mut actions = Out::new();
        self.checks.handle(now, input, &mut actions);
        self.carry_out(now, actions, kind, out);
    }

    fn carry_out(
        &mut self,
        now: Instant,
        mut actions: Out<checks::Action>,
        kind: &mut impl Watchable,
        out: &mut Out<Effect>,
    ) {
        for action in actions.drain() {
            match action {
                checks::Action::Effect(effect) => out.push(effect),
                checks::Action::Call(call) => kind.told(now, Told::Called(call), out),
                checks::Action::Hold(reason) => kind.told(now, Told::Held(reason), out),
                checks::Action::Failover(on) => kind.told(now, Told::Failover(on), out),
            }
        }
    }
}
