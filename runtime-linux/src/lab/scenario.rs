//! Performs a scenario file of the simulator on real daemons in a [`Cluster`]: the same steps, the
//! same conditions, the same judge ([`Oracle`]), in real time.
//!
//! Facts come from kernels (addresses, listening sockets), from processes, from the modules' logs
//! and from the client; what a daemon says of itself is used only where a condition is about a
//! state. What cannot be done to real machines is named, and the verdict is never better than
//! inconclusive then.
//!
//! ```text
//!  every 2 ms:  senses -> facts -> oracle, triggers      due steps -> actions -> cluster, firewall
//!  every 20 ms: conditions of the steps that wait
//! ```

mod actions;
mod conditions;
mod judging;
mod load;
mod senses;
mod stage;

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use havre_sim::{
    expect::{Property, Sometimes},
    fact::Fact,
    fuzz::{self, Verdict},
    net::HostId,
    oracle::Oracle,
    plan::{Action, Plan, Trigger, When},
    run::Report,
    scenario::step_text,
    time::SimTime,
};

use super::firewall::Firewall;
use actions::{Due, Probe};
use load::Load;
use senses::Senses;
use stage::Stage;

/// Pause between two looks at kernels, processes and logs.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// Pause between two looks at a condition, in the scenario's time.
const CHECK_EVERY: Duration = Duration::from_millis(20);
/// How long daemons may take to answer and to hear each other before the scenario begins.
const START_LIMIT: Duration = Duration::from_secs(60);

/// What one run on real daemons has shown.
#[derive(Debug)]
pub struct Outcome {
    /// The verdict; never `Passed` if something was not possible.
    pub verdict: Verdict,
    /// What was demanded and cannot be done here.
    pub skipped: Vec<String>,
    /// Properties of the file that only the simulator can judge.
    pub not_judged: Vec<Property>,
    /// Records that the client saw acknowledged.
    pub acknowledged: u64,
}

/// Runs a plan once. Files are kept under `directory`, which must exist and belong to this run
/// alone; `scale` stretches every span of the plan and the module's time-outs, for machines that
/// are too busy; `tell` is called with each fact as it is seen.
///
/// # Errors
/// The cluster cannot be built or does not come up; a fault cannot be made although it should.
pub fn run(
    plan: &Plan,
    directory: &Path,
    program: &Path,
    scale: f64,
    tell: &mut dyn FnMut(SimTime, &str),
) -> Result<Outcome> {
    let stage = Stage::build(&plan.setup, directory, program, scale)?;
    let mut run = Run::new(plan, stage, scale, tell)?;
    run.begin().context("the cluster does not come up")?;
    while !run.ended {
        run.turn()?;
        std::thread::sleep(LOOK_EVERY);
    }
    run.finish()
}

/// A run under way.
struct Run<'a> {
    plan: &'a Plan,
    stage: Stage,
    firewall: Firewall,
    senses: Senses,
    load: Load,
    oracle: Oracle,
    scale: f64,
    began: Instant,
    due: Vec<(SimTime, Due)>,
    /// The step that waits for an event, and how many occurrences it has seen.
    armed: Option<(usize, Trigger, u64)>,
    /// Steps whose conditions are looked at, and since when.
    waiting: Vec<(usize, SimTime)>,
    checked: SimTime,
    probes: Vec<Option<Probe>>,
    skipped: BTreeMap<Option<usize>, String>,
    seen: Vec<Sometimes>,
    refused: BTreeMap<HostId, bool>,
    wrote: BTreeMap<HostId, bool>,
    app_starts: BTreeMap<HostId, u32>,
    settled: bool,
    calmed: bool,
    ended: bool,
    tell: &'a mut dyn FnMut(SimTime, &str),
}

impl<'a> Run<'a> {
    fn new(
        plan: &'a Plan,
        stage: Stage,
        scale: f64,
        tell: &'a mut dyn FnMut(SimTime, &str),
    ) -> Result<Self> {
        let senses = Senses::open(&stage).context("looking at the machines")?;
        let load = Load::new(&plan.setup.load, scale);
        let oracle = Oracle::new(&plan.setup, &judging::by_oracle(plan));
        let skipped = stage::impossible(&plan.setup).map(|text| (None, text)).into_iter().collect();
        Ok(Self {
            plan,
            stage,
            firewall: Firewall::default(),
            senses,
            load,
            oracle,
            scale,
            began: Instant::now(),
            due: Vec::new(),
            armed: None,
            waiting: Vec::new(),
            checked: SimTime::ZERO,
            probes: vec![None; plan.steps.len()],
            skipped,
            seen: Vec::new(),
            refused: BTreeMap::new(),
            wrote: BTreeMap::new(),
            app_starts: BTreeMap::new(),
            settled: false,
            calmed: false,
            ended: false,
            tell,
        })
    }

    /// Starts the daemons and waits until they hear each other; then the plan's time begins.
    fn begin(&mut self) -> Result<()> {
        self.stage.start_all()?;
        let begun = Instant::now();
        while !self.stage.all_hear() {
            if begun.elapsed() > START_LIMIT {
                bail!("the daemons do not hear each other; see {}", self.stage.traces());
            }
            std::thread::sleep(CHECK_EVERY);
        }
        self.began = Instant::now();
        if self.plan.setup.weather.loss_ppm > 0 {
            let links = self.every_link();
            self.lose(&links, self.plan.setup.weather.loss_ppm)?;
        }
        self.load.switch(&self.stage, true)?;
        for (index, step) in self.plan.steps.iter().enumerate() {
            if let When::At(at) = step.when {
                self.due.push((at, Due::Step(index)));
            }
        }
        self.prepare_step(0);
        Ok(())
    }

    /// Time of the plan.
    fn now(&self) -> SimTime {
        let elapsed = self.began.elapsed().as_secs_f64() / self.scale;
        SimTime::ZERO + Duration::from_secs_f64(elapsed)
    }

    fn turn(&mut self) -> Result<()> {
        self.look()?;
        let now = self.now();
        if now >= self.plan.ends {
            let text = "the plan did not come to its end in time".to_owned();
            self.oracle.report(now, Property::WaitsEnd, text);
            self.ended = true;
        }
        let (due, later) =
            std::mem::take(&mut self.due).into_iter().partition(|(at, _)| *at <= now);
        self.due = later;
        let mut due: Vec<(SimTime, Due)> = due;
        due.sort_by_key(|(at, _)| *at);
        for (_, due) in due {
            self.perform(due)?;
        }
        if now.since(self.checked) >= CHECK_EVERY && !self.waiting.is_empty() {
            self.checked = now;
            self.check_all();
        }
        Ok(())
    }

    /// Takes what has happened since the last look.
    fn look(&mut self) -> Result<()> {
        let facts = self.senses.look(&mut self.stage)?;
        for fact in facts {
            self.fact(&fact);
        }
        for _ in 0..self.load.new_acknowledgements() {
            self.triggered(Trigger::Ack);
        }
        if let Some((host, how)) = self.stage.ended_by_itself() {
            let text = format!("the daemon of {host} ended by itself: {how}");
            self.oracle.report(self.now(), Property::NoPanic, text);
        }
        Ok(())
    }

    fn fact(&mut self, fact: &Fact) {
        let now = self.now();
        (self.tell)(
            now,
            &match fact.host() {
                Some(host) => format!("{host} {fact}"),
                None => fact.to_string(),
            },
        );
        if let Fact::AppRuns(host) = fact {
            *self.app_starts.entry(*host).or_default() += 1;
        }
        if let Some(seen) = judging::seen(fact)
            && !self.seen.contains(&seen)
        {
            self.seen.push(seen);
        }
        self.oracle.observe(now, fact, &judging::Machines(&self.stage));
        if let Some(trigger) = judging::trigger(fact) {
            self.triggered(trigger);
        }
    }

    fn triggered(&mut self, trigger: Trigger) {
        let Some((index, awaited, seen)) = self.armed else { return };
        let When::Event { nth, delay, .. } = self.plan.steps[index].when else { return };
        if trigger != awaited {
            return;
        }
        let seen = seen + 1;
        self.armed = (seen < nth).then_some((index, trigger, seen));
        if seen == nth {
            self.due.push((self.now() + delay, Due::Step(index)));
        }
    }

    /// The step before this one is done: if this one hangs on it, its time counts from now.
    fn prepare_step(&mut self, index: usize) {
        match self.plan.steps.get(index).map(|step| &step.when) {
            Some(When::After(span)) => self.due.push((self.now() + *span, Due::Step(index))),
            Some(When::Event { trigger, .. }) => self.armed = Some((index, *trigger, 0)),
            Some(When::At(_)) | None => {}
        }
    }

    fn perform_step(&mut self, index: usize) -> Result<()> {
        let plan = self.plan;
        let step = &plan.steps[index];
        self.fact(&Fact::Step { index, text: step_text(step) });
        match &step.action {
            Action::Expect { .. } | Action::Hold { .. } => {
                self.probes[index] = Some(Probe::Fixed(1));
                self.waiting.push((index, self.now()));
                self.check_all();
            }
            Action::End => {
                self.probes[index] = Some(Probe::Fixed(1));
                self.ended = true;
            }
            action => {
                // What the next step waits for may happen within this one.
                self.prepare_step(index + 1);
                let line = step.line.map_or_else(String::new, |line| format!(" (line {line})"));
                let probe = self.act(index, action).with_context(|| step_text(step) + &line)?;
                self.probes[index] = Some(probe);
            }
        }
        Ok(())
    }

    /// Notes that a step, or the setup, demands what cannot be done to real machines.
    fn skip(&mut self, index: usize, why: &str) {
        let step = &self.plan.steps[index];
        let line = step.line.map_or_else(String::new, |line| format!("line {line}: "));
        let text = format!("{line}{} not possible here: {why}", step_text(step));
        let now = self.now();
        (self.tell)(now, &text);
        self.skipped.insert(Some(index), text);
    }

    fn finish(mut self) -> Result<Outcome> {
        let now = self.now();
        self.judge_data(now);
        self.oracle.finish(now, self.settled, &judging::Machines(&self.stage));
        for seen in self.oracle.seen() {
            if !self.seen.contains(seen) {
                self.seen.push(*seen);
            }
        }
        let report = Report {
            violations: self.oracle.violations().to_vec(),
            seen: self.seen.clone(),
            idle_steps: self.idle_steps()?,
            acked: self.load.acknowledged(),
            ended: now,
            ..Report::empty()
        };
        let skipped: Vec<String> = self.skipped.into_values().collect();
        let mut verdict = fuzz::judge(self.plan, [report]);
        // What was expected after a fault that did not happen says nothing.
        let unconvincing = match &verdict {
            Verdict::Passed | Verdict::Inconclusive(_) => true,
            Verdict::Violated { violation, .. } => violation.property == Property::Expected,
        };
        if let (true, Some(first)) = (unconvincing, skipped.first()) {
            verdict = Verdict::Inconclusive(first.clone());
        }
        Ok(Outcome {
            verdict,
            skipped,
            not_judged: judging::not_judged(self.plan),
            acknowledged: self.load.acknowledged(),
        })
    }
}
