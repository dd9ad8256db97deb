//! What is done with foreign bytes, one function per kind. Each survives any bytes; what it
//! accepts keeps its promises. Used by the fuzzer here and by `runtime/tests/corpus.rs`.

use std::{collections::BTreeMap, path::Path};

use havre_core::{
    checks::rules,
    config::{
        self,
        cluster::{self, ClusterConfig},
        difference::{changes, needs_stop},
        error::{ConfigErrors, Diagnostic, Parsed},
        module::{self, ModuleConfig},
        script,
    },
};
use havre_runtime::package::Package;

const CLUSTER: &str = r#"<cluster><lans>
<lan name="default"><node name="node1" addr="10.0.0.1"/><node name="node2" addr="10.0.0.2"/></lan>
<lan name="private"><node name="node1" addr="10.1.0.1"/><node name="node2" addr="10.1.0.2"/></lan>
</lans></cluster>"#;

/// The cluster that the samples belong to.
pub(crate) fn pair() -> ClusterConfig {
    cluster::parse(Path::new("cluster.xml"), CLUSTER).expect("the sample is correct").value
}

/// Reads a `userconfig.xml`.
pub(crate) fn read(text: &str) -> Result<Parsed<ModuleConfig>, ConfigErrors> {
    let environment = BTreeMap::from([("SAFEMODULE".to_owned(), "m".to_owned())]);
    module::parse(Path::new("u.xml"), text, &pair(), &environment)
}

/// Each finding stands in the text.
fn check_places(text: &str, found: &[Diagnostic]) {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines: Vec<&str> = text.split('\n').collect();
    for finding in found {
        let line = lines.get(finding.line as usize - 1);
        let line = line.unwrap_or_else(|| panic!("no such line: {finding}"));
        let width = line.chars().count() + 1;
        // Text with macros in it is longer or shorter than the line.
        assert!(finding.column as usize <= width || line.contains('%'), "{finding}");
        assert!(!finding.message.is_empty(), "{finding}");
    }
}

/// A `userconfig.xml`, and a script.
pub(crate) fn userconfig(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let environment = BTreeMap::new();
    match read(&text) {
        Ok(parsed) => {
            check_places(&text, &parsed.notices);
            let cluster = pair();
            let config = parsed.value;
            assert!(!needs_stop(&config, &config), "nothing changed");
            assert!(changes(&text, &text, &environment).is_empty(), "nothing changed");
            assert_eq!(config::signature(&cluster, &config), config::signature(&cluster, &config));
        }
        Err(errors) => {
            assert!(!errors.0.is_empty(), "refused without a reason");
            check_places(&text, &errors.0);
        }
    }
    let names = config::names(&text, &environment);
    let _ = config::expanded(&text, &names);
    let _ = script::check(Path::new("start_prim"), &text);
}

/// A `cluster.xml`.
pub(crate) fn cluster(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    match cluster::parse(Path::new("c.xml"), &text) {
        Ok(parsed) => {
            assert!(parsed.value.nodes.len() >= 2);
            check_places(&text, &parsed.notices);
        }
        Err(errors) => {
            assert!(!errors.0.is_empty(), "refused without a reason");
            check_places(&text, &errors.0);
        }
    }
}

/// Failover rules: what was read is written so that it reads the same.
pub(crate) fn rules(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    match rules::parse(&text) {
        Ok(read) => {
            let written: String = read.iter().map(|rule| format!("{rule}\n")).collect();
            assert_eq!(rules::parse(&written).as_ref(), Ok(&read), "{written}");
        }
        Err(errors) => assert!(!errors.is_empty(), "refused without a reason"),
    }
}

/// A `.safe` package: what is accepted packs and unpacks to the same files.
pub(crate) fn package(bytes: &[u8]) {
    let Ok(package) = Package::read(bytes) else { return };
    let again = Package::read(&package.to_zip().expect("its files are small"));
    let again = again.expect("what was accepted is accepted again");
    assert_eq!(again.files, package.files);
}

/// A request to the interface: `METHOD PATH`, a line feed, the body.
pub(crate) fn api(bytes: &[u8]) {
    use axum::{body::Body, http::Request};
    use havre_runtime::{
        admin::api::{Api, node_routes},
        agent,
        events::report::LogHandle,
    };
    use hyper_util::service::TowerToHyperService;

    let line = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let (head, body) = bytes.split_at(line);
    let body = body.get(1..).unwrap_or_default().to_vec();
    let Ok(head) = std::str::from_utf8(head) else { return };
    let (method, path) = head.split_once(' ').unwrap_or(("GET", head));
    let Ok(request) = Request::builder().method(method).uri(path).body(Body::from(body)) else {
        return;
    };
    let state = tempfile::tempdir().expect("a temporary directory");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        // The agent is gone: whatever needs it is refused.
        let (inbox, letters) = agent::inbox();
        drop(letters);
        let (reload, reloads) = tokio::sync::mpsc::unbounded_channel();
        drop(reloads);
        let clock = || havre_core::time::Instant::FAR_FUTURE;
        let state_dir = state.path().to_owned();
        // No log is open either.
        let log = LogHandle::default();
        let api = Api { inbox, state_dir, clock, reload, log, neighbours: None };
        let routes = TowerToHyperService::new(node_routes(api));
        let answer = hyper::service::Service::call(&routes, request).await;
        let status = answer.expect("routes always answer").status();
        assert!(!status.is_success(), "there is no agent and no module: {status}");
    });
    let left = std::fs::read_dir(state.path()).expect("reads").count();
    assert!(left <= 1, "a refused request leaves files behind");
}
