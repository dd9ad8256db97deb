//! What can be wrong with a configuration file, said so that a technician can repair it.
//!
//! Every finding is a [`Diagnostic`]: where, how bad, what, and what to do. A [`Report`] collects
//! them while a file is read, so that all findings of a file reach the reader at once.
//! Left to others: who prints them (`havre config check`, the console).

use std::{
    fmt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// Findings of one file beyond this number are dropped: the file is not what it claims to be.
pub const DIAGNOSTICS_MAX: usize = 200;

/// A place in a text, both counted from 1; columns count characters, not bytes.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Position {
    /// Line, from 1.
    pub line: u32,
    /// Character in that line, from 1.
    pub column: u32,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The file cannot be used.
    Error,
    /// The file can be used; what it says is probably not what was meant.
    Warning,
    /// The file can be used; something in it has no effect, or something useful is absent.
    Notice,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Notice => "notice",
        })
    }
}

/// One finding. Shown as `file:line:column: error: message (remedy)`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnostic {
    /// The file, as it was named to the parser.
    pub file: PathBuf,
    /// Line, from 1.
    pub line: u32,
    /// Character in that line, from 1.
    pub column: u32,
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong.
    pub message: String,
    /// What to do about it; may be empty.
    pub remedy: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (file, line, column) = (self.file.display(), self.line, self.column);
        write!(f, "{file}:{line}:{column}: {}: {}", self.severity, self.message)?;
        if self.remedy.is_empty() { Ok(()) } else { write!(f, " ({})", self.remedy) }
    }
}

/// Everything found in a file that cannot be used: its errors, and its warnings and notices too,
/// in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<Diagnostic>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, diagnostic) in self.0.iter().enumerate() {
            let separator = if number == 0 { "" } else { "\n" };
            write!(f, "{separator}{diagnostic}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// A value read from a file, and what its author should know although the file can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed<T> {
    /// The configuration.
    pub value: T,
    /// Warnings and notices in the order of the file.
    pub notices: Vec<Diagnostic>,
}

/// Collects the findings of one file.
#[derive(Debug)]
pub(crate) struct Report<'a> {
    file: &'a Path,
    found: Vec<Diagnostic>,
    damaged: bool,
}

impl<'a> Report<'a> {
    pub(crate) const fn new(file: &'a Path) -> Self {
        Self { file, found: Vec::new(), damaged: false }
    }

    pub(crate) fn error(
        &mut self,
        at: Position,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.add(at, Severity::Error, message.into(), remedy.into());
    }

    pub(crate) fn warning(
        &mut self,
        at: Position,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.add(at, Severity::Warning, message.into(), remedy.into());
    }

    pub(crate) fn notice(
        &mut self,
        at: Position,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.add(at, Severity::Notice, message.into(), remedy.into());
    }

    fn add(&mut self, at: Position, severity: Severity, message: String, remedy: String) {
        // An error is never dropped in favour of notices: the verdict must not change.
        let full = self.found.len() >= DIAGNOSTICS_MAX;
        if full && (severity != Severity::Error || self.has_errors()) {
            return;
        }
        let file = self.file.to_path_buf();
        let diagnostic =
            Diagnostic { file, line: at.line, column: at.column, severity, message, remedy };
        if !self.found.contains(&diagnostic) {
            self.found.push(diagnostic);
        }
    }

    /// Notes that tags did not match: what seems absent may stand at another place of the tree.
    pub(crate) const fn note_damage(&mut self) {
        self.damaged = true;
    }

    /// Whether it makes sense to say that something is absent.
    pub(crate) const fn is_intact(&self) -> bool {
        !self.damaged
    }

    pub(crate) fn has_errors(&self) -> bool {
        self.found.iter().any(|d| d.severity == Severity::Error)
    }

    /// Ends the reading: the value if there is one and no error, else everything found.
    pub(crate) fn finish<T>(mut self, value: Option<T>) -> Result<Parsed<T>, ConfigErrors> {
        if value.is_none() && !self.has_errors() {
            let at = Position { line: 1, column: 1 };
            self.error(at, "the file describes nothing", "compare it with the reference");
        }
        let usable = !self.has_errors();
        let found = self.into_diagnostics();
        match value {
            Some(value) if usable => Ok(Parsed { value, notices: found }),
            _ => Err(ConfigErrors(found)),
        }
    }

    /// Everything found so far, in the order of the file.
    pub(crate) fn into_diagnostics(mut self) -> Vec<Diagnostic> {
        self.found.sort_by_key(|d| (d.line, d.column, d.severity));
        self.found
    }
}
