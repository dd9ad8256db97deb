//! Events in the words of the module log (reference: safekit.md section 6.5).

use std::borrow::Cow;

use havre_core::{
    event::{Action, Actor, Cause, Event, EventKind, Level},
    status::WaitReason,
};

/// Names that texts need and events do not carry.
#[derive(Debug, Clone, Default)]
pub struct Names {
    /// Names of the nodes, in the order of their ids.
    pub nodes: Vec<String>,
}

impl Names {
    fn node(&self, node: havre_core::ids::NodeId) -> &str {
        if node == havre_core::ids::NodeId::WITNESS {
            return "witness";
        }
        self.nodes.get(usize::from(node.0)).map_or("?", String::as_str)
    }
}

/// The letter of a level.
pub const fn letter(level: Level) -> char {
    match level {
        Level::Debug => 'D',
        Level::Info => 'I',
        Level::Script => 'S',
        Level::Event => 'E',
        Level::Warning => 'W',
        Level::Critical => 'C',
    }
}

/// The part of Havre that an event comes from, in the words of the log.
pub const fn source(event: &Event) -> &'static str {
    match &event.kind {
        EventKind::LinkChanged { .. } | EventKind::RemoteChanged { .. } => "heart",
        EventKind::Detected(_) => "errd",
        EventKind::ResourceChanged { .. } => "checks",
        EventKind::ScriptStarted { .. } | EventKind::ScriptEnded { .. } => "userplug",
        EventKind::AddressChanged { .. } => "vipplug",
        EventKind::ResyncStarted { .. } | EventKind::ResyncEnded { .. } => "reintegre",
        EventKind::ReplicationLost { .. } => "rfsplug",
        EventKind::RightObtained { .. } | EventKind::RightLost => "quorum",
        EventKind::FarmChanged { .. }
        | EventKind::ShareChanged { .. }
        | EventKind::TrafficChanged { .. }
        | EventKind::MemberRefused { .. }
        | EventKind::Drained => "vipd",
        _ => "havre",
    }
}

const fn action_word(action: Action) -> &'static str {
    match action {
        Action::Start => "start",
        Action::Prim => "prim",
        Action::Second => "second",
        Action::Alone => "alone",
        Action::Wait => "wait",
        Action::Wakeup => "wakeup",
        Action::Stop => "stop",
        Action::ForceStop => "forcestop",
        Action::Restart => "restart",
        Action::StopStart => "stopstart",
        Action::Swap => "swap",
        Action::Reboot => "reboot",
        Action::Drain => "drain",
        Action::Undrain => "undrain",
    }
}

/// Who ordered an action, with the word that leads to it.
fn ordered_by(actor: &Actor) -> Cow<'static, str> {
    let words = match actor {
        Actor::Administrator => "called by root",
        Actor::Boot => "called at boot time",
        Actor::NoHeartbeat => "called by heart: no heartbeat",
        Actor::RemoteStop => "called by heart: remote stop",
        Actor::FailoverOff => "called by failover-off",
        Actor::DefaultPrimary => "called by defaultprim",
        Actor::Fencing => "called by quorum: right to run lost",
        Actor::SplitBrain => "called by heart: split brain",
        Actor::Automatic => "called automatically",
        Actor::Retry => "called automatically by maxloop_retry",
        Actor::Rule(rule) => return format!("from failover rule {rule}").into(),
        Actor::Detected(cause) => {
            let who = match &cause.rule {
                Some(rule) => format!("from failover rule {rule}"),
                None => format!("called by {}", cause.detector),
            };
            return format!("{who}{}", because(cause)).into();
        }
        Actor::MaxLoop(cause) => return format!("called by maxloop{}", because(cause)).into(),
    };
    words.into()
}

/// What decided, and how often something was found so far.
fn because(cause: &Cause) -> String {
    let resources = cause.resources.join(", ");
    let colon = if resources.is_empty() { "" } else { ": " };
    match (cause.count, cause.max) {
        (0, _) => format!("{colon}{resources}"),
        (count, max) => format!("{colon}{resources} (loop {count}, maxloop {max})"),
    }
}

/// The text of an event.
pub fn text(event: &Event, names: &Names) -> String {
    match &event.kind {
        EventKind::StateChanged { to, reason, .. } => {
            let state = format!("Local state {} {}", to.0, to.1);
            if reason.is_empty() { state } else { format!("{state} ({reason})") }
        }
        EventKind::RemoteChanged { to: Some(to) } => format!("Remote state {} {}", to.0, to.1),
        EventKind::RemoteChanged { to: None } => "Remote state UNKNOWN Unknown".to_owned(),
        EventKind::ActionCalled { action, by } => {
            format!("Action {} {}", action_word(*action), ordered_by(by))
        }
        EventKind::Waiting(reason) => waiting(reason, names),
        EventKind::ScriptStarted { script } => format!("Script {script}"),
        EventKind::ScriptEnded { script, outcome, .. } => format!("Script {script} {outcome}"),
        EventKind::AddressChanged { held: true } => "Virtual IP set".to_owned(),
        EventKind::AddressChanged { held: false } => "Virtual IP removed".to_owned(),
        EventKind::GenerationBegun(generation) => format!("Data generation {generation} begun"),
        EventKind::RightObtained { epoch: Some(epoch) } => format!("Right to run held ({epoch})"),
        EventKind::RightObtained { epoch: None } => "Right to run held".to_owned(),
        EventKind::RightLost => "Right to run lost: stopping the application".to_owned(),
        EventKind::LinkChanged { peer, link, up } => {
            let verb = if *up { "arrive" } else { "are lost" };
            let state = if *up { "up" } else { "down" };
            let peer = names.node(*peer);
            format!(
                "Resource heartbeat.{link} set to {state} by heart: heartbeats of {peer} {verb}"
            )
        }
        EventKind::ResyncStarted { target, full } => {
            let kind = if *full { "full" } else { "changed regions" };
            let whose = if *target { "this copy" } else { "the other node's copy" };
            format!("Reintegration of {whose} started ({kind})")
        }
        EventKind::ResyncEnded { target, bytes_copied } => {
            let whose = if *target { "this copy" } else { "the other node's copy" };
            format!("Reintegration of {whose} ended: {bytes_copied} bytes copied, copies equal")
        }
        EventKind::ReplicationLost { reason } => {
            format!("Replication to the other node stopped, the application goes on: {reason}")
        }
        EventKind::SplitBrain { stays: true } => "Split brain recovery: staying alone".to_owned(),
        EventKind::SplitBrain { stays: false } => "Split brain recovery: exiting alone".to_owned(),
        EventKind::FarmChanged { leader, members } => {
            let words: Vec<_> = members.iter().map(|node| names.node(*node)).collect();
            let leader = leader.map(|leader| format!(" (leader {})", names.node(leader)));
            format!("farm membership: {}{}", words.join(" "), leader.unwrap_or_default())
        }
        EventKind::ShareChanged { group, share } => {
            format!("farm load: {share}/256 (group {group})")
        }
        EventKind::TrafficChanged { open: true } => "Traffic open: new clients taken".to_owned(),
        EventKind::TrafficChanged { open: false } => {
            "Traffic closed: no new clients taken".to_owned()
        }
        EventKind::MemberRefused { peer, local, remote } => format!(
            "{} has another configuration ({remote:016x} there, {local:016x} here) and is not \
             counted: install the same one on all nodes",
            names.node(*peer)
        ),
        EventKind::Drained => "Drained: the last connection has ended".to_owned(),
        EventKind::ResourceChanged { resource, state, by, detail } => {
            let detail = if detail.is_empty() { String::new() } else { format!(": {detail}") };
            format!("Resource {resource} set to {state} by {by}{detail}")
        }
        EventKind::Failure(text) | EventKind::Message(text) | EventKind::Detected(text) => {
            text.clone()
        }
        EventKind::KeptAside(kept) => format!(
            "Split brain: {} entries of this node that differ are kept in {}: compare them with \
             the present data, then remove that directory",
            kept.entries, kept.place
        ),
    }
}

fn waiting(reason: &WaitReason, names: &Names) -> String {
    match reason {
        WaitReason::NotUpToDate => "Data may be not uptodate for replicated directories (wait for \
             the start of the remote server; to run on this copy anyway: stop, then prim)"
            .to_owned(),
        WaitReason::LeaseHeld(node) => {
            let node = names.node(*node);
            format!("Waiting: the witness says that {node} may still be primary")
        }
        other => format!("Waiting: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use havre_core::{
        ids::NodeId,
        status::{KeptAside, Phase, State},
    };

    use super::*;

    #[track_caller]
    fn says(kind: EventKind, expected: &str) {
        let names = Names { nodes: vec!["node1".to_owned(), "node2".to_owned()] };
        assert_eq!(text(&Event { module: None, kind }, &names), expected);
    }

    #[test]
    fn events_speak_the_words_that_operators_know() {
        let to = (State::Prim, Phase::Ready);
        let from = (State::Alone, Phase::Ready);
        says(EventKind::StateChanged { from, to, reason: String::new() }, "Local state PRIM Ready");
        says(EventKind::RemoteChanged { to: None }, "Remote state UNKNOWN Unknown");
        says(
            EventKind::RemoteChanged { to: Some((State::Second, Phase::Transient)) },
            "Remote state SECOND Transient",
        );
        says(
            EventKind::ActionCalled { action: Action::Start, by: Actor::Administrator },
            "Action start called by root",
        );
        says(
            EventKind::ActionCalled { action: Action::Alone, by: Actor::NoHeartbeat },
            "Action alone called by heart: no heartbeat",
        );
        says(
            EventKind::FarmChanged { leader: Some(NodeId(1)), members: vec![NodeId(0), NodeId(1)] },
            "farm membership: node1 node2 (leader node2)",
        );
        says(
            EventKind::ShareChanged { group: "FarmProto".to_owned(), share: 128 },
            "farm load: 128/256 (group FarmProto)",
        );
        says(EventKind::SplitBrain { stays: false }, "Split brain recovery: exiting alone");
        let place = "/data/.havre/diverged/g3.n1.07".to_owned();
        says(
            EventKind::KeptAside(KeptAside { place, entries: 2 }),
            "Split brain: 2 entries of this node that differ are kept in \
             /data/.havre/diverged/g3.n1.07: compare them with the present data, then remove \
             that directory",
        );
        says(
            EventKind::LinkChanged { peer: NodeId(1), link: "flow".to_owned(), up: false },
            "Resource heartbeat.flow set to down by heart: heartbeats of node2 are lost",
        );
    }
}
