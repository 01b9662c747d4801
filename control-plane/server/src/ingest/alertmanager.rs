//! Alertmanager webhooks, version 4: an event for each alert of the group.
//!
//! A group is how Alertmanager saves on messages; what an agent works on, and what ends again, is the alert. So each alert is an
//! event of its own, named by its fingerprint, when it began, and whether it fires. Alertmanager sends what still fires again and
//! again: that is the same event, also where its annotations have moved on. Invariant: the data are the alert's bytes as they came.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::HeaderMap;
use mindos_model::Timestamp;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::cloudevents::{ExtensionValue, IncomingEvent};
use super::github_table::{at, text};
use super::hook::{HookError, Tokens, fingerprint, object, short};

/// Alerts of one message, at most.
pub const ALERTS_MAX: usize = 1000;
/// Where alerts come from. The same for all replicas, so that what two of them send is one event.
const SOURCE: &str = "/webhooks/alertmanager";
const AUTHORIZATION: &str = "Authorization";

/// Whether the sender may send; asked before the body is read.
///
/// # Errors
/// When `Authorization` does not show one of the secrets as a bearer's.
pub fn authorise(headers: &HeaderMap, tokens: &Tokens) -> Result<(), HookError> {
    let shown = headers.get(AUTHORIZATION).map(http::HeaderValue::as_bytes).unwrap_or_default();
    let (scheme, token) = shown.split_at(shown.len().min(7));
    if scheme.eq_ignore_ascii_case(b"bearer ") & tokens.verify(token) {
        Ok(())
    } else {
        Err(HookError::Denied { name: AUTHORIZATION.to_owned() })
    }
}

#[derive(Deserialize)]
struct Group<'a> {
    #[serde(borrow)]
    alerts: Vec<&'a RawValue>,
}

/// Turns one message into its events, in its order.
///
/// # Errors
/// Names the field that is missing or not as version 4 has it.
pub fn normalise(headers: &HeaderMap, body: &Bytes) -> Result<Vec<IncomingEvent>, HookError> {
    let field = |field: &str, accepted| HookError::Field { field: field.to_owned(), accepted };
    let payload = object(headers, body)?;
    if at(&payload, "version").and_then(Value::as_str) != Some("4") {
        return Err(field("version", "the string 4"));
    }
    let alerts = at(&payload, "alerts").and_then(Value::as_array).filter(|alerts| !alerts.is_empty());
    let alerts = alerts.ok_or_else(|| field("alerts", "a list of at least one alert"))?;
    if alerts.len() > ALERTS_MAX {
        return Err(HookError::TooMany { field: "alerts", found: alerts.len(), max: ALERTS_MAX });
    }
    // Once more, for the bytes of each: they are passed on as they are.
    let raw: Group<'_> = serde_json::from_slice(body).map_err(|_| field("alerts", "a list of alerts"))?;
    let shared: Vec<(&str, Option<String>)> =
        [("groupkey", "groupKey"), ("receiver", "receiver"), ("externalurl", "externalURL")]
            .map(|(name, path)| (name, text(&payload, path).and_then(short)))
            .into();
    let read = |(index, (alert, raw)): (usize, (&Value, &&RawValue))| {
        event(alert, body.slice_ref(raw.get().as_bytes()), &shared)
            .map_err(|(name, accepted)| field(&format!("alerts[{index}].{name}"), accepted))
    };
    alerts.iter().zip(&raw.alerts).enumerate().map(read).collect()
}

fn event(
    alert: &Value,
    data: Bytes,
    shared: &[(&str, Option<String>)],
) -> Result<IncomingEvent, (&'static str, &'static str)> {
    let firing = match at(alert, "status").and_then(Value::as_str) {
        Some("firing") => true,
        Some("resolved") => false,
        _ => return Err(("status", "firing or resolved")),
    };
    let labels = at(alert, "labels").filter(|labels| labels.is_object()).ok_or(("labels", "an object"))?;
    let time = |path: &str| text(alert, path).and_then(|text| text.parse::<Timestamp>().ok());
    let began = text(alert, "startsAt").and_then(short).ok_or(("startsAt", "a time such as 2026-01-31T12:00:00Z"))?;
    time("startsAt").ok_or(("startsAt", "a time such as 2026-01-31T12:00:00Z"))?;
    let id = text(alert, "fingerprint").filter(|text| text.len() <= 64).and_then(short);
    // Members of an object are in the order of their names once read.
    let id = id.unwrap_or_else(|| fingerprint(labels.to_string().as_bytes()));
    let status = if firing { "firing" } else { "resolved" };
    let mut extensions = BTreeMap::new();
    let lane = Some(format!("alert/{id}"));
    let kind = firing.then(|| "needs_attention".to_owned());
    let own = [("lane", lane), ("kind", kind), ("repository", text(labels, "repository").and_then(short))];
    for (name, value) in own.into_iter().chain(shared.iter().cloned()) {
        if let Some(value) = value {
            extensions.insert(name.to_owned(), ExtensionValue::String(value));
        }
    }
    Ok(IncomingEvent {
        subject: text(labels, "alertname").and_then(short).or_else(|| Some(id.clone())),
        id: format!("{id}.{began}.{status}"),
        source: SOURCE.to_owned(),
        r#type: format!("com.prometheus.alert.{status}"),
        time: time(if firing { "startsAt" } else { "endsAt" }),
        datacontenttype: Some("application/json".to_owned()),
        dataschema: None,
        extensions,
        data,
    })
}

#[cfg(test)]
#[path = "alertmanager_tests.rs"]
mod tests;
