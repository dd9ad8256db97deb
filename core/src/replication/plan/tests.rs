//! Properties of the plan.

use proptest::prelude::*;

use super::{Copy, Extent, Refusal, plan, plan_chosen};
use crate::{
    ids::NodeId,
    replication::generation::{CopyState, Lineage, Origin, Relation, compare},
};

const STATES: [CopyState; 3] =
    [CopyState::Consistent, CopyState::Outdated, CopyState::Inconsistent];

/// A copy that went through `shared` common generations and then `own` ones of its own.
fn lineage(node: u16, shared: u64, own: u64, state: usize) -> Lineage {
    let mut lineage = Lineage::blank();
    for nonce in 0..shared {
        lineage.advance(lineage.successor(NodeId(0), nonce, Origin::Solo));
    }
    for nonce in 0..own {
        let nonce = 100 * u64::from(node) + nonce;
        lineage.advance(lineage.successor(NodeId(node), nonce, Origin::Failover));
    }
    if lineage.current.is_some() {
        lineage.copy = STATES[state];
    }
    lineage
}

prop_compose! {
    fn pair()(
        shared in 0_u64..4, own in (0_u64..3, 0_u64..3), state in (0_usize..3, 0_usize..3),
        intact in any::<(bool, bool)>(), running in 0_u16..3,
    ) -> (Lineage, Lineage, (bool, bool), Option<NodeId>) {
        let a = lineage(1, shared, own.0, state.0);
        let b = lineage(2, shared, own.1, state.1);
        (a, b, intact, (running > 0).then_some(NodeId(running)))
    }
}

proptest! {
    #[test]
    fn the_plan_does_not_depend_on_who_asks((a, b, intact, running) in pair()) {
        let here = Copy { node: NodeId(1), lineage: &a, marks_intact: intact.0 };
        let there = Copy { node: NodeId(2), lineage: &b, marks_intact: intact.1 };
        prop_assert_eq!(plan(here, there, running), plan(there, here, running));
    }

    #[test]
    fn a_newer_whole_copy_is_never_overwritten_by_an_older_one(
        (a, b, intact, running) in pair()
    ) {
        let here = Copy { node: NodeId(1), lineage: &a, marks_intact: intact.0 };
        let there = Copy { node: NodeId(2), lineage: &b, marks_intact: intact.1 };
        let Ok(plan) = plan(here, there, running) else { return Ok(()) };
        let (source, target) = if plan.source == NodeId(1) { (&a, &b) } else { (&b, &a) };
        let relation = compare(source, target);
        prop_assert!(matches!(relation, Relation::LocalNewer | Relation::Same));
        prop_assert_ne!(source.copy, CopyState::Inconsistent);
        prop_assert_eq!(plan.keep_aside, None);
    }

    #[test]
    fn only_copies_with_common_history_and_whole_mark_logs_are_compared_by_marks(
        (a, b, intact, _) in pair()
    ) {
        let here = Copy { node: NodeId(1), lineage: &a, marks_intact: intact.0 };
        let there = Copy { node: NodeId(2), lineage: &b, marks_intact: intact.1 };
        let plan = plan_chosen(here, there);
        let related = a.current.is_some()
            && b.current.is_some()
            && compare(&a, &b) != Relation::Unrelated;
        let delta = related && intact.0 && intact.1;
        prop_assert_eq!(plan.extent, if delta { Extent::Delta } else { Extent::Full });
    }

    #[test]
    fn what_only_the_overwritten_copy_holds_is_kept_aside((a, b, intact, _) in pair()) {
        let here = Copy { node: NodeId(1), lineage: &a, marks_intact: intact.0 };
        let there = Copy { node: NodeId(2), lineage: &b, marks_intact: intact.1 };
        let lost = matches!(
            compare(&a, &b),
            Relation::Diverged | Relation::Unrelated | Relation::RemoteNewer
        );
        prop_assert_eq!(plan_chosen(here, there).keep_aside, b.current.filter(|_| lost));
    }
}

#[test]
fn split_brain_waits_for_an_administrator() {
    let (a, b) = (lineage(1, 1, 1, 0), lineage(2, 1, 1, 0));
    let here = Copy { node: NodeId(1), lineage: &a, marks_intact: true };
    let there = Copy { node: NodeId(2), lineage: &b, marks_intact: true };
    assert_eq!(plan(here, there, Some(NodeId(1))), Err(Refusal::Diverged));
}
