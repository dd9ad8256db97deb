//! What of the checks is durable, and what of them is shown.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::resource::ResourceStatus;
use crate::time::Instant;

/// The durable record of the checks of one module on one node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ChecksRecord {
    /// Detections counted in the present window.
    pub count: u32,
    /// Age of the window when this was written. Time without power does not count.
    pub age: Duration,
    /// Starts by itself after stops by `maxloop`, since an administrator last acted.
    pub retries: u32,
    /// The module was stopped by `maxloop`, and nobody has started it since.
    pub stopped: bool,
    /// What an administrator has switched.
    pub switches: Switches,
}

/// A maintenance switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Switch {
    /// Watching processes and services.
    Errd,
    /// Every other checker.
    Checker,
    /// Taking over by itself.
    Failover,
    /// Starting with the daemon, where the configuration leaves it to this switch.
    Boot,
}

impl Switch {
    /// Its word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Errd => "errd",
            Self::Checker => "checker",
            Self::Failover => "failover",
            Self::Boot => "boot",
        }
    }
}

/// Positions of the maintenance switches. They outlive a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switches {
    /// Processes and services are watched.
    pub errd: bool,
    /// Other checkers run.
    pub checker: bool,
    /// A secondary takes over by itself; `None`: as configured.
    pub failover: Option<bool>,
    /// The module starts with the daemon; `None`: as configured.
    pub boot: Option<bool>,
}

impl Default for Switches {
    fn default() -> Self {
        Self { errd: true, checker: true, failover: None, boot: None }
    }
}

/// The loop guard as it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LoopStatus {
    /// Detections counted in the present window.
    pub count: u32,
    /// How many are allowed (`maxloop`).
    pub max: u32,
    /// Whether one more than that was counted.
    pub reached: bool,
    /// When the window ends; `None`: there is none, or it is switched off.
    pub until: Option<Instant>,
    /// When the module is started again after a stop by `maxloop`.
    pub retry_at: Option<Instant>,
}

/// A rule that holds a module or is about to act.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleStatus {
    /// Its label.
    pub rule: String,
    /// Its action, in a word.
    pub action: String,
    /// The resources that decide.
    pub resources: Vec<String>,
    /// When it acts, if nothing changes; `None`: it has acted.
    pub at: Option<Instant>,
}

/// The checks of a module as they are shown.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ChecksStatus {
    /// Every resource, by name.
    pub resources: Vec<ResourceStatus>,
    /// The rule that decides at present.
    pub rule: Option<RuleStatus>,
    /// The loop guard.
    pub guard: LoopStatus,
    /// The maintenance switches.
    pub switches: Switches,
}
