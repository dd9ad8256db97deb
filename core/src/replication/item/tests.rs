//! Items, steps and answers survive the wire, and nothing hostile does.

use proptest::prelude::*;

use super::*;

fn entry(name: &[u8], kind: Kind) -> Entry {
    let modified = FileTime { seconds: 7, nanoseconds: 8 };
    let attributes = Attributes { mode: 0o644, uid: 1, gid: 2, modified };
    Entry { name: name.to_vec(), kind, attributes, xattrs: [3; 16] }
}

fn list(entries: Vec<Entry>) -> Step {
    Step::List { directory: Location::new(0, *b"d"), after: Vec::new(), ends: true, entries }
}

#[test]
fn steps_items_and_answers_come_back_as_they_were() {
    let file = Kind::File { size: 5, identity: Some(9), digest: Some([1; 16]) };
    let step = list(vec![entry(b"a", file), entry(b"b", Kind::Symlink { target: b"x".to_vec() })]);
    assert_eq!(Step::decode(&step.encode()), Ok(step));
    let item = Item::Region { file: Location::new(1, *b"d/f"), index: 4 };
    assert_eq!(Item::decode(&item.encode()), Ok(item));
    let answer = Answer::Wanted(vec![(0, Want::Content), (1, Want::Xattrs)]);
    assert_eq!(Answer::decode(&answer.encode()), Ok(answer));
}

#[test]
fn the_encoding_of_an_item_is_fixed() {
    let item = Item::Region { file: Location::new(1, *b"d/f"), index: 4 };
    assert_eq!(item.encode(), [0, 1, 3, b'd', b'/', b'f', 4]);
    assert_eq!(Item::Tree { directory: Location::new(0, *b"") }.encode(), [4, 0, 0]);
}

#[test]
fn names_and_places_that_lead_out_are_refused() {
    for name in [&b".."[..], b"a/b", b"", b"a\0"] {
        let step = list(vec![entry(name, Kind::Directory)]);
        assert!(Step::decode(&step.encode()).is_err(), "{}", name.escape_ascii());
    }
    let step = Step::Create { file: Location::new(0, *b"../x") };
    assert!(Step::decode(&step.encode()).is_err());
    let item = Item::File { file: Location::new(0, *b"/x") };
    assert!(Item::decode(&item.encode()).is_err());
}

#[test]
fn entries_out_of_order_are_refused() {
    let step = list(vec![entry(b"b", Kind::Fifo), entry(b"a", Kind::Fifo)]);
    assert!(Step::decode(&step.encode()).is_err());
}

proptest! {
    #[test]
    fn any_bytes_decode_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = (Step::decode(&bytes), Item::decode(&bytes), Answer::decode(&bytes));
    }
}
