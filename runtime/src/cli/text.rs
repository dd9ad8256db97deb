//! `havre printi`, `printe`, `printw`: scripts and operators write into a module's log.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::{ModuleArg, Target, meant, with_client};

#[derive(Debug, Clone, Args)]
pub(super) struct PrintArgs {
    #[command(flatten)]
    module: ModuleArg,
    /// The text; several words are joined.
    #[arg(required = true, value_name = "TEXT")]
    words: Vec<String>,
}

/// Writes the text at a level: `I` (shown with `-A`), `E`, `W`.
pub(super) fn run(target: &Target, args: &PrintArgs, level: char) -> Result<ExitCode> {
    with_client(target, async |client| {
        let module = meant(&client, &args.module).await?;
        client.print(&module, level, &args.words.join(" ")).await?;
        Ok(ExitCode::SUCCESS)
    })
}
