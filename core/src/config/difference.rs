//! What two configurations of a module say differently, and whether the new one can take effect
//! while the module runs.
//!
//! [`changes`] compares the files, element by element, for readers. [`needs_stop`] decides, on
//! the types: both nodes must agree about everything in [`fixed`], the rest may change under a
//! running application and differ between the nodes for a moment.
//! Source: reference safekit.md section 2.1, table of dynamic configuration.

use std::{collections::BTreeMap, fmt, path::Path};

use serde::{Deserialize, Serialize};

use crate::checks::resource::Side;
use crate::checks::rules::Rule;
use crate::config::{
    error::Report,
    module::{self, HeartConfig, ModuleConfig, QuorumPolicy, StartFailure, UserConfig},
    schema::{AttributeSpec, ElementSpec, Kind, Presence, SAFE},
    time::{self, Written},
    xml::Element,
};

/// Attributes that tell elements of one name apart, best first.
const KEYS: [&str; 6] = ["ident", "name", "dir", "addr", "path", "regexpath"];
/// Longest value shown.
const SHOWN_CHARS_MAX: usize = 60;

/// One thing that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Where: the elements from the outside in, then the attribute.
    pub place: String,
    /// The value before; `None`: it was not there.
    pub from: Option<String>,
    /// The value after; `None`: it is not there any more.
    pub to: Option<String>,
    /// Whether the table lets it change while the module runs.
    pub live: bool,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, from, to, live } = self;
        match (from.as_deref(), to.as_deref()) {
            (Some(from), Some(to)) => write!(f, "{place}: {from} -> {to}")?,
            (None, Some("")) => write!(f, "{place}: added")?,
            (None, Some(to)) => write!(f, "{place}: {to} added")?,
            (Some(""), None) => write!(f, "{place}: removed")?,
            (Some(from), None) => write!(f, "{place}: {from} removed")?,
            (None, None) => write!(f, "{place}")?,
        }
        f.write_str(if *live { "" } else { "  (needs a stop)" })
    }
}

/// What the text `new` says differently from `old`, both with their macros expanded.
pub fn changes(old: &str, new: &str, environment: &BTreeMap<String, String>) -> Vec<Change> {
    let tree = |text: &str| {
        let mut report = Report::new(Path::new(""));
        module::tree(text, environment, &mut report)
    };
    let mut found = Vec::new();
    let empty = Element::default();
    let (old, new) = (tree(old).unwrap_or_default(), tree(new).unwrap_or_default());
    let service = |tree: &Element| tree.children_named("service").next().cloned();
    let spec = SAFE.child("service").expect("the table has <service>");
    let (old, new) = (service(&old), service(&new));
    let pair = (old.as_ref().unwrap_or(&empty), new.as_ref().unwrap_or(&empty));
    compare(pair, spec, (spec.live, "<service>"), &mut found);
    found
}

fn compare(
    (old, new): (&Element, &Element),
    spec: &'static ElementSpec,
    (live, place): (bool, &str),
    found: &mut Vec<Change>,
) {
    for attribute in spec.attributes {
        let (from, to) = (effective(old, attribute), effective(new, attribute));
        if from != to {
            let place = format!("{place} {}", attribute.name);
            found.push(Change { place, from, to, live: live || attribute.live });
        }
    }
    let text = |element: &Element| -> String {
        element.sections.iter().map(|section| section.text.trim()).collect()
    };
    if spec.text && text(old) != text(new) {
        let place = format!("{place} text");
        found.push(Change { place, from: Some("".into()), to: Some("changed".into()), live });
    }
    for inner in spec.children {
        let (before, after) = (keyed(old, inner), keyed(new, inner));
        for key in before.keys().chain(after.keys().filter(|key| !before.contains_key(*key))) {
            let live = live || inner.live;
            let place = format!("{place}{key}");
            match (before.get(key), after.get(key)) {
                (Some(old), Some(new)) => compare((old, new), inner, (live, &place), found),
                (Some(_), None) => {
                    found.push(Change { place, from: Some(String::new()), to: None, live });
                }
                (None, _) => {
                    found.push(Change { place, from: None, to: Some(String::new()), live });
                }
            }
        }
    }
}

/// The elements of one name under what tells them apart.
fn keyed<'e>(around: &'e Element, spec: &ElementSpec) -> BTreeMap<String, &'e Element> {
    let mut found = BTreeMap::new();
    for element in around.children_named(spec.name) {
        let key = KEYS.iter().find_map(|key| Some((key, element.attribute(key)?)));
        let name = match key {
            Some((key, attribute)) => format!("<{} {key}=\"{}\">", spec.name, attribute.value),
            None => format!("<{}>", spec.name),
        };
        let mut unique = name.clone();
        let mut number = 2;
        while found.contains_key(&unique) {
            unique = format!("{name} ({number})");
            number += 1;
        }
        found.insert(unique, element);
    }
    found
}

/// The value that counts, in one spelling.
fn effective(element: &Element, spec: &AttributeSpec) -> Option<String> {
    let written = element.attribute(spec.name).map(|a| a.value.trim());
    let value = match (written, spec.presence) {
        (Some(value), _) => value,
        // An element that is not there at all has no defaults either.
        (None, Presence::Default(value)) if !element.name.is_empty() => value,
        (None, _) => return None,
    };
    if let Kind::Time(unit, ..) = spec.kind
        && let Ok(time) = time::parse(value, unit)
    {
        return Some(Written(time).to_string());
    }
    let shown: String = value.chars().take(SHOWN_CHARS_MAX).collect();
    Some(if shown.len() < value.len() { format!("{shown}...") } else { shown })
}

/// What both nodes of a module must agree about, and what stays as it is while the module runs.
///
/// Everything else is set to one value. Under a lease the time-outs stay in: the length of
/// promises between the nodes derives from them.
pub fn fixed(config: &ModuleConfig) -> ModuleConfig {
    let mut fixed = config.clone();
    fixed.service = super::module::ServiceConfig {
        boot: super::module::BootPolicy::Ignore,
        boot_delay: std::time::Duration::ZERO,
        maxloop: 3,
        loop_interval: std::time::Duration::ZERO,
        automatic_reboot: false,
        maxloop_retry: None,
        on_start_failure: StartFailure::Ignore,
        ..fixed.service
    };
    fixed.heart = fixed_heart(config);
    fixed.user = None::<UserConfig>;
    fixed.checks.errd = None;
    // States of shared resources travel between the nodes by their place in one list.
    let remote = config.checks.failover.rules.iter().any(looks_over);
    fixed.checks.checkers.retain(|checker| remote || checker.shared);
    if let QuorumPolicy::Ping(hosts) = &mut fixed.quorum {
        hosts.clear();
    }
    fixed
}

/// Whether a rule looks at a resource of the other node.
fn looks_over(rule: &Rule) -> bool {
    let mut found = false;
    rule.when.references(&mut |reference| found |= reference.side == Side::Remote);
    found
}

fn fixed_heart(config: &ModuleConfig) -> HeartConfig {
    let mut heart = config.heart.clone();
    // The data path keeps the network on which it was opened.
    let flow = heart.heartbeats.iter().position(|h| h.ident == "flow").unwrap_or(0);
    let slowest = heart.heartbeats.iter().map(|h| h.timing.timeout).max();
    heart.heartbeats = heart.heartbeats.get(flow).cloned().into_iter().collect();
    if config.quorum != QuorumPolicy::Lease {
        heart.timing.timeout = std::time::Duration::ZERO;
    } else if let Some(slowest) = slowest {
        heart.timing.timeout = slowest;
    }
    heart.timing.pulse = std::time::Duration::ZERO;
    for heartbeat in &mut heart.heartbeats {
        heartbeat.ident.clear();
        heartbeat.timing = heart.timing;
    }
    heart
}

/// Whether the new configuration can take effect only while the module is stopped.
pub fn needs_stop(old: &ModuleConfig, new: &ModuleConfig) -> bool {
    fixed(old) != fixed(new)
}
