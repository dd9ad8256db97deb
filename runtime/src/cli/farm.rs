//! `havre farm`: which node takes a client, and emptying a node of its clients.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use havre_core::status::{Drain, FarmStatus};

use super::{ModuleArg, Target, meant, print, with_client};
use crate::admin::client::Client;

mod explain;

/// Exit code of `drain --wait` if connections are left.
const NOT_EMPTY: u8 = 2;
/// Pause between two looks.
const POLL: Duration = Duration::from_millis(250);

#[derive(Debug, Subcommand)]
pub(super) enum FarmCommand {
    /// Say which node takes a client's new connections, and why.
    #[command(after_help = "Examples:\n  havre farm explain -m myfarm 192.0.2.7\n  \
        havre farm explain -m myfarm 192.0.2.7:51324     where rules share by the client's port\n  \
        havre farm explain -m myfarm [2001:db8::7]:51324 --json")]
    Explain(explain::ExplainArgs),
    /// Take no new clients on a node; connections that exist go on until they end.
    #[command(after_help = "Example: havre farm drain -m myfarm node2 --wait 600")]
    Drain(DrainArgs),
    /// Take new clients on a node again.
    #[command(after_help = "Example: havre farm undrain -m myfarm node2")]
    Undrain(UndrainArgs),
}

#[derive(Debug, Args)]
pub(super) struct DrainArgs {
    #[command(flatten)]
    module: ModuleArg,
    /// The node; this one if it is left out.
    node: Option<String>,
    /// Stop the module there when its last connection has ended.
    #[arg(long)]
    stop: bool,
    /// Wait until no connection is left, this many seconds at most (exit code 2: some are left).
    #[arg(long, value_name = "SECONDS")]
    wait: Option<u64>,
}

#[derive(Debug, Args)]
pub(super) struct UndrainArgs {
    #[command(flatten)]
    module: ModuleArg,
    /// The node; this one if it is left out.
    node: Option<String>,
}

pub(super) fn run(target: &Target, command: &FarmCommand) -> Result<ExitCode> {
    match command {
        FarmCommand::Explain(args) => explain::run(target, args),
        FarmCommand::Drain(args) => {
            let order = if args.stop { "drainstop" } else { "drain" };
            on(target, args.node.as_deref(), async |client| {
                let name = meant(&client, &args.module).await?;
                client.order(&name, order, false, false).await?;
                match args.wait {
                    Some(seconds) => until_empty(&client, &name, seconds).await,
                    None => {
                        print(&format!("{name} is being drained; follow it with `havre state`\n"))?;
                        Ok(ExitCode::SUCCESS)
                    }
                }
            })
        }
        FarmCommand::Undrain(args) => on(target, args.node.as_deref(), async |client| {
            let name = meant(&client, &args.module).await?;
            client.order(&name, "undrain", false, false).await?;
            Ok(ExitCode::SUCCESS)
        }),
    }
}

/// Talks to the daemon of a node that the command names, or else to the target's.
fn on<T>(
    target: &Target,
    node: Option<&str>,
    exchange: impl AsyncFnOnce(Client) -> Result<T>,
) -> Result<T> {
    let Some(node) = node else { return with_client(target, exchange) };
    let names = with_client(target, async |client| Ok(client.nodes().await?))?;
    if !names.nodes.iter().any(|known| known == node) {
        bail!("\"{node}\" is not a node of this cluster ({})", names.nodes.join(", "));
    }
    with_client(&Target { node: Some(node.to_owned()), ..target.clone() }, exchange)
}

/// The farm of that name, as a node sees it.
async fn farm_of(client: &Client, name: &str) -> Result<FarmStatus> {
    let snapshot = client.status().await?;
    let module = snapshot.node.modules.into_iter().find(|module| module.name == name);
    let module = module.with_context(|| format!("module \"{name}\" is not configured there"))?;
    module.farm.with_context(|| format!("module \"{name}\" is not a farm"))
}

async fn until_empty(client: &Client, name: &str, seconds: u64) -> Result<ExitCode> {
    let begun = Instant::now();
    loop {
        let farm = farm_of(client, name).await?;
        if farm.drain == Drain::Done {
            print("no connection is left\n")?;
            return Ok(ExitCode::SUCCESS);
        }
        if begun.elapsed() >= Duration::from_secs(seconds) {
            print(&format!("{} connections are left\n", farm.connections))?;
            return Ok(ExitCode::from(NOT_EMPTY));
        }
        tokio::time::sleep(POLL).await;
    }
}
