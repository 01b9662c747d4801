//! Events: CloudEvents with the attributes that mean something here.

use std::borrow::Cow;

use bytes::Bytes;
use mindos_model::Timestamp;
use mindos_proto::cloudevents::v1::CloudEvent;
use mindos_proto::cloudevents::v1::cloud_event::cloud_event_attribute_value::Attr;
use mindos_proto::cloudevents::v1::cloud_event::{CloudEventAttributeValue, Data};
use mindos_proto::convert;

use crate::Error;

/// What somebody makes of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feedback {
    /// It was taken over.
    Accepted,
    /// It was looked at and not used.
    Dismissed,
    /// It was used, and taken back later.
    Reverted,
}

/// An event: what happened, where, to what.
///
/// ```
/// use mindos_sdk::Event;
///
/// let event = Event::new("https://ci.example.com", "build-1817", "com.example.build.failed")
///     .subject("main")
///     .repository("octocat/hello-world")
///     .json(r#"{"step": "test"}"#);
/// assert_eq!(event.attribute("repository").as_deref(), Some("octocat/hello-world"));
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Event(CloudEvent);

impl Event {
    /// An event of a type, with the name `id` at its `source`. Publishing it again under the same name has no effect.
    #[must_use]
    pub fn new(source: impl Into<String>, id: impl Into<String>, ty: impl Into<String>) -> Event {
        Event(CloudEvent {
            id: id.into(),
            source: source.into(),
            spec_version: "1.0".to_owned(),
            r#type: ty.into(),
            ..CloudEvent::default()
        })
    }

    /// What `source` makes of the result of a delivery, such as `d42.1`: its last word counts.
    ///
    /// ```
    /// use mindos_sdk::{Event, Feedback};
    ///
    /// let event = Event::feedback("https://review.example.com/ann", "d42.1", Feedback::Accepted);
    /// assert_eq!(event.ty(), "dev.mindos.feedback.accepted");
    /// assert_eq!(event.attribute("mindosdelivery").as_deref(), Some("d42.1"));
    /// ```
    #[must_use]
    pub fn feedback(source: impl Into<String>, delivery: impl Into<String>, said: Feedback) -> Event {
        let word = match said {
            Feedback::Accepted => "accepted",
            Feedback::Dismissed => "dismissed",
            Feedback::Reverted => "reverted",
        };
        Event::unique(source, format!("dev.mindos.feedback.{word}")).extension("mindosdelivery", delivery)
    }

    /// An event with an id drawn at random.
    #[must_use]
    pub fn unique(source: impl Into<String>, ty: impl Into<String>) -> Event {
        let id = (u128::from(random()) << 64) | u128::from(random());
        Event::new(source, format!("{id:032x}"), ty)
    }

    /// What it is about, within its source. Also its lane, unless [`Event::lane`] says otherwise.
    #[must_use]
    pub fn subject(self, subject: impl Into<String>) -> Event {
        self.with("subject", Attr::CeString(subject.into()))
    }

    /// When it happened.
    #[must_use]
    pub fn time(self, at: Timestamp) -> Event {
        self.with("time", Attr::CeTimestamp(convert::time(at)))
    }

    /// Its repository, as owner/name.
    #[must_use]
    pub fn repository(self, repository: impl Into<String>) -> Event {
        self.with("repository", Attr::CeString(repository.into()))
    }

    /// Who caused it.
    #[must_use]
    pub fn actor(self, actor: impl Into<String>) -> Event {
        self.with("actor", Attr::CeString(actor.into()))
    }

    /// The lane in which it keeps its order.
    #[must_use]
    pub fn lane(self, lane: impl Into<String>) -> Event {
        self.with("lane", Attr::CeString(lane.into()))
    }

    /// The word that routes match, such as `pr_created`. Unset means its type.
    #[must_use]
    pub fn kind(self, kind: impl Into<String>) -> Event {
        self.with("kind", Attr::CeString(kind.into()))
    }

    /// Another attribute. Names are lower case letters and digits.
    #[must_use]
    pub fn extension(self, name: impl Into<String>, value: impl Into<String>) -> Event {
        self.with(name, Attr::CeString(value.into()))
    }

    /// Its data, with their media type. At most 256 KiB together with the rest; larger data go to the blob store first.
    #[must_use]
    pub fn data(mut self, content_type: impl Into<String>, data: impl Into<Bytes>) -> Event {
        self.0.data = Some(Data::BinaryData(data.into()));
        self.with("datacontenttype", Attr::CeString(content_type.into()))
    }

    /// Its data, encoded as JSON.
    #[must_use]
    pub fn json(self, json: impl Into<String>) -> Event {
        self.data("application/json", json.into().into_bytes())
    }

    fn with(mut self, name: impl Into<String>, value: Attr) -> Event {
        self.0.attributes.insert(name.into(), CloudEventAttributeValue { attr: Some(value) });
        self
    }

    /// Its name at its source.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.0.id
    }

    /// Where it comes from.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.0.source
    }

    /// What happened.
    #[must_use]
    pub fn ty(&self) -> &str {
        &self.0.r#type
    }

    /// An attribute other than id, source and type, in its textual form.
    #[must_use]
    pub fn attribute(&self, name: &str) -> Option<Cow<'_, str>> {
        self.0.attributes.get(name).and_then(|value| value.attr.as_ref()).map(text)
    }

    /// All attributes other than id, source and type, in their textual form, by name.
    pub fn attributes(&self) -> impl Iterator<Item = (&str, Cow<'_, str>)> {
        self.0.attributes.iter().filter_map(|(name, value)| Some((name.as_str(), text(value.attr.as_ref()?))))
    }

    /// Its data. Empty when there are none.
    #[must_use]
    pub fn bytes(&self) -> Bytes {
        match &self.0.data {
            Some(Data::BinaryData(bytes)) => bytes.clone(),
            Some(Data::TextData(text)) => Bytes::copy_from_slice(text.as_bytes()),
            Some(Data::ProtoData(any)) => Bytes::copy_from_slice(&any.value),
            None => Bytes::new(),
        }
    }

    /// Media type of its data.
    #[must_use]
    pub fn content_type(&self) -> Option<Cow<'_, str>> {
        self.attribute("datacontenttype")
    }

    /// The message that stands for it on the wire.
    #[must_use]
    pub fn message(&self) -> &CloudEvent {
        &self.0
    }

    /// Turns it into the message that stands for it on the wire.
    #[must_use]
    pub fn into_message(self) -> CloudEvent {
        self.0
    }

    pub(crate) fn set_bytes(&mut self, data: Bytes) {
        self.0.data = Some(Data::BinaryData(data));
    }

    pub(crate) fn has_data(&self) -> bool {
        self.0.data.is_some()
    }

    /// Names what is missing.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let required =
            [(&self.0.id, "it has no id"), (&self.0.source, "it has no source"), (&self.0.r#type, "it has no type")];
        match required.into_iter().find(|(value, _)| value.is_empty()) {
            Some((_, missing)) => Err(Error::Event(missing)),
            None => Ok(()),
        }
    }
}

impl From<CloudEvent> for Event {
    fn from(message: CloudEvent) -> Event {
        Event(message)
    }
}

/// An attribute as the HTTP and JSON forms of CloudEvents write it.
fn text(value: &Attr) -> Cow<'_, str> {
    match value {
        Attr::CeBoolean(value) => Cow::Borrowed(if *value { "true" } else { "false" }),
        Attr::CeInteger(value) => Cow::Owned(value.to_string()),
        Attr::CeString(value) | Attr::CeUri(value) | Attr::CeUriRef(value) => Cow::Borrowed(value),
        Attr::CeBytes(value) => Cow::Owned(base64(value)),
        Attr::CeTimestamp(value) => Cow::Owned(match convert::timestamp(value, "time") {
            Ok(at) => at.to_string(),
            Err(_) => String::new(),
        }),
    }
}

/// Standard base64 with padding.
#[must_use]
pub fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for at in 0..4 {
            let digit = ALPHABET[(word >> (18 - 6 * at)) as usize & 63];
            text.push(if at <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

pub(crate) fn random() -> u64 {
    getrandom::u64().unwrap_or_else(|_| {
        // Only a system without any source of chance gets here; time and address differ enough to tell two ids apart.
        let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        time.as_nanos() as u64 ^ (&raw const time as u64).rotate_left(32)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_back_as_text() {
        let event =
            Event::new("s", "1", "t").subject("7").time(Timestamp(1_795_176_000_123)).with("n", Attr::CeInteger(-3));
        let attributes: Vec<_> = event.attributes().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(attributes, ["n=-3", "subject=7", "time=2026-11-20T12:00:00.123Z"]);
    }

    #[test]
    fn base64_pads() {
        for (bytes, expected) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")] {
            assert_eq!(base64(bytes.as_bytes()), expected);
        }
    }

    #[test]
    fn an_event_needs_its_names() {
        assert!(Event::new("s", "1", "t").check().is_ok());
        assert!(Event::new("", "1", "t").check().is_err());
        assert_ne!(Event::unique("s", "t").id(), Event::unique("s", "t").id());
    }
}
