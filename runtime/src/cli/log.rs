//! `havre log`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::{ModuleArg, Target, meant, print, with_client};
use crate::admin::api::LOG_COUNT_DEFAULT;

#[derive(Debug, Args)]
pub(super) struct LogArgs {
    #[command(flatten)]
    module: ModuleArg,
    /// The log of the node itself instead of a module's.
    #[arg(long, conflicts_with = "module")]
    node: bool,
    /// Show at most this many of the last entries.
    #[arg(short = 's', long = "count", value_name = "N", default_value_t = LOG_COUNT_DEFAULT)]
    count: usize,
    /// Show details too.
    #[arg(short = 'A', long = "all")]
    all: bool,
    /// One JSON object per entry.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(target: &Target, args: &LogArgs) -> Result<ExitCode> {
    with_client(target, async |client| {
        let module = if args.node { None } else { Some(meant(&client, &args.module).await?) };
        let reply = client.log(module.as_deref(), args.count, args.all).await?;
        let mut text = String::new();
        for entry in &reply.entries {
            let line = if args.json { serde_json::to_string(entry)? } else { entry.line() };
            text.push_str(&line);
            text.push('\n');
        }
        print(&text)?;
        Ok(ExitCode::SUCCESS)
    })
}
