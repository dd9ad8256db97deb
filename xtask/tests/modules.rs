//! The shipped modules are what they tell users to write.
#![cfg(unix)]

use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt, path::Path, process::Command};

use havre_core::config::{cluster, module, script};

const CLUSTER: &str = "<cluster><lans><lan name=\"default\"><node name=\"a\" addr=\"10.0.0.1\"/>\
                       <node name=\"b\" addr=\"10.0.0.2\"/></lan></lans></cluster>";

fn modules() -> Vec<std::path::PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../modules");
    let entries = fs::read_dir(folder).expect("the modules are part of the project");
    let found: Vec<_> = entries.map(|e| e.expect("the folder is readable").path()).collect();
    assert!(found.len() >= 2, "mirror and postgresql at least");
    found
}

#[test]
fn every_template_is_correct_once_its_placeholders_are_filled_in() {
    let cluster = cluster::parse(Path::new("cluster.xml"), CLUSTER).expect("the sample is correct");
    for module in modules() {
        let path = module.join("conf/userconfig.xml");
        let text = fs::read_to_string(&path).expect("every module has a userconfig.xml");
        let read = |text: &str| module::parse(&path, text, &cluster.value, &BTreeMap::new());
        let errors = read(&text).expect_err("a template has placeholders").to_string();
        let other = |line: &&str| line.contains(": error:") && !line.contains("placeholder");
        assert_eq!(errors.lines().find(other), None, "{errors}");
        let filled = text
            .replace("VIRTUAL_IP_TO_BE_DEFINED", "10.0.0.9")
            .replace("DIRECTORY_TO_BE_DEFINED", "/srv/data")
            .replace("SERVICES_TO_BE_DEFINED", "a, b");
        let parsed = read(&filled).unwrap_or_else(|errors| panic!("{errors}"));
        let warning = parsed
            .notices
            .iter()
            .find(|n| n.severity != havre_core::config::error::Severity::Notice);
        assert_eq!(warning, None);
    }
}

#[test]
fn every_script_is_executable_posix_shell_without_typographic_quotes() {
    for module in modules() {
        for entry in fs::read_dir(module.join("bin")).expect("every module has scripts") {
            let path = entry.expect("the folder is readable").path();
            let text = fs::read_to_string(&path).expect("scripts are text");
            assert_eq!(script::check(&path, &text), [], "{}", path.display());
            let checked = Command::new("sh").arg("-n").arg(&path).status();
            assert!(checked.expect("there is a sh").success(), "{}", path.display());
            let mode = fs::metadata(&path).expect("the script exists").permissions().mode();
            let library = path.extension().is_some_and(|extension| extension == "sh");
            assert_eq!(mode & 0o111 != 0, !library, "{}", path.display());
            assert!(library || text.starts_with("#!/bin/sh\n"), "{}", path.display());
        }
    }
}
