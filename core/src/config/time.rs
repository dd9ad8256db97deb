//! Time values of attributes: a whole number in the attribute's own unit, or with a suffix.
//!
//! Rules (reference: user's guide section 13): suffixes `d h m s ms us`; a value other than 0 that
//! is smaller than the attribute's unit is refused; 0 is written bare or in the attribute's unit.

use std::{fmt, time::Duration};

/// A unit of time, as a suffix or implied by an attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// `d`
    Days,
    /// `h`
    Hours,
    /// `m`
    Minutes,
    /// `s`
    Seconds,
    /// `ms`
    Milliseconds,
    /// `us`
    Microseconds,
}

impl Unit {
    const ALL: [Self; 6] = [
        Self::Days,
        Self::Hours,
        Self::Minutes,
        Self::Seconds,
        Self::Milliseconds,
        Self::Microseconds,
    ];

    /// The suffix that names it.
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::Days => "d",
            Self::Hours => "h",
            Self::Minutes => "m",
            Self::Seconds => "s",
            Self::Milliseconds => "ms",
            Self::Microseconds => "us",
        }
    }

    /// One of it, in microseconds.
    pub const fn micros(self) -> u64 {
        match self {
            Self::Days => 86_400_000_000,
            Self::Hours => 3_600_000_000,
            Self::Minutes => 60_000_000,
            Self::Seconds => 1_000_000,
            Self::Milliseconds => 1_000,
            Self::Microseconds => 1,
        }
    }
}

/// Why a text is not a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeError {
    /// Not a whole number with an optional suffix.
    Syntax,
    /// Smaller than the attribute's unit, so that it would count as 0.
    RoundsToZero,
    /// 0 in a unit other than the attribute's.
    ZeroInOtherUnit,
    /// Too large to be counted.
    TooLarge,
}

/// Reads `text`, bare numbers being in `unit`.
pub fn parse(text: &str, unit: Unit) -> Result<Duration, TimeError> {
    let text = text.trim();
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, suffix) = text.split_at(digits);
    if number.is_empty() {
        return Err(TimeError::Syntax);
    }
    let suffix = suffix.trim_start();
    let given = match suffix {
        "" => unit,
        _ => *Unit::ALL.iter().find(|u| u.suffix() == suffix).ok_or(TimeError::Syntax)?,
    };
    let number: u64 = number.parse().map_err(|_| TimeError::TooLarge)?;
    if number == 0 && given != unit {
        return Err(TimeError::ZeroInOtherUnit);
    }
    let micros = number.checked_mul(given.micros()).ok_or(TimeError::TooLarge)?;
    if micros != 0 && micros < unit.micros() {
        return Err(TimeError::RoundsToZero);
    }
    Ok(Duration::from_micros(micros))
}

/// A time written in the largest unit that divides it.
pub struct Written(pub Duration);

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = u64::try_from(self.0.as_micros()).unwrap_or(u64::MAX);
        if micros == 0 {
            return f.write_str("0");
        }
        let exact = Unit::ALL.iter().find(|u| micros.is_multiple_of(u.micros()));
        let unit = exact.copied().unwrap_or(Unit::Microseconds);
        write!(f, "{}{}", micros / unit.micros(), unit.suffix())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bare_numbers_are_in_the_unit_of_the_attribute() {
        assert_eq!(parse("700", Unit::Milliseconds), Ok(Duration::from_millis(700)));
        assert_eq!(parse("24", Unit::Hours), Ok(Duration::from_hours(24)));
        assert_eq!(parse("300", Unit::Seconds), Ok(Duration::from_secs(300)));
    }

    #[test]
    fn suffixes_override_the_unit_of_the_attribute() {
        for (text, micros) in [
            ("1d", 86_400_000_000),
            ("2h", 7_200_000_000),
            ("3m", 180_000_000),
            ("4s", 4_000_000),
            ("5ms", 5_000),
            (" 6 ms ", 6_000),
        ] {
            let expected = Ok(Duration::from_micros(micros));
            assert_eq!(parse(text, Unit::Milliseconds), expected, "{text}");
        }
        assert_eq!(parse("7us", Unit::Microseconds), Ok(Duration::from_micros(7)));
    }

    #[test]
    fn a_value_smaller_than_the_unit_is_refused() {
        assert_eq!(parse("999us", Unit::Milliseconds), Err(TimeError::RoundsToZero));
        assert_eq!(parse("1000us", Unit::Milliseconds), Ok(Duration::from_millis(1)));
        assert_eq!(parse("59m", Unit::Hours), Err(TimeError::RoundsToZero));
        assert_eq!(parse("90m", Unit::Hours), Ok(Duration::from_mins(90)));
    }

    #[test]
    fn zero_is_bare_or_in_the_unit_of_the_attribute() {
        assert_eq!(parse("0", Unit::Hours), Ok(Duration::ZERO));
        assert_eq!(parse("0h", Unit::Hours), Ok(Duration::ZERO));
        assert_eq!(parse("0s", Unit::Hours), Err(TimeError::ZeroInOtherUnit));
    }

    #[test]
    fn what_is_not_a_whole_number_with_a_known_suffix_is_refused() {
        for text in ["", "s", "-1", "1.5s", "1 week", "1S", "0x10", "१"] {
            assert_eq!(parse(text, Unit::Seconds), Err(TimeError::Syntax), "{text}");
        }
        assert_eq!(parse("99999999999999999999", Unit::Seconds), Err(TimeError::TooLarge));
        assert_eq!(parse("999999999999999999d", Unit::Seconds), Err(TimeError::TooLarge));
    }

    #[test]
    fn times_are_written_in_the_largest_unit_that_divides_them() {
        assert_eq!(Written(Duration::from_millis(30_000)).to_string(), "30s");
        assert_eq!(Written(Duration::from_millis(700)).to_string(), "700ms");
        assert_eq!(Written(Duration::from_hours(48)).to_string(), "2d");
        assert_eq!(Written(Duration::ZERO).to_string(), "0");
    }
}
