//! `<check>`: what is asked regularly, and what its answer means.

use std::time::Duration;

use super::{
    CHECKERS_MAX, CheckAction, CheckerConfig, CheckerKind, Class, ModuleTo, generated::generated,
};
use crate::config::{
    error::Report,
    module::{InterfaceConfig, QuorumPolicy, ServiceMode, quorum::ping_targets},
    read::View,
    value,
};

/// Period and limit of checkers whose element names none.
pub(super) const INTERVAL: Duration = Duration::from_secs(10);
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);

/// Every checker of the module: those written down in the order of the file, then those that the
/// virtual addresses bring with them.
pub(in crate::config::module) fn build(
    service: View<'_>,
    mode: ServiceMode,
    (interfaces, quorum): (&[InterfaceConfig], &QuorumPolicy),
    report: &mut Report<'_>,
) -> Vec<CheckerConfig> {
    let mut found: Vec<CheckerConfig> = Vec::new();
    for check in service.children("check") {
        for view in check.every_child() {
            if view.name() == "splitbrain" && !matches!(quorum, QuorumPolicy::Ping(_)) {
                // Told where the quorum was read: something else decides.
                continue;
            }
            let Some(checker) = checker(view, mode, report) else { continue };
            if found.iter().any(|earlier| earlier.resource() == checker.resource()) {
                let message = format!("two checkers keep the resource {}", checker.resource());
                let remedy = "give each <check> element of one kind its own ident";
                report.error(view.at_attribute("ident"), message, remedy);
                continue;
            }
            found.push(checker);
        }
    }
    for checker in generated(mode, interfaces) {
        // What the file says about the same resource wins.
        if !found.iter().any(|written| written.resource() == checker.resource()) {
            found.push(checker);
        }
    }
    if found.len() > CHECKERS_MAX {
        report.error(service.at(), format!("more than {CHECKERS_MAX} checkers"), "remove some");
    }
    found
}

fn checker(view: View<'_>, mode: ServiceMode, report: &mut Report<'_>) -> Option<CheckerConfig> {
    let to = view.has_child("to").then(|| view.child("to")).flatten();
    let when = when(view, mode);
    check_class(view, "when", &when, mode, report);
    let kind = match view.name() {
        "tcp" => CheckerKind::Tcp { addr: value::host(to?.word("addr")?), port: to?.port("port")? },
        "ping" => CheckerKind::Ping { addr: value::host(to?.word("addr")?) },
        "intf" => CheckerKind::Interface { local_addr: to?.address("local_addr")? },
        "ip" => CheckerKind::Address { addr: value::host(to?.word("addr")?) },
        "custom" => custom(view, report)?,
        "module" => CheckerKind::Module {
            name: view.word("name")?.to_owned(),
            to: to.and_then(|to| {
                Some(ModuleTo {
                    addr: value::host(to.word("addr")?),
                    port: to.port("port")?,
                    secure: to.is_on("secure"),
                })
            }),
        },
        // Its addresses have been checked where the quorum was read.
        _ => CheckerKind::Splitbrain { hosts: ping_targets(view, None) },
    };
    let action = action(view, &kind, &when, report);
    let time = |name| to.filter(|to| to.knows(name)).and_then(|to| to.time(name));
    Some(CheckerConfig {
        ident: ident(view, &kind)?,
        shared: shared(view, &when, action, report),
        when,
        action,
        interval: time("interval").unwrap_or(INTERVAL),
        timeout: time("timeout").unwrap_or(TIMEOUT),
        kind,
    })
}

fn ident(view: View<'_>, kind: &CheckerKind) -> Option<String> {
    if let Some(ident) = view.word("ident") {
        return Some(ident.to_owned());
    }
    match kind {
        CheckerKind::Module { name, to: Some(to) } => Some(format!("{name}_{}", to.addr)),
        CheckerKind::Module { name, to: None } => Some(name.clone()),
        _ => None,
    }
}

fn when(view: View<'_>, mode: ServiceMode) -> Class {
    match view.word("when") {
        Some(word) => Class::named(word),
        // Only <ip> leaves it open.
        None if mode == ServiceMode::Mirror => Class::Prim,
        None => Class::Both,
    }
}

/// Reports a class that never is at work in a module of this mode.
pub(super) fn check_class(
    view: View<'_>,
    attribute: &str,
    class: &Class,
    mode: ServiceMode,
    report: &mut Report<'_>,
) {
    let never = matches!(class, Class::Prim | Class::Second | Class::Sec);
    if mode != ServiceMode::Mirror && never {
        let message = format!(
            "{attribute}=\"{class}\" never is at work in mode=\"{}\", which has no such role",
            mode.word()
        );
        report.error(view.at_attribute(attribute), message, "write both, or pre");
    }
}

fn action(
    view: View<'_>,
    kind: &CheckerKind,
    when: &Class,
    report: &mut Report<'_>,
) -> CheckAction {
    let pre = *when == Class::Pre;
    let word = match kind {
        CheckerKind::Interface { .. }
        | CheckerKind::Module { .. }
        | CheckerKind::Splitbrain { .. } => {
            return CheckAction::Wait;
        }
        CheckerKind::Address { .. } => return CheckAction::StopStart,
        CheckerKind::Tcp { .. } => {
            view.word("action").unwrap_or(if pre { "wait" } else { "restart" })
        }
        CheckerKind::Ping { .. } => view.word("action").unwrap_or("wait"),
        CheckerKind::Custom { .. } => view.word("action").unwrap_or("noaction"),
    };
    let at = view.at_attribute("action");
    let action = match word {
        "wait" => CheckAction::Wait,
        "stop" => CheckAction::Stop,
        "stopstart" => CheckAction::StopStart,
        "swap" => CheckAction::Swap,
        "noaction" => CheckAction::Nothing,
        _ => CheckAction::Restart,
    };
    match (pre, action) {
        (false, CheckAction::Wait) => {
            let written = if view.is_written("action") { "" } else { ", the default," };
            let message = format!("action=\"wait\"{written} is possible with when=\"pre\" only");
            let remedy = "write when=\"pre\", or action=\"stopstart\", \"restart\" or \"stop\"";
            report.error(at, message, remedy);
        }
        (true, CheckAction::Wait | CheckAction::Nothing) | (false, _) => {}
        (true, _) => {
            let message = format!(
                "action=\"{word}\" is not possible with when=\"pre\", which is at work before the \
                 application starts"
            );
            let remedy = "write action=\"wait\" or \"noaction\", or another when";
            report.error(at, message, remedy);
        }
    }
    action
}

fn shared(view: View<'_>, when: &Class, action: CheckAction, report: &mut Report<'_>) -> bool {
    if !view.knows("shared") || !view.is_on("shared") {
        return false;
    }
    if *when != Class::Pre || action != CheckAction::Wait {
        let message = "shared=\"on\" is possible with when=\"pre\" and action=\"wait\" only";
        report.error(view.at_attribute("shared"), message, "remove it");
    }
    true
}

fn custom(view: View<'_>, report: &mut Report<'_>) -> Option<CheckerKind> {
    let exec = view.word("exec")?.to_owned();
    if exec.split(['/', '\\']).any(|part| part == "..") {
        let message = format!("exec=\"{exec}\" has a .. in it");
        report.error(view.at_attribute("exec"), message, "put the program into bin");
    }
    let args = words(view.text("arg")).unwrap_or_else(|| {
        report.error(view.at_attribute("arg"), "arg: a quote is not closed", "close it");
        Vec::new()
    });
    Some(CheckerKind::Custom { exec, args })
}

/// The words of a command line: separated by blanks, unless within `"` or `'`; `None` if a quote
/// is not closed.
fn words(text: &str) -> Option<Vec<String>> {
    let mut found = Vec::new();
    let (mut word, mut begun, mut quote) = (String::new(), false, None);
    for character in text.chars() {
        match quote {
            Some(end) if character == end => quote = None,
            Some(_) => word.push(character),
            None if matches!(character, '"' | '\'') => {
                quote = Some(character);
                begun = true;
            }
            None if character.is_whitespace() => {
                if begun {
                    found.push(std::mem::take(&mut word));
                }
                begun = false;
            }
            None => {
                word.push(character);
                begun = true;
            }
        }
    }
    if begun {
        found.push(word);
    }
    quote.is_none().then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_cut_at_blanks_outside_of_quotes() {
        let cut = |text| words(text).expect("quotes match");
        assert_eq!(cut("  -u a\tb "), ["-u", "a", "b"]);
        assert_eq!(cut("'a b' \"it's\" x'y z' ''"), ["a b", "it's", "xy z", ""]);
        assert_eq!(cut(""), Vec::<String>::new());
        assert_eq!(words("a 'b"), None);
    }
}
