//! What an answer has to look like: a part of JSON Schema, checked by us whatever the provider promises.
//!
//! Known are `type`, `properties`, `required`, `additionalProperties`, `items`, `minItems`, `maxItems`, `minLength`, `maxLength`,
//! `minimum`, `maximum`, `enum`, `const`, `anyOf`, and the words that only explain. Invariant: a schema that exists holds nothing else, so
//! nothing that it says goes unchecked; and it is at most [`DEPTH_MAX`] deep, so neither reading nor checking can exhaust the stack.

use std::fmt::{self, Write};
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Map, Value};

/// How deep a schema may be.
const DEPTH_MAX: usize = 32;
/// Faults that are told of one value.
const FAULTS_MAX: usize = 8;
/// Words that constrain nothing.
const EXPLAINING: [&str; 8] =
    ["$schema", "$id", "$comment", "title", "description", "default", "examples", "deprecated"];
const TYPES: [&str; 7] = ["object", "array", "string", "number", "integer", "boolean", "null"];

/// A schema that was found usable. Cheap to clone.
#[derive(Clone, Debug, PartialEq)]
pub struct Schema(Arc<Value>);

/// Why a schema cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("schema at {place}: {what}")]
pub struct SchemaError {
    place: String,
    what: String,
}

impl Schema {
    /// Reads a schema.
    ///
    /// # Errors
    /// Where it says something that would not be checked.
    pub fn new(schema: Value) -> Result<Schema, SchemaError> {
        examine(&schema, &mut Place::default(), 0)?;
        Ok(Schema(Arc::new(schema)))
    }

    /// The schema as it goes to providers.
    #[must_use]
    pub fn value(&self) -> &Value {
        &self.0
    }

    /// Whether each object in it names all its members and no others: what OpenAI's strict mode asks for.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        closed(&self.0)
    }

    /// What is wrong with a value, each fault with its place, such as `/files/0/path: is missing`; nothing where all is right.
    ///
    /// # Errors
    /// The first eight faults, in words that also a model understands.
    pub fn check(&self, value: &Value) -> Result<(), Vec<String>> {
        let mut faults = Vec::new();
        check(&self.0, value, &mut Place::default(), &mut faults);
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }
}

impl<'de> Deserialize<'de> for Schema {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Schema, D::Error> {
        Schema::new(Value::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// A JSON pointer that grows and shrinks with the walk.
#[derive(Default)]
struct Place(String);

impl Place {
    fn within<T>(&mut self, step: impl fmt::Display, walk: impl FnOnce(&mut Place) -> T) -> T {
        let before = self.0.len();
        let _ = write!(self.0, "/{step}");
        let result = walk(self);
        self.0.truncate(before);
        result
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Names of members may come from a model.
        let shown: String = self.0.chars().filter(|letter| !letter.is_control()).take(200).collect();
        f.write_str(if shown.is_empty() { "/" } else { &shown })
    }
}

fn examine(schema: &Value, place: &mut Place, depth: usize) -> Result<(), SchemaError> {
    let wrong = |place: &Place, what: String| Err(SchemaError { place: place.to_string(), what });
    if depth > DEPTH_MAX {
        return wrong(place, format!("more than {DEPTH_MAX} levels deep"));
    }
    let members = match schema {
        Value::Bool(_) => return Ok(()),
        Value::Object(members) => members,
        _ => return wrong(place, "expected an object, true or false".to_owned()),
    };
    for (word, said) in members {
        let known = match word.as_str() {
            word if EXPLAINING.contains(&word) => true,
            "type" => {
                let known = |ty: &Value| ty.as_str().is_some_and(|ty| TYPES.contains(&ty));
                if !said.as_array().map_or_else(|| known(said), |types| !types.is_empty() && types.iter().all(known)) {
                    return wrong(place, format!("`type` is one or several of {}", TYPES.join(", ")));
                }
                true
            }
            "properties" => {
                let Some(properties) = said.as_object() else {
                    return wrong(place, "`properties` is an object of schemas".to_owned());
                };
                for (name, schema) in properties {
                    place.within(name, |place| examine(schema, place, depth + 1))?;
                }
                true
            }
            "required" => {
                if !said.as_array().is_some_and(|names| names.iter().all(Value::is_string)) {
                    return wrong(place, "`required` is a list of names".to_owned());
                }
                true
            }
            "additionalProperties" | "items" => {
                place.within(word, |place| examine(said, place, depth + 1))?;
                true
            }
            "anyOf" => {
                let Some(choices) = said.as_array().filter(|choices| !choices.is_empty()) else {
                    return wrong(place, "`anyOf` is a list of schemas".to_owned());
                };
                for (index, schema) in choices.iter().enumerate() {
                    place.within(index, |place| examine(schema, place, depth + 1))?;
                }
                true
            }
            "minItems" | "maxItems" | "minLength" | "maxLength" => {
                if !said.is_u64() {
                    return wrong(place, format!("`{word}` is a whole number from 0 on"));
                }
                true
            }
            "minimum" | "maximum" => {
                if !said.is_number() {
                    return wrong(place, format!("`{word}` is a number"));
                }
                true
            }
            "enum" => {
                if !said.as_array().is_some_and(|values| !values.is_empty()) {
                    return wrong(place, "`enum` is a list of values".to_owned());
                }
                true
            }
            "const" => true,
            _ => false,
        };
        if !known {
            let word: String = word.chars().take(64).collect();
            return wrong(place, format!("`{word}` is not known here, so it would not be checked"));
        }
    }
    Ok(())
}

fn closed(schema: &Value) -> bool {
    match schema {
        Value::Object(members) => {
            let named = match members.get("properties").and_then(Value::as_object) {
                Some(properties) => {
                    let required = members.get("required").and_then(Value::as_array);
                    let is_required =
                        |name: &String| required.is_some_and(|required| required.iter().any(|it| it == name));
                    members.get("additionalProperties") == Some(&Value::Bool(false))
                        && properties.keys().all(is_required)
                        && properties.values().all(closed)
                }
                None => !types(members).any(|ty| ty == "object"),
            };
            let items = members.get("items").is_none_or(closed);
            let choices = members.get("anyOf").and_then(Value::as_array);
            named && items && choices.is_none_or(|choices| choices.iter().all(closed))
        }
        _ => false,
    }
}

fn types(members: &Map<String, Value>) -> impl Iterator<Item = &str> {
    let (one, several) = match members.get("type") {
        Some(Value::String(one)) => (Some(one.as_str()), None),
        Some(Value::Array(several)) => (None, Some(several)),
        _ => (None, None),
    };
    one.into_iter().chain(several.into_iter().flatten().filter_map(Value::as_str))
}

fn check(schema: &Value, value: &Value, place: &mut Place, faults: &mut Vec<String>) {
    if faults.len() >= FAULTS_MAX {
        return;
    }
    let members = match schema {
        Value::Object(members) => members,
        Value::Bool(false) => return fault(faults, place, "is not allowed"),
        _ => return,
    };
    let mut wanted = types(members).peekable();
    if wanted.peek().is_some() && !wanted.any(|ty| is(value, ty)) {
        let wanted = types(members).collect::<Vec<_>>().join(" or ");
        return fault(faults, place, format!("is {}, expected {wanted}", kind(value)));
    }
    if let Some(values) = members.get("enum").and_then(Value::as_array)
        && !values.iter().any(|known| same(known, value))
    {
        let known = values.iter().take(32).map(Value::to_string).collect::<Vec<_>>().join(", ");
        fault(faults, place, format!("is {}, expected one of {known}", brief(value)));
    }
    if let Some(only) = members.get("const")
        && !same(only, value)
    {
        fault(faults, place, format!("is {}, expected {only}", brief(value)));
    }
    if let Some(choices) = members.get("anyOf").and_then(Value::as_array) {
        let fits = |choice: &Value| {
            let mut faults = Vec::new();
            check(choice, value, &mut Place::default(), &mut faults);
            faults.is_empty()
        };
        if !choices.iter().any(fits) {
            fault(faults, place, "fits none of the choices in `anyOf`");
        }
    }
    let bound = |word: &str| members.get(word).and_then(Value::as_u64);
    let sized = |count: usize, least: &str, most: &str, what: &str, faults: &mut Vec<String>| {
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        if let Some(least) = bound(least).filter(|least| count < *least) {
            fault(faults, place, format!("has {count} {what}, expected at least {least}"));
        }
        if let Some(most) = bound(most).filter(|most| count > *most) {
            fault(faults, place, format!("has {count} {what}, expected at most {most}"));
        }
    };
    match value {
        Value::String(text) => sized(text.chars().count(), "minLength", "maxLength", "letters", faults),
        Value::Array(items) => {
            sized(items.len(), "minItems", "maxItems", "items", faults);
            if let Some(schema) = members.get("items") {
                for (index, item) in items.iter().enumerate() {
                    place.within(index, |place| check(schema, item, place, faults));
                }
            }
        }
        Value::Number(number) => {
            let number = number.as_f64().unwrap_or(f64::NAN);
            let limit = |word: &str| members.get(word).and_then(Value::as_f64);
            if let Some(least) = limit("minimum").filter(|least| number < *least) {
                fault(faults, place, format!("is {number}, expected at least {least}"));
            }
            if let Some(most) = limit("maximum").filter(|most| number > *most) {
                fault(faults, place, format!("is {number}, expected at most {most}"));
            }
        }
        Value::Object(object) => {
            for name in members.get("required").and_then(Value::as_array).into_iter().flatten() {
                let name = name.as_str().unwrap_or_default();
                if !object.contains_key(name) {
                    place.within(name, |place| fault(faults, place, "is missing"));
                }
            }
            let properties = members.get("properties").and_then(Value::as_object);
            let others = members.get("additionalProperties");
            for (name, member) in object {
                let schema = properties.and_then(|properties| properties.get(name)).or(others);
                if let Some(schema) = schema {
                    place.within(name, |place| check(schema, member, place, faults));
                }
            }
        }
        Value::Null | Value::Bool(_) => {}
    }
}

fn fault(faults: &mut Vec<String>, place: &Place, what: impl fmt::Display) {
    if faults.len() < FAULTS_MAX {
        faults.push(format!("{place}: {what}"));
    }
}

fn is(value: &Value, ty: &str) -> bool {
    match ty {
        "integer" => value.as_f64().is_some_and(|number| number.fract() == 0.0),
        "number" => value.is_number(),
        ty => kind(value) == ty,
    }
}

/// Numbers are compared by value, so that 1.0 is 1.
fn same(one: &Value, other: &Value) -> bool {
    one == other || (one.is_number() && other.is_number() && one.as_f64() == other.as_f64())
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// A value, or what it is where it is long.
fn brief(value: &Value) -> String {
    let text = value.to_string();
    if text.len() <= 80 { text } else { format!("another {}", kind(value)) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn faults(schema: Value, value: Value) -> Vec<String> {
        Schema::new(schema).unwrap().check(&value).err().unwrap_or_default()
    }

    #[test]
    fn faults_are_told_with_their_places() {
        let schema = json!({
            "type": "object", "required": ["files", "risk"], "additionalProperties": false,
            "properties": {
                "files": {"type": "array", "minItems": 1, "maxItems": 2, "items": {
                    "type": "object", "required": ["path"], "properties": {"path": {"type": "string", "minLength": 1, "maxLength": 3}}}},
                "risk": {"enum": ["low", "high"]},
                "line": {"type": ["integer", "null"], "minimum": 1, "maximum": 9},
                "side": {"const": "RIGHT"},
                "who": {"anyOf": [{"type": "string"}, {"type": "object", "required": ["name"]}]},
            }});
        let good = json!({"files": [{"path": "a"}], "risk": "low", "line": 3.0, "side": "RIGHT", "who": {"name": 1}});
        assert_eq!(faults(schema.clone(), good), [""; 0]);
        let bad = json!({"files": [{"path": "abcd"}, {}, {"path": 1}], "risk": "mid", "line": 1.5, "side": "LEFT", "who": 3});
        assert_eq!(
            faults(schema.clone(), bad),
            [
                "/files: has 3 items, expected at most 2",
                "/files/0/path: has 4 letters, expected at most 3",
                "/files/1/path: is missing",
                "/files/2/path: is number, expected string",
                "/line: is number, expected integer or null",
                "/risk: is \"mid\", expected one of \"low\", \"high\"",
                "/side: is \"LEFT\", expected \"RIGHT\"",
                "/who: fits none of the choices in `anyOf`",
            ]
        );
        assert_eq!(
            faults(schema.clone(), json!({"files": [], "line": 0, "more": 1})),
            [
                "/risk: is missing",
                "/files: has 0 items, expected at least 1",
                "/line: is 0, expected at least 1",
                "/more: is not allowed",
            ]
        );
        assert_eq!(faults(schema, json!("text")), ["/: is string, expected object"]);
    }

    #[test]
    fn a_schema_that_would_not_be_checked_whole_is_refused() {
        let refused = |schema: Value| Schema::new(schema).unwrap_err().to_string();
        assert!(refused(json!({"properties": {"a": {"pattern": "x"}}})).contains("/a: `pattern` is not known here"));
        assert!(refused(json!({"type": "text"})).contains("one or several of object"));
        assert!(refused(json!({"$ref": "#"})).contains("$ref"));
        assert!(refused(json!([])).contains("expected an object"));
        for word in ["required", "minItems", "minimum", "enum", "anyOf", "properties"] {
            assert!(refused(json!({word: "x"})).contains(word));
        }
        let deep = (0..40).fold(json!({}), |inner, _| json!({"items": inner}));
        assert!(refused(deep).contains("levels deep"));
    }

    #[test]
    fn strict_mode_is_for_closed_schemas() {
        let closed = |schema: Value| Schema::new(schema).unwrap().is_closed();
        assert!(closed(json!({"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"],
            "additionalProperties": false})));
        assert!(!closed(json!({"type": "object", "properties": {"a": {}}, "required": ["a"]})));
        assert!(!closed(json!({"type": "object", "properties": {"a": {}}, "additionalProperties": false})));
        assert!(!closed(json!({"type": "array", "items": {"type": "object"}})));
    }
}
