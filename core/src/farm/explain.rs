//! Which node takes a client, and why: the answer of `havre farm explain`. Pure, and by the same
//! hash as the packet filter.

use std::{fmt, net::IpAddr};

use serde::{Deserialize, Serialize};

use super::{
    MemberSet, Slot,
    hash::{Client, bucket},
    table::FilterTable,
};
use crate::config::module::{RuleFilter, RuleProtocol};

/// A packet of a client to a virtual address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// Where it comes from.
    pub client: Client,
    /// Where it goes.
    pub addr: IpAddr,
    /// Its protocol.
    pub protocol: RuleProtocol,
    /// Its destination port; 0 for ARP.
    pub port: u16,
}

/// Who takes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Explanation {
    /// The destination is no virtual address of the farm: the filter lets it pass.
    NotVirtual,
    /// No rule matches: denied.
    Denied,
    /// A rule matches.
    Shared {
        /// Name of the group.
        group: String,
        /// By what the rule shares.
        criterion: RuleFilter,
        /// The bucket.
        bucket: u8,
        /// Who takes new connections; `None`: nobody at this moment.
        owner: Option<Slot>,
        /// Who may have established connections besides.
        holders: MemberSet,
    },
}

/// Looks a packet up in the table of the filter.
pub fn explain(table: &FilterTable, question: Question) -> Explanation {
    let mut addresses = table.interfaces.iter().flat_map(|interface| &interface.addresses);
    if !addresses.any(|virtual_ip| virtual_ip.addr == question.addr) {
        return Explanation::NotVirtual;
    }
    let matches = |line: &&super::table::FilterRule| {
        line.rule.protocol == question.protocol
            && line.rule.addr.is_none_or(|addr| addr == question.addr)
            && line.rule.port.is_none_or(|port| port == question.port)
    };
    let Some(line) = table.rules.iter().find(matches) else { return Explanation::Denied };
    let Some(group) = table.groups.get(usize::from(line.group)) else { return Explanation::Denied };
    let bucket = bucket(line.rule.filter, question.client);
    let share = group.buckets.get(usize::from(bucket)).copied().unwrap_or_default();
    Explanation::Shared {
        group: group.name.clone(),
        criterion: line.rule.filter,
        bucket,
        owner: share.owner,
        holders: share.holders,
    }
}

impl Explanation {
    /// In words, with the members' names.
    pub fn words(&self, table: &FilterTable) -> String {
        let name = |slot: Slot| {
            let member = table.members.get(usize::from(slot.0));
            member.map_or("?", |member| member.name.as_str())
        };
        match self {
            Self::NotVirtual => "no virtual address of this farm: not filtered".to_owned(),
            Self::Denied => "denied: no rule matches".to_owned(),
            Self::Shared { group, criterion, bucket, owner, holders } => {
                let owner = owner.map_or("nobody takes it now", name);
                let by = Criterion(*criterion);
                let mut words = format!("{owner}: bucket {bucket} of group {group}, by {by}");
                if !holders.is_empty() {
                    let names: Vec<_> = holders.iter().map(name).collect();
                    words += &format!("; established connections may be on {}", names.join(", "));
                }
                words
            }
        }
    }
}

struct Criterion(RuleFilter);

impl fmt::Display for Criterion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            RuleFilter::OnAddr => "client address",
            RuleFilter::OnPort => "client address and port",
            RuleFilter::OnIpid => "identification of the packet",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::module::{InterfaceKind, RuleConfig},
        farm::{
            BUCKETS,
            table::{FilterBucket, FilterGroup, FilterInterface, FilterMember, FilterRule},
        },
        ids::NodeId,
        status::VirtualIp,
    };

    fn table() -> FilterTable {
        let member = |node: u16| FilterMember {
            node: NodeId(node),
            name: format!("node{}", node + 1),
            addrs: Vec::new(),
            live: true,
        };
        let address = VirtualIp {
            addr: "10.0.0.100".parse().expect("an address"),
            prefix: None,
            interface: None,
            shared: true,
        };
        let half = |number: usize| FilterBucket {
            owner: Some(Slot(u8::from(number >= 128))),
            holders: MemberSet(u64::from(number < 128) << 1),
        };
        let rule = RuleConfig {
            addr: None,
            port: Some(80),
            protocol: RuleProtocol::Tcp,
            filter: RuleFilter::OnAddr,
        };
        FilterTable {
            number: 1,
            local: Slot(0),
            members: vec![member(0), member(1)],
            leader: None,
            interfaces: vec![FilterInterface {
                name: None,
                kind: InterfaceKind::VmacDirected,
                addresses: vec![address],
            }],
            rules: vec![FilterRule { rule, group: 0 }],
            groups: vec![FilterGroup {
                name: "web".to_owned(),
                buckets: (0..BUCKETS).map(half).collect(),
            }],
            keep_established: true,
            draining: false,
            until: None,
        }
    }

    fn ask(from: &str, to: &str, port: u16) -> String {
        let question = Question {
            client: Client { addr: from.parse().expect("an address"), port: 5, ipid: 0 },
            addr: to.parse().expect("an address"),
            protocol: RuleProtocol::Tcp,
            port,
        };
        explain(&table(), question).words(&table())
    }

    #[test]
    fn a_client_is_named_its_node_and_the_reason() {
        let words: std::collections::BTreeSet<_> =
            (1..50).map(|n| ask(&format!("192.0.2.{n}"), "10.0.0.100", 80)).collect();
        let of = |name: &str| words.iter().filter(|line| line.starts_with(name)).count();
        assert!(of("node1: bucket ") > 5 && of("node2: bucket ") > 5, "{words:?}");
        assert!(words.iter().any(|line| line.ends_with(
            " of group web, by client address; established connections may be on node2"
        )));
    }

    #[test]
    fn what_is_not_shared_says_why() {
        assert_eq!(ask("192.0.2.1", "10.0.0.100", 22), "denied: no rule matches");
        let passed = ask("192.0.2.1", "10.0.0.1", 80);
        assert_eq!(passed, "no virtual address of this farm: not filtered");
    }
}
