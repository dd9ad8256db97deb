//! What the checkers of a node find: simulated processes, ports, hosts, programs and modules.
//!
//! A *subject* is named like the resource of the checker that looks at it. Steps make it fail,
//! work, or (another module) start again. What belongs to the application is repaired by its start
//! scripts; what stands outside is not.

use std::collections::{BTreeMap, BTreeSet};

use havre_core::{
    checks::{
        checker::CheckerSettings,
        probe::{Finding, Probe},
        settings::Settings,
    },
    config::module::Class,
    effect::{Command, Input, ModuleOrder, Outcome, ScriptName},
    ids::{CheckerId, OpId, RequestId},
};

use crate::{
    direct::{
        Direct, MODULE, boot,
        event::{Event, Work},
        machine::Daemon,
    },
    fact::Fact,
    net::HostId,
    plan::{CheckStep, Question, Setup},
};

/// How long a program, a look at a process and an answer on the network take.
const ANSWER_US: (u64, u64) = (150, 3_000);
/// How long a machine takes to come back after a reboot that its daemon ordered.
const REBOOT_US: u64 = 1_000_000;
/// How long the system needs to tell of a change that is watched.
const TELL_US: (u64, u64) = (50, 2_000);

/// What checkers look at on one machine.
#[derive(Debug, Clone, Default)]
pub(super) struct Subjects {
    failing: BTreeSet<String>,
    starts: BTreeMap<String, u64>,
    watched: BTreeSet<CheckerId>,
    /// Questions under way.
    asked: BTreeMap<OpId, CheckerId>,
    /// Answers that told of a failure.
    pub(super) hits: u64,
}

impl Subjects {
    /// The daemon died: nobody watches and nobody asks.
    pub(super) fn lose_daemon(&mut self) {
        self.watched.clear();
        self.asked.clear();
    }
}

/// The checkers of the simulated module.
pub(crate) fn checkers(setup: &Setup) -> Vec<CheckerSettings> {
    Settings::new(boot::MODULE_NAME, &boot::module_config(setup)).checkers
}

impl Direct<'_> {
    fn checker(&self, id: CheckerId) -> Option<&CheckerSettings> {
        self.checkers.get(usize::from(id.0))
    }

    /// What is found when a checker looks now.
    fn finding(&mut self, host: HostId, id: CheckerId) -> Finding {
        let Some(checker) = self.checker(id) else { return Finding::Unable("unknown".into()) };
        let (name, probe) = (checker.resource.to_string(), checker.probe.clone());
        let subjects = &mut self.machines[host.index()].os.subjects;
        let fails = subjects.failing.contains(&name);
        subjects.hits += u64::from(fails);
        match probe {
            Probe::Processes { .. } => Finding::Count(u32::from(!fails)),
            Probe::Module { .. } => {
                let starts = 1 + subjects.starts.get(&name).copied().unwrap_or(0);
                Finding::Module { ready: !fails, starts }
            }
            _ if fails => Finding::Down("simulated".into()),
            _ => Finding::Up,
        }
    }

    /// A checker asks.
    pub(super) fn probe(&mut self, host: HostId, op: OpId, id: CheckerId, limit_us: Option<u64>) {
        let Some(checker) = self.checker(id) else { return };
        let (name, silent) = (checker.resource.to_string(), is_remote(&checker.probe));
        let machine = &mut self.machines[host.index()];
        machine.os.subjects.asked.insert(op, id);
        let answer = machine.draw(ANSWER_US.0, ANSWER_US.1);
        // Who asks a dead host waits for as long as it may.
        let dead = silent && machine.os.subjects.failing.contains(&name);
        let micros = if dead { limit_us.unwrap_or(answer) } else { answer };
        self.later(host, micros, Work::Probed { op });
    }

    /// A question is answered.
    pub(super) fn probed(&mut self, host: HostId, op: OpId) {
        let asked = self.machines[host.index()].os.subjects.asked.remove(&op);
        if let Some(id) = asked {
            let finding = self.finding(host, id);
            self.completed(host, op, Outcome::Probed(finding));
        }
    }

    /// A checker begins to watch.
    pub(super) fn watch(&mut self, host: HostId, id: CheckerId) {
        self.machines[host.index()].os.subjects.watched.insert(id);
        self.tell_watcher(host, id);
    }

    /// It ends.
    pub(super) fn unwatch(&mut self, host: HostId, id: CheckerId) {
        let subjects = &mut self.machines[host.index()].os.subjects;
        subjects.watched.remove(&id);
        subjects.asked.retain(|_, asking| *asking != id);
    }

    fn tell_watcher(&mut self, host: HostId, id: CheckerId) {
        let micros = self.machines[host.index()].draw(TELL_US.0, TELL_US.1);
        self.later(host, micros, Work::Watched { checker: id });
    }

    /// The system tells of what is watched.
    pub(super) fn watched(&mut self, host: HostId, checker: CheckerId) {
        if !self.machines[host.index()].os.subjects.watched.contains(&checker) {
            return;
        }
        let finding = self.finding(host, checker);
        if let Daemon::Hosted(daemon) = &self.machines[host.index()].daemon {
            return daemon.port.checked(checker, finding);
        }
        self.node_input(host, Input::Checked { module: MODULE, checker, finding });
    }

    /// A step of the plan changes something at which checkers look; whether anything changed.
    pub(super) fn subject_changes(&mut self, host: HostId, what: &str, to: CheckStep) -> bool {
        let subjects = &mut self.machines[host.index()].os.subjects;
        let changed = match to {
            CheckStep::Fails => subjects.failing.insert(what.to_owned()),
            CheckStep::Works => subjects.failing.remove(what),
            CheckStep::Again => {
                *subjects.starts.entry(what.to_owned()).or_default() += 1;
                true
            }
        };
        if changed {
            if to != CheckStep::Again {
                self.fact(Fact::Subject(host, what.to_owned(), to == CheckStep::Works));
            }
            self.tell_watchers(host, what);
        }
        changed
    }

    fn tell_watchers(&mut self, host: HostId, what: &str) {
        let watched = self.machines[host.index()].os.subjects.watched.clone();
        for id in watched {
            if self.checker(id).is_some_and(|c| c.resource.as_str() == what) {
                self.tell_watcher(host, id);
            }
        }
    }

    /// A start script has ended: what belongs to the application works again.
    pub(super) fn application_started(&mut self, host: HostId, script: ScriptName) {
        if matches!(script, ScriptName::StartPrim | ScriptName::StartSecond | ScriptName::StartBoth)
        {
            self.repair(host, |class| *class != Class::Pre);
        }
    }

    /// Everything works again, or what some classes look at.
    pub(super) fn repair(&mut self, host: HostId, of: impl Fn(&Class) -> bool) {
        let own = |name: &&String| {
            let named = |c: &&CheckerSettings| c.resource.as_str() == *name;
            self.checkers.iter().find(named).is_none_or(|c| of(&c.class))
        };
        let failing = &self.machines[host.index()].os.subjects.failing;
        let repaired: Vec<String> = failing.iter().filter(own).cloned().collect();
        for name in repaired {
            self.subject_changes(host, &name, CheckStep::Works);
        }
    }

    /// A detector outside orders something.
    pub(super) fn order_by(&mut self, host: HostId, order: ModuleOrder) {
        let detector = "detector".to_owned();
        let command = Command::ModuleBy { module: MODULE, order, detector };
        self.ask_node(host, command);
    }

    /// A step asks a node something about its checks.
    pub(super) fn ask_about_checks(&mut self, host: HostId, what: &Question) {
        let command = match what {
            Question::Set(resource, state) => Command::SetResource {
                module: MODULE,
                resource: resource.clone(),
                state: *state,
                by: "administrator".to_owned(),
                history: true,
            },
            Question::Switch(switch, on) => {
                Command::Switch { module: MODULE, switch: *switch, on: *on }
            }
        };
        self.ask_node(host, command);
    }

    /// The daemon reboots its machine.
    pub(super) fn reboot(&mut self, host: HostId) {
        self.power_fails(host);
        self.at(self.now.plus_micros(REBOOT_US), Event::PowerReturns(host));
    }

    /// Somebody asks a node something about its module.
    pub(super) fn ask_node(&mut self, host: HostId, command: Command) {
        match &mut self.machines[host.index()].daemon {
            Daemon::Hosted(daemon) => daemon.port.command(command),
            Daemon::Node(daemon) => {
                daemon.requests += 1;
                let request = RequestId(daemon.requests);
                self.node_input(host, Input::Asked { request, command });
            }
            _ => {}
        }
    }
}

/// Whether a failure shows as silence.
const fn is_remote(probe: &Probe) -> bool {
    matches!(probe, Probe::Ping { .. } | Probe::Module { .. })
}
