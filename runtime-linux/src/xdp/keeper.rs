//! The thread that looks after filters: learns the Ethernet addresses of the other nodes, counts
//! connections, notices a filter that somebody took away.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, ToSocketAddrs},
    sync::Arc,
    time::{Duration, Instant},
};

use havre_core::{
    farm::{
        hash::{Client, bucket},
        set::BucketSet,
        table::{FilterNews, FilterTable},
    },
    ids::{ModuleId, NodeId},
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tracing::{info, warn};

use super::filters::{LOOK, Shared};
use crate::{
    arp::Mac,
    interface::{self, Interface},
    netlink::{Family, Netlink},
    tcp_reset::{Connection, connections_of},
    vip::detect::{Look, claimant},
};

/// How often a known Ethernet address is asked for again.
const REFRESH: Duration = Duration::from_secs(10);

/// The keeper's own things.
pub(super) struct Keeper {
    shared: Arc<Shared>,
    asked: BTreeMap<(u32, NodeId), Instant>,
    look_at: Instant,
}

/// A node to be asked for on an interface.
struct Question {
    interface: Interface,
    node: NodeId,
    name: String,
    addrs: Vec<String>,
}

impl Keeper {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, asked: BTreeMap::new(), look_at: Instant::now() + LOOK }
    }

    pub(super) fn run(mut self) {
        while !self.shared.state().closing {
            self.learn();
            if Instant::now() >= self.look_at {
                self.look_at = Instant::now() + LOOK;
                self.look();
            }
            self.sleep();
        }
    }

    fn sleep(&self) {
        let limit = if self.shared.state().modules.is_empty() {
            None
        } else {
            let rest = self.look_at.saturating_duration_since(Instant::now());
            Some(Timespec::try_from(rest).expect("at most a second"))
        };
        let mut fds = [PollFd::new(&self.shared.waker, PollFlags::IN)];
        if let Err(error) = poll(&mut fds, limit.as_ref())
            && error != rustix::io::Errno::INTR
        {
            warn!(%error, "the keeper of packet filters cannot sleep");
            std::thread::sleep(LOOK);
        }
        self.shared.waker.reset();
    }

    /// Asks for nodes whose Ethernet address is not known or was asked for long ago.
    fn learn(&mut self) {
        let now = Instant::now();
        for question in self.questions() {
            let place = (question.interface.index, question.node);
            let known = self.shared.state().macs.contains_key(&place);
            let due = self.asked.get(&place).is_none_or(|at| now >= *at + REFRESH);
            if known && !due {
                continue;
            }
            self.asked.insert(place, now);
            let Some(mac) = ask(&question) else { continue };
            let mut state = self.shared.state();
            if !state.interfaces.contains_key(&place.0) {
                continue;
            }
            if state.macs.insert(place, mac) != Some(mac) {
                let interface = &question.interface.name;
                info!(node = question.name, interface, mac = mac_text(mac), "node found");
                if let Err(error) = state.apply(place.0) {
                    warn!(interface, error, "the packet filter cannot be told");
                }
            }
        }
    }

    fn questions(&self) -> Vec<Question> {
        let state = self.shared.state();
        let mut questions = Vec::new();
        for placed in state.modules.values() {
            for index in &placed.places {
                let Some(card) = state.interfaces.get(index) else { continue };
                for (slot, member) in placed.table.members.iter().enumerate() {
                    if slot == usize::from(placed.table.local.0) || !member.live {
                        continue;
                    }
                    questions.push(Question {
                        interface: card.interface.clone(),
                        node: member.node,
                        name: member.name.clone(),
                        addrs: member.addrs.clone(),
                    });
                }
            }
        }
        questions
    }

    /// Looks at connections and at the attachments.
    fn look(&self) {
        let tables: Vec<(ModuleId, FilterTable)> = {
            let state = self.shared.state();
            state.modules.iter().map(|(id, placed)| (*id, placed.table.clone())).collect()
        };
        for (module, table) in tables {
            let news = match self.broken(module) {
                Some(error) => FilterNews::Failed { error },
                None => match count(&table) {
                    Ok(news) => news,
                    Err(error) => {
                        warn!(%error, "connections cannot be counted");
                        continue;
                    }
                },
            };
            self.shared.tell.tell(module, news);
        }
    }

    /// Why a module's filter works no more.
    fn broken(&self, module: ModuleId) -> Option<String> {
        let state = self.shared.state();
        let placed = state.modules.get(&module)?;
        let mut netlink = Netlink::open(Family::Route).ok()?;
        let present = interface::interfaces(&mut netlink).ok()?;
        for index in &placed.places {
            let card = state.interfaces.get(index)?;
            let name = &card.interface.name;
            let Some(found) = present.iter().find(|i| i.index == *index) else {
                return Some(format!("the interface {name} is gone"));
            };
            if found.xdp.is_none() {
                return Some(format!("the packet filter on {name} was taken away"));
            }
        }
        None
    }
}

/// Asks for a node under each of its addresses.
fn ask(question: &Question) -> Option<Mac> {
    for text in &question.addrs {
        let Ok(found) = (text.as_str(), 0).to_socket_addrs() else { continue };
        for addr in found {
            if let Ok(Some(mac)) = claimant(&question.interface, addr.ip(), Look::Thorough) {
                return Some(mac);
            }
        }
    }
    None
}

fn mac_text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// The connections that stand here, and in which buckets of others.
fn count(table: &FilterTable) -> io::Result<FilterNews> {
    let mut foreign = vec![BucketSet::EMPTY; table.groups.len()];
    let mut established = 0;
    let addresses = table.interfaces.iter().flat_map(|interface| &interface.addresses);
    for addr in addresses.map(|a| a.addr) {
        for connection in connections_of(addr)? {
            established += 1;
            let Some((group, number)) = bucket_of(table, addr, &connection) else { continue };
            let line = table.groups.get(usize::from(group));
            let owner = line.and_then(|line| line.buckets.get(usize::from(number)));
            if owner.is_some_and(|entry| entry.owner != Some(table.local)) {
                foreign[usize::from(group)].insert(number);
            }
        }
    }
    Ok(FilterNews::Connections { table: table.number, established, foreign })
}

/// Group and bucket of a connection to a virtual address.
fn bucket_of(table: &FilterTable, vip: IpAddr, connection: &Connection) -> Option<(u8, u8)> {
    use havre_core::config::module::RuleProtocol;
    let rule = table.rules.iter().find(|rule| {
        rule.rule.protocol == RuleProtocol::Tcp
            && rule.rule.addr.is_none_or(|only| only == vip)
            && rule.rule.port.is_none_or(|only| only == connection.local_port)
    })?;
    let client = Client { addr: connection.peer, port: connection.peer_port, ipid: 0 };
    Some((rule.group, bucket(rule.rule.filter, client)))
}
