//! A list of steps carried out one after the other: scripts, address, data path, record.
//!
//! Which steps a transition takes is data, built by [`procedure`](super::procedure); this part
//! only remembers where it stands and which order it waits for.

use std::collections::VecDeque;

use crate::{
    effect::{ScriptAction, ScriptName, VolumeRequest},
    ids::OpId,
    module::record::Change,
    replication::generation::Generation,
    status::{State, WaitReason},
};

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Run a script.
    Script(ScriptName),
    /// Run a stop script with `force`.
    Force(ScriptName),
    /// Order the data path.
    Volume(VolumeRequest),
    /// Set the virtual addresses.
    AddressAdd,
    /// Set the virtual addresses that the peer has just given up.
    AddressTake,
    /// Remove the virtual addresses.
    AddressRemove,
    /// Make a change of the record durable.
    Record(Vec<Change>),
    /// Have it recorded that this node alone holds the generation.
    Commit(Generation),
    /// Give the right to run back.
    Release,
    /// Kill what scripts left running.
    Kill,
    /// Farm: tell the packet filter what it is to do.
    Filter,
    /// Farm: take the packet filter away.
    FilterClear,
    /// Farm: new clients may come.
    Open,
    /// Farm: new clients go elsewhere, and the filter has let go.
    Close,
}

/// Where a sequence leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Goal {
    /// From STOP to WAIT.
    Started,
    /// The application runs here.
    Promoted,
    /// This node follows the primary.
    Following,
    /// The application was stopped and started in place.
    Restarted,
    /// A script that changes nothing else.
    Notice,
    /// Everything is stopped; wait for this reason.
    Waiting(WaitReason),
    /// Everything is stopped; the peer is to take over.
    Yielded,
    /// Everything is stopped, and is started again.
    StartAgain,
    /// STOP.
    Stopped,
}

/// A list of steps under way.
#[derive(Debug, Clone)]
pub struct Sequence {
    /// Where it leads.
    pub goal: Goal,
    /// First script argument: the state it starts from.
    pub from: State,
    /// Second script argument: the state it leads to.
    pub to: State,
    /// Third script argument.
    pub action: ScriptAction,
    steps: VecDeque<Step>,
    waiting: Option<(OpId, Step)>,
}

impl Sequence {
    /// A sequence that has not begun.
    pub fn new(goal: Goal, from: State, to: State, action: ScriptAction, steps: Vec<Step>) -> Self {
        Self { goal, from, to, action, steps: steps.into(), waiting: None }
    }

    /// Takes the next step, if no step is under way.
    pub fn take_next(&mut self) -> Option<Step> {
        if self.waiting.is_some() { None } else { self.steps.pop_front() }
    }

    /// Puts a step in front of the others.
    pub fn insert(&mut self, step: Step) {
        self.steps.push_front(step);
    }

    /// Remembers which order the step waits for.
    pub fn wait_for(&mut self, op: OpId, step: Step) {
        self.waiting = Some((op, step));
    }

    /// The step that waited for this order, if any did.
    pub fn completed(&mut self, op: OpId) -> Option<Step> {
        self.waiting.take_if(|(waiting, _)| *waiting == op).map(|(_, step)| step)
    }

    /// Waits no more for the step under way.
    pub fn abandon(&mut self) -> Option<Step> {
        self.waiting.take().map(|(_, step)| step)
    }

    /// The step under way.
    pub fn current(&self) -> Option<&Step> {
        self.waiting.as_ref().map(|(_, step)| step)
    }

    /// Whether every step has ended.
    pub fn done(&self) -> bool {
        self.waiting.is_none() && self.steps.is_empty()
    }
}
