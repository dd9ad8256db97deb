//! Which steps each transition of a farm takes, in order (reference: safekit.md section 4.1).

use crate::{
    effect::{
        ScriptAction,
        ScriptName::{Poststop, Prestart, StartBoth, StopBoth, Transition},
    },
    module::{
        procedure::After,
        record::Change,
        sequence::{Goal, Sequence, Step},
    },
    status::State,
};

/// What every procedure must know of the module.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    /// Traffic is open while the scripts run, not only between them.
    pub(super) script_control: bool,
}

impl Shape {
    /// The application starts; traffic opens once it runs.
    fn begin(self) -> [Step; 2] {
        let steps = [Step::Script(StartBoth), Step::Open];
        if self.script_control { reversed(steps) } else { steps }
    }

    /// Traffic closes, then the application stops.
    fn end(self) -> [Step; 2] {
        let steps = [Step::Close, Step::Script(StopBoth)];
        if self.script_control { reversed(steps) } else { steps }
    }
}

fn reversed([first, second]: [Step; 2]) -> [Step; 2] {
    [second, first]
}

/// Removes what an earlier life of the daemon may have left.
pub(super) fn clean() -> Sequence {
    let steps = vec![Step::AddressRemove, Step::FilterClear, Step::Kill];
    Sequence::new(Goal::Stopped, State::Stop, State::Stop, ScriptAction::Stop, steps)
}

/// STOP to WAIT.
pub(super) fn start() -> Sequence {
    let steps = vec![
        Step::Record(vec![Change::Started(true)]),
        Step::Script(Transition),
        Step::Script(Prestart),
    ];
    Sequence::new(Goal::Started, State::Stop, State::Wait, ScriptAction::Start, steps)
}

/// WAIT to UP. The filter stands, and lets nobody in, before there is an address to come to.
pub(super) fn up(shape: Shape) -> Sequence {
    let mut steps = vec![Step::Script(Transition), Step::Filter, Step::AddressAdd];
    steps.extend(shape.begin());
    Sequence::new(Goal::Promoted, State::Wait, State::Up, ScriptAction::Start, steps)
}

/// UP after a restart of the daemon alone: the application never stopped.
pub(super) fn resume() -> Sequence {
    let steps = vec![Step::Filter, Step::AddressAdd, Step::Open];
    Sequence::new(Goal::Promoted, State::Up, State::Up, ScriptAction::Start, steps)
}

/// Stops and starts the application in place.
pub(super) fn restart(shape: Shape) -> Sequence {
    let steps = shape.end().into_iter().chain(shape.begin()).collect();
    Sequence::new(Goal::Restarted, State::Up, State::Up, ScriptAction::Start, steps)
}

/// Stops whatever runs.
pub(super) fn stop(shape: Shape, from: State, after: &After) -> Sequence {
    let (goal, to, action) = match after {
        After::StartAgain => (Goal::StartAgain, State::Stop, ScriptAction::Stopstart),
        After::Wait(reason) => (Goal::Waiting(reason.clone()), State::Wait, ScriptAction::Stopwait),
        After::Stop | After::Yield => (Goal::Stopped, State::Stop, ScriptAction::Stop),
    };
    let mut steps = Vec::new();
    if from == State::Up {
        steps.extend(shape.end());
    }
    steps.extend([Step::AddressRemove, Step::FilterClear, Step::Script(Transition)]);
    if to == State::Stop {
        steps.extend([Step::Force(StopBoth), Step::Script(Poststop), Step::Kill]);
    }
    if *after == After::Stop {
        steps.push(Step::Record(vec![Change::Started(false)]));
    }
    Sequence::new(goal, from, to, action, steps)
}

/// Stops without asking scripts first.
pub(super) fn force_stop(from: State) -> Sequence {
    let steps = vec![
        Step::Close,
        Step::Kill,
        Step::AddressRemove,
        Step::FilterClear,
        Step::Script(Poststop),
        Step::Record(vec![Change::Started(false)]),
    ];
    Sequence::new(Goal::Stopped, from, State::Stop, ScriptAction::Stop, steps)
}
