//! Detections repair no more often than the loop guard allows, whatever happens to the power.

use havre_core::event::{Action, Actor, EventKind};

use super::Invariant;
use crate::{expect::Property, fact::Fact, oracle::Cx, time::SimTime};

/// Counts the repairs of each node since somebody or something began the count anew.
#[derive(Default)]
pub(super) struct LoopsBounded {
    repairs: [u32; 2],
    first: [SimTime; 2],
}

impl Invariant for LoopsBounded {
    fn property(&self) -> Property {
        Property::LoopsBounded
    }

    fn observe(&mut self, fact: &Fact, cx: &mut Cx<'_>) {
        let (host, event) = match fact {
            Fact::Ordered(host, _) => {
                if let Some(repairs) = self.repairs.get_mut(host.index()) {
                    *repairs = 0;
                }
                return;
            }
            Fact::News(host, event) if host.index() < 2 => (host, event),
            _ => return,
        };
        let EventKind::ActionCalled { action, by } = &event.kind else { return };
        let index = host.index();
        match by {
            Actor::Retry => self.repairs[index] = 0,
            Actor::Detected(_) if !matches!(action, Action::Stop) => {
                let guard = &cx.setup.guard;
                // The node's clock may run a little faster than true time.
                let window = guard.interval - guard.interval / 50;
                if self.repairs[index] == 0 || cx.now - self.first[index] >= window {
                    self.repairs[index] = 0;
                    self.first[index] = cx.now;
                }
                self.repairs[index] += 1;
                let (repairs, max) = (self.repairs[index], guard.maxloop);
                if repairs > max && !guard.interval.is_zero() {
                    let text = format!("{host} repaired {repairs} times, maxloop is {max}");
                    cx.violated(Property::LoopsBounded, text);
                }
            }
            _ => {}
        }
    }
}
