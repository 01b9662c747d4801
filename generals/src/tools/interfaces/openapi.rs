//! Operations, parameters and fields that a document of OpenAPI describes.

use serde_json::{Map, Value};

use super::Items;
use super::reader::add;

/// Longest document that is read, in bytes.
const TEXT_MAX: usize = 1 << 20;
const METHODS: [&str; 8] = ["get", "put", "post", "delete", "options", "head", "patch", "trace"];
/// Deepest schema that is looked into.
const DEPTH_MAX: usize = 12;

/// Whether a text describes an interface: it says so in its first lines or members.
pub(super) fn is_described(text: &str) -> bool {
    let head = crate::change::log::clip(text, 4096);
    head.lines().take(40).any(|line| {
        let line = line.trim_start_matches(['{', ' ', '\t', '"']);
        line.starts_with("openapi: ") || line.starts_with("swagger: ") || line.starts_with("openapi\":") || line.starts_with("swagger\":")
    }) || head.starts_with("{\"openapi\":")
}

pub(super) fn items(text: &str) -> Items {
    let mut items = Items::new();
    if text.len() > TEXT_MAX {
        return items;
    }
    let document: Option<Value> = match text.trim_start().starts_with('{') {
        true => serde_json::from_str(text).ok(),
        false => serde_norway::from_str(text).ok(),
    };
    let Some(document) = document else { return items };
    let line = |key: &str| {
        let fits = |line: &str| line.trim_start().trim_start_matches(['"', '\'', '-', ' ']).starts_with(key);
        text.lines().position(fits).unwrap_or(0)
    };
    for (path, operations) in members(&document, "/paths") {
        for (method, operation) in operations.as_object().into_iter().flatten() {
            if !METHODS.contains(&method.as_str()) {
                continue;
            }
            let name = format!("{} {path}", method.to_uppercase());
            add(&mut items, name.clone(), "operation".to_owned(), line(path));
            let shared = operations.get("parameters").and_then(Value::as_array).into_iter().flatten();
            let own = operation.get("parameters").and_then(Value::as_array).into_iter().flatten();
            for parameter in shared.chain(own) {
                let text = |member: &str| parameter.get(member).and_then(Value::as_str).unwrap_or_default();
                let required = parameter.get("required").and_then(Value::as_bool).unwrap_or(false);
                let word = if required { "required" } else { "optional" };
                if !text("name").is_empty() {
                    let kind = kind(parameter.get("schema").unwrap_or(parameter));
                    let signature = format!("{word} in {} of type {kind}", text("in"));
                    add(&mut items, format!("{name} parameter {}", text("name")), signature, line(path));
                }
            }
            for (status, _) in members(operation, "/responses") {
                add(&mut items, format!("{name} answer {status}"), "answer".to_owned(), line(path));
            }
        }
    }
    for place in ["/components/schemas", "/definitions"] {
        for (name, described) in members(&document, place) {
            add(&mut items, name.clone(), kind(described), line(name));
            fields(name, described, &line, &mut items, 0);
        }
    }
    items
}

fn fields(owner: &str, described: &Value, line: &dyn Fn(&str) -> usize, items: &mut Items, depth: usize) {
    if depth > DEPTH_MAX {
        return;
    }
    let required: Vec<&str> =
        described.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    for (name, field) in members(described, "/properties") {
        let word = if required.contains(&name.as_str()) { "required" } else { "optional" };
        let own = format!("{owner}.{name}");
        add(items, own.clone(), format!("{word} {}", kind(field)), line(name));
        fields(&own, field, line, items, depth + 1);
        if let Some(each) = field.get("items") {
            fields(&own, each, line, items, depth + 1);
        }
    }
    for part in described.get("allOf").and_then(Value::as_array).into_iter().flatten() {
        fields(owner, part, line, items, depth + 1);
    }
}

fn kind(described: &Value) -> String {
    if let Some(to) = described.get("$ref").and_then(Value::as_str) {
        return to.rsplit('/').next().unwrap_or(to).to_owned();
    }
    let name = match described.get("type") {
        Some(Value::String(name)) => name.clone(),
        Some(other) => other.to_string(),
        None => "any".to_owned(),
    };
    let values = described.get("enum").and_then(Value::as_array).map(|values| {
        let listed: Vec<String> = values.iter().map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned)).collect();
        format!(" of {}", listed.join(", "))
    });
    let each = described.get("items").map(|each| format!(" of {}", kind_at(each)));
    format!("{name}{}{}", values.unwrap_or_default(), each.unwrap_or_default())
}

/// The type of an item, without what is within it.
fn kind_at(described: &Value) -> String {
    let to = described.get("$ref").and_then(Value::as_str).map(|to| to.rsplit('/').next().unwrap_or(to));
    to.or_else(|| described.get("type").and_then(Value::as_str)).unwrap_or("any").to_owned()
}

fn members<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    static NONE: std::sync::LazyLock<Map<String, Value>> = std::sync::LazyLock::new(Map::new);
    value.pointer(pointer).and_then(Value::as_object).unwrap_or(&NONE).iter()
}
