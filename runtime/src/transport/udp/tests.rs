//! Tests of sockets on the loopback network.

use std::time::Duration;

use havre_core::{
    config::cluster::{ClusterConfig, Lan, LanNode, WitnessAddress},
    effect::Route,
};
use tokio::time::timeout;

use super::*;

fn free_port() -> u16 {
    let socket = std::net::UdpSocket::bind(("127.0.0.1", 0)).expect("a free port");
    socket.local_addr().expect("bound").port()
}

fn config(addresses: &[[&str; 2]]) -> ClusterConfig {
    let lan = |(index, pair): (usize, &[&str; 2])| Lan {
        name: format!("lan{index}"),
        command: false,
        nodes: (0u16..)
            .zip(pair)
            .map(|(node, addr)| LanNode {
                node: NodeId(node),
                addr: (*addr).to_owned(),
                local_addr: None,
            })
            .collect(),
    };
    ClusterConfig {
        port: free_port(),
        nodes: vec!["node1".to_owned(), "node2".to_owned()],
        lans: addresses.iter().enumerate().map(lan).collect(),
        witness: None,
    }
}

fn on_runtime(test: impl Future<Output = ()>) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(test);
}

#[test]
fn datagrams_travel_on_each_network_and_say_on_which_they_came() {
    on_runtime(async {
        let config = config(&[["127.0.0.1", "127.0.0.2"], ["127.0.1.1", "127.0.1.2"]]);
        let one = UdpNet::open(&config, NodeId(0)).expect("opens");
        let two = UdpNet::open(&config, NodeId(1)).expect("opens");
        let peers = peers(&config, NodeId(0)).expect("literal addresses");
        for (link, address) in peers.along(NodeId(1), Route::All) {
            one.send(link, address, &[7, u8::try_from(link.0).expect("small")]);
        }
        let mut arrived = Vec::new();
        for _ in 0..2 {
            let datagram = timeout(Duration::from_secs(5), two.receive()).await.expect("arrives");
            arrived.push((datagram.link, datagram.bytes));
        }
        arrived.sort();
        assert_eq!(arrived, [(LinkId(0), vec![7, 0]), (LinkId(1), vec![7, 1])]);
        assert_eq!(two.try_receive(), None);
    });
}

#[test]
fn datagrams_that_wait_in_the_socket_are_taken_without_waiting() {
    on_runtime(async {
        let config = config(&[["127.0.0.1", "127.0.0.2"]]);
        let one = UdpNet::open(&config, NodeId(0)).expect("opens");
        let two = UdpNet::open(&config, NodeId(1)).expect("opens");
        let to = SocketAddr::from(([127, 0, 0, 2], config.port));
        for number in 0..10 {
            one.send(LinkId(0), to, &[number]);
        }
        let first = timeout(Duration::from_secs(5), two.receive()).await.expect("arrives");
        let mut numbers = vec![first.bytes[0]];
        while let Some(datagram) = two.try_receive() {
            numbers.push(datagram.bytes[0]);
        }
        assert_eq!(numbers, (0..10).collect::<Vec<u8>>());
    });
}

#[test]
fn a_port_in_use_and_a_missing_address_are_told_apart() {
    on_runtime(async {
        let config = config(&[["127.0.0.1", "127.0.0.2"], ["192.0.2.1", "192.0.2.2"]]);
        let net = UdpNet::open(&config, NodeId(0)).expect("one network is there");
        assert!(!net.all_open());
        let error = UdpNet::open(&config, NodeId(0)).err().expect("the port is taken");
        assert!(error.to_string().contains("is in use"), "{error}");
    });
}

#[test]
fn the_witness_is_reached_through_a_socket_of_its_own() {
    on_runtime(async {
        let witness = tokio::net::UdpSocket::bind("127.0.0.1:0").await.expect("binds");
        let mut config = config(&[["127.0.0.1", "127.0.0.2"]]);
        let address = witness.local_addr().expect("bound");
        config.witness =
            Some(WitnessAddress { addr: "127.0.0.1".to_owned(), port: address.port() });
        let net = UdpNet::open(&config, NodeId(0)).expect("opens");
        let peers = peers(&config, NodeId(0)).expect("literal addresses");
        let ways: Vec<_> = peers.along(NodeId::WITNESS, Route::All).collect();
        assert_eq!(ways, [(LinkId::WITNESS, address)]);
        net.send(LinkId::WITNESS, address, b"question");
        let mut bytes = [0; 32];
        let received = timeout(Duration::from_secs(5), witness.recv_from(&mut bytes)).await;
        let (_, from) = received.expect("arrives").expect("receives");
        witness.send_to(b"answer", from).await.expect("sends");
        let datagram = timeout(Duration::from_secs(5), net.receive()).await.expect("arrives");
        assert_eq!((datagram.link, &datagram.bytes[..]), (LinkId::WITNESS, &b"answer"[..]));
    });
}

#[test]
fn a_name_without_address_is_named() {
    let error = resolve("no-such-host.invalid", 1).expect_err("reserved by RFC 2606");
    assert!(error.to_string().contains("no-such-host.invalid"), "{error}");
    assert_eq!(resolve("[::1]", 9).expect("a literal"), SocketAddr::from((Ipv6Addr::LOCALHOST, 9)));
}
