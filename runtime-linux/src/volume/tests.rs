//! Two data paths in one process, with real mounts and a real connection: what is written on the
//! source is on the target, whatever is cut in between.

use std::{
    fs::{self, File, OpenOptions},
    io::{Seek as _, SeekFrom, Write as _},
    net::{SocketAddr, TcpListener},
    os::unix::fs::{FileExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use havre_core::{
    config::module::{Contract, ReplicatedConfig, RfsConfig, WriteMode},
    effect::{Outcome, VolumeNews, VolumeRequest},
    ids::{ModuleId, NodeId},
    replication::generation::{Generation, Origin},
};
use tempfile::{TempDir, tempdir};
use tokio::sync::mpsc::UnboundedReceiver;

use super::{
    Security, Settings, VolumeHandle, start,
    testkit::{Tree, assert_equal},
};

/// Longest wait for anything in these tests.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) fn needs_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: needs root");
    }
    !root
}

fn generation(number: u32) -> Generation {
    Generation { number, creator: NodeId(0), nonce: u64::from(number), origin: Origin::Solo }
}

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its address")
}

/// One node: its directory, its state, and its data path unless it is crashed.
struct Node {
    dir: PathBuf,
    state: TempDir,
    settings: Settings,
    running: Option<(VolumeHandle, UnboundedReceiver<VolumeNews>)>,
    _keep: Option<TempDir>,
}

impl Node {
    fn new(dir: PathBuf, contract: Contract, write: WriteMode, listen: SocketAddr) -> Self {
        let state = tempdir().expect("tempdir");
        let rfs = RfsConfig {
            contract,
            write,
            acl: true,
            port: None,
            lock_timeout: Duration::from_secs(10),
            send_timeout: Duration::from_secs(5),
            resync_bytes_per_second_max: None,
            directories: vec![ReplicatedConfig {
                dir: dir.clone(),
                excluded_paths: vec![PathBuf::from("scratch")],
                excluded_names: vec![r"\.tmp$".into()],
                to_check: Vec::new(),
            }],
        };
        let settings = Settings {
            module: ModuleId(1),
            signature: 7,
            rfs,
            state_dir: state.path().to_owned(),
            listen,
            peer: listen,
            security: Security::Plain,
            holder: None,
            seed: 1,
        };
        Self { dir, state, settings, running: None, _keep: None }
    }

    fn boot(&mut self) {
        assert!(self.state.path().exists());
        self.running = Some(start(self.settings.clone()).expect("a data path"));
        self.ask_ok(VolumeRequest::Prepare);
    }

    /// The daemon ends without a word; marks stay as they are on disk.
    fn crash(&mut self) {
        self.running = None;
    }

    #[track_caller]
    fn ask(&mut self, request: VolumeRequest) -> Outcome {
        let (handle, _) = self.running.as_ref().expect("the node runs");
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        runtime
            .block_on(async { tokio::time::timeout(PATIENCE, handle.request(request)).await })
            .expect("orders end")
    }

    #[track_caller]
    fn ask_ok(&mut self, request: VolumeRequest) {
        let text = format!("{request:?}");
        assert_eq!(self.ask(request), Outcome::Done, "{text}");
    }

    /// Waits for news of one kind; others are dropped.
    #[track_caller]
    fn wait<T>(&mut self, mut wanted: impl FnMut(&VolumeNews) -> Option<T>) -> T {
        let (_, news) = self.running.as_mut().expect("the node runs");
        let end = Instant::now() + PATIENCE;
        let mut seen = Vec::new();
        while Instant::now() < end {
            match news.try_recv() {
                Ok(one) => match wanted(&one) {
                    Some(found) => return found,
                    None => seen.push(one),
                },
                Err(_) => std::thread::sleep(Duration::from_millis(1)),
            }
        }
        panic!("what was waited for did not come; {seen:?} did");
    }

    #[track_caller]
    fn wait_caught_up(&mut self) -> u64 {
        self.wait(|news| match news {
            VolumeNews::CaughtUp { bytes_copied, .. } => Some(*bytes_copied),
            _ => None,
        })
    }

    #[track_caller]
    fn wait_lost(&mut self) -> String {
        self.wait(|news| match news {
            VolumeNews::PeerLost { reason } => Some(reason.clone()),
            _ => None,
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

struct Pair {
    source: Node,
    target: Node,
    generation: u32,
}

impl Pair {
    fn new(contract: Contract, write: WriteMode) -> Self {
        let listen = free_address();
        let node = || {
            let dir = tempdir().expect("tempdir");
            let mut node = Node::new(dir.path().to_owned(), contract, write, listen);
            node._keep = Some(dir);
            node
        };
        Self { source: node(), target: node(), generation: 1 }
    }

    /// Both run, in sync.
    fn running(contract: Contract, write: WriteMode) -> Self {
        let mut pair = Self::new(contract, write);
        pair.source.boot();
        pair.serve();
        pair.admit(false);
        pair.follow();
        pair.in_sync();
        pair
    }

    #[track_caller]
    fn serve(&mut self) {
        let generation = generation(self.generation);
        self.source.ask_ok(VolumeRequest::Serve { generation });
    }

    #[track_caller]
    fn admit(&mut self, full: bool) {
        self.source.ask_ok(VolumeRequest::Admit { peer: NodeId(1), full });
    }

    #[track_caller]
    fn follow(&mut self) {
        if self.target.running.is_none() {
            self.target.boot();
        }
        let generation = generation(self.generation);
        self.target.ask_ok(VolumeRequest::Follow {
            source: NodeId(0),
            generation,
            keep_aside: None,
        });
    }

    #[track_caller]
    fn solo(&mut self) {
        self.generation += 1;
        let generation = generation(self.generation);
        self.source.ask_ok(VolumeRequest::Solo { generation });
    }

    /// Waits until the copies are equal; says how many bytes were copied for that.
    #[track_caller]
    fn in_sync(&mut self) -> u64 {
        let copied = self.source.wait_caught_up();
        self.target.wait_caught_up();
        copied
    }

    /// Ends both cleanly and compares the directories.
    #[track_caller]
    fn assert_equal_at_the_end(mut self) {
        self.source.ask_ok(VolumeRequest::Close { clean: true });
        self.target.ask_ok(VolumeRequest::Close { clean: false });
        assert_equal(&Tree::read(&self.source.dir), &Tree::read(&self.target.dir));
    }
}

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|n| (n / 4096) as u8 ^ (n as u8).wrapping_mul(31) ^ seed).collect()
}

fn write_synced(path: &Path, bytes: &[u8]) {
    let mut file = File::create(path).expect("create");
    file.write_all(bytes).expect("write");
    file.sync_all().expect("fsync");
}

#[test]
fn what_is_written_on_the_source_is_on_the_target() {
    if needs_root() {
        return;
    }
    for contract in [Contract::Received, Contract::Durable] {
        let pair = Pair::running(contract, WriteMode::Back);
        let source = |name| pair.source.path(name);
        write_synced(&source("a"), &pattern(300_000, 1));
        assert_eq!(fs::read(pair.target.path("a")).expect("there").len(), 300_000);
        fs::create_dir(source("d")).expect("mkdir");
        fs::rename(source("a"), source("d/b")).expect("rename");
        fs::hard_link(source("d/b"), source("c")).expect("link");
        symlink("d/b", source("s")).expect("symlink");
        fs::set_permissions(source("d"), fs::Permissions::from_mode(0o1750)).expect("chmod");
        let mut file = OpenOptions::new().append(true).open(source("c")).expect("open");
        file.write_all(b"appended").expect("write");
        file.sync_data().expect("fdatasync");
        fs::write(source("gone"), b"x").expect("write");
        fs::remove_file(source("gone")).expect("unlink");
        fs::write(source("x.tmp"), b"not replicated").expect("write");
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(source("d"), "user.k", b"v", flags).expect("setxattr");
        File::open(source("d")).expect("open").sync_all().expect("fsync");
        let target = pair.target.path("c");
        assert!(!pair.target.path("x.tmp").exists());
        assert!(fs::read(&target).expect("there").ends_with(b"appended"));
        fs::remove_file(source("x.tmp")).expect("unlink");
        drop(file);
        pair.assert_equal_at_the_end();
    }
}

#[test]
fn the_targets_directory_is_read_only_for_everyone_else() {
    if needs_root() {
        return;
    }
    let mut pair = Pair::running(Contract::Received, WriteMode::Back);
    let refused = fs::write(pair.target.path("x"), b"x").expect_err("read-only");
    assert_eq!(refused.raw_os_error(), Some(30), "EROFS");
    pair.target.ask_ok(VolumeRequest::Close { clean: false });
    fs::write(pair.target.path("x"), b"x").expect("a stopped module's directory is plain");
}

#[test]
fn a_barrier_waits_for_the_peer_until_the_source_may_go_on_alone() {
    if needs_root() {
        return;
    }
    let mut pair = Pair::running(Contract::Received, WriteMode::Back);
    write_synced(&pair.source.path("f"), b"before");
    pair.target.crash();
    pair.source.wait_lost();
    let path = pair.source.path("g");
    let writer = std::thread::spawn(move || write_synced(&path, b"after"));
    std::thread::sleep(Duration::from_millis(200));
    assert!(!writer.is_finished(), "the barrier must not complete without the peer");
    pair.solo();
    writer.join().expect("the barrier completes alone");
    pair.admit(false);
    pair.follow();
    pair.in_sync();
    pair.assert_equal_at_the_end();
}

#[test]
fn after_a_cut_only_changed_regions_are_copied() {
    if needs_root() {
        return;
    }
    let mut pair = Pair::running(Contract::Received, WriteMode::Back);
    fs::create_dir(pair.source.path("db")).expect("mkdir");
    write_synced(&pair.source.path("db/big"), &pattern(24 << 20, 3));
    // Clean marks: a full stop of both, then a start.
    pair.source.ask_ok(VolumeRequest::Close { clean: true });
    pair.target.crash();
    pair.generation += 1;
    pair.serve();
    let file = OpenOptions::new().write(true).open(pair.source.path("db/big")).expect("open");
    file.write_all_at(b"changed", 9 << 20).expect("write");
    file.write_all_at(b"changed", 21 << 20).expect("write");
    file.sync_all().expect("fsync");
    pair.admit(false);
    pair.follow();
    let copied = pair.in_sync();
    assert!(copied <= 2 * (64 << 10), "{copied} bytes copied for two changed blocks");
    assert!(copied > 0);
    pair.assert_equal_at_the_end();
}

#[test]
fn the_application_keeps_writing_during_a_resynchronisation() {
    if needs_root() {
        return;
    }
    let mut pair = Pair::new(Contract::Received, WriteMode::Back);
    write_synced(&pair.source.path("big"), &pattern(32 << 20, 5));
    pair.source.boot();
    pair.serve();
    let path = pair.source.path("log");
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let writer = std::thread::spawn(move || {
        let mut file = File::create(&path).expect("create");
        let mut count = 0u32;
        while stopped.try_recv().is_err() {
            file.write_all(&pattern(1000, count as u8)).expect("write");
            if count.is_multiple_of(16) {
                file.sync_data().expect("fdatasync");
                file.seek(SeekFrom::Start(u64::from(count % 7) * 100_000)).expect("seek");
            }
            count += 1;
        }
        file.sync_all().expect("fsync");
        count
    });
    pair.admit(true);
    pair.follow();
    let copied = pair.in_sync();
    assert!(copied >= 32 << 20, "{copied} bytes");
    std::thread::sleep(Duration::from_millis(100));
    stop.send(()).expect("the writer runs");
    assert!(writer.join().expect("no error") > 0);
    pair.assert_equal_at_the_end();
}

#[test]
fn a_promoted_target_holds_everything_that_barriers_promised() {
    if needs_root() {
        return;
    }
    let mut pair = Pair::running(Contract::Received, WriteMode::Back);
    for n in 0..50u8 {
        write_synced(&pair.source.path(&format!("f{n}")), &pattern(5000, n));
    }
    pair.source.ask_ok(VolumeRequest::Fence);
    let refused = File::create(pair.source.path("late")).and_then(|mut file| {
        file.write_all(b"late")?;
        file.sync_all()
    });
    assert!(refused.is_err(), "a fenced source completes nothing");
    pair.target.ask_ok(VolumeRequest::Serve { generation: generation(9) });
    for n in 0..50u8 {
        let content = fs::read(pair.target.path(&format!("f{n}"))).expect("there");
        assert!(content == pattern(5000, n));
    }
    fs::write(pair.target.path("new"), b"the new primary writes").expect("write");
}

#[test]
fn a_renamed_directory_is_not_copied_after_a_cut() {
    if needs_root() {
        return;
    }
    let mut pair = Pair::running(Contract::Received, WriteMode::Back);
    fs::create_dir(pair.source.path("old")).expect("mkdir");
    write_synced(&pair.source.path("old/big"), &pattern(8 << 20, 6));
    pair.target.crash();
    pair.source.wait_lost();
    pair.solo();
    fs::rename(pair.source.path("old"), pair.source.path("new")).expect("rename");
    pair.admit(false);
    pair.follow();
    let copied = pair.in_sync();
    assert_eq!(copied, 0, "renamed, not copied");
    pair.assert_equal_at_the_end();
}

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

#[test]
fn an_application_sees_a_pause_when_the_sources_daemon_dies() {
    if needs_root() {
        return;
    }
    let socket_dir = tempdir().expect("tempdir");
    let socket = socket_dir.path().join("holder");
    let own = socket.clone();
    let holder = std::thread::spawn(move || crate::holder::run(&own));
    let client = loop {
        match crate::holder::HolderClient::connect(&socket) {
            Ok(client) => break client,
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    let mut pair = Pair::new(Contract::Received, WriteMode::Back);
    pair.source.settings.holder = Some(socket);
    pair.source.boot();
    pair.serve();
    pair.admit(false);
    pair.follow();
    pair.in_sync();
    let root = pair.source.dir.clone();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let application = std::thread::spawn(move || {
        let mut file = File::create(root.join("log")).expect("create");
        let mut count = 0u32;
        while stopped.try_recv().is_err() {
            file.write_all(&count.to_le_bytes()).expect("write");
            file.sync_data().expect("fdatasync");
            fs::write(root.join(format!("f{}", count % 20)), pattern(3000, count as u8))
                .expect("write");
            count += 1;
        }
        file.sync_all().expect("fsync");
        count
    });
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(100));
        let (handle, _) = pair.source.running.take().expect("it runs");
        handle.die();
        std::thread::sleep(Duration::from_millis(50));
        pair.source.boot();
        pair.generation += 1;
        pair.serve();
        pair.target.ask_ok(VolumeRequest::Close { clean: false });
        pair.admit(false);
        pair.follow();
        pair.in_sync();
    }
    stop.send(()).expect("the application runs");
    let count = application.join().expect("no operation failed");
    let log = fs::read(pair.source.path("log")).expect("read");
    let expected: Vec<u8> = (0..count).flat_map(u32::to_le_bytes).collect();
    assert!(log == expected, "every write once, in order");
    pair.assert_equal_at_the_end();
    client.stop().expect("the holder ends");
    holder.join().expect("no panic").expect("no error");
}

/// Numbers that look random, from a seed that a failing run prints.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }
}

/// One random operation somewhere in a small tree; impossible ones fail, as in life.
fn random_operation(root: &Path, dice: &mut Dice) {
    let name = |dice: &mut Dice| {
        let mut path = root.to_owned();
        for _ in 0..=dice.below(2) {
            path.push(["a", "b", "c", "d"][dice.below(4)]);
        }
        path
    };
    let path = name(dice);
    let other = name(dice);
    let regular = fs::symlink_metadata(&path).is_ok_and(|stat| stat.is_file());
    match dice.below(16) {
        0 | 1 => drop(fs::create_dir(&path)),
        2 | 3 if regular || !path.exists() => {
            let _ = fs::write(&path, pattern(dice.below(200_000), dice.below(256) as u8));
        }
        4..=6 if regular => {
            if let Ok(file) = OpenOptions::new().write(true).open(&path) {
                let offset = dice.below(10 << 20) as u64;
                let _ = file.write_all_at(&pattern(1 + dice.below(9000), 9), offset);
                if dice.below(3) == 0 {
                    let _ = file.sync_data();
                }
            }
        }
        7 if regular => {
            if let Ok(file) = OpenOptions::new().write(true).open(&path) {
                let _ = file.set_len(dice.below(6 << 20) as u64);
            }
        }
        8 | 9 => drop(fs::rename(&path, &other)),
        10 => drop(fs::hard_link(&path, &other)),
        11 => drop(fs::remove_file(&path)),
        12 => drop(fs::remove_dir_all(&path)),
        13 => drop(symlink("a", &path)),
        14 if regular => {
            let mode = 0o600 + dice.below(64) as u32;
            let _ = fs::set_permissions(&path, fs::Permissions::from_mode(mode));
        }
        15 if regular => {
            let value = [dice.below(256) as u8; 20];
            let flags = rustix::fs::XattrFlags::empty();
            let _ = rustix::fs::setxattr(&path, "user.random", &value, flags);
        }
        _ => {}
    }
}

fn torment(seed: u64) {
    println!("seed {seed}");
    let mut dice = Dice(seed);
    let contract = [Contract::Received, Contract::Durable][dice.below(2)];
    let write = [WriteMode::Back, WriteMode::Through][dice.below(2)];
    let mut pair = Pair::running(contract, write);
    for _ in 0..4 {
        let root = pair.source.dir.clone();
        for _ in 0..dice.below(60) {
            random_operation(&root, &mut dice);
        }
        match dice.below(3) {
            // The target dies.
            0 => {
                pair.target.crash();
                pair.source.wait_lost();
                pair.solo();
            }
            // The source's daemon dies.
            1 => {
                pair.source.crash();
                pair.source.boot();
                pair.generation += 1;
                pair.serve();
                pair.target.ask_ok(VolumeRequest::Close { clean: false });
            }
            // Both die.
            _ => {
                pair.source.crash();
                pair.target.crash();
                pair.source.boot();
                pair.generation += 1;
                pair.serve();
            }
        }
        for _ in 0..dice.below(60) {
            random_operation(&root, &mut dice);
        }
        pair.admit(false);
        pair.follow();
        // While it is resynchronised.
        for _ in 0..dice.below(30) {
            random_operation(&root, &mut dice);
        }
        pair.in_sync();
        for _ in 0..dice.below(60) {
            random_operation(&root, &mut dice);
        }
    }
    pair.assert_equal_at_the_end();
}

#[test]
fn random_operations_with_crashes_at_random_points_end_in_equal_trees() {
    if needs_root() {
        return;
    }
    let base = std::env::var("HAVRE_SEED").ok().and_then(|seed| seed.parse().ok());
    match base {
        Some(seed) => torment(seed),
        None => (1..=6).for_each(torment),
    }
}
