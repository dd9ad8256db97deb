//! Checkers and rules of a scenario: `[[check]]`, `[rules]` and the loop guard of `[module]`; the
//! steps that make something fail.

use std::time::Duration;

use havre_core::{
    checks::{record::Switch, rules},
    config::module::{
        CheckAction, CheckerConfig, CheckerKind, ChecksConfig, Class, ErrdConfig, ModuleTo,
        ProcAction, ProcConfig, StartFailure,
    },
};
use serde::Deserialize;
use toml::Spanned;

use super::{Text, Wrong, span_of};
use crate::plan::{CheckStep, GuardSetup, Question};

/// One checker.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCheck {
    kind: Spanned<String>,
    ident: String,
    when: Text,
    action: Text,
    shared: Option<bool>,
    interval: Text,
    timeout: Text,
    restart_services: Option<String>,
}

/// `[rules]`.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRules {
    period: Text,
    handle_time: Text,
    extends: Option<bool>,
    text: Text,
}

/// The loop guard's part of `[module]`.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct RawGuard {
    maxloop: Option<u32>,
    interval: Text,
    retry: Text,
    on_start_failure: Text,
    reboot: Option<bool>,
}

fn class(text: &Text, default: Class) -> Result<Class, Wrong> {
    let Some(text) = text else { return Ok(default) };
    Ok(match text.get_ref().as_str() {
        "pre" => Class::Pre,
        "prim" => Class::Prim,
        "second" => Class::Second,
        "both" => Class::Both,
        "sec" => Class::Sec,
        other => return Err((text.span(), format!("`{other}` is no class"))),
    })
}

fn action(text: &Text, default: CheckAction) -> Result<CheckAction, Wrong> {
    let Some(text) = text else { return Ok(default) };
    Ok(match text.get_ref().as_str() {
        "wait" => CheckAction::Wait,
        "stop" => CheckAction::Stop,
        "stopstart" => CheckAction::StopStart,
        "restart" => CheckAction::Restart,
        "swap" => CheckAction::Swap,
        "noaction" => CheckAction::Nothing,
        other => return Err((text.span(), format!("`{other}` is no action"))),
    })
}

fn time(text: &Text, default: Duration) -> Result<Duration, Wrong> {
    text.as_ref().map_or(Ok(default), span_of)
}

/// Reads the checkers and rules.
pub(super) fn read(checks: &[RawCheck], raw: &RawRules) -> Result<ChecksConfig, Wrong> {
    let mut config = ChecksConfig::default();
    if checks.is_empty() && raw.text.is_none() {
        return Ok(config);
    }
    for check in checks {
        match check.kind.get_ref().as_str() {
            "process" | "service" => {
                let poll = time(&check.interval, Duration::from_secs(5))?;
                let errd =
                    config.errd.get_or_insert_with(|| ErrdConfig { poll, procs: Vec::new() });
                errd.procs.push(watched(check)?);
            }
            kind => {
                let kind = kind_of(kind, check)?;
                config.checkers.push(checked(check, kind)?);
            }
        }
    }
    let failover = &mut config.failover;
    failover.extends = raw.extends.unwrap_or(true);
    failover.period = time(&raw.period, Duration::from_millis(500))?;
    failover.handle_time = time(&raw.handle_time, Duration::from_millis(1_500))?;
    if let Some(text) = &raw.text {
        failover.rules = rules::parse(text.get_ref()).map_err(|errors| {
            let all: Vec<String> = errors.iter().map(ToString::to_string).collect();
            (text.span(), all.join("; "))
        })?;
    }
    Ok(config)
}

fn watched(check: &RawCheck) -> Result<ProcConfig, Wrong> {
    Ok(ProcConfig {
        name: check.ident.clone(),
        service: check.kind.get_ref() == "service",
        name_regex: None,
        arg_regex: None,
        class: class(&check.when, Class::Prim)?,
        action: match action(&check.action, CheckAction::StopStart)? {
            CheckAction::Restart => ProcAction::Restart,
            CheckAction::Stop => ProcAction::Stop,
            CheckAction::Nothing => ProcAction::Nothing,
            _ => ProcAction::StopStart,
        },
        restart_services: check.restart_services.clone(),
        at_least: Some(1),
        at_max: None,
        start_after: 0,
    })
}

fn kind_of(kind: &str, check: &RawCheck) -> Result<CheckerKind, Wrong> {
    let addr = "10.0.0.254".to_owned();
    Ok(match kind {
        "tcp" => CheckerKind::Tcp { addr, port: 80 },
        "ping" => CheckerKind::Ping { addr },
        "interface" => CheckerKind::Interface { local_addr: [10, 0, 0, 1].into() },
        "address" => CheckerKind::Address { addr },
        "custom" => CheckerKind::Custom { exec: "check".to_owned(), args: Vec::new() },
        "module" => {
            let to = ModuleTo { addr, port: 9010, secure: false };
            CheckerKind::Module { name: check.ident.clone(), to: Some(to) }
        }
        other => {
            let known = "process, service, tcp, ping, interface, address, custom, module";
            let message = format!("unknown kind of check `{other}`; known: {known}");
            return Err((check.kind.span(), message));
        }
    })
}

fn checked(check: &RawCheck, kind: CheckerKind) -> Result<CheckerConfig, Wrong> {
    let (when, acts) = match kind {
        CheckerKind::Tcp { .. } => (Class::Prim, CheckAction::Restart),
        CheckerKind::Address { .. } => (Class::Prim, CheckAction::StopStart),
        CheckerKind::Custom { .. } => (Class::Pre, CheckAction::Nothing),
        _ => (Class::Pre, CheckAction::Wait),
    };
    Ok(CheckerConfig {
        ident: check.ident.clone(),
        when: class(&check.when, when)?,
        action: action(&check.action, acts)?,
        shared: check.shared.unwrap_or(false),
        interval: time(&check.interval, Duration::from_secs(1))?,
        timeout: time(&check.timeout, Duration::from_millis(500))?,
        kind,
    })
}

impl RawGuard {
    pub(super) fn read(&self) -> Result<GuardSetup, Wrong> {
        let default = GuardSetup::default();
        let on_start_failure = match &self.on_start_failure {
            None => StartFailure::Ignore,
            Some(text) => match text.get_ref().as_str() {
                "stop" => StartFailure::Stop,
                "failover" => StartFailure::Failover,
                "ignore" => StartFailure::Ignore,
                _ => return Err((text.span(), "write stop, failover or ignore".into())),
            },
        };
        Ok(GuardSetup {
            maxloop: self.maxloop.unwrap_or(default.maxloop),
            interval: time(&self.interval, default.interval)?,
            retry: self.retry.as_ref().map(span_of).transpose()?,
            on_start_failure,
            reboot: self.reboot.unwrap_or(false),
        })
    }
}

/// The names of changes.
pub(super) const CHANGES: [(&str, CheckStep); 3] =
    [("fails", CheckStep::Fails), ("works", CheckStep::Works), ("again", CheckStep::Again)];

/// `custom.x down`, or `errd off`.
pub(super) fn question(text: &str) -> Result<Question, String> {
    let (what, to) = text
        .split_once(' ')
        .ok_or_else(|| format!("`{text}`: write `custom.x down` or `errd off`"))?;
    let switches = [Switch::Errd, Switch::Checker, Switch::Failover, Switch::Boot];
    match (switches.into_iter().find(|s| s.word() == what), to) {
        (Some(switch), "on") => Ok(Question::Switch(switch, true)),
        (Some(switch), "off") => Ok(Question::Switch(switch, false)),
        (Some(_), _) => Err(format!("`{to}`: a switch is on or off")),
        (None, _) => Ok(Question::Set(what.parse()?, to.parse()?)),
    }
}

/// Checkers, rules and loop guard back to TOML.
pub(super) fn text(setup: &crate::plan::Setup) -> String {
    use std::fmt::Write as _;
    let mut out = String::new();
    let guard = &setup.guard;
    let ms = |span: Duration| format!("\"{}ms\"", span.as_millis());
    if *guard != GuardSetup::default() {
        let _ = write!(out, "\n[guard]\nmaxloop = {}\n", guard.maxloop);
        let _ = writeln!(out, "interval = {}\nreboot = {}", ms(guard.interval), guard.reboot);
        if let Some(retry) = guard.retry {
            let _ = writeln!(out, "retry = {}", ms(retry));
        }
        let word = match guard.on_start_failure {
            StartFailure::Stop => "stop",
            StartFailure::Failover => "failover",
            StartFailure::Ignore => "ignore",
        };
        let _ = writeln!(out, "on_start_failure = \"{word}\"");
    }
    let checks = &setup.checks;
    if *checks == ChecksConfig::default() {
        return out;
    }
    let rules: Vec<String> = checks.failover.rules.iter().map(ToString::to_string).collect();
    let failover = &checks.failover;
    let _ = write!(
        out,
        "\n[rules]\nperiod = {}\nhandle_time = {}\nextends = {}\ntext = '''\n{}\n'''\n",
        ms(failover.period),
        ms(failover.handle_time),
        failover.extends,
        rules.join("\n")
    );
    for (errd, proc) in checks.errd.iter().flat_map(|e| e.procs.iter().map(move |p| (e, p))) {
        let kind = if proc.service { "service" } else { "process" };
        let action = match &proc.action {
            ProcAction::Restart => "restart",
            ProcAction::StopStart => "stopstart",
            ProcAction::Stop => "stop",
            ProcAction::Nothing | ProcAction::Handler(_) => "noaction",
        };
        let _ = write!(out, "\n[[check]]\nkind = \"{kind}\"\nident = {:?}\n", proc.name);
        let _ = writeln!(out, "when = \"{}\"\naction = \"{action}\"", class_word(&proc.class));
        let _ = writeln!(out, "interval = {}", ms(errd.poll));
        if let Some(services) = &proc.restart_services {
            let _ = writeln!(out, "restart_services = {services:?}");
        }
    }
    for check in &checks.checkers {
        let kind = match check.kind {
            CheckerKind::Tcp { .. } => "tcp",
            CheckerKind::Ping { .. } | CheckerKind::Splitbrain { .. } => "ping",
            CheckerKind::Interface { .. } => "interface",
            CheckerKind::Address { .. } => "address",
            CheckerKind::Custom { .. } => "custom",
            CheckerKind::Module { .. } => "module",
        };
        let action = match check.action {
            CheckAction::Wait => "wait",
            CheckAction::Stop => "stop",
            CheckAction::StopStart => "stopstart",
            CheckAction::Restart => "restart",
            CheckAction::Swap => "swap",
            CheckAction::Nothing => "noaction",
        };
        let _ = write!(out, "\n[[check]]\nkind = \"{kind}\"\nident = {:?}\n", check.ident);
        let _ = writeln!(out, "when = \"{}\"\naction = \"{action}\"", class_word(&check.when));
        let _ = writeln!(out, "shared = {}\ninterval = {}", check.shared, ms(check.interval));
        let _ = writeln!(out, "timeout = {}", ms(check.timeout));
    }
    out
}

const fn class_word(class: &Class) -> &str {
    match class {
        Class::Pre => "pre",
        Class::Prim => "prim",
        Class::Second => "second",
        Class::Both => "both",
        Class::Sec | Class::User(_) => "sec",
    }
}
