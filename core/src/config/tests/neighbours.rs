//! Modules that share a node, by example.

use super::*;
use crate::{
    config::module::{Neighbour, Neighbours, parse_beside},
    ids::ModuleId,
};

fn module(addr: &str, dir: &str, port: &str) -> String {
    mirror(&format!(
        "<vip><interface_list><interface><real_interface>\n<virtual_addr addr=\"{addr}\"/>\
         </real_interface></interface></interface_list></vip>\n<rfs {port}>\n<replicated \
         dir=\"{dir}\"/></rfs>"
    ))
}

/// What is found in module 1 beside a module `db` with that number.
fn beside(text: &str, other: &str, id: u16) -> Vec<String> {
    let cluster = pair();
    let other = accepted(other).value;
    let neighbours = Neighbours {
        others: vec![Neighbour { name: "db", id: ModuleId(id), config: &other }],
        ports: vec![(9010, "health check".to_owned())],
        directories: vec![("/var/lib/havre".into(), "Havre's own state".to_owned())],
        ..Neighbours::default()
    };
    let environment = BTreeMap::new();
    let parsed = parse_beside(Path::new("u.xml"), text, (&cluster, &environment), &neighbours);
    let found = parsed.map_or_else(|errors| errors.0, |_| Vec::new());
    found.iter().filter(|d| d.severity == Severity::Error).map(ToString::to_string).collect()
}

#[test]
fn modules_of_one_node_share_no_address_directory_or_port() {
    let other = module("10.0.0.50", "/data/db", "");
    assert!(beside(&module("10.0.0.51", "/data/web", ""), &other, 2).is_empty());
    let same = beside(&module("10.0.0.50", "/data/db/x", "port=\"5604\""), &other, 2);
    assert_eq!(
        same,
        [
            "u.xml:3:15: error: the virtual address 10.0.0.50 is one of module db (use another \
             address)",
            "u.xml:4:6: error: TCP port 5604 of <rfs> is that of module db (write port=\"...\" \
             with a free one, on all nodes)",
            "u.xml:5:13: error: /data/db/x lies inside the replicated directory /data/db (module \
             db) (replicate each directory in one module only)",
        ]
    );
    has(&beside(&module("10.0.0.51", "/data", ""), &other, 2), "contains the replicated directory");
    has(
        &beside(&module("10.0.0.51", "/w", "port=\"9010\""), &other, 2),
        "used by the daemon (health",
    );
    has(&beside(&module("10.0.0.51", "/var", ""), &other, 2), "(Havre's own state) overlap");
}

#[test]
fn thirty_two_modules_with_their_numbers_share_nothing() {
    let texts: Vec<String> =
        (1..=32).map(|n| module(&format!("10.0.7.{n}"), &format!("/data/{n}"), "")).collect();
    let configs: Vec<ModuleConfig> = texts.iter().map(|text| accepted(text).value).collect();
    let names: Vec<String> = (1..=32).map(|n| format!("m{n}")).collect();
    let (cluster, environment) = (pair(), BTreeMap::new());
    for (own, text) in texts.iter().enumerate() {
        let others = (0..32).filter(|other| *other != own).map(|other| Neighbour {
            name: &names[other],
            id: ModuleId(u16::try_from(other).expect("small") + 1),
            config: &configs[other],
        });
        let id = ModuleId(u16::try_from(own).expect("small") + 1);
        let neighbours = Neighbours { id, others: others.collect(), ..Neighbours::default() };
        let file = Path::new("u.xml");
        let parsed = parse_beside(file, text, (&cluster, &environment), &neighbours);
        assert!(parsed.is_ok(), "{parsed:?}");
    }
}
