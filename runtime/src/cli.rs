//! The command line, the same on every operating system. One file per group of commands.
//!
//! Every command that concerns a running node is a client of the daemon's interface; `cluster`,
//! `module` and `config` work on files and need no daemon.

mod about;
mod checks;
mod cluster;
mod config;
mod distribute;
pub mod documents;
mod farm;
mod hosts;
mod log;
mod lone;
mod module;
mod order;
mod safekit;
#[cfg(test)]
pub(crate) mod samples;
mod snapshot;
mod state;
mod text;
mod witness;

use std::{
    ffi::OsString,
    fmt,
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
    str::FromStr,
};

use anyhow::{Result, bail};
use clap::{Args, Parser, Subcommand};

use havre_core::checks::record::Switch;

use crate::{
    admin::{
        api::checks::LoopWord, client::Client, health::HEALTH_PORT_DEFAULT,
        remote::ADMIN_PORT_DEFAULT,
    },
    daemon::{self, Platform, Ports},
    events::trace::{self, TraceFormat},
    modules::check_name,
};

/// State directory unless `--state-dir` says otherwise.
pub const STATE_DIR_DEFAULT: &str = "/var/lib/havre";
/// Exit code of a command that failed, unless it has codes of its own.
pub const FAILURE: u8 = 1;
/// Exit code of `state -lq` if the state is not known: 0 to 4 are states.
pub const STATE_UNKNOWN: u8 = 255;

/// The commands that differ between operating systems.
pub trait Commands {
    /// The operating system's half of the daemon.
    type Platform: Platform;

    /// Makes that half.
    ///
    /// # Errors
    /// The operating system lacks something.
    fn platform(&self) -> Result<Self::Platform>;

    /// `havre demo`.
    ///
    /// # Errors
    /// The demonstration failed.
    fn demo(&self, args: &DemoArgs) -> Result<ExitCode>;

    /// `havre bench ...`, with the words behind it.
    ///
    /// # Errors
    /// The measurement failed.
    fn bench(&self, args: &[OsString]) -> Result<ExitCode>;

    /// `havre lab ...`, with the words behind it.
    ///
    /// # Errors
    /// The laboratory cannot be built.
    fn lab(&self, args: &[OsString]) -> Result<ExitCode>;

    /// `havre holder ...`, started by the daemon only, with the words behind it.
    ///
    /// # Errors
    /// It failed.
    fn holder(&self, args: &[OsString]) -> Result<ExitCode>;
}

/// High availability for applications: two nodes, one service, no lost write.
#[derive(Debug, Parser)]
#[command(name = "havre", version, max_term_width = 100, after_help = EXAMPLES)]
struct Cli {
    /// Where this node keeps its state; each daemon on a machine needs one of its own.
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "HAVRE_STATE_DIR",
        default_value = STATE_DIR_DEFAULT
    )]
    state_dir: PathBuf,
    /// Do it on these nodes instead of this one: names separated by commas, or "*" for all.
    #[arg(short = 'H', long = "hosts", global = true, value_name = "NODES")]
    hosts: Option<String>,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples, from nothing to a running pair:
  havre config check cluster.xml mymodule/conf/userconfig.xml
  havre cluster init --config cluster.xml --node node1      on node1; then copy the bundle
  havre cluster join havre-node2.bundle                     on node2
  havre module install -m mymodule mymodule/                on both
  havre module config -m mymodule                           on both
  systemctl start havre                                     on both
  havre prim -m mymodule                                    where the data are right
  havre second -m mymodule                                  on the other
  havre state";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon of this node (usually started by the service manager).
    Daemon(DaemonArgs),
    /// Make a cluster, join one, or show it.
    #[command(subcommand)]
    Cluster(cluster::ClusterCommand),
    /// Install modules, apply their configuration, list them.
    #[command(subcommand)]
    Module(module::ModuleCommand),
    /// Check configuration files.
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Start a module; its role follows from the data.
    #[command(after_help = "Example: havre start -m mymodule")]
    Start(order::OrderArgs),
    /// Start a module as primary: its data are taken as right.
    #[command(
        after_help = "Needed once, on the node whose data are right, when a module is new.\n\
        Examples:\n  havre prim -m mymodule\n  havre prim --force -m mymodule    \
        accept a half-copied or outdated copy: writes of the other node may be lost"
    )]
    Prim(order::PrimArgs),
    /// Start a module as secondary.
    #[command(after_help = "Example: havre second -m mymodule")]
    Second(order::FullArgs),
    /// Stop a module: application, virtual address and replication.
    #[command(after_help = "Example: havre stop -m mymodule")]
    Stop(order::OrderArgs),
    /// Exchange the roles of the two nodes.
    #[command(after_help = "Example: havre swap -m mymodule")]
    Swap(order::OrderArgs),
    /// Stop and start the application in place, without failover.
    #[command(after_help = "Example: havre restart -m mymodule")]
    Restart(order::OrderArgs),
    /// Stop a module and start it again; a primary thereby fails over.
    #[command(after_help = "Example: havre stopstart -m mymodule")]
    Stopstart(order::OrderArgs),
    /// Stop a module even if its scripts fail or hang.
    #[command(after_help = "Example: havre forcestop -m mymodule")]
    Forcestop(order::OrderArgs),
    /// Show the state of a resource.
    #[command(after_help = checks::GET_EXAMPLES)]
    Get(checks::GetArgs),
    /// Set a resource: what a checker of your own found.
    #[command(after_help = checks::SET_EXAMPLES)]
    Set(checks::SetArgs),
    /// Switch the watching of processes and services on and off, or list them.
    #[command(subcommand)]
    Errd(checks::ErrdCommand),
    /// Switch every checker that is not errd's on and off.
    #[command(after_help = format!("{}\nExample: havre checker off -m mymodule",
        checks::SWITCH_HELP))]
    Checker(checks::SwitchArgs),
    /// Allow or forbid a secondary to take over by itself.
    #[command(after_help = "Do it on every node. Example: havre -H \"*\" failover off -m mymodule")]
    Failover(checks::SwitchArgs),
    /// Start a module with the daemon or not, where `<service boot=\"ignore\">` leaves it to this.
    #[command(after_help = "Examples:\n  havre boot on -m mymodule\n  \
        havre boot status -m mymodule")]
    Boot(checks::SwitchArgs),
    /// Count one detection that your own handler repairs.
    #[command(after_help = "Example: havre incloop -m mymodule -i myhandler\n\
        Exit code 0: go on, 1: the limit (maxloop) is reached, 2: not known.")]
    Incloop(checks::LoopArgs),
    /// Forget the detections that were counted.
    #[command(after_help = "Example: havre resetloop -m mymodule\n\
        Exit code 0: done, 2: not known.")]
    Resetloop(checks::LoopArgs),
    /// Show the detections that were counted.
    #[command(after_help = "Example: havre checkloop -m mymodule\n\
        Exit code 0: go on, 1: the limit (maxloop) is reached, 2: not known.")]
    Checkloop(checks::LoopArgs),
    /// Say which node of a farm takes a client, or empty a node.
    #[command(subcommand)]
    Farm(farm::FarmCommand),
    /// Show the state of this node's modules.
    #[command(after_help = state::EXAMPLES)]
    State(state::StateArgs),
    /// Wait until a module has reached a state.
    #[command(after_help = "Examples:\n  havre waitstate -m mymodule PRIM\n  \
        havre waitstate -m mymodule PRIM ALONE --timeout 60\nThe state must be Ready (STOP: \
        NotReady). Exit code 0: reached, 2: not within the time.")]
    Waitstate(order::WaitArgs),
    /// Wait until a module serves, or is ready to take over.
    #[command(after_help = "Example: havre waitstart -m mymodule --timeout 60\n\
        Exit code 0: reached, 2: not within the time.")]
    Waitstart(order::WaitEndArgs),
    /// Wait until a module is stopped.
    #[command(after_help = "Example: havre waitstop -m mymodule --timeout 60\n\
        Exit code 0: reached, 2: not within the time.")]
    Waitstop(order::WaitEndArgs),
    /// Show the log of a module, or of the node.
    #[command(
        after_help = "Examples:\n  havre log -m mymodule\n  havre log -m mymodule -A -s 1000\
        \n  havre log -f -m mymodule\n  havre log --node"
    )]
    Log(log::LogArgs),
    /// Show the orders that were given to this node, by whom, and what became of them.
    #[command(after_help = "Example: havre cmdlog -s 20")]
    Cmdlog(log::ShownArgs),
    /// Write a text into a module's log, shown with `log -A`.
    #[command(after_help = "Example: havre printi \"backup begins\"")]
    Printi(text::PrintArgs),
    /// Write a text into a module's log.
    #[command(after_help = "Example: havre printe \"backup begins\"")]
    Printe(text::PrintArgs),
    /// Write a warning into a module's log.
    #[command(after_help = "Example: havre printw \"the backup is late\"")]
    Printw(text::PrintArgs),
    /// Put what is known about this node into one archive, for support.
    #[command(after_help = "Keys and passwords stay out.\nExamples:\n  \
        havre snapshot /tmp/node1.zip\n  havre snapshot -m mymodule --anonymize /tmp/node1.zip")]
    Snapshot(snapshot::SnapshotArgs),
    /// Show host, system and version.
    Level,
    /// Show what scripts find in SAFE, SAFEVAR and SAFEBIN (SafeKit's -p).
    Paths,
    /// Print what a shell needs to complete commands.
    #[command(after_help = "Example: havre completions bash > \
        /usr/share/bash-completion/completions/havre")]
    Completions(documents::CompletionsArgs),
    /// Run the third-party arbiter on this machine.
    #[command(after_help = "One witness serves any number of clusters. Example:\n  \
        havre cluster join havre-witness.bundle\n  havre witness --listen 0.0.0.0:4799")]
    Witness(witness::WitnessArgs),
    /// Build a cluster on this machine, kill its primary, and count what was lost.
    #[command(after_help = "Example: havre demo --keep")]
    Demo(DemoArgs),
    /// Measure the replicated directory against the native one.
    Bench(Words),
    /// Run the simulator's scenario files on real daemons in network namespaces.
    #[command(
        disable_help_flag = true,
        after_help = "Example: havre lab run scenarios/mirror/swap.toml"
    )]
    Lab(Words),
    #[command(hide = true)]
    Holder(Words),
}

#[derive(Debug, Args)]
struct DaemonArgs {
    /// TCP port at which load balancers ask whether a module serves here (`/health/AM`), or `off`.
    #[arg(
        long,
        value_name = "PORT",
        env = "HAVRE_HEALTH_PORT",
        default_value_t = Port(Some(HEALTH_PORT_DEFAULT))
    )]
    health_port: Port,
    /// TCP port at which the other nodes give commands (`havre -H NODE ...`), the same on every
    /// node, or `off`.
    #[arg(
        long,
        value_name = "PORT",
        env = "HAVRE_ADMIN_PORT",
        default_value_t = Port(Some(ADMIN_PORT_DEFAULT))
    )]
    admin_port: Port,
    /// How the daemon's own traces look (HAVRE_LOG selects what is traced).
    #[arg(long, value_enum, default_value = "text")]
    trace: TraceFormat,
}

/// A port, or none.
#[derive(Debug, Clone, Copy)]
struct Port(Option<u16>);

impl FromStr for Port {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse() {
            _ if text == "off" => Ok(Self(None)),
            Ok(0) | Err(_) => Err("must be a port from 1 to 65535, or off"),
            Ok(port) => Ok(Self(Some(port))),
        }
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(port) => port.fmt(f),
            None => f.write_str("off"),
        }
    }
}

/// Arguments of `havre demo`.
#[derive(Debug, Clone, Args)]
pub struct DemoArgs {
    /// Leave the cluster running.
    #[arg(long)]
    pub keep: bool,
    /// Run the bundled ledger even if PostgreSQL is installed.
    #[arg(long)]
    pub ledger: bool,
    /// How often the primary is killed.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=1000)
    )]
    pub rounds: u32,
}

/// Words that the operating system's half interprets.
#[derive(Debug, Args)]
struct Words {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<OsString>,
}

/// The module a command is about.
#[derive(Debug, Clone, Args)]
struct ModuleArg {
    /// The module. May be left out in its scripts, and where there is only one.
    #[arg(short = 'm', long = "module", value_name = "AM", env = "SAFEMODULE")]
    module: Option<String>,
}

/// Runs the command line of this process.
pub fn main<C: Commands>(commands: &C) -> ExitCode {
    run(commands, std::env::args_os())
}

/// Runs one command line, whose first word is the program's name.
pub fn run<C: Commands>(commands: &C, words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(safekit::translated(words)) {
        Ok(cli) => cli,
        Err(error) => {
            // Printing fails only if nobody listens any more.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(FAILURE));
        }
    };
    match execute(commands, cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("havre: {error:#}");
            ExitCode::from(FAILURE)
        }
    }
}

fn execute<C: Commands>(commands: &C, cli: Cli) -> Result<ExitCode> {
    let here = Target::here(&cli.state_dir);
    let Some(hosts) = &cli.hosts else { return execute_on(commands, &cli.command, &here) };
    if let Command::Module(command) = &cli.command
        && command.goes_to_nodes()
    {
        let names = with_client(&here, async |client| Ok(client.nodes().await?))?;
        let nodes = hosts::chosen(hosts, &names.nodes)?;
        return module::run_on(&cli.state_dir, command.clone(), Some(nodes));
    }
    if !cli.command.can_be_remote() {
        bail!("-H is for commands to running daemons (start, stop, state, log ...), not for this");
    }
    let names = with_client(&here, async |client| Ok(client.nodes().await?))?;
    hosts::on_each(&hosts::chosen(hosts, &names.nodes)?, |node| {
        let target = Target { node: Some(node.to_owned()), ..here.clone() };
        execute_on(commands, &cli.command, &target)
    })
}

impl Command {
    /// Whether a daemon carries it out, so that another node's daemon can.
    fn can_be_remote(&self) -> bool {
        match self {
            Self::Start(_)
            | Self::Prim(_)
            | Self::Second(_)
            | Self::Stop(_)
            | Self::Swap(_)
            | Self::Restart(_)
            | Self::Stopstart(_)
            | Self::Forcestop(_)
            | Self::Get(_)
            | Self::Set(_)
            | Self::Errd(_)
            | Self::Checker(_)
            | Self::Failover(_)
            | Self::Boot(_)
            | Self::Incloop(_)
            | Self::Resetloop(_)
            | Self::Checkloop(_)
            | Self::Farm(_)
            | Self::State(_)
            | Self::Waitstate(_)
            | Self::Waitstart(_)
            | Self::Waitstop(_)
            | Self::Log(_)
            | Self::Cmdlog(_)
            | Self::Printi(_)
            | Self::Printe(_)
            | Self::Printw(_) => true,
            Self::Daemon(_)
            | Self::Cluster(_)
            | Self::Module(_)
            | Self::Config(_)
            | Self::Level
            | Self::Snapshot(_)
            | Self::Paths
            | Self::Completions(_)
            | Self::Witness(_)
            | Self::Demo(_)
            | Self::Bench(_)
            | Self::Lab(_)
            | Self::Holder(_) => false,
        }
    }
}

fn execute_on<C: Commands>(commands: &C, command: &Command, target: &Target) -> Result<ExitCode> {
    let dir = target.state_dir.as_path();
    let order = |args: &order::OrderArgs, name: &str| order::give(target, args, name);
    match command {
        Command::Daemon(args) => {
            trace::start(args.trace);
            let ports = Ports { health: args.health_port.0, admin: args.admin_port.0 };
            daemon::run(&commands.platform()?, dir, ports)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Cluster(command) => cluster::run(dir, command.clone()),
        Command::Module(command) => module::run(dir, command.clone()),
        Command::Config(command) => config::run(dir, command.clone()),
        Command::Start(args) => order(args, "start"),
        Command::Prim(args) => {
            order::run(target, &args.module, "prim", (args.fullsync, args.force))
        }
        Command::Second(args) => order::run(target, &args.module, "second", (args.fullsync, false)),
        Command::Stop(args) => order(args, "stop"),
        Command::Swap(args) => order(args, "swap"),
        Command::Restart(args) => order(args, "restart"),
        Command::Stopstart(args) => order(args, "stopstart"),
        Command::Forcestop(args) => order(args, "forcestop"),
        Command::Get(args) => checks::get(target, args),
        Command::Set(args) => checks::set(target, args),
        Command::Errd(command) => checks::errd(target, command),
        Command::Checker(args) => checks::switch(target, args, Switch::Checker),
        Command::Failover(args) => checks::switch(target, args, Switch::Failover),
        Command::Boot(args) => checks::switch(target, args, Switch::Boot),
        Command::Incloop(args) => checks::loop_guard(target, args, LoopWord::IncLoop),
        Command::Resetloop(args) => checks::loop_guard(target, args, LoopWord::ResetLoop),
        Command::Checkloop(args) => checks::loop_guard(target, args, LoopWord::CheckLoop),
        Command::Farm(command) => farm::run(target, command),
        Command::State(args) => state::run(target, args),
        Command::Waitstate(args) => order::wait(target, args),
        Command::Waitstart(args) => order::wait_start(target, args),
        Command::Waitstop(args) => order::wait_stop(target, args),
        Command::Log(args) => log::run(target, args),
        Command::Cmdlog(args) => log::commands(target, args),
        Command::Printi(args) => text::run(target, args, 'I'),
        Command::Printe(args) => text::run(target, args, 'E'),
        Command::Printw(args) => text::run(target, args, 'W'),
        Command::Snapshot(args) => snapshot::run(target, args),
        Command::Level => about::level(target),
        Command::Paths => about::paths(dir),
        Command::Completions(args) => documents::completions(args),
        Command::Witness(args) => {
            trace::start(args.trace);
            witness::run(dir, args, &commands.platform()?)
        }
        Command::Demo(args) => commands.demo(args),
        Command::Bench(args) => commands.bench(&args.words),
        Command::Lab(args) => commands.lab(&args.words),
        Command::Holder(args) => commands.holder(&args.words),
    }
}

/// The daemon that a command is about.
#[derive(Debug, Clone)]
struct Target {
    /// The state directory of this machine's daemon.
    state_dir: PathBuf,
    /// Another node, reached through this machine's daemon.
    node: Option<String>,
}

impl Target {
    /// This machine's daemon.
    fn here(state_dir: &Path) -> Self {
        Self { state_dir: state_dir.to_owned(), node: None }
    }
}

/// Runs one exchange with the daemon.
fn with_client<T>(target: &Target, exchange: impl AsyncFnOnce(Client) -> Result<T>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let client = Client::of(&target.state_dir);
    runtime.block_on(exchange(match &target.node {
        Some(node) => client.on_node(node),
        None => client,
    }))
}

/// The module that is meant: the one that was named, or the only one.
async fn meant(client: &Client, module: &ModuleArg) -> Result<String> {
    if let Some(name) = &module.module {
        check_name(name)?;
        return Ok(name.clone());
    }
    let snapshot = client.status().await?;
    let names: Vec<&str> = snapshot.node.modules.iter().map(|m| m.name.as_str()).collect();
    match names[..] {
        [only] => Ok(only.to_owned()),
        [] => bail!("no module is configured on this node: run `havre module config -m AM`"),
        _ => bail!("several modules are configured: name one of {} with -m", names.join(", ")),
    }
}

/// Prints a text. Nobody listening any more (`havre log | head`) is no error.
fn print(text: &str) -> Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
