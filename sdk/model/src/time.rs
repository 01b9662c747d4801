//! Points in time, as milliseconds since the epoch.

use std::fmt;
use std::ops::{Add, Sub};
use std::str::FromStr;
use std::time::Duration;

/// Milliseconds since 1970-01-01T00:00:00Z. Written as RFC 3339 in UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// The latest time that can be written with a four-digit year.
    pub const MAX: Timestamp = Timestamp(253_402_300_799_999);

    /// How long after `earlier` this is; zero when it is before.
    #[must_use]
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Timestamp {
    type Output = Timestamp;

    fn add(self, span: Duration) -> Timestamp {
        Timestamp(self.0.saturating_add(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for Timestamp {
    type Output = Timestamp;

    fn sub(self, span: Duration) -> Timestamp {
        Timestamp(self.0.saturating_sub(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = Timestamp(self.0.min(Timestamp::MAX.0));
        let (days, in_day) = (at.0 / 86_400_000, at.0 % 86_400_000);
        let (year, month, day) = civil(days);
        let (seconds, millis) = (in_day / 1000, in_day % 1000);
        let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
    }
}

/// A text that is not an RFC 3339 time at or after 1970.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a time: expected RFC 3339 from 1970 on, such as `2026-11-20T08:30:00Z`")]
pub struct ParseTimeError(String);

impl FromStr for Timestamp {
    type Err = ParseTimeError;

    fn from_str(text: &str) -> Result<Timestamp, ParseTimeError> {
        parse(text).ok_or_else(|| ParseTimeError(text.chars().take(64).collect()))
    }
}

fn parse(text: &str) -> Option<Timestamp> {
    let bytes = text.as_bytes();
    if !text.is_ascii() || bytes.len() < 20 {
        return None;
    }
    let number = |from: usize, to: usize| -> Option<u64> {
        let digits = &text[from..to];
        digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
    };
    let separators = bytes[4] == b'-'
        && bytes[7] == b'-'
        && matches!(bytes[10], b'T' | b't' | b' ')
        && bytes[13] == b':'
        && bytes[16] == b':';
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days_in_month = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => return None,
    };
    if !separators || year < 1970 || !(1..=days_in_month).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let mut at = 19;
    let mut millis = 0;
    if bytes[at] == b'.' {
        let end = (at + 1..bytes.len()).find(|&index| !bytes[index].is_ascii_digit())?;
        if end == at + 1 {
            return None;
        }
        // Anything finer than a millisecond is cut off.
        let kept = end.min(at + 4);
        millis = number(at + 1, kept)? * 10u64.pow(u32::try_from(3 - (kept - at - 1)).ok()?);
        at = end;
    }
    let offset_minutes: i64 = match &text[at..] {
        "Z" | "z" => 0,
        zone if zone.len() == 6 && matches!(bytes[at], b'+' | b'-') && bytes[at + 3] == b':' => {
            let (hours, minutes) = (number(at + 1, at + 3)?, number(at + 4, at + 6)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            let minutes = i64::try_from(hours * 60 + minutes).ok()?;
            if bytes[at] == b'-' { -minutes } else { minutes }
        }
        _ => return None,
    };
    let seconds = days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
    let seconds = i64::try_from(seconds).ok()? - offset_minutes * 60;
    u64::try_from(seconds).ok().map(|seconds| Timestamp(seconds * 1000 + millis))
}

/// Days since 1970-01-01 of a date in the Gregorian calendar.
fn days(year: u64, month: u64, day: u64) -> u64 {
    let shifted = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (shifted / 400, shifted % 400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// The date of a day counted from 1970-01-01.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day_of_year - (153 * shifted + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_back_as_written() {
        for millis in [0, 951_782_400_123, 1_582_934_400_000, 1_795_200_000_999, Timestamp::MAX.0] {
            let at = Timestamp(millis);
            assert_eq!(at.to_string().parse(), Ok(at));
        }
    }

    #[test]
    fn zones_and_fractions_are_understood() {
        let noon = "2026-11-20T12:00:00Z".parse::<Timestamp>();
        assert_eq!(noon, Ok(Timestamp(1_795_176_000_000)));
        assert_eq!("2026-11-20T14:30:00+02:30".parse(), noon);
        assert_eq!("2026-11-20T04:00:00.000999-08:00".parse(), noon);
    }

    #[test]
    fn what_is_not_a_time_is_refused() {
        for text in [
            "",
            "2026",
            "2026-02-29T00:00:00Z",
            "1969-12-31T23:59:59Z",
            "2026-11-20T24:00:00Z",
            "2026-11-20T12:00:00",
            "2026-11-20T12:00:00.Z",
            "２026-11-20T12:00:00Z",
        ] {
            assert!(text.parse::<Timestamp>().is_err(), "{text}");
        }
    }
}
