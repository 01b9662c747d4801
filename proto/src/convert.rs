//! Checked conversions between messages and the types of the model.
//!
//! ```text
//!   message --TryFrom, or a function that names the field--> model      may refuse: the bytes come from outside
//!   model   --From----------------------------------------> message     always works
//! ```
//! Invariant: what these return keeps the model's rules, so nothing past the edge checks again.

use std::fmt::Display;
use std::time::Duration;

use mindos_model::{ClusterName, DeliveryId, FailureKind, GeneralName, InstanceId, Seq, Timestamp, Token};

use crate::status::INVALID_ARGUMENT;
use crate::{delivery, fleet, journal, rpc};

mod words;

pub use words::word;

/// A field of a message that is missing or malformed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct Invalid {
    /// Path to the field, its names separated by dots.
    pub field: String,
    /// What is wrong with it, and what is accepted.
    pub reason: String,
}

impl Invalid {
    /// Says that `field` is wrong because of `reason`.
    pub fn new(field: impl Into<String>, reason: impl Display) -> Invalid {
        Invalid { field: field.into(), reason: reason.to_string() }
    }

    /// The same error, seen from the message that holds the one it was found in as `field`.
    #[must_use]
    pub fn within(self, field: &str) -> Invalid {
        Invalid { field: format!("{field}.{}", self.field), reason: self.reason }
    }
}

/// The value of a field that has to be set.
///
/// # Errors
/// When it is not.
pub fn required<T>(value: Option<T>, field: &'static str) -> Result<T, Invalid> {
    value.ok_or_else(|| Invalid::new(field, "is required"))
}

/// Reads a text as an id, a name or another type of the model that has one spelling.
///
/// # Errors
/// Names `field` and what is accepted.
pub fn parsed<T>(text: &str, field: &'static str) -> Result<T, Invalid>
where
    T: std::str::FromStr,
    T::Err: Display,
{
    text.parse().map_err(|error| Invalid::new(field, error))
}

/// Reads a `delivery_id`, such as `d42.1`.
///
/// # Errors
/// When it is not of that form.
pub fn delivery_id(text: &str) -> Result<DeliveryId, Invalid> {
    parsed(text, "delivery_id")
}

/// Reads the pair that names a lease: `delivery_id` and `token`.
///
/// # Errors
/// When one of them is missing or malformed.
pub fn lease(id: &str, token: Option<delivery::v1::Token>) -> Result<(DeliveryId, Token), Invalid> {
    Ok((delivery_id(id)?, required(token, "token")?.try_into()?))
}

macro_rules! tokens {
    ($($message:ty),+) => {$(
        impl From<Token> for $message {
            fn from(Token { epoch, term }: Token) -> Self {
                Self { epoch, term }
            }
        }

        impl TryFrom<$message> for Token {
            type Error = Invalid;

            fn try_from(message: $message) -> Result<Token, Invalid> {
                if message.epoch == 0 || message.term == 0 {
                    return Err(Invalid::new("token", "epoch and term count from 1"));
                }
                Ok(Token::new(message.epoch, message.term))
            }
        }
    )+};
}

tokens!(delivery::v1::Token, journal::v1::Token);

impl From<DeliveryId> for journal::v1::DeliveryRef {
    fn from(id: DeliveryId) -> Self {
        Self { event: id.event.0, ordinal: id.ordinal }
    }
}

impl TryFrom<journal::v1::DeliveryRef> for DeliveryId {
    type Error = Invalid;

    fn try_from(message: journal::v1::DeliveryRef) -> Result<DeliveryId, Invalid> {
        if message.event == 0 || message.ordinal == 0 {
            return Err(Invalid::new("delivery", "event and ordinal count from 1"));
        }
        Ok(DeliveryId::new(Seq(message.event), message.ordinal))
    }
}

macro_rules! generals {
    ($($message:ty),+) => {$(
        impl From<(&ClusterName, &GeneralName)> for $message {
            fn from((cluster, name): (&ClusterName, &GeneralName)) -> Self {
                Self { cluster: cluster.to_string(), name: name.to_string() }
            }
        }

        impl TryFrom<&$message> for (ClusterName, GeneralName) {
            type Error = Invalid;

            fn try_from(message: &$message) -> Result<Self, Invalid> {
                Ok((parsed(&message.cluster, "cluster")?, parsed(&message.name, "name")?))
            }
        }
    )+};
}

generals!(fleet::v1::GeneralName, journal::v1::General);

impl From<(&ClusterName, &InstanceId)> for fleet::v1::InstanceName {
    fn from((cluster, instance): (&ClusterName, &InstanceId)) -> Self {
        Self { cluster: cluster.to_string(), instance_id: instance.to_string() }
    }
}

impl TryFrom<&fleet::v1::InstanceName> for (ClusterName, InstanceId) {
    type Error = Invalid;

    fn try_from(message: &fleet::v1::InstanceName) -> Result<Self, Invalid> {
        Ok((parsed(&message.cluster, "cluster")?, parsed(&message.instance_id, "instance_id")?))
    }
}

/// A point in time as the API writes it.
#[must_use]
pub fn time(at: Timestamp) -> prost_types::Timestamp {
    let at = at.0.min(Timestamp::MAX.0);
    let seconds = i64::try_from(at / 1000).expect("the latest time fits");
    prost_types::Timestamp { seconds, nanos: nanos(at % 1000) }
}

/// Reads a point in time; what is finer than a millisecond is cut off.
///
/// # Errors
/// When it lies before 1970 or after 9999, or its nanoseconds are out of range.
pub fn timestamp(time: &prost_types::Timestamp, field: &'static str) -> Result<Timestamp, Invalid> {
    millis(time.seconds, time.nanos)
        .map(Timestamp)
        .filter(|at| *at <= Timestamp::MAX)
        .ok_or_else(|| Invalid::new(field, "is not a time from 1970 to 9999"))
}

/// A span as the API writes it, to the millisecond.
#[must_use]
pub fn span(duration: Duration) -> prost_types::Duration {
    let seconds = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    prost_types::Duration { seconds, nanos: nanos(u64::from(duration.subsec_millis())) }
}

/// Reads a span; what is finer than a millisecond is cut off.
///
/// # Errors
/// When it is negative or its nanoseconds are out of range.
pub fn duration(span: &prost_types::Duration, field: &'static str) -> Result<Duration, Invalid> {
    millis(span.seconds, span.nanos)
        .map(Duration::from_millis)
        .ok_or_else(|| Invalid::new(field, "is not a span of 0 s or more"))
}

fn nanos(millis: u64) -> i32 {
    i32::try_from(millis * 1_000_000).expect("less than a second of nanoseconds fits")
}

fn millis(seconds: i64, nanos: i32) -> Option<u64> {
    let nanos = u64::try_from(nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
    u64::try_from(seconds).ok()?.checked_mul(1000)?.checked_add(nanos / 1_000_000)
}

/// How long `rate_limited` waits when it does not say until when.
pub const RATE_LIMIT_WAIT: Duration = Duration::from_secs(60);
/// How far ahead `rate_limited` may point; what is later is cut to this.
pub const RATE_LIMIT_WAIT_MAX: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Reads why an attempt failed, as it arrived at `now`.
///
/// A kind that this release does not know counts as transient, so that a newer agent side loses no work.
///
/// # Errors
/// When `retry_at` is not a time.
pub fn failure_kind(failure: &delivery::v1::Failure, now: Timestamp) -> Result<FailureKind, Invalid> {
    use delivery::v1::FailureKind as Kind;
    Ok(match Kind::try_from(failure.kind).unwrap_or(Kind::Unspecified) {
        Kind::Unspecified | Kind::Transient => FailureKind::Transient,
        Kind::Lost => FailureKind::Lost,
        Kind::RateLimited => {
            let until = match &failure.retry_at {
                Some(at) => timestamp(at, "retry_at")?,
                None => now + RATE_LIMIT_WAIT,
            };
            FailureKind::RateLimited { until: until.min(now + RATE_LIMIT_WAIT_MAX) }
        }
        Kind::Poison => FailureKind::Poison,
        Kind::TooLarge => FailureKind::TooLarge,
        Kind::Cancelled => FailureKind::Cancelled,
        Kind::OverBudget => FailureKind::OverBudget,
    })
}

impl From<FailureKind> for delivery::v1::FailureKind {
    fn from(kind: FailureKind) -> Self {
        match kind {
            FailureKind::Transient => Self::Transient,
            FailureKind::Lost => Self::Lost,
            FailureKind::RateLimited { until: _ } => Self::RateLimited,
            FailureKind::Poison => Self::Poison,
            FailureKind::TooLarge => Self::TooLarge,
            FailureKind::Cancelled => Self::Cancelled,
            FailureKind::OverBudget => Self::OverBudget,
        }
    }
}

impl From<Invalid> for rpc::Status {
    fn from(Invalid { field, reason }: Invalid) -> Self {
        let violation = rpc::bad_request::FieldViolation { field: field.clone(), description: reason.clone() };
        rpc::Status::new(INVALID_ARGUMENT, format!("{field}: {reason}"))
            .with(rpc::BadRequest { field_violations: vec![violation] })
    }
}

#[cfg(test)]
mod tests;
