//! Composition root of one mirror module: membership, quorum and mirror. Routes only.
//!
//! Facts go down, orders come up. A fact may cause orders of one part that are facts of another;
//! the loop that carries them around is bounded.

mod configure;

use std::{net::IpAddr, time::Duration};

use crate::{
    config::cluster::ClusterConfig,
    effect::{Effect, ModuleRecord, Outcome, Route},
    event::{Event, EventKind},
    ids::{Incarnation, LinkId, ModuleId, NodeId, OpId},
    machine::{Machine, Out, earliest},
    membership::{self, Membership, link::Heard},
    module::{
        Input, ModuleSetup,
        mirror::{self, Mirror},
        watch::{Facts, LINKS_MAX, Told, Watchable},
    },
    quorum::{self, Quorum, policy},
    rng::Rng,
    status::{ModuleStatus, Phase, State},
    time::Instant,
    wire::message::{Message, ModuleBeat},
};

/// Orders that one fact may cause within a module before it is a bug of ours.
const ROUTE_STEPS_MAX: u32 = 1_000;
/// How long a ping of the quorum's hosts may take.
const PING_LIMIT: Duration = Duration::from_millis(800);

#[derive(Debug)]
enum Step {
    Membership(membership::Action),
    Quorum(quorum::Action),
    Mirror(mirror::Action),
}

/// One mirror module on one node.
#[derive(Debug, Clone)]
pub struct Pair {
    id: ModuleId,
    peer: NodeId,
    timeout: Duration,
    guarded: Option<Instant>,
    /// When the guard is to be told again, because the peer may be silent for good.
    guard_at: Option<Instant>,
    link_names: Vec<(LinkId, String)>,
    ping_targets: Vec<IpAddr>,
    ping: Option<OpId>,
    pings: u64,
    membership: Membership,
    quorum: Quorum,
    mirror: Mirror,
}

impl Pair {
    /// Makes a module from its configuration and what is durable.
    pub fn new(
        (id, setup): (ModuleId, &ModuleSetup),
        (cluster, node): (&ClusterConfig, NodeId),
        (incarnation, record): (Incarnation, ModuleRecord),
        rng: Rng,
        now: Instant,
    ) -> Self {
        let links: Vec<_> = setup
            .config
            .heart
            .heartbeats
            .iter()
            .filter_map(|h| Some((cluster.lan_named(&h.name)?, h.timing, h.name.clone())))
            .collect();
        let settings = mirror::Settings::new((id, setup), cluster, node);
        let lease = policy::lease_length(settings.timeout);
        let quorum = Quorum::new(
            quorum::Config {
                kind: settings.policy,
                node,
                peer: settings.peer,
                lease,
                attempt: settings.timeout.max(lease * 2),
                resend: (lease / 10).max(Duration::from_millis(5)),
            },
            incarnation,
            now,
        );
        let ping_targets = match &setup.config.quorum {
            crate::config::module::QuorumPolicy::Ping(targets) => targets.clone(),
            _ => Vec::new(),
        };
        Self {
            id,
            peer: settings.peer,
            timeout: settings.timeout,
            guarded: None,
            guard_at: None,
            link_names: links.iter().map(|(id, _, name)| (*id, name.clone())).collect(),
            ping_targets,
            ping: None,
            pings: 0,
            membership: Membership::new(links.into_iter().map(|(id, timing, _)| (id, timing))),
            quorum,
            mirror: Mirror::new(settings, (id, record), rng, now),
        }
    }

    /// What the peer must know.
    pub fn beat(&self) -> ModuleBeat {
        self.mirror.beat_of(self.quorum.wanted())
    }

    /// Role and colour.
    pub fn shown(&self) -> (State, Phase) {
        self.mirror.shown()
    }

    /// The picture of this module.
    pub fn status(&self, now: Instant) -> ModuleStatus {
        let mut status = self.mirror.status(now);
        status.right_until = self.quorum.right_until();
        status.epoch = self.quorum.epoch();
        for peer in &mut status.peers {
            let link =
                |(id, name): &(LinkId, String)| (*id, name.clone(), self.membership.link_up(*id));
            peer.links = self.link_names.iter().map(link).collect();
        }
        status
    }

    /// Tells the guard until when this module may serve here if nothing more is heard of the
    /// daemon: the end of the right to run, and in any case before the peer gives this node up.
    fn guard(&mut self, now: Instant, out: &mut Out<Effect>) {
        // See `expire` for what follows if the daemon is late.
        let until = match (self.mirror.serving(), self.quorum.held()) {
            (true, true) => {
                self.guard_at = Some(now + self.timeout / 8);
                let right = self.quorum.right_until().unwrap_or(Instant::FAR_FUTURE);
                Some(right.min(now + self.timeout * 7 / 8))
            }
            // On the way out, or not yet entitled again: what was said last stands.
            (true, false) => {
                self.guard_at = None;
                return;
            }
            (false, _) => {
                self.guard_at = None;
                None
            }
        };
        let near =
            |told: Instant, until: Instant| until >= told && until.since(told) < self.timeout / 16;
        let settled = match (self.guarded, until) {
            (Some(told), Some(until)) => near(told, until),
            (None, None) => true,
            _ => false,
        };
        if !settled {
            self.guarded = until;
            out.push(Effect::Guard { module: self.id, until });
        }
    }

    /// A daemon that was asleep for too long finds that its guard has acted, or is about to: what
    /// it believed to be running is gone.
    fn expire(&mut self, now: Instant, out: &mut Out<Effect>) {
        let acted = self.guarded.is_some_and(|until| now >= until);
        if acted && self.quorum.held() && self.mirror.serving() {
            let mut steps = self.tell_quorum(now, quorum::Input::Release);
            steps.extend(self.tell_mirror(now, mirror::Input::Quorum(quorum::Action::Lost)));
            self.route(now, steps, out);
        }
    }

    /// Whether the witness answered lately; `None` if none is used.
    pub fn witness_seen(&self, now: Instant) -> Option<bool> {
        self.quorum.witness_seen(now)
    }

    fn route(&mut self, now: Instant, steps: Vec<Step>, out: &mut Out<Effect>) {
        let mut queue = std::collections::VecDeque::from(steps);
        let mut routed = 0;
        while let Some(step) = queue.pop_front() {
            routed += 1;
            assert!(routed <= ROUTE_STEPS_MAX, "parts of a module settle after few steps");
            let next = match step {
                Step::Membership(action) => self.membership_said(now, action, out),
                Step::Quorum(action) => self.quorum_said(now, action, out),
                Step::Mirror(action) => self.mirror_said(now, action, out),
            };
            // What one order causes comes before what was ordered later.
            next.into_iter().rev().for_each(|step| queue.push_front(step));
        }
    }

    fn tell_mirror(&mut self, now: Instant, input: mirror::Input) -> Vec<Step> {
        let mut actions = Out::new();
        self.mirror.handle(now, input, &mut actions);
        actions.drain().map(Step::Mirror).collect()
    }

    fn tell_quorum(&mut self, now: Instant, input: quorum::Input) -> Vec<Step> {
        let mut actions = Out::new();
        self.quorum.handle(now, input, &mut actions);
        actions.drain().map(Step::Quorum).collect()
    }

    fn tell_membership(&mut self, now: Instant, input: membership::Input) -> Vec<Step> {
        let mut actions = Out::new();
        self.membership.handle(now, input, &mut actions);
        actions.drain().map(Step::Membership).collect()
    }

    fn membership_said(
        &mut self,
        now: Instant,
        action: membership::Action,
        out: &mut Out<Effect>,
    ) -> Vec<Step> {
        let alive = match action {
            membership::Action::LinkChanged { link, up } => {
                let name = self.link_names.iter().find(|(id, _)| *id == link);
                let link = name.map_or_else(String::new, |(_, name)| name.clone());
                let kind = EventKind::LinkChanged { peer: self.peer, link, up };
                out.push(Effect::Notify(Event { module: Some(self.id), kind }));
                if up {
                    self.mirror.announce(out);
                }
                return Vec::new();
            }
            membership::Action::PeerAlive => true,
            membership::Action::PeerSilent => false,
        };
        let mut steps = self.tell_quorum(now, quorum::Input::PeerAlive(alive));
        steps.extend(self.tell_mirror(now, mirror::Input::PeerAlive(alive)));
        steps
    }

    fn quorum_said(
        &mut self,
        now: Instant,
        action: quorum::Action,
        out: &mut Out<Effect>,
    ) -> Vec<Step> {
        let (to, message) = match action {
            quorum::Action::Claim(claim) => (self.peer, Message::Claim { module: self.id, claim }),
            quorum::Action::Ask(request) => {
                (NodeId::WITNESS, Message::Witness { module: self.id, request })
            }
            quorum::Action::Ping => {
                // Numbered from the top, so as not to meet the mirror's numbers.
                self.pings += 1;
                let op = OpId(u64::from(self.id.0) << 48 | 1 << 47 | self.pings);
                self.ping = Some(op);
                let targets = self.ping_targets.clone();
                out.push(Effect::Ping { op, targets, limit: PING_LIMIT });
                return Vec::new();
            }
            news => return self.tell_mirror(now, mirror::Input::Quorum(news)),
        };
        out.push(Effect::Send { to, route: Route::All, message, after: None });
        Vec::new()
    }

    fn mirror_said(
        &mut self,
        now: Instant,
        action: mirror::Action,
        out: &mut Out<Effect>,
    ) -> Vec<Step> {
        match action {
            mirror::Action::Effect(effect) => {
                out.push(effect);
                Vec::new()
            }
            mirror::Action::Quorum(input) => self.tell_quorum(now, input),
            mirror::Action::ClaimAnswer { nonce, verdict } => {
                let message = Message::ClaimReply { module: self.id, nonce, verdict };
                out.push(Effect::Send { to: self.peer, route: Route::All, message, after: None });
                Vec::new()
            }
        }
    }

    fn heard(
        &mut self,
        now: Instant,
        link: LinkId,
        heard: Heard,
        beat: Option<ModuleBeat>,
        out: &mut Out<Effect>,
    ) {
        let (Heard::Fresh { latest, echo, .. }, Some(beat)) = (heard, beat) else { return };
        let steps = self.tell_membership(now, membership::Input::Heard(link));
        self.route(now, steps, out);
        if !latest {
            return;
        }
        if beat.serving {
            let steps = self.tell_quorum(now, quorum::Input::PeerServing);
            self.route(now, steps, out);
        }
        if let Some(echo) = echo.filter(|_| beat.backing) {
            let steps = self.tell_quorum(now, quorum::Input::Backed(echo.sent));
            self.route(now, steps, out);
        }
        let steps = self.tell_mirror(now, mirror::Input::Beat(beat));
        self.route(now, steps, out);
    }
}

impl Watchable for Pair {
    fn facts(&self) -> Facts {
        let links = self.link_names.iter().take(LINKS_MAX).enumerate();
        let up = links.filter(|(_, (link, _))| self.membership.link_up(*link));
        let links_up = up.fold(0, |bits, (bit, _)| bits | 1 << bit);
        Facts { links_up, ..self.mirror.facts() }
    }

    fn told(&mut self, now: Instant, told: Told, out: &mut Out<Effect>) {
        self.expire(now, out);
        let steps = self.tell_mirror(now, mirror::Input::Told(told));
        self.route(now, steps, out);
        self.guard(now, out);
    }
}

impl Machine for Pair {
    type Input = Input;
    type Action = Effect;

    fn handle(&mut self, now: Instant, input: Input, out: &mut Out<Effect>) {
        self.expire(now, out);
        let steps = match input {
            Input::Heard { link, heard, beat } => {
                self.heard(now, link, heard, beat, out);
                Vec::new()
            }
            Input::Booted { start, running } => {
                self.tell_mirror(now, mirror::Input::Booted { start, running })
            }
            Input::Started => self.tell_mirror(now, mirror::Input::Started),
            Input::Claimed(claim) => self.tell_mirror(now, mirror::Input::Claimed(claim)),
            Input::ClaimAnswered { nonce, verdict } => {
                self.tell_quorum(now, quorum::Input::ClaimAnswered { nonce, verdict })
            }
            Input::WitnessAnswered(reply) => {
                self.tell_quorum(now, quorum::Input::WitnessAnswered(reply))
            }
            Input::Ordered(request, order) => {
                self.tell_mirror(now, mirror::Input::Ordered(request, order))
            }
            Input::Completed(op, outcome) if self.ping == Some(op) => {
                self.ping = None;
                self.tell_quorum(now, quorum::Input::Pinged(outcome == Outcome::Reached(true)))
            }
            Input::Completed(op, outcome) => {
                self.tell_mirror(now, mirror::Input::Completed(op, outcome))
            }
            Input::Volume(news) => self.tell_mirror(now, mirror::Input::Volume(news)),
            // What belongs to a farm, and what concerns the checks.
            Input::Filter(_) | Input::HeardFarm { .. } | Input::Watch(_) => Vec::new(),
        };
        self.route(now, steps, out);
        self.guard(now, out);
    }

    fn handle_timeout(&mut self, now: Instant, out: &mut Out<Effect>) {
        let passed = self.deadline().is_some_and(|at| now >= at);
        self.expire(now, out);
        let due = |deadline: Option<Instant>| deadline.is_some_and(|at| now >= at);
        // Losing the right comes first: everything else must see it.
        if due(self.quorum.deadline()) {
            let mut actions = Out::new();
            self.quorum.handle_timeout(now, &mut actions);
            let steps = actions.drain().map(Step::Quorum).collect();
            self.route(now, steps, out);
        }
        if due(self.membership.deadline()) {
            let mut actions = Out::new();
            self.membership.handle_timeout(now, &mut actions);
            let steps = actions.drain().map(Step::Membership).collect();
            self.route(now, steps, out);
        }
        if due(self.mirror.deadline()) {
            let mut actions = Out::new();
            self.mirror.handle_timeout(now, &mut actions);
            let steps = actions.drain().map(Step::Mirror).collect();
            self.route(now, steps, out);
        }
        if passed {
            self.guard(now, out);
        }
    }

    fn deadline(&self) -> Option<Instant> {
        earliest(
            earliest(self.quorum.deadline(), self.membership.deadline()),
            earliest(self.mirror.deadline(), self.guard_at),
        )
    }
}
