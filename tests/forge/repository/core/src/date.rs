//! Civil dates, as days since 1970-01-01.

use std::fmt;

/// A day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Date(pub i64);

impl Date {
    /// The day of this year, month (1 to 12) and day (1 to 31); `None` where there is no such day.
    pub fn of(year: i64, month: i64, day: i64) -> Option<Date> {
        if !(1..=12).contains(&month) || day < 1 || day > days_in(year, month) {
            return None;
        }
        let shifted = if month <= 2 { year - 1 } else { year };
        let era = shifted.div_euclid(400);
        let of_era = shifted.rem_euclid(400);
        let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
        Some(Date(era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468))
    }

    /// So many days later.
    pub fn after(self, days: i64) -> Date {
        Date(self.0 + days)
    }

    /// Days from `other` to this one; negative where it lies ahead.
    pub fn since(self, other: Date) -> i64 {
        self.0 - other.0
    }
}

/// Days in a month.
pub fn days_in(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if is_leap(year) => 29,
        2 => 28,
        _ => 31,
    }
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "day {}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_epoch_is_day_zero() {
        assert_eq!(Date::of(1970, 1, 1), Some(Date(0)));
        assert_eq!(Date::of(2000, 3, 1), Some(Date(11_017)));
    }

    #[test]
    fn february_is_checked() {
        assert!(Date::of(2024, 2, 29).is_some());
        assert!(Date::of(2023, 2, 29).is_none());
    }
}
