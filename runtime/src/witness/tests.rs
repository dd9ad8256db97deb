//! Tests of the witness process over loopback sockets.

use std::{path::Path, time::Duration};

use havre_core::{
    ids::Incarnation,
    wire::message::{WitnessRequest, WitnessVerb, WitnessVerdict},
};
use tokio::{net::UdpSocket, task::LocalSet, time};

use super::{disk::DiskWitness, *};
use crate::{
    cluster::{self, Membership},
    transport::udp::UdpNet,
};

const XML: &str = r#"<cluster><lans><lan name="default">
    <node name="node1" addr="127.0.0.1"/><node name="node2" addr="127.0.0.2"/>
</lan></lans><witness addr="127.0.0.3"/></cluster>"#;

/// A node's end of the conversation.
struct Asker {
    socket: UdpSocket,
    sealer: Sealer,
    witness: SocketAddr,
    nonce: u64,
}

impl Asker {
    async fn new(membership: &Membership, witness: SocketAddr) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("binds");
        Self { socket, sealer: Sealer::new(membership.identity(), 1), witness, nonce: 0 }
    }

    /// Asks once; the answer, if one comes.
    async fn ask_once(&mut self, verb: WitnessVerb) -> Option<WitnessVerdict> {
        self.nonce += 1;
        let request = WitnessRequest { nonce: self.nonce, incarnation: Incarnation(1), verb };
        let message = Message::Witness { module: ModuleId(1), request };
        let datagram = self.sealer.seal(NodeId::WITNESS, &message).expect("small");
        self.socket.send_to(&datagram, self.witness).await.expect("sends");
        let mut bytes = [0; 4096];
        let received = time::timeout(Duration::from_millis(500), self.socket.recv(&mut bytes));
        let length = received.await.ok()?.expect("receives");
        let (from, message) = self.sealer.open(&bytes[..length]).expect("sealed for us");
        assert_eq!(from, NodeId::WITNESS);
        let Message::WitnessReply { reply, .. } = message else { panic!("{message:?}") };
        Some(reply.verdict)
    }

    /// Asks until an answer comes.
    async fn ask(&mut self, verb: WitnessVerb) -> WitnessVerdict {
        for _ in 0..20 {
            if let Some(verdict) = self.ask_once(verb.clone()).await {
                return verdict;
            }
        }
        panic!("the witness does not answer");
    }
}

/// Nothing is on record yet: an administrator says who is right.
fn first_acquire() -> WitnessVerb {
    WitnessVerb::Acquire { lease_ms: 60_000, forced: true }
}

fn acquire() -> WitnessVerb {
    WitnessVerb::Acquire { lease_ms: 60_000, forced: false }
}

fn new_cluster() -> (Membership, Membership, Membership) {
    let made = cluster::create(Path::new("c.xml"), XML, "node1", 1).expect("good");
    let mut others = made.others.into_iter().map(|b| Membership::of(b).expect("good"));
    let (node2, witness) = (others.next().expect("node2"), others.next().expect("witness"));
    (made.own, node2, witness)
}

/// Runs a witness of the given clusters on loopback while `test` asks it.
async fn with_witness(state: &Path, clusters: &[Membership], test: impl AsyncFnOnce(SocketAddr)) {
    for membership in clusters {
        disk::install(state, membership).expect("installs");
    }
    let net = UdpNet::listen(SocketAddr::from(([127, 0, 0, 1], 0))).expect("binds");
    let address = net.local_address().expect("bound");
    let start = std::time::Instant::now();
    let clock = move || Instant::from_millis(1_000) + start.elapsed();
    let os = Rc::new(DiskWitness::open(state, clock).expect("opens"));
    let served = disk::clusters(state).expect("reads");
    let sealers: Vec<_> = served.iter().map(|member| Sealer::new(member.identity(), 1)).collect();
    let process = tokio::task::spawn_local(run(net, os, sealers));
    test(address).await;
    assert!(!process.is_finished(), "the witness ended");
    process.abort();
}

fn on_local_set(test: impl Future<Output = ()>) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    LocalSet::new().block_on(&runtime, test);
}

#[test]
fn one_witness_serves_two_clusters_and_grants_each_lease_once() {
    on_local_set(async {
        let state = tempfile::tempdir().expect("a temporary directory");
        let ((one, two, witness), (other, _, other_witness)) = (new_cluster(), new_cluster());
        with_witness(state.path(), &[witness, other_witness], async |address| {
            let mut one = Asker::new(&one, address).await;
            let mut two = Asker::new(&two, address).await;
            let mut other = Asker::new(&other, address).await;
            assert!(matches!(one.ask(first_acquire()).await, WitnessVerdict::Granted { .. }));
            let refused = two.ask(acquire()).await;
            assert!(
                matches!(refused, WitnessVerdict::RefusedHeld { holder: NodeId(0), .. }),
                "{refused:?}"
            );
            assert!(matches!(other.ask(first_acquire()).await, WitnessVerdict::Granted { .. }));
        })
        .await;
    });
}

#[test]
fn a_cluster_that_is_not_served_gets_no_answer() {
    on_local_set(async {
        let state = tempfile::tempdir().expect("a temporary directory");
        let ((_, _, witness), (stranger, ..)) = (new_cluster(), new_cluster());
        with_witness(state.path(), &[witness], async |address| {
            let mut stranger = Asker::new(&stranger, address).await;
            assert_eq!(stranger.ask_once(first_acquire()).await, None);
        })
        .await;
    });
}

#[test]
fn a_restarted_witness_remembers_what_it_promised() {
    on_local_set(async {
        let state = tempfile::tempdir().expect("a temporary directory");
        let (one, two, witness) = new_cluster();
        with_witness(state.path(), std::slice::from_ref(&witness), async |address| {
            let mut one = Asker::new(&one, address).await;
            assert!(matches!(one.ask(first_acquire()).await, WitnessVerdict::Granted { .. }));
        })
        .await;
        with_witness(state.path(), &[witness], async |address| {
            let mut two = Asker::new(&two, address).await;
            let refused = two.ask(acquire()).await;
            assert!(
                matches!(
                    refused,
                    WitnessVerdict::RefusedStarting { .. } | WitnessVerdict::RefusedHeld { .. }
                ),
                "{refused:?}"
            );
        })
        .await;
    });
}
