//! Text of rules into words and signs, each with its place.

use super::RuleError;

/// A word or a sign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// A keyword, a label or the name of a resource.
    Word(String),
    Colon,
    Semicolon,
    Open,
    Close,
    Not,
    And,
    Or,
    Equal,
    NotEqual,
    Assign,
    /// Behind the last one.
    End,
}

impl Kind {
    /// For messages.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Word(word) => format!("\"{word}\""),
            Self::Colon => "\":\"".into(),
            Self::Semicolon => "\";\"".into(),
            Self::Open => "\"(\"".into(),
            Self::Close => "\")\"".into(),
            Self::Not => "\"!\"".into(),
            Self::And => "\"&&\"".into(),
            Self::Or => "\"||\"".into(),
            Self::Equal => "\"==\"".into(),
            Self::NotEqual => "\"!=\"".into(),
            Self::Assign => "\"=\"".into(),
            Self::End => "the end".into(),
        }
    }
}

/// One of them at its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) line: u32,
    pub(super) column: u32,
}

struct Reader<'t> {
    rest: std::iter::Peekable<std::str::Chars<'t>>,
    line: u32,
    column: u32,
}

impl Reader<'_> {
    fn take(&mut self) -> Option<char> {
        let c = self.rest.next()?;
        if c == '\n' {
            (self.line, self.column) = (self.line + 1, 1);
        } else {
            self.column += 1;
        }
        Some(c)
    }

    fn take_if(&mut self, wanted: char) -> bool {
        self.rest.peek() == Some(&wanted) && self.take().is_some()
    }

    /// The character behind the next one.
    fn second(&self) -> Option<char> {
        self.rest.clone().nth(1)
    }

    fn skip_line(&mut self) {
        while self.rest.peek().is_some_and(|c| *c != '\n') {
            self.take();
        }
    }

    /// Reads up to the end of a comment; false if it has none.
    fn skip_comment(&mut self) -> bool {
        while let Some(c) = self.take() {
            if c == '*' && self.take_if('/') {
                return true;
            }
        }
        false
    }

    fn word(&mut self, first: char) -> String {
        let mut word = String::from(first);
        while let Some(&c) = self.rest.peek() {
            // Ids are more liberal than labels: they may be addresses, or `?` and `*`.
            let in_id = word.contains('.');
            let more = self.second().is_some_and(|c| is_word(c) || c == ':');
            let belongs = is_word(c)
                || c == '.'
                || in_id && (c == '?' || c == '*' && word.ends_with('.'))
                || in_id && c == ':' && more
                || c == '/' && matches!(word.rsplit('.').next(), Some("0" | "1"));
            if !belongs {
                break;
            }
            word.push(c);
            self.take();
        }
        word
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '-'
}

/// Splits a text; what cannot be read is reported and skipped.
pub(super) fn split(text: &str, errors: &mut Vec<RuleError>) -> Vec<Token> {
    let mut reader = Reader { rest: text.chars().peekable(), line: 1, column: 1 };
    let mut tokens = Vec::new();
    loop {
        let (line, column) = (reader.line, reader.column);
        let mut wrong = |message: String, remedy: &str| {
            errors.push(RuleError { line, column, message, remedy: remedy.to_owned() });
        };
        let Some(c) = reader.take() else {
            tokens.push(Token { kind: Kind::End, line, column });
            return tokens;
        };
        let kind = match c {
            c if c.is_whitespace() => continue,
            '#' => {
                reader.skip_line();
                continue;
            }
            '/' if reader.take_if('/') => {
                reader.skip_line();
                continue;
            }
            '/' if reader.take_if('*') => {
                if !reader.skip_comment() {
                    wrong("a comment has no end".into(), "close it with */");
                }
                continue;
            }
            ':' => Kind::Colon,
            ';' => Kind::Semicolon,
            '(' => Kind::Open,
            ')' => Kind::Close,
            '!' if reader.take_if('=') => Kind::NotEqual,
            '!' => Kind::Not,
            '=' if reader.take_if('=') => Kind::Equal,
            '=' => Kind::Assign,
            '&' if reader.take_if('&') => Kind::And,
            '|' if reader.take_if('|') => Kind::Or,
            '&' | '|' => {
                wrong(format!("a single \"{c}\""), &format!("write {c}{c}"));
                if c == '&' { Kind::And } else { Kind::Or }
            }
            c if is_word(c) => Kind::Word(reader.word(c)),
            c => {
                wrong(format!("\"{}\" means nothing here", c.escape_default()), "remove it");
                continue;
            }
        };
        tokens.push(Token { kind, line, column });
    }
}
