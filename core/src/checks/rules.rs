//! Failover rules: from states of resources to an action. The language is SafeKit's language 1.
//!
//! ```text
//! label: if (ping.? == down && !(remote.ping.gw == up)) then wait();
//! ```
//! `?` means any resource of the class, `*` all of them. Comparing a resource whose checker is at
//! work and has not reported yet is *undecided*: such a rule does not fire, and a module does not
//! leave WAIT while a wait rule is undecided. A resource whose checker does not run matches
//! nothing but `init`.
//! Source: reference safekit.md section 3.10.

mod bind;
mod lexer;
mod lua;
mod parser;

use std::fmt;

use serde::{Deserialize, Serialize};

use super::resource::{ResourceName, ResourceState, Side};

pub use bind::{Bound, Evaluation, Pending, Verdict, evaluate};
pub use parser::parse;

/// Rules in one configuration.
pub const RULES_MAX: usize = 4096;

/// A fault in the text of rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleError {
    /// Line, from 1.
    pub line: u32,
    /// Column, from 1.
    pub column: u32,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub remedy: String,
}

impl fmt::Display for RuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {} ({})", self.line, self.column, self.message, self.remedy)
    }
}

/// What a rule does to the module. The stronger one comes first: it wins over those behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names are the words of the language")]
pub enum RuleAction {
    Stop,
    Wait,
    StopStart,
    Swap,
    Restart,
    /// Lets a module go on that an earlier rule made wait.
    Wakeup,
}

impl RuleAction {
    /// The word of the language.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Wait => "wait",
            Self::StopStart => "stopstart",
            Self::Swap => "swap",
            Self::Restart => "restart",
            Self::Wakeup => "wakeup",
        }
    }
}

impl fmt::Display for RuleAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// Which resources of a class are meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pick {
    /// The one of that name.
    One(String),
    /// `?`: at least one.
    Any,
    /// `*`: all, and there is one.
    All,
}

/// A resource, or several, on one side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    /// Whose view.
    pub side: Side,
    /// The class.
    pub class: String,
    /// Which of it.
    pub pick: Pick,
}

/// A condition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expr {
    /// `reference == state`, or `!=`.
    Compare {
        /// What is looked at.
        reference: Reference,
        /// `==` rather than `!=`.
        equal: bool,
        /// The state.
        state: ResourceState,
    },
    /// `cluster() == state`: whether the other node is heard on any network.
    Cluster {
        /// `==` rather than `!=`.
        equal: bool,
        /// The state.
        state: ResourceState,
    },
    /// `!`
    Not(Box<Expr>),
    /// `&&`
    And(Vec<Expr>),
    /// `||`
    Or(Vec<Expr>),
}

impl Expr {
    /// Calls `visit` with each reference in it.
    pub fn references(&self, visit: &mut dyn FnMut(&Reference)) {
        match self {
            Self::Compare { reference, .. } => visit(reference),
            Self::Cluster { .. } => {}
            Self::Not(inner) => inner.references(visit),
            Self::And(parts) | Self::Or(parts) => {
                parts.iter().for_each(|part| part.references(visit));
            }
        }
    }
}

/// What a rule does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Then {
    /// Acts on the module.
    Act(RuleAction),
    /// Sets a resource.
    Assign(ResourceName, ResourceState),
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Its label.
    pub label: String,
    /// When it fires.
    pub when: Expr,
    /// What it does then.
    pub then: Then,
}

impl Rule {
    /// `label: if (class.id == down) then action();`
    pub fn down(label: &str, class: &str, pick: Pick, action: RuleAction) -> Self {
        let reference = Reference { side: Side::Local, class: class.to_owned(), pick };
        let when = Expr::Compare { reference, equal: true, state: ResourceState::Down };
        Self { label: label.to_owned(), when, then: Then::Act(action) }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = if self.side == Side::Remote { "remote." } else { "" };
        let id = match &self.pick {
            Pick::One(id) => id,
            Pick::Any => "?",
            Pick::All => "*",
        };
        write!(f, "{side}{}.{id}", self.class)
    }
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let operator = |equal: &bool| if *equal { "==" } else { "!=" };
        let joined = |f: &mut fmt::Formatter<'_>, parts: &[Expr], word| {
            for (number, part) in parts.iter().enumerate() {
                if number > 0 {
                    write!(f, " {word} ")?;
                }
                match part {
                    Self::And(_) | Self::Or(_) => write!(f, "({part})")?,
                    _ => write!(f, "{part}")?,
                }
            }
            Ok(())
        };
        match self {
            Self::Compare { reference, equal, state } => {
                write!(f, "{reference} {} {state}", operator(equal))
            }
            Self::Cluster { equal, state } => write!(f, "cluster() {} {state}", operator(equal)),
            Self::Not(inner) => write!(f, "!({inner})"),
            Self::And(parts) => joined(f, parts, "&&"),
            Self::Or(parts) => joined(f, parts, "||"),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: if ({}) then ", self.label, self.when)?;
        match &self.then {
            Then::Act(action) => write!(f, "{action}();"),
            Then::Assign(name, state) => write!(f, "{name} = {state};"),
        }
    }
}

#[cfg(test)]
mod tests;
