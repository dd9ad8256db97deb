//! Rules written in Lua: recognised, and refused with the same rules in language 1.
//!
//! A program can do anything, so that nobody could say before a failure what it will do, and no
//! bound on its time or memory would be visible in a configuration. The documented forms are
//! tables of conditions, which language 1 expresses too: they are translated for the message.
//! See docs/user/guides/checkers.md.

use super::RuleError;

/// Whether a text is of that language.
pub(super) fn looks_like(text: &str) -> bool {
    let start = text.trim_start();
    start.starts_with("--") || text.contains("if_then") || text.contains("Rules.disable")
}

/// Why it is refused: one message per rule found in it, or one in general.
pub(super) fn refusal(text: &str) -> Vec<RuleError> {
    let mut errors = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let found = translated(line).or_else(|| disabled(line));
        let Some((column, remedy)) = found else { continue };
        errors.push(RuleError {
            line: u32::try_from(number + 1).unwrap_or(u32::MAX),
            column: u32::try_from(column + 1).unwrap_or(u32::MAX),
            message: "rules in Lua are not supported".to_owned(),
            remedy,
        });
    }
    if errors.is_empty() {
        errors.push(RuleError {
            line: 1,
            column: 1,
            message: "rules in Lua are not supported".to_owned(),
            remedy: "write: label: if (class.id == down) then action();".to_owned(),
        });
    }
    errors
}

/// `label = if_then("resource", "state", Action.verb)` in language 1.
fn translated(line: &str) -> Option<(usize, String)> {
    let call = line.find("if_then")?;
    let (head, rest) = line.split_at(call);
    let inner = rest.split_once('(')?.1.split(')').next()?;
    let parts: Vec<&str> =
        inner.split(',').map(|part| part.trim().trim_matches(['"', '\''])).collect();
    let [resource, state, action] = parts.as_slice() else { return None };
    let action = action.strip_prefix("Action.")?.to_lowercase();
    let head = head.trim_end().trim_end_matches('=').trim_end();
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let label = head.rsplit(|c| !word(c)).next().filter(|l| !l.is_empty()).unwrap_or("rule");
    Some((call, format!("write: {label}: if ({resource} == {state}) then {action}();")))
}

/// `Rules.disable("label")`.
fn disabled(line: &str) -> Option<(usize, String)> {
    let call = line.find("Rules.disable")?;
    let label = line[call..].split(['"', '\'']).nth(1)?;
    let remedy = format!(
        "to disable {label}, set action=\"noaction\" on its checker, or write a rule of your \
         own with that label: it replaces the default one"
    );
    Some((call, remedy))
}
