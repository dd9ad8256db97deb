//! The checkers that virtual addresses bring with them: `intf.NETWORK` and `ip.ADDRESS`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{
    CheckAction, CheckerConfig, CheckerKind, Class,
    check::{INTERVAL, TIMEOUT},
};
use crate::config::module::{InterfaceConfig, ServiceMode, VirtualAddrConfig};

pub(super) fn generated(mode: ServiceMode, interfaces: &[InterfaceConfig]) -> Vec<CheckerConfig> {
    let mut found: Vec<CheckerConfig> = Vec::new();
    for interface in interfaces {
        for address in &interface.addresses {
            let card = interface.check.then(|| CheckerConfig {
                ident: network(interface, address),
                when: Class::Pre,
                action: CheckAction::Wait,
                shared: false,
                interval: INTERVAL,
                timeout: TIMEOUT,
                kind: CheckerKind::Interface { local_addr: address.addr },
            });
            let own = address.check.then(|| CheckerConfig {
                ident: address.addr.to_string(),
                when: if mode == ServiceMode::Mirror { Class::Prim } else { Class::Both },
                action: CheckAction::StopStart,
                shared: false,
                interval: INTERVAL,
                timeout: TIMEOUT,
                kind: CheckerKind::Address { addr: address.addr.to_string() },
            });
            for checker in card.into_iter().chain(own) {
                if !found.iter().any(|earlier| earlier.resource() == checker.resource()) {
                    found.push(checker);
                }
            }
        }
    }
    found
}

/// The address of the network, such as `192.168.0.0`; where the file does not tell its length, the
/// name of the card, or else the address itself.
fn network(interface: &InterfaceConfig, address: &VirtualAddrConfig) -> String {
    match (address.addr, address.prefix, &interface.name) {
        (IpAddr::V4(addr), Some(prefix), _) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
            Ipv4Addr::from(u32::from(addr) & mask).to_string()
        }
        (IpAddr::V6(addr), Some(prefix), _) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0);
            Ipv6Addr::from(u128::from(addr) & mask).to_string()
        }
        (_, None, Some(card)) => card.clone(),
        (addr, None, None) => addr.to_string(),
    }
}
