//! Orders to a module, and waiting for their effect.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use clap::Args;
use havre_core::status::{ModuleStatus, Phase, State};

use super::{ModuleArg, Target, meant, print, with_client};
use crate::admin::api::checks::plain_word;

/// Exit code of `waitstate` if the state was not reached in time.
const NOT_REACHED: u8 = 2;
/// Pause between two looks.
const POLL: Duration = Duration::from_millis(50);

#[derive(Debug, Args)]
pub(super) struct OrderArgs {
    #[command(flatten)]
    module: ModuleArg,
    /// Give the order as a detector of that name: the loop guard counts it, where an order of an
    /// administrator sets it back. With restart, stopstart, stop and swap.
    #[arg(short = 'i', value_name = "ID", value_parser = plain_word)]
    identity: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct FullArgs {
    #[command(flatten)]
    pub(super) module: ModuleArg,
    /// Copy everything, not only what may differ.
    #[arg(long)]
    pub(super) fullsync: bool,
}

#[derive(Debug, Args)]
pub(super) struct PrimArgs {
    #[command(flatten)]
    pub(super) module: ModuleArg,
    /// Copy everything to the secondary when it comes.
    #[arg(long)]
    pub(super) fullsync: bool,
    /// Accept a half-copied or outdated copy.
    #[arg(long)]
    pub(super) force: bool,
}

#[derive(Debug, Args)]
pub(super) struct WaitArgs {
    #[command(flatten)]
    module: ModuleArg,
    /// The states: STOP, WAIT, ALONE, PRIM, SECOND, UP.
    #[arg(required = true, value_parser = state_named, ignore_case = true)]
    states: Vec<State>,
    /// Give up after this many seconds.
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
}

#[derive(Debug, Clone, Args)]
pub(super) struct WaitEndArgs {
    #[command(flatten)]
    module: ModuleArg,
    /// Give up after this many seconds.
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
}

fn state_named(word: &str) -> Result<State, String> {
    Ok(match word.to_ascii_uppercase().as_str() {
        "STOP" => State::Stop,
        "WAIT" => State::Wait,
        "ALONE" => State::Alone,
        "PRIM" => State::Prim,
        "SECOND" => State::Second,
        "UP" => State::Up,
        _ => return Err("use STOP, WAIT, ALONE, PRIM, SECOND or UP".to_owned()),
    })
}

/// Gives an order without flags, in the name of an administrator or of a detector.
pub(super) fn give(target: &Target, args: &OrderArgs, order: &str) -> Result<ExitCode> {
    let Some(detector) = &args.identity else {
        return run(target, &args.module, order, (false, false));
    };
    with_client(target, async |client| {
        let name = meant(&client, &args.module).await?;
        client.order_by(&name, order, detector).await?;
        under_way(order, &name)
    })
}

fn under_way(order: &str, name: &str) -> Result<ExitCode> {
    print(&format!("{order} of {name} is under way; follow it with `havre state`\n"))?;
    Ok(ExitCode::SUCCESS)
}

/// Gives an order; `(full, force)` are its flags.
pub(super) fn run(
    target: &Target,
    module: &ModuleArg,
    order: &str,
    (full, force): (bool, bool),
) -> Result<ExitCode> {
    with_client(target, async |client| {
        let name = meant(&client, module).await?;
        client.order(&name, order, full, force).await?;
        under_way(order, &name)
    })
}

/// Waits until the module has one of the states.
pub(super) fn wait(target: &Target, args: &WaitArgs) -> Result<ExitCode> {
    wait_for(target, (&args.module, args.timeout), &args.states)
}

/// Waits until the module serves or is ready to take over.
pub(super) fn wait_start(target: &Target, args: &WaitEndArgs) -> Result<ExitCode> {
    let started = [State::Alone, State::Prim, State::Second, State::Up];
    wait_for(target, (&args.module, args.timeout), &started)
}

/// Waits until the module is stopped.
pub(super) fn wait_stop(target: &Target, args: &WaitEndArgs) -> Result<ExitCode> {
    wait_for(target, (&args.module, args.timeout), &[State::Stop])
}

fn wait_for(
    target: &Target,
    (module, timeout): (&ModuleArg, Option<u64>),
    states: &[State],
) -> Result<ExitCode> {
    let end = timeout.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    with_client(target, async |client| {
        let name = meant(&client, module).await?;
        loop {
            let snapshot = client.status().await?;
            let Some(module) = snapshot.node.modules.iter().find(|m| m.name == name) else {
                bail!("module \"{name}\" is not configured here");
            };
            if has_reached(module, states) {
                return Ok(ExitCode::SUCCESS);
            }
            if end.is_some_and(|end| Instant::now() >= end) {
                let waits = snapshot.waits.get(&name).map_or(String::new(), |w| format!(": {w}"));
                eprintln!("havre: {name} is {} {}{waits}", module.state, module.phase);
                return Ok(ExitCode::from(NOT_REACHED));
            }
            tokio::time::sleep(POLL).await;
        }
    })
}

fn has_reached(module: &ModuleStatus, states: &[State]) -> bool {
    states.contains(&module.state)
        && match module.state {
            // A waiting module never becomes Ready.
            State::Stop | State::Wait => module.phase == Phase::NotReady,
            _ => module.phase == Phase::Ready,
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::samples;

    #[test]
    fn a_state_counts_as_reached_when_it_is_ready() {
        let mut module = samples::module_status("db");
        (module.state, module.phase) = (State::Second, Phase::Transient);
        assert!(!has_reached(&module, &[State::Second]));
        module.phase = Phase::Ready;
        assert!(has_reached(&module, &[State::Prim, State::Second]));
        assert!(!has_reached(&module, &[State::Prim]));
        (module.state, module.phase) = (State::Stop, Phase::NotReady);
        assert!(has_reached(&module, &[State::Stop]));
    }
}
