//! A module waits while a wait rule says so; a target that no node reaches makes nobody wait who
//! is told that it is shared.

use std::{collections::BTreeMap, time::Duration};

use havre_core::{
    checks::checker::CheckerSettings,
    config::module::{CheckAction, CheckerConfig, Class},
    event::{Action, Actor, EventKind},
};

use super::Invariant;
use crate::{
    direct::checkers, expect::Property, fact::Fact, net::HostId, oracle::Cx, plan::Setup,
    time::SimTime,
};

/// Room for scripts, heartbeats and slow machines.
const MARGIN: Duration = Duration::from_secs(3);

/// Remembers since when something at which checkers look has failed on each node.
#[derive(Default)]
pub(super) struct RulesKept {
    failing: BTreeMap<(HostId, String), SimTime>,
}

/// The longest time from a fault to what follows.
fn patience(setup: &Setup, checker: &CheckerSettings) -> Duration {
    let asked = checker.interval + checker.limit.unwrap_or_default();
    let handle = setup.checks.failover.handle_time + setup.checks.failover.period;
    asked + handle + MARGIN
}

impl RulesKept {
    fn failed_for(&self, host: HostId, what: &str, now: SimTime) -> Option<Duration> {
        self.failing.get(&(host, what.to_owned())).map(|since| now - *since)
    }

    /// Checkers that make a module wait, with what is known of them.
    fn waiters(setup: &Setup) -> Vec<(CheckerSettings, CheckerConfig)> {
        let of = |checker: &CheckerConfig| {
            let settings = checkers(setup);
            let own = settings.into_iter().find(|s| s.resource.id() == checker.ident)?;
            Some((own, checker.clone()))
        };
        let waits = |c: &&CheckerConfig| c.action == CheckAction::Wait && c.when == Class::Pre;
        setup.checks.checkers.iter().filter(waits).filter_map(of).collect()
    }

    fn judge_start(&self, host: HostId, cx: &mut Cx<'_>) {
        for (settings, config) in Self::waiters(cx.setup).iter().filter(|(_, c)| !c.shared) {
            let name = settings.resource.to_string();
            let long = patience(cx.setup, settings);
            let down = self.failed_for(host, &name, cx.now).is_some_and(|span| span > long);
            if down
                && !cx.setup.checks.failover.rules.iter().any(|r| r.label.ends_with(&config.ident))
            {
                let text = format!("{host} started its application although {name} is down there");
                cx.violated(Property::RulesKept, text);
            }
        }
    }

    fn judge_wait(&self, host: HostId, resources: &[String], cx: &mut Cx<'_>) {
        for (settings, _) in Self::waiters(cx.setup).iter().filter(|(_, c)| c.shared) {
            let name = settings.resource.to_string();
            let long = patience(cx.setup, settings);
            let nowhere = HostId::DATA
                .into_iter()
                .all(|h| self.failed_for(h, &name, cx.now).is_some_and(|span| span > long));
            if nowhere && resources.iter().any(|text| text.starts_with(&name)) {
                let text = format!("{host} waits for {name}, which no node reaches");
                cx.violated(Property::RulesKept, text);
            }
        }
    }
}

impl Invariant for RulesKept {
    fn property(&self) -> Property {
        Property::RulesKept
    }

    fn observe(&mut self, fact: &Fact, cx: &mut Cx<'_>) {
        match fact {
            Fact::Subject(host, what, works) => {
                let key = (*host, what.clone());
                if *works {
                    self.failing.remove(&key);
                } else {
                    self.failing.entry(key).or_insert(cx.now);
                }
            }
            Fact::AppRuns(host) if host.index() < 2 => self.judge_start(*host, cx),
            Fact::News(host, event) => {
                if let EventKind::ActionCalled {
                    action: Action::Wait,
                    by: Actor::Detected(cause),
                } = &event.kind
                {
                    self.judge_wait(*host, &cause.resources, cx);
                }
            }
            _ => {}
        }
    }
}
