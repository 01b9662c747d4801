//! Why a command failed, and the exit code that says so.
//!
//! ```text
//!  0 done   1 failure of the world   2 usage   3 refused   4 not found   5 verification failed
//! ```
//! Invariant: every failure is one line that names the thing, and where there is one, a second that says what to do next.

use std::fmt;

use mindos_proto::rpc;
use serde_json::json;
use tonic::Code;

/// What kind of failure; its number is the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    World = 1,
    Usage = 2,
    Refused = 3,
    NotFound = 4,
    Verification = 5,
}

impl Kind {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Kind::World => "failure",
            Kind::Usage => "usage",
            Kind::Refused => "refused",
            Kind::NotFound => "not_found",
            Kind::Verification => "verification_failed",
        }
    }
}

/// A command that did not do what it was asked to.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) kind: Kind,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

impl Failure {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Failure {
        Failure { kind, message: message.into(), hint: None }
    }

    pub(crate) fn world(message: impl Into<String>) -> Failure {
        Failure::new(Kind::World, message)
    }

    pub(crate) fn usage(message: impl Into<String>) -> Failure {
        Failure::new(Kind::Usage, message)
    }

    pub(crate) fn refused(message: impl Into<String>) -> Failure {
        Failure::new(Kind::Refused, message)
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Failure {
        Failure::new(Kind::NotFound, message)
    }

    pub(crate) fn verification(message: impl Into<String>) -> Failure {
        Failure::new(Kind::Verification, message)
    }

    /// The same failure, with what to do next.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Failure {
        self.hint = Some(hint.into());
        self
    }

    /// The process's exit code.
    pub(crate) fn code(&self) -> u8 {
        self.kind as u8
    }

    pub(crate) fn to_json(&self) -> serde_json::Value {
        json!({"error": {"code": self.code(), "kind": self.kind.as_str(), "message": self.message, "hint": self.hint}})
    }

    /// What a status of gRPC means for the exit code.
    pub(crate) fn from_status(status: &tonic::Status, server: &str) -> Failure {
        let kind = match status.code() {
            Code::NotFound => Kind::NotFound,
            Code::InvalidArgument
            | Code::AlreadyExists
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::Aborted
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::ResourceExhausted => Kind::Refused,
            Code::DataLoss => Kind::Verification,
            Code::Ok
            | Code::Cancelled
            | Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable => Kind::World,
        };
        if status.code() == Code::Unavailable && is_transport(status) {
            return Failure::unreachable(server);
        }
        let rich = rpc::Status::from(status);
        let mut message = status.message().to_owned();
        if message.is_empty() {
            message = format!("{server} answered {}", code_word(status.code()));
        }
        if let Some(request) = rich.detail::<rpc::BadRequest>() {
            for violation in request.field_violations {
                let named = format!("{}: {}", violation.field, violation.description);
                if !message.contains(&named) {
                    message = format!("{message}; {named}");
                }
            }
        }
        let hint = match status.code() {
            Code::Unavailable => Some("the control plane is stopping or starting; try again in a moment".to_owned()),
            Code::Unimplemented => Some(format!("{server} is another program, or an older release of Mind OS")),
            Code::ResourceExhausted => rich
                .detail::<rpc::RetryInfo>()
                .and_then(|retry| retry.retry_delay.map(|delay| format!("try again in {} s", delay.seconds.max(1)))),
            Code::Unauthenticated => {
                Some("sign in with `mindos auth login`, or name a token with --token-file".to_owned())
            }
            Code::PermissionDenied => {
                Some("`mindos auth whoami` shows who you are there, and what your roles are".to_owned())
            }
            Code::Aborted => Some("it was changed meanwhile: read it again and repeat".to_owned()),
            _ => None,
        };
        Failure { kind, message, hint }
    }

    /// Nothing answers at the server's address.
    pub(crate) fn unreachable(server: &str) -> Failure {
        Failure::world(format!("cannot reach {server}: is a control plane running?"))
            .hint("start one with `mindos up`, or name another with --endpoint or MINDOS_SERVER")
    }
}

fn is_transport(status: &tonic::Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if error.is::<tonic::transport::Error>() || error.is::<std::io::Error>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// The name of a code, as gRPC writes it.
pub(crate) fn code_word(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        Failure::world(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_tells_refusal_absence_and_failure_apart() {
        let kind = |code| Failure::from_status(&tonic::Status::new(code, "x"), "http://s").kind;
        assert_eq!(kind(Code::NotFound), Kind::NotFound);
        assert_eq!(kind(Code::FailedPrecondition), Kind::Refused);
        assert_eq!(kind(Code::Internal), Kind::World);
        assert_eq!(kind(Code::DataLoss), Kind::Verification);
    }

    #[test]
    fn violations_of_fields_are_named() {
        let violation =
            rpc::bad_request::FieldViolation { field: "event.id".to_owned(), description: "is required".to_owned() };
        let status = rpc::Status::new(3, "bad event").with(rpc::BadRequest { field_violations: vec![violation] });
        let failure = Failure::from_status(&status.into(), "http://s");
        assert_eq!(failure.message, "bad event; event.id: is required");
    }
}
