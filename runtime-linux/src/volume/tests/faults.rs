//! Disks that are full, and disks that lose what was written.

use std::{
    fs::{self, File, OpenOptions},
    io::Write as _,
    path::PathBuf,
};

use havre_core::{
    config::module::{Contract, WriteMode},
    effect::{Outcome, VolumeNews, VolumeRequest},
};
use tempfile::{TempDir, tempdir};

use super::{Node, Pair, Trust, needs_root, pattern, write_synced};

/// A small file system of its own, so that it can be full.
struct SmallDisk {
    mount: PathBuf,
    _image: TempDir,
}

impl SmallDisk {
    /// `None` where no loop device can be had.
    fn new(bytes: u64) -> Option<Self> {
        let image = tempdir().expect("tempdir");
        let file = image.path().join("disk");
        File::create(&file).expect("create").set_len(bytes).expect("set_len");
        let mount = image.path().join("mount");
        fs::create_dir(&mount).expect("mkdir");
        let run = |program: &str, arguments: &[&std::ffi::OsStr]| {
            std::process::Command::new(program)
                .args(arguments)
                .output()
                .is_ok_and(|output| output.status.success())
        };
        let made = run("mkfs.ext4", &["-q".as_ref(), "-F".as_ref(), file.as_os_str()])
            && run("mount", &["-o".as_ref(), "loop".as_ref(), file.as_os_str(), mount.as_os_str()]);
        made.then_some(Self { mount, _image: image })
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.mount).output();
    }
}

#[test]
fn a_full_disk_of_the_target_costs_the_replica_and_not_the_application() {
    if needs_root() {
        return;
    }
    let Some(disk) = SmallDisk::new(24 << 20) else {
        println!("skipped: no loop device");
        return;
    };
    let mut pair = Pair::new(Contract::Received, WriteMode::Back);
    pair.target = Node::new(
        disk.mount.clone(),
        Contract::Received,
        WriteMode::Back,
        pair.source.settings.listen,
    );
    let ballast = disk.mount.join(".havre");
    fs::create_dir(&ballast).expect("mkdir");
    write_synced(&ballast.join("ballast"), &vec![1; 12 << 20]);
    pair.source.boot();
    pair.serve();
    pair.admit(false);
    pair.follow();
    pair.in_sync();
    let path = pair.source.path("big");
    let writer = std::thread::spawn(move || {
        for n in 0..16u8 {
            let mut file = OpenOptions::new().create(true).append(true).open(&path).expect("open");
            file.write_all(&pattern(1 << 20, n)).expect("write");
            file.sync_all().expect("fsync");
        }
    });
    let reason = pair.source.wait_lost();
    assert!(reason.contains("No space"), "{reason}");
    pair.solo();
    writer.join().expect("the application goes on");
    let closed = pair.target.ask(VolumeRequest::Close { clean: false });
    assert!(matches!(closed, Outcome::Failed(_)), "a disk that failed is not closed cleanly");
    fs::remove_file(ballast.join("ballast")).expect("unlink");
    pair.admit(false);
    pair.follow();
    pair.in_sync();
    pair.assert_equal_at_the_end();
    drop(disk);
}

/// Bytes that are marked and equal on both nodes when a sync fails.
const MARKED: u64 = 4 << 20;

#[test]
fn what_a_target_could_not_sync_is_written_again_although_it_reads_as_equal() {
    if needs_root() {
        return;
    }
    let mut pair = Pair::running(Contract::Durable, WriteMode::Back);
    fs::create_dir(pair.source.path("d")).expect("mkdir");
    write_synced(&pair.source.path("d/big"), &pattern(MARKED as usize, 1));
    pair.target.settings.trust.fail_next(1);
    let path = pair.source.path("d/small");
    let writer = std::thread::spawn(move || write_synced(&path, b"small"));
    pair.source.wait_lost();
    pair.solo();
    writer.join().expect("the application goes on");
    pair.target.wait(|news| matches!(news, VolumeNews::Failed { .. }).then_some(()));
    // The next daemon of this machine knows it too.
    pair.target.crash();
    let note = pair.target.state.path().join("unsynced");
    pair.target.settings.trust = Trust::noted_in(note.clone());
    assert!(!pair.target.settings.trust.holds(), "the failure is noted");
    pair.admit(false);
    pair.follow();
    let copied = pair.in_sync();
    assert!(copied >= MARKED, "{copied} bytes were written again");
    assert!(pair.target.settings.trust.holds() && !note.exists(), "all is on the disk now");
    pair.assert_equal_at_the_end();
}

#[test]
fn a_source_whose_sync_failed_stops_and_is_written_again_by_the_other_node() {
    if needs_root() {
        return;
    }
    let mut pair = Pair::running(Contract::Durable, WriteMode::Back);
    fs::create_dir(pair.source.path("d")).expect("mkdir");
    write_synced(&pair.source.path("d/big"), &pattern(MARKED as usize, 2));
    let mut file = File::create(pair.source.path("d/small")).expect("create");
    file.write_all(b"small").expect("write");
    pair.source.settings.trust.fail_next(1);
    assert!(file.sync_all().is_err(), "the application learns that its data are not safe");
    assert!(file.sync_all().is_err(), "a later sync does not say otherwise");
    drop(file);
    pair.source.wait(|news| matches!(news, VolumeNews::Failed { .. }).then_some(()));
    assert!(!pair.source.settings.trust.holds());
    // The other node takes over, and this one follows.
    pair.source.ask_ok(VolumeRequest::Close { clean: false });
    pair.swap_roles();
    pair.generation += 1;
    pair.serve();
    pair.admit(false);
    pair.follow();
    let copied = pair.in_sync();
    assert!(copied >= MARKED, "{copied} bytes were written again");
    assert!(pair.target.settings.trust.holds());
    pair.assert_equal_at_the_end();
}

#[test]
fn a_source_that_cannot_trust_its_cache_keeps_every_mark() {
    if needs_root() {
        return;
    }
    for trusts in [true, false] {
        let mut pair = Pair::running(Contract::Received, WriteMode::Back);
        if !trusts {
            pair.source.crash();
            pair.source.settings.trust.fail_next(1);
            assert!(pair.source.settings.trust.heed(Ok(())).is_err());
            pair.source.boot();
            pair.generation += 1;
            pair.serve();
            pair.target.ask_ok(VolumeRequest::Close { clean: false });
            pair.admit(false);
            pair.follow();
            pair.in_sync();
        }
        write_synced(&pair.source.path("f"), &pattern(100_000, 3));
        pair.source.ask_ok(VolumeRequest::Close { clean: true });
        pair.target.crash();
        let name = format!("{}.intent", pair.source.settings.module);
        let table = super::super::marks::MarkTable::open(pair.source.state.path(), &name);
        let marks = table.expect("the log").marks();
        assert_eq!(marks.is_empty(), trusts, "{marks:?}");
    }
}

#[test]
fn an_application_gets_enospc_and_the_replica_stays_equal() {
    if needs_root() {
        return;
    }
    let Some(disk) = SmallDisk::new(16 << 20) else {
        println!("skipped: no loop device");
        return;
    };
    for write in [WriteMode::Back, WriteMode::Through] {
        let mut pair = Pair::new(Contract::Durable, write);
        let listen = pair.source.settings.listen;
        pair.source = Node::new(disk.mount.clone(), Contract::Durable, write, listen);
        pair.source.boot();
        pair.serve();
        pair.admit(true);
        pair.follow();
        pair.in_sync();
        let path = pair.source.path("big");
        let mut file = OpenOptions::new().create(true).append(true).open(&path).expect("open");
        let error = (0..64u8)
            .map(|n| file.write_all(&pattern(1 << 20, n)).and_then(|()| file.sync_all()))
            .find_map(Result::err)
            .expect("the disk has no room for 64 MiB");
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull, "{write:?}: {error}");
        drop(file);
        fs::remove_file(&path).expect("room is made");
        write_synced(&pair.source.path("after"), &pattern(1 << 20, 9));
        fs::remove_file(pair.source.path("after")).expect("unlink");
        write_synced(&pair.source.path("small"), b"the application goes on");
        pair.assert_equal_at_the_end();
    }
    drop(disk);
}
