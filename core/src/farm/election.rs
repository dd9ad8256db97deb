//! Who leads a farm and who shares its load, as one member sees it. Pure.
//!
//! The leader decides who shares; the others follow its word, so that all have the same map even
//! while they notice a loss one after the other.
//!
//! ```text
//!   a leader that hears me ──────────────> follow (of several, the lowest)
//!   the leader has just fallen silent ───> hold: what it said last stands until its time is up
//!   nobody leads ────────────────────────> the lowest candidate leads; the others wait for it
//!   others follow a leader I do not hear > shadowed: take nothing, somebody serves already
//! ```
//! A member counts only if heartbeats pass in both directions and its configuration is the same.
//! A leader stays while it is heard: a node that returns does not take the lead away.
//! Source: reference safekit.md section 4.2 (leader and followers).

use super::{MemberSet, Slot};

/// What a member knows of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Own {
    /// Its position.
    pub slot: Slot,
    /// It serves.
    pub ready: bool,
    /// It takes no new clients.
    pub draining: bool,
    /// It has listened long enough to know who is there.
    pub listened: bool,
    /// Whom it followed so far; itself if it leads.
    pub leader: Option<Slot>,
    /// Who shared so far.
    pub sharing: MemberSet,
    /// The leader is silent, but its time is not up yet.
    pub holds: bool,
}

/// What is known of another member whose heartbeats arrive and whose configuration is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Other {
    /// Its position.
    pub slot: Slot,
    /// It serves.
    pub ready: bool,
    /// It does not know yet who else is there.
    pub listening: bool,
    /// It takes no new clients.
    pub draining: bool,
    /// Whom it hears.
    pub hears: MemberSet,
    /// Whom it follows; itself if it leads.
    pub leader: Option<Slot>,
    /// Who shares, by its leader.
    pub sharing: MemberSet,
}

/// Who leads and who shares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct View {
    /// The leader; itself if it leads.
    pub leader: Option<Slot>,
    /// Who shares.
    pub sharing: MemberSet,
}

/// Decides whom to follow and who shares. `others` in order, each at most once.
pub fn elect(own: Own, others: &[Other]) -> View {
    let mutual = |other: &&Other| other.hears.contains(own.slot);
    if !own.ready {
        // It still says whom the others follow, for people to see.
        return followed(others.iter().filter(mutual)).unwrap_or_default();
    }
    let leading = own.leader == Some(own.slot) && own.listened;
    let lower = |view: &View| !leading || view.leader < Some(own.slot);
    if let Some(view) = followed(others.iter().filter(mutual)).filter(lower) {
        return view;
    }
    if leading {
        return led(own, others);
    }
    if own.holds {
        return View { leader: own.leader, sharing: own.sharing };
    }
    if !own.listened || others.iter().filter(mutual).any(|other| is_taken(own, other, others)) {
        return View::default();
    }
    let candidates = others.iter().filter(mutual).filter(|other| other.ready);
    let rank = |draining: bool, slot: Slot| (draining, slot);
    let first = candidates.map(|other| rank(other.draining, other.slot)).min();
    match first {
        Some(first) if first < rank(own.draining, own.slot) => {
            View { leader: None, sharing: own.sharing }
        }
        _ => led(own, others),
    }
}

/// What the lowest of the leaders says.
fn followed<'a>(others: impl Iterator<Item = &'a Other>) -> Option<View> {
    let leaders = others.filter(|other| other.ready && other.leader == Some(other.slot));
    let lowest = leaders.min_by_key(|other| other.slot)?;
    Some(View { leader: lowest.leader, sharing: lowest.sharing })
}

/// Whether another member follows a leader that it hears and that is not heard here.
fn is_taken(own: Own, other: &Other, others: &[Other]) -> bool {
    let Some(leader) = other.leader.filter(|leader| *leader != other.slot) else { return false };
    let heard = others.iter().any(|o| o.slot == leader && o.hears.contains(own.slot));
    leader != own.slot && other.hears.contains(leader) && !heard
}

/// The view of a leader: everybody who serves and is heard in both directions.
fn led(own: Own, others: &[Other]) -> View {
    let sharing = others
        .iter()
        .filter(|other| other.hears.contains(own.slot) && other.ready && !other.draining)
        .filter(|other| !other.listening)
        .map(|other| other.slot)
        .chain((!own.draining).then_some(own.slot))
        .collect();
    View { leader: Some(own.slot), sharing }
}

#[cfg(test)]
mod tests;
