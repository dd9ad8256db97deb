//! Finds in a module's scripts the damage that copying from a web page does.

use std::path::Path;

use crate::config::{
    error::{Diagnostic, Report},
    xml::position::LineIndex,
};

/// Characters that shells take for ordinary letters although the author meant a quote.
const QUOTES: [char; 6] = ['\u{2018}', '\u{2019}', '\u{201c}', '\u{201d}', '\u{201e}', '\u{201f}'];

/// Warnings about the text of one script; `file` is its name in messages.
pub fn check(file: &Path, text: &str) -> Vec<Diagnostic> {
    let mut report = Report::new(file);
    let index = LineIndex::new(text);
    for (offset, quote) in text.char_indices().filter(|(_, c)| QUOTES.contains(c)) {
        let message = format!("typographic quote {quote} (U+{:04X})", u32::from(quote));
        let remedy = "shells do not take it for a quote: type \" or '";
        report.warning(index.position(offset), message, remedy);
    }
    for (offset, word) in text.match_indices("%SAFE%") {
        let after = &text[offset + word.len()..];
        if after.starts_with(|c: char| c.is_alphanumeric()) {
            let message = "no backslash after %SAFE%";
            report.warning(index.position(offset), message, "write %SAFE%\\safekit");
        }
    }
    report.into_diagnostics()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_copied_from_a_web_page_is_told_its_quotes_and_missing_backslash() {
        let text = "@echo off\r\n\u{201c}%SAFE%safekit\u{201d} printi ok\r\n";
        let found = check(Path::new("start_prim.cmd"), text);
        let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(lines[0].starts_with("start_prim.cmd:2:1: warning: typographic quote"));
        assert!(lines[1].starts_with("start_prim.cmd:2:2: warning: no backslash after %SAFE%"));
        assert!(lines[2].starts_with("start_prim.cmd:2:15: warning: typographic quote"));
        assert!(check(Path::new("start_prim"), "#!/bin/sh\nexit 0\n").is_empty());
    }
}
