//! S4, S15, S18: the application never starts on a copy whose own durable record says that it is
//! blank, half copied or outdated, unless an administrator forced it.

use havre_core::{effect::ModuleOrder, replication::generation::CopyState};

use crate::{expect::Property, fact::Fact, oracle::Cx};

use super::Invariant;

#[derive(Default)]
pub(super) struct NoStaleStart {
    forced: [bool; 2],
}

impl Invariant for NoStaleStart {
    fn property(&self) -> Property {
        Property::NoStaleStart
    }

    fn observe(&mut self, fact: &Fact, cx: &mut Cx<'_>) {
        match fact {
            Fact::Ordered(host, ModuleOrder::Prim { .. }) => self.forced[host.index()] = true,
            Fact::Ordered(host, ModuleOrder::Stop | ModuleOrder::ForceStop) => {
                self.forced[host.index()] = false;
            }
            Fact::AppRuns(host) => {
                let forced = std::mem::take(&mut self.forced[host.index()]);
                let copy = cx.world.record(*host).map(|record| record.lineage.copy);
                if !forced && copy != Some(CopyState::Consistent) {
                    let copy = copy.map_or_else(|| "unknown".into(), |copy| format!("{copy:?}"));
                    cx.violated(
                        Property::NoStaleStart,
                        format!("the application starts on {host}, whose copy is {copy}"),
                    );
                }
            }
            _ => {}
        }
    }
}
