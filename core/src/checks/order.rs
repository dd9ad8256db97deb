//! What the module, its peer, administrators and scripts tell the checks.

use super::{Action, Checks, Detection};
use crate::{
    checks::{
        checker::Classes,
        failover::Posture,
        probe::{Finding, Probe},
        record::Switch,
        resource::{ResourceName, ResourceState},
        rules::RuleAction,
    },
    config::module::{Class, StartFailure},
    effect::{Answer, Effect, LoopVerb},
    event::EventKind,
    ids::RequestId,
    machine::Out,
    time::Instant,
};

/// What administrators and scripts may ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Set a resource.
    Set {
        /// Which.
        resource: ResourceName,
        /// To what.
        state: ResourceState,
        /// Who says so.
        by: String,
        /// Keep the change in the history.
        history: bool,
    },
    /// Turn a switch.
    Switch(Switch, bool),
    /// Watch a class, or not, until the module is stopped.
    Class(String, bool),
    /// Ask or change the loop guard.
    Loop(LoopVerb),
}

/// The word of a class in configurations.
pub(super) fn class_word(class: &Class) -> &str {
    match class {
        Class::Pre => "pre",
        Class::Prim => "prim",
        Class::Second => "second",
        Class::Both => "both",
        Class::Sec => "sec",
        Class::User(name) => name,
    }
}

impl Checks {
    pub(super) fn posture_changed(
        &mut self,
        now: Instant,
        classes: Classes,
        running: bool,
        out: &mut Out<Action>,
    ) {
        self.posture = match (classes.pre, running) {
            (false, _) => Posture::Off,
            (true, false) => Posture::Waiting,
            (true, true) => Posture::Running,
        };
        if !classes.pre {
            // Switched by hand until the module is stopped.
            self.by_hand.clear();
        }
        self.classes = classes;
        self.switch_checkers(now, out);
    }

    pub(super) fn peer_resources(&mut self, now: Instant, states: &[ResourceState]) {
        // A peer with another configuration tells of other resources.
        if states.len() != self.exported.len() {
            return;
        }
        for (place, state) in self.exported.clone().into_iter().zip(states) {
            let changed = self.resources.set_remote(place, *state);
            if !changed || *state != ResourceState::Down {
                continue;
            }
            // What the other node cannot reach either must be known before a rule acts.
            for (checker, own) in self.checkers.iter_mut().zip(&self.places) {
                if *own == place && checker.settings().shared {
                    checker.hurry(now);
                }
            }
        }
    }

    pub(super) fn neighbour(
        &mut self,
        now: Instant,
        module: &str,
        ready: bool,
        starts: u64,
        out: &mut Out<Action>,
    ) {
        for index in 0..self.checkers.len() {
            let Probe::Module { name, addr, .. } = &self.checkers[index].settings().probe else {
                continue;
            };
            if name == module && addr.is_empty() {
                let mut said = Out::new();
                self.checkers[index].found(now, &Finding::Module { ready, starts }, &mut said);
                self.said(now, index, said, out);
            }
        }
    }

    /// Modules on this node that a checker looks at.
    pub fn neighbours(&self) -> impl Iterator<Item = &str> {
        self.checkers.iter().filter_map(|checker| match &checker.settings().probe {
            Probe::Module { name, addr, .. } if addr.is_empty() => Some(name.as_str()),
            _ => None,
        })
    }

    pub(super) fn start_failed(&mut self, now: Instant, script: &str, out: &mut Out<Action>) {
        let action = match self.settings.on_start_failure {
            StartFailure::Stop => RuleAction::Stop,
            StartFailure::Failover => RuleAction::StopStart,
            StartFailure::Ignore => return,
        };
        let found = Detection {
            action,
            detector: script.to_owned(),
            rule: None,
            resources: vec![format!("{script} failed")],
            services: None,
        };
        self.detected(now, found, out);
    }

    pub(super) fn asked(
        &mut self,
        now: Instant,
        request: RequestId,
        order: Order,
        out: &mut Out<Action>,
    ) {
        let answer = match order {
            Order::Set { resource, state, by, history } => {
                self.set_from_outside(now, &resource, (state, &by, history), out)
            }
            Order::Switch(switch, on) => self.switch(now, switch, on, out),
            Order::Class(class, on) => self.enable(now, class, on, out),
            Order::Loop(verb) => {
                match verb {
                    LoopVerb::Increment { by } => {
                        self.guard.increment(now);
                        let text = format!("incloop called by {by}");
                        self.notify(EventKind::Detected(text), out);
                        self.persist(now, None, out);
                    }
                    LoopVerb::Reset if self.guard.reset() => self.persist(now, None, out),
                    LoopVerb::Reset | LoopVerb::Check => {}
                }
                Answer::Loop(self.guard.status(now))
            }
        };
        out.push(Action::Effect(Effect::Answer { request, answer }));
    }

    fn set_from_outside(
        &mut self,
        now: Instant,
        resource: &ResourceName,
        (state, by, history): (ResourceState, &str, bool),
        out: &mut Out<Action>,
    ) -> Answer {
        // Parts of Havre answer for these; a script that says otherwise would only be overruled.
        if matches!(resource.class(), "heartbeat" | "rfs" | "usersetting" | "state" | "proc") {
            let text = format!("{resource} is set by Havre itself: set a resource of class custom");
            return Answer::Refused(text);
        }
        let Some(place) = self.resources.place(resource, now) else {
            let text = format!("no room for {resource}: too many resources of this module");
            return Answer::Refused(text);
        };
        let before = self.resources.state(place);
        self.set(now, place, state, (by, ""), out);
        if !history && before != state {
            self.resources.forget_last(place);
        }
        for (checker, own) in self.checkers.iter_mut().zip(&self.places) {
            if *own == place {
                checker.told();
            }
        }
        Answer::Accepted
    }

    fn switch(&mut self, now: Instant, switch: Switch, on: bool, out: &mut Out<Action>) -> Answer {
        let switches = &mut self.record.switches;
        match switch {
            Switch::Errd => switches.errd = on,
            Switch::Checker => switches.checker = on,
            Switch::Failover => switches.failover = Some(on),
            Switch::Boot if !self.settings.boot_by_switch => {
                let text = "boot is set in userconfig.xml: change <service boot=\"...\"> there";
                return Answer::Refused(text.to_owned());
            }
            Switch::Boot => switches.boot = Some(on),
        }
        let word = if on { "on" } else { "off" };
        self.notify(EventKind::Message(format!("{} switched {word}", switch.word())), out);
        self.show_switches(now);
        self.persist(now, None, out);
        if switch == Switch::Failover {
            out.push(Action::Failover(on));
        }
        self.switch_checkers(now, out);
        Answer::Accepted
    }

    /// Sets the resources that show the switches.
    pub(super) fn show_switches(&mut self, now: Instant) {
        let switches = self.record.switches;
        let shown = [
            ("errd", Some(switches.errd)),
            ("checker", Some(switches.checker)),
            ("failover", switches.failover),
            ("boot", switches.boot),
        ];
        for (id, position) in shown {
            let name = ResourceName::new("usersetting", id);
            if let (Some(on), Some(place)) = (position, self.resources.place(&name, now)) {
                let state = if on { ResourceState::Up } else { ResourceState::Down };
                self.resources.set(now, place, state, ("havre", ""));
            }
        }
    }

    fn enable(&mut self, now: Instant, class: String, on: bool, out: &mut Out<Action>) -> Answer {
        let known = |c: &super::Checker| class_word(&c.settings().class) == class;
        if !self.checkers.iter().any(known) {
            return Answer::Refused(format!("no checker of this module is of class {class}"));
        }
        let word = if on { "enabled" } else { "disabled" };
        self.notify(EventKind::Message(format!("class {class} {word}")), out);
        self.by_hand.insert(class, on);
        self.switch_checkers(now, out);
        Answer::Accepted
    }
}
