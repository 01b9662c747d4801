//! The aggregator's paths, on a listener of their own, and those of the gateway before it.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{MatchedPath, State};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use mindos_model::{TenantName, Timestamp};
use serde::Serialize;
use serde_json::{Map, Value};
use tower::ServiceExt;

use super::answer::{Refusal, json, text};
use super::plain::PlainEvent;
use super::sources::{Listener, guard};
use super::{Gitlens, event};
use crate::grpc::status;
use crate::http::HttpError;
use crate::ingest::alertmanager;
use crate::ingest::event::accept_incoming;

/// What the older gateway said of a signature that is not good.
const BAD_SIGNATURE: &str = "bad sig";
const EVENT_WORD: &str = "Failed to process event";
const WEBHOOK_WORD: &str = "Failed to process webhook";

#[derive(Clone, Debug)]
struct Aggregator {
    gitlens: Arc<Gitlens>,
    /// The API's HTTP side, for paths that go by other names there.
    api: Router,
}

type Shared = State<Arc<Aggregator>>;

/// The paths. `api` is what answers HTTP on the API's listener.
pub fn router(gitlens: Arc<Gitlens>, api: Router) -> Router {
    let guarded = gitlens.guard(Listener::Aggregator);
    let aggregator = Arc::new(Aggregator { gitlens, api });
    Router::new()
        .route("/health", get(async |State(here): Shared| here.gitlens.health("gitlens-aggregator")))
        .route("/stats", get(async |State(here): Shared| here.gitlens.stats().await))
        .route(
            "/events",
            post(async |State(here): Shared, headers: HeaderMap, body: Body| {
                let gitlens = &here.gitlens;
                match gitlens.post(&headers, body, EVENT_WORD, event::check).await {
                    Ok(event_id) => {
                        let message = "Event received and forwarded to Mind OS";
                        json(StatusCode::ACCEPTED, &Received { message, event_id })
                    }
                    Err(refusal) => refusal.into_response(),
                }
            }),
        )
        .route(
            "/webhook/gitlens",
            post(async |State(here): Shared, headers: HeaderMap, body: Body| {
                match here.gitlens.post(&headers, body, WEBHOOK_WORD, event::check_webhook).await {
                    Ok(_) => json(StatusCode::OK, &Processed { message: "Webhook processed" }),
                    Err(refusal) => refusal.into_response(),
                }
            }),
        )
        .route(
            "/event",
            post(async |State(here): Shared, headers: HeaderMap, body: Body| {
                match here.gitlens.post(&headers, body, EVENT_WORD, event::check).await {
                    Ok(_) => text(StatusCode::OK, "ok"),
                    Err(refusal) if refusal.code == StatusCode::UNAUTHORIZED => {
                        text(StatusCode::UNAUTHORIZED, BAD_SIGNATURE)
                    }
                    Err(refusal) => refusal.into_response(),
                }
            }),
        )
        .route("/alert", post(async |State(here): Shared, request: Request<Body>| here.alert(request).await))
        .route("/git", post(async |State(here): Shared, request: Request<Body>| here.github(request).await))
        .route("/webhooks/github", post(async |State(here): Shared, request: Request<Body>| here.github(request).await))
        .with_state(aggregator)
        .layer(from_fn_with_state(guarded, guard))
}

#[derive(Serialize)]
struct Received {
    message: &'static str,
    event_id: String,
}

#[derive(Serialize)]
struct Processed {
    message: &'static str,
}

#[derive(Serialize)]
struct Stats {
    total_events: u64,
    event_types: BTreeMap<String, u64>,
    recent_events: Vec<PlainEvent>,
}

/// Reads one form of event.
type Check = fn(&Map<String, Value>, Timestamp) -> Result<event::Checked, String>;

impl Gitlens {
    /// Takes an event; returns the id that its sender is told.
    async fn post(&self, headers: &HeaderMap, body: Body, word: &'static str, check: Check) -> Result<String, Refusal> {
        let of = |error: &HttpError| Refusal::of(word, error);
        let held = self.read(headers, body).await.map_err(|error| of(&error))?;
        if !self.settings.load().access.admits(headers, &held.bytes) {
            let detail = "the signature is missing or not that of the body".to_owned();
            return Err(Refusal { code: StatusCode::UNAUTHORIZED, word: BAD_SIGNATURE, detail, retry_after: None });
        }
        let now = self.context.handle.now();
        let malformed = |detail: String| Refusal::malformed(word, detail);
        let checked = check(&event::object(&held.bytes).map_err(malformed)?, now).map_err(malformed)?;
        let event_id = format!("{}-{}", checked.plain.kind, now.0);
        let incoming = checked.into_incoming(headers, "", now);
        let event = accept_incoming(&TenantName::default_tenant(), incoming)
            .map_err(|error| of(&HttpError::from(status::event(&error))))?;
        self.publish(event).await.map_err(|error| of(&error))?;
        Ok(event_id)
    }

    /// Takes the alerts of one message.
    async fn alerts(&self, headers: &HeaderMap, body: &Bytes) -> Result<(), Refusal> {
        let events = alertmanager::normalise(headers, body)
            .map_err(|error| Refusal::malformed(EVENT_WORD, error.to_string()))?;
        for incoming in events {
            let event = accept_incoming(&TenantName::default_tenant(), incoming)
                .map_err(|error| HttpError::from(status::event(&error)));
            let published = match event {
                Ok(event) => self.publish(event).await.map(drop),
                Err(error) => Err(error),
            };
            match published {
                // Its annotations have moved on since it was told: the alert is the same.
                Err(error) if error.code() != StatusCode::CONFLICT => return Err(Refusal::of(EVENT_WORD, &error)),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    async fn stats(&self) -> Response {
        self.caught_up().await;
        let shown = self.board.show();
        let stats = Stats { total_events: shown.total_events, event_types: shown.types, recent_events: shown.events };
        json(StatusCode::OK, &stats)
    }
}

impl Aggregator {
    /// A delivery of GitHub, in the words of the older gateway.
    async fn github(&self, request: Request<Body>) -> Response {
        plainly(self.pass("/webhooks/github", request).await)
    }

    /// Alerts, signed as the older gateway wanted them.
    async fn alert(&self, request: Request<Body>) -> Response {
        let (mut parts, body) = request.into_parts();
        let held = match self.gitlens.read(&parts.headers, body).await {
            Ok(held) => held,
            Err(error) => return Refusal::of(EVENT_WORD, &error).into_response(),
        };
        let settings = self.gitlens.settings.load_full();
        if !settings.access.admits(&parts.headers, &held.bytes) {
            return text(StatusCode::UNAUTHORIZED, BAD_SIGNATURE);
        }
        if settings.access.is_signed() {
            return match self.gitlens.alerts(&parts.headers, &held.bytes).await {
                Ok(()) => text(StatusCode::OK, "ok"),
                Err(refusal) => refusal.into_response(),
            };
        }
        // Nothing is signed here: the API's own door decides.
        parts.headers.remove(header::TRANSFER_ENCODING);
        parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(held.bytes.len()));
        plainly(self.pass("/webhooks/alertmanager", Request::from_parts(parts, Body::from(held.bytes.clone()))).await)
    }

    async fn pass(&self, path: &'static str, request: Request<Body>) -> Response {
        let (mut parts, body) = request.into_parts();
        parts.uri = http::Uri::from_static(path);
        // The API's router would put its own path behind that of this one.
        parts.extensions.remove::<MatchedPath>();
        match self.api.clone().oneshot(Request::from_parts(parts, body)).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

/// `ok` and `bad sig` instead of JSON; other refusals stay as they are.
fn plainly(response: Response) -> Response {
    match response.status() {
        status if status.is_success() => text(StatusCode::OK, "ok"),
        StatusCode::UNAUTHORIZED => text(StatusCode::UNAUTHORIZED, BAD_SIGNATURE),
        _ => response,
    }
}
