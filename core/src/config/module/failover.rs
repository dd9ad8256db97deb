//! `<failover>`: rules from the states of resources to actions, with the places of their faults.

use crate::{
    checks::rules::{self, Pick, Rule, RuleAction, Then},
    config::{
        error::{Position, Report},
        module::{CheckerConfig, Class, ErrdConfig, FailoverConfig},
        read::View,
        suggest,
        time::Written,
        xml::Section,
    },
};

/// Classes whose resources come from elements of the file, so that a wrong name is told.
const DECLARED: [&str; 6] = ["tcp", "ping", "intf", "ip", "module", "proc"];

pub(super) fn build(
    service: View<'_>,
    checkers: &[CheckerConfig],
    errd: Option<&ErrdConfig>,
    report: &mut Report<'_>,
) -> FailoverConfig {
    let Some(first) = service.child("failover") else { return FailoverConfig::default() };
    let mut config = FailoverConfig {
        extends: first.word("extends") != Some("no"),
        period: first.time_or_default("period"),
        handle_time: first.time_or_default("handle_time"),
        rules: Vec::new(),
    };
    check_times(first, &config, report);
    if !config.extends {
        let message = "extends=\"no\" removes the default rules: checkers act by your rules only";
        report.warning(first.at_attribute("extends"), message, "remove it unless you mean that");
    }
    for view in service.children("failover") {
        for attribute in ["extends", "period", "handle_time"] {
            if view.at() != first.at() && view.is_written(attribute) {
                let message = format!("{attribute} of a second <failover> has no effect");
                report.warning(view.at_attribute(attribute), message, "write it in the first");
            }
        }
        for section in view.sections().iter().filter(|s| !s.text.trim().is_empty()) {
            for rule in read(section, report) {
                if config.rules.iter().any(|earlier| earlier.label == rule.label) {
                    let message = format!("two rules are labelled \"{}\"", rule.label);
                    let at = place_of(section, &rule.label);
                    report.error(at, message, "give each its own label");
                }
                check_rule(section, &rule, checkers, errd, report);
                config.rules.push(rule);
            }
        }
    }
    config
}

fn check_times(view: View<'_>, config: &FailoverConfig, report: &mut Report<'_>) {
    let (period, time) = (config.period.as_micros(), config.handle_time.as_micros());
    if period > 0 && !time.is_multiple_of(period) {
        let rounded = config.period * u32::try_from(time.div_ceil(period)).unwrap_or(1);
        let message =
            format!("handle_time is not a multiple of period: it counts as {}", Written(rounded));
        report.warning(view.at_attribute("handle_time"), message, "write a multiple");
    }
}

fn read(section: &Section, report: &mut Report<'_>) -> Vec<Rule> {
    match rules::parse(&section.text) {
        Ok(rules) => rules,
        Err(errors) => {
            for error in errors {
                let at = section.place(error.line, error.column);
                report.error(at, error.message, error.remedy);
            }
            Vec::new()
        }
    }
}

/// Where the label stands in the text.
fn place_of(section: &Section, label: &str) -> Position {
    for (number, line) in section.text.lines().enumerate() {
        let Some(offset) = line.find(label) else { continue };
        if line[offset + label.len()..].trim_start().starts_with(':') {
            let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
            let column = line[..offset].chars().count() + 1;
            return section.place(small(number + 1), small(column));
        }
    }
    section.at
}

/// Reports resources that nobody keeps, and waiting for one that is at work only later.
fn check_rule(
    section: &Section,
    rule: &Rule,
    checkers: &[CheckerConfig],
    errd: Option<&ErrdConfig>,
    report: &mut Report<'_>,
) {
    let waits = matches!(rule.then, Then::Act(RuleAction::Wait));
    let procs = errd.iter().flat_map(|errd| &errd.procs).map(|p| format!("proc.{}", p.name));
    let known: Vec<String> = checkers.iter().map(CheckerConfig::resource).chain(procs).collect();
    let mut findings: Vec<(bool, String, String)> = Vec::new();
    rule.when.references(&mut |reference| {
        let Pick::One(id) = &reference.pick else { return };
        let name = format!("{}.{id}", reference.class);
        let checker = checkers.iter().find(|checker| checker.resource() == name);
        if checker.is_some_and(|checker| waits && checker.when != Class::Pre) {
            let message = format!(
                "rule {}: {name} is checked while the application runs only: a module that waits \
                 for it would wait for ever",
                rule.label
            );
            findings.push((true, message, "write when=\"pre\", or another action".to_owned()));
        } else if DECLARED.contains(&reference.class.as_str()) && !known.contains(&name) {
            let message = format!("rule {}: nothing keeps the resource {name}", rule.label);
            let remedy = suggest::remedy(&name, known.iter().map(String::as_str));
            findings.push((false, message, remedy));
        }
    });
    let at = place_of(section, &rule.label);
    for (fatal, message, remedy) in findings {
        if fatal {
            report.error(at, message, remedy);
        } else {
            report.warning(at, message, remedy);
        }
    }
}
