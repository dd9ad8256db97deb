//! The mount outlives its daemon: applications see a pause, no error and no lost data.

mod fs_support;

use std::{
    fs,
    io::{Read, Seek, SeekFrom, Write},
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use fs_support::{Served, assert_same_trees, is_root, pair, temporary, wait_for};
use havre_linux::holder::HolderClient;
use rustix::fs::{CWD, RenameFlags};

const CRASHES: u32 = 5;
/// What each application does at least between two crashes.
const STEPS: u64 = 3;

#[test]
#[ignore = "not a test: started by the others"]
fn helper_process() {
    fs_support::help();
}

/// Writes numbered blocks, each made safe and read back.
fn write_blocks(top: &Path, stop: &AtomicBool, done: &AtomicU64) -> u64 {
    let mut file = fs::OpenOptions::new()
        .create_new(true)
        .read(true)
        .write(true)
        .open(top.join("blocks"))
        .expect("create");
    let mut count = 0u64;
    while !stop.load(Ordering::Relaxed) {
        let block = [(count % 251) as u8; 4096];
        file.seek(SeekFrom::Start(count * 4096)).expect("seek");
        file.write_all(&block).expect("write");
        file.sync_data().expect("sync");
        let mut back = [0; 4096];
        file.seek(SeekFrom::Start(count / 2 * 4096)).expect("seek");
        file.read_exact(&mut back).expect("read");
        assert_eq!(back, [(count / 2 % 251) as u8; 4096], "block {}", count / 2);
        count += 1;
        done.store(count, Ordering::Relaxed);
    }
    count
}

/// Does everything to names, each step exactly once: a step repeated or lost by the restart gives
/// an error here.
fn change_names(top: &Path, stop: &AtomicBool, done: &AtomicU64) -> u64 {
    let mut round = 0;
    let directory = top.join("names");
    fs::create_dir(&directory).expect("mkdir");
    fs::write(directory.join("left"), "left 0").expect("write");
    fs::write(directory.join("right"), "right 0").expect("write");
    while !stop.load(Ordering::Relaxed) {
        round += 1;
        let at = |name: &str| directory.join(format!("{name}-{round}"));
        fs::create_dir(at("d")).expect("mkdir");
        fs::OpenOptions::new()
            .create_new(true)
            .write(true)
            .open(at("d").join("f"))
            .expect("create")
            .write_all(b"content")
            .expect("write");
        fs::hard_link(at("d").join("f"), at("l")).expect("link");
        std::os::unix::fs::symlink("l", at("s")).expect("symlink");
        fs::rename(at("d").join("f"), at("r")).expect("rename");
        fs::remove_dir(at("d")).expect("rmdir");
        assert_eq!(fs::read(at("r")).expect("read"), b"content");
        fs::remove_file(at("r")).expect("unlink");
        fs::remove_file(at("s")).expect("unlink");
        fs::remove_file(at("l")).expect("unlink");
        let (left, right) = (directory.join("left"), directory.join("right"));
        rustix::fs::renameat_with(CWD, &left, CWD, &right, RenameFlags::EXCHANGE)
            .expect("exchange");
        let expected = if round % 2 == 1 { "right 0" } else { "left 0" };
        assert_eq!(fs::read_to_string(&left).expect("read"), expected, "round {round}");
        done.store(round, Ordering::Relaxed);
    }
    round
}

/// Uses files that have no name.
fn use_nameless(top: &Path, stop: &AtomicBool, done: &AtomicU64) -> u64 {
    let mut round = 0u64;
    while !stop.load(Ordering::Relaxed) {
        let path = top.join(format!("gone-{round}"));
        let mut file = fs::OpenOptions::new()
            .create_new(true)
            .read(true)
            .write(true)
            .open(&path)
            .expect("create");
        file.write_all(&[round as u8; 5000]).expect("write");
        fs::remove_file(&path).expect("unlink");
        for _ in 0..20 {
            file.write_all(&[round as u8; 5000]).expect("write");
            file.sync_data().expect("sync");
            thread::sleep(Duration::from_millis(1));
        }
        let mut back = Vec::new();
        file.seek(SeekFrom::Start(0)).expect("seek");
        file.read_to_end(&mut back).expect("read");
        assert_eq!(back, [round as u8; 105_000], "round {round}");
        round += 1;
        done.store(round, Ordering::Relaxed);
    }
    round
}

#[track_caller]
fn survive(mode: &str) {
    if !is_root() {
        return;
    }
    let top = temporary();
    let (mounted, plain) = pair(top.path()).expect("fresh directories");
    let socket = top.path().join("holder");
    let served = Served::start_held(&mounted, mode, &socket);
    let stop = AtomicBool::new(false);
    let done: [AtomicU64; 3] = Default::default();
    let (blocks, rounds) = thread::scope(|scope| {
        let blocks = scope.spawn(|| write_blocks(&mounted, &stop, &done[0]));
        let names = scope.spawn(|| change_names(&mounted, &stop, &done[1]));
        let nameless = scope.spawn(|| use_nameless(&mounted, &stop, &done[2]));
        let go_on = || {
            let before = done.each_ref().map(|count| count.load(Ordering::Relaxed));
            let failed = || [&blocks, &names, &nameless].iter().any(|each| each.is_finished());
            wait_for("every application's progress", || {
                let now = done.each_ref().map(|count| count.load(Ordering::Relaxed));
                failed() || (0..3).all(|index| now[index] >= before[index] + STEPS)
            });
        };
        for _ in 0..CRASHES {
            go_on();
            served.crash();
        }
        go_on();
        stop.store(true, Ordering::Relaxed);
        let joined = (blocks.join(), names.join(), nameless.join());
        let ok = "no application saw an error";
        joined.2.expect(ok);
        (joined.0.expect(ok), joined.1.expect(ok))
    });
    let client = HolderClient::connect(&socket).expect("the holder runs");
    let kept = client.fetch(&mounted).expect("fetch").expect("the mount is held");
    assert!(kept.orphans.len() <= 2, "files that are gone are let go: {}", kept.orphans.len());
    drop(kept);
    drop(served);
    // What should be there, made beside it.
    let data: Vec<u8> = (0..blocks).flat_map(|block| [(block % 251) as u8; 4096]).collect();
    fs::write(plain.join("blocks"), data).expect("write");
    fs::create_dir(plain.join("names")).expect("mkdir");
    let (left, right) = if rounds % 2 == 1 { ("right", "left") } else { ("left", "right") };
    fs::write(plain.join("names").join(left), "left 0").expect("write");
    fs::write(plain.join("names").join(right), "right 0").expect("write");
    assert_same_trees(&mounted, &plain);
}

#[test]
fn applications_see_no_error_when_the_daemon_is_killed_with_write_back() {
    survive("back");
}

#[test]
fn applications_see_no_error_when_the_daemon_is_killed_with_write_through() {
    survive("through");
}
