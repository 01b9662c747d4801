//! Checks what we send and what tests take for an answer against providers' own descriptions.

use serde_json::Value;

/// Schemas of a provider's description, by name.
pub(crate) struct Spec(Value);

impl Spec {
    pub(crate) fn open_ai() -> Spec {
        Spec::read(include_str!("../../../tests/data/openai_schemas.json"))
    }

    pub(crate) fn ollama() -> Spec {
        Spec::read(include_str!("../../../tests/data/ollama_schemas.json"))
    }

    fn read(text: &str) -> Spec {
        Spec(serde_json::from_str(text).unwrap())
    }

    /// What is wrong with a value; members that are not described are faults, but for those in `besides`.
    pub(crate) fn faults(&self, schema: &str, value: &Value, besides: &[&str]) -> Vec<String> {
        let mut faults = Vec::new();
        self.check(&self.0["schemas"][schema], value, schema, besides, &mut faults);
        faults
    }

    fn check(&self, schema: &Value, value: &Value, at: &str, besides: &[&str], faults: &mut Vec<String>) {
        assert!(schema.is_object(), "no schema for {at}");
        if value.is_null() && schema["nullable"] == true {
            return;
        }
        if let Some(name) = schema["$ref"].as_str() {
            return self.check(&self.0["schemas"][name], value, at, besides, faults);
        }
        for word in ["oneOf", "anyOf"] {
            let Some(choices) = schema[word].as_array() else { continue };
            let tries = choices.iter().map(|choice| {
                let mut faults = Vec::new();
                self.check(choice, value, at, besides, &mut faults);
                faults
            });
            let tries: Vec<_> = tries.collect();
            if !tries.iter().any(Vec::is_empty) {
                let least = tries.into_iter().min_by_key(Vec::len).unwrap_or_default();
                faults.push(format!("{at} fits none of {word}: {}", least.join(", ")));
            }
        }
        let kinds: Vec<&str> = match &schema["type"] {
            Value::String(kind) => vec![kind],
            Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
            _ => vec![],
        };
        let is = |kind: &str| match kind {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "integer" => value.is_i64() || value.is_u64(),
            "number" => value.is_number(),
            "boolean" => value.is_boolean(),
            _ => value.is_null(),
        };
        if !kinds.is_empty() && !kinds.iter().any(|kind| is(kind)) {
            faults.push(format!("{at} is no {}", kinds.join(" or ")));
        }
        if let Some(values) = schema["enum"].as_array()
            && !values.contains(value)
        {
            faults.push(format!("{at} is {value}"));
        }
        for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if value.is_object() && value.get(name).is_none() {
                faults.push(format!("{at}/{name} is missing"));
            }
        }
        for (index, item) in value.as_array().into_iter().flatten().enumerate() {
            if schema["items"].is_object() {
                self.check(&schema["items"], item, &format!("{at}/{index}"), besides, faults);
            }
        }
        // Of a schema in parts each part knows its own members.
        for part in schema["allOf"].as_array().into_iter().flatten() {
            let known = self.members(schema);
            let besides: Vec<&str> = known.iter().map(String::as_str).chain(besides.iter().copied()).collect();
            self.check(part, value, at, &besides, faults);
        }
        if let Some(described) = schema["properties"].as_object() {
            for (name, member) in value.as_object().into_iter().flatten() {
                match described.get(name) {
                    Some(schema) => self.check(schema, member, &format!("{at}/{name}"), besides, faults),
                    None if besides.contains(&name.as_str()) || !schema["additionalProperties"].is_null() => {}
                    None => faults.push(format!("{at}/{name} is not described")),
                }
            }
        }
    }

    /// The members of a schema and of its parts.
    fn members(&self, schema: &Value) -> Vec<String> {
        if let Some(name) = schema["$ref"].as_str() {
            return self.members(&self.0["schemas"][name]);
        }
        let own = schema["properties"].as_object().into_iter().flatten().map(|(name, _)| name.clone());
        let parts = schema["allOf"].as_array().into_iter().flatten().flat_map(|part| self.members(part));
        own.chain(parts).collect()
    }
}
