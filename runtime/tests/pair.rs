//! Two whole daemons on the loopback network, with real nodes, sockets, seals and files under a
//! toy operating system: scripts, addresses and data paths succeed at once.

mod toy;

use std::{
    fs,
    path::{Path, PathBuf},
    thread::JoinHandle,
};

use anyhow::Result;
use havre_core::status::{ModuleStatus, Phase, State};
use havre_runtime::{
    admin::client::Client,
    cluster::{self, Membership},
    daemon,
    modules::Modules,
};
use toy::{Stop, ToyPlatform, until};

const MODULE: &str = r#"<safe><service mode="mirror" boot="auto">
    <heart pulse="100" timeout="1000"><heartbeat name="default" ident="flow"/></heart>
    <user/>
</service></safe>"#;

/// Both daemons share this machine's addresses, so neither can take the usual ports.
const NO_PORTS: daemon::Ports = daemon::Ports { health: None, admin: None };

/// One daemon on a thread of its own.
struct Daemon {
    client: Client,
    stop: Stop,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Daemon {
    fn start(dir: &Path) -> Self {
        let (stop, state_dir) = (Stop::new(), dir.to_owned());
        let platform = ToyPlatform { stop: stop.clone() };
        let thread = Some(std::thread::spawn(move || daemon::run(&platform, &state_dir, NO_PORTS)));
        let daemon = Self { client: Client::of(dir), stop, thread };
        until("the interface answers", || toy::status(&daemon.client));
        daemon
    }

    fn module(&self) -> Option<ModuleStatus> {
        toy::status(&self.client)?.node.modules.into_iter().next()
    }

    #[track_caller]
    fn order(&self, order: &str) {
        toy::ask(&self.client, async |client| client.order("db", order, false, false).await)
            .expect("accepted");
    }

    #[track_caller]
    fn becomes(&self, state: State, phase: Phase) {
        let wanted = (state, phase);
        until(&format!("{state} {phase}, is {:?}", self.module()), || {
            self.module().filter(|module| (module.state, module.phase) == wanted)
        });
    }

    fn log(&self) -> Vec<String> {
        let reply = toy::ask(&self.client, async |c| c.log(Some("db"), 1_000, true).await);
        reply.expect("answers").entries.into_iter().map(|entry| entry.text).collect()
    }

    fn stop(mut self) {
        self.stop.stop();
        let thread = self.thread.take().expect("stopped once");
        thread.join().expect("no panic").expect("a clean end");
    }
}

/// Two nodes with one installed and applied module each.
fn new_pair(dir: &Path) -> [PathBuf; 2] {
    let socket = std::net::UdpSocket::bind(("127.0.0.1", 0)).expect("a free port");
    let port = socket.local_addr().expect("bound").port();
    let xml = format!(
        r#"<cluster><lans port="{port}"><lan name="default">
        <node name="node1" addr="127.0.0.1"/><node name="node2" addr="127.0.0.2"/>
        </lan></lans></cluster>"#
    );
    let made = cluster::create(Path::new("cluster.xml"), &xml, "node1", 1).expect("good");
    let second = Membership::of(made.others[0].clone()).expect("good");
    let source = dir.join("db");
    fs::create_dir_all(source.join("conf")).expect("creates");
    fs::write(source.join("conf/userconfig.xml"), MODULE).expect("writes");
    [("a", made.own), ("b", second)].map(|(name, membership)| {
        let state = dir.join(name);
        membership.install(&state, false).expect("installs");
        let modules = Modules::of(&state);
        modules.install("db", &source, Some(1), membership.config()).expect("installs");
        modules.apply("db", membership.config()).expect("applies");
        state
    })
}

#[test]
fn a_pair_starts_swaps_and_outlives_a_node() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let [a, b] = new_pair(dir.path());
    let (one, two) = (Daemon::start(&a), Daemon::start(&b));
    one.order("prim");
    one.becomes(State::Alone, Phase::Ready);
    two.order("second");
    two.becomes(State::Second, Phase::Ready);
    one.becomes(State::Prim, Phase::Ready);

    one.order("swap");
    two.becomes(State::Prim, Phase::Ready);
    one.becomes(State::Second, Phase::Ready);

    toy::ask(&one.client, async |client| client.reload().await).expect("nothing was changed");
    one.becomes(State::Second, Phase::Ready);

    two.stop();
    one.becomes(State::Alone, Phase::Ready);
    let log = one.log();
    for words in ["Action prim called by root", "Local state ALONE Ready", "Remote state"] {
        assert!(log.iter().any(|line| line.starts_with(words)), "{words:?} is not in {log:#?}");
    }

    // It ran when its daemon was stopped, and boot="auto": it comes back by itself.
    let two = Daemon::start(&b);
    two.becomes(State::Second, Phase::Ready);
    one.becomes(State::Prim, Phase::Ready);

    for daemon in [&one, &two] {
        daemon.order("stop");
        daemon.becomes(State::Stop, Phase::NotReady);
    }
    toy::ask(&one.client, async |client| client.reload().await).expect("stopped: read again");
    one.becomes(State::Stop, Phase::NotReady);
    one.stop();
    two.stop();
}

#[test]
fn a_second_daemon_on_the_same_state_directory_is_refused() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let [a, _] = new_pair(dir.path());
    let one = Daemon::start(&a);
    let error = daemon::run(&ToyPlatform { stop: Stop::new() }, &a, NO_PORTS).expect_err("in use");
    assert!(error.to_string().contains("--state-dir"), "{error}");
    one.stop();
}
