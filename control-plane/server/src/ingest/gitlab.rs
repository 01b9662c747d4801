//! GitLab webhooks: one delivery, verified and turned into the attributes of a CloudEvent.
//!
//! ```text
//!  type     com.gitlab.<object_kind>[.<action or status>]     lane   <project>/mr/<iid>, /issue/<iid>, /<full ref>, /<kind>/<subject>
//!  source   the project's address                              id     Idempotency-Key, else X-Gitlab-Event-UUID and the body's hash
//! ```
//! GitLab gives one event UUID to everything that a webhook sets off in turn, so the UUID alone does not name a delivery; the key
//! that stays the same over retries does. Invariant: the data are the bytes as they came.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::HeaderMap;
use mindos_model::Timestamp;
use serde_json::Value;

use super::cloudevents::{ExtensionValue, IncomingEvent};
use super::github_table::{at, text};
use super::hook::{HookError, ID_MAX, Tokens, fingerprint, header, object, short};

const TOKEN: &str = "X-Gitlab-Token";
const EVENT: &str = "X-Gitlab-Event";
const EVENT_UUID: &str = "X-Gitlab-Event-UUID";
const KEY: &str = "Idempotency-Key";

/// Whether the sender may send; asked before the body is read.
///
/// # Errors
/// When the token is not one of those configured.
pub fn authorise(headers: &HeaderMap, tokens: &Tokens) -> Result<(), HookError> {
    let shown = headers.get(TOKEN).map(http::HeaderValue::as_bytes).unwrap_or_default();
    if tokens.verify(shown) { Ok(()) } else { Err(HookError::Denied { name: TOKEN.to_owned() }) }
}

/// Turns one delivery into an event.
///
/// # Errors
/// When a header is missing or the body is not an object of JSON.
pub fn normalise(headers: &HeaderMap, body: &Bytes) -> Result<IncomingEvent, HookError> {
    if header(headers, EVENT).is_none() {
        return Err(HookError::MissingHeader { name: EVENT.to_owned() });
    }
    let payload = object(headers, body)?;
    let kind_of_object = text(&payload, "object_kind").or_else(|| text(&payload, "event_name")).and_then(word);
    let object_kind = kind_of_object.ok_or(HookError::Field {
        field: "object_kind".to_owned(),
        accepted: "1 to 64 of a-z, A-Z, 0-9, _, - and .",
    })?;
    let project = text(&payload, "project.path_with_namespace").or_else(|| text(&payload, "project_path"));
    let project = project.and_then(short);
    let is_uri = |text: &String| !text.contains(char::is_whitespace);
    let source = ["project.web_url", "project.homepage", "repository.homepage", "group.web_url"];
    let source = source.iter().find_map(|path| text(&payload, path).and_then(short).filter(is_uri));
    let source = source.or_else(|| header(headers, "X-Gitlab-Instance").and_then(short).filter(is_uri));
    let source = source.unwrap_or_else(|| "https://gitlab.com".to_owned());
    let subject = subject(&object_kind, &payload);
    let lane = project.as_deref().and_then(|project| {
        let own = || short(format!("{project}/{object_kind}/{}", subject.as_deref()?));
        lane(&object_kind, &payload, project).or_else(own)
    });

    let mut extensions = BTreeMap::new();
    let mut extend = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            extensions.insert(name.to_owned(), ExtensionValue::String(value));
        }
    };
    let actor = ["user.username", "user_username", "user.name", "user_name"];
    extend("actor", actor.iter().find_map(|path| text(&payload, path).and_then(short)));
    extend("kind", kind(&object_kind, &payload).map(str::to_owned));
    extend("lane", lane.or_else(|| subject.clone()));
    extend("repository", project);
    Ok(IncomingEvent {
        id: id(headers, body)?,
        source,
        r#type: match action(&object_kind, &payload) {
            Some(action) => format!("com.gitlab.{object_kind}.{action}"),
            None => format!("com.gitlab.{object_kind}"),
        },
        subject,
        time: time(&payload),
        datacontenttype: Some("application/json".to_owned()),
        dataschema: None,
        extensions,
        data: body.clone(),
    })
}

fn id(headers: &HeaderMap, body: &Bytes) -> Result<String, HookError> {
    const ACCEPTED: &str = "1 to 128 visible ASCII characters";
    let named = |name: &str| match header(headers, name) {
        Some(text) if text.len() > ID_MAX || !text.bytes().all(|byte| byte.is_ascii_graphic()) => {
            Err(HookError::BadHeader { name: name.to_owned(), accepted: ACCEPTED })
        }
        text => Ok(text),
    };
    if let Some(key) = named(KEY)? {
        return Ok(key.to_owned());
    }
    let hash = fingerprint(body);
    Ok(named(EVENT_UUID)?.map_or_else(|| hash.clone(), |uuid| format!("{uuid}.{hash}")))
}

fn word(text: String) -> Option<String> {
    let fits = (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'));
    fits.then_some(text)
}

/// What happened to the object, by the member that its kind has for it.
fn action(object_kind: &str, payload: &Value) -> Option<String> {
    let path = match object_kind {
        "pipeline" => "object_attributes.status",
        "build" => "build_status",
        "deployment" => "status",
        "note" => "object_attributes.noteable_type",
        "release" | "emoji" => "action",
        _ => "object_attributes.action",
    };
    text(payload, path).and_then(word).map(|word| word.to_ascii_lowercase())
}

fn subject(object_kind: &str, payload: &Value) -> Option<String> {
    let paths: &[&str] = match object_kind {
        "push" | "tag_push" => &["ref"],
        "build" => &["build_id"],
        "deployment" => &["deployment_id"],
        "release" => &["tag"],
        "note" => &["object_attributes.id"],
        _ => &["object_attributes.iid", "object_attributes.id", "object_attributes.slug"],
    };
    paths.iter().find_map(|path| text(payload, path).and_then(short))
}

/// `<project>/mr/<iid>`, `<project>/issue/<iid>` or `<project>/<full ref>`; `None` for what has no such place.
fn lane(object_kind: &str, payload: &Value, project: &str) -> Option<String> {
    let number = |path: &str| at(payload, path).and_then(Value::as_u64);
    let request = |iid: u64| format!("{project}/mr/{iid}");
    let issue = |iid: u64| format!("{project}/issue/{iid}");
    let lane = match object_kind {
        "merge_request" => request(number("object_attributes.iid")?),
        "issue" | "work_item" => issue(number("object_attributes.iid")?),
        "note" | "emoji" | "pipeline" => match number("merge_request.iid") {
            Some(iid) => request(iid),
            None => issue(number("issue.iid")?),
        },
        "push" | "tag_push" => format!("{project}/{}", text(payload, "ref")?),
        _ => return None,
    };
    short(lane)
}

/// The stock table's word for a payload, if it has one.
fn kind(object_kind: &str, payload: &Value) -> Option<&'static str> {
    let is = |path: &str, value: &str| at(payload, path).and_then(Value::as_str) == Some(value);
    let listed = |path: &str| at(payload, path).and_then(Value::as_array).is_some_and(|items| !items.is_empty());
    let flag = |path: &str| at(payload, path).and_then(Value::as_bool);
    match object_kind {
        "merge_request" => match text(payload, "object_attributes.action")?.as_str() {
            "open" | "reopen" => Some("pr_created"),
            "merge" => Some("pr_merged"),
            "approved" | "unapproved" | "approval" | "unapproval" => Some("review_submitted"),
            "update"
                if flag("changes.draft.previous") == Some(true) && flag("changes.draft.current") == Some(false) =>
            {
                Some("pr_created")
            }
            "update" if listed("changes.reviewers.current") => Some("review_started"),
            _ => None,
        },
        "push" => Some("commit_graph"),
        "issue" if is("object_attributes.action", "open") || listed("changes.labels.current") => {
            Some("needs_attention")
        }
        "pipeline" if is("object_attributes.status", "failed") => Some("needs_attention"),
        // A job that may fail failed as it may.
        "build" if is("build_status", "failed") && flag("build_allow_failure") != Some(true) => Some("needs_attention"),
        _ => None,
    }
}

fn time(payload: &Value) -> Option<Timestamp> {
    const PATHS: [&str; 6] = [
        "object_attributes.finished_at",
        "object_attributes.updated_at",
        "object_attributes.created_at",
        "build_finished_at",
        "status_changed_at",
        "released_at",
    ];
    PATHS.iter().find_map(|path| read_time(&text(payload, path)?))
}

/// RFC 3339, or `2026-01-31 12:00:00 UTC` as older hooks have it.
fn read_time(text: &str) -> Option<Timestamp> {
    text.parse().ok().or_else(|| {
        let (date, rest) = text.strip_suffix(" UTC")?.split_once(' ')?;
        format!("{date}T{rest}Z").parse().ok()
    })
}

#[cfg(test)]
#[path = "gitlab_tests.rs"]
mod tests;
