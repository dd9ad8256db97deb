//! S11: whoever holds the address announces it again when it hears a network come back.
//!
//! Setting an address announces it; during a cut, switches and neighbours behind it may have
//! learnt another place.

use havre_core::event::EventKind;

use crate::{expect::Property, fact::Fact, net::HostId, oracle::Cx, time::SimTime};

use super::Invariant;

/// Within this time.
const WITHIN_US: u64 = 1_000_000;

#[derive(Default)]
pub(super) struct Announced {
    held: [bool; 2],
    due: [Option<SimTime>; 2],
}

impl Announced {
    fn judge(&mut self, cx: &mut Cx<'_>) {
        for host in HostId::DATA {
            let Some(due) = self.due[host.index()].take_if(|due| cx.now > *due) else { continue };
            if cx.world.is_prompt(host) {
                let text = format!("{host} did not announce its address until {due}");
                cx.violated(Property::Announced, text);
            } else {
                self.due[host.index()] = Some(cx.now.plus_micros(WITHIN_US));
            }
        }
    }

    fn holds(&mut self, host: HostId, held: bool) {
        if host.index() < 2 {
            self.held[host.index()] = held;
            self.due[host.index()] = None;
        }
    }
}

impl Invariant for Announced {
    fn property(&self) -> Property {
        Property::Announced
    }

    fn observe(&mut self, fact: &Fact, cx: &mut Cx<'_>) {
        self.judge(cx);
        match fact {
            Fact::AddressSet(host) => self.holds(*host, true),
            Fact::AddressRemoved(host)
            | Fact::AddressExpires(host)
            | Fact::PoweredOff(host, _)
            | Fact::Crashed(host) => self.holds(*host, false),
            Fact::Announced(host) => self.due[host.index()] = None,
            Fact::News(host, event)
                if matches!(event.kind, EventKind::LinkChanged { up: true, .. })
                    && self.held[host.index()] =>
            {
                self.due[host.index()].get_or_insert(cx.now.plus_micros(WITHIN_US));
            }
            _ => {}
        }
    }
}
