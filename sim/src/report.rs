//! Runs as text: a timeline for people, JSON Lines for programs. Equal runs print equal bytes.

use std::fmt::Write as _;

use serde_json::json;

use crate::{fact::Fact, oracle::Violation, run::Report, time::SimTime};

/// Timeline lines shown before a violation.
const CONTEXT_LINES: usize = 40;

/// One line for people.
fn line(at: SimTime, fact: &Fact) -> String {
    let host = fact.host().map_or("-", crate::net::HostId::name);
    format!("{:>14}  {host:<2} {fact}\n", at.to_string())
}

/// The whole timeline for people; `all` includes every write, acknowledgement and read.
pub fn timeline(report: &Report, all: bool) -> String {
    let mut out = String::new();
    for (at, fact) in &report.timeline {
        if all || !fact.is_frequent() {
            out.push_str(&line(*at, fact));
        }
    }
    for violation in &report.violations {
        out.push_str(&violation_line(violation));
    }
    out
}

/// The timeline as JSON Lines.
pub fn jsonl(report: &Report) -> String {
    let mut out = String::new();
    for (at, fact) in &report.timeline {
        let value = json!({
            "t_us": at.as_micros(),
            "n": fact.host().map(crate::net::HostId::name),
            "ev": fact.word(),
            "text": fact.to_string(),
        });
        let _ = writeln!(out, "{value}");
    }
    for Violation { at, property, text } in &report.violations {
        let value = json!({
            "t_us": at.as_micros(), "ev": "violation", "property": property.name(), "text": text,
        });
        let _ = writeln!(out, "{value}");
    }
    out
}

/// One violation for people.
pub fn violation_line(violation: &Violation) -> String {
    let Violation { at, property, text } = violation;
    format!("{:>14}  !! {property}: {text}\n", at.to_string())
}

/// The lines that lead to the first violation.
pub fn excerpt(report: &Report) -> String {
    let Some(violation) = report.violations.first() else { return String::new() };
    let before: Vec<&(SimTime, Fact)> = report
        .timeline
        .iter()
        .filter(|(at, fact)| *at <= violation.at && !fact.is_frequent())
        .collect();
    let from = before.len().saturating_sub(CONTEXT_LINES);
    let mut out = String::new();
    for (at, fact) in &before[from..] {
        out.push_str(&line(*at, fact));
    }
    out.push_str(&violation_line(violation));
    out
}
