//! S17: when both nodes wrote separately, joining them again is reported, never silent.

use havre_core::event::EventKind;

use crate::{expect::Property, fact::Fact, net::HostId, oracle::Cx};

use super::Invariant;

#[derive(Default)]
pub(super) struct NoSilentDivergence {
    runs: [bool; 2],
    /// Who acknowledged writes since both run.
    acked_apart: [bool; 2],
    diverged: bool,
    /// The first write of the time since both run: what was under way before does not count.
    first_tag: u64,
    reported: bool,
}

impl Invariant for NoSilentDivergence {
    fn property(&self) -> Property {
        Property::NoSilentDivergence
    }

    fn observe(&mut self, fact: &Fact, cx: &mut Cx<'_>) {
        match fact {
            Fact::AppRuns(host) => {
                self.runs[host.index()] = true;
                self.acked_apart = [false; 2];
                self.first_tag = cx.ledger.next_tag();
            }
            Fact::AppStopped(host, _) | Fact::PoweredOff(host, _) if host.index() < 2 => {
                self.runs[host.index()] = false;
            }
            Fact::Acked(host, writes)
                if self.runs == [true, true]
                    && writes.iter().all(|(_, tag)| *tag >= self.first_tag) =>
            {
                self.acked_apart[host.index()] = true;
                self.diverged |= self.acked_apart == [true, true];
            }
            Fact::News(_, event) if matches!(event.kind, EventKind::SplitBrain { .. }) => {
                self.reported = true;
            }
            _ => {}
        }
    }

    fn finish(&mut self, settled: bool, cx: &mut Cx<'_>) {
        let joined = [HostId::A, HostId::B].into_iter().all(|host| {
            cx.world.module(host).is_some_and(|module| module.peers.iter().all(|peer| peer.alive))
        });
        if settled && joined && self.diverged && !self.reported {
            cx.violated(
                Property::NoSilentDivergence,
                "both nodes acknowledged writes separately and nobody said so".into(),
            );
        }
    }
}
