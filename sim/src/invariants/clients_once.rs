//! No new client is taken by two nodes of a farm that hear each other.
//!
//! Judged on the filters as they stand, bucket by bucket, whenever one changes, and on the clients
//! that come. Two nodes that did not hear each other until a moment ago may both serve everything:
//! that is what isolation means. A node that merely slept is not excused.

use std::time::Duration;

use crate::{expect::Property, fact::Fact, net::HostId, oracle::Cx};

use super::Invariant;

pub(super) struct ClientsOnce;

/// Nodes agree within this time once they hear each other.
pub(super) fn agreed_after(cx: &Cx<'_>) -> Duration {
    cx.setup.leader_timeout() * 2 + Duration::from_secs(1)
}

fn judge(host: HostId, cx: &mut Cx<'_>) {
    let own = cx.world.taken(host);
    if own.is_empty() {
        return;
    }
    for other in cx.setup.nodes().into_iter().filter(|other| *other != host) {
        if cx.world.joined_for(host, other) < agreed_after(cx) {
            continue;
        }
        let theirs = cx.world.taken(other);
        let shared = own.iter().filter(|bucket| theirs.contains(*bucket)).count();
        if shared > 0 {
            let text = format!("{host} and {other} take clients of the same {shared} buckets");
            return cx.violated(Property::ClientsOnce, text);
        }
    }
}

impl Invariant for ClientsOnce {
    fn property(&self) -> Property {
        Property::ClientsOnce
    }

    fn observe(&mut self, fact: &Fact, cx: &mut Cx<'_>) {
        match fact {
            Fact::Filtered(host) | Fact::Resumed(host) => judge(*host, cx),
            Fact::Taken(_, hosts) if hosts.len() > 1 => judge(hosts[0], cx),
            _ => {}
        }
    }
}
