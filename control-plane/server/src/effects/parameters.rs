//! Parameters of an intent, read member by member, so that what is wrong is named with what is accepted.

use serde_json::{Map, Value};

/// What is wrong with an intent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct Invalid {
    pub field: String,
    pub reason: String,
}

impl Invalid {
    pub(super) fn new(field: impl Into<String>, reason: impl Into<String>) -> Invalid {
        Invalid { field: field.into(), reason: reason.into() }
    }
}

/// The members that were not read yet.
#[derive(Debug)]
pub(super) struct Fields {
    at: String,
    left: Map<String, Value>,
}

impl Fields {
    /// The members of an object that stands `at` some place; empty for the parameters themselves.
    pub(super) fn of(value: Value, at: &str) -> Result<Fields, Invalid> {
        match value {
            Value::Object(left) => Ok(Fields { at: at.to_owned(), left }),
            _ => Err(Invalid::new(if at.is_empty() { "parameters" } else { at }, "expected a JSON object")),
        }
    }

    fn name(&self, name: &str) -> String {
        if self.at.is_empty() { name.to_owned() } else { format!("{}.{name}", self.at) }
    }

    /// What is wrong with a member.
    pub(super) fn wrong(&self, name: &str, reason: impl Into<String>) -> Invalid {
        Invalid::new(self.name(name), reason)
    }

    fn take(&mut self, name: &str) -> Option<Value> {
        self.left.remove(name).filter(|value| !value.is_null())
    }

    /// A text of at most so many bytes.
    pub(super) fn text(&mut self, name: &str, max: usize) -> Result<Option<String>, Invalid> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) if text.len() <= max => Ok(Some(text)),
            Some(Value::String(text)) => {
                Err(self.wrong(name, format!("has {} bytes: expected at most {max}", text.len())))
            }
            Some(_) => Err(self.wrong(name, "expected a text")),
        }
    }

    /// A text that has to be there.
    pub(super) fn needed(&mut self, name: &str, max: usize) -> Result<String, Invalid> {
        let text = self.text(name, max)?.filter(|text| !text.trim().is_empty());
        text.ok_or_else(|| self.wrong(name, "is missing or empty: expected a text"))
    }

    /// One of some words.
    pub(super) fn word(&mut self, name: &str, accepted: &[&'static str]) -> Result<Option<&'static str>, Invalid> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let found = value.as_str().and_then(|text| accepted.iter().find(|word| **word == text));
        found
            .map(|word| Some(*word))
            .ok_or_else(|| self.wrong(name, format!("expected one of {}", accepted.join(", "))))
    }

    /// A yes or no.
    pub(super) fn boolean(&mut self, name: &str, unset: bool) -> Result<bool, Invalid> {
        match self.take(name) {
            None => Ok(unset),
            Some(Value::Bool(so)) => Ok(so),
            Some(_) => Err(self.wrong(name, "expected true or false")),
        }
    }

    /// A number from 1; one that was written as a text is taken too.
    pub(super) fn number(&mut self, name: &str) -> Result<Option<u64>, Invalid> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let number = match &value {
            Value::Number(number) => number.as_u64(),
            Value::String(text) => text.parse().ok(),
            _ => None,
        };
        let number = number.filter(|number| (1..=i64::MAX as u64).contains(number));
        number.map(Some).ok_or_else(|| self.wrong(name, "expected a whole number from 1"))
    }

    /// A list of at most so many; empty when it is not there.
    pub(super) fn list(&mut self, name: &str, max: usize) -> Result<Vec<Value>, Invalid> {
        match self.take(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(items)) if items.len() <= max => Ok(items),
            Some(Value::Array(items)) => Err(self.wrong(name, format!("has {}: expected at most {max}", items.len()))),
            Some(_) => Err(self.wrong(name, "expected a list")),
        }
    }

    /// A list of objects.
    pub(super) fn objects(&mut self, name: &str, max: usize) -> Result<Vec<Fields>, Invalid> {
        let items = self.list(name, max)?;
        let name = self.name(name);
        items.into_iter().enumerate().map(|(at, item)| Fields::of(item, &format!("{name}[{at}]"))).collect()
    }

    /// A list of texts of at most so many bytes each, none of them empty.
    pub(super) fn texts(&mut self, name: &str, max: usize, bytes_max: usize) -> Result<Vec<String>, Invalid> {
        let items = self.list(name, max)?;
        let text = |(at, item): (usize, Value)| match item {
            Value::String(text) if !text.trim().is_empty() && text.len() <= bytes_max => Ok(text),
            _ => Err(self.wrong(&format!("{name}[{at}]"), format!("expected a text of 1 to {bytes_max} bytes"))),
        };
        items.into_iter().enumerate().map(text).collect()
    }

    /// An object.
    pub(super) fn object(&mut self, name: &str) -> Result<Option<Fields>, Invalid> {
        let at = self.name(name);
        self.take(name).map(|value| Fields::of(value, &at)).transpose()
    }

    /// Nothing else may be there.
    pub(super) fn end(self, accepted: &str) -> Result<(), Invalid> {
        match self.left.keys().next() {
            None => Ok(()),
            Some(name) => Err(self.wrong(&super::rest::clean(name, 64), format!("is not known: expected {accepted}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        let mut fields = Fields::of(json!({ "n": "7", "list": [{ "b": 1 }], "t": "long", "w": "x" }), "").unwrap();
        assert_eq!(fields.number("n"), Ok(Some(7)));
        let mut inner = fields.objects("list", 2).unwrap().remove(0);
        assert_eq!(inner.boolean("b", false).unwrap_err().to_string(), "list[0].b: expected true or false");
        assert_eq!(fields.text("t", 3).unwrap_err().to_string(), "t: has 4 bytes: expected at most 3");
        assert_eq!(fields.word("w", &["a", "b"]).unwrap_err().to_string(), "w: expected one of a, b");
        assert_eq!(fields.needed("gone", 3).unwrap_err().field, "gone");
        let fields = Fields::of(json!({ "other": 1 }), "").unwrap();
        assert_eq!(fields.end("body").unwrap_err().to_string(), "other: is not known: expected body");
        assert_eq!(Fields::of(json!([]), "").unwrap_err().to_string(), "parameters: expected a JSON object");
    }
}
