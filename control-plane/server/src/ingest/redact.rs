//! Redaction at the door: parts of events that are never to be stored are replaced before anything else sees them.
//!
//! ```yaml
//! redact:
//!   - {source: "https://github.com/*", type: "com.github.*", pointers: ["/sender/email", "/commits/*/author/email"]}
//!   - {attributes: [actor]}
//! ```
//! What stood there is replaced by `[redacted]`, and the event's extension `redacted` lists the pointers that were found. Conditions,
//! agents and the ledger see the event as it is afterwards. Data that cannot be looked into (no JSON, too deep, in a blob, or too large to stand in
//! the event) are replaced whole where a rule has pointers. Invariant: what a rule names is in no byte that is stored.

use std::sync::{Arc, LazyLock};

use arc_swap::ArcSwap;
use mindos_core::route::Pattern;
use mindos_proto::cloudevents::v1::CloudEvent;
use mindos_proto::cloudevents::v1::cloud_event::cloud_event_attribute_value::Attr;
use mindos_proto::cloudevents::v1::cloud_event::{CloudEventAttributeValue, Data};
use prost::Message;
use serde::Deserialize;
use serde_json::Value;

/// Rules at a time, and what one may name.
const RULES_MAX: usize = 100;
const NAMES_MAX: usize = 100;
/// Parts of a pointer.
const DEPTH_MAX: usize = 32;
/// What stands in the place of what was taken out.
pub const REDACTED: &str = "[redacted]";
/// The extension that lists what was taken out.
pub const EXTENSION: &str = "redacted";
/// What is listed where data were replaced whole, and where they were in a blob.
const DATA: &str = "data";
const DATAREF: &str = "dataref";
/// The longest list in that extension, in bytes.
const LIST_MAX: usize = 1024;
/// Attributes that the plane needs as they are.
const NEEDED: &[&str] = &[
    "id",
    "source",
    "type",
    "specversion",
    "time",
    "subject",
    "datacontenttype",
    "dataschema",
    "dataref",
    "lane",
    "kind",
    "repository",
    "priority",
    EXTENSION,
];

/// A rule as the settings file has it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedactSetting {
    source: Option<String>,
    r#type: Option<String>,
    #[serde(default)]
    pointers: Vec<String>,
    #[serde(default)]
    attributes: Vec<String>,
}

/// All rules.
#[derive(Debug, Default)]
pub struct Rules(Vec<Rule>);

#[derive(Debug)]
struct Rule {
    source: Option<Pattern>,
    ty: Option<Pattern>,
    pointers: Vec<(String, Vec<String>)>,
    attributes: Vec<String>,
}

static IN_FORCE: LazyLock<ArcSwap<Rules>> = LazyLock::new(ArcSwap::default);

/// From here on these rules are in force.
pub fn set_rules(rules: &Arc<Rules>) {
    IN_FORCE.store(Arc::clone(rules));
}

/// What is to be stored of an encoded event under the rules in force; `None` where it is stored as it is.
pub(super) fn redacted(encoded: &[u8], source: &str, ty: &str) -> Option<Vec<u8>> {
    let rules = IN_FORCE.load();
    if rules.0.is_empty() { None } else { rules.apply(encoded, source, ty) }
}

/// Whether data that are too large to stand in an event are to be replaced whole: nothing of them may go into a blob.
pub(crate) fn covers(source: &str, ty: &str) -> bool {
    IN_FORCE.load().0.iter().any(|rule| !rule.pointers.is_empty() && rule.matches(source, ty))
}

/// What stands for data of which nothing is kept: a JSON text.
pub(crate) fn whole() -> String {
    Value::from(REDACTED).to_string()
}

fn has_data(event: &CloudEvent) -> bool {
    match &event.data {
        Some(Data::BinaryData(bytes)) => !bytes.is_empty(),
        Some(Data::TextData(text)) => !text.is_empty(),
        Some(Data::ProtoData(_)) => true,
        None => false,
    }
}

impl Rules {
    /// Checks what the settings file says.
    ///
    /// # Errors
    /// Names the field and what is accepted.
    pub fn new(settings: &[RedactSetting]) -> Result<Rules, String> {
        if settings.len() > RULES_MAX {
            return Err(format!("`redact` has {} rules: at most {RULES_MAX} are taken", settings.len()));
        }
        let rule = |(at, setting): (usize, &RedactSetting)| {
            Rule::new(setting).map_err(|error| format!("`redact[{at}]{error}"))
        };
        settings.iter().enumerate().map(rule).collect::<Result<_, _>>().map(Rules)
    }

    fn apply(&self, encoded: &[u8], source: &str, ty: &str) -> Option<Vec<u8>> {
        let rules: Vec<&Rule> = self.0.iter().filter(|rule| rule.matches(source, ty)).collect();
        if rules.is_empty() {
            return None;
        }
        let mut event = CloudEvent::decode(encoded).ok()?;
        let mut found = Vec::new();
        for name in rules.iter().flat_map(|rule| &rule.attributes) {
            if let Some(attribute) = event.attributes.get_mut(name) {
                *attribute = text(REDACTED);
                found.push(name.as_str());
            }
        }
        let mut data = match &event.data {
            Some(Data::BinaryData(bytes)) => serde_json::from_slice::<Value>(bytes).ok(),
            Some(Data::TextData(text)) => serde_json::from_str(text).ok(),
            Some(Data::ProtoData(_)) | None => None,
        };
        let has_pointers = rules.iter().any(|rule| !rule.pointers.is_empty());
        if has_pointers && event.attributes.remove(DATAREF).is_some() {
            event.data = Some(Data::TextData(whole()));
            found.push(DATAREF);
        } else if let Some(value) = &mut data {
            let before = found.len();
            for (pointer, parts) in rules.iter().flat_map(|rule| &rule.pointers) {
                if replace(value, parts) {
                    found.push(pointer);
                }
            }
            if found.len() > before {
                let json = value.to_string();
                event.data = Some(match event.data {
                    Some(Data::TextData(_)) => Data::TextData(json),
                    _ => Data::BinaryData(json.into_bytes().into()),
                });
            }
        } else if has_pointers && has_data(&event) {
            event.data = Some(Data::TextData(whole()));
            found.push(DATA);
        }
        if found.is_empty() {
            return None;
        }
        let mut list = String::new();
        for name in found {
            if list.len() + name.len() + 1 > LIST_MAX {
                list.push_str(" ..");
                break;
            }
            if !list.is_empty() {
                list.push(' ');
            }
            list.push_str(name);
        }
        event.attributes.insert(EXTENSION.to_owned(), text(&list));
        Some(event.encode_to_vec())
    }
}

fn text(text: &str) -> CloudEventAttributeValue {
    CloudEventAttributeValue { attr: Some(Attr::CeString(text.to_owned())) }
}

impl Rule {
    fn new(setting: &RedactSetting) -> Result<Rule, String> {
        let RedactSetting { source, r#type, pointers, attributes } = setting;
        let pattern = |name: &str, text: &Option<String>| {
            text.as_deref().map(Pattern::new).transpose().map_err(|error| format!(".{name}`: {error}"))
        };
        if pointers.is_empty() && attributes.is_empty() {
            return Err("`: names nothing: expected `pointers` or `attributes`".to_owned());
        }
        if pointers.len() + attributes.len() > NAMES_MAX {
            return Err(format!("`: names more than {NAMES_MAX} parts"));
        }
        if let Some(needed) = attributes.iter().find(|name| NEEDED.contains(&name.as_str())) {
            return Err(format!(".attributes`: `{needed}` is needed as it is: expected `actor` or another extension"));
        }
        let pointer = |text: &String| {
            let parts = parts(text).ok_or_else(|| {
                format!(
                    ".pointers`: `{text}` is no JSON pointer: expected `/a/b` of at most {DEPTH_MAX} parts, `*` for any"
                )
            })?;
            Ok((text.clone(), parts))
        };
        Ok(Rule {
            source: pattern("source", source)?,
            ty: pattern("type", r#type)?,
            pointers: pointers.iter().map(pointer).collect::<Result<_, String>>()?,
            attributes: attributes.clone(),
        })
    }

    fn matches(&self, source: &str, ty: &str) -> bool {
        let holds = |pattern: &Option<Pattern>, text| pattern.as_ref().is_none_or(|pattern| pattern.fits(text));
        holds(&self.source, source) && holds(&self.ty, ty)
    }
}

/// The parts of a JSON pointer.
fn parts(pointer: &str) -> Option<Vec<String>> {
    if pointer.is_empty() {
        return Some(Vec::new());
    }
    let parts: Vec<String> =
        pointer.strip_prefix('/')?.split('/').map(|part| part.replace("~1", "/").replace("~0", "~")).collect();
    (parts.len() <= DEPTH_MAX && pointer.len() <= LIST_MAX / 2).then_some(parts)
}

/// Replaces what the parts lead to; whether that is anything.
fn replace(value: &mut Value, parts: &[String]) -> bool {
    let Some((first, rest)) = parts.split_first() else {
        *value = Value::from(REDACTED);
        return true;
    };
    let any = first == "*";
    match value {
        // Every one of them, so nothing that stops at the first.
        Value::Array(items) if any => items.iter_mut().filter_map(|item| replace(item, rest).then_some(())).count() > 0,
        Value::Object(members) if any => {
            members.values_mut().filter_map(|item| replace(item, rest).then_some(())).count() > 0
        }
        Value::Array(items) => {
            let item = first.parse::<usize>().ok().and_then(|at| items.get_mut(at));
            item.is_some_and(|item| replace(item, rest))
        }
        Value::Object(members) => members.get_mut(first).is_some_and(|item| replace(item, rest)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(yaml: &str) -> Result<Rules, String> {
        Rules::new(&serde_norway::from_str::<Vec<RedactSetting>>(yaml).unwrap())
    }

    fn event(data: &str) -> CloudEvent {
        let attributes = [("actor".to_owned(), text("alice"))].into();
        let data = Some(Data::BinaryData(data.as_bytes().to_vec().into()));
        CloudEvent {
            id: "1".to_owned(),
            source: "/shop".to_owned(),
            spec_version: "1.0".to_owned(),
            r#type: "order.placed".to_owned(),
            attributes,
            data,
        }
    }

    fn applied(yaml: &str, data: &str) -> Option<CloudEvent> {
        let encoded = event(data).encode_to_vec();
        let redacted = rules(yaml).unwrap().apply(&encoded, "/shop", "order.placed")?;
        Some(CloudEvent::decode(&*redacted).unwrap())
    }

    #[test]
    fn what_a_rule_names_is_replaced_and_listed() {
        let data = r#"{"mail":"a@example.com","items":[{"by":"Alice"},{"by":"Alice","n":1}],"n":2}"#;
        let yaml = r#"[{source: "/shop*", type: "order.*", pointers: ["/mail", "/items/*/by", "/none"], attributes: [actor]}]"#;
        let event = applied(yaml, data).unwrap();
        let Some(Data::BinaryData(bytes)) = &event.data else { panic!("the data stay as they came") };
        let value: Value = serde_json::from_slice(bytes).unwrap();
        assert_eq!(value["mail"], REDACTED);
        assert_eq!(value["items"][1], serde_json::json!({"by": REDACTED, "n": 1}));
        assert_eq!(value["n"], 2);
        assert_eq!(event.attributes["actor"], text(REDACTED));
        assert_eq!(event.attributes[EXTENSION], text("actor /mail /items/*/by"));
        let encoded = event.encode_to_vec();
        assert!(!String::from_utf8_lossy(&encoded).to_lowercase().contains("alice"));
    }

    #[test]
    fn what_no_rule_names_stays_as_it_came() {
        assert!(applied(r#"[{source: "/other", pointers: ["/mail"]}]"#, r#"{"mail":1}"#).is_none());
        assert!(applied(r#"[{pointers: ["/mail"]}]"#, r#"{"post":1}"#).is_none());
        assert!(applied(r#"[{pointers: [""]}]"#, r#"{"mail":1}"#).is_some());
    }

    #[test]
    fn data_that_cannot_be_looked_into_are_replaced_whole() {
        let deep = format!("{}{{\"mail\":\"alice\"}}{}", "[".repeat(200), "]".repeat(200));
        for data in ["no json: alice", &deep] {
            let event = applied(r#"[{pointers: ["/mail"]}]"#, data).unwrap();
            assert_eq!((event.data, &event.attributes[EXTENSION]), (Some(Data::TextData(whole())), &text("data")));
        }
        // Attributes alone say nothing of data.
        assert!(applied(r#"[{attributes: [none]}]"#, "no json").is_none());
        let mut event = event("");
        event.attributes.insert(DATAREF.to_owned(), text("blob:sha256:00"));
        event.data = None;
        let rules = rules(r#"[{pointers: ["/mail"]}]"#).unwrap();
        let redacted = rules.apply(&event.encode_to_vec(), "/shop", "order.placed").unwrap();
        let redacted = CloudEvent::decode(&*redacted).unwrap();
        assert!(!redacted.attributes.contains_key(DATAREF));
        assert_eq!(redacted.data, Some(Data::TextData(whole())));
    }

    #[test]
    fn a_bad_rule_is_named_with_what_is_accepted() {
        for (yaml, word) in [
            ("[{}]", "names nothing"),
            ("[{pointers: [mail]}]", "JSON pointer"),
            ("[{attributes: [lane]}]", "`lane` is needed"),
        ] {
            let error = rules(yaml).unwrap_err();
            assert!(error.starts_with("`redact[0]") && error.contains(word), "{error}");
        }
    }
}
