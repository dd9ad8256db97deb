//! The machines of two nodes and a witness agree (reference: safekit.md section 9.2).

#[path = "pair/world.rs"]
mod world;

use std::time::Duration;

use havre_core::{
    config::module::{DefaultPrimary, QuorumPolicy},
    effect::ModuleOrder,
    ids::NodeId,
    status::{Phase, State, WaitReason},
};
use world::{World, config};

const PRIM: ModuleOrder = ModuleOrder::Prim { full_resync: false, force: false };

fn policies() -> Vec<QuorumPolicy> {
    let host = "10.0.0.1".parse().expect("an address");
    vec![QuorumPolicy::None, QuorumPolicy::Ping(vec![host]), QuorumPolicy::Lease]
}

#[track_caller]
fn pair(world: &mut World) {
    world.run_for(1_000);
    world.order(0, PRIM);
    world.run_for(2_000);
    world.expect(0, State::Alone, Phase::Ready);
    world.order(1, ModuleOrder::Start);
    world.run_for(3_000);
    world.expect(0, State::Prim, Phase::Ready);
    world.expect(1, State::Second, Phase::Ready);
}

fn mirror(policy: &QuorumPolicy) -> World {
    World::new(&config(policy.clone(), true, DefaultPrimary::Alone))
}

#[test]
fn a_first_start_waits_for_prim() {
    for policy in policies() {
        let mut w = mirror(&policy);
        w.order(0, ModuleOrder::Start);
        w.order(1, ModuleOrder::Start);
        w.run_for(3_000);
        w.expect(0, State::Wait, Phase::NotReady);
        assert_eq!(w.status(1).wait, Some(WaitReason::NeverStarted));
    }
}

#[test]
fn prim_and_start_make_a_pair() {
    policies().iter().for_each(|policy| pair(&mut mirror(policy)));
}

#[test]
fn the_secondary_takes_over_when_the_primary_dies_and_the_primary_comes_back_as_secondary() {
    for policy in policies() {
        let mut w = mirror(&policy);
        pair(&mut w);
        w.kill(0);
        w.run_for(1_300);
        w.expect(1, State::Alone, Phase::Ready);
        w.boot(0);
        w.run_for(500);
        w.order(0, ModuleOrder::Start);
        w.run_for(3_000);
        w.expect(1, State::Prim, Phase::Ready);
        w.expect(0, State::Second, Phase::Ready);
    }
}

#[test]
fn the_primary_goes_on_when_the_secondary_dies() {
    for policy in policies() {
        let mut w = mirror(&policy);
        pair(&mut w);
        w.kill(1);
        w.run_for(2_000);
        w.expect(0, State::Alone, Phase::Ready);
        w.boot(1);
        w.order(1, ModuleOrder::Start);
        w.run_for(4_000);
        w.expect(0, State::Prim, Phase::Ready);
        w.expect(1, State::Second, Phase::Ready);
    }
}

#[test]
fn a_clean_stop_of_the_primary_hands_over_at_once() {
    for policy in policies() {
        let mut w = mirror(&policy);
        pair(&mut w);
        w.order(0, ModuleOrder::Stop);
        w.run_for(400);
        w.expect(0, State::Stop, Phase::NotReady);
        w.expect(1, State::Alone, Phase::Ready);
    }
}

#[test]
fn a_secondary_whose_disk_fails_while_it_takes_over_leaves_the_role_to_its_peer() {
    for policy in policies() {
        let mut w = mirror(&policy);
        pair(&mut w);
        w.order(0, ModuleOrder::Stop);
        while w.status(1).phase != Phase::Transient {
            w.run_for(1);
        }
        w.volume_fails(1);
        w.run_for(1_000);
        w.expect(1, State::Wait, Phase::NotReady);
        // The peer consented, but nothing was begun without it: its copy is the good one.
        w.order(0, ModuleOrder::Start);
        w.run_for(4_000);
        w.expect(0, State::Prim, Phase::Ready);
        w.expect(1, State::Second, Phase::Ready);
    }
}

#[test]
fn a_node_that_is_heard_and_hears_nobody_keeps_its_peer_from_serving_for_a_while_only() {
    for deaf in [0, 1] {
        let mut w = mirror(&QuorumPolicy::Lease);
        pair(&mut w);
        w.kill(0);
        w.kill(1);
        w.deaf = Some(deaf);
        w.boot(deaf);
        w.order(deaf, ModuleOrder::Start);
        w.run_for(2_000);
        w.boot(1 - deaf);
        w.order(1 - deaf, ModuleOrder::Start);
        w.run_for(20_000);
        w.expect(1 - deaf, State::Alone, Phase::Ready);
        w.expect(deaf, State::Wait, Phase::NotReady);
    }
}

#[test]
fn a_swap_exchanges_the_roles_from_either_side() {
    for policy in policies() {
        for asked in [0, 1] {
            let mut w = mirror(&policy);
            pair(&mut w);
            w.order(asked, ModuleOrder::Swap);
            w.run_for(3_000);
            w.expect(0, State::Second, Phase::Ready);
            w.expect(1, State::Prim, Phase::Ready);
        }
    }
}

#[test]
fn both_come_back_in_their_roles_after_both_died() {
    for policy in policies() {
        let mut w = mirror(&policy);
        pair(&mut w);
        w.kill(0);
        w.kill(1);
        w.run_for(100);
        w.boot(1);
        w.order(1, ModuleOrder::Start);
        w.run_for(2_000);
        if policy == QuorumPolicy::Lease {
            // The witness knows that the secondary holds every acknowledged write.
            w.expect(1, State::Alone, Phase::Ready);
            continue;
        }
        w.expect(1, State::Wait, Phase::NotReady);
        w.boot(0);
        w.order(0, ModuleOrder::Start);
        w.run_for(4_000);
        w.expect(0, State::Prim, Phase::Ready);
        w.expect(1, State::Second, Phase::Ready);
    }
}

#[test]
fn a_stale_node_waits_for_the_node_that_went_on_alone() {
    for policy in policies() {
        let mut w = mirror(&policy);
        pair(&mut w);
        w.order(1, ModuleOrder::Stop);
        w.run_for(1_000);
        w.expect(0, State::Alone, Phase::Ready);
        w.order(0, ModuleOrder::Stop);
        w.run_for(1_000);
        w.order(1, ModuleOrder::Start);
        w.run_for(2_000);
        w.expect(1, State::Wait, Phase::NotReady);
        w.order(0, ModuleOrder::Start);
        w.run_for(4_000);
        w.expect(0, State::Prim, Phase::Ready);
        w.expect(1, State::Second, Phase::Ready);
    }
}

#[test]
fn under_a_lease_a_cut_primary_keeps_running_if_it_reaches_the_witness() {
    let mut w = mirror(&QuorumPolicy::Lease);
    pair(&mut w);
    w.cut_now();
    w.witness_cut.insert(1);
    w.run_for(5_000);
    w.expect(0, State::Alone, Phase::Ready);
    w.expect(1, State::Wait, Phase::NotReady);
    w.cut = false;
    w.witness_cut.clear();
    w.run_for(5_000);
    w.expect(0, State::Prim, Phase::Ready);
    w.expect(1, State::Second, Phase::Ready);
}

#[test]
fn under_a_lease_a_primary_that_reaches_nobody_stops_before_the_secondary_takes_over() {
    let mut w = mirror(&QuorumPolicy::Lease);
    pair(&mut w);
    w.cut_now();
    w.witness_cut.insert(0);
    w.run_for(1_500);
    // The world asserts that the address never has two holders.
    w.expect(1, State::Alone, Phase::Ready);
    w.expect(0, State::Wait, Phase::NotReady);
    w.cut = false;
    w.witness_cut.clear();
    w.run_for(5_000);
    w.expect(1, State::Prim, Phase::Ready);
    w.expect(0, State::Second, Phase::Ready);
}

#[test]
fn a_healthy_pair_does_not_need_its_witness() {
    let mut w = mirror(&QuorumPolicy::Lease);
    pair(&mut w);
    w.witness_cut.extend([0, 1]);
    w.run_for(10_000);
    w.expect(0, State::Prim, Phase::Ready);
    w.order(0, ModuleOrder::Swap);
    w.run_for(3_000);
    w.expect(1, State::Prim, Phase::Ready);
}

#[test]
fn under_ping_an_isolated_side_without_witness_waits() {
    let host = "10.0.0.1".parse().expect("an address");
    let mut w = mirror(&QuorumPolicy::Ping(vec![host]));
    pair(&mut w);
    w.witness_cut.insert(0);
    w.cut_now();
    w.run_for(4_000);
    w.expect(0, State::Wait, Phase::NotReady);
    w.cut = false;
    w.witness_cut.clear();
    w.run_for(5_000);
    w.expect(1, State::Prim, Phase::Ready);
    w.expect(0, State::Second, Phase::Ready);
}

#[test]
fn failover_off_leaves_the_secondary_waiting() {
    let mut w = World::new(&config(QuorumPolicy::None, false, DefaultPrimary::Alone));
    pair(&mut w);
    w.kill(0);
    w.run_for(3_000);
    assert_eq!(w.status(1).wait, Some(WaitReason::FailoverOff));
    w.boot(0);
    w.order(0, ModuleOrder::Start);
    w.run_for(4_000);
    w.expect(0, State::Prim, Phase::Ready);
    w.expect(1, State::Second, Phase::Ready);
}

#[test]
fn the_preferred_node_takes_its_role_back() {
    let preferred = DefaultPrimary::Node(NodeId(0));
    let mut w = World::new(&config(QuorumPolicy::Lease, true, preferred));
    pair(&mut w);
    w.kill(0);
    w.run_for(2_000);
    w.boot(0);
    w.order(0, ModuleOrder::Start);
    w.run_for(6_000);
    w.expect(0, State::Prim, Phase::Ready);
    w.expect(1, State::Second, Phase::Ready);
}

#[test]
fn restart_keeps_the_roles() {
    for policy in policies() {
        let mut w = mirror(&policy);
        pair(&mut w);
        w.order(0, ModuleOrder::Restart);
        w.run_for(2_000);
        w.expect(0, State::Prim, Phase::Ready);
        w.order(0, ModuleOrder::StopStart);
        w.run_for(4_000);
        w.expect(1, State::Prim, Phase::Ready);
        w.expect(0, State::Second, Phase::Ready);
    }
}

#[test]
fn orders_that_make_no_sense_are_refused_with_the_remedy() {
    let mut w = mirror(&QuorumPolicy::None);
    w.run_for(100);
    w.order(0, ModuleOrder::Stop);
    w.order(0, ModuleOrder::Swap);
    w.order(0, ModuleOrder::Second { full_resync: false });
    pair(&mut w);
    w.order(1, PRIM);
    assert_eq!(w.refusals.len(), 4, "{:?}", w.refusals);
}

#[test]
fn two_nodes_told_prim_do_not_both_run() {
    for policy in policies() {
        let mut w = mirror(&policy);
        w.run_for(1_000);
        w.order(0, PRIM);
        w.order(1, PRIM);
        w.run_for(5_000);
        assert_eq!(w.addresses.len(), 1);
    }
}

#[test]
fn a_daemon_that_is_restarted_goes_on_without_stopping_the_application() {
    for policy in policies() {
        let mut w = mirror(&policy);
        pair(&mut w);
        let scripts = w.log.iter().filter(|l| l.contains("stop_prim")).count();
        w.restart_daemon(0);
        w.run_for(4_000);
        w.expect(0, State::Prim, Phase::Ready);
        w.expect(1, State::Second, Phase::Ready);
        assert_eq!(w.log.iter().filter(|l| l.contains("stop_prim")).count(), scripts);
    }
}

#[test]
fn a_daemon_that_comes_back_too_late_removes_what_it_left() {
    for policy in policies() {
        let mut w = mirror(&policy);
        pair(&mut w);
        let until = w.guards[0];
        w.kill(0);
        w.run_for(2_000);
        w.expect(1, State::Alone, Phase::Ready);
        w.guards[0] = until;
        w.restart_daemon(0);
        w.run_for(500);
        assert!(!w.status(0).application);
        w.expect(1, State::Alone, Phase::Ready);
    }
}

#[test]
fn the_guard_is_told_a_moment_before_anybody_else_may_serve() {
    for policy in policies() {
        let mut w = mirror(&policy);
        pair(&mut w);
        let until = w.guards[0].expect("the primary is guarded");
        assert_eq!(w.guards[1], None, "a secondary is not");
        w.kill(0);
        w.run_for(until.since(w.now).as_millis() as u64);
        assert!(w.addresses.is_empty(), "the secondary waits until the guard has acted");
        w.run_for(1_000);
        w.expect(1, State::Alone, Phase::Ready);
        w.order(1, ModuleOrder::Stop);
        w.run_for(500);
        assert_eq!(w.guards[1], None, "nor a stopped module");
    }
}

#[test]
fn new_times_of_heartbeats_come_into_force_one_node_after_the_other_without_a_failover() {
    let mut hasty = config(QuorumPolicy::None, true, DefaultPrimary::Alone);
    hasty.heart.heartbeats[0].timing.timeout = Duration::from_millis(300);
    hasty.heart.heartbeats[0].timing.pulse = Duration::from_millis(20);
    let mut patient = hasty.clone();
    patient.heart.heartbeats[0].timing.timeout = Duration::from_secs(9);
    patient.heart.heartbeats[0].timing.pulse = Duration::from_secs(3);
    let mut w = mirror(&QuorumPolicy::None);
    pair(&mut w);
    let before = w.refusals.len();
    for (next, settle_ms) in [(&patient, 40_000), (&hasty, 40_000), (&patient, 40_000)] {
        w.configure(0, next);
        w.run_for(5_000);
        w.configure(1, next);
        w.run_for(settle_ms);
        w.expect(0, State::Prim, Phase::Ready);
        w.expect(1, State::Second, Phase::Ready);
    }
    assert_eq!(w.refusals.len(), before, "{:?}", w.refusals);
    w.configure(0, &hasty);
    w.configure(1, &hasty);
    w.run_for(40_000);
    w.kill(0);
    w.run_for(600);
    w.expect(1, State::Alone, Phase::Ready);
}

#[test]
fn what_needs_a_stop_is_refused_while_the_module_runs() {
    let mut other = config(QuorumPolicy::None, false, DefaultPrimary::Alone);
    let mut w = mirror(&QuorumPolicy::None);
    pair(&mut w);
    w.configure(0, &other);
    assert!(w.refusals.last().is_some_and(|text| text.contains("needs a stop")));
    other.service.failover = true;
    other.user = None;
    w.configure(0, &other);
    assert_eq!(w.refusals.len(), 1, "scripts may go while it runs");
    w.expect(0, State::Prim, Phase::Ready);
    let mut lease = config(QuorumPolicy::Lease, true, DefaultPrimary::Alone);
    let mut w = mirror(&QuorumPolicy::Lease);
    pair(&mut w);
    lease.heart.heartbeats[0].timing.timeout = Duration::from_millis(900);
    w.configure(0, &lease);
    assert_eq!(w.refusals.len(), 1, "promises between the nodes have one length");
}
