//! Tests of the health check: what is said, and that nobody can keep others from being answered.

use std::{
    io::{Read, Write},
    net::TcpStream as Stream,
};

use super::*;
use crate::cli::samples;

fn board_of(name: &str, state: State, phase: Phase) -> Board {
    let mut status = samples::node_status(&[name]);
    (status.modules[0].state, status.modules[0].phase) = (state, phase);
    let board = Board::default();
    board.show(&status);
    board
}

/// A server on a free port.
fn served(board: &Board) -> (Server, u16) {
    let port = std::net::TcpListener::bind(("::", 0))
        .or_else(|_| std::net::TcpListener::bind(("0.0.0.0", 0)))
        .and_then(|listener| listener.local_addr())
        .expect("a free port")
        .port();
    let server = Server::start(port, board.clone()).expect("starts");
    let begun = Instant::now();
    while Stream::connect(("127.0.0.1", port)).is_err() {
        assert!(begun.elapsed() < Duration::from_secs(10), "nobody listens");
        std::thread::sleep(Duration::from_millis(5));
    }
    (server, port)
}

/// Sends one request and reads everything until the server ends the connection.
fn exchange(host: &str, port: u16, request: &str) -> String {
    let mut stream = Stream::connect((host, port)).expect("connects");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a socket");
    stream.write_all(request.as_bytes()).expect("writes");
    let mut answer = Vec::new();
    // A server that refuses a request may reset the connection after its answer.
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8(answer).expect("text")
}

fn ask(host: &str, port: u16, method: &str, path: &str) -> String {
    let line = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    exchange(host, port, &line)
}

#[test]
fn only_a_ready_primary_or_farm_member_is_healthy() {
    let now = Instant::now;
    for state in [State::Stop, State::Wait, State::Alone, State::Prim, State::Second, State::Up] {
        for phase in [Phase::NotReady, Phase::Transient, Phase::Ready] {
            let health = board_of("db", state, phase).health(now(), "db");
            let serves = matches!(state, State::Alone | State::Prim | State::Up);
            let expected = if serves && phase == Phase::Ready {
                Health::Ready(state)
            } else {
                Health::NotReady(state, phase)
            };
            assert_eq!(health, expected);
        }
    }
    let board = board_of("db", State::Prim, Phase::Ready);
    assert_eq!(board.health(now(), "web"), Health::Unknown);
}

#[test]
fn a_board_that_nobody_confirms_is_not_believed() {
    let board = board_of("db", State::Prim, Phase::Ready);
    let now = Instant::now();
    assert_eq!(board.health(now, "db"), Health::Ready(State::Prim));
    assert_eq!(board.health(now + STALE * 2, "db"), Health::Silent);
    board.clear();
    board.confirm();
    assert_eq!(board.health(now, "db"), Health::Silent);
}

#[test]
fn both_paths_answer_on_ipv4_and_ipv6_and_follow_the_state() {
    let board = board_of("db", State::Alone, Phase::Ready);
    let (_server, port) = served(&board);
    for host in ["127.0.0.1", "::1"] {
        if host == "::1" && std::net::TcpListener::bind("[::1]:0").is_err() {
            eprintln!("skipped: no IPv6 here");
            continue;
        }
        for path in ["/health/db", "/var/modules/db/ready.txt"] {
            let answer = ask(host, port, "GET", path);
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
            assert!(answer.ends_with("\r\n\r\nALONE Ready\n"), "{answer}");
        }
    }
    let mut status = samples::node_status(&["db"]);
    (status.modules[0].state, status.modules[0].phase) = (State::Stop, Phase::NotReady);
    board.show(&status);
    let answer = ask("127.0.0.1", port, "GET", "/health/db");
    assert!(answer.starts_with("HTTP/1.1 404 Not Found\r\n"), "{answer}");
    assert!(answer.ends_with("STOP NotReady\n"), "{answer}");
}

#[test]
fn head_has_no_body_and_other_methods_and_paths_are_refused() {
    let (_server, port) = served(&board_of("db", State::Prim, Phase::Ready));
    let answer = ask("127.0.0.1", port, "HEAD", "/health/db?x=1");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("content-length: 11\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
    let answer = ask("127.0.0.1", port, "POST", "/health/db");
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
    for path in ["/", "/health/", "/health/db/x", "/health/other", "/var/modules/db", "/x"] {
        let answer = ask("127.0.0.1", port, "GET", path);
        assert!(answer.starts_with("HTTP/1.1 404 "), "{path}: {answer}");
    }
}

#[test]
fn oversized_headers_are_refused() {
    let (_server, port) = served(&board_of("db", State::Prim, Phase::Ready));
    let long = "x".repeat(HEADER_BYTES_MAX * 2);
    let answer =
        exchange("127.0.0.1", port, &format!("GET /health/db HTTP/1.1\r\nlong: {long}\r\n\r\n"));
    assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
    let many = "h: x\r\n".repeat(HEADERS_MAX * 2);
    let answer = exchange("127.0.0.1", port, &format!("GET /health/db HTTP/1.1\r\n{many}\r\n"));
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
}

#[test]
fn connections_that_say_nothing_do_not_keep_others_out() {
    let (_server, port) = served(&board_of("db", State::Prim, Phase::Ready));
    let silent: Vec<Stream> = (0..CONNECTIONS_MAX + 50)
        .map(|_| Stream::connect(("127.0.0.1", port)).expect("connects"))
        .collect();
    let answer = ask("127.0.0.1", port, "GET", "/health/db");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    drop(silent);
}

#[test]
fn a_port_in_use_is_an_error_that_names_it() {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let _inside = runtime.enter();
    let first = listen(0).expect("any port");
    let port = first.local_addr().expect("bound").port();
    let error = listen(port).expect_err("in use");
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
}
