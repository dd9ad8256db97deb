//! The target alone, by example. The pair of source and target is tested in `havre-sim`.

use std::time::Duration;

use super::*;
use crate::{
    ids::{ModuleId, NodeId},
    replication::generation::Origin,
    testkit,
};

const GENERATION: Generation =
    Generation { number: 1, creator: NodeId(0), nonce: 1, origin: Origin::Forced };

fn fresh() -> Target {
    let config = TargetConfig {
        module: ModuleId(1),
        signature: 7,
        generation: GENERATION,
        answer_timeout: Duration::from_secs(30),
    };
    Target::new(config, Instant::ZERO)
}

struct Bench {
    target: Target,
    now: Instant,
    out: Out<TargetAction>,
}

impl Bench {
    /// A target in the middle of its resynchronisation, after position 10.
    fn syncing() -> Self {
        let mut bench = Self { target: fresh(), now: Instant::ZERO, out: Out::new() };
        assert_eq!(bench.wait(Duration::ZERO), [TargetAction::Connect]);
        bench.input(TargetInput::Connected);
        let actions = bench.input(accept(10, false));
        assert_eq!(actions, [TargetAction::SendMarks]);
        bench
    }

    /// A target that has caught up at position 11.
    fn following() -> Self {
        let mut bench = Self::syncing();
        bench.receive(11, CAUGHT_UP);
        assert_eq!(bench.applied(11), [TargetAction::SyncAll]);
        let actions = bench.input(TargetInput::Synced { ok: true });
        let news = VolumeNews::CaughtUp { generation: GENERATION, bytes_copied: 5 };
        assert_eq!(actions, [TargetAction::News(news), ack(11, 11)]);
        assert_eq!(bench.target.state(), TargetState::Following);
        bench
    }

    fn input(&mut self, input: TargetInput) -> Vec<TargetAction> {
        self.target.handle(self.now, input, &mut self.out);
        self.out.drain().collect()
    }

    fn receive(&mut self, seq: u64, kind: ElementKind) -> Vec<TargetAction> {
        self.input(TargetInput::Received { seq: Seq(seq), kind })
    }

    fn applied(&mut self, seq: u64) -> Vec<TargetAction> {
        self.input(TargetInput::Applied { seq: Seq(seq), result: Ok(()) })
    }

    fn wait(&mut self, span: Duration) -> Vec<TargetAction> {
        let end = self.now + span;
        let mut all = Vec::new();
        while let Some(due) = self.target.deadline().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.target.handle_timeout(self.now, &mut self.out);
            all.extend(self.out.drain());
        }
        self.now = end;
        all
    }
}

const WORK: ElementKind = ElementKind::Work { sync: false };
const SYNC_WORK: ElementKind = ElementKind::Work { sync: true };
const CAUGHT_UP: ElementKind = ElementKind::CaughtUp { generation: GENERATION, bytes_copied: 5 };

fn accept(after: u64, resumed: bool) -> TargetInput {
    let after = Seq(after);
    TargetInput::Message(ToTarget::Accept { protocol: 1, session: 3, after, resumed, full: false })
}

fn ack(received: u64, durable: u64) -> TargetAction {
    TargetAction::Send(ToSource::Ack { received: Seq(received), durable: Seq(durable) })
}

fn apply(seq: u64) -> TargetAction {
    TargetAction::Apply { seq: Seq(seq) }
}

#[test]
fn elements_are_carried_out_in_order_and_acknowledged_together() {
    let mut bench = Bench::following();
    assert_eq!(bench.receive(12, WORK), [apply(12)]);
    assert_eq!(bench.receive(13, WORK), [apply(13)]);
    assert_eq!(bench.input(TargetInput::BatchEnd), [ack(13, 11)]);
    assert_eq!(bench.input(TargetInput::BatchEnd), [], "nothing new");
}

#[test]
fn durable_is_acknowledged_only_after_the_disk_said_so() {
    let mut bench = Bench::following();
    bench.receive(12, SYNC_WORK);
    bench.receive(13, WORK);
    assert_eq!(bench.applied(12), [TargetAction::SyncAll]);
    assert_eq!(bench.applied(13), []);
    assert_eq!(bench.input(TargetInput::Synced { ok: true }), [ack(13, 12)]);
}

#[test]
fn what_nobody_asks_for_is_durable_within_the_sync_period() {
    let mut bench = Bench::following();
    bench.receive(12, WORK);
    bench.applied(12);
    assert_eq!(bench.wait(SYNC_PERIOD), [TargetAction::SyncAll]);
}

#[test]
fn a_gap_in_the_stream_ends_the_connection_and_nothing_after_it_is_carried_out() {
    let mut bench = Bench::following();
    let actions = bench.receive(13, WORK);
    assert_eq!(actions[0], TargetAction::Disconnect);
    assert!(matches!(actions[1], TargetAction::News(VolumeNews::PeerLost { .. })));
    assert_eq!(bench.receive(12, WORK), []);
}

#[test]
fn a_target_never_acknowledges_past_a_failure() {
    let mut bench = Bench::following();
    bench.receive(12, WORK);
    bench.receive(13, WORK);
    let result = Err("no space left on device".to_string());
    let actions = bench.input(TargetInput::Applied { seq: Seq(12), result });
    let reason = "no space left on device".to_string();
    assert_eq!(actions[0], TargetAction::Send(ToSource::Failed { reason }));
    assert_eq!(bench.applied(13), []);
    assert_eq!(bench.input(TargetInput::BatchEnd), []);
    assert_eq!(bench.target.state(), TargetState::Failed);
    let order = TargetOrder::Serve;
    let actions = bench.input(TargetInput::Order { op: OpId(4), order });
    assert!(matches!(&actions[..], [TargetAction::Finished { outcome: Outcome::Failed(_), .. }]));
}

#[test]
fn a_promotion_ends_after_what_was_received_is_durable() {
    let mut bench = Bench::following();
    bench.receive(12, WORK);
    let order = TargetOrder::Serve;
    let actions = bench.input(TargetInput::Order { op: OpId(4), order });
    assert_eq!(actions, [TargetAction::Disconnect]);
    assert_eq!(bench.applied(12), [TargetAction::SyncAll]);
    let finished = TargetAction::Finished { op: OpId(4), outcome: Outcome::Done };
    assert_eq!(bench.input(TargetInput::Synced { ok: true }), [finished]);
}

#[test]
fn a_target_cut_in_the_middle_of_its_resynchronisation_starts_over() {
    let mut bench = Bench::syncing();
    bench.receive(11, WORK);
    bench.applied(11);
    let actions = bench.input(TargetInput::Disconnected { reason: "cut".into() });
    assert!(matches!(&actions[..], [TargetAction::News(VolumeNews::PeerLost { .. })]));
    assert_eq!(bench.wait(RECONNECT_PERIOD), [TargetAction::Connect]);
    let actions = bench.input(TargetInput::Connected);
    let [TargetAction::Send(ToSource::Hello(hello))] = &actions[..] else {
        panic!("the target speaks first: {actions:?}");
    };
    assert_eq!(hello.resume, None);
}

#[test]
fn a_target_that_had_caught_up_resumes_and_skips_what_it_has() {
    let mut bench = Bench::following();
    bench.receive(12, WORK);
    bench.applied(12);
    bench.input(TargetInput::Disconnected { reason: "cut".into() });
    bench.wait(RECONNECT_PERIOD);
    let actions = bench.input(TargetInput::Connected);
    let [TargetAction::Send(ToSource::Hello(hello))] = &actions[..] else {
        panic!("the target speaks first: {actions:?}");
    };
    assert_eq!(hello.resume, Some(Resume { session: 3, received: Seq(12) }));
    assert_eq!(bench.input(accept(12, true)), []);
    assert_eq!(bench.receive(12, WORK), []);
    assert_eq!(bench.receive(13, WORK), [apply(13)]);
}

#[test]
fn a_refusal_is_news_once() {
    let mut bench = Bench { target: fresh(), now: Instant::ZERO, out: Out::new() };
    let mut news = 0;
    for _ in 0..5 {
        bench.wait(RECONNECT_PERIOD);
        bench.input(TargetInput::Connected);
        let reason = "not yet".to_string();
        let actions = bench.input(TargetInput::Message(ToTarget::Refused { reason }));
        news += actions.iter().filter(|a| matches!(a, TargetAction::News(_))).count();
    }
    assert_eq!(news, 1);
}

#[test]
fn a_long_backlog_is_not_acknowledged_so_that_the_window_of_the_source_closes() {
    let mut bench = Bench::following();
    for seq in 12..12 + BACKLOG_MAX + 100 {
        bench.receive(seq, WORK);
    }
    assert_eq!(bench.input(TargetInput::BatchEnd), [ack(11 + BACKLOG_MAX, 11)]);
}

#[test]
fn a_target_keeps_the_laws_of_machines() {
    let inputs = [
        TargetInput::Connected,
        accept(10, false),
        TargetInput::Message(ToTarget::MarksHeld),
        TargetInput::Received { seq: Seq(11), kind: WORK },
        TargetInput::Received { seq: Seq(12), kind: CAUGHT_UP },
        TargetInput::Applied { seq: Seq(11), result: Ok(()) },
        TargetInput::Applied { seq: Seq(12), result: Ok(()) },
        TargetInput::Synced { ok: true },
        TargetInput::BatchEnd,
        TargetInput::Received { seq: Seq(40), kind: WORK },
        TargetInput::Connected,
        accept(7, true),
        TargetInput::Disconnected { reason: "cut".into() },
        TargetInput::Order { op: OpId(1), order: TargetOrder::Close },
        TargetInput::Synced { ok: false },
    ];
    // Shorter than any time limit: reports of the data path must follow orders.
    for pause in [0, 40, 700] {
        let pause = Duration::from_millis(pause);
        let steps: Vec<_> = inputs.iter().map(|input| (pause, Some(input.clone()))).collect();
        testkit::run(fresh, &steps);
    }
}
