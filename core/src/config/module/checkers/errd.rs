//! `<errd>`: the processes and services of the application.

use crate::config::{
    error::Report,
    module::{
        ServiceMode,
        checkers::{Class, ErrdConfig, PROCS_MAX, ProcAction, ProcConfig, check::check_class},
    },
    read::View,
    suggest,
};

/// What Linux keeps of a command's name: `TASK_COMM_LEN` less one, include/linux/sched.h.
const COMMAND_NAME_BYTES: usize = 15;
/// The words of `action`; anything else names a handler.
const ACTIONS: [&str; 4] = ["restart", "stopstart", "stop", "noaction"];

pub(in crate::config::module) fn build(
    service: View<'_>,
    mode: ServiceMode,
    report: &mut Report<'_>,
) -> Option<ErrdConfig> {
    let view = service.child("errd")?;
    if service.child("user").is_none() && report.is_intact() {
        let message = "<errd> without <user>: no script would restart what it finds dead";
        report.error(view.at(), message, "add <user/>");
    }
    let mut config = ErrdConfig { poll: view.time_or_default("polltimer"), procs: Vec::new() };
    for view in view.children("proc") {
        let Some(proc) = proc(view, mode, report) else { continue };
        if config.procs.iter().any(|earlier| earlier.name == proc.name) {
            let message = format!("two <proc> are called {}", proc.name);
            let remedy = "give each its own name; nameregex and argregex say what is watched";
            report.error(view.at_attribute("name"), message, remedy);
        }
        if config.procs.len() >= PROCS_MAX {
            report.error(view.at(), format!("more than {PROCS_MAX} <proc>"), "remove some");
            break;
        }
        config.procs.push(proc);
    }
    Some(config)
}

fn proc(view: View<'_>, mode: ServiceMode, report: &mut Report<'_>) -> Option<ProcConfig> {
    let name = view.word("name")?.to_owned();
    let class = Class::named(view.word("class")?);
    check_class(view, "class", &class, mode, report);
    let (at_least, at_max) = instances(view, report);
    let text = |name| view.word(name).map(str::to_owned);
    let proc = ProcConfig {
        service: view.word("service") == Some("yes"),
        name_regex: text("nameregex"),
        arg_regex: text("argregex"),
        class,
        action: action(view, report)?,
        restart_services: text("restart_services"),
        at_least,
        at_max,
        start_after: view.count("start_after").and_then(|n| u32::try_from(n).ok()).unwrap_or(0),
        name,
    };
    check_name(view, &proc, report);
    if proc.restart_services.is_some() && !(proc.service && proc.action == ProcAction::Restart) {
        let message = "restart_services has no effect here: it restarts a service by itself";
        let remedy = "write service=\"yes\" action=\"restart\", or remove it";
        report.error(view.at_attribute("restart_services"), message, remedy);
    }
    Some(proc)
}

fn check_name(view: View<'_>, proc: &ProcConfig, report: &mut Report<'_>) {
    let at = view.at_attribute("name");
    if proc.service {
        for attribute in ["nameregex", "argregex"] {
            if view.is_written(attribute) {
                let message = format!("{attribute} has no effect with service=\"yes\"");
                let remedy = "remove it: a service is known by its name";
                report.warning(view.at_attribute(attribute), message, remedy);
            }
        }
    } else if proc.name_regex.is_none() && proc.name.len() > COMMAND_NAME_BYTES {
        let mut kept = COMMAND_NAME_BYTES;
        while !proc.name.is_char_boundary(kept) {
            kept -= 1;
        }
        let kept = &proc.name[..kept];
        let message = format!(
            "Linux keeps {COMMAND_NAME_BYTES} bytes of a command's name: \"{kept}\" is looked for"
        );
        report.warning(at, message, format!("write name=\"{kept}\", or use nameregex or argregex"));
    }
    if proc.name.contains('/') && proc.name_regex.is_none() && !proc.service {
        let message = "a path is not a command's name: no process would match";
        report.error(at, message, "write its last part, and the path in argregex");
    }
}

/// `atleast` and `atmax`.
fn instances(view: View<'_>, report: &mut Report<'_>) -> (Option<u32>, Option<u32>) {
    let count = |name: &str| {
        let count: i64 = view.word(name).and_then(|n| n.parse().ok()).unwrap_or(-1);
        u32::try_from(count).ok()
    };
    let (mut at_least, at_max) = (count("atleast"), count("atmax"));
    if at_max == Some(0) && !view.is_written("atleast") {
        // "Any instance is too many" would be contradicted by the default of atleast.
        at_least = None;
    }
    if let (Some(least), Some(most)) = (at_least, at_max)
        && most <= least
    {
        let message = format!(
            "atleast=\"{least}\" and atmax=\"{most}\": any number of instances causes the action"
        );
        let remedy = format!("write atmax=\"{}\" or more, or atleast=\"-1\"", least + 1);
        report.error(view.at_attribute("atmax"), message, remedy);
    }
    (at_least, at_max)
}

fn action(view: View<'_>, report: &mut Report<'_>) -> Option<ProcAction> {
    let at = view.at_attribute("action");
    Some(match view.word("action")? {
        "restart" => ProcAction::Restart,
        "stopstart" => ProcAction::StopStart,
        "stop" => ProcAction::Stop,
        "noaction" => ProcAction::Nothing,
        word @ ("wait" | "swap") => {
            let message = format!("action=\"{word}\" is not possible for a process");
            let remedy = "write restart, stopstart, stop, noaction, or a program of bin";
            report.error(at, message, remedy);
            return None;
        }
        word => {
            if let Some(near) = suggest::nearest(word, ACTIONS) {
                let message = format!("action=\"{word}\" is taken for the program bin/{word}");
                report.warning(at, message, format!("did you mean \"{near}\"?"));
            }
            if word.split(['/', '\\']).any(|part| part == ".." || part.is_empty()) {
                let message = format!("action=\"{word}\" leads out of bin");
                report.error(at, message, "write the name of a program of bin");
            }
            ProcAction::Handler(word.to_owned())
        }
    })
}
