//! Performs the steps of a plan: when they fire, what they do, and what they hit.

use havre_core::{effect::ModuleOrder, status::State};

use crate::{
    chance::{Chance, Purpose},
    direct::{
        Direct,
        event::{Event, Work},
        machine::Daemon,
    },
    disk::DiskFaults,
    fact::Fact,
    net::{HostId, NETS_MAX},
    plan::{Action, DiskStep, Plan, Selector, Trigger, When},
    time::{SimTime, micros},
};

mod hits;

use hits::Probe;

/// Pause between two looks at a condition.
const CHECK_EVERY_US: u64 = 10_000;
/// Pause between two looks of an administrator whether a module has stopped.
const STOPPED_LOOK_US: u64 = 1_000_000;

/// Where the plan stands.
#[derive(Debug, Clone)]
pub(super) struct Control {
    /// The step that waits for an event, and how many occurrences it has seen.
    armed: Option<(usize, Trigger, u64)>,
    /// What each step that fired has hit so far.
    probes: Vec<Option<Probe>>,
    /// When an `expect` or `hold` step fired.
    since: Vec<SimTime>,
    /// Hosts whose power fails inside their next disk operation, by which step.
    pub(super) cut_in_write: Vec<Option<usize>>,
    /// Inputs delayed by slow machines.
    pub(super) slowed: u64,
    /// Whether the last order to a node was refused.
    pub(super) refused: Vec<bool>,
    /// What became of the last write of a program on a host.
    pub(super) wrote: Vec<Option<bool>>,
    /// How often the application was started.
    pub(super) app_starts: Vec<u32>,
    /// The plan came to its end with everything healed and quiet.
    pub(super) settled: bool,
    /// Every fault is over.
    calmed: bool,
}

impl Control {
    pub(super) fn new(plan: &Plan) -> Self {
        let hosts = plan.setup.everybody().len();
        Self {
            armed: None,
            probes: vec![None; plan.steps.len()],
            since: vec![SimTime::ZERO; plan.steps.len()],
            cut_in_write: vec![None; hosts],
            slowed: 0,
            refused: vec![false; hosts],
            wrote: vec![None; hosts],
            app_starts: vec![0; hosts],
            settled: false,
            calmed: false,
        }
    }
}

impl Direct<'_> {
    /// Schedules the steps whose time is known.
    pub(super) fn begin_steps(&mut self) {
        for (index, step) in self.plan.steps.iter().enumerate() {
            if let When::At(at) = step.when {
                self.at(at, Event::Step(index));
            }
        }
        if !self.plan.steps.is_empty() {
            self.prepare_step(0);
        }
    }

    /// The step before this one is done: if this one hangs on it, its time counts from now.
    fn prepare_step(&mut self, index: usize) {
        match self.plan.steps.get(index).map(|step| &step.when) {
            Some(When::After(span)) => self.at(self.now + *span, Event::Step(index)),
            Some(When::Event { trigger, .. }) => self.control.armed = Some((index, *trigger, 0)),
            Some(When::At(_)) | None => {}
        }
    }

    /// A fact may be what a step waits for.
    pub(super) fn triggered(&mut self, fact: &Fact) {
        if let Fact::AppRuns(host) = fact {
            self.control.app_starts[host.index()] += 1;
        }
        let Some((index, trigger, seen)) = self.control.armed else { return };
        if fact.trigger() != Some(trigger) {
            return;
        }
        let When::Event { nth, delay, .. } = self.plan.steps[index].when else { return };
        let seen = seen + 1;
        self.control.armed = (seen < nth).then_some((index, trigger, seen));
        if seen == nth {
            self.at(self.now + delay, Event::Step(index));
        }
    }

    /// A step fires.
    pub(super) fn perform_step(&mut self, index: usize) {
        let plan = self.plan;
        let step = &plan.steps[index];
        let late = self.control.calmed && matches!(step.when, When::Event { .. });
        if late && !plan.every_fault_must_hit {
            // A fault of a fuzzed plan that waited for its event until after the calm.
            return;
        }
        let text = crate::scenario::step_text(step);
        self.fact(Fact::Step { index, text });
        self.control.since[index] = self.now;
        let probe = match &step.action {
            Action::Expect { .. } | Action::Hold { .. } => {
                self.control.probes[index] = Some(Probe::Fixed(1));
                return self.check_step(index);
            }
            Action::End => {
                self.ended = true;
                Probe::Fixed(1)
            }
            action => {
                // What the next step waits for may happen within this one.
                self.prepare_step(index + 1);
                self.note_apart();
                let probe = self.act(index, action);
                self.note_apart();
                self.control.probes[index] = Some(probe);
                return;
            }
        };
        self.control.probes[index] = Some(probe);
    }

    fn act(&mut self, index: usize, action: &Action) -> Probe {
        match action {
            Action::Cut { from, to, both, net } => self.cut(*from, *to, *both, *net),
            Action::Heal { from, to } => self.heal(*from, *to),
            Action::HealAll => {
                self.net.heal_all();
                Probe::Fixed(1)
            }
            Action::Isolate(who) => self.isolate(*who),
            Action::PowerCut { who, in_write, back_after } => {
                let hosts = self.machines_of(*who);
                if *in_write {
                    for host in hosts {
                        self.control.cut_in_write[host.index()] = Some(index);
                    }
                    return Probe::Fixed(0);
                }
                let mut hit = 0;
                for host in hosts {
                    hit += u64::from(self.power_fails(host));
                    if let Some(span) = back_after {
                        self.at(self.now + *span, Event::PowerReturns(host));
                    }
                }
                Probe::Fixed(hit)
            }
            Action::PowerOn(who) => {
                let mut hit = 0;
                for host in self.machines_of(*who) {
                    let off = self.power_returns(host);
                    let dead = !off && matches!(self.machines[host.index()].daemon, Daemon::Off);
                    if dead {
                        self.at(self.now, Event::DaemonStarts(host));
                    }
                    hit += u64::from(off || dead);
                }
                Probe::Fixed(hit)
            }
            Action::Crash { who, back_after } => {
                let mut hit = 0;
                for host in self.machines_of(*who) {
                    hit += u64::from(self.crash(host));
                    if let Some(span) = back_after {
                        self.at(self.now + *span, Event::DaemonStarts(host));
                    }
                }
                Probe::Fixed(hit)
            }
            Action::Pause { who, span } => {
                let mut hit = 0;
                for host in self.machines_of(*who) {
                    let Some(pause) = self.pause(host) else { continue };
                    hit += 1;
                    if let Some(span) = span {
                        self.at(self.now + *span, Event::Resume { host, pause });
                    }
                }
                Probe::Fixed(hit)
            }
            Action::Resume(who) => {
                let hosts = self.machines_of(*who);
                let hit = hosts.iter().filter(|h| self.machines[h.index()].paused).count();
                for host in hosts {
                    self.resume(host, None);
                }
                Probe::Fixed(hit as u64)
            }
            action => self.act_more(index, action),
        }
    }

    fn act_more(&mut self, index: usize, action: &Action) -> Probe {
        match action {
            Action::Slow { who, lag, span } => {
                for host in self.machines_of(*who) {
                    self.machines[host.index()].lag_us = micros(*lag);
                    self.undo_later(index, host, *span);
                }
                Probe::Slowed(self.control.slowed)
            }
            Action::Drift { who, ppm } => {
                let now = self.now;
                let hosts = self.machines_of(*who);
                for host in &hosts {
                    self.machines[host.index()].clock.set_rate(now, *ppm);
                    // Deadlines are at other true times now.
                    self.works(*host, Work::Wake);
                    self.works(*host, Work::WakeVolume);
                }
                Probe::Fixed(hosts.len() as u64)
            }
            Action::Weather { from, to, weather, span } => {
                let pairs = self.pairs(*from, *to, true);
                for (from, to) in &pairs {
                    for net in 0..NETS_MAX as u8 {
                        self.net.set_weather(net, *from, *to, *weather);
                    }
                }
                self.undo_later(index, HostId::A, *span);
                Probe::sent(self, pairs)
            }
            Action::Disk { who, fault, span } => self.disk_step(index, *who, fault, *span),
            Action::Script { who, kind, fault, times } => {
                let hosts = self.machines_of(*who);
                for host in &hosts {
                    self.machines[host.index()].os.faults.push((*kind, *fault, *times));
                }
                Probe::scripts(self, hosts)
            }
            Action::Order { who, order } => {
                let hosts = self.machines_of(*who);
                for host in &hosts {
                    self.works(*host, Work::Order(*order));
                }
                Probe::Fixed(hosts.len() as u64)
            }
            Action::OrderBy { who, order } => {
                let hosts = self.machines_of(*who);
                for host in &hosts {
                    self.works(*host, Work::OrderBy(*order));
                }
                Probe::Fixed(hosts.len() as u64)
            }
            Action::Check { who, what, to } => {
                let hosts = self.machines_of(*who);
                let mut hit = 0;
                for host in hosts {
                    hit += u64::from(self.subject_changes(host, what, *to));
                }
                Probe::Fixed(hit)
            }
            Action::Ask { who, what } => {
                let hosts = self.machines_of(*who);
                for host in &hosts {
                    self.ask_about_checks(*host, what);
                }
                Probe::Fixed(hosts.len() as u64)
            }
            Action::Write(who) => {
                let hosts = self.machines_of(*who);
                for host in &hosts {
                    self.writes_by_itself(*host);
                }
                Probe::Fixed(hosts.len() as u64)
            }
            Action::Load(on) => {
                self.client.on = *on;
                Probe::Fixed(1)
            }
            Action::Calm => {
                self.calm();
                Probe::Fixed(1)
            }
            Action::Settled => {
                self.control.settled = true;
                Probe::Fixed(1)
            }
            _ => Probe::Fixed(1),
        }
    }

    fn disk_step(
        &mut self,
        index: usize,
        who: Selector,
        fault: &DiskStep,
        span: Option<std::time::Duration>,
    ) -> Probe {
        let hosts = self.machines_of(who);
        for host in &hosts {
            match fault {
                DiskStep::Faults(faults) => {
                    self.machines[host.index()].disk.faults = *faults;
                    self.undo_later(index, *host, span);
                }
                DiskStep::Rot => self.rot(*host),
                DiskStep::Replace if !self.machines[host.index()].powered => {
                    self.machines[host.index()].disk.replace();
                }
                DiskStep::Replace => {}
            }
        }
        Probe::disks(self, hosts, matches!(fault, DiskStep::Rot | DiskStep::Replace))
    }

    /// Spoils a block of which the other node has a good copy.
    fn rot(&mut self, host: HostId) {
        use crate::oracle::World;
        let chance = Chance::new(self.seed, Purpose::Fault, self.events);
        let blocks = self.plan.setup.load.blocks;
        let first = chance.below(0, blocks);
        let good = (0..blocks)
            .map(|n| (first + n) % blocks)
            .find(|block| self.content(host, *block) == self.content(host.other(), *block));
        if let Some(block) = good {
            self.machines[host.index()].disk.rot(block, chance.bits(1));
        }
    }

    fn cut(&mut self, from: Selector, to: Selector, both: bool, net: Option<u8>) -> Probe {
        let pairs = self.pairs(from, to, both);
        for (from, to) in &pairs {
            for n in 0..NETS_MAX as u8 {
                if net.is_none_or(|net| net == n) {
                    self.net.set_cut(n, *from, *to, true);
                }
            }
        }
        Probe::cut(self, pairs)
    }

    fn heal(&mut self, from: Selector, to: Selector) -> Probe {
        for (from, to) in self.pairs(from, to, true) {
            for net in 0..NETS_MAX as u8 {
                self.net.set_cut(net, from, to, false);
            }
        }
        Probe::Fixed(1)
    }

    fn isolate(&mut self, who: Selector) -> Probe {
        let inside = self.hosts(who, &[]);
        let mut pairs = Vec::new();
        for from in &inside {
            let everybody = self.plan.setup.everybody();
            for to in everybody.into_iter().filter(|host| !inside.contains(host)) {
                pairs.extend([(*from, to), (to, *from)]);
            }
        }
        for (from, to) in &pairs {
            for net in 0..NETS_MAX as u8 {
                self.net.set_cut(net, *from, *to, true);
            }
        }
        Probe::cut(self, pairs)
    }

    fn pairs(&self, from: Selector, to: Selector, both: bool) -> Vec<(HostId, HostId)> {
        let from = self.hosts(from, &[]);
        let to = self.hosts(to, &from);
        let mut pairs = Vec::new();
        for from in &from {
            for to in to.iter().filter(|to| *to != from) {
                pairs.push((*from, *to));
                if both {
                    pairs.push((*to, *from));
                }
            }
        }
        pairs
    }

    fn machines_of(&self, who: Selector) -> Vec<HostId> {
        let daemons = self.plan.setup.daemons();
        self.hosts(who, &[]).into_iter().filter(|host| daemons.contains(host)).collect()
    }

    fn undo_later(&mut self, index: usize, host: HostId, span: Option<std::time::Duration>) {
        if let Some(span) = span {
            self.at(self.now + span, Event::Undo(index, host));
        }
    }

    /// The span of a step is over.
    pub(super) fn undo_step(&mut self, index: usize, host: HostId) {
        self.note_apart();
        match &self.plan.steps[index].action {
            Action::Slow { .. } => self.machines[host.index()].lag_us = 0,
            Action::Disk { .. } => self.machines[host.index()].disk.faults = DiskFaults::default(),
            Action::Weather { from, to, .. } => {
                let weather = self.plan.setup.weather;
                for (from, to) in self.pairs(*from, *to, true) {
                    for net in 0..NETS_MAX as u8 {
                        self.net.set_weather(net, from, to, weather);
                    }
                }
            }
            _ => {}
        }
        self.note_apart();
    }

    /// Every fault is over: networks heal, machines run, disks are healthy, modules are started.
    fn calm(&mut self) {
        self.net.heal_all();
        let weather = self.plan.setup.weather;
        let everybody = self.plan.setup.everybody();
        for from in &everybody {
            for to in &everybody {
                for net in 0..NETS_MAX as u8 {
                    self.net.set_weather(net, *from, *to, weather);
                }
            }
        }
        self.control.cut_in_write.fill(None);
        self.control.calmed = true;
        for host in self.plan.setup.daemons() {
            self.resume(host, None);
            let machine = &mut self.machines[host.index()];
            machine.lag_us = 0;
            machine.disk.faults = DiskFaults::default();
            machine.os.faults.clear();
            self.repair(host, |_| true);
            let machine = &mut self.machines[host.index()];
            // What hangs ends now.
            let hung: Vec<_> = machine.os.scripts.iter().map(|script| script.op).collect();
            for op in hung {
                self.later(host, 500_000, Work::ScriptEnds { op });
            }
            if !self.power_returns(host) {
                self.daemon_starts(host);
            }
        }
        self.fact(Fact::Calm);
        // Whoever was stopped by an administrator is started again, once its machine has booted.
        for host in self.plan.setup.nodes() {
            self.at(self.now.plus_micros(3_000_000), Event::StartIfStopped(host));
        }
    }

    /// An administrator starts a module that was stopped, once: a stop may still be under way.
    pub(super) fn start_if_stopped(&mut self, host: HostId) {
        if self.shows(host, State::Stop, None) {
            self.works(host, Work::Order(ModuleOrder::Start));
        } else if !self.control.settled {
            self.at(self.now.plus_micros(STOPPED_LOOK_US), Event::StartIfStopped(host));
        }
    }

    /// The disk takes an operation that will be ready then: the power may fail before.
    pub(super) fn disk_used(&mut self, host: HostId, ready: SimTime) {
        let Some(step) = self.control.cut_in_write[host.index()].take() else { return };
        let machine = &self.machines[host.index()];
        let span = micros(ready - self.now);
        let chance = Chance::new(self.seed, Purpose::Fault, u64::from(host.0));
        let after = chance.below(machine.disk.submitted(), span.max(1));
        let run = machine.run;
        self.at(self.now.plus_micros(after), Event::PowerFails { host, run, step });
    }

    /// The power fails inside a disk operation.
    pub(super) fn power_fails_in_write(&mut self, host: HostId, run: u32, step: usize) {
        if self.machines[host.index()].run != run || !self.power_fails(host) {
            return;
        }
        if let Some(Probe::Fixed(hits)) = &mut self.control.probes[step] {
            *hits += 1;
        }
        if let Action::PowerCut { back_after: Some(span), .. } = self.plan.steps[step].action {
            self.at(self.now + span, Event::PowerReturns(host));
        }
    }

    /// Looks at the conditions of an `expect` or `hold` step.
    pub(super) fn check_step(&mut self, index: usize) {
        let plan = self.plan;
        let waited = self.now - self.control.since[index];
        match &plan.steps[index].action {
            Action::Expect { conditions, within, property } => {
                let wrong = conditions.iter().find(|condition| !self.holds(**condition));
                let Some(wrong) = wrong else { return self.prepare_step(index + 1) };
                if waited < *within {
                    return self.at(self.now.plus_micros(CHECK_EVERY_US), Event::Check(index));
                }
                let text = format!("`{wrong}` is not true after {within:?}: {}", self.picture());
                self.violated(*property, text);
                self.prepare_step(index + 1);
            }
            Action::Hold { conditions, span } => {
                if let Some(wrong) = conditions.iter().find(|c| !self.holds(**c)) {
                    let text = format!("`{wrong}` did not last: {}", self.picture());
                    self.violated(crate::expect::Property::Expected, text);
                    return self.prepare_step(index + 1);
                }
                if waited >= *span {
                    return self.prepare_step(index + 1);
                }
                self.at(self.now.plus_micros(CHECK_EVERY_US), Event::Check(index));
            }
            _ => {}
        }
    }

    /// The states of the nodes, for messages.
    fn picture(&self) -> String {
        use crate::oracle::World;
        let nodes = self.plan.setup.nodes();
        nodes
            .into_iter()
            .map(|host| {
                self.module(host).map_or_else(
                    || format!("{host} is off"),
                    |m| {
                        let wait = m.wait.as_ref().map_or_else(String::new, |w| format!(" ({w})"));
                        let taken = m.farm.map(|_| format!(" takes {}", self.taken_by(host).len()));
                        let taken = taken.unwrap_or_default();
                        format!("{host} {} {}{wait}{taken}", m.state, m.phase)
                    },
                )
            })
            .collect::<Vec<_>>()
            .join(", ")
    }

    /// The steps that hit nothing, or never fired.
    pub(super) fn idle_steps(&self) -> Vec<usize> {
        let idle = |probe: &Option<Probe>| probe.as_ref().is_none_or(|p| p.hits(self) == 0);
        self.control
            .probes
            .iter()
            .enumerate()
            .filter(|(_, probe)| idle(probe))
            .map(|(index, _)| index)
            .collect()
    }
}
