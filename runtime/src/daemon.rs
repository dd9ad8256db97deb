//! The daemon: takes the state directory, opens the networks, runs the agent and serves the
//! interface, until it is told to stop.
//!
//! The operating system's half comes from a [`Platform`]. Asked to stop, the daemon first stops
//! its modules; those with `boot="auto"` start again with it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use havre_core::{
    config::difference::needs_stop,
    effect::{Answer, Command, ModuleOrder, Record, SavedState},
    ids::{Incarnation, ModuleId},
    node::{Node, NodeConfig},
    rng::Rng,
    status::{NodeStatus, State},
    time::Instant,
};
use tokio::{sync::mpsc, task::LocalSet};
use tracing::{error, info, warn};

use crate::{
    admin::{
        api::{self, Api, Reload},
        health::{self, Board},
        remote::{self, Neighbours},
    },
    agent::{self, AgentConfig, Inbox, Letters},
    cluster::{self, Membership},
    events::{
        report::{LogHandle, Reporter},
        text::Names,
    },
    expiry,
    journal::Journal,
    modules::{Module, Modules},
    os::Os,
    seal::Sealer,
    store::{ModuleRecords, StateLock, next_run},
    transport::{
        tls::StreamSecurity,
        udp::{self, UdpNet},
    },
};

/// Longest time that modules may take to stop when the daemon is told to end. Stop scripts have
/// limits of their own, 300 s each by default.
const STOP_TIMEOUT: Duration = Duration::from_secs(900);
/// Pause between two looks at modules that stop.
const STOP_POLL: Duration = Duration::from_millis(50);
/// Pause between two signs of life to the service manager.
const ALIVE_PERIOD: Duration = Duration::from_secs(1);

/// The operating system's half of the daemon.
#[expect(async_fn_in_trait, reason = "daemons are single-threaded: futures need not be Send")]
pub trait Platform {
    /// What the agent runs on.
    type Os: Os;

    /// The boot clock.
    fn clock(&self) -> fn() -> Instant;

    /// Makes the operating system's half of one run. Called again after the modules were
    /// configured anew; the one before is dropped by then.
    async fn os(&self, context: DaemonContext) -> Result<Rc<Self::Os>>;

    /// Tells the service manager that the daemon works.
    fn ready(&self) {}

    /// Tells the service manager that the daemon still works. Called every second.
    fn alive(&self) {}

    /// Returns when the daemon is told to stop (a signal, the service manager). May be dropped
    /// and called again: must not forget that it was told.
    async fn stop_requested(&self);
}

/// What the operating system's half may need of the daemon.
#[derive(Debug)]
pub struct DaemonContext {
    /// The state directory, locked by this daemon.
    pub state_dir: PathBuf,
    /// The cluster and this node.
    pub membership: Membership,
    /// The modules, with the folders of their scripts.
    pub modules: BTreeMap<ModuleId, Module>,
    /// How streams between data paths are protected.
    pub security: StreamSecurity,
    /// This run of the daemon.
    pub incarnation: Incarnation,
    /// Durable records.
    pub records: ModuleRecords,
    /// Takes news, for [`Os::notify`].
    pub reporter: Arc<Reporter>,
    /// Takes inputs, for [`Os::journal`].
    pub journal: Journal,
    /// Takes news of data paths.
    pub inbox: Inbox,
}

/// Why a run of the agent ended.
enum End {
    Stopped,
    Reload(Reload),
}

/// TCP ports of the daemon, besides those of the modules. `None`: not served.
#[derive(Debug, Clone, Copy)]
pub struct Ports {
    /// Where load balancers ask for the modules' state.
    pub health: Option<u16>,
    /// Where the other nodes give commands; the same on every node.
    pub admin: Option<u16>,
}

/// Runs the daemon of a state directory on a runtime of its own.
///
/// # Errors
/// It cannot start, or its agent failed.
pub fn run<P: Platform>(platform: &P, state_dir: &Path, ports: Ports) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the event loop")?;
    LocalSet::new().block_on(&runtime, serve(platform, state_dir, ports))
}

async fn serve<P: Platform>(platform: &P, state_dir: &Path, ports: Ports) -> Result<()> {
    let _lock = StateLock::take(state_dir)?;
    let membership = Membership::load(state_dir)?;
    let cluster = format!("{:016x}", membership.cluster().0);
    info!(node = membership.name(), cluster, "havre starts");
    let board = Board::default();
    let serving = ports.health.map(|port| health::Server::start(port, board.clone()));
    let _serving = serving.transpose().context("cannot start the health check")?;
    let mut applied: Option<Reload> = None;
    loop {
        let outcome = one_run(platform, (state_dir, ports), (&membership, &board), applied.take());
        let outcome = outcome.await?;
        match outcome {
            End::Stopped => return Ok(()),
            End::Reload(reply) => applied = Some(reply),
        }
    }
}

/// What a run of the agent begins with.
struct Started<O> {
    agent: Running,
    log: LogHandle,
    live: Live<O>,
}

/// The modules as they run, for changes that need no stop.
struct Live<O> {
    state_dir: PathBuf,
    membership: Membership,
    modules: BTreeMap<ModuleId, Module>,
    os: Rc<O>,
}

impl<O: Os> Live<O> {
    /// Reads the active modules again while some run. Refused with `reason` if a change would
    /// need a stop.
    async fn change(&mut self, inbox: &Inbox, reason: String) -> Result<(), String> {
        let modules = Modules::of(&self.state_dir).active(self.membership.config());
        let modules = modules.map_err(|error| error.to_string())?;
        let stays = |(id, old): (&ModuleId, &Module)| {
            let new = modules.get(id).filter(|new| new.name == old.name);
            new.is_some_and(|new| !needs_stop(&old.config, &new.config))
        };
        if modules.len() != self.modules.len() || !self.modules.iter().all(stays) {
            return Err(reason);
        }
        for (id, module) in modules {
            let old = self.modules.get(&id).map(|old| old.revision);
            if old == Some(module.revision) {
                continue;
            }
            let command = Command::Configure {
                module: id,
                name: module.name.clone(),
                signature: module.signature,
                config: Box::new(module.config.clone()),
            };
            match inbox.ask(command).await {
                Ok(Answer::Refused(reason)) => return Err(reason),
                Ok(_) => {}
                Err(error) => return Err(error.to_string()),
            }
            self.os.configure(&module);
            info!(module = module.name, "new configuration in force while the module runs");
            self.modules.insert(id, module);
        }
        Ok(())
    }
}

/// An agent under way.
type Running = tokio::task::JoinHandle<Result<(), String>>;

/// One run of the agent, from reading the modules until it is stopped.
async fn one_run<P: Platform>(
    platform: &P,
    (state_dir, ports): (&Path, Ports),
    (membership, board): (&Membership, &Board),
    applied: Option<Reload>,
) -> Result<End> {
    let (inbox, letters) = agent::inbox();
    let started = start_agent(platform, state_dir, membership, (&inbox, letters));
    let Started { mut agent, log, mut live } = started.await?;
    tokio::task::spawn_local(health::keep(board.clone(), inbox.clone()));
    let (reload, reloads) = mpsc::unbounded_channel();
    let api = Api {
        inbox: inbox.clone(),
        state_dir: state_dir.to_owned(),
        clock: platform.clock(),
        reload,
        log,
        neighbours: neighbours(membership, ports)?.map(Arc::new),
    };
    let serving = serve_interface(api, membership.stream_security()?, ports)?;
    if let Some(reply) = applied {
        // The asker may have gone away.
        let _ = reply.send(Ok(()));
    }
    platform.ready();
    let end = tokio::select! {
        biased;
        ended = &mut agent => {
            serving.abort();
            return agent_ended(ended).map(|()| End::Stopped);
        }
        end = attend(platform, &inbox, reloads, &mut live) => end,
    };
    let ran = match end {
        End::Stopped => stop_modules(&inbox, platform).await,
        End::Reload(_) => Vec::new(),
    };
    inbox.stop();
    let ended = agent.await;
    serving.abort();
    // Only now: the agent itself has noted that the modules are stopped.
    if let Err(error) = note_running(state_dir, &ran) {
        warn!(%error, "modules with boot=\"auto\" will not start by themselves");
    }
    agent_ended(ended).map(|()| end)
}

/// Reads the modules, opens the networks, and starts the agent.
async fn start_agent<P: Platform>(
    platform: &P,
    state_dir: &Path,
    membership: &Membership,
    (inbox, letters): (&Inbox, Letters),
) -> Result<Started<P::Os>> {
    let config = membership.config();
    let modules = Modules::of(state_dir).active(config)?;
    let run = next_run(state_dir, membership.run_floor())?;
    let seed = u64::from_be_bytes(cluster::random()?);
    let incarnation = Incarnation(u64::from_be_bytes(cluster::random()?));
    let security = membership.stream_security()?;
    let net = UdpNet::open(config, membership.node())?;
    let peers = udp::peers(config, membership.node())?;
    let names = modules.iter().map(|(id, module)| (*id, module.name.clone())).collect();
    let nodes = Names { nodes: config.nodes.clone() };
    let node_config = NodeConfig {
        cluster: config.clone(),
        node: membership.node(),
        modules: modules.iter().map(|(id, module)| (*id, module.setup())).collect(),
    };
    let reporter = Arc::new(Reporter::start(state_dir, nodes, names)?);
    let log = reporter.handle();
    let watched = Rc::new(membership.stream_security()?);
    tokio::task::spawn_local(expiry::keep(watched, Arc::downgrade(&reporter)));
    let context = DaemonContext {
        state_dir: state_dir.to_owned(),
        membership: membership.clone(),
        modules: modules.clone(),
        security,
        incarnation,
        records: ModuleRecords::open(state_dir)?,
        reporter,
        journal: Journal::begin(state_dir, seed)?,
        inbox: inbox.clone(),
    };
    let os = platform.os(context).await?;
    let sealer = Sealer::new(membership.identity(), run);
    let agent_config = AgentConfig { incarnation, peers, sealer };
    let node = Node::new(node_config, Rng::new(seed));
    let live =
        Live { state_dir: state_dir.to_owned(), membership: membership.clone(), modules, os };
    let os = Rc::clone(&live.os);
    let agent = tokio::task::spawn_local(agent::run(node, net, os, agent_config, letters));
    Ok(Started { agent, log, live })
}

/// Waits until the daemon is told to stop, or may read its modules again.
async fn attend<P: Platform>(
    platform: &P,
    inbox: &Inbox,
    mut reloads: mpsc::UnboundedReceiver<Reload>,
    live: &mut Live<P::Os>,
) -> End {
    loop {
        let asked = tokio::select! {
            biased;
            () = platform.stop_requested() => None,
            reload = reloads.recv() => reload,
            () = watch(platform) => None,
        };
        let Some(reply) = asked else { return End::Stopped };
        match refusal(inbox).await {
            Some(reason) => {
                let _ = reply.send(live.change(inbox, reason).await);
            }
            None => return End::Reload(reply),
        }
    }
}

/// Never returns: tells the service manager that the daemon still works.
async fn watch<P: Platform>(platform: &P) {
    let mut alive = tokio::time::interval(ALIVE_PERIOD);
    loop {
        alive.tick().await;
        platform.alive();
    }
}

fn agent_ended(ended: Result<Result<(), String>, tokio::task::JoinError>) -> Result<()> {
    match ended {
        Ok(Ok(())) => Ok(()),
        Ok(Err(reason)) => bail!("{reason}"),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => Err(error).context("the agent was cancelled"),
        },
    }
}

fn neighbours(membership: &Membership, ports: Ports) -> Result<Option<Neighbours>> {
    let Some(port) = ports.admin else { return Ok(None) };
    let security = membership.stream_security()?;
    let (config, node) = (membership.config().clone(), membership.node());
    Ok(Some(Neighbours::new(config, node, security, port)))
}

#[cfg(unix)]
fn serve_interface(
    api: Api,
    security: StreamSecurity,
    ports: Ports,
) -> Result<tokio::task::JoinHandle<()>> {
    let listener = api::listen(&api.state_dir).with_context(|| {
        format!("cannot open {}", api.state_dir.join(api::SOCKET_NAME).display())
    })?;
    Ok(tokio::spawn(async move {
        let for_nodes = async {
            match ports.admin {
                Some(port) => remote::serve(port, security, api::node_routes(api.clone())).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            served = axum::serve(listener, api::routes(api.clone())) => {
                if let Err(error) = served {
                    error!(%error, "the interface ended");
                }
            }
            () = for_nodes => error!("commands of other nodes are served no more"),
        }
    }))
}

async fn status(inbox: &Inbox) -> Option<NodeStatus> {
    match inbox.ask(Command::Status).await {
        Ok(Answer::Status(status)) => Some(status),
        _ => None,
    }
}

/// Why the modules cannot be read again now.
async fn refusal(inbox: &Inbox) -> Option<String> {
    let status = status(inbox).await?;
    let running: Vec<&str> = status
        .modules
        .iter()
        .filter(|module| module.state != State::Stop)
        .map(|module| module.name.as_str())
        .collect();
    if running.is_empty() {
        return None;
    }
    Some(format!(
        "configurations are applied while the modules of this node are stopped; stop first: {}",
        running.join(", ")
    ))
}

/// Stops every module; returns those that ran.
async fn stop_modules<P: Platform>(inbox: &Inbox, platform: &P) -> Vec<ModuleId> {
    let Some(before) = status(inbox).await else { return Vec::new() };
    let running: Vec<ModuleId> = before
        .modules
        .iter()
        .filter(|module| module.state != State::Stop)
        .map(|module| module.module)
        .collect();
    for module in &running {
        let command = Command::Module { module: *module, order: ModuleOrder::Stop };
        if let Ok(Answer::Refused(reason)) = inbox.ask(command).await {
            warn!(%module, reason, "module not stopped");
        }
    }
    let stopped = async {
        while let Some(status) = status(inbox).await {
            if status.modules.iter().all(|module| module.state == State::Stop) {
                break;
            }
            platform.alive();
            tokio::time::sleep(STOP_POLL).await;
        }
    };
    if tokio::time::timeout(STOP_TIMEOUT, stopped).await.is_err() {
        warn!("modules did not stop in time");
    }
    running
}

/// Notes modules that ran until the daemon ended, so that `boot="auto"` starts them again.
fn note_running(state_dir: &Path, running: &[ModuleId]) -> Result<()> {
    let records = ModuleRecords::open(state_dir)?;
    let (SavedState { modules, .. }, _) = records.load()?;
    for (module, mut record) in modules {
        if running.contains(&module) && !record.started {
            record.started = true;
            records.save(&Record::Module { module, record })?;
        }
    }
    Ok(())
}
