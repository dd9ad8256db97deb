//! From a package to a module that runs, and back: install, stage, apply, restore, remove.
//!
//! ```text
//! package or folder --install--> STATE/modules/NAME --apply--> STATE/active/NAME
//!                                      ^                            |
//!                                      +--restore-- STATE/lastconfig/NAME_DATE_TIME
//! ```
//! A configuration that comes from another node is staged in `STATE/staged/NAME` first: it is
//! complete, durable and checked there before any node applies it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use havre_core::{
    config::{
        cluster::ClusterConfig,
        difference::{Change, changes, needs_stop},
        error::{Diagnostic, Severity},
    },
    ids::ModuleId,
};

use super::{
    EXPANDED, Earlier, Module, ModuleError, Modules, check_name, choose_id, configuration_of,
    environment, expanded_copy, failed, folder, history, numbered,
};
use crate::{
    package::Package,
    store::{ModuleRecords, StoreError},
};

/// What would happen if a configuration were applied.
#[derive(Debug)]
pub struct Outlook {
    /// The module as it would be.
    pub module: Module,
    /// What differs from the one that is active; empty if none is.
    pub changes: Vec<Change>,
    /// Whether the module must be stopped for it.
    pub needs_stop: bool,
    /// Whether a configuration of it is active now.
    pub active: bool,
}

/// What was left out of a package, in the form of other findings.
fn notice(package: &Path, message: String) -> Diagnostic {
    let (file, remedy) = (package.to_owned(), String::new());
    Diagnostic { file, line: 1, column: 1, severity: Severity::Notice, message, remedy }
}

impl Modules {
    /// Copies a module in and checks it: a folder, or a `.safe` package. Installing again keeps
    /// the number unless another is given. Nothing changes if the configuration is wrong.
    ///
    /// # Errors
    /// It is no module, its configuration is wrong, or it collides with an installed module.
    pub fn install(
        &self,
        name: &str,
        from: &Path,
        id: Option<u16>,
        cluster: &ClusterConfig,
    ) -> Result<Module, ModuleError> {
        check_name(name)?;
        let unpacked = self.state_dir.join("staged").join(format!("{name}.unpacked"));
        let (source, notices) = if from.is_file() {
            let bytes = fs::read(from).map_err(failed(from))?;
            let package = Package::read(&bytes)?;
            folder::remove(&unpacked)?;
            package.write_into(&unpacked).map_err(failed(&unpacked))?;
            (unpacked.as_path(), package.notices)
        } else {
            (from, Vec::new())
        };
        let installed = self.install_folder(name, source, id, cluster);
        folder::remove(&unpacked)?;
        let mut module = installed?;
        module.notices.splice(0..0, notices.into_iter().map(|text| notice(from, text)));
        Ok(module)
    }

    fn install_folder(
        &self,
        name: &str,
        from: &Path,
        id: Option<u16>,
        cluster: &ClusterConfig,
    ) -> Result<Module, ModuleError> {
        if !configuration_of(from).is_file() {
            return Err(ModuleError::NotAModule(from.to_owned()));
        }
        let id = choose_id(name, id, &self.installed()?)?;
        let checked = self.read_beside(from, (name, id), &self.installed_dir(), cluster)?;
        let target = self.installed_dir().join(name);
        folder::replace(from, &target, &id.0.to_string(), &[])?;
        Ok(Module { dir: target, ..checked })
    }

    /// Makes the installed folder of a module the one that the daemon runs. The one before is
    /// kept among the last three.
    ///
    /// # Errors
    /// The module is not installed, its configuration is wrong, or it collides with an active
    /// module; what runs stays as it is.
    pub fn apply(&self, name: &str, cluster: &ClusterConfig) -> Result<Module, ModuleError> {
        let id = self.number_of(name)?;
        let from = self.installed_dir().join(name);
        let checked = self.read_beside(&from, (name, id), &self.active_dir(), cluster)?;
        let target = self.active_dir().join(name);
        history::keep(&self.kept_dir(), name, &target)?;
        let copy = expanded_copy(&from, name)?;
        folder::replace(&from, &target, &id.0.to_string(), &[copy])?;
        Ok(Module { dir: target, ..checked })
    }

    /// What [`apply`](Self::apply) would do. Changes nothing.
    ///
    /// # Errors
    /// As `apply`.
    pub fn outlook(&self, name: &str, cluster: &ClusterConfig) -> Result<Outlook, ModuleError> {
        let id = self.number_of(name)?;
        let dir = self.installed_dir().join(name);
        self.outlook_of(&dir, (name, id), cluster)
    }

    fn outlook_of(
        &self,
        dir: &Path,
        (name, id): (&str, ModuleId),
        cluster: &ClusterConfig,
    ) -> Result<Outlook, ModuleError> {
        let module = self.read_beside(dir, (name, id), &self.active_dir(), cluster)?;
        let active = self.active_dir().join(name);
        if !active.is_dir() {
            return Ok(Outlook { module, changes: Vec::new(), needs_stop: true, active: false });
        }
        let text = |dir: &Path| {
            let file = configuration_of(dir);
            fs::read_to_string(&file).map_err(failed(&file))
        };
        let changes = changes(&text(&active)?, &text(dir)?, &environment(name));
        let before = self.read_beside(&active, (name, id), &self.active_dir(), cluster);
        let same_number = numbered(&self.active_dir())?.contains(&(name.to_owned(), id));
        // One that cannot be read any more can only be replaced as a whole.
        let needs_stop = !same_number
            || before.map_or(true, |before| needs_stop(&before.config, &module.config));
        Ok(Outlook { module, changes, needs_stop, active: true })
    }

    /// Keeps a module that came from another node ready to be applied.
    ///
    /// # Errors
    /// It is no module, or could not be applied here.
    pub fn stage(
        &self,
        name: &str,
        id: u16,
        package: &Package,
        cluster: &ClusterConfig,
    ) -> Result<Outlook, ModuleError> {
        check_name(name)?;
        let id = choose_id(name, Some(id), &self.installed()?)?;
        let staged = self.staged_dir().join(name);
        let unpacked = self.staged_dir().join(format!("{name}.unpacked"));
        folder::remove(&unpacked)?;
        package.write_into(&unpacked).map_err(failed(&unpacked))?;
        let outlook = self.outlook_of(&unpacked, (name, id), cluster);
        let done = outlook.and_then(|outlook| {
            folder::replace(&unpacked, &staged, &id.0.to_string(), &[])?;
            Ok(outlook)
        });
        folder::remove(&unpacked)?;
        done
    }

    /// Installs and applies what was staged.
    ///
    /// # Errors
    /// Nothing is staged, or a disk fails; then what runs stays as it is.
    pub fn apply_staged(&self, name: &str, cluster: &ClusterConfig) -> Result<Module, ModuleError> {
        check_name(name)?;
        let staged = self.staged_dir().join(name);
        let file = staged.join("id");
        let id = fs::read_to_string(&file).map_err(failed(&file))?;
        let target = self.installed_dir().join(name);
        folder::replace(&staged, &target, id.trim(), &[])?;
        let module = self.apply(name, cluster)?;
        folder::remove(&staged)?;
        Ok(module)
    }

    /// Forgets what was staged.
    ///
    /// # Errors
    /// The disk fails.
    pub fn unstage(&self, name: &str) -> Result<(), ModuleError> {
        check_name(name)?;
        folder::remove(&self.staged_dir().join(name))
    }

    /// The configurations of a module that were applied before the present one, newest first.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn earlier(&self, name: &str) -> Result<Vec<Earlier>, ModuleError> {
        history::list(&self.kept_dir(), name)
    }

    /// Makes an earlier configuration the installed one; the newest unless a label is given.
    ///
    /// # Errors
    /// There is none, or its configuration is wrong for the cluster of today.
    pub fn restore(
        &self,
        name: &str,
        label: Option<&str>,
        cluster: &ClusterConfig,
    ) -> Result<(Module, Earlier), ModuleError> {
        check_name(name)?;
        let earlier = self.earlier(name)?;
        let chosen = earlier.iter().find(|e| label.is_none_or(|label| e.label == label));
        let Some(chosen) = chosen.cloned() else {
            let known = earlier.into_iter().map(|earlier| earlier.label).collect();
            return Err(ModuleError::NothingKept { name: name.to_owned(), known });
        };
        let id = fs::read_to_string(chosen.dir.join("id")).ok();
        let id = id.and_then(|id| id.trim().parse().ok());
        let module = self.install_folder(name, &chosen.dir, id, cluster)?;
        // Made anew from the configuration when it is applied.
        let copy = module.dir.join(EXPANDED);
        match fs::remove_file(&copy) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(&copy)(error)),
            _ => Ok((module, chosen)),
        }
    }

    /// Takes a module out of what the daemon runs; it stays installed.
    ///
    /// # Errors
    /// The disk fails.
    pub fn deactivate(&self, name: &str) -> Result<(), ModuleError> {
        check_name(name)?;
        let active = self.active_dir().join(name);
        history::keep(&self.kept_dir(), name, &active)?;
        folder::remove(&active)
    }

    /// Removes an installed module that is not active, with everything that Havre noted about its
    /// data; the data themselves stay. Returns the package in which it is kept.
    ///
    /// # Errors
    /// It is not installed, or is active.
    pub fn uninstall(&self, name: &str) -> Result<PathBuf, ModuleError> {
        let id = self.number_of(name)?;
        if self.active_dir().join(name).is_dir() {
            return Err(ModuleError::Active(name.to_owned()));
        }
        let dir = self.installed_dir().join(name);
        let package = history::back_up(&self.state_dir.join("backup"), name, &dir)?;
        // Another module may get the number or the name: it must not inherit a past.
        let records = ModuleRecords::open(&self.state_dir);
        let forgotten = records.and_then(|records| records.forget(id));
        forgotten.map_err(|error: StoreError| ModuleError::Records(error.to_string()))?;
        folder::remove(&self.state_dir.join("volume").join(name))?;
        folder::remove(&dir)?;
        Ok(package)
    }

    /// Packs the installed folder of a module.
    ///
    /// # Errors
    /// It is not installed, or too large for a package.
    pub fn pack(&self, name: &str) -> Result<(ModuleId, Package), ModuleError> {
        let id = self.number_of(name)?;
        let dir = self.installed_dir().join(name);
        let mut package = Package::of_folder(&dir).map_err(failed(&dir))?;
        package.files.remove("id");
        Ok((id, package))
    }

    fn number_of(&self, name: &str) -> Result<ModuleId, ModuleError> {
        let installed = self.installed()?;
        if let Some((_, id)) = installed.iter().find(|(other, _)| other == name) {
            return Ok(*id);
        }
        let known = installed.into_iter().map(|(name, _)| name).collect();
        Err(ModuleError::Unknown { name: name.to_owned(), known })
    }

    fn staged_dir(&self) -> PathBuf {
        self.state_dir.join("staged")
    }

    fn kept_dir(&self) -> PathBuf {
        self.state_dir.join("lastconfig")
    }
}
