//! Cost of one change on the source's fast path (mark durable, shipped, acknowledged in batches),
//! next to an update of a `BTreeMap` of the same size.
//!
//! `cargo bench -p havre-core --bench replication`

use std::{collections::BTreeMap, hint::black_box, time::Duration};

use havre_core::{
    config::module::{Contract, WriteMode},
    ids::{ModuleId, NodeId, OpId, Seq},
    machine::{Machine, Out},
    replication::{
        generation::{Generation, Origin},
        intent::{Intent, MarkId, MarkSet},
        source::{
            Applied, Change, ChangeKind, PeerInput, ResyncInput, Source, SourceAction,
            SourceConfig, SourceInput, SourceMode, SourceOrder, Ticket,
        },
        stream::{Hello, STREAM_PROTOCOL},
    },
    rng::{Rng, mix},
    time::Instant,
};

const MARKS: u64 = 1_000;
const CHANGES: u64 = 2_000_000;

fn main() {
    let reference = map_update();
    println!("BTreeMap update, {MARKS} keys: {reference:.0} ns");
    for (name, enlisted) in [("without target", false), ("shipped to a target", true)] {
        let cost = changes(enlisted);
        println!("change {name}: {cost:.0} ns = {:.1} x the map update", cost / reference);
    }
}

#[expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "it measures real time")]
fn measure(mut act: impl FnMut(u64)) -> f64 {
    (0..CHANGES / 10).for_each(&mut act);
    let start = std::time::Instant::now();
    (0..CHANGES).for_each(&mut act);
    start.elapsed().as_nanos() as f64 / CHANGES as f64
}

fn map_update() -> f64 {
    let mut map: BTreeMap<u64, u64> = (0..MARKS).map(|key| (key, 0)).collect();
    measure(|n| {
        if let Some(value) = map.get_mut(&(mix(n) % MARKS)) {
            *value = black_box(n);
        }
    })
}

fn changes(enlisted: bool) -> f64 {
    let mut out = Out::new();
    let mut source = source(enlisted, &mut out);
    let mut shipped = 0;
    let mut now = 1_000_000_000;
    let cost = measure(|n| {
        now += 1_000;
        let at = Instant::from_nanos(now);
        let ticket = Ticket((n % 16) as u32);
        let marks = MarkSet::one(MarkId(mix(n) % MARKS));
        let change = Change { kind: ChangeKind::Change, bytes: 4_096, marks };
        source.handle(at, SourceInput::Submit { ticket, change }, &mut out);
        let applied = Applied::Changed;
        source.handle(at, SourceInput::Applied { ticket, applied }, &mut out);
        for action in out.drain() {
            if let SourceAction::Ship { seq, .. } = black_box(action) {
                shipped = seq.0;
            }
        }
        if enlisted && n % 32 == 0 {
            acknowledge(&mut source, at, shipped, &mut out);
        }
    });
    assert_eq!(shipped > 0, enlisted, "changes take the path that is measured");
    cost
}

fn acknowledge(source: &mut Source, now: Instant, seq: u64, out: &mut Out<SourceAction>) {
    let (received, durable) = (Seq(seq), Seq(seq));
    source.handle(now, SourceInput::Peer(PeerInput::Ack { received, durable }), out);
    out.drain();
}

fn source(enlisted: bool, out: &mut Out<SourceAction>) -> Source {
    let generation = Generation { number: 1, creator: NodeId(0), nonce: 1, origin: Origin::Forced };
    let config = SourceConfig {
        module: ModuleId(1),
        signature: 7,
        contract: Contract::Received,
        mode: WriteMode::Back,
        lock_timeout: Duration::from_secs(100),
        send_timeout: Duration::from_secs(30),
        resync_bytes_per_second_max: None,
        item_bytes_max: 4 << 20,
        checkpoint_period: Duration::from_secs(10),
        syncs_prove: true,
    };
    let intent = Intent::recovered((0..MARKS).map(MarkId));
    let mut source = Source::new(config, generation, intent, Rng::new(1));
    if enlisted {
        enlist(&mut source, generation, out);
    }
    source
}

fn enlist(source: &mut Source, generation: Generation, out: &mut Out<SourceAction>) {
    let hello = Hello {
        protocol: STREAM_PROTOCOL,
        module: ModuleId(1),
        signature: 7,
        generation,
        resume: None,
    };
    let order = SourceOrder::Admit { full: false };
    let inputs = [
        SourceInput::Order { op: OpId(1), order },
        SourceInput::Peer(PeerInput::Connected(hello)),
        SourceInput::Peer(PeerInput::Marks { marks: Vec::new(), last: true }),
    ];
    for input in inputs {
        source.handle(Instant::from_nanos(1), input, out);
    }
    while source.mode() != SourceMode::Enlisted {
        let orders: Vec<SourceAction> = out.drain().collect();
        for order in orders {
            if let SourceAction::CopyItem { item } = order {
                let (bytes_compared, bytes_copied) = (1, 0);
                let done = ResyncInput::Done { item, bytes_compared, bytes_copied };
                source.handle(Instant::from_nanos(1), SourceInput::Resync(done), out);
            }
        }
    }
    out.drain();
}
