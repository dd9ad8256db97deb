//! The one table of all elements and attributes: the parser reads by it and the reference manual
//! is generated from it.
//!
//! Each [`ElementSpec`] names its attributes with kind, default and meaning, and the elements
//! allowed inside it. Left to others: reading values by the table (`read`), meaning (`module`,
//! `cluster`), pages (`cargo xtask docs`).

use std::time::Duration;

use crate::config::time::{Unit, Written};

mod checkers;
mod cluster;
mod module;

pub use cluster::CLUSTER;
pub use module::SAFE;

/// One element at one place of a file.
#[derive(Debug)]
pub struct ElementSpec {
    /// Its name.
    pub name: &'static str,
    /// What it is for, one sentence.
    pub about: &'static str,
    /// What Havre does with it.
    pub support: Support,
    /// Whether it, and all inside it, may change while the module runs.
    pub live: bool,
    /// How often it may occur in its parent.
    pub occurs: Occurs,
    /// Its attributes.
    pub attributes: &'static [AttributeSpec],
    /// The elements allowed inside it.
    pub children: &'static [&'static ElementSpec],
    /// Whether text inside it means something.
    pub text: bool,
}

/// One attribute of one element.
#[derive(Debug, Clone, Copy)]
pub struct AttributeSpec {
    /// Its name.
    pub name: &'static str,
    /// What values it takes.
    pub kind: Kind,
    /// What its absence means.
    pub presence: Presence,
    /// What it is for, one sentence.
    pub about: &'static str,
    /// What Havre does with it.
    pub support: Support,
    /// Whether it may change while the module runs.
    pub live: bool,
}

/// What Havre does with an element or attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Support {
    /// What it says.
    Acted,
    /// Nothing yet.
    Later,
    /// Nothing, because Havre needs no such setting; the text says why.
    Unneeded(&'static str),
    /// It is refused; the text says what to write instead.
    Refused(&'static str),
}

/// How often an element may occur.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Occurs {
    /// Exactly once.
    Once,
    /// Not at all, or once.
    Optional,
    /// Any number of times.
    Many,
    /// At least once.
    OneOrMore,
}

/// What the absence of an attribute means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// An error.
    Required,
    /// What the text says, for readers only.
    Optional(&'static str),
    /// The same as this value.
    Default(&'static str),
}

/// What values an attribute takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Any text, even none.
    Text,
    /// Some text.
    Filled,
    /// A name: letters, digits, `_ - .`.
    Name,
    /// `on` or `off`.
    OnOff,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A time in this unit unless it has a suffix; both ends of the range are allowed.
    Time(Unit, Duration, Duration),
    /// A whole number; both ends of the range are allowed.
    Count(i64, i64),
    /// A TCP or UDP port, 1 to 65535.
    Port,
    /// A numeric address or a host name; IPv6 may stand in brackets.
    Host,
    /// A numeric address; IPv6 may stand in brackets.
    Address,
    /// An IPv4 mask such as `255.255.255.0`, or a prefix length.
    Mask,
    /// A MAC address of no card: unicast, as `5a:fe:0a:00:00:32`.
    Mac,
    /// This word, or a value of that kind.
    WordOr(&'static str, &'static Kind),
    /// An absolute path.
    Directory,
    /// A path below its directory.
    RelativePath,
    /// A POSIX extended regular expression.
    Pattern,
}

impl Kind {
    /// The values in words, for messages and the manual.
    pub fn words(&self) -> String {
        match self {
            Self::Text => "text".to_owned(),
            Self::Filled => "text, not empty".to_owned(),
            Self::Name => "name (letters, digits, `_` `-` `.`)".to_owned(),
            Self::OnOff => "`on`, `off`".to_owned(),
            Self::Choice(words) => {
                words.iter().map(|w| format!("`{w}`")).collect::<Vec<_>>().join(", ")
            }
            Self::Time(unit, least, most) => {
                let unit = unit.suffix();
                format!("time in {unit}, {} to {}", Written(*least), Written(*most))
            }
            Self::Count(least, most) => format!("{least} to {most}"),
            Self::Port => "port, 1 to 65535".to_owned(),
            Self::Host => "address or host name".to_owned(),
            Self::Address => "numeric address, IPv4 or IPv6".to_owned(),
            Self::Mask => "mask such as `255.255.255.0`, or prefix length".to_owned(),
            Self::Mac => "unicast MAC address such as `5a:fe:0a:00:00:32`".to_owned(),
            Self::WordOr(word, kind) => format!("`{word}`, or {}", kind.words()),
            Self::Directory => "absolute path".to_owned(),
            Self::RelativePath => "relative path".to_owned(),
            Self::Pattern => "POSIX extended regular expression".to_owned(),
        }
    }
}

impl ElementSpec {
    /// An element that is acted on, at most once, with nothing in it; refine with the methods.
    const fn new(name: &'static str, about: &'static str) -> Self {
        Self {
            name,
            about,
            support: Support::Acted,
            live: false,
            occurs: Occurs::Optional,
            attributes: &[],
            children: &[],
            text: false,
        }
    }

    const fn support(mut self, support: Support) -> Self {
        self.support = support;
        self
    }

    const fn live(mut self) -> Self {
        self.live = true;
        self
    }

    const fn occurs(mut self, occurs: Occurs) -> Self {
        self.occurs = occurs;
        self
    }

    const fn attributes(mut self, attributes: &'static [AttributeSpec]) -> Self {
        self.attributes = attributes;
        self
    }

    const fn children(mut self, children: &'static [&'static Self]) -> Self {
        self.children = children;
        self
    }

    const fn with_text(mut self) -> Self {
        self.text = true;
        self
    }

    /// The attribute of that name.
    pub fn attribute(&self, name: &str) -> Option<&'static AttributeSpec> {
        self.attributes.iter().find(|a| a.name == name)
    }

    /// The element of that name inside this one.
    pub fn child(&self, name: &str) -> Option<&'static Self> {
        self.children.iter().copied().find(|c| c.name == name)
    }
}

impl AttributeSpec {
    const fn new(name: &'static str, kind: Kind, presence: Presence, about: &'static str) -> Self {
        Self { name, kind, presence, about, support: Support::Acted, live: false }
    }

    const fn required(name: &'static str, kind: Kind, about: &'static str) -> Self {
        Self::new(name, kind, Presence::Required, about)
    }

    const fn optional(
        name: &'static str,
        kind: Kind,
        absent: &'static str,
        about: &'static str,
    ) -> Self {
        Self::new(name, kind, Presence::Optional(absent), about)
    }

    const fn default(
        name: &'static str,
        kind: Kind,
        value: &'static str,
        about: &'static str,
    ) -> Self {
        Self::new(name, kind, Presence::Default(value), about)
    }

    const fn live(mut self) -> Self {
        self.live = true;
        self
    }

    const fn support(mut self, support: Support) -> Self {
        self.support = support;
        self
    }
}

const fn ms(least_ms: u64, most: Duration) -> Kind {
    Kind::Time(Unit::Milliseconds, Duration::from_millis(least_ms), most)
}

const fn seconds(least_s: u64, most_s: u64) -> Kind {
    Kind::Time(Unit::Seconds, Duration::from_secs(least_s), Duration::from_secs(most_s))
}

#[cfg(test)]
mod tests;
