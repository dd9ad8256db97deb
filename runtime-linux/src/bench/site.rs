//! Directories to work in: plain, behind the mount alone, replicated.
//!
//! Source and target are data paths of this process, each in a network namespace of its own; a
//! virtual Ethernet cable joins the two.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use havre_core::{
    config::module::{Contract, ReplicatedConfig, RfsConfig, WriteMode},
    effect::{Outcome, VolumeNews, VolumeRequest},
    ids::{ModuleId, NodeId},
    replication::generation::{Generation, Origin},
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Plan, database::Server};
use crate::{
    fuse::{Options, PassThrough, Session, Turn, unmount},
    lab::cable::Cable,
    volume::{Security, Settings, Trust, VolumeHandle, start},
};

/// Longest wait for the two sides to be in sync.
const SYNC_LIMIT: Duration = Duration::from_secs(60);
/// Where the source listens.
const PORT: u16 = 7000;
/// How long the mount alone looks for the next request before it sleeps, as the data path does.
const SPIN: Duration = Duration::from_micros(15);

/// Where work is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// The plain directory.
    Native,
    /// Through the mount, not replicated: what interception costs.
    Mount(WriteMode),
    /// Replicated.
    Replicated(Contract, WriteMode),
}

impl Place {
    /// Those with the default `write="back"`, or all.
    pub(super) fn list(through: bool) -> Vec<Self> {
        let mut all = vec![Self::Native];
        let modes = [WriteMode::Back, WriteMode::Through];
        for mode in modes.into_iter().take(1 + usize::from(through)) {
            all.push(Self::Mount(mode));
            all.push(Self::Replicated(Contract::Received, mode));
            all.push(Self::Replicated(Contract::Durable, mode));
        }
        all
    }

    /// Head of its column.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Mount(WriteMode::Back) => "mount",
            Self::Mount(WriteMode::Through) => "mount thr",
            Self::Replicated(Contract::Received, WriteMode::Back) => "second",
            Self::Replicated(Contract::Durable, WriteMode::Back) => "none",
            Self::Replicated(Contract::Received, WriteMode::Through) => "second thr",
            Self::Replicated(Contract::Durable, WriteMode::Through) => "none thr",
        }
    }
}

/// A directory to work in, with whatever serves it.
pub(super) struct Site {
    directory: PathBuf,
    bases: [PathBuf; 2],
    /// Ends first.
    server: Option<Server>,
    mount: Option<PlainMount>,
    volumes: Vec<VolumeHandle>,
    _cable: Option<Cable>,
}

impl Site {
    /// Opens a place, empty.
    pub(super) fn open(plan: &Plan, place: Place) -> Result<Self> {
        let name = format!("havre-bench-{}", std::process::id());
        let bases = [plan.directory.join(&name), plan.target.join(format!("{name}-target"))];
        for base in &bases {
            for name in ["data", "state"] {
                let path = base.join(name);
                fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
            }
        }
        let directory = bases[0].join("data");
        let mut site =
            Self { directory, bases, server: None, mount: None, volumes: Vec::new(), _cable: None };
        match place {
            Place::Native => {}
            Place::Mount(write) => site.mount = Some(PlainMount::new(&site.directory, write)?),
            Place::Replicated(contract, write) => site.replicate(plan, contract, write)?,
        }
        Ok(site)
    }

    fn replicate(&mut self, plan: &Plan, contract: Contract, write: WriteMode) -> Result<()> {
        let cable = Cable::new().context("a cable between two network namespaces")?;
        let settings = |end: usize, security: &Security| Settings {
            module: ModuleId(1),
            signature: 1,
            rfs: rfs(&self.bases[end].join("data"), contract, write),
            state_dir: self.bases[end].join("state"),
            listen: SocketAddr::new(Cable::address(end), PORT),
            peer: SocketAddr::new(Cable::address(1 - end), PORT),
            security: security.clone(),
            holder: None,
            trust: Trust::noted_in(self.bases[end].join("unsynced")),
            seed: 1,
        };
        let generation =
            Generation { number: 1, creator: NodeId(0), nonce: 1, origin: Origin::Forced };
        let settings = [settings(0, &plan.security.0), settings(1, &plan.security.1)];
        let [here, there] = settings;
        let (source, mut news) = cable.at(0, || start(here))?;
        // The source ends first: a target alone would only reconnect.
        self.volumes.push(source);
        let (target, _) = cable.at(1, || start(there))?;
        self.volumes.push(target);
        self._cable = Some(cable);
        let [source, target] = [&self.volumes[0], &self.volumes[1]];
        ask(source, VolumeRequest::Prepare)?;
        ask(source, VolumeRequest::Serve { generation })?;
        ask(source, VolumeRequest::Admit { peer: NodeId(1), full: false })?;
        ask(target, VolumeRequest::Prepare)?;
        let source = NodeId(0);
        ask(target, VolumeRequest::Follow { source, generation, keep_aside: None })?;
        let end = Instant::now() + SYNC_LIMIT;
        while !matches!(news.try_recv(), Ok(VolumeNews::CaughtUp { .. })) {
            if Instant::now() > end {
                bail!("source and target do not get in sync");
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Where to work.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The database server of this place, started now if it does not run.
    pub(super) fn server(&mut self) -> Result<&Server> {
        if self.server.is_none() {
            self.server = Some(Server::start(&self.directory, &self.bases[0])?);
        }
        self.server.as_ref().context("it has been started")
    }

    /// Has everything written that the last work left in caches, so that the next one does not
    /// pay for it.
    pub(super) fn settle(&self) -> Result<()> {
        for directory in [&self.directory, &self.bases[0], &self.bases[1]] {
            rustix::fs::syncfs(fs::File::open(directory)?)?;
        }
        Ok(())
    }

    /// Ends what serves the place and removes what was made in it.
    pub(super) fn close(mut self) -> Result<()> {
        drop(self.server.take());
        drop(self.mount.take());
        for volume in &self.volumes {
            ask(volume, VolumeRequest::Close { clean: true })?;
        }
        self.volumes.clear();
        Ok(())
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.server = None;
        self.mount = None;
        self.volumes.clear();
        for base in &self.bases {
            if let Err(error) = fs::remove_dir_all(base) {
                tracing::warn!(directory = %base.display(), %error, "not removed");
            }
        }
    }
}

fn rfs(directory: &Path, contract: Contract, write: WriteMode) -> RfsConfig {
    RfsConfig {
        contract,
        write,
        acl: true,
        port: None,
        lock_timeout: Duration::from_secs(100),
        send_timeout: Duration::from_secs(30),
        resync_bytes_per_second_max: None,
        directories: vec![ReplicatedConfig {
            dir: directory.to_owned(),
            excluded_paths: Vec::new(),
            excluded_names: Vec::new(),
            to_check: Vec::new(),
        }],
    }
}

fn ask(volume: &VolumeHandle, request: VolumeRequest) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    match runtime.block_on(volume.request(request)) {
        Outcome::Done => Ok(()),
        other => bail!("{other:?}"),
    }
}

/// A thread that serves a mount and replicates nothing.
struct PlainMount {
    directory: PathBuf,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl PlainMount {
    fn new(directory: &Path, write: WriteMode) -> Result<Self> {
        let session = Session::mount(directory, Options::new(0, write)).context("mount")?;
        let ended = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&ended);
        let thread = std::thread::Builder::new()
            .name("mount".into())
            .spawn(move || serve(session, &told))?;
        Ok(Self { directory: directory.to_owned(), ended, thread: Some(thread) })
    }
}

fn serve(mut session: Session, ended: &AtomicBool) {
    const SECOND: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };
    let (mut settled, mut busy) = (Instant::now(), Instant::now());
    while !ended.load(Ordering::Relaxed) {
        match session.turn(&mut PassThrough) {
            Turn::Ended => return,
            Turn::Handled(_) | Turn::Full => busy = Instant::now(),
            Turn::Idle if busy.elapsed() < SPIN => std::hint::spin_loop(),
            Turn::Idle => {
                let fd = session.fd();
                // Interrupted or not: the loop looks again.
                let _ = poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&SECOND));
            }
        }
        if settled.elapsed().as_secs() >= 1 {
            session.settle(&mut PassThrough);
            settled = Instant::now();
        }
    }
}

impl Drop for PlainMount {
    fn drop(&mut self) {
        let synced = fs::File::open(&self.directory)
            .and_then(|directory| rustix::fs::syncfs(directory).map_err(io::Error::from));
        if let Err(error) = synced.and_then(|()| unmount(&self.directory).map_err(io::Error::from))
        {
            tracing::warn!(directory = %self.directory.display(), %error, "not unmounted");
        }
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It panics only where a test would have told.
            let _ = thread.join();
        }
    }
}
