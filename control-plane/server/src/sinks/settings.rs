//! What the settings file says of sinks.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use mindos_model::RouteName;
use serde::Deserialize;

use crate::config::span;
use crate::ingest::base64;
use crate::outgoing::Target;

/// Sinks at a time.
pub const SINKS_MAX: usize = 32;
/// Headers that a sink may ask for.
const HEADERS_MAX: usize = 16;

/// How a message is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// CloudEvents 1.0 in structured JSON.
    #[default]
    Cloudevents,
    /// The data alone, as Standard Webhooks: id, time and signature in headers.
    Webhook,
}

/// What became of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Succeeded,
    Cancelled,
    Parked,
}

impl Outcome {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Succeeded => "succeeded",
            Outcome::Cancelled => "cancelled",
            Outcome::Parked => "parked",
        }
    }
}

/// A sink as the settings file names it.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SinkSetting {
    url: String,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    format: Format,
    on: Option<BTreeSet<Outcome>>,
    routes: Option<BTreeSet<String>>,
    secret: Option<String>,
    previous: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    timeout: Option<String>,
}

/// A sink, checked.
#[derive(Clone, PartialEq)]
pub struct Sink {
    pub target: Target,
    pub format: Format,
    pub on: BTreeSet<Outcome>,
    /// Unset is every route.
    pub routes: Option<BTreeSet<RouteName>>,
    /// The keys that messages are signed with: the current one and, while it is being changed, the one before.
    pub keys: Vec<Vec<u8>>,
    pub headers: HeaderMap,
    pub timeout: Duration,
}

impl std::fmt::Debug for Sink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Sink { target, format, on, routes, keys, headers: _, timeout: _ } = self;
        let mut shown = f.debug_struct("Sink");
        shown.field("target", target).field("format", format).field("on", on).field("routes", routes);
        shown.field("keys", &keys.len()).finish_non_exhaustive()
    }
}

/// Checks all sinks.
///
/// # Errors
/// Names the field and what is accepted.
pub fn sinks(settings: &BTreeMap<String, SinkSetting>) -> Result<BTreeMap<String, Sink>, String> {
    if settings.len() > SINKS_MAX {
        return Err(format!("`sinks` has {} sinks: at most {SINKS_MAX} are taken", settings.len()));
    }
    settings.iter().map(|(name, setting)| Ok((name.clone(), sink(name, setting)?))).collect()
}

fn sink(name: &str, setting: &SinkSetting) -> Result<Sink, String> {
    let at = |field: &str, reason: String| format!("`sinks.{name}.{field}`: {reason}");
    let SinkSetting { url, insecure, format, on, routes, secret, previous, headers, timeout } = setting;
    let is_name = (1..=63).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if !is_name {
        return Err(format!("`sinks.{name}`: expected a name of 1 to 63 of a-z, 0-9 and -"));
    }
    if headers.len() > HEADERS_MAX {
        return Err(at("headers", format!("at most {HEADERS_MAX} are taken")));
    }
    let mut kept = HeaderMap::new();
    for (name, value) in headers {
        let header = name.parse::<HeaderName>().map_err(|_| at("headers", format!("`{name}` is not a header")))?;
        let value = HeaderValue::from_str(value);
        let mut value = value.map_err(|_| at("headers", format!("`{name}` has a value that no header may have")))?;
        value.set_sensitive(true);
        kept.insert(header, value);
    }
    if *format == Format::Webhook && secret.is_none() {
        return Err(at("secret", "is needed for `format: webhook`".to_owned()));
    }
    if secret.is_none() && previous.is_some() {
        return Err(at("previous", "needs `secret` beside it".to_owned()));
    }
    let key = |text: &String| match text.strip_prefix("whsec_") {
        None => Ok(text.clone().into_bytes()),
        Some(coded) => base64::decode(coded).ok_or_else(|| at("secret", "has no base64 behind `whsec_`".to_owned())),
    };
    let keys: Vec<Vec<u8>> = secret.iter().chain(previous).map(key).collect::<Result<_, _>>()?;
    if keys.iter().any(Vec::is_empty) {
        return Err(at("secret", "is empty".to_owned()));
    }
    let names = |routes: &BTreeSet<String>| {
        let name = |name: &String| RouteName::new(name).map_err(|error| at("routes", error.to_string()));
        routes.iter().map(name).collect::<Result<BTreeSet<_>, String>>()
    };
    let timeout = timeout.as_deref().map_or(Ok(Duration::from_secs(10)), span).map_err(|error| at("timeout", error))?;
    if !(Duration::from_millis(100)..=Duration::from_secs(60)).contains(&timeout) {
        return Err(at("timeout", "expected 100ms to 60s".to_owned()));
    }
    Ok(Sink {
        target: Target::parse(url, *insecure).map_err(|error| at("url", error.to_string()))?,
        format: *format,
        on: on.clone().unwrap_or_else(|| [Outcome::Succeeded, Outcome::Cancelled, Outcome::Parked].into()),
        routes: routes.as_ref().map(names).transpose()?,
        keys,
        headers: kept,
        timeout,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(yaml: &str) -> Result<BTreeMap<String, Sink>, String> {
        sinks(&serde_norway::from_str(yaml).map_err(|error| error.to_string())?)
    }

    #[test]
    fn a_sink_is_checked_whole_and_hides_its_secrets() {
        let good = read(
            "{ops: {url: 'https://example.com/hook/TOKEN', secret: hush, on: [parked], routes: [a], headers: {X-Key: hush}}}",
        );
        let good = good.unwrap();
        assert_eq!(good["ops"].on, [Outcome::Parked].into());
        let shown = format!("{good:?}");
        assert!(!shown.contains("hush") && !shown.contains("TOKEN"), "{shown}");
        for (bad, says) in [
            ("{ops: {url: 'http://example.com/'}}", "sinks.ops.url"),
            ("{ops: {url: 'https://x/', format: webhook}}", "sinks.ops.secret"),
            ("{ops: {url: 'https://x/', previous: a}}", "sinks.ops.previous"),
            ("{ops: {url: 'https://x/', secret: ''}}", "sinks.ops.secret"),
            ("{ops: {url: 'https://x/', timeout: 2m}}", "sinks.ops.timeout"),
            ("{ops: {url: 'https://x/', headers: {'a b': c}}}", "sinks.ops.headers"),
            ("{ops: {url: 'https://x/', routes: ['A B']}}", "sinks.ops.routes"),
            ("{'a/b': {url: 'https://x/'}}", "a-z"),
            ("{ops: {url: 'https://x/', on: [everything]}}", "everything"),
            ("{ops: {url: 'https://x/', other: 1}}", "other"),
        ] {
            let error = read(bad).unwrap_err();
            assert!(error.contains(says), "{bad}: {error}");
        }
    }
}
