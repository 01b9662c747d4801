//! GitHub's REST API, one request at a time: its headers, and what its answers mean.
//!
//! Invariant: an error says what GitHub said in its own words, and never shows a token.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use mindos_model::{Secret, Timestamp};
use mindos_outgoing::{Answer, Outgoing, OutgoingError, Request, Target};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::clock::Clock;
use crate::logging::Chain;

/// The version of the API that is spoken.
const VERSION: &str = "2022-11-28";
/// The largest answer: a page of 100 comments of 64 KiB each, with what stands around them.
const ANSWER_MAX: usize = 16 << 20;
/// How long a request may take.
pub(super) const TIMEOUT: Duration = Duration::from_secs(30);
/// What GitHub asks for when it names no time.
const SECONDARY_WAIT: Duration = Duration::from_secs(60);
/// The longest that its word on waiting is heeded at a time.
const WAIT_MAX: Duration = Duration::from_secs(2 * 3600);
/// Bytes of GitHub's words that are kept.
const WORDS_MAX: usize = 600;

/// Why GitHub did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForgeError {
    /// A limit is used up, the primary or a secondary one.
    #[error("{message}: waits until {until}")]
    Limited { until: Timestamp, message: String },
    /// The credentials are not accepted.
    #[error("GitHub does not accept the credentials: {message}")]
    Unauthorised { message: String },
    /// There is no such thing, or it may not be seen.
    #[error("GitHub knows nothing of it, or does not show it: {message}")]
    NotFound { message: String },
    /// GitHub does not want to, and would not at another time.
    #[error("GitHub refused with {status}: {message}")]
    Refused { status: u16, message: String },
    /// It may work later. Of a write it is not known whether it took place where `unclear` is set.
    #[error("{message}")]
    Transient { message: String, unclear: bool },
}

impl ForgeError {
    /// A refusal of our own, in the place of one of GitHub's.
    pub(super) fn refused(status: u16, message: impl Into<String>) -> ForgeError {
        ForgeError::Refused { status, message: message.into() }
    }

    /// What may be mended by trying again.
    pub(super) fn transient(message: impl Into<String>) -> ForgeError {
        ForgeError::Transient { message: message.into(), unclear: false }
    }

    /// Whether GitHub refused with this status, in words that hold one of these.
    pub(super) fn says(&self, status: u16, words: &[&str]) -> bool {
        match self {
            ForgeError::Refused { status: with, message } => {
                let said = message.to_ascii_lowercase();
                *with == status && (words.is_empty() || words.iter().any(|word| said.contains(word)))
            }
            _ => false,
        }
    }
}

/// Where the API is, and how it is asked.
#[derive(Clone, Debug)]
pub(super) struct Rest {
    pub(super) client: Outgoing,
    pub(super) api: Target,
    pub(super) clock: Clock,
    pub(super) timeout: Duration,
}

impl Rest {
    /// Asks, as whoever the bearer token belongs to.
    pub(super) async fn call(
        &self,
        bearer: &Secret,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Answer, ForgeError> {
        self.send(bearer, method, path, body, None).await
    }

    /// Reads what is not as it was when it had this tag; 304 where it is, which GitHub does not count.
    pub(super) async fn read_unless(
        &self,
        bearer: &Secret,
        path: &str,
        tag: &HeaderValue,
    ) -> Result<Answer, ForgeError> {
        self.send(bearer, Method::GET, path, None, Some(tag)).await
    }

    async fn send(
        &self,
        bearer: &Secret,
        method: Method,
        path: &str,
        body: Option<&Value>,
        unless: Option<&HeaderValue>,
    ) -> Result<Answer, ForgeError> {
        let is_read = method == Method::GET;
        let target = self.api.join(path).map_err(|error| ForgeError::refused(0, format!("`{path}` {error}")))?;
        let mut request = Request::new(method, target);
        request.timeout = self.timeout;
        request.answer_max = ANSWER_MAX;
        let mut value = HeaderValue::from_str(&format!("Bearer {}", bearer.expose()))
            .map_err(|_| ForgeError::Unauthorised { message: "the token cannot be sent".to_owned() })?;
        value.set_sensitive(true);
        request.headers.insert(header::AUTHORIZATION, value);
        request.headers.insert(header::ACCEPT, HeaderValue::from_static("application/vnd.github+json"));
        request.headers.insert("x-github-api-version", HeaderValue::from_static(VERSION));
        if let Some(tag) = unless {
            request.headers.insert(header::IF_NONE_MATCH, tag.clone());
        }
        if let Some(body) = body {
            request.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            request.body = Bytes::from(body.to_string());
        }
        match self.client.send(request).await {
            Ok(answer) if answer.status.is_success() => Ok(answer),
            Ok(answer) if unless.is_some() && answer.status == StatusCode::NOT_MODIFIED => Ok(answer),
            Ok(answer) => Err(refusal(&answer, self.clock.now())),
            Err(error) => {
                // Whoever was reached may have done it before the connection broke.
                let never_there = match &error {
                    OutgoingError::Unreached { source, .. } => source.is_connect(),
                    OutgoingError::Request(_) => true,
                    OutgoingError::Timeout { .. } | OutgoingError::TooLarge { .. } | OutgoingError::Broken { .. } => {
                        false
                    }
                };
                let unclear = !is_read && !never_there;
                let message = format!("GitHub was not heard: {}", Chain(&error));
                Err(ForgeError::Transient { message, unclear })
            }
        }
    }
}

/// Reads the body of an answer. One that cannot be read says nothing of whether a write took place.
pub(super) fn read<T: DeserializeOwned>(answer: &Answer, is_read: bool) -> Result<T, ForgeError> {
    serde_json::from_slice(&answer.body).map_err(|error| ForgeError::Transient {
        message: format!("GitHub's answer is not as documented: {error}"),
        unclear: !is_read,
    })
}

/// Whether a list goes on behind this page.
pub(super) fn has_more(headers: &HeaderMap) -> bool {
    let links = headers.get_all(header::LINK).into_iter().filter_map(|link| link.to_str().ok());
    links.flat_map(|links| links.split(',')).any(|link| link.contains("rel=\"next\""))
}

/// A number out of a header.
pub(super) fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

fn refusal(answer: &Answer, now: Timestamp) -> ForgeError {
    let message = words(&answer.body, answer.status);
    let until = |wait: Duration| now + wait.min(WAIT_MAX);
    let lower = message.to_ascii_lowercase();
    let is_limit = matches!(answer.status, StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS);
    if is_limit && let Some(wait) = answer.retry_after() {
        // A second more, for it counts whole ones.
        return ForgeError::Limited { until: until(wait + wait.min(Duration::from_secs(1))), message };
    }
    if is_limit && number(&answer.headers, "x-ratelimit-remaining") == Some(0) {
        let reset = number(&answer.headers, "x-ratelimit-reset").map(|at| Timestamp(at.saturating_mul(1000)));
        let wait = reset.map_or(SECONDARY_WAIT, |reset| reset.since(now) + Duration::from_secs(1));
        return ForgeError::Limited { until: until(wait), message };
    }
    if is_limit && (lower.contains("secondary rate limit") || lower.contains("abuse detection"))
        || answer.status == StatusCode::TOO_MANY_REQUESTS
    {
        return ForgeError::Limited { until: until(SECONDARY_WAIT), message };
    }
    match answer.status {
        StatusCode::UNAUTHORIZED => ForgeError::Unauthorised { message },
        StatusCode::NOT_FOUND => ForgeError::NotFound { message },
        StatusCode::FORBIDDEN => {
            let needed = answer.headers.get("x-accepted-github-permissions").and_then(|value| value.to_str().ok());
            let needed = needed.map(|needed| format!(" (needs {})", clean(needed, 120))).unwrap_or_default();
            ForgeError::refused(403, format!("{message}{needed}"))
        }
        status if status.is_redirection() => {
            ForgeError::refused(status.as_u16(), "it has moved: name it by its present name")
        }
        StatusCode::REQUEST_TIMEOUT | StatusCode::CONFLICT => ForgeError::transient(message),
        // A gateway that gave up may have passed the request on.
        status if status.is_server_error() => {
            ForgeError::Transient { message: format!("GitHub answered {}: {message}", status.as_u16()), unclear: true }
        }
        status => ForgeError::refused(status.as_u16(), message),
    }
}

/// GitHub's own words: the message, and what it says of each field.
fn words(body: &[u8], status: StatusCode) -> String {
    let Ok(body) = serde_json::from_slice::<Value>(body) else {
        return status.canonical_reason().unwrap_or("without a reason").to_owned();
    };
    let mut said = body["message"].as_str().unwrap_or("without a reason").to_owned();
    let each = |error: &Value| match error {
        Value::String(text) => Some(text.clone()),
        Value::Object(_) => {
            let part = |name: &str| error[name].as_str().filter(|text| !text.is_empty());
            let place = [part("resource"), part("field")].into_iter().flatten().collect::<Vec<_>>().join(".");
            let what = part("message").or(part("code"))?;
            Some(if place.is_empty() { what.to_owned() } else { format!("{place}: {what}") })
        }
        _ => None,
    };
    let errors: Vec<String> = match &body["errors"] {
        Value::Array(errors) => errors.iter().take(10).filter_map(each).collect(),
        Value::String(text) => vec![text.clone()],
        _ => Vec::new(),
    };
    if !errors.is_empty() {
        said = format!("{said} ({})", errors.join("; "));
    }
    clean(&said, WORDS_MAX)
}

/// One line of text, within a bound.
pub(super) fn clean(text: &str, max: usize) -> String {
    let text: String = text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
    text[..text.floor_char_boundary(max)].trim().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: Timestamp = Timestamp(1_795_176_000_000);

    fn of(status: u16, headers: &[(&'static str, &str)], body: Value) -> ForgeError {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().unwrap());
        }
        let answer =
            Answer { status: StatusCode::from_u16(status).unwrap(), headers: map, body: Bytes::from(body.to_string()) };
        refusal(&answer, NOW)
    }

    #[test]
    fn limits_are_told_from_refusals_and_say_until_when() {
        let limited = |error: ForgeError| match error {
            ForgeError::Limited { until, .. } => until.since(NOW).as_millis(),
            other => panic!("{other:?}"),
        };
        let secondary = json!({ "message": "You have exceeded a secondary rate limit. Please wait." });
        assert_eq!(limited(of(403, &[("retry-after", "7")], secondary.clone())), 8000);
        assert_eq!(limited(of(429, &[("retry-after", "0.25")], json!({}))), 500);
        assert_eq!(limited(of(403, &[], secondary)), 60_000);
        assert_eq!(limited(of(429, &[], json!({}))), 60_000);
        let reset = (NOW.0 / 1000 + 90).to_string();
        let primary = [("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", reset.as_str())];
        assert_eq!(limited(of(403, &primary, json!({ "message": "API rate limit exceeded" }))), 91_000);
        assert_eq!(limited(of(403, &[("retry-after", "999999")], json!({}))), 7_200_000, "its word has a bound");
        let needs = [("x-accepted-github-permissions", "checks=write")];
        let refused = of(403, &needs, json!({ "message": "Resource not accessible by integration" }));
        assert_eq!(refused, ForgeError::refused(403, "Resource not accessible by integration (needs checks=write)"));
    }

    #[test]
    fn a_refusal_is_in_githubs_own_words() {
        let errors = json!([{ "resource": "PullRequest", "code": "custom", "message": "No commits between a and b" }]);
        let body = json!({ "message": "Validation Failed", "errors": errors });
        let refused = of(422, &[], body);
        assert_eq!(refused, ForgeError::refused(422, "Validation Failed (PullRequest: No commits between a and b)"));
        assert!(refused.says(422, &["no commits"]) && !refused.says(404, &[]));
        let lines = json!({ "message": "Unprocessable Entity", "errors": ["line must be\npart of the diff"] });
        assert_eq!(of(422, &[], lines).to_string().lines().count(), 1);
        assert!(matches!(of(401, &[], json!({})), ForgeError::Unauthorised { .. }));
        assert!(matches!(of(404, &[], json!({})), ForgeError::NotFound { .. }));
        assert!(matches!(of(301, &[], json!({})), ForgeError::Refused { status: 301, .. }));
        assert!(matches!(of(409, &[], json!({})), ForgeError::Transient { unclear: false, .. }));
        assert!(matches!(of(502, &[], json!("<html>")), ForgeError::Transient { unclear: true, .. }));
    }
}
