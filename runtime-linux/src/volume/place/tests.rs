//! Walks stay inside the replicated directory, exclusions cover what the configuration names.

use std::{fs, os::unix::fs::symlink};

use rustix::fs::OFlags;
use tempfile::tempdir;

use super::*;

fn config(paths: &[&str], names: &[&str]) -> ReplicatedConfig {
    ReplicatedConfig {
        dir: PathBuf::from("/data"),
        excluded_paths: paths.iter().map(PathBuf::from).collect(),
        excluded_names: names.iter().map(ToString::to_string).collect(),
        to_check: Vec::new(),
    }
}

#[test]
fn housekeeping_and_lost_found_are_excluded_at_the_top_only() {
    let excluded = Excluded::default();
    assert!(excluded.contains(b".havre"));
    assert!(excluded.contains(b".havre/diverged/g1"));
    assert!(excluded.contains(b"lost+found"));
    assert!(!excluded.contains(b"a/lost+found"));
    assert!(!excluded.contains(b".havrette"));
}

#[test]
fn configured_paths_exclude_what_is_below_them() {
    let excluded = Excluded::new(&config(&["tmp/", "./a/b"], &[])).expect("valid");
    assert!(excluded.contains(b"tmp"));
    assert!(excluded.contains(b"tmp/deep/file"));
    assert!(excluded.contains(b"a/b"));
    assert!(!excluded.contains(b"a"));
    assert!(!excluded.contains(b"tmpfile"));
}

#[test]
fn configured_expressions_are_matched_against_every_name_of_a_path() {
    let excluded = Excluded::new(&config(&[], &[r".*\.log$", "^core$"])).expect("valid");
    assert!(excluded.contains(b"x.log"));
    assert!(excluded.contains(b"a/x.log/y"));
    assert!(excluded.contains(b"a/core"));
    assert!(!excluded.contains(b"a/score"));
}

#[test]
fn a_bad_expression_is_reported_with_its_text() {
    let fault = Excluded::new(&config(&[], &["("])).expect_err("invalid");
    assert!(fault.contains("regexpath=\"(\""), "{fault}");
}

#[test]
fn a_symbolic_link_is_never_followed() {
    let (inside, outside) = (tempdir().expect("tempdir"), tempdir().expect("tempdir"));
    fs::write(outside.path().join("secret"), b"x").expect("write");
    symlink(outside.path(), inside.path().join("out")).expect("symlink");
    let root = open_root(inside.path()).expect("open");
    let mut places = Places::new([(root, Excluded::default())]);
    assert!(places.open(&Location::new(0, *b"out/secret"), OFlags::RDONLY).is_err());
    assert!(places.parent(&Location::new(0, *b"out/secret")).is_err());
    assert!(places.open(&Location::new(0, *b"out"), OFlags::RDONLY).is_err());
}
