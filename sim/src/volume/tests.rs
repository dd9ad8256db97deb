//! The pair of volumes against a model, with a fault possible at every step.

use havre_core::{
    config::module::Contract,
    mutant::{self, Mutant},
    rng::Rng,
};

use world::{Profile, REGIONS, World};

mod world;

/// One random life of a pair; what went wrong.
fn live(seed: u64, contract: Contract) -> World {
    let mut rng = Rng::new(seed ^ 0x5eed);
    let mut world = World::new(seed, Profile::draw(&mut rng, contract));
    if rng.chance(800_000) {
        world.run_for(3_000_000);
    }
    let pace = [200, 2_000, 20_000][rng.below(3) as usize];
    for _ in 0..60 + rng.below(120) {
        match rng.below(100) {
            0..55 => world.write(rng.below(64), rng.chance(200_000)),
            55..70 => world.barrier(),
            70..73 => world.read(rng.below(64)),
            73..81 => strike(&mut world, &mut rng),
            81..83 => world.run_for(11_000_000),
            83..90 => world.run_for(rng.below(300_000)),
            _ => world.fail_over(),
        }
        world.run_for(rng.below(pace));
        if !world.violations.is_empty() {
            return world;
        }
    }
    calm(&mut world);
    world
}

/// One fault.
fn strike(world: &mut World, rng: &mut Rng) {
    let power = rng.chance(600_000);
    let node = rng.below(2) as usize;
    match rng.below(5) {
        0 => world.cut_stream(),
        1 => {
            world.kill(node, power);
            world.run_for(rng.below(2_000));
            world.kill(1 - node, power);
        }
        2 => {
            if let Some(primary) = world.primary() {
                world.kill(primary, power);
                world.fail_over();
            }
        }
        _ => world.kill(node, power),
    }
}

/// Faults have ended: the pair becomes whole again, equal, and forgets its marks.
fn calm(world: &mut World) {
    for _ in 0..10 {
        world.run_for(1_000_000);
        world.fail_over();
    }
    world.run_for(45_000_000);
    if world.violations.is_empty() && !world.is_whole() {
        let roles = (world.primary(), world.role(0), world.role(1));
        world.violations.push(format!("the pair does not become whole: {roles:?}"));
    }
    if world.violations.is_empty() {
        world.check_equal();
    }
    if world.violations.is_empty() && world.marks() > 0 {
        let marks = world.marks();
        world.violations.push(format!("{marks} marks are left in an idle pair"));
    }
}

#[track_caller]
fn assert_clean(seeds: std::ops::Range<u64>, contract: Contract) {
    let (mut caught_up, mut failovers, mut answered) = (0, 0, 0);
    for seed in seeds {
        let world = live(seed, contract);
        assert!(world.violations.is_empty(), "seed {seed} {contract:?}: {:#?}", world.violations);
        caught_up += world.caught_up;
        failovers += world.failovers;
        answered += world.answered;
    }
    assert!(caught_up > 20 && failovers > 20 && answered > 100, "the faults hit nothing");
}

#[test]
fn a_pair_loses_nothing_that_a_barrier_promised_when_it_must_be_durable_on_both() {
    assert_clean(0..250, Contract::Durable);
}

#[test]
fn a_pair_loses_nothing_that_a_barrier_promised_when_the_peer_must_have_received() {
    assert_clean(1_000..1_250, Contract::Received);
}

#[test]
fn a_resynchronisation_after_a_power_cut_copies_marked_regions_only() {
    let mut world = World::new(7, Profile::plain(Contract::Durable));
    world.run_for(2_000_000);
    for block in 0..REGIONS * 4 {
        world.write(block, false);
    }
    world.barrier();
    world.run_for(45_000_000);
    assert!(world.is_whole() && world.marks() == 0, "marks are cleared when the pair is idle");
    world.write(0, true);
    world.run_for(1_000_000);
    world.kill(1, true);
    world.run_for(100);
    world.write(1, true);
    world.run_for(5_000_000);
    assert!(world.is_whole() && world.caught_up == 2);
    assert!(world.bytes_copied <= 2 * 4_096, "copied {} bytes", world.bytes_copied);
    assert_eq!(world.violations, Vec::<String>::new());
}

#[test]
fn a_stream_that_was_cut_is_resumed_without_copying() {
    let mut world = World::new(8, Profile::plain(Contract::Durable));
    world.run_for(2_000_000);
    world.cut_stream();
    world.run_for(50);
    world.write(3, true);
    world.run_for(20_000);
    assert!(!world.is_whole());
    world.run_for(2_000_000);
    assert!(world.is_whole());
    world.check_equal();
    assert_eq!(world.violations, Vec::<String>::new());
}

#[test]
fn a_resynchronisation_comes_to_its_end_whatever_the_application_writes() {
    // Each item takes a round trip of up to 80 ms, and every region changes all the time.
    let profile = Profile { network_us: 40_000, ..Profile::plain(Contract::Received) };
    let mut world = World::new(11, profile);
    let mut rng = Rng::new(12);
    for _ in 0..60_000 {
        world.write(rng.below(64), false);
        world.run_for(1_000);
        if world.caught_up > 0 {
            break;
        }
    }
    assert!(world.caught_up > 0, "not within a minute: {:?}", world.role(0));
    world.run_for(20_000_000);
    assert!(world.is_whole());
    world.check_equal();
    assert_eq!(world.violations, Vec::<String>::new());
}

/// Seeds within which each planted bug must be found.
const SEEDS_MAX: u64 = 150;

#[track_caller]
fn assert_found(bug: Mutant, contract: Contract) {
    mutant::select(Some(bug));
    let found = (0..SEEDS_MAX).find(|seed| {
        let run = std::panic::catch_unwind(|| live(*seed, contract).violations.is_empty());
        !run.unwrap_or(false)
    });
    mutant::select(None);
    assert!(found.is_some(), "{bug:?} was not found within {SEEDS_MAX} seeds");
    println!("{bug:?} found at seed {found:?}");
}

#[test]
fn a_change_applied_before_its_mark_is_durable_is_found() {
    assert_found(Mutant::MarkNotAwaited, Contract::Received);
}

#[test]
fn marks_cleared_early_are_found() {
    assert_found(Mutant::ClearMarksEarly, Contract::Received);
}

#[test]
fn a_barrier_completed_before_receipt_is_found() {
    assert_found(Mutant::AckBeforeReceipt, Contract::Received);
}

#[test]
fn a_target_enlisted_before_the_final_pass_is_found() {
    assert_found(Mutant::EnlistBeforeFinalPass, Contract::Received);
}

#[test]
fn a_barrier_completed_while_orphaned_is_found() {
    assert_found(Mutant::CompleteBarrierWhileOrphaned, Contract::Received);
}

#[test]
fn a_target_that_acknowledges_before_its_sync_is_found() {
    assert_found(Mutant::TargetAcksBeforeSync, Contract::Durable);
}

#[test]
fn a_target_that_says_too_early_that_it_caught_up_is_found() {
    assert_found(Mutant::CaughtUpTooEarly, Contract::Received);
}

/// A target with a slow disk is promoted while much of what it received waits for that disk.
fn promote_with_a_backlog() -> Vec<String> {
    let profile = Profile { slowdown: [1, 200], ..Profile::plain(Contract::Received) };
    let mut world = World::new(9, profile);
    world.run_for(20_000_000);
    assert!(world.is_whole());
    for block in 0..20 {
        world.write(block, false);
    }
    world.run_for(8_000);
    world.barrier();
    world.run_for(4_000);
    assert_eq!(world.answered, 21, "the barrier has returned");
    world.kill(0, true);
    world.fail_over();
    world.run_for(3_000_000);
    world.violations
}

#[test]
fn a_promoted_target_first_carries_out_what_it_has_received() {
    assert_eq!(promote_with_a_backlog(), Vec::<String>::new());
}

#[test]
fn a_promotion_without_drain_is_found() {
    mutant::select(Some(Mutant::PromoteWithoutDrain));
    let violations = promote_with_a_backlog();
    mutant::select(None);
    assert!(!violations.is_empty());
}

/// Calls that a fenced source answers with success.
fn answered_after_fence() -> u32 {
    let mut world = World::new(10, Profile::plain(Contract::Received));
    world.run_for(2_000_000);
    world.write(1, false);
    world.barrier();
    world.fence();
    let before = world.answered;
    world.write(2, true);
    world.barrier();
    world.run_for(1_000_000);
    world.answered - before
}

#[test]
fn a_fenced_source_answers_no_change_with_success() {
    assert_eq!(answered_after_fence(), 0);
}

#[test]
fn a_fence_that_is_ignored_is_found() {
    mutant::select(Some(Mutant::FenceIgnored));
    let answered = answered_after_fence();
    mutant::select(None);
    assert!(answered > 0);
}

#[test]
fn ignoring_the_marks_of_the_target_is_found() {
    assert_found(Mutant::TargetMarksIgnored, Contract::Received);
}
