//! Two data paths in one process, with real mounts and a real connection: what is written on the
//! source is on the target, whatever is cut in between.

mod crossing;
mod faults;
mod holder;
mod random;

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
    Security, Settings, Trust, VolumeHandle, start,
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
            trust: Trust::noted_in(state.path().join("unsynced")),
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

    /// The former target is to be the source.
    fn swap_roles(&mut self) {
        std::mem::swap(&mut self.source, &mut self.target);
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

#[test]
fn data_kept_from_a_split_brain_are_told_now_and_at_each_start() {
    if needs_root() {
        return;
    }
    let mut pair = Pair::new(Contract::Received, WriteMode::Back);
    write_synced(&pair.source.path("same"), b"same");
    write_synced(&pair.target.path("same"), b"same");
    write_synced(&pair.source.path("f"), b"right");
    write_synced(&pair.target.path("f"), b"given up");
    write_synced(&pair.target.path("only"), b"given up");
    pair.source.boot();
    pair.serve();
    pair.admit(true);
    pair.target.boot();
    pair.target.ask_ok(VolumeRequest::Follow {
        source: NodeId(0),
        generation: generation(1),
        keep_aside: Some(generation(7)),
    });
    let told = |news: &VolumeNews| match news {
        VolumeNews::KeptAside(kept) if !kept.is_empty() => Some(kept.clone()),
        _ => None,
    };
    let kept = pair.target.wait(told);
    let place = pair.target.path(".havre/diverged").join(generation(7).to_string());
    assert_eq!(kept.len(), 1);
    assert_eq!((Path::new(&kept[0].place), kept[0].entries), (&*place, 2));
    assert_eq!(fs::read(place.join("only")).expect("kept"), b"given up");
    pair.source.wait_caught_up();
    pair.target.crash();
    pair.target.boot();
    assert_eq!(pair.target.wait(told), kept, "the next start tells it too");
}
