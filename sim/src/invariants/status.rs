//! A status never claims what is not so for longer than an instant: a green primary runs its
//! application and holds its
//! address, a stopped or waiting node does neither.

use havre_core::{
    event::EventKind,
    status::{Phase, State},
};

use crate::{expect::Property, fact::Fact, net::HostId, oracle::Cx, time::SimTime};

use super::Invariant;

#[derive(Default)]
pub(super) struct StatusTruthful {
    runs: [bool; 2],
    address: [bool; 2],
    /// What each node claims, until it has lasted for an instant.
    claims: [Option<(SimTime, State, Phase)>; 2],
}

impl StatusTruthful {
    /// Judges the claims of earlier moments: a node that takes back in the same instant what it
    /// concluded from its inbox has misled nobody.
    fn judge_claims(&mut self, cx: &mut Cx<'_>) {
        for host in HostId::DATA {
            if let Some((_, state, phase)) =
                self.claims[host.index()].take_if(|(at, ..)| *at < cx.now)
            {
                self.judge(host, state, phase, cx);
            }
        }
    }

    fn judge(&self, host: HostId, state: State, phase: Phase, cx: &mut Cx<'_>) {
        let (runs, address) = (self.runs[host.index()], self.address[host.index()]);
        let wrong = match (state, phase) {
            (State::Prim | State::Alone, Phase::Ready) if !runs => "without its application",
            (State::Prim | State::Alone, Phase::Ready) if !address => "without its address",
            (State::Stop | State::Second, _) if runs => "while the application runs",
            (State::Wait, Phase::NotReady) if runs => "while the application runs",
            (State::Stop | State::Second, _) if address => "while it holds the address",
            (State::Wait, Phase::NotReady) if address => "while it holds the address",
            _ => return,
        };
        cx.violated(Property::StatusTruthful, format!("{host} shows {state} {phase} {wrong}"));
    }
}

impl Invariant for StatusTruthful {
    fn property(&self) -> Property {
        Property::StatusTruthful
    }

    fn observe(&mut self, fact: &Fact, cx: &mut Cx<'_>) {
        self.judge_claims(cx);
        match fact {
            Fact::AppRuns(host) => self.runs[host.index()] = true,
            Fact::AppStopped(host, _) => self.runs[host.index()] = false,
            Fact::AddressSet(host) => self.address[host.index()] = true,
            Fact::AddressRemoved(host) => self.address[host.index()] = false,
            Fact::PoweredOff(host, _) if host.index() < 2 => {
                self.claims[host.index()] = None;
                self.runs[host.index()] = false;
                self.address[host.index()] = false;
            }
            // What the dead daemon left behind is not what the new one claims.
            Fact::Crashed(host) if host.index() < 2 => {
                self.claims[host.index()] = None;
                self.runs[host.index()] = false;
                self.address[host.index()] = false;
            }
            Fact::News(host, event) => {
                if let EventKind::StateChanged { to: (state, phase), .. } = event.kind {
                    self.claims[host.index()] = Some((cx.now, state, phase));
                }
            }
            _ => {}
        }
    }

    fn finish(&mut self, settled: bool, cx: &mut Cx<'_>) {
        if !settled {
            return;
        }
        for host in HostId::DATA {
            let Some(module) = cx.world.module(host) else { continue };
            self.judge(host, module.state, module.phase, cx);
            // On the way to a role the address counts as held from the order to set it.
            let settled = module.phase != Phase::Transient;
            if settled && module.address_held != self.address[host.index()] {
                cx.violated(
                    Property::StatusTruthful,
                    format!("{host} says address_held={} wrongly", module.address_held),
                );
            }
        }
    }
}
