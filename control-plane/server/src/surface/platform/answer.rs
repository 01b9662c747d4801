//! Answers in the shape of the earlier system.

use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::{Map, Value, json};

use crate::http::HttpError;

/// `{"success":true,"message":..,"data":..}`.
pub(super) fn done(code: StatusCode, message: &str, data: Value) -> Response {
    json_body(code, &json!({ "success": true, "message": message, "data": data }))
}

/// `{"success":false,"message":..}`.
pub(super) fn refused(code: StatusCode, message: &str) -> Response {
    json_body(code, &json!({ "success": false, "message": message }))
}

/// A refusal of the API in this surface's shape.
pub(super) fn of(error: &HttpError) -> Response {
    let shown = error.to_json();
    let message = shown["message"].as_str().unwrap_or_default();
    let mut response = refused(error.code(), message);
    if let Some(seconds) = error.retry_after() {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

pub(super) fn json_body(code: StatusCode, body: &Value) -> Response {
    (code, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

fn plain(code: StatusCode, text: String) -> Response {
    (code, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response()
}

/// A wrong member: 422 in plain text.
pub(super) fn unprocessable(reason: &str) -> Response {
    plain(
        StatusCode::UNPROCESSABLE_ENTITY,
        format!("Failed to deserialize the JSON body into the target type: {reason}"),
    )
}

/// The refusal of a request that does not say that its body is JSON.
pub(super) fn not_json(headers: &HeaderMap) -> Option<Response> {
    let media = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media = media.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if media == "application/json" || media.starts_with("application/") && media.ends_with("+json") {
        return None;
    }
    let text = "Expected request with `Content-Type: application/json`".to_owned();
    Some(plain(StatusCode::UNSUPPORTED_MEDIA_TYPE, text))
}

/// The members of a body.
pub(super) fn object(body: &[u8]) -> Result<Map<String, Value>, Box<Response>> {
    match serde_json::from_slice(body) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(Box::new(unprocessable("expected an object"))),
        Err(error) => {
            let text = error.to_string();
            let reason = text.split(" at line ").next().unwrap_or_default();
            let (line, column) = (error.line(), error.column());
            let text = format!("Failed to parse the request body as JSON: {reason} at line {line} column {column}");
            Err(Box::new(plain(StatusCode::BAD_REQUEST, text)))
        }
    }
}
