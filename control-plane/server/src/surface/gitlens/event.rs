//! Events as clients of the contract send them, and what becomes of them: CloudEvents of this plane.
//!
//! Invariant: the same piece of news has the same id however often it is sent, where it says enough to be recognised: by a
//! delivery id, or by a time to the millisecond. Anything else is news each time.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::HeaderMap;
use mindos_model::Timestamp;
use mindos_model::limits::ATTRIBUTE_MAX;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::plain::{self, PlainEvent};
use crate::ingest::cloudevents::{ExtensionValue, IncomingEvent};
use crate::ingest::event::salt;

/// Headers that name one delivery, whatever its content.
const DELIVERY_IDS: [&str; 3] = ["x-gitlens-delivery", "x-github-delivery", "idempotency-key"];
/// How the types of such events begin.
const TYPE_PREFIX: &str = "com.gitlens.";

/// An event that was checked.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Checked {
    pub(super) plain: PlainEvent,
    /// The time is the sender's own, and finer than a second.
    precise: bool,
    time: Option<Timestamp>,
}

/// Reads a JSON object.
pub(super) fn object(body: &[u8]) -> Result<Map<String, Value>, String> {
    match serde_json::from_slice(body) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err("body: expected a JSON object".to_owned()),
        Err(error) => Err(format!("body: is not JSON: {error}")),
    }
}

/// Reads `{type, timestamp, repository, user, metadata}`; all but the type may be left out.
pub(super) fn check(event: &Map<String, Value>, now: Timestamp) -> Result<Checked, String> {
    let kind = text(event, "type")?.ok_or_else(|| format!("type: is missing: expected {TEXT}"))?;
    let given = text(event, "timestamp")?;
    let time = match &given {
        None => None,
        Some(text) => Some(text.parse::<Timestamp>().map_err(|error| format!("timestamp: {error}"))?),
    };
    let metadata = match event.get("metadata") {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(metadata)) => metadata.clone(),
        Some(_) => return Err("metadata: expected an object".to_owned()),
    };
    let plain = PlainEvent {
        kind,
        timestamp: given.clone().unwrap_or_else(|| now.to_string()),
        repository: text(event, "repository")?.unwrap_or_else(|| "unknown".to_owned()),
        user: text(event, "user")?.unwrap_or_else(|| "unknown".to_owned()),
        metadata,
    };
    Ok(Checked { plain, precise: given.is_some_and(|text| text.contains('.')), time })
}

/// Reads a webhook in the shape of GitHub's; its time is the moment it came.
pub(super) fn check_webhook(body: &Map<String, Value>, now: Timestamp) -> Result<Checked, String> {
    for field in ["repository", "sender", "pull_request"] {
        if !matches!(body.get(field), None | Some(Value::Null | Value::Object(_))) {
            return Err(format!("{field}: expected an object"));
        }
    }
    let within = |field: &str, key: &str| -> Result<String, String> {
        let Some(Value::Object(object)) = body.get(field) else { return Ok("unknown".to_owned()) };
        let found = text(object, key).map_err(|error| format!("{field}.{error}"))?;
        Ok(found.unwrap_or_else(|| "unknown".to_owned()))
    };
    let plain = PlainEvent {
        kind: text(body, "event_type")?.unwrap_or_else(|| "pr_created".to_owned()),
        timestamp: now.to_string(),
        repository: within("repository", "full_name")?,
        user: within("sender", "login")?,
        metadata: plain::metadata(&Value::Object(body.clone())),
    };
    Ok(Checked { plain, precise: false, time: None })
}

const TEXT: &str = "a string of 1 to 1024 bytes without control characters";

fn text(object: &Map<String, Value>, field: &str) -> Result<Option<String>, String> {
    match object.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text))
            if !text.is_empty() && text.len() <= ATTRIBUTE_MAX - 256 && !text.contains(char::is_control) =>
        {
            Ok(Some(text.clone()))
        }
        Some(_) => Err(format!("{field}: expected {TEXT}")),
    }
}

impl Checked {
    /// The event as the plane takes it. `asked` is what else was asked for: the same news to others is other news.
    pub(super) fn into_incoming(self, headers: &HeaderMap, asked: &str, now: Timestamp) -> IncomingEvent {
        let Checked { plain, precise, time } = self;
        let data = serde_json::to_vec(&plain).unwrap_or_default();
        let named = DELIVERY_IDS.iter().find_map(|name| headers.get(*name)?.to_str().ok()).filter(|id| !id.is_empty());
        let id = match named {
            Some(id) => hash(&[b"named", id.as_bytes(), asked.as_bytes()]),
            None if precise => hash(&[b"content", &data, asked.as_bytes()]),
            None => hash(&[b"new", &salt()]),
        };
        let repository = (plain.repository != "unknown").then_some(plain.repository.as_str());
        let subject = plain.pull_request().map(|number| format!("pr/{number}"));
        let branch = plain.text("branch").map(|branch| match branch.starts_with("refs/") {
            true => branch.to_owned(),
            false => format!("refs/heads/{branch}"),
        });
        let place = subject.clone().or(branch);
        // Order matters within a pull request or a branch; what names neither stands alone.
        let lane = match (repository, &place) {
            (Some(repository), Some(place)) => format!("{repository}/{place}"),
            _ => format!("gitlens/{id}"),
        };
        let lane = if lane.len() > ATTRIBUTE_MAX { format!("gitlens/{id}") } else { lane };
        let string = |text: &str| ExtensionValue::String(text.to_owned());
        let mut extensions =
            BTreeMap::from([("kind".to_owned(), string(&plain.kind)), ("lane".to_owned(), string(&lane))]);
        if let Some(repository) = repository {
            extensions.insert("repository".to_owned(), string(repository));
        }
        if plain.user != "unknown" {
            extensions.insert("actor".to_owned(), string(&plain.user));
        }
        IncomingEvent {
            id,
            source: "/gitlens".to_owned(),
            r#type: format!("{TYPE_PREFIX}{}", plain.kind),
            subject: subject.filter(|subject| subject.len() <= ATTRIBUTE_MAX),
            time: Some(time.unwrap_or(now)),
            datacontenttype: Some("application/json".to_owned()),
            dataschema: None,
            extensions,
            data: Bytes::from(data),
        }
    }
}

/// The start of SHA-256 over the parts, as hex.
pub(super) fn hash(parts: &[&[u8]]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hasher.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: Timestamp = Timestamp(1_795_176_000_123);

    fn checked(body: Value) -> Result<Checked, String> {
        check(body.as_object().unwrap(), NOW)
    }

    #[test]
    fn a_type_is_enough_and_what_is_malformed_is_named() {
        let event = checked(json!({"type": "pr_created"})).unwrap();
        assert_eq!(event.plain.timestamp, "2026-11-20T12:00:00.123Z");
        assert_eq!((event.plain.repository.as_str(), event.plain.user.as_str()), ("unknown", "unknown"));
        for (body, field) in [
            (json!({}), "type"),
            (json!({"type": ""}), "type"),
            (json!({"type": 7}), "type"),
            (json!({"type": "a\nb"}), "type"),
            (json!({"type": "a", "timestamp": "yesterday"}), "timestamp"),
            (json!({"type": "a", "repository": {}}), "repository"),
            (json!({"type": "a", "user": []}), "user"),
            (json!({"type": "a", "metadata": "x"}), "metadata"),
        ] {
            let error = checked(body).unwrap_err();
            assert!(error.starts_with(&format!("{field}:")), "{error}");
        }
    }

    #[test]
    fn a_webhook_has_the_defaults_of_the_contract() {
        let webhook = |body: Value| check_webhook(body.as_object().unwrap(), NOW);
        let empty = webhook(json!({})).unwrap().plain;
        assert_eq!(
            (empty.kind.as_str(), empty.repository.as_str(), empty.user.as_str()),
            ("pr_created", "unknown", "unknown")
        );
        let whole = json!({"event_type": "pr_merged", "repository": {"full_name": "o/r"}, "sender": {"login": "ann"},
            "pull_request": {"number": 7, "title": "t", "body": "b", "head": {"sha": "abc", "ref": "topic"}}});
        let whole = webhook(whole).unwrap().plain;
        let expected =
            json!({"pr_number": 7, "commit_sha": "abc", "branch": "topic", "title": "t", "description": "b"});
        assert_eq!(Value::Object(whole.metadata), expected);
        assert!(webhook(json!({"repository": "o/r"})).unwrap_err().starts_with("repository:"));
    }

    #[test]
    fn news_is_recognised_by_its_delivery_id_or_a_precise_time() {
        let id = |timestamp: &str, header: Option<&str>, asked: &str| {
            let event = checked(json!({"type": "a", "timestamp": timestamp})).unwrap();
            let headers = header.map(|id| ("x-github-delivery".parse().unwrap(), id.parse().unwrap()));
            event.into_incoming(&HeaderMap::from_iter(headers), asked, NOW).id
        };
        let precise = "2026-11-20T08:30:00.001Z";
        assert_eq!(id(precise, None, ""), id(precise, None, ""));
        assert_ne!(id(precise, None, ""), id(precise, None, "others"));
        assert_eq!(id("2026-11-20T08:30:00Z", Some("1"), ""), id("2026-11-20T08:30:00Z", Some("1"), ""));
        assert_ne!(id("2026-11-20T08:30:00Z", None, ""), id("2026-11-20T08:30:00Z", None, ""));
    }

    #[test]
    fn order_holds_within_a_pull_request_or_a_branch() {
        let lane = |body: Value| {
            let event = checked(body).unwrap().into_incoming(&HeaderMap::new(), "", NOW);
            match &event.extensions["lane"] {
                ExtensionValue::String(lane) => lane.clone(),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(lane(json!({"type": "a", "repository": "o/r", "metadata": {"pr_number": 7}})), "o/r/pr/7");
        assert_eq!(lane(json!({"type": "a", "repository": "o/r", "metadata": {"branch": "b"}})), "o/r/refs/heads/b");
        assert_ne!(lane(json!({"type": "a", "repository": "o/r"})), lane(json!({"type": "a", "repository": "o/r"})));
    }
}
