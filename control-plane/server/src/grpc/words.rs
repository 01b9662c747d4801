//! Words of the core as the API writes them, and back.

use std::sync::Arc;

use mindos_core::output::{DeliveryView, InstanceState};
use mindos_core::record::{CancelReason, Degraded, GeneralKey, Holds, InstanceKey, KeptOut, Labels};
use mindos_model::limits::REASON_MAX;
use mindos_model::{BudgetName, DeliveryId, ParkReason, Status, Strategy, Timestamp, Token};
use mindos_proto::convert::{Invalid, time};
use mindos_proto::delivery::v1 as delivery;
use mindos_proto::fleet::v1 as fleet;
use mindos_proto::route::v1 as route;

pub(super) fn general_name(key: &GeneralKey) -> fleet::GeneralName {
    fleet::GeneralName::from((&key.cluster, &key.name))
}

pub(super) fn instance_name(key: &InstanceKey) -> fleet::InstanceName {
    fleet::InstanceName::from((&key.cluster, &key.instance))
}

pub(super) fn park_reason(reason: Option<ParkReason>) -> i32 {
    reason.map_or(0, |reason| delivery::ParkReason::from(reason).into())
}

pub(super) fn status(status: Status) -> i32 {
    delivery::DeliveryStatus::from(status).into()
}

pub(super) fn strategy(strategy: Option<Strategy>) -> i32 {
    strategy.map_or(0, |strategy| route::Strategy::from(strategy).into())
}

pub(super) fn labels(labels: &Labels) -> std::collections::BTreeMap<String, String> {
    labels.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

pub(super) fn text(text: Option<&str>) -> String {
    text.unwrap_or_default().to_owned()
}

/// The reason that somebody gives along with a change.
pub(super) fn why(reason: &str) -> Result<Arc<str>, Invalid> {
    if reason.len() <= REASON_MAX && !reason.chars().any(char::is_control) {
        return Ok(reason.into());
    }
    let expected = format!("at most {REASON_MAX} without control characters");
    Err(Invalid::new("reason", format_args!("has {} bytes: expected {expected}", reason.len())))
}

pub(super) fn holds(holds: Holds) -> Vec<fleet::Hold> {
    let Holds { cordoned, paused, draining } = holds;
    let kinds =
        [(cordoned, fleet::HoldKind::Cordon), (paused, fleet::HoldKind::Pause), (draining, fleet::HoldKind::Drain)];
    let in_force = kinds.into_iter().filter_map(|(on, kind)| on.then_some(kind));
    in_force.map(|kind| fleet::Hold { kind: kind.into(), ..fleet::Hold::default() }).collect()
}

pub(super) fn liveness(state: InstanceState) -> fleet::Liveness {
    match state {
        InstanceState::Ready => fleet::Liveness::Connected,
        InstanceState::Draining => fleet::Liveness::Draining,
        InstanceState::Unknown => fleet::Liveness::Unknown,
    }
}

/// The token, unless there was no lease yet.
pub(super) fn token(token: Token) -> Option<delivery::Token> {
    (token != Token::default()).then(|| token.into())
}

pub(super) fn superseded_by(by: Option<DeliveryId>) -> String {
    by.map(|by| by.to_string()).unwrap_or_default()
}

pub(super) fn maybe_time(at: Option<Timestamp>) -> Option<prost_types::Timestamp> {
    at.map(time)
}

/// Which budget work waits for, and until when.
pub(super) fn over_budget(budget: &BudgetName, resets: Option<Timestamp>) -> String {
    let until = resets.map_or("until it is raised".to_owned(), |at| format!("until {at} or a raise"));
    format!("budget {budget} has too little left: waits {until}")
}

/// That dearer generals gave way.
pub(super) fn degraded(degraded: &Degraded) -> delivery::Degraded {
    let Degraded { budget, percent, from } = degraded;
    let from = from.iter().map(|general| general_name(general)).collect();
    delivery::Degraded { budget: budget.to_string(), percent: *percent, from }
}

/// An open delivery as the API shows it.
pub(super) fn open_delivery(view: &DeliveryView) -> delivery::Delivery {
    let lease = view.instance.as_deref().map(|instance| delivery::Lease {
        instance: Some(instance_name(instance)),
        token: token(view.token),
        expires_at: maybe_time(view.expires),
        ..delivery::Lease::default()
    });
    let superseded = match view.cancel {
        Some(CancelReason::Superseded { by } | CancelReason::RaceLost { by }) => Some(by),
        Some(
            CancelReason::Requested
            | CancelReason::Expired
            | CancelReason::ShadowFailed
            | CancelReason::ReplayFailed
            | CancelReason::ReplayOverBudget
            | CancelReason::Redacted,
        )
        | None => None,
    };
    let budget = view.budget.as_ref().map(|(budget, resets)| over_budget(budget, *resets));
    delivery::Delivery {
        delivery_id: view.delivery.to_string(),
        status: status(view.status),
        general: view.general.as_deref().map(general_name),
        lease,
        attempts_used: view.attempts,
        park_reason: park_reason(view.parked),
        park_message: budget.unwrap_or_default(),
        lane: view.lane.to_string(),
        superseded_by: superseded_by(superseded),
        event: Some(delivery::DeliveryEvent {
            seq: view.delivery.event.0,
            kind: view.kind.to_string(),
            repository: text(view.repository.as_deref()),
            ..delivery::DeliveryEvent::default()
        }),
        route: view.route.to_string(),
        accepted_at: Some(time(view.accepted)),
        parked_at: maybe_time(view.parked_at),
        not_before: maybe_time(view.not_before),
        seq: view.place.0,
        cancel_requested: view.cancel.is_some(),
        ..delivery::Delivery::default()
    }
}

/// The address of a blob.
pub(super) fn blob_ref(digest: [u8; 32]) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(76);
    text.push_str("blob:sha256:");
    for byte in digest {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// What keeps a general out of a route's work.
pub(super) fn kept_out(why: KeptOut) -> &'static str {
    match why {
        KeptOut::Residency => "residency",
        KeptOut::Affinity => "affinity",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_that_is_too_long_or_has_control_characters_is_refused_by_its_field() {
        let longest = "x".repeat(REASON_MAX);
        assert_eq!(why(&longest).as_deref(), Ok(&*longest));
        assert_eq!(why("").as_deref(), Ok(""));
        for wrong in [format!("{longest}x"), "two\nlines".to_owned()] {
            assert_eq!(why(&wrong).unwrap_err().field, "reason");
        }
    }
}
