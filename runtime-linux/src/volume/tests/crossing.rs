//! Entries that are moved between what is replicated and what is not: for the other node they
//! come and go, and the connection stays.

use std::{
    fs::{self, File, OpenOptions},
    io::Write as _,
    os::unix::fs::{PermissionsExt as _, symlink},
};

use havre_core::{
    config::module::{Contract, WriteMode},
    effect::VolumeNews,
};

use super::{Pair, needs_root, pattern, write_synced};

/// Fails if the source lost its target.
#[track_caller]
fn assert_never_lost(pair: &mut Pair) {
    let (_, news) = pair.source.running.as_mut().expect("it runs");
    while let Ok(one) = news.try_recv() {
        assert!(!matches!(one, VolumeNews::PeerLost { .. }), "{one:?}");
    }
}

#[test]
fn a_file_saved_under_an_excluded_name_and_renamed_arrives_with_its_content() {
    if needs_root() {
        return;
    }
    for write in [WriteMode::Back, WriteMode::Through] {
        let mut pair = Pair::running(Contract::Durable, write);
        let source = |name: &str| pair.source.dir.join(name);
        write_synced(&source("doc"), &pattern(9_000, 1));
        fs::hard_link(source("doc"), source("old")).expect("link");
        for (round, bytes) in [(2u8, 300_000), (3, 0), (4, 5_000)] {
            write_synced(&source("doc.tmp"), &pattern(bytes, round));
            let mode = fs::Permissions::from_mode(0o640);
            fs::set_permissions(source("doc.tmp"), mode).expect("chmod");
            let flags = rustix::fs::XattrFlags::empty();
            rustix::fs::setxattr(source("doc.tmp"), "user.k", b"v", flags).expect("setxattr");
            fs::rename(source("doc.tmp"), source("doc")).expect("rename");
            File::open(&pair.source.dir).expect("open").sync_all().expect("fsync");
            let arrived = fs::read(pair.target.path("doc")).expect("it is there");
            assert!(arrived == pattern(bytes, round), "{} bytes", arrived.len());
        }
        let kept = fs::read(pair.target.path("old")).expect("there");
        assert!(kept == pattern(9_000, 1), "another name keeps the replaced content");
        symlink("doc", source("s.tmp")).expect("symlink");
        fs::rename(source("s.tmp"), source("s")).expect("rename");
        assert_never_lost(&mut pair);
        pair.assert_equal_at_the_end();
    }
}

#[test]
fn a_file_renamed_to_an_excluded_name_goes_and_open_files_are_followed() {
    if needs_root() {
        return;
    }
    let mut pair = Pair::running(Contract::Durable, WriteMode::Through);
    let source = |name: &str| pair.source.dir.join(name);
    fs::create_dir(source("d")).expect("mkdir");
    write_synced(&source("d/f"), b"below");
    let mut log = OpenOptions::new().create(true).append(true).open(source("log")).expect("open");
    log.write_all(b"one ").expect("write");
    log.sync_all().expect("fsync");
    fs::rename(source("log"), source("log.tmp")).expect("rename");
    log.write_all(b"two ").expect("write");
    log.sync_all().expect("fsync");
    assert!(!pair.target.path("log").exists(), "it is gone there");
    fs::rename(source("log.tmp"), source("log2")).expect("rename");
    log.write_all(b"three").expect("write");
    log.sync_all().expect("fsync");
    let arrived = fs::read(pair.target.path("log2")).expect("it is there");
    assert_eq!(String::from_utf8_lossy(&arrived), "one two three");
    fs::rename(source("d"), source("d.tmp")).expect("rename");
    File::open(&pair.source.dir).expect("open").sync_all().expect("fsync");
    assert!(!pair.target.path("d").exists(), "a directory goes with what is in it");
    drop(log);
    fs::remove_dir_all(source("d.tmp")).expect("removed");
    assert_never_lost(&mut pair);
    pair.assert_equal_at_the_end();
}
