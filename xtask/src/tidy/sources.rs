//! Sizes, headers and traces of one machine in source files.

use std::path::Path;

use super::Source;

/// Longest source file, tests apart.
const LINES_MAX: usize = 600;
/// Longest line.
const COLUMNS_MAX: usize = 100;
/// Directories that exist on somebody's machine only.
const FOREIGN: [&str; 4] = ["home", "root", "work", "Users"];

fn is_rust(file: &Source) -> bool {
    file.path.ends_with(".rs") && !file.path.contains("/generated/")
}

fn is_test(file: &Source) -> bool {
    file.path.contains("/tests/") || file.path.ends_with("tests.rs")
}

/// Lines before the tests at the end of a file.
fn lines_without_tests(text: &str) -> usize {
    let lines: Vec<&str> = text.lines().collect();
    let inline = |pair: &[&str]| {
        pair[0].trim() == "#[cfg(test)]" && pair[1].starts_with("mod ") && pair[1].ends_with('{')
    };
    lines.windows(2).position(inline).unwrap_or(lines.len())
}

/// Files and lines that are too long.
pub(super) fn size(file: &Source) -> Vec<String> {
    let mut findings = Vec::new();
    if !is_rust(file) {
        return findings;
    }
    let path = &file.path;
    let lines = lines_without_tests(&file.text);
    if !is_test(file) && lines > LINES_MAX {
        findings.push(format!(
            "{path}: {lines} lines without tests, at most {LINES_MAX} (split along a noun)"
        ));
    }
    for (number, line) in file.text.lines().enumerate() {
        let columns = line.chars().count();
        if columns > COLUMNS_MAX {
            let number = number + 1;
            findings.push(format!("{path}:{number}: {columns} columns, at most {COLUMNS_MAX}"));
        }
    }
    findings
}

/// Source files without a `//!` header.
pub(super) fn header(file: &Source) -> Option<String> {
    let first = file.text.lines().find(|line| !line.trim().is_empty());
    let missing = is_rust(file) && first.is_some_and(|line| !line.starts_with("//!"));
    missing.then(|| format!("{}:1: no //! header (say what the file decides)", file.path))
}

/// Paths that exist on somebody's machine only.
pub(super) fn machine_paths(file: &Source, root: &Path) -> Vec<String> {
    let checkout = root.to_string_lossy();
    let mut findings = Vec::new();
    for (number, line) in file.text.lines().enumerate() {
        let foreign = FOREIGN.iter().any(|name| names_directory(line, name));
        if foreign || line.contains(checkout.as_ref()) {
            let number = number + 1;
            let message = "a path of one machine (make it relative, or pass it in)";
            findings.push(format!("{}:{number}: {message}", file.path));
        }
    }
    findings
}

/// Whether `line` contains `/NAME/` as the beginning of an absolute path.
fn names_directory(line: &str, name: &str) -> bool {
    line.match_indices(&format!("/{name}/")).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        before.is_none_or(|c| {
            !(c.is_alphanumeric() || matches!(c, '/' | '.' | '_' | '-' | '}' | '~' | '*'))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> Source {
        Source { path: path.to_owned(), text: text.to_owned() }
    }

    #[test]
    fn tests_at_the_end_do_not_count_and_test_files_may_be_long() {
        let long = "//! x\n".repeat(601);
        assert_eq!(size(&file("core/src/a.rs", &long)).len(), 1);
        assert!(size(&file("core/src/a/tests.rs", &long)).is_empty());
        let with_tests = format!("{}#[cfg(test)]\nmod tests {{\n{long}}}\n", "//! x\n".repeat(600));
        assert!(size(&file("core/src/a.rs", &with_tests)).is_empty());
    }

    #[test]
    fn columns_are_characters() {
        assert!(size(&file("a.rs", &"é".repeat(100))).is_empty());
        assert_eq!(size(&file("a.rs", &"e".repeat(101))), ["a.rs:1: 101 columns, at most 100"]);
        assert!(size(&file("a.md", &"e".repeat(101))).is_empty());
    }

    #[test]
    fn a_source_file_begins_with_its_header() {
        assert!(header(&file("a.rs", "\n//! Decides.\n")).is_none());
        assert!(header(&file("a.rs", "use std::fs;\n")).is_some());
    }

    #[test]
    fn absolute_paths_of_one_machine_are_found_and_relative_ones_are_not() {
        let path = |name: &str| format!("let x = \"/{name}/someone/x\";");
        let root = Path::new("/srv/checkout");
        for name in FOREIGN {
            assert_eq!(machine_paths(&file("a.rs", &path(name)), root).len(), 1, "{name}");
        }
        assert_eq!(machine_paths(&file("a.md", "see /srv/checkout/core"), root).len(), 1);
        for name in FOREIGN {
            let relative = format!("target/{name}/x $DIR/{name}/x /var/lib/x");
            assert!(machine_paths(&file("a.rs", &relative), root).is_empty(), "{name}");
        }
    }
}
