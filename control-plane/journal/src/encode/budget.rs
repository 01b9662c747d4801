//! Budgets as messages and back, with everything said and nothing left to defaults.

use std::sync::Arc;

use mindos_core::budget::{Amount, Budget, Level, Limit, Period, Scope, Thresholds};
use mindos_core::{OverBudget, Reservation, Tally, Turn};
use mindos_model::{Seq, Timestamp};
use mindos_proto::budget::v1 as pb;
use mindos_proto::convert::{Invalid, parsed, required};
use mindos_proto::journal::v1 as journal;

/// A budget as its message.
#[must_use]
pub fn to_message(budget: &Budget) -> pb::Budget {
    let Budget { name, scope, period, limit, thresholds, priority } = budget;
    let Limit { micros, tokens, time_ms } = *limit;
    let Thresholds { warn, act, pause } = *thresholds;
    pb::Budget {
        name: name.to_string(),
        scope: Some(match scope {
            Scope::Tenant => pb::budget::Scope::Tenant(pb::TenantScope {}),
            Scope::Repository(repository) => pb::budget::Scope::Repository(repository.to_string()),
            Scope::GeneralType(ty) => pb::budget::Scope::GeneralType(ty.to_string()),
            Scope::Route(route) => pb::budget::Scope::Route(route.to_string()),
            Scope::Run => pb::budget::Scope::Run(pb::RunScope {}),
            Scope::Replay(id) => pb::budget::Scope::Replay(pb::ReplayScope { id: id.to_string() }),
        }),
        period: (match period {
            Period::Hour => pb::Period::Hour,
            Period::Day => pb::Period::Day,
            Period::Month => pb::Period::Month,
            Period::Total => pb::Period::Total,
        }) as i32,
        cost_micros: micros,
        tokens,
        time_ms,
        warn_percent: Some(warn),
        act_percent: Some(act),
        pause_percent: Some(pause),
        priority_kinds: priority.iter().map(ToString::to_string).collect(),
    }
}

/// A message as the budget that it means. What it may not say is left to [`Budget::check`].
///
/// # Errors
/// Names the field and says what is accepted.
pub fn from_message(message: pb::Budget) -> Result<Budget, Invalid> {
    let pb::Budget {
        name,
        scope,
        period,
        cost_micros,
        tokens,
        time_ms,
        warn_percent,
        act_percent,
        pause_percent,
        priority_kinds,
    } = message;
    let stock = Thresholds::default();
    Ok(Budget {
        name: parsed(&name, "name")?,
        scope: match required(scope, "scope")? {
            pb::budget::Scope::Tenant(pb::TenantScope {}) => Scope::Tenant,
            pb::budget::Scope::Repository(repository) => Scope::Repository(Arc::from(repository)),
            pb::budget::Scope::GeneralType(ty) => Scope::GeneralType(parsed(&ty, "general_type")?),
            pb::budget::Scope::Route(route) => Scope::Route(parsed(&route, "route")?),
            pb::budget::Scope::Run(pb::RunScope {}) => Scope::Run,
            pb::budget::Scope::Replay(pb::ReplayScope { id }) => Scope::Replay(Arc::from(id)),
        },
        period: match pb::Period::try_from(period) {
            Ok(pb::Period::Hour) => Period::Hour,
            Ok(pb::Period::Day) => Period::Day,
            Ok(pb::Period::Month) => Period::Month,
            Ok(pb::Period::Total) => Period::Total,
            Ok(pb::Period::Unspecified) | Err(_) => {
                return Err(Invalid::new("period", "expected hour, day, month or total"));
            }
        },
        limit: Limit { micros: cost_micros, tokens, time_ms },
        thresholds: Thresholds {
            warn: warn_percent.unwrap_or(stock.warn),
            act: act_percent.unwrap_or(stock.act),
            pause: pause_percent.unwrap_or(stock.pause),
        },
        priority: priority_kinds.into_iter().map(Arc::from).collect(),
    })
}

/// A level as its word.
#[must_use]
pub fn of_level(level: Level) -> i32 {
    (match level {
        Level::Free => pb::Level::Unspecified,
        Level::Warned => pb::Level::Warned,
        Level::Degraded => pb::Level::Degraded,
        Level::Paused => pb::Level::Paused,
        Level::Exhausted => pb::Level::Exhausted,
    }) as i32
}

pub(crate) fn level(level: i32) -> Result<Level, Invalid> {
    match pb::Level::try_from(level) {
        Ok(pb::Level::Unspecified) => Ok(Level::Free),
        Ok(pb::Level::Warned) => Ok(Level::Warned),
        Ok(pb::Level::Degraded) => Ok(Level::Degraded),
        Ok(pb::Level::Paused) => Ok(Level::Paused),
        Ok(pb::Level::Exhausted) => Ok(Level::Exhausted),
        Err(_) => Err(Invalid::new("level", format_args!("value {level} is not known"))),
    }
}

/// An amount as its message.
#[must_use]
pub fn of_amount(amount: Amount) -> pb::Amount {
    let Amount { micros, tokens, time_ms } = amount;
    pb::Amount { cost_micros: micros, tokens, time_ms }
}

/// As [`of_amount`], with nothing left out.
pub(crate) fn of_some(amount: Amount) -> Option<pb::Amount> {
    (amount != Amount::NONE).then(|| of_amount(amount))
}

pub(crate) fn amount(message: pb::Amount) -> Amount {
    let pb::Amount { cost_micros, tokens, time_ms } = message;
    Amount { micros: cost_micros, tokens, time_ms }
}

pub(crate) fn some(message: Option<pb::Amount>) -> Amount {
    message.map(amount).unwrap_or_default()
}

pub(crate) fn tally(charged: Option<pb::Amount>, reserved: Option<pb::Amount>) -> Tally {
    Tally { charged: some(charged), reserved: some(reserved) }
}

pub(crate) fn of_reservation(reservation: &Reservation) -> journal::Reservation {
    let Reservation { amount, accounts } = reservation;
    journal::Reservation { amount: of_some(*amount), accounts: accounts.iter().map(|since| since.0).collect() }
}

pub(crate) fn reservation(message: journal::Reservation) -> Reservation {
    let journal::Reservation { amount, accounts } = message;
    Reservation { amount: some(amount), accounts: accounts.into_iter().map(Seq).collect() }
}

pub(crate) fn of_turn(turn: Turn) -> i32 {
    (match turn {
        Turn::Priority => journal::Turn::Priority,
        Turn::Usual => journal::Turn::Unspecified,
        Turn::Never => journal::Turn::Never,
    }) as i32
}

pub(crate) fn turn(turn: i32) -> Result<Turn, Invalid> {
    match journal::Turn::try_from(turn) {
        Ok(journal::Turn::Priority) => Ok(Turn::Priority),
        Ok(journal::Turn::Unspecified) => Ok(Turn::Usual),
        Ok(journal::Turn::Never) => Ok(Turn::Never),
        Err(_) => Err(Invalid::new("turn", format_args!("value {turn} is not known"))),
    }
}

/// When what waits goes on by itself, in milliseconds since the epoch; 0 where nobody knows.
pub(crate) fn redrive_at(over: Option<&OverBudget>) -> u64 {
    over.and_then(|over| over.resets).map_or(0, |resets| resets.0)
}

pub(crate) fn of_over(over: &OverBudget) -> journal::OverBudget {
    let OverBudget { account, budget, resets, wanted, turn } = over;
    journal::OverBudget {
        account: account.0,
        budget: budget.to_string(),
        resets_at_ms: resets.map_or(0, |resets| resets.0),
        wanted: of_some(*wanted),
        turn: of_turn(*turn),
    }
}

pub(crate) fn over(message: journal::OverBudget) -> Result<OverBudget, Invalid> {
    let journal::OverBudget { account, budget, resets_at_ms, wanted, turn } = message;
    Ok(OverBudget {
        account: Seq(account),
        budget: parsed(&budget, "over_budget.budget")?,
        resets: (resets_at_ms > 0).then_some(Timestamp(resets_at_ms)),
        wanted: some(wanted),
        turn: self::turn(turn)?,
    })
}
