//! Refusals as callers see them: one function from a [`Rejection`] to a status with details.
//!
//! Invariant: every refusal has an `ErrorInfo` whose reason never changes, so that programs need not read messages.

use std::time::Duration;

use mindos_core::access::AccessError;
use mindos_core::budget::BudgetError;
use mindos_core::output::Rejection;
use mindos_core::route::RouteError;
use mindos_proto::convert::{Invalid, span};
use mindos_proto::rpc::{
    BadRequest, PreconditionFailure, QuotaFailure, ResourceInfo, RetryInfo, Status, bad_request, precondition_failure,
    quota_failure,
};
use tonic::Code;

use crate::admission::QuotaExceeded;
use crate::driver::{CallError, Full, Stopped};
use crate::effects;
use crate::ingest::event::EventError;
use crate::limits::Refusal;

/// When a caller may try again that was refused because something is full for a moment.
const RETRY_SOON: Duration = Duration::from_millis(250);
/// When a caller may try again that was refused because of a backlog.
const RETRY_BACKLOG: Duration = Duration::from_secs(1);
/// When a caller may try again that was refused because of the disk.
const RETRY_DISK: Duration = Duration::from_secs(10);

fn new(code: Code, message: impl Into<String>) -> Status {
    Status::new(code as i32, message)
}

fn retry(delay: Duration) -> RetryInfo {
    RetryInfo { retry_delay: Some(span(delay)) }
}

fn quota(subject: String, description: &str) -> QuotaFailure {
    let description = description.to_owned();
    QuotaFailure { violations: vec![quota_failure::Violation { subject, description }] }
}

fn precondition(r#type: &str, subject: String, description: &str) -> PreconditionFailure {
    let (r#type, description) = (r#type.to_owned(), description.to_owned());
    PreconditionFailure { violations: vec![precondition_failure::Violation { r#type, subject, description }] }
}

fn resource(resource_type: &str, resource_name: String) -> ResourceInfo {
    ResourceInfo { resource_type: resource_type.to_owned(), resource_name, ..ResourceInfo::default() }
}

fn bad_field(field: String, description: String) -> BadRequest {
    BadRequest { field_violations: vec![bad_request::FieldViolation { field, description }] }
}

/// What a refusal of the plane is to a caller.
#[must_use]
pub fn rejection(rejection: &Rejection) -> Status {
    let message = rejection.to_string();
    match rejection {
        Rejection::Conflict { event } => {
            new(Code::AlreadyExists, message).with_reason("EVENT_CONFLICT", [("event_seq", event.to_string())])
        }
        Rejection::BacklogFull { route, waiting, max } => new(Code::ResourceExhausted, message)
            .with_reason(
                "BACKLOG_FULL",
                [("route", route.to_string()), ("waiting", waiting.to_string()), ("max", max.to_string())],
            )
            .with(retry(RETRY_BACKLOG))
            .with(quota(format!("route:{route}"), "deliveries that may wait")),
        Rejection::PlaneFull { open, max } => new(Code::ResourceExhausted, message)
            .with_reason("PLANE_FULL", [("open", open.to_string()), ("max", max.to_string())])
            .with(retry(RETRY_BACKLOG))
            .with(quota("plane".to_owned(), "deliveries that may be open")),
        Rejection::TenantFull { tenant, open, max } => new(Code::ResourceExhausted, message)
            .with_reason(
                "TENANT_FULL",
                [("tenant", tenant.to_string()), ("open", open.to_string()), ("max", max.to_string())],
            )
            .with(retry(RETRY_BACKLOG))
            .with(quota(format!("tenant:{tenant}"), "deliveries of a tenant that may be open")),
        Rejection::FanoutTooWide { targets, max } => new(Code::FailedPrecondition, message)
            .with_reason("FANOUT_TOO_WIDE", [("targets", targets.to_string()), ("max", max.to_string())]),
        Rejection::NoGeneral { route } => new(Code::FailedPrecondition, message)
            .with_reason("NO_GENERAL", [("route", route.to_string())])
            .with(precondition("GENERAL_THERE", route.to_string(), "one of its generals has to be connected")),
        Rejection::TooFarAhead { .. } => new(Code::InvalidArgument, message.clone())
            .with_reason("EVENT_TOO_FAR_AHEAD", [])
            .with(bad_field("event.notbefore".to_owned(), message)),
        Rejection::UnknownDelivery { delivery } => new(Code::NotFound, message)
            .with_reason("DELIVERY_UNKNOWN", [("delivery_id", delivery.to_string())])
            .with(resource("delivery", delivery.to_string())),
        Rejection::NotParked { delivery, status } => new(Code::FailedPrecondition, message)
            .with_reason("DELIVERY_NOT_PARKED", [("delivery_id", delivery.to_string()), ("status", status.to_string())])
            .with(precondition("DELIVERY_STATUS", delivery.to_string(), "has to be parked")),
        Rejection::UnknownTarget { what } => new(Code::NotFound, message)
            .with_reason("TARGET_UNKNOWN", [("target", what.clone())])
            .with(resource("target", what.clone())),
        Rejection::GeneralInUse { general, instances, open } => new(Code::FailedPrecondition, message)
            .with_reason(
                "GENERAL_IN_USE",
                [("general", general.clone()), ("instances", instances.to_string()), ("open", open.to_string())],
            )
            .with(precondition("GENERAL_IDLE", general.clone(), "has to be without instances and open deliveries")),
        Rejection::RoutesChanged { current, expected } => new(Code::Aborted, message)
            .with_reason("ROUTES_CHANGED", [("current", current.to_string()), ("expected", expected.to_string())]),
        Rejection::Owned { what, owner } => new(Code::FailedPrecondition, message)
            .with_reason("OWNED", [("target", what.clone()), ("owner", owner.clone())])
            .with(precondition("OWNER", what.clone(), "is changed where its owner stands, and nowhere else")),
        Rejection::ObjectRenamed { .. } => new(Code::FailedPrecondition, message).with_reason("OBJECT_RENAMED", []),
        Rejection::ObjectsFull { cluster, max } => new(Code::ResourceExhausted, message)
            .with_reason("OBJECTS_FULL", [("cluster", cluster.to_string()), ("max", max.to_string())])
            .with(quota(format!("cluster:{cluster}"), "objects and generals")),
        Rejection::Budget(error) => budget(error),
        Rejection::AskedRoutesFull { max } => new(Code::ResourceExhausted, message)
            .with_reason("ASKED_ROUTES_FULL", [("max", max.to_string())])
            .with(retry(RETRY_BACKLOG))
            .with(quota("plane".to_owned(), "routes that publishers asked for, with open work")),
        Rejection::Routes(error) => routes(error),
        Rejection::Access(error) => access(error),
        // Who could not join is told no more than the reason's word.
        Rejection::JoinUnknown => new(Code::PermissionDenied, message).with_reason("JOIN_REFUSED", []),
        Rejection::JoinRefused(_) => new(Code::PermissionDenied, message).with_reason("JOIN_REFUSED", []),
        Rejection::UnknownEffect { effect } => new(Code::NotFound, message)
            .with_reason("EFFECT_UNKNOWN", [("effect_id", effect.to_string())])
            .with(resource("effect", effect.to_string())),
        Rejection::EffectNotFailed { effect, status } => new(Code::FailedPrecondition, message)
            .with_reason("EFFECT_NOT_FAILED", [("effect_id", effect.to_string()), ("status", status.to_string())])
            .with(precondition("EFFECT_STATUS", effect.to_string(), "has to have failed, or to wait for its next try")),
        Rejection::Redaction { field, reason: _ } => new(Code::InvalidArgument, message.clone())
            .with_reason("REDACTION_INVALID", [("field", (*field).to_owned())])
            .with(bad_field((*field).to_owned(), message)),
    }
}

/// What is wrong with a change of access.
fn access(error: &AccessError) -> Status {
    let message = error.to_string();
    match error {
        AccessError::Unknown { what } => new(Code::NotFound, message)
            .with_reason("ACCESS_UNKNOWN", [("target", what.clone())])
            .with(resource("access", what.clone())),
        AccessError::Invalid { field, .. } => new(Code::InvalidArgument, message.clone())
            .with_reason("ACCESS_INVALID", [("field", (*field).to_owned())])
            .with(bad_field((*field).to_owned(), message)),
        AccessError::Full { what, max } => new(Code::ResourceExhausted, message)
            .with_reason("ACCESS_FULL", [("max", max.to_string())])
            .with(quota("plane".to_owned(), what)),
        AccessError::TenantFull { tenant, what, max } => new(Code::ResourceExhausted, message)
            .with_reason("ACCESS_FULL", [("tenant", tenant.to_string()), ("max", max.to_string())])
            .with(quota(format!("tenant:{tenant}"), what)),
        AccessError::Exists { .. } => new(Code::AlreadyExists, message).with_reason("ACCESS_EXISTS", []),
        AccessError::OutsideScope { .. } => {
            new(Code::PermissionDenied, message).with_reason("ACCESS_OUTSIDE_SCOPE", [])
        }
        AccessError::Checkpoint { .. } => {
            new(Code::FailedPrecondition, message).with_reason("CHECKPOINT_OUT_OF_ORDER", [])
        }
    }
}

/// What is wrong with a budget.
#[must_use]
pub fn budget(error: &BudgetError) -> Status {
    let BudgetError { field, accepted, full } = error;
    if *full {
        return new(Code::ResourceExhausted, error.to_string())
            .with_reason("BUDGETS_FULL", [("field", (*field).to_owned())])
            .with(quota("budgets".to_owned(), accepted));
    }
    new(Code::InvalidArgument, error.to_string())
        .with_reason("BUDGET_INVALID", [("field", (*field).to_owned())])
        .with(bad_field(format!("budget.{field}"), accepted.clone()))
}

/// What is wrong with a routing table.
#[must_use]
pub fn routes(error: &RouteError) -> Status {
    let message = error.to_string();
    let (field, description) = message.split_once(": ").unwrap_or(("routes", &message));
    let violation = bad_field(format!("table.{field}"), description.to_owned());
    new(Code::InvalidArgument, message.clone()).with_reason("ROUTES_INVALID", []).with(violation)
}

/// Why a call got no answer.
#[must_use]
pub fn call(error: &CallError) -> Status {
    match error {
        CallError::Rejected(refusal) => rejection(refusal),
        CallError::Full(full) => inbox_full(*full),
        CallError::Stopped(gone) => stopped(*gone),
    }
}

/// The server is about to end; another try reaches the next one.
#[must_use]
pub fn stopped(stopped: Stopped) -> Status {
    new(Code::Unavailable, stopped.to_string()).with_reason("STOPPING", []).with(retry(RETRY_BACKLOG))
}

fn inbox_full(full: Full) -> Status {
    new(Code::ResourceExhausted, full.to_string())
        .with_reason("INBOX_FULL", [])
        .with(retry(RETRY_SOON))
        .with(quota("inbox".to_owned(), "inputs that may wait"))
}

/// An event that is malformed.
#[must_use]
pub fn event(error: &EventError) -> Status {
    match error {
        EventError::Invalid(error) => invalid(error.clone().within("event")),
        EventError::TooLarge { .. } => new(Code::InvalidArgument, error.to_string())
            .with_reason("EVENT_TOO_LARGE", [])
            .with(bad_field("event".to_owned(), error.to_string())),
    }
}

/// A field that is malformed.
#[must_use]
pub fn invalid(error: Invalid) -> Status {
    Status::from(error).with_reason("FIELD_INVALID", [])
}

/// The disk has no room for events.
#[must_use]
pub fn disk_full() -> Status {
    new(Code::ResourceExhausted, "the journal's disk quota is used up: events are refused, all else goes on")
        .with_reason("DISK_FULL", [])
        .with(retry(RETRY_DISK))
        .with(quota("journal".to_owned(), "bytes on the disk"))
}

/// A source has used its quota up.
#[must_use]
pub fn quota_exceeded(exceeded: &QuotaExceeded) -> Status {
    let QuotaExceeded { quota: name, origin, retry: delay } = exceeded;
    // Rounded up, so that who waits as long finds room.
    let delay = Duration::from_millis(u64::try_from(delay.as_micros().div_ceil(1000)).unwrap_or(u64::MAX).max(1));
    new(Code::ResourceExhausted, exceeded.to_string())
        .with_reason("QUOTA_EXCEEDED", [("quota", name.to_string()), ("source", origin.to_string())])
        .with(retry(delay))
        .with(quota(format!("quota:{name}"), "events of one source in a time"))
}

/// Somebody is at a limit of theirs.
#[must_use]
pub fn at_limit(refusal: &Refusal) -> Status {
    let Refusal { reason, subject, what, retry: delay } = refusal;
    // Rounded up, so that who waits as long finds room.
    let delay = Duration::from_millis(u64::try_from(delay.as_micros().div_ceil(1000)).unwrap_or(u64::MAX).max(1));
    new(Code::ResourceExhausted, refusal.to_string())
        .with_reason(reason, [("limit", (*what).to_owned())])
        .with(retry(delay))
        .with(quota(subject.to_string(), what))
}

/// Something that is not there.
#[must_use]
pub fn not_found(kind: &str, name: impl Into<String>) -> Status {
    let name = name.into();
    new(Code::NotFound, format!("{kind} {name} is not known"))
        .with_reason("NOT_FOUND", [("kind", kind.to_owned())])
        .with(resource(kind, name))
}

/// A delivery that nothing can be said of yet.
#[must_use]
pub fn no_result(delivery: mindos_model::DeliveryId) -> Status {
    new(Code::FailedPrecondition, format!("delivery {delivery} has no result that feedback could be about"))
        .with_reason("DELIVERY_WITHOUT_RESULT", [("delivery_id", delivery.to_string())])
        .with(precondition("DELIVERY_STATUS", delivery.to_string(), "has to be succeeded"))
}

/// A delivery whose result was not found in the time there is.
#[must_use]
pub fn result_not_read(delivery: mindos_model::DeliveryId) -> Status {
    new(Code::Unavailable, format!("the result of delivery {delivery} was not found in time: try again"))
        .with_reason("RESULT_NOT_READ", [("delivery_id", delivery.to_string())])
        .with(retry(RETRY_SOON))
}

/// No access to a repository.
#[must_use]
pub fn repository_access(error: &effects::AccessError) -> Status {
    use effects::{AccessError, ForgeError};
    let message = error.to_string();
    let forge = |code| new(code, message.clone()).with_reason("FORGE_REFUSED", []);
    match error {
        AccessError::Unknown(delivery) => not_found("delivery", delivery.to_string()),
        AccessError::Denied(_) => new(Code::PermissionDenied, message).with_reason("REPOSITORY_DENIED", []),
        AccessError::None(_) => new(Code::FailedPrecondition, message)
            .with_reason("NO_REPOSITORY_ACCESS", [])
            .with(precondition("REPOSITORY_ACCESS", "repository".to_owned(), "the control plane has to have it")),
        AccessError::Full => new(Code::ResourceExhausted, message)
            .with_reason("REPOSITORY_ACCESS_FULL", [])
            .with(retry(RETRY_BACKLOG))
            .with(quota("plane".to_owned(), "leases with access to repositories")),
        AccessError::Forge(ForgeError::Limited { .. } | ForgeError::Transient { .. }) => {
            forge(Code::Unavailable).with(retry(RETRY_BACKLOG))
        }
        AccessError::Forge(_) => forge(Code::FailedPrecondition),
        AccessError::Plane(error) => call(error),
    }
}

/// More budgets of replays than may be.
#[must_use]
pub fn replay_budgets_full(most: usize) -> Status {
    new(
        Code::ResourceExhausted,
        format!("{most} replays whose work may still wait have a budget of their own: remove one, or leave it out"),
    )
    .with_reason("REPLAY_BUDGETS_FULL", [("most", most.to_string())])
    .with(quota("budgets of replays".to_owned(), "replays with a budget of their own"))
}

/// Records that have left the journal.
#[must_use]
pub fn dropped(wanted: mindos_model::Seq, first: mindos_model::Seq) -> Status {
    new(Code::OutOfRange, format!("records before {first} were dropped: {wanted} is not kept any more"))
        .with_reason("RECORDS_DROPPED", [("first_seq", first.to_string())])
}

/// A reader that is too slow: where to go on.
#[must_use]
pub fn too_slow(next: mindos_model::Seq) -> Status {
    new(Code::ResourceExhausted, format!("read too slowly: go on from sequence {next}"))
        .with_reason("TOO_SLOW", [("next_seq", next.to_string())])
        .with(retry(RETRY_SOON))
}

/// A failure of ours. The caller gets no details; the log has them.
#[must_use]
pub fn internal(what: &str) -> Status {
    new(Code::Internal, what.to_owned()).with_reason("INTERNAL", [])
}

#[cfg(test)]
mod tests {
    use mindos_model::{RouteName, Seq, TenantName};
    use mindos_proto::rpc::ErrorInfo;

    use super::*;

    #[test]
    fn what_is_full_says_when_to_try_again() {
        let route = RouteName::new("default").unwrap();
        let full = [
            rejection(&Rejection::BacklogFull { route, waiting: 7, max: 7 }),
            rejection(&Rejection::PlaneFull { open: 7, max: 7 }),
            rejection(&Rejection::TenantFull { tenant: TenantName::default_tenant(), open: 7, max: 7 }),
            inbox_full(Full),
            quota_exceeded(&QuotaExceeded { quota: "ci".into(), origin: "/s".into(), retry: Duration::from_micros(1) }),
            disk_full(),
        ];
        for status in full {
            assert_eq!(status.code, Code::ResourceExhausted as i32);
            assert!(status.detail::<RetryInfo>().is_some() && status.detail::<QuotaFailure>().is_some());
        }
    }

    #[test]
    fn a_conflict_names_the_event_that_was_first() {
        let status = rejection(&Rejection::Conflict { event: Seq(42) });
        assert_eq!(status.code, Code::AlreadyExists as i32);
        assert_eq!(status.detail::<ErrorInfo>().unwrap().metadata["event_seq"], "42");
    }

    #[test]
    fn a_bad_table_names_the_field() {
        let status = rejection(&Rejection::Routes(RouteError::NoTargets { index: 3 }));
        assert_eq!(status.detail::<BadRequest>().unwrap().field_violations[0].field, "table.routes[3].targets");
    }
}
