//! A directory served by a process of its own, for tests that compare it with a plain one.
//!
//! The serving process is this test program started again. It must be another process: one that
//! waits for its own mount can be neither ended nor debugged. Guards unmount whatever happens, and
//! a watchdog aborts the connection, because a process that waits for a hung mount cannot be
//! killed.

#![allow(dead_code, reason = "each test program uses a part")]

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    fs, io,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use havre_core::{
    config::module::WriteMode,
    replication::record::{Change, FileId},
};
use havre_linux::{
    fuse::{
        Applied, Files, Interceptor, Operation, Options, PassThrough, Session, Turn, mounted_at,
        unmount,
    },
    holder::{self, HolderClient},
    volume::{
        apply::Applier,
        place::{Excluded, Places, open_root},
    },
};
use rustix::{
    event::{PollFd, PollFlags, Timespec},
    mount::MountFlags,
};

/// Name of the test that [`Served`] starts this program with.
pub(crate) const HELPER: &str = "helper_process";
const VARIABLE: &str = "HAVRE_TEST_HELPER";
const WATCHDOG: Duration = Duration::from_secs(60);

/// Whether this process may mount; says so if not.
pub(crate) fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: needs root");
    }
    root
}

/// A temporary directory on a real disk.
pub(crate) fn temporary() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("the build's own directory is there")
}

/// What the helper process does: `serve|holder MODE DIRECTORY SOCKET`.
pub(crate) fn help() {
    let Ok(order) = std::env::var(VARIABLE) else {
        println!("not a test: started by other tests");
        return;
    };
    let words: Vec<&str> = order.split('\n').collect();
    let [what, mode, directory, socket] = words[..] else { panic!("a broken order: {order}") };
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .expect("Linux has it");
    match what {
        "holder" => holder::run(Path::new(socket)).expect("the holder runs"),
        "supervise" => supervise(Path::new(directory), mode, Path::new(socket)),
        _ => serve(Path::new(directory), mode, socket),
    }
}

fn serve(directory: &Path, mode: &str, socket: &str) {
    let write = if mode.ends_with("back") { WriteMode::Back } else { WriteMode::Through };
    let options = Options { copy_range: mode == "copy", ..Options::new(0, write) };
    let client =
        (!socket.is_empty()).then(|| HolderClient::connect(Path::new(socket)).expect("holder"));
    let held = client.as_ref().and_then(|client| client.fetch(directory).expect("fetch"));
    let mut session = match held {
        Some(held) => Session::resume(held.parts, held.orphans, options).expect("resume"),
        None => Session::mount(directory, options).expect("mount"),
    };
    if let Some(client) = &client {
        let parts = session.parts().expect("parts");
        session.set_keeper(Box::new(client.hold(directory, &parts).expect("hold")));
    }
    if mode.starts_with("mirror") {
        let replica = directory.with_file_name("replica");
        run(&mut session, &mut Mirror::new(&replica));
    } else {
        run(&mut session, &mut PassThrough);
    }
}

/// An interceptor that wants to do something between turns.
trait Loop: Interceptor {
    /// Goes on with what is pending; says whether anything still is.
    fn go_on(&mut self, _: &mut Files) -> bool {
        false
    }
}

impl Loop for PassThrough {}

fn run(session: &mut Session, interceptor: &mut impl Loop) {
    let second = Timespec { tv_sec: 1, tv_nsec: 0 };
    let mut settled = Instant::now();
    loop {
        let turn = session.turn(interceptor);
        let pending = interceptor.go_on(session.files());
        match turn {
            Turn::Ended => break,
            Turn::Idle if !pending => {
                let fd = session.fd();
                let mut fds = [PollFd::new(&fd, PollFlags::IN)];
                let _ = rustix::event::poll(&mut fds, Some(&second));
            }
            _ => {}
        }
        if settled.elapsed() >= Duration::from_secs(1) {
            session.settle(interceptor);
            settled = Instant::now();
        }
    }
    session.settle(interceptor);
    while interceptor.go_on(session.files()) {}
}

/// Keeps every operation for a turn, then applies it and performs its changes on a second
/// directory; replies a turn later still. What replication does, without a network.
struct Mirror {
    waiting: VecDeque<Operation>,
    applied: Vec<Applied>,
    applier: Applier,
    bound: HashSet<FileId>,
    closed: Vec<FileId>,
}

impl Mirror {
    fn new(replica: &Path) -> Self {
        let root = open_root(replica).expect("the replica is there");
        Self {
            waiting: VecDeque::new(),
            applied: Vec::new(),
            applier: Applier::new(Places::new([(root, Excluded::default())])),
            bound: HashSet::new(),
            closed: Vec::new(),
        }
    }

    fn bind(&mut self, files: &Files, id: FileId) {
        if self.bound.contains(&id) {
            return;
        }
        let location = files.location(id).expect("a file is bound before it loses its last name");
        self.perform(&Change::Open { id, location }, &[]);
        self.bound.insert(id);
    }

    #[track_caller]
    fn perform(&mut self, change: &Change, payload: &[u8]) {
        // As it travels.
        let mut bytes = Vec::new();
        change.encode(&mut bytes);
        let (change, _) = Change::decode(&bytes).expect("what was encoded");
        if let Err(error) = self.applier.apply(&change, payload) {
            panic!("the replica refuses {change:?}: {error}");
        }
    }
}

impl Interceptor for Mirror {
    fn submit(&mut self, files: &mut Files, mut operation: Operation) {
        operation.settle(files);
        self.waiting.push_back(operation);
    }

    fn closed(&mut self, id: FileId) {
        self.closed.push(id);
    }
}

impl Loop for Mirror {
    fn go_on(&mut self, files: &mut Files) -> bool {
        for applied in std::mem::take(&mut self.applied) {
            files.reply(applied);
        }
        while let Some(operation) = self.waiting.pop_front() {
            if let Some(id) = operation.last_name_of() {
                self.bind(files, id);
            }
            let applied = files.apply(operation);
            for change in applied.changes() {
                for id in change.ids().into_iter().flatten() {
                    self.bind(files, id);
                }
                self.perform(change, applied.payload());
                if let Change::Create { id, .. } | Change::Temporary { id, .. } = change {
                    self.bound.insert(*id);
                }
            }
            self.applied.push(applied);
        }
        for id in std::mem::take(&mut self.closed) {
            if self.bound.remove(&id) {
                self.perform(&Change::Close { id }, &[]);
            }
        }
        !self.applied.is_empty()
    }
}

/// Starts a server again whenever it dies, as a service manager does.
///
/// A process of its own: one that has files of the mount open cannot start the server, because
/// closing them in the child writes their data, for which the server is needed.
fn supervise(directory: &Path, mode: &str, socket: &Path) {
    loop {
        let mut server = helper("serve", mode, directory, Some(socket));
        fs::write(pid_file(socket), server.id().to_string()).expect("the socket's directory");
        server.wait().expect("it was started here");
        if mounted_at(directory).is_ok_and(|found| found.is_none()) {
            return;
        }
    }
}

fn pid_file(socket: &Path) -> PathBuf {
    socket.with_extension("pid")
}

fn helper(what: &str, mode: &str, directory: &Path, socket: Option<&Path>) -> Child {
    let order = [
        what,
        mode,
        directory.to_str().expect("test paths are text"),
        socket.map_or("", |path| path.to_str().expect("test paths are text")),
    ];
    Command::new(std::env::current_exe().expect("this program has a path"))
        .args(["--ignored", "--exact", HELPER, "--nocapture", "--test-threads=1"])
        .env(VARIABLE, order.join("\n"))
        .spawn()
        .expect("this program can be started")
}

/// A mounted directory; unmounted when dropped.
pub(crate) struct Served {
    /// Where.
    pub(crate) directory: PathBuf,
    server: Child,
    holder: Option<(Child, PathBuf)>,
    _calm: mpsc::Sender<()>,
}

impl Served {
    /// Serves `directory` in `mode`: `back`, `through` or `copy`; `mirror-back` and
    /// `mirror-through` also keep `replica` beside it equal.
    pub(crate) fn start(directory: &Path, mode: &str) -> Self {
        Self::begin(directory, mode, None)
    }

    /// The same with a holder, whose socket is made at `socket`.
    pub(crate) fn start_held(directory: &Path, mode: &str, socket: &Path) -> Self {
        let holder = helper("holder", mode, directory, Some(socket));
        wait_for("the holder", || HolderClient::connect(socket).is_ok());
        Self::begin(directory, mode, Some((holder, socket.to_owned())))
    }

    fn begin(directory: &Path, mode: &str, holder: Option<(Child, PathBuf)>) -> Self {
        let socket = holder.as_ref().map(|(_, socket)| socket.as_path());
        let what = if socket.is_some() { "supervise" } else { "serve" };
        let server = helper(what, mode, directory, socket);
        let (calm, alarm) = mpsc::channel();
        let watched = directory.to_owned();
        thread::spawn(move || {
            if alarm.recv_timeout(WATCHDOG) == Err(mpsc::RecvTimeoutError::Timeout) {
                eprintln!("watchdog: the mount hangs, aborting it");
                abort(&watched);
            }
        });
        let served = Self { directory: directory.to_owned(), server, holder, _calm: calm };
        wait_for("the mount", || mounted_at(directory).is_ok_and(|found| found.is_some()));
        served
    }

    /// Kills the server as a crash would; its supervisor starts it again.
    pub(crate) fn crash(&self) {
        let (_, socket) = self.holder.as_ref().expect("without a holder nothing survives");
        let number = fs::read_to_string(pid_file(socket)).expect("the supervisor wrote it");
        let pid = number.parse().ok().and_then(rustix::process::Pid::from_raw).expect("a number");
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it runs");
        wait_for("the next server", || {
            fs::read_to_string(pid_file(socket)).is_ok_and(|now| now != number && !now.is_empty())
        });
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let mounted = mounted_at(&self.directory).ok().flatten();
        let _ = unmount(&self.directory);
        if let Some((_, socket)) = &self.holder
            && let Ok(client) = HolderClient::connect(socket)
        {
            let _ = client.stop();
        }
        let deadline = Instant::now() + Duration::from_secs(2);
        while matches!(self.server.try_wait(), Ok(None)) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
        if matches!(self.server.try_wait(), Ok(None))
            && let Some(mounted) = mounted
        {
            let _ = mounted.abort();
        }
        let _ = self.server.kill();
        let _ = self.server.wait();
        if let Some((holder, _)) = &mut self.holder {
            let _ = holder.kill();
            let _ = holder.wait();
        }
    }
}

fn abort(directory: &Path) {
    if let Ok(Some(mounted)) = mounted_at(directory) {
        // The control files may not be there yet, or already.
        let at = "/sys/fs/fuse/connections";
        let _ = rustix::mount::mount("none", at, "fusectl", MountFlags::empty(), None);
        let _ = mounted.abort();
    }
}

/// Waits for something that takes a moment.
#[track_caller]
pub(crate) fn wait_for(what: &str, mut there: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !there() {
        assert!(Instant::now() < deadline, "{what} did not come within 30 s");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Everything that can be seen of a tree, except inode numbers and times.
pub(crate) fn snapshot(top: &Path) -> BTreeMap<PathBuf, String> {
    let mut seen = BTreeMap::new();
    let mut links: BTreeMap<u64, PathBuf> = BTreeMap::new();
    let mut open = vec![top.to_owned()];
    while let Some(path) = open.pop() {
        let about = fs::symlink_metadata(&path).expect("the tree stands still");
        let name = path.strip_prefix(top).expect("found below the top").to_owned();
        let mut line = format!(
            "mode {:o} owner {}:{} links {} size {} device {:x}",
            about.permissions().mode(),
            about.uid(),
            about.gid(),
            about.nlink(),
            if about.is_dir() { 0 } else { about.size() },
            about.rdev(),
        );
        let kind = about.file_type();
        if kind.is_dir() {
            let entries = fs::read_dir(&path).expect("a directory can be read");
            open.extend(entries.map(|entry| entry.expect("an entry can be read").path()));
            open.sort();
        } else if kind.is_symlink() {
            line += &format!(" -> {:?}", fs::read_link(&path).expect("a link can be read"));
        } else if kind.is_file() {
            line += &format!(" content {}", digest(&path));
            if about.nlink() > 1 {
                // Names of one file belong together on both sides.
                let first = links.entry(about.ino()).or_insert_with(|| name.clone());
                line += &format!(" same as {}", first.display());
            }
        } else if kind.is_fifo() || kind.is_socket() {
            line += " pipe or socket";
        }
        line += &xattrs(&path);
        seen.insert(name, line);
    }
    seen
}

fn digest(path: &Path) -> String {
    blake3::hash(&fs::read(path).expect("a file can be read")).to_hex()[..16].to_owned()
}

fn xattrs(path: &Path) -> String {
    let mut names = vec![0u8; 4096];
    let len = rustix::fs::llistxattr(path, &mut names[..]).unwrap_or(0);
    let mut shown = Vec::new();
    for name in names[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0u8; 4096];
        let len = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap_or(0);
        shown.push(format!(" {}={}", name.escape_ascii(), value[..len].escape_ascii()));
    }
    shown.sort();
    shown.concat()
}

/// Fails with the first difference of two trees.
#[track_caller]
pub(crate) fn assert_same_trees(left: &Path, right: &Path) {
    let (left, right) = (snapshot(left), snapshot(right));
    for (path, line) in &left {
        assert_eq!(Some(line), right.get(path), "{}", path.display());
    }
    for path in right.keys() {
        assert!(left.contains_key(path), "only on the right: {}", path.display());
    }
}

/// Two fresh directories, `mounted` and `plain`.
pub(crate) fn pair(top: &Path) -> io::Result<(PathBuf, PathBuf)> {
    let (mounted, plain) = (top.join("mounted"), top.join("plain"));
    fs::create_dir(&mounted)?;
    fs::create_dir(&plain)?;
    Ok((mounted, plain))
}
