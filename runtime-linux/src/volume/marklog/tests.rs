//! The intent log keeps what it acknowledged, across torn tails, rot and compaction.

use std::{
    fs,
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    path::Path,
};

use proptest::prelude::*;
use tempfile::tempdir;

use super::*;

const CAPACITY: u64 = 256 * 1024;

fn open(dir: &Path) -> Loaded {
    MarkLog::open(dir, "marks", CAPACITY).expect("the log opens")
}

fn damage(path: &Path, offset: u64) {
    let mut file = OpenOptions::new().read(true).write(true).open(path).expect("the file is there");
    let mut byte = [0u8];
    file.seek(SeekFrom::Start(offset)).expect("seek");
    file.read_exact(&mut byte).expect("read");
    byte[0] ^= 0x40;
    file.seek(SeekFrom::Start(offset)).expect("seek");
    file.write_all(&byte).expect("write");
}

/// The file that holds the newest generation.
fn active_path(log: &MarkLog, dir: &Path) -> PathBuf {
    file_path(dir, "marks", if log.active == 0 { 'a' } else { 'b' })
}

#[test]
fn appended_records_are_found_again_in_order() {
    let dir = tempdir().expect("tempdir");
    let mut log = open(dir.path()).log;
    log.append(&["one", "two"]).expect("append");
    log.append(&["three"]).expect("append");
    let loaded = open(dir.path());
    assert!(!loaded.rotten);
    assert_eq!(loaded.records, [b"one".to_vec(), b"two".to_vec(), b"three".to_vec()]);
}

#[test]
fn a_torn_tail_loses_only_the_unacknowledged_batch() {
    let dir = tempdir().expect("tempdir");
    let mut log = open(dir.path()).log;
    log.append(&["kept"]).expect("append");
    let tail = log.next_block;
    log.append(&[vec![7u8; 3 * BLOCK]]).expect("append");
    let path = active_path(&log, dir.path());
    damage(&path, ((tail + 2) * BLOCK) as u64);
    let loaded = open(dir.path());
    assert!(!loaded.rotten, "a torn tail is no rot");
    assert_eq!(loaded.records, [b"kept".to_vec()]);
    let mut log = loaded.log;
    log.append(&["after"]).expect("append");
    assert_eq!(open(dir.path()).records, [b"kept".to_vec(), b"after".to_vec()]);
}

#[test]
fn rot_in_an_acknowledged_batch_is_detected() {
    let dir = tempdir().expect("tempdir");
    let mut log = open(dir.path()).log;
    for n in 0..5 {
        log.append(&[format!("record {n}")]).expect("append");
    }
    damage(&active_path(&log, dir.path()), (3 * BLOCK + FRAME_HEAD + 6) as u64);
    assert!(open(dir.path()).rotten);
}

#[test]
fn rot_in_the_newest_header_is_detected() {
    let dir = tempdir().expect("tempdir");
    let mut log = open(dir.path()).log;
    log.append(&["old"]).expect("append");
    log.replace(&["new"]).expect("replace");
    damage(&active_path(&log, dir.path()), 9);
    assert!(open(dir.path()).rotten);
}

#[test]
fn a_missing_file_is_detected() {
    let dir = tempdir().expect("tempdir");
    let mut log = open(dir.path()).log;
    log.append(&["one"]).expect("append");
    log.replace(&["two"]).expect("replace");
    fs::remove_file(active_path(&log, dir.path())).expect("remove");
    assert!(open(dir.path()).rotten);
}

#[test]
fn a_full_log_refuses_and_takes_a_snapshot() {
    let dir = tempdir().expect("tempdir");
    let mut log = open(dir.path()).log;
    let mut accepted = 0;
    let full = loop {
        match log.append(&[format!("{accepted}")]) {
            Ok(()) => accepted += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(full, AppendError::Full), "{full}");
    assert_eq!(accepted, CAPACITY / BLOCK as u64 - 1);
    log.replace(&["snapshot"]).expect("replace");
    log.append(&["more"]).expect("append");
    let loaded = open(dir.path());
    assert!(!loaded.rotten);
    assert_eq!(loaded.records, [b"snapshot".to_vec(), b"more".to_vec()]);
}

#[test]
fn a_snapshot_that_does_not_fit_leaves_the_log_as_it_was() {
    let dir = tempdir().expect("tempdir");
    let mut log = open(dir.path()).log;
    log.append(&["kept"]).expect("append");
    let too_much = vec![vec![1u8; 100_000]; 4];
    assert!(matches!(log.replace(&too_much), Err(AppendError::Full)));
    log.append(&["more"]).expect("append");
    let loaded = open(dir.path());
    assert!(!loaded.rotten);
    assert_eq!(loaded.records, [b"kept".to_vec(), b"more".to_vec()]);
    let mut log = loaded.log;
    log.replace(&["small"]).expect("replace");
    assert_eq!(open(dir.path()).records, [b"small".to_vec()]);
}

#[derive(Debug, Clone)]
enum Step {
    Append(Vec<Vec<u8>>),
    Replace(Vec<Vec<u8>>),
    Reopen,
    CutAppend(Vec<Vec<u8>>, usize),
}

fn records() -> impl Strategy<Value = Vec<Vec<u8>>> {
    prop::collection::vec(prop::collection::vec(any::<u8>(), 0..9000), 1..4)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => records().prop_map(Step::Append),
        1 => records().prop_map(Step::Replace),
        1 => Just(Step::Reopen),
        2 => (records(), 0usize..8).prop_map(|(r, cut)| Step::CutAppend(r, cut)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Power cuts inside an append lose whole batches from the end of that append, nothing else.
    #[test]
    fn the_log_equals_its_model_after_cuts(steps in prop::collection::vec(step(), 1..25)) {
        let dir = tempdir().expect("tempdir");
        let mut log = open(dir.path()).log;
        let mut model: Vec<Vec<u8>> = Vec::new();
        for step in steps {
            match step {
                Step::Append(batch) => match log.append(&batch) {
                    Ok(()) => model.extend(batch),
                    Err(AppendError::Full) => {
                        model.clear();
                        log.replace::<&[u8]>(&[]).expect("an empty snapshot fits");
                    }
                    Err(error) => panic!("{error}"),
                },
                Step::Replace(batch) => {
                    log.replace(&batch).expect("a small snapshot fits");
                    model = batch;
                }
                Step::Reopen => {}
                Step::CutAppend(batch, cut) => {
                    let (first, path) = (log.next_block, active_path(&log, dir.path()));
                    if log.append(&batch).is_ok() {
                        let file = OpenOptions::new().write(true).open(&path).expect("open");
                        let blocks = log.next_block - first;
                        let kept = cut % blocks;
                        file.write_all_at(
                            &vec![0; (blocks - kept) * BLOCK],
                            ((first + kept) * BLOCK) as u64,
                        ).expect("write");
                    } else {
                        model.clear();
                        log.replace::<&[u8]>(&[]).expect("an empty snapshot fits");
                    }
                }
            }
            let loaded = open(dir.path());
            prop_assert!(!loaded.rotten);
            prop_assert_eq!(&loaded.records, &model);
            log = loaded.log;
        }
    }
}
