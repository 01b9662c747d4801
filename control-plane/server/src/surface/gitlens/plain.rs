//! The plain event of the contract: what every event looks like to those who know no other form.

use std::sync::Arc;

use bytes::Bytes;
use mindos_core::record::EventAccepted;
use mindos_model::Timestamp;
use mindos_proto::cloudevents::v1::CloudEvent;
use mindos_proto::cloudevents::v1::cloud_event::Data;
use prost::Message;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Longest text that is taken over from a payload, in characters.
const TEXT_MAX: usize = 4096;

/// `{type, timestamp, repository, user, metadata}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct PlainEvent {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) timestamp: String,
    pub(crate) repository: String,
    pub(crate) user: String,
    pub(crate) metadata: Map<String, Value>,
}

/// As much of an event as a plain one is made of; cheap to take.
#[derive(Clone, Debug)]
pub(crate) struct Glimpse {
    kind: Arc<str>,
    /// When it happened, or was accepted where that is not known.
    at: Timestamp,
    repository: Option<Arc<str>>,
    actor: Option<Arc<str>>,
    payload: Bytes,
}

impl Glimpse {
    pub(crate) fn of(at: Timestamp, event: &EventAccepted) -> Glimpse {
        Glimpse {
            kind: event.kind.clone(),
            at: event.time.unwrap_or(at),
            repository: event.repository.clone(),
            actor: event.actor.clone(),
            payload: event.payload.bytes.clone(),
        }
    }
}

impl PlainEvent {
    /// What an event looks like, whichever way it came.
    pub(crate) fn of(event: &Glimpse) -> PlainEvent {
        let data = data(&event.payload);
        if let Some(plain) = data.as_ref().and_then(|data| PlainEvent::deserialize(data).ok()) {
            return plain;
        }
        let unknown = |text: Option<&str>| text.unwrap_or("unknown").to_owned();
        PlainEvent {
            kind: event.kind.to_string(),
            timestamp: event.at.to_string(),
            repository: unknown(event.repository.as_deref()),
            user: unknown(event.actor.as_deref()),
            metadata: data.map(|data| metadata(&data)).unwrap_or_default(),
        }
    }

    /// A text of the metadata.
    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).and_then(Value::as_str).filter(|text| !text.is_empty())
    }

    /// Number of the pull request, as digits.
    pub(crate) fn pull_request(&self) -> Option<String> {
        match self.metadata.get("pr_number")? {
            Value::Number(number) => Some(number.to_string()),
            Value::String(text) if !text.is_empty() => Some(text.clone()),
            _ => None,
        }
    }
}

/// The known keys, from a pull request in the shape of GitHub's.
pub(super) fn metadata(body: &Value) -> Map<String, Value> {
    let pull = &body["pull_request"];
    let head = &pull["head"];
    let fields = [
        ("pr_number", &pull["number"]),
        ("commit_sha", &head["sha"]),
        ("branch", &head["ref"]),
        ("title", &pull["title"]),
        ("description", &pull["body"]),
    ];
    let known = fields.into_iter().filter(|(_, value)| value.is_number() || value.is_string());
    known.map(|(name, value)| (name.to_owned(), short(value))).collect()
}

fn short(value: &Value) -> Value {
    match value.as_str() {
        Some(text) if text.chars().count() > TEXT_MAX => Value::from(text.chars().take(TEXT_MAX).collect::<String>()),
        _ => value.clone(),
    }
}

/// The data of an encoded CloudEvent, where they are JSON.
fn data(encoded: &Bytes) -> Option<Value> {
    match CloudEvent::decode(encoded.clone()).ok()?.data? {
        Data::BinaryData(data) => serde_json::from_slice(&data).ok(),
        Data::TextData(text) => serde_json::from_str(&text).ok(),
        Data::ProtoData(_) => None,
    }
}
