//! `havre log` and `havre cmdlog`.

use std::{process::ExitCode, time::Duration};

use anyhow::Result;
use clap::Args;

use super::{ModuleArg, Target, meant, print, with_client};
use crate::{
    admin::{api::LOG_COUNT_DEFAULT, client::Client},
    events::log::Entry,
};

/// Pause between two looks at a log that is followed.
const FOLLOW_PERIOD: Duration = Duration::from_millis(500);
/// Entries of one look; more within one pause are not all shown.
const FOLLOW_COUNT: usize = 10_000;

#[derive(Debug, Clone, Args)]
pub(super) struct LogArgs {
    #[command(flatten)]
    module: ModuleArg,
    /// The log of the node itself instead of a module's.
    #[arg(long, conflicts_with = "module")]
    node: bool,
    #[command(flatten)]
    shown: ShownArgs,
    /// Show details too.
    #[arg(short = 'A', long = "all")]
    all: bool,
    /// Go on with what happens from now on, until interrupted.
    #[arg(short = 'f', long = "follow")]
    follow: bool,
}

/// How much is shown, and how.
#[derive(Debug, Clone, Args)]
pub(super) struct ShownArgs {
    /// Show at most this many of the last entries.
    #[arg(short = 's', long = "count", value_name = "N", default_value_t = LOG_COUNT_DEFAULT)]
    count: usize,
    /// One JSON object per entry.
    #[arg(long)]
    json: bool,
}

/// `havre log`.
pub(super) fn run(target: &Target, args: &LogArgs) -> Result<ExitCode> {
    with_client(target, async |client| {
        let module = if args.node { None } else { Some(meant(&client, &args.module).await?) };
        let module = module.as_deref();
        let entries = client.log(module, args.shown.count, args.all).await?.entries;
        show(&entries, args.shown.json)?;
        if args.follow {
            follow(&client, module, args, entries.last().cloned()).await?;
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// `havre cmdlog`.
pub(super) fn commands(target: &Target, args: &ShownArgs) -> Result<ExitCode> {
    with_client(target, async |client| {
        show(&client.commands(args.count).await?.entries, args.json)?;
        Ok(ExitCode::SUCCESS)
    })
}

/// Shows what comes after `last`, until it fails.
async fn follow(
    client: &Client,
    module: Option<&str>,
    args: &LogArgs,
    mut last: Option<Entry>,
) -> Result<()> {
    loop {
        tokio::time::sleep(FOLLOW_PERIOD).await;
        let entries = client.log(module, FOLLOW_COUNT, args.all).await?.entries;
        let new = new_since(&entries, last.as_ref());
        show(new, args.shown.json)?;
        if let Some(newest) = new.last() {
            last = Some(newest.clone());
        }
    }
}

/// The entries behind `last`; all of them if it is gone.
fn new_since<'a>(entries: &'a [Entry], last: Option<&Entry>) -> &'a [Entry] {
    let known = last.and_then(|last| entries.iter().rposition(|entry| entry == last));
    &entries[known.map_or(0, |at| at + 1)..]
}

fn show(entries: &[Entry], json: bool) -> Result<()> {
    let mut text = String::new();
    for entry in entries {
        let line = if json { serde_json::to_string(entry)? } else { entry.line() };
        text.push_str(&line);
        text.push('\n');
    }
    print(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_entries_behind_the_last_one_are_new() {
        let entries: Vec<Entry> = ["a", "b", "c"].map(Entry::of_script).into();
        assert_eq!(new_since(&entries, Some(&entries[1])), &entries[2..]);
        assert_eq!(new_since(&entries, None), &entries[..]);
        assert_eq!(new_since(&entries[1..], Some(&entries[0])), &entries[1..]);
    }
}
