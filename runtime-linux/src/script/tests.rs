//! Scripts run, print, hang and fail as real processes.

use std::{
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::{Mutex, PoisonError},
};

use havre_core::{
    effect::{ScriptAction, ScriptName},
    status::State,
};

use super::*;

struct Module {
    _directory: tempfile::TempDir,
    scripts: Scripts,
    lines: Arc<Mutex<Vec<(String, String)>>>,
}

impl Module {
    fn new(start_prim: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let lines = Arc::new(Mutex::new(Vec::new()));
        let taken = Arc::clone(&lines);
        let sink = Sink::new(move |script, line| {
            let mut lines = taken.lock().unwrap_or_else(PoisonError::into_inner);
            lines.push((script.to_owned(), line.to_owned()));
        });
        let root = directory.path();
        fs::create_dir(root.join("bin")).expect("a new directory");
        let place = ScriptPlace {
            module: "am".to_owned(),
            safe: root.join("safe"),
            safe_bin: root.join("safe/bin"),
            safe_var: root.join("var"),
            user_bin: root.join("bin"),
            user_conf: root.join("conf"),
            user_var: root.join("uservar"),
            variables: vec![("DATABASE".to_owned(), "sales".to_owned())],
            logging: true,
        };
        let path = root.join("bin/start_prim");
        fs::write(&path, start_prim).expect("the script is written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("made executable");
        let scripts = Scripts::new(place, sink).expect("the module is prepared");
        Self { _directory: directory, scripts, lines }
    }

    fn root(&self) -> &Path {
        self.scripts.place.user_bin.parent().expect("bin has a parent")
    }

    fn run(&self, limit: Option<Duration>) -> ScriptEnd {
        self.scripts.run(&call(ScriptName::StartPrim, limit))
    }

    fn lines(&self) -> Vec<String> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().map(|(_, line)| line.clone()).collect()
    }
}

fn call(name: ScriptName, limit: Option<Duration>) -> ScriptCall {
    ScriptCall {
        name,
        force: true,
        from: State::Wait,
        to: State::Alone,
        action: ScriptAction::Start,
        limit,
        services: None,
    }
}

#[test]
fn a_script_gets_its_arguments_and_variables_and_its_output_is_kept() {
    let module = Module::new(
        "#!/bin/sh\necho \"$@\"\necho $SAFEMODULE $DATABASE $SAFEUSERBIN >&2\nexit 7\n",
    );
    assert_eq!(module.run(None), ScriptEnd::Exited(7));
    let bin = module.scripts.place.user_bin.display().to_string();
    assert_eq!(module.lines(), ["force WAIT ALONE start".to_owned(), format!("am sales {bin}")]);
}

#[test]
fn a_script_finds_the_commands_where_safekit_has_them() {
    let module = Module::new(
        "#!/bin/sh\nreadlink $SAFE/safekit $SAFEBIN/havre\ntest \"$HAVRE_STATE_DIR\" = $SAFEVAR\n",
    );
    assert_eq!(module.run(None), ScriptEnd::Exited(0));
    let program = std::env::current_exe().expect("this test").display().to_string();
    assert_eq!(module.lines(), [program.clone(), program]);
    // A newer program takes the place of an older one.
    let link = module.scripts.place.safe.join("safekit");
    fs::remove_file(&link).expect("removed");
    std::os::unix::fs::symlink("/old/havre", &link).expect("linked");
    commands::put(&module.scripts.place).expect("put");
    assert_eq!(fs::read_link(&link).ok(), std::env::current_exe().ok());
}

#[test]
fn a_missing_script_is_absent_and_a_useless_one_says_what_to_do() {
    let module = Module::new("#!/no/such/interpreter\n");
    let end = module.scripts.run(&call(ScriptName::StopPrim, None));
    assert_eq!(end, ScriptEnd::Absent);
    let ScriptEnd::NotStarted(text) = module.run(None) else { panic!("it cannot start") };
    assert!(text.contains("the interpreter named in its first line"), "{text}");
    let path = module.root().join("bin/start_prim");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("not executable");
    let ScriptEnd::NotStarted(text) = module.run(None) else { panic!("it cannot start") };
    assert!(text.contains("chmod +x"), "{text}");
    fs::write(&path, "echo no first line\n").expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("made executable");
    assert_eq!(module.run(None), ScriptEnd::Exited(0), "the shell runs it");
}

#[test]
fn a_script_that_hangs_is_killed_with_its_children_at_its_limit() {
    let module = Module::new("#!/bin/sh\ntrap '' TERM\nsleep 600 & echo $!\nsleep 600\n");
    let begun = Instant::now();
    let end = module.run(Some(Duration::from_millis(200)));
    assert_eq!(end, ScriptEnd::TimedOut);
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    let child = module.lines()[0].clone();
    assert_dies(&child);
}

#[test]
fn a_signal_that_ends_a_script_is_reported() {
    let module = Module::new("#!/bin/sh\nkill -9 $$\n");
    assert_eq!(module.run(None), ScriptEnd::Signalled(9));
}

fn is_running(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

#[track_caller]
fn assert_dies(pid: &str) {
    let begun = Instant::now();
    while is_running(pid) {
        assert!(begun.elapsed() < Duration::from_secs(5), "process {pid} still runs");
        std::thread::sleep(Duration::from_millis(5));
    }
}

const DAEMON: &str = "#!/bin/sh\nsetsid sh -c 'echo $$ > ../pid; echo up; sleep 600' </dev/null &\n\
     while [ ! -s ../pid ]; do sleep 0.01; done\nexit 0\n";

fn daemon_lives_until_killed(module: &Module) {
    assert_eq!(module.run(None), ScriptEnd::Exited(0));
    let pid = fs::read_to_string(module.root().join("pid")).expect("the daemon wrote it");
    let pid = pid.trim();
    assert!(is_running(pid), "a program left in the background lives on");
    let killed = module.scripts.kill().expect("its processes can be killed");
    assert!(killed >= 1, "{killed} processes killed");
    assert!(!is_running(pid), "none runs when kill returns");
    assert_eq!(module.scripts.kill().expect("nothing is left"), 0);
}

#[test]
fn a_program_left_in_the_background_lives_until_the_scripts_are_killed() {
    daemon_lives_until_killed(&Module::new(DAEMON));
}

#[test]
fn without_control_groups_such_a_program_is_found_all_the_same() {
    let mut module = Module::new(DAEMON);
    module.scripts.tracker.release();
    module.scripts.tracker = Tracker::without_group(&module.scripts.place.key());
    daemon_lives_until_killed(&module);
}

#[test]
fn a_flood_of_output_neither_blocks_the_script_nor_is_kept() {
    let module = Module::new("#!/bin/sh\nseq 1 200000\n");
    assert_eq!(module.run(Some(Duration::from_secs(30))), ScriptEnd::Exited(0));
    let lines = module.lines();
    assert_eq!(lines[0], "1");
    assert!(lines.len() < 5_000, "{} lines", lines.len());
}

#[test]
fn output_of_a_program_that_outlived_the_daemon_is_read_by_the_next_run() {
    let module = Module::new(
        "#!/bin/sh\n(while [ ! -e ../go ]; do sleep 0.01; done; echo late) &\nexit 0\n",
    );
    assert_eq!(module.run(None), ScriptEnd::Exited(0));
    let Module { _directory, scripts, .. } = module;
    let place = scripts.place.clone();
    drop(scripts);
    let go = place.user_bin.parent().expect("bin has a parent").join("go");
    fs::write(go, "").expect("written");
    let (sender, receiver) = std::sync::mpsc::channel();
    let sink = Sink::new(move |script, line| {
        let _ = sender.send((script.to_owned(), line.to_owned()));
    });
    let again = Scripts::new(place, sink).expect("the module is prepared again");
    let line = receiver.recv_timeout(Duration::from_secs(10)).expect("the line arrives");
    assert_eq!(line, ("start_prim".to_owned(), "late".to_owned()));
    again.kill().expect("nothing is left");
}
