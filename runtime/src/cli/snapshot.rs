//! `havre snapshot`.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, bail};
use clap::Args;

use super::{Target, about, print, with_client};
use crate::{
    modules::check_name,
    snapshot::{self, Wanted},
};

#[derive(Debug, Clone, Args)]
pub(super) struct SnapshotArgs {
    /// Only this module.
    #[arg(short = 'm', long = "module", value_name = "AM", env = "SAFEMODULE")]
    module: Option<String>,
    /// Replace names of nodes, addresses and mail addresses; leaves the journal out.
    #[arg(long)]
    anonymize: bool,
    /// Leave the input journal out (up to 64 MiB before compression).
    #[arg(long)]
    no_journal: bool,
    /// The archive to make.
    #[arg(value_name = "FILE.zip")]
    file: PathBuf,
}

pub(super) fn run(target: &Target, args: &SnapshotArgs) -> Result<ExitCode> {
    if let Some(name) = &args.module {
        check_name(name)?;
    }
    if !target.state_dir.is_dir() {
        bail!("{}: no such state directory; see --state-dir", target.state_dir.display());
    }
    let mut more = vec![("about.txt".to_owned(), about::text(target).into_bytes())];
    match with_client(target, async |client| Ok(client.status().await?)) {
        Ok(snapshot) => {
            more.push(("state.json".to_owned(), serde_json::to_vec_pretty(&snapshot)?));
        }
        Err(error) => eprintln!("havre: without the state: {error:#}"),
    }
    let (journal, anonymous) = (!args.no_journal, args.anonymize);
    let wanted = Wanted { module: args.module.clone(), journal, anonymous };
    let files = snapshot::collect(&target.state_dir, &wanted, more);
    let shown = args.file.display();
    snapshot::write(&args.file, &files).with_context(|| format!("cannot write {shown}"))?;
    let bytes = std::fs::metadata(&args.file).map_or(0, |file| file.len());
    print(&format!("{shown}: {} files, {} KiB\n", files.len(), bytes.div_ceil(1024)))?;
    if !anonymous {
        print("names and addresses are in it: --anonymize replaces them\n")?;
    }
    Ok(ExitCode::SUCCESS)
}
