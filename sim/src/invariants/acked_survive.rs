//! S2: whoever starts the application holds every acknowledged write.
//!
//! Judged at each start on the copy as it is then; [`crate::ledger`] knows the one documented loss.

use crate::{expect::Property, fact::Fact, oracle::Cx};

use super::Invariant;

pub(super) struct AckedSurvive;

impl Invariant for AckedSurvive {
    fn property(&self) -> Property {
        Property::AckedSurvive
    }

    fn observe(&mut self, fact: &Fact, cx: &mut Cx<'_>) {
        let Fact::AppRuns(host) = fact else { return };
        for block in 0..cx.ledger.block_count() {
            if let Some(wrong) = cx.ledger.judge(block, &cx.world.content(*host, block)) {
                cx.violated(
                    Property::AckedSurvive,
                    format!("the application starts on {host}: {wrong}"),
                );
                return;
            }
        }
    }
}
