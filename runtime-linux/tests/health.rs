//! The health check of real daemons, asked by a client as a load balancer does, through start,
//! failover, swap and stop of a mirror. Needs root. `--nocapture` shows every answer.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    path::PathBuf,
    time::{Duration, Instant},
};

use havre_core::status::State;
use havre_linux::lab::pair::{MODULE, Pair, PairSpec};
use havre_runtime::admin::health::HEALTH_PORT_DEFAULT;

const LIMIT: Duration = Duration::from_secs(30);
/// How long a load balancer waits for an answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

fn start() -> Option<(Pair, tempfile::TempDir)> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return None;
    }
    let program = PathBuf::from(env!("CARGO_BIN_EXE_havre"));
    let directory = tempfile::tempdir().expect("a temporary directory");
    let spec = PairSpec {
        timeout: Duration::from_secs(1),
        pulse: Duration::from_millis(100),
        replicated: None,
        scripts: Vec::new(),
        variables: Vec::new(),
    };
    let pair = Pair::build(directory.path(), &program, spec).expect("root may build a pair");
    Some((pair, directory))
}

fn get(address: IpAddr, path: &str) -> io::Result<String> {
    let address = SocketAddr::new(address, HEALTH_PORT_DEFAULT);
    let mut stream = TcpStream::connect_timeout(&address, ANSWER_LIMIT)?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Asks a node at both paths over IPv4 and IPv6; all answers must say the same.
#[track_caller]
fn code(pair: &Pair, node: usize) -> Option<u16> {
    let machine = pair.lab().machine(node);
    let addresses: [IpAddr; 2] = [machine.v4(0).into(), machine.v6(0).into()];
    let paths = [format!("/var/modules/{MODULE}/ready.txt"), format!("/health/{MODULE}")];
    let mut codes = Vec::new();
    for address in addresses {
        for path in &paths {
            let answer = pair.lab().as_client(|| get(address, path));
            eprintln!("node{} GET {path} of {address}:\n{answer:?}", node + 1);
            let code = answer.ok().and_then(|a| a.get(9..12)?.parse::<u16>().ok());
            codes.push(code);
        }
    }
    assert!(codes.iter().all(|code| *code == codes[0]), "{codes:?}");
    codes[0]
}

/// Waits until a node answers with a code at its first path.
#[track_caller]
fn becomes(pair: &Pair, node: usize, code: u16) {
    let begun = Instant::now();
    let address = pair.lab().machine(node).v4(0).into();
    let path = format!("/health/{MODULE}");
    loop {
        let answer = pair.lab().as_client(|| get(address, &path));
        if matches!(&answer, Ok(a) if a.starts_with(&format!("HTTP/1.1 {code} "))) {
            return;
        }
        assert!(begun.elapsed() < LIMIT, "node{} is not {code}: {answer:?}", node + 1);
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_load_balancer_follows_the_primary_through_start_swap_failover_and_stop() {
    let Some((mut pair, _directory)) = start() else { return };
    assert_eq!(code(&pair, 0), None, "no daemon, no answer");
    for number in [2, 0, 1] {
        pair.start(number).expect("it starts");
    }
    for node in [0, 1] {
        pair.wait_for(node, State::Stop, LIMIT).expect("daemons run");
        assert_eq!(code(&pair, node), Some(404), "stopped");
    }
    pair.bring_to(0, State::Alone, "prim").expect("it starts");
    becomes(&pair, 0, 200);
    pair.bring_to(1, State::Second, "second").expect("it starts");
    pair.wait_for(0, State::Prim, LIMIT).expect("it starts");
    assert_eq!((code(&pair, 0), code(&pair, 1)), (Some(200), Some(404)), "PRIM and SECOND");

    pair.order(0, "swap").expect("accepted");
    pair.wait_for(1, State::Prim, LIMIT).expect("it swaps");
    pair.wait_for(0, State::Second, LIMIT).expect("it swaps");
    becomes(&pair, 1, 200);
    assert_eq!(code(&pair, 0), Some(404), "SECOND");

    let fault = Instant::now();
    pair.crash(1).expect("it dies");
    becomes(&pair, 0, 200);
    eprintln!("the other node answers 200 after {} ms", fault.elapsed().as_millis());
    assert_eq!((code(&pair, 0), code(&pair, 1)), (Some(200), None), "one is dead");

    pair.freeze_daemon(0, true).expect("it runs");
    assert_eq!(code(&pair, 0), None, "a daemon that hangs answers nothing");
    pair.freeze_daemon(0, false).expect("it runs");
    pair.revive(1).expect("it comes back");
    let begun = Instant::now();
    while pair.primary().is_none() {
        assert!(begun.elapsed() < LIMIT, "nobody serves");
        std::thread::sleep(Duration::from_millis(20));
    }
    let primary = pair.primary().expect("one of them");
    becomes(&pair, primary, 200);
    pair.order(primary, "stop").expect("accepted");
    pair.wait_for(primary, State::Stop, LIMIT).expect("it stops");
    assert_eq!(code(&pair, primary), Some(404), "stopped");
}
