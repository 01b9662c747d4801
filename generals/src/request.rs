//! Reading an event off a request, in any of the three forms a general is spoken to in.
//!
//! ```text
//! body has `event_type` and `data`          the contract's body; `ce-*` headers beside it add attributes
//! body has `specversion`                    a structured CloudEvent
//! `ce-specversion` header                   a binary CloudEvent: the body is the data
//! ```
//! Nothing of the event's meaning is demanded, so an old or odd payload is never refused.

use std::collections::BTreeMap;
use std::str::FromStr;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::HeaderMap;
use mindos_model::{Secret, Timestamp};
use mindos_sdk::RepositoryAccess;
use serde::Deserialize;
use serde_json::Value;

use crate::Event;

/// Most extension attributes kept.
const EXTENSIONS_MAX: usize = 32;
/// The longest name of an event type or attribute value taken, in bytes.
const ATTRIBUTE_MAX: usize = mindos_model::limits::ATTRIBUTE_MAX;

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    #[error("the body is not JSON: {reason}")]
    NotJson { reason: String },
    #[error("field `{field}` is missing: {accepted}")]
    Missing { field: &'static str, accepted: &'static str },
    #[error("field `{field}` is not usable: expected {accepted}")]
    Bad { field: &'static str, accepted: &'static str },
}

impl RequestError {
    /// The field that is wrong; `body` where it is the whole.
    #[must_use]
    pub fn field(&self) -> &'static str {
        match self {
            RequestError::NotJson { .. } => "body",
            RequestError::Missing { field, .. } | RequestError::Bad { field, .. } => field,
        }
    }
}

const EVENT_TYPE: &str = "a string such as pr_created or com.github.push, of 1 to 1024 bytes";
const BODY: &str = "a JSON object with `event_type` and `data`, or a CloudEvent with `specversion` 1.0";

/// What a request asks for.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub event: Event,
    /// What the event's repository can be read with, where whoever asks has that: the member `repository_access` of the contract's body.
    pub access: Option<RepositoryAccess>,
    /// What the attempt before left: the member `checkpoint` of the contract's body, in base64. One that is not to be read is none.
    pub checkpoint: Vec<u8>,
}

/// Reads the event of a request, or of a command's standard input (without headers).
///
/// # Errors
/// `RequestError`, naming the field.
pub fn decode(headers: &HeaderMap, body: &[u8]) -> Result<Event, RequestError> {
    read(headers, body).map(|asked| asked.event)
}

/// Reads all that a request asks for.
///
/// # Errors
/// `RequestError`, naming the field.
pub(crate) fn read(headers: &HeaderMap, body: &[u8]) -> Result<Asked, RequestError> {
    let attributes = header_attributes(headers);
    let binary = attributes.contains_key("specversion");
    let json = match serde_json::from_slice::<Value>(body) {
        Ok(json) => json,
        // The data of a binary event need not be JSON; it is then one text.
        Err(_) if binary && !declares_json(headers) => Value::String(String::from_utf8_lossy(body).into_owned()),
        Err(error) => return Err(RequestError::NotJson { reason: error.to_string() }),
    };
    let has = |name: &str| json.get(name).is_some();
    if has("event_type") && (!binary || (has("data") && has("job_id"))) {
        contract(json, attributes)
    } else if binary {
        from_attributes(attributes, json).map(alone)
    } else if has("specversion") {
        structured(json).map(alone)
    } else if json.is_object() {
        Err(RequestError::Missing { field: "event_type", accepted: EVENT_TYPE })
    } else {
        Err(RequestError::Bad { field: "body", accepted: BODY })
    }
}

fn declares_json(headers: &HeaderMap) -> bool {
    let found = headers.get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media = found.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    media.ends_with("/json") || media.ends_with("+json")
}

/// The `ce-*` headers, percent-decoded; those that are not UTF-8 or too long are left out.
fn header_attributes(headers: &HeaderMap) -> BTreeMap<String, String> {
    let read = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
        let name = name.as_str().strip_prefix("ce-")?.to_owned();
        let text = percent_decode(value.as_bytes())?;
        (!text.is_empty() && text.len() <= ATTRIBUTE_MAX).then_some((name, text))
    };
    headers.iter().filter_map(read).take(EXTENSIONS_MAX + 8).collect()
}

fn percent_decode(value: &[u8]) -> Option<String> {
    let digit = |at: usize| value.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    let mut decoded = Vec::with_capacity(value.len());
    let mut at = 0;
    while at < value.len() {
        match (value[at], digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                decoded.push(u8::try_from(high * 16 + low).ok()?);
                at += 3;
            }
            (byte, ..) => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8(decoded).ok()
}

/// `{event_type, job_id, timestamp, data, general_info}`.
fn contract(mut body: Value, attributes: BTreeMap<String, String>) -> Result<Asked, RequestError> {
    let access = match body.get_mut("repository_access").map(Value::take) {
        None | Some(Value::Null) => None,
        Some(value) => Some(access(value)?),
    };
    let checkpoint = body.get("checkpoint").and_then(Value::as_str).and_then(|text| BASE64_STANDARD.decode(text).ok());
    let checkpoint = checkpoint.unwrap_or_default();
    let event_type = match body.get("event_type").and_then(Value::as_str) {
        Some(text) if !text.trim().is_empty() && text.len() <= ATTRIBUTE_MAX => text.to_owned(),
        _ => return Err(RequestError::Bad { field: "event_type", accepted: EVENT_TYPE }),
    };
    let job_id = match body.get("job_id") {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) if text.len() <= ATTRIBUTE_MAX => Some(text.clone()),
        Some(_) => return Err(RequestError::Bad { field: "job_id", accepted: "a string of at most 1024 bytes" }),
    };
    let sent = match body.get("timestamp") {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => {
            const TIME: &str = "a time as in RFC 3339, or milliseconds since the epoch";
            let time = Timestamp::from_str(text);
            Some(time.map_err(|_| RequestError::Bad { field: "timestamp", accepted: TIME })?)
        }
        Some(Value::Number(millis)) if millis.is_u64() => millis.as_u64().map(Timestamp),
        Some(_) => {
            const TIME: &str = "a time as in RFC 3339, or milliseconds since the epoch";
            return Err(RequestError::Bad { field: "timestamp", accepted: TIME });
        }
    };
    if !matches!(body.get("general_info"), None | Some(Value::Null | Value::Object(_))) {
        return Err(RequestError::Bad { field: "general_info", accepted: "an object" });
    }
    let Some(data) = body.get_mut("data").map(Value::take) else {
        return Err(RequestError::Missing { field: "data", accepted: "the event's payload" });
    };
    let mut event = with_attributes(attributes, data);
    event.time = event.time.or(sent);
    Ok(Asked { event: Event { event_type, job_id, ..event }, access, checkpoint })
}

fn alone(event: Event) -> Asked {
    Asked { event, access: None, checkpoint: Vec::new() }
}

/// Access as JSON, from elsewhere than a body.
pub(crate) fn access_of(json: &str) -> Result<RepositoryAccess, RequestError> {
    access(serde_json::from_str(json).unwrap_or(Value::Null))
}

/// The member `repository_access`. What is wrong is never repeated: it may be the token.
fn access(value: Value) -> Result<RepositoryAccess, RequestError> {
    #[derive(Deserialize)]
    struct Member {
        repository: String,
        api_url: String,
        clone_url: String,
        token: String,
        #[serde(default)]
        expires_at: Option<String>,
        #[serde(default)]
        author: String,
    }
    const ACCESS: &str =
        "an object with the texts repository, api_url, clone_url, token, and perhaps expires_at and author";
    let bad = || RequestError::Bad { field: "repository_access", accepted: ACCESS };
    let Member { repository, api_url, clone_url, token, expires_at, author } =
        serde_json::from_value(value).map_err(|_| bad())?;
    let expires_at = expires_at.map(|at| Timestamp::from_str(&at).map_err(|_| bad())).transpose()?;
    Ok(RepositoryAccess { repository, api_url, clone_url, token: Secret::new(token), expires_at, author })
}

fn from_attributes(attributes: BTreeMap<String, String>, data: Value) -> Result<Event, RequestError> {
    for (name, field) in [("id", "ce-id"), ("source", "ce-source"), ("type", "ce-type")] {
        if !attributes.contains_key(name) {
            return Err(RequestError::Missing { field, accepted: "a CloudEvent has specversion, id, source and type" });
        }
    }
    if attributes.get("specversion").is_some_and(|version| version != "1.0") {
        return Err(RequestError::Bad { field: "ce-specversion", accepted: "1.0" });
    }
    Ok(with_attributes(attributes, data))
}

fn with_attributes(mut attributes: BTreeMap<String, String>, data: Value) -> Event {
    let event_type = attributes.remove("type").unwrap_or_default();
    let time = attributes.remove("time").and_then(|text| Timestamp::from_str(&text).ok());
    attributes.remove("specversion");
    Event {
        id: attributes.remove("id"),
        source: attributes.remove("source"),
        subject: attributes.remove("subject"),
        extensions: attributes,
        event_type,
        job_id: None,
        time,
        data,
    }
}

/// A CloudEvent in its JSON form.
fn structured(mut body: Value) -> Result<Event, RequestError> {
    let data = body.get_mut("data").map(Value::take);
    let mut attributes = BTreeMap::new();
    for (name, value) in body.as_object().into_iter().flatten().take(EXTENSIONS_MAX + 8) {
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Bool(_) | Value::Number(_) => value.to_string(),
            Value::Null | Value::Array(_) | Value::Object(_) => continue,
        };
        if !text.is_empty() && text.len() <= ATTRIBUTE_MAX && name != "data_base64" {
            attributes.insert(name.clone(), text);
        }
    }
    for field in ["id", "source", "type"] {
        if !attributes.contains_key(field) {
            return Err(RequestError::Missing { field, accepted: "a CloudEvent has specversion, id, source and type" });
        }
    }
    if attributes.get("specversion").is_none_or(|version| version != "1.0") {
        return Err(RequestError::Bad { field: "specversion", accepted: "1.0" });
    }
    let data = match (data, body.get("data_base64")) {
        (Some(data), _) => data,
        (None, Some(encoded)) => {
            let bytes = encoded.as_str().and_then(base64_decode);
            let bytes = bytes.ok_or(RequestError::Bad { field: "data_base64", accepted: "a string of base64" })?;
            serde_json::from_slice(&bytes).unwrap_or_else(|_| String::from_utf8_lossy(&bytes).into_owned().into())
        }
        (None, None) => Value::Null,
    };
    Ok(with_attributes(attributes, data))
}

/// Decodes padded or unpadded standard base64.
pub(crate) fn base64_decode(text: &str) -> Option<Vec<u8>> {
    let (mut decoded, mut held, mut bits) = (Vec::with_capacity(text.len() / 4 * 3), 0u32, 0u32);
    for digit in text.trim_end_matches('=').bytes() {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        held = (held << 6 | u32::from(value)) & 0xffff;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            decoded.push(((held >> bits) & 0xff) as u8);
        }
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    fn plain(body: &str) -> Result<Event, RequestError> {
        decode(&HeaderMap::new(), body.as_bytes())
    }

    const CE: [(&str, &str); 4] =
        [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/s"), ("ce-type", "com.github.push")];

    #[test]
    fn the_contracts_body_is_read_with_and_without_headers() {
        let body = r#"{"event_type":"pr_created","job_id":"d1.1","timestamp":"2026-11-20T12:00:00Z",
            "data":{"a":1},"general_info":{"name":"x"}}"#;
        let event = plain(body).unwrap();
        assert_eq!((event.event_type.as_str(), event.job_id.as_deref()), ("pr_created", Some("d1.1")));
        assert_eq!((event.data, event.time), (json!({"a": 1}), Some(Timestamp(1_795_176_000_000))));
        let beside = [&CE[..], &[("ce-repository", "o%2Fr")]].concat();
        let event = decode(&headers(&beside), body.as_bytes()).unwrap();
        assert_eq!((event.event_type.as_str(), event.id.as_deref()), ("pr_created", Some("1")));
        assert_eq!(event.extensions, BTreeMap::from([("repository".to_owned(), "o/r".to_owned())]));
    }

    #[test]
    fn cloud_events_are_read_in_both_forms() {
        let event = decode(&headers(&CE), br#"{"ref":"refs/heads/a"}"#).unwrap();
        assert_eq!((event.event_type.as_str(), event.data), ("com.github.push", json!({"ref": "refs/heads/a"})));
        let event = decode(&headers(&CE), b"not json").unwrap();
        assert_eq!(event.data, json!("not json"));
        let structured = r#"{"specversion":"1.0","id":"1","source":"/s","type":"t","lane":"l","n":3,"data":{"a":1}}"#;
        let event = plain(structured).unwrap();
        assert_eq!((event.event_type.as_str(), event.data), ("t", json!({"a": 1})));
        assert_eq!(event.extensions.get("lane").map(String::as_str), Some("l"));
        let encoded = r#"{"specversion":"1.0","id":"1","source":"/s","type":"t","data_base64":"eyJhIjoxfQ=="}"#;
        assert_eq!(plain(encoded).unwrap().data, json!({"a": 1}));
    }

    #[test]
    fn access_to_the_repository_comes_with_the_contracts_body() {
        let body = r#"{"event_type":"x","data":{},"repository_access":{"repository":"o/r","api_url":"https://a","clone_url":"https://c",
            "token":"t0k","expires_at":"2026-11-20T12:00:00Z","author":"bot"}}"#;
        let asked = read(&HeaderMap::new(), body.as_bytes()).unwrap();
        let access = asked.access.unwrap();
        assert_eq!((access.repository.as_str(), access.token.expose(), access.author.as_str()), ("o/r", "t0k", "bot"));
        assert!(access.expires_at.is_some());
        let wrong = r#"{"event_type":"x","data":{},"repository_access":{"token":"t0k"}}"#;
        let error = read(&HeaderMap::new(), wrong.as_bytes()).unwrap_err();
        assert_eq!(error.field(), "repository_access");
        assert!(!error.to_string().contains("t0k"));
        assert!(
            read(&HeaderMap::new(), br#"{"event_type":"x","data":{},"repository_access":null}"#)
                .unwrap()
                .access
                .is_none()
        );
    }

    #[test]
    fn refusals_name_the_field() {
        let field = |body: &str| plain(body).unwrap_err().field();
        assert_eq!(field("{"), "body");
        assert_eq!(field(""), "body");
        assert_eq!(field("[]"), "body");
        assert_eq!(field("{}"), "event_type");
        assert_eq!(field(r#"{"event_type":7,"data":{}}"#), "event_type");
        assert_eq!(field(r#"{"event_type":" ","data":{}}"#), "event_type");
        assert_eq!(field(r#"{"event_type":"x"}"#), "data");
        assert_eq!(field(r#"{"event_type":"x","data":{},"job_id":1}"#), "job_id");
        assert_eq!(field(r#"{"event_type":"x","data":{},"timestamp":"soon"}"#), "timestamp");
        assert_eq!(field(r#"{"event_type":"x","data":{},"timestamp":[]}"#), "timestamp");
        assert_eq!(field(r#"{"event_type":"x","data":{},"general_info":1}"#), "general_info");
        assert_eq!(field(r#"{"specversion":"1.0","id":"1","source":"/s"}"#), "type");
        assert_eq!(field(r#"{"specversion":"0.3","id":"1","source":"/s","type":"t"}"#), "specversion");
        assert_eq!(
            field(r#"{"specversion":"1.0","id":"1","source":"/s","type":"t","data_base64":"?"}"#),
            "data_base64"
        );
        let lacking = headers(&[("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-type", "t")]);
        assert_eq!(decode(&lacking, b"{}").unwrap_err().field(), "ce-source");
        let json = headers(&[("ce-specversion", "1.0"), ("content-type", "application/json")]);
        assert_eq!(decode(&json, b"{").unwrap_err().field(), "body");
    }
}
