//! `havre config check`: every finding of every file, with its place and its remedy.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result};
use clap::Subcommand;
use havre_core::config::{
    self,
    error::{Diagnostic, Severity},
};

use super::{FAILURE, lone, print};
use crate::{
    cluster::{ClusterError, Membership},
    modules::{ModuleError, Modules, environment},
    package::{CONFIGURATION, Package, PackedFile},
};

#[derive(Debug, Clone, Subcommand)]
pub(super) enum ConfigCommand {
    /// Check cluster.xml and userconfig.xml files, or tell what applying a module would change.
    #[command(after_help = "A userconfig.xml is checked against the cluster.xml among the files, \
        or else against the\ncluster of which this machine is a member; without either, what \
        needs it is not checked\nand named. With -m nothing is changed either: it tells\nwhat \
        `havre module config` would change, and whether the module must be \
        stopped for it.\nExamples:\n  havre config check cluster.xml\n  havre config check \
        cluster.xml mymodule/conf/userconfig.xml\n  havre config check mirror.safe\n  \
        havre config check -m mymodule\nExit code 0: usable, 1: errors.")]
    Check {
        /// The files, packages (.safe), or folders of modules.
        #[arg(required_unless_present = "module")]
        files: Vec<PathBuf>,
        /// An installed module, compared with what the node runs.
        #[arg(short = 'm', long = "module", value_name = "AM", conflicts_with = "files")]
        module: Option<String>,
        /// The findings as JSON.
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(dir: &Path, command: ConfigCommand) -> Result<ExitCode> {
    let ConfigCommand::Check { files, module, json } = command;
    if let Some(module) = module {
        return dry_run(dir, &module, json);
    }
    let findings = check(dir, &files)?;
    let errors = findings.iter().filter(|found| found.severity == Severity::Error).count();
    if json {
        print(&(serde_json::to_string_pretty(&findings)? + "\n"))?;
    } else {
        let mut text: String = findings.iter().map(|found| format!("{found}\n")).collect();
        text += &match (errors, files.len()) {
            (0, 1) => "the file can be used\n".to_owned(),
            (0, count) => format!("all {count} files can be used\n"),
            (1, _) => "1 error\n".to_owned(),
            (count, _) => format!("{count} errors\n"),
        };
        print(&text)?;
    }
    Ok(if errors == 0 { ExitCode::SUCCESS } else { ExitCode::from(FAILURE) })
}

/// What applying an installed module would change.
fn dry_run(dir: &Path, name: &str, json: bool) -> Result<ExitCode> {
    let membership = Membership::load(dir)?;
    let outlook = match Modules::of(dir).outlook(name, membership.config()) {
        Ok(outlook) => outlook,
        Err(ModuleError::Config(errors)) => {
            let text =
                if json { serde_json::to_string_pretty(&errors.0)? } else { errors.to_string() };
            print(&(text + "\n"))?;
            return Ok(ExitCode::from(FAILURE));
        }
        Err(error) => return Err(error.into()),
    };
    if json {
        print(&(serde_json::to_string_pretty(&outlook.changes)? + "\n"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let module = &outlook.module;
    let mut text: String = module.notices.iter().map(|found| format!("{found}\n")).collect();
    text += &outlook.changes.iter().map(|change| format!("{change}\n")).collect::<String>();
    text += match (outlook.active, outlook.changes.is_empty(), outlook.needs_stop) {
        (false, ..) => "the module is not configured on this node yet\n",
        (true, true, false) => "the configuration does not differ from the one that runs\n",
        (true, _, false) => "it can be applied while the module runs\n",
        (true, _, true) => "it can be applied while the module is stopped on all its nodes\n",
    };
    text += &format!("signature {:016x}, revision {:016x}\n", module.signature, module.revision);
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// What is found in the scripts of a module.
fn check_scripts(files: &BTreeMap<String, PackedFile>, at: &Path) -> Vec<Diagnostic> {
    let scripts = files.iter().filter(|(path, _)| path.starts_with("bin/"));
    let texts = scripts
        .filter_map(|(path, file)| Some((at.join(path), std::str::from_utf8(&file.bytes).ok()?)));
    texts.flat_map(|(path, text)| config::script::check(&path, text)).collect()
}

/// The configuration in a package, and what is found in its scripts.
fn packed(file: &Path) -> Result<(String, Vec<Diagnostic>)> {
    let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let package = Package::read(&bytes).with_context(|| file.display().to_string())?;
    let text = package.files.get(CONFIGURATION).map(|file| file.bytes.clone());
    let text = String::from_utf8(text.unwrap_or_default())
        .with_context(|| format!("{}: {CONFIGURATION} is not UTF-8", file.display()))?;
    Ok((text, check_scripts(&package.files, file)))
}

/// Everything found in the files, clusters first.
fn check(dir: &Path, files: &[PathBuf]) -> Result<Vec<Diagnostic>> {
    let mut findings = Vec::new();
    let (mut cluster, mut modules) = (None, Vec::new());
    let mut has_cluster_file = false;
    for file in files {
        if file.extension().is_some_and(|extension| extension == "safe" || extension == "zip") {
            let (text, found) = packed(file)?;
            findings.extend(found);
            modules.push((file.join(CONFIGURATION), text));
            continue;
        }
        if file.is_dir() {
            let package = Package::of_folder(file)
                .with_context(|| format!("cannot read {}", file.display()))?;
            findings.extend(check_scripts(&package.files, file));
        }
        let file =
            if file.is_dir() { file.join("conf").join("userconfig.xml") } else { file.clone() };
        let text =
            fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        if !is_cluster(&text) {
            modules.push((file, text));
            continue;
        }
        has_cluster_file = true;
        match config::cluster::parse(&file, &text) {
            Ok(parsed) => {
                findings.extend(parsed.notices);
                cluster = Some(parsed.value);
            }
            Err(errors) => findings.extend(errors.0),
        }
    }
    if modules.is_empty() {
        return Ok(findings);
    }
    let cluster = match cluster {
        Some(cluster) => cluster,
        // Its names are unknown, and would only give more errors of the same cause.
        None if has_cluster_file => return Ok(findings),
        None => match Membership::load(dir) {
            Ok(membership) => membership.config().clone(),
            Err(ClusterError::NotMember(_)) => return Ok(lone::check(&modules)),
            Err(error) => return Err(error.into()),
        },
    };
    for (file, text) in modules {
        match config::module::parse(&file, &text, &cluster, &environment(&module_of(&file))) {
            Ok(parsed) => findings.extend(parsed.notices),
            Err(errors) => findings.extend(errors.0),
        }
    }
    Ok(findings)
}

/// The name of the module that a `NAME/conf/userconfig.xml` belongs to.
pub(super) fn module_of(file: &Path) -> String {
    let folder = file.parent().and_then(Path::parent).and_then(Path::file_name);
    folder.map_or_else(|| "module".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// Whether a text is a `cluster.xml`: its first element says so.
fn is_cluster(text: &str) -> bool {
    let mut rest = text;
    while let Some(start) = rest.find('<') {
        rest = &rest[start + 1..];
        if let Some(comment) = rest.strip_prefix("!--") {
            rest = comment.split_once("-->").map_or("", |(_, after)| after);
        } else if !rest.starts_with(['?', '!']) {
            let name: String = rest.chars().take_while(|c| c.is_alphanumeric()).collect();
            return matches!(name.as_str(), "cluster" | "lans" | "lan");
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_file_is_told_from_a_module_by_its_first_element() {
        assert!(is_cluster("<?xml version=\"1.0\"?>\n<!-- <safe> -->\n<!DOCTYPE x>\n<cluster>"));
        assert!(!is_cluster("<!-- <cluster> --><safe>"));
        assert!(!is_cluster("no element"));
        assert!(!is_cluster("<!-- never ends"));
    }

    #[test]
    fn every_error_of_every_file_is_found_with_its_place() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let cluster = dir.path().join("cluster.xml");
        let module = dir.path().join("db/conf/userconfig.xml");
        fs::create_dir_all(dir.path().join("db/conf")).expect("creates");
        fs::write(
            &cluster,
            "<cluster><lans><lan name=\"default\">\n\
            <node name=\"node1\" addr=\"10.0.0.1\"/><node name=\"node2\" addr=\"10.0.0.2\"/>\n\
            </lan></lans></cluster>",
        )
        .expect("writes");
        fs::write(&module, "<safe>\n<servce mode=\"mirror\"/>\n</safe>\n").expect("writes");
        let files = [dir.path().join("db"), cluster.clone()];
        let findings = check(dir.path(), &files).expect("reads");
        assert!(
            findings.iter().any(|f| f.severity == Severity::Error && f.line == 2),
            "{findings:?}"
        );
        assert!(
            check(dir.path(), &[cluster])
                .expect("reads")
                .iter()
                .all(|f| { f.severity != Severity::Error })
        );
        let lone = check(dir.path(), &files[..1]).expect("reads");
        assert!(lone.iter().any(|f| f.severity == Severity::Error && f.line == 2), "{lone:?}");
        assert!(lone.iter().any(|f| f.message.contains("not checked")), "{lone:?}");
    }
}
