//! `POST /events`: CloudEvents in binary, structured or batched form, answered once they are on stable storage.
//!
//! Data too large for an event go into a blob, and the event names it in `dataref`. Invariant: the answer is 202 only when every
//! event of the request was accepted; a request that is sent again comes back with `duplicate` set.

use axum::Json;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use mindos_core::input::NewEvent;
use mindos_core::output::{Published, Reply};
use mindos_model::TenantName;
use mindos_model::limits::{INLINE_MAX, MESSAGE_MAX};
use mindos_proto::rpc;
use serde_json::{Value, json};
use tracing::error;

use super::Http;
use super::body::Sender;
use super::error::HttpError;
use crate::admission::Verdict;
use crate::blobs::{Announced, BlobError};
use crate::grpc::status;
use crate::ingest::cloudevents::{self, CloudEventError, ExtensionValue, IncomingEvent, Mode};
use crate::ingest::event::{EventError, accept_incoming};
use crate::ingest::redact;
use crate::logging::Chain;

/// Data above this go into a blob: what is left of the limit holds the attributes.
const DATA_MAX: usize = INLINE_MAX - 32 * 1024;

/// Answers `POST /events`.
pub(super) async fn post(http: &Http, request: http::Request<Body>) -> Response {
    match receive(http, request).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    }
}

async fn receive(http: &Http, request: http::Request<Body>) -> Result<Response, HttpError> {
    let (parts, body) = request.into_parts();
    let context = http.scoped(&parts.extensions)?;
    let headers = parts.headers;
    http.context.room()?;
    let held = http.bodies.read(Sender::Known, &headers, body, MESSAGE_MAX).await?;
    let received = cloudevents::receive(&headers, &held.bytes).map_err(|error| refused(&error))?;
    let mut events = Vec::with_capacity(received.events.len());
    for (index, event) in received.events.into_iter().enumerate() {
        // Before its data are kept for anybody.
        context.granted_source(&event.source)?;
        let event = http.inline(context.tenant(), event).await?;
        let accepted = accept_incoming(context.tenant(), event);
        let accepted = accepted.map_err(|error| http.invalid(&error));
        events.push(accepted.map_err(|error: HttpError| match received.mode {
            Mode::Batched => at(index, &error),
            Mode::Binary | Mode::Structured => error,
        })?);
    }
    let mut results = http.publish(context.tenant(), events).await?;
    if received.mode != Mode::Batched {
        let published = results.pop().unwrap_or_else(|| Err(status::internal("an answer is missing").into()))?;
        return Ok((StatusCode::ACCEPTED, Json(published)).into_response());
    }
    let first_error = results.iter().find_map(|result| result.as_ref().err()).cloned();
    let results: Vec<Value> =
        results.into_iter().map(|result| result.unwrap_or_else(|error| json!({ "error": error.to_json() }))).collect();
    let body = json!({ "results": results });
    Ok(match first_error {
        None => (StatusCode::ACCEPTED, Json(body)).into_response(),
        Some(error) => error.into_response_with(body),
    })
}

fn refused(error: &CloudEventError) -> HttpError {
    let code = StatusCode::from_u16(error.http_status()).unwrap_or(StatusCode::BAD_REQUEST);
    let reason = match code {
        StatusCode::UNSUPPORTED_MEDIA_TYPE => "CONTENT_TYPE_UNSUPPORTED",
        StatusCode::PAYLOAD_TOO_LARGE => "BATCH_TOO_LONG",
        _ => "EVENT_MALFORMED",
    };
    HttpError::with_code(code, reason, error.to_string())
}

fn at(index: usize, error: &HttpError) -> HttpError {
    let message = error.to_json()["message"].as_str().unwrap_or_default().to_owned();
    HttpError::with_code(error.code(), "EVENT_MALFORMED", format!("event {index} of the batch: {message}"))
}

impl Http {
    /// The event with its data in a blob, where they are too large to stand in it.
    pub(super) async fn inline(
        &self,
        tenant: &TenantName,
        mut event: IncomingEvent,
    ) -> Result<IncomingEvent, HttpError> {
        if event.data.len() <= DATA_MAX {
            return Ok(event);
        }
        if redact::covers(&event.source, &event.r#type) {
            // Nothing of them is to be on the disk, and in a blob nobody would look for it.
            event.data = redact::whole().into();
            event.datacontenttype = Some("application/json".to_owned());
            let said = ExtensionValue::String("data".to_owned());
            event.extensions.insert(redact::EXTENSION.to_owned(), said);
            return Ok(event);
        }
        let (blobs, data) = (std::sync::Arc::clone(&self.blobs), std::mem::take(&mut event.data));
        let content_type = event.datacontenttype.clone().unwrap_or_default();
        let announced =
            Announced { blob: None, length: Some(data.len() as u64), content_type, tenant: Some(tenant.clone()) };
        let stored = tokio::task::spawn_blocking(move || {
            let mut writer = blobs.begin(announced)?;
            writer.write(&data)?;
            writer.finish()
        });
        let stored = match stored.await {
            Ok(Ok(stored)) => stored,
            Ok(Err(BlobError::Quota { .. })) => return Err(status::disk_full().into()),
            Ok(Err(error)) => return Err(failed(&error)),
            Err(error) => return Err(failed(&error)),
        };
        event.extensions.insert("dataref".to_owned(), ExtensionValue::String(stored.blob.to_string()));
        Ok(event)
    }

    /// Publishes events and waits for all answers, in their order.
    pub(super) async fn publish(
        &self,
        tenant: &TenantName,
        mut events: Vec<NewEvent>,
    ) -> Result<Vec<Result<Value, HttpError>>, HttpError> {
        if events.is_empty() {
            return Ok(Vec::new());
        }
        let mut exceeded = Vec::with_capacity(events.len());
        for event in &mut events {
            self.context.recall(event).await;
            let refused = match self.context.quota(event) {
                Ok(()) => self.context.hear(event).await.err(),
                Err(error) => Some(error),
            };
            exceeded.push(refused);
        }
        let mut within = exceeded.iter().map(Option::is_none);
        events.retain(|_| within.next().unwrap_or(true));
        let mut offered = self.offer(tenant, events).await?.into_iter();
        let one = |exceeded: Option<rpc::Status>| match exceeded {
            Some(exceeded) => Err(exceeded.into()),
            None => offered.next().unwrap_or_else(|| Err(status::internal("an answer is missing").into())),
        };
        Ok(exceeded.into_iter().map(one).collect())
    }

    /// A malformed event as a refusal.
    pub(super) fn invalid(&self, error: &EventError) -> HttpError {
        self.context.handle.admission().count(Verdict::Invalid);
        status::event(error).into()
    }

    async fn offer(
        &self,
        tenant: &TenantName,
        mut events: Vec<NewEvent>,
    ) -> Result<Vec<Result<Value, HttpError>>, HttpError> {
        if events.is_empty() {
            return Ok(Vec::new());
        }
        let stopped = |stopped| HttpError::from(status::stopped(stopped));
        self.context.judge_alike(&mut events).await.map_err(stopped)?;
        let mut pending = self.context.handle.publish(events).await.map_err(stopped)?;
        let mut answers = pending.answers().await.map_err(stopped)?;
        self.context.settle_unjudged(&mut answers).await.map_err(stopped)?;
        let mut shown = Vec::with_capacity(answers.len());
        for answer in answers {
            shown.push(match answer {
                Ok(Reply::Published(published)) => Ok(show(&self.context.first_answer(tenant, published).await)),
                Ok(_) => Err(status::internal("the plane gave an answer of another kind").into()),
                Err(rejection) => Err(status::rejection(&rejection).into()),
            });
        }
        Ok(shown)
    }
}

fn failed(error: &(dyn std::error::Error + 'static)) -> HttpError {
    error!(error = %Chain(error), "large data were not stored");
    status::internal("large data were not stored").into()
}

fn show(published: &Published) -> Value {
    let deliveries = published.deliveries.iter().map(|delivery| {
        let mut shown = json!({ "delivery": delivery.delivery.to_string() });
        if let Some(general) = &delivery.general {
            shown["general"] = json!({ "cluster": general.cluster.as_str(), "name": general.name.as_str() });
        }
        if let Some(reason) = delivery.parked {
            shown["parked"] = json!(reason.as_str());
        }
        shown
    });
    json!({
        "event": published.event.0,
        "duplicate": published.duplicate,
        "route": published.route.as_ref().map(|route| route.as_str()),
        "deliveries": deliveries.collect::<Vec<_>>(),
    })
}
