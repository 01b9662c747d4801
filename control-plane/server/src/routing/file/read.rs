//! Reading a routes file.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use mindos_proto::route::v1::RouteTable;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value};
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{ABOUT, FILE_MAX, FileError, is_span, table, words};
use crate::grpc::{read_routes, write_routes};

/// Reads a file and checks it whole, its conditions too.
///
/// # Errors
/// Names line, field and what is accepted.
pub fn parse(text: &str) -> Result<RouteTable, FileError> {
    if text.len() > FILE_MAX {
        let message = format!("the file has {} bytes: expected at most {FILE_MAX}", text.len());
        return Err(FileError { line: None, message });
    }
    let seed = Whole { of: table(), is_top: true };
    let read = seed.deserialize(serde_norway::Deserializer::from_str(text));
    let message = read.map_err(|error| {
        let line = error.location().map(|location| location.line());
        let message = error.to_string();
        let place = message.rfind(" at line ").unwrap_or(message.len());
        FileError { line, message: message[..place].to_owned() }
    })?;
    let table: RouteTable =
        message.transcode_to().map_err(|error| FileError { line: None, message: error.to_string() })?;
    check(&table).map_err(|message| FileError { line: line_of(text, &message), message })?;
    Ok(table)
}

/// Checks a table as the server does.
///
/// # Errors
/// The field's path, what is wrong with it and what is accepted.
pub fn check(table: &RouteTable) -> Result<(), String> {
    let (table, _) = read_routes(table.clone()).map_err(|error| error.to_string())?;
    table.check().map_err(|error| error.to_string())
}

/// The table with all defaults filled in, as the server shows it.
///
/// # Errors
/// As [`check`].
pub fn with_defaults(table: &RouteTable) -> Result<RouteTable, String> {
    let (table, _) = read_routes(table.clone()).map_err(|error| error.to_string())?;
    Ok(write_routes(&table))
}

/// The line of the field that a message begins with.
fn line_of(text: &str, message: &str) -> Option<usize> {
    let path = message.split([' ', ':']).next()?;
    let mut steps = Vec::new();
    for part in path.split('.') {
        let (name, rest) = part.split_once('[').unwrap_or((part, ""));
        steps.push(Step::Field(name));
        if let Some(index) = rest.strip_suffix(']').and_then(|index| index.parse().ok()) {
            steps.push(Step::Item(index));
        }
    }
    // What is missing stands nowhere: then what it is missing in.
    while !steps.is_empty() {
        let found = Probe(&steps).deserialize(serde_norway::Deserializer::from_str(text));
        if let Err(error) = found {
            return error.location().map(|location| location.line());
        }
        steps.pop();
    }
    None
}

/// A message, read field by field.
struct Whole {
    of: MessageDescriptor,
    is_top: bool,
}

impl<'de> DeserializeSeed<'de> for Whole {
    type Value = DynamicMessage;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<DynamicMessage, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Whole {
    type Value = DynamicMessage;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.of.fields().map(|field| field.name().to_owned()).collect();
        write!(f, "a map with {}", names.join(", "))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<DynamicMessage, A::Error> {
        let mut message = DynamicMessage::new(self.of.clone());
        let mut seen = BTreeSet::new();
        while let Some(field) = entries.next_key_seed(Name(&self))? {
            let Some(field) = field else {
                entries.next_value::<IgnoredAny>()?;
                continue;
            };
            let name = field.name();
            if !seen.insert(field.number()) {
                return Err(A::Error::custom(format!("field `{name}` is given twice")));
            }
            if let Some(oneof) = field.containing_oneof().filter(|oneof| !oneof.is_synthetic())
                && let Some(other) = oneof.fields().find(|other| *other != field && message.has_field(other))
            {
                return Err(A::Error::custom(format!("field `{name}` does not go with `{}`", other.name())));
            }
            let value = entries.next_value_seed(Field { field: &field, is_item: false })?;
            if let Some(value) = value {
                message.set_field(&field, value);
            }
        }
        Ok(message)
    }
}

/// The name of a field of a message; unset where it is one that is passed over.
struct Name<'a>(&'a Whole);

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = Option<FieldDescriptor>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = Option<FieldDescriptor>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a field")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
        let Whole { of, is_top } = self.0;
        match of.get_field_by_name(name) {
            Some(field) => Ok(Some(field)),
            None if *is_top && ABOUT.contains(&name) => Ok(None),
            None => {
                let names: Vec<_> = of.fields().map(|field| field.name().to_owned()).collect();
                let name: String = name.chars().take(80).collect();
                Err(E::custom(format!("field `{name}` is not known: expected one of {}", names.join(", "))))
            }
        }
    }
}

/// The value of a field, or one item of it.
struct Field<'a> {
    field: &'a FieldDescriptor,
    is_item: bool,
}

impl<'de> DeserializeSeed<'de> for Field<'_> {
    /// Unset where nothing is said.
    type Value = Option<Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<Value>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Field<'_> {
    fn is_list(&self) -> bool {
        self.field.is_list() && !self.is_item
    }

    fn wrong<E: Error>(&self, found: impl fmt::Display) -> E {
        let name = self.field.name();
        E::custom(format!("{name}: {found}: expected {}", Expected(self)))
    }
}

struct Expected<'a>(&'a Field<'a>);

impl fmt::Display for Expected<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let field = self.0.field;
        if field.is_map() {
            return f.write_str("a map of texts");
        }
        if self.0.is_list() {
            f.write_str("a list, each item ")?;
        }
        match field.kind() {
            Kind::Enum(of) => {
                let words: Vec<_> = words(&of).into_iter().map(|(word, _)| word).collect();
                write!(f, "one of {}", words.join(", "))
            }
            Kind::Message(_) if is_span(field) => f.write_str("a span of time such as 90s, with ms, s, m, h or d"),
            Kind::Message(of) => {
                let names: Vec<_> = of.fields().map(|field| field.name().to_owned()).collect();
                write!(f, "a map with {}", names.join(", "))
            }
            Kind::Bool => f.write_str("true or false"),
            Kind::String => f.write_str("a text (in quotes, where it could be taken for something else)"),
            _ => f.write_str("a whole number"),
        }
    }
}

impl<'de> Visitor<'de> for Field<'_> {
    type Value = Option<Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Expected(self))
    }

    fn visit_unit<E: Error>(self) -> Result<Option<Value>, E> {
        if self.is_item { Err(self.wrong("nothing is said")) } else { Ok(None) }
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Option<Value>, E> {
        match self.field.kind() {
            Kind::Bool if !self.is_list() => Ok(Some(Value::Bool(value))),
            _ => Err(self.wrong(value)),
        }
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Option<Value>, E> {
        let small = u32::try_from(value);
        match (self.field.kind(), small) {
            _ if self.is_list() => Err(self.wrong(value)),
            (Kind::Uint32, Ok(value)) => Ok(Some(Value::U32(value))),
            (Kind::Uint64, _) => Ok(Some(Value::U64(value))),
            (Kind::Double, Ok(value)) => Ok(Some(Value::F64(f64::from(value)))),
            _ => Err(self.wrong(value)),
        }
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Option<Value>, E> {
        match (self.field.kind(), i32::try_from(value)) {
            (Kind::Int32, Ok(value)) if !self.is_list() => Ok(Some(Value::I32(value))),
            (Kind::Int64, _) if !self.is_list() => Ok(Some(Value::I64(value))),
            _ => Err(self.wrong(value)),
        }
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Option<Value>, E> {
        match self.field.kind() {
            Kind::Double if !self.is_list() => Ok(Some(Value::F64(value))),
            _ => Err(self.wrong(value)),
        }
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Option<Value>, E> {
        let shown = || format!("`{}`", value.chars().take(80).collect::<String>());
        if self.is_list() || self.field.is_map() {
            return Err(self.wrong(shown()));
        }
        match self.field.kind() {
            Kind::String => Ok(Some(Value::String(value.to_owned()))),
            Kind::Enum(of) => {
                let word = words(&of).into_iter().find(|(word, _)| word == value);
                // What `routes get` prints where nothing is said.
                match word {
                    Some((_, number)) => Ok(Some(Value::EnumNumber(number))),
                    None if value == "unspecified" => Ok(None),
                    None => Err(self.wrong(shown())),
                }
            }
            Kind::Message(of) if is_span(self.field) => {
                let span = span(value).ok_or_else(|| self.wrong::<E>(shown()))?;
                let mut message = DynamicMessage::new(of);
                message.set_field_by_name("seconds", Value::I64(i64::try_from(span.as_secs()).unwrap_or(i64::MAX)));
                message.set_field_by_name("nanos", Value::I32(span.subsec_nanos().cast_signed()));
                Ok(Some(Value::Message(message)))
            }
            _ => Err(self.wrong(shown())),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Option<Value>, A::Error> {
        if !self.is_list() {
            return Err(self.wrong("a list"));
        }
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(Field { field: self.field, is_item: true })? {
            list.extend(item);
        }
        Ok(Some(Value::List(list)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Option<Value>, A::Error> {
        if self.field.is_map() {
            let mut map = std::collections::HashMap::new();
            while let Some((name, value)) = entries.next_entry::<String, String>()? {
                map.insert(MapKey::String(name), Value::String(value));
            }
            return Ok(Some(Value::Map(map)));
        }
        match self.field.kind() {
            Kind::Message(of) if !self.is_list() && !is_span(self.field) => {
                let message = Whole { of, is_top: false }.visit_map(entries)?;
                // What says nothing is as if it were not there; an item of a list is one all the same.
                let says_nothing = !self.is_item && message.fields().next().is_none();
                Ok((!says_nothing).then_some(Value::Message(message)))
            }
            _ => Err(self.wrong("a map")),
        }
    }
}

/// Reads a span such as `250ms`, `90s`, `15m`, `2h` or `7d`.
fn span(text: &str) -> Option<Duration> {
    let at = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(at);
    let seconds = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => return None,
    };
    let nanos = number.parse::<f64>().ok()? * seconds * 1e9;
    // Whole microseconds: what the factors cannot say exactly is rounded away.
    (nanos < 1e18).then(|| Duration::from_micros((nanos / 1e3).round() as u64))
}

#[derive(Clone, Copy, Debug)]
enum Step<'a> {
    Field(&'a str),
    Item(usize),
}

/// Walks to a place and fails there, so that the reader says where that is.
struct Probe<'a>(&'a [Step<'a>]);

impl<'de> DeserializeSeed<'de> for Probe<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Probe<'_> {
    fn here<E: Error>(&self) -> Result<(), E> {
        if self.0.is_empty() { Err(E::custom("here")) } else { Ok(()) }
    }
}

impl<'de> Visitor<'de> for Probe<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.here()
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        self.here()
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        self.here()
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        self.here()
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        self.here()
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        self.here()
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        self.here()?;
        let mut place = 0;
        loop {
            let found = match self.0 {
                [Step::Item(wanted), rest @ ..] if *wanted == place => items.next_element_seed(Probe(rest))?.is_some(),
                _ => items.next_element::<IgnoredAny>()?.is_some(),
            };
            if !found {
                return Ok(());
            }
            place += 1;
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        self.here()?;
        while let Some(name) = entries.next_key::<String>()? {
            match self.0 {
                [Step::Field(wanted), rest @ ..] if *wanted == name => entries.next_value_seed(Probe(rest))?,
                _ => {
                    entries.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}
