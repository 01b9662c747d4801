//! Whether a body is what GitHub's own description says, as far as that describes shapes: types, required members, what may be null.

use serde_json::Value;

const DESCRIPTION: &str = include_str!("../../../../../tests/data/github-openapi/app-hook-deliveries.json");

/// Panics where the answer with this status is not described, or is described otherwise.
pub(super) fn check(path: &str, method: &str, status: u16, body: &Value) {
    let description: Value = serde_json::from_str(DESCRIPTION).unwrap();
    let answer = &description[path][method]["responses"][status.to_string()];
    // That there is no such delivery is described with no status of its own: a basic error, as everywhere.
    let schema = if answer.is_null() && status == 404 { &BASIC } else { &answer["schema"] };
    assert!(schema.is_object(), "{method} {path} is not described with {status}");
    if let Err(wrong) = fits(schema, body, "body") {
        panic!("{method} {path}, {status}: {wrong}: {body}");
    }
}

static BASIC: std::sync::LazyLock<Value> = std::sync::LazyLock::new(|| {
    serde_json::json!({"type": "object", "properties": {"message": {"type": "string"}, "documentation_url": {"type": "string"},
        "url": {"type": "string"}, "status": {"type": "string"}}})
});

pub(super) fn fits(schema: &Value, value: &Value, at: &str) -> Result<(), String> {
    if value.is_null() && schema["nullable"] == true {
        return Ok(());
    }
    let is_it = match schema["type"].as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("integer") => value.is_u64() || value.is_i64(),
        Some("number") => value.is_number(),
        Some("boolean") => value.is_boolean(),
        other => return Err(format!("{at} is described as {other:?}, which is not understood here")),
    };
    if !is_it {
        return Err(format!("{at} is no {}: {value}", schema["type"]));
    }
    if schema["format"] == "date-time"
        && value.as_str().is_some_and(|text| text.parse::<mindos_model::Timestamp>().is_err())
    {
        return Err(format!("{at} is no time: {value}"));
    }
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if value.get(name).is_none() {
            return Err(format!("{at}.{name} is missing"));
        }
    }
    let known = schema["properties"].as_object();
    for (name, member) in value.as_object().into_iter().flatten() {
        match known.and_then(|known| known.get(name)) {
            Some(schema) => fits(schema, member, &format!("{at}.{name}"))?,
            // Where members are listed, one that is not is an invention of the stub.
            None if known.is_some() && schema["additionalProperties"] != true => {
                return Err(format!("{at}.{name} is not described"));
            }
            None => {}
        }
    }
    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
        fits(&schema["items"], item, &format!("{at}[{index}]"))?;
    }
    Ok(())
}
