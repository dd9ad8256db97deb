//! What a run may be expected to show, and how it is written in scenarios.

use std::{fmt, str::FromStr};

use havre_core::status::{Phase, State, WaitReason};

use crate::{net::HostId, plan::Selector};

/// A property that is judged all the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Property {
    /// At most one node runs the application (S1).
    OnePrimary,
    /// At most one node holds the virtual address (S1, S10).
    OneAddress,
    /// What was acknowledged is in every later primary's copy (S2).
    AckedSurvive,
    /// The application never starts on a copy known to be stale, half copied or forked (S4, S15,
    /// S17, S18).
    NoStaleStart,
    /// Reads see the last acknowledged value or a later one (S20).
    ReadsCorrect,
    /// A copy that calls itself caught up equals its source (S12, S15).
    CopiesEqual,
    /// Two copies never go on separately without being reported (S17).
    NoSilentDivergence,
    /// A status never claims what is not so.
    StatusTruthful,
    /// The address is announced after it was set (S11).
    Announced,
    /// Epochs and generations are never reused and never fall (S3).
    EpochsUnique,
    /// No new client is taken by two nodes of a farm that hear each other.
    ClientsOnce,
    /// Connections to a node of a farm are not broken by another node that hears it.
    ConnectionsStay,
    /// Clients come to a node of a farm only while its application runs.
    OpenWhenReady,
    /// The buckets of a farm are shared out completely once it was left in peace.
    SharesWhole,
    /// Every wait ends after the faults ended (L1 to L5).
    WaitsEnd,
    /// An `expect` step came true in time.
    Expected,
    /// Detections repair no more often than `maxloop` allows.
    LoopsBounded,
    /// A module waits while a wait rule says so, and a shared target makes no healthy one wait.
    RulesKept,
    /// The code under test did not panic.
    NoPanic,
}

impl Property {
    /// All of them.
    pub const ALL: [Self; 19] = [
        Self::OnePrimary,
        Self::OneAddress,
        Self::AckedSurvive,
        Self::NoStaleStart,
        Self::ReadsCorrect,
        Self::CopiesEqual,
        Self::NoSilentDivergence,
        Self::StatusTruthful,
        Self::Announced,
        Self::EpochsUnique,
        Self::ClientsOnce,
        Self::ConnectionsStay,
        Self::OpenWhenReady,
        Self::SharesWhole,
        Self::WaitsEnd,
        Self::Expected,
        Self::LoopsBounded,
        Self::RulesKept,
        Self::NoPanic,
    ];

    /// Its name in scenarios and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::OnePrimary => "one-primary",
            Self::OneAddress => "one-address",
            Self::AckedSurvive => "acked-survive",
            Self::NoStaleStart => "no-stale-start",
            Self::ReadsCorrect => "reads-correct",
            Self::CopiesEqual => "copies-equal",
            Self::NoSilentDivergence => "no-silent-divergence",
            Self::StatusTruthful => "status-truthful",
            Self::Announced => "announced",
            Self::EpochsUnique => "epochs-unique",
            Self::ClientsOnce => "clients-once",
            Self::ConnectionsStay => "connections-stay",
            Self::OpenWhenReady => "open-when-ready",
            Self::SharesWhole => "shares-whole",
            Self::WaitsEnd => "waits-end",
            Self::Expected => "expected",
            Self::LoopsBounded => "loops-bounded",
            Self::RulesKept => "rules-kept",
            Self::NoPanic => "no-panic",
        }
    }
}

impl fmt::Display for Property {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Property {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|p| p.name() == text).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|p| p.name()).collect();
            format!("unknown property `{text}`; known: {}", names.join(", "))
        })
    }
}

/// Something that should happen in some run, or the scenario did not test what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Sometimes {
    /// The application started on a node other than the one on which it ran before.
    Failover,
    /// A resynchronisation ended.
    Resync,
    /// A node gave up because its right ended.
    Fencing,
    /// A write was torn by a power cut.
    TornWrite,
    /// A source went on alone.
    Solo,
    /// A node waited for want of quorum or of up-to-date data.
    Wait,
    /// A detection led to an action.
    Repair,
    /// Too many detections stopped a module.
    MaxLoop,
    /// A module that a rule made wait went on.
    Wakeup,
}

impl Sometimes {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Failover,
        Self::Resync,
        Self::Fencing,
        Self::TornWrite,
        Self::Solo,
        Self::Wait,
        Self::Repair,
        Self::MaxLoop,
        Self::Wakeup,
    ];

    /// Its name in scenarios and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Failover => "failover",
            Self::Resync => "resync",
            Self::Fencing => "fencing",
            Self::TornWrite => "torn-write",
            Self::Solo => "solo",
            Self::Wait => "wait",
            Self::Repair => "repair",
            Self::MaxLoop => "maxloop",
            Self::Wakeup => "wakeup",
        }
    }
}

impl FromStr for Sometimes {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|p| p.name() == text).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|p| p.name()).collect();
            format!("unknown `sometimes` `{text}`; known: {}", names.join(", "))
        })
    }
}

/// Something that is true or not at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// A node shows this state, and this colour if given.
    State(Selector, State, Option<Phase>),
    /// The application runs on exactly one node, which holds the address, and writes are
    /// acknowledged there.
    PrimaryServes,
    /// The application runs nowhere.
    NobodyServes,
    /// The application runs on both nodes.
    BothServe,
    /// This node runs the application.
    Runs(Selector),
    /// This node does not run it.
    Idle(Selector),
    /// This node holds the address.
    HoldsAddress(Selector),
    /// Both copies hold the same bytes.
    CopiesIdentical,
    /// One node is PRIM Ready, the other SECOND Ready.
    InSync,
    /// This node waits for this reason (word of `WaitReason`).
    Waits(Selector, WaitWord),
    /// The last order to this node was refused.
    Refused(Selector),
    /// The last write of a program on this node was refused.
    WriteRefused(Selector),
    /// This node serves, or may not: its own record or the witness's speaks against it.
    ServesIfItMay(Selector),
    /// Farm: every bucket is taken by exactly one node.
    SharesWhole,
    /// Farm: besides, the nodes that are UP Ready have equal shares.
    SharesEven,
    /// Farm: this node takes so many buckets.
    Share(Selector, u16),
    /// Farm: a client's connection is on this node.
    Connected(Selector),
    /// The application was not interrupted since the step before the last one that named it.
    NeverStopped(Selector),
}

/// Reasons to wait that scenarios can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of `WaitReason`")]
pub enum WaitWord {
    NotUpToDate,
    NeverStarted,
    PeerNotReady,
    HalfCopied,
    FailoverOff,
    NoQuorum,
    LeaseHeld,
    NotInSync,
    Diverged,
    Fenced,
    Volume,
    Address,
    Rule,
    Any,
}

impl WaitWord {
    const NAMES: [(&'static str, Self); 14] = [
        ("not-up-to-date", Self::NotUpToDate),
        ("never-started", Self::NeverStarted),
        ("peer-not-ready", Self::PeerNotReady),
        ("half-copied", Self::HalfCopied),
        ("failover-off", Self::FailoverOff),
        ("no-quorum", Self::NoQuorum),
        ("lease-held", Self::LeaseHeld),
        ("not-in-sync", Self::NotInSync),
        ("diverged", Self::Diverged),
        ("fenced", Self::Fenced),
        ("volume", Self::Volume),
        ("address", Self::Address),
        ("rule", Self::Rule),
        ("any", Self::Any),
    ];

    /// Whether this is the word for a reason.
    pub const fn is_for(self, reason: &WaitReason) -> bool {
        matches!(
            (self, reason),
            (Self::Any, _)
                | (Self::NotUpToDate, WaitReason::NotUpToDate)
                | (Self::NeverStarted, WaitReason::NeverStarted)
                | (Self::PeerNotReady, WaitReason::PeerNotReady)
                | (Self::HalfCopied, WaitReason::HalfCopied)
                | (Self::FailoverOff, WaitReason::FailoverOff)
                | (Self::NoQuorum, WaitReason::NoQuorum)
                | (Self::LeaseHeld, WaitReason::LeaseHeld(_))
                | (Self::NotInSync, WaitReason::NotInSync)
                | (Self::Diverged, WaitReason::Diverged)
                | (Self::Fenced, WaitReason::Fenced)
                | (Self::Volume, WaitReason::Volume(_))
                | (Self::Address, WaitReason::Address(_))
                | (Self::Rule, WaitReason::Rule { .. })
        )
    }

    fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, word)| *word == self).map_or("any", |(name, _)| name)
    }
}

impl Selector {
    /// Its name in scenarios.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Host(host) => host.name(),
            Self::Primary => "primary",
            Self::Secondary => "secondary",
            Self::SyncTarget => "sync-target",
            Self::Others => "others",
            Self::Nodes => "nodes",
            Self::All => "all",
        }
    }
}

impl FromStr for Selector {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "a" => Self::Host(HostId::A),
            "b" => Self::Host(HostId::B),
            "w" | "witness" => Self::Host(HostId::W),
            "r" | "router" => Self::Host(HostId::R),
            "c" | "client" => Self::Host(HostId::C),
            "primary" => Self::Primary,
            "secondary" => Self::Secondary,
            "sync-target" => Self::SyncTarget,
            "others" => Self::Others,
            "nodes" => Self::Nodes,
            "all" => Self::All,
            other => {
                if let Some(node) = farm_node(other) {
                    return Ok(Self::Host(node));
                }
                return Err(format!(
                    "unknown host `{other}`; known: a, b, n3 to n32, w (witness), r (router), \
                     c (client), primary, secondary, sync-target, others, nodes, all"
                ));
            }
        })
    }
}

/// `n1` to `n32`: a node of a farm.
fn farm_node(text: &str) -> Option<HostId> {
    let number: u8 = text.strip_prefix('n')?.parse().ok()?;
    (1..=crate::net::NODES_MAX).contains(&number).then(|| HostId::node(number - 1))
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::State(who, state, None) => write!(f, "{} {state}", who.name()),
            Self::State(who, state, Some(phase)) => write!(f, "{} {state} {phase}", who.name()),
            Self::PrimaryServes => f.write_str("primary serves"),
            Self::NobodyServes => f.write_str("nobody serves"),
            Self::BothServe => f.write_str("both serve"),
            Self::Runs(who) => write!(f, "{} runs", who.name()),
            Self::Idle(who) => write!(f, "{} idle", who.name()),
            Self::HoldsAddress(who) => write!(f, "{} holds address", who.name()),
            Self::CopiesIdentical => f.write_str("copies identical"),
            Self::InSync => f.write_str("in sync"),
            Self::Waits(who, word) => write!(f, "{} waits {}", who.name(), word.name()),
            Self::Refused(who) => write!(f, "{} refused", who.name()),
            Self::WriteRefused(who) => write!(f, "{} write refused", who.name()),
            Self::ServesIfItMay(who) => write!(f, "{} serves if it may", who.name()),
            Self::SharesWhole => f.write_str("shares whole"),
            Self::SharesEven => f.write_str("shares even"),
            Self::Share(who, share) => write!(f, "{} share {share}", who.name()),
            Self::Connected(who) => write!(f, "{} connected", who.name()),
            Self::NeverStopped(who) => write!(f, "{} never stopped", who.name()),
        }
    }
}

impl FromStr for Condition {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        match words.as_slice() {
            ["primary", "serves"] => return Ok(Self::PrimaryServes),
            ["nobody", "serves"] => return Ok(Self::NobodyServes),
            ["both", "serve"] => return Ok(Self::BothServe),
            ["copies", "identical"] => return Ok(Self::CopiesIdentical),
            ["in", "sync"] => return Ok(Self::InSync),
            ["shares", "whole"] => return Ok(Self::SharesWhole),
            ["shares", "even"] => return Ok(Self::SharesEven),
            _ => {}
        }
        let (who, rest) = words.split_first().ok_or("an empty condition")?;
        let who: Selector = who.parse()?;
        match rest {
            ["runs"] => Ok(Self::Runs(who)),
            ["idle"] => Ok(Self::Idle(who)),
            ["holds", "address"] => Ok(Self::HoldsAddress(who)),
            ["refused"] => Ok(Self::Refused(who)),
            ["write", "refused"] => Ok(Self::WriteRefused(who)),
            ["serves", "if", "it", "may"] => Ok(Self::ServesIfItMay(who)),
            ["connected"] => Ok(Self::Connected(who)),
            ["share", share] => match share.parse() {
                Ok(share) if share <= 256 => Ok(Self::Share(who, share)),
                _ => Err(format!("`{share}` is no share; shares are 0 to 256")),
            },
            ["never", "stopped"] => Ok(Self::NeverStopped(who)),
            ["waits", word] => WaitWord::NAMES
                .iter()
                .find(|(name, _)| name == word)
                .map(|(_, word)| Self::Waits(who, *word))
                .ok_or_else(|| {
                    let names: Vec<&str> = WaitWord::NAMES.iter().map(|(name, _)| *name).collect();
                    format!("unknown reason `{word}`; known: {}", names.join(", "))
                }),
            [state] => Ok(Self::State(who, state_named(state)?, None)),
            [state, phase] => Ok(Self::State(who, state_named(state)?, Some(phase_named(phase)?))),
            _ => Err(format!("`{text}` is no condition; see scenarios/README.md")),
        }
    }
}

fn state_named(text: &str) -> Result<State, String> {
    [State::Stop, State::Wait, State::Alone, State::Prim, State::Second, State::Up]
        .into_iter()
        .find(|state| state.to_string() == text)
        .ok_or_else(|| format!("`{text}` is no state; states: STOP WAIT ALONE PRIM SECOND UP"))
}

fn phase_named(text: &str) -> Result<Phase, String> {
    [Phase::NotReady, Phase::Transient, Phase::Ready]
        .into_iter()
        .find(|phase| phase.to_string() == text)
        .ok_or_else(|| format!("`{text}` is no colour; colours: NotReady Transient Ready"))
}
