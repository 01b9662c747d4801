//! Writing a table as a routes file.

use std::collections::BTreeMap;

use mindos_proto::route::v1::RouteTable;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, ReflectMessage, Value};
use serde_norway::{Mapping, Value as Yaml};

use super::{dynamic, is_span, words};

/// What editors read to know the schema: the file of that name beside this one.
const HEAD: &str = "# yaml-language-server: $schema=routes.schema.json\n";

/// The table as YAML, with a first line that names the schema. What is not set is left out.
#[must_use]
pub fn to_yaml(table: &RouteTable) -> String {
    let tree = message(&dynamic(table));
    format!("{HEAD}{}", serde_norway::to_string(&tree).expect("texts, numbers, lists and maps can be written"))
}

fn message(of: &DynamicMessage) -> Yaml {
    let mut mapping = Mapping::new();
    // In the order of the definition, and what makes a route what it is first.
    for field in of.descriptor().fields().filter(|field| of.has_field(field)) {
        if let Some(written) = value(&field, &of.get_field(&field)) {
            mapping.insert(Yaml::String(field.name().to_owned()), written);
        }
    }
    Yaml::Mapping(mapping)
}

/// `None` where it says nothing.
fn value(field: &FieldDescriptor, value: &Value) -> Option<Yaml> {
    Some(match value {
        Value::Bool(value) => Yaml::Bool(*value),
        Value::U32(value) => Yaml::Number((*value).into()),
        Value::U64(value) => Yaml::Number((*value).into()),
        Value::I32(value) => Yaml::Number((*value).into()),
        Value::I64(value) => Yaml::Number((*value).into()),
        Value::F64(value) => Yaml::Number((*value).into()),
        Value::F32(value) => Yaml::Number(f64::from(*value).into()),
        Value::String(value) => Yaml::String(value.clone()),
        Value::EnumNumber(number) => {
            let Kind::Enum(of) = field.kind() else { return None };
            Yaml::String(words(&of).into_iter().find(|(_, known)| known == number)?.0)
        }
        Value::Message(of) if is_span(field) => Yaml::String(span(of)),
        Value::Message(of) => match message(of) {
            Yaml::Mapping(mapping) if mapping.is_empty() => return None,
            written => written,
        },
        Value::List(items) => Yaml::Sequence(items.iter().filter_map(|item| self::value(field, item)).collect()),
        Value::Map(entries) => {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let sorted: BTreeMap<String, String> =
                entries.iter().map(|(key, value)| (key.as_str().unwrap_or_default().to_owned(), text(value))).collect();
            let entries = sorted.into_iter().map(|(key, value)| (Yaml::String(key), Yaml::String(value)));
            Yaml::Mapping(entries.collect())
        }
        Value::Bytes(_) => return None,
    })
}

/// A span in the largest unit that says it exactly.
fn span(of: &DynamicMessage) -> String {
    let number = |name: &str| {
        of.get_field_by_name(name).and_then(|value| match &*value {
            Value::I64(number) => Some(*number),
            Value::I32(number) => Some(i64::from(*number)),
            _ => None,
        })
    };
    let (seconds, nanos) = (number("seconds").unwrap_or(0), number("nanos").unwrap_or(0));
    if nanos != 0 {
        return format!("{}ms", (seconds as f64 * 1e3) + nanos as f64 / 1e6);
    }
    for (unit, size) in [("d", 86_400), ("h", 3600), ("m", 60)] {
        if seconds != 0 && seconds % size == 0 {
            return format!("{}{unit}", seconds / size);
        }
    }
    format!("{seconds}s")
}
