//! `cluster.xml` by example.

use super::*;
use crate::{config::cluster::WitnessAddress, ids::NodeId};

fn read(text: &str) -> Result<Parsed<ClusterConfig>, ConfigErrors> {
    cluster::parse(Path::new("c.xml"), text)
}

#[track_caller]
fn refused(text: &str) -> Vec<String> {
    let found = read(text).expect_err("the file has errors").0;
    found.iter().filter(|d| d.severity == Severity::Error).map(ToString::to_string).collect()
}

#[test]
fn nodes_are_numbered_by_first_appearance_and_defaults_are_filled_in() {
    let config = pair();
    assert_eq!(config.port, 4800);
    assert_eq!(config.nodes, ["node1", "node2"]);
    assert_eq!(config.lans[1].nodes[1].node, NodeId(1));
    assert_eq!(config.witness, None);
}

#[test]
fn ipv6_loses_its_brackets_and_the_witness_has_a_default_port() {
    let text = "<cluster><lans port=\"4900\" pulse=\"100\"><lan name=\"l\" command=\"on\" \
        console=\"on\"><node name=\"a\" addr=\"[fd00::1]\" laddr=\"192.168.1.1\"/><node name=\"b\" \
        addr=\"b.example.org\"/></lan></lans><witness addr=\"[fd00::9]\"/></cluster>";
    let parsed = read(text).expect("the file is correct");
    let config = parsed.value;
    assert_eq!(config.port, 4900);
    assert!(config.lans[0].command);
    assert_eq!(config.lans[0].nodes[0].addr, "fd00::1");
    assert_eq!(config.lans[0].nodes[0].local_addr.as_deref(), Some("192.168.1.1"));
    assert_eq!(config.lans[0].nodes[1].addr, "b.example.org");
    assert_eq!(config.witness, Some(WitnessAddress { addr: "fd00::9".to_owned(), port: 4799 }));
    assert_eq!(parsed.notices.len(), 2, "one for pulse, one for console: {:?}", parsed.notices);
}

#[test]
fn wrong_clusters_are_refused_with_the_reason() {
    let lan =
        |nodes: &str| format!("<cluster><lans><lan name=\"l\">{nodes}</lan></lans></cluster>");
    let a = "<node name=\"a\" addr=\"10.0.0.1\"/>";
    has(&refused(&lan(a)), "the cluster has 1 node, it needs at least 2");
    let same = format!("{a}<node name=\"b\" addr=\"10.0.0.1\"/>");
    has(&refused(&lan(&same)), "a and b have the same address");
    has(&refused(&lan(&format!("{a}{a}"))), "node a occurs twice on network l");
    let bracket = format!("{a}<node name=\"b[\" addr=\"10.0.0.2\"/>");
    has(&refused(&lan(&bracket)), "<node> name=\"b[\" is not allowed");
    let digits = format!("{a}<node name=\"b\" addr=\"10.0.0.256\"/>");
    has(&refused(&lan(&digits)), "<node> addr=\"10.0.0.256\" is not allowed");
    has(&refused("<safe/>"), "c.xml:1:1: error: <safe> in the place of <cluster>");
    has(&refused(""), "the file contains no <cluster>");
    has(&refused("<cluster/>"), "<cluster> contains no <lans>");
}

#[test]
fn some_network_must_hold_all_nodes_and_the_witness_none_of_them() {
    let text = "<cluster><lans><lan name=\"l\"><node name=\"a\" addr=\"10.0.0.1\"/>\
        <node name=\"b\" addr=\"10.0.0.2\"/></lan><lan name=\"m\" command=\"on\">\
        <node name=\"b\" addr=\"10.1.0.2\"/>\
        <node name=\"c\" addr=\"10.1.0.3\"/></lan></lans></cluster>";
    let found = refused(text);
    has(&found, "no network contains all nodes (make one <lan> with all of a, b, c)");
    has(&found, "network m has command=\"on\" and lacks nodes");
    let text = CLUSTER.replace("</lans>", "</lans><witness addr=\"10.1.0.2\"/>");
    has(&refused(&text), "the witness has the address of node node2");
}
