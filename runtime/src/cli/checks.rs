//! The words of checkers: resources, maintenance switches, classes, loop guard.
//!
//! Source: SafeKit 8.2 User's Guide, chapter "Command line interface" (reference: safekit.md
//! sections 3.11 and 6.1).

use std::{process::ExitCode, str::FromStr};

use anyhow::{Context, Result};
use clap::{Args, Subcommand, ValueEnum};
use havre_core::{
    checks::{
        record::{LoopStatus, Switch, Switches},
        resource::{ResourceName, ResourceState, ResourceStatus},
    },
    status::ModuleStatus,
    time::Instant,
};

use super::{ModuleArg, Target, meant, print, state, with_client};
use crate::admin::{
    api::checks::{LoopWord, plain_word},
    client::Client,
};

/// Exit code of `incloop` and `checkloop` if the limit is reached.
const REACHED: u8 = 1;
/// Their exit code if it is not known whether it is.
const NOT_KNOWN: u8 = 2;

pub(super) const GET_EXAMPLES: &str = "\
Prints init, up, down or unknown. Examples:
  havre get -m mymodule -r custom.disk
  havre get -m mymodule -r remote.ping.gw      as the other node sees it";

pub(super) const SET_EXAMPLES: &str = "\
Examples:
  havre set -m mymodule -r custom.disk -v down -i diskchecker
  havre set -m mymodule -r custom.disk -v up -n";

pub(super) const SWITCH_HELP: &str = "It concerns this node only (-H \"*\": every node) and \
outlives restarts.";

#[derive(Debug, Args)]
pub(super) struct GetArgs {
    #[command(flatten)]
    module: ModuleArg,
    /// The resource, as `custom.disk`; behind `remote.` as the other node sees it.
    #[arg(short = 'r', value_name = "RESOURCE")]
    resource: Wanted,
}

#[derive(Debug, Args)]
pub(super) struct SetArgs {
    #[command(flatten)]
    module: ModuleArg,
    /// The resource, as `custom.disk`.
    #[arg(short = 'r', value_name = "RESOURCE")]
    resource: ResourceName,
    /// Its state: up, down, init or unknown.
    #[arg(short = 'v', value_name = "STATE")]
    value: ResourceState,
    /// Leave the change out of the resource's history.
    #[arg(short = 'n', conflicts_with = "history")]
    no_history: bool,
    /// Keep the change in the resource's history, as without -n.
    #[arg(short = 'l')]
    history: bool,
    /// Who says so; the caller if it is left out.
    #[arg(short = 'i', value_name = "ID", value_parser = plain_word)]
    identity: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum ErrdCommand {
    /// Watch processes and services again.
    #[command(after_help = "Example: havre errd on -m mymodule")]
    On(ModuleArg),
    /// Do not watch processes and services, until `errd on`.
    #[command(after_help = "Example: havre errd off -m mymodule\n\
        It concerns this node only (-H \"*\": every node) and outlives restarts.")]
    Off(ModuleArg),
    /// Watch a class of checkers, until the module is stopped.
    #[command(after_help = "Example: havre errd enable myclass -m mymodule")]
    Enable(ClassArgs),
    /// Do not watch a class of checkers, until the module is stopped.
    #[command(after_help = "Example: havre errd disable myclass -m mymodule")]
    Disable(ClassArgs),
    /// List the processes and services that are watched, with their states.
    #[command(after_help = "Example: havre errd list -m mymodule")]
    List(ModuleArg),
}

#[derive(Debug, Args)]
pub(super) struct ClassArgs {
    /// The class: what `<proc class="...">` or `when="..."` says.
    #[arg(value_parser = plain_word)]
    class: String,
    #[command(flatten)]
    module: ModuleArg,
}

#[derive(Debug, Args)]
pub(super) struct SwitchArgs {
    /// What to do.
    position: Position,
    #[command(flatten)]
    module: ModuleArg,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Position {
    /// Switch it on.
    On,
    /// Switch it off.
    Off,
    /// Show its position.
    Status,
}

#[derive(Debug, Args)]
pub(super) struct LoopArgs {
    #[command(flatten)]
    module: ModuleArg,
    /// Who found something; the caller if it is left out.
    #[arg(short = 'i', value_name = "ID", value_parser = plain_word)]
    identity: Option<String>,
}

/// A resource as one of the nodes sees it.
#[derive(Debug, Clone)]
struct Wanted {
    name: ResourceName,
    remote: bool,
}

impl FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let remote = text.strip_prefix("remote.");
        Ok(Self { name: remote.unwrap_or(text).parse()?, remote: remote.is_some() })
    }
}

/// Prints the state of a resource.
pub(super) fn get(target: &Target, args: &GetArgs) -> Result<ExitCode> {
    with_client(target, async |client| {
        let (_, module) = module_of(&client, &args.module).await?;
        let state = state_in(&module, &args.resource)?;
        print(&format!("{state}\n"))?;
        Ok(ExitCode::SUCCESS)
    })
}

/// Sets a resource.
pub(super) fn set(target: &Target, args: &SetArgs) -> Result<ExitCode> {
    with_client(target, async |client| {
        let name = meant(&client, &args.module).await?;
        let how = (args.identity.as_deref(), !args.no_history);
        client.set_resource(&name, &args.resource, args.value, how).await?;
        Ok(ExitCode::SUCCESS)
    })
}

/// Switches the watching of processes and services, or shows it.
pub(super) fn errd(target: &Target, command: &ErrdCommand) -> Result<ExitCode> {
    match command {
        ErrdCommand::On(module) => turn(target, module, Switch::Errd, true),
        ErrdCommand::Off(module) => turn(target, module, Switch::Errd, false),
        ErrdCommand::Enable(args) => class(target, args, true),
        ErrdCommand::Disable(args) => class(target, args, false),
        ErrdCommand::List(module) => with_client(target, async |client| {
            let (now, module) = module_of(&client, module).await?;
            print(&watched(&module, now))?;
            Ok(ExitCode::SUCCESS)
        }),
    }
}

/// Turns a maintenance switch, or shows it.
pub(super) fn switch(target: &Target, args: &SwitchArgs, switch: Switch) -> Result<ExitCode> {
    match args.position {
        Position::On => turn(target, &args.module, switch, true),
        Position::Off => turn(target, &args.module, switch, false),
        Position::Status => with_client(target, async |client| {
            let (_, module) = module_of(&client, &args.module).await?;
            print(&format!("{} {}\n", switch.word(), position(module.checks.switches, switch)))?;
            Ok(ExitCode::SUCCESS)
        }),
    }
}

/// Asks or changes the loop guard; says in the exit code whether the limit is reached.
pub(super) fn loop_guard(target: &Target, args: &LoopArgs, verb: LoopWord) -> Result<ExitCode> {
    let asked = with_client(target, async |client| {
        let name = meant(&client, &args.module).await?;
        Ok((
            client.loop_guard(&name, verb, args.identity.as_deref()).await?,
            client.status().await?.now,
        ))
    });
    match asked {
        Ok((guard, now)) => {
            print(&format!("{}\n", detections(&guard, now)))?;
            let reached = guard.reached && verb != LoopWord::ResetLoop;
            Ok(ExitCode::from(if reached { REACHED } else { 0 }))
        }
        // An exit code 1 would say that the limit is reached.
        Err(error) => {
            eprintln!("havre: {error:#}");
            Ok(ExitCode::from(NOT_KNOWN))
        }
    }
}

/// `2 of 3 detections, the window ends in 23 h`
pub(super) fn detections(guard: &LoopStatus, now: Instant) -> String {
    let mut text = format!("{} of {} detections", guard.count, guard.max);
    if guard.reached {
        text += ", the limit is reached";
    }
    if let Some(until) = guard.until {
        text += &format!(", the window ends in {}", state::span(until.since(now)));
    }
    if let Some(at) = guard.retry_at {
        text += &format!(", starts again in {}", state::span(at.since(now)));
    }
    text
}

fn turn(target: &Target, module: &ModuleArg, switch: Switch, on: bool) -> Result<ExitCode> {
    with_client(target, async |client| {
        let name = meant(&client, module).await?;
        client.switch(&name, switch, on).await?;
        Ok(ExitCode::SUCCESS)
    })
}

fn class(target: &Target, args: &ClassArgs, on: bool) -> Result<ExitCode> {
    with_client(target, async |client| {
        let name = meant(&client, &args.module).await?;
        client.class(&name, &args.class, on).await?;
        Ok(ExitCode::SUCCESS)
    })
}

/// The module that is meant, at a moment of its node's clock.
async fn module_of(client: &Client, module: &ModuleArg) -> Result<(Instant, ModuleStatus)> {
    let name = meant(client, module).await?;
    let snapshot = client.status().await?;
    let found = snapshot.node.modules.into_iter().find(|module| module.name == name);
    let found = found.with_context(|| format!("module \"{name}\" is not configured here"))?;
    Ok((snapshot.now, found))
}

fn state_in(module: &ModuleStatus, wanted: &Wanted) -> Result<ResourceState> {
    let name = &wanted.name;
    let found = module.checks.resources.iter().find(|resource| resource.name == *name);
    let found = found.with_context(|| {
        format!("module \"{}\" has no resource {name}: `havre state -v` lists them", module.name)
    })?;
    if wanted.remote {
        return found.remote.with_context(|| {
            format!("{name} does not travel to the other node: no rule names remote.{name}")
        });
    }
    Ok(found.state)
}

fn position(switches: Switches, switch: Switch) -> &'static str {
    let position = match switch {
        Switch::Errd => Some(switches.errd),
        Switch::Checker => Some(switches.checker),
        Switch::Failover => switches.failover,
        Switch::Boot => switches.boot,
    };
    match position {
        Some(true) => "on",
        Some(false) => "off",
        None => "as configured",
    }
}

/// The processes and services of a module, a line each.
fn watched(module: &ModuleStatus, now: Instant) -> String {
    let mut text = format!("errd {}\n", position(module.checks.switches, Switch::Errd));
    for resource in &module.checks.resources {
        if matches!(resource.name.class(), "proc" | "service") {
            text += &format!("{}\n", described(resource, now));
        }
    }
    text
}

/// `custom.disk up 60 s, remote down: 3 % free`
pub(super) fn described(resource: &ResourceStatus, now: Instant) -> String {
    let since = state::span(now.since(resource.since));
    let mut text = format!("{} {} {since}", resource.name, resource.state);
    if let Some(remote) = resource.remote {
        text += &format!(", remote {remote}");
    }
    if !resource.detail.is_empty() {
        text += &format!(": {}", resource.detail);
    }
    text
}

#[cfg(test)]
mod tests;
