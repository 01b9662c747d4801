//! GitHub webhooks: one delivery, verified and turned into the attributes of a CloudEvent.
//!
//! `type`, `source`, `subject`, `time` and `id` follow the CloudEvents GitHub adapter; lane and kind are ours. Only what
//! identifies the delivery is demanded: the headers, the signature, a JSON object. Whatever else a payload lacks (GitHub's
//! own samples lack a lot) is made up for from what it has. Invariant: the data are the JSON bytes that were signed, or for
//! a form those of its `payload` field, never a re-encoding.

use std::str::FromStr;

use bytes::Bytes;
use http::HeaderMap;
use mindos_model::Timestamp;
use serde_json::Value;

use super::github_signature;
pub use super::github_signature::{EmptySecret, Secrets};
use super::github_table::{self as table, at, text};
use super::github_trust::{self, Logins, Origin};

/// The longest `X-GitHub-Delivery` accepted, in bytes. GitHub sends a GUID of 36.
const DELIVERY_MAX: usize = 128;
/// The longest event name or action accepted, in bytes.
const WORD_MAX: usize = 64;
/// The longest subject, source, repository, actor or lane, in bytes; longer ones count as missing.
const TEXT_MAX: usize = mindos_model::limits::ATTRIBUTE_MAX;

/// A GitHub delivery as the plane wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Normalised {
    /// The delivery's GUID, from `X-GitHub-Delivery`; the same again when GitHub redelivers.
    pub id: String,
    /// Where it happened, by the adapter's table: mostly the repository's URL as the payload gives it.
    pub source: String,
    /// `com.github.<event>[.<action>]`.
    pub r#type: String,
    /// What it happened to, by the adapter's table: a number, an id, a ref.
    pub subject: Option<String>,
    /// When it happened; unset where the adapter says "current time", or the payload has none.
    pub time: Option<Timestamp>,
    /// `owner/name`; unset for events that concern no one repository.
    pub repository: Option<String>,
    /// The login of whoever caused it.
    pub actor: Option<String>,
    /// The key within which order holds.
    pub lane: String,
    /// The stock table's word; unset where the event's type stands for it.
    pub kind: Option<&'static str>,
    /// What the payload says of where it comes from.
    pub origin: Origin,
    /// False for a ping, which is recorded and offered to nobody.
    pub routed: bool,
    /// The payload, JSON (`application/json`).
    pub data: Bytes,
}

/// A delivery with its payload as it was read, for what else is to be made of it.
#[derive(Clone, Debug)]
pub struct Delivered {
    pub delivery: Normalised,
    /// The event's name, from `X-GitHub-Event`.
    pub event: String,
    /// A JSON object.
    pub payload: Value,
}

/// Why a delivery was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GithubError {
    #[error("header {name} is missing")]
    MissingHeader { name: &'static str },
    #[error("header {name} is not usable: expected {accepted}")]
    BadHeader { name: &'static str, accepted: &'static str },
    #[error("the signature in X-Hub-Signature-256 is not that of the body under any configured secret")]
    BadSignature,
    #[error("content type `{found}` is not accepted: send application/json or application/x-www-form-urlencoded")]
    UnsupportedContentType { found: String },
    #[error("the form has no field `payload`, or it is not percent-encoded UTF-8")]
    MissingPayloadField,
    #[error("the payload is not JSON: {reason} at line {line}, column {column}")]
    BadJson { line: usize, column: usize, reason: String },
    #[error("the payload is not a JSON object")]
    NotAnObject,
}

impl GithubError {
    /// The HTTP status that says this to the sender.
    #[must_use]
    pub fn http_status(&self) -> u16 {
        match self {
            GithubError::BadSignature | GithubError::MissingHeader { name: SIGNATURE } => 401,
            GithubError::BadHeader { name: SIGNATURE, .. } => 401,
            GithubError::UnsupportedContentType { .. } => 415,
            GithubError::MissingHeader { .. }
            | GithubError::BadHeader { .. }
            | GithubError::MissingPayloadField
            | GithubError::BadJson { .. }
            | GithubError::NotAnObject => 400,
        }
    }
}

const EVENT: &str = "X-GitHub-Event";
const DELIVERY: &str = "X-GitHub-Delivery";
const SIGNATURE: &str = "X-Hub-Signature-256";
const CONTENT_TYPE: &str = "Content-Type";

/// As [`read`], where it is not known who we are and nothing else is to be made of it.
///
/// # Errors
/// As [`read`].
pub fn normalise(headers: &HeaderMap, body: &Bytes, secrets: Option<&Secrets>) -> Result<Normalised, GithubError> {
    Ok(read(headers, body, secrets, &Logins::default())?.delivery)
}

/// Verifies and normalises one delivery. `own` is whom we write as.
///
/// `secrets` unset means that the operator has switched verification off. The signature is checked before anything of the
/// body is read.
///
/// # Errors
/// One of `GithubError`; nothing but a header, the signature or the outer form of the body is ever refused.
pub fn read(
    headers: &HeaderMap,
    body: &Bytes,
    secrets: Option<&Secrets>,
    own: &Logins,
) -> Result<Delivered, GithubError> {
    if let Some(secrets) = secrets {
        let presented = github_signature::parse(header(headers, SIGNATURE)?)
            .ok_or(GithubError::BadHeader { name: SIGNATURE, accepted: "sha256= and 64 hexadecimal digits" })?;
        if !secrets.verify(body, &presented) {
            return Err(GithubError::BadSignature);
        }
    }
    let event = header(headers, EVENT)?;
    if !is_word(event) {
        return Err(GithubError::BadHeader { name: EVENT, accepted: "1 to 64 of a-z, A-Z, 0-9, _, - and ." });
    }
    let id = header(headers, DELIVERY)?;
    if id.len() > DELIVERY_MAX || !id.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(GithubError::BadHeader { name: DELIVERY, accepted: "1 to 128 visible ASCII characters" });
    }
    let data = payload(headers, body)?;
    let payload: Value = serde_json::from_slice(&data).map_err(|error| bad_json(&error))?;
    if !payload.is_object() {
        return Err(GithubError::NotAnObject);
    }
    Ok(Delivered { delivery: describe(event, id, &payload, data, own), event: event.to_owned(), payload })
}

fn header<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<&'a str, GithubError> {
    let value = headers.get(name).ok_or(GithubError::MissingHeader { name })?;
    match value.to_str().map(str::trim) {
        Ok("") => Err(GithubError::MissingHeader { name }),
        Ok(text) => Ok(text),
        Err(_) => Err(GithubError::BadHeader { name, accepted: "visible ASCII characters" }),
    }
}

fn is_word(text: &str) -> bool {
    (1..=WORD_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'))
}

fn bad_json(error: &serde_json::Error) -> GithubError {
    let text = error.to_string();
    let reason = text.split(" at line ").next().unwrap_or_default().to_owned();
    GithubError::BadJson { line: error.line(), column: error.column(), reason }
}

/// The JSON bytes: the body itself, or the `payload` field of a form.
fn payload(headers: &HeaderMap, body: &Bytes) -> Result<Bytes, GithubError> {
    let found = header(headers, CONTENT_TYPE)?;
    match found.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
        "application/json" => Ok(body.clone()),
        "application/x-www-form-urlencoded" => body
            .split(|&byte| byte == b'&')
            .find_map(|field| field.strip_prefix(b"payload="))
            .and_then(form_decode)
            .map(Bytes::from)
            .ok_or(GithubError::MissingPayloadField),
        _ => Err(GithubError::UnsupportedContentType { found: found.chars().take(WORD_MAX).collect() }),
    }
}

/// Undoes the encoding of a form's value; `None` where a `%` has no two digits behind it or the bytes are not UTF-8.
fn form_decode(value: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(value.len());
    let mut bytes = value.iter();
    while let Some(&byte) = bytes.next() {
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => {
                let high = char::from(*bytes.next()?).to_digit(16)?;
                let low = char::from(*bytes.next()?).to_digit(16)?;
                u8::try_from(high * 16 + low).ok()?
            }
            plain => plain,
        });
    }
    std::str::from_utf8(&decoded).is_ok().then_some(decoded)
}

fn describe(event: &str, id: &str, payload: &Value, data: Bytes, own: &Logins) -> Normalised {
    let adapter = table::adapter(event);
    let repository = repository(payload);
    let source = source(payload, &adapter.source, repository.as_deref());
    let mut name = format!("com.github.{}", adapter.name);
    for word in adapter.suffix.iter().filter_map(|path| text(payload, path)).filter(|word| is_word(word)) {
        name.push('.');
        name.push_str(&word);
    }
    let subject = adapter.subject.iter().find_map(|path| short(text(payload, path)));
    let action = text(payload, "action").unwrap_or_default();
    let times = adapter.time_of_action.get(&action).unwrap_or(&adapter.time);
    let lane =
        lane(event, payload, repository.as_deref()).or_else(|| subject.clone()).unwrap_or_else(|| source.clone());
    Normalised {
        id: id.to_owned(),
        r#type: name,
        time: times.iter().chain(&adapter.time).find_map(|path| time(at(payload, path)?)),
        actor: short(text(payload, "sender.login").or_else(|| text(payload, "pusher.name"))),
        kind: table::kind(event, payload),
        origin: github_trust::origin(payload, own),
        routed: table::routed(event),
        repository,
        source,
        subject,
        lane,
        data,
    }
}

fn short(text: Option<String>) -> Option<String> {
    text.filter(|text| text.len() <= TEXT_MAX && !text.chars().any(char::is_control))
}

fn repository(payload: &Value) -> Option<String> {
    short(text(payload, "repository.full_name")).or_else(|| {
        let owner = text(payload, "repository.owner.login").or_else(|| text(payload, "repository.owner.name"))?;
        short(Some(format!("{owner}/{}", text(payload, "repository.name")?)))
    })
}

/// The adapter's source; without it, the nearest thing that the payload names.
fn source(payload: &Value, templates: &[String], repository: Option<&str>) -> String {
    const ELSE: [&str; 5] = [
        "{repository.url}",
        "{repository.html_url}",
        "{organization.url}",
        "{installation.account.url}",
        "{sender.url}",
    ];
    let is_uri = |text: &String| !text.contains(char::is_whitespace);
    let filled = |template: &str| short(table::fill(payload, template)).filter(is_uri);
    templates
        .iter()
        .find_map(|template| filled(template))
        .or_else(|| filled(ELSE[0]))
        .or_else(|| repository.map(|name| format!("https://github.com/{name}")).filter(is_uri))
        .or_else(|| ELSE[1..].iter().find_map(|template| filled(template)))
        .unwrap_or_else(|| "https://github.com".to_owned())
}

fn time(value: &Value) -> Option<Timestamp> {
    match value {
        Value::String(text) => Timestamp::from_str(text).ok(),
        Value::Number(seconds) => {
            let millis = seconds.as_u64()?.checked_mul(1000)?;
            (millis <= Timestamp::MAX.0).then_some(Timestamp(millis))
        }
        _ => None,
    }
}

/// `<repo>/pr/<n>`, `<repo>/issue/<n>` or `<repo>/<full ref>`; `None` for what has no such place.
fn lane(event: &str, payload: &Value, repository: Option<&str>) -> Option<String> {
    let repository = repository?;
    let pull_request = |number: u64| format!("{repository}/pr/{number}");
    let number = |path: &str| at(payload, path).and_then(Value::as_u64);
    let lane = match event {
        "pull_request"
        | "pull_request_target"
        | "pull_request_review"
        | "pull_request_review_comment"
        | "pull_request_review_thread" => pull_request(number("pull_request.number").or_else(|| number("number"))?),
        "issues" | "issue_comment" => {
            let issue = number("issue.number")?;
            // GitHub says `issue` of a pull request too, and marks it with this member.
            match at(payload, "issue.pull_request") {
                Some(_) => pull_request(issue),
                None => format!("{repository}/issue/{issue}"),
            }
        }
        "check_run" | "check_suite" | "workflow_run" => pull_request(only_pull_request(event, payload)?),
        "push" => format!("{repository}/{}", text(payload, "ref")?),
        _ => return None,
    };
    short(Some(lane))
}

/// The number of the pull request a check is about, when it is about exactly one of its own repository.
fn only_pull_request(event: &str, payload: &Value) -> Option<u64> {
    let home = at(payload, "repository.id");
    let listed = at(payload, event)?.get("pull_requests")?.as_array()?;
    // A commit in a fork's branch lists pull requests of the parent as well, whose numbers mean nothing here.
    let is_here = |pull: &&Value| match (home, at(pull, "base.repo.id")) {
        (Some(home), Some(base)) => home == base,
        _ => true,
    };
    let mut here = listed.iter().filter(is_here);
    match (here.next(), here.next()) {
        (Some(pull), None) => pull.get("number")?.as_u64(),
        _ => None,
    }
}

#[cfg(test)]
#[path = "github_tests.rs"]
mod tests;
