//! Regular expressions of a configuration: one dialect, checked where they are read and compiled
//! where they are used.
//!
//! Expressions of files written for other products are POSIX extended ones; the `regex` crate
//! reads those except back references, in linear time. Bytes, not characters: names of files and
//! processes need not be UTF-8.

use regex::bytes::{Regex, RegexBuilder};

/// Memory that one compiled expression may take.
const COMPILED_BYTES_MAX: usize = 1 << 20;

/// Compiles an expression; the error is one line.
///
/// # Errors
/// It is not an expression, uses back references or look-around, or is too large.
pub fn compile(text: &str) -> Result<Regex, String> {
    let built = RegexBuilder::new(text).unicode(false).size_limit(COMPILED_BYTES_MAX).build();
    built.map_err(|error| {
        let text = error.to_string();
        // The crate draws the expression first; its last line says what is wrong.
        let last = text.lines().last().unwrap_or_default();
        last.trim_start_matches("error: ").to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extended_expressions_compile_and_faults_are_one_line() {
        let regex = compile("^(tmp|cache)[[:digit:]]+\\.log$").expect("an expression");
        assert!(regex.is_match(b"cache12.log") && !regex.is_match(b"cache.log"));
        assert_eq!(compile("(a").expect_err("unclosed"), "unclosed group");
        assert!(compile("(a)\\1").expect_err("a back reference").contains("backreferences"));
        assert!(compile("(a{1000}){1000}").expect_err("too large").contains("size limit"));
        assert!(compile("\u{e9}t\u{e9}").expect("text").is_match("l'\u{e9}t\u{e9}".as_bytes()));
    }
}
