//! What is judged on real machines: by the simulator's oracle from facts, and here from data.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use havre_core::{
    effect::ModuleRecord,
    event::{Event, EventKind},
    status::ModuleStatus,
};
use havre_sim::{
    disk::Block,
    expect::{Property, Sometimes},
    fact::Fact,
    net::HostId,
    oracle::World,
    plan::{Plan, Trigger},
    time::SimTime,
};

use super::{Run, stage::Stage};

/// Where the data path keeps what is not replicated.
const HOUSEKEEPING: &str = ".havre";

/// Properties that the oracle judges from facts of real machines.
const BY_ORACLE: [Property; 2] = [Property::OnePrimary, Property::OneAddress];
/// Properties that are judged from data, processes and steps.
const HERE: [Property; 5] = [
    Property::AckedSurvive,
    Property::CopiesEqual,
    Property::WaitsEnd,
    Property::Expected,
    Property::NoPanic,
];

/// What the oracle judges of this plan.
pub(super) fn by_oracle(plan: &Plan) -> Vec<Property> {
    plan.expect.judged().into_iter().filter(|p| BY_ORACLE.contains(p)).collect()
}

/// What only the simulator can judge of this plan.
pub(super) fn not_judged(plan: &Plan) -> Vec<Property> {
    let known = |p: &Property| BY_ORACLE.contains(p) || HERE.contains(p);
    plan.expect.judged().into_iter().filter(|p| !known(p)).collect()
}

/// The trigger that a fact of a real machine is.
pub(super) fn trigger(fact: &Fact) -> Option<Trigger> {
    let Fact::News(_, Event { kind, .. }) = fact else { return fact.trigger() };
    Some(match kind {
        EventKind::ResyncStarted { target: true, .. } => Trigger::ResyncStarts,
        EventKind::ResyncEnded { target: true, .. } => Trigger::ResyncEnds,
        EventKind::ReplicationLost { .. } => Trigger::Solo,
        EventKind::ScriptStarted { script } if script.starts_with("stop_prim") => {
            Trigger::StopScript
        }
        _ => return fact.trigger(),
    })
}

/// What a fact of a real machine shows, besides what the oracle notes.
pub(super) fn seen(fact: &Fact) -> Option<Sometimes> {
    let Fact::News(_, Event { kind, .. }) = fact else { return None };
    match kind {
        EventKind::ResyncEnded { .. } => Some(Sometimes::Resync),
        EventKind::ReplicationLost { .. } => Some(Sometimes::Solo),
        _ => None,
    }
}

/// The machines as the oracle may look at them. Blocks and records are the simulator's: no
/// property of [`BY_ORACLE`] asks for them.
pub(super) struct Machines<'a>(pub(super) &'a Stage);

impl World for Machines<'_> {
    fn content(&self, _host: HostId, _block: u64) -> Block {
        Block::default()
    }

    fn is_live(&self, host: HostId) -> bool {
        self.0.is_live(host)
    }

    fn is_prompt(&self, host: HostId) -> bool {
        self.0.is_live(host)
    }

    fn module(&self, host: HostId) -> Option<ModuleStatus> {
        self.0.status(host)
    }

    fn record(&self, _host: HostId) -> Option<ModuleRecord> {
        None
    }
}

/// In what the replicated directories of the two nodes differ, in words.
pub(super) fn copies_differ(stage: &Stage) -> Option<String> {
    let [a, b] =
        HostId::DATA.map(|host| files(&stage.cluster.lab().machine(stage.node(host)).disk(0)));
    let (a, b) = match (a, b) {
        (Ok(a), Ok(b)) => (a, b),
        (Err(error), _) | (_, Err(error)) => return Some(error.to_string()),
    };
    let names = a.keys().chain(b.keys());
    let differs = names.into_iter().find(|name| a.get(*name) != b.get(*name))?;
    let length = |files: &BTreeMap<PathBuf, Vec<u8>>| {
        files
            .get(differs)
            .map_or_else(|| "none".to_owned(), |bytes| format!("{} bytes", bytes.len()))
    };
    Some(format!("{}: {} on a, {} on b", differs.display(), length(&a), length(&b)))
}

fn files(folder: &Path) -> io::Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next)? {
            let path = entry?.path();
            if path.file_name().is_some_and(|name| name == HOUSEKEEPING) {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap_or(&path).to_owned();
                found.insert(name, fs::read(&path)?);
            }
        }
    }
    Ok(found)
}

impl Run<'_> {
    /// At the end: acknowledged records are there, and two copies in sync are equal.
    pub(super) fn judge_data(&mut self, now: SimTime) {
        self.load.stop();
        let judged = self.plan.expect.judged();
        if judged.contains(&Property::AckedSurvive)
            && self.load.acknowledged() > 0
            && let Some(lost) = self.load.lost(&self.stage)
            && !lost.is_empty()
        {
            let all = self.load.acknowledged();
            let text = format!("{} of {all} acknowledged records are lost: {lost:?}", lost.len());
            self.oracle.report(now, Property::AckedSurvive, text);
        }
        if self.settled
            && judged.contains(&Property::CopiesEqual)
            && let Some(text) = copies_differ(&self.stage)
        {
            self.oracle.report(now, Property::CopiesEqual, text);
        }
    }
}
