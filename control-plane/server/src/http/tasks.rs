//! `/api/v1/tasks`: the task service in JSON, with the names of the coding agent's contract.
//!
//! ```text
//! POST   /api/v1/tasks            {"repo_url": "..", "mode": "plan", "issue_id": 7}  -> 201 {"seq": 42, "id": "o/n#7/plan", ..}, 200 when it was there
//! GET    /api/v1/tasks            ?repository=o/n&status=waiting&page_size=50&page_token=..
//! GET    /api/v1/tasks/{task}     by its sequence
//! DELETE /api/v1/tasks/{task}     cancels it
//! ```

use axum::Json;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use mindos_model::{Seq, Status};
use mindos_proto::convert::Invalid;
use mindos_proto::delivery::v1::{Delivery, DeliveryStatus, ParkReason};
use mindos_proto::rpc;
use mindos_proto::task::v1::{
    CancelTaskResponse, CommentKind, ListTasksRequest, ListTasksResponse, Mode, Task, TaskSpec,
};
use serde_json::{Map, Value, json};

use super::Http;
use super::body::Sender;
use super::error::HttpError;
use crate::grpc::{TaskKey, status};
use crate::tasks::task::{self, REQUEST_MAX, TaskError};

/// Largest wish: its longest field, escaped, and the others.
const BODY_MAX: usize = 6 * REQUEST_MAX + (64 << 10);

/// Answers `POST /api/v1/tasks`.
pub(super) async fn create(http: &Http, request: http::Request<Body>) -> Response {
    answer(create_one(http, request).await)
}

/// Answers `GET /api/v1/tasks`.
pub(super) async fn list(http: &Http, request: http::Request<Body>) -> Response {
    // A body is not for several threads.
    let (parts, _) = request.into_parts();
    let listed = async {
        let context = http.scoped(&parts.extensions)?;
        let asked = asked(parts.uri.query().unwrap_or_default()).map_err(|error| invalid(&error))?;
        let ListTasksResponse { tasks, next_page_token } = context.tasks(asked).await.map_err(of_grpc)?;
        let tasks: Vec<Value> = tasks.iter().map(shown).collect();
        Ok(Json(json!({ "tasks": tasks, "next_page_token": next_page_token })).into_response())
    };
    answer(listed.await)
}

/// Answers `GET /api/v1/tasks/{task}`.
pub(super) async fn show(http: &Http, task: &str, request: http::Request<Body>) -> Response {
    let (parts, _) = request.into_parts();
    let found = async {
        let context = http.scoped(&parts.extensions)?;
        let task = context.task(&key(task)?, true).await.map_err(of_grpc)?;
        Ok(Json(shown(&task)).into_response())
    };
    answer(found.await)
}

/// Answers `DELETE /api/v1/tasks/{task}`.
pub(super) async fn cancel(http: &Http, task: &str, request: http::Request<Body>) -> Response {
    let (parts, _) = request.into_parts();
    let cancelled = async {
        let context = http.scoped(&parts.extensions)?;
        let CancelTaskResponse { cancelled, requested, unchanged } =
            context.cancel_task(&key(task)?).await.map_err(of_grpc)?;
        let counts = json!({ "cancelled": cancelled, "requested": requested, "unchanged": unchanged });
        Ok(Json(counts).into_response())
    };
    answer(cancelled.await)
}

async fn create_one(http: &Http, request: http::Request<Body>) -> Result<Response, HttpError> {
    let (parts, body) = request.into_parts();
    let context = http.scoped(&parts.extensions)?;
    // Other types a browser would send to this machine for any page that asks it to.
    let is_json = |value: &http::HeaderValue| value.as_bytes().starts_with(b"application/json");
    if !parts.headers.get(header::CONTENT_TYPE).is_some_and(is_json) {
        let message = "send application/json";
        return Err(HttpError::with_code(StatusCode::UNSUPPORTED_MEDIA_TYPE, "CONTENT_TYPE_UNSUPPORTED", message));
    }
    let held = http.bodies.read(Sender::Known, &parts.headers, body, BODY_MAX).await?;
    let mut object: Map<String, Value> = serde_json::from_slice(&held.bytes).map_err(|error| {
        let text = error.to_string();
        let reason = text.split(" at line ").next().unwrap_or_default();
        let message =
            format!("the body is no JSON object: {reason} at line {}, column {}", error.line(), error.column());
        HttpError::with_code(StatusCode::BAD_REQUEST, "TASK_MALFORMED", message)
    })?;
    let repeat = match object.remove("repeat") {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(word)) => word,
        Some(_) => return Err(invalid(&TaskError { field: "repeat".into(), reason: "expected a string".into() })),
    };
    if let Some(name) = task::Task::unknown_member(&object) {
        let field = name.chars().take(64).collect();
        return Err(invalid(&TaskError { field, reason: "is not a member of a task".to_owned() }));
    }
    let wish = task::Task::read(&object, Some(&context.by())).map_err(|error| invalid(&error))?;
    let repeat = task::repeat(&repeat).map_err(|error| invalid(&error))?;
    let (task, duplicate) = context.create_task(&wish, repeat).await?;
    let mut shown = shown(&task);
    shown["duplicate"] = json!(duplicate);
    let code = if duplicate { StatusCode::OK } else { StatusCode::CREATED };
    let address = format!("/api/v1/tasks/{}", task.seq);
    Ok((code, [(header::LOCATION, address)], Json(shown)).into_response())
}

fn answer(answer: Result<Response, HttpError>) -> Response {
    answer.unwrap_or_else(IntoResponse::into_response)
}

fn invalid(error: &TaskError) -> HttpError {
    status::invalid(Invalid::new(&error.field, &error.reason)).into()
}

fn of_grpc(status: tonic::Status) -> HttpError {
    rpc::Status::from(&status).into()
}

fn key(task: &str) -> Result<TaskKey, HttpError> {
    let seq = task.parse().ok().filter(|seq| *seq > 0);
    let seq = seq.ok_or_else(|| invalid(&TaskError { field: "task".into(), reason: "expected its sequence".into() }));
    seq.map(|seq| TaskKey::Seq(Seq(seq)))
}

/// What the query of a list asks for.
fn asked(query: &str) -> Result<ListTasksRequest, TaskError> {
    let bad = |field: &str, reason: &str| TaskError { field: field.to_owned(), reason: reason.to_owned() };
    let mut asked = ListTasksRequest::default();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = decoded(value).ok_or_else(|| bad(name, "is not percent-encoded UTF-8"))?;
        match name {
            "repository" => asked.repository = value,
            "page_token" => asked.page_token = value,
            "page_size" => {
                asked.page_size = value.parse().map_err(|_| bad(name, "expected a number, 1 to 1000"))?;
            }
            "status" => {
                for word in value.split(',').filter(|word| !word.is_empty()) {
                    let status: Status = word
                        .parse()
                        .map_err(|_| bad(name, "expected waiting, leased, parked, succeeded or cancelled"))?;
                    asked.statuses.push(DeliveryStatus::from(status).into());
                }
            }
            _ => return Err(bad(name, "is not known: expected repository, status, page_size or page_token")),
        }
    }
    Ok(asked)
}

fn decoded(value: &str) -> Option<String> {
    let mut bytes = value.bytes();
    let mut decoded = Vec::with_capacity(value.len());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => {
                let high = char::from(bytes.next()?).to_digit(16)?;
                let low = char::from(bytes.next()?).to_digit(16)?;
                u8::try_from(high * 16 + low).ok()?
            }
            plain => plain,
        });
    }
    String::from_utf8(decoded).ok()
}

/// A task as JSON: the contract's names, and where it stands.
fn shown(task: &Task) -> Value {
    let Task { seq, id, spec, repository, status, created_at, deliveries } = task;
    let mut shown = spec.as_ref().map_or_else(|| json!({}), of_spec);
    shown["seq"] = json!(seq);
    shown["id"] = json!(id);
    shown["repository"] = json!(repository);
    shown["status"] = word(DeliveryStatus::try_from(*status).unwrap_or_default().as_str_name(), "DELIVERY_STATUS_");
    if let Some(at) = created_at.as_ref().and_then(|at| mindos_proto::convert::timestamp(at, "created_at").ok()) {
        shown["created_at"] = json!(at.to_string());
    }
    shown["deliveries"] = deliveries.iter().map(delivery).collect();
    shown
}

fn word(name: &str, prefix: &str) -> Value {
    match name.strip_prefix(prefix).unwrap_or(name) {
        "UNSPECIFIED" => Value::Null,
        name => json!(name.to_ascii_lowercase()),
    }
}

fn of_spec(spec: &TaskSpec) -> Value {
    let mode = Mode::try_from(spec.mode).unwrap_or_default();
    let kind = CommentKind::try_from(spec.comment_kind).unwrap_or_default();
    let number = |number: u64| if number == 0 { Value::Null } else { json!(number) };
    let text = |text: &str| if text.is_empty() { Value::Null } else { json!(text) };
    json!({
        "repo_url": spec.repo_url,
        "mode": word(mode.as_str_name(), "MODE_"),
        "trigger_user": spec.trigger_user,
        "issue_id": number(spec.issue_id),
        "pr_number": number(spec.pr_number),
        "pr_branch": text(&spec.pr_branch),
        "pr_title": text(&spec.pr_title),
        "base_branch": text(&spec.base_branch),
        "comment_id": number(spec.comment_id),
        "comment_kind": word(kind.as_str_name(), "COMMENT_KIND_"),
        "comment_url": text(&spec.comment_url),
        "refine_request": text(&spec.refine_request),
    })
}

fn delivery(delivery: &Delivery) -> Value {
    let status = DeliveryStatus::try_from(delivery.status).unwrap_or_default();
    let reason = ParkReason::try_from(delivery.park_reason).unwrap_or_default();
    let mut shown = json!({
        "delivery": delivery.delivery_id,
        "status": word(status.as_str_name(), "DELIVERY_STATUS_"),
        "attempts": delivery.attempts_used,
    });
    if let Some(general) = &delivery.general {
        shown["general"] = json!({ "cluster": general.cluster, "name": general.name });
    }
    if let word @ Value::String(_) = word(reason.as_str_name(), "PARK_REASON_") {
        shown["parked_for"] = word;
        shown["message"] = json!(delivery.park_message);
    }
    let progress = delivery.lease.as_ref().map(|lease| lease.progress.to_string()).filter(|text| !text.is_empty());
    if let Some(progress) = progress {
        shown["progress"] = json!(progress);
    }
    if let Some(output) = &delivery.output {
        let text = std::str::from_utf8(&output.data).ok();
        let json = text.and_then(|text| serde_json::from_str::<Value>(text).ok());
        shown["output"] = json.or_else(|| text.map(Value::from)).unwrap_or(Value::Null);
    }
    let usage = delivery.usage.iter().fold((0, 0, 0), |(input, output, cost), usage| {
        (input + usage.input_tokens, output + usage.output_tokens, cost + usage.cost_micros)
    });
    if usage != (0, 0, 0) {
        shown["usage"] = json!({ "input_tokens": usage.0, "output_tokens": usage.1, "cost_micros": usage.2 });
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_asked_for_by_known_names_alone() {
        let list = asked("repository=o%2Fn&status=waiting,parked&page_size=5").unwrap();
        assert_eq!((list.repository.as_str(), list.page_size, list.statuses.len()), ("o/n", 5, 2));
        for (query, field) in [
            ("repo=o", "repo"),
            ("status=done", "status"),
            ("page_size=x", "page_size"),
            ("repository=%4", "repository"),
        ] {
            assert_eq!(asked(query).unwrap_err().field, field, "{query}");
        }
    }
}
