//! What is read where a payload was redacted.
//!
//! An event reads as one without data that says so, and everything else, parameters of effects too, as empty: neither is ever written as it is read. Invariant:
//! whatever reads a payload gets one that it can decode.

use bytes::Bytes;
use mindos_core::record::Payload;
use mindos_proto::cloudevents::v1::CloudEvent;
use mindos_proto::cloudevents::v1::cloud_event::CloudEventAttributeValue;
use mindos_proto::cloudevents::v1::cloud_event::cloud_event_attribute_value::Attr;
use mindos_proto::journal::v1 as pb;
use prost::Message;

/// The extension that says so; a boolean.
pub const REDACTED: &str = "redacted";

/// Stands for the payload that was taken from beside this metadata.
pub(crate) fn stand_in(metadata: &[u8]) -> Payload {
    let record = pb::Entry::decode(metadata).ok().and_then(|entry| entry.record);
    let bytes = match record {
        Some(pb::entry::Record::EventAccepted(event)) => {
            let subject = Some(event.subject).filter(|subject| !subject.is_empty());
            stand_in_event(event.id, event.source, event.r#type, subject)
        }
        Some(pb::entry::Record::PayloadCarried(carried)) if carried.effect == 0 => {
            stand_in_event(carried.event.to_string(), REDACTED.to_owned(), REDACTED.to_owned(), None)
        }
        _ => Bytes::new(),
    };
    Payload { salt: [0; 16], bytes }
}

fn stand_in_event(id: String, source: String, r#type: String, subject: Option<String>) -> Bytes {
    let value = |attr| CloudEventAttributeValue { attr: Some(attr) };
    let mut event =
        CloudEvent { id, source, spec_version: "1.0".to_owned(), r#type, attributes: Default::default(), data: None };
    event.attributes.insert(REDACTED.to_owned(), value(Attr::CeBoolean(true)));
    event.attributes.extend(subject.map(|subject| ("subject".to_owned(), value(Attr::CeString(subject)))));
    event.encode_to_vec().into()
}
