//! Reads an encoded CloudEvent without building it: one pass, no allocation.
//!
//! Invariant: whatever it takes, a protobuf decoder takes too; it is stricter, never laxer, and refuses fields given twice.

use mindos_model::{Priority, Timestamp};
use mindos_proto::convert::Invalid;

use super::cloudevents::{EXTENSION_NAME_MAX, EXTENSIONS_MAX};
use super::event::{TEXT_MAX, attribute_time};

/// An event as it lies in its encoding.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Scanned<'a> {
    pub(super) id: &'a str,
    pub(super) source: &'a str,
    pub(super) ty: &'a str,
    pub(super) subject: Option<&'a str>,
    pub(super) time: Option<Timestamp>,
    pub(super) not_before: Option<Timestamp>,
    pub(super) datacontenttype: Option<&'a str>,
    pub(super) dataref: Option<&'a str>,
    pub(super) repository: Option<&'a str>,
    pub(super) priority: Option<Priority>,
    pub(super) actor: Option<&'a str>,
    pub(super) lane: Option<&'a str>,
    pub(super) kind: Option<&'a str>,
    pub(super) traceparent: Option<&'a str>,
    pub(super) data: Option<&'a [u8]>,
    pub(super) fork: bool,
    pub(super) bot: bool,
    pub(super) echo: bool,
    pub(super) association: Option<&'a str>,
    pub(super) hops: u32,
}

/// Attributes beside the required ones: the optional ones of the specification and extensions.
const ATTRIBUTES_MAX: usize = EXTENSIONS_MAX + 4;

/// Reads and checks.
///
/// # Errors
/// Names the attribute and what is accepted.
pub(super) fn scan(encoded: &[u8]) -> Result<Scanned<'_>, Invalid> {
    let mut event = Scanned::default();
    let (mut id, mut source, mut spec_version, mut ty) = (None, None, None, None);
    let mut names: [&str; ATTRIBUTES_MAX] = [""; ATTRIBUTES_MAX];
    let mut count = 0;
    let mut fields = Fields(encoded);
    while let Some((number, value)) = fields.next().map_err(malformed)? {
        match number {
            1 => once(&mut id, text(&value, "id")?, "id")?,
            2 => once(&mut source, text(&value, "source")?, "source")?,
            3 => once(&mut spec_version, text(&value, "spec_version")?, "spec_version")?,
            4 => once(&mut ty, text(&value, "type")?, "type")?,
            5 => {
                let (name, attribute) = entry(&value)?;
                if count == ATTRIBUTES_MAX {
                    return Err(Invalid::new("attributes", format!("more than {ATTRIBUTES_MAX} are given")));
                }
                if names[..count].contains(&name) {
                    return Err(twice(name));
                }
                names[count] = name;
                count += 1;
                take(&mut event, name, &attribute)?;
            }
            6 => once(&mut event.data, bytes(&value, "data")?, "data")?,
            7 => once(&mut event.data, text(&value, "data")?.as_bytes(), "data")?,
            8 => once(&mut event.data, any(&value)?, "data")?,
            _ => {}
        }
    }
    event.id = required(id, "id")?;
    event.source = required(source, "source")?;
    event.ty = required(ty, "type")?;
    match spec_version {
        Some("1.0") => Ok(event),
        Some(_) => Err(Invalid::new("spec_version", "expected 1.0")),
        None => Err(Invalid::new("spec_version", "is missing: expected 1.0")),
    }
}

/// What is in the value of an attribute.
#[derive(Clone, Copy, Debug)]
pub(super) enum Attribute<'a> {
    Text(&'a str),
    Boolean(bool),
    Integer(i32),
    Time(i64, i32),
    Other,
}

impl Attribute<'_> {
    /// Whether it says so; what does not say no does.
    fn is_so(&self) -> bool {
        match self {
            Attribute::Text(text) => !matches!(*text, "" | "false" | "0"),
            Attribute::Boolean(so) => *so,
            Attribute::Integer(number) => *number != 0,
            Attribute::Time(..) | Attribute::Other => true,
        }
    }

    /// A count; what is none counts as too many.
    fn count(&self) -> u32 {
        match self {
            Attribute::Text(text) => text.parse().unwrap_or(u32::MAX),
            Attribute::Integer(number) => u32::try_from(*number).unwrap_or(u32::MAX),
            Attribute::Boolean(_) | Attribute::Time(..) | Attribute::Other => u32::MAX,
        }
    }
}

/// The extension attributes and the optional ones of the specification, in the order of the encoding. Nothing where it is none.
pub(super) fn attributes(encoded: &[u8]) -> Vec<(&str, Attribute<'_>)> {
    let mut found = Vec::new();
    let mut fields = Fields(encoded);
    while let Ok(Some((number, value))) = fields.next() {
        if number == 5
            && let Ok(entry) = entry(&value)
            && found.len() < ATTRIBUTES_MAX
        {
            found.push(entry);
        }
    }
    found
}

fn take<'a>(event: &mut Scanned<'a>, name: &'a str, attribute: &Attribute<'a>) -> Result<(), Invalid> {
    let known = |attribute: &Attribute<'a>| match attribute {
        Attribute::Text(text) if (1..=TEXT_MAX).contains(&text.len()) => Ok(Some(*text)),
        _ => Err(Invalid::new(name, format!("expected a string of 1 to {TEXT_MAX} bytes"))),
    };
    match name {
        "subject" => event.subject = known(attribute)?,
        "datacontenttype" => event.datacontenttype = known(attribute)?,
        "dataref" => event.dataref = known(attribute)?,
        "repository" => event.repository = known(attribute)?,
        "actor" => event.actor = known(attribute)?,
        "lane" => event.lane = known(attribute)?,
        "kind" => event.kind = known(attribute)?,
        "fork" => event.fork = attribute.is_so(),
        "bot" => event.bot = attribute.is_so(),
        "echo" => event.echo = attribute.is_so(),
        "association" => event.association = known(attribute)?,
        "hops" => event.hops = attribute.count(),
        "priority" => {
            let priority = match attribute {
                Attribute::Text(text) => text.parse().ok(),
                Attribute::Boolean(_) | Attribute::Integer(_) | Attribute::Time(..) | Attribute::Other => None,
            };
            event.priority = Some(priority.ok_or_else(|| Invalid::new(name, "expected low, normal or high"))?);
        }
        "time" | "notbefore" => {
            let time = match attribute {
                Attribute::Time(seconds, nanos) => attribute_time(*seconds, *nanos),
                Attribute::Text(text) => text.parse().ok(),
                Attribute::Boolean(_) | Attribute::Integer(_) | Attribute::Other => None,
            };
            let time = Some(time.ok_or_else(|| Invalid::new(name, "expected a time from 1970 to 9999"))?);
            if name == "time" {
                event.time = time
            } else {
                event.not_before = time
            };
        }
        "id" | "source" | "type" | "specversion" => {
            return Err(Invalid::new(name, "is given twice: it has a field of its own"));
        }
        // Of whatever form: one that is not usable begins a new trace.
        "traceparent" => {
            if let Attribute::Text(text) = attribute {
                event.traceparent = Some(text);
            }
        }
        _ => {
            let fits = (1..=EXTENSION_NAME_MAX).contains(&name.len())
                && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
            if !fits {
                let shown: String = name.escape_debug().take(80).collect();
                let accepted = format!("expected names of 1 to {EXTENSION_NAME_MAX} letters a-z and digits");
                return Err(Invalid::new(format!("attributes[{shown}]"), accepted));
            }
        }
    }
    Ok(())
}

fn required<'a>(value: Option<&'a str>, name: &'static str) -> Result<&'a str, Invalid> {
    match value {
        None | Some("") => Err(Invalid::new(name, format!("is missing: expected 1 to {TEXT_MAX} bytes"))),
        Some(text) if text.len() > TEXT_MAX => {
            Err(Invalid::new(name, format!("has {} bytes: expected 1 to {TEXT_MAX}", text.len())))
        }
        Some(text) => Ok(text),
    }
}

fn once<T>(place: &mut Option<T>, value: T, name: &str) -> Result<(), Invalid> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(twice(name)),
    }
}

fn twice(name: &str) -> Invalid {
    Invalid::new(name, "is given twice")
}

fn malformed(_: Malformed) -> Invalid {
    Invalid::new("event", "is not an encoded io.cloudevents.v1.CloudEvent")
}

/// One entry of the map of attributes.
fn entry<'a>(value: &Value<'a>) -> Result<(&'a str, Attribute<'a>), Invalid> {
    let (mut name, mut attribute) = (None, None);
    let mut fields = Fields(bytes(value, "attributes")?);
    while let Some((number, value)) = fields.next().map_err(malformed)? {
        match number {
            1 => once(&mut name, text(&value, "attributes")?, "attributes")?,
            2 => once(&mut attribute, self::attribute(&value)?, "attributes")?,
            _ => {}
        }
    }
    let name = name.unwrap_or_default();
    let unset = || Invalid::new(format!("attributes[{name}]"), "has no value");
    Ok((name, attribute.flatten().ok_or_else(unset)?))
}

fn attribute<'a>(value: &Value<'a>) -> Result<Option<Attribute<'a>>, Invalid> {
    let mut found = None;
    let mut fields = Fields(bytes(value, "attributes")?);
    while let Some((number, value)) = fields.next().map_err(malformed)? {
        let attribute = match number {
            1 => Attribute::Boolean(varint(&value)? != 0),
            2 => Attribute::Integer(varint(&value)? as i32),
            3 | 5 | 6 => Attribute::Text(text(&value, "attributes")?),
            4 => {
                bytes(&value, "attributes")?;
                Attribute::Other
            }
            7 => time(&value)?,
            _ => continue,
        };
        once(&mut found, attribute, "attributes")?;
    }
    Ok(found)
}

fn time<'a>(value: &Value<'_>) -> Result<Attribute<'a>, Invalid> {
    let (mut seconds, mut nanos) = (None, None);
    let mut fields = Fields(bytes(value, "time")?);
    while let Some((number, value)) = fields.next().map_err(malformed)? {
        match number {
            1 => once(&mut seconds, varint(&value)? as i64, "time")?,
            2 => once(&mut nanos, varint(&value)? as i32, "time")?,
            _ => {}
        }
    }
    Ok(Attribute::Time(seconds.unwrap_or_default(), nanos.unwrap_or_default()))
}

/// A protobuf message as data: its bytes as they are, once they are known to be an `Any`.
fn any<'a>(value: &Value<'a>) -> Result<&'a [u8], Invalid> {
    let whole = bytes(value, "data")?;
    let mut fields = Fields(whole);
    while let Some((number, value)) = fields.next().map_err(malformed)? {
        match number {
            1 => drop(text(&value, "data")?),
            2 => drop(bytes(&value, "data")?),
            _ => {}
        }
    }
    Ok(whole)
}

fn bytes<'a>(value: &Value<'a>, name: &str) -> Result<&'a [u8], Invalid> {
    match value {
        Value::Bytes(bytes) => Ok(bytes),
        _ => Err(Invalid::new(name, "is not encoded as its type asks for")),
    }
}

fn text<'a>(value: &Value<'a>, name: &str) -> Result<&'a str, Invalid> {
    std::str::from_utf8(bytes(value, name)?).map_err(|_| Invalid::new(name, "is not UTF-8"))
}

fn varint(value: &Value<'_>) -> Result<u64, Invalid> {
    match value {
        Value::Varint(number) => Ok(*number),
        _ => Err(Invalid::new("attributes", "is not encoded as its type asks for")),
    }
}

struct Malformed;

enum Value<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    /// Of a fixed size; nothing of ours is.
    Fixed,
}

/// The fields of one message, one after the other.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn next(&mut self) -> Result<Option<(u32, Value<'a>)>, Malformed> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = u32::try_from(self.varint()?).map_err(|_| Malformed)?;
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            1 => self.take(8).map(|_| Value::Fixed)?,
            2 => {
                let len = usize::try_from(self.varint()?).map_err(|_| Malformed)?;
                Value::Bytes(self.take(len)?)
            }
            5 => self.take(4).map(|_| Value::Fixed)?,
            _ => return Err(Malformed),
        };
        if key >> 3 == 0 {
            return Err(Malformed);
        }
        Ok(Some((key >> 3, value)))
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut number = 0u64;
        for (index, &byte) in self.0.iter().take(10).enumerate() {
            // The tenth byte has room for one bit.
            if index == 9 && byte > 1 {
                return Err(Malformed);
            }
            number |= u64::from(byte & 0x7f) << (7 * index);
            if byte < 0x80 {
                self.0 = &self.0[index + 1..];
                return Ok(number);
            }
        }
        Err(Malformed)
    }
}

#[cfg(test)]
mod tests {
    use mindos_core::input::Entropy;
    use mindos_proto::cloudevents::v1::CloudEvent;
    use prost::Message;

    use super::*;
    use crate::ingest::cloudevents::{ExtensionValue, IncomingEvent};
    use crate::ingest::event::encode;

    fn sample() -> Vec<u8> {
        let mut event = IncomingEvent {
            id: "e-1".to_owned(),
            source: "/s".to_owned(),
            r#type: "t".to_owned(),
            subject: Some("u".to_owned()),
            time: Some(Timestamp(1_795_176_000_123)),
            datacontenttype: Some("text/plain".to_owned()),
            dataschema: Some("https://example.test/schema".to_owned()),
            data: bytes::Bytes::from_static(b"data"),
            ..IncomingEvent::default()
        };
        event.extensions.insert("flag".to_owned(), ExtensionValue::Boolean(true));
        event.extensions.insert("number".to_owned(), ExtensionValue::Integer(-7));
        event.extensions.insert("lane".to_owned(), ExtensionValue::String("l".to_owned()));
        encode(event)
    }

    #[test]
    fn what_was_encoded_is_found() {
        let encoded = sample();
        let event = scan(&encoded).unwrap();
        assert_eq!((event.id, event.source, event.ty), ("e-1", "/s", "t"));
        assert_eq!((event.subject, event.lane, event.kind), (Some("u"), Some("l"), None));
        assert_eq!(event.time, Some(Timestamp(1_795_176_000_123)));
        assert_eq!(event.data, Some(&b"data"[..]));
    }

    #[test]
    fn whatever_is_taken_decodes() {
        let encoded = sample();
        let mut entropy = Entropy(7);
        let mut taken = 0;
        for _ in 0..200_000 {
            let mut noisy = encoded.clone();
            for _ in 0..=entropy.below(3) {
                let at = entropy.below(noisy.len() as u64) as usize;
                match entropy.below(4) {
                    0 => noisy[at] = entropy.draw() as u8,
                    1 => noisy[at] ^= 1 << entropy.below(8),
                    2 => noisy.insert(at, entropy.draw() as u8),
                    _ => drop(noisy.remove(at)),
                }
            }
            if scan(&noisy).is_ok() {
                taken += 1;
                CloudEvent::decode(noisy.as_slice()).unwrap();
            }
        }
        assert!(taken > 1000, "{taken}");
    }

    #[test]
    fn what_is_missing_is_named() {
        for (field, event) in [
            ("id", CloudEvent { id: String::new(), ..full() }),
            ("source", CloudEvent { source: String::new(), ..full() }),
            ("type", CloudEvent { r#type: "x".repeat(TEXT_MAX + 1), ..full() }),
            ("spec_version", CloudEvent { spec_version: "0.3".to_owned(), ..full() }),
        ] {
            assert_eq!(scan(&event.encode_to_vec()).unwrap_err().field, field);
        }
        let doubled = [full().encode_to_vec(), full().encode_to_vec()].concat();
        assert!(scan(&doubled).is_err());
        assert!(scan(&[]).is_err());
    }

    #[test]
    fn a_priority_is_one_of_three_words() {
        let with = |value| {
            let mut event = IncomingEvent {
                id: "e-1".to_owned(),
                source: "/s".to_owned(),
                r#type: "t".to_owned(),
                ..IncomingEvent::default()
            };
            event.extensions.insert("priority".to_owned(), value);
            encode(event)
        };
        let text = |word: &str| ExtensionValue::String(word.to_owned());
        assert_eq!(scan(&with(text("high"))).unwrap().priority, Some(Priority::High));
        assert_eq!(scan(&sample()).unwrap().priority, None);
        for bad in [text("urgent"), text(""), text("HIGH"), ExtensionValue::Integer(1), ExtensionValue::Boolean(true)] {
            let error = scan(&with(bad)).unwrap_err();
            assert_eq!((error.field.as_str(), error.reason.as_str()), ("priority", "expected low, normal or high"));
        }
    }

    fn full() -> CloudEvent {
        CloudEvent::decode(sample().as_slice()).unwrap()
    }
}
