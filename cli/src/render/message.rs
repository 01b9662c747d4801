//! Messages as JSON: the fields of the .proto files, with words for enums, RFC 3339 for times and hex for digests.
//!
//! Works from the descriptors that the API itself is described by, so no message is forgotten. CloudEvents come out in their
//! own JSON form. Invariant: a field without presence always stands there, so that programs need not ask for it.

use std::sync::OnceLock;

use mindos_proto::{FILE_DESCRIPTOR_SET, cloudevents, delivery, effect, event, fleet, ledger, replay, route, task};
use prost::Message;
use prost_reflect::{
    DescriptorPool, DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, MapKey, ReflectMessage, Value as Field,
};
use serde_json::{Map, Value, json as object};

/// A message and its full name.
pub(crate) trait Named: Message {
    const NAME: &'static str;
}

macro_rules! named {
    ($($message:ty = $name:literal),+ $(,)?) => {$(
        impl Named for $message {
            const NAME: &'static str = $name;
        }
    )+};
}

named! {
    cloudevents::v1::CloudEvent = "io.cloudevents.v1.CloudEvent",
    event::v1::Event = "mindos.event.v1.Event",
    route::v1::ExplainedEvent = "mindos.route.v1.ExplainedEvent",
    route::v1::Scorecard = "mindos.route.v1.Scorecard",
    replay::v1::ReplayedEvent = "mindos.replay.v1.ReplayedEvent",
    replay::v1::ReplaySummary = "mindos.replay.v1.ReplaySummary",
    route::v1::ExplainSummary = "mindos.route.v1.ExplainSummary",
    route::v1::Route = "mindos.route.v1.Route",
    event::v1::PublishResult = "mindos.event.v1.PublishResult",
    delivery::v1::Delivery = "mindos.delivery.v1.Delivery",
    effect::v1::Effect = "mindos.effect.v1.Effect",
    delivery::v1::CancelResponse = "mindos.delivery.v1.CancelResponse",
    delivery::v1::RedriveResponse = "mindos.delivery.v1.RedriveResponse",
    fleet::v1::Cluster = "mindos.fleet.v1.Cluster",
    fleet::v1::General = "mindos.fleet.v1.General",
    fleet::v1::Instance = "mindos.fleet.v1.Instance",
    fleet::v1::WatchResponse = "mindos.fleet.v1.WatchResponse",
    ledger::v1::LedgerEntry = "mindos.ledger.v1.LedgerEntry",
    ledger::v1::VerifyResponse = "mindos.ledger.v1.VerifyResponse",
    ledger::v1::ListCheckpointsResponse = "mindos.ledger.v1.ListCheckpointsResponse",
    ledger::v1::RedactResponse = "mindos.ledger.v1.RedactResponse",
    mindos_proto::journal::v1::Entry = "mindos.journal.v1.Entry",
    route::v1::RouteTable = "mindos.route.v1.RouteTable",
    route::v1::ApplyResponse = "mindos.route.v1.ApplyResponse",
    task::v1::Task = "mindos.task.v1.Task",
    task::v1::CreateTaskResponse = "mindos.task.v1.CreateTaskResponse",
    task::v1::CancelTaskResponse = "mindos.task.v1.CancelTaskResponse",
}

fn pool() -> &'static DescriptorPool {
    static POOL: OnceLock<DescriptorPool> = OnceLock::new();
    POOL.get_or_init(|| DescriptorPool::decode(FILE_DESCRIPTOR_SET).expect("the build wrote the descriptors"))
}

/// The message as JSON.
pub(crate) fn json<M: Named>(message: &M) -> Value {
    decoded(M::NAME, &message.encode_to_vec())
}

fn decoded(name: &str, bytes: &[u8]) -> Value {
    let descriptor = pool().get_message_by_name(name).expect("named messages are in the descriptors");
    match DynamicMessage::decode(descriptor, bytes) {
        Ok(message) => tree(&message),
        Err(_) => Value::String(hex(bytes)),
    }
}

fn tree(message: &DynamicMessage) -> Value {
    match message.descriptor().full_name() {
        "google.protobuf.Timestamp" => return timestamp(message),
        "google.protobuf.Duration" => return duration(message),
        "io.cloudevents.v1.CloudEvent" => return cloud_event(message),
        "mindos.delivery.v1.Token" | "mindos.journal.v1.Token" => {
            return Value::String(format!("{}.{}", number(message, "epoch"), number(message, "term")));
        }
        "mindos.journal.v1.DeliveryRef" => {
            return Value::String(format!("d{}.{}", number(message, "event"), number(message, "ordinal")));
        }
        "google.rpc.Status" => {
            let code = i32::try_from(number(message, "code")).unwrap_or(2);
            let word = crate::failure::code_word(tonic::Code::from_i32(code));
            return object!({"code": code, "status": word, "message": text(message, "message")});
        }
        _ => {}
    }
    let mut object = Map::new();
    for field in message.descriptor().fields() {
        if field.supports_presence() && !message.has_field(&field) {
            continue;
        }
        if let Some(value) = field_value(message, &field) {
            object.insert(field.name().to_owned(), value);
        }
    }
    Value::Object(object)
}

fn field_value(message: &DynamicMessage, field: &FieldDescriptor) -> Option<Value> {
    let value = message.get_field(field);
    if let Field::Bytes(bytes) = value.as_ref() {
        return match (message.descriptor().full_name(), field.name()) {
            ("mindos.ledger.v1.LedgerEntry", "payload") => {
                (!bytes.is_empty()).then(|| decoded("io.cloudevents.v1.CloudEvent", bytes))
            }
            ("mindos.delivery.v1.Output", "data") => {
                (!bytes.is_empty()).then(|| data(bytes, &text(message, "content_type")))
            }
            _ => Some(Value::String(hex(bytes))),
        };
    }
    plain(&value, &field.kind())
}

/// `None` for an enum that says nothing.
fn plain(value: &Field, kind: &Kind) -> Option<Value> {
    Some(match value {
        Field::Bool(value) => object!(value),
        Field::I32(value) => object!(value),
        Field::I64(value) => object!(value),
        Field::U32(value) => object!(value),
        Field::U64(value) => object!(value),
        Field::F32(value) => object!(value),
        Field::F64(value) => object!(value),
        Field::String(value) => object!(value),
        Field::Bytes(value) => Value::String(hex(value)),
        Field::EnumNumber(0) => return None,
        Field::EnumNumber(number) => match kind {
            Kind::Enum(descriptor) => Value::String(word(descriptor, *number)),
            _ => object!(number),
        },
        Field::Message(message) => tree(message),
        Field::List(values) => values.iter().filter_map(|value| plain(value, kind)).collect(),
        Field::Map(values) => {
            let kind = match kind {
                Kind::Message(entry) => entry.map_entry_value_field().kind(),
                other => other.clone(),
            };
            let mut pairs: Vec<(String, Value)> =
                values.iter().filter_map(|(key, value)| Some((key_text(key), plain(value, &kind)?))).collect();
            pairs.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Object(pairs.into_iter().collect())
        }
    })
}

fn key_text(key: &MapKey) -> String {
    match key {
        MapKey::Bool(key) => key.to_string(),
        MapKey::I32(key) => key.to_string(),
        MapKey::I64(key) => key.to_string(),
        MapKey::U32(key) => key.to_string(),
        MapKey::U64(key) => key.to_string(),
        MapKey::String(key) => key.clone(),
    }
}

fn word(descriptor: &EnumDescriptor, number: i32) -> String {
    let Some(value) = descriptor.get_value(number) else { return number.to_string() };
    let prefix = descriptor.get_value(0).map(|zero| zero.name().trim_end_matches("UNSPECIFIED").to_owned());
    short_word(value.name(), &prefix.unwrap_or_default())
}

/// The word of an enum's value, without the prefix that protobuf wants: `DELIVERY_STATUS_PARKED` is `parked`.
pub(crate) fn short_word(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_ascii_lowercase()
}

fn number(message: &DynamicMessage, field: &str) -> i64 {
    match message.get_field_by_name(field).as_deref() {
        Some(Field::I32(value)) => i64::from(*value),
        Some(Field::I64(value)) => *value,
        Some(Field::U32(value)) => i64::from(*value),
        Some(Field::U64(value)) => i64::try_from(*value).unwrap_or(i64::MAX),
        _ => 0,
    }
}

fn text(message: &DynamicMessage, field: &str) -> String {
    match message.get_field_by_name(field).as_deref() {
        Some(Field::String(value)) => value.clone(),
        _ => String::new(),
    }
}

fn timestamp(message: &DynamicMessage) -> Value {
    let (seconds, nanos) = (number(message, "seconds"), number(message, "nanos"));
    let millis = seconds.saturating_mul(1000).saturating_add(nanos / 1_000_000);
    Value::String(mindos_model::Timestamp(u64::try_from(millis).unwrap_or(0)).to_string())
}

fn duration(message: &DynamicMessage) -> Value {
    let (seconds, nanos) = (number(message, "seconds"), number(message, "nanos"));
    let text = format!("{seconds}.{:09}", nanos.abs());
    Value::String(format!("{}s", text.trim_end_matches('0').trim_end_matches('.')))
}

/// The JSON form of CloudEvents: attributes side by side, the data as JSON where it is.
fn cloud_event(message: &DynamicMessage) -> Value {
    let Ok(event) = message.transcode_to::<cloudevents::v1::CloudEvent>() else { return Value::Null };
    cloud_event_json(&event)
}

fn cloud_event_json(event: &cloudevents::v1::CloudEvent) -> Value {
    use cloudevents::v1::cloud_event::Data;
    use cloudevents::v1::cloud_event::cloud_event_attribute_value::Attr;
    let mut object = Map::new();
    object.insert("specversion".to_owned(), object!(event.spec_version));
    object.insert("id".to_owned(), object!(event.id));
    object.insert("source".to_owned(), object!(event.source));
    object.insert("type".to_owned(), object!(event.r#type));
    let mut attributes: Vec<_> = event.attributes.iter().collect();
    attributes.sort_by(|a, b| a.0.cmp(b.0));
    let mut content_type = String::new();
    for (name, value) in attributes {
        let value = match &value.attr {
            Some(Attr::CeBoolean(value)) => object!(value),
            Some(Attr::CeInteger(value)) => object!(value),
            Some(Attr::CeString(value) | Attr::CeUri(value) | Attr::CeUriRef(value)) => object!(value),
            Some(Attr::CeBytes(value)) => Value::String(hex(value)),
            Some(Attr::CeTimestamp(at)) => {
                let millis = at.seconds.saturating_mul(1000).saturating_add(i64::from(at.nanos) / 1_000_000);
                Value::String(mindos_model::Timestamp(u64::try_from(millis).unwrap_or(0)).to_string())
            }
            None => continue,
        };
        if name == "datacontenttype" {
            value.as_str().unwrap_or_default().clone_into(&mut content_type);
        }
        object.insert(name.clone(), value);
    }
    match &event.data {
        Some(Data::BinaryData(bytes)) => {
            object.insert("data".to_owned(), data(bytes, &content_type));
        }
        Some(Data::TextData(text)) => {
            object.insert("data".to_owned(), data(text.as_bytes(), &content_type));
        }
        Some(Data::ProtoData(any)) => {
            object.insert("data".to_owned(), object!({"type_url": any.type_url, "value": hex(&any.value)}));
        }
        None => {}
    }
    Value::Object(object)
}

/// Data as JSON where it is JSON, as text where it is text, else as hex.
fn data(bytes: &[u8], content_type: &str) -> Value {
    if (content_type.is_empty() || content_type.contains("json"))
        && let Ok(value) = serde_json::from_slice(bytes)
    {
        return value;
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => Value::String(text.to_owned()),
        Err(_) => Value::String(hex(bytes)),
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delivery_reads_like_the_words_of_the_project() {
        let delivery = delivery::v1::Delivery {
            delivery_id: "d42.1".to_owned(),
            status: delivery::v1::DeliveryStatus::Parked.into(),
            park_reason: delivery::v1::ParkReason::Poison.into(),
            lease: Some(delivery::v1::Lease {
                token: Some(delivery::v1::Token { epoch: 1, term: 3 }),
                expires_at: Some(prost_types::Timestamp { seconds: 1, nanos: 5_000_000 }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let value = json(&delivery);
        assert_eq!(value["status"], "parked");
        assert_eq!(value["park_reason"], "poison");
        assert_eq!(value["lease"]["token"], "1.3");
        assert_eq!(value["lease"]["expires_at"], "1970-01-01T00:00:01.005Z");
        assert_eq!(value["attempts_used"], 0);
        assert!(value.get("output").is_none() && value.get("strategy").is_none());
    }

    #[test]
    fn every_named_message_is_described() {
        for name in ["mindos.journal.v1.Entry", "mindos.ledger.v1.LedgerEntry", "mindos.route.v1.RouteTable"] {
            assert!(pool().get_message_by_name(name).is_some(), "{name}");
        }
    }

    #[test]
    fn a_cloud_event_has_its_own_json_form() {
        use cloudevents::v1::CloudEvent;
        use cloudevents::v1::cloud_event::Data;
        let event = CloudEvent {
            id: "1".to_owned(),
            source: "/s".to_owned(),
            spec_version: "1.0".to_owned(),
            r#type: "t".to_owned(),
            data: Some(Data::TextData(r#"{"a":1}"#.to_owned())),
            ..Default::default()
        };
        assert_eq!(json(&event), object!({"specversion":"1.0","id":"1","source":"/s","type":"t","data":{"a":1}}));
    }
}
