//! Words of the core that a message spreads over several fields.

use mindos_core::record::{CancelReason, Cause, Exclusion, Holds, KeptOut};
use mindos_model::{FailureKind, ParkReason, Priority, Timestamp};
use mindos_proto::convert::{Invalid, word};
use mindos_proto::delivery::v1 as delivery;
use mindos_proto::journal::v1 as pb;
use mindos_proto::route::v1 as route;

/// A priority; the normal one is left out.
pub(crate) fn of_priority(priority: Priority) -> i32 {
    match priority {
        Priority::Normal => route::Priority::Unspecified as i32,
        Priority::Low => route::Priority::Low as i32,
        Priority::High => route::Priority::High as i32,
    }
}

/// The other way.
pub(crate) fn priority(priority: i32) -> Result<Priority, Invalid> {
    Ok(word::<route::Priority, Priority>(priority, "priority")?.unwrap_or(Priority::Normal))
}

/// A cause as (what ended it, how it failed, until when it is limited).
pub(crate) fn of_cause(cause: Cause) -> (i32, i32, u64) {
    let ended_by = match cause {
        Cause::Failed(_) => pb::AttemptEnd::Failed,
        Cause::Lapsed => pb::AttemptEnd::Lapsed,
        Cause::Rebooted => pb::AttemptEnd::Rebooted,
        Cause::Undelivered => pb::AttemptEnd::Undelivered,
        Cause::Declined => pb::AttemptEnd::Declined,
        Cause::Deadline => pb::AttemptEnd::Deadline,
    };
    let (failure, until) = match cause {
        Cause::Failed(FailureKind::RateLimited { until }) => (delivery::FailureKind::RateLimited, until.0),
        Cause::Failed(kind) => (delivery::FailureKind::from(kind), 0),
        Cause::Lapsed | Cause::Rebooted | Cause::Undelivered | Cause::Declined | Cause::Deadline => {
            (delivery::FailureKind::Unspecified, 0)
        }
    };
    (ended_by as i32, failure as i32, until)
}

/// The other way; `None` if nothing is said.
pub(crate) fn cause(ended_by: i32, failure: i32, until: u64) -> Result<Option<Cause>, Invalid> {
    let unknown = |field, value| Invalid::new(field, format_args!("value {value} is not known"));
    let ended_by = pb::AttemptEnd::try_from(ended_by).map_err(|_| unknown("ended_by", ended_by))?;
    Ok(Some(match ended_by {
        pb::AttemptEnd::Unspecified => return Ok(None),
        pb::AttemptEnd::Lapsed => Cause::Lapsed,
        pb::AttemptEnd::Rebooted => Cause::Rebooted,
        pb::AttemptEnd::Undelivered => Cause::Undelivered,
        pb::AttemptEnd::Declined => Cause::Declined,
        pb::AttemptEnd::Deadline => Cause::Deadline,
        pb::AttemptEnd::Failed => {
            let kind = delivery::FailureKind::try_from(failure).map_err(|_| unknown("cause", failure))?;
            Cause::Failed(match kind {
                delivery::FailureKind::Unspecified => return Err(Invalid::new("cause", "is required")),
                delivery::FailureKind::Transient => FailureKind::Transient,
                delivery::FailureKind::Lost => FailureKind::Lost,
                delivery::FailureKind::RateLimited => FailureKind::RateLimited { until: Timestamp(until) },
                delivery::FailureKind::Poison => FailureKind::Poison,
                delivery::FailureKind::TooLarge => FailureKind::TooLarge,
                delivery::FailureKind::Cancelled => FailureKind::Cancelled,
                delivery::FailureKind::OverBudget => FailureKind::OverBudget,
            })
        }
    }))
}

/// Why a general is kept out.
pub(crate) fn of_kept_out(why: KeptOut) -> i32 {
    match why {
        KeptOut::Residency => pb::Exclusion::Residency as i32,
        KeptOut::Affinity => pb::Exclusion::Affinity as i32,
    }
}

/// The other way.
pub(crate) fn kept_out(why: i32) -> Result<KeptOut, Invalid> {
    match pb::Exclusion::try_from(why) {
        Ok(pb::Exclusion::Residency) => Ok(KeptOut::Residency),
        Ok(pb::Exclusion::Affinity) => Ok(KeptOut::Affinity),
        Ok(_) | Err(_) => Err(Invalid::new("siting.named.why", format_args!("value {why} is not accepted here"))),
    }
}

/// Why an instance was set aside.
pub(crate) fn of_exclusion(why: Exclusion) -> i32 {
    let word = match why {
        Exclusion::Held => pb::Exclusion::Cordoned,
        Exclusion::Draining => pb::Exclusion::Draining,
        Exclusion::BreakerOpen => pb::Exclusion::BreakerOpen,
        Exclusion::RateLimited => pb::Exclusion::RateLimited,
        Exclusion::VersionTooOld => pb::Exclusion::VersionTooOld,
        Exclusion::Affinity => pb::Exclusion::Affinity,
    };
    word as i32
}

/// The other way; `None` if it was not set aside.
pub(crate) fn exclusion(why: i32) -> Result<Option<Exclusion>, Invalid> {
    let unknown = || Invalid::new("exclusion", format_args!("value {why} is not accepted here"));
    match pb::Exclusion::try_from(why).map_err(|_| unknown())? {
        pb::Exclusion::Unspecified => Ok(None),
        pb::Exclusion::Cordoned => Ok(Some(Exclusion::Held)),
        pb::Exclusion::Draining => Ok(Some(Exclusion::Draining)),
        pb::Exclusion::BreakerOpen => Ok(Some(Exclusion::BreakerOpen)),
        pb::Exclusion::RateLimited => Ok(Some(Exclusion::RateLimited)),
        pb::Exclusion::VersionTooOld => Ok(Some(Exclusion::VersionTooOld)),
        pb::Exclusion::Affinity => Ok(Some(Exclusion::Affinity)),
        pb::Exclusion::Paused
        | pb::Exclusion::NoSlot
        | pb::Exclusion::Unknown
        | pb::Exclusion::Taken
        | pb::Exclusion::LaneBusy
        | pb::Exclusion::Residency => Err(unknown()),
    }
}

/// A reason to cancel as (reason, what takes its place).
pub(crate) fn of_cancel(reason: CancelReason) -> (i32, Option<pb::DeliveryRef>) {
    match reason {
        CancelReason::Superseded { by } => (delivery::CancelReason::Superseded as i32, Some(by.into())),
        CancelReason::Requested => (delivery::CancelReason::Human as i32, None),
        CancelReason::RaceLost { by } => (delivery::CancelReason::RaceLost as i32, Some(by.into())),
        CancelReason::Expired => (delivery::CancelReason::Expired as i32, None),
        CancelReason::ShadowFailed => (delivery::CancelReason::ShadowFailed as i32, None),
        CancelReason::ReplayFailed => (delivery::CancelReason::ReplayFailed as i32, None),
        CancelReason::ReplayOverBudget => (delivery::CancelReason::ReplayOverBudget as i32, None),
        CancelReason::Redacted => (delivery::CancelReason::Redacted as i32, None),
    }
}

/// The other way; `None` if nothing is said.
pub(crate) fn cancel(reason: i32, superseded_by: Option<pb::DeliveryRef>) -> Result<Option<CancelReason>, Invalid> {
    use delivery::CancelReason as Reason;
    let known =
        Reason::try_from(reason).map_err(|_| Invalid::new("reason", format_args!("value {reason} is not known")))?;
    match (known, superseded_by) {
        (Reason::Unspecified, _) => Ok(None),
        (Reason::Superseded, Some(by)) => Ok(Some(CancelReason::Superseded { by: by.try_into()? })),
        (Reason::Superseded, None) => Err(Invalid::new("superseded_by", "is required")),
        (Reason::Human, _) => Ok(Some(CancelReason::Requested)),
        (Reason::RaceLost, Some(by)) => Ok(Some(CancelReason::RaceLost { by: by.try_into()? })),
        (Reason::RaceLost, None) => Err(Invalid::new("superseded_by", "is required")),
        (Reason::Expired, _) => Ok(Some(CancelReason::Expired)),
        (Reason::ShadowFailed, _) => Ok(Some(CancelReason::ShadowFailed)),
        (Reason::ReplayFailed, _) => Ok(Some(CancelReason::ReplayFailed)),
        (Reason::ReplayOverBudget, _) => Ok(Some(CancelReason::ReplayOverBudget)),
        (Reason::Redacted, _) => Ok(Some(CancelReason::Redacted)),
        (other @ (Reason::Budget | Reason::Drain | Reason::Deadline), _) => {
            Err(Invalid::new("reason", format_args!("{} is not accepted here", other.as_str_name())))
        }
    }
}

/// Holds as numbers: the strongest, and those besides it.
pub(crate) fn of_holds(holds: Holds) -> (i32, Vec<i32>) {
    let Holds { draining, cordoned, paused } = holds;
    let named = [(draining, pb::Hold::Drain), (cordoned, pb::Hold::Cordon), (paused, pb::Hold::Pause)];
    let mut numbers = named.into_iter().filter_map(|(on, hold)| on.then_some(hold as i32));
    (numbers.next().unwrap_or_default(), numbers.collect())
}

/// The other way.
pub(crate) fn holds(first: i32, besides: &[i32]) -> Result<Holds, Invalid> {
    let mut holds = Holds::NONE;
    for number in std::iter::once(&first).chain(besides) {
        let known = pb::Hold::try_from(*number)
            .map_err(|_| Invalid::new("hold", format_args!("value {number} is not known")))?;
        holds = holds.with(match known {
            pb::Hold::Unspecified => Holds::NONE,
            pb::Hold::Pause => Holds::PAUSED,
            pb::Hold::Cordon => Holds::CORDONED,
            pb::Hold::Drain => Holds::DRAINING,
        });
    }
    Ok(holds)
}

/// A reason to park as its number.
pub(crate) fn of_parked(reason: Option<ParkReason>) -> i32 {
    reason.map_or(0, |reason| delivery::ParkReason::from(reason) as i32)
}

/// The other way; `None` if nothing is said.
pub(crate) fn parked(number: i32) -> Result<Option<ParkReason>, Invalid> {
    word::<delivery::ParkReason, ParkReason>(number, "parked")
}
