//! The result of a run, whatever the engine.

use crate::{
    expect::{Property, Sometimes},
    fact::Fact,
    oracle::Violation,
    time::SimTime,
};

/// What performs a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Engine {
    /// Discrete events, drives the core alone.
    Direct,
    /// The production agent on turmoil hosts.
    Turmoil,
}

impl Engine {
    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Turmoil => "turmoil",
        }
    }

    /// Sub-seeds of a scenario that are tried first; the rest follows if they leave it
    /// inconclusive. Turmoil's price is its ticks: hundreds of times the direct engine's.
    pub const fn runs_first(self, runs: u32) -> u32 {
        match self {
            Self::Turmoil if runs > 3 => 3,
            _ => runs,
        }
    }
}

/// How a run is performed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RunOptions {
    /// Keep the timeline.
    pub record: bool,
    /// End at the first violation.
    pub stop_at_violation: bool,
}

/// What a run showed.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// Properties that did not hold.
    pub violations: Vec<Violation>,
    /// What happened at least once.
    pub seen: Vec<Sometimes>,
    /// Steps whose fault hit nothing, by position.
    pub idle_steps: Vec<usize>,
    /// Transactions acknowledged.
    pub acked: u64,
    /// Events performed.
    pub events: u64,
    /// Digest of all events: equal for equal runs.
    pub hash: u64,
    /// When the run ended.
    pub ended: SimTime,
    /// What happened, if it was recorded.
    pub timeline: Vec<(SimTime, Fact)>,
}

impl Report {
    /// A run of which nothing is known.
    pub const fn empty() -> Self {
        Self {
            seed: 0,
            violations: Vec::new(),
            seen: Vec::new(),
            idle_steps: Vec::new(),
            acked: 0,
            events: 0,
            hash: 0,
            ended: SimTime::ZERO,
            timeline: Vec::new(),
        }
    }

    /// The properties that did not hold, each once.
    pub fn violated(&self) -> Vec<Property> {
        let mut properties: Vec<Property> = self.violations.iter().map(|v| v.property).collect();
        properties.sort_unstable();
        properties.dedup();
        properties
    }
}
