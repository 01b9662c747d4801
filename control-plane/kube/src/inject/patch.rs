//! JSON patches (RFC 6902) of a pod, of the two operations that injection needs.

use serde::Serialize;
use serde_json::{Map, Value, json};

/// One step of a patch.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum Operation {
    /// Puts a value where there is none, at the end of a list (`-`), or in the place of what is there in a map.
    Add { path: String, value: Value },
    /// Puts a value in the place of what is there.
    Replace { path: String, value: Value },
}

/// A token of a path.
pub(super) fn escape(token: &str) -> String {
    token.replace('~', "~0").replace('/', "~1")
}

/// Adds to a list that may not be there yet.
pub(super) fn append(operations: &mut Vec<Operation>, path: &str, present: Option<&Value>, mut values: Vec<Value>) {
    match present {
        _ if values.is_empty() => {}
        Some(Value::Array(_)) => {
            let path = format!("{path}/-");
            operations.extend(values.drain(..).map(|value| Operation::Add { path: path.clone(), value }));
        }
        _ => operations.push(Operation::Add { path: path.to_owned(), value: Value::Array(values) }),
    }
}

/// Sets a text in a map that may not be there yet; nothing where it stands already.
pub(super) fn set(operations: &mut Vec<Operation>, path: &str, present: Option<&Value>, key: &str, text: &str) {
    match present {
        Some(Value::Object(map)) if map.get(key).and_then(Value::as_str) == Some(text) => {}
        Some(Value::Object(_)) => {
            operations.push(Operation::Add { path: format!("{path}/{}", escape(key)), value: text.into() });
        }
        _ => {
            let map = Map::from_iter([(key.to_owned(), json!(text))]);
            operations.push(Operation::Add { path: path.to_owned(), value: map.into() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(mut document: Value, operations: &[Operation]) -> Value {
        let patch: json_patch::Patch = serde_json::from_value(serde_json::to_value(operations).unwrap()).unwrap();
        json_patch::patch(&mut document, &patch).unwrap();
        document
    }

    #[test]
    fn lists_and_maps_are_made_where_there_are_none() {
        for (document, list, map) in [
            (json!({}), json!([1, 2]), json!({"a/b~c": "v"})),
            (json!({"list": null, "map": null}), json!([1, 2]), json!({"a/b~c": "v"})),
            (
                json!({"list": [0], "map": {"a/b~c": "old", "x": "y"}}),
                json!([0, 1, 2]),
                json!({"a/b~c": "v", "x": "y"}),
            ),
        ] {
            let mut operations = Vec::new();
            append(&mut operations, "/list", document.get("list"), vec![json!(1), json!(2)]);
            set(&mut operations, "/map", document.get("map"), "a/b~c", "v");
            let after = applied(document, &operations);
            assert_eq!((&after["list"], &after["map"]), (&list, &map));

            let mut again = Vec::new();
            append(&mut again, "/list", after.get("list"), Vec::new());
            set(&mut again, "/map", after.get("map"), "a/b~c", "v");
            assert_eq!(again, []);
        }
    }
}
