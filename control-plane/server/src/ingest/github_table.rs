//! The two tables behind the GitHub normaliser, read from data: how an event becomes a CloudEvent (`github_adapter.json`)
//! and which word of the stock routing table it is (`github_kinds.json`).
//!
//! Invariant: both files are compiled in and parse; the tests of this module hold that.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;
use serde_json::Value;

/// How one GitHub event becomes a CloudEvent.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Adapter {
    pub(super) event: String,
    #[serde(rename = "type")]
    pub(super) name: String,
    pub(super) suffix: Vec<String>,
    pub(super) source: Vec<String>,
    pub(super) subject: Vec<String>,
    pub(super) time: Vec<String>,
    #[serde(default)]
    pub(super) time_of_action: BTreeMap<String, Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
struct Adapters {
    events: Vec<Adapter>,
}

#[derive(Debug, Deserialize)]
struct KindRule {
    event: String,
    #[serde(default)]
    actions: Vec<String>,
    #[serde(default, rename = "where")]
    conditions: BTreeMap<String, Vec<Value>>,
    kind: String,
}

#[derive(Debug, Default, Deserialize)]
struct Kinds {
    rules: Vec<KindRule>,
    unrouted: Vec<String>,
}

static ADAPTERS: LazyLock<BTreeMap<String, Adapter>> = LazyLock::new(|| {
    let Adapters { events } = serde_json::from_str(include_str!("github_adapter.json")).unwrap_or_default();
    events.into_iter().map(|adapter| (adapter.event.clone(), adapter)).collect()
});

static KINDS: LazyLock<Kinds> =
    LazyLock::new(|| serde_json::from_str(include_str!("github_kinds.json")).unwrap_or_default());

/// The adapter's row for `event`; one in its manner where the adapter has none.
pub(super) fn adapter(event: &str) -> Adapter {
    ADAPTERS.get(event).cloned().unwrap_or_else(|| Adapter {
        event: event.to_owned(),
        name: event.to_owned(),
        suffix: vec!["action".to_owned()],
        source: vec!["{repository.url}".to_owned()],
        subject: vec![format!("{event}.number"), format!("{event}.id"), "number".to_owned(), "ref".to_owned()],
        time: vec![format!("{event}.updated_at")],
        time_of_action: BTreeMap::new(),
    })
}

/// The stock table's word for a payload, if it has one.
pub(super) fn kind(event: &str, payload: &Value) -> Option<&'static str> {
    let action = at(payload, "action").and_then(Value::as_str);
    let fits = |rule: &&KindRule| {
        rule.event == event
            && (rule.actions.is_empty() || action.is_some_and(|action| rule.actions.iter().any(|one| one == action)))
            && rule.conditions.iter().all(|(path, accepted)| at(payload, path).is_some_and(|it| accepted.contains(it)))
    };
    KINDS.rules.iter().find(fits).map(|rule| rule.kind.as_str())
}

/// Whether an event is offered to routes; a ping is only recorded.
pub(super) fn routed(event: &str) -> bool {
    !KINDS.unrouted.iter().any(|name| name == event)
}

/// The value at a dotted path of object keys; `None` where it is missing or null.
pub(crate) fn at<'a>(payload: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(payload, |value, key| value.get(key)).filter(|value| !value.is_null())
}

/// The value at a path as text: a string that is not empty, or an integer.
pub(crate) fn text(payload: &Value, path: &str) -> Option<String> {
    match at(payload, path)? {
        Value::String(text) if !text.trim().is_empty() => Some(text.clone()),
        Value::Number(number) if number.is_i64() || number.is_u64() => Some(number.to_string()),
        _ => None,
    }
}

/// Fills the `{path}`s of a template; `None` when one of them has no value.
pub(super) fn fill(payload: &Value, template: &str) -> Option<String> {
    let mut filled = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        let (path, behind) = after.split_once('}')?;
        filled.push_str(before);
        filled.push_str(&text(payload, path)?);
        rest = behind;
    }
    filled.push_str(rest);
    Some(filled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn both_tables_parse_and_are_complete() {
        serde_json::from_str::<Adapters>(include_str!("github_adapter.json")).unwrap();
        serde_json::from_str::<Kinds>(include_str!("github_kinds.json")).unwrap();
        assert_eq!(ADAPTERS.len(), 48);
        assert_eq!(KINDS.rules.len(), 8);
    }

    #[test]
    fn every_kind_has_a_stock_route_and_the_default_comes_last() {
        let routes: Value = serde_json::from_str(super::super::STOCK_ROUTES).unwrap();
        let routes = routes.as_array().unwrap();
        for rule in &KINDS.rules {
            assert!(
                routes.iter().any(|route| route["kinds"].as_array().is_some_and(|it| it.contains(&json!(rule.kind))))
            );
        }
        let last = routes.last().unwrap();
        assert_eq!((&last["name"], last.get("kinds")), (&json!("default"), None));
    }

    #[test]
    fn the_stock_routes_on_file_are_those_the_core_starts_with() {
        let names = |list: Vec<&str>| list.into_iter().map(|name| json!(name)).collect::<Vec<_>>();
        let written = mindos_core::route::RouteTable::stock().routes.into_iter().map(|route| {
            let mut it = json!({
                "name": route.name.as_str(),
                "types": names(route.targets.types.iter().map(|name| name.as_str()).collect()),
                "strategy": route.strategy.as_str(),
            });
            if !route.matches.is_everything() {
                it["kinds"] = json!(names(route.matches.kinds.iter().map(|kind| kind.as_str()).collect()));
            }
            if route.count != 1 {
                it["count"] = json!(route.count);
            }
            it
        });
        let on_file: Vec<Value> = serde_json::from_str(super::super::STOCK_ROUTES).unwrap();
        assert_eq!(written.collect::<Vec<_>>(), on_file);
    }

    #[test]
    fn paths_and_templates_read_only_what_is_there() {
        let payload = json!({"a": {"b": 7, "c": null, "d": " ", "e": 1.5, "f": "x"}});
        assert_eq!(text(&payload, "a.b").as_deref(), Some("7"));
        assert_eq!(["a.c", "a.d", "a.e", "a.b.c", "z", ""].map(|path| text(&payload, path)), [const { None }; 6]);
        assert_eq!(fill(&payload, "u/{a.f}/{a.b}").as_deref(), Some("u/x/7"));
        assert_eq!(fill(&payload, "{a.z}"), None);
        assert_eq!(fill(&payload, "{a.b"), None);
    }
}
