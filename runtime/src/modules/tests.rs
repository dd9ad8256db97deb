//! Tests of installing and applying modules.

use super::*;
use crate::package::Package;

const CLUSTER: &str = r#"<cluster><lans><lan name="default">
    <node name="node1" addr="127.0.0.1"/><node name="node2" addr="127.0.0.2"/>
</lan></lans></cluster>"#;

const GOOD: &str = r#"<safe><service mode="mirror">
    <heart><heartbeat name="default" ident="flow"/></heart>
    <user/>
</service></safe>"#;

fn cluster() -> ClusterConfig {
    config::cluster::parse(Path::new("cluster.xml"), CLUSTER).expect("good").value
}

fn folder(xml: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    fs::create_dir_all(dir.path().join("conf")).expect("creates");
    fs::create_dir_all(dir.path().join("bin")).expect("creates");
    fs::write(dir.path().join("conf/userconfig.xml"), xml).expect("writes");
    fs::write(dir.path().join("bin/start_prim"), "#!/bin/sh\n").expect("writes");
    dir
}

#[test]
fn a_module_is_installed_applied_and_read_with_its_number() {
    let (state, source) = (tempfile::tempdir().expect("a temporary directory"), folder(GOOD));
    let modules = Modules::of(state.path());
    let db = modules.install("db", source.path(), None, &cluster()).expect("installs");
    let web = modules.install("web", source.path(), Some(7), &cluster()).expect("installs");
    assert_eq!((db.id, web.id), (ModuleId(1), ModuleId(7)));
    assert!(modules.active(&cluster()).expect("reads").is_empty());
    assert!(modules.differs("db").expect("compares"));
    modules.apply("db", &cluster()).expect("applies");
    assert!(!modules.differs("db").expect("compares"));
    let active = modules.active(&cluster()).expect("reads");
    let names: Vec<&str> = active.values().map(|module| module.name.as_str()).collect();
    assert_eq!(names, ["db"]);
    assert!(active[&ModuleId(1)].dir.join("bin/start_prim").is_file());
}

#[test]
fn an_edited_module_takes_effect_when_it_is_applied() {
    let (state, source) = (tempfile::tempdir().expect("a temporary directory"), folder(GOOD));
    let modules = Modules::of(state.path());
    modules.install("db", source.path(), None, &cluster()).expect("installs");
    let before = modules.apply("db", &cluster()).expect("applies");
    let edited = GOOD.replace("mirror\"", "mirror\" failover=\"off\"");
    let file = state.path().join("modules/db/conf/userconfig.xml");
    fs::write(&file, &edited).expect("writes");
    assert!(modules.differs("db").expect("compares"));
    let after = modules.apply("db", &cluster()).expect("applies");
    assert_ne!(before.signature, after.signature);
    fs::write(&file, "<safe><servce/></safe>").expect("writes");
    assert!(matches!(modules.apply("db", &cluster()), Err(ModuleError::Config(_))));
    let active = modules.active(&cluster()).expect("what runs stays as it was");
    assert_eq!(active[&ModuleId(1)].signature, after.signature);
}

#[test]
fn a_wrong_module_is_refused_and_nothing_is_installed() {
    let state = tempfile::tempdir().expect("a temporary directory");
    let modules = Modules::of(state.path());
    let (wrong, good) = (folder("<safe><servce/></safe>"), folder(GOOD));
    let error = modules.install("db", wrong.path(), None, &cluster()).expect_err("wrong");
    assert!(matches!(error, ModuleError::Config(_)), "{error}");
    assert!(modules.installed().expect("reads").is_empty());
    for name in ["", "a b", "../x", "node", &"x".repeat(65)] {
        let error = modules.install(name, good.path(), None, &cluster());
        assert!(matches!(error, Err(ModuleError::Name(_))), "{name}");
    }
    let nothing = state.path().join("nothing");
    let error = modules.install("db", &nothing, None, &cluster());
    assert!(matches!(error, Err(ModuleError::NotAModule(_))));
    assert!(matches!(modules.apply("db", &cluster()), Err(ModuleError::Unknown { .. })));
}

#[test]
fn numbers_are_unique_and_kept() {
    let (state, source) = (tempfile::tempdir().expect("a temporary directory"), folder(GOOD));
    let modules = Modules::of(state.path());
    let install = |name: &str, id| modules.install(name, source.path(), id, &cluster());
    install("db", Some(2)).expect("installs");
    let error = install("web", Some(2)).expect_err("taken").to_string();
    assert!(error.contains("\"db\""), "{error}");
    assert_eq!(install("web", None).expect("installs").id, ModuleId(1));
    assert_eq!(install("db", None).expect("installs again").id, ModuleId(2));
    assert!(matches!(install("x", Some(0)), Err(ModuleError::Id(0))));
}

/// A mirror with an address, so that modules can collide.
fn with_address(addr: &str) -> String {
    let vip = format!(
        "<vip><interface_list><interface><real_interface><virtual_addr addr=\"{addr}\"/>\
         </real_interface></interface></interface_list></vip><user/>"
    );
    GOOD.replace("<user/>", &vip)
}

#[test]
fn a_package_is_installed_packed_and_installed_again() {
    let state = tempfile::tempdir().expect("a temporary directory");
    let modules = Modules::of(state.path());
    let source = folder(GOOD);
    fs::create_dir_all(source.path().join("web")).expect("creates");
    fs::write(source.path().join("web/index.html"), "old").expect("writes");
    let bytes = Package::of_folder(source.path()).expect("reads").to_zip().expect("packs");
    let file = state.path().join("db.safe");
    fs::write(&file, &bytes).expect("writes");
    let module = modules.install("db", &file, None, &cluster()).expect("installs");
    assert!(module.notices.iter().any(|n| n.message.starts_with("web/index.html left out")));
    assert!(module.dir.join("bin/start_prim").is_file());
    let (id, packed) = modules.pack("db").expect("packs");
    assert_eq!((id, packed.files.len()), (ModuleId(1), 2), "the number is not in the package");
    fs::write(&file, b"PK damaged").expect("writes");
    let error = modules.install("web", &file, None, &cluster()).expect_err("damaged");
    assert!(matches!(error, ModuleError::Package(_)), "{error}");
    assert_eq!(modules.installed().expect("reads").len(), 1);
}

#[test]
fn scripts_find_the_configuration_with_its_macros_expanded() {
    let state = tempfile::tempdir().expect("a temporary directory");
    let modules = Modules::of(state.path());
    let text = GOOD
        .replace("<safe>", "<safe><macro name=\"N\" value=\"default\"/>")
        .replace("name=\"default\"", "name=\"%N%\"");
    modules.install("db", folder(&text).path(), None, &cluster()).expect("installs");
    let active = modules.apply("db", &cluster()).expect("applies");
    let copy = fs::read_to_string(active.dir.join("conf/safeconf.xml")).expect("reads");
    assert!(copy.contains("<heartbeat name=\"default\""), "{copy}");
    assert!(!modules.differs("db").expect("compares"), "the copy is no difference");
}

#[test]
fn modules_that_share_an_address_are_not_installed_beside_each_other() {
    let state = tempfile::tempdir().expect("a temporary directory");
    let modules = Modules::of(state.path());
    let source = folder(&with_address("10.9.9.9"));
    modules.install("db", source.path(), None, &cluster()).expect("installs");
    modules.install("db", source.path(), None, &cluster()).expect("installs again");
    let error = modules.install("web", source.path(), None, &cluster()).expect_err("collides");
    assert!(error.to_string().contains("10.9.9.9 is one of module db"), "{error}");
}

#[test]
fn the_last_three_configurations_are_kept_and_come_back() {
    let state = tempfile::tempdir().expect("a temporary directory");
    let modules = Modules::of(state.path());
    let file = state.path().join("modules/db/conf/userconfig.xml");
    modules.install("db", folder(GOOD).path(), Some(4), &cluster()).expect("installs");
    let first = modules.apply("db", &cluster()).expect("applies");
    assert!(modules.earlier("db").expect("reads").is_empty());
    let kept = state.path().join("lastconfig");
    for second in 0..5 {
        let edited = GOOD.replace("<heart>", &format!("<heart timeout=\"{}s\">", second + 5));
        fs::write(&file, &edited).expect("writes");
        modules.apply("db", &cluster()).expect("applies");
        // Names tell seconds apart; the test does not wait for them.
        let newest = modules.earlier("db").expect("reads").remove(0).dir;
        let name = format!("db_2026-01-0{}_00-00-00", second + 1);
        fs::rename(&newest, kept.join(name)).expect("renames");
    }
    fs::create_dir_all(kept.join("db_x_2026-01-01_00-00-00")).expect("creates");
    modules.apply("db", &cluster()).expect("applies");
    let labels: Vec<String> =
        modules.earlier("db").expect("reads").into_iter().map(|e| e.label).collect();
    assert_eq!(labels.len(), KEPT, "{labels:?}");
    assert_eq!(labels[1..], ["2026-01-05_00-00-00", "2026-01-04_00-00-00"]);
    let error = modules.restore("db", Some("2026-01-01_00-00-00"), &cluster()).expect_err("gone");
    assert!(error.to_string().contains("2026-01-05_00-00-00"), "{error}");
    let label = Some("2026-01-04_00-00-00");
    let (restored, _) = modules.restore("db", label, &cluster()).expect("restores");
    assert_eq!(restored.id, ModuleId(4));
    assert_eq!(restored.config.heart.timing.timeout.as_secs(), 7);
    assert_ne!(restored.revision, first.revision);
    assert!(!restored.dir.join("conf/safeconf.xml").exists());
}

#[test]
fn a_removed_module_leaves_a_package_and_no_past() {
    let state = tempfile::tempdir().expect("a temporary directory");
    let modules = Modules::of(state.path());
    modules.install("db", folder(GOOD).path(), None, &cluster()).expect("installs");
    modules.apply("db", &cluster()).expect("applies");
    let records = crate::store::ModuleRecords::open(state.path()).expect("opens");
    let record = havre_core::effect::ModuleRecord::blank();
    let record = havre_core::effect::Record::Module { module: ModuleId(1), record };
    records.save(&record).expect("saves");
    let error = modules.uninstall("db").expect_err("active");
    assert!(error.to_string().contains("havre module deconfig -m db"), "{error}");
    modules.deactivate("db").expect("deactivates");
    assert!(modules.active(&cluster()).expect("reads").is_empty());
    let package = modules.uninstall("db").expect("removes");
    assert!(modules.installed().expect("reads").is_empty());
    assert!(records.load().expect("reads").0.modules.is_empty());
    modules.install("db", &package, None, &cluster()).expect("the package is a module");
}

#[test]
fn what_is_staged_is_applied_or_forgotten_as_a_whole() {
    let state = tempfile::tempdir().expect("a temporary directory");
    let modules = Modules::of(state.path());
    let package = Package::of_folder(folder(GOOD).path()).expect("reads");
    let outlook = modules.stage("db", 9, &package, &cluster()).expect("stages");
    assert!(!outlook.active && outlook.needs_stop);
    assert!(modules.installed().expect("reads").is_empty(), "nothing has changed yet");
    let module = modules.apply_staged("db", &cluster()).expect("applies");
    assert_eq!(module.id, ModuleId(9));
    assert!(modules.apply_staged("db", &cluster()).is_err(), "nothing is staged any more");

    let hasty = GOOD.replace("<heart>", "<heart timeout=\"5s\">");
    let package = Package::of_folder(folder(&hasty).path()).expect("reads");
    let outlook = modules.stage("db", 9, &package, &cluster()).expect("stages");
    assert!(outlook.active && !outlook.needs_stop);
    assert_eq!(outlook.changes[0].to_string(), "<service><heart> timeout: 30s -> 5s");
    modules.unstage("db").expect("forgets");
    assert!(modules.apply_staged("db", &cluster()).is_err());
    let wrong = Package::of_folder(folder("<safe><servce/></safe>").path()).expect("reads");
    assert!(modules.stage("db", 9, &wrong, &cluster()).is_err());
    assert!(modules.stage("../x", 9, &package, &cluster()).is_err());
}
