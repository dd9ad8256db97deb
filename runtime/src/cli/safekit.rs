//! SafeKit's spellings of commands, put into ours, so that scripts and hands keep their habits.
//!
//! Source: SafeKit 8.2 User's Guide, chapter "Command line interface" (reference: safekit.md
//! section 6.1).

use std::ffi::OsString;

/// Options that stand before a command and take a value.
const WITH_VALUE: [&str; 3] = ["-H", "--hosts", "--state-dir"];

/// The command line in Havre's words; what is not SafeKit's stays as it is. The first word is the
/// program's name.
pub(super) fn translated(words: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut words: Vec<OsString> = words.into_iter().collect();
    let Some(at) = first_command(&words) else { return words };
    let rest: Vec<Option<&str>> = words[at..].iter().map(|word| word.to_str()).collect();
    let (count, ours): (usize, &[&str]) = match rest[..] {
        [Some("-p"), ..] => (1, &["paths"]),
        [Some("-E"), ..] => (1, &["module", "export", "-m"]),
        [Some("primforce"), ..] => (1, &["prim", "--force"]),
        [Some("shutdown"), ..] => (1, &["stop"]),
        [Some("logview"), ..] => (1, &["log", "-f"]),
        [Some("confcheck"), ..] => (1, &["config", "check"]),
        [Some("config"), Some("-m"), ..] => (1, &["module", "config"]),
        [Some("prim"), Some("fullsync"), ..] => (2, &["prim", "--fullsync"]),
        [Some("second"), Some("fullsync"), ..] => (2, &["second", "--fullsync"]),
        [Some("module"), Some("listid"), ..] => (2, &["module", "list"]),
        _ => return words,
    };
    words.splice(at..at + count, ours.iter().map(OsString::from));
    words
}

/// Where the command stands: behind the options before it. SafeKit's own options that stand for
/// commands count as such.
fn first_command(words: &[OsString]) -> Option<usize> {
    let mut at = 1;
    while let Some(word) = words.get(at) {
        match word.to_str() {
            Some(option) if WITH_VALUE.contains(&option) => at += 2,
            Some(option) if option.starts_with("--") => at += 1,
            _ => return Some(at),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_ours(line: &str) -> String {
        let words = translated(line.split(' ').map(OsString::from));
        let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
        words.join(" ")
    }

    #[test]
    fn spellings_of_safekit_become_ours() {
        for (theirs, ours) in [
            ("safekit -p", "safekit paths"),
            ("safekit -H * -E AM", "safekit -H * module export -m AM"),
            ("safekit prim fullsync -m AM", "safekit prim --fullsync -m AM"),
            ("safekit -H n2 second fullsync -m AM", "safekit -H n2 second --fullsync -m AM"),
            ("safekit primforce -m AM", "safekit prim --force -m AM"),
            ("safekit logview -m AM -A", "safekit log -f -m AM -A"),
            ("safekit config -m AM", "safekit module config -m AM"),
            ("safekit module listid", "safekit module list"),
        ] {
            assert_eq!(in_ours(theirs), ours);
        }
    }

    #[test]
    fn everything_else_stays_as_it_is() {
        for line in [
            "havre",
            "havre --state-dir /x state -m AM",
            "havre prim -m fullsync",
            "havre config check userconfig.xml",
            "havre waitstate -m AM PRIM",
            "havre --help",
        ] {
            assert_eq!(in_ours(line), line);
        }
    }
}
