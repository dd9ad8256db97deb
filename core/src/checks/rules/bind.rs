//! Evaluation of rules. Pure: the same states give the same verdict, with its reason.
//!
//! Names are resolved to places once ([`Bound::new`]), so that evaluating a thousand rules over a
//! thousand resources takes microseconds.

use super::{Expr, Pick, Reference, Rule, RuleAction, Then};
use crate::checks::resource::{Cell, ResourceName, ResourceState, Resources, Side};

/// Resources named as the reason of a verdict.
const REASONS_MAX: usize = 8;

/// What the rules say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// What to do.
    pub action: RuleAction,
    /// Label of the rule that says so.
    pub rule: String,
    /// The resources that decided, with their states.
    pub resources: Vec<String>,
}

/// A wait rule that cannot say yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// Its label.
    pub rule: String,
    /// The resources that have not reported.
    pub resources: Vec<String>,
}

/// Result of an evaluation.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Evaluation {
    /// The strongest action of a rule that fires; of equal ones the first.
    pub verdict: Option<Verdict>,
    /// The first wait rule that is undecided.
    pub pending: Option<Pending>,
    /// Resources to be set: the name, the state, and the rule that says so.
    pub assignments: Vec<(ResourceName, ResourceState, String)>,
}

/// Three-valued logic (Kleene): what is unknown may still be decided by the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Truth {
    False,
    Undecided,
    True,
}

impl From<bool> for Truth {
    fn from(value: bool) -> Self {
        if value { Self::True } else { Self::False }
    }
}

#[derive(Debug, Clone)]
enum Node {
    Compare {
        places: Vec<u32>,
        all: bool,
        side: Side,
        equal: bool,
        state: ResourceState,
    },
    /// The one resource that is meant is not there.
    Nobody {
        equal: bool,
        state: ResourceState,
        name: String,
    },
    Cluster {
        equal: bool,
        state: ResourceState,
    },
    Not(Box<Node>),
    And(Vec<Node>),
    Or(Vec<Node>),
}

/// Rules whose names have been resolved.
#[derive(Debug, Clone, Default)]
pub struct Bound {
    rules: Vec<(Rule, Node)>,
    resources: usize,
}

impl Bound {
    /// Resolves the names of rules.
    pub fn new(rules: Vec<Rule>, resources: &Resources) -> Self {
        let bind = |rule: Rule| {
            let node = bind(&rule.when, resources);
            (rule, node)
        };
        Self { rules: rules.into_iter().map(bind).collect(), resources: resources.len() }
    }

    /// Resolves them again if resources have been added since.
    pub fn refresh(&mut self, resources: &Resources) {
        if self.resources != resources.len() {
            let rules = std::mem::take(&mut self.rules);
            *self = Self::new(rules.into_iter().map(|(rule, _)| rule).collect(), resources);
        }
    }

    /// The rules.
    pub fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.rules.iter().map(|(rule, _)| rule)
    }
}

fn bind(expr: &Expr, resources: &Resources) -> Node {
    match expr {
        Expr::Compare { reference, equal, state } => {
            let (equal, state) = (*equal, *state);
            let places = places_of(reference, resources);
            if places.is_empty() && matches!(reference.pick, Pick::One(_)) {
                return Node::Nobody { equal, state, name: reference.to_string() };
            }
            let all = reference.pick == Pick::All;
            Node::Compare { places, all, side: reference.side, equal, state }
        }
        Expr::Cluster { equal, state } => Node::Cluster { equal: *equal, state: *state },
        Expr::Not(inner) => Node::Not(Box::new(bind(inner, resources))),
        Expr::And(parts) => Node::And(parts.iter().map(|part| bind(part, resources)).collect()),
        Expr::Or(parts) => Node::Or(parts.iter().map(|part| bind(part, resources)).collect()),
    }
}

fn places_of(reference: &Reference, resources: &Resources) -> Vec<u32> {
    let number = |place: usize| u32::try_from(place).expect("resources are bounded");
    match &reference.pick {
        Pick::One(id) => {
            let name = ResourceName::new(&reference.class, id);
            resources.find(&name).map(number).into_iter().collect()
        }
        Pick::Any | Pick::All => {
            let of_class = |(_, cell): &(usize, &Cell)| cell.name.class() == reference.class;
            let cells = resources.cells().iter().enumerate().filter(of_class);
            cells.map(|(place, _)| number(place)).collect()
        }
    }
}

/// Evaluates rules. `peer_heard`: what `cluster()` is.
pub fn evaluate(bound: &Bound, resources: &Resources, peer_heard: bool) -> Evaluation {
    let view = View { cells: resources.cells(), peer_heard };
    let mut best: Option<(RuleAction, usize)> = None;
    let mut pending = None;
    let mut assignments = Vec::new();
    for (number, (rule, node)) in bound.rules.iter().enumerate() {
        match (view.truth(node), &rule.then) {
            (Truth::True, Then::Act(action))
                if best.is_none_or(|(strongest, _)| *action < strongest) =>
            {
                best = Some((*action, number));
            }
            (Truth::True, Then::Assign(name, state)) => {
                let set = resources.find(name).map(|place| resources.state(place));
                if set != Some(*state) {
                    assignments.push((name.clone(), *state, rule.label.clone()));
                }
            }
            (Truth::Undecided, Then::Act(RuleAction::Wait)) if pending.is_none() => {
                pending = Some(number);
            }
            _ => {}
        }
    }
    let reasons = |number: usize, wanted| {
        let mut found = Vec::new();
        view.reasons(&bound.rules[number].1, wanted, &mut found);
        found.truncate(REASONS_MAX);
        found
    };
    let label = |number: usize| bound.rules[number].0.label.clone();
    Evaluation {
        verdict: best.map(|(action, number)| Verdict {
            action,
            rule: label(number),
            resources: reasons(number, Truth::True),
        }),
        pending: pending.map(|number| Pending {
            rule: label(number),
            resources: reasons(number, Truth::Undecided),
        }),
        assignments,
    }
}

struct View<'r> {
    cells: &'r [Cell],
    peer_heard: bool,
}

impl View<'_> {
    fn cell(&self, place: u32) -> &Cell {
        &self.cells[place as usize]
    }

    fn compare(cell: &Cell, side: Side, equal: bool, wanted: ResourceState) -> Truth {
        let state = match side {
            Side::Local => cell.state,
            Side::Remote => cell.remote.unwrap_or(ResourceState::Unknown),
        };
        if state == ResourceState::Init && wanted != ResourceState::Init {
            // A checker at work will say soon; one that does not run says nothing.
            let soon = side == Side::Local && cell.active;
            return if soon { Truth::Undecided } else { Truth::False };
        }
        Truth::from((state == wanted) == equal)
    }

    fn truth(&self, node: &Node) -> Truth {
        match node {
            Node::Compare { places, all, side, equal, state } => {
                let truths = places
                    .iter()
                    .map(|place| Self::compare(self.cell(*place), *side, *equal, *state));
                // "All of nothing" is no reason to act.
                match all {
                    true if places.is_empty() => Truth::False,
                    true => fold(truths, Truth::False),
                    false => fold(truths, Truth::True),
                }
            }
            Node::Nobody { equal, state, .. } => {
                Truth::from((*state == ResourceState::Unknown) == *equal)
            }
            Node::Cluster { equal, state } => {
                let present = if self.peer_heard { ResourceState::Up } else { ResourceState::Down };
                Truth::from((present == *state) == *equal)
            }
            Node::Not(inner) => match self.truth(inner) {
                Truth::True => Truth::False,
                Truth::False => Truth::True,
                Truth::Undecided => Truth::Undecided,
            },
            Node::And(parts) => fold(parts.iter().map(|part| self.truth(part)), Truth::False),
            Node::Or(parts) => fold(parts.iter().map(|part| self.truth(part)), Truth::True),
        }
    }

    /// The resources because of which a condition has the truth it has.
    fn reasons(&self, node: &Node, wanted: Truth, found: &mut Vec<String>) {
        match node {
            Node::Compare { places, side, equal, state, .. } => {
                for place in places {
                    let cell = self.cell(*place);
                    if Self::compare(cell, *side, *equal, *state) == wanted {
                        found.push(describe(cell, *side));
                    }
                }
            }
            Node::Nobody { name, .. } if self.truth(node) == wanted => {
                found.push(format!("{name} is unknown"));
            }
            Node::Cluster { .. } if self.truth(node) == wanted => {
                let state = if self.peer_heard { "is heard" } else { "is silent" };
                found.push(format!("the other node {state}"));
            }
            Node::Not(inner) => {
                let wanted = match wanted {
                    Truth::True => Truth::False,
                    Truth::False => Truth::True,
                    Truth::Undecided => Truth::Undecided,
                };
                self.reasons(inner, wanted, found);
            }
            Node::And(parts) | Node::Or(parts) => {
                for part in parts.iter().filter(|part| self.truth(part) == wanted) {
                    self.reasons(part, wanted, found);
                }
            }
            Node::Nobody { .. } | Node::Cluster { .. } => {}
        }
    }
}

/// `dominant` decides at once; otherwise the undecided win over the rest.
fn fold(truths: impl Iterator<Item = Truth>, dominant: Truth) -> Truth {
    let mut result = if dominant == Truth::True { Truth::False } else { Truth::True };
    for truth in truths {
        if truth == dominant {
            return dominant;
        }
        if truth == Truth::Undecided {
            result = Truth::Undecided;
        }
    }
    result
}

fn describe(cell: &Cell, side: Side) -> String {
    match side {
        Side::Local => format!("{} is {}", cell.name, cell.state),
        Side::Remote => {
            let state = cell.remote.unwrap_or(ResourceState::Unknown);
            format!("{} is {state} on the other node", cell.name)
        }
    }
}
