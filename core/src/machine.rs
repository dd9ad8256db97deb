//! The one shape every deciding part of Havre has: values in, orders out, one deadline.
//!
//! A machine never reads a clock, a socket or a file. Time is `now`, results come back as
//! inputs, orders leave through [`Out`]. A machine alone is a function of its configuration, its
//! seed and its inputs, which is what makes the simulator and the replay of a journal possible.

use crate::time::Instant;

/// A deciding part: takes facts, pushes orders, and says when it wants to be woken.
pub trait Machine {
    /// Facts that this machine takes.
    type Input;
    /// Orders that this machine gives.
    type Action;

    /// Takes one fact.
    fn handle(&mut self, now: Instant, input: Self::Input, out: &mut Out<Self::Action>);

    /// Lets the machine act on the passing of time.
    ///
    /// A call before [`deadline`](Self::deadline) must change nothing.
    fn handle_timeout(&mut self, now: Instant, out: &mut Out<Self::Action>);

    /// The moment at which [`handle_timeout`](Self::handle_timeout) must be called next, if any.
    ///
    /// After `handle_timeout(now)` the deadline is later than `now`.
    fn deadline(&self) -> Option<Instant>;
}

/// Orders in the sequence in which they were given. Reused between calls; callers drain it.
#[derive(Debug, Clone)]
pub struct Out<A> {
    actions: Vec<A>,
}

impl<A> Default for Out<A> {
    fn default() -> Self {
        Self { actions: Vec::new() }
    }
}

impl<A> Out<A> {
    /// Makes an empty buffer.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends one order.
    pub fn push(&mut self, action: A) {
        self.actions.push(action);
    }

    /// Takes every order out, oldest first, and keeps the buffer's memory.
    pub fn drain(&mut self) -> std::vec::Drain<'_, A> {
        self.actions.drain(..)
    }

    /// The orders pushed and not yet drained.
    pub fn as_slice(&self) -> &[A] {
        &self.actions
    }

    /// Whether nothing waits to be drained.
    pub fn is_empty(&self) -> bool {
        self.actions.is_empty()
    }
}

/// The earlier of two optional deadlines.
pub fn earliest(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, None) | (None, one) => one,
    }
}
