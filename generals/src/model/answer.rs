//! The JSON in what a model said: models put fences and words around it however they are asked not to.

use serde_json::Value;


use super::{Message, Said, Schema};

/// Letters of a faulty answer that are shown to the model again.
const SHOWN_MAX: usize = 16 * 1024;

/// The value in a text, checked.
pub(crate) fn json(text: &str, schema: &Schema) -> Result<Value, Vec<String>> {
    let value = first(text).ok_or_else(|| vec!["the answer holds no JSON value".to_owned()])?;
    match schema.check(&value) {
        Ok(()) => Ok(value),
        Err(faults) => {
            // Where only an object could be asked for, what is none came as its one member.
            let inner = value.as_object().filter(|members| members.len() == 1).and_then(|members| members.get("answer"));
            match inner.filter(|inner| schema.check(inner).is_ok()) {
                Some(inner) => Ok(inner.clone()),
                None => Err(faults),
            }
        }
    }
}

/// The whole text, or the first object or list that stands in it.
fn first(text: &str) -> Option<Value> {
    if let Ok(value) = serde_json::from_str(text.trim()) {
        return Some(value);
    }
    // A text of braces alone must not cost its square.
    text.match_indices(['{', '[']).take(64).find_map(|(at, _)| {
        serde_json::Deserializer::from_str(&text[at..]).into_iter::<Value>().next().and_then(Result::ok)
    })
}

/// The turns that ask for the answer again.
pub(crate) fn repair(said: &Said, faults: &[String]) -> [Message; 2] {
    let shown: String = said.text.chars().take(SHOWN_MAX).collect();
    let shown = if shown.trim().is_empty() { "(nothing)".to_owned() } else { shown };
    let wrong = faults.join("\n- ");
    [
        Message::Assistant { text: shown, calls: Vec::new() },
        Message::User(format!(
            "That is not the JSON that was asked for:\n- {wrong}\nGive the whole answer again, with these faults mended, as JSON alone."
        )),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn json_is_found_among_words() {
        let schema = Schema::new(json!({"type": "object", "required": ["a"]})).unwrap();
        for text in [
            "{\"a\": 1}",
            "\n ```json\n{\"a\": 1}\n```\n",
            "Here it is: {\"a\": 1} I hope {it} helps.",
            "As [asked]: {\"a\": 1}",
        ] {
            assert_eq!(json(text, &schema).unwrap(), json!({"a": 1}), "{text}");
        }
        assert_eq!(json("no", &schema).unwrap_err(), ["the answer holds no JSON value"]);
        assert_eq!(json("{\"b\": 1}", &schema).unwrap_err(), ["/a: is missing"]);
        assert_eq!(json(&"[".repeat(100_000), &schema).unwrap_err(), ["the answer holds no JSON value"]);
        let list = Schema::new(json!({"type": "array"})).unwrap();
        assert_eq!(json("{\"answer\": [1]}", &list).unwrap(), json!([1]));
    }
}
