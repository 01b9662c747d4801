//! `POST /webhooks/gitlab`, `/webhooks/alertmanager` and `/webhooks/generic/<name>`: verified, normalised, and answered once what
//! they said is on stable storage.
//!
//! Invariant: as for GitHub, nothing is taken that cannot be verified, unless that was switched off, and then only from this machine.

use axum::Json;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use mindos_model::TenantName;
use serde_json::{Value, json};
use tracing::debug;

use super::Http;
use super::body::Sender;
use super::error::HttpError;
use crate::grpc::status;
use crate::ingest::cloudevents::IncomingEvent;
use crate::ingest::doors::Doors;
use crate::ingest::event::accept_incoming;
use crate::ingest::hook::{HookError, Tokens};
use crate::ingest::{alertmanager, gitlab};
use crate::net::Connection;
use crate::trace::context::adopt;

/// Largest body, as for GitHub.
const BODY_MAX: usize = 25 << 20;
/// Bodies above this are read on a thread that may take its time, so that others do not wait.
const INLINE_READ_MAX: usize = 256 << 10;

/// A request to one of the doors.
pub(super) struct Knock {
    pub peer: Option<Connection>,
    pub headers: HeaderMap,
    pub body: Body,
}

/// Answers `POST /webhooks/gitlab`.
pub(super) async fn gitlab(http: &Http, knock: Knock) -> Response {
    let doors = http.settings.doors.load_full();
    let received = async {
        let Knock { peer, headers, body } = knock;
        admit(&doors, doors.gitlab.as_ref(), "gitlab", peer.as_ref(), |tokens| gitlab::authorise(&headers, tokens))?;
        let events =
            read(http, Sender::Known, headers, body, |headers, body| Ok(vec![gitlab::normalise(headers, body)?]))
                .await?;
        http.take(&doors.tenant("gitlab"), events).await?.pop().unwrap_or_else(|| Err(missing()))
    };
    answer(received.await)
}

/// Answers `POST /webhooks/alertmanager`.
pub(super) async fn alertmanager(http: &Http, knock: Knock) -> Response {
    let doors = http.settings.doors.load_full();
    let received = async {
        let Knock { peer, headers, body } = knock;
        let tokens = doors.alertmanager.as_ref();
        let authorise = |tokens: &Tokens| alertmanager::authorise(&headers, tokens);
        admit(&doors, tokens, "alertmanager", peer.as_ref(), authorise)?;
        let events = read(http, Sender::Known, headers, body, alertmanager::normalise).await?;
        let mut results = Vec::with_capacity(events.len());
        for result in http.take(&doors.tenant("alertmanager"), events).await? {
            results.push(match result {
                // Its annotations have moved on since it was told: the alert is the same.
                Err(error) if error.code() == StatusCode::CONFLICT => json!({ "duplicate": true }),
                result => result?,
            });
        }
        Ok::<Value, HttpError>(json!({ "results": results }))
    };
    match received.await {
        // Alertmanager tries again after these alone.
        Err(error) if error.code() == StatusCode::TOO_MANY_REQUESTS => {
            let mut response = error.into_response();
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            response
        }
        received => answer(received),
    }
}

/// Answers `POST /webhooks/generic/<name>`.
pub(super) async fn generic(http: &Http, name: &str, knock: Knock) -> Response {
    let doors = http.settings.doors.load_full();
    let received = async {
        let Knock { peer, headers, body } = knock;
        let Some(hook) = doors.generic.get(name).cloned() else {
            let message = "no such webhook is configured: name it under `ingest` in the settings file";
            return Err(HttpError::with_code(StatusCode::NOT_FOUND, "WEBHOOK_UNKNOWN", message));
        };
        if hook.is_unsigned() {
            local(peer.as_ref())?;
        }
        let normalise = move |headers: &HeaderMap, body: &Bytes| Ok(vec![hook.normalise(headers, body)?]);
        let events = read(http, Sender::unproven(peer.as_ref()), headers, body, normalise).await?;
        let tenant = doors.tenant(&format!("generic/{name}"));
        http.take(&tenant, events).await?.pop().unwrap_or_else(|| Err(missing()))
    };
    answer(received.await)
}

fn answer(received: Result<Value, HttpError>) -> Response {
    match received {
        Ok(body) => (StatusCode::ACCEPTED, Json(body)).into_response(),
        Err(error) => error.into_response(),
    }
}

fn missing() -> HttpError {
    status::internal("an answer is missing").into()
}

/// Lets a sender in, or says why not, before the body is read.
fn admit(
    doors: &Doors,
    tokens: Option<&Tokens>,
    name: &str,
    peer: Option<&Connection>,
    authorise: impl Fn(&Tokens) -> Result<(), HookError>,
) -> Result<(), HttpError> {
    match tokens {
        Some(tokens) => authorise(tokens).map_err(|error| refused(&error)),
        None if doors.unsigned => local(peer),
        None => {
            let message = format!(
                "no secret is configured: set `{name}: {{secret: ..}}` in the settings file, or start with --webhooks-unsigned \
                 to try things out on this machine"
            );
            Err(HttpError::with_code(StatusCode::SERVICE_UNAVAILABLE, "WEBHOOK_SECRET_MISSING", message))
        }
    }
}

fn local(peer: Option<&Connection>) -> Result<(), HttpError> {
    if peer.is_some_and(|connection| connection.peer.ip().is_loopback()) {
        return Ok(());
    }
    let message = "unsigned webhooks are taken from this machine only: configure a secret";
    Err(HttpError::with_code(StatusCode::FORBIDDEN, "WEBHOOK_UNSIGNED", message))
}

/// Reads the body and what it says; a large one where nobody waits for it.
async fn read(
    http: &Http,
    sender: Sender,
    headers: HeaderMap,
    body: Body,
    normalise: impl Fn(&HeaderMap, &Bytes) -> Result<Vec<IncomingEvent>, HookError> + Send + 'static,
) -> Result<Vec<IncomingEvent>, HttpError> {
    http.context.room()?;
    let held = http.bodies.read(sender, &headers, body, BODY_MAX).await?;
    let sent_with = headers.clone();
    let read = if held.bytes.len() <= INLINE_READ_MAX {
        normalise(&headers, &held.bytes)
    } else {
        let bytes = held.bytes.clone();
        let read = tokio::task::spawn_blocking(move || normalise(&headers, &bytes)).await;
        read.map_err(|_| HttpError::from(status::internal("a webhook was not read")))?
    };
    let mut events = read.map_err(|error| refused(&error))?;
    events.iter_mut().for_each(|event| adopt(&sent_with, event));
    Ok(events)
}

fn refused(error: &HookError) -> HttpError {
    let code = StatusCode::from_u16(error.http_status()).unwrap_or(StatusCode::BAD_REQUEST);
    let reason = match code {
        StatusCode::UNAUTHORIZED => "SIGNATURE_INVALID",
        StatusCode::UNSUPPORTED_MEDIA_TYPE => "CONTENT_TYPE_UNSUPPORTED",
        StatusCode::PAYLOAD_TOO_LARGE => "BATCH_TOO_LONG",
        _ => "WEBHOOK_MALFORMED",
    };
    HttpError::with_code(code, reason, error.to_string())
}

impl Http {
    /// Publishes what a webhook said; an answer for each event, in order.
    async fn take(
        &self,
        tenant: &TenantName,
        incoming: Vec<IncomingEvent>,
    ) -> Result<Vec<Result<Value, HttpError>>, HttpError> {
        let mut events = Vec::with_capacity(incoming.len());
        for event in incoming {
            debug!(id = event.id, r#type = event.r#type, "webhook received");
            let event = self.inline(tenant, event).await?;
            let accepted = accept_incoming(tenant, event);
            events.push(accepted.map_err(|error| self.invalid(&error))?);
        }
        self.publish(tenant, events).await
    }
}
