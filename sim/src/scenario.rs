//! Scenario files: TOML with strict keys in, a [`Plan`] out; and plans back to TOML.
//!
//! The format is documented in scenarios/README.md. Every error names file, line and column.

use std::{
    ops::Range,
    path::{Path, PathBuf},
    time::Duration,
};

use havre_core::config::module::Contract;
use serde::Deserialize;
use toml::Spanned;

use crate::{
    expect::{Condition, Property},
    net::{HOSTS, HostId, NODES_MAX},
    plan::{
        Action, Expectations, FarmSetup, Plan, Policy, Preferred, Selector, Setup, Start, Step,
        When,
    },
    time::SimTime,
};

mod checks;
mod step;
mod text;

pub use step::parse_span;
pub use text::{export, step_text};

/// Version of the format.
const FORMAT: u64 = 1;
/// Sub-seeds of a scenario that names no number.
const RUNS_DEFAULT: u32 = 20;
/// Room after the last step whose time is known.
const MARGIN: Duration = Duration::from_secs(120);

/// A scenario file, read and checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Scenario {
    /// What happens and what must be true.
    pub plan: Plan,
    /// What it is about.
    pub about: String,
    /// Number of sub-seeds: same timeline, different weather.
    pub runs: u32,
}

/// Why a file is no scenario.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}:{column}: {message}")]
pub struct ScenarioError {
    file: String,
    line: usize,
    column: usize,
    message: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    format: Spanned<u64>,
    name: String,
    #[serde(default)]
    about: String,
    #[serde(default)]
    start: Option<Spanned<String>>,
    timeline: Vec<Spanned<step::RawStep>>,
    #[serde(default)]
    module: RawModule,
    #[serde(default)]
    guard: checks::RawGuard,
    #[serde(default)]
    rules: checks::RawRules,
    #[serde(default)]
    check: Vec<checks::RawCheck>,
    #[serde(default)]
    nodes: RawNodes,
    #[serde(default)]
    links: RawLinks,
    #[serde(default)]
    disk: RawDisk,
    #[serde(default)]
    load: RawLoad,
    farm: Option<RawFarm>,
    #[serde(default)]
    expect: RawExpect,
    #[serde(default)]
    sim: RawSim,
    #[serde(default)]
    #[expect(dead_code, reason = "for people: where an exported file came from")]
    origin: Option<toml::Table>,
}

type Text = Option<Spanned<String>>;
type Pair = Option<Spanned<[String; 2]>>;

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawModule {
    policy: Text,
    contract: Text,
    timeout: Text,
    pulse: Text,
    failover: Option<bool>,
    default_primary: Text,
    scripts: Pair,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawNodes {
    a: Option<RawNode>,
    b: Option<RawNode>,
    w: Option<RawNode>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawNode {
    drift_ppm: i32,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawLinks {
    nets: Option<Spanned<u8>>,
    delay: Pair,
    loss: Option<f64>,
    duplicate: Option<f64>,
    reorder: Option<f64>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawDisk {
    read: Pair,
    write: Pair,
    flush: Pair,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawLoad {
    every: Text,
    blocks: Option<u64>,
    region: Option<u64>,
    writes: Option<u64>,
    reads: Option<f64>,
    hot: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFarm {
    nodes: Spanned<u8>,
    leader_pulses: Option<u32>,
    clients: Text,
    #[serde(default)]
    powers: Vec<u32>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawExpect {
    always: Option<Vec<Spanned<String>>>,
    #[serde(default)]
    violated: Vec<Spanned<String>>,
    #[serde(default)]
    healed: Vec<Spanned<String>>,
    healed_within: Text,
    #[serde(default)]
    sometimes: Vec<Spanned<String>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawSim {
    runs: Option<u32>,
}

/// The scenario files of a path: itself, or every one below it if it is a folder.
///
/// # Errors
/// A folder cannot be read.
pub fn files_below(path: &Path, into: &mut Vec<PathBuf>) -> std::io::Result<()> {
    if !path.is_dir() {
        into.push(path.to_owned());
        return Ok(());
    }
    let mut entries: Vec<PathBuf> =
        std::fs::read_dir(path)?.map(|entry| entry.map(|e| e.path())).collect::<Result<_, _>>()?;
    entries.sort();
    for entry in entries {
        if entry.is_dir() || entry.extension().is_some_and(|e| e == "toml") {
            files_below(&entry, into)?;
        }
    }
    Ok(())
}

/// A message and the bytes it is about.
type Wrong = (Range<usize>, String);

/// Share of a million.
fn ppm(share: f64) -> u32 {
    (share.clamp(0.0, 1.0) * 1_000_000.0).round() as u32
}

fn parsed<T: std::str::FromStr<Err = String>>(text: &Spanned<String>) -> Result<T, Wrong> {
    text.get_ref().parse().map_err(|message| (text.span(), message))
}

fn span_of(text: &Spanned<String>) -> Result<Duration, Wrong> {
    parse_span(text.get_ref()).map_err(|message| (text.span(), message))
}

fn pair_us(pair: &Spanned<[String; 2]>) -> Result<(u64, u64), Wrong> {
    let [low, high] = pair.get_ref();
    let at = |text: &str| {
        parse_span(text).map(crate::time::micros).map_err(|message| (pair.span(), message))
    };
    let (low, high) = (at(low)?, at(high)?);
    if low > high {
        return Err((pair.span(), "the first must not be greater than the second".into()));
    }
    Ok((low, high))
}

impl Scenario {
    /// Reads a scenario; `file` names it in errors.
    pub fn parse(file: &str, source: &str) -> Result<Self, ScenarioError> {
        let located = |span: Range<usize>, message: String| {
            let before = &source[..span.start.min(source.len())];
            let line = before.matches('\n').count() + 1;
            let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
            ScenarioError { file: file.into(), line, column, message }
        };
        let raw: RawFile = toml::from_str(source)
            .map_err(|error| located(error.span().unwrap_or(0..0), error.message().to_owned()))?;
        let line_of = |at: usize| source[..at.min(source.len())].matches('\n').count() + 1;
        raw.into_scenario(&line_of).map_err(|(span, message)| located(span, message))
    }
}

impl RawFile {
    fn into_scenario(self, line_of: &dyn Fn(usize) -> usize) -> Result<Scenario, Wrong> {
        if *self.format.get_ref() != FORMAT {
            return Err((self.format.span(), format!("this is format {FORMAT}")));
        }
        let setup = self.setup()?;
        let mut steps = match setup.start {
            Start::Pair => pair_steps(),
            Start::Farm => farm_steps(),
            Start::Blank => Vec::new(),
        };
        for raw in &self.timeline {
            let line = line_of(raw.span().start);
            let step = step::read(raw.get_ref(), line).map_err(|m| (raw.span(), m))?;
            steps.push(step);
        }
        let expect = self.expectations()?;
        finish_steps(&mut steps, &expect);
        let plan = Plan {
            name: self.name,
            setup,
            ends: ends_of(&steps),
            steps,
            expect,
            every_fault_must_hit: true,
        };
        Ok(Scenario { plan, about: self.about, runs: self.sim.runs.unwrap_or(RUNS_DEFAULT).max(1) })
    }

    fn setup(&self) -> Result<Setup, Wrong> {
        let mut setup = Setup::default();
        self.module.fill(&mut setup)?;
        setup.guard = self.guard.read()?;
        setup.checks = checks::read(&self.check, &self.rules)?;
        if let Some(farm) = &self.farm {
            setup.farm = Some(farm.setup()?);
            setup.start = Start::Farm;
        }
        if let Some(start) = &self.start {
            setup.start = match start.get_ref().as_str() {
                "pair" if setup.farm.is_none() => Start::Pair,
                "farm" if setup.farm.is_some() => Start::Farm,
                "blank" => Start::Blank,
                _ => return Err((start.span(), "start is `pair`, `farm` or `blank`".into())),
            };
        }
        let nodes = [&self.nodes.a, &self.nodes.b, &self.nodes.w];
        for (host, node) in nodes.into_iter().enumerate() {
            setup.drift_ppm[host] = node.as_ref().map_or(0, |node| node.drift_ppm);
        }
        if let Some(nets) = &self.links.nets {
            if !(1..=2).contains(nets.get_ref()) {
                return Err((nets.span(), "there are 1 or 2 networks".into()));
            }
            setup.nets = *nets.get_ref();
        }
        if let Some(delay) = &self.links.delay {
            setup.weather.delay_us = pair_us(delay)?;
        }
        setup.weather.loss_ppm = ppm(self.links.loss.unwrap_or(0.0));
        setup.weather.duplicate_ppm = ppm(self.links.duplicate.unwrap_or(0.0));
        setup.weather.reorder_ppm = ppm(self.links.reorder.unwrap_or(0.0));
        for (raw, place) in [
            (&self.disk.read, &mut setup.disk.read_us),
            (&self.disk.write, &mut setup.disk.write_us),
            (&self.disk.flush, &mut setup.disk.flush_us),
        ] {
            if let Some(raw) = raw {
                *place = pair_us(raw)?;
            }
        }
        self.load.fill(&mut setup)?;
        Ok(setup)
    }

    fn expectations(&self) -> Result<Expectations, Wrong> {
        let raw = &self.expect;
        let violated: Vec<Property> = raw.violated.iter().map(parsed).collect::<Result<_, _>>()?;
        let always = match &raw.always {
            Some(always) => always.iter().map(parsed).collect::<Result<_, _>>()?,
            None => Property::ALL.into_iter().filter(|p| !violated.contains(p)).collect(),
        };
        Ok(Expectations {
            always,
            violated,
            healed: raw.healed.iter().map(parsed).collect::<Result<_, _>>()?,
            healed_within: match &raw.healed_within {
                Some(text) => span_of(text)?,
                None => Duration::from_secs(30),
            },
            sometimes: raw.sometimes.iter().map(parsed).collect::<Result<_, _>>()?,
        })
    }
}

impl RawModule {
    fn fill(&self, setup: &mut Setup) -> Result<(), Wrong> {
        if let Some(policy) = &self.policy {
            setup.policy = match policy.get_ref().as_str() {
                "none" => Policy::None,
                "ping" => Policy::Ping,
                "lease" => Policy::Lease,
                _ => return Err((policy.span(), "policy is `lease`, `ping` or `none`".into())),
            };
        }
        if let Some(contract) = &self.contract {
            setup.contract = match contract.get_ref().as_str() {
                "durable" => Contract::Durable,
                "received" => Contract::Received,
                _ => {
                    return Err((contract.span(), "contract is `durable` or `received`".into()));
                }
            };
        }
        if let Some(timeout) = &self.timeout {
            setup.timeout = span_of(timeout)?;
            setup.pulse = setup.timeout / 4;
        }
        if let Some(pulse) = &self.pulse {
            setup.pulse = span_of(pulse)?;
        }
        setup.failover = self.failover.unwrap_or(true);
        if let Some(preferred) = &self.default_primary {
            setup.preferred = match preferred.get_ref().as_str() {
                "alone" => Preferred::Alone,
                "a" => Preferred::Node(HostId::A),
                "b" => Preferred::Node(HostId::B),
                "last" => Preferred::Last,
                _ => {
                    let message = "default_primary is `alone`, `a`, `b` or `last`";
                    return Err((preferred.span(), message.into()));
                }
            };
        }
        if let Some(scripts) = &self.scripts {
            setup.script_us = pair_us(scripts)?;
        }
        Ok(())
    }
}

impl RawFarm {
    fn setup(&self) -> Result<FarmSetup, Wrong> {
        let nodes = *self.nodes.get_ref();
        if !(2..=NODES_MAX).contains(&nodes) {
            return Err((self.nodes.span(), format!("a farm has 2 to {NODES_MAX} nodes")));
        }
        let default = FarmSetup::default();
        Ok(FarmSetup {
            nodes,
            leader_pulses: self.leader_pulses.unwrap_or(default.leader_pulses).max(2),
            clients_every: match &self.clients {
                Some(text) => span_of(text)?,
                None => default.clients_every,
            },
            powers: self.powers.clone(),
        })
    }
}

impl RawLoad {
    fn fill(&self, setup: &mut Setup) -> Result<(), Wrong> {
        let load = &mut setup.load;
        if let Some(every) = &self.every {
            load.every = span_of(every)?;
        }
        load.blocks = self.blocks.unwrap_or(load.blocks).clamp(1, 1 << 16);
        load.region_blocks = self.region.unwrap_or(load.region_blocks).clamp(1, load.blocks);
        load.writes_max = self.writes.unwrap_or(load.writes_max);
        load.reads_ppm = self.reads.map_or(load.reads_ppm, ppm);
        load.hot_blocks = self.hot.unwrap_or(load.hot_blocks);
        // Whole regions, so that every block can be marked.
        load.blocks = load.blocks.next_multiple_of(load.region_blocks);
        Ok(())
    }
}

/// The steps that make a pair of two fresh nodes.
pub fn pair_steps() -> Vec<Step> {
    use havre_core::{
        effect::ModuleOrder,
        status::{Phase, State},
    };
    let (a, b) = (Selector::Host(HostId::A), Selector::Host(HostId::B));
    let then = |action| Step { when: When::After(Duration::ZERO), action, line: None };
    let expect = |condition, secs| {
        then(Action::Expect {
            conditions: vec![condition],
            within: Duration::from_secs(secs),
            property: Property::Expected,
        })
    };
    let prim = ModuleOrder::Prim { full_resync: false, force: false };
    let first = Step {
        when: When::At(SimTime::from_millis(500)),
        action: Action::Order { who: a, order: prim },
        line: None,
    };
    vec![
        first,
        expect(Condition::State(a, State::Alone, Some(Phase::Ready)), 30),
        then(Action::Order { who: b, order: ModuleOrder::Start }),
        expect(Condition::InSync, 30),
    ]
}

/// The steps that make a farm of fresh nodes.
pub fn farm_steps() -> Vec<Step> {
    use havre_core::{
        effect::ModuleOrder,
        status::{Phase, State},
    };
    let who = Selector::Nodes;
    let up = Condition::State(who, State::Up, Some(Phase::Ready));
    let first = Step {
        when: When::At(SimTime::from_millis(500)),
        action: Action::Order { who, order: ModuleOrder::Start },
        line: None,
    };
    let expect = Action::Expect {
        conditions: vec![up, Condition::SharesWhole],
        within: Duration::from_secs(30),
        property: Property::Expected,
    };
    vec![first, Step { when: When::After(Duration::ZERO), action: expect, line: None }]
}

/// Adds what `healed` means, and the end.
fn finish_steps(steps: &mut Vec<Step>, expect: &Expectations) {
    if steps.last().is_some_and(|step| step.action == Action::End) {
        return;
    }
    let then = |span, action| Step { when: When::After(span), action, line: None };
    if !expect.healed.is_empty() {
        steps.push(then(Duration::ZERO, Action::Calm));
        steps.push(then(
            Duration::ZERO,
            Action::Expect {
                conditions: expect.healed.clone(),
                within: expect.healed_within,
                property: Property::WaitsEnd,
            },
        ));
        steps.push(then(Duration::ZERO, Action::Load(false)));
        steps.push(then(Duration::from_secs(3), Action::Settled));
    }
    steps.push(then(Duration::ZERO, Action::End));
}

/// A bound on the length of a run with these steps.
pub fn ends_of(steps: &[Step]) -> SimTime {
    let mut at = SimTime::ZERO;
    for step in steps {
        match step.when {
            When::At(moment) => at = at.max(moment),
            When::After(span) => at += span,
            When::Event { delay, .. } => at += delay + MARGIN,
        }
        match &step.action {
            Action::Expect { within, .. } => at += *within,
            Action::Hold { span, .. } => at += *span,
            _ => {}
        }
    }
    at + MARGIN
}

/// The most hosts a scenario can name.
const _: () = assert!(HOSTS == 5, "the README lists the hosts");

#[cfg(test)]
mod tests;
