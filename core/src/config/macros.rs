//! `%name%` in values: replaced by a `<macro>` of the file, or else by a variable of the
//! environment the caller passes in. Macros win.

use std::collections::BTreeMap;

use crate::config::{
    error::{Position, Report},
    suggest,
    xml::{self, Element},
};

/// Longest value after replacement; keeps macros of macros from growing without bound.
const VALUE_BYTES_MAX: usize = 64 * 1024;

/// The names that `%name%` may use, with their values.
pub(crate) struct Names {
    known: BTreeMap<String, String>,
}

/// A part of a text: itself, or the name between two percent signs.
enum Part<'a> {
    Text(&'a str),
    Name(&'a str),
}

/// Cuts a text at its `%name%`s. A percent sign that begins no name is text.
fn parts(text: &str) -> Vec<Part<'_>> {
    let mut found = Vec::new();
    let (mut rest, mut scanned) = (text, 0);
    while let Some(percent) = rest[scanned..].find('%').map(|at| at + scanned) {
        let after = &rest[percent + 1..];
        let is_name = |c: char| c.is_alphanumeric() || matches!(c, '_' | '(' | ')' | '.');
        let length = after.find(|c| !is_name(c)).unwrap_or(after.len());
        let starts = after.starts_with(|c: char| c.is_alphabetic() || c == '_');
        if starts && after[length..].starts_with('%') {
            found.push(Part::Text(&rest[..percent]));
            found.push(Part::Name(&after[..length]));
            rest = &after[length + 1..];
            scanned = 0;
        } else {
            scanned = percent + 1;
        }
    }
    found.push(Part::Text(rest));
    found
}

impl Names {
    /// Reads the `<macro>`s among `elements`, in order: a macro may use earlier ones.
    pub(crate) fn collect<'e>(
        elements: impl Iterator<Item = &'e Element>,
        environment: &BTreeMap<String, String>,
        report: &mut Report<'_>,
    ) -> Self {
        let mut names = Self { known: environment.clone() };
        let mut places: BTreeMap<String, Position> = BTreeMap::new();
        for element in elements {
            let name = element.attribute("name").map(|a| a.value.trim()).unwrap_or_default();
            let Some(value) = element.attribute("value") else { continue };
            if name.is_empty() {
                continue;
            }
            if let Some(first) = places.insert(name.to_owned(), element.at) {
                let message = format!("macro {name} is defined twice");
                let remedy = format!("remove one: the first is on line {}", first.line);
                report.error(element.at, message, remedy);
            }
            let value = names.expand(&value.value, value.at, report);
            names.known.insert(name.to_owned(), value);
        }
        names
    }

    /// The text with every `%name%` replaced; unknown names are reported and stay.
    pub(crate) fn expand(&self, text: &str, at: Position, report: &mut Report<'_>) -> String {
        if !text.contains('%') {
            return text.to_owned();
        }
        let mut whole = String::with_capacity(text.len());
        for part in parts(text) {
            match part {
                Part::Text(text) => whole.push_str(text),
                Part::Name(name) => match self.known.get(name) {
                    Some(value) => whole.push_str(value),
                    None => {
                        let near = suggest::nearest(name, self.known.keys().map(String::as_str));
                        let remedy = near.map_or_else(
                            || format!("add <macro name=\"{name}\" value=\"...\"/>"),
                            |near| format!("did you mean %{near}%?"),
                        );
                        let message =
                            format!("%{name}% is neither a macro nor an environment variable");
                        report.error(at, message, remedy);
                        whole.push('%');
                        whole.push_str(name);
                        whole.push('%');
                    }
                },
            }
            if whole.len() > VALUE_BYTES_MAX {
                let message = format!("a value has more than {VALUE_BYTES_MAX} bytes");
                report.error(at, message, "shorten the macros it uses");
                return String::new();
            }
        }
        whole
    }

    /// Replaces in every value of `element` and of what is inside it.
    pub(crate) fn expand_tree(&self, element: &mut Element, report: &mut Report<'_>) {
        for attribute in &mut element.attributes {
            attribute.value = self.expand(&attribute.value, attribute.at, report);
        }
        for section in &mut element.sections {
            section.text = self.expand(&section.text, section.at, report);
        }
        for child in &mut element.children {
            if child.name != "macro" {
                self.expand_tree(child, report);
            }
        }
    }
}

/// What `%name%` means in this file: its macros over the given environment.
///
/// Never fails: what is wrong with the file is the parser's to say.
pub fn names(text: &str, environment: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut report = Report::new(std::path::Path::new(""));
    let tops = xml::read(text, &mut report);
    let inner = tops.iter().flat_map(|t| t.children.iter());
    let macros = tops.iter().chain(inner).filter(|e| e.name == "macro");
    Names::collect(macros, environment, &mut report).known
}

/// A copy of a file with every known `%name%` replaced, for scripts to read.
///
/// Characters that XML reserves are escaped in the replaced values. Unknown names stay.
pub fn expanded(text: &str, names: &BTreeMap<String, String>) -> String {
    let mut whole = String::with_capacity(text.len());
    for part in parts(text) {
        match part {
            Part::Text(text) => whole.push_str(text),
            Part::Name(name) => match names.get(name) {
                Some(value) => whole.push_str(&quick_xml::escape::escape(value.as_str())),
                None => {
                    whole.push('%');
                    whole.push_str(name);
                    whole.push('%');
                }
            },
        }
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expanded_copy_replaces_known_names_escapes_values_and_keeps_the_rest() {
        let text =
            "<safe><macro name=\"A\" value=\"x&amp;y\"/><v a=\"%A%\\%B%\" b=\"50% %C%\"/></safe>";
        let environment = [("B".to_owned(), "b".to_owned()), ("A".to_owned(), "loses".to_owned())];
        let names = names(text, &environment.into());
        assert_eq!(names["A"], "x&y", "a macro wins over the environment");
        let copy = expanded(text, &names);
        assert!(copy.contains("a=\"x&amp;y\\b\""), "{copy}");
        assert!(copy.contains("b=\"50% %C%\""), "{copy}");
    }

    #[test]
    fn a_percent_sign_that_begins_no_name_is_text() {
        let names = [("A".to_owned(), "1".to_owned())].into();
        assert_eq!(expanded("100%, %, %%, %A%%A%, %A", &names), "100%, %, %%, 11, %A");
    }
}
