//! Every deciding machine obeys the laws of `testkit`, whatever happens to it.

#[path = "pair/world.rs"]
#[expect(dead_code, reason = "only its configuration is used here")]
mod world;

#[path = "farm/world.rs"]
#[expect(dead_code, reason = "only its configuration is used here")]
mod farm_world;

use std::{collections::BTreeMap, time::Duration};

use farm_world::Setup as FarmSetup;
use havre_core::{
    config::{
        cluster::LinkTiming,
        module::{DefaultPrimary, QuorumPolicy},
    },
    effect::*,
    farm::{BucketSet, MemberSet, Slot, table::FilterNews},
    ids::*,
    membership::{self, Membership},
    node::Node,
    quorum::{self, Quorum, policy::Kind, witness},
    replication::generation::{CopyState, Generation, Lineage, Origin},
    rng::Rng,
    status::{Phase, State},
    testkit,
    time::Instant,
    wire::message::*,
};
use proptest::prelude::*;
use world::{M, World, config};

fn pause() -> impl Strategy<Value = Duration> {
    prop_oneof![0u64..20_000, 0u64..3_000_000].prop_map(Duration::from_micros)
}

fn generation() -> impl Strategy<Value = Generation> {
    (1u32..4, 0u16..2, 0u64..2).prop_map(|(number, creator, nonce)| Generation {
        number,
        creator: NodeId(creator),
        nonce,
        origin: if nonce == 0 { Origin::Solo } else { Origin::Failover },
    })
}

fn lineage() -> impl Strategy<Value = Lineage> {
    let copies = prop_oneof![
        Just(CopyState::Blank),
        Just(CopyState::Inconsistent),
        Just(CopyState::Outdated),
        Just(CopyState::Consistent)
    ];
    (proptest::option::of(generation()), copies, any::<bool>()).prop_map(
        |(current, copy, peer_in_sync)| Lineage { current, ancestors: vec![], copy, peer_in_sync },
    )
}

fn verdict() -> impl Strategy<Value = ClaimVerdict> {
    prop_oneof![
        4 => Just(ClaimVerdict::Granted),
        1 => Just(ClaimVerdict::RefusedServing),
        1 => Just(ClaimVerdict::RefusedLineage),
        1 => Just(ClaimVerdict::RefusedConfiguration)
    ]
}

fn witness_reply() -> impl Strategy<Value = WitnessReply> {
    let verdict = prop_oneof![
        4 => (0u64..4, proptest::option::of(generation())).prop_map(|(epoch, generation)| {
            WitnessVerdict::Granted { epoch: Epoch(epoch), generation, in_sync: vec![NodeId(0)] }
        }),
        2 => (0u64..4).prop_map(|epoch| WitnessVerdict::Committed { epoch: Epoch(epoch) }),
        1 => Just(WitnessVerdict::RefusedHeld { holder: NodeId(1), remaining_ms: 40 }),
        1 => Just(WitnessVerdict::RefusedNotInSync { in_sync: vec![] }),
        1 => Just(WitnessVerdict::RefusedEpoch { epoch: Epoch(9) }),
        1 => Just(WitnessVerdict::RefusedStarting { remaining_ms: 70 }),
    ];
    (0u64..40, verdict).prop_map(|(nonce, verdict)| WitnessReply { nonce, verdict })
}

fn quorum_input() -> impl Strategy<Value = quorum::Input> {
    use quorum::Input;
    prop_oneof![
        (generation(), any::<bool>())
            .prop_map(|(generation, forced)| Input::Acquire { generation, forced }),
        generation().prop_map(Input::CommitSolo),
        generation().prop_map(Input::RecordBoth),
        Just(Input::Release),
        Just(Input::Unbound),
        any::<bool>().prop_map(Input::PeerAlive),
        Just(Input::PeerServing),
        (0u64..10_000).prop_map(|ms| Input::Backed(Instant::from_millis(ms))),
        (0u64..40, verdict()).prop_map(|(nonce, verdict)| Input::ClaimAnswered { nonce, verdict }),
        witness_reply().prop_map(Input::WitnessAnswered),
        any::<bool>().prop_map(Input::Pinged),
    ]
}

fn witness_input() -> impl Strategy<Value = witness::Input<u8>> {
    let verb = prop_oneof![
        (10u32..500, any::<bool>())
            .prop_map(|(lease_ms, forced)| WitnessVerb::Acquire { lease_ms, forced }),
        (10u32..500, 0u64..5)
            .prop_map(|(lease_ms, e)| WitnessVerb::Renew { lease_ms, epoch: Epoch(e) }),
        (0u64..5, generation()).prop_map(|(e, generation)| WitnessVerb::Commit {
            epoch: Epoch(e),
            generation,
            in_sync: vec![NodeId(0)]
        }),
        (0u64..5).prop_map(|e| WitnessVerb::Release { epoch: Epoch(e) }),
    ];
    prop_oneof![
        3 => (0u8..2, 0u16..2, 0u64..60, verb).prop_map(|(key, from, nonce, verb)| {
            let request = WitnessRequest { nonce, incarnation: Incarnation(1), verb };
            witness::Input::Asked { key, from: NodeId(from), request }
        }),
        2 => (0u64..30, any::<bool>())
            .prop_map(|(op, ok)| witness::Input::Persisted { op: OpId(op), ok }),
    ]
}

fn beat() -> impl Strategy<Value = ModuleBeat> {
    let states = prop_oneof![
        Just((State::Stop, Phase::NotReady)),
        Just((State::Wait, Phase::NotReady)),
        Just((State::Alone, Phase::Ready)),
        Just((State::Prim, Phase::Ready)),
        Just((State::Second, Phase::Transient)),
        Just((State::Second, Phase::Ready)),
    ];
    (states, any::<[bool; 8]>(), lineage(), any::<bool>()).prop_map(|(state, b, lineage, other)| {
        ModuleBeat {
            module: M,
            signature: if other && b[0] && b[1] { 8 } else { 7 },
            state: state.0,
            phase: state.1,
            serving: b[0],
            backing: b[1],
            open: b[2],
            started: b[3],
            wanting: b[4],
            lineage,
            was_primary: b[5],
            yielding: b[6],
            swap_wanted: b[7],
            failover: true,
            full_resync: other,
            resources: Vec::new(),
        }
    })
}

fn order() -> impl Strategy<Value = ModuleOrder> {
    prop_oneof![
        Just(ModuleOrder::Start),
        (any::<bool>(), any::<bool>())
            .prop_map(|(full_resync, force)| ModuleOrder::Prim { full_resync, force }),
        any::<bool>().prop_map(|full_resync| ModuleOrder::Second { full_resync }),
        Just(ModuleOrder::Stop),
        Just(ModuleOrder::ForceStop),
        Just(ModuleOrder::Restart),
        Just(ModuleOrder::StopStart),
        Just(ModuleOrder::Swap),
        Just(ModuleOrder::Drain { stop: true }),
        Just(ModuleOrder::Undrain),
    ]
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        6 => Just(Outcome::Done),
        4 => Just(Outcome::Script(ScriptEnd::Exited(0))),
        1 => Just(Outcome::Script(ScriptEnd::TimedOut)),
        1 => Just(Outcome::Script(ScriptEnd::NotStarted("no such file".into()))),
        1 => Just(Outcome::Failed("no space left".into())),
        1 => any::<bool>().prop_map(Outcome::Reached),
    ]
}

fn news() -> impl Strategy<Value = VolumeNews> {
    prop_oneof![
        generation().prop_map(|generation| VolumeNews::CaughtUp { generation, bytes_copied: 9 }),
        Just(VolumeNews::PeerLost { reason: "cut".into() }),
        Just(VolumeNews::Failed { error: "input/output error".into() }),
    ]
}

fn node_input() -> impl Strategy<Value = Input> {
    let received =
        |message: Message, from: NodeId| Input::Received { from, link: LinkId(0), message };
    prop_oneof![
        4 => (1u64..200, beat(), proptest::option::of(1u64..50)).prop_map(move |(number, beat, n)| {
            let heartbeat = Heartbeat {
                incarnation: Incarnation(77),
                number,
                heard: n.map(|n| (Incarnation(5), n)),
                modules: vec![beat],
            };
            received(Message::Heartbeat(heartbeat), NodeId(1))
        }),
        2 => order().prop_map(|order| Input::Asked {
            request: RequestId(1),
            command: Command::Module { module: M, order },
        }),
        6 => (1u64..60, outcome()).prop_map(|(n, outcome)| Input::Completed {
            op: OpId(1 << 48 | n),
            outcome,
        }),
        1 => news().prop_map(|news| Input::Volume { module: M, news }),
        1 => (generation(), any::<[bool; 2]>(), 0u64..9).prop_map(move |(generation, b, nonce)| {
            let claim = Claim {
                nonce,
                incarnation: Incarnation(77),
                generation,
                promote: b[0],
                forced: b[1],
            };
            received(Message::Claim { module: M, claim }, NodeId(1))
        }),
        1 => (0u64..9, verdict()).prop_map(move |(nonce, verdict)| {
            received(Message::ClaimReply { module: M, nonce, verdict }, NodeId(1))
        }),
        1 => witness_reply().prop_map(move |reply| {
            received(Message::WitnessReply { module: M, reply }, NodeId::WITNESS)
        }),
    ]
}

fn farm_input() -> impl Strategy<Value = Input> {
    let sets = || (0u64..8).prop_map(MemberSet);
    let beat = (any::<[bool; 5]>(), proptest::option::of(0u8..3), [sets(), sets(), sets()]);
    let beat = beat.prop_map(|(b, leader, [hears, sharing, claims])| FarmBeat {
        module: M,
        signature: if b[0] && b[1] { 8 } else { 7 },
        state: if b[2] { State::Up } else { State::Stop },
        phase: if b[2] { Phase::Ready } else { Phase::NotReady },
        ready: b[2],
        listening: b[1],
        draining: b[3],
        hears: if b[4] { MemberSet(7) } else { hears },
        leader: leader.map(Slot),
        sharing,
        claims: vec![claims],
        held: if b[0] { vec![[3, 200].into_iter().collect()] } else { vec![] },
    });
    let news = prop_oneof![
        (0u64..20, 0u32..2, any::<bool>()).prop_map(|(table, established, some)| {
            let foreign = if some { [3].into_iter().collect() } else { BucketSet::EMPTY };
            FilterNews::Connections { table, established, foreign: vec![foreign] }
        }),
        Just(FilterNews::Failed { error: "detached".into() }),
    ];
    prop_oneof![
        6 => (1u16..3, 1u64..200, beat).prop_map(|(from, number, beat)| Input::Received {
            from: NodeId(from),
            link: LinkId(0),
            message: Message::Farms(FarmHeartbeat {
                incarnation: Incarnation(77),
                number,
                heard: None,
                farms: vec![beat],
            }),
        }),
        3 => order().prop_map(|order| Input::Asked {
            request: RequestId(1),
            command: Command::Module { module: M, order },
        }),
        8 => (1u64..60, outcome()).prop_map(|(n, outcome)| Input::Completed {
            op: OpId(1 << 48 | n),
            outcome,
        }),
        1 => news.prop_map(|news| Input::Filter { module: M, news }),
    ]
}

fn booted_farm(running: bool) -> (Node, Input) {
    let node = Node::new(FarmSetup::of(3).node(0), Rng::new(3));
    let record = ModuleRecord {
        lineage: Lineage::blank(),
        was_primary: false,
        started: true,
        epoch: Epoch(0),
    };
    let mut saved = SavedState { modules: BTreeMap::from([(M, record)]), ..SavedState::default() };
    if running {
        saved.running.insert(M, Instant::FAR_FUTURE);
    }
    (node, Input::Booted { incarnation: Incarnation(5), saved })
}

fn booted(policy: QuorumPolicy, lineage: Lineage, running: bool) -> (Node, Input) {
    let setup = config(policy, true, DefaultPrimary::Alone);
    let node = Node::new(World::node_config(&setup, 0), Rng::new(3));
    let record = ModuleRecord { lineage, was_primary: true, started: true, epoch: Epoch(0) };
    let mut saved = SavedState { modules: BTreeMap::from([(M, record)]), ..SavedState::default() };
    if running {
        saved.running.insert(M, Instant::from_millis(900));
    }
    (node, Input::Booted { incarnation: Incarnation(5), saved })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn membership_obeys_the_laws(
        steps in proptest::collection::vec((pause(), proptest::option::of(0u16..3)), 0..60)
    ) {
        let timing = LinkTiming {
            pulse: Duration::from_millis(100),
            timeout: Duration::from_millis(1000),
        };
        let links = [(LinkId(0), timing), (LinkId(1), timing)];
        let steps: Vec<_> = steps
            .into_iter()
            .map(|(p, link)| (p, link.map(|l| membership::Input::Heard(LinkId(l)))))
            .collect();
        testkit::run(|| Membership::new(links), &steps);
    }

    #[test]
    fn quorum_obeys_the_laws(
        kind in prop_oneof![Just(Kind::None), Just(Kind::Ping), Just(Kind::Lease)],
        steps in proptest::collection::vec((pause(), proptest::option::of(quorum_input())), 0..60)
    ) {
        let config = quorum::Config {
            kind,
            node: NodeId(0),
            peer: NodeId(1),
            lease: Duration::from_millis(750),
            attempt: Duration::from_millis(1500),
            resend: Duration::from_millis(75),
        };
        testkit::run(|| Quorum::new(config.clone(), Incarnation(5), Instant::ZERO), &steps);
    }

    #[test]
    fn witness_obeys_the_laws(
        steps in proptest::collection::vec((pause(), proptest::option::of(witness_input())), 0..60)
    ) {
        testkit::run(|| witness::Witness::new(Instant::ZERO, BTreeMap::new()), &steps);
    }

    #[test]
    fn node_obeys_the_laws_and_survives_any_input(
        policy in prop_oneof![Just(QuorumPolicy::None), Just(QuorumPolicy::Lease)],
        lineage in lineage(),
        running in any::<bool>(),
        steps in proptest::collection::vec((pause(), proptest::option::of(node_input())), 0..80)
    ) {
        let (_, first) = booted(policy.clone(), lineage.clone(), running);
        let mut all = vec![(Duration::from_millis(1), Some(first))];
        all.extend(steps);
        testkit::run(|| booted(policy.clone(), lineage.clone(), running).0, &all);
    }

    #[test]
    fn farm_obeys_the_laws_and_survives_any_input(
        running in any::<bool>(),
        steps in proptest::collection::vec((pause(), proptest::option::of(farm_input())), 0..80)
    ) {
        let (_, first) = booted_farm(running);
        let mut all = vec![(Duration::from_millis(1), Some(first))];
        all.extend(steps);
        testkit::run(|| booted_farm(running).0, &all);
    }
}
