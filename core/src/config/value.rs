//! Values of attributes, kind by kind: what is wrong with one, and what it means.

use std::net::IpAddr;

use crate::config::{
    module::VirtualMac,
    pattern,
    schema::Kind,
    suggest,
    time::{self, TimeError, Written},
};

/// A finding about one value: what is wrong, and what to do.
pub(crate) type Fault = (String, String);

/// What is wrong with `value` as a value of the attribute `name`, if anything.
pub(crate) fn fault(name: &str, kind: &Kind, value: &str) -> Option<Fault> {
    if value.ends_with("_TO_BE_DEFINED") || value == "TO_BE_DEFINED" {
        let message = format!("{name}=\"{value}\" is the placeholder of a template");
        return Some((message, format!("write the {}", kind.words())));
    }
    if *kind == Kind::Text {
        return None;
    }
    if value.trim().is_empty() {
        let message = format!("{name}=\"\" is empty");
        return Some((message, format!("fill it in: {}", kind.words())));
    }
    let wrong = |remedy: String| Some((format!("{name}=\"{value}\" is not allowed"), remedy));
    let expected = || format!("expected: {}", kind.words());
    let check = |good: bool| if good { None } else { wrong(expected()) };
    match kind {
        Kind::Text | Kind::Filled => None,
        Kind::Name => {
            check(value.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.')))
        }
        Kind::OnOff => fault_of_choice(name, value, &["on", "off"]),
        Kind::Choice(words) => fault_of_choice(name, value, words),
        Kind::Time(unit, least, most) => match time::parse(value, *unit) {
            Ok(time) if *least <= time && time <= *most => None,
            Ok(_) | Err(TimeError::TooLarge) => {
                let range = format!("{} and {}", Written(*least), Written(*most));
                let message = format!("{name}=\"{value}\" is out of range");
                Some((message, format!("it must be between {range}")))
            }
            Err(error) => Some(fault_of_time(name, value, unit.suffix(), error)),
        },
        Kind::Count(least, most) => match value.trim().parse::<i64>() {
            Ok(count) if *least <= count && count <= *most => None,
            Ok(_) => {
                let message = format!("{name}=\"{value}\" is out of range");
                Some((message, format!("it must be between {least} and {most}")))
            }
            Err(_) => wrong(format!("expected: a whole number, {}", kind.words())),
        },
        Kind::Port => check(value.trim().parse::<u16>().is_ok_and(|port| port > 0)),
        Kind::Host => check(address(value).is_some() || is_host_name(value)),
        Kind::Address => fault_of_address(name, value),
        Kind::Mask => check(prefix(value).is_some()),
        Kind::Mac => {
            let mac = value.parse::<VirtualMac>();
            // The lowest bit of the first byte marks a group address, which no source may be.
            check(mac.is_ok_and(|mac| mac.0[0] & 1 == 0 && mac.0 != [0; 6]))
        }
        Kind::WordOr(word, _) if value.trim() == *word => None,
        Kind::WordOr(_, kind) => fault(name, kind, value),
        Kind::Directory => fault_of_directory(name, value),
        Kind::RelativePath => check(is_relative(value)),
        Kind::Pattern => fault_of_pattern(name, value),
    }
}

fn fault_of_choice(name: &str, value: &str, words: &[&str]) -> Option<Fault> {
    if words.contains(&value.trim()) {
        return None;
    }
    let remedy = suggest::nearest(value, words.iter().copied()).map_or_else(
        || format!("expected: {}", words.join(", ")),
        |word| format!("did you mean \"{word}\"?"),
    );
    Some((format!("{name}=\"{value}\" is not allowed"), remedy))
}

fn fault_of_time(name: &str, value: &str, unit: &str, error: TimeError) -> Fault {
    let message = match error {
        TimeError::Syntax => format!("{name}=\"{value}\" is not a time"),
        TimeError::RoundsToZero => {
            format!(
                "{name}=\"{value}\" is less than one {unit}, the unit of {name}: it counts as 0"
            )
        }
        TimeError::ZeroInOtherUnit => format!("{name}=\"{value}\": 0 in another unit than {unit}"),
        TimeError::TooLarge => format!("{name}=\"{value}\" is too large"),
    };
    let remedy = match error {
        TimeError::Syntax => {
            format!("expected: a whole number of {unit}, or one with d, h, m, s, ms or us")
        }
        TimeError::RoundsToZero => format!("write at least 1{unit}, or 0"),
        TimeError::ZeroInOtherUnit => format!("write 0 or 0{unit}"),
        TimeError::TooLarge => "write a smaller one".to_owned(),
    };
    (message, remedy)
}

fn fault_of_address(name: &str, value: &str) -> Option<Fault> {
    if address(value).is_some() {
        return None;
    }
    if is_host_name(value) && !value.chars().all(|c| c.is_ascii_digit() || c == '.') {
        let message = format!("{name}=\"{value}\" is a host name");
        return Some((message, "write the numeric address, so that DNS is not needed".to_owned()));
    }
    let message = format!("{name}=\"{value}\" is not an address");
    Some((message, "write IPv4 as 192.0.2.10 or IPv6 as 2001:db8::10".to_owned()))
}

fn fault_of_directory(name: &str, value: &str) -> Option<Fault> {
    let path = value.trim();
    let inner = root_length(path).map(|length| &path[length..]);
    let Some(inner) = inner else {
        let message = format!("{name}=\"{value}\" is not an absolute path");
        return Some((message, "begin it with / (Windows: with a drive, C:\\)".to_owned()));
    };
    let mut parts = inner.split(['/', '\\']).filter(|part| !part.is_empty());
    if parts.clone().next().is_none() {
        let message = format!("{name}=\"{value}\" is the root of a file system");
        return Some((message, "name a directory below it".to_owned()));
    }
    if parts.any(|part| part == "." || part == "..") {
        let message = format!("{name}=\"{value}\" has a . or .. in it");
        return Some((message, "write the path without them".to_owned()));
    }
    None
}

/// What typing errors do to brackets is said in plain words; the rest by who compiles it.
fn fault_of_pattern(name: &str, value: &str) -> Option<Fault> {
    let pattern = value.strip_prefix('!').unwrap_or(value);
    let (mut depth, mut in_brackets, mut previous) = (0i32, false, None);
    let mut characters = pattern.chars().peekable();
    while let Some(c) = characters.next() {
        match c {
            '\\' if !in_brackets => {
                characters.next();
            }
            '[' if !in_brackets => {
                in_brackets = true;
                characters.next_if_eq(&'^');
                // A `]` in the first place is a member of the set.
                characters.next_if_eq(&']');
            }
            ']' if in_brackets && previous != Some(':') => in_brackets = false,
            ']' if in_brackets => in_brackets = characters.peek().is_some(),
            '(' if !in_brackets => depth += 1,
            ')' if !in_brackets => depth -= 1,
            _ => {}
        }
        if depth < 0 {
            break;
        }
        previous = Some(c);
    }
    let starts_with_repeat = pattern.starts_with(['*', '+', '?', '{']);
    let problem = match () {
        () if in_brackets => "a [ is not closed",
        () if depth != 0 => "its ( and ) do not match",
        () if starts_with_repeat => "it begins with a repetition of nothing",
        () => return fault_of_expression(name, value, pattern),
    };
    let message = format!("{name}=\"{value}\": {problem}");
    Some((message, "correct the regular expression; * alone is .*".to_owned()))
}

fn fault_of_expression(name: &str, value: &str, pattern: &str) -> Option<Fault> {
    let problem = pattern::compile(pattern).err()?;
    let message = format!("{name}=\"{value}\": {problem}");
    Some((message, "correct the regular expression, or write it in simpler ones".to_owned()))
}

/// A numeric address, without the brackets that IPv6 may have.
pub(crate) fn address(value: &str) -> Option<IpAddr> {
    let value = value.trim();
    match value.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(inner) => inner.parse().ok().filter(IpAddr::is_ipv6),
        None => value.parse().ok(),
    }
}

/// A host as written, without the brackets that IPv6 may have.
pub(crate) fn host(value: &str) -> String {
    address(value).map_or_else(|| value.trim().to_owned(), |address| address.to_string())
}

fn is_host_name(value: &str) -> bool {
    let value = value.trim();
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.chars().all(|c| c.is_alphanumeric() || matches!(c, '-' | '_'))
            && !label.starts_with('-')
    };
    // All digits and dots: a mistyped address, not a name.
    let numeric = value.chars().all(|c| c.is_ascii_digit() || c == '.');
    value.len() <= 253 && !numeric && value.split('.').all(label)
}

/// The prefix length of a mask or of a prefix length.
pub(crate) fn prefix(value: &str) -> Option<u8> {
    let value = value.trim();
    if let Ok(length) = value.trim_start_matches('/').parse::<u8>() {
        return Some(length).filter(|&length| (1..=128).contains(&length));
    }
    let mask = u32::from(value.parse::<std::net::Ipv4Addr>().ok()?);
    let ones = mask.leading_ones();
    (ones > 0 && mask.count_ones() == ones).then(|| u8::try_from(ones).expect("at most 32"))
}

/// Length of the root of an absolute path, on either kind of system.
fn root_length(path: &str) -> Option<usize> {
    let bytes = path.as_bytes();
    let drive = bytes.len() >= 3
        && bytes[0].is_ascii_alphabetic()
        && bytes[1] == b':'
        && matches!(bytes[2], b'\\' | b'/');
    if drive { Some(3) } else { path.starts_with('/').then_some(1) }
}

/// The parts of an absolute path, root first, for comparing: case does not count on Windows.
pub(crate) fn path_parts(path: &str) -> Vec<String> {
    let length = root_length(path).unwrap_or(0);
    let (root, inner) = path.split_at(length);
    let windows = length == 3;
    let separators: &[char] = if windows { &['/', '\\'] } else { &['/'] };
    let fold = |part: &str| if windows { part.to_lowercase() } else { part.to_owned() };
    let inner = inner.split(separators).filter(|part| !part.is_empty());
    std::iter::once(root.replace('/', "\\").to_lowercase()).chain(inner.map(fold)).collect()
}

fn is_relative(path: &str) -> bool {
    let path = path.trim();
    root_length(path).is_none()
        && !path.starts_with('\\')
        && !path.split(['/', '\\']).any(|part| part == "..")
}

#[cfg(test)]
mod tests;
