//! Tests of installing and applying modules.

use super::*;

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
    let edited = GOOD.replace("<heart>", "<heart timeout=\"5s\">");
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
