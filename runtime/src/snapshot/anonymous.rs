//! Names and addresses replaced by others, the same ones everywhere: what happened between two
//! nodes can still be followed, where they stand cannot.

use std::{collections::BTreeMap, net::IpAddr, path::Path, sync::LazyLock};

use regex::Regex;

use crate::cluster::Membership;

static MAC: LazyLock<Regex> =
    LazyLock::new(|| expression(r"\b[0-9A-Fa-f]{2}(?:[:-][0-9A-Fa-f]{2}){5}\b"));
static V4: LazyLock<Regex> = LazyLock::new(|| expression(r"\b\d{1,3}(?:\.\d{1,3}){3}\b"));
static V6: LazyLock<Regex> =
    LazyLock::new(|| expression(r"[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}"));
static MAIL: LazyLock<Regex> = LazyLock::new(|| expression(r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+\b"));

fn expression(text: &str) -> Regex {
    // Addresses and names of machines are of ASCII.
    Regex::new(&format!("(?-u){text}")).expect("the expression is constant")
}

/// Replaces what identifies a site.
#[derive(Debug, Default)]
pub struct Replacer {
    /// Names that are replaced, longest first, each with what stands for it.
    names: Vec<(Regex, String)>,
    known: BTreeMap<(&'static str, String), String>,
    counts: BTreeMap<&'static str, usize>,
}

impl Replacer {
    /// Replaces the names of this node's cluster and of this machine, and every address.
    pub fn of(state_dir: &Path) -> Self {
        let mut names: Vec<(String, String)> = Vec::new();
        if let Ok(membership) = Membership::load(state_dir) {
            let nodes = membership.config().nodes.iter();
            names.extend(nodes.zip(1..).map(|(name, at)| (name.clone(), format!("anon-node{at}"))));
        }
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        names.push((host.trim().to_owned(), "anon-host".to_owned()));
        Self::with_names(names)
    }

    /// Replaces these names, and every address.
    pub fn with_names(mut names: Vec<(String, String)>) -> Self {
        names.retain(|(name, _)| !name.is_empty());
        names.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
        let whole = |(name, other): (String, String)| {
            (expression(&format!(r"\b{}\b", regex::escape(&name))), other)
        };
        Self { names: names.into_iter().map(whole).collect(), ..Self::default() }
    }

    /// Replaces in names and contents of files. What is no text is left out.
    pub fn replace(mut self, files: BTreeMap<String, Vec<u8>>) -> BTreeMap<String, Vec<u8>> {
        let texts = files.into_iter().filter_map(|(name, content)| {
            let content = String::from_utf8(content).ok()?;
            Some((self.in_text(&name), self.in_text(&content).into_bytes()))
        });
        texts.collect()
    }

    /// Replaces in one text.
    pub fn in_text(&mut self, text: &str) -> String {
        let mut text = text.to_owned();
        for (name, other) in &self.names {
            text = name.replace_all(&text, other.as_str()).into_owned();
        }
        text = self.each(&MAIL, "mail", &text, |_| true);
        text = self.each(&MAC, "mac", &text, |_| true);
        let is_address = |word: &str| {
            word.parse::<IpAddr>().is_ok_and(|ip| !ip.is_unspecified() && !ip.is_loopback())
        };
        text = self.each(&V4, "ip", &text, is_address);
        self.each(&V6, "ip", &text, is_address)
    }

    fn each(
        &mut self,
        pattern: &Regex,
        kind: &'static str,
        text: &str,
        meant: impl Fn(&str) -> bool,
    ) -> String {
        let replaced = pattern.replace_all(text, |found: &regex::Captures<'_>| {
            let word = &found[0];
            if meant(word) { self.other(kind, word) } else { word.to_owned() }
        });
        replaced.into_owned()
    }

    /// What stands for a word: the same each time.
    fn other(&mut self, kind: &'static str, word: &str) -> String {
        let key = (kind, word.to_ascii_lowercase());
        if let Some(other) = self.known.get(&key) {
            return other.clone();
        }
        let count = self.counts.entry(kind).or_default();
        *count += 1;
        let other = format!("anon-{kind}{count}");
        self.known.insert(key, other.clone());
        other
    }
}
