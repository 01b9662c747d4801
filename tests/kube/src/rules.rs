//! The CEL rules of custom resource definitions, evaluated as newer API servers do: after defaulting, at every place of the schema, and those
//! that speak of `oldSelf` for updates alone.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use cel::objects::{Key, Map};
use cel::{Env, Value as Cel};
use serde_json::Value;

/// A rule of a schema.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// Where in the schema, such as `.spec.scale`.
    pub path: String,
    pub rule: String,
    pub message: String,
}

/// All rules of a schema, by where they stand.
pub fn rules(schema: &Value, path: &str, found: &mut Vec<Rule>) {
    for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
        let text = |field: &str| rule[field].as_str().unwrap_or_default().to_owned();
        found.push(Rule { path: path.to_owned(), rule: text("rule"), message: text("message") });
    }
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        rules(inner, &format!("{path}.{name}"), found);
    }
    for field in ["items", "additionalProperties"] {
        if schema[field].is_object() {
            rules(&schema[field], &format!("{path}[]"), found);
        }
    }
}

/// Fills in what the schema says of fields that are not there.
pub fn default(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
                if !fields.contains_key(name)
                    && let Some(default) = inner.get("default")
                {
                    fields.insert(name.clone(), default.clone());
                }
                if let Some(field) = fields.get_mut(name) {
                    default(inner, field);
                }
            }
            if schema["additionalProperties"].is_object() {
                fields.values_mut().for_each(|field| default(&schema["additionalProperties"], field));
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| default(&schema["items"], item)),
        _ => {}
    }
}

/// What the rules of a schema refuse of a value, which was `old` before.
///
/// # Errors
/// When a rule is no CEL, or says nothing but true and false: a server would not take the definition, or would refuse every object.
pub fn refused(schema: &Value, path: &str, value: &Value, old: Option<&Value>) -> Result<Vec<Rule>> {
    let mut found = Vec::new();
    for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
        let text = |field: &str| rule[field].as_str().unwrap_or_default().to_owned();
        let rule = Rule { path: path.to_owned(), rule: text("rule"), message: text("message") };
        if !is_true(&rule, value, old)? {
            found.push(rule);
        }
    }
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                let inner = schema["properties"].get(name).or_else(|| schema.get("additionalProperties"));
                if let Some(inner) = inner {
                    let old = old.and_then(|old| old.get(name));
                    found.extend(refused(inner, &format!("{path}.{name}"), field, old)?);
                }
            }
        }
        Value::Array(items) => {
            // Which item was which is known of no list here, so that no rule in it may speak of the old one.
            for item in items {
                found.extend(refused(&schema["items"], &format!("{path}[]"), item, None)?);
            }
        }
        _ => {}
    }
    Ok(found)
}

fn is_true(rule: &Rule, value: &Value, old: Option<&Value>) -> Result<bool> {
    let context = || format!("the rule `{}` at {}", rule.rule, rule.path);
    let env = Arc::new(Env::stdlib());
    let program = env.compile(&rule.rule).map_err(|error| anyhow::anyhow!("{error}")).with_context(context)?;
    let mut variables = cel::Context::with_env(env);
    variables.add_variable_from_value("self", cel(value));
    match old {
        Some(old) => variables.add_variable_from_value("oldSelf", cel(old)),
        // Rules about changes are not asked when something is made.
        None if rule.rule.contains("oldSelf") => return Ok(true),
        None => {}
    }
    match program.execute(&variables).map_err(|error| anyhow::anyhow!("{error}")).with_context(context)? {
        Cel::Bool(said) => Ok(said),
        other => bail!("{}: it says {other:?}", context()),
    }
}

/// JSON as CEL has it: whole numbers are `int`, as the schema's type `integer` is.
fn cel(value: &Value) -> Cel {
    match value {
        Value::Null => Cel::Null,
        Value::Bool(value) => Cel::Bool(*value),
        Value::Number(number) => {
            number.as_i64().map_or_else(|| Cel::Float(number.as_f64().unwrap_or(f64::NAN)), Cel::Int)
        }
        Value::String(text) => Cel::String(Arc::new(text.clone())),
        Value::Array(items) => Cel::List(Arc::new(items.iter().map(cel).collect())),
        Value::Object(fields) => {
            let map: HashMap<Key, Cel> =
                fields.iter().map(|(key, value)| (Key::String(Arc::new(key.clone())), cel(value))).collect();
            Cel::Map(Map { map: Arc::new(map) })
        }
    }
}

/// The schemas of `spec` in the definitions under `deploy/crds`, by kind.
///
/// # Errors
/// When a file is not a definition.
pub fn schemas() -> Result<BTreeMap<String, Value>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(crate::assets::checkout("deploy/crds")?)? {
        let path = entry?.path();
        if path.extension().is_none_or(|ending| ending != "yaml") {
            continue;
        }
        let text = std::fs::read_to_string(&path)?;
        for document in serde_norway::Deserializer::from_str(&text) {
            let crd: Value =
                serde::Deserialize::deserialize(document).with_context(|| format!("{}", path.display()))?;
            let kind = crd["spec"]["names"]["kind"].as_str().context("a definition names its kind")?;
            let versions = crd["spec"]["versions"].as_array().context("a definition has versions")?;
            let version = versions.first().context("a definition has a version")?;
            found.insert(kind.to_owned(), version["schema"]["openAPIV3Schema"].clone());
        }
    }
    Ok(found)
}
