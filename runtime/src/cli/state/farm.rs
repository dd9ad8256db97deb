//! The part of `havre state` that shows how a farm shares its clients.

use std::fmt::Write as _;

use havre_core::{
    ids::NodeId,
    status::{Drain, FarmStatus, GroupStatus, Standing},
};

use super::line;

/// Buckets of a group.
const BUCKETS: u32 = 256;

/// The members and this node's share of each group.
pub(super) fn describe(text: &mut String, farm: &FarmStatus) {
    for group in &farm.groups {
        let withheld = match group.withheld {
            0 => String::new(),
            count => format!(", {count} not taken yet: another node must let go first"),
        };
        line(text, format_args!("  share          {}{withheld}", share(group)));
    }
    for member in &farm.members {
        let leads = if farm.leader == Some(member.node) { ", leads" } else { "" };
        let remedy = match member.standing {
            Standing::OtherConfiguration => ": install the same module there",
            _ => "",
        };
        line(
            text,
            format_args!("  member         {} {}{remedy}{leads}", member.name, member.standing),
        );
    }
    match farm.drain {
        Drain::No => {}
        Drain::Under => {
            let count = farm.connections;
            line(text, format_args!("  drained        takes no new clients, {count} connections"));
        }
        Drain::Done => line(text, format_args!("  drained        no connection is left")),
    }
}

/// Who owns what.
pub(super) fn details(text: &mut String, farm: &FarmStatus) {
    let open = if farm.open { "taken" } else { "not taken" };
    line(text, format_args!("  new clients    {open}"));
    line(text, format_args!("  connections    {}", farm.connections));
    for group in &farm.groups {
        for member in &farm.members {
            let ranges = ranges(group, Some(member.node));
            if !ranges.is_empty() {
                let name = &group.name;
                line(text, format_args!("  buckets        {name} {}: {ranges}", member.name));
            }
        }
        let nobody = ranges(group, None);
        if !nobody.is_empty() {
            line(text, format_args!("  buckets        {} nobody: {nobody}", group.name));
        }
    }
}

/// `web 128/256 50%`
fn share(group: &GroupStatus) -> String {
    let percent = u32::from(group.share) * 100 / BUCKETS;
    format!("{} {}/{BUCKETS} {percent}%", group.name, group.share)
}

/// The buckets of an owner, neighbours joined: `0-41 128 200-255`.
fn ranges(group: &GroupStatus, owner: Option<NodeId>) -> String {
    let mut text = String::new();
    let mut bucket = 0;
    while bucket < group.owners.len() {
        let run = group.owners[bucket..].iter().take_while(|other| **other == owner).count();
        if run > 0 {
            let blank = if text.is_empty() { "" } else { " " };
            write!(text, "{blank}{bucket}").expect("writing to a string cannot fail");
            if run > 1 {
                write!(text, "-{}", bucket + run - 1).expect("writing to a string cannot fail");
            }
        }
        bucket += run.max(1);
    }
    text
}

#[cfg(test)]
mod tests {
    use havre_core::{
        status::{MemberStatus, Phase, State},
        time::Instant,
    };

    use super::*;
    use crate::{
        admin::Snapshot,
        cli::{samples::node_status, state::text_of},
    };

    fn member(node: u16, standing: Standing) -> MemberStatus {
        MemberStatus { node: NodeId(node), name: format!("node{}", node + 1), standing }
    }

    fn farm() -> FarmStatus {
        let owners = (0..256u16).map(|n| match n {
            7 => None,
            n if n < 128 => Some(NodeId(0)),
            _ => Some(NodeId(1)),
        });
        FarmStatus {
            leader: Some(NodeId(1)),
            members: vec![
                member(0, Standing::Sharing),
                member(1, Standing::Sharing),
                member(2, Standing::OtherConfiguration),
            ],
            groups: vec![GroupStatus {
                name: "web".to_owned(),
                share: 127,
                owners: owners.collect(),
                withheld: 2,
            }],
            open: true,
            drain: Drain::Under,
            connections: 5,
        }
    }

    #[test]
    fn a_farm_shows_its_share_its_members_and_who_owns_each_bucket() {
        let mut node = node_status(&["web"]);
        let module = &mut node.modules[0];
        (module.state, module.phase, module.farm) = (State::Up, Phase::Ready, Some(farm()));
        let snapshot = Snapshot::of(Instant::from_millis(70_000), node);
        let text = text_of(&snapshot, true, false);
        for part in [
            "web              UP Ready\n",
            "  share          web 127/256 49%, 2 not taken yet: another node must let go first\n",
            "  member         node1 sharing\n",
            "  member         node2 sharing, leads\n",
            "  member         node3 other configuration: install the same module there\n",
            "  drained        takes no new clients, 5 connections\n",
            "  buckets        web node1: 0-6 8-127\n",
            "  buckets        web node2: 128-255\n",
            "  buckets        web nobody: 7\n",
        ] {
            assert!(text.contains(part), "{part:?} is missing in:\n{text}");
        }
        assert!(!text.contains("up to date"), "a farm replicates nothing:\n{text}");
    }
}
