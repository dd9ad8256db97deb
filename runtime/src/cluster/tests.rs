//! Tests of making and joining clusters.

use super::*;

const XML: &str = r#"<cluster><lans port="4800">
  <lan name="default">
    <node name="node1" addr="127.0.0.1"/>
    <node name="node2" addr="127.0.0.2"/>
  </lan>
</lans><witness addr="127.0.0.3"/></cluster>"#;

const NOW_MS: u64 = 1_800_000_000_000;

fn new_cluster() -> NewCluster {
    create(Path::new("cluster.xml"), XML, "node1", NOW_MS).expect("a good configuration")
}

#[test]
fn a_bundle_makes_its_machine_the_member_it_names() {
    let cluster = new_cluster();
    let names: Vec<&str> = cluster.others.iter().map(|bundle| bundle.name.as_str()).collect();
    assert_eq!(names, ["node2", "witness"]);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("havre-node2.bundle");
    write_private(&file, cluster.others[0].text().expose().as_bytes()).expect("writes");
    let member = open_bundle(&file, Some("node2")).expect("the right bundle");
    let state = dir.path().join("state");
    member.install(&state, false).expect("installs");
    member.install(&state, false).expect("installing again changes nothing");
    let loaded = Membership::load(&state).expect("installed");
    assert_eq!(loaded.bundle(), &cluster.others[0]);
    assert_eq!((loaded.node(), loaded.name()), (NodeId(1), "node2"));
    assert_eq!(loaded.cluster(), cluster.own.cluster());
    assert!(loaded.stream_security().is_ok());
}

#[test]
fn members_understand_each_others_datagrams() {
    use havre_core::{
        ids::ModuleId,
        wire::message::{ClaimVerdict, Message},
    };
    let cluster = new_cluster();
    let sealer = |membership: &Membership| crate::seal::Sealer::new(membership.identity(), 1);
    let mut members: Vec<_> = cluster
        .others
        .iter()
        .map(|bundle| sealer(&Membership::of(bundle.clone()).expect("good")))
        .collect();
    members.push(sealer(&cluster.own));
    let message =
        Message::ClaimReply { module: ModuleId(1), nonce: 1, verdict: ClaimVerdict::Granted };
    for from in 0..members.len() {
        for to in 0..members.len() {
            if from == to {
                continue;
            }
            let (sender, receiver) = (members[from].identity().node, members[to].identity().node);
            let datagram = members[from].seal(receiver, &message).expect("small");
            assert_eq!(members[to].open(&datagram), Ok((sender, message.clone())));
        }
    }
}

#[test]
fn a_member_does_not_become_another_clusters_member_by_accident() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    assert!(matches!(Membership::load(dir.path()), Err(ClusterError::NotMember(_))));
    new_cluster().own.install(dir.path(), false).expect("installs");
    let other = new_cluster().own;
    let error = other.install(dir.path(), false).expect_err("a member already");
    assert!(error.to_string().contains("--replace"), "{error}");
    other.install(dir.path(), true).expect("replaces");
    assert_eq!(Membership::load(dir.path()).expect("loads").cluster(), other.cluster());
}

#[test]
fn wrong_names_and_wrong_bundles_are_explained() {
    let error = create(Path::new("c.xml"), XML, "node3", NOW_MS).expect_err("no such node");
    assert!(error.to_string().contains("node1, node2"), "{error}");
    let error = create(Path::new("c.xml"), "<cluster/>", "node1", NOW_MS).expect_err("empty");
    assert!(error.to_string().contains("c.xml:1"), "{error}");

    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("b");
    let text = new_cluster().others[0].text();
    fs::write(&file, text.expose()).expect("writes");
    let error = open_bundle(&file, Some("node1")).expect_err("node2's bundle");
    assert!(error.to_string().contains("havre-node1.bundle"), "{error}");
    fs::write(&file, &text.expose()[..200]).expect("writes");
    let error = open_bundle(&file, None).expect_err("cut off");
    assert!(error.to_string().contains("copy it again"), "{error}");
}

#[test]
fn the_witness_does_not_get_the_nodes_key() {
    let cluster = new_cluster();
    let witness = &cluster.others[1];
    assert_ne!(witness.key, cluster.own.bundle().key);
    assert_eq!(witness.key, witness_key(&cluster.own.bundle().key));
    assert!(Membership::of(witness.clone()).expect("good").identity().nodes_key.is_none());
}

#[test]
fn secrets_of_a_membership_are_not_printed() {
    let cluster = new_cluster();
    let shown = format!("{cluster:?}");
    assert!(!shown.contains("PRIVATE KEY"), "{shown}");
}

#[test]
fn node_names_become_distinct_host_names() {
    use authority::host_name;
    assert_eq!(host_name("node-1"), "node-1");
    let names = ["Node1", "node1", "nœud", "a b", "x--61", "a", "", "n.1", "-a", "1", "a.b"];
    let hosts: std::collections::BTreeSet<String> = names.iter().map(|n| host_name(n)).collect();
    assert_eq!(hosts.len(), names.len());
    for host in hosts {
        assert!(crate::transport::tls::server_name(&host).is_some(), "{host}");
    }
    assert!(crate::transport::tls::server_name(&"é".repeat(50)).is_some());
}

#[test]
fn renewed_certificates_belong_to_the_same_cluster_and_end_later() {
    let old = new_cluster();
    let dir = tempfile::tempdir().expect("a temporary directory");
    old.own.install(dir.path(), false).expect("installs");
    let later = NOW_MS + 15 * 366 * 86_400_000;
    let new = renew(&old.own, later).expect("randomness");
    assert_eq!(new.own.cluster(), old.own.cluster());
    assert_eq!(new.own.bundle().key, old.own.bundle().key, "heartbeats go on");
    assert_ne!(new.own.bundle().authority, old.own.bundle().authority);
    assert_eq!(new.others.len(), old.others.len());
    assert_eq!(new.others[1].key, old.others[1].key, "the witness understands too");
    let rest = |it: &Membership| it.stream_security().expect("valid").own_rest(0).expect("ends");
    assert!(rest(&new.own) - rest(&old.own) > 14 * 365 * 86_400);
    new.own.install(dir.path(), false).expect("no --replace is needed");
    let member = Membership::of(new.others[0].clone()).expect("good");
    assert_eq!(member.name(), "node2");
}
