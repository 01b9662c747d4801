//! Refusals of who takes more than is allowed, as both kinds of callers read them: RESOURCE_EXHAUSTED, and 429 over HTTP.

use std::sync::Arc;
use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, header};
use mindos_model::TenantName;

use crate::grpc::status;
use crate::http::HttpError;

/// Whose allowance is used up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    Address,
    Principal(Arc<str>),
    Tenant(TenantName),
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Subject::Address => f.write_str("address"),
            Subject::Principal(name) => write!(f, "principal:{name}"),
            Subject::Tenant(name) => write!(f, "tenant:{name}"),
        }
    }
}

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{subject} is at its limit of {what}: try again in {} ms", retry.as_millis())]
pub struct Refusal {
    /// Reason in the words of an `ErrorInfo`.
    pub reason: &'static str,
    pub subject: Subject,
    /// What there is too much of.
    pub what: &'static str,
    /// When there is room again.
    pub retry: Duration,
}

impl Refusal {
    /// As an answer to a request, of gRPC or not.
    #[must_use]
    pub fn response(&self, by_grpc: bool) -> Response {
        let status = status::at_limit(self);
        if by_grpc {
            return tonic::Status::from(status).into_http();
        }
        HttpError::new(status).into_response()
    }

    /// As [`Self::response`], and the connection ends with it where it is one of HTTP/1.
    #[must_use]
    pub fn last_response(&self, by_grpc: bool) -> Response {
        let mut response = self.response(by_grpc);
        if !by_grpc {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// Whether a request is one of gRPC.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

#[cfg(test)]
mod tests {
    use mindos_proto::rpc::{ErrorInfo, QuotaFailure, RetryInfo, Status};

    use super::*;

    fn refusal() -> Refusal {
        Refusal {
            reason: "REQUEST_RATE",
            subject: Subject::Principal("token:7".into()),
            what: "requests",
            retry: Duration::from_millis(1500),
        }
    }

    #[test]
    fn both_kinds_of_callers_are_told_when_to_try_again() {
        let http = refusal().last_response(false);
        assert_eq!((http.status().as_u16(), &http.headers()["retry-after"]), (429, &HeaderValue::from_static("2")));
        assert_eq!(http.headers()["connection"], "close");

        let grpc = refusal().response(true);
        let status = tonic::Status::from_header_map(grpc.headers()).unwrap();
        assert_eq!(status.code(), tonic::Code::ResourceExhausted);
        let status = Status::from(&status);
        assert_eq!(status.detail::<ErrorInfo>().unwrap().reason, "REQUEST_RATE");
        assert_eq!(status.detail::<QuotaFailure>().unwrap().violations[0].subject, "principal:token:7");
        assert!(status.detail::<RetryInfo>().is_some());
    }
}
