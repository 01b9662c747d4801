//! Fields of a JSON payload that conditions read, and nothing else of it.
//!
//! Invariant: what no condition names is passed over and takes no memory.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fmt;

use cel::common::types::{CelBool, CelDouble, CelInt, CelList, CelMap, CelMapKey, CelNull, CelString, CelUInt};
use cel::common::value::Val;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// A value as conditions see it.
pub(super) type Value = Box<dyn Val>;

/// Which fields of a value are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    whole: bool,
    fields: BTreeMap<String, Wanted>,
}

impl Wanted {
    /// Wants what stands at the end of the path, with all that is in it.
    pub(super) fn want(&mut self, path: &[String]) {
        let mut at = self;
        for field in path {
            if at.whole {
                return;
            }
            at = at.fields.entry(field.clone()).or_default();
        }
        at.whole = true;
        at.fields.clear();
    }

    /// Reads what is wanted; `None` where the text is not JSON.
    pub(super) fn read(&self, json: &[u8]) -> Option<Value> {
        let mut reader = serde_json::Deserializer::from_slice(json);
        let value = Seed(self).deserialize(&mut reader).ok()?;
        reader.end().ok()?;
        Some(value)
    }
}

#[derive(Clone, Copy)]
struct Seed<'a>(&'a Wanted);

const ALL: &Wanted = &Wanted { whole: true, fields: BTreeMap::new() };

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Box::new(CelNull))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Box::new(CelBool::from(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Box::new(CelInt::from(value)))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(match i64::try_from(value) {
            Ok(value) => Box::new(CelInt::from(value)),
            Err(_) => Box::new(CelUInt::from(value)),
        })
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Box::new(CelDouble::from(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Box::new(CelString::from(value.to_owned())))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Box::new(CelString::from(value)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list: Vec<Value> = Vec::new();
        if self.0.whole {
            while let Some(item) = items.next_element_seed(Seed(ALL))? {
                list.push(item);
            }
        } else {
            // A list has no fields: whoever asks for one finds none.
            while items.next_element::<IgnoredAny>()?.is_some() {}
        }
        Ok(Box::new(CelList::from(list)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map: HashMap<CelMapKey<'static>, Value> = HashMap::new();
        while let Some(Name(name)) = entries.next_key()? {
            let wanted = if self.0.whole { Some(ALL) } else { self.0.fields.get(&*name) };
            match wanted {
                Some(wanted) => {
                    let value = entries.next_value_seed(Seed(wanted))?;
                    map.insert(CelMapKey::from(name.into_owned()), value);
                }
                None => {
                    entries.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(Box::new(CelMap::from(map)))
    }
}

/// A name in an object, borrowed where it has no escapes.
#[derive(serde::Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(paths: &[&[&str]]) -> Wanted {
        let mut wanted = Wanted::default();
        for path in paths {
            wanted.want(&path.iter().map(|field| (*field).to_owned()).collect::<Vec<_>>());
        }
        wanted
    }

    #[test]
    fn only_what_is_wanted_is_read() {
        let json = br#"{"a": {"b": 1, "c": [1, 2]}, "d": {"e": "x"}, "f": [{"g": 1}], "h": null}"#;
        let read = |paths: &[&[&str]]| format!("{:?}", wanted(paths).read(json).unwrap());
        assert!(read(&[&["a", "b"]]).contains('1') && !read(&[&["a", "b"]]).contains("\"c\""));
        assert!(read(&[&["a", "b"], &["a"]]).contains("\"c\""), "the whole takes its parts in");
        assert!(read(&[&["f"]]).contains("\"g\""));
        assert!(!read(&[&["f", "g"]]).contains("\"g\""));
        assert!(wanted(&[&["a"]]).read(b"{").is_none() && wanted(&[&["a"]]).read(b"{} x").is_none());
    }
}
