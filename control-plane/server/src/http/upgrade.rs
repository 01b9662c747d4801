//! `POST /upgrade/finalize`: from here on this release may write records that older ones cannot read.
//!
//! Invariant: it is said for one release by name, so that a stray or repeated call finalizes nothing else.

use axum::Json;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use mindos_core::input::Input;
use mindos_core::output::Reply;
use serde::Deserialize;
use serde_json::json;

use super::Http;
use super::body::Sender;
use super::error::HttpError;
use crate::VERSION;
use crate::grpc::status;

/// A version and a name fit in.
const BODY_MAX: usize = 4096;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    version: String,
    /// What earlier releases took for the name of who says so. The principal counts.
    #[serde(default, rename = "by")]
    _by: serde::de::IgnoredAny,
}

/// Answers `POST /upgrade/finalize`.
pub(super) async fn finalize(http: &Http, request: http::Request<Body>) -> Response {
    match record(http, request).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    }
}

async fn record(http: &Http, request: http::Request<Body>) -> Result<Response, HttpError> {
    let (parts, body) = request.into_parts();
    let context = http.scoped(&parts.extensions)?;
    let headers = &parts.headers;
    // Other types a browser would send to this machine for any page that asks it to.
    let is_json = |value: &http::HeaderValue| value.as_bytes().starts_with(b"application/json");
    if !headers.get(header::CONTENT_TYPE).is_some_and(is_json) {
        let message = "send application/json";
        return Err(HttpError::with_code(StatusCode::UNSUPPORTED_MEDIA_TYPE, "CONTENT_TYPE_UNSUPPORTED", message));
    }
    let held = http.bodies.read(Sender::Known, headers, body, BODY_MAX).await?;
    let Wanted { version, _by } = serde_json::from_slice(&held.bytes).map_err(|error| {
        let message = format!("expected {{\"version\": \"{VERSION}\"}}: {error}");
        HttpError::with_code(StatusCode::BAD_REQUEST, "UPGRADE_MALFORMED", message)
    })?;
    if version != VERSION {
        let message = format!("this is release {VERSION}, not {version}");
        return Err(HttpError::with_code(StatusCode::CONFLICT, "OTHER_RELEASE", message));
    }
    let (by, from) = (context.by(), context.from());
    let finalize = |request| Input::FinalizeUpgrade { request, version: version.as_str().into(), by, from };
    match http.context.handle.call(finalize).await.map_err(|error| HttpError::from(status::call(&error)))? {
        Reply::Done { at } => Ok(Json(json!({ "version": version, "seq": at.0 })).into_response()),
        _ => Err(status::internal("the plane gave an answer of another kind").into()),
    }
}
