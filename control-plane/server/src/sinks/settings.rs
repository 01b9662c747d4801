//! What the settings file says of sinks.
//!
//! ```yaml
//! sinks:
//!   ops: { url: "https://example.com/hook", on: [parked], secret: "whsec_..", headers: { X-Team: a }, tenant: acme }
//!   bus: { url: "tls://nats.example.com:4222", subject: "mindos.{outcome}.{route}", user: mindos, password: { file: nats } }
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use mindos_core::access::Scope;
use mindos_model::{RouteName, TenantName};
use serde::Deserialize;

use super::post::Post;
use super::road::Road;
use crate::config::span;
use crate::ingest::base64;
use crate::notify::{Place, Places};
use crate::secret::{SecretAt, Secrets};
use mindos_outgoing::Target;

/// Sinks at a time.
pub const SINKS_MAX: usize = 32;
/// Headers that a sink may ask for.
const HEADERS_MAX: usize = 16;

/// How long one try may take, unless the settings say otherwise.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How a message is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// CloudEvents 1.0: structured JSON by HTTP, binary mode on NATS.
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
    /// Whose work it is told of: a tenant, or `*` for that of all. `default` when left out.
    tenant: Option<String>,
    subject: Option<String>,
    user: Option<String>,
    password: Option<SecretAt>,
    token: Option<SecretAt>,
    creds: Option<SecretAt>,
    nkey: Option<SecretAt>,
}

/// A sink, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Sink {
    pub road: Road,
    pub on: BTreeSet<Outcome>,
    /// Unset is every route.
    pub routes: Option<BTreeSet<RouteName>>,
    /// How long one try may take.
    pub timeout: Duration,
    /// Whose work it is told of.
    pub whose: Scope,
}

/// Checks all sinks.
///
/// # Errors
/// Names the field and what is accepted.
pub fn sinks(settings: &BTreeMap<String, SinkSetting>, secrets: Secrets) -> Result<BTreeMap<String, Sink>, String> {
    if settings.len() > SINKS_MAX {
        return Err(format!("`sinks` has {} sinks: at most {SINKS_MAX} are taken", settings.len()));
    }
    settings.iter().map(|(name, setting)| Ok((name.clone(), sink(name, setting, secrets)?))).collect()
}

fn sink(name: &str, setting: &SinkSetting, secrets: Secrets) -> Result<Sink, String> {
    let is_name = (1..=63).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if !is_name {
        return Err(format!("`sinks.{name}`: expected a name of 1 to 63 of a-z, 0-9 and -"));
    }
    let at = |field: &str, reason: String| format!("`sinks.{name}.{field}`: {reason}");
    let names = |routes: &BTreeSet<String>| {
        let name = |name: &String| RouteName::new(name).map_err(|error| at("routes", error.to_string()));
        routes.iter().map(name).collect::<Result<BTreeSet<_>, String>>()
    };
    let timeout = setting.timeout.as_deref();
    let timeout = timeout.map_or(Ok(TIMEOUT), span).map_err(|error| at("timeout", error))?;
    if !(Duration::from_millis(100)..=Duration::from_secs(60)).contains(&timeout) {
        return Err(at("timeout", "expected 100ms to 60s".to_owned()));
    }
    let on_nats = ["nats://", "tls://"].iter().any(|scheme| setting.url.trim_start().starts_with(scheme));
    Ok(Sink {
        road: if on_nats { nats(name, setting, secrets)? } else { http(name, setting)? },
        on: setting.on.clone().unwrap_or_else(|| [Outcome::Succeeded, Outcome::Cancelled, Outcome::Parked].into()),
        routes: setting.routes.as_ref().map(names).transpose()?,
        timeout,
        whose: scope(setting.tenant.as_deref()).map_err(|error| at("tenant", error))?,
    })
}

/// Reads whose work somebody is told of.
///
/// # Errors
/// Says what is accepted.
pub(crate) fn scope(text: Option<&str>) -> Result<Scope, String> {
    match text {
        None => Ok(Scope::Tenant(TenantName::default_tenant())),
        Some("*") => Ok(Scope::Plane),
        Some(name) => name.parse().map(Scope::Tenant).map_err(|error| format!("{error}, or `*` for all tenants")),
    }
}

/// The sinks by which people are told of parked work, by name.
pub fn notices(places: &Places) -> impl Iterator<Item = (String, Sink)> {
    let on = BTreeSet::from([Outcome::Parked]);
    let sink = move |place: &Place| Sink {
        road: Road::Notice(place.clone()),
        on: on.clone(),
        routes: None,
        timeout: TIMEOUT,
        whose: place.whose.clone(),
    };
    places.iter().map(move |place| (place.sink(), sink(place)))
}

/// Says that fields do not go with the sink's address.
fn unwanted(name: &str, given: &[(&str, bool)], why: &str) -> Result<(), String> {
    match given.iter().find(|(_, given)| *given) {
        Some((field, _)) => Err(format!("`sinks.{name}.{field}`: {why}")),
        None => Ok(()),
    }
}

fn http(name: &str, setting: &SinkSetting) -> Result<Road, String> {
    let at = |field: &str, reason: String| format!("`sinks.{name}.{field}`: {reason}");
    let SinkSetting { url, insecure, format, secret, previous, headers, subject, user, .. } = setting;
    let SinkSetting { password, token, creds, nkey, .. } = setting;
    let given = [
        ("subject", subject.is_some()),
        ("user", user.is_some()),
        ("password", password.is_some()),
        ("token", token.is_some()),
        ("creds", creds.is_some()),
        ("nkey", nkey.is_some()),
    ];
    unwanted(name, &given, "is for NATS: expected a `url` that begins with nats:// or tls://")?;
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
    let target = Target::parse(url, *insecure).map_err(|error| at("url", error.to_string()))?;
    Ok(Road::Http(Post { target, format: *format, keys, headers: kept }))
}

#[cfg(feature = "nats")]
fn nats(name: &str, setting: &SinkSetting, secrets: Secrets) -> Result<Road, String> {
    let SinkSetting { url, insecure, format, secret, previous, headers, subject, user, .. } = setting;
    let SinkSetting { password, token, creds, nkey, .. } = setting;
    let (signed, headed) = (secret.is_some() || previous.is_some(), !headers.is_empty());
    let given = [("format", *format == Format::Webhook), ("secret", signed), ("headers", headed)];
    unwanted(
        name,
        &given,
        "is for HTTP: messages on NATS are CloudEvents, and go to a server that asks who publishes",
    )?;
    let setting = super::nats::NatsSetting {
        at: &format!("sinks.{name}"),
        url,
        insecure: *insecure,
        subject: subject.as_deref(),
        user: user.as_deref(),
        password: password.as_ref(),
        token: token.as_ref(),
        creds: creds.as_ref(),
        nkey: nkey.as_ref(),
    };
    setting.check(secrets).map(Road::Nats)
}

#[cfg(not(feature = "nats"))]
fn nats(name: &str, _: &SinkSetting, _: Secrets) -> Result<Road, String> {
    Err(format!(
        "`sinks.{name}.url`: this build does not speak to NATS: build it with `--features nats`, or name an address with https"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(yaml: &str) -> Result<BTreeMap<String, Sink>, String> {
        sinks(&serde_norway::from_str(yaml).map_err(|error| error.to_string())?, Secrets::Read)
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
            ("{ops: {url: 'https://x/', subject: a}}", "sinks.ops.subject"),
            ("{ops: {url: 'https://x/', creds: {env: PATH}}}", "sinks.ops.creds"),
            ("{ops: {url: 'https://x/', nkey: {env: PATH}}}", "sinks.ops.nkey"),
        ] {
            let error = read(bad).unwrap_err();
            assert!(error.contains(says), "{bad}: {error}");
        }
    }

    #[cfg(not(feature = "nats"))]
    #[test]
    fn a_build_that_lacks_nats_says_so() {
        let error = read("{bus: {url: 'tls://x:4222', subject: a}}").unwrap_err();
        assert!(error.contains("sinks.bus.url") && error.contains("--features nats"), "{error}");
    }

    #[cfg(feature = "nats")]
    #[test]
    fn a_sink_on_nats_is_checked_whole_and_hides_its_secrets() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        std::fs::write(&path, "hush\n").unwrap();
        let at = format!("{{file: {}}}", path.display());
        let good = |rest: &str| read(&format!("{{bus: {{url: 'tls://a:1,tls://b', subject: 'x.{{kind}}', {rest}}}}}"));
        let key = nkeys::KeyPair::new_user();
        let seed = key.seed().unwrap();
        let creds = format!(
            "-----BEGIN NATS USER JWT-----\nhush.hush.hush\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        );
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            format!("{{file: {}}}", path.display())
        };
        let (seed_at, creds_at) = (file("seed", &seed), file("creds", &creds));
        let account_at = file("account", &nkeys::KeyPair::new_account().seed().unwrap());
        for login in [
            format!("user: me, password: {at}"),
            format!("token: {at}"),
            format!("nkey: {seed_at}"),
            format!("creds: {creds_at}"),
        ] {
            let shown = format!("{:?}", good(&login).unwrap());
            assert!(
                !shown.contains("hush") && !shown.contains(&seed) && shown.contains("\"b\"") && shown.contains("4222"),
                "{shown}"
            );
        }
        for (login, says) in [
            (format!("nkey: {at}"), "sinks.bus.nkey`: is no seed"),
            (format!("nkey: {account_at}"), "sinks.bus.nkey`: is the seed of another kind"),
            (format!("creds: {seed_at}"), "sinks.bus.creds`: is no credentials file"),
            (format!("creds: {creds_at}, nkey: {seed_at}"), "sinks.bus.nkey`: stands beside `creds`"),
            (format!("user: me, password: {at}, token: {at}"), "sinks.bus.token`: stands beside `user`"),
            (format!("creds: {seed}"), "and not the secret itself"),
        ] {
            let error = good(&login).unwrap_err();
            assert!(error.contains(says) && !error.contains("hush") && !error.contains(&seed), "{login}: {error}");
        }
        let assumed = format!("{{bus: {{url: 'tls://a', subject: x, nkey: {at}}}}}");
        assert!(sinks(&serde_norway::from_str(&assumed).unwrap(), Secrets::Assumed).is_ok());
        assert!(read("{bus: {url: 'nats://[::1]:4222', subject: x}}").is_ok());
        assert!(read("{bus: {url: 'nats://example.com', insecure: true, subject: x}}").is_ok());
        for (bad, says) in [
            ("url: 'nats://example.com', subject: x", "sinks.bus.url`: is not tls"),
            ("url: 'nats://me:hush@127.0.0.1', subject: x", "sinks.bus.url`: holds a user"),
            ("url: 'nats://127.0.0.1,tls://x', subject: x", "sinks.bus.url`: mixes"),
            ("url: 'tls://x/path', subject: x", "sinks.bus.url`: is not an address"),
            ("url: 'tls://x,', subject: x", "sinks.bus.url`: is not an address"),
            ("url: 'tls://x'", "sinks.bus.subject`: is needed"),
            ("url: 'tls://x', subject: 'x.>'", "sinks.bus.subject`: holds `>`"),
            ("url: 'tls://x', subject: x, user: me", "sinks.bus.password`: is needed"),
            ("url: 'tls://x', subject: x, password: {env: PATH}", "sinks.bus.user`: is needed"),
            ("url: 'tls://x', subject: x, token: {env: NO_SUCH_VARIABLE}", "sinks.bus.token.env"),
            ("url: 'tls://x', subject: x, format: webhook", "sinks.bus.format`: is for HTTP"),
            ("url: 'tls://x', subject: x, secret: a", "sinks.bus.secret`: is for HTTP"),
            ("url: 'tls://x', subject: x, headers: {a: b}", "sinks.bus.headers`: is for HTTP"),
        ] {
            let error = read(&format!("{{bus: {{{bad}}}}}")).unwrap_err();
            assert!(error.contains(says) && !error.contains("hush"), "{bad}: {error}");
        }
    }
}
