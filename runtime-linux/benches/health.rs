//! Latency of the health check of a real daemon while every processor is busy:
//! `cargo bench -p havre-linux --bench health [-- REQUESTS]`.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use havre_core::status::State;
use havre_linux::lab::pair::{MODULE, Pair, PairSpec};
use havre_runtime::admin::health::HEALTH_PORT_DEFAULT;

const LIMIT: Duration = Duration::from_secs(60);

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let requests = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(2_000);
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root");
        return Ok(());
    }
    let directory = tempfile::tempdir()?;
    let spec = PairSpec {
        timeout: Duration::from_secs(5),
        pulse: Duration::from_millis(500),
        replicated: None,
        scripts: Vec::new(),
        variables: Vec::new(),
    };
    let program = PathBuf::from(env!("CARGO_BIN_EXE_havre"));
    let mut pair = Pair::build(directory.path(), &program, spec)?;
    pair.start_all()?;
    pair.wait_for(0, State::Prim, LIMIT)?;
    let address = SocketAddr::from((pair.lab().machine(0).v4(0), HEALTH_PORT_DEFAULT));
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    for busy in [0, processors] {
        let ending = AtomicBool::new(false);
        let times = std::thread::scope(|scope| {
            for _ in 0..busy {
                scope.spawn(|| {
                    while !ending.load(Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                });
            }
            let times = pair.lab().as_client(|| measure(address, requests));
            ending.store(true, Ordering::Relaxed);
            times
        })?;
        print(busy, times);
    }
    Ok(())
}

fn print(busy: usize, mut times: Vec<Duration>) {
    times.sort();
    let at = |share: f64| {
        let index = ((times.len() - 1) as f64 * share).round() as usize;
        times[index].as_secs_f64() * 1e3
    };
    println!(
        "{busy} busy threads: {} requests, each on a connection of its own; p50 {:.2} ms, \
         p99 {:.2} ms, p99.9 {:.2} ms, longest {:.2} ms",
        times.len(),
        at(0.5),
        at(0.99),
        at(0.999),
        at(1.0)
    );
}

/// One request after the other, with a pause between, as load balancers ask.
fn measure(address: SocketAddr, requests: usize) -> io::Result<Vec<Duration>> {
    let request = format!("GET /health/{MODULE} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    let mut times = Vec::with_capacity(requests);
    for _ in 0..requests {
        let begun = Instant::now();
        let mut stream = TcpStream::connect(address)?;
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        times.push(begun.elapsed());
        if !answer.starts_with("HTTP/1.1 200 ") {
            return Err(io::Error::other(answer));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(times)
}
