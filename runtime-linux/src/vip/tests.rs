//! Addresses of interfaces: what is found, chosen, claimed and announced.

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn interface(index: u32, name: &str) -> Interface {
    Interface {
        index,
        name: name.to_owned(),
        mac: Some([2, 0, 0, 0, 0, 1]),
        up: true,
        running: true,
        resolves: true,
        xdp: None,
        is_veth: false,
    }
}

fn node() -> (Vec<Interface>, Vec<Address>) {
    let interfaces = vec![interface(1, "eth0"), interface(2, "eth1"), interface(3, "eth2")];
    let addresses = vec![
        Address { index: 1, addr: ip("10.0.0.1"), prefix: 16 },
        Address { index: 2, addr: ip("10.0.7.1"), prefix: 24 },
        Address { index: 3, addr: ip("fd00::1"), prefix: 64 },
    ];
    (interfaces, addresses)
}

fn vip(addr: &str, name: Option<&str>, prefix: Option<u8>) -> VirtualIp {
    VirtualIp { addr: ip(addr), prefix, interface: name.map(str::to_owned), shared: false }
}

#[track_caller]
fn chosen(vip: &VirtualIp) -> (String, u8) {
    let (interfaces, addresses) = node();
    let (interface, address) = choose(&interfaces, &addresses, vip).expect("an interface fits");
    assert_eq!(address.addr, vip.addr);
    assert_eq!(address.index, interface.index);
    (interface.name, address.prefix)
}

#[test]
fn an_address_goes_to_the_interface_with_the_most_specific_network() {
    assert_eq!(chosen(&vip("10.0.7.9", None, None)), ("eth1".to_owned(), 24));
    assert_eq!(chosen(&vip("10.0.8.9", None, None)), ("eth0".to_owned(), 16));
    assert_eq!(chosen(&vip("fd00::9", None, None)), ("eth2".to_owned(), 64));
}

#[test]
fn a_named_interface_and_a_given_prefix_are_obeyed() {
    assert_eq!(chosen(&vip("10.0.7.9", Some("eth0"), None)), ("eth0".to_owned(), 16));
    assert_eq!(chosen(&vip("10.0.7.9", None, Some(32))), ("eth1".to_owned(), 32));
    assert_eq!(chosen(&vip("192.0.2.9", Some("eth0"), None)), ("eth0".to_owned(), 32));
}

#[test]
fn an_address_that_fits_nowhere_is_refused_with_the_remedy() {
    let (interfaces, addresses) = node();
    let error = choose(&interfaces, &addresses, &vip("192.0.2.9", None, None))
        .expect_err("no network contains it");
    assert!(error.to_string().contains("name one with <interface"), "{error}");
    let error = choose(&interfaces, &addresses, &vip("192.0.2.9", Some("wan"), None))
        .expect_err("no such interface");
    assert!(error.to_string().contains("there is no interface wan"), "{error}");
}

#[test]
fn a_leftover_of_the_address_itself_does_not_count_as_its_network() {
    let (interfaces, mut addresses) = node();
    addresses.push(Address { index: 1, addr: ip("10.0.7.9"), prefix: 32 });
    let (interface, address) =
        choose(&interfaces, &addresses, &vip("10.0.7.9", None, None)).expect("eth1 fits");
    assert_eq!((interface.name.as_str(), address.prefix), ("eth1", 24));
}

#[test]
fn settings_follow_the_configuration_of_each_interface() {
    use havre_core::config::module::{InterfaceConfig, InterfaceKind, VirtualAddrConfig};
    let address =
        |text| VirtualAddrConfig { addr: ip(text), prefix: None, check: true, connections: false };
    let with = |arp_reroute, text| InterfaceConfig {
        check: true,
        arp_reroute,
        arp_interval: Duration::from_secs(5),
        arp_elapse: Duration::from_secs(60),
        kind: InterfaceKind::Real,
        name: None,
        addresses: vec![address(text)],
    };
    let reroute = reroute_of(&[with(true, "10.0.0.9"), with(false, "10.0.0.8")]);
    assert_eq!(reroute.len(), 1);
    assert_eq!(reroute[&ip("10.0.0.9")].interval, Duration::from_secs(5));
}
