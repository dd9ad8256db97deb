//! Frames: round trip, golden bytes, any bytes.

use proptest::prelude::*;

use super::{
    Element, Hello, ItemKey, PREFIX_BYTES, Resume, StreamError, StreamMessage, ToSource, ToTarget,
    split_frame,
};
use crate::{
    ids::{ModuleId, NodeId, Seq},
    replication::generation::{Generation, Origin},
    status::Progress,
};

const GENERATION: Generation =
    Generation { number: 3, creator: NodeId(1), nonce: 0x1234, origin: Origin::Failover };

fn to_source() -> Vec<ToSource> {
    vec![
        ToSource::Hello(Hello {
            protocol: 1,
            module: ModuleId(2),
            signature: 77,
            generation: GENERATION,
            resume: Some(Resume { session: 5, received: Seq(9) }),
        }),
        ToSource::Marks { items: vec![ItemKey(vec![1, 2])], everything: false, last: true },
        ToSource::Ack { received: Seq(300), durable: Seq(2) },
        ToSource::Answer { item: ItemKey(vec![7]), body: vec![0, 255] },
        ToSource::Failed { reason: "disk".into() },
    ]
}

fn to_target() -> Vec<ToTarget> {
    let element = |seq, element| ToTarget::Element { seq: Seq(seq), element };
    vec![
        ToTarget::Accept { protocol: 1, session: 5, after: Seq(0), resumed: false, full: true },
        ToTarget::Refused { reason: "no".into() },
        ToTarget::MarksHeld,
        element(1, Element::Change { change: vec![9], sync: true }),
        element(2, Element::Item { item: ItemKey(vec![1]), body: vec![2] }),
        element(3, Element::SyncPoint),
        element(4, Element::CaughtUp { generation: GENERATION, bytes_copied: 1 << 40 }),
        ToTarget::Progress(Progress::default()),
    ]
}

#[track_caller]
fn round_trip<M: StreamMessage + PartialEq + std::fmt::Debug>(message: &M) {
    let mut bytes = Vec::new();
    message.encode(3, &mut bytes);
    assert_eq!(split_frame::<M>(&bytes), Ok(None), "the payload is missing");
    bytes.extend_from_slice(b"abcrest");
    let (decoded, payload, used) =
        split_frame::<M>(&bytes).expect("own bytes are good").expect("the frame is whole");
    assert_eq!((&decoded, payload, used), (message, &b"abc"[..], bytes.len() - 4));
}

#[test]
fn every_message_survives_its_bytes() {
    to_source().iter().for_each(round_trip);
    to_target().iter().for_each(round_trip);
}

/// The bytes of these messages, one line each, without their prefix.
fn golden<M: StreamMessage>(messages: &[M]) -> Vec<String> {
    let line = |message: &M| {
        let mut bytes = Vec::new();
        message.encode(0, &mut bytes);
        bytes[PREFIX_BYTES..].iter().map(|byte| format!("{byte:02x}")).collect()
    };
    messages.iter().map(line).collect()
}

#[test]
fn protocol_1_has_these_bytes() {
    assert_eq!(
        golden(&to_source()),
        [
            "0001024d0301fb341202010509",
            "01010201020001",
            "02fb2c0102",
            "0301070200ff",
            "04046469736b",
        ]
    );
    assert_eq!(
        golden(&to_target()),
        [
            "000105000001",
            "01026e6f",
            "02",
            "030100010901",
            "03020101010102",
            "030302",
            "0304030301fb341202fd0000000000010000",
            "040000000000",
        ]
    );
}

#[test]
fn a_frame_that_announces_too_much_is_refused_before_it_is_read() {
    let mut bytes = vec![0xff; PREFIX_BYTES];
    assert!(matches!(split_frame::<ToTarget>(&bytes), Err(StreamError::TooLong { .. })));
    bytes[..PREFIX_BYTES].copy_from_slice(&[0; PREFIX_BYTES]);
    assert!(matches!(split_frame::<ToTarget>(&bytes), Err(StreamError::TooLong { .. })));
}

proptest! {
    #[test]
    fn any_bytes_decode_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = split_frame::<ToSource>(&bytes);
        let _ = split_frame::<ToTarget>(&bytes);
        let _ = ToSource::decode(&bytes);
        let _ = ToTarget::decode(&bytes);
    }
}
