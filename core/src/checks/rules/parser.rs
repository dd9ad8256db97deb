//! Words and signs into rules. Every fault of a text is reported at once, with its place.
//!
//! ```text
//! rules   = { label ":" "if" "(" or ")" "then" what ";" }
//! or      = and { "||" and }              and = unary { "&&" unary }
//! unary   = "!" unary | "(" or ")" | subject ("==" | "!=") state
//! subject = "cluster" "(" ")" | ["local." | "remote."] ["0/" | "1/"] class "." (id | "?" | "*")
//! what    = action ["(" ")"] | class "." id "=" state
//! ```

use std::collections::BTreeSet;

use super::{
    Expr, Pick, RULES_MAX, Reference, Rule, RuleAction, RuleError, Then,
    lexer::{Kind, Token, split},
    lua,
};
use crate::checks::resource::{ResourceName, ResourceState, Side};

/// Conditions inside conditions.
const DEPTH_MAX: u32 = 32;
/// Faults that are reported of one text.
const ERRORS_MAX: usize = 50;

const ACTIONS: [RuleAction; 6] = [
    RuleAction::Stop,
    RuleAction::StopStart,
    RuleAction::Wait,
    RuleAction::Restart,
    RuleAction::Swap,
    RuleAction::Wakeup,
];

/// Reads rules written in language 1.
///
/// # Errors
/// Every fault of the text, in order. Rules in Lua are refused with what to write instead.
pub fn parse(text: &str) -> Result<Vec<Rule>, Vec<RuleError>> {
    if lua::looks_like(text) {
        return Err(lua::refusal(text));
    }
    let mut errors = Vec::new();
    let tokens = split(text, &mut errors);
    let mut parser = Parser { tokens, at: 0 };
    let mut rules: Vec<Rule> = Vec::new();
    let mut labels = BTreeSet::new();
    while parser.peek().kind != Kind::End && errors.len() < ERRORS_MAX {
        let start = parser.peek().clone();
        match parser.rule() {
            Ok(rule) => {
                if !labels.insert(rule.label.clone()) {
                    let message = format!("two rules are labelled \"{}\"", rule.label);
                    errors.push(error(&start, message, "give each its own label"));
                } else if rules.len() == RULES_MAX {
                    let message = format!("more than {RULES_MAX} rules");
                    errors.push(error(&start, message, "join some of them with ||"));
                    break;
                }
                rules.push(rule);
            }
            Err(wrong) => {
                errors.push(wrong);
                parser.skip_rule();
            }
        }
    }
    errors.sort_by_key(|e| (e.line, e.column));
    if errors.is_empty() { Ok(rules) } else { Err(errors) }
}

fn error(at: &Token, message: impl Into<String>, remedy: impl Into<String>) -> RuleError {
    let (message, remedy) = (message.into(), remedy.into());
    RuleError { line: at.line, column: at.column, message, remedy }
}

struct Parser {
    /// Ends with [`Kind::End`].
    tokens: Vec<Token>,
    at: usize,
}

impl Parser {
    fn peek(&self) -> &Token {
        &self.tokens[self.at]
    }

    fn take(&mut self) -> Token {
        let token = self.tokens[self.at].clone();
        self.at = (self.at + 1).min(self.tokens.len() - 1);
        token
    }

    fn take_if(&mut self, kind: &Kind) -> bool {
        let is = self.peek().kind == *kind;
        if is {
            self.take();
        }
        is
    }

    fn expect(&mut self, kind: &Kind, remedy: &str) -> Result<Token, RuleError> {
        if self.peek().kind == *kind {
            return Ok(self.take());
        }
        let found = self.peek();
        let message = format!("{} is expected here, not {}", kind.shown(), found.kind.shown());
        Err(error(found, message, remedy))
    }

    fn word(&mut self, what: &str, remedy: &str) -> Result<(Token, String), RuleError> {
        let token = self.take();
        match &token.kind {
            Kind::Word(word) => {
                let word = word.clone();
                Ok((token, word))
            }
            other => {
                let message = format!("{what} is expected here, not {}", other.shown());
                Err(error(&token, message, remedy))
            }
        }
    }

    fn keyword(&mut self, wanted: &str) -> Result<(), RuleError> {
        let remedy = "a rule is: label: if ( condition ) then action();";
        let (token, word) = self.word(&format!("\"{wanted}\""), remedy)?;
        if word == wanted {
            return Ok(());
        }
        Err(error(&token, format!("\"{wanted}\" is expected here, not \"{word}\""), remedy))
    }

    /// Goes on behind the next semicolon.
    fn skip_rule(&mut self) {
        while !matches!(self.take().kind, Kind::Semicolon | Kind::End) {}
    }

    fn rule(&mut self) -> Result<Rule, RuleError> {
        let (token, label) = self.word("a label", "begin the rule with: label: if")?;
        if label.contains('.') {
            let remedy = "use letters, digits, - and _";
            return Err(error(&token, format!("\"{label}\" is no label"), remedy));
        }
        self.expect(&Kind::Colon, "put a colon behind the label")?;
        self.keyword("if")?;
        self.expect(&Kind::Open, "put the condition in parentheses")?;
        let when = self.any_of(0)?;
        self.expect(&Kind::Close, "close the condition, or join conditions with && or ||")?;
        self.keyword("then")?;
        let then = self.what()?;
        self.expect(&Kind::Semicolon, "end the rule with a semicolon")?;
        Ok(Rule { label, when, then })
    }

    fn what(&mut self) -> Result<Then, RuleError> {
        let names = "stop(), stopstart(), wait(), restart(), swap() or wakeup()";
        let (token, word) = self.word("an action", &format!("write {names}"))?;
        if self.take_if(&Kind::Assign) {
            let name: ResourceName =
                word.parse().map_err(|text: String| error(&token, text, "write class.id"))?;
            if matches!(name.class(), "rfs" | "heartbeat" | "usersetting" | "state") {
                let message = format!("{name} belongs to Havre and cannot be assigned");
                return Err(error(&token, message, "assign a resource of class custom"));
            }
            return Ok(Then::Assign(name, self.state()?));
        }
        let Some(action) = ACTIONS.into_iter().find(|action| action.word() == word) else {
            return Err(error(
                &token,
                format!("\"{word}\" is no action"),
                format!("write {names}"),
            ));
        };
        if self.take_if(&Kind::Open) {
            self.expect(&Kind::Close, "actions take no arguments")?;
        }
        Ok(Then::Act(action))
    }

    fn state(&mut self) -> Result<ResourceState, RuleError> {
        let (token, word) = self.word("a state", "write up, down, init or unknown")?;
        word.parse().map_err(|text: String| error(&token, text, "write up, down, init or unknown"))
    }

    fn any_of(&mut self, depth: u32) -> Result<Expr, RuleError> {
        let mut parts = vec![self.all_of(depth)?];
        while self.take_if(&Kind::Or) {
            parts.push(self.all_of(depth)?);
        }
        Ok(one_or(parts, Expr::Or))
    }

    fn all_of(&mut self, depth: u32) -> Result<Expr, RuleError> {
        let mut parts = vec![self.unary(depth)?];
        while self.take_if(&Kind::And) {
            parts.push(self.unary(depth)?);
        }
        Ok(one_or(parts, Expr::And))
    }

    fn unary(&mut self, depth: u32) -> Result<Expr, RuleError> {
        if depth == DEPTH_MAX {
            let message = format!("more than {DEPTH_MAX} conditions inside each other");
            return Err(error(self.peek(), message, "write it as several rules"));
        }
        if self.take_if(&Kind::Not) {
            return Ok(Expr::Not(Box::new(self.unary(depth + 1)?)));
        }
        if self.take_if(&Kind::Open) {
            let inner = self.any_of(depth + 1)?;
            self.expect(&Kind::Close, "close the parenthesis")?;
            return Ok(inner);
        }
        let remedy = "compare a resource with a state: ping.gw == down";
        let (token, word) = self.word("a resource", remedy)?;
        let cluster = word == "cluster" && self.take_if(&Kind::Open);
        if cluster {
            self.expect(&Kind::Close, "cluster() takes no arguments")?;
        }
        let operator = self.take();
        let equal = match operator.kind {
            Kind::Equal => true,
            Kind::NotEqual => false,
            Kind::Assign => {
                return Err(error(&operator, "\"=\" sets, it does not compare", "write =="));
            }
            ref other => {
                let message = format!("== or != is expected here, not {}", other.shown());
                return Err(error(&operator, message, remedy));
            }
        };
        let state = self.state()?;
        if cluster {
            return Ok(Expr::Cluster { equal, state });
        }
        Ok(Expr::Compare { reference: reference(&token, &word)?, equal, state })
    }
}

fn one_or(mut parts: Vec<Expr>, join: fn(Vec<Expr>) -> Expr) -> Expr {
    match (parts.len(), parts.pop()) {
        (1, Some(only)) => only,
        (_, last) => {
            parts.extend(last);
            join(parts)
        }
    }
}

fn reference(token: &Token, word: &str) -> Result<Reference, RuleError> {
    let (side, rest) = match word.split_once('.') {
        Some(("local", rest)) => (Side::Local, rest),
        Some(("remote", rest)) => (Side::Remote, rest),
        _ => (Side::Local, word),
    };
    let rest = rest.strip_prefix("0/").or_else(|| rest.strip_prefix("1/")).unwrap_or(rest);
    let pick = match rest.split_once('.') {
        Some((class, "?")) if !class.is_empty() => Pick::Any,
        Some((class, "*")) if !class.is_empty() => Pick::All,
        _ => {
            let name: ResourceName =
                rest.parse().map_err(|text: String| error(token, text, "write class.id"))?;
            Pick::One(name.id().to_owned())
        }
    };
    let class = rest.split('.').next().unwrap_or_default().to_owned();
    Ok(Reference { side, class, pick })
}
