//! Resources: what checkers and components report, one name and one state each, with the last
//! changes of each.
//!
//! A resource is named `class.id`. Its state is known here ([`Side::Local`]) and, for those that
//! travel in heartbeats, as the other node sees it ([`Side::Remote`]).
//! Source: reference safekit.md section 3.10.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    str::FromStr,
};

use serde::{Deserialize, Serialize};

use crate::time::Instant;

/// Changes of one resource that are remembered.
pub const HISTORY_MAX: usize = 16;
/// Resources of one module, declared or set from outside.
pub const RESOURCES_MAX: usize = 4096;
/// Longest name of a resource, in bytes.
pub const NAME_BYTES_MAX: usize = 255;

/// State of a resource.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum ResourceState {
    /// Nothing is known yet.
    #[default]
    Init,
    /// Works.
    Up,
    /// Does not.
    Down,
    /// Nobody says.
    Unknown,
}

impl fmt::Display for ResourceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Init => "init",
            Self::Up => "up",
            Self::Down => "down",
            Self::Unknown => "unknown",
        })
    }
}

impl FromStr for ResourceState {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "init" => Ok(Self::Init),
            "up" => Ok(Self::Up),
            "down" => Ok(Self::Down),
            "unknown" => Ok(Self::Unknown),
            _ => Err(format!("\"{text}\" is no state: write init, up, down or unknown")),
        }
    }
}

/// Name of a resource: `class.id`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ResourceName {
    text: String,
    dot: usize,
}

impl ResourceName {
    /// Makes a name of a class and an id.
    pub fn new(class: &str, id: &str) -> Self {
        Self { text: format!("{class}.{id}"), dot: class.len() }
    }

    /// The part before the first dot.
    pub fn class(&self) -> &str {
        &self.text[..self.dot]
    }

    /// The part behind it.
    pub fn id(&self) -> &str {
        &self.text[self.dot + 1..]
    }

    /// The whole name.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl FromStr for ResourceName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.strip_prefix("local.").unwrap_or(text);
        let plain = |c: char| c.is_alphanumeric() || "_-.:".contains(c);
        match text.find('.') {
            Some(dot)
                if dot > 0
                    && dot + 1 < text.len()
                    && text.len() <= NAME_BYTES_MAX
                    && text.chars().all(plain) =>
            {
                Ok(Self { text: text.to_owned(), dot })
            }
            _ => Err(format!("\"{text}\" is no name of a resource: write class.id")),
        }
    }
}

impl TryFrom<String> for ResourceName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<ResourceName> for String {
    fn from(name: ResourceName) -> Self {
        name.text
    }
}

impl fmt::Display for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

/// Which node's view of a resource is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Side {
    /// This node's.
    Local,
    /// The other node's, from its heartbeats.
    Remote,
}

/// One change of a resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// When.
    pub at: Instant,
    /// To what.
    pub state: ResourceState,
    /// Who said so.
    pub by: String,
}

/// A resource as status, command line and console show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceStatus {
    /// Its name.
    pub name: ResourceName,
    /// Its state here.
    pub state: ResourceState,
    /// Its state as the other node sees it; `None` if it does not travel in heartbeats.
    pub remote: Option<ResourceState>,
    /// When it last changed.
    pub since: Instant,
    /// Who said so.
    pub by: String,
    /// What was found, in words; empty if nothing more is known.
    pub detail: String,
    /// The last changes, oldest first.
    pub history: Vec<Change>,
}

#[derive(Debug, Clone)]
pub(super) struct Cell {
    pub(super) name: ResourceName,
    pub(super) state: ResourceState,
    pub(super) remote: Option<ResourceState>,
    /// Whether whoever sets it is at work: an `init` is then about to be replaced.
    pub(super) active: bool,
    since: Instant,
    by: String,
    detail: String,
    history: VecDeque<Change>,
}

/// The resources of one module on one node. Positions stay valid: nothing is ever removed.
#[derive(Debug, Clone, Default)]
pub struct Resources {
    cells: Vec<Cell>,
    places: BTreeMap<ResourceName, usize>,
}

impl Resources {
    /// The place of a resource, made if it is not there yet; `None` if there are too many.
    pub fn place(&mut self, name: &ResourceName, now: Instant) -> Option<usize> {
        if let Some(place) = self.places.get(name) {
            return Some(*place);
        }
        if self.cells.len() >= RESOURCES_MAX {
            return None;
        }
        let place = self.cells.len();
        self.cells.push(Cell {
            name: name.clone(),
            state: ResourceState::Init,
            remote: None,
            active: false,
            since: now,
            by: String::new(),
            detail: String::new(),
            history: VecDeque::new(),
        });
        self.places.insert(name.clone(), place);
        Some(place)
    }

    /// The place of a resource that is there.
    pub fn find(&self, name: &ResourceName) -> Option<usize> {
        self.places.get(name).copied()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.cells.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    pub(super) fn cells(&self) -> &[Cell] {
        &self.cells
    }

    /// State of a resource here.
    pub fn state(&self, place: usize) -> ResourceState {
        self.cells[place].state
    }

    /// Sets a resource; whether its state changed.
    pub fn set(
        &mut self,
        now: Instant,
        place: usize,
        state: ResourceState,
        (by, detail): (&str, &str),
    ) -> bool {
        let cell = &mut self.cells[place];
        detail.clone_into(&mut cell.detail);
        if cell.state == state {
            return false;
        }
        cell.state = state;
        cell.since = now;
        by.clone_into(&mut cell.by);
        if cell.history.len() == HISTORY_MAX {
            cell.history.pop_front();
        }
        cell.history.push_back(Change { at: now, state, by: by.to_owned() });
        true
    }

    /// Takes the last change out of the history (`set -n`).
    pub fn forget_last(&mut self, place: usize) {
        self.cells[place].history.pop_back();
    }

    /// Says whether whoever sets a resource is at work. One that stops leaves `init`.
    pub fn set_active(&mut self, now: Instant, place: usize, active: bool, by: &str) -> bool {
        self.cells[place].active = active;
        !active && self.set(now, place, ResourceState::Init, (by, ""))
    }

    /// Sets what the other node says; whether it changed.
    pub fn set_remote(&mut self, place: usize, state: ResourceState) -> bool {
        self.cells[place].remote.replace(state) != Some(state)
    }

    /// The picture of every resource, by name.
    pub fn status(&self) -> Vec<ResourceStatus> {
        let shown = |place: &usize| {
            let cell = &self.cells[*place];
            ResourceStatus {
                name: cell.name.clone(),
                state: cell.state,
                remote: cell.remote,
                since: cell.since,
                by: cell.by.clone(),
                detail: cell.detail.clone(),
                history: cell.history.iter().cloned().collect(),
            }
        };
        self.places.values().map(shown).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_class_and_an_id() {
        let name: ResourceName = "local.ip.192.0.2.1".parse().expect("a name");
        assert_eq!((name.class(), name.id()), ("ip", "192.0.2.1"));
        for wrong in ["", "ping", ".x", "ping.", "ping.a b", "ping.?"] {
            assert!(wrong.parse::<ResourceName>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn history_keeps_the_last_changes_only() {
        let mut resources = Resources::default();
        let place = resources.place(&ResourceName::new("tcp", "x"), Instant::ZERO).expect("room");
        for second in 0..40u64 {
            let state = [ResourceState::Up, ResourceState::Down][second as usize % 2];
            let at = Instant::from_millis(second * 1_000);
            assert!(resources.set(at, place, state, ("tcpcheck", "")));
            assert!(!resources.set(at, place, state, ("tcpcheck", "again")));
        }
        let status = resources.status();
        assert_eq!(status[0].history.len(), HISTORY_MAX);
        assert_eq!(status[0].since, Instant::from_millis(39_000));
        assert_eq!(status[0].detail, "again");
    }

    #[test]
    fn no_more_resources_than_the_bound_are_made() {
        let mut resources = Resources::default();
        for number in 0..RESOURCES_MAX + 1 {
            let name = ResourceName::new("custom", &number.to_string());
            let made = resources.place(&name, Instant::ZERO).is_some();
            assert_eq!(made, number < RESOURCES_MAX);
        }
    }
}
