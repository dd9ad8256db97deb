//! Farms and light modules by example.

use std::time::Duration;

use super::*;
use crate::{
    config::module::{
        InterfaceKind, RuleFilter, RuleProtocol, ServiceMode, VirtualAddrConfig, VirtualMac,
    },
    ids::NodeId,
};

const THREE: &str = r#"<cluster><lans>
<lan name="default"><node name="a" addr="10.0.0.1"/><node name="b" addr="10.0.0.2"/>
<node name="c" addr="10.0.0.3"/></lan>
<lan name="ab"><node name="b" addr="10.1.0.2"/><node name="a" addr="10.1.0.1"/></lan>
</lans></cluster>"#;

fn three() -> ClusterConfig {
    cluster::parse(Path::new("cluster.xml"), THREE).expect("the sample is correct").value
}

fn read(text: &str) -> Result<Parsed<ModuleConfig>, ConfigErrors> {
    module::parse(Path::new("u.xml"), text, &three(), &BTreeMap::new())
}

#[track_caller]
fn good(text: &str) -> ModuleConfig {
    read(text).unwrap_or_else(|errors| panic!("refused:\n{errors}")).value
}

/// Everything found in a file, with or without errors.
fn findings(text: &str) -> Vec<String> {
    let found = read(text).map_or_else(|errors| errors.0, |parsed| parsed.notices);
    found.iter().map(ToString::to_string).collect()
}

const RULE: &str = "<rule port=\"80\" proto=\"tcp\" filter=\"on_addr\"/>";

/// A farm whose virtual interface has the given attributes.
fn farm(interface: &str, card: &str, groups: &str) -> String {
    format!(
        "<safe><service mode=\"farm\">\n<farm><lan name=\"default\"/></farm>\n<vip>\
         <interface_list><interface {interface}>\n<virtual_interface {card}>\
         <virtual_addr addr=\"10.0.0.50\" where=\"alias\"/></virtual_interface></interface>\
         </interface_list>\n<loadbalancing_list>\n{groups}\n</loadbalancing_list></vip>\n<user/>\
         </service></safe>"
    )
}

fn directed(groups: &str) -> String {
    farm("arpreroute=\"on\"", "type=\"vmac_directed\"", groups)
}

#[test]
fn the_shortest_farm_has_the_documented_defaults() {
    let text = directed(&format!("<group name=\"web\">{RULE}</group>"));
    assert_eq!(findings(&text), Vec::<String>::new());
    let config = good(&text);
    assert_eq!(config.service.mode, ServiceMode::Farm);
    assert_eq!(config.members, [NodeId(0), NodeId(1), NodeId(2)]);
    assert!(config.heart.heartbeats.is_empty());
    let networks = config.networks();
    assert_eq!(networks[0].0, "default");
    assert_eq!(networks[0].1.timeout, Duration::from_secs(1));
    let farm = config.farm.expect("the file has <farm>");
    assert_eq!(farm.pulse, Duration::from_millis(100));
    assert_eq!((farm.mlost_count, farm.slost_count), (20, 10));
    assert_eq!(farm.leader_timeout(), Duration::from_secs(2));
    assert!(!farm.script_control);
    let group = &farm.groups[0];
    assert_eq!(group.hosts.iter().map(|h| h.power).collect::<Vec<_>>(), [1, 1, 1]);
    assert_eq!((group.rules[0].addr, group.rules[0].port), (None, Some(80)));
    assert_eq!(group.rules[0].protocol, RuleProtocol::Tcp);
    assert_eq!(group.rules[0].filter, RuleFilter::OnAddr);
    assert_eq!(config.interfaces[0].kind, InterfaceKind::VmacDirected);
}

#[test]
fn every_setting_of_a_farm_reaches_its_field() {
    let text = "<safe><service mode=\"farm\" boot=\"on\"><farm port=\"4900\" pulse=\"10ms\" \
        mlost_count=\"8\" slost_count=\"5\"><lan name=\"ab\"/></farm>\
        <vip scriptcontrol=\"on\" tcpreset=\"off\"><interface_list><interface name=\"eth1\">\
        <virtual_interface type=\"vmac_invisible\" addr=\"5A-FE-01-02-03-04\"><virtual_addr \
        addr=\"10.0.0.50\" netmask=\"24\"/><virtual_addr addr=\"fd00::50\"/></virtual_interface>\
        </interface></interface_list><loadbalancing_list><group name=\"dns\"><cluster>\
        <host name=\"b\" power=\"4096\"/><host name=\"a\" power=\"0\"/></cluster>\
        <rule virtual_addr=\"10.0.0.50\" port=\"53\" proto=\"udp\" filter=\"on_ipid\"/></group>\
        <group name=\"rest\"><rule proto=\"tcp\" filter=\"on_port\"/></group>\
        </loadbalancing_list></vip></service></safe>";
    let config = good(text);
    assert_eq!(config.members, [NodeId(0), NodeId(1)]);
    let mac = VirtualMac([0x5a, 0xfe, 1, 2, 3, 4]);
    assert_eq!(config.interfaces[0].kind, InterfaceKind::VmacInvisible(mac));
    assert_eq!(mac.to_string(), "5a:fe:01:02:03:04");
    assert_eq!(config.interfaces[0].name.as_deref(), Some("eth1"));
    assert!(!config.tcp_reset);
    let farm = config.farm.expect("the file has <farm>");
    assert_eq!(farm.follower_timeout(), Duration::from_millis(50));
    assert!(farm.script_control);
    let powers: Vec<_> = farm.groups[0].hosts.iter().map(|h| (h.node, h.power)).collect();
    assert_eq!(powers, [(NodeId(0), 0), (NodeId(1), 4096)]);
    let rule = farm.groups[0].rules[0];
    assert_eq!((rule.protocol, rule.filter), (RuleProtocol::Udp, RuleFilter::OnIpid));
    assert_eq!(rule.addr, Some([10, 0, 0, 50].into()));
    assert_eq!(farm.groups[1].rules[0].port, None);
}

#[test]
fn the_virtual_mac_address_derives_from_the_first_address() {
    let text = farm("", "type=\"vmac_invisible\"", &format!("<group name=\"web\">{RULE}</group>"));
    let expected = InterfaceKind::VmacInvisible(VirtualMac([0x5a, 0xfe, 10, 0, 0, 50]));
    assert_eq!(good(&text).interfaces[0].kind, expected);
    for wrong in ["01:00:5e:00:00:01", "5a:fe:00:00:01", "5a:fe:0:0:0:1", "00:00:00:00:00:00"] {
        let card = format!("type=\"vmac_invisible\" addr=\"{wrong}\"");
        has(&findings(&farm("", &card, "")), &format!("addr=\"{wrong}\" is not allowed"));
    }
}

#[test]
fn arpreroute_is_refused_with_vmac_invisible_and_advised_with_vmac_directed() {
    let group = format!("<group name=\"web\">{RULE}</group>");
    let found = findings(&farm("arpreroute=\"on\"", "type=\"vmac_invisible\"", &group));
    has(
        &found,
        "u.xml:3:33: error: arpreroute=\"on\" with vmac_invisible: gratuitous ARP would teach \
         switches one node's port, and the other nodes would see no packet (write arpreroute=",
    );
    let found = findings(&farm("", "type=\"vmac_directed\"", &group));
    has(&found, "notice: vmac_directed without arpreroute");
}

#[test]
fn rules_for_arp_need_vmac_directed_the_address_alone_and_no_port() {
    let rule = |attributes: &str| format!("<group name=\"g\"><rule {attributes}/></group>");
    let arp = rule("proto=\"arp\" filter=\"on_addr\"");
    good(&directed(&arp));
    has(&findings(&farm("", "type=\"vmac_invisible\"", &arp)), "outside of vmac_directed");
    let port = findings(&directed(&rule("port=\"80\" proto=\"arp\" filter=\"on_port\"")));
    has(&port, "error: proto=\"arp\" has no port (remove port)");
    has(&port, "error: proto=\"arp\" has no port and no IP identification");
}

#[test]
fn the_identification_field_is_for_udp_over_ipv4() {
    let rule = |attributes: &str| format!("<group name=\"g\"><rule {attributes}/></group>");
    let tcp = findings(&directed(&rule("proto=\"tcp\" filter=\"on_ipid\"")));
    has(&tcp, "the packets of one connection would go to different nodes (write filter=\"on_addr");
    let six = directed(&rule("proto=\"udp\" filter=\"on_ipid\"")).replace("10.0.0.50", "fd00::50");
    has(&findings(&six), "the IPv6 address fd00::50: IPv6 has no such field");
}

#[test]
fn hosts_are_members_and_someone_has_power() {
    let hosts = |inside: &str| {
        directed(&format!("<group name=\"g\"><cluster>{inside}</cluster>{RULE}</group>"))
    };
    has(
        &findings(&hosts("<host name=\"d\"/>")),
        "error: d is not a node of the cluster (known here: a, b, c)",
    );
    has(
        &findings(&hosts("<host name=\"a\" power=\"0\"/><host name=\"b\" power=\"0\"/>")),
        "every node of the group has power 0: nobody would answer",
    );
    has(&findings(&hosts("<host name=\"a\"/><host name=\"a\"/>")), "node a occurs twice");
    let ab = hosts("<host name=\"c\"/>").replace("<lan name=\"default\"", "<lan name=\"ab\"");
    has(&findings(&ab), "node c is on no network of <farm>");
    assert_eq!(good(&hosts("<host name=\"c\"/>")).farm.expect("a farm").groups[0].hosts.len(), 1);
    assert_eq!(good(&hosts("")).farm.expect("a farm").groups[0].hosts.len(), 3);
}

#[test]
fn rules_are_distinct_concern_an_address_of_the_module_and_are_not_absent() {
    let twice = format!("<group name=\"g\">{RULE}</group><group name=\"h\">{RULE}</group>");
    has(&findings(&directed(&twice)), "an earlier rule matches every packet that this one matches");
    let same = format!(
        "<group name=\"g\">{RULE}</group><group name=\"g\"><rule proto=\"udp\" \
                        filter=\"on_addr\"/></group>"
    );
    has(&findings(&directed(&same)), "two groups are called g");
    let other = "<group name=\"g\"><rule virtual_addr=\"10.0.0.51\" proto=\"udp\" \
                 filter=\"on_addr\"/></group>";
    has(&findings(&directed(other)), "10.0.0.51 is not a virtual address of this module");
    let none = directed("").replace("<loadbalancing_list>\n\n</loadbalancing_list>", "");
    has(&findings(&none), "no rule shares the traffic of the virtual addresses");
    let name = "<group name=\"g\"><rule virtual_addr=\"vip.example.org\" proto=\"udp\" \
                filter=\"on_addr\"/></group>";
    has(&findings(&directed(name)), "is a host name");
}

#[test]
fn a_farm_without_addresses_is_for_a_load_balancer_outside() {
    let text =
        "<safe><service mode=\"farm\"><farm><lan name=\"default\"/></farm><user/></service></safe>";
    let config = good(text);
    assert!(config.interfaces.is_empty() && config.farm.expect("a farm").groups.is_empty());
}

#[test]
fn networks_of_a_farm_exist_occur_once_and_are_not_lists_of_nodes() {
    let lans = |inside: &str| {
        format!("<safe><service mode=\"farm\"><farm>{inside}</farm><user/></service></safe>")
    };
    has(&findings(&lans("<lan name=\"defualt\"/>")), "no network defualt (did you mean \"default");
    has(&findings(&lans("<lan name=\"ab\"/><lan name=\"ab\"/>")), "network ab occurs twice");
    has(&findings(&lans("")), "<farm> contains no <lan>");
    let old = "<lan name=\"ab\"><node name=\"a\" addr=\"10.0.0.1\"/></lan>";
    has(&findings(&lans(old)), "<node> is not supported here (write <lan name=\"LAN\"/>");
    has(&findings("<safe><service mode=\"farm\"><user/></service></safe>"), "contains no <farm>");
}

#[test]
fn hasty_timing_of_a_farm_is_warned_of() {
    let with = |attributes: &str| {
        directed(&format!("<group name=\"g\">{RULE}</group>"))
            .replace("<farm>", &format!("<farm {attributes}>"))
    };
    has(&findings(&with("pulse=\"10ms\" slost_count=\"2\"")), "counts as lost after 20ms");
    assert!(findings(&with("pulse=\"10ms\" slost_count=\"5\"")).is_empty());
    has(&findings(&with("mlost_count=\"5\"")), "mlost_count is less than slost_count");
}

#[test]
fn elements_of_another_mode_are_refused_with_what_to_write() {
    let with = |mode: &str, inside: &str| {
        format!("<safe><service mode=\"{mode}\">{inside}<user/></service></safe>")
    };
    let mirror = "<heart><heartbeat name=\"ab\"/></heart>";
    let lan = "<farm><lan name=\"ab\"/></farm>";
    let rfs = "<rfs><replicated dir=\"/d\"/></rfs>";
    let brain = "<check><splitbrain exec=\"ping\" arg=\"10.0.0.9\"/></check>";
    for inside in [mirror, rfs, brain] {
        has(
            &findings(&with("farm", &format!("{lan}{inside}"))),
            "does not belong to mode=\"farm\"",
        );
        has(&findings(&with("light", inside)), "does not belong to mode=\"light\"");
    }
    has(&findings(&with("light", lan)), "<farm> does not belong to mode=\"light\"");
    has(
        &findings(&with("farm\" quorum=\"none", lan)),
        "notice: quorum has no effect in mode=\"farm\"",
    );
    let dummy = findings(&with("mirror", &format!("{mirror}{lan}")));
    has(&dummy, "notice: <farm> has no effect in a mirror");
    let light = good(&with("light", ""));
    assert_eq!((light.service.mode, light.members.len()), (ServiceMode::Light, 3));
    assert!(light.networks().is_empty());
    has(&findings(&with("frm", "")), "mode=\"frm\" is not allowed (did you mean \"farm\"?)");
}

#[test]
fn virtual_interfaces_of_a_mirror_are_read_as_real_ones_or_refused() {
    let with = |card: &str, place: &str| {
        mirror(&format!(
            "<vip><interface_list><interface><virtual_interface type=\"{card}\"><virtual_addr \
             addr=\"10.0.0.50\" where=\"{place}\"/></virtual_interface></interface>\
             </interface_list></vip>"
        ))
    };
    let config = accepted(&with("vmac_invisible", "one_side_alias")).value;
    assert_eq!(config.interfaces[0].kind, InterfaceKind::Real);
    has(&notices(&with("vmac_invisible", "one_side_alias")), "is read as <real_interface>");
    has(&errors(&with("vmac_directed", "one_side_alias")), "belongs to a farm");
    has(&errors(&with("vmac_invisible", "alias")), "where=\"alias\" belongs to a farm");
    let group = format!("<group name=\"g\">{RULE}</group>");
    let real = directed(&group).replace("virtual_interface", "real_interface");
    has(&findings(&real.replace(" type=\"vmac_directed\"", "")), "belongs to a mirror");
    let one = directed(&group).replace("\"alias\"", "\"one_side_alias\"");
    has(&findings(&one), "where=\"one_side_alias\" belongs to a mirror");
}

#[test]
fn an_interface_with_real_and_virtual_addresses_counts_as_several() {
    let groups = format!("<group name=\"g\">{RULE}</group>");
    let second = "</virtual_interface><virtual_interface type=\"vmac_invisible\"><virtual_addr \
                  addr=\"10.0.0.51\"/></virtual_interface>";
    let text = farm("name=\"eth0\"", "type=\"vmac_directed\"", &groups)
        .replace("</virtual_interface>", second);
    let config = good(&text);
    let addresses: Vec<&VirtualAddrConfig> =
        config.interfaces.iter().flat_map(|i| &i.addresses).collect();
    assert_eq!((config.interfaces.len(), addresses.len()), (2, 2));
    assert!(config.interfaces.iter().all(|i| i.name.as_deref() == Some("eth0")));
}

#[test]
fn a_mirror_of_a_larger_cluster_has_the_two_nodes_of_its_networks() {
    let with = |lan: &str, service: &str| {
        format!(
            "<safe><service mode=\"mirror\" {service}><heart><heartbeat name=\"{lan}\"/></heart>\
             <user/></service></safe>"
        )
    };
    assert_eq!(good(&with("ab", "")).members, [NodeId(0), NodeId(1)]);
    has(
        &findings(&with("default", "")),
        "a mirror needs exactly 2 nodes, the network default has 3 (name a <lan> of cluster.xml",
    );
    has(&findings(&with("ab", "defaultprim=\"c\"")), "\"c\" is not a node of this module");
    let both = with("ab", "").replace("</heart>", "<heartbeat name=\"default\"/></heart>");
    has(&findings(&both), "network default contains node c, which is not");
}
