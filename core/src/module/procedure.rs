//! Which steps each transition takes, in order (reference: safekit.md section 3.2).

use crate::{
    effect::{
        ScriptAction,
        ScriptName::{
            Poststop, Prestart, StartBoth, StartPrim, StartSec, StartSecond, StopBoth, StopPrim,
            StopSec, StopSecond, Transition,
        },
        VolumeRequest,
    },
    ids::NodeId,
    module::{
        record::Change,
        sequence::{Goal, Sequence, Step},
    },
    replication::generation::Generation,
    status::{State, WaitReason},
};

/// What every procedure must know of the module.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Files are replicated.
    pub replicated: bool,
}

/// What a stop leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum After {
    /// STOP.
    Stop,
    /// STOP, then start.
    StartAgain,
    /// WAIT, the peer is to take over.
    Yield,
    /// WAIT.
    Wait(WaitReason),
}

/// STOP to WAIT.
pub fn start(shape: Shape) -> Sequence {
    let mut steps = vec![
        Step::Record(vec![Change::Started(true)]),
        Step::Script(Transition),
        Step::Script(Prestart),
    ];
    if shape.replicated {
        steps.push(Step::Volume(VolumeRequest::Prepare));
    }
    Sequence::new(Goal::Started, State::Stop, State::Wait, ScriptAction::Start, steps)
}

/// WAIT or SECOND to ALONE, once the right to run is held. `handed`: by a primary that says that
/// it serves no more.
pub fn promote(
    shape: Shape,
    from: State,
    before: Vec<Change>,
    generation: Generation,
    handed: bool,
) -> Sequence {
    let mut changes = before;
    changes.extend([Change::Advance(generation), Change::WasPrimary(true)]);
    let mut steps = vec![Step::Commit(generation), Step::Record(changes)];
    if from == State::Second {
        steps.push(Step::Script(StopSecond));
    }
    steps.push(Step::Script(Transition));
    if shape.replicated {
        steps.push(Step::Volume(VolumeRequest::Serve { generation }));
    }
    steps.push(if handed { Step::AddressTake } else { Step::AddressAdd });
    if from == State::Second {
        steps.push(Step::Script(StartPrim));
    } else {
        let starts = [StartBoth, StartPrim, StartSec];
        steps.extend(starts.map(Step::Script));
    }
    Sequence::new(Goal::Promoted, from, State::Alone, ScriptAction::Start, steps)
}

/// Goes on as primary after a restart of the daemon alone: the application never stopped.
pub fn resume(shape: Shape, before: Vec<Change>, generation: Generation) -> Sequence {
    let mut changes = before;
    changes.push(Change::Advance(generation));
    let mut steps = vec![Step::Commit(generation), Step::Record(changes)];
    if shape.replicated {
        steps.push(Step::Volume(VolumeRequest::Serve { generation }));
    }
    steps.push(Step::AddressAdd);
    Sequence::new(Goal::Promoted, State::Alone, State::Alone, ScriptAction::Start, steps)
}

/// WAIT to SECOND. Before the first block is overwritten, the copy is durably inconsistent.
pub fn follow(
    shape: Shape,
    source: NodeId,
    generation: Generation,
    keep_aside: Option<Generation>,
) -> Sequence {
    let mut steps = vec![Step::Record(vec![Change::Inconsistent])];
    let starts = [Transition, StartBoth, StartSecond, StartSec];
    steps.extend(starts.map(Step::Script));
    if shape.replicated {
        steps.push(Step::Volume(VolumeRequest::Follow { source, generation, keep_aside }));
    }
    Sequence::new(Goal::Following, State::Wait, State::Second, ScriptAction::Start, steps)
}

/// SECOND again, after the data path was cut and the primary went on.
pub fn follow_again(source: NodeId, generation: Generation) -> Sequence {
    let steps = vec![
        Step::Record(vec![Change::Inconsistent]),
        Step::Volume(VolumeRequest::Follow { source, generation, keep_aside: None }),
    ];
    Sequence::new(Goal::Following, State::Second, State::Second, ScriptAction::Start, steps)
}

/// Stops whatever runs.
pub fn stop(shape: Shape, from: State, after: &After, clean: bool) -> Sequence {
    let (goal, to, action) = match after {
        After::Stop => (Goal::Stopped, State::Stop, ScriptAction::Stop),
        After::StartAgain => (Goal::StartAgain, State::Stop, ScriptAction::Stopstart),
        After::Yield => (Goal::Yielded, State::Wait, ScriptAction::Stopstart),
        After::Wait(reason) => (Goal::Waiting(reason.clone()), State::Wait, ScriptAction::Stopwait),
    };
    let mut steps = Vec::new();
    let stops: &[_] = match from {
        State::Alone => &[StopSec, StopPrim, StopBoth],
        State::Prim => &[StopPrim, StopBoth],
        State::Second => &[StopSec, StopSecond, StopBoth],
        State::Stop | State::Wait | State::Up => &[],
    };
    steps.extend(stops.iter().map(|s| Step::Script(*s)));
    steps.push(Step::AddressRemove);
    if shape.replicated {
        steps.push(Step::Volume(VolumeRequest::Close { clean }));
    }
    steps.push(Step::Release);
    steps.push(Step::Script(Transition));
    if to == State::Stop {
        steps.extend([StopSec, StopPrim, StopSecond, StopBoth].map(Step::Force));
        steps.extend([Step::Script(Poststop), Step::Kill]);
    }
    if *after == After::Stop {
        steps.push(Step::Record(vec![Change::Started(false)]));
    }
    Sequence::new(goal, from, to, action, steps)
}

/// Stops without asking scripts first.
pub fn force_stop(shape: Shape, from: State) -> Sequence {
    let mut steps = vec![Step::Kill, Step::AddressRemove];
    if shape.replicated {
        steps.push(Step::Volume(VolumeRequest::Close { clean: false }));
    }
    steps.extend([
        Step::Release,
        Step::Script(Poststop),
        Step::Record(vec![Change::Started(false)]),
    ]);
    Sequence::new(Goal::Stopped, from, State::Stop, ScriptAction::Stop, steps)
}

/// What follows an emergency stop: address and application are gone already.
pub fn after_fence(shape: Shape, from: State, reason: WaitReason) -> Sequence {
    let mut steps = vec![Step::Force(StopPrim), Step::Force(StopBoth), Step::Kill];
    steps.push(Step::AddressRemove);
    if shape.replicated {
        steps.push(Step::Volume(VolumeRequest::Close { clean: false }));
    }
    steps.extend([Step::Release, Step::Script(Transition)]);
    Sequence::new(Goal::Waiting(reason), from, State::Wait, ScriptAction::Stopwait, steps)
}

/// Stops and starts the application in place.
pub fn restart(state: State) -> Sequence {
    let scripts: &[_] = match state {
        State::Prim => &[StopPrim, StopBoth, StartBoth, StartPrim],
        State::Alone => &[StopSec, StopPrim, StopBoth, StartBoth, StartPrim, StartSec],
        _ => &[StopSec, StopSecond, StopBoth, StartBoth, StartSecond, StartSec],
    };
    let steps = scripts.iter().map(|s| Step::Script(*s)).collect();
    Sequence::new(Goal::Restarted, state, state, ScriptAction::Start, steps)
}

/// ALONE to PRIM and back.
pub fn peer_changed(gained: bool) -> Sequence {
    let (from, to, scripts) = if gained {
        (State::Alone, State::Prim, [StopSec, Transition])
    } else {
        (State::Prim, State::Alone, [Transition, StartSec])
    };
    let steps = scripts.map(Step::Script).to_vec();
    Sequence::new(Goal::Notice, from, to, ScriptAction::Start, steps)
}
