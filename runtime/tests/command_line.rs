//! The command line from nothing to a running pair with a witness, on the loopback network.

mod toy;

use std::{ffi::OsString, fs, path::Path, process::ExitCode};

use anyhow::Result;
use havre_core::status::{Phase, State};
use havre_runtime::{
    admin::client::Client,
    cli::{self, Commands, DemoArgs},
};
use toy::{Stop, ToyPlatform};

struct ToyCommands {
    stop: Stop,
}

impl Commands for ToyCommands {
    type Platform = ToyPlatform;

    fn platform(&self) -> Result<ToyPlatform> {
        Ok(ToyPlatform { stop: self.stop.clone() })
    }
    fn demo(&self, _args: &DemoArgs) -> Result<ExitCode> {
        anyhow::bail!("no demonstration in this test")
    }
    fn bench(&self, _args: &[OsString]) -> Result<ExitCode> {
        anyhow::bail!("no measurement in this test")
    }
    fn lab(&self, _args: &[OsString]) -> Result<ExitCode> {
        anyhow::bail!("no laboratory in this test")
    }
    fn holder(&self, _args: &[OsString]) -> Result<ExitCode> {
        anyhow::bail!("no holder in this test")
    }
}

/// Runs one command line under a state directory; its exit code.
fn havre(stop: &Stop, dir: &Path, line: &str) -> ExitCode {
    let words = ["havre", "--state-dir", dir.to_str().expect("a plain path")];
    let words = words.into_iter().chain(line.split_whitespace()).map(OsString::from);
    cli::run(&ToyCommands { stop: stop.clone() }, words)
}

#[track_caller]
fn succeeds(stop: &Stop, dir: &Path, line: &str) {
    assert_eq!(havre(stop, dir, line), ExitCode::SUCCESS, "havre {line}");
}

fn free_port() -> u16 {
    let socket = std::net::UdpSocket::bind(("127.0.0.1", 0)).expect("a free port");
    socket.local_addr().expect("bound").port()
}

/// Writes `cluster.xml` and a module; returns the witness's address.
fn write_configuration(dir: &Path) -> String {
    let (port, witness) = (free_port(), free_port());
    let cluster = format!(
        r#"<cluster><lans port="{port}"><lan name="default">
        <node name="node1" addr="127.0.0.1"/><node name="node2" addr="127.0.0.2"/>
        </lan></lans><witness addr="127.0.0.3" port="{witness}"/></cluster>"#
    );
    fs::write(dir.join("cluster.xml"), cluster).expect("writes");
    fs::create_dir_all(dir.join("db/conf")).expect("creates");
    let module = r#"<safe><service mode="mirror">
        <heart pulse="100" timeout="1000"><heartbeat name="default" ident="flow"/></heart>
        <user/>
        </service></safe>"#;
    fs::write(dir.join("db/conf/userconfig.xml"), module).expect("writes");
    format!("127.0.0.3:{witness}")
}

/// Resources, switches, classes and the loop guard of a primary, which serves before and after.
fn words_of_checkers(stop: &Stop, dir: &Path) {
    for line in [
        "set -r custom.disk -v down -i checker -m db",
        "get -r custom.disk -m db",
        "set -r custom.disk -v up -n",
        "errd off -m db",
        "errd list",
        "errd on",
        "checker off",
        "checker on -m db",
        "failover off",
        "failover status",
        "failover on",
        "boot on",
        "boot status -m db",
        "state -v",
        "checkloop",
    ] {
        succeeds(stop, dir, line);
    }
    for line in [
        "get -r custom.other",
        "get -r remote.custom.disk",
        "set -r rfs.uptodate -v up",
        "errd enable nosuchclass",
        "start -i handler",
    ] {
        assert_ne!(havre(stop, dir, line), ExitCode::SUCCESS, "havre {line}");
    }
    let module = || toy::status(&Client::of(dir)).map(|found| found.node.modules[0].clone());
    let checks = module().expect("answers").checks;
    assert_eq!((checks.switches.failover, checks.switches.boot), (Some(true), Some(true)));
    let disk = checks.resources.iter().find(|one| one.name.as_str() == "custom.disk");
    let disk = disk.expect("was set");
    assert_eq!(disk.history.len(), 1, "the change with -n is left out: {disk:?}");
    assert_eq!((disk.state.to_string().as_str(), disk.by.as_str()), ("up", "root"));

    succeeds(stop, dir, "restart -i handler");
    toy::until("the application was started again", || {
        module()
            .filter(|now| now.starts == 2 && now.state == State::Prim && now.phase == Phase::Ready)
    });
    let counts =
        |line: &str| (havre(stop, dir, line), module().expect("answers").checks.guard.count);
    assert_eq!(counts("checkloop"), (ExitCode::SUCCESS, 1), "the restart was counted");
    assert_eq!(counts("incloop -i handler"), (ExitCode::SUCCESS, 2));
    assert_eq!(counts("incloop -i handler"), (ExitCode::SUCCESS, 3));
    assert_eq!(counts("incloop -i handler"), (ExitCode::from(1), 4), "maxloop is 3");
    assert_eq!(counts("checkloop"), (ExitCode::from(1), 4));
    assert_eq!(counts("resetloop"), (ExitCode::SUCCESS, 0));
    assert_eq!(havre(stop, dir, "checkloop -m web"), ExitCode::from(2), "no such module");
}

#[test]
fn commands_lead_from_nothing_to_a_pair_with_a_witness() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let at = |name: &str| scratch.path().join(name);
    let here = scratch.path().display().to_string();
    let witness = write_configuration(scratch.path());
    let stop = Stop::new();
    let (a, b, w) = (at("a"), at("b"), at("w"));

    succeeds(&stop, &a, &format!("config check {here}/cluster.xml {here}/db"));
    let init = format!("cluster init --config {here}/cluster.xml --node node1 --out {here}");
    succeeds(&stop, &a, &init);
    assert_ne!(havre(&stop, &a, &init), ExitCode::SUCCESS, "a member already");
    succeeds(&stop, &a, &format!("{init} --replace"));
    succeeds(&stop, &b, &format!("cluster join {here}/havre-node2.bundle --node node2"));
    succeeds(&stop, &w, &format!("cluster join {here}/havre-witness.bundle"));
    for dir in [&a, &b] {
        assert_ne!(havre(&stop, dir, "module config -m db"), ExitCode::SUCCESS, "not installed");
        succeeds(&stop, dir, &format!("module install -m db --id 1 {here}/db"));
        succeeds(&stop, dir, "module list");
        succeeds(&stop, dir, "module config -m db");
        succeeds(&stop, dir, "cluster state");
        assert_eq!(havre(&stop, dir, "state -lq -m db"), ExitCode::from(255), "no daemon");
    }
    let run = |dir: &Path, line: String| {
        let (stop, dir) = (stop.clone(), dir.to_owned());
        std::thread::spawn(move || havre(&stop, &dir, &line))
    };
    let processes = [
        run(&w, format!("witness --listen {witness}")),
        run(&a, "daemon --health-port off".to_owned()),
        run(&b, "daemon --health-port off".to_owned()),
    ];
    for dir in [&a, &b] {
        toy::until("the daemon answers", || toy::status(&Client::of(dir)));
    }

    succeeds(&stop, &a, "prim");
    succeeds(&stop, &a, "waitstate -m db ALONE PRIM --timeout 20");
    succeeds(&stop, &b, "second -m db");
    succeeds(&stop, &b, "waitstate -m db SECOND --timeout 20");
    succeeds(&stop, &a, "waitstate -m db PRIM --timeout 20");
    assert_eq!(havre(&stop, &a, "state -lq"), ExitCode::from(3));
    assert_eq!(havre(&stop, &b, "state -lq -m db"), ExitCode::from(4));
    assert_eq!(havre(&stop, &b, "waitstate -m db PRIM --timeout 0"), ExitCode::from(2));
    let snapshot = toy::status(&Client::of(&a)).expect("answers");
    assert_eq!(snapshot.node.witness, Some(true), "the witness answers");
    assert!(snapshot.node.modules[0].epoch.is_some(), "the witness granted a right to run");
    for line in ["state -v", "state --json", "log -m db", "log --node -A"] {
        succeeds(&stop, &a, line);
    }
    words_of_checkers(&stop, &a);
    succeeds(&stop, &a, "config check -m db");
    succeeds(&stop, &a, "module getports -m db");
    let file = a.join("modules/db/conf/userconfig.xml");
    let text = fs::read_to_string(&file).expect("reads");
    let wrong = text.replace("mirror\"", "mirror\" failover=\"off\"");
    fs::write(&file, wrong).expect("writes");
    assert_ne!(havre(&stop, &a, "module config -m db --local"), ExitCode::SUCCESS, "it runs");
    let text = text.replace("pulse=\"100\"", "pulse=\"90\"");
    let text = text.replace("<user/>", "<user nicestoptimeout=\"60\"/>");
    fs::write(&file, text).expect("writes");
    succeeds(&stop, &a, "module config -m db --local");
    succeeds(&stop, &a, "waitstate -m db PRIM --timeout 20");
    assert_eq!(havre(&stop, &a, "state -lq"), ExitCode::from(3), "it went on running");
    let text = fs::read_to_string(&file).expect("reads");
    fs::write(&file, text.replace("mirror\"", "mirror\" failover=\"off\"")).expect("writes");
    assert_ne!(havre(&stop, &a, "module config -m db"), ExitCode::SUCCESS, "it runs");
    for line in ["stop -m web", "stop -m ../db", "state -m web", "log -m web"] {
        assert_ne!(havre(&stop, &a, line), ExitCode::SUCCESS, "havre {line}: no such module");
    }

    stop.stop();
    for process in processes {
        assert_eq!(process.join().expect("no panic"), ExitCode::SUCCESS);
    }
    assert!(toy::status(&Client::of(&a)).is_none());
}
