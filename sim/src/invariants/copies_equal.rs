//! S12, S15: a copy that calls itself caught up with a generation holds every write that was
//! acknowledged until its source left that generation, and two nodes in sync hold the same bytes.

use std::collections::VecDeque;

use havre_core::{
    config::module::Contract,
    effect::VolumeNews,
    event::EventKind,
    replication::generation::Generation,
    status::{Phase, State},
};

use crate::{expect::Property, fact::Fact, net::HostId, oracle::Cx};

use super::Invariant;

/// Generations whose beginning is remembered.
const BEGUN_MAX: usize = 8;

/// What each block's newest acknowledged write was when a generation began.
struct Begun {
    generation: Generation,
    acked: Vec<u64>,
}

#[derive(Default)]
pub(super) struct CopiesEqual {
    spoiled: bool,
    begun: VecDeque<Begun>,
}

impl CopiesEqual {
    fn begins(&mut self, generation: Generation, cx: &Cx<'_>) {
        if self.begun.len() == BEGUN_MAX {
            self.begun.pop_front();
        }
        let acked = (0..cx.ledger.block_count()).map(|block| cx.ledger.acked(block)).collect();
        self.begun.push_back(Begun { generation, acked });
    }

    /// What is wrong with a copy that was caught up with `generation`.
    fn wrong(&self, host: HostId, generation: Generation, cx: &Cx<'_>) -> Option<String> {
        // What its source acknowledged in a later generation is that generation's.
        let left = self.begun.iter().find(|begun| begun.generation.number > generation.number);
        (0..cx.ledger.block_count()).find_map(|block| {
            let acked = left.map_or_else(
                || cx.ledger.acked(block),
                |left| left.acked.get(block as usize).copied().unwrap_or_default(),
            );
            cx.ledger.judge_from(acked, block, &cx.world.content(host, block))
        })
    }
}

impl Invariant for CopiesEqual {
    fn property(&self) -> Property {
        Property::CopiesEqual
    }

    fn observe(&mut self, fact: &Fact, cx: &mut Cx<'_>) {
        if let Fact::News(_, event) = fact
            && let EventKind::GenerationBegun(generation) = event.kind
        {
            self.begins(generation, cx);
        }
        let Fact::VolumeTold(host, VolumeNews::CaughtUp { generation, .. }) = fact else { return };
        if cx.setup.contract == Contract::Received {
            // What is acknowledged may have been received and not applied yet.
            return;
        }
        if let Some(wrong) = self.wrong(*host, *generation, cx) {
            self.spoiled = true;
            let text = format!("{host} calls itself caught up: {wrong}");
            cx.violated(Property::CopiesEqual, text);
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
