//! XML text to a tree of elements that know their places.
//!
//! Tolerant: a file with errors still becomes a tree, as near as possible to what was meant, so
//! that one reading finds all errors. Every departure from well-formed XML is reported as an
//! error; the tree of such a file serves to find further errors only.
//! Left to others: which names are known and which values are allowed (`schema`, `read`).

use quick_xml::{
    Reader,
    escape::unescape,
    events::{BytesStart, Event, attributes::AttrError},
};

use crate::config::{
    error::{Position, Report},
    suggest,
    xml::{
        position::LineIndex,
        repair::{Repaired, repair},
    },
};

pub(crate) mod position;
mod repair;

/// Largest file read; ours have a few kilobytes.
const TEXT_BYTES_MAX: usize = 1 << 20;
/// Deepest nesting followed; the deepest legal element is at depth 7.
const DEPTH_MAX: usize = 32;

/// What begins a CDATA section.
const CDATA: &str = "<![CDATA[";

/// One element.
#[derive(Debug, Clone, Default)]
pub(crate) struct Element {
    pub(crate) name: String,
    /// Where its start tag begins.
    pub(crate) at: Position,
    pub(crate) attributes: Vec<Attribute>,
    pub(crate) children: Vec<Element>,
    /// Text and CDATA directly inside it, piece by piece.
    pub(crate) sections: Vec<Section>,
}

/// A piece of text between tags, or the inside of a CDATA section.
#[derive(Debug, Clone)]
pub(crate) struct Section {
    /// Where it begins.
    pub(crate) at: Position,
    /// The text, entities resolved.
    pub(crate) text: String,
    /// Whether it is CDATA, which joins with nothing.
    cdata: bool,
}

impl Section {
    /// The place in the file of a place in the text, both counted from 1.
    pub(crate) const fn place(&self, line: u32, column: u32) -> Position {
        let column = match line {
            0 | 1 => self.at.column.saturating_add(column.saturating_sub(1)),
            _ => column,
        };
        Position { line: self.at.line.saturating_add(line.saturating_sub(1)), column }
    }
}

/// One attribute.
#[derive(Debug, Clone)]
pub(crate) struct Attribute {
    pub(crate) name: String,
    /// Where its name begins.
    pub(crate) at: Position,
    /// Its value, entities resolved.
    pub(crate) value: String,
}

impl Element {
    pub(crate) fn attribute(&self, name: &str) -> Option<&Attribute> {
        self.attributes.iter().find(|a| a.name == name)
    }

    pub(crate) fn children_named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Self> {
        self.children.iter().filter(move |c| c.name == name)
    }
}

/// Reads a whole file: its top elements in order (a correct file has one).
pub(crate) fn read(text: &str, report: &mut Report<'_>) -> Vec<Element> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let index = LineIndex::new(text);
    if text.len() > TEXT_BYTES_MAX {
        let message = format!("the file has {} bytes, more than {TEXT_BYTES_MAX}", text.len());
        report.error(index.position(0), message, "this cannot be a configuration file");
        return Vec::new();
    }
    let repaired = repair(text, &index, report);
    Builder { index: &index, repaired: &repaired, report, open: Vec::new(), tops: Vec::new() }
        .build()
}

struct Builder<'a, 'r, 'f> {
    index: &'r LineIndex<'a>,
    repaired: &'r Repaired,
    report: &'r mut Report<'f>,
    open: Vec<Element>,
    tops: Vec<Element>,
}

impl Builder<'_, '_, '_> {
    fn build(mut self) -> Vec<Element> {
        let repaired = self.repaired;
        let mut reader = Reader::from_str(&repaired.text);
        let config = reader.config_mut();
        config.check_end_names = false;
        config.allow_unmatched_ends = true;
        config.allow_dangling_amp = true;
        // Tags closed by the end tag of something around them, whose own end tag may follow.
        let mut forgiven: Vec<String> = Vec::new();
        let complete = loop {
            let begin = offset(reader.buffer_position());
            match reader.read_event() {
                Ok(Event::Eof) => break true,
                Ok(Event::Start(tag)) => {
                    if !self.start(&tag, begin) {
                        break false;
                    }
                }
                Ok(Event::Empty(tag)) => {
                    if !self.start(&tag, begin) {
                        break false;
                    }
                    self.close();
                }
                Ok(Event::End(tag)) => self.end(tag.name().0.trim(), begin, &mut forgiven),
                Ok(Event::Text(text)) => self.text(&text, begin),
                Ok(Event::GeneralRef(name)) => self.reference(&name, begin),
                Ok(Event::CData(section)) => self.append(&section, begin + CDATA.len(), true),
                Ok(Event::Comment(_) | Event::Decl(_) | Event::PI(_) | Event::DocType(_)) => {}
                Err(error) => {
                    let at = offset(reader.error_position());
                    let remedy = "correct this first: the rest of the file was not read";
                    self.error(at, error.to_string(), remedy);
                    self.report.note_damage();
                    break false;
                }
            }
        };
        while let Some(element) = self.open.last() {
            let (at, name) = (element.at, element.name.clone());
            self.report.note_damage();
            if complete {
                let message = format!("<{name}> is never closed");
                self.report.error(at, message, format!("add </{name}>"));
            }
            self.close();
        }
        self.tops
    }

    fn place(&self, offset: usize) -> Position {
        self.index.position(self.repaired.original(offset))
    }

    fn error(&mut self, offset: usize, message: String, remedy: impl Into<String>) {
        self.report.error(self.place(offset), message, remedy);
    }

    /// Opens an element; false if the nesting is too deep to go on.
    fn start(&mut self, tag: &BytesStart<'_>, begin: usize) -> bool {
        if self.open.len() >= DEPTH_MAX {
            let message = format!("elements are nested more than {DEPTH_MAX} deep");
            self.error(begin, message, "this cannot be a configuration file");
            return false;
        }
        let name = tag.name().0.to_owned();
        let attributes = self.attributes(tag, begin + 1);
        let at = self.place(begin);
        self.open.push(Element { name, at, attributes, ..Element::default() });
        true
    }

    /// Moves the innermost open element into the one around it.
    fn close(&mut self) {
        let Some(element) = self.open.pop() else { return };
        match self.open.last_mut() {
            Some(parent) => parent.children.push(element),
            None => self.tops.push(element),
        }
    }

    fn attributes(&mut self, tag: &BytesStart<'_>, content: usize) -> Vec<Attribute> {
        let mut found: Vec<Attribute> = Vec::new();
        let inside: &str = tag;
        for attribute in tag.attributes() {
            match attribute {
                Ok(attribute) => {
                    let name = attribute.key.0;
                    let offset = content + distance(inside, name);
                    let at = self.place(offset);
                    let value = match unescape(&attribute.value) {
                        Ok(value) => value.into_owned(),
                        Err(_) => {
                            let message = format!("{name}: an & that begins no known entity");
                            self.error(offset, message, "write it as &amp;");
                            attribute.value.into_owned()
                        }
                    };
                    found.push(Attribute { name: name.to_owned(), at, value });
                }
                Err(error) => self.attribute_error(&error, content),
            }
        }
        found
    }

    fn attribute_error(&mut self, error: &AttrError, content: usize) {
        let (at, message, remedy) = match *error {
            AttrError::ExpectedEq(at) => {
                (at, "an attribute has no value", "write attributes as name=\"value\"")
            }
            AttrError::ExpectedValue(at) | AttrError::UnquotedValue(at) => {
                (at, "no value between quotes after \"=\"", "write attributes as name=\"value\"")
            }
            AttrError::ExpectedQuote(at, _) => {
                (at, "a quote is not closed", "add the closing quote")
            }
            AttrError::Duplicated(at, _) => {
                (at, "the attribute occurs twice in this tag", "remove one of the two")
            }
        };
        self.error(content + at, message.to_owned(), remedy);
    }

    fn end(&mut self, name: &str, begin: usize, forgiven: &mut Vec<String>) {
        let Some(inner) = self.open.last() else {
            if forgiven.pop_if(|f| f == name).is_none() {
                self.stray_end(name, begin);
            }
            return;
        };
        if inner.name == name {
            return self.close();
        }
        if let Some(depth) = self.open.iter().rposition(|e| e.name == name) {
            self.report.note_damage();
            while self.open.len() > depth + 1 {
                if self.reopened(depth) {
                    continue;
                }
                let element = self.open.last().expect("more elements than depth are open");
                let (inner, at) = (element.name.clone(), element.at);
                let message =
                    format!("<{inner}> of line {} is not closed before </{name}>", at.line);
                self.error(begin, message, format!("put </{inner}> before </{name}>"));
                forgiven.push(inner);
                self.close();
            }
            return self.close();
        }
        if forgiven.pop_if(|f| f == name).is_some() {
            return;
        }
        let (inner, line) = (inner.name.clone(), inner.at.line);
        let closed_already =
            self.open.last().is_some_and(|e| e.children.last().is_some_and(|c| c.name == name));
        if !closed_already && suggest::nearest(name, [inner.as_str()]).is_some() {
            let message = format!("</{name}> does not match <{inner}> of line {line}");
            self.error(begin, message, format!("did you mean </{inner}>?"));
            return self.close();
        }
        self.stray_end(name, begin);
    }

    /// Recognises `<x> ... <x>` in the place of `<x> ... </x>`: what follows the second tag belongs
    /// beside the first element, not inside it.
    fn reopened(&mut self, depth: usize) -> bool {
        let count = self.open.len();
        let [.., outer, inner] = self.open.as_slice() else { return false };
        let alike = outer.name == inner.name && inner.attributes.is_empty();
        if !alike || count < depth + 3 {
            return false;
        }
        let (at, name) = (inner.at, inner.name.clone());
        let message = format!("<{name}> opens again inside <{name}> of line {}", outer.at.line);
        self.report.error(at, message, format!("did you mean </{name}>?"));
        let following = self.open.pop().map(|inner| inner.children).unwrap_or_default();
        self.close();
        let around = self.open.last_mut().expect("the end tag's own element is still open");
        around.children.extend(following);
        true
    }

    fn stray_end(&mut self, name: &str, begin: usize) {
        self.report.note_damage();
        let siblings = self.open.last().map_or(&self.tops, |e| &e.children);
        let closed = siblings.last().filter(|e| e.name == name).map(|e| e.at.line);
        let message = match closed {
            Some(line) => format!("</{name}> closes nothing: <{name}> of line {line} is closed"),
            None => format!("</{name}> closes nothing: there is no open <{name}>"),
        };
        let remedy = match closed {
            Some(_) => "remove it, or the \"/\" before the \">\" of the opening tag",
            None => "remove it, or add the opening tag",
        };
        self.error(begin, message, remedy);
    }

    fn text(&mut self, text: &str, begin: usize) {
        if self.open.is_empty() && !text.trim().is_empty() {
            let blanks = text.len() - text.trim_start().len();
            let word: String = text.trim().chars().take(20).collect();
            let message = format!("text \"{word}\" outside of any element");
            return self.error(begin + blanks, message, "remove it, or put it into a comment");
        }
        self.append(text, begin, false);
    }

    fn reference(&mut self, name: &str, begin: usize) {
        match unescape(&format!("&{name};")) {
            Ok(text) => self.append(&text, begin, false),
            Err(error) => self.error(begin, error.to_string(), "write & as &amp;"),
        }
    }

    fn append(&mut self, text: &str, begin: usize, cdata: bool) {
        let at = self.place(begin);
        match self.open.last_mut() {
            Some(element) => match element.sections.last_mut() {
                Some(last) if !cdata && !last.cdata => last.text.push_str(text),
                _ => element.sections.push(Section { at, text: text.to_owned(), cdata }),
            },
            None if text.trim().is_empty() => {}
            None => {
                let message = "text outside of any element".to_owned();
                self.error(begin, message, "remove it, or put it into a comment");
            }
        }
    }
}

fn offset(position: u64) -> usize {
    usize::try_from(position).unwrap_or(usize::MAX)
}

/// How many bytes after the beginning of `outer` its part `inner` begins.
fn distance(outer: &str, inner: &str) -> usize {
    inner.as_ptr().addr().saturating_sub(outer.as_ptr().addr())
}

#[cfg(test)]
mod tests;
