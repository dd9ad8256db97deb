//! The part of `havre state` that shows resources, the rule that decides, and the loop guard.

use havre_core::{
    checks::record::{ChecksStatus, RuleStatus},
    time::Instant,
};

use super::{line, span};
use crate::cli::checks::{described, detections};

/// Every resource, the rule that fires, the loop counter.
pub(super) fn details(text: &mut String, checks: &ChecksStatus, now: Instant) {
    for resource in &checks.resources {
        line(text, format_args!("  resource       {}", described(resource, now)));
    }
    if let Some(rule) = &checks.rule {
        line(text, format_args!("  rule           {}", fired(rule, now)));
    }
    let off = [("errd", checks.switches.errd), ("checker", checks.switches.checker)];
    for (word, _) in off.iter().filter(|(_, on)| !on) {
        line(text, format_args!("  switched off   {word}"));
    }
    line(text, format_args!("  loop guard     {}", detections(&checks.guard, now)));
}

/// `c_disk: wait because of custom.disk, in 12 s`
fn fired(rule: &RuleStatus, now: Instant) -> String {
    let mut text = format!("{}: {}", rule.rule, rule.action);
    if !rule.resources.is_empty() {
        text += &format!(" because of {}", rule.resources.join(", "));
    }
    if let Some(at) = rule.at {
        text += &format!(", in {}", span(at.since(now)));
    }
    text
}
