//! Events on their way in: an encoded CloudEvent becomes what the plane decides on.
//!
//! ```text
//!  gRPC: encoded as sent ----------------------+
//!  HTTP: IncomingEvent, GitHub -- encode() --> scan -> defaults -> hashes -> NewEvent, with the same bytes as payload
//! ```
//! Every way in shares [`accept`], so the rules are the same everywhere. Invariant: what is accepted decodes as a CloudEvent
//! with every required attribute, for the bytes are passed on to agents as they are.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use mindos_core::guard::Trust;
use mindos_core::input::{NewEvent, Seen};
use mindos_core::record::{ContentDigest, DedupeKey, Payload};
use mindos_model::limits::{ATTRIBUTE_MAX, INLINE_MAX};
use mindos_model::{TenantName, Timestamp};
use mindos_proto::cloudevents::v1::CloudEvent;
use mindos_proto::cloudevents::v1::cloud_event::cloud_event_attribute_value::Attr;
use mindos_proto::cloudevents::v1::cloud_event::{CloudEventAttributeValue, Data};
use mindos_proto::convert::Invalid;
use prost::Message;
use sha2::{Digest, Sha256};

use super::cloudevents::{ExtensionValue, IncomingEvent};
use super::event_scan::{Attribute, Scanned, attributes, scan};
use super::github::Normalised;
use super::github_trust::Origin;
use super::redact;

/// Why an event is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// An attribute is missing or malformed.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// It is to go by the blob service.
    #[error(
        "event has {bytes} bytes: at most {INLINE_MAX} are taken; put larger data into a blob and name it in `dataref`"
    )]
    TooLarge { bytes: usize },
}

/// Takes an encoded CloudEvent. `routed` is false for events that are recorded and offered to nobody.
///
/// # Errors
/// Names the first attribute that is missing or malformed.
pub fn accept(tenant: &TenantName, encoded: &[u8], routed: bool) -> Result<NewEvent, EventError> {
    if encoded.len() > INLINE_MAX {
        return Err(EventError::TooLarge { bytes: encoded.len() });
    }
    let event = scan(encoded)?;
    if let Some(redacted) = redact::redacted(encoded, event.source, event.ty) {
        return accept_redacted(tenant, &redacted, routed);
    }
    accepted(tenant, encoded, event, routed)
}

/// Takes what the rules of redaction have left of an event.
fn accept_redacted(tenant: &TenantName, encoded: &[u8], routed: bool) -> Result<NewEvent, EventError> {
    if encoded.len() > INLINE_MAX {
        return Err(EventError::TooLarge { bytes: encoded.len() });
    }
    accepted(tenant, encoded, scan(encoded)?, routed)
}

fn accepted(tenant: &TenantName, encoded: &[u8], event: Scanned<'_>, routed: bool) -> Result<NewEvent, EventError> {
    let text = |text: &str| Arc::<str>::from(text);
    let ty = text(event.ty);
    let subject = event.subject.map(text);
    let source = text(event.source);
    let kind = event.kind.map_or_else(|| Arc::clone(&ty), text);
    let lane = event.lane.map(text).or_else(|| subject.clone()).unwrap_or_else(|| Arc::clone(&source));
    Ok(NewEvent {
        tenant: tenant.clone(),
        id: text(event.id),
        repository: event.repository.map(text),
        priority: event.priority,
        actor: event.actor.map(text),
        time: event.time,
        not_before: event.not_before,
        key: key(tenant, event.source, event.id),
        digest: digest(&event),
        // A copy of its own: a slice would keep the whole frame that it came in alive.
        payload: Payload { salt: salt(), bytes: Bytes::copy_from_slice(encoded) },
        source,
        ty,
        kind,
        subject,
        lane,
        trust: trust(&event),
        judged: None,
        routed,
        asked: None,
        about: None,
        seen: None::<Seen>,
    })
}

/// What the attributes say of an event's origin; unset where that is nothing.
fn trust(event: &Scanned<'_>) -> Option<Box<Trust>> {
    let Scanned { fork, bot, echo, association, hops, .. } = *event;
    if !fork && !bot && !echo && association.is_none() && hops == 0 {
        return None;
    }
    Some(Box::new(Trust { fork, bot, echo, association: association.map(Arc::from), hops }))
}

/// What an encoded event says of its origin.
pub(crate) fn trust_of(encoded: &[u8]) -> Option<Box<Trust>> {
    scan(encoded).ok().and_then(|event| trust(&event))
}

/// The value of an attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extension<'a> {
    Text(&'a str),
    Boolean(bool),
    Integer(i32),
}

/// Extension attributes of an encoded event by name.
pub(crate) fn extensions(encoded: &[u8]) -> Vec<(&str, Extension<'_>)> {
    let known = |(name, attribute)| match attribute {
        Attribute::Text(text) => Some((name, Extension::Text(text))),
        Attribute::Boolean(so) => Some((name, Extension::Boolean(so))),
        Attribute::Integer(number) => Some((name, Extension::Integer(number))),
        Attribute::Time(..) | Attribute::Other => None,
    };
    attributes(encoded).into_iter().filter_map(known).collect()
}

/// The data of an encoded event, where they may be JSON.
pub(crate) fn json_data(encoded: &[u8]) -> Option<&[u8]> {
    let event = scan(encoded).ok()?;
    let is_json = event.datacontenttype.is_none_or(|ty| ty.contains("json"));
    event.data.filter(|_| is_json)
}

/// Where the data of an encoded event are, whatever they are.
pub(crate) fn dataref(encoded: &[u8]) -> Option<&str> {
    scan(encoded).ok()?.dataref
}

/// Whether an encoded event stands for one that was redacted.
pub(crate) fn is_stand_in(encoded: &[u8]) -> bool {
    let says = |(name, value)| name == redact::EXTENSION && matches!(value, Extension::Boolean(true));
    extensions(encoded).into_iter().any(says) && scan(encoded).is_ok_and(|event| event.data.is_none())
}

/// Where the data of an encoded event are, when they do not stand in it and may be JSON.
pub(crate) fn json_dataref(encoded: &[u8]) -> Option<&str> {
    let event = scan(encoded).ok()?;
    let is_json = event.datacontenttype.is_none_or(|ty| ty.contains("json"));
    event.dataref.filter(|_| is_json && event.data.is_none_or(<[u8]>::is_empty))
}

/// Takes an event that came over HTTP.
///
/// # Errors
/// Names the first attribute that is missing or malformed.
pub fn accept_incoming(tenant: &TenantName, event: IncomingEvent) -> Result<NewEvent, EventError> {
    accept(tenant, &encode(event), true)
}

/// Takes a GitHub delivery.
///
/// # Errors
/// When it is too large, or one of its attributes is.
pub fn accept_github(tenant: &TenantName, delivery: Normalised) -> Result<NewEvent, EventError> {
    let routed = delivery.routed;
    accept(tenant, &encode(github_event(delivery)), routed)
}

/// A GitHub delivery as an event.
#[must_use]
pub fn github_event(delivery: Normalised) -> IncomingEvent {
    let Normalised { id, source, r#type, subject, time, repository, actor, lane, kind, origin, routed: _, data } =
        delivery;
    let extensions =
        [("repository", repository), ("actor", actor), ("lane", Some(lane)), ("kind", kind.map(str::to_owned))];
    let mut extensions: BTreeMap<String, ExtensionValue> = extensions
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), ExtensionValue::String(value?))))
        .collect();
    let Origin { fork, bot, echo, association } = origin;
    for (name, is_so) in [("fork", fork), ("bot", bot), ("echo", echo)] {
        if is_so {
            extensions.insert(name.to_owned(), ExtensionValue::Boolean(true));
        }
    }
    extensions.extend(association.map(|word| ("association".to_owned(), ExtensionValue::String(word))));
    let datacontenttype = Some("application/json".to_owned());
    IncomingEvent { id, source, r#type, subject, time, datacontenttype, dataschema: None, extensions, data }
}

/// Encodes an event as the plane stores it.
#[must_use]
pub fn encode(event: IncomingEvent) -> Vec<u8> {
    let IncomingEvent { id, source, r#type, subject, time, datacontenttype, dataschema, extensions, data } = event;
    let value = |attr| CloudEventAttributeValue { attr: Some(attr) };
    let mut attributes: std::collections::BTreeMap<_, _> = extensions
        .into_iter()
        .map(|(name, extension)| {
            let attr = match extension {
                ExtensionValue::Boolean(boolean) => Attr::CeBoolean(boolean),
                ExtensionValue::Integer(integer) => Attr::CeInteger(integer),
                ExtensionValue::String(string) => Attr::CeString(string),
            };
            (name, value(attr))
        })
        .collect();
    let optional = [
        ("subject", subject.map(Attr::CeString)),
        ("time", time.map(|at| Attr::CeTimestamp(mindos_proto::convert::time(at)))),
        ("datacontenttype", datacontenttype.map(Attr::CeString)),
        ("dataschema", dataschema.map(Attr::CeUri)),
    ];
    for (name, attr) in optional {
        if let Some(attr) = attr {
            attributes.insert(name.to_owned(), value(attr));
        }
    }
    let data = (!data.is_empty()).then(|| Data::BinaryData(data));
    CloudEvent { id, source, spec_version: "1.0".to_owned(), r#type, attributes, data }.encode_to_vec()
}

/// What names an event for deduplication: the start of SHA-256 over tenant, source and id.
#[must_use]
pub fn key(tenant: &TenantName, source: &str, id: &str) -> DedupeKey {
    hash([tenant.as_str().as_bytes(), source.as_bytes(), id.as_bytes()])
}

/// The trace that an encoded event says it belongs to.
#[must_use]
pub(crate) fn traceparent(encoded: &[u8]) -> Option<&str> {
    scan(encoded).ok()?.traceparent
}

/// Type, subject, content type and data; where the data lie in a blob, its address stands for them.
fn digest(event: &Scanned<'_>) -> ContentDigest {
    let data = event.data.or(event.dataref.map(str::as_bytes)).unwrap_or_default();
    hash([
        event.ty.as_bytes(),
        event.subject.unwrap_or_default().as_bytes(),
        event.datacontenttype.unwrap_or_default().as_bytes(),
        data,
    ])
}

fn hash<const PARTS: usize>(parts: [&[u8]; PARTS]) -> [u8; 16] {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    let digest: [u8; 32] = hasher.finalize().into();
    let mut start = [0; 16];
    start.copy_from_slice(&digest[..16]);
    start
}

/// Random bytes that hide a payload in the hash chain.
///
/// # Panics
/// When the system has no randomness to give, without which nothing here is safe.
#[must_use]
pub fn salt() -> [u8; 16] {
    thread_local! {
        static POOL: RefCell<([u8; 1024], usize)> = const { RefCell::new(([0; 1024], 1024)) };
    }
    POOL.with_borrow_mut(|(pool, used)| {
        if *used == pool.len() {
            getrandom::fill(pool).expect("the system gives random bytes");
            *used = 0;
        }
        let mut salt = [0; 16];
        salt.copy_from_slice(&pool[*used..*used + 16]);
        pool[*used..*used + 16].fill(0);
        *used += 16;
        salt
    })
}

/// The longest attribute that the plane keeps, in bytes.
pub(super) const TEXT_MAX: usize = ATTRIBUTE_MAX;

/// A time as an attribute may give it.
pub(super) fn attribute_time(seconds: i64, nanos: i32) -> Option<Timestamp> {
    let millis = u64::try_from(seconds).ok()?.checked_mul(1000)?.checked_add(u64::try_from(nanos).ok()? / 1_000_000)?;
    (nanos < 1_000_000_000 && millis <= Timestamp::MAX.0).then_some(Timestamp(millis))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn incoming() -> IncomingEvent {
        IncomingEvent {
            id: "1".to_owned(),
            source: "/here".to_owned(),
            r#type: "com.example.done".to_owned(),
            data: Bytes::from_static(b"{}"),
            datacontenttype: Some("application/json".to_owned()),
            ..IncomingEvent::default()
        }
    }

    fn take(event: IncomingEvent) -> NewEvent {
        accept_incoming(&TenantName::default_tenant(), event).unwrap()
    }

    #[test]
    fn kind_and_lane_have_their_defaults() {
        let plain = take(incoming());
        assert_eq!((&*plain.kind, &*plain.lane), ("com.example.done", "/here"));
        let subject = take(IncomingEvent { subject: Some("s".to_owned()), ..incoming() });
        assert_eq!(&*subject.lane, "s");
        let mut named = incoming();
        for (name, value) in [("lane", "l"), ("kind", "k"), ("repository", "o/n"), ("actor", "a")] {
            named.extensions.insert(name.to_owned(), ExtensionValue::String(value.to_owned()));
        }
        let named = take(named);
        assert_eq!((&*named.kind, &*named.lane), ("k", "l"));
        assert_eq!((named.repository.as_deref(), named.actor.as_deref()), (Some("o/n"), Some("a")));
    }

    #[test]
    fn the_digest_is_that_of_the_content_and_the_key_that_of_the_name() {
        let one = take(incoming());
        let later = take(IncomingEvent { time: Some(Timestamp(1_795_176_000_000)), ..incoming() });
        assert_eq!((one.key, one.digest), (later.key, later.digest));
        let other_data = take(IncomingEvent { data: Bytes::from_static(b"[]"), ..incoming() });
        assert_eq!(one.key, other_data.key);
        assert_ne!(one.digest, other_data.digest);
        let other_id = take(IncomingEvent { id: "2".to_owned(), ..incoming() });
        assert_ne!(one.key, other_id.key);
        assert_ne!(one.payload.salt, other_id.payload.salt);
    }

    #[test]
    fn an_event_may_ask_for_its_time() {
        let mut event = incoming();
        assert_eq!(take(event.clone()).not_before, None);
        let at = |text: &str| ("notbefore".to_owned(), ExtensionValue::String(text.to_owned()));
        event.extensions.extend([at("2026-11-21T10:00:00Z")]);
        assert_eq!(take(event.clone()).not_before, Some("2026-11-21T10:00:00Z".parse().unwrap()));
        event.extensions.extend([at("tomorrow")]);
        let refused = accept_incoming(&TenantName::default_tenant(), event).unwrap_err();
        assert_eq!(refused.to_string(), "notbefore: expected a time from 1970 to 9999");
    }

    #[test]
    fn an_event_that_is_too_large_is_told_where_to_go() {
        let large = IncomingEvent { data: Bytes::from(vec![0; INLINE_MAX]), ..incoming() };
        let error = accept_incoming(&TenantName::default_tenant(), large).unwrap_err();
        assert!(error.to_string().contains("dataref"), "{error}");
    }
}
