//! S1, S10: the application, and the address, are in one place at a time.
//!
//! Judged on intervals of true time. A machine that was paused and goes on still has both until
//! its daemon has had a moment to act on its clock; that moment is [`THAW_US`], and during it the
//! data path must complete nothing (which [`super::acked_survive`] judges). An address that
//! nobody renews, because the daemon died, is the kernel's to remove and does not count.

use crate::{expect::Property, fact::Fact, net::HostId, oracle::Cx, time::SimTime};

use super::Invariant;

/// How long a machine that goes on after a pause may take to give up what it lost meanwhile.
pub(super) const THAW_US: u64 = 1_500_000;

/// The property, for the application or for the address.
pub(super) struct OneHolder {
    property: Property,
    held: [bool; 2],
    thawing_until: [SimTime; 2],
    reported: bool,
}

impl OneHolder {
    pub(super) const fn application() -> Self {
        Self::of(Property::OnePrimary)
    }

    pub(super) const fn address() -> Self {
        Self::of(Property::OneAddress)
    }

    const fn of(property: Property) -> Self {
        Self { property, held: [false; 2], thawing_until: [SimTime::ZERO; 2], reported: false }
    }

    fn takes(&self, fact: &Fact) -> Option<(HostId, bool)> {
        match (self.property, fact) {
            (Property::OnePrimary, Fact::AppRuns(host))
            | (Property::OneAddress, Fact::AddressSet(host)) => Some((*host, true)),
            (Property::OnePrimary, Fact::AppStopped(host, _))
            | (Property::OneAddress, Fact::AddressRemoved(host) | Fact::AddressExpires(host)) => {
                Some((*host, false))
            }
            (_, Fact::PoweredOff(host, _)) => Some((*host, false)),
            _ => None,
        }
    }
}

impl Invariant for OneHolder {
    fn property(&self) -> Property {
        self.property
    }

    fn observe(&mut self, fact: &Fact, cx: &mut Cx<'_>) {
        match fact {
            Fact::Resumed(host) if host.index() < 2 => {
                self.thawing_until[host.index()] = cx.now.plus_micros(THAW_US);
            }
            _ => {
                if let Some((host, held)) = self.takes(fact)
                    && host.index() < 2
                {
                    self.held[host.index()] = held;
                }
            }
        }
        if self.held != [true, true] || self.reported {
            return;
        }
        let counts =
            |host: HostId| cx.world.is_live(host) && cx.now >= self.thawing_until[host.index()];
        if counts(HostId::A) && counts(HostId::B) {
            self.reported = true;
            let what = if self.property == Property::OnePrimary {
                "the application runs on a and on b at the same time"
            } else {
                "the virtual address is set on a and on b at the same time"
            };
            cx.violated(self.property, what.into());
        }
    }
}
