//! Refusals over HTTP: `google.rpc.Status` in its JSON form, with the status code that says the same.
//!
//! ```text
//! {"error": {"code": 429, "message": "..", "status": "RESOURCE_EXHAUSTED", "details": [{"@type": "..", ..}]}}
//! ```
//! Invariant: who is to try again is told when, in the body and in `Retry-After`.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use mindos_proto::rpc::{BadRequest, ErrorInfo, PreconditionFailure, QuotaFailure, ResourceInfo, RetryInfo, Status};
use prost::Name;
use serde_json::{Value, json};
use tonic::Code;

use crate::limits::Why;

/// A refusal with its status code.
#[derive(Clone, Debug)]
pub struct HttpError {
    code: StatusCode,
    status: Status,
}

impl HttpError {
    /// A refusal whose code follows from the status.
    #[must_use]
    pub fn new(status: Status) -> HttpError {
        let code = match status.detail::<ErrorInfo>().as_ref().map(|info| info.reason.as_str()) {
            Some("EVENT_TOO_LARGE") => StatusCode::PAYLOAD_TOO_LARGE,
            Some("NO_GENERAL") => StatusCode::SERVICE_UNAVAILABLE,
            _ => http_code(Code::from_i32(status.code)),
        };
        HttpError { code, status }
    }

    /// A refusal with a code of its own.
    #[must_use]
    pub fn with_code(code: StatusCode, reason: &str, message: impl Into<String>) -> HttpError {
        let grpc = match code {
            StatusCode::UNAUTHORIZED => Code::Unauthenticated,
            StatusCode::FORBIDDEN => Code::PermissionDenied,
            StatusCode::NOT_FOUND => Code::NotFound,
            StatusCode::REQUEST_TIMEOUT => Code::DeadlineExceeded,
            StatusCode::SERVICE_UNAVAILABLE => Code::Unavailable,
            code if code.is_server_error() => Code::Internal,
            _ => Code::InvalidArgument,
        };
        HttpError { code, status: Status::new(grpc as i32, message).with_reason(reason, []) }
    }

    /// The status code.
    #[must_use]
    pub fn code(&self) -> StatusCode {
        self.code
    }

    /// The refusal as JSON.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let details: Vec<Value> = self.status.details.iter().filter_map(detail).collect();
        let word = word(Code::from_i32(self.status.code));
        let code = self.code.as_u16();
        json!({ "code": code, "message": self.status.message, "status": word, "details": details })
    }

    /// Seconds to wait before another try, rounded up.
    #[must_use]
    pub fn retry_after(&self) -> Option<i64> {
        let delay = self.status.detail::<RetryInfo>()?.retry_delay?;
        Some((delay.seconds + i64::from(delay.nanos > 0)).max(1))
    }

    /// The refusal with another body.
    #[must_use]
    pub fn into_response_with(self, body: Value) -> Response {
        let mut response = (self.code, Json(body)).into_response();
        if self.code == StatusCode::UNAUTHORIZED {
            // For whoever counts and paces them.
            let info = self.status.detail::<ErrorInfo>();
            response.extensions_mut().insert(info.map_or(Why::Other, |info| Why::from_reason(&info.reason)));
        }
        if let Some(seconds) = self.retry_after() {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.code == StatusCode::UNSUPPORTED_MEDIA_TYPE {
            // Bodies are taken in no other coding.
            response.headers_mut().insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        }
        if self.code.is_server_error()
            || matches!(
                self.code,
                StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_TIMEOUT | StatusCode::UNSUPPORTED_MEDIA_TYPE
            )
        {
            // What is left of the body is not read.
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

impl IntoResponse for HttpError {
    fn into_response(self) -> Response {
        let body = json!({ "error": self.to_json() });
        self.into_response_with(body)
    }
}

impl From<Status> for HttpError {
    fn from(status: Status) -> HttpError {
        HttpError::new(status)
    }
}

fn http_code(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::Cancelled | Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn word(code: Code) -> &'static str {
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

/// A detail in its JSON form; `None` for a type that is not known here.
fn detail(any: &prost_types::Any) -> Option<Value> {
    fn read<D: Name + Default>(any: &prost_types::Any) -> Option<D> {
        (any.type_url == D::type_url()).then(|| D::decode(any.value.as_slice()).ok()).flatten()
    }
    let mut value = if let Some(ErrorInfo { reason, domain, metadata }) = read(any) {
        json!({ "reason": reason, "domain": domain, "metadata": metadata })
    } else if let Some(RetryInfo { retry_delay }) = read(any) {
        let delay = retry_delay.unwrap_or_default();
        json!({ "retryDelay": format!("{}s", delay.seconds as f64 + f64::from(delay.nanos) / 1e9) })
    } else if let Some(QuotaFailure { violations }) = read(any) {
        let violations = violations.iter().map(|one| json!({ "subject": one.subject, "description": one.description }));
        json!({ "violations": violations.collect::<Vec<_>>() })
    } else if let Some(BadRequest { field_violations }) = read(any) {
        let violations =
            field_violations.iter().map(|one| json!({ "field": one.field, "description": one.description }));
        json!({ "fieldViolations": violations.collect::<Vec<_>>() })
    } else if let Some(PreconditionFailure { violations }) = read(any) {
        let one = |one: &mindos_proto::rpc::precondition_failure::Violation| json!({ "type": one.r#type, "subject": one.subject, "description": one.description });
        json!({ "violations": violations.iter().map(one).collect::<Vec<_>>() })
    } else if let Some(ResourceInfo { resource_type, resource_name, .. }) = read(any) {
        json!({ "resourceType": resource_type, "resourceName": resource_name })
    } else {
        return None;
    };
    value.as_object_mut()?.insert("@type".to_owned(), Value::from(any.type_url.as_str()));
    Some(value)
}

#[cfg(test)]
mod tests {
    use mindos_core::output::Rejection;
    use mindos_model::{RouteName, Seq};

    use super::*;
    use crate::grpc::status;

    #[test]
    fn what_is_full_says_when_to_try_again_in_both_places() {
        let route = RouteName::new("default").unwrap();
        let error = HttpError::new(status::rejection(&Rejection::BacklogFull { route, waiting: 7, max: 7 }));
        assert_eq!(error.retry_after(), Some(1));
        let body = error.to_json();
        assert_eq!((&body["code"], &body["status"]), (&json!(429), &json!("RESOURCE_EXHAUSTED")));
        let details = body["details"].as_array().unwrap();
        let of =
            |name: &str| details.iter().find(|one| one["@type"] == format!("type.googleapis.com/google.rpc.{name}"));
        assert_eq!(of("ErrorInfo").unwrap()["reason"], "BACKLOG_FULL");
        assert_eq!(of("RetryInfo").unwrap()["retryDelay"], "1s");
        assert_eq!(of("QuotaFailure").unwrap()["violations"][0]["subject"], "route:default");
        assert_eq!(error.into_response().headers()["retry-after"], "1");
    }

    #[test]
    fn a_route_without_a_general_is_503() {
        let route = RouteName::new("default").unwrap();
        let error = HttpError::new(status::rejection(&Rejection::NoGeneral { route }));
        assert_eq!(error.code(), StatusCode::SERVICE_UNAVAILABLE);
        let body = error.to_json();
        assert_eq!((&body["code"], &body["status"]), (&json!(503), &json!("FAILED_PRECONDITION")));
    }

    #[test]
    fn a_conflict_is_409() {
        let error = HttpError::new(status::rejection(&Rejection::Conflict { event: Seq(4) }));
        assert_eq!(error.code(), StatusCode::CONFLICT);
        assert_eq!(error.to_json()["details"][0]["metadata"]["event_seq"], "4");
    }
}
