//! Checks a tree of elements against the table, and reads typed values out of it.
//!
//! [`check`] reports everything the table can tell: unknown and misplaced names, missing and
//! wrong values, what is accepted without effect. [`View`] then reads one element; for a value
//! that is absent or was reported it gives the table's default, so that reading goes on.

use std::{net::IpAddr, time::Duration};

use crate::config::{
    error::{Position, Report},
    schema::{AttributeSpec, ElementSpec, Kind, Occurs, Presence, Support},
    suggest, time, value,
    xml::{Element, Section},
};

/// Reports everything that is wrong with `element` and what is inside it.
///
/// `quiet`: an element around it has been reported as having no effect already.
pub(crate) fn check(
    element: &Element,
    spec: &'static ElementSpec,
    quiet: bool,
    report: &mut Report<'_>,
) {
    let quiet = note_support(element, spec, quiet, report);
    check_attributes(element, spec, quiet, report);
    for child in &element.children {
        match spec.child(&child.name) {
            Some(inner) => check(child, inner, quiet, report),
            None => unknown_element(child, element, spec, report),
        }
    }
    for inner in spec.children {
        check_number(element, inner, report);
    }
    let text = element.sections.iter().find(|section| !section.text.trim().is_empty());
    if let (false, Some(section)) = (spec.text, text) {
        let word: String = section.text.trim().chars().take(20).collect();
        let message = format!("text \"{word}\" inside <{}>", element.name);
        report.error(element.at, message, "remove it, or put it into a comment");
    }
}

fn note_support(
    element: &Element,
    spec: &ElementSpec,
    quiet: bool,
    report: &mut Report<'_>,
) -> bool {
    let name = &element.name;
    match spec.support {
        Support::Acted => return quiet,
        Support::Later if !quiet => {
            report.notice(element.at, format!("<{name}> is accepted but not yet acted on"), "");
        }
        Support::Unneeded(why) if !quiet => {
            let message = format!("<{name}> is accepted and has no effect: {why}");
            report.notice(element.at, message, "it can be removed");
        }
        Support::Refused(remedy) => {
            report.error(element.at, format!("<{name}> is not supported here"), remedy);
        }
        Support::Later | Support::Unneeded(_) => {}
    }
    true
}

fn check_attributes(
    element: &Element,
    spec: &'static ElementSpec,
    quiet: bool,
    report: &mut Report<'_>,
) {
    let name = &element.name;
    for attribute in &element.attributes {
        let Some(known) = spec.attribute(&attribute.name) else {
            let names = spec.attributes.iter().map(|a| a.name);
            let message = format!("<{name}> has no attribute {}", attribute.name);
            report.error(attribute.at, message, suggest::remedy(&attribute.name, names));
            continue;
        };
        if let Some((message, remedy)) = value::fault(known.name, &known.kind, &attribute.value) {
            report.error(attribute.at, format!("<{name}> {message}"), remedy);
        }
        let written = format!("<{name} {}=\"{}\">", attribute.name, attribute.value);
        match known.support {
            Support::Later if !quiet => {
                let message = format!("{written} is accepted but not yet acted on");
                report.notice(attribute.at, message, "");
            }
            Support::Unneeded(why) if !quiet => {
                let message = format!("{written} is accepted and has no effect: {why}");
                report.notice(attribute.at, message, "it can be removed");
            }
            Support::Refused(remedy) => {
                report.error(attribute.at, format!("{written} is not supported"), remedy);
            }
            _ => {}
        }
    }
    for known in spec.attributes {
        if known.presence == Presence::Required && element.attribute(known.name).is_none() {
            let message = format!("<{name}> lacks the attribute {}", known.name);
            let remedy = format!("add {}=\"...\" ({})", known.name, known.kind.words());
            report.error(element.at, message, remedy);
        }
    }
}

fn unknown_element(
    child: &Element,
    parent: &Element,
    spec: &'static ElementSpec,
    report: &mut Report<'_>,
) {
    let names = spec.children.iter().map(|c| c.name);
    let message = format!("<{}> is not known inside <{}>", child.name, parent.name);
    let near = suggest::nearest(&child.name, names.clone());
    report.error(child.at, message, suggest::remedy(&child.name, names));
    // Goes on inside under the name that was probably meant, to find what else is wrong there.
    if let Some(inner) = near.and_then(|near| spec.child(near)) {
        check(child, inner, true, report);
    }
}

fn check_number(element: &Element, inner: &ElementSpec, report: &mut Report<'_>) {
    let name = inner.name;
    let mut found = element.children_named(name);
    let first = found.next();
    let needed = matches!(inner.occurs, Occurs::Once | Occurs::OneOrMore);
    let misspelt = || {
        let unknown = element.children.iter().filter(|c| c.name != name);
        unknown.map(|c| c.name.as_str()).any(|c| suggest::nearest(c, [name]).is_some())
    };
    if needed && first.is_none() && report.is_intact() && !misspelt() {
        let message = format!("<{}> contains no <{name}>", element.name);
        report.error(element.at, message, format!("add <{name}>: {}", inner.about));
    }
    let single = matches!(inner.occurs, Occurs::Once | Occurs::Optional);
    if let (true, Some(first)) = (single, first) {
        for again in found {
            let message = format!("<{name}> occurs more than once in <{}>", element.name);
            let remedy = format!("join it with the one of line {}", first.at.line);
            report.error(again.at, message, remedy);
        }
    }
}

/// One element, read through the table.
#[derive(Clone, Copy)]
pub(crate) struct View<'e> {
    element: &'e Element,
    spec: &'static ElementSpec,
}

impl<'e> View<'e> {
    pub(crate) const fn new(element: &'e Element, spec: &'static ElementSpec) -> Self {
        Self { element, spec }
    }

    /// The element's name.
    pub(crate) const fn name(&self) -> &'static str {
        self.spec.name
    }

    /// Whether the file gives the attribute a value, right or wrong.
    pub(crate) fn is_written(&self, name: &str) -> bool {
        self.element.attribute(name).is_some()
    }

    /// Where the element begins.
    pub(crate) const fn at(&self) -> Position {
        self.element.at
    }

    /// Where the attribute stands, or else the element.
    pub(crate) fn at_attribute(&self, name: &str) -> Position {
        self.element.attribute(name).map_or(self.element.at, |a| a.at)
    }

    /// Whether the table gives the element such an attribute.
    pub(crate) fn knows(&self, name: &str) -> bool {
        self.spec.attribute(name).is_some()
    }

    /// Whether the table gives the element such a child.
    pub(crate) fn has_child(&self, name: &str) -> bool {
        self.spec.child(name).is_some()
    }

    /// The elements inside this one that the table knows, in the order of the file.
    pub(crate) fn every_child(&self) -> impl Iterator<Item = View<'e>> + use<'e> {
        let spec = self.spec;
        let children = self.element.children.iter();
        children.filter_map(move |element| Some(View { element, spec: spec.child(&element.name)? }))
    }

    /// The pieces of text directly inside it.
    pub(crate) fn sections(&self) -> &'e [Section] {
        &self.element.sections
    }

    /// The elements of that name inside this one.
    pub(crate) fn children(&self, name: &'static str) -> impl Iterator<Item = View<'e>> + use<'e> {
        let spec = self.spec.child(name).expect("the code asks for elements of the table only");
        self.element.children_named(name).map(move |element| View { element, spec })
    }

    /// The first element of that name inside this one.
    pub(crate) fn child(&self, name: &'static str) -> Option<View<'e>> {
        self.children(name).next()
    }

    fn known(&self, name: &str) -> &'static AttributeSpec {
        self.spec.attribute(name).expect("the code asks for attributes of the table only")
    }

    /// The value as written if it is there and valid, else the default of the table.
    fn valid(&self, name: &str) -> Option<&'e str> {
        let known = self.known(name);
        let written = self.element.attribute(name).map(|a| a.value.as_str());
        // Compiling an expression takes long, and has been done when the element was checked.
        let checked = matches!(known.kind, Kind::Pattern);
        let good = |value: &&str| checked || value::fault(name, &known.kind, value).is_none();
        let written = written.filter(good);
        written.or(match known.presence {
            Presence::Default(value) => Some(value),
            Presence::Required | Presence::Optional(_) => None,
        })
    }

    /// A value that may be absent, without surrounding blanks.
    pub(crate) fn word(&self, name: &str) -> Option<&'e str> {
        self.valid(name).map(str::trim)
    }

    /// A value as written, blanks included.
    pub(crate) fn text(&self, name: &str) -> &'e str {
        self.valid(name).unwrap_or("")
    }

    pub(crate) fn is_on(&self, name: &str) -> bool {
        self.word(name) == Some("on")
    }

    pub(crate) fn time(&self, name: &str) -> Option<Duration> {
        let unit = match self.known(name).kind {
            Kind::Time(unit, ..) | Kind::WordOr(_, &Kind::Time(unit, ..)) => unit,
            _ => panic!("the code reads times from attributes of that kind only"),
        };
        self.valid(name).and_then(|value| time::parse(value, unit).ok())
    }

    /// A time that has a default.
    pub(crate) fn time_or_default(&self, name: &str) -> Duration {
        self.time(name).expect("the table's defaults are valid, which its test proves")
    }

    pub(crate) fn count(&self, name: &str) -> Option<u64> {
        self.word(name).and_then(|value| value.parse().ok())
    }

    pub(crate) fn port(&self, name: &str) -> Option<u16> {
        self.word(name).and_then(|value| value.parse().ok())
    }

    pub(crate) fn address(&self, name: &str) -> Option<IpAddr> {
        self.word(name).and_then(value::address)
    }
}
