//! `<errd>`, `<check>` and `<failover>`: what watches the application, and what follows from it.
//!
//! `<vip>` adds checkers of its own unless it says `check="off"`: one per network of its
//! addresses and one per address.

use std::{fmt, net::IpAddr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::checks::rules::Rule;

mod check;
mod errd;
mod generated;

pub(super) use check::build;
pub(super) use errd::build as build_errd;

/// Most checkers of one module, generated ones included.
pub const CHECKERS_MAX: usize = 1_024;
/// Most processes that one module watches.
pub const PROCS_MAX: usize = 1_024;

/// Everything that watches a module.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ChecksConfig {
    /// `<errd>`.
    pub errd: Option<ErrdConfig>,
    /// The checkers of `<check>`, and those that `check="on"` of `<vip>` makes.
    pub checkers: Vec<CheckerConfig>,
    /// `<failover>`.
    pub failover: FailoverConfig,
}

/// `<errd>`: watches processes and services.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrdConfig {
    /// Period of the look that is the safety net of the events. Default 30 s (`polltimer`).
    pub poll: Duration,
    /// `<proc>`.
    pub procs: Vec<ProcConfig>,
}

/// `<proc>`: one process, or one service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcConfig {
    /// Command name or service name; the resource is `proc.NAME`.
    pub name: String,
    /// A service of the operating system, rather than processes.
    pub service: bool,
    /// Expression on the command name; then `name` only names the resource.
    pub name_regex: Option<String>,
    /// Expression on the whole command line.
    pub arg_regex: Option<String>,
    /// When it is watched.
    pub class: Class,
    /// What to do.
    pub action: ProcAction,
    /// Restart only these services, with scripts that take `-Services "a, b"`.
    pub restart_services: Option<String>,
    /// Fewer processes cause the action; `None`: none do. Default 1.
    pub at_least: Option<u32>,
    /// That many processes, or more, cause the action (0: any). `None`, the default: none do.
    pub at_max: Option<u32>,
    /// Looks that are skipped before watching begins, plus one. Default 0.
    pub start_after: u32,
}

/// When something is watched.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Class {
    /// In every state, from behind `prestart` to before `poststop`.
    Pre,
    /// While the application runs as primary.
    Prim,
    /// While this node is secondary.
    Second,
    /// While it is either.
    Both,
    /// While it is secondary, or primary without a secondary.
    Sec,
    /// While an operator or a script has it switched on.
    User(String),
}

impl Class {
    /// The class of that name.
    pub fn named(name: &str) -> Self {
        match name {
            "pre" => Self::Pre,
            "prim" => Self::Prim,
            "second" => Self::Second,
            "both" => Self::Both,
            "sec" => Self::Sec,
            _ => Self::User(name.to_owned()),
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pre => "pre",
            Self::Prim => "prim",
            Self::Second => "second",
            Self::Both => "both",
            Self::Sec => "sec",
            Self::User(name) => name,
        })
    }
}

/// What `<errd>` does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProcAction {
    /// Stop and start the application in place.
    Restart,
    /// Stop everything, then start again; a primary thereby fails over. The default.
    StopStart,
    /// Stop the module.
    Stop,
    /// Only tell.
    Nothing,
    /// Run this program of `bin`.
    Handler(String),
}

/// What follows when a checker finds its resource down, through a generated rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CheckAction {
    /// Go to WAIT until it is up again. Only for what is checked in every state.
    Wait,
    /// Stop the module.
    Stop,
    /// Stop everything, then start again.
    StopStart,
    /// Stop and start the application in place.
    Restart,
    /// Hand the role to the secondary.
    Swap,
    /// Only tell.
    Nothing,
}

/// One checker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckerConfig {
    /// Name of its resource, behind the class of its kind.
    pub ident: String,
    /// When it runs.
    pub when: Class,
    /// What follows when it finds its resource down.
    pub action: CheckAction,
    /// With `Wait`: do so only while the other node finds it up. Default off.
    pub shared: bool,
    /// Period. Default 10 s.
    pub interval: Duration,
    /// Limit of one check; 0: none. Default 5 s.
    pub timeout: Duration,
    /// What is checked.
    pub kind: CheckerKind,
}

/// What a checker checks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum CheckerKind {
    /// That a port accepts connections.
    Tcp {
        /// Address or name.
        addr: String,
        /// Port.
        port: u16,
    },
    /// That a host answers an echo.
    Ping {
        /// Address or name.
        addr: String,
    },
    /// That a network card has a link.
    Interface {
        /// The card is the one whose network contains this address.
        local_addr: IpAddr,
    },
    /// That an address is set here, and nowhere else.
    Address {
        /// The address.
        addr: String,
    },
    /// That a program says so.
    Custom {
        /// Program in `bin`.
        exec: String,
        /// What it is given behind the names of module and resource.
        args: Vec<String>,
    },
    /// That another module is Ready.
    Module {
        /// Its name.
        name: String,
        /// Where; `None`: here.
        to: Option<ModuleTo>,
    },
    /// That one of these hosts answers an echo.
    Splitbrain {
        /// The hosts.
        hosts: Vec<IpAddr>,
    },
}

impl CheckerConfig {
    /// The resource that it keeps, such as `tcp.web`.
    pub fn resource(&self) -> String {
        format!("{}.{}", self.kind.class(), self.ident)
    }
}

impl CheckerKind {
    /// The first half of the resource's name.
    pub const fn class(&self) -> &'static str {
        match self {
            Self::Tcp { .. } => "tcp",
            Self::Ping { .. } => "ping",
            Self::Interface { .. } => "intf",
            Self::Address { .. } => "ip",
            Self::Custom { .. } => "custom",
            Self::Module { .. } => "module",
            Self::Splitbrain { .. } => "splitbrain",
        }
    }
}

/// Where another module runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleTo {
    /// Address or name.
    pub addr: String,
    /// Port of the health page. Default 9010.
    pub port: u16,
    /// Whether to use TLS. Default off.
    pub secure: bool,
}

/// `<failover>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailoverConfig {
    /// Keep the default rules. Default on.
    pub extends: bool,
    /// What `handle_time` is a multiple of. Default 5 s.
    pub period: Duration,
    /// How long an action must stay the same before it is carried out. Default 15 s.
    pub handle_time: Duration,
    /// The rules written by hand.
    pub rules: Vec<Rule>,
}

impl Default for FailoverConfig {
    fn default() -> Self {
        Self {
            extends: true,
            period: Duration::from_secs(5),
            handle_time: Duration::from_secs(15),
            rules: Vec::new(),
        }
    }
}

/// What follows when a start script fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum StartFailure {
    /// Stop the module.
    Stop,
    /// Stop everything, then start again: a primary thereby fails over.
    Failover,
    /// Nothing, as in SafeKit. The default.
    #[default]
    Ignore,
}
