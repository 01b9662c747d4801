//! Answers as the earlier services gave them: compact JSON, and refusals in their own words.

use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde::Serialize;

use crate::http::HttpError;

/// Says what was wrong, where the body's words are the contract's.
const DETAIL: HeaderName = HeaderName::from_static("x-mindos-error");

/// JSON without white space, with the fields in the order of their declaration.
pub(super) fn json(code: StatusCode, body: &impl Serialize) -> Response {
    let text = serde_json::to_vec(body).unwrap_or_else(|_| b"{}".to_vec());
    (code, [(header::CONTENT_TYPE, "application/json; charset=utf-8")], text).into_response()
}

/// A plain text.
pub(super) fn text(code: StatusCode, body: &'static str) -> Response {
    (code, [(header::CONTENT_TYPE, "text/html; charset=utf-8")], body).into_response()
}

/// A refusal: the contract's word for it, and what was wrong.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub(super) code: StatusCode,
    pub(super) word: &'static str,
    pub(super) detail: String,
    pub(super) retry_after: Option<i64>,
}

#[derive(Serialize)]
struct Body {
    error: &'static str,
}

impl Refusal {
    /// The request is malformed.
    pub(super) fn malformed(word: &'static str, detail: impl Into<String>) -> Refusal {
        Refusal { code: StatusCode::BAD_REQUEST, word, detail: detail.into(), retry_after: None }
    }

    /// A refusal of the API, in this surface's shape.
    pub(super) fn of(word: &'static str, error: &HttpError) -> Refusal {
        let detail = error.to_json()["message"].as_str().unwrap_or_default().to_owned();
        Refusal { code: error.code(), word, detail, retry_after: error.retry_after() }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Refusal { code, word, detail, retry_after } = self;
        let mut response = json(code, &Body { error: word });
        let printable: String = detail.chars().filter(|letter| matches!(letter, ' '..='~')).take(512).collect();
        if let Ok(value) = HeaderValue::from_str(&printable) {
            response.headers_mut().insert(DETAIL, value);
        }
        if let Some(seconds) = retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// `/health` of either service.
#[derive(Debug, Serialize)]
pub(super) struct Health {
    pub(super) status: &'static str,
    pub(super) service: &'static str,
    pub(super) timestamp: String,
}
