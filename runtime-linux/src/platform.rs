//! The daemon's Linux half: clock, signals, service manager, and the leaves of each run.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    path::{Path, PathBuf},
    rc::Rc,
};

use anyhow::{Context, Result, bail};
use havre_core::{
    config::module::ModuleConfig,
    effect::{Outcome, VolumeRequest},
    time::Instant,
};
use havre_runtime::{
    cluster::Membership,
    daemon::{DaemonContext, Platform},
    modules::{Module, Modules},
    transport::udp,
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::Mutex,
};
use tracing::{info, warn};

use crate::{
    clock,
    guard::{self, Guard, Guarded},
    holder,
    os::{DataPath, LinuxOs, LinuxParts, script_place, virtual_addresses},
    priority,
    service::ServiceManager,
    volume::{self, Security, Settings, Trust, VolumeHandle},
};

/// Linux, as the daemon sees it.
#[derive(Debug)]
pub struct Linux {
    service: ServiceManager,
    signals: Mutex<Option<[Signal; 2]>>,
}

impl Linux {
    /// Finds the service manager, if there is one.
    ///
    /// # Errors
    /// `NOTIFY_SOCKET` is no address.
    pub fn new() -> Result<Self> {
        let service = ServiceManager::from_environment().context("NOTIFY_SOCKET")?;
        Ok(Self { service, signals: Mutex::new(None) })
    }

    fn tell(&self, result: std::io::Result<()>) {
        if let Err(error) = result {
            warn!(%error, "the service manager does not listen");
        }
    }
}

impl DataPath for VolumeHandle {
    async fn order(&self, request: VolumeRequest) -> Outcome {
        self.request(request).await
    }

    fn mounts_outlived(&self) -> bool {
        self.mounts_outlived()
    }
}

/// Opens the data path of a module; `None` if it replicates nothing.
fn volume_of(context: &DaemonContext, module: &Module) -> Result<Option<VolumeHandle>> {
    let Some(rfs) = module.config.rfs.clone() else { return Ok(None) };
    let cluster = context.membership.config();
    let heartbeats = &module.config.heart.heartbeats;
    let flow = heartbeats.iter().find(|h| h.ident == "flow").or_else(|| heartbeats.first());
    let lan = flow
        .and_then(|heartbeat| cluster.lans.iter().find(|lan| lan.name == heartbeat.name))
        .context("no network for replication: mark a heartbeat with ident=\"flow\"")?;
    let port = module.config.data_port(module.id);
    let own = context.membership.node();
    let mine = lan.nodes.iter().find(|n| n.node == own);
    let mine = mine.with_context(|| format!("this node is not on the network {}", lan.name))?;
    let peer = lan.nodes.iter().find(|n| n.node != own);
    let peer = peer.with_context(|| format!("no other node is on the network {}", lan.name))?;
    let listen = udp::resolve(mine.local_addr.as_deref().unwrap_or(&mine.addr), port)?;
    let security = Security::Tls {
        client: context.security.client(),
        server: context.security.server(),
        peer: context.security.name_of(peer.node).context("the peer's name")?,
    };
    let trust = Trust::of(&context.state_dir, &module.name);
    let settings = Settings {
        module: module.id,
        signature: module.signature,
        rfs,
        state_dir: context.state_dir.join("volume").join(&module.name),
        listen,
        peer: udp::resolve(&peer.addr, port)?,
        security,
        holder: Some(holder::socket_in(&context.state_dir)),
        trust,
        seed: context.incarnation.0,
    };
    std::fs::create_dir_all(&settings.state_dir)
        .with_context(|| settings.state_dir.display().to_string())?;
    let (volume, mut news) = volume::start(settings)?;
    let (inbox, id) = (context.inbox.clone(), module.id);
    tokio::task::spawn_local(async move {
        while let Some(news) = news.recv().await {
            inbox.volume_news(id, news);
        }
    });
    Ok(Some(volume))
}

impl Platform for Linux {
    type Os = LinuxOs<VolumeHandle>;

    fn clock(&self) -> fn() -> Instant {
        clock::now
    }

    async fn os(&self, context: DaemonContext) -> Result<Rc<Self::Os>> {
        info!(priority = ?priority::raise_thread(), "the event loop's scheduling");
        let program = std::env::current_exe().context("the path of this program")?;
        let guard = Guard::start(&program, &context.state_dir, context.incarnation.0)
            .context("the guard cannot be started")?;
        let socket = holder::socket_in(&context.state_dir);
        if context.modules.values().any(|module| module.config.rfs.is_some())
            && let Err(error) = holder::ensure(&program, &socket)
        {
            warn!(%error, "no holder: applications will see it when this daemon dies");
        }
        let mut modules = Vec::new();
        for module in context.modules.values() {
            let volume = volume_of(&context, module)
                .with_context(|| format!("data path of module {}", module.name))?;
            modules.push((module.clone(), volume));
        }
        let parts = LinuxParts {
            state_dir: context.state_dir,
            records: context.records,
            reporter: context.reporter,
            journal: context.journal,
            modules,
            guard,
            inbox: context.inbox,
        };
        Ok(Rc::new(LinuxOs::start(parts).context("the modules cannot be prepared")?))
    }

    fn ready(&self) {
        self.tell(self.service.ready());
    }

    fn alive(&self) {
        if self.service.watchdog_period().is_some() {
            self.tell(self.service.alive());
        }
    }

    async fn stop_requested(&self) {
        let mut signals = self.signals.lock().await;
        if signals.is_none() {
            let both = [signal(SignalKind::terminate()), signal(SignalKind::interrupt())];
            let [Ok(terminate), Ok(interrupt)] = both else {
                warn!("signals cannot be received: stop the daemon with SIGKILL");
                return std::future::pending().await;
            };
            *signals = Some([terminate, interrupt]);
        }
        let [terminate, interrupt] = signals.as_mut().expect("set above");
        tokio::select! {
            biased;
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        self.tell(self.service.stopping());
    }
}

fn replicated_directories(config: &ModuleConfig) -> Vec<PathBuf> {
    let directories = config.rfs.iter().flat_map(|rfs| &rfs.directories);
    directories.map(|directory| directory.dir.clone()).collect()
}

/// Runs the guard process: `havre guard STATE-DIR OWNER`, started by the daemon only.
///
/// # Errors
/// The arguments are wrong, or the configuration cannot be read.
pub fn run_guard(arguments: &[OsString]) -> Result<()> {
    let [state_dir, owner] = arguments else { bail!("guard: started by the daemon only") };
    let state_dir = Path::new(state_dir);
    let owner = owner.to_str().and_then(|o| o.parse().ok()).context("guard: no owner")?;
    let membership = Membership::load(state_dir)?;
    let modules: BTreeMap<_, _> = Modules::of(state_dir)
        .active(membership.config())?
        .into_iter()
        .map(|(id, module)| {
            let guarded = Guarded {
                addresses: virtual_addresses(&module.config).collect(),
                tcp_reset: module.config.tcp_reset,
                scripts: script_place(state_dir, &module),
                holder: holder::socket_in(state_dir),
                directories: replicated_directories(&module.config),
            };
            (id, guarded)
        })
        .collect();
    guard::run(state_dir, owner, &modules).context("guard")
}
