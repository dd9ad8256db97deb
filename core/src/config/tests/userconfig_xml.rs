//! `userconfig.xml` by example: defaults, units, macros and the checks across elements.

use std::time::Duration;

use super::*;
use crate::{
    config::{
        expanded,
        module::{BootPolicy, Contract, DefaultPrimary, QuorumPolicy, WriteMode},
        names, revision, signature,
    },
    ids::NodeId,
};

#[test]
fn the_shortest_mirror_has_the_documented_defaults() {
    let config = accepted(&mirror("<rfs><replicated dir=\"/data\"/></rfs>")).value;
    assert_eq!(config.service.boot, BootPolicy::Ignore);
    assert_eq!(config.service.boot_delay, Duration::ZERO);
    assert!(config.service.failover);
    assert_eq!(config.service.default_primary, DefaultPrimary::Alone);
    assert_eq!(config.service.maxloop, 3);
    assert_eq!(config.service.loop_interval, Duration::from_hours(24));
    assert!(!config.service.automatic_reboot);
    assert_eq!(config.heart.timing.pulse, Duration::from_millis(700));
    assert_eq!(config.heart.timing.timeout, Duration::from_secs(30));
    assert_eq!(config.heart.heartbeats[0].ident, "default");
    assert!(config.tcp_reset);
    assert_eq!(config.quorum, QuorumPolicy::None);
    let rfs = config.rfs.expect("the file has <rfs>");
    assert_eq!((rfs.contract, rfs.write), (Contract::Received, WriteMode::Back));
    assert_eq!(rfs.lock_timeout, Duration::from_secs(100));
    assert_eq!(rfs.send_timeout, Duration::from_secs(30));
    assert_eq!((rfs.port, rfs.resync_bytes_per_second_max), (None, None));
    let user = config.user.expect("the file has <user>");
    assert_eq!(user.force_stop_timeout, Duration::from_secs(300));
    assert!(user.logging);
    assert_eq!(user.log_size_kib, 2048);
}

#[test]
fn every_setting_reaches_its_field() {
    let text = "<safe><service mode=\"mirror\" boot=\"auto\" boot_delay=\"1m\" failover=\"off\" \
        defaultprim=\"node2\" maxloop=\"5\" loop_interval=\"0\" automatic_reboot=\"on\">\
        <heart pulse=\"200ms\" timeout=\"1s\"><heartbeat name=\"default\" timeout=\"2000\"/>\
        <heartbeat name=\"private\" ident=\"flow\"/></heart>\
        <vip tcpreset=\"off\"><interface_list><interface check=\"off\" arpreroute=\"on\" \
        arpinterval=\"5\" arpelapse=\"60\" name=\"eth0\"><real_interface><virtual_addr \
        addr=\"10.0.0.50\" netmask=\"255.255.255.0\" check=\"off\"/><virtual_addr \
        addr=\"fd00::50\" where=\"one_side_alias\"/></real_interface></interface></interface_list>\
        </vip><rfs async=\"none\" write=\"through\" port=\"7000\" acl=\"on\" reiallowedbw=\"100\">\
        <replicated dir=\"/a/\"><notreplicated path=\"tmp/\"/>\
        <notreplicated regexpath=\".*\\.tmp$\"/>\
        <tocheck path=\"here\"/></replicated><replicated dir=\"/ab\"/></rfs>\
        <user nicestoptimeout=\"10\" logging=\"none\" userlogsize=\"9\">\
        <var name=\"V\" value=\"\"/></user></service></safe>";
    let config = accepted(text).value;
    assert_eq!(config.service.boot, BootPolicy::Auto);
    assert_eq!(config.service.default_primary, DefaultPrimary::Node(NodeId(1)));
    assert_eq!(config.service.loop_interval, Duration::ZERO);
    assert_eq!(config.heart.heartbeats[0].timing.timeout, Duration::from_secs(2));
    assert_eq!(config.heart.heartbeats[1].timing.timeout, Duration::from_secs(1));
    assert!(!config.tcp_reset);
    let interface = &config.interfaces[0];
    assert_eq!(interface.name.as_deref(), Some("eth0"));
    assert_eq!(interface.addresses[0].prefix, Some(24));
    assert_eq!(interface.addresses[1].prefix, None);
    assert_eq!(interface.arp_elapse, Duration::from_mins(1));
    let rfs = config.rfs.expect("the file has <rfs>");
    assert_eq!((rfs.contract, rfs.write), (Contract::Durable, WriteMode::Through));
    assert_eq!((rfs.port, rfs.resync_bytes_per_second_max), (Some(7000), Some(102_400)));
    assert_eq!(rfs.directories[0].dir, Path::new("/a"));
    assert_eq!(rfs.directories[0].excluded_paths, [Path::new("tmp")]);
    assert_eq!(rfs.directories[0].excluded_names, [".*\\.tmp$"]);
    assert_eq!(rfs.directories[0].to_check, [Path::new("here")]);
    let user = config.user.expect("the file has <user>");
    assert_eq!(user.variables, [("V".to_owned(), String::new())]);
    assert!(!user.logging);
}

#[test]
fn times_out_of_range_are_errors_and_hasty_timeouts_are_warnings() {
    let heart = |attributes: &str| {
        format!(
            "<safe><service mode=\"mirror\"><heart {attributes}><heartbeat name=\"default\"/>\
             </heart><user/></service></safe>"
        )
    };
    has(
        &errors(&heart("timeout=\"11m\"")),
        "timeout=\"11m\" is out of range (it must be between 1",
    );
    has(&errors(&heart("pulse=\"0\"")), "pulse=\"0\" is out of range");
    has(
        &errors(&heart("pulse=\"1.5s\"")),
        "pulse=\"1.5s\" is not a time (expected: a whole number of",
    );
    has(
        &errors(&mirror("<rfs sendtimeout=\"500ms\"><replicated dir=\"/d\"/></rfs>")),
        "less than one s",
    );
    has(&notices(&heart("timeout=\"1s\"")), "warning: timeout 1s is less than 3 x pulse 700ms");
    assert!(notices(&heart("timeout=\"2100\"")).iter().all(|n| !n.contains("warning")));
}

#[test]
fn macros_win_over_the_environment_and_unknown_names_are_errors() {
    let text = "<safe><macro name=\"A\" value=\"/a\"/><macro name=\"B\" value=\"%A%/b\"/>\
        <service mode=\"mirror\"><heart><heartbeat name=\"default\"/></heart><rfs><replicated \
        dir=\"%B%/%HOME_OF_IT%\"/></rfs><user/></service></safe>";
    let environment: BTreeMap<String, String> =
        [("A", "/no"), ("HOME_OF_IT", "c")].map(|(n, v)| (n.to_owned(), v.to_owned())).into();
    let parsed = module::parse(Path::new("u.xml"), text, &pair(), &environment);
    let rfs = parsed.expect("the file is correct").value.rfs.expect("the file has <rfs>");
    assert_eq!(rfs.directories[0].dir, Path::new("/a/b/c"));
    has(&errors(text), "%HOME_OF_IT% is neither a macro nor an environment variable");
    let copy = expanded(text, &names(text, &environment));
    assert!(copy.contains("dir=\"/a/b/c\""), "{copy}");
    has(&errors(&text.replace("%A%/b", "%AB%/b")), "did you mean %A%?");
}

#[test]
fn heartbeats_must_be_networks_of_both_nodes_and_one_of_them_the_flow() {
    let heart = |inside: &str| {
        format!("<safe><service mode=\"mirror\"><heart>{inside}</heart><user/></service></safe>")
    };
    let one = "<heartbeat name=\"default\" ident=\"flow\"/>";
    has(
        &errors(&heart("<heartbeat name=\"defualt\"/>")),
        "no network defualt (did you mean \"default",
    );
    has(&errors(&heart(&format!("{one}{one}"))), "two heartbeats on network default");
    let two = format!("{one}<heartbeat name=\"private\" ident=\"flow\"/>");
    has(&errors(&heart(&two)), "a second heartbeat has ident=\"flow\"");
    has(&errors(&heart("<server addr=\"10.0.0.1\"/>")), "<server> is not supported here");
    has(&errors(&heart("")), "<heart> contains no <heartbeat>");
    has(&errors("<safe><service mode=\"mirror\"><user/></service></safe>"), "contains no <heart>");

    let lonely = CLUSTER.replace("<node name=\"node2\" addr=\"10.1.0.2\"/>", "");
    let cluster = cluster::parse(Path::new("c.xml"), &lonely).expect("the file is correct").value;
    let text = heart("<heartbeat name=\"private\"/>");
    let found = module::parse(Path::new("u.xml"), &text, &cluster, &BTreeMap::new());
    let found = found.expect_err("node2 is not there").to_string();
    assert!(found.contains("network private does not contain node node2"), "{found}");
}

#[test]
fn a_mirror_needs_networks_of_exactly_two_nodes() {
    let three = CLUSTER.replacen("</lan>", "<node name=\"node3\" addr=\"10.0.0.3\"/></lan>", 1);
    let cluster = cluster::parse(Path::new("c.xml"), &three).expect("the file is correct").value;
    let found = module::parse(Path::new("u.xml"), &mirror(""), &cluster, &BTreeMap::new());
    let found = found.expect_err("three nodes").to_string();
    assert!(found.contains("a mirror needs exactly 2 nodes, the network default has 3"), "{found}");
}

#[test]
fn replicated_directories_are_distinct_and_not_nested() {
    let rfs = |a: &str, b: &str| {
        mirror(&format!("<rfs><replicated dir=\"{a}\"/><replicated dir=\"{b}\"/></rfs>"))
    };
    has(&errors(&rfs("/a/b", "/a/b/")), "/a/b is replicated twice");
    has(&errors(&rfs("/a", "/a/b")), "/a/b lies inside the replicated directory /a");
    has(&errors(&rfs("/a/b", "/a")), "/a contains the replicated directory /a/b");
    has(&errors(&rfs("C:\\Data", "c:/data/x")), "lies inside the replicated directory");
    has(&errors(&rfs("/", "/a/../b")), "is the root of a file system");
    has(&errors(&rfs("/", "/a/../b")), "has a . or .. in it");
    accepted(&rfs("/a", "/ab"));
    has(&errors(&mirror("<rfs/>")), "<rfs> contains no <replicated>");
}

#[test]
fn virtual_addresses_are_free_numeric_and_of_a_mirror() {
    let vip = |addr: &str| {
        mirror(&format!(
            "<vip><interface_list><interface><real_interface><virtual_addr {addr}/>\
             </real_interface></interface></interface_list></vip>"
        ))
    };
    has(&errors(&vip("addr=\"10.1.0.2\"")), "10.1.0.2 is the address of node node2");
    has(&errors(&vip("addr=\"vip.example.org\"")), "is a host name (write the numeric address");
    has(&errors(&vip("addr=\"10.0.0.300\"")), "is not an address");
    has(&errors(&vip("addr=\"10.0.0.9\" where=\"alias\"")), "belongs to a farm");
    has(&errors(&vip("addr=\"10.0.0.9\" netmask=\"255.0.255.0\"")), "netmask=\"255.0.255.0\"");
    has(&errors(&vip("addr=\"10.0.0.9\"/><virtual_addr addr=\"10.0.0.9\"")), "occurs twice");
    has(&notices(&vip("addr=\"10.0.0.9\" where=\"one_side\"")), "is read as one_side_alias");
}

#[test]
fn quorum_follows_the_attribute_then_the_witness_then_the_checker() {
    let with = |attribute: &str, inside: &str| {
        mirror(inside).replace("mode=\"mirror\"", &format!("mode=\"mirror\" {attribute}"))
    };
    let ping = "<check><splitbrain ident=\"w\" exec=\"ping\" arg=\"10.0.0.254 fd00::fe\"/></check>";
    let hosts = ["10.0.0.254", "fd00::fe"].map(|a| a.parse().expect("an address")).to_vec();
    assert_eq!(accepted(&mirror(ping)).value.quorum, QuorumPolicy::Ping(hosts.clone()));
    assert_eq!(accepted(&with("quorum=\"none\"", ping)).value.quorum, QuorumPolicy::None);
    has(&errors(&with("quorum=\"ping\"", "")), "quorum=\"ping\" without a <splitbrain>");
    has(&errors(&with("quorum=\"lease\"", "")), "quorum=\"lease\" without a witness");
    has(&errors(&mirror(&ping.replace("fd00::fe", "gateway"))), "gateway is not a numeric address");
    has(
        &errors(&mirror(&ping.replace("\"ping\"", "\"ask.sh\""))),
        "exec=\"ask.sh\" is not allowed",
    );

    let text = CLUSTER.replace("</lans>", "</lans><witness addr=\"10.0.0.99\"/>");
    let cluster = cluster::parse(Path::new("c.xml"), &text).expect("the file is correct").value;
    let policy = |text: &str| {
        let parsed = module::parse(Path::new("u.xml"), text, &cluster, &BTreeMap::new());
        parsed.expect("the file is correct").value.quorum
    };
    assert_eq!(policy(&mirror("")), QuorumPolicy::Lease);
    assert_eq!(policy(&mirror(ping)), QuorumPolicy::Lease);
    assert_eq!(policy(&with("quorum=\"ping\"", ping)), QuorumPolicy::Ping(hosts));
}

#[test]
fn a_module_without_user_is_told_that_no_script_will_run() {
    let text = mirror("").replace("<user/>", "");
    has(&notices(&text), "notice: there is no <user>: no script of the module will run");
}

#[test]
fn later_elements_are_noticed_once_each_and_still_checked() {
    let inside = "<vhost><virtualhostname name=\"v\"/><virtualhostname name=\"w\"/></vhost>";
    let found = notices(&mirror(inside));
    let later = found.iter().filter(|n| n.contains("is accepted but not yet acted on"));
    assert_eq!(later.count(), 1, "{found:?}");
    let wrong = mirror(&inside.replace("name=\"v\"", "name=\"v\" when=\"never\""));
    has(&errors(&wrong), "<virtualhostname> when=\"never\" is not allowed");
}

#[test]
fn signature_is_stable_and_differs_with_any_setting() {
    let cluster = pair();
    let digest = |text: &str| signature(&cluster, &accepted(text).value);
    let plain = digest(&mirror(""));
    assert_eq!(plain, digest(&mirror("<!-- comments and blanks do not count -->   ")));
    assert_ne!(plain, digest(&mirror("<rfs><replicated dir=\"/d\"/></rfs>")));
    let hastier = mirror("").replace("<heart>", "<heart timeout=\"29s\">");
    assert_eq!(plain, digest(&hastier), "it may change while the module runs");
    let whole = |text: &str| revision(&cluster, &accepted(text).value);
    assert_ne!(whole(&mirror("")), whole(&hastier));
    let mut other = cluster.clone();
    other.port += 1;
    assert_ne!(plain, signature(&other, &accepted(&mirror("")).value));
}
