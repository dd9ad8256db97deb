//! Whole daemons of a farm without a shared address: what load balancers are told. Needs root.

use std::{
    io,
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    time::Duration,
};

use havre_core::status::{Phase, State};
use havre_linux::lab::farm::{Farm, FarmSpec, MODULE, Server};
use havre_runtime::admin::health::HEALTH_PORT_DEFAULT;

const LIMIT: Duration = Duration::from_secs(30);

fn program() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_havre"))
}

fn farm() -> Option<(Farm, tempfile::TempDir)> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return None;
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    let server = Server::choose(&program());
    eprintln!("web server: {server:?}");
    let spec = FarmSpec::of(3, None, &server);
    let farm = Farm::build(directory.path(), &program(), spec).expect("root may build a farm");
    Some((farm, directory))
}

/// What a load balancer reads of a node.
fn health(farm: &Farm, node: usize) -> Option<u16> {
    use std::io::{Read, Write};
    let address = SocketAddr::from((farm.cluster().lab().machine(node).v4(0), HEALTH_PORT_DEFAULT));
    let ask = || -> io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_millis(500))?;
        stream.set_read_timeout(Some(Duration::from_millis(500)))?;
        let request =
            format!("GET /health/{MODULE} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = farm.cluster().lab().as_client(ask).ok()?;
    eprintln!("node{}: {}", node + 1, answer.replace("\r\n", " | "));
    answer.get(9..12)?.parse().ok()
}

#[test]
fn every_node_of_a_farm_that_is_up_is_healthy_and_no_other() {
    let Some((mut farm, _directory)) = farm() else { return };
    farm.start_all().expect("three nodes share");
    for node in 0..3 {
        assert_eq!(health(&farm, node), Some(200), "UP Ready");
    }
    farm.cluster().order(1, MODULE, "stop", (false, false)).expect("accepted");
    farm.cluster().wait_for(1, MODULE, &[State::Stop], LIMIT).expect("it stops");
    assert_eq!((health(&farm, 0), health(&farm, 1)), (Some(200), Some(404)));
    farm.cluster_mut().power_off(2).expect("it dies");
    assert_eq!((health(&farm, 0), health(&farm, 2)), (Some(200), None));
    let status = farm.status(0).expect("it answers");
    assert_eq!((status.state, status.phase), (State::Up, Phase::Ready), "nodes are independent");
}
