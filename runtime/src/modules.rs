//! Modules on this machine: what a technician installed, and what the daemon runs.
//!
//! `STATE/modules/NAME` is the installed folder (`conf/userconfig.xml`, `bin/`, and `id`, the
//! number that all nodes share); it may be edited at any time. `havre module config` copies it to
//! `STATE/active/NAME` ([`lifecycle`]), which the daemon and the scripts use. A copy replaces the
//! one before as a whole, so that the daemon never sees half a module.

mod folder;
mod history;
mod lifecycle;

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use havre_core::{
    config::{
        self,
        cluster::ClusterConfig,
        error::{ConfigErrors, Diagnostic},
        module::{ModuleConfig, Neighbour, Neighbours},
    },
    ids::ModuleId,
    module::ModuleSetup,
};
use thiserror::Error;

pub use self::{
    history::{Earlier, KEPT},
    lifecycle::Outlook,
};
use crate::{
    admin::{health::HEALTH_PORT_DEFAULT, remote::ADMIN_PORT_DEFAULT},
    package::PackageError,
};

/// The configuration with its macros expanded, in an active module's folder.
const EXPANDED: &str = "conf/safeconf.xml";
/// Largest number of a module: ports derive from it.
pub const MODULE_ID_MAX: u16 = 512;

/// Why a module cannot be installed, applied or run.
#[derive(Debug, Error)]
pub enum ModuleError {
    /// Its configuration is wrong.
    #[error("{0}")]
    Config(#[from] ConfigErrors),
    /// The folder is no module.
    #[error(
        "{}: no conf/userconfig.xml there; give the folder that holds conf/ and bin/",
        .0.display()
    )]
    NotAModule(PathBuf),
    /// There is no module of that name.
    #[error(
        "module \"{name}\" is not installed; installed: {}. Install it with \
         `havre module install -m {name} DIR`", list(.known)
    )]
    Unknown {
        /// The name that was given.
        name: String,
        /// The names that exist.
        known: Vec<String>,
    },
    /// The name cannot be a folder's.
    #[error("module name \"{0}\": use letters, digits, - and _ (at most 64)")]
    Name(String),
    /// Another module has the number.
    #[error("number {id} belongs to module \"{name}\"; choose another with --id, on all nodes")]
    IdTaken {
        /// The number.
        id: u16,
        /// Whose it is.
        name: String,
    },
    /// The package is none, or may not be unpacked.
    #[error("{0}")]
    Package(#[from] PackageError),
    /// No earlier configuration is kept, or none of that label.
    #[error("no such earlier configuration of module \"{name}\" is kept; kept: {}", list(.known))]
    NothingKept {
        /// The module.
        name: String,
        /// The labels that exist.
        known: Vec<String>,
    },
    /// The module is active.
    #[error("module \"{0}\" is configured; first: havre module deconfig -m {0}")]
    Active(String),
    /// Its records cannot be removed.
    #[error("the module's records cannot be removed: {0}")]
    Records(String),
    /// Not a possible number.
    #[error("module number {0}: must be between 1 and {MODULE_ID_MAX}")]
    Id(u16),
    /// The operating system refused.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> ModuleError {
    let path = path.to_owned();
    move |source| ModuleError::Io { path, source }
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// A module as the daemon runs it, or as it is installed.
#[derive(Debug, Clone)]
pub struct Module {
    /// Its number.
    pub id: ModuleId,
    /// Its name.
    pub name: String,
    /// The folder with `conf/` and `bin/`.
    pub dir: PathBuf,
    /// Its configuration.
    pub config: ModuleConfig,
    /// Digest that both nodes must share.
    pub signature: u64,
    /// Digest of every setting; what may change while the module runs is in this one only.
    pub revision: u64,
    /// What its author should know although it can be used.
    pub notices: Vec<Diagnostic>,
}

impl Module {
    /// What the core needs of it.
    pub fn setup(&self) -> ModuleSetup {
        ModuleSetup {
            name: self.name.clone(),
            signature: self.signature,
            config: self.config.clone(),
        }
    }
}

/// The modules of a state directory.
#[derive(Debug, Clone)]
pub struct Modules {
    state_dir: PathBuf,
}

impl Modules {
    /// The modules of that state directory.
    pub fn of(state_dir: &Path) -> Self {
        Self { state_dir: state_dir.to_owned() }
    }

    /// Names and numbers of the installed modules, in order of names.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn installed(&self) -> Result<Vec<(String, ModuleId)>, ModuleError> {
        numbered(&self.installed_dir())
    }

    /// The modules that the daemon runs, by number.
    ///
    /// # Errors
    /// A configuration is wrong, or a folder cannot be read.
    pub fn active(
        &self,
        cluster: &ClusterConfig,
    ) -> Result<BTreeMap<ModuleId, Module>, ModuleError> {
        let mut modules = BTreeMap::new();
        for (name, id) in numbered(&self.active_dir())? {
            // Collisions were refused when the module was applied.
            let dir = self.active_dir().join(&name);
            let module = read(&dir, (&name, id), cluster, &Neighbours::default())?;
            if let Some(other) = modules.insert(id, module) {
                return Err(ModuleError::IdTaken { id: id.0, name: other.name });
            }
        }
        Ok(modules)
    }

    /// Whether the installed folder of a module differs from the one that the daemon runs.
    ///
    /// # Errors
    /// A folder cannot be read.
    pub fn differs(&self, name: &str) -> Result<bool, ModuleError> {
        let (installed, active) = (self.installed_dir().join(name), self.active_dir().join(name));
        if !active.is_dir() {
            return Ok(true);
        }
        let mut active = folder::contents(&active)?;
        active.remove(Path::new(EXPANDED));
        Ok(folder::contents(&installed)? != active)
    }

    /// Reads a module as it would stand beside the other modules of a folder.
    fn read_beside(
        &self,
        dir: &Path,
        (name, id): (&str, ModuleId),
        others: &Path,
        cluster: &ClusterConfig,
    ) -> Result<Module, ModuleError> {
        let mut modules = Vec::new();
        for (other, id) in numbered(others)? {
            if other != name {
                // One that is wrong is told when it is applied itself.
                let dir = others.join(&other);
                modules.extend(read(&dir, (&other, id), cluster, &Neighbours::default()));
            }
        }
        let others = modules.iter().map(|module| Neighbour {
            name: &module.name,
            id: module.id,
            config: &module.config,
        });
        let neighbours = Neighbours {
            id,
            others: others.collect(),
            ports: vec![
                (HEALTH_PORT_DEFAULT, "health check".to_owned()),
                (ADMIN_PORT_DEFAULT, "commands of other nodes".to_owned()),
            ],
            directories: vec![(self.state_dir.clone(), "Havre's own state".to_owned())],
        };
        read(dir, (name, id), cluster, &neighbours)
    }

    fn installed_dir(&self) -> PathBuf {
        self.state_dir.join("modules")
    }

    fn active_dir(&self) -> PathBuf {
        self.state_dir.join("active")
    }
}

fn configuration_of(dir: &Path) -> PathBuf {
    dir.join("conf").join("userconfig.xml")
}

/// What scripts read: the configuration with its macros expanded, as `conf/safeconf.xml`.
fn expanded_copy(dir: &Path, name: &str) -> Result<(&'static str, Vec<u8>), ModuleError> {
    let file = configuration_of(dir);
    let text = fs::read_to_string(&file).map_err(failed(&file))?;
    let names = config::names(&text, &environment(name));
    Ok((EXPANDED, config::expanded(&text, &names).into_bytes()))
}

fn read(
    dir: &Path,
    (name, id): (&str, ModuleId),
    cluster: &ClusterConfig,
    neighbours: &Neighbours<'_>,
) -> Result<Module, ModuleError> {
    let file = configuration_of(dir);
    let text = fs::read_to_string(&file).map_err(failed(&file))?;
    let environment = environment(name);
    let parsed = config::module::parse_beside(&file, &text, (cluster, &environment), neighbours)?;
    let (config, notices) = (parsed.value, parsed.notices);
    let signature = config::signature(cluster, &config);
    let revision = config::revision(cluster, &config);
    let (name, dir) = (name.to_owned(), dir.to_owned());
    Ok(Module { id, name, dir, config, signature, revision, notices })
}

/// Variables that `%NAME%` in a configuration may use. Not those of the process: the shell of a
/// technician and the daemon would then read one file differently.
pub fn environment(name: &str) -> BTreeMap<String, String> {
    BTreeMap::from([("SAFEMODULE".to_owned(), name.to_owned())])
}

fn choose_id(
    name: &str,
    wanted: Option<u16>,
    installed: &[(String, ModuleId)],
) -> Result<ModuleId, ModuleError> {
    let own = installed.iter().find(|(other, _)| other == name).map(|(_, id)| *id);
    let owner = |id: u16| installed.iter().find(|(other, i)| i.0 == id && other != name);
    let id = match (wanted, own) {
        (Some(id), _) => id,
        (None, Some(own)) => return Ok(own),
        (None, None) => (1..=MODULE_ID_MAX).find(|id| owner(*id).is_none()).unwrap_or(0),
    };
    if !(1..=MODULE_ID_MAX).contains(&id) {
        return Err(ModuleError::Id(id));
    }
    match owner(id) {
        Some((name, _)) => Err(ModuleError::IdTaken { id, name: name.clone() }),
        None => Ok(ModuleId(id)),
    }
}

/// Checks that a module may have that name.
///
/// # Errors
/// [`ModuleError::Name`]
pub fn check_name(name: &str) -> Result<(), ModuleError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let good = !name.is_empty() && name.len() <= 64 && name.chars().all(plain);
    // A log of that name exists already: that of the node itself.
    if good && name != crate::events::log::NODE_LOG {
        Ok(())
    } else {
        Err(ModuleError::Name(name.to_owned()))
    }
}

/// The modules of a folder with their numbers, in order of names.
fn numbered(dir: &Path) -> Result<Vec<(String, ModuleId)>, ModuleError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(failed(dir)(source)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed(dir))?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        // Half-made copies have names that modules cannot have.
        if check_name(&name).is_err() {
            continue;
        }
        let path = entry.path().join("id");
        let text = fs::read_to_string(&path).map_err(failed(&path))?;
        let id = text.trim().parse().map_err(|_| ModuleError::Id(0))?;
        found.push((name, ModuleId(id)));
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests;
