//! Bytes pass in both directions, and only between the nodes that expect each other.

use std::net::TcpListener;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer},
    server::WebPkiClientVerifier,
};

use super::*;

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("an authority"))
    }

    /// What node `name` uses towards node `peer`.
    fn security(&self, name: &str, peer: &str) -> Security {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        let chain: Vec<CertificateDer<'static>> =
            vec![params.signed_by(&key, &self.0).expect("signed").der().clone()];
        let key = || PrivateKeyDer::try_from(key.serialize_der()).expect("a private key");
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).expect("a root");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let versions = &[&rustls::version::TLS13];
        let client = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .expect("TLS 1.3")
            .with_root_certificates(roots.clone())
            .with_client_auth_cert(chain.clone(), key())
            .expect("a client");
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                .build()
                .expect("a verifier");
        let server = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .expect("TLS 1.3")
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key())
            .expect("a server");
        let peer = ServerName::try_from(peer.to_owned()).expect("a name");
        Security::Tls { client: Arc::new(client), server: Arc::new(server), peer }
    }
}

fn pair(client: &Security, server: &Security) -> (Connection, Connection) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let to = listener.local_addr().expect("its address");
    let target = Connection::connect(to, None, client).expect("connecting");
    let (socket, _) = listener.accept().expect("accepted");
    (target, Connection::accepted(socket, server).expect("taken over"))
}

/// Turns both ends until `done` or until an end fails.
fn drive(
    a: &mut Connection,
    b: &mut Connection,
    done: impl Fn(&Connection, &Connection) -> bool,
) -> io::Result<()> {
    for _ in 0..100_000 {
        a.flush()?;
        b.flush()?;
        a.fill()?;
        b.fill()?;
        if done(a, b) {
            return Ok(());
        }
    }
    panic!("nothing came");
}

fn exchange(a: &mut Connection, b: &mut Connection) {
    let large: Vec<u8> = (0..3_000_000u32).map(|n| n as u8).collect();
    a.output().extend_from_slice(&large);
    b.output().extend_from_slice(b"short");
    drive(a, b, |a, b| a.input().len() == 5 && b.input().len() == large.len()).expect("passes");
    assert_eq!(a.input(), b"short");
    assert!(b.input() == large);
    b.consume(2_999_999);
    assert_eq!(b.input(), &large[2_999_999..]);
}

#[test]
fn bytes_pass_in_both_directions() {
    let (mut a, mut b) = pair(&Security::Plain, &Security::Plain);
    exchange(&mut a, &mut b);
}

#[test]
fn bytes_pass_under_tls() {
    let cluster = Authority::new();
    let (mut a, mut b) =
        pair(&cluster.security("node1", "node2"), &cluster.security("node2", "node1"));
    exchange(&mut a, &mut b);
    assert!(a.is_established() && b.is_established());
}

#[test]
fn a_node_of_another_cluster_is_refused() {
    let (cluster, other) = (Authority::new(), Authority::new());
    let (mut a, mut b) =
        pair(&other.security("node1", "node2"), &cluster.security("node2", "node1"));
    drive(&mut a, &mut b, |_, b| b.is_established()).expect_err("refused");
    assert!(!b.is_established());
}

#[test]
fn another_node_of_the_cluster_is_refused_as_client() {
    let cluster = Authority::new();
    let (mut a, mut b) =
        pair(&cluster.security("node3", "node2"), &cluster.security("node2", "node1"));
    drive(&mut a, &mut b, |_, b| b.is_established()).expect_err("refused");
    assert!(!b.is_established());
}

#[test]
fn another_node_of_the_cluster_is_refused_as_server() {
    let cluster = Authority::new();
    let (mut a, mut b) =
        pair(&cluster.security("node1", "node2"), &cluster.security("node3", "node1"));
    drive(&mut a, &mut b, |_, b| b.is_established()).expect_err("refused");
    assert!(!a.is_established());
}

#[test]
fn the_end_of_a_connection_is_an_error() {
    let (mut a, b) = pair(&Security::Plain, &Security::Plain);
    drop(b);
    let error = loop {
        match a.fill() {
            Ok(_) => std::thread::yield_now(),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
}
