//! Tests of datagram bytes.

use proptest::prelude::*;

use super::*;
use crate::{
    checks::resource::ResourceState,
    farm::{MemberSet, Slot},
    ids::{Epoch, Incarnation, ModuleId},
    replication::generation::{CopyState, Generation, Lineage, Origin},
    status::{Phase, State},
    wire::message::{
        Claim, ClaimVerdict, FarmBeat, FarmHeartbeat, Heartbeat, ModuleBeat, WitnessReply,
        WitnessRequest, WitnessVerb, WitnessVerdict,
    },
};

fn generation(number: u32) -> Generation {
    Generation { number, creator: NodeId(1), nonce: 0x0102_0304_0506_0708, origin: Origin::Solo }
}

fn heartbeat() -> Message {
    let lineage = Lineage {
        current: Some(generation(3)),
        ancestors: vec![generation(2)],
        copy: CopyState::Consistent,
        peer_in_sync: true,
    };
    let beat = ModuleBeat {
        module: ModuleId(1),
        signature: 0xfeed,
        state: State::Prim,
        phase: Phase::Ready,
        serving: true,
        backing: true,
        open: true,
        started: true,
        wanting: false,
        lineage,
        was_primary: true,
        yielding: false,
        swap_wanted: true,
        failover: true,
        full_resync: false,
        resources: vec![ResourceState::Up],
    };
    Message::Heartbeat(Heartbeat {
        incarnation: Incarnation(5),
        number: 300,
        heard: Some((Incarnation(6), 299)),
        modules: vec![beat],
    })
}

fn farms() -> Message {
    let beat = FarmBeat {
        module: ModuleId(3),
        signature: 0xfeed,
        state: State::Up,
        phase: Phase::Ready,
        ready: true,
        listening: false,
        draining: false,
        hears: MemberSet(0b111),
        leader: Some(Slot(1)),
        sharing: MemberSet(0b110),
        claims: vec![MemberSet(0b111), MemberSet(0b110)],
        held: vec![[0, 255].into_iter().collect()],
    };
    Message::Farms(FarmHeartbeat {
        incarnation: Incarnation(5),
        number: 300,
        heard: None,
        farms: vec![beat],
    })
}

fn samples() -> Vec<Message> {
    let module = ModuleId(2);
    let claim = Claim {
        nonce: 1,
        incarnation: Incarnation(5),
        generation: generation(4),
        promote: true,
        forced: false,
    };
    let verb = WitnessVerb::Commit {
        epoch: Epoch(9),
        generation: generation(4),
        in_sync: vec![NodeId(0), NodeId(1)],
    };
    let request = WitnessRequest { nonce: 7, incarnation: Incarnation(5), verb };
    let verdict = WitnessVerdict::Granted { epoch: Epoch(9), generation: None, in_sync: vec![] };
    vec![
        heartbeat(),
        Message::Claim { module, claim },
        Message::ClaimReply { module, nonce: 1, verdict: ClaimVerdict::RefusedLineage },
        Message::Witness { module, request },
        Message::WitnessReply { module, reply: WitnessReply { nonce: 7, verdict } },
        farms(),
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn messages_are_read_as_they_were_written() {
    for message in samples() {
        let bytes = encode(&message).expect("small");
        assert_eq!(decode(&bytes), Ok(message));
    }
}

/// A change here is a new protocol version: keep the old bytes readable and add new ones.
#[test]
fn the_bytes_of_version_1_never_change() {
    assert_eq!(VERSION_NEWEST, 1);
    let found: Vec<String> =
        samples().iter().map(|message| hex(&encode(message).expect("small"))).collect();
    assert_eq!(found, GOLDEN_1);
    let header = Header::new(ClusterId(0x0a0b), NodeId(1), NodeId::WITNESS, 2, 3);
    assert_eq!(
        hex(&header.encode()),
        "480101000000000000000a0b0001ffff00000000000000020000000000000003"
    );
}

const GOLDEN_1: [&str; 6] = [
    "0005fb2c010106fb2b010101fbedfe03020101010100010301fd080706050403020101010201fd0807060504030201\
     01030101000101000101",
    "010201050401fd0807060504030201010100",
    "02020102",
    "0302070502090401fd080706050403020101020001",
    "04020700090000",
    "0505fb2c01000103fbedfe05020100000701010602070601010000fd0000000000000080",
];

#[test]
fn headers_are_read_as_they_were_written() {
    let header = Header::new(ClusterId(u64::MAX), NodeId(1), NodeId(2), 3, u64::MAX);
    let mut datagram = header.encode().to_vec();
    datagram.extend_from_slice(b"sealed");
    assert_eq!(Header::split(&datagram), Ok((header, &b"sealed"[..])));
}

#[test]
fn a_datagram_of_an_unknown_version_says_which_side_to_upgrade() {
    let mut bytes = Header::new(ClusterId(1), NodeId(0), NodeId(1), 1, 1).encode();
    (bytes[1], bytes[2]) = (9, 9);
    let error = Header::split(&bytes).expect_err("version 9 is unknown");
    assert!(error.to_string().contains("upgrade the local one"), "{error}");
}

#[test]
fn left_over_bytes_are_malformed() {
    let mut bytes = encode(&heartbeat()).expect("small");
    bytes.push(0);
    assert_eq!(decode(&bytes), Err(DecodeError::Malformed));
}

#[test]
fn a_message_that_is_too_large_is_refused_before_it_is_sent() {
    let Message::Heartbeat(mut beat) = heartbeat() else { unreachable!("a heartbeat") };
    beat.modules = vec![beat.modules[0].clone(); 500];
    assert_eq!(encode(&Message::Heartbeat(beat)), Err(TooLarge));
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = decode(&bytes);
        let _ = Header::split(&bytes);
    }

    #[test]
    fn an_altered_message_is_survived_and_re_encodes_alike(
        which in 0usize..5, place in any::<prop::sample::Index>(), value in any::<u8>(),
    ) {
        let mut bytes = encode(&samples()[which]).expect("small");
        let place = place.index(bytes.len());
        bytes[place] = value;
        if let Ok(message) = decode(&bytes) {
            let again = encode(&message).expect("small");
            prop_assert_eq!(decode(&again), Ok(message));
        }
    }
}
