//! `userconfig.xml`: what one module is made of.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{config::cluster::LinkTiming, ids::NodeId};

mod balance;
mod checkers;
mod failover;
mod farm;
mod heart;
mod mode;
mod neighbours;
mod parse;
mod quorum;
mod rfs;
mod service;
mod user;
mod vip;

pub use balance::{
    GROUPS_MAX, GroupConfig, HostPower, RULES_MAX, RuleConfig, RuleFilter, RuleProtocol,
};
pub use checkers::{
    CHECKERS_MAX, CheckAction, CheckerConfig, CheckerKind, ChecksConfig, Class, ErrdConfig,
    FailoverConfig, ModuleTo, PROCS_MAX, ProcAction, ProcConfig, StartFailure,
};
pub use farm::FarmConfig;
pub use mode::ServiceMode;
pub use neighbours::{Neighbour, Neighbours};
pub(crate) use parse::tree;
pub use parse::{parse, parse_beside};
pub use vip::{InterfaceConfig, InterfaceKind, VirtualAddrConfig, VirtualMac};

/// The whole of `userconfig.xml`, macros expanded, defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleConfig {
    /// `<service>`.
    pub service: ServiceConfig,
    /// The nodes of the module, in order: those on its networks. Two for a mirror.
    pub members: Vec<NodeId>,
    /// `<heart>` of a mirror; without heartbeats in the other modes.
    pub heart: HeartConfig,
    /// `<farm>`; present exactly if the mode is [`ServiceMode::Farm`].
    pub farm: Option<FarmConfig>,
    /// `<vip>`, interface by interface; one with real and virtual addresses counts as several.
    pub interfaces: Vec<InterfaceConfig>,
    /// Whether connections to the virtual address are reset before it is removed. Default on.
    pub tcp_reset: bool,
    /// `<rfs>`; only in a mirror.
    pub rfs: Option<RfsConfig>,
    /// `<user>`; without it no script runs.
    pub user: Option<UserConfig>,
    /// Who decides when all heartbeats are lost.
    pub quorum: QuorumPolicy,
    /// `<errd>`, `<check>` and `<failover>`.
    pub checks: ChecksConfig,
}

/// `<service>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceConfig {
    /// Architecture of the module.
    pub mode: ServiceMode,
    /// Start with the daemon.
    pub boot: BootPolicy,
    /// Delay before that start. Default 0.
    pub boot_delay: Duration,
    /// Whether a secondary takes over by itself. Default on.
    pub failover: bool,
    /// Who is primary after a failed node came back. Default: whoever runs.
    pub default_primary: DefaultPrimary,
    /// Actions caused by detections before the module is stopped. Default 3.
    pub maxloop: u32,
    /// Window of `maxloop`; 0 disables it. Default 24 h.
    pub loop_interval: Duration,
    /// Reboot the machine instead of a stopstart. Default off.
    pub automatic_reboot: bool,
    /// Pause before the first start by itself after a stop by `maxloop`; doubled each time.
    /// `None`, the default: it stays stopped.
    pub maxloop_retry: Option<Duration>,
    /// What follows when a start script fails. Default: nothing.
    pub on_start_failure: StartFailure,
}

/// `boot=`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum BootPolicy {
    /// Start when the daemon starts.
    On,
    /// Do not.
    Off,
    /// Start if it ran when the daemon was last stopped.
    Auto,
    /// As the command line set it; off until then. The default.
    Ignore,
}

/// `defaultprim=`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DefaultPrimary {
    /// Whoever runs stays primary. The default.
    Alone,
    /// This node becomes primary as soon as it is synchronised.
    Node(NodeId),
    /// A node that was primary before its last stop becomes primary again.
    Last,
}

/// `<heart>` and its `<heartbeat>`s.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeartConfig {
    /// Pulse (default 700 ms) and time-out (default 30 s) of links that do not set their own.
    pub timing: LinkTiming,
    /// The networks used, at least one.
    pub heartbeats: Vec<HeartbeatConfig>,
}

/// `<heartbeat>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeartbeatConfig {
    /// Name of a `<lan>` of `cluster.xml`.
    pub name: String,
    /// Label; `flow` marks the network of replication.
    pub ident: String,
    /// Timing of this link.
    pub timing: LinkTiming,
}

/// `async=`: when a barrier of the application returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Contract {
    /// `async="second"`: local disk has it, the peer has received it. The default.
    Received,
    /// `async="none"`: both disks have it.
    Durable,
}

/// Which operations of the application wait for the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum WriteMode {
    /// Barriers wait (fsync, O_SYNC, msync ...); the rest follows within a second. The default.
    Back,
    /// Every write waits.
    Through,
}

/// `<rfs>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RfsConfig {
    /// `async=`.
    pub contract: Contract,
    /// `write=` (Havre's own): `back` or `through`.
    pub write: WriteMode,
    /// Replicate access control lists. Default off in SafeKit; Havre always replicates them.
    pub acl: bool,
    /// TCP port of the data path; `None`: from the module's number.
    pub port: Option<u16>,
    /// Silence of the peer's data path on a request before the source goes on alone.
    /// Default 100 s (`locktimeout`).
    pub lock_timeout: Duration,
    /// Longest a send may be blocked before the source goes on alone. Default 30 s
    /// (`sendtimeout`).
    pub send_timeout: Duration,
    /// Cap of the resynchronisation's bytes per second; `None`: no cap (`reiallowedbw`).
    pub resync_bytes_per_second_max: Option<u64>,
    /// `<replicated>`.
    pub directories: Vec<ReplicatedConfig>,
}

/// `<replicated>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicatedConfig {
    /// Absolute path.
    pub dir: PathBuf,
    /// `<notreplicated path>`: relative paths that are not replicated.
    pub excluded_paths: Vec<PathBuf>,
    /// `<notreplicated regexpath>`: POSIX extended expressions on entry names.
    pub excluded_names: Vec<String>,
    /// `<tocheck path>`: must exist before replication starts.
    pub to_check: Vec<PathBuf>,
}

/// `<user>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserConfig {
    /// Limit of a stop script. Default 300 s.
    pub nice_stop_timeout: Duration,
    /// Limit of a forced stop script. Default 300 s.
    pub force_stop_timeout: Duration,
    /// Keep what scripts print. Default on.
    pub logging: bool,
    /// Size at which that log is cut, in KiB. Default 2048.
    pub log_size_kib: u32,
    /// Variables exported to scripts, in order.
    pub variables: Vec<(String, String)>,
}

/// Who decides when all heartbeats of the peer are lost. `None` in a farm or light module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum QuorumPolicy {
    /// Heartbeats only: a cut network makes two primaries.
    None,
    /// SafeKit's splitbrain checker: whoever reaches one of these hosts runs.
    Ping(Vec<IpAddr>),
    /// A renewable lease of the witness: never two primaries.
    Lease,
}

impl ModuleConfig {
    /// The networks by which the members watch each other, with pulse and time-out of each; none
    /// for a light module.
    pub fn networks(&self) -> Vec<(&str, LinkTiming)> {
        let heartbeats = self.heart.heartbeats.iter().map(|h| (h.name.as_str(), h.timing));
        let farm = self.farm.iter().flat_map(FarmConfig::networks);
        heartbeats.chain(farm).collect()
    }

    /// UDP and TCP ports follow from the module's number (reference: safekit.md section 6.6).
    pub fn data_port(&self, module: crate::ids::ModuleId) -> u16 {
        let default = 5600u16.saturating_add(module.0.saturating_sub(1).saturating_mul(4));
        self.rfs.as_ref().and_then(|rfs| rfs.port).unwrap_or(default)
    }
}
