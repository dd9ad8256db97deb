//! Examples and properties of the election.

use proptest::prelude::*;

use super::*;

const ALL: MemberSet = MemberSet(0b1111);

fn own(slot: u8) -> Own {
    Own {
        slot: Slot(slot),
        ready: true,
        draining: false,
        listened: true,
        leader: None,
        sharing: MemberSet::EMPTY,
        holds: false,
    }
}

fn other(slot: u8) -> Other {
    Other {
        slot: Slot(slot),
        ready: true,
        listening: false,
        draining: false,
        hears: ALL,
        leader: None,
        sharing: MemberSet::EMPTY,
    }
}

fn led_by(slot: u8, sharing: u64) -> View {
    View { leader: Some(Slot(slot)), sharing: MemberSet(sharing) }
}

#[test]
fn a_node_alone_leads_itself_once_it_has_listened() {
    assert_eq!(elect(own(2), &[]), led_by(2, 0b100));
    assert_eq!(elect(Own { listened: false, ..own(2) }, &[]), View::default());
}

#[test]
fn the_lowest_candidate_leads_and_the_others_wait_for_it() {
    assert_eq!(elect(own(0), &[other(1), other(2)]), led_by(0, 0b111));
    assert_eq!(elect(own(1), &[other(0), other(2)]), View::default());
}

#[test]
fn a_returning_node_follows_the_leader_that_is_there() {
    let leader = Other { leader: Some(Slot(1)), sharing: MemberSet(0b110), ..other(1) };
    assert_eq!(elect(own(0), &[leader, other(2)]), led_by(1, 0b110));
}

#[test]
fn of_two_leaders_that_meet_the_higher_yields() {
    let high = Other { leader: Some(Slot(2)), sharing: MemberSet(0b100), ..other(2) };
    let low = Own { leader: Some(Slot(1)), sharing: MemberSet(0b10), ..own(1) };
    assert_eq!(elect(low, &[high]), led_by(1, 0b110));
    let low = Other { leader: Some(Slot(1)), sharing: MemberSet(0b110), ..other(1) };
    let high = Own { leader: Some(Slot(2)), sharing: MemberSet(0b100), ..own(2) };
    assert_eq!(elect(high, &[low]), led_by(1, 0b110));
}

#[test]
fn what_a_silent_leader_said_stands_until_its_time_is_up() {
    let held = Own { leader: Some(Slot(0)), sharing: MemberSet(0b111), holds: true, ..own(1) };
    assert_eq!(elect(held, &[other(2)]), led_by(0, 0b111));
    assert_eq!(elect(Own { holds: false, ..held }, &[other(2)]), led_by(1, 0b110));
}

#[test]
fn one_that_the_leader_does_not_hear_takes_nothing_while_others_follow_it() {
    let follower = Other { leader: Some(Slot(0)), sharing: MemberSet(0b110), ..other(2) };
    assert_eq!(elect(own(1), &[follower]), View::default());
    // The follower has lost it too: the lowest of those left leads.
    let lost = Other { hears: MemberSet(0b110), ..follower };
    assert_eq!(elect(own(1), &[lost]), led_by(1, 0b110));
}

#[test]
fn heartbeats_in_one_direction_are_an_isolation() {
    let deaf = Other { hears: MemberSet(0b1), leader: Some(Slot(0)), ..other(0) };
    assert_eq!(elect(own(1), &[deaf]), led_by(1, 0b10));
}

#[test]
fn a_node_that_still_listens_is_not_counted() {
    let listening = Other { listening: true, ..other(1) };
    assert_eq!(elect(own(0), &[listening]), led_by(0, 0b1));
    // It is one to wait for nevertheless.
    let listening = Other { listening: true, ..other(0) };
    assert_eq!(elect(own(1), &[listening]), View::default());
}

#[test]
fn a_draining_node_leads_only_if_nobody_else_can() {
    let draining = Own { draining: true, ..own(0) };
    assert_eq!(elect(draining, &[other(1)]), View::default());
    assert_eq!(elect(draining, &[]), led_by(0, 0));
}

/// A farm in which everybody hears everybody, in any state a history may have left behind.
fn farm() -> impl Strategy<Value = Vec<Own>> {
    let member = (any::<[bool; 2]>(), proptest::option::of(0u8..6));
    prop::collection::vec(member, 1..6).prop_map(|members| {
        let nodes = members.len() as u8;
        let member = |(slot, ([ready, draining], leader)): (u8, ([bool; 2], Option<u8>))| Own {
            ready,
            draining,
            leader: leader.filter(|leader| *leader < nodes).map(Slot),
            ..own(slot)
        };
        (0..).zip(members).map(member).collect()
    })
}

fn round(farm: &[Own]) -> Vec<Own> {
    let everybody: MemberSet = farm.iter().map(|own| own.slot).collect();
    let seen = |own: &Own| Other {
        slot: own.slot,
        ready: own.ready,
        listening: false,
        draining: own.draining,
        hears: everybody,
        leader: own.leader,
        sharing: own.sharing,
    };
    let decide = |own: &Own| {
        let others: Vec<_> = farm.iter().filter(|o| o.slot != own.slot).map(seen).collect();
        let view = elect(*own, &others);
        Own { leader: view.leader, sharing: view.sharing, ..*own }
    };
    farm.iter().map(decide).collect()
}

proptest! {
    #[test]
    fn members_that_hear_each_other_agree_after_a_few_rounds(farm in farm()) {
        let mut now = farm;
        for _ in 0..4 {
            now = round(&now);
        }
        let ready: Vec<_> = now.iter().filter(|own| own.ready).collect();
        let expected: MemberSet =
            ready.iter().filter(|own| !own.draining).map(|own| own.slot).collect();
        for own in &ready {
            prop_assert_eq!(own.leader, ready[0].leader, "{:?}", now);
            prop_assert_eq!(own.sharing, expected, "{:?}", now);
        }
        prop_assert_eq!(&round(&now), &now, "an agreement stands");
    }
}
