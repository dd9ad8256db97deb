//! `<user>`: limits and environment of the module's scripts.

use crate::config::{error::Report, module::UserConfig, read::View};

pub(super) fn build(service: View<'_>, report: &mut Report<'_>) -> Option<UserConfig> {
    let Some(view) = service.child("user") else {
        let message = "there is no <user>: no script of the module will run";
        if report.is_intact() {
            report.notice(service.at(), message, "add <user/> if the module has scripts");
        }
        return None;
    };
    let log_size = view.count("userlogsize").and_then(|size| u32::try_from(size).ok());
    let mut config = UserConfig {
        nice_stop_timeout: view.time_or_default("nicestoptimeout"),
        force_stop_timeout: view.time_or_default("forcestoptimeout"),
        logging: view.word("logging") == Some("userlog"),
        log_size_kib: log_size.unwrap_or(2048),
        variables: Vec::new(),
    };
    for view in view.children("var") {
        let Some(name) = view.word("name") else { continue };
        if config.variables.iter().any(|(earlier, _)| earlier == name) {
            let message = format!("variable {name} is set twice");
            report.error(view.at_attribute("name"), message, "remove one of the two");
        }
        config.variables.push((name.to_owned(), view.text("value").to_owned()));
    }
    Some(config)
}
