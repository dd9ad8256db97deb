//! S12, S15: a copy that calls itself caught up holds every acknowledged write, and two nodes in
//! sync hold the same bytes.

use havre_core::{
    config::module::Contract,
    effect::VolumeNews,
    status::{Phase, State},
};

use crate::{expect::Property, fact::Fact, net::HostId, oracle::Cx};

use super::Invariant;

#[derive(Default)]
pub(super) struct CopiesEqual {
    spoiled: bool,
}

impl Invariant for CopiesEqual {
    fn property(&self) -> Property {
        Property::CopiesEqual
    }

    fn observe(&mut self, fact: &Fact, cx: &mut Cx<'_>) {
        let Fact::VolumeTold(host, VolumeNews::CaughtUp { .. }) = fact else { return };
        if cx.setup.contract == Contract::Received {
            // What is acknowledged may have been received and not applied yet.
            return;
        }
        for block in 0..cx.ledger.block_count() {
            if let Some(wrong) = cx.ledger.judge(block, &cx.world.content(*host, block)) {
                self.spoiled = true;
                cx.violated(
                    Property::CopiesEqual,
                    format!("{host} calls itself caught up: {wrong}"),
                );
                return;
            }
        }
    }

    fn finish(&mut self, settled: bool, cx: &mut Cx<'_>) {
        if !settled || self.spoiled {
            return;
        }
        let state = |host| cx.world.module(host).map(|module| (module.state, module.phase));
        let states = [state(HostId::A), state(HostId::B)];
        let in_sync = states.contains(&Some((State::Prim, Phase::Ready)))
            && states.contains(&Some((State::Second, Phase::Ready)));
        if !in_sync {
            return;
        }
        for block in 0..cx.ledger.block_count() {
            let (a, b) = (cx.world.content(HostId::A, block), cx.world.content(HostId::B, block));
            if a != b {
                cx.violated(
                    Property::CopiesEqual,
                    format!("in sync, but block {block} is {:?} on a and {:?} on b", a.0, b.0),
                );
                return;
            }
        }
    }
}
