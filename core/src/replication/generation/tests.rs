//! Properties of the comparison of two copies, against a model that forgets nothing.

use proptest::prelude::*;

use super::{ANCESTORS_MAX, CopyState, Generation, Lineage, Origin, Relation, compare};
use crate::ids::NodeId;

/// What happens to two copies.
#[derive(Debug, Clone, Copy)]
enum Happening {
    /// The first or second one goes on alone.
    Advance(bool),
    /// The first or second one is resynchronised from the other.
    Adopt(bool),
}

fn happenings() -> impl Strategy<Value = Vec<Happening>> {
    let one = prop_oneof![
        any::<bool>().prop_map(Happening::Advance),
        any::<bool>().prop_map(Happening::Adopt),
    ];
    prop::collection::vec(one, 0..ANCESTORS_MAX)
}

/// Two copies with this history, and everything that each of them ever was.
fn live(happenings: &[Happening]) -> [(Lineage, Vec<Generation>); 2] {
    let mut copies = [(Lineage::blank(), Vec::new()), (Lineage::blank(), Vec::new())];
    for (nonce, happening) in happenings.iter().enumerate() {
        match *happening {
            Happening::Advance(which) => {
                let (lineage, past) = &mut copies[usize::from(which)];
                let creator = NodeId(u16::from(which));
                let generation = lineage.successor(creator, nonce as u64, Origin::Solo);
                lineage.advance(generation);
                past.push(generation);
            }
            Happening::Adopt(which) => {
                let source = copies[usize::from(!which)].clone();
                let (lineage, past) = &mut copies[usize::from(which)];
                lineage.adopt(&source.0);
                *past = source.1;
            }
        }
    }
    copies
}

fn mirrored(relation: Relation) -> Relation {
    match relation {
        Relation::LocalNewer => Relation::RemoteNewer,
        Relation::RemoteNewer => Relation::LocalNewer,
        same => same,
    }
}

proptest! {
    #[test]
    fn generation_relation_is_antisymmetric(history in happenings()) {
        let [(a, _), (b, _)] = live(&history);
        prop_assert_eq!(compare(&a, &b), mirrored(compare(&b, &a)));
    }

    #[test]
    fn generation_relation_is_reflexive(history in happenings()) {
        let [(a, _), _] = live(&history);
        let expected = if a.current.is_none() { Relation::BothBlank } else { Relation::Same };
        prop_assert_eq!(compare(&a, &a), expected);
    }

    #[test]
    fn generation_relation_is_that_of_the_whole_histories(history in happenings()) {
        let [(a, past_a), (b, past_b)] = live(&history);
        let expected = match (past_a.last(), past_b.last()) {
            (None, None) => Relation::BothBlank,
            (Some(_), None) => Relation::LocalNewer,
            (None, Some(_)) => Relation::RemoteNewer,
            (Some(x), Some(y)) if x == y => Relation::Same,
            (Some(_), Some(y)) if past_a.contains(y) => Relation::LocalNewer,
            (Some(x), Some(_)) if past_b.contains(x) => Relation::RemoteNewer,
            _ if past_a.iter().any(|x| past_b.contains(x)) => Relation::Diverged,
            _ => Relation::Unrelated,
        };
        prop_assert_eq!(compare(&a, &b), expected);
    }

    #[test]
    fn a_resynchronised_copy_equals_its_source_and_is_older_once_the_source_goes_on(
        history in happenings()
    ) {
        let [(mut source, _), (mut target, _)] = live(&history);
        source.advance(source.successor(NodeId(0), 1_000, Origin::Forced));
        target.adopt(&source);
        prop_assert_eq!(compare(&source, &target), Relation::Same);
        prop_assert_eq!(target.copy, CopyState::Consistent);
        source.advance(source.successor(NodeId(0), 1_001, Origin::Solo));
        prop_assert_eq!(compare(&source, &target), Relation::LocalNewer);
    }

    #[test]
    fn generation_relation_survives_any_number_of_generations(count in 0_u64..60) {
        let mut old = Lineage::blank();
        old.advance(old.successor(NodeId(0), 0, Origin::Forced));
        let mut new = old.clone();
        for nonce in 0..count {
            new.advance(new.successor(NodeId(1), nonce + 1, Origin::Failover));
        }
        let expected = match count as usize {
            0 => Relation::Same,
            1..=ANCESTORS_MAX => Relation::LocalNewer,
            _ => Relation::Unrelated,
        };
        prop_assert_eq!(compare(&new, &old), expected);
        prop_assert!(new.ancestors.len() <= ANCESTORS_MAX);
    }
}
