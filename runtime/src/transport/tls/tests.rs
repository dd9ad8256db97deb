//! Tests of mutual authentication, over streams in memory.

use havre_core::ids::ClusterId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::cluster::authority::Authority;

/// The present year of the tests' certificates.
const YEAR: i32 = 2026;

fn nodes() -> Vec<String> {
    vec!["node1".to_owned(), "Node_2".to_owned(), "node3".to_owned()]
}

fn member(authority: &Authority, name: &str) -> StreamSecurity {
    let issued = authority.issue(name).expect("issues");
    StreamSecurity::new(authority.certificate(), &issued.pem, &issued.key_pem, nodes(), name)
        .expect("good")
}

fn authority(year: i32) -> Authority {
    Authority::create(ClusterId(1), year).expect("creates")
}

/// What the connecting and the accepting side make of each other; `Ok` is the name of the peer
/// as the accepting side saw it, after one byte went each way.
fn meet(
    client: &StreamSecurity,
    server: &StreamSecurity,
    expected: u16,
) -> (Result<(), TlsError>, Result<NodeId, TlsError>) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let connect = async {
            let mut stream = client.connect(near, NodeId(expected)).await?;
            let talk = async {
                stream.write_all(b"x").await?;
                stream.read_u8().await
            };
            talk.await.map(drop).map_err(|error| explain(&error, "the server"))
        };
        let accept = async {
            let (node, mut stream) = server.accept(far).await?;
            let talk = async {
                stream.read_u8().await?;
                stream.write_all(b"y").await?;
                stream.flush().await
            };
            talk.await.map_err(|error| explain(&error, "the client"))?;
            Ok(node)
        };
        tokio::join!(connect, accept)
    })
}

#[test]
fn two_members_talk_and_know_each_other() {
    let authority = authority(YEAR);
    let (one, two) = (member(&authority, "node1"), member(&authority, "Node_2"));
    assert_eq!(meet(&one, &two, 1), (Ok(()), Ok(NodeId(0))));
    assert_eq!(meet(&two, &one, 0), (Ok(()), Ok(NodeId(1))));
}

#[test]
fn a_member_that_answers_for_another_is_refused() {
    let authority = authority(YEAR);
    let (one, three) = (member(&authority, "node1"), member(&authority, "node3"));
    let (client, _) = meet(&one, &three, 1);
    assert_eq!(client, Err(TlsError::WrongNode { expected: "Node_2".to_owned() }));
}

#[test]
fn another_clusters_node_is_refused_by_both_sides() {
    let (ours, theirs) = (authority(YEAR), authority(YEAR));
    let (one, foreign) = (member(&ours, "node1"), member(&theirs, "Node_2"));
    let (client, server) = meet(&one, &foreign, 1);
    let client = client.expect_err("foreign server").to_string();
    assert!(client.contains("not a member of this cluster"), "{client}");
    assert!(server.is_err());
    let (client, server) = meet(&foreign, &one, 0);
    assert!(client.is_err());
    let server = server.expect_err("foreign client").to_string();
    assert!(!server.is_empty(), "{server}");
}

#[test]
fn a_client_with_a_foreign_certificate_under_our_root_is_refused() {
    // Trusts our authority, so that it goes on, but shows a certificate of another one.
    let (ours, theirs) = (authority(YEAR), authority(YEAR));
    let issued = theirs.issue("node1").expect("issues");
    let forged =
        StreamSecurity::new(ours.certificate(), &issued.pem, &issued.key_pem, nodes(), "node1")
            .expect("well formed");
    let two = member(&ours, "Node_2");
    let (client, server) = meet(&forged, &two, 1);
    assert!(matches!(server, Err(TlsError::NotThisCluster { .. })), "{server:?}");
    assert!(matches!(client, Err(TlsError::NotThisCluster { .. })), "{client:?}");
}

#[test]
fn an_expired_certificate_is_named_with_its_end() {
    let old = authority(1990);
    let (one, two) = (member(&old, "node1"), member(&old, "Node_2"));
    let (client, server) = meet(&one, &two, 1);
    let text = client.expect_err("expired").to_string();
    assert!(text.contains("2010-12-31") && text.contains("set the clock"), "{text}");
    assert!(server.is_err());
    assert_eq!(one.own_end(), "2010-12-31");
    assert!(one.own_rest(1_800_000_000).is_some_and(|rest| rest < 0));
}

#[test]
fn a_member_outside_of_the_configuration_is_refused() {
    let authority = authority(YEAR);
    let (stranger, two) = (member(&authority, "node9"), member(&authority, "Node_2"));
    assert_eq!(meet(&stranger, &two, 1).1, Err(TlsError::UnknownNode));
}

#[test]
fn damaged_certificates_lead_to_join() {
    let authority = authority(YEAR);
    let issued = authority.issue("node1").expect("issues");
    let damaged = &issued.pem[..issued.pem.len() / 2];
    let error =
        StreamSecurity::new(authority.certificate(), damaged, &issued.key_pem, nodes(), "node1")
            .expect_err("damaged");
    assert!(error.to_string().contains("havre cluster join"), "{error}");
}
