//! The source alone, by example. The pair of source and target is tested in `havre-sim`.

use std::time::Duration;

use super::*;
use crate::{
    config::module::{Contract, WriteMode},
    ids::{ModuleId, NodeId},
    replication::{
        generation::Origin,
        intent::{MarkId, MarkSet},
        stream::{Hello, Resume, STREAM_PROTOCOL},
        window::WINDOW_BYTES_MAX,
    },
    testkit,
};

const GENERATION: Generation =
    Generation { number: 1, creator: NodeId(0), nonce: 1, origin: Origin::Forced };
const NEXT: Generation = Generation { number: 2, ..GENERATION };
const T: Ticket = Ticket(0);
const U: Ticket = Ticket(1);

fn config(contract: Contract, mode: WriteMode) -> SourceConfig {
    SourceConfig {
        module: ModuleId(1),
        signature: 7,
        contract,
        mode,
        lock_timeout: Duration::from_secs(100),
        send_timeout: Duration::from_secs(30),
        resync_bytes_per_second_max: None,
        item_bytes_max: 4 << 20,
        checkpoint_period: CHECKPOINT_PERIOD,
        syncs_prove: true,
    }
}

/// A source, its clock, and what it ordered last.
struct Bench {
    source: Source,
    now: Instant,
    out: Out<SourceAction>,
}

impl Bench {
    fn solo(contract: Contract, mode: WriteMode) -> Self {
        let intent = Intent::recovered([MarkId(1)]);
        let source = Source::new(config(contract, mode), GENERATION, intent, Rng::new(1));
        Self { source, now: Instant::from_millis(5), out: Out::new() }
    }

    /// A source whose target has caught up; mark 1 is durable.
    fn enlisted(contract: Contract, mode: WriteMode) -> Self {
        let mut bench = Self::solo(contract, mode);
        bench.order(SourceOrder::Admit { full: false });
        bench.peer(PeerInput::Connected(hello(GENERATION)));
        bench.peer(PeerInput::Marks { marks: vec![], last: true });
        bench.input(SourceInput::Resync(ResyncInput::Step { item: MarkId(1), bytes: 0 }));
        bench.done(MarkId(1));
        bench.ack(2, 2);
        bench.ack(3, 3);
        assert_eq!(bench.source.mode(), SourceMode::Enlisted);
        bench
    }

    fn input(&mut self, input: SourceInput) -> Vec<SourceAction> {
        self.source.handle(self.now, input, &mut self.out);
        self.out.drain().collect()
    }

    fn peer(&mut self, input: PeerInput) -> Vec<SourceAction> {
        self.input(SourceInput::Peer(input))
    }

    fn ack(&mut self, received: u64, durable: u64) -> Vec<SourceAction> {
        self.peer(PeerInput::Ack { received: Seq(received), durable: Seq(durable) })
    }

    fn done(&mut self, item: MarkId) -> Vec<SourceAction> {
        let done = ResyncInput::Done { item, bytes_compared: 100, bytes_copied: 0 };
        self.input(SourceInput::Resync(done))
    }

    fn order(&mut self, order: SourceOrder) -> Vec<SourceAction> {
        self.input(SourceInput::Order { op: OpId(1), order })
    }

    fn submit(&mut self, ticket: Ticket, kind: ChangeKind, mark: u64) -> Vec<SourceAction> {
        self.submit_bytes(ticket, kind, mark, 100)
    }

    fn submit_bytes(
        &mut self,
        ticket: Ticket,
        kind: ChangeKind,
        mark: u64,
        bytes: u32,
    ) -> Vec<SourceAction> {
        let marks = match kind {
            ChangeKind::Barrier => MarkSet::default(),
            _ => MarkSet::one(MarkId(mark)),
        };
        self.input(SourceInput::Submit { ticket, change: Change { kind, bytes, marks } })
    }

    fn applied(&mut self, ticket: Ticket, applied: Applied) -> Vec<SourceAction> {
        self.input(SourceInput::Applied { ticket, applied })
    }

    fn flushed(&mut self, ticket: Ticket) -> Vec<SourceAction> {
        self.input(SourceInput::Flushed { ticket, ok: true })
    }

    /// Lets time pass, waking the source at each deadline.
    fn wait(&mut self, span: Duration) -> Vec<SourceAction> {
        let end = self.now + span;
        let mut all = Vec::new();
        while let Some(due) = self.source.deadline().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.source.handle_timeout(self.now, &mut self.out);
            all.extend(self.out.drain());
        }
        self.now = end;
        all
    }
}

fn hello(generation: Generation) -> Hello {
    Hello { protocol: STREAM_PROTOCOL, module: ModuleId(1), signature: 7, generation, resume: None }
}

fn done(ticket: Ticket) -> SourceAction {
    SourceAction::Complete { ticket, verdict: Verdict::AsApplied }
}

fn ship(ticket: Ticket, seq: u64, sync: bool) -> SourceAction {
    SourceAction::Ship { ticket, seq: Seq(seq), sync }
}

#[test]
fn a_change_is_applied_only_once_its_mark_is_durable() {
    let mut bench = Bench::solo(Contract::Received, WriteMode::Back);
    let batch = BatchId(1);
    let marks = vec![MarkId(5)];
    let persist = SourceAction::PersistMarks { batch, marks };
    assert_eq!(bench.submit(T, ChangeKind::Change, 5), [persist]);
    assert_eq!(bench.submit(U, ChangeKind::Change, 1), [SourceAction::Apply { ticket: U }]);
    let result = Ok(());
    let persisted = SourceInput::MarksPersisted { batch, result };
    assert_eq!(bench.input(persisted), [SourceAction::Apply { ticket: T }]);
    assert_eq!(bench.applied(T, Applied::Changed), [done(T)]);
}

#[test]
fn a_mark_log_that_cannot_be_written_stops_every_change() {
    let mut bench = Bench::solo(Contract::Received, WriteMode::Back);
    bench.submit(T, ChangeKind::Change, 5);
    let result = Err("EIO".to_string());
    let actions = bench.input(SourceInput::MarksPersisted { batch: BatchId(1), result });
    let failed = SourceAction::Complete { ticket: T, verdict: Verdict::LocalFailure };
    assert!(matches!(&actions[0], SourceAction::News(VolumeNews::Failed { .. })));
    assert_eq!(actions[1..], [failed]);
    let failed = SourceAction::Complete { ticket: U, verdict: Verdict::LocalFailure };
    assert_eq!(bench.submit(U, ChangeKind::Change, 1), [failed]);
}

#[test]
fn write_back_completes_a_change_when_it_is_applied_and_ships_it() {
    let mut bench = Bench::enlisted(Contract::Received, WriteMode::Back);
    assert_eq!(bench.submit(T, ChangeKind::Change, 1), [SourceAction::Apply { ticket: T }]);
    assert_eq!(bench.applied(T, Applied::Changed), [ship(T, 4, false), done(T)]);
}

#[test]
fn write_through_completes_a_change_when_the_target_has_received_it() {
    let mut bench = Bench::enlisted(Contract::Durable, WriteMode::Through);
    bench.submit(T, ChangeKind::Change, 1);
    assert_eq!(bench.applied(T, Applied::Changed), [ship(T, 4, false)]);
    assert_eq!(bench.ack(4, 3), [done(T)]);
}

#[test]
fn a_barrier_waits_for_the_local_disk_and_for_receipt() {
    let mut bench = Bench::enlisted(Contract::Received, WriteMode::Back);
    bench.submit(T, ChangeKind::ChangeAndBarrier, 1);
    let flush = SourceAction::Flush { ticket: T };
    assert_eq!(bench.applied(T, Applied::Changed), [ship(T, 4, false), flush]);
    assert_eq!(bench.flushed(T), []);
    assert_eq!(bench.ack(3, 3), []);
    assert_eq!(bench.ack(4, 3), [done(T)]);
}

#[test]
fn a_barrier_under_async_none_waits_for_both_disks() {
    let mut bench = Bench::enlisted(Contract::Durable, WriteMode::Back);
    bench.submit(T, ChangeKind::Change, 1);
    bench.applied(T, Applied::Changed);
    let actions = bench.submit(T, ChangeKind::Barrier, 0);
    let point = ToTarget::Element { seq: Seq(5), element: Element::SyncPoint };
    assert_eq!(actions, [SourceAction::Send(point), SourceAction::Flush { ticket: T }]);
    assert_eq!(bench.ack(5, 3), []);
    assert_eq!(bench.flushed(T), []);
    assert_eq!(bench.ack(5, 5), [done(T)]);
}

#[test]
fn the_target_syncs_a_change_early_when_a_barrier_is_expected() {
    let mut bench = Bench::enlisted(Contract::Durable, WriteMode::Back);
    bench.submit(T, ChangeKind::ChangeBeforeBarrier, 1);
    let actions = bench.applied(T, Applied::Changed);
    assert_eq!(actions, [ship(T, 4, true), done(T)]);
    assert_eq!(bench.submit(T, ChangeKind::Barrier, 0), [SourceAction::Flush { ticket: T }]);
    assert_eq!(bench.flushed(T), []);
    assert_eq!(bench.ack(4, 3), []);
    assert_eq!(bench.ack(4, 4), [done(T)]);
}

#[test]
fn a_barrier_with_nothing_new_asks_nothing_of_the_target() {
    let mut bench = Bench::enlisted(Contract::Durable, WriteMode::Back);
    assert_eq!(bench.submit(T, ChangeKind::Barrier, 0), [SourceAction::Flush { ticket: T }]);
    assert_eq!(bench.flushed(T), [done(T)]);
}

#[test]
fn a_change_that_was_refused_is_not_shipped() {
    let mut bench = Bench::enlisted(Contract::Received, WriteMode::Through);
    bench.submit(T, ChangeKind::ChangeAndBarrier, 1);
    assert_eq!(bench.applied(T, Applied::Refused), [done(T)]);
}

#[test]
fn a_full_window_holds_changes_until_the_target_has_received_some() {
    let mut bench = Bench::enlisted(Contract::Received, WriteMode::Back);
    bench.submit_bytes(T, ChangeKind::Change, 1, WINDOW_BYTES_MAX as u32);
    assert_eq!(bench.submit(U, ChangeKind::Change, 1), []);
    bench.applied(T, Applied::Changed);
    assert_eq!(bench.ack(4, 3), [SourceAction::Apply { ticket: U }]);
}

#[test]
fn a_refused_change_gives_its_room_to_the_next_one() {
    let mut bench = Bench::enlisted(Contract::Received, WriteMode::Back);
    bench.submit_bytes(T, ChangeKind::Change, 1, WINDOW_BYTES_MAX as u32);
    assert_eq!(bench.submit(U, ChangeKind::Change, 1), []);
    let next = SourceAction::Apply { ticket: U };
    assert_eq!(bench.applied(T, Applied::Refused), [done(T), next]);
}

#[test]
fn a_target_that_is_silent_for_its_time_limit_is_lost_and_barriers_stall_until_solo() {
    let mut bench = Bench::enlisted(Contract::Received, WriteMode::Back);
    bench.submit(T, ChangeKind::ChangeAndBarrier, 1);
    bench.applied(T, Applied::Changed);
    bench.flushed(T);
    assert!(!bench.wait(Duration::from_secs(29)).contains(&SourceAction::Disconnect));
    let actions = bench.wait(Duration::from_secs(2));
    assert!(actions.contains(&SourceAction::Disconnect));
    assert!(matches!(actions.last(), Some(SourceAction::News(VolumeNews::PeerLost { .. }))));
    assert_eq!(bench.wait(Duration::from_secs(1_000)), []);
    let finished = SourceAction::Finished { op: OpId(1), outcome: Outcome::Done };
    let actions = bench.order(SourceOrder::Solo(NEXT));
    assert_eq!(actions, [SourceAction::Discard, done(T), finished]);
}

#[test]
fn a_target_with_another_configuration_or_generation_is_refused() {
    let mut bench = Bench::solo(Contract::Received, WriteMode::Back);
    let refused = |bench: &mut Bench, hello| {
        let actions = bench.peer(PeerInput::Connected(hello));
        actions.iter().any(|a| matches!(a, SourceAction::Send(ToTarget::Refused { .. })))
            && actions.contains(&SourceAction::Disconnect)
    };
    assert!(refused(&mut bench, hello(GENERATION)), "nobody was admitted");
    bench.order(SourceOrder::Admit { full: false });
    assert!(refused(&mut bench, Hello { signature: 8, ..hello(GENERATION) }));
    assert!(refused(&mut bench, hello(NEXT)));
    assert!(!refused(&mut bench, hello(GENERATION)));
    assert_eq!(bench.source.mode(), SourceMode::Resyncing);
}

#[test]
fn a_cut_stream_is_resumed_after_what_the_target_received() {
    let mut bench = Bench::enlisted(Contract::Received, WriteMode::Back);
    let session = bench.source.session;
    bench.peer(PeerInput::Gone { reason: "cut".into() });
    bench.submit(T, ChangeKind::ChangeAndBarrier, 1);
    let flush = SourceAction::Flush { ticket: T };
    assert_eq!(bench.applied(T, Applied::Changed), [ship(T, 4, false), flush]);
    assert_eq!(bench.flushed(T), [], "orphaned");
    let resume = Some(Resume { session, received: Seq(3) });
    let actions = bench.peer(PeerInput::Connected(Hello { resume, ..hello(GENERATION) }));
    assert_eq!(actions[1], SourceAction::Resend { after: Seq(3) });
    assert_eq!(bench.source.mode(), SourceMode::Enlisted);
    assert_eq!(bench.ack(4, 3), [done(T)]);
}

#[test]
fn a_fenced_source_completes_nothing_until_it_serves_again() {
    let mut bench = Bench::enlisted(Contract::Received, WriteMode::Back);
    bench.submit(T, ChangeKind::Change, 1);
    bench.order(SourceOrder::Fence);
    let fenced = |ticket| SourceAction::Complete { ticket, verdict: Verdict::Fenced };
    assert_eq!(bench.applied(T, Applied::Changed), [fenced(T)]);
    assert_eq!(bench.submit(U, ChangeKind::Barrier, 0), [fenced(U)]);
    bench.order(SourceOrder::Serve(NEXT));
    assert_eq!(bench.submit(U, ChangeKind::Change, 1), [SourceAction::Apply { ticket: U }]);
}

#[test]
fn a_failed_flush_is_never_believed_again() {
    let mut bench = Bench::solo(Contract::Received, WriteMode::Back);
    bench.submit(T, ChangeKind::Barrier, 0);
    let actions = bench.input(SourceInput::Flushed { ticket: T, ok: false });
    let failed = SourceAction::Complete { ticket: T, verdict: Verdict::LocalFailure };
    assert!(matches!(&actions[0], SourceAction::News(VolumeNews::Failed { .. })));
    assert_eq!(actions.last(), Some(&failed));
    let answer = bench.order(SourceOrder::Serve(NEXT));
    assert!(matches!(&answer[..], [SourceAction::Finished { outcome: Outcome::Failed(_), .. }]));
    assert_eq!(bench.submit(T, ChangeKind::Barrier, 0), [failed]);
}

#[test]
fn a_clean_close_waits_until_the_target_holds_everything_and_leaves_no_mark() {
    let mut bench = Bench::enlisted(Contract::Received, WriteMode::Back);
    bench.submit(T, ChangeKind::Change, 1);
    bench.applied(T, Applied::Changed);
    let point = ToTarget::Element { seq: Seq(5), element: Element::SyncPoint };
    assert_eq!(bench.order(SourceOrder::Close { clean: true }), [SourceAction::Send(point)]);
    assert_eq!(bench.ack(5, 4), []);
    assert_eq!(bench.ack(5, 5), [SourceAction::SyncAll]);
    let actions = bench.input(SourceInput::Synced { ok: true });
    assert_eq!(actions[0], SourceAction::ClearMarks { marks: vec![MarkId(1)] });
    let finished = SourceAction::Finished { op: OpId(1), outcome: Outcome::Done };
    assert_eq!(actions.last(), Some(&finished));
    assert_eq!(bench.source.intent().count(), 0);
}

#[test]
fn a_clean_close_clears_no_mark_when_syncs_prove_nothing() {
    let mut bench = Bench::enlisted(Contract::Received, WriteMode::Back);
    bench.source.config.syncs_prove = false;
    bench.submit(T, ChangeKind::Change, 1);
    bench.applied(T, Applied::Changed);
    bench.order(SourceOrder::Close { clean: true });
    bench.ack(5, 5);
    let actions = bench.input(SourceInput::Synced { ok: true });
    assert!(!actions.iter().any(|action| matches!(action, SourceAction::ClearMarks { .. })));
    assert_eq!(bench.source.intent().count(), 1);
}

#[test]
fn a_resynchronisation_respects_its_cap() {
    let mut bench = Bench::solo(Contract::Received, WriteMode::Back);
    bench.source.config.resync_bytes_per_second_max = Some(1_000);
    bench.source.intent = Intent::recovered((0..20).map(MarkId));
    bench.order(SourceOrder::Admit { full: false });
    bench.peer(PeerInput::Connected(hello(GENERATION)));
    let mut orders = bench.peer(PeerInput::Marks { marks: vec![], last: true });
    let mut copied = 0;
    for _ in 0..100 {
        let items: Vec<MarkId> = orders
            .iter()
            .filter_map(|order| match order {
                SourceAction::CopyItem { item } => Some(*item),
                _ => None,
            })
            .collect();
        orders.clear();
        for item in items {
            copied += 500;
            let done = ResyncInput::Done { item, bytes_compared: 500, bytes_copied: 500 };
            orders.extend(bench.input(SourceInput::Resync(done)));
        }
        orders.extend(bench.wait(Duration::from_millis(100)));
    }
    assert_eq!(copied, 20 * 500);
    let elapsed = bench.now.since(Instant::from_millis(5));
    assert!(elapsed >= Duration::from_secs(9), "20 items in {elapsed:?}");
}

#[test]
fn a_full_resynchronisation_marks_everything_before_it_copies_and_walks_the_copy() {
    let mut bench = Bench::solo(Contract::Received, WriteMode::Back);
    bench.order(SourceOrder::Admit { full: true });
    let actions = bench.peer(PeerInput::Connected(hello(GENERATION)));
    let marks = vec![MarkId::EVERYTHING];
    let batch = BatchId(1);
    assert_eq!(actions.last(), Some(&SourceAction::PersistMarks { batch, marks }));
    assert_eq!(bench.peer(PeerInput::Marks { marks: vec![], last: true }), []);
    let actions = bench.input(SourceInput::MarksPersisted { batch, result: Ok(()) });
    assert_eq!(actions[0], SourceAction::Send(ToTarget::MarksHeld));
    assert_eq!(actions.last(), Some(&SourceAction::Enumerate { restart: true }));
}

#[test]
fn a_source_keeps_the_laws_of_machines() {
    let submit = |ticket, kind| SourceInput::Submit {
        ticket,
        change: Change { kind, bytes: 100, marks: MarkSet::one(MarkId(1)) },
    };
    let order = |order| SourceInput::Order { op: OpId(1), order };
    let ack = |received, durable| {
        SourceInput::Peer(PeerInput::Ack { received: Seq(received), durable: Seq(durable) })
    };
    let inputs = [
        order(SourceOrder::Admit { full: false }),
        SourceInput::Peer(PeerInput::Connected(hello(GENERATION))),
        SourceInput::Peer(PeerInput::Marks { marks: vec![], last: true }),
        SourceInput::Resync(ResyncInput::Step { item: MarkId(1), bytes: 0 }),
        submit(T, ChangeKind::ChangeAndBarrier),
        SourceInput::Resync(ResyncInput::Done {
            item: MarkId(1),
            bytes_compared: 9,
            bytes_copied: 9,
        }),
        SourceInput::Applied { ticket: T, applied: Applied::Changed },
        SourceInput::Resync(ResyncInput::Failed { error: "stale or not".into() }),
        SourceInput::Flushed { ticket: T, ok: true },
        ack(1, 1),
        ack(900, 7),
        SourceInput::Peer(PeerInput::Connected(hello(NEXT))),
        order(SourceOrder::Fence),
        submit(U, ChangeKind::Barrier),
        order(SourceOrder::Close { clean: true }),
        order(SourceOrder::Close { clean: false }),
    ];
    for pause in [0, 40, 700, 31_000] {
        let pause = Duration::from_millis(pause);
        let steps: Vec<_> = inputs.iter().map(|input| (pause, Some(input.clone()))).collect();
        testkit::run(|| Bench::solo(Contract::Durable, WriteMode::Back).source, &steps);
    }
}
