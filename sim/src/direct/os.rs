//! The simulated operating system of a data node: scripts, the application, the address.

use havre_core::{
    effect::{AddressRequest, Outcome, ScriptCall, ScriptEnd, ScriptName},
    farm::table::{FilterRequest, FilterTable},
    ids::OpId,
    time::Instant,
};

use crate::{
    direct::{
        Direct,
        checks::Subjects,
        event::{Event, RunningScript, Work},
    },
    fact::Fact,
    net::HostId,
    plan::{ScriptFault, ScriptKind},
    time::SimTime,
};

/// How long an address outlives its daemon: the lifetime that the daemon renews, and the second
/// after which the kernel looks again.
const ADDRESS_LIFETIME_US: (u64, u64) = (2_000_000, 3_000_000);
/// Pause between two looks whether a paused machine goes on.
const GUARD_LOOK_US: u64 = 1_000;
/// Pause between two looks whether another host still answers for an address.
const ADDRESS_RETRY_US: u64 = 200_000;
/// Looks before an address counts as somebody else's.
const ADDRESS_TRIES: u32 = 25;

/// The application on one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum App {
    /// It does not run.
    #[default]
    Stopped,
    /// Its start script runs.
    Starting,
    /// It serves.
    Runs,
    /// It outlived its daemon: every access to its data waits.
    Orphan,
}

/// State of the operating system that outlives the daemon.
#[derive(Debug, Clone, Default)]
pub(super) struct Os {
    pub(super) app: App,
    /// How often it has ended.
    pub(super) app_lives: u32,
    pub(super) address: bool,
    /// How often it was set: tells an old address from a new one.
    pub(super) address_sets: u32,
    /// When the independent guard removes address and application.
    pub(super) guard: Option<Instant>,
    /// A flush failed since the machine started; kept where a power cut forgets it (`/run`).
    pub(super) distrusts_cache: bool,
    /// How packets to the virtual addresses are judged; nothing is accepted without it.
    pub(super) filter: Option<Box<FilterTable>>,
    /// Orders about it are carried out in sequence: when the last one ends.
    pub(super) filter_until: SimTime,
    pub(super) scripts: Vec<RunningScript>,
    /// Faults of scripts to come.
    pub(super) faults: Vec<(ScriptKind, ScriptFault, u32)>,
    /// How often such a fault struck.
    pub(super) faults_hit: u64,
    /// What checkers look at.
    pub(super) subjects: Subjects,
}

impl Os {
    fn fault_of(&mut self, name: ScriptName) -> Option<ScriptFault> {
        let kind = match name {
            ScriptName::StartPrim | ScriptName::StartBoth => ScriptKind::Start,
            ScriptName::StopPrim | ScriptName::StopBoth => ScriptKind::Stop,
            _ => return None,
        };
        let (_, fault, times) = self.faults.iter_mut().find(|(k, _, t)| *k == kind && *t > 0)?;
        *times -= 1;
        self.faults_hit += 1;
        Some(*fault)
    }
}

impl Direct<'_> {
    /// Starts a script.
    pub(super) fn run_script(&mut self, host: HostId, op: OpId, call: ScriptCall) {
        let (low, high) = self.plan.setup.script_us;
        let (start, stop) = self.app_scripts();
        let machine = &mut self.machines[host.index()];
        let name = call.name;
        let of_app = name == start || name == stop;
        let fault = if of_app { machine.os.fault_of(name) } else { None };
        let lasts = if of_app { machine.draw(low, high) } else { machine.draw(200, 3_000) };
        if let Some(limit) = call.limit {
            self.later(host, crate::time::micros(limit), Work::ScriptLimit { op });
        }
        if fault != Some(ScriptFault::Hang) {
            self.later(host, lasts, Work::ScriptEnds { op });
        }
        self.fact(Fact::ScriptBegan(host, name, call.force));
        if name == start {
            self.machines[host.index()].os.app = App::Starting;
            self.fact(Fact::AppRuns(host));
        }
        if name == ScriptName::Prestart {
            // Havre's rule for prestart: it stops whatever an earlier life left running.
            self.app_stops(host, "by prestart");
        }
        let fails = fault == Some(ScriptFault::Fail);
        self.machines[host.index()].os.scripts.push(RunningScript { op, call, fails });
    }

    /// A script ends by itself.
    pub(super) fn script_ends(&mut self, host: HostId, op: OpId) {
        let (start, stop) = self.app_scripts();
        let os = &mut self.machines[host.index()].os;
        let Some(index) = os.scripts.iter().position(|script| script.op == op) else { return };
        let script = os.scripts.remove(index);
        let name = script.call.name;
        if name == start {
            // A failed start leaves whatever it had started running.
            os.app = App::Runs;
        } else if name == stop && !script.fails {
            self.app_stops(host, "by its stop script");
        }
        if !script.fails {
            self.application_started(host, script.call.name);
        }
        let (end, how) = if script.fails {
            (ScriptEnd::Exited(1), "failed")
        } else if name == start || name == stop || name == ScriptName::Prestart {
            (ScriptEnd::Exited(0), "ended")
        } else {
            (ScriptEnd::Absent, "is absent")
        };
        self.fact(Fact::ScriptEnded(host, script.call.name, how));
        self.completed(host, op, Outcome::Script(end));
    }

    /// A script has run for as long as it may: it is killed with its process group.
    pub(super) fn script_limit(&mut self, host: HostId, op: OpId) {
        let os = &mut self.machines[host.index()].os;
        let Some(index) = os.scripts.iter().position(|script| script.op == op) else { return };
        let script = os.scripts.remove(index);
        if script.call.name == self.app_scripts().0 {
            self.app_stops(host, "with its start script");
        }
        self.fact(Fact::ScriptEnded(host, script.call.name, "was killed: time limit"));
        self.completed(host, op, Outcome::Script(ScriptEnd::TimedOut));
    }

    /// Kills what scripts started.
    pub(super) fn kill_scripts(&mut self, host: HostId, op: OpId) {
        let lasts = self.machines[host.index()].draw(300, 8_000);
        self.later(host, lasts, Work::Killed { op });
    }

    /// What scripts started is dead.
    pub(super) fn killed(&mut self, host: HostId, op: OpId) {
        self.app_stops(host, "killed");
        let scripts = std::mem::take(&mut self.machines[host.index()].os.scripts);
        for script in scripts {
            self.fact(Fact::ScriptEnded(host, script.call.name, "was killed"));
            self.completed(host, script.op, Outcome::Script(ScriptEnd::Signalled(9)));
        }
        self.completed(host, op, Outcome::Done);
    }

    /// The application is gone.
    pub(super) fn app_stops(&mut self, host: HostId, why: &'static str) {
        let os = &mut self.machines[host.index()].os;
        let before = std::mem::replace(&mut os.app, App::Stopped);
        if before != App::Stopped {
            os.app_lives += 1;
        }
        if matches!(before, App::Starting | App::Runs) {
            self.fact(Fact::AppStopped(host, why));
        }
    }

    /// The data path serves again: an application that waited for the daemon goes on.
    pub(super) fn app_goes_on(&mut self, host: HostId) {
        let os = &mut self.machines[host.index()].os;
        if os.app == App::Orphan {
            os.app = App::Runs;
            self.fact(Fact::AppRuns(host));
        }
    }

    /// The daemon died: its scripts go with it, the application stays without data, the address
    /// stays until the kernel removes it.
    pub(super) fn os_loses_daemon(&mut self, host: HostId) {
        let machine = &mut self.machines[host.index()];
        machine.os.scripts.clear();
        machine.os.subjects.lose_daemon();
        match machine.os.app {
            // A farm's application needs nothing of the daemon.
            App::Runs if self.plan.setup.farm.is_some() => {}
            App::Runs => {
                machine.os.app = App::Orphan;
                self.fact(Fact::AppStopped(host, "it waits for the daemon"));
            }
            // A start script dies with the daemon.
            App::Starting => self.app_stops(host, "with its start script"),
            App::Stopped | App::Orphan => {}
        }
        let machine = &mut self.machines[host.index()];
        if machine.os.address {
            let (low, high) = ADDRESS_LIFETIME_US;
            let lasts = machine.draw(low, high);
            let boot = machine.os.address_sets;
            self.at(self.now.plus_micros(lasts), Event::AddressExpires { host, boot });
            self.fact(Fact::AddressExpires(host));
        }
    }

    /// Sets the guard, which watches the clock whatever the daemon does.
    pub(super) fn guard(&mut self, host: HostId, until: Option<Instant>) {
        let machine = &mut self.machines[host.index()];
        machine.os.guard = until;
        if let Some(until) = until {
            let at = machine.clock.when(until);
            self.at(at, Event::Guard { host, until });
        }
    }

    /// The moment that the guard was told has come.
    pub(super) fn guard_acts(&mut self, host: HostId, until: Instant) {
        let now = self.now;
        let machine = &mut self.machines[host.index()];
        if machine.os.guard != Some(until) || !machine.powered {
            return;
        }
        if machine.paused {
            // Its timer has run out by the time the machine goes on.
            return self.at(now.plus_micros(GUARD_LOOK_US), Event::Guard { host, until });
        }
        if machine.clock.local(now) < until {
            // The rate of the clock has changed meanwhile.
            let at = machine.clock.when(until);
            return self.at(at, Event::Guard { host, until });
        }
        machine.os.guard = None;
        self.app_stops(host, "by the guard");
        self.machines[host.index()].os.app = App::Stopped;
        self.address_removed(host);
    }

    /// Carries out an order about addresses a little later.
    pub(super) fn address(&mut self, host: HostId, op: OpId, request: AddressRequest) {
        let lasts = self.machines[host.index()].draw(200, 6_000);
        self.later(host, lasts, Work::Address { op, request, tries: 0 });
    }

    /// An order about addresses takes effect.
    pub(super) fn address_now(
        &mut self,
        host: HostId,
        op: OpId,
        request: AddressRequest,
        tries: u32,
    ) {
        let outcome = match &request {
            AddressRequest::Add(_) | AddressRequest::Take(_)
                if self.address_answers_elsewhere(host) =>
            {
                if tries < ADDRESS_TRIES {
                    let work = Work::Address { op, request, tries: tries + 1 };
                    self.later(host, ADDRESS_RETRY_US, work);
                    return;
                }
                Outcome::Failed("another host answers for the address".into())
            }
            AddressRequest::Add(_) | AddressRequest::Take(_) => {
                let os = &mut self.machines[host.index()].os;
                os.address = true;
                os.address_sets += 1;
                self.fact(Fact::AddressSet(host));
                Outcome::Done
            }
            AddressRequest::Remove(_) => {
                self.address_removed(host);
                Outcome::Done
            }
            AddressRequest::Announce(_) => {
                if self.machines[host.index()].os.address {
                    self.fact(Fact::Announced(host));
                }
                Outcome::Done
            }
        };
        self.completed(host, op, outcome);
    }

    /// Carries out an order about the packet filter a little later, after the ones before it.
    pub(super) fn filter(&mut self, host: HostId, op: OpId, request: FilterRequest) {
        let now = self.now;
        let machine = &mut self.machines[host.index()];
        let begins = match request {
            FilterRequest::Clear => now,
            _ => machine.os.filter_until.max(now),
        };
        let ends = begins.plus_micros(machine.draw(50, 2_000));
        machine.os.filter_until = ends;
        self.later(host, ends.as_micros() - now.as_micros(), Work::Filter { op, request });
    }

    /// An order about the packet filter takes effect.
    pub(super) fn filter_now(&mut self, host: HostId, op: OpId, request: FilterRequest) {
        let filter = &mut self.machines[host.index()].os.filter;
        let outcome = match (request, filter.as_mut()) {
            (FilterRequest::Set(table), _) => {
                *filter = Some(table);
                Outcome::Done
            }
            (FilterRequest::Extend { until }, Some(table)) => {
                table.until = Some(until);
                Outcome::Done
            }
            (FilterRequest::Extend { .. }, None) => Outcome::Failed("no table stands".into()),
            (FilterRequest::Clear, _) => {
                *filter = None;
                Outcome::Done
            }
        };
        self.fact(Fact::Filtered(host));
        self.completed(host, op, outcome);
    }

    /// The address is gone.
    pub(super) fn address_removed(&mut self, host: HostId) {
        if std::mem::take(&mut self.machines[host.index()].os.address) {
            self.fact(Fact::AddressRemoved(host));
        }
    }

    fn address_answers_elsewhere(&self, host: HostId) -> bool {
        if self.plan.setup.farm.is_some() {
            return false;
        }
        let other = host.other();
        let machine = &self.machines[other.index()];
        machine.os.address
            && machine.is_live()
            && self.net.is_open(0, host, other)
            && self.net.is_open(0, other, host)
    }
}
