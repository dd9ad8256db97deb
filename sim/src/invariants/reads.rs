//! S20: a client reads the last acknowledged value of a block or a later one.
//!
//! A machine that goes on after a pause may answer a read from its caches before anything of
//! Havre runs again; without fencing from outside nobody can prevent that, so its first moment
//! does not count.

use crate::{expect::Property, fact::Fact, oracle::Cx, time::SimTime};

use super::{Invariant, one_holder::THAW_US};

#[derive(Default)]
pub(super) struct ReadsCorrect {
    thawing_until: [SimTime; 2],
}

impl Invariant for ReadsCorrect {
    fn property(&self) -> Property {
        Property::ReadsCorrect
    }

    fn observe(&mut self, fact: &Fact, cx: &mut Cx<'_>) {
        if let Fact::Resumed(host) = fact
            && host.index() < 2
        {
            self.thawing_until[host.index()] = cx.now.plus_micros(THAW_US);
        }
        let Fact::Read(host, block, content, floor) = fact else { return };
        if cx.now < self.thawing_until[host.index()] {
            return;
        }
        if let Some(wrong) = cx.ledger.judge_from(*floor, *block, content) {
            cx.violated(Property::ReadsCorrect, format!("a client reads on {host}: {wrong}"));
        }
    }
}
