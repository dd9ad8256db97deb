//! Marks come back after a restart until they are cleared.

use havre_core::replication::record::Location;
use tempfile::tempdir;

use super::*;

fn region(file: &str, index: u32) -> Item {
    Item::Region { file: Location::new(0, file.as_bytes()), index }
}

#[test]
fn marks_and_hints_come_back_until_they_are_cleared() {
    let dir = tempdir().expect("tempdir");
    let mut table = MarkTable::open(dir.path(), "marks").expect("open");
    let one = table.id(region("a", 0));
    let two = table.id(region("a", 1));
    let hint = Step::Renamed { from: Location::new(0, *b"a"), to: Location::new(0, *b"b") };
    table.hint(hint.clone());
    table.persist(&[one, two]).expect("durable");
    let mut table = MarkTable::open(dir.path(), "marks").expect("open");
    assert_eq!(table.marks().len(), 2);
    assert!(table.is_marked(&region("a", 1)));
    assert_eq!(table.hints(), [hint]);
    let marks = table.marks();
    table.clear(&marks);
    let table = MarkTable::open(dir.path(), "marks").expect("open");
    assert_eq!(table.marks(), []);
    assert_eq!(table.hints(), []);
}

#[test]
fn too_many_marks_become_one_for_everything() {
    let dir = tempdir().expect("tempdir");
    let mut table = MarkTable::open(dir.path(), "marks").expect("open");
    let long = "d".repeat(200);
    for batch in 0..50u32 {
        let marks: Vec<MarkId> =
            (0..1000).map(|n| table.id(region(&format!("{long}/{n}"), batch))).collect();
        table.persist(&marks).expect("durable");
        if table.is_everything() {
            break;
        }
    }
    assert!(table.is_everything());
    let table = MarkTable::open(dir.path(), "marks").expect("open");
    assert!(table.marks().contains(&MarkId::EVERYTHING));
}
