//! The table of marks, by example and against a model of every change ever made.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{BatchId, Intent, MarkId};
use crate::ids::Seq;

#[test]
fn the_first_change_under_a_mark_waits_for_its_batch_and_the_next_one_does_not() {
    let mut intent = Intent::default();
    assert_eq!(intent.touch(MarkId(7), None), Some(BatchId(1)));
    assert_eq!(intent.take_batch(), Some((BatchId(1), vec![MarkId(7)])));
    assert_eq!(intent.touch(MarkId(7), None), Some(BatchId(1)));
    assert_eq!(intent.touch(MarkId(8), None), Some(BatchId(2)));
    assert_eq!(intent.take_batch(), None, "one batch at a time");
    intent.durable(BatchId(1));
    assert_eq!(intent.touch(MarkId(7), None), None);
    assert_eq!(intent.take_batch(), Some((BatchId(2), vec![MarkId(8)])));
}

#[test]
fn a_difference_of_unknown_extent_is_not_healed_by_a_later_change() {
    let mut intent = Intent::recovered([MarkId(1)]);
    intent.touch(MarkId(1), Some(Seq(3)));
    intent.applied(MarkId(1), Some(Seq(4)));
    assert_eq!(intent.clear(Seq(100)), []);
    intent.copied(MarkId(1), Seq(5));
    assert_eq!(intent.clear(Seq(4)), []);
    assert_eq!(intent.clear(Seq(5)), [MarkId(1)]);
}

#[test]
fn what_was_shipped_and_forgotten_keeps_its_marks() {
    let mut intent = Intent::default();
    intent.touch(MarkId(1), Some(Seq(0)));
    let batch = intent.take_batch().map(|(batch, _)| batch);
    intent.durable(batch.expect("a mark is new"));
    intent.applied(MarkId(1), Some(Seq(1)));
    intent.unsettle();
    assert_eq!(intent.clear(Seq(100)), []);
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Touch(u64),
    Apply(u64, bool),
    Refuse(u64),
    Copy(u64),
    Persist,
    Durable,
    Clear(u64),
    Unsettle,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let mark = 0_u64..4;
    let one = prop_oneof![
        mark.clone().prop_map(Step::Touch),
        (mark.clone(), any::<bool>()).prop_map(|(mark, shipped)| Step::Apply(mark, shipped)),
        mark.clone().prop_map(Step::Refuse),
        mark.prop_map(Step::Copy),
        Just(Step::Persist),
        Just(Step::Durable),
        (0_u64..40).prop_map(Step::Clear),
        Just(Step::Unsettle),
    ];
    prop::collection::vec(one, 0..120)
}

proptest! {
    /// The model holds, for each mark, the last position of the stream that heals it, or that
    /// nothing does, and the changes under way.
    #[test]
    fn a_mark_is_cleared_only_when_nothing_under_it_can_differ(steps in steps()) {
        let mut intent = Intent::default();
        let mut model: BTreeMap<u64, (u32, Option<u64>)> = BTreeMap::new();
        let (mut seq, mut writing) = (0_u64, None);
        for step in steps {
            match step {
                Step::Touch(mark) => {
                    intent.touch(MarkId(mark), Some(Seq(seq)));
                    model.entry(mark).or_insert((0, Some(seq))).0 += 1;
                }
                Step::Apply(mark, shipped) => {
                    let Some(known) = model.get_mut(&mark).filter(|known| known.0 > 0) else {
                        continue;
                    };
                    seq += 1;
                    intent.applied(MarkId(mark), shipped.then_some(Seq(seq)));
                    known.0 -= 1;
                    known.1 = if shipped { known.1.map(|_| seq) } else { None };
                }
                Step::Refuse(mark) => {
                    if let Some(known) = model.get_mut(&mark).filter(|known| known.0 > 0) {
                        intent.unchanged(MarkId(mark));
                        known.0 -= 1;
                    }
                }
                Step::Copy(mark) => {
                    if let Some(known) = model.get_mut(&mark) {
                        seq += 1;
                        intent.copied(MarkId(mark), Seq(seq));
                        known.1 = Some(seq);
                    }
                }
                Step::Persist => writing = intent.take_batch().map(|(batch, _)| batch).or(writing),
                Step::Durable => {
                    if let Some(batch) = writing.take() {
                        intent.durable(batch);
                    }
                }
                Step::Clear(upto) => {
                    for mark in intent.clear(Seq(upto)) {
                        let (changes, healed) = model.remove(&mark.0).expect("it was marked");
                        prop_assert_eq!(changes, 0);
                        prop_assert!(healed.is_some_and(|healed| healed <= upto));
                    }
                }
                Step::Unsettle => {
                    intent.unsettle();
                    model.values_mut().for_each(|known| known.1 = None);
                }
            }
            let marks: Vec<u64> = intent.marks().map(|mark| mark.0).collect();
            prop_assert_eq!(marks, model.keys().copied().collect::<Vec<_>>());
        }
    }
}
