//! The JSON Schema of a routes file, for editors.

use std::collections::BTreeMap;

use prost_reflect::{Kind, MessageDescriptor};
use serde_json::{Map, Value, json};

use super::{is_span, table, words};

/// The definition, for what its comments say.
const DEFINITION: &str = include_str!("../../../../../proto/mindos/route/v1/route.proto");

/// The schema (JSON Schema, draft 7).
#[must_use]
pub fn schema() -> Value {
    let comments = comments();
    let mut schema = message(&table(), &comments);
    schema["$schema"] = json!("http://json-schema.org/draft-07/schema#");
    schema["title"] = json!("Routes of Mind OS");
    schema
}

fn message(of: &MessageDescriptor, comments: &BTreeMap<(String, String), String>) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for field in of.fields() {
        let mut value = match field.kind() {
            _ if field.is_map() => json!({ "type": "object", "additionalProperties": { "type": "string" } }),
            _ if is_span(&field) => json!({ "type": "string", "pattern": "^[0-9]+(\\.[0-9]+)?(ms|s|m|h|d)$" }),
            Kind::Message(of) => message(&of, comments),
            Kind::Enum(of) => json!({ "enum": words(&of).into_iter().map(|(word, _)| word).collect::<Vec<_>>() }),
            Kind::Bool => json!({ "type": "boolean" }),
            Kind::String => json!({ "type": "string" }),
            Kind::Double | Kind::Float => json!({ "type": "number" }),
            _ => json!({ "type": "integer", "minimum": 0 }),
        };
        if field.is_list() {
            value = json!({ "type": "array", "items": value });
        }
        let comment = comments.get(&(of.name().to_owned(), field.name().to_owned()));
        if let Some(comment) = comment {
            value["description"] = json!(comment);
        }
        if matches!((of.name(), field.name()), ("RouteTable", "routes") | ("Route", "name" | "strategy")) {
            required.push(field.name().to_owned());
        }
        properties.insert(field.name().to_owned(), value);
    }
    let mut schema = json!({ "type": "object", "properties": properties, "additionalProperties": false });
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

/// What stands above each field, by message and field.
fn comments() -> BTreeMap<(String, String), String> {
    let mut comments = BTreeMap::new();
    let (mut message, mut comment) = (String::new(), Vec::new());
    for line in DEFINITION.lines() {
        let line = line.trim();
        if let Some(text) = line.strip_prefix("//") {
            comment.push(text.trim());
            continue;
        }
        if let Some(name) = line.strip_prefix("message ") {
            message = name.trim_end_matches(['{', ' ']).to_owned();
        } else if let Some((declared, _)) = line.split_once('=')
            && let Some(name) = declared.split_whitespace().last()
        {
            comments.insert((message.clone(), name.to_owned()), comment.join(" "));
        }
        comment.clear();
    }
    comments
}
