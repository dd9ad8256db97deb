//! Tests of sealed datagrams.

use havre_core::{
    ids::ModuleId,
    wire::message::{ClaimVerdict, WitnessReply, WitnessVerdict},
};
use proptest::prelude::*;

use super::*;

const CLUSTER: ClusterId = ClusterId(7);

fn key(byte: u8) -> Key {
    Redacted::new([byte; KEY_BYTES])
}

fn node(number: u16, run: u64) -> Sealer {
    Sealer::new(Identity::of_node(CLUSTER, NodeId(number), &key(1)), run)
}

fn message(nonce: u64) -> Message {
    Message::ClaimReply { module: ModuleId(1), nonce, verdict: ClaimVerdict::Granted }
}

fn sealed(sender: &mut Sealer, nonce: u64) -> Vec<u8> {
    sender.seal(NodeId(1), &message(nonce)).expect("small")
}

#[test]
fn a_datagram_is_opened_by_its_receiver_with_the_senders_name() {
    let (mut a, mut b) = (node(0, 1), node(1, 1));
    let datagram = sealed(&mut a, 9);
    assert_eq!(b.open(&datagram), Ok((NodeId(0), message(9))));
}

#[test]
fn a_repeated_datagram_is_refused_even_out_of_order() {
    let (mut a, mut b) = (node(0, 1), node(1, 1));
    let datagrams: Vec<_> = (0..5).map(|n| sealed(&mut a, n)).collect();
    for index in [2, 0, 4, 1, 3] {
        assert!(b.open(&datagrams[index]).is_ok(), "{index}");
    }
    for datagram in &datagrams {
        assert_eq!(b.open(datagram), Err(Rejected::Replayed));
    }
}

#[test]
fn after_a_restart_the_new_run_is_heard_and_the_old_one_refused() {
    let (mut old, mut new, mut b) = (node(0, 10), node(0, 11), node(1, 1));
    assert!(b.open(&sealed(&mut old, 1)).is_ok());
    let late = sealed(&mut old, 2);
    assert!(b.open(&sealed(&mut new, 3)).is_ok());
    assert_eq!(b.open(&late), Err(Rejected::OldRun));
    assert!(b.open(&sealed(&mut new, 4)).is_ok());
}

#[test]
fn another_cluster_a_wrong_key_and_a_wrong_receiver_are_told_apart() {
    let mut b = node(1, 1);
    let other = Identity::of_node(ClusterId(8), NodeId(0), &key(1));
    let datagram = sealed(&mut Sealer::new(other, 1), 1);
    assert_eq!(b.open(&datagram), Err(Rejected::OtherCluster));
    let stranger = Identity::of_node(CLUSTER, NodeId(0), &key(2));
    assert_eq!(b.open(&sealed(&mut Sealer::new(stranger, 1), 1)), Err(Rejected::Seal));
    let elsewhere = node(0, 1).seal(NodeId(2), &message(1)).expect("small");
    assert_eq!(b.open(&elsewhere), Err(Rejected::Misaddressed));
    let reflected = b.seal(NodeId(0), &message(1)).expect("small");
    assert_eq!(b.open(&reflected), Err(Rejected::Misaddressed));
}

#[test]
fn the_witness_speaks_with_nodes_but_cannot_speak_for_them() {
    let reply = WitnessReply {
        nonce: 1,
        verdict: WitnessVerdict::RefusedHeld { holder: NodeId(1), remaining_ms: 5 },
    };
    let reply = Message::WitnessReply { module: ModuleId(1), reply };
    let identity = Identity::of_witness(CLUSTER, witness_key(&key(1)));
    let mut witness = Sealer::new(identity.clone(), 1);
    let mut a = node(0, 1);
    let datagram = witness.seal(NodeId(0), &reply).expect("small");
    assert_eq!(a.open(&datagram), Ok((NodeId::WITNESS, reply)));
    let question = a.seal(NodeId::WITNESS, &message(3)).expect("small");
    assert_eq!(witness.open(&question), Ok((NodeId(0), message(3))));

    let forger =
        Identity { node: NodeId(1), nodes_key: Some(identity.witness_key), ..a.identity.clone() };
    let forged = Sealer::new(forger, 1).seal(NodeId(0), &message(4)).expect("small");
    assert_eq!(a.open(&forged), Err(Rejected::Seal));
}

#[test]
fn secrets_are_not_printed() {
    let shown = format!("{:?}", node(0, 1));
    assert!(shown.contains("(redacted)") && !shown.contains("1, 1, 1"), "{shown}");
}

#[test]
fn every_altered_byte_is_noticed() {
    let datagram = sealed(&mut node(0, 1), 1);
    for position in 0..datagram.len() {
        let mut altered = datagram.clone();
        altered[position] ^= 1;
        let mut b = node(1, 1);
        assert!(b.open(&altered).is_err(), "byte {position}");
        assert!(b.open(&datagram).is_ok(), "the true one still opens after {position}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_survived(mut bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut b = node(1, 1);
        prop_assert!(b.open(&bytes).is_err());
        let header = Header::new(CLUSTER, NodeId(0), NodeId(1), 1, 1).encode();
        let length = bytes.len().min(HEADER_BYTES);
        bytes[..length].copy_from_slice(&header[..length]);
        prop_assert!(b.open(&bytes).is_err());
    }
}
