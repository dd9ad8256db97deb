//! Tests of durable records.

use std::fs;

use havre_core::{
    effect::{ModuleRecord, Record},
    ids::ModuleId,
    replication::generation::CopyState,
};

use super::*;

fn scratch() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(dir.path().join("records")).expect("opens");
    (dir, store)
}

#[test]
fn a_record_is_read_as_it_was_written_last() {
    let (_dir, store) = scratch();
    assert_eq!(store.read("a").expect("reads"), None);
    store.write("a", b"one").expect("writes");
    store.write("a", b"two").expect("writes");
    store.write("b", b"").expect("writes");
    assert_eq!(store.read("a").expect("reads").as_deref(), Some(&b"two"[..]));
    assert_eq!(store.read("b").expect("reads").as_deref(), Some(&b""[..]));
    assert_eq!(store.names().expect("lists"), ["a", "b"]);
}

#[test]
fn every_flipped_bit_and_every_cut_of_a_record_is_noticed() {
    let (dir, store) = scratch();
    store.write("a", b"{\"x\":1}").expect("writes");
    let path = dir.path().join("records/a.record");
    let whole = fs::read(&path).expect("reads");
    for position in 0..whole.len() {
        let mut rotten = whole.clone();
        rotten[position] ^= 0x10;
        fs::write(&path, &rotten).expect("writes");
        assert!(matches!(store.read("a"), Err(StoreError::Damaged(_))), "byte {position}");
        fs::write(&path, &whole[..position]).expect("writes");
        assert!(matches!(store.read("a"), Err(StoreError::Damaged(_))), "cut at {position}");
    }
}

#[test]
fn a_damaged_module_record_counts_as_half_copied_and_is_named() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let records = ModuleRecords::open(dir.path()).expect("opens");
    let mut record = ModuleRecord::blank();
    record.started = true;
    for module in [ModuleId(1), ModuleId(2)] {
        records.save(&Record::Module { module, record: record.clone() }).expect("saves");
    }
    fs::write(dir.path().join("records/module-2.record"), b"rot").expect("writes");
    let (saved, complaints) = records.load().expect("loads");
    assert_eq!(saved.modules[&ModuleId(1)], record);
    assert_eq!(saved.modules[&ModuleId(2)].lineage.copy, CopyState::Inconsistent);
    assert!(complaints.len() == 1 && complaints[0].contains("module-2"), "{complaints:?}");
}

#[test]
fn two_daemons_cannot_share_a_state_directory() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let first = StateLock::take(dir.path()).expect("the first daemon gets it");
    assert!(matches!(StateLock::take(dir.path()), Err(StoreError::InUse(_))));
    drop(first);
    StateLock::take(dir.path()).expect("free again");
}

#[test]
fn the_number_of_runs_only_grows() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let first = next_run(dir.path(), u64::MAX / 2).expect("draws");
    assert_eq!(first, u64::MAX / 2);
    assert_eq!(next_run(dir.path(), 0).expect("draws"), first + 1);
}

#[cfg(unix)]
#[test]
fn secrets_and_records_can_be_read_by_their_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let (dir, store) = scratch();
    let path = dir.path().join("secret");
    fs::write(&path, b"old and open").expect("writes");
    write_private(&path, b"secret").expect("writes");
    store.write("a", b"x").expect("writes");
    for path in [path, dir.path().join("records/a.record")] {
        let mode = fs::metadata(&path).expect("exists").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", path.display());
    }
}
