//! The buckets of a farm that was left in peace are shared out: each is taken by exactly one node,
//! and every node says so.

use havre_core::farm::set::buckets;

use crate::{expect::Property, fact::Fact, oracle::Cx};

use super::Invariant;

pub(super) struct SharesWhole;

impl Invariant for SharesWhole {
    fn property(&self) -> Property {
        Property::SharesWhole
    }

    fn observe(&mut self, _fact: &Fact, _cx: &mut Cx<'_>) {}

    fn finish(&mut self, settled: bool, cx: &mut Cx<'_>) {
        if !settled {
            return;
        }
        let nodes = cx.setup.nodes();
        let takers = |bucket| nodes.iter().filter(|n| cx.world.taken(**n).contains(bucket)).count();
        let wrong = buckets().filter(|bucket| takers(*bucket) != 1).count();
        if wrong > 0 {
            let text = format!("{wrong} buckets are taken by nobody or by several");
            return cx.violated(Property::SharesWhole, text);
        }
        for host in nodes {
            let Some(farm) = cx.world.module(host).and_then(|module| module.farm) else { continue };
            let says = farm.groups.first().map_or(0, |group| u32::from(group.share));
            let takes = cx.world.taken(host).len();
            if says != takes {
                let text = format!("{host} says {says} buckets and takes {takes}");
                cx.violated(Property::SharesWhole, text);
            }
        }
    }
}
