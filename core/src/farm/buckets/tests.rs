//! Properties of the distribution of buckets.

use proptest::prelude::*;

use super::*;

fn equal(nodes: u8) -> Plan {
    Plan::new(&vec![1; usize::from(nodes)])
}

fn shares(plan: &Plan, sharing: MemberSet) -> Vec<u32> {
    sharing.iter().map(|slot| plan.own(slot, sharing).len()).collect()
}

fn spread(plan: &Plan, sharing: MemberSet) -> u32 {
    let shares = shares(plan, sharing);
    let (least, most) = (shares.iter().min(), shares.iter().max());
    most.copied().unwrap_or(0) - least.copied().unwrap_or(0)
}

/// Every set of the first `nodes` members, except none.
fn sets(nodes: u8) -> impl Iterator<Item = MemberSet> {
    (1..1u64 << nodes).map(MemberSet)
}

#[test]
fn equal_powers_differ_by_at_most_one_bucket_whoever_is_lost() {
    for nodes in 1..=7 {
        let plan = equal(nodes);
        for sharing in sets(nodes) {
            assert!(spread(&plan, sharing) <= 1, "{sharing:?}: {:?}", shares(&plan, sharing));
        }
    }
}

#[test]
fn large_farms_are_level_while_one_node_is_lost_and_nearly_level_while_two_are() {
    for nodes in [8, 12, 16, 32] {
        let plan = equal(nodes);
        let all: MemberSet = (0..nodes).map(Slot).collect();
        assert!(spread(&plan, all) <= 1, "{nodes} nodes: {:?}", shares(&plan, all));
        for one in all.iter() {
            for other in all.iter() {
                let left = all.without(one).without(other);
                let most = if one == other { 1 } else { 2 };
                assert!(spread(&plan, left) <= most, "{left:?}: {:?}", shares(&plan, left));
            }
        }
    }
}

#[test]
fn shares_follow_the_powers_of_the_reference() {
    let all: MemberSet = [0, 1, 2].map(Slot).into_iter().collect();
    let of = |powers: &[u32], sharing| shares(&Plan::new(powers), sharing);
    assert_eq!(of(&[1, 1, 1], all), [86, 85, 85]);
    assert_eq!(of(&[3, 1, 1], all), [154, 51, 51]);
    assert_eq!(of(&[0, 1, 1], all), [0, 128, 128]);
    // A strict chain: a deputy gets nothing while its principal shares.
    let chain = [1, 64, 4096];
    assert_eq!(of(&chain, all), [0, 0, 256]);
    assert_eq!(of(&chain, all.without(Slot(2))), [0, 256]);
    assert_eq!(of(&chain, MemberSet::only(Slot(0))), [256]);
}

#[test]
fn a_group_whose_nodes_have_no_power_belongs_to_nobody() {
    let plan = Plan::new(&[0, 0]);
    assert_eq!(plan.owners(MemberSet(0b11)), [None; BUCKETS]);
    assert_eq!(equal(2).owners(MemberSet::EMPTY), [None; BUCKETS]);
}

fn farm() -> impl Strategy<Value = (Vec<u32>, MemberSet, Slot)> {
    let power =
        prop_oneof![4 => Just(1u32), 1 => Just(0), 2 => 1u32..5, 1 => Just(64), 1 => Just(4096)];
    prop::collection::vec(power, 1..12).prop_flat_map(|powers| {
        let nodes = powers.len() as u8;
        (Just(powers), 1..1u64 << nodes, 0..nodes)
            .prop_map(|(powers, sharing, lost)| (powers, MemberSet(sharing), Slot(lost)))
    })
}

proptest! {
    #[test]
    fn every_bucket_has_exactly_one_owner_among_the_sharing_members(
        (powers, sharing, _) in farm()
    ) {
        let plan = Plan::new(&powers);
        let someone = !plan.hosts().intersection(sharing).is_empty();
        for owner in plan.owners(sharing) {
            prop_assert_eq!(owner.is_some(), someone);
            prop_assert!(owner.is_none_or(|owner| sharing.contains(owner)));
        }
        let total: u32 = shares(&plan, sharing).iter().sum();
        prop_assert_eq!(total, if someone { BUCKETS as u32 } else { 0 });
    }

    #[test]
    fn a_loss_moves_exactly_the_buckets_of_the_lost_node((powers, sharing, lost) in farm()) {
        let plan = Plan::new(&powers);
        let before = plan.owners(sharing.with(lost));
        let after = plan.owners(sharing.without(lost));
        for (before, after) in before.into_iter().zip(after) {
            prop_assert_eq!(before != after, before == Some(lost));
        }
    }

    #[test]
    fn a_return_moves_buckets_to_the_returning_node_only((powers, sharing, back) in farm()) {
        let plan = Plan::new(&powers);
        let before = plan.owners(sharing.without(back));
        let after = plan.owners(sharing.with(back));
        for (before, after) in before.into_iter().zip(after) {
            prop_assert!(before == after || after == Some(back));
        }
    }

    #[test]
    fn the_map_does_not_depend_on_how_the_membership_came_about(
        (powers, sharing, lost) in farm(), losses in prop::collection::vec(0u8..12, 0..6)
    ) {
        // Another node of the farm has its own plan and another history of the same view.
        let (one, other) = (Plan::new(&powers), Plan::new(&powers));
        let mut view = sharing.with(lost);
        for slot in losses {
            view = view.without(Slot(slot));
            other.owners(view);
        }
        prop_assert_eq!(one.owners(sharing), other.owners(sharing));
    }

    #[test]
    fn shares_are_proportional_to_powers(powers in prop::collection::vec(1u32..9, 1..7)) {
        let plan = Plan::new(&powers);
        let all: MemberSet = (0..powers.len() as u8).map(Slot).collect();
        let total: u32 = powers.iter().sum();
        for (share, power) in shares(&plan, all).into_iter().zip(&powers) {
            let exact = f64::from(*power) * BUCKETS as f64 / f64::from(total);
            prop_assert!((f64::from(share) - exact).abs() < 1.0, "{share} of {exact}");
        }
    }
}
