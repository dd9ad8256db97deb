//! What really happened in a run: effects that were performed, not states that were claimed.
//! The oracle judges these, triggers wait for them, the timeline prints them.

use std::fmt;

use havre_core::{
    effect::{ModuleOrder, ModuleRecord, ScriptName, VolumeNews, VolumeRequest, WitnessRecord},
    event::{Event, EventKind},
};

use crate::{
    disk::{Block, Cut},
    net::HostId,
    plan::Trigger,
};

/// One fact.
#[derive(Debug, Clone, PartialEq)]
pub enum Fact {
    /// A step of the plan was performed.
    Step {
        /// Its position.
        index: usize,
        /// What it says.
        text: String,
    },
    /// The power failed.
    PoweredOff(HostId, Cut),
    /// The daemon died.
    Crashed(HostId),
    /// The daemon started.
    Started(HostId),
    /// The machine stands still.
    Paused(HostId),
    /// It goes on.
    Resumed(HostId),
    /// A script began.
    ScriptBegan(HostId, ScriptName, bool),
    /// A script ended.
    ScriptEnded(HostId, ScriptName, &'static str),
    /// The application may be running from now on.
    AppRuns(HostId),
    /// The application does not run any more, or cannot write any more.
    AppStopped(HostId, &'static str),
    /// The virtual address was set (and announced).
    AddressSet(HostId),
    /// It was announced again.
    Announced(HostId),
    /// The virtual address was removed.
    AddressRemoved(HostId),
    /// Nobody renews the address any more: the kernel removes it soon.
    AddressExpires(HostId),
    /// An administrator gave an order.
    Ordered(HostId, ModuleOrder),
    /// The order was refused.
    Refused(HostId, String),
    /// A node told the world something.
    News(HostId, Event),
    /// A data path was given an order.
    VolumeOrdered(HostId, VolumeRequest),
    /// A data path has news.
    VolumeTold(HostId, VolumeNews),
    /// A node's record is durable.
    Recorded(HostId, ModuleRecord),
    /// What the checks of a node remember is durable.
    ChecksRecorded(HostId),
    /// Something at which checkers look works on this host from now on, or does not.
    Subject(HostId, String, bool),
    /// The witness's record is durable.
    WitnessRecorded(WitnessRecord),
    /// The application wrote a block; not acknowledged yet.
    Submitted(HostId, u64, u64),
    /// The application's barrier returned: these blocks and tags are acknowledged.
    Acked(HostId, Vec<(u64, u64)>),
    /// The client read a block; the last tag is what was acknowledged when it asked.
    Read(HostId, u64, Block, u64),
    /// The packet filter judges by another table.
    Filtered(HostId),
    /// A new client was taken by these nodes.
    Taken(u32, Vec<HostId>),
    /// The filter let a client in, and there is no application.
    TurnedAway(u32, HostId),
    /// A client's connection to the first node was reset by the second.
    Reset(u32, HostId, HostId),
    /// A client's connection ended with the node it was on.
    Lost(u32, HostId),
    /// Both sides of a cut are joined again, or a pause ended; the last fault is over.
    Calm,
}

impl Fact {
    /// The trigger that this fact is, if any.
    pub const fn trigger(&self) -> Option<Trigger> {
        Some(match self {
            Self::AppRuns(_) => Trigger::Promotion,
            Self::AddressSet(_) => Trigger::AddressSet,
            Self::AddressRemoved(_) => Trigger::AddressRemoved,
            Self::Acked(..) => Trigger::Ack,
            Self::Submitted(..) => Trigger::Write,
            Self::Recorded(..) => Trigger::Record,
            Self::ScriptBegan(_, ScriptName::StopPrim, _) => Trigger::StopScript,
            Self::VolumeOrdered(_, VolumeRequest::Follow { .. }) => Trigger::ResyncStarts,
            Self::VolumeOrdered(_, VolumeRequest::Solo { .. }) => Trigger::Solo,
            Self::VolumeTold(_, VolumeNews::CaughtUp { .. }) => Trigger::ResyncEnds,
            Self::News(_, Event { kind: EventKind::RightLost, .. }) => Trigger::RightLost,
            _ => return None,
        })
    }

    /// The host concerned.
    pub fn host(&self) -> Option<HostId> {
        match self {
            Self::PoweredOff(h, _)
            | Self::Crashed(h)
            | Self::Started(h)
            | Self::Paused(h)
            | Self::Resumed(h)
            | Self::ScriptBegan(h, ..)
            | Self::ScriptEnded(h, ..)
            | Self::AppRuns(h)
            | Self::AppStopped(h, _)
            | Self::AddressSet(h)
            | Self::Announced(h)
            | Self::AddressRemoved(h)
            | Self::AddressExpires(h)
            | Self::Ordered(h, _)
            | Self::Refused(h, _)
            | Self::News(h, _)
            | Self::VolumeOrdered(h, _)
            | Self::VolumeTold(h, _)
            | Self::Recorded(h, _)
            | Self::ChecksRecorded(h)
            | Self::Subject(h, ..)
            | Self::Submitted(h, ..)
            | Self::Acked(h, _)
            | Self::Filtered(h)
            | Self::TurnedAway(_, h)
            | Self::Reset(_, _, h)
            | Self::Lost(_, h)
            | Self::Read(h, ..) => Some(*h),
            Self::WitnessRecorded(_) => Some(HostId::W),
            Self::Taken(_, hosts) => hosts.first().copied(),
            Self::Step { .. } | Self::Calm => None,
        }
    }

    /// Whether the timeline for people leaves it out (too frequent).
    pub const fn is_frequent(&self) -> bool {
        matches!(
            self,
            Self::Submitted(..)
                | Self::Acked(..)
                | Self::Read(..)
                | Self::Taken(..)
                | Self::Filtered(_)
                | Self::VolumeTold(_, VolumeNews::Progress(_))
        )
    }

    /// Its kind in one word, for JSON Lines.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Step { .. } => "step",
            Self::PoweredOff(..) => "power-off",
            Self::Crashed(_) => "crash",
            Self::Started(_) => "start",
            Self::Paused(_) => "pause",
            Self::Resumed(_) => "resume",
            Self::ScriptBegan(..) | Self::ScriptEnded(..) => "script",
            Self::AppRuns(_) | Self::AppStopped(..) => "application",
            Self::AddressSet(_)
            | Self::Announced(_)
            | Self::AddressRemoved(_)
            | Self::AddressExpires(_) => "vip",
            Self::Ordered(..) | Self::Refused(..) => "order",
            Self::News(..) => "news",
            Self::VolumeOrdered(..) | Self::VolumeTold(..) => "volume",
            Self::Subject(..) => "subject",
            Self::Recorded(..) | Self::ChecksRecorded(_) | Self::WitnessRecorded(_) => "record",
            Self::Submitted(..) => "write",
            Self::Acked(..) => "ack",
            Self::Read(..) => "read",
            Self::Filtered(_) => "filter",
            Self::Taken(..) | Self::TurnedAway(..) | Self::Reset(..) | Self::Lost(..) => "client",
            Self::Calm => "calm",
        }
    }
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Step { index, text } => write!(f, "step {index}: {text}"),
            Self::PoweredOff(_, cut) => write!(
                f,
                "power off: {} writes lost, {} kept, {} torn",
                cut.lost, cut.kept, cut.torn
            ),
            Self::Crashed(_) => f.write_str("daemon killed"),
            Self::Started(_) => f.write_str("daemon starts"),
            Self::Paused(_) => f.write_str("machine paused"),
            Self::Resumed(_) => f.write_str("machine resumed"),
            Self::ScriptBegan(_, name, false) => write!(f, "{} begins", name.file_name()),
            Self::ScriptBegan(_, name, true) => write!(f, "{} force begins", name.file_name()),
            Self::ScriptEnded(_, name, how) => write!(f, "{} {how}", name.file_name()),
            Self::AppRuns(_) => f.write_str("application runs"),
            Self::AppStopped(_, why) => write!(f, "application stopped: {why}"),
            Self::AddressSet(_) => f.write_str("address set"),
            Self::Announced(_) => f.write_str("address announced"),
            Self::AddressRemoved(_) => f.write_str("address removed"),
            Self::AddressExpires(_) => f.write_str("address no longer renewed"),
            Self::Ordered(_, order) => write!(f, "administrator: {order:?}"),
            Self::Refused(_, why) => write!(f, "refused: {why}"),
            Self::News(_, event) => write!(f, "{:?}", event.kind),
            Self::VolumeOrdered(_, request) => write!(f, "volume <- {request:?}"),
            Self::VolumeTold(_, news) => write!(f, "volume -> {news:?}"),
            Self::Recorded(_, record) => write!(
                f,
                "durable: {} {:?} peer_in_sync={} was_primary={} started={}",
                record.lineage.current.map_or_else(|| "-".into(), |g| g.to_string()),
                record.lineage.copy,
                record.lineage.peer_in_sync,
                record.was_primary,
                record.started
            ),
            Self::ChecksRecorded(_) => f.write_str("durable: what the checks remember"),
            Self::Subject(_, what, works) => {
                write!(f, "{what} {}", if *works { "works" } else { "fails" })
            }
            Self::WitnessRecorded(record) => write!(
                f,
                "durable: {} holder {} {} in sync {:?}",
                record.epoch,
                record.holder.map_or_else(|| "-".into(), |n| n.to_string()),
                record.generation.map_or_else(|| "-".into(), |g| g.to_string()),
                record.in_sync.iter().map(|n| n.0).collect::<Vec<_>>()
            ),
            Self::Submitted(_, block, tag) => write!(f, "write {tag} to block {block}"),
            Self::Acked(_, writes) => write!(f, "acknowledged {writes:?}"),
            Self::Read(_, block, content, _) => {
                write!(f, "read block {block}: {:?}", content.tag())
            }
            Self::Filtered(_) => f.write_str("filter set"),
            Self::Taken(client, hosts) => {
                let names: Vec<_> = hosts.iter().map(|host| host.name()).collect();
                write!(f, "client {client:08x} taken by {}", names.join(" and "))
            }
            Self::TurnedAway(client, _) => write!(f, "client {client:08x} finds no application"),
            Self::Reset(client, on, _) => write!(f, "client {client:08x} on {on} is reset"),
            Self::Lost(client, _) => write!(f, "client {client:08x} is lost"),
            Self::Calm => f.write_str("all faults are over"),
        }
    }
}
