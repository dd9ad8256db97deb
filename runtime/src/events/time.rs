//! Wall-clock time for logs, in UTC. Nothing is ever decided by it.

use std::time::{SystemTime, UNIX_EPOCH};

const DAY_SECONDS: u64 = 86_400;

/// A moment as `2021-08-06 08:40:20.909224`, UTC.
pub fn stamp(moment: SystemTime) -> String {
    let since = moment.duration_since(UNIX_EPOCH).unwrap_or_default();
    let rest = since.as_secs() % DAY_SECONDS;
    let (hour, minute, second) = (rest / 3_600, rest / 60 % 60, rest % 60);
    let date = date_of(since.as_secs());
    format!("{date} {hour:02}:{minute:02}:{second:02}.{:06}", since.subsec_micros())
}

/// The day of a moment given in seconds since 1970, as `2021-08-06`, UTC.
pub fn date_of(seconds: u64) -> String {
    let days = i64::try_from(seconds / DAY_SECONDS).unwrap_or(0);
    let (year, month, day) = civil_of_days(days);
    format!("{year:04}-{month:02}-{day:02}")
}

/// Milliseconds since 1970; 0 if the clock shows an earlier time.
pub fn unix_ms(moment: SystemTime) -> u64 {
    let since = moment.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Year, month and day of a number of days since 1970-01-01, in the Gregorian calendar.
///
/// Source: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", civil_from_days.
pub fn civil_of_days(days: i64) -> (i64, u32, u32) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, u32::try_from(month).unwrap_or(1), u32::try_from(day).unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn known_moments_are_shown_as_in_calendars() {
        let at = |seconds, micros| {
            UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_micros(micros)
        };
        assert_eq!(stamp(at(0, 0)), "1970-01-01 00:00:00.000000");
        assert_eq!(stamp(at(951_782_399, 5)), "2000-02-28 23:59:59.000005");
        assert_eq!(stamp(at(951_782_400, 0)), "2000-02-29 00:00:00.000000");
        assert_eq!(stamp(at(1_628_239_220, 909_224)), "2021-08-06 08:40:20.909224");
        assert_eq!(date_of(4_102_444_799), "2099-12-31");
    }

    #[test]
    fn each_day_follows_the_one_before() {
        let mut last = civil_of_days(-1);
        assert_eq!(last, (1969, 12, 31));
        for days in 0..100_000 {
            let next = civil_of_days(days);
            let same_month = (next.0, next.1) == (last.0, last.1) && next.2 == last.2 + 1;
            let new_month = next.2 == 1 && last.2 >= 28 && (next.0, next.1) > (last.0, last.1);
            assert!(same_month || new_month, "{last:?} then {next:?}");
            last = next;
        }
    }
}
