//! Whole farms of machines: states, shares, connections that stay, faults.

#[path = "farm/world.rs"]
mod world;

use havre_core::{
    effect::ModuleOrder,
    farm::{MemberSet, Slot},
    ids::NodeId,
    status::{Drain, Phase, Standing, State, WaitReason},
};
use world::{Setup, World};

const READY: (State, Phase) = (State::Up, Phase::Ready);

#[test]
fn every_node_comes_up_and_has_its_share() {
    for nodes in [2, 3, 4, 8] {
        let world = World::up(&Setup::of(nodes));
        world.is_partition();
        let loads = world.loads();
        let (least, most) = (loads.iter().min(), loads.iter().max());
        assert!(most <= least.map(|least| least + 1).as_ref(), "{loads:?}");
        assert_eq!(world.farm(0).leader, Some(NodeId(0)));
    }
}

#[test]
fn a_stopped_node_hands_its_clients_over_before_its_application_stops() {
    let mut world = World::up(&Setup::of(3));
    let before = world.taken(1);
    world.order(2, ModuleOrder::Stop);
    world.run_ms(1_000);
    assert_eq!(world.state(2), (State::Stop, Phase::NotReady));
    world.is_partition();
    assert!(world.taken(1).is_superset(&before), "only the stopped node's clients move");
    assert!(!world.running[2]);
}

#[test]
fn a_restart_in_place_moves_clients_away_and_back() {
    let mut world = World::up(&Setup::of(2));
    let before = world.taken(1);
    world.order(1, ModuleOrder::Restart);
    world.run_ms(10);
    assert_eq!(world.state(1), (State::Up, Phase::Transient));
    assert_eq!(world.loads(), [256, 0]);
    world.run_ms(1_000);
    assert_eq!(world.state(1), READY);
    assert_eq!(world.taken(1), before);
    world.is_partition();
}

#[test]
fn a_lost_follower_is_replaced_after_its_time_out_and_a_lost_leader_after_its_own() {
    let mut world = World::up(&Setup::of(3));
    let before = world.taken(0);
    world.kill(2);
    world.run_ms(850);
    assert!(world.loads().iter().sum::<usize>() < 256, "{:?}", world.loads());
    world.run_ms(250);
    world.is_partition();
    assert!(world.taken(0).is_superset(&before));
    let before = world.taken(1);
    world.kill(0);
    world.run_ms(1_800);
    assert_eq!(world.taken(1), before, "the leader's time is not up");
    world.run_ms(350);
    assert_eq!(world.loads(), [0, 256, 0], "{:#?}", world.log);
}

#[test]
fn a_returning_node_gets_its_share_and_others_keep_their_connections() {
    let mut world = World::up(&Setup::of(2));
    let own = world.taken(1);
    world.kill(1);
    world.run_ms(2_000);
    assert_eq!(world.loads(), [256, 0]);
    let bucket = *own.first().expect("a share");
    world.connections[0].insert(bucket);
    world.boot(1, false);
    world.order(1, ModuleOrder::Start);
    world.run_ms(3_000);
    assert_eq!(world.taken(1), own);
    assert_eq!(world.holders(1, bucket), MemberSet::only(Slot(0)), "node 0 has connections");
    world.look(0);
    world.run_ms(50);
    let other = *own.last().expect("a share");
    assert_eq!(world.holders(1, bucket), MemberSet::only(Slot(0)), "it still has");
    assert_eq!(world.holders(1, other), MemberSet::EMPTY, "none are left in this one");
    world.connections[0].clear();
    world.look(0);
    world.run_ms(50);
    assert_eq!(world.holders(1, bucket), MemberSet::EMPTY);
}

#[test]
fn isolated_nodes_serve_everything_and_share_again_without_a_restart() {
    let mut world = World::up(&Setup::of(3));
    let before: Vec<_> = (0..3).map(|n| world.taken(n)).collect();
    world.isolate(2);
    world.run_ms(4_000);
    assert_eq!(world.loads(), [128, 128, 256]);
    world.cut.insert((9, 9));
    world.cut.retain(|(one, _)| *one == 9);
    world.run_ms(500);
    world.cut.clear();
    world.run_ms(500);
    assert_eq!((0..3).map(|n| world.taken(n)).collect::<Vec<_>>(), before, "{:#?}", world.log);
    assert!(world.running.iter().all(|running| *running));
    assert_eq!(world.state(2), READY);
}

#[test]
fn a_follower_that_the_leader_does_not_hear_takes_nothing_while_others_follow_it() {
    let mut world = World::up(&Setup::of(3));
    world.cut.extend([(0, 1), (1, 0)]);
    world.run_ms(4_000);
    assert_eq!(world.loads(), [128, 0, 128], "{:#?}", world.log);
    world.cut.clear();
    world.run_ms(500);
    world.is_partition();
    assert!(!world.taken(1).is_empty());
}

#[test]
fn a_drained_node_keeps_its_connections_until_the_last_has_ended() {
    let mut world = World::up(&Setup::of(2));
    let bucket = *world.taken(1).first().expect("a share");
    world.connections[1].insert(bucket);
    world.order(1, ModuleOrder::Drain { stop: true });
    world.run_ms(100);
    assert_eq!(world.loads(), [256, 0]);
    assert_eq!(world.holders(0, bucket), MemberSet::only(Slot(1)));
    world.look(1);
    world.run_ms(100);
    assert_eq!(world.farm(1).drain, Drain::Under);
    assert_eq!(world.farm(0).members[1].standing, Standing::Draining);
    assert_eq!(world.state(1), READY, "it serves the clients it has");
    world.connections[1].clear();
    world.look(1);
    world.run_ms(500);
    assert_eq!(world.state(1), (State::Stop, Phase::NotReady), "{:#?}", world.log);
}

#[test]
fn the_last_node_cannot_be_drained_and_a_farm_has_no_primary() {
    let mut world = World::alone(&Setup::of(2));
    world.order(0, ModuleOrder::Drain { stop: false });
    world.order(0, ModuleOrder::Prim { full_resync: false, force: false });
    assert!(world.refusals[0].contains("no other node would take"), "{:?}", world.refusals);
    assert!(world.refusals[1].contains("has no primary"), "{:?}", world.refusals);
    assert_eq!(world.loads(), [256, 0]);
}

#[test]
fn a_node_with_another_configuration_waits_and_is_never_counted() {
    let mut world = World::new(&Setup::of(2));
    world.configure(1, Setup { signature: 8, ..Setup::of(2) });
    world.kill(1);
    world.boot(1, false);
    world.order(0, ModuleOrder::Start);
    world.run_ms(3_000);
    world.order(1, ModuleOrder::Start);
    world.run_ms(3_000);
    assert_eq!(world.loads(), [256, 0]);
    let wait = WaitReason::ConfigurationDiffers { local: 8, remote: 7 };
    assert_eq!(world.status(1).wait, Some(wait));
    assert_eq!(world.farm(0).members[1].standing, Standing::OtherConfiguration);
    assert!(world.log.iter().any(|line| line.contains("MemberRefused")), "it is said");
    // Alone again, it may serve; and when they meet as equals in rank, the higher one yields.
    world.isolate(1);
    world.run_ms(3_000);
    assert_eq!(world.loads(), [256, 256]);
    world.cut.clear();
    world.cut.insert((9, 9));
    world.run_ms(1_000);
    assert_eq!(world.loads(), [256, 0], "{:#?}", world.log);
}

#[test]
fn a_node_that_cannot_filter_takes_nothing_and_says_why() {
    let mut world = World::up(&Setup::of(2));
    world.kill(1);
    world.run_ms(2_000);
    world.filter_fails.insert(1);
    world.boot(1, false);
    world.order(1, ModuleOrder::Start);
    world.run_ms(2_000);
    let reason = WaitReason::Address("packet filter: CAP_BPF is missing".into());
    assert_eq!(world.status(1).wait, Some(reason), "{:#?}", world.log);
    assert_eq!(world.loads(), [256, 0]);
    world.filter_fails.clear();
    world.run_ms(8_000);
    assert_eq!(world.state(1), READY, "it tries again by itself");
    world.is_partition();
}

#[test]
fn a_sleeping_daemon_takes_nobody_when_the_others_count_it_as_lost() {
    for sleeper in [0, 1] {
        let mut world = World::up(&Setup::of(3));
        world.asleep.insert(sleeper);
        world.run_ms(5_000);
        assert!(world.taken(sleeper).is_empty());
        world.is_partition();
        world.asleep.clear();
        world.run_ms(3_000);
        world.is_partition();
        assert!(!world.taken(sleeper).is_empty(), "{:#?}", world.log);
    }
}

#[test]
fn a_daemon_that_is_restarted_alone_goes_on_with_its_application() {
    let mut world = World::up(&Setup::of(2));
    world.crash(1);
    world.run_ms(300);
    world.boot(1, true);
    world.run_ms(3_000);
    assert!(world.running[1]);
    assert_eq!(world.state(1), READY);
    world.is_partition();
    assert!(!world.log.iter().any(|line| line.contains("stop_both")), "{:#?}", world.log);
}

#[test]
fn scriptcontrol_opens_the_traffic_before_the_start_script() {
    let setup = Setup { vip: "scriptcontrol=\"on\"", ..Setup::of(2) };
    let world = World::alone(&setup);
    let position = |what: &str| world.log.iter().position(|line| line.contains(what));
    assert!(
        position("TrafficChanged { open: true }") < position("ScriptEnded { script: \"start_both")
    );
    world.is_partition();
}

#[test]
fn powers_decide_and_deputies_wait() {
    let groups = "<group name=\"web\"><cluster><host name=\"n0\" power=\"1\"/>\
        <host name=\"n1\" power=\"64\"/><host name=\"n2\" power=\"4096\"/></cluster>\
        <rule port=\"80\" proto=\"tcp\" filter=\"on_addr\"/></group>";
    let mut world = World::up(&Setup { groups, ..Setup::of(3) });
    assert_eq!(world.loads(), [0, 0, 256]);
    world.kill(2);
    world.run_ms(2_000);
    assert_eq!(world.loads(), [0, 256, 0]);
    world.kill(1);
    world.run_ms(2_000);
    assert_eq!(world.loads(), [256, 0, 0]);
}
