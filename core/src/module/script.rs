//! Scripts of a module, of either kind: how one is ordered, and what its end means.

use std::time::Duration;

use crate::{
    config::module::{ModuleConfig, StartFailure},
    effect::{Effect, ScriptCall, ScriptEnd, ScriptName},
    event::EventKind,
    ids::{ModuleId, OpId},
    module::sequence::Sequence,
};

/// Limit of stop scripts unless `<user>` says otherwise.
const STOP_LIMIT: Duration = Duration::from_secs(300);

/// What is configured of a module's scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scripts {
    /// The module.
    pub module: ModuleId,
    /// Whether scripts run at all (`<user>`).
    pub enabled: bool,
    /// Limit of stop scripts.
    pub nice_stop_timeout: Duration,
    /// Limit of forced stop scripts.
    pub force_stop_timeout: Duration,
    /// Whether a failed start script has consequences (`onstartfailure`).
    pub start_failures_count: bool,
}

impl Scripts {
    /// Reads the configuration of a module.
    pub fn new(module: ModuleId, config: &ModuleConfig) -> Self {
        let user = config.user.as_ref();
        Self {
            module,
            enabled: user.is_some(),
            nice_stop_timeout: user.map_or(STOP_LIMIT, |user| user.nice_stop_timeout),
            force_stop_timeout: user.map_or(STOP_LIMIT, |user| user.force_stop_timeout),
            start_failures_count: config.service.on_start_failure != StartFailure::Ignore,
        }
    }

    /// Orders a script with the arguments of a sequence, perhaps for some services only, and says
    /// so. `None`: scripts do not run.
    pub fn order(
        &self,
        sequence: &Sequence,
        (name, force): (ScriptName, bool),
        services: &Option<String>,
        op: impl FnOnce() -> OpId,
    ) -> Option<(OpId, EventKind, Effect)> {
        if !self.enabled {
            return None;
        }
        let limit = (is_stop(name) || name == ScriptName::Poststop).then_some(if force {
            self.force_stop_timeout
        } else {
            self.nice_stop_timeout
        });
        let call = ScriptCall {
            name,
            force,
            from: sequence.from,
            to: sequence.to,
            action: sequence.action,
            limit,
            services: services.clone(),
        };
        let started = EventKind::ScriptStarted { script: describe(&call) };
        let op = op();
        Some((op, started, Effect::RunScript { op, module: self.module, call }))
    }
}

/// Whether a script stops something.
pub const fn is_stop(name: ScriptName) -> bool {
    matches!(
        name,
        ScriptName::StopPrim | ScriptName::StopBoth | ScriptName::StopSec | ScriptName::StopSecond
    )
}

/// Whether a script starts something.
pub const fn is_start(name: ScriptName) -> bool {
    matches!(
        name,
        ScriptName::StartPrim
            | ScriptName::StartBoth
            | ScriptName::StartSec
            | ScriptName::StartSecond
    )
}

/// Whether a script did what it should, and how it ended in words.
pub fn outcome(end: &ScriptEnd) -> (bool, String) {
    match end {
        ScriptEnd::Absent => (true, "absent".to_owned()),
        ScriptEnd::Exited(0) => (true, "done".to_owned()),
        ScriptEnd::Exited(status) => (false, format!("exit status {status}")),
        ScriptEnd::Signalled(signal) => (false, format!("killed by signal {signal}")),
        ScriptEnd::TimedOut => (false, "took too long and was killed".to_owned()),
        ScriptEnd::NotStarted(error) => (false, error.clone()),
    }
}

fn describe(call: &ScriptCall) -> String {
    let force = if call.force { " force" } else { "" };
    format!("{}{force} {} {} {}", call.name.file_name(), call.from, call.to, call.action.word())
}
