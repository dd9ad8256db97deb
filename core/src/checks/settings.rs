//! From a module's configuration to checkers and rules.
//!
//! | checker | resource | runs | rule |
//! |---|---|---|---|
//! | `tcp` | `tcp.IDENT` | as configured | `t_IDENT`: its action |
//! | `ping` | `ping.IDENT` | as configured | `p_IDENT`: its action |
//! | `custom` | `custom.IDENT` | as configured | `c_IDENT`: its action |
//! | `intf` | `intf.IDENT` | always | `interface_failure`: wait |
//! | `ip` | `ip.IDENT` | as primary | `ip_failure`: stopstart |
//! | `module` | `module.IDENT` | always | `module_failure`: wait; stopstart when it was restarted |
//! | `splitbrain` | `splitbrain.IDENT` | always | none: the quorum policy decides |
//! | `proc` | `proc.NAME` | by class | none: acts directly |
//!
//! Source: reference safekit.md sections 2.8 and 3.10.

use std::{collections::BTreeSet, time::Duration};

use super::{
    checker::{CheckerSettings, Direct},
    loopguard::LoopSettings,
    probe::Probe,
    resource::{ResourceName, ResourceState, Side},
    rules::{Expr, Pick, Reference, Rule, RuleAction, Then},
};
use crate::{
    config::module::{
        BootPolicy, CheckAction, CheckerConfig, CheckerKind, ChecksConfig, Class, ErrdConfig,
        FailoverConfig, ModuleConfig, ProcAction, ProcConfig, ServiceMode, StartFailure,
    },
    ids::CheckerId,
    mutant::{self, Mutant},
};

/// Resources whose state travels in heartbeats.
pub const EXPORTED_MAX: usize = 64;
/// How long a look for processes, or at a service, may take.
const PROC_LIMIT: Duration = Duration::from_secs(10);
/// Most checkers of one module.
const CHECKERS_MAX: usize = 4096;

/// What the checks of a module must know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The checkers.
    pub checkers: Vec<CheckerSettings>,
    /// The rules, generated ones first.
    pub rules: Vec<Rule>,
    /// Resources whose state travels in heartbeats, in order.
    pub exported: Vec<ResourceName>,
    /// `period`.
    pub period: Duration,
    /// `handle_time`.
    pub handle_time: Duration,
    /// The loop guard's.
    pub guard: LoopSettings,
    /// `automatic_reboot`.
    pub reboot: bool,
    /// `onstartfailure`.
    pub on_start_failure: StartFailure,
    /// `boot=` leaves it to the switch.
    pub boot_by_switch: bool,
}

/// What `<service>` says about repairs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Guarding {
    pub(super) guard: LoopSettings,
    pub(super) reboot: bool,
    pub(super) on_start_failure: StartFailure,
    pub(super) boot_by_switch: bool,
    /// No other host may have the module's addresses.
    pub(super) exclusive: bool,
}

impl Settings {
    /// Reads the configuration of the module of that name.
    pub fn new(name: &str, config: &ModuleConfig) -> Self {
        let service = &config.service;
        let guard = LoopSettings {
            max: service.maxloop,
            interval: service.loop_interval,
            retry: service.maxloop_retry,
        };
        let guarding = Guarding {
            guard,
            reboot: service.automatic_reboot,
            on_start_failure: service.on_start_failure,
            boot_by_switch: service.boot == BootPolicy::Ignore,
            // Every node of a farm has its addresses.
            exclusive: service.mode != ServiceMode::Farm,
        };
        Self::of(name, &config.checks, guarding)
    }

    pub(super) fn of(name: &str, checks: &ChecksConfig, guarding: Guarding) -> Self {
        let mut checkers: Vec<CheckerSettings> = Vec::new();
        for proc in checks.errd.iter().flat_map(|errd| errd.procs.iter().map(move |p| (errd, p))) {
            checkers.extend(next_id(&checkers).map(|id| watched(id, proc)));
        }
        for checker in &checks.checkers {
            let place = (name, guarding.exclusive);
            checkers.extend(next_id(&checkers).map(|id| checked(id, place, checker)));
        }
        let rules = rules(&checks.failover, &checks.checkers);
        let exported = exported(&rules, &checkers);
        Self {
            checkers,
            rules,
            exported,
            period: checks.failover.period,
            handle_time: checks.failover.handle_time,
            guard: guarding.guard,
            reboot: guarding.reboot,
            on_start_failure: guarding.on_start_failure,
            boot_by_switch: guarding.boot_by_switch,
        }
    }

    /// Whether something may have to report before a started module leaves WAIT.
    pub fn holds(&self) -> bool {
        self.rules.iter().any(|rule| rule.then == Then::Act(RuleAction::Wait))
    }
}

fn next_id(checkers: &[CheckerSettings]) -> Option<CheckerId> {
    let number = u16::try_from(checkers.len()).ok()?;
    (checkers.len() < CHECKERS_MAX).then_some(CheckerId(number))
}

fn watched(id: CheckerId, (errd, proc): (&ErrdConfig, &ProcConfig)) -> CheckerSettings {
    let name = proc.name.clone();
    let probe = if proc.service {
        Probe::Service { name }
    } else {
        let (name_regex, arg_regex) = (proc.name_regex.clone(), proc.arg_regex.clone());
        Probe::Processes { name, name_regex, arg_regex }
    };
    let below = proc.at_max.map_or(u32::MAX, |max| max.max(1));
    CheckerSettings {
        id,
        resource: ResourceName::new("proc", &proc.name),
        by: "errd",
        class: proc.class.clone(),
        probe,
        watches: true,
        interval: errd.poll,
        limit: Some(PROC_LIMIT),
        delay: errd.poll.saturating_mul(proc.start_after.saturating_sub(1)),
        fall: 1,
        rise: 1,
        range: (proc.at_least.unwrap_or(0), below),
        direct: Some(Direct::Act(proc.action.clone(), proc.restart_services.clone())),
        shared: false,
    }
}

fn checked(
    id: CheckerId,
    (module, exclusive): (&str, bool),
    checker: &CheckerConfig,
) -> CheckerSettings {
    let mut direct = None;
    let mut watches = false;
    let (by, class, probe) = match &checker.kind {
        CheckerKind::Tcp { addr, port } => {
            ("tcpcheck", "tcp", Probe::Tcp { addr: addr.clone(), port: *port })
        }
        CheckerKind::Ping { addr } => {
            ("pingcheck", "ping", Probe::Ping { hosts: vec![addr.clone()] })
        }
        CheckerKind::Interface { local_addr } => {
            watches = true;
            ("intfcheck", "intf", Probe::Interface { local_addr: *local_addr })
        }
        CheckerKind::Address { addr } => {
            watches = true;
            ("ipcheck", "ip", Probe::Address { addr: addr.clone(), exclusive })
        }
        CheckerKind::Custom { exec, args } => {
            let mut all = vec![module.to_owned(), format!("custom.{}", checker.ident)];
            all.extend(args.iter().cloned());
            ("customcheck", "custom", Probe::Program { exec: exec.clone(), args: all })
        }
        CheckerKind::Module { name, to } => {
            direct = Some(Direct::OnRestart);
            let (addr, port, secure) = match to {
                Some(to) => (to.addr.clone(), to.port, to.secure),
                None => (String::new(), 0, false),
            };
            ("modulecheck", "module", Probe::Module { name: name.clone(), addr, port, secure })
        }
        CheckerKind::Splitbrain { hosts } => {
            let hosts = hosts.iter().map(ToString::to_string).collect();
            ("splitbraincheck", "splitbrain", Probe::Ping { hosts })
        }
    };
    CheckerSettings {
        id,
        resource: ResourceName::new(class, &checker.ident),
        by,
        class: checker.when.clone(),
        probe,
        watches,
        interval: checker.interval.max(Duration::from_millis(10)),
        limit: Some(checker.timeout).filter(|limit| !limit.is_zero()),
        delay: Duration::ZERO,
        fall: 1,
        rise: 1,
        range: (0, u32::MAX),
        direct,
        shared: checker.shared,
    }
}

/// Default rules, then one per checker, then the ones written by hand. A label stands for one
/// rule: the last one of that label counts.
fn rules(failover: &FailoverConfig, checkers: &[CheckerConfig]) -> Vec<Rule> {
    let mut rules = Vec::new();
    if failover.extends {
        let defaults = [
            ("module_failure", "module", RuleAction::Wait),
            ("interface_failure", "intf", RuleAction::Wait),
            ("ip_failure", "ip", RuleAction::StopStart),
        ];
        let used = |class: &str| checkers.iter().any(|c| class_of(&c.kind) == class);
        let used = defaults.into_iter().filter(|(_, class, _)| used(class));
        rules.extend(used.map(|(label, class, act)| Rule::down(label, class, Pick::Any, act)));
    }
    for checker in checkers {
        let letter = match checker.kind {
            CheckerKind::Tcp { .. } => 't',
            CheckerKind::Ping { .. } => 'p',
            CheckerKind::Custom { .. } => 'c',
            _ => continue,
        };
        let action = match checker.action {
            CheckAction::Wait => RuleAction::Wait,
            CheckAction::Stop => RuleAction::Stop,
            CheckAction::StopStart => RuleAction::StopStart,
            CheckAction::Restart => RuleAction::Restart,
            CheckAction::Swap => RuleAction::Swap,
            CheckAction::Nothing => continue,
        };
        let label = format!("{letter}_{}", checker.ident);
        let (class, ident) = (class_of(&checker.kind), checker.ident.clone());
        let mut rule = Rule::down(&label, class, Pick::One(ident.clone()), action);
        let shared = checker.shared && checker.when == Class::Pre;
        if shared && action == RuleAction::Wait && !mutant::active(Mutant::SharedIgnored) {
            // Waiting helps only while the other node could do better.
            let reference =
                Reference { side: Side::Remote, class: class.to_owned(), pick: Pick::One(ident) };
            let better = Expr::Compare { reference, equal: true, state: ResourceState::Up };
            rule.when = Expr::And(vec![rule.when, better]);
        }
        rules.push(rule);
    }
    for own in &failover.rules {
        rules.retain(|rule| rule.label != own.label);
        rules.push(own.clone());
    }
    rules
}

const fn class_of(kind: &CheckerKind) -> &'static str {
    match kind {
        CheckerKind::Tcp { .. } => "tcp",
        CheckerKind::Ping { .. } => "ping",
        CheckerKind::Interface { .. } => "intf",
        CheckerKind::Address { .. } => "ip",
        CheckerKind::Custom { .. } => "custom",
        CheckerKind::Module { .. } => "module",
        CheckerKind::Splitbrain { .. } => "splitbrain",
    }
}

/// What the other node must know: what rules look at over there.
fn exported(rules: &[Rule], checkers: &[CheckerSettings]) -> Vec<ResourceName> {
    let mut names = BTreeSet::new();
    for rule in rules {
        rule.when.references(&mut |reference| {
            if reference.side != Side::Remote {
                return;
            }
            match &reference.pick {
                Pick::One(id) => {
                    names.insert(ResourceName::new(&reference.class, id));
                }
                Pick::Any | Pick::All => {
                    let of_class = |c: &&CheckerSettings| c.resource.class() == reference.class;
                    names.extend(checkers.iter().filter(of_class).map(|c| c.resource.clone()));
                }
            }
        });
    }
    names.into_iter().take(EXPORTED_MAX).collect()
}

/// What a detection of a process leads to; `None`: nothing, or a program.
pub(super) fn action_of(action: &ProcAction) -> Option<RuleAction> {
    match action {
        ProcAction::Restart => Some(RuleAction::Restart),
        ProcAction::StopStart => Some(RuleAction::StopStart),
        ProcAction::Stop => Some(RuleAction::Stop),
        ProcAction::Nothing | ProcAction::Handler(_) => None,
    }
}
