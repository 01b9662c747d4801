//! Why something could not be read from a forge.

use mindos_model::{FailureKind, Timestamp};
use mindos_sdk::Failure;

/// Why something could not be read. No variant holds a token, an address beyond its host, or a text of the repository.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForgeFailure {
    #[error("there is no {what}, or it may not be read")]
    NotFound { what: String },
    #[error("the forge does not accept the credentials for {what}: status {status}")]
    Unauthorised { what: String, status: u16 },
    #[error("the forge's limit is used up until {until}")]
    RateLimited { until: Timestamp },
    #[error("the forge cannot be reached: {why}")]
    Unreachable { why: String },
    #[error("the forge failed on {what}: status {status}")]
    Unavailable { what: String, status: u16 },
    #[error("the forge refused {what}: status {status}")]
    Refused { what: String, status: u16 },
    #[error("{what} is larger than {max} {unit}")]
    TooLarge { what: String, max: u64, unit: &'static str },
    #[error("the answer to {what} is not what the forge's description promises: {why}")]
    Invalid { what: String, why: String },
    #[error("{what} took longer than {seconds} s")]
    TooSlow { what: String, seconds: u64 },
    #[error("repository access is not usable: {field} {why}")]
    Access { field: &'static str, why: String },
    #[error("git failed at {step}: {why}")]
    Git { step: &'static str, why: String },
    #[error("git cannot be run: {why}")]
    NoGit { why: String },
}

impl From<ForgeFailure> for Failure {
    fn from(failure: ForgeFailure) -> Failure {
        let kind = match &failure {
            ForgeFailure::RateLimited { until } => FailureKind::RateLimited { until: *until },
            ForgeFailure::TooLarge { .. } => FailureKind::TooLarge,
            ForgeFailure::NotFound { .. } | ForgeFailure::Refused { .. } | ForgeFailure::Access { .. } => {
                FailureKind::Poison
            }
            // A token may have run out meanwhile: the next attempt has another one.
            ForgeFailure::Unauthorised { .. }
            | ForgeFailure::Unreachable { .. }
            | ForgeFailure::Unavailable { .. }
            | ForgeFailure::Invalid { .. }
            | ForgeFailure::TooSlow { .. }
            | ForgeFailure::Git { .. }
            | ForgeFailure::NoGit { .. } => FailureKind::Transient,
        };
        Failure::new(kind, failure.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_keep_their_kind() {
        let kind = |failure: ForgeFailure| Failure::from(failure).kind;
        let what = || "issue #7".to_owned();
        assert_eq!(
            kind(ForgeFailure::RateLimited { until: Timestamp(5) }),
            FailureKind::RateLimited { until: Timestamp(5) }
        );
        assert_eq!(kind(ForgeFailure::TooLarge { what: what(), max: 1, unit: "bytes" }), FailureKind::TooLarge);
        assert_eq!(kind(ForgeFailure::NotFound { what: what() }), FailureKind::Poison);
        assert_eq!(kind(ForgeFailure::Unavailable { what: what(), status: 502 }), FailureKind::Transient);
        assert_eq!(
            Failure::from(ForgeFailure::NotFound { what: what() }).message,
            "there is no issue #7, or it may not be read"
        );
    }
}
