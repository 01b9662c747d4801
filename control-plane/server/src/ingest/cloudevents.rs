//! CloudEvents 1.0 over HTTP: binary, structured and batched JSON, read into plain events.
//!
//! ```text
//! content-type                            mode        attributes from           data from
//! application/cloudevents+json            structured  members of the object     `data` or `data_base64`
//! application/cloudevents-batch+json      batched     as above, for each item   as above
//! anything else, with `ce-specversion`    binary      `ce-*` headers            the body as it came
//! ```
//! Invariant: an event that leaves here has every required attribute, well formed and at most `ATTRIBUTE_MAX` bytes long, and
//! its data are the bytes the sender wrote, not a re-encoding of them.

use std::collections::BTreeMap;
use std::str::FromStr;

use bytes::Bytes;
use http::HeaderMap;
use mindos_model::Timestamp;
use mindos_model::limits::ATTRIBUTE_MAX;
use serde_json::Value;
use serde_json::value::RawValue;

use super::base64;

/// Most events in one batch.
pub const BATCH_EVENTS_MAX: usize = 1000;
/// Most extension attributes on one event.
pub const EXTENSIONS_MAX: usize = 32;
/// The longest name of an extension attribute, in bytes. The specification advises 20.
pub const EXTENSION_NAME_MAX: usize = 64;

/// One event as it came in. Only its form is checked, not who sent it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IncomingEvent {
    /// Unique within `source`; never empty.
    pub id: String,
    /// A URI reference; never empty.
    pub source: String,
    /// Never empty.
    pub r#type: String,
    pub subject: Option<String>,
    pub time: Option<Timestamp>,
    /// The media type of `data`.
    pub datacontenttype: Option<String>,
    /// An absolute URI.
    pub dataschema: Option<String>,
    /// Names are 1 to 64 of `a-z` and `0-9`.
    pub extensions: BTreeMap<String, ExtensionValue>,
    /// Empty where the event carries none.
    pub data: Bytes,
}

/// The value of an extension attribute. In binary mode all are strings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExtensionValue {
    Boolean(bool),
    Integer(i32),
    String(String),
}

/// How the events were packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Binary,
    Structured,
    Batched,
}

/// What one request carried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    pub mode: Mode,
    /// One event, or as many as the batch holds, which may be none.
    pub events: Vec<IncomingEvent>,
}

/// Why a request was refused. Nothing of a refused batch is accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloudEventError {
    #[error("attribute `{attribute}` is missing: {accepted}")]
    Missing { attribute: String, accepted: &'static str },
    #[error("attribute `{attribute}` is not usable: expected {accepted}")]
    Bad { attribute: String, accepted: &'static str },
    #[error("attribute `{attribute}` is given more than once")]
    Repeated { attribute: String },
    #[error("more than {EXTENSIONS_MAX} extension attributes")]
    TooManyExtensions,
    #[error("both `data` and `data_base64` are given: send one of them")]
    TwoData,
    #[error("`data_base64` is not usable: expected a string of padded base64")]
    BadBase64,
    #[error("content type `{found}` is not accepted: {accepted}")]
    UnsupportedContentType { found: String, accepted: &'static str },
    #[error("the body is not {expected}: {reason} at line {line}, column {column}")]
    BadJson { expected: &'static str, line: usize, column: usize, reason: String },
    #[error("the batch has {found} events: at most {BATCH_EVENTS_MAX} are accepted")]
    BatchTooLong { found: usize },
    #[error("event {index} of the batch: {error}")]
    InBatch { index: usize, error: Box<CloudEventError> },
}

impl CloudEventError {
    /// The HTTP status that says this to the sender.
    #[must_use]
    pub fn http_status(&self) -> u16 {
        match self {
            CloudEventError::UnsupportedContentType { .. } => 415,
            CloudEventError::BatchTooLong { .. } => 413,
            _ => 400,
        }
    }
}

const NO_MODE: &str = "send the ce-specversion, ce-id, ce-source and ce-type headers beside the data, or the whole event \
                       as application/cloudevents+json or application/cloudevents-batch+json";
const FORMATS: &str = "of the event formats, application/cloudevents+json and application/cloudevents-batch+json are";
const CHARSET: &str = "the JSON event formats are UTF-8";

/// Reads the events of one request.
///
/// # Errors
/// One of `CloudEventError`, naming the attribute and what is accepted.
pub fn receive(headers: &HeaderMap, body: &Bytes) -> Result<Received, CloudEventError> {
    let content_type = match headers.get(http::header::CONTENT_TYPE).map(|value| value.to_str()) {
        None => None,
        Some(Ok(text)) => Some(text.trim()).filter(|text| !text.is_empty()),
        Some(Err(_)) => return Err(bad("datacontenttype", MEDIA_TYPE)),
    };
    let (media, parameters) = content_type.map_or(("", ""), |text| text.split_once(';').unwrap_or((text, "")));
    let media = media.trim().to_ascii_lowercase();
    if !media.starts_with("application/cloudevents") {
        let events = vec![binary(headers, content_type, body)?];
        return Ok(Received { mode: Mode::Binary, events });
    }
    let unsupported = |accepted| CloudEventError::UnsupportedContentType {
        found: content_type.unwrap_or_default().chars().take(128).collect(),
        accepted,
    };
    if !is_utf8(parameters) {
        return Err(unsupported(CHARSET));
    }
    match media.as_str() {
        "application/cloudevents+json" => {
            let members = serde_json::from_slice(body).map_err(|error| bad_json("a JSON object", &error))?;
            Ok(Received { mode: Mode::Structured, events: vec![structured(&members)?] })
        }
        "application/cloudevents-batch+json" => {
            let batch: Vec<Members> =
                serde_json::from_slice(body).map_err(|error| bad_json("a JSON array of objects", &error))?;
            if batch.len() > BATCH_EVENTS_MAX {
                return Err(CloudEventError::BatchTooLong { found: batch.len() });
            }
            let read = |(index, members)| {
                structured(members).map_err(|error| CloudEventError::InBatch { index, error: Box::new(error) })
            };
            let events = batch.iter().enumerate().map(read).collect::<Result<_, _>>()?;
            Ok(Received { mode: Mode::Batched, events })
        }
        _ => Err(unsupported(FORMATS)),
    }
}

/// The members of a structured event, their values as written.
type Members = BTreeMap<String, Box<RawValue>>;

fn is_utf8(parameters: &str) -> bool {
    parameters.split(';').all(|parameter| match parameter.split_once('=') {
        Some((name, value)) if name.trim().eq_ignore_ascii_case("charset") => {
            let value = value.trim().trim_matches('"');
            value.eq_ignore_ascii_case("utf-8") || value.eq_ignore_ascii_case("us-ascii")
        }
        _ => true,
    })
}

fn bad_json(expected: &'static str, error: &serde_json::Error) -> CloudEventError {
    let text = error.to_string();
    let reason = text.split(" at line ").next().unwrap_or_default().to_owned();
    CloudEventError::BadJson { expected, line: error.line(), column: error.column(), reason }
}

fn binary(headers: &HeaderMap, content_type: Option<&str>, body: &Bytes) -> Result<IncomingEvent, CloudEventError> {
    let mut event = Builder::default();
    for name in headers.keys() {
        let Some(attribute) = name.as_str().strip_prefix("ce-") else { continue };
        let mut values = headers.get_all(name).iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            return Err(CloudEventError::Repeated { attribute: attribute.to_owned() });
        };
        let value = decode_header(value.as_bytes()).ok_or_else(|| bad(attribute, HEADER_VALUE))?;
        event.set(attribute, ExtensionValue::String(value))?;
    }
    if event.is_untouched() {
        return Err(CloudEventError::Missing { attribute: "specversion".to_owned(), accepted: NO_MODE });
    }
    if let Some(content_type) = content_type {
        event.set("datacontenttype", ExtensionValue::String(content_type.to_owned()))?;
    }
    event.data = body.clone();
    event.finish()
}

fn structured(members: &Members) -> Result<IncomingEvent, CloudEventError> {
    let mut event = Builder::default();
    for (name, raw) in members {
        if name == "data" || name == "data_base64" {
            continue;
        }
        let value = match serde_json::from_str(raw.get()) {
            // Null is the same as not there.
            Ok(Value::Null) => continue,
            Ok(Value::Bool(flag)) => ExtensionValue::Boolean(flag),
            Ok(Value::String(text)) => ExtensionValue::String(text),
            Ok(Value::Number(number)) => {
                let number = number.as_i64().and_then(|number| i32::try_from(number).ok());
                ExtensionValue::Integer(number.ok_or_else(|| bad(name, "a whole number of 32 bits"))?)
            }
            _ => return Err(bad(name, "a string, a boolean or a whole number")),
        };
        event.set(name, value)?;
    }
    let present = |name: &str| members.get(name).filter(|raw| raw.get() != "null");
    event.data = match (present("data"), present("data_base64")) {
        (Some(_), Some(_)) => return Err(CloudEventError::TwoData),
        (None, None) => Bytes::new(),
        (None, Some(raw)) => {
            let text: String = serde_json::from_str(raw.get()).map_err(|_| CloudEventError::BadBase64)?;
            Bytes::from(base64::decode(&text).ok_or(CloudEventError::BadBase64)?)
        }
        (Some(raw), None) => {
            let media = event.event.datacontenttype.as_deref().unwrap_or("application/json");
            match serde_json::from_str::<String>(raw.get()) {
                // A string that is not said to be JSON stands for its own text.
                Ok(text) if !is_json(media) => Bytes::from(text),
                _ => Bytes::copy_from_slice(raw.get().as_bytes()),
            }
        }
    };
    if event.event.datacontenttype.is_none() && present("data").is_some() {
        event.event.datacontenttype = Some("application/json".to_owned());
    }
    event.finish()
}

fn is_json(media: &str) -> bool {
    let media = media.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    media.split_once('/').is_some_and(|(_, subtype)| subtype == "json" || subtype.ends_with("+json"))
}

const HEADER_VALUE: &str = "UTF-8, with whatever is not printable ASCII percent-encoded";
const MEDIA_TYPE: &str = "a media type such as application/json";
const TEXT: &str = "a string of 1 to 1024 bytes without control characters";

fn bad(attribute: &str, accepted: &'static str) -> CloudEventError {
    CloudEventError::Bad { attribute: attribute.chars().take(EXTENSION_NAME_MAX).collect(), accepted }
}

/// Reads a header's value: quotes are taken off, then one round of percent-decoding.
fn decode_header(value: &[u8]) -> Option<String> {
    let mut unquoted = Vec::with_capacity(value.len());
    match value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")) {
        None => unquoted.extend_from_slice(value),
        Some(inner) => {
            let mut bytes = inner.iter();
            while let Some(&byte) = bytes.next() {
                unquoted.push(if byte == b'\\' { *bytes.next()? } else { byte });
            }
        }
    }
    let mut decoded = Vec::with_capacity(unquoted.len());
    let mut at = 0;
    while at < unquoted.len() {
        match percent(&unquoted[at..]) {
            Some(byte) => {
                decoded.push(byte);
                at += 3;
            }
            // A `%` without two digits stands for itself.
            None => {
                decoded.push(unquoted[at]);
                at += 1;
            }
        }
    }
    String::from_utf8(decoded).ok()
}

fn percent(bytes: &[u8]) -> Option<u8> {
    let [b'%', high, low, ..] = bytes else { return None };
    let high = char::from(*high).to_digit(16)?;
    let low = char::from(*low).to_digit(16)?;
    u8::try_from(high * 16 + low).ok()
}

/// An event being read, attribute by attribute.
#[derive(Debug, Default)]
struct Builder {
    specversion: Option<String>,
    id: Option<String>,
    source: Option<String>,
    r#type: Option<String>,
    event: IncomingEvent,
    data: Bytes,
    touched: bool,
}

impl Builder {
    fn is_untouched(&self) -> bool {
        !self.touched
    }

    fn set(&mut self, name: &str, value: ExtensionValue) -> Result<(), CloudEventError> {
        self.touched = true;
        if let ExtensionValue::String(text) = &value
            && (text.len() > ATTRIBUTE_MAX || text.chars().any(is_forbidden))
        {
            return Err(bad(name, TEXT));
        }
        let text = |value: ExtensionValue| match value {
            ExtensionValue::String(text) if !text.is_empty() => Ok(text),
            _ => Err(bad(name, TEXT)),
        };
        let spaceless = |value: ExtensionValue, accepted| {
            text(value).ok().filter(|text| !text.contains(char::is_whitespace)).ok_or_else(|| bad(name, accepted))
        };
        match name {
            "specversion" => self.specversion = Some(text(value)?),
            "id" => self.id = Some(text(value)?),
            "type" => self.r#type = Some(text(value)?),
            "source" => self.source = Some(spaceless(value, "a URI reference without spaces")?),
            "subject" => self.event.subject = Some(text(value)?),
            "time" => {
                const TIME: &str = "a time as in RFC 3339 from 1970 on, such as 2026-11-20T08:30:00Z";
                let time = Timestamp::from_str(&text(value).map_err(|_| bad(name, TIME))?);
                self.event.time = Some(time.map_err(|_| bad(name, TIME))?);
            }
            "datacontenttype" => {
                let media = text(value).ok().filter(|text| is_media_type(text)).ok_or_else(|| bad(name, MEDIA_TYPE))?;
                self.event.datacontenttype = Some(media);
            }
            "dataschema" => {
                const SCHEMA: &str = "an absolute URI";
                let schema = spaceless(value, SCHEMA)?;
                if !schema.split_once(':').is_some_and(|(scheme, _)| is_scheme(scheme)) {
                    return Err(bad(name, SCHEMA));
                }
                self.event.dataschema = Some(schema);
            }
            // Reserved: its place is a member of the JSON format, never a header or an extension.
            "data" => return Err(bad(name, "another name: `data` is the body itself")),
            _ => {
                let well_named = (1..=EXTENSION_NAME_MAX).contains(&name.len())
                    && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
                if !well_named {
                    return Err(bad(name, "an attribute name of 1 to 64 of a-z and 0-9"));
                }
                if self.event.extensions.len() == EXTENSIONS_MAX {
                    return Err(CloudEventError::TooManyExtensions);
                }
                self.event.extensions.insert(name.to_owned(), value);
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<IncomingEvent, CloudEventError> {
        let Builder { specversion, id, source, r#type, event, data, touched: _ } = self;
        let required = |value: Option<String>, attribute: &str, accepted| {
            value.ok_or_else(|| CloudEventError::Missing { attribute: attribute.to_owned(), accepted })
        };
        if required(specversion, "specversion", "expected 1.0")? != "1.0" {
            return Err(bad("specversion", "1.0"));
        }
        let id = required(id, "id", "expected a string that is unique within the source")?;
        let source = required(source, "source", "expected a URI reference")?;
        let r#type = required(r#type, "type", "expected a name such as com.example.thing.done")?;
        Ok(IncomingEvent { id, source, r#type, data, ..event })
    }
}

/// What the specification keeps out of strings: control characters and noncharacters.
fn is_forbidden(letter: char) -> bool {
    letter.is_control() || matches!(u32::from(letter), 0xfdd0..=0xfdef) || u32::from(letter) & 0xfffe == 0xfffe
}

fn is_media_type(text: &str) -> bool {
    let media = text.split(';').next().unwrap_or_default().trim();
    let token = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/');
    media.split_once('/').is_some_and(|(kind, subtype)| token(kind) && token(subtype))
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
}

#[cfg(test)]
#[path = "cloudevents_tests.rs"]
mod tests;
