//! Makes a text with the usual typing errors readable, and reports each of them.
//!
//! An XML reader stops at the first quote out of place and hides every later error. This pass
//! goes over the tags first. It reports typographic, doubled, missing and absent quotes and tags
//! without `>`, and hands the reader a text in which they are repaired, together with the map
//! back to the places of the original. A repaired file stays refused: the findings are errors.

use crate::config::{error::Report, xml::position::LineIndex};

/// A readable text, and where each part of it was in the original.
#[derive(Debug)]
pub(crate) struct Repaired {
    pub(crate) text: String,
    /// (offset here, offset in the original): valid from the former up to the next entry.
    anchors: Vec<(usize, usize)>,
}

impl Repaired {
    /// The offset in the original of an offset in the repaired text.
    pub(crate) fn original(&self, offset: usize) -> usize {
        let after = self.anchors.partition_point(|&(here, _)| here <= offset);
        let (here, there) = self.anchors[after.saturating_sub(1)];
        there + (offset - here)
    }
}

/// Repairs the tags of `text`.
pub(crate) fn repair(text: &str, index: &LineIndex<'_>, report: &mut Report<'_>) -> Repaired {
    let output = Repaired { text: String::with_capacity(text.len()), anchors: vec![(0, 0)] };
    let mut pass = Pass { text, at: 0, output, index, report };
    while pass.at < text.len() {
        pass.markup();
    }
    pass.output
}

struct Pass<'a, 'r, 'f> {
    text: &'a str,
    at: usize,
    output: Repaired,
    index: &'r LineIndex<'a>,
    report: &'r mut Report<'f>,
}

/// Characters that a word processor puts in the place of `"` and `'`.
const fn is_typographic(c: char) -> bool {
    matches!(
        c,
        '\u{2018}'..='\u{201f}' | '\u{2032}' | '\u{2033}' | '\u{ab}' | '\u{bb}' | '\u{ff02}'
    )
}

const fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | ':') || !c.is_ascii()
}

/// Whether a tag may go on with `rest` after the closing quote of a value.
fn ends_value(rest: &str) -> bool {
    rest.is_empty() || rest.starts_with(|c: char| c.is_whitespace() || matches!(c, '/' | '>'))
}

impl Pass<'_, '_, '_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    /// Copies the next `length` bytes.
    fn copy(&mut self, length: usize) {
        let end = (self.at + length).min(self.text.len());
        self.output.text.push_str(&self.text[self.at..end]);
        self.at = end;
    }

    /// Copies up to and including `end`, or everything.
    fn copy_through(&mut self, end: &str) {
        let length = self.rest().find(end).map_or(self.rest().len(), |found| found + end.len());
        self.copy(length);
    }

    /// Writes `replacement` in the place of the next `length` bytes.
    fn replace(&mut self, length: usize, replacement: &str) {
        self.output.text.push_str(replacement);
        self.at += length;
        self.output.anchors.push((self.output.text.len(), self.at));
    }

    fn error(&mut self, offset: usize, message: String, remedy: &str) {
        self.report.error(self.index.position(offset), message, remedy);
    }

    /// One comment, section, instruction, tag or stretch of text.
    fn markup(&mut self) {
        let rest = self.rest();
        if rest.starts_with("<!--") {
            self.copy_through("-->");
        } else if rest.starts_with("<![CDATA[") {
            self.copy_through("]]>");
        } else if rest.starts_with("<?") {
            self.copy_through("?>");
        } else if rest.starts_with("<!") {
            self.copy_through(">");
        } else if rest.starts_with("</") {
            self.end_tag();
        } else if rest.starts_with('<') && rest[1..].starts_with(is_name) {
            self.start_tag();
        } else if rest.starts_with('<') {
            let message = "a \"<\" that does not begin a tag".to_owned();
            self.error(self.at, message, "write it as &lt;");
            self.replace(1, "&lt;");
        } else {
            let length = rest.find('<').unwrap_or(rest.len());
            self.copy(length);
        }
    }

    fn end_tag(&mut self) {
        let begin = self.at;
        self.copy(2);
        let length = self.rest().find(['<', '>']).unwrap_or(self.rest().len());
        self.copy(length);
        if self.rest().starts_with('>') {
            self.copy(1);
        } else {
            self.unclosed_tag(begin);
        }
    }

    fn start_tag(&mut self) {
        let begin = self.at;
        self.copy(1);
        self.copy_while(is_name);
        loop {
            self.copy_while(char::is_whitespace);
            let rest = self.rest();
            if rest.starts_with('>') {
                return self.copy(1);
            } else if rest.starts_with("/>") {
                return self.copy(2);
            } else if rest.is_empty() || rest.starts_with('<') {
                return self.unclosed_tag(begin);
            } else if rest.starts_with(is_name) && !rest.starts_with(is_typographic) {
                self.copy_while(|c| is_name(c) && !is_typographic(c));
                self.equals_and_value();
            } else {
                self.stray();
            }
        }
    }

    fn unclosed_tag(&mut self, begin: usize) {
        let tag = &self.text[begin..self.at];
        let name: String = tag.chars().skip(1).take_while(|&c| is_name(c) || c == '/').collect();
        self.error(begin, format!("tag <{name}> has no \">\" at its end"), "add the \">\"");
        self.replace(0, ">");
    }

    /// Something that is neither an attribute nor the end of a tag.
    fn stray(&mut self) {
        let c = self.rest().chars().next().expect("the caller has seen that the rest is not empty");
        let message = format!("\"{c}\" has no place here inside a tag");
        self.error(self.at, message, "write attributes as name=\"value\"");
        self.replace(c.len_utf8(), " ");
    }

    fn copy_while(&mut self, accepted: impl Fn(char) -> bool) {
        let length = self.rest().find(|c| !accepted(c)).unwrap_or(self.rest().len());
        self.copy(length);
    }

    /// `= value` after an attribute's name. Without `=`, the reader reports the attribute.
    fn equals_and_value(&mut self) {
        let next = self.rest().trim_start();
        if !next.starts_with('=') {
            return;
        }
        self.copy_while(char::is_whitespace);
        self.copy(1);
        self.copy_while(char::is_whitespace);
        let Some(first) = self.rest().chars().next() else { return };
        match first {
            '"' | '\'' => self.quoted(first),
            '>' | '<' => {}
            '/' if self.rest().starts_with("/>") => {}
            c if is_typographic(c) => self.typographic(c),
            _ => self.unquoted(),
        }
    }

    fn unquoted(&mut self) {
        let message = "an attribute's value stands without quotes".to_owned();
        self.error(self.at, message, "write the value between straight quotes \"...\"");
        let rest = self.rest();
        let stop = |c: char| c.is_whitespace() || matches!(c, '>' | '<' | '"' | '\'');
        let stop = rest.find(stop).unwrap_or(rest.len());
        let length = rest[..stop].strip_suffix('/').map_or(stop, str::len);
        self.replace(0, "\"");
        self.copy(length);
        self.replace(0, "\"");
        // A closing quote alone, as in `port=80"`.
        if self.rest().starts_with(['"', '\'']) {
            self.replace(1, "");
        }
    }

    fn typographic(&mut self, quote: char) {
        self.report_typographic(self.at, quote);
        self.replace(quote.len_utf8(), "\"");
        let end = self.rest().find(['<', '\n']).unwrap_or(self.rest().len());
        let closes = |c: char| is_typographic(c) || c == '"';
        match self.rest()[..end].char_indices().find(|&(_, c)| closes(c)) {
            Some((offset, close)) => {
                self.copy(offset);
                if is_typographic(close) {
                    self.report_typographic(self.at, close);
                }
                self.replace(close.len_utf8(), "\"");
            }
            None => self.close_at_first_break(),
        }
    }

    fn report_typographic(&mut self, offset: usize, quote: char) {
        let code = u32::from(quote);
        let message =
            format!("typographic quote {quote} (U+{code:04X}) around an attribute's value");
        self.error(offset, message, "type a straight quote \" instead");
    }

    fn quoted(&mut self, quote: char) {
        let doubled = self.rest()[1..].starts_with(quote) && !ends_value(&self.rest()[2..]);
        // `a=""b="c"`: an empty value, and a blank missing behind it.
        let doubled = doubled && !glued_attribute(&self.rest()[2..]);
        if doubled {
            let message = format!("the opening quote {quote} is doubled");
            self.error(self.at, message, "remove one of the two quotes");
            self.replace(1, "");
        }
        let body = self.rest()[1..].to_owned();
        let close = body.find(quote);
        let open = body.find('<').unwrap_or(body.len());
        match close {
            Some(close) if close < open && !swallows_attribute(&body[..close]) => {
                let again = doubled && body[close + 1..].starts_with(quote);
                self.copy(close + 2);
                if again {
                    self.replace(1, "");
                } else if !ends_value(self.rest()) {
                    let message = "no blank between two attributes".to_owned();
                    self.error(self.at, message, "put a blank before the next attribute");
                    self.replace(0, " ");
                }
            }
            Some(close) if has_stray_brackets(&body[..close]) && ends_value(&body[close + 1..]) => {
                self.copy(1);
                self.value_with_brackets(close);
                self.copy(1);
            }
            _ => self.unclosed_value(&body[..open]),
        }
    }

    /// A value of `length` bytes with a "<" in it, which XML does not allow.
    fn value_with_brackets(&mut self, length: usize) {
        let end = self.at + length;
        let message = "a \"<\" inside a value".to_owned();
        self.error(self.at, message, "write it as &lt;");
        while let Some(bracket) = self.text[self.at..end].find('<') {
            self.copy(bracket);
            self.replace(1, "&lt;");
        }
        self.copy(end - self.at);
    }

    /// A value whose closing quote is missing or of another kind.
    fn unclosed_value(&mut self, body: &str) {
        let begin = self.at;
        self.copy(1);
        let line = body.split('\n').next().unwrap_or(body);
        let wrong_close = line
            .char_indices()
            .find(|&(offset, c)| is_typographic(c) && ends_value(&line[offset + c.len_utf8()..]));
        if let Some((offset, close)) = wrong_close {
            self.copy(offset);
            self.report_typographic(self.at, close);
            let quote = self.text[begin..=begin].to_owned();
            self.replace(close.len_utf8(), &quote);
            return;
        }
        self.error(begin, "this quote is not closed".to_owned(), "add the closing quote");
        self.close_at_first_break();
    }

    /// Ends a value where its tag or word ends.
    fn close_at_first_break(&mut self) {
        let rest = self.rest();
        let stop = |c: char| c.is_whitespace() || matches!(c, '>' | '<');
        let stop = rest.find(stop).unwrap_or(rest.len());
        let length = rest[..stop].strip_suffix('/').map_or(stop, str::len);
        let opened = self.output.text.chars().next_back().filter(|&c| c == '\'').unwrap_or('"');
        self.copy(length);
        self.replace(0, &opened.to_string());
    }
}

/// Whether a value ends like the beginning of another attribute: its closing quote is missing.
fn swallows_attribute(value: &str) -> bool {
    let Some(before) = value.trim_end().strip_suffix('=') else { return false };
    let name = before.trim_end().rsplit(char::is_whitespace).next().unwrap_or("");
    name.len() < before.trim_end().len() && !name.is_empty() && name.chars().all(is_name)
}

/// Whether a value has a "<" that belongs to it, rather than to the next tag.
fn has_stray_brackets(value: &str) -> bool {
    let next_tag = value.contains("/>") || value.contains("><") || value.contains('\n');
    value.contains('<') && !next_tag && !swallows_attribute(value)
}

/// Whether `rest` begins with `name=` and a quote.
fn glued_attribute(rest: &str) -> bool {
    let after = rest.trim_start_matches(is_name);
    after.len() < rest.len()
        && after
            .trim_start()
            .strip_prefix('=')
            .is_some_and(|value| value.trim_start().starts_with(['"', '\'']))
}
