//! S3: a right is named by an epoch that nobody else ever has, and generations are never reused.

use std::collections::BTreeMap;

use havre_core::{event::EventKind, ids::Epoch, replication::generation::Generation};

use crate::{expect::Property, fact::Fact, net::HostId, oracle::Cx};

use super::Invariant;

#[derive(Default)]
pub(super) struct EpochsUnique {
    holders: BTreeMap<Epoch, HostId>,
    generations: BTreeMap<Generation, HostId>,
    witness: Epoch,
}

impl Invariant for EpochsUnique {
    fn property(&self) -> Property {
        Property::EpochsUnique
    }

    fn observe(&mut self, fact: &Fact, cx: &mut Cx<'_>) {
        match fact {
            Fact::News(host, event) => match &event.kind {
                EventKind::RightObtained { epoch: Some(epoch) } => {
                    let holder = *self.holders.entry(*epoch).or_insert(*host);
                    if holder != *host {
                        cx.violated(
                            Property::EpochsUnique,
                            format!("{host} holds {epoch}, which {holder} had before"),
                        );
                    }
                }
                EventKind::GenerationBegun(generation) => {
                    let owner = *self.generations.entry(*generation).or_insert(*host);
                    if owner != *host {
                        cx.violated(
                            Property::EpochsUnique,
                            format!("{host} begins {generation}, which {owner} began before"),
                        );
                    }
                }
                _ => {}
            },
            Fact::WitnessRecorded(record) => {
                if record.epoch < self.witness {
                    cx.violated(
                        Property::EpochsUnique,
                        format!("the witness goes from {} back to {}", self.witness, record.epoch),
                    );
                }
                self.witness = self.witness.max(record.epoch);
            }
            _ => {}
        }
    }
}
