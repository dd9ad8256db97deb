//! `havre module`: install, apply, list.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result};
use clap::Subcommand;

use super::{Target, print, with_client};
use crate::{
    admin::client::ClientError,
    cluster::Membership,
    modules::{Module, Modules},
};

#[derive(Debug, Clone, Subcommand)]
pub(super) enum ModuleCommand {
    /// Copy a module's folder (conf/userconfig.xml and bin/) to this node, and check it.
    #[command(after_help = "Install it on both nodes, with the same number.\n\
        Example: havre module install -m mymodule --id 1 mymodule/")]
    Install {
        /// Name of the module.
        #[arg(short = 'm', long = "module", value_name = "AM")]
        module: String,
        /// Its number, the same on all nodes; ports derive from it. Left out: the smallest free.
        #[arg(long, value_name = "N")]
        id: Option<u16>,
        /// The folder.
        dir: PathBuf,
    },
    /// Make the installed folder the one that runs. The node's modules must be stopped.
    #[command(after_help = "Edit the folder `modules/AM` of the state directory before, if need \
        be.\nExample: havre module config -m mymodule")]
    Config {
        /// Name of the module.
        #[arg(short = 'm', long = "module", value_name = "AM", env = "SAFEMODULE")]
        module: String,
    },
    /// List the installed modules.
    List,
}

pub(super) fn run(dir: &Path, command: ModuleCommand) -> Result<ExitCode> {
    let modules = Modules::of(dir);
    match command {
        ModuleCommand::Install { module, id, dir: from } => {
            let membership = Membership::load(dir)?;
            let installed = modules.install(&module, &from, id, membership.config())?;
            show_notices(&installed)?;
            print(&format!(
                "module {module} installed as number {} in {}\n  apply it with: \
                 havre module config -m {module}\n",
                installed.id.0,
                installed.dir.display()
            ))?;
        }
        ModuleCommand::Config { module } => config(dir, &modules, &module)?,
        ModuleCommand::List => list(&modules)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn config(dir: &Path, modules: &Modules, name: &str) -> Result<()> {
    let membership = Membership::load(dir)?;
    with_client(&Target::here(dir), async |client| {
        // Ask before anything changes: what runs and what is on disk must not part.
        let running = match client.status().await {
            Ok(snapshot) => snapshot.node.modules,
            Err(ClientError::NotRunning(_)) => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        let stopped =
            |m: &&havre_core::status::ModuleStatus| m.state != havre_core::status::State::Stop;
        let names: Vec<&str> = running.iter().filter(stopped).map(|m| m.name.as_str()).collect();
        if !names.is_empty() {
            anyhow::bail!(
                "configurations are applied while the modules of this node are stopped; \
                 stop first: {}",
                names.join(", ")
            );
        }
        let applied = modules.apply(name, membership.config())?;
        show_notices(&applied)?;
        let signature = applied.signature;
        match client.reload().await {
            Ok(()) => print(&format!("module {name} configured (signature {signature:016x})\n")),
            Err(ClientError::NotRunning(_)) => print(&format!(
                "module {name} configured (signature {signature:016x}); the daemon is not \
                 running: systemctl start havre\n"
            )),
            Err(error) => Err(error).context(
                "the configuration is written, but the daemon goes on with the one before",
            ),
        }
    })
}

fn list(modules: &Modules) -> Result<()> {
    let installed = modules.installed()?;
    if installed.is_empty() {
        return print("no module is installed; use `havre module install -m AM DIR`\n");
    }
    let mut text = String::new();
    for (name, id) in installed {
        let differs = modules.differs(&name)?;
        text += &format!("{:>3}  {name}", id.0);
        if differs {
            text += &format!("  (not applied: run `havre module config -m {name}`)");
        }
        text += "\n";
    }
    print(&text)
}

fn show_notices(module: &Module) -> Result<()> {
    let lines: String = module.notices.iter().map(|notice| format!("{notice}\n")).collect();
    print(&lines)
}
