//! Budgets: limits on money, tokens and time for a scope and a period.
//!
//! Invariant: periods begin and end in UTC, by `now` of the record alone, so that replay resets them where the plane did.

use std::sync::Arc;
use std::time::Duration;

use mindos_model::{BudgetName, GeneralType, RouteName, Timestamp};

/// What was used, or may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Millionths of the currency unit.
    pub micros: u64,
    /// Tokens read and written together.
    pub tokens: u64,
    /// Milliseconds from lease to result.
    pub time_ms: u64,
}

impl Amount {
    pub const NONE: Amount = Amount { micros: 0, tokens: 0, time_ms: 0 };

    fn each(self, other: Amount, of: impl Fn(u64, u64) -> u64) -> Amount {
        Amount {
            micros: of(self.micros, other.micros),
            tokens: of(self.tokens, other.tokens),
            time_ms: of(self.time_ms, other.time_ms),
        }
    }

    #[must_use]
    pub fn plus(self, other: Amount) -> Amount {
        self.each(other, u64::saturating_add)
    }

    #[must_use]
    pub fn less(self, other: Amount) -> Amount {
        self.each(other, u64::saturating_sub)
    }

    #[must_use]
    pub fn max(self, other: Amount) -> Amount {
        self.each(other, u64::max)
    }

    #[must_use]
    pub fn min(self, other: Amount) -> Amount {
        self.each(other, u64::min)
    }
}

/// How much may be used of each; unset has no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limit {
    pub micros: Option<u64>,
    pub tokens: Option<u64>,
    pub time_ms: Option<u64>,
}

impl Limit {
    /// The limit, with the most there is where there is none.
    pub(crate) fn most(self) -> Amount {
        Amount {
            micros: self.micros.unwrap_or(u64::MAX),
            tokens: self.tokens.unwrap_or(u64::MAX),
            time_ms: self.time_ms.unwrap_or(u64::MAX),
        }
    }

    /// Whether an amount is within the limit.
    #[must_use]
    pub fn holds(self, amount: Amount) -> bool {
        amount.max(self.most()) == self.most()
    }

    /// What is left; the most there is where there is no limit.
    pub(crate) fn room(self, used: Amount) -> Amount {
        let left = |limit: Option<u64>, used: u64| limit.map_or(u64::MAX, |limit| limit.saturating_sub(used));
        Amount {
            micros: left(self.micros, used.micros),
            tokens: left(self.tokens, used.tokens),
            time_ms: left(self.time_ms, used.time_ms),
        }
    }

    /// The amount where there is a limit.
    pub(crate) fn of(self, amount: Amount) -> Limit {
        Limit {
            micros: self.micros.map(|_| amount.micros),
            tokens: self.tokens.map(|_| amount.tokens),
            time_ms: self.time_ms.map(|_| amount.time_ms),
        }
    }

    /// Limited where either is.
    pub(crate) fn or(self, other: Limit) -> Limit {
        Limit {
            micros: self.micros.or(other.micros),
            tokens: self.tokens.or(other.tokens),
            time_ms: self.time_ms.or(other.time_ms),
        }
    }

    /// How much of the limit an amount is, in percent and rounded down; of several limits the fullest.
    #[must_use]
    pub fn percent(self, used: Amount) -> u32 {
        let share = |limit: Option<u64>, used: u64| match limit {
            None => 0,
            Some(0) => 100,
            Some(limit) => u32::try_from(u128::from(used) * 100 / u128::from(limit)).unwrap_or(u32::MAX),
        };
        let shares = [share(self.micros, used.micros), share(self.tokens, used.tokens)];
        shares.into_iter().max().unwrap_or(0).max(share(self.time_ms, used.time_ms))
    }
}

/// Whose work a budget is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// All of the tenant.
    Tenant,
    /// Work for events of one repository, `owner/name`.
    Repository(Arc<str>),
    /// Work done by generals of one type.
    GeneralType(GeneralType),
    /// Work that one route made.
    Route(RouteName),
    /// All work that one event led to, each event for itself.
    Run,
    /// Replays, which are charged to such budgets and no others: those of this name, or all where it is empty.
    Replay(Arc<str>),
}

/// After what time a budget begins anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Period {
    Hour,
    Day,
    Month,
    /// Never.
    Total,
}

const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;

impl Period {
    /// When the period that `at` is in began.
    #[must_use]
    pub fn start(self, at: Timestamp) -> Timestamp {
        match self {
            Period::Hour => Timestamp(at.0 - at.0 % HOUR_MS),
            Period::Day => Timestamp(at.0 - at.0 % DAY_MS),
            Period::Month => {
                let day = at.0 / DAY_MS;
                Timestamp((day - (day_of_month(day) - 1)) * DAY_MS)
            }
            Period::Total => Timestamp(0),
        }
    }

    /// When the period that `at` is in ends; never with `Total`.
    #[must_use]
    pub fn end(self, at: Timestamp) -> Option<Timestamp> {
        let start = self.start(at);
        match self {
            Period::Hour => Some(start + Duration::from_millis(HOUR_MS)),
            Period::Day => Some(start + Duration::from_millis(DAY_MS)),
            // No month has 32 days, and two have no less than 59.
            Period::Month => Some(self.start(start + Duration::from_millis(32 * DAY_MS))),
            Period::Total => None,
        }
    }
}

/// The day of the month, from 1, of a day since 1970-01-01.
fn day_of_month(days: u64) -> u64 {
    // Years from March on, so that the leap day comes last: 400 of them have 146,097 days.
    let of_era = (days + 719_468) % 146_097;
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    of_year - (153 * month + 2) / 5 + 1
}

/// How far a budget is used up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    #[default]
    Free,
    /// People are told.
    Warned,
    /// Only priority work begins, where the budget names any.
    Degraded,
    /// Nothing begins until somebody acknowledges it, or raises the limit.
    Paused,
    /// Nothing is left.
    Exhausted,
}

/// Shares of the limit, in percent, from which on something happens; 0 for never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    pub warn: u32,
    pub act: u32,
    pub pause: u32,
}

impl Default for Thresholds {
    fn default() -> Thresholds {
        Thresholds { warn: 50, act: 80, pause: 95 }
    }
}

/// A limit on what may be spent for a scope in a period.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    pub name: BudgetName,
    pub scope: Scope,
    pub period: Period,
    pub limit: Limit,
    pub thresholds: Thresholds,
    /// Kinds or types of events whose work goes on from the threshold `act` on. Empty for all.
    pub priority: Vec<Arc<str>>,
}

/// Budgets of one tenant.
pub const BUDGETS_MAX: usize = 1000;
/// Budgets of one tenant with the same scope.
pub const SCOPE_BUDGETS_MAX: usize = 8;
/// Kinds of priority work that one budget names.
pub const PRIORITY_MAX: usize = 64;
const TEXT_MAX: usize = 256;
/// Amounts up to here can be added up without care.
const LIMIT_MAX: u64 = 1 << 53;

/// Why a budget cannot be set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {accepted}")]
pub struct BudgetError {
    pub field: &'static str,
    pub accepted: String,
    /// Nothing is wrong with it, but there are as many as may be.
    pub full: bool,
}

impl Budget {
    /// Checks what one budget can say.
    ///
    /// # Errors
    /// Names the field and says what is accepted.
    pub fn check(&self) -> Result<(), BudgetError> {
        let Budget { name: _, scope, period, limit, thresholds, priority } = self;
        let wrong = |field, accepted: &str| Err(BudgetError { field, accepted: accepted.to_owned(), full: false });
        let Limit { micros, tokens, time_ms } = *limit;
        let limits = [("cost_micros", micros), ("tokens", tokens), ("time_ms", time_ms)];
        if limits.iter().all(|(_, limit)| limit.is_none()) {
            return wrong("cost_micros", "is unset, as `tokens` and `time_ms` are: expected one of the three at least");
        }
        if let Some((field, _)) = limits.into_iter().find(|(_, limit)| limit.is_some_and(|limit| limit > LIMIT_MAX)) {
            return wrong(field, "is too large: expected 0 to 2^53");
        }
        if let Scope::Repository(repository) = scope
            && (repository.is_empty() || repository.len() > TEXT_MAX)
        {
            return wrong("repository", "expected owner/name of 1 to 256 bytes");
        }
        if let Scope::Replay(id) = scope
            && id.len() > crate::replay::REPLAY_ID_MAX
        {
            return wrong("scope.replay", "expected the name of a replay, of at most 64 bytes, or nothing for all");
        }
        if *scope == Scope::Run && *period != Period::Total {
            return wrong("period", "a budget for runs has no period: expected `total`");
        }
        let Thresholds { warn, act, pause } = *thresholds;
        let thresholds = [("warn_percent", warn), ("act_percent", act), ("pause_percent", pause)];
        if let Some((field, _)) = thresholds.into_iter().find(|(_, percent)| *percent > 100) {
            return wrong(field, "expected 0 to 100, where 0 is never");
        }
        if priority.len() > PRIORITY_MAX || priority.iter().any(|kind| kind.is_empty() || kind.len() > TEXT_MAX) {
            return wrong("priority_kinds", "expected at most 64 kinds of 1 to 256 bytes");
        }
        Ok(())
    }

    /// Which level an amount used stands for.
    #[must_use]
    pub fn level(&self, used: Amount) -> Level {
        let percent = self.limit.percent(used);
        let Thresholds { warn, act, pause } = self.thresholds;
        let reached = |threshold: u32| threshold > 0 && percent >= threshold;
        match () {
            () if percent >= 100 => Level::Exhausted,
            () if reached(pause) => Level::Paused,
            () if reached(act) => Level::Degraded,
            () if reached(warn) => Level::Warned,
            () => Level::Free,
        }
    }

    pub(crate) fn has_priority(&self, kind: &str) -> bool {
        self.priority.iter().any(|priority| **priority == *kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn periods_begin_and_end_in_utc() {
        let now = at("2028-02-29T23:59:59.999Z");
        for (period, start, end) in [
            (Period::Hour, "2028-02-29T23:00:00Z", "2028-03-01T00:00:00Z"),
            (Period::Day, "2028-02-29T00:00:00Z", "2028-03-01T00:00:00Z"),
            (Period::Month, "2028-02-01T00:00:00Z", "2028-03-01T00:00:00Z"),
        ] {
            assert_eq!((period.start(now), period.end(now)), (at(start), Some(at(end))), "{period:?}");
        }
        assert_eq!(Period::Total.end(now), None);
    }

    #[test]
    fn a_month_follows_the_month_before_for_two_hundred_years() {
        let mut start = Timestamp(0);
        for month in 0..200 * 12 {
            let text = format!("{:04}-{:02}-01T00:00:00Z", 1970 + month / 12, month % 12 + 1);
            assert_eq!(start, at(&text));
            let next = Period::Month.end(start).unwrap();
            assert_eq!(Period::Month.start(next - Duration::from_millis(1)), start);
            start = next;
        }
    }

    #[test]
    fn the_fullest_limit_counts() {
        let limit = Limit { micros: Some(1000), tokens: Some(10), time_ms: None };
        let used = Amount { micros: 100, tokens: 8, time_ms: u64::MAX };
        assert_eq!(limit.percent(used), 80);
        assert!(limit.holds(used) && !limit.holds(Amount { tokens: 11, ..used }));
        assert_eq!(Limit { micros: Some(0), ..Limit::default() }.percent(Amount::NONE), 100);
    }
}
