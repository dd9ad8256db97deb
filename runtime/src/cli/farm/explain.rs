//! `havre farm explain`: which node takes a client. The applied configuration says which packets
//! there may be, the daemon which node its packet filter gives them to.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    process::ExitCode,
};

use anyhow::{Context, Result, bail};
use clap::Args;
use havre_core::{
    config::module::{ModuleConfig, RuleConfig, RuleFilter, RuleProtocol},
    farm::{
        explain::{Explanation, Question},
        hash::Client,
    },
    ids::NodeId,
};
use serde::Serialize;

use super::{super::ModuleArg, Target, farm_of, meant, print, with_client};
use crate::{cluster::Membership, modules::Modules};

#[derive(Debug, Args)]
pub(in super::super) struct ExplainArgs {
    #[command(flatten)]
    module: ModuleArg,
    /// The client's address, with its port where rules share by it: IP, IP:PORT or [IPv6]:PORT.
    #[arg(value_name = "CLIENT_IP[:PORT]", value_parser = client_named)]
    client: (IpAddr, Option<u16>),
    /// Only for this virtual address.
    #[arg(long, value_name = "ADDRESS")]
    to: Option<IpAddr>,
    /// Only for this destination port.
    #[arg(long)]
    port: Option<u16>,
    /// For programs.
    #[arg(long)]
    json: bool,
}

fn client_named(text: &str) -> Result<(IpAddr, Option<u16>), String> {
    if let Ok(addr) = text.parse::<IpAddr>() {
        return Ok((addr, None));
    }
    match text.parse::<SocketAddr>() {
        Ok(client) => Ok((client.ip(), Some(client.port()))),
        Err(_) => Err("write 192.0.2.7, 192.0.2.7:51324 or [2001:db8::7]:51324".to_owned()),
    }
}

/// What becomes of the client's packets to one destination.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Line {
    to: IpAddr,
    protocol: &'static str,
    port: Option<u16>,
    group: Option<String>,
    bucket: Option<u8>,
    node: Option<String>,
    why: String,
}

pub(super) fn run(target: &Target, args: &ExplainArgs) -> Result<ExitCode> {
    let lines = with_client(target, async |client| {
        let name = meant(&client, &args.module).await?;
        let farm = farm_of(&client, &name).await?;
        let name_of = |node: NodeId| {
            let member = farm.members.iter().find(|member| member.node == node);
            member.map(|member| member.name.clone())
        };
        let config = config_of(&target.state_dir, &name)?;
        let mut lines = Vec::new();
        for (to, rule) in destinations(&config, args) {
            let (addr, port) = args.client;
            let question = Question {
                client: Client { addr, port: port.unwrap_or_default(), ipid: 0 },
                addr: to,
                protocol: rule.protocol,
                port: rule.port.or(args.port).unwrap_or_default(),
            };
            let explained = client.explain(&name, question).await?;
            let owner = owner(&explained.explanation, &config, &farm.groups);
            let mut line = line_of(to, &rule, args, &explained.explanation, explained.words);
            if line.bucket.is_some() {
                line.node = owner.and_then(name_of);
            }
            lines.push(line);
        }
        if lines.is_empty() {
            bail!("{name} shares nothing that this client could reach: see <loadbalancing_list>");
        }
        Ok(lines)
    })?;
    if args.json {
        print(&(serde_json::to_string_pretty(&lines)? + "\n"))?;
    } else {
        for line in lines {
            let port = line.port.map_or("any port".to_owned(), |port| format!("port {port}"));
            print(&format!("{} {} {port}: {}\n", line.to, line.protocol, line.why))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The applied configuration, which is the same on every node that shares.
fn config_of(state_dir: &Path, name: &str) -> Result<ModuleConfig> {
    let membership = Membership::load(state_dir)?;
    let modules = Modules::of(state_dir).active(membership.config())?;
    let found = modules.into_values().find(|module| module.name == name);
    Ok(found.with_context(|| format!("module \"{name}\" is not active here"))?.config)
}

/// Every virtual address that the client could reach, with every rule for it.
fn destinations(config: &ModuleConfig, args: &ExplainArgs) -> Vec<(IpAddr, RuleConfig)> {
    let addresses = config.interfaces.iter().flat_map(|interface| &interface.addresses);
    let reachable = |addr: &IpAddr| {
        addr.is_ipv4() == args.client.0.is_ipv4() && args.to.is_none_or(|to| to == *addr)
    };
    let rules: Vec<RuleConfig> =
        config.farm.iter().flat_map(|farm| &farm.groups).flat_map(|g| g.rules.clone()).collect();
    let mut found = Vec::new();
    for addr in addresses.map(|address| address.addr).filter(reachable) {
        let fits = |rule: &&RuleConfig| {
            rule.addr.is_none_or(|own| own == addr)
                && (rule.port.is_none() || args.port.is_none() || rule.port == args.port)
        };
        found.extend(rules.iter().filter(fits).map(|rule| (addr, *rule)));
    }
    found
}

/// Who owns the bucket of an explanation.
fn owner(
    explanation: &Explanation,
    config: &ModuleConfig,
    groups: &[havre_core::status::GroupStatus],
) -> Option<NodeId> {
    let Explanation::Shared { group, bucket, owner, .. } = explanation else { return None };
    match owner {
        Some(slot) => config.members.get(usize::from(slot.0)).copied(),
        None => {
            let group = groups.iter().find(|status| status.name == *group)?;
            *group.owners.get(usize::from(*bucket))?
        }
    }
}

fn line_of(
    to: IpAddr,
    rule: &RuleConfig,
    args: &ExplainArgs,
    explanation: &Explanation,
    words: String,
) -> Line {
    let protocol = match rule.protocol {
        RuleProtocol::Tcp => "tcp",
        RuleProtocol::Udp => "udp",
        RuleProtocol::Arp => "arp",
    };
    let port = rule.port.or(args.port);
    let mut line = Line { to, protocol, port, group: None, bucket: None, node: None, why: words };
    if let Explanation::Shared { group, criterion, bucket, .. } = explanation {
        line.group = Some(group.clone());
        match criterion {
            RuleFilter::OnPort if args.client.1.is_none() => {
                line.why = format!("group {group} shares by the client's port: give IP:PORT");
            }
            RuleFilter::OnIpid => {
                line.why = format!("group {group} shares by each packet's identification");
            }
            _ => line.bucket = Some(*bucket),
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_addresses_with_or_without_a_port() {
        assert_eq!(client_named("192.0.2.7"), Ok(("192.0.2.7".parse().expect("good"), None)));
        let with_port = client_named("[2001:db8::7]:80").expect("good");
        assert_eq!(with_port, ("2001:db8::7".parse().expect("good"), Some(80)));
        assert!(client_named("192.0.2.7:x").is_err());
    }

    #[test]
    fn a_rule_by_port_names_no_node_without_the_clients_port() {
        let rule = RuleConfig {
            addr: None,
            port: Some(80),
            protocol: RuleProtocol::Tcp,
            filter: RuleFilter::OnPort,
        };
        let explanation = Explanation::Shared {
            group: "web".to_owned(),
            criterion: RuleFilter::OnPort,
            bucket: 9,
            owner: None,
            holders: havre_core::farm::MemberSet::EMPTY,
        };
        let mut args = ExplainArgs {
            module: ModuleArg { module: None },
            client: ("192.0.2.7".parse().expect("good"), None),
            to: None,
            port: None,
            json: false,
        };
        let to = "192.0.2.100".parse().expect("good");
        let line = line_of(to, &rule, &args, &explanation, "node1".to_owned());
        assert_eq!((line.bucket, line.port), (None, Some(80)));
        assert!(line.why.contains("give IP:PORT"), "{line:?}");
        args.client.1 = Some(5);
        let line = line_of(to, &rule, &args, &explanation, "node1".to_owned());
        assert_eq!((line.bucket, line.why.as_str()), (Some(9), "node1"));
    }
}
