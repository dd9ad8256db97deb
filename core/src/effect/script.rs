//! Scripts: which there are, how they are called, how they end.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::status::State;

/// Scripts of a module (reference: safekit.md sections 3.2 and 6.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are the scripts' file names")]
pub enum ScriptName {
    Prestart,
    Poststop,
    Transition,
    StartPrim,
    StopPrim,
    StartSecond,
    StopSecond,
    StartBoth,
    StopBoth,
    StartSec,
    StopSec,
}

impl ScriptName {
    /// The script's file name without extension.
    pub const fn file_name(self) -> &'static str {
        match self {
            Self::Prestart => "prestart",
            Self::Poststop => "poststop",
            Self::Transition => "transition",
            Self::StartPrim => "start_prim",
            Self::StopPrim => "stop_prim",
            Self::StartSecond => "start_second",
            Self::StopSecond => "stop_second",
            Self::StartBoth => "start_both",
            Self::StopBoth => "stop_both",
            Self::StartSec => "start_sec",
            Self::StopSec => "stop_sec",
        }
    }
}

/// Third argument of scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names are the words passed to scripts")]
pub enum ScriptAction {
    Start,
    Stop,
    Stopstart,
    Stopwait,
}

impl ScriptAction {
    /// The word passed to scripts.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Stopstart => "stopstart",
            Self::Stopwait => "stopwait",
        }
    }
}

/// One execution of a script. Arguments: `[force] FROM TO ACTION`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScriptCall {
    /// Which.
    pub name: ScriptName,
    /// Called a second time, to stop by force.
    pub force: bool,
    /// The present state.
    pub from: State,
    /// The next state.
    pub to: State,
    /// Why.
    pub action: ScriptAction,
    /// Killed with its process group after this long; `None`: no limit.
    pub limit: Option<Duration>,
    /// Only these services are meant: passed as `-Services "a, b"` behind the other arguments.
    pub services: Option<String>,
}

/// How a script ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ScriptEnd {
    /// There is no such script in the module: nothing to do.
    Absent,
    /// It ended with this status.
    Exited(i32),
    /// A signal ended it.
    Signalled(i32),
    /// It ran longer than its limit and was killed.
    TimedOut,
    /// It could not be started; the text says why and what to do.
    NotStarted(String),
}
