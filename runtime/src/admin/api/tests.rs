//! Tests of interface and client, with a toy node behind them.

use std::{collections::BTreeMap, rc::Rc};

use havre_core::{
    checks::{
        record::{LoopStatus, Switch},
        resource::{ResourceName, ResourceState, ResourceStatus},
    },
    effect::{Effect, Input, LoopVerb},
    machine::{Machine, Out},
};
use tokio::task::LocalSet;

use super::{checks::LoopWord, *};
use crate::{
    admin::client::{Client, ClientError},
    agent,
    events::{report::Reporter, text::Names},
};

/// Has no module, and answers with its state.
struct Toy;

impl Machine for Toy {
    type Input = Input;
    type Action = Effect;

    fn handle(&mut self, _now: Instant, input: Input, out: &mut Out<Effect>) {
        let Input::Asked { request, command } = input else { return };
        let answer = match command {
            Command::Status => Answer::Status(status_of(&["db"])),
            Command::Module { order: ModuleOrder::Stop, .. } => Answer::Accepted,
            Command::Explain { .. } => Answer::Refused("no farm".to_owned()),
            Command::ModuleBy { order: ModuleOrder::Restart, .. } => Answer::Accepted,
            Command::SetResource { state: ResourceState::Up | ResourceState::Down, .. } => {
                Answer::Accepted
            }
            Command::Switch { switch: Switch::Errd, on: false, .. } => Answer::Accepted,
            Command::Loop { verb: LoopVerb::Increment { by }, .. } if by == "handler" => {
                Answer::Loop(LoopStatus { count: 4, max: 3, reached: true, ..Default::default() })
            }
            Command::Loop { verb: LoopVerb::Check, .. } => Answer::Loop(LoopStatus::default()),
            Command::Module { order, .. } => Answer::Refused(format!("{order:?}: not now")),
            other => Answer::Refused(format!("{other:?}: unknown")),
        };
        out.push(Effect::Answer { request, answer });
    }

    fn handle_timeout(&mut self, _now: Instant, _out: &mut Out<Effect>) {}

    fn deadline(&self) -> Option<Instant> {
        None
    }
}

/// Each module has one resource, `custom.disk`, which is up.
fn status_of(modules: &[&str]) -> NodeStatus {
    let mut status = crate::cli::samples::node_status(modules);
    for module in &mut status.modules {
        module.checks.resources = vec![ResourceStatus {
            name: disk(),
            state: ResourceState::Up,
            remote: None,
            since: Instant::from_millis(1),
            by: "root".to_owned(),
            detail: String::new(),
            history: Vec::new(),
        }];
    }
    status
}

fn disk() -> ResourceName {
    ResourceName::new("custom", "disk")
}

fn with_api(test: impl AsyncFnOnce(Client, &Path)) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    LocalSet::new().block_on(&runtime, async {
        let (inbox, letters) = agent::inbox();
        let (reload, mut reloads) = mpsc::unbounded_channel::<Reload>();
        let state_dir = dir.path().to_owned();
        let clock = || Instant::from_millis(5);
        let reporter = Reporter::start(&state_dir, Names::default(), BTreeMap::new());
        let reporter = reporter.expect("logs");
        let log = reporter.handle();
        let api = Api { inbox, state_dir, clock, reload, log, neighbours: None };
        let listener = listen(dir.path()).expect("listens");
        let serving = tokio::spawn(async move { axum::serve(listener, routes(api)).await });
        let os = Rc::new(crate::agent::testing::IdleOs);
        let net = crate::agent::testing::NoNet;
        let agent = agent::run(Toy, net, os, crate::agent::testing::config(), letters);
        let agent = tokio::task::spawn_local(agent);
        let reloading = tokio::task::spawn_local(async move {
            while let Some(reply) = reloads.recv().await {
                let _ = reply.send(Err("stop module db first".to_owned()));
            }
        });
        test(Client::of(dir.path()), dir.path()).await;
        serving.abort();
        agent.abort();
        reloading.abort();
    });
}

#[test]
fn the_client_reads_the_state_of_the_node() {
    with_api(async |client, _| {
        let snapshot = client.status().await.expect("answers");
        assert_eq!(snapshot.node, status_of(&["db"]));
        assert_eq!(snapshot.now, Instant::from_millis(5));
    });
}

#[test]
fn orders_are_accepted_or_refused_with_the_nodes_reason() {
    with_api(async |client, _| {
        client.order("db", "stop", false, false).await.expect("accepted");
        let refused = client.order("db", "prim", true, true).await.expect_err("refused");
        let expected = "Prim { full_resync: true, force: true }: not now";
        assert_eq!(refused.to_string(), expected);
        let unknown = client.order("web", "stop", false, false).await.expect_err("unknown");
        assert!(unknown.to_string().contains("configured: db"), "{unknown}");
        let unknown = client.order("db", "dance", false, false).await.expect_err("unknown");
        assert!(unknown.to_string().contains("not an order"), "{unknown}");
        let refused = client.reload().await.expect_err("refused");
        assert_eq!(refused.to_string(), "stop module db first");
    });
}

#[test]
fn logs_are_read_through_the_interface() {
    with_api(async |client, state_dir| {
        let mut writer = log::LogWriter::open(state_dir).expect("opens");
        for number in 0..5 {
            let entry = log::Entry::of_script(&number.to_string());
            writer.write("db", &entry).expect("writes");
        }
        let reply = client.log(Some("db"), 2, true).await.expect("answers");
        let texts: Vec<_> = reply.entries.iter().map(|entry| entry.text.as_str()).collect();
        assert_eq!(texts, ["3", "4"]);
        assert!(client.log(None, 2, true).await.expect("answers").entries.is_empty());
    });
}

#[test]
fn a_missing_daemon_is_said_to_be_missing() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let error = runtime.block_on(Client::of(dir.path()).status()).expect_err("nobody listens");
    assert!(matches!(error, ClientError::NotRunning(_)), "{error}");
}

#[test]
fn the_socket_is_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    with_api(async |_, state_dir| {
        let path = state_dir.join(SOCKET_NAME);
        let mode = std::fs::metadata(path).expect("exists").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    });
}

#[test]
fn orders_are_noted_with_who_gave_them_and_what_became_of_them() {
    with_api(async |client, _| {
        client.order("db", "stop", false, false).await.expect("accepted");
        client.order("db", "prim", true, false).await.expect_err("refused");
        let texts = noted(&client, 2).await;
        assert_eq!(texts[0], "stop -m db | root | accepted");
        assert!(texts[1].starts_with("prim -m db --fullsync | root | Prim"), "{texts:?}");
    });
}

#[test]
fn an_order_in_the_name_of_a_detector_is_one_and_is_noted_with_it() {
    with_api(async |client, _| {
        client.order_by("db", "restart", "handler").await.expect("accepted");
        let refused = client.order_by("db", "stop", "handler").await.expect_err("refused");
        let expected = "ModuleBy { module: ModuleId(1), order: Stop, detector: \"handler\" }";
        assert!(refused.to_string().starts_with(expected), "{refused}");
        let refused = client.order_by("db", "restart", "two\nlines").await.expect_err("refused");
        assert!(refused.to_string().contains("is no name"), "{refused}");
        let texts = noted(&client, 2).await;
        assert_eq!(texts[0], "restart -m db -i handler | root | accepted");
    });
}

#[test]
fn a_resource_is_set_and_noted_when_that_changes_it() {
    with_api(async |client, _| {
        let set = async |state, how| client.set_resource("db", &disk(), state, how).await;
        set(ResourceState::Up, (None, true)).await.expect("accepted");
        set(ResourceState::Down, (Some("checker"), true)).await.expect("accepted");
        let refused = set(ResourceState::Init, (None, false)).await.expect_err("refused");
        let refused = refused.to_string();
        for part in ["state: Init", "by: \"root\"", "history: false", "dot: 6"] {
            assert!(refused.contains(part), "{part:?} is missing in {refused}");
        }
        let accent = ResourceName::new("custom", "d\u{e9}p\u{f4}t");
        let refused = client.set_resource("db", &accent, ResourceState::Init, (None, true)).await;
        assert!(refused.expect_err("refused").to_string().contains("d\u{e9}p\u{f4}t"));
        let unknown = client.set_resource("web", &disk(), ResourceState::Up, (None, true)).await;
        assert!(unknown.expect_err("no such module").to_string().contains("configured: db"));
        let texts = noted(&client, 4).await;
        let expected = "set -m db -r custom.disk -v down -i checker | root | accepted";
        assert_eq!(texts[0], expected, "what was up already is not noted");
    });
}

#[test]
fn switches_and_classes_are_turned_and_noted() {
    with_api(async |client, _| {
        client.switch("db", Switch::Errd, false).await.expect("accepted");
        let refused = client.switch("db", Switch::Boot, true).await.expect_err("refused");
        let expected = "Switch { module: ModuleId(1), switch: Boot, on: true }";
        assert!(refused.to_string().starts_with(expected), "{refused}");
        let refused = client.class("db", "mine", true).await.expect_err("refused");
        let expected = "Class { module: ModuleId(1), class: \"mine\", on: true }";
        assert!(refused.to_string().starts_with(expected), "{refused}");
        let texts = noted(&client, 3).await;
        assert_eq!(texts[0], "errd off -m db | root | accepted");
        assert!(texts[1].starts_with("boot on -m db | root | Switch"), "{texts:?}");
        assert!(texts[2].starts_with("errd enable mine -m db | root | Class"), "{texts:?}");
    });
}

#[test]
fn the_loop_guard_tells_its_state_and_a_look_at_it_is_not_noted() {
    with_api(async |client, _| {
        let looked = client.loop_guard("db", LoopWord::CheckLoop, None).await.expect("answers");
        assert_eq!(looked, LoopStatus::default());
        let word = LoopWord::IncLoop;
        let counted = client.loop_guard("db", word, Some("handler")).await.expect("answers");
        assert!((counted.count, counted.max) == (4, 3) && counted.reached, "{counted:?}");
        let word = LoopWord::ResetLoop;
        let refused = client.loop_guard("db", word, None).await.expect_err("refused");
        assert!(refused.to_string().contains("verb: Reset"), "{refused}");
        let texts = noted(&client, 2).await;
        assert_eq!(texts[0], "incloop -m db -i handler | root | accepted");
        assert!(texts[1].starts_with("resetloop -m db -i root | root | Loop"), "{texts:?}");
    });
}

/// The notes about orders, once there are that many.
async fn noted(client: &Client, count: usize) -> Vec<String> {
    let texts = eventually(async || {
        let noted = client.commands(9).await.expect("answers").entries;
        let texts: Vec<String> = noted.into_iter().map(|entry| entry.text).collect();
        (texts.len() >= count).then_some(texts)
    });
    let texts = texts.await;
    assert_eq!(texts.len(), count, "{texts:?}");
    texts
}

#[test]
fn a_printed_text_reaches_the_modules_log_line_by_line() {
    with_api(async |client, _| {
        client.print("db", 'E', "one\ntwo").await.expect("accepted");
        let entries = eventually(async || {
            let entries = client.log(Some("db"), 9, true).await.expect("answers").entries;
            (entries.len() == 2).then_some(entries)
        });
        let entries = entries.await;
        assert_eq!((entries[0].text.as_str(), entries[0].level), ("one", 'E'));
        assert_eq!(entries[1].source, "user");
        client.print("db", 'X', "one").await.expect_err("no such level");
        client.print("other", 'E', "one").await.expect_err("no such module");
    });
}

/// Logs are written by a thread of their own.
async fn eventually<T>(mut look: impl AsyncFnMut() -> Option<T>) -> T {
    for _ in 0..500 {
        if let Some(found) = look().await {
            return found;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("not within 5 s");
}
