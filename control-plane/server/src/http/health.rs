//! `/healthz` and `/readyz`: whether the process lives, and whether it wants work.
//!
//! The ports open once the journal has been folded, so whoever gets an answer asks a process that has recovered. It is ready
//! once the record of its epoch is durable: before that nothing that it is asked can be answered. With TLS it is ready as long as its
//! certificate is good.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde_json::json;

use crate::grpc::Context;

/// How far the process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Lives; its epoch is not on the disk yet.
    Starting,
    /// Takes work.
    Ready,
    /// Its certificate has expired: nobody can dial it.
    Expired,
    /// Finishes what it has, and takes no more.
    Draining,
    /// Cannot go on: the process is about to end.
    Failed,
}

fn phase(context: &Context) -> Phase {
    if context.handle.failure().is_some() {
        Phase::Failed
    } else if *context.draining.borrow() {
        Phase::Draining
    } else if !context.handle.has_begun() {
        Phase::Starting
    } else if context.tls.get().is_some_and(|tls| tls.not_after() <= tls.now()) {
        Phase::Expired
    } else {
        Phase::Ready
    }
}

pub(super) fn live(context: &Context) -> Response {
    let phase = phase(context);
    answer(phase, phase != Phase::Failed)
}

pub(super) fn ready(context: &Context) -> Response {
    let phase = phase(context);
    answer(phase, phase == Phase::Ready)
}

fn answer(phase: Phase, good: bool) -> Response {
    let word = match phase {
        Phase::Starting => "starting",
        Phase::Ready => "ready",
        Phase::Expired => "certificate expired",
        Phase::Draining => "draining",
        Phase::Failed => "failed",
    };
    let code = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(json!({ "status": word }))).into_response()
}
