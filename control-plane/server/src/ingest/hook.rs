//! What all webhooks but GitHub's share: shared secrets, headers, bodies of JSON, and how each of them is refused.
//!
//! Invariant: an error names the header or field and what is accepted, and repeats nothing of the payload or of a secret.

use bytes::Bytes;
use http::HeaderMap;
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::github_signature::EmptySecret;

/// The longest id that a header may give, in bytes.
pub(super) const ID_MAX: usize = 128;

/// Why a webhook was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HookError {
    #[error("header {name} is missing")]
    MissingHeader { name: String },
    #[error("header {name} is not usable: expected {accepted}")]
    BadHeader { name: String, accepted: &'static str },
    #[error("header {name} is missing, or does not hold the secret or signature that is configured")]
    Denied { name: String },
    #[error("content type `{found}` is not accepted: send application/json")]
    UnsupportedContentType { found: String },
    #[error("the payload is not JSON: {reason} at line {line}, column {column}")]
    BadJson { line: usize, column: usize, reason: String },
    #[error("the payload is not a JSON object")]
    NotAnObject,
    #[error("field `{field}` is missing or not usable: expected {accepted}")]
    Field { field: String, accepted: &'static str },
    #[error("field `{field}` has {found} items: at most {max} are accepted")]
    TooMany { field: &'static str, found: usize, max: usize },
}

impl HookError {
    /// The HTTP status that says this to the sender.
    #[must_use]
    pub fn http_status(&self) -> u16 {
        match self {
            HookError::Denied { .. } => 401,
            HookError::UnsupportedContentType { .. } => 415,
            HookError::TooMany { .. } => 413,
            HookError::MissingHeader { .. }
            | HookError::BadHeader { .. }
            | HookError::BadJson { .. }
            | HookError::NotAnObject
            | HookError::Field { .. } => 400,
        }
    }
}

/// A secret that senders show as it is: the current one, and while it is being changed the one before.
#[derive(Clone)]
pub struct Tokens {
    current: [u8; 32],
    previous: Option<[u8; 32]>,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokens({})", 1 + usize::from(self.previous.is_some()))
    }
}

impl Tokens {
    /// # Errors
    /// `EmptySecret` when either secret has no bytes.
    pub fn new(current: &str, previous: Option<&str>) -> Result<Tokens, EmptySecret> {
        if current.is_empty() || previous.is_some_and(str::is_empty) {
            return Err(EmptySecret);
        }
        let hash = |text: &str| Sha256::digest(text.as_bytes()).into();
        Ok(Tokens { current: hash(current), previous: previous.map(hash) })
    }

    /// Whether `shown` is one of the secrets. Hashes are compared, whole and both, so time tells nothing.
    #[must_use]
    pub fn verify(&self, shown: &[u8]) -> bool {
        let shown: [u8; 32] = Sha256::digest(shown).into();
        let same = |secret: &[u8; 32]| secret.iter().zip(&shown).fold(0, |sum, (one, other)| sum | (one ^ other)) == 0;
        let current = same(&self.current);
        let previous = self.previous.as_ref().is_some_and(same);
        current | previous
    }
}

/// A secret as the settings file gives it.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretSetting {
    pub(super) secret: String,
    /// The one before, while it is being changed.
    pub(super) previous: Option<String>,
}

impl SecretSetting {
    /// # Errors
    /// When a secret is empty.
    pub fn tokens(&self) -> Result<Tokens, EmptySecret> {
        Tokens::new(&self.secret, self.previous.as_deref())
    }
}

/// The text of a header; `None` when it is missing, empty, or not ASCII.
pub(super) fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim).filter(|text| !text.is_empty())
}

/// The payload, which is to be a JSON object.
pub(super) fn object(headers: &HeaderMap, body: &Bytes) -> Result<Value, HookError> {
    let found = header(headers, "content-type").unwrap_or_default();
    let media = found.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if media != "application/json" && !(media.starts_with("application/") && media.ends_with("+json")) {
        return Err(HookError::UnsupportedContentType { found: found.chars().take(64).collect() });
    }
    let value: Value = serde_json::from_slice(body).map_err(|error| {
        let text = error.to_string();
        let reason = text.split(" at line ").next().unwrap_or_default().to_owned();
        HookError::BadJson { line: error.line(), column: error.column(), reason }
    })?;
    if value.is_object() { Ok(value) } else { Err(HookError::NotAnObject) }
}

/// An attribute's text; `None` when it could not stand in an event.
pub(super) fn short(text: impl Into<String>) -> Option<String> {
    let text = text.into();
    let fits = !text.trim().is_empty() && text.len() <= super::event::TEXT_MAX && !text.chars().any(char::is_control);
    fits.then_some(text)
}

/// The start of the body's SHA-256, as 32 hexadecimal digits: names a payload that has no other name.
pub(super) fn fingerprint(bytes: &[u8]) -> String {
    Sha256::digest(bytes)[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_secret_opens_and_nothing_else() {
        let tokens = Tokens::new("next", Some("before")).unwrap();
        assert!(tokens.verify(b"next") && tokens.verify(b"before"));
        for wrong in ["", "nex", "nextt", "Next", "nextbefore"] {
            assert!(!tokens.verify(wrong.as_bytes()), "{wrong}");
        }
        assert_eq!(format!("{tokens:?}"), "Tokens(2)");
        assert!(Tokens::new("", None).is_err() && Tokens::new("a", Some("")).is_err());
    }

    #[test]
    fn bodies_that_are_no_object_of_json_are_refused_with_the_reason() {
        let of = |media: &'static str, body: &'static str| {
            let headers = HeaderMap::from_iter([(http::header::CONTENT_TYPE, media.parse().unwrap())]);
            object(&headers, &Bytes::from_static(body.as_bytes())).map_err(|error| error.http_status())
        };
        assert!(of("application/json; charset=utf-8", "{}").is_ok());
        assert!(of("application/vnd.x+json", "{}").is_ok());
        assert_eq!(of("text/plain", "{}"), Err(415));
        assert_eq!(of("application/json", "{\"a\": \"secret"), Err(400));
        assert_eq!(of("application/json", "[]"), Err(400));
        let cut = HeaderMap::from_iter([(http::header::CONTENT_TYPE, "application/json".parse().unwrap())]);
        let error = object(&cut, &Bytes::from_static(b"{\"a\": \"hush")).unwrap_err().to_string();
        assert!(error.contains("line 1") && !error.contains("hush"), "{error}");
    }
}
