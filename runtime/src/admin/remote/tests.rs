//! Tests of the interface between nodes, over TLS on the loopback network.

use std::path::Path;

use axum::routing::{get, post};
use havre_core::config::cluster as cluster_xml;

use super::*;
use crate::cluster::{self, Membership};

const CLUSTER: &str = r#"<cluster><lans>
    <lan name="default">
        <node name="node1" addr="127.0.0.1"/>
        <node name="node2" addr="127.0.0.4"/>
        <node name="node3" addr="127.0.0.9"/>
    </lan>
    <lan name="commands" command="on">
        <node name="node1" addr="127.0.0.3"/>
        <node name="node2" addr="127.0.0.2"/>
        <node name="node3" addr="127.0.0.8"/>
    </lan>
</lans></cluster>"#;

/// A new cluster of three: node1, node2, node3.
fn members() -> Vec<Membership> {
    let now_ms = crate::events::time::unix_ms(std::time::SystemTime::now());
    let made = cluster::create(Path::new("cluster.xml"), CLUSTER, "node1", now_ms).expect("made");
    let others = made.others.into_iter().map(|bundle| Membership::of(bundle).expect("good"));
    std::iter::once(made.own).chain(others).collect()
}

fn neighbours(member: &Membership, port: u16) -> Neighbours {
    let security = member.stream_security().expect("secure");
    Neighbours::new(member.config().clone(), member.node(), security, port)
}

fn free_port() -> u16 {
    let probe = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("binds");
    probe.local_addr().expect("bound").port()
}

fn router() -> Router {
    Router::new()
        .route("/api/v1/word", get(|| async { "PRIM" }))
        .route("/api/v1/echo", post(|body: String| async move { (StatusCode::CONFLICT, body) }))
}

/// Runs `test` while `server` serves on the port that it is given.
fn with_server(server: &Membership, test: impl AsyncFnOnce(u16)) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let port = free_port();
        let security = server.stream_security().expect("secure");
        let serving = tokio::spawn(serve(port, security, router()));
        tokio::task::yield_now().await;
        test(port).await;
        serving.abort();
    });
}

async fn ask(
    neighbours: &Neighbours,
    node: &str,
    request: (Method, &str),
    body: &'static str,
) -> Result<(StatusCode, String), RemoteError> {
    let answer = neighbours.ask(node, request, (None, Bytes::from(body))).await?;
    Ok((answer.status, String::from_utf8(answer.body.to_vec()).expect("words")))
}

#[test]
fn a_node_asks_another_one_and_gets_its_answer_as_it_is() {
    let members = members();
    with_server(&members[1], async |port| {
        let node1 = neighbours(&members[0], port);
        let word = ask(&node1, "node2", (Method::GET, "/api/v1/word"), "").await;
        assert_eq!(word.expect("answers"), (StatusCode::OK, "PRIM".to_owned()));
        let echo = ask(&node1, "node2", (Method::POST, "/api/v1/echo"), "no, because").await;
        assert_eq!(echo.expect("answers"), (StatusCode::CONFLICT, "no, because".to_owned()));
    });
}

#[test]
fn a_node_that_is_another_one_is_not_asked() {
    let members = members();
    // Node 3 sits at the address of node 2.
    with_server(&members[2], async |port| {
        let error = ask(&neighbours(&members[0], port), "node2", (Method::GET, "/"), "").await;
        let error = error.expect_err("the wrong node");
        assert!(matches!(error, RemoteError::Untrusted(TlsError::WrongNode { .. })), "{error}");
    });
}

#[test]
fn a_member_of_another_cluster_is_refused() {
    let (ours, theirs) = (members(), members());
    with_server(&ours[1], async |port| {
        let error = ask(&neighbours(&theirs[0], port), "node2", (Method::GET, "/"), "").await;
        let error = error.expect_err("another cluster").to_string();
        assert!(error.contains("not a member of this cluster"), "{error}");
    });
}

#[test]
fn what_cannot_be_reached_is_named_with_every_address_that_was_tried() {
    let members = members();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let node1 = neighbours(&members[0], free_port());
        let error = ask(&node1, "node2", (Method::GET, "/"), "").await.expect_err("nobody");
        let text = error.to_string();
        assert!(text.contains("127.0.0.2") && text.contains("127.0.0.4"), "{text}");
        let error = ask(&node1, "node9", (Method::GET, "/"), "").await.expect_err("nobody");
        assert!(matches!(error, RemoteError::UnknownNode { .. }), "{error}");
    });
}

#[test]
fn networks_for_commands_come_first() {
    let parsed = cluster_xml::parse(Path::new("cluster.xml"), CLUSTER).expect("parses").value;
    assert_eq!(addresses(&parsed, NodeId(1)), ["127.0.0.2", "127.0.0.4"]);
}
