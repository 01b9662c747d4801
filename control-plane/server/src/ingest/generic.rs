//! Webhooks of anybody else: JSON, read by a mapping in the settings file.
//!
//! ```yaml
//! ingest:
//!   argocd:                                    # POST /webhooks/generic/argocd
//!     type: "io.argoproj.{/action}"            # {/a/b} is a JSON pointer into the body, {header:Name} a header
//!     id: "{header:X-Delivery}"                # unset: the hash of the body
//!     subject: "{/app/name}"
//!     lane: "{/app/project}/{/app/name}"
//!     kind: needs_attention
//!     signature: {header: X-Signature, secret: "..", prefix: "sha256="}
//! ```
//! Invariant: a mapping that could not give two events two names, or would let anybody in unsaid, is refused with the file.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::{HeaderMap, HeaderName};
use mindos_model::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use super::cloudevents::{ExtensionValue, IncomingEvent};
use super::github_signature::{self, Secrets};
use super::hook::{HookError, SecretSetting, Tokens, fingerprint, header, object, short};

/// Mappings at a time.
pub const MAPPINGS_MAX: usize = 100;

/// A mapping as the settings file gives it.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GenericSetting {
    r#type: String,
    source: Option<String>,
    id: Option<String>,
    subject: Option<String>,
    lane: Option<String>,
    repository: Option<String>,
    actor: Option<String>,
    time: Option<String>,
    kind: Option<String>,
    signature: Option<SignatureSetting>,
    token: Option<TokenSetting>,
    /// Takes what comes from this machine as it is.
    #[serde(default)]
    unsigned: bool,
}

#[derive(Clone, Deserialize)]
struct SignatureSetting {
    header: String,
    /// What stands before the hexadecimal digits.
    #[serde(default)]
    prefix: String,
    #[serde(flatten)]
    secret: SecretSetting,
}

#[derive(Clone, Deserialize)]
struct TokenSetting {
    header: String,
    /// What stands before the secret, such as `Bearer `.
    #[serde(default)]
    prefix: String,
    #[serde(flatten)]
    secret: SecretSetting,
}

/// How senders are known.
#[derive(Clone, Debug)]
enum Proof {
    /// HMAC-SHA256 over the bytes of the body.
    Signature { header: HeaderName, prefix: String, secrets: Secrets },
    /// The secret itself.
    Token { header: HeaderName, prefix: String, tokens: Tokens },
    /// Not at all; only from this machine.
    None,
}

/// A mapping, checked.
#[derive(Clone, Debug)]
pub struct GenericHook {
    proof: Proof,
    r#type: Template,
    source: Template,
    id: Option<Template>,
    subject: Option<Template>,
    time: Option<Template>,
    /// `lane`, `repository`, `actor` and `kind`, where they are mapped.
    extensions: Vec<(&'static str, Template)>,
}

impl GenericHook {
    /// Checks a mapping.
    ///
    /// # Errors
    /// Names the field and what is accepted.
    pub fn new(name: &str, setting: &GenericSetting) -> Result<GenericHook, String> {
        let is_name = |name: &str| {
            (1..=63).contains(&name.len())
                && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        };
        if !is_name(name) {
            return Err(format!("`ingest.{name}`: expected a name of 1 to 63 of a-z, 0-9 and -"));
        }
        let GenericSetting { r#type, source, id, subject, lane, repository, actor, time, kind, .. } = setting;
        let at = |field: &str, reason: String| format!("`ingest.{name}.{field}`: {reason}");
        let template = |field: &str, text: &str| Template::parse(text).map_err(|reason| at(field, reason));
        let optional =
            |field: &str, text: &Option<String>| text.as_deref().map(|text| template(field, text)).transpose();
        let id = optional("id", id)?;
        if id.as_ref().is_some_and(Template::is_constant) {
            let reason = "would give every event the same id: put a pointer in braces, such as {/id}, or leave it out";
            return Err(at("id", reason.to_owned()));
        }
        let mut extensions = Vec::new();
        for (field, text) in [("lane", lane), ("repository", repository), ("actor", actor), ("kind", kind)] {
            extensions.extend(optional(field, text)?.map(|template| (field, template)));
        }
        let source = source.clone().unwrap_or_else(|| format!("/webhooks/generic/{name}"));
        Ok(GenericHook {
            proof: proof(setting).map_err(|(field, reason)| at(field, reason))?,
            r#type: template("type", r#type)?,
            source: template("source", &source)?,
            id,
            subject: optional("subject", subject)?,
            time: optional("time", time)?,
            extensions,
        })
    }

    /// Whether anybody on this machine may send.
    #[must_use]
    pub fn is_unsigned(&self) -> bool {
        matches!(self.proof, Proof::None)
    }

    /// Verifies a request and turns it into an event.
    ///
    /// # Errors
    /// Names the header, or the pointer that the body has nothing usable at.
    pub fn normalise(&self, headers: &HeaderMap, body: &Bytes) -> Result<IncomingEvent, HookError> {
        self.authorise(headers, body)?;
        let payload = object(headers, body)?;
        let fill = |template: &Template| template.fill(&payload, headers);
        let wanted = |field: &str, template: &Template, accepted| {
            let filled = fill(template).and_then(short).filter(|text| !text.contains(char::is_whitespace));
            filled.ok_or_else(|| HookError::Field { field: template.describe(field), accepted })
        };
        let id = match &self.id {
            None => fingerprint(body),
            Some(template) => wanted("id", template, "text without spaces, for the event's id")?,
        };
        let extensions = self.extensions.iter().filter_map(|(name, template)| {
            Some(((*name).to_owned(), ExtensionValue::String(fill(template).and_then(short)?)))
        });
        Ok(IncomingEvent {
            id,
            source: wanted("source", &self.source, "text without spaces, for the event's source")?,
            r#type: wanted("type", &self.r#type, "text without spaces, for the event's type")?,
            subject: self.subject.as_ref().and_then(fill).and_then(short),
            time: self.time.as_ref().and_then(fill).and_then(|text| time(&text)),
            datacontenttype: Some("application/json".to_owned()),
            dataschema: None,
            extensions: extensions.collect::<BTreeMap<_, _>>(),
            data: body.clone(),
        })
    }

    fn authorise(&self, headers: &HeaderMap, body: &Bytes) -> Result<(), HookError> {
        let (name, good) = match &self.proof {
            Proof::None => return Ok(()),
            Proof::Signature { header: name, prefix, secrets } => {
                let digits = header(headers, name.as_str()).and_then(|text| text.strip_prefix(prefix.as_str()));
                let signature = digits.and_then(|digits| github_signature::parse(&format!("sha256={digits}")));
                (name, signature.is_some_and(|signature| secrets.verify(body, &signature)))
            }
            Proof::Token { header: name, prefix, tokens } => {
                let shown = headers.get(name).map(http::HeaderValue::as_bytes).unwrap_or_default();
                let token = shown.strip_prefix(prefix.as_bytes()).unwrap_or_default();
                (name, tokens.verify(token))
            }
        };
        if good { Ok(()) } else { Err(HookError::Denied { name: name.as_str().to_owned() }) }
    }
}

fn proof(setting: &GenericSetting) -> Result<Proof, (&'static str, String)> {
    let name = |field, text: &str| text.parse::<HeaderName>().map_err(|_| (field, "is not a header".to_owned()));
    match (&setting.signature, &setting.token, setting.unsigned) {
        (Some(SignatureSetting { header, prefix, secret }), None, false) => {
            let previous = secret.previous.clone().map(String::into_bytes);
            let secrets = Secrets::new(secret.secret.clone(), previous);
            let secrets = secrets.map_err(|error| ("signature.secret", error.to_string()))?;
            Ok(Proof::Signature { header: name("signature.header", header)?, prefix: prefix.clone(), secrets })
        }
        (None, Some(TokenSetting { header, prefix, secret }), false) => {
            let tokens = secret.tokens().map_err(|error| ("token.secret", error.to_string()))?;
            Ok(Proof::Token { header: name("token.header", header)?, prefix: prefix.clone(), tokens })
        }
        (None, None, true) => Ok(Proof::None),
        _ => {
            let reason =
                "expected exactly one of `signature`, `token` and `unsigned: true` (this machine only) beside it";
            Err(("type", reason.to_owned()))
        }
    }
}

fn time(text: &str) -> Option<Timestamp> {
    let seconds = || text.parse::<u64>().ok()?.checked_mul(1000).map(Timestamp);
    text.parse().ok().or_else(seconds).filter(|time| *time <= Timestamp::MAX)
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Pointer(String),
    Header(HeaderName),
}

/// Text with places for values.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Template(Vec<Part>);

impl Template {
    fn parse(text: &str) -> Result<Template, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (inside, behind) =
                after.split_once('}').ok_or("a brace is open: expected {/pointer} or {header:Name}")?;
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            parts.push(match inside.strip_prefix("header:") {
                Some(name) => Part::Header(name.trim().parse().map_err(|_| format!("`{name}` is not a header"))?),
                None if inside.starts_with('/') => Part::Pointer(inside.to_owned()),
                None => return Err(format!("`{{{inside}}}` is not known: expected {{/pointer}} or {{header:Name}}")),
            });
            rest = behind;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        if parts.is_empty() {
            return Err("is empty: leave it out instead".to_owned());
        }
        Ok(Template(parts))
    }

    fn is_constant(&self) -> bool {
        self.0.iter().all(|part| matches!(part, Part::Text(_)))
    }

    /// `None` when one of its places has no value.
    fn fill(&self, payload: &Value, headers: &HeaderMap) -> Option<String> {
        let mut filled = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => filled.push_str(text),
                Part::Header(name) => filled.push_str(header(headers, name.as_str())?),
                Part::Pointer(pointer) => match payload.pointer(pointer)? {
                    Value::String(text) if !text.trim().is_empty() => filled.push_str(text),
                    Value::Number(number) => filled.push_str(&number.to_string()),
                    Value::Bool(flag) => filled.push_str(if *flag { "true" } else { "false" }),
                    _ => return None,
                },
            }
        }
        Some(filled)
    }

    /// Where a value was looked for.
    fn describe(&self, field: &str) -> String {
        let place = |part: &Part| match part {
            Part::Text(_) => None,
            Part::Pointer(pointer) => Some(pointer.clone()),
            Part::Header(name) => Some(format!("header:{name}")),
        };
        let places: Vec<String> = self.0.iter().filter_map(place).collect();
        if places.is_empty() { field.to_owned() } else { places.join(" ") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(yaml: &str) -> Result<GenericHook, String> {
        GenericHook::new("x", &serde_norway::from_str(yaml).map_err(|error| error.to_string())?)
    }

    fn headers(more: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", "application/json".parse().unwrap());
        for (name, value) in more {
            headers.insert(*name, value.parse().unwrap());
        }
        headers
    }

    const BODY: &[u8] = br#"{"id": 7, "app": {"name": "web", "a/b": true}, "at": 1769860800, "what": "synced"}"#;

    #[test]
    fn a_mapping_reads_bodies_and_headers() {
        let mapping = r#"
type: "io.argoproj.{/what}"
id: "{header:X-Delivery}.{/id}"
subject: "{/app/name}"
lane: "apps/{/app/name}/{/app/a~1b}"
actor: "{/nobody}"
time: "{/at}"
kind: needs_attention
unsigned: true
"#;
        let event = hook(mapping).unwrap();
        let event = event.normalise(&headers(&[("x-delivery", "d1")]), &Bytes::from_static(BODY)).unwrap();
        assert_eq!((event.id.as_str(), event.r#type.as_str()), ("d1.7", "io.argoproj.synced"));
        assert_eq!((event.source.as_str(), event.subject.as_deref()), ("/webhooks/generic/x", Some("web")));
        assert_eq!(event.time, Some(Timestamp(1_769_860_800_000)));
        let string = |text: &str| ExtensionValue::String(text.to_owned());
        assert_eq!(event.extensions.get("lane"), Some(&string("apps/web/true")));
        assert_eq!(event.extensions.get("kind"), Some(&string("needs_attention")));
        assert_eq!(event.extensions.get("actor"), None);
        assert_eq!(&event.data[..], BODY);
    }

    #[test]
    fn what_a_body_lacks_is_named() {
        let event = hook("{type: 'a.{/none/there}', unsigned: true}").unwrap();
        let error = event.normalise(&headers(&[]), &Bytes::from_static(BODY)).unwrap_err();
        assert_eq!(error.http_status(), 400);
        assert!(error.to_string().contains("`/none/there`"), "{error}");
        let again = hook("{type: a, unsigned: true}").unwrap();
        let id = |body: &'static [u8]| again.normalise(&headers(&[]), &Bytes::from_static(body)).unwrap().id;
        assert_eq!(id(BODY), id(BODY));
        assert_ne!(id(BODY), id(b"{}"));
    }

    #[test]
    fn signatures_and_tokens_open_under_either_secret() {
        use hmac::{KeyInit, Mac};
        let sign = |secret: &str| {
            let mut mac = hmac::Hmac::<sha2::Sha256>::new_from_slice(secret.as_bytes()).unwrap();
            mac.update(BODY);
            mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect::<String>()
        };
        let code = |hook: &GenericHook, value: &str| {
            let headers = headers(&[("x-sig", value)]);
            hook.normalise(&headers, &Bytes::from_static(BODY)).map(drop).map_err(|error| error.http_status())
        };
        let signed = hook("{type: a, signature: {header: X-Sig, prefix: v1=, secret: next, previous: old}}").unwrap();
        assert_eq!(code(&signed, &format!("v1={}", sign("next"))), Ok(()));
        assert_eq!(code(&signed, &format!("v1={}", sign("old"))), Ok(()));
        assert_eq!(code(&signed, &format!("v1={}", sign("other"))), Err(401));
        assert_eq!(code(&signed, &sign("next")), Err(401));
        let token = hook("{type: a, token: {header: X-Sig, prefix: 'Bearer ', secret: hush}}").unwrap();
        assert_eq!(code(&token, "Bearer hush"), Ok(()));
        assert_eq!(code(&token, "hush"), Err(401));
        assert!(!format!("{token:?} {signed:?}").contains("hush"));
    }

    #[test]
    fn a_mapping_is_checked_whole() {
        for (bad, says) in [
            ("{type: a}", "exactly one of"),
            ("{type: a, unsigned: true, token: {header: x, secret: s}}", "exactly one of"),
            ("{type: a, id: constant, unsigned: true}", "ingest.x.id"),
            ("{type: 'a{b}', unsigned: true}", "{/pointer}"),
            ("{type: 'a{/b', unsigned: true}", "brace"),
            ("{type: a, token: {header: x, secret: ''}}", "token.secret"),
            ("{type: a, token: {header: 'x y', secret: s}}", "token.header"),
            ("{type: a, unsigned: true, unknown: 1}", "unknown"),
        ] {
            let error = hook(bad).unwrap_err();
            assert!(error.contains(says), "{bad}: {error}");
        }
        let setting: GenericSetting = serde_norway::from_str("{type: a, unsigned: true}").unwrap();
        assert!(GenericHook::new("Not A Name", &setting).is_err());
    }
}
