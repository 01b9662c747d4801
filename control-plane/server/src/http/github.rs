//! `POST /webhooks/github`: deliveries of GitHub, verified, normalised, and answered once they are on stable storage.
//!
//! Invariant: a delivery is read only when it can be verified; without a secret nothing is taken, unless verification was switched
//! off, and then only from this machine.

use axum::Json;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode};
use mindos_model::Seq;
use tracing::debug;

use super::Http;
use super::body::Sender;
use super::error::HttpError;
use crate::grpc::status;
use crate::ingest::event::{accept_incoming, github_event};
use crate::ingest::github::{Delivered, GithubError, Normalised, Secrets, read};
use crate::ingest::github_trust::Logins;
use crate::net::Connection;
use crate::tasks::github::{Found, find};
use crate::tasks::receipt::receipt;
use crate::tasks::settings::TaskSettings;
use crate::trace::context::adopt;

/// Largest delivery: what GitHub itself sends at most.
const BODY_MAX: usize = 25 << 20;
/// Bodies above this are read on a thread that may take its time, so that others do not wait.
const INLINE_READ_MAX: usize = 256 << 10;

/// How deliveries are verified.
#[derive(Clone, Debug, Default)]
pub enum GithubAccess {
    /// Nothing is taken: no secret is configured.
    #[default]
    Closed,
    /// Signed under one of these.
    Signed(Secrets),
    /// Not at all, for trying things out; only from this machine.
    Unsigned,
}

/// Answers `POST /webhooks/github`.
pub(super) async fn post(http: &Http, peer: Option<&Connection>, headers: HeaderMap, body: Body) -> Response {
    match receive(http, peer, headers, body).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    }
}

async fn receive(
    http: &Http,
    peer: Option<&Connection>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, HttpError> {
    let access = http.settings.github.load_full();
    let secrets = match &*access {
        GithubAccess::Signed(secrets) => Some(secrets),
        GithubAccess::Unsigned if peer.is_some_and(|peer| peer.peer.ip().is_loopback()) => None,
        GithubAccess::Unsigned => {
            let message = "unsigned webhooks are taken from this machine only: configure a webhook secret";
            return Err(HttpError::with_code(StatusCode::FORBIDDEN, "WEBHOOK_UNSIGNED", message));
        }
        GithubAccess::Closed => {
            let message = "no webhook secret is configured: set MINDOS_GITHUB_SECRET or --github-secret-file to the secret \
                           of the webhook, or start with --webhooks-unsigned to try things out on this machine";
            return Err(HttpError::with_code(StatusCode::SERVICE_UNAVAILABLE, "WEBHOOK_SECRET_MISSING", message));
        }
    };
    http.context.room()?;
    let held = http.bodies.read(Sender::unproven(peer), &headers, body, BODY_MAX).await?;
    let sent_with = headers.clone();
    let (tasks, own) = (http.settings.tasks.load_full(), http.settings.own_logins.load());
    let wants_receipt = tasks.rules.as_ref().is_some_and(|rules| rules.receipt);
    let understood = if held.bytes.len() <= INLINE_READ_MAX {
        understand(&headers, &held.bytes, secrets, &tasks, &own)
    } else {
        let (secrets, bytes) = (secrets.cloned(), held.bytes.clone());
        let read = move || understand(&headers, &bytes, secrets.as_ref(), &tasks, &own);
        let read = tokio::task::spawn_blocking(read).await;
        read.map_err(|_| HttpError::from(status::internal("a webhook was not read")))?
    };
    let (delivery, found) = understood.map_err(|error| refused(&error))?;
    let routed = delivery.routed;
    debug!(id = delivery.id, r#type = delivery.r#type, "webhook received");
    let mut event = github_event(delivery);
    adopt(&sent_with, &mut event);
    let tenant = http.settings.doors.load().tenant("github");
    let event = http.inline(&tenant, event).await?;
    let event = accept_incoming(&tenant, event).map_err(|error| http.invalid(&error))?;
    let event = mindos_core::input::NewEvent { routed, ..event };
    let mut events = vec![event];
    if let Found::Task(wanted) = &found {
        let mut task = wanted.task.event(&wanted.origin, None);
        adopt(&sent_with, &mut task);
        events.push(accept_incoming(&tenant, task).map_err(|error| http.invalid(&error))?);
    }
    // Both or neither are answered for: what GitHub sends again brings what is missing of them.
    let mut results = http.publish(&tenant, events).await?.into_iter();
    let mut next = || results.next().unwrap_or_else(|| Err(status::internal("an answer is missing").into()));
    let mut published = next()?;
    match found {
        Found::Nothing => {}
        Found::Ignored(why) => {
            debug!(why = why.as_str(), "a task that was asked for on GitHub is not done");
            http.settings.task_counts.ignored(why);
            published["task_ignored"] = why.as_str().into();
        }
        Found::Task(wanted) => {
            let task = match next() {
                // Asked for before, in other words or by somebody else.
                Err(error) if error.code() == StatusCode::CONFLICT => {
                    serde_json::json!({ "id": wanted.task.id(None), "duplicate": true })
                }
                task => task?,
            };
            http.settings.task_counts.taken(task["duplicate"] == true);
            // Also of one that was there: whoever took it may have ended before the receipt.
            if wants_receipt
                && let Some(event) = task["event"].as_u64()
                && let Some(receipt) = receipt(&tenant, Seq(event), &wanted.task)
                && http.context.handle.offer([receipt]).is_err()
            {
                debug!("a receipt found no room");
            }
            published["task"] = task;
        }
    }
    // A ping asks whether somebody is there, and is answered so.
    let code = if routed { StatusCode::ACCEPTED } else { StatusCode::OK };
    Ok((code, Json(published)).into_response())
}

/// Reads a delivery, and what task it asks for.
fn understand(
    headers: &HeaderMap,
    body: &bytes::Bytes,
    secrets: Option<&Secrets>,
    tasks: &TaskSettings,
    own: &Logins,
) -> Result<(Normalised, Found), GithubError> {
    let Delivered { delivery, event, payload } = read(headers, body, secrets, own)?;
    let rules = tasks.rules.as_ref();
    let found = rules.map_or(Found::Nothing, |rules| find(&event, &payload, &delivery.origin, own, rules));
    Ok((delivery, found))
}

fn refused(error: &GithubError) -> HttpError {
    let code = StatusCode::from_u16(error.http_status()).unwrap_or(StatusCode::BAD_REQUEST);
    let reason = match code {
        StatusCode::UNAUTHORIZED => "SIGNATURE_INVALID",
        StatusCode::UNSUPPORTED_MEDIA_TYPE => "CONTENT_TYPE_UNSUPPORTED",
        _ => "WEBHOOK_MALFORMED",
    };
    HttpError::with_code(code, reason, error.to_string())
}
