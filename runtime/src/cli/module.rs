//! `havre module`: install, apply, compare, restore, remove, list.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, bail};
use clap::Subcommand;

use super::{
    Target,
    distribute::{self, Scope},
    print, with_client,
};
use crate::{
    admin::client::ClientError,
    cluster::Membership,
    modules::{Module, Modules},
};

#[derive(Debug, Clone, Subcommand)]
pub(super) enum ModuleCommand {
    /// Copy a module to this node, from a .safe package or a folder, and check it.
    #[command(after_help = "Nothing runs yet: `havre module config` applies it, on all nodes.\n\
        Examples:\n  havre module install mirror.safe -m mymodule\n  \
        havre module install -m mymodule --id 1 mymodule/")]
    Install {
        /// Name of the module. Left out: that of the package or folder.
        #[arg(short = 'm', long = "module", value_name = "AM")]
        module: Option<String>,
        /// Its number, the same on all nodes; ports derive from it. Left out: the smallest free.
        #[arg(short = 'M', long, value_name = "N")]
        id: Option<u16>,
        /// The package, or the folder with conf/userconfig.xml and bin/.
        from: PathBuf,
    },
    /// Make the installed folder the one that runs: on all nodes of the module, or on none.
    #[command(after_help = "Edit the folder `modules/AM` of the state directory before, if need \
        be. What the reference\nmarks so may change while the module runs; else stop it first.\n\
        Examples:\n  havre config check -m mymodule    what would change\n  \
        havre module config -m mymodule")]
    Config {
        /// Name of the module.
        #[arg(short = 'm', long = "module", value_name = "AM", env = "SAFEMODULE")]
        module: String,
        /// On this node only, whatever the others have. They refuse to work with another
        /// configuration until they get the same.
        #[arg(long)]
        local: bool,
    },
    /// The same as `config`: the installed folder, with its number, to the nodes of `-H`.
    #[command(after_help = "Example: havre -H \"*\" module export -m mymodule")]
    Export {
        /// Name of the module.
        #[arg(short = 'm', long = "module", value_name = "AM", env = "SAFEMODULE")]
        module: String,
    },
    /// Take a module out of what this node runs; it stays installed.
    #[command(after_help = "Example: havre module deconfig -m mymodule")]
    Deconfig {
        /// Name of the module.
        #[arg(short = 'm', long = "module", value_name = "AM", env = "SAFEMODULE")]
        module: String,
    },
    /// Pack an installed module into a .safe file.
    #[command(after_help = "Example: havre module package -m mymodule /tmp/mymodule.safe")]
    Package {
        /// Name of the module.
        #[arg(short = 'm', long = "module", value_name = "AM", env = "SAFEMODULE")]
        module: String,
        /// The file to write.
        file: PathBuf,
    },
    /// Bring back a configuration that was applied before; the last three are kept.
    #[command(after_help = "Afterwards: havre module config -m AM\nExamples:\n  \
        havre module restore -m mymodule --list\n  havre module restore -m mymodule")]
    Restore {
        /// Name of the module.
        #[arg(short = 'm', long = "module", value_name = "AM", env = "SAFEMODULE")]
        module: String,
        /// List what is kept instead.
        #[arg(long)]
        list: bool,
        /// Which one, by its date and time. Left out: the newest.
        label: Option<String>,
    },
    /// Remove an installed module. Its data stay; a package of it is kept in `backup`.
    #[command(after_help = "Example: havre module uninstall -m mymodule")]
    Uninstall {
        /// Name of the module.
        #[arg(short = 'm', long = "module", value_name = "AM", env = "SAFEMODULE")]
        module: String,
    },
    /// List the installed modules.
    List,
    /// Show the ports of a module.
    #[command(after_help = "Example: havre module getports -m mymodule")]
    Getports {
        /// Name of the module.
        #[arg(short = 'm', long = "module", value_name = "AM", env = "SAFEMODULE")]
        module: String,
    },
}

impl ModuleCommand {
    /// Whether `-H` names the nodes that it is about.
    pub(super) const fn goes_to_nodes(&self) -> bool {
        matches!(self, Self::Config { .. } | Self::Export { .. })
    }
}

pub(super) fn run(dir: &Path, command: ModuleCommand) -> Result<ExitCode> {
    run_on(dir, command, None)
}

/// `nodes`: those of `-H`, for commands that go to nodes.
pub(super) fn run_on(
    dir: &Path,
    command: ModuleCommand,
    nodes: Option<Vec<String>>,
) -> Result<ExitCode> {
    let modules = Modules::of(dir);
    match command {
        ModuleCommand::Install { module, id, from } => install(dir, &modules, module, id, &from)?,
        ModuleCommand::Config { module, local } => {
            let scope = if local { Scope::Here } else { Scope::of(nodes) };
            distribute::config(dir, &modules, &module, scope)?;
        }
        ModuleCommand::Export { module } => {
            distribute::config(dir, &modules, &module, Scope::of(nodes))?;
        }
        ModuleCommand::Deconfig { module } => deconfig(dir, &modules, &module)?,
        ModuleCommand::Package { module, file } => package(&modules, &module, &file)?,
        ModuleCommand::Restore { module, list: true, .. } => list_earlier(&modules, &module)?,
        ModuleCommand::Restore { module, label, .. } => {
            let cluster = Membership::load(dir)?;
            let (restored, earlier) =
                modules.restore(&module, label.as_deref(), cluster.config())?;
            show_notices(&restored)?;
            print(&format!(
                "module {module} is installed as it was until {}\n  apply it with: \
                 havre module config -m {module}\n",
                earlier.label
            ))?;
        }
        ModuleCommand::Uninstall { module } => {
            let kept = modules.uninstall(&module)?;
            print(&format!("module {module} removed; kept as {}\n", kept.display()))?;
        }
        ModuleCommand::List => list(&modules)?,
        ModuleCommand::Getports { module } => ports(dir, &modules, &module)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn install(
    dir: &Path,
    modules: &Modules,
    name: Option<String>,
    id: Option<u16>,
    from: &Path,
) -> Result<()> {
    let membership = Membership::load(dir)?;
    let name = match name {
        Some(name) => name,
        None => {
            let path = from.canonicalize().with_context(|| from.display().to_string())?;
            let stem = if path.is_dir() { path.file_name() } else { path.file_stem() };
            stem.unwrap_or_default().to_string_lossy().into_owned()
        }
    };
    let installed = modules.install(&name, from, id, membership.config())?;
    show_notices(&installed)?;
    print(&format!(
        "module {name} installed as number {} in {}\n  apply it with: \
         havre module config -m {name}\n",
        installed.id.0,
        installed.dir.display()
    ))
}

fn deconfig(dir: &Path, modules: &Modules, name: &str) -> Result<()> {
    let here = Target::here(dir);
    with_client(&here, async |client| {
        match client.status().await {
            Ok(snapshot) => {
                let running = distribute::running(&snapshot.node.modules);
                if !running.is_empty() {
                    bail!("stop first: {}", running.join(", "));
                }
                modules.deactivate(name)?;
                client.reload().await?;
            }
            Err(ClientError::NotRunning(_)) => modules.deactivate(name)?,
            Err(error) => return Err(error.into()),
        }
        print(&format!("module {name} is not run by this node any more\n"))
    })
}

fn package(modules: &Modules, name: &str, file: &Path) -> Result<()> {
    let (_, package) = modules.pack(name)?;
    let bytes = package.to_zip().context("cannot pack the module")?;
    let mut options = std::fs::OpenOptions::new();
    let mut out = options
        .write(true)
        .create_new(true)
        .open(file)
        .with_context(|| format!("cannot create {}", file.display()))?;
    std::io::Write::write_all(&mut out, &bytes)
        .with_context(|| format!("cannot write {}", file.display()))?;
    print(&format!("{}: {} files, {} bytes\n", file.display(), package.files.len(), bytes.len()))
}

fn list_earlier(modules: &Modules, name: &str) -> Result<()> {
    let earlier = modules.earlier(name)?;
    if earlier.is_empty() {
        return print("no earlier configuration is kept\n");
    }
    print(&earlier.iter().map(|earlier| format!("{}\n", earlier.label)).collect::<String>())
}

fn list(modules: &Modules) -> Result<()> {
    let installed = modules.installed()?;
    if installed.is_empty() {
        return print("no module is installed; use `havre module install FILE.safe`\n");
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

fn ports(dir: &Path, modules: &Modules, name: &str) -> Result<()> {
    let membership = Membership::load(dir)?;
    let module = modules.outlook(name, membership.config())?.module;
    let mut text = format!("udp {} heartbeats of all modules\n", membership.config().port);
    if module.config.rfs.is_some() {
        text += &format!("tcp {} replication\n", module.config.data_port(module.id));
    }
    print(&text)
}

pub(super) fn show_notices(module: &Module) -> Result<()> {
    let lines: String = module.notices.iter().map(|notice| format!("{notice}\n")).collect();
    print(&lines)
}
