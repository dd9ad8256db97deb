//! What happens on the machines, seen from outside: virtual addresses and listening sockets of
//! each node's kernel, and the news in each module's log.
//!
//! Every handle belongs to the network namespace in which it was opened, whatever becomes of the
//! machine; so one thread looks at all of them within microseconds.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::PathBuf,
};

use anyhow::{Context, Result};
use havre_runtime::events::log::Entry;
use havre_sim::{fact::Fact, net::HostId};

use super::stage::{MODULE, PORT, Stage};
use crate::{
    interface,
    netlink::{Family, Netlink},
};

/// State of a listening socket in `/proc/net/tcp` (Linux `include/net/tcp_states.h`).
const LISTEN: &str = "0A";

/// What is looked at, and what was seen last.
#[derive(Debug)]
pub(super) struct Senses {
    nodes: Vec<NodeSenses>,
}

#[derive(Debug)]
struct NodeSenses {
    host: HostId,
    netlink: Netlink,
    sockets: File,
    held: bool,
    listens: bool,
    log: PathBuf,
    read: u64,
}

impl Senses {
    pub(super) fn open(stage: &Stage) -> Result<Self> {
        let nodes = HostId::DATA.iter().map(|host| NodeSenses::open(stage, *host));
        Ok(Self { nodes: nodes.collect::<Result<_>>()? })
    }

    /// What has changed since the last look.
    pub(super) fn look(&mut self, stage: &mut Stage) -> Result<Vec<Fact>> {
        let mut facts = Vec::new();
        for node in &mut self.nodes {
            let held = node.holds()?;
            if held != node.held {
                node.held = held;
                facts.push(if held {
                    Fact::AddressSet(node.host)
                } else {
                    Fact::AddressRemoved(node.host)
                });
            }
            let listens = node.listens()?;
            if listens != node.listens {
                node.listens = listens;
                facts.push(if listens {
                    Fact::AppRuns(node.host)
                } else {
                    Fact::AppStopped(node.host, "it listens no more")
                });
            }
            facts.extend(node.news()?);
        }
        // A machine without power holds nothing; its kernel is only a namespace that remains.
        facts.retain(|fact| match fact {
            Fact::AddressSet(host) | Fact::AppRuns(host) => {
                stage.is_live(*host) || stage.is_frozen(*host)
            }
            _ => true,
        });
        Ok(facts)
    }

    /// Whether the node's kernel has the virtual address.
    pub(super) fn holds_address(&self, host: HostId) -> bool {
        self.nodes.iter().any(|node| node.host == host && node.held)
    }

    /// Whether the application listens on the node.
    pub(super) fn application(&self, host: HostId) -> bool {
        self.nodes.iter().any(|node| node.host == host && node.listens)
    }
}

impl NodeSenses {
    fn open(stage: &Stage, host: HostId) -> Result<Self> {
        let number = stage.node(host);
        let machine = stage.cluster.lab().machine(number);
        let (netlink, sockets) = machine
            .in_network(|| {
                let sockets = File::open("/proc/thread-self/net/tcp")?;
                io::Result::Ok((Netlink::open(Family::Route)?, sockets))
            })
            .context("the node's network")?;
        let log = stage.cluster.state_dir(number).join("log").join(format!("{MODULE}.jsonl"));
        Ok(Self { host, netlink, sockets, held: false, listens: false, log, read: 0 })
    }

    fn holds(&mut self) -> io::Result<bool> {
        let all = interface::addresses(&mut self.netlink)?;
        Ok(all.iter().any(|address| address.addr == Stage::virtual_address()))
    }

    fn listens(&mut self) -> io::Result<bool> {
        let mut text = String::new();
        self.sockets.seek(SeekFrom::Start(0))?;
        self.sockets.read_to_string(&mut text)?;
        let port = format!(":{PORT:04X}");
        // Fields: slot, local address and port, remote address and port, state, ...
        Ok(text.lines().any(|line| {
            let mut fields = line.split_whitespace().skip(1);
            let local = fields.next().unwrap_or_default();
            local.ends_with(&port) && fields.nth(1) == Some(LISTEN)
        }))
    }

    /// Whole lines that were added to the log.
    fn news(&mut self) -> io::Result<Vec<Fact>> {
        let mut file = match File::open(&self.log) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        if file.metadata()?.len() < self.read {
            // It was put aside because it was full; what it held last was read or is lost.
            self.read = 0;
        }
        file.seek(SeekFrom::Start(self.read))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        self.read += whole as u64;
        let entries = bytes[..whole].split(|byte| *byte == b'\n');
        let events = entries.filter_map(|line| serde_json::from_slice::<Entry>(line).ok()?.event);
        Ok(events.map(|event| Fact::News(self.host, event)).collect())
    }
}
