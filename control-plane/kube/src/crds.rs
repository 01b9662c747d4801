//! The definitions of the objects, as the API server takes them.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::Value;

use crate::mindos::{Budget, Cluster, General, Route};
use crate::platform;

/// The definitions, by the names of their files in `deploy/crds`.
#[must_use]
pub fn crds() -> Vec<(String, CustomResourceDefinition)> {
    let own = [Budget::crd(), Cluster::crd(), General::crd(), Route::crd()].map(without_null);
    let all = own.into_iter().chain(platform::crds());
    all.map(|crd| (format!("{}_{}.yaml", crd.spec.group, crd.spec.names.plural), crd)).collect()
}

/// What may be left out need not be said as null: without that, what a schema says is the same for every release of the API server.
fn without_null(crd: CustomResourceDefinition) -> CustomResourceDefinition {
    fn strip(value: &mut Value) {
        match value {
            Value::Object(fields) => {
                if fields.get("nullable") == Some(&Value::Bool(true)) {
                    fields.remove("nullable");
                    if let Some(Value::Array(words)) = fields.get_mut("enum") {
                        words.retain(|word| !word.is_null());
                    }
                }
                fields.values_mut().for_each(strip);
            }
            Value::Array(items) => items.iter_mut().for_each(strip),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    let mut value = serde_json::to_value(&crd).expect("a definition is JSON");
    strip(&mut value);
    serde_json::from_value(value).expect("a definition is still one")
}

/// A definition without its CEL rules, which API servers before 1.25 do not know: some refuse what they do not know.
///
/// # Panics
/// Never: the definitions are known.
#[must_use]
pub fn without_rules(crd: CustomResourceDefinition) -> CustomResourceDefinition {
    fn strip(value: &mut Value) {
        match value {
            Value::Object(fields) => {
                fields.remove("x-kubernetes-validations");
                fields.values_mut().for_each(strip);
            }
            Value::Array(items) => items.iter_mut().for_each(strip),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    let mut value = serde_json::to_value(&crd).expect("a definition is JSON");
    strip(&mut value);
    serde_json::from_value(value).expect("a definition is still one")
}

/// A definition as YAML, as it stands in its file.
///
/// # Panics
/// Never: the definitions are known.
#[must_use]
pub fn to_yaml(crd: &CustomResourceDefinition) -> String {
    // By way of a value, so that keys come in one order.
    let value = serde_json::to_value(crd).expect("a definition is JSON");
    serde_norway::to_string(&value).expect("a definition is YAML")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::PathBuf;

    use super::*;

    fn folder() -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../deploy/crds")
    }

    /// `UPDATE=1` writes the files.
    #[test]
    fn the_files_are_what_the_types_say() {
        for (file, crd) in crds() {
            let (path, text) = (folder().join(&file), to_yaml(&crd));
            if std::env::var_os("UPDATE").is_some() {
                std::fs::create_dir_all(folder()).unwrap();
                std::fs::write(&path, &text).unwrap();
            }
            assert_eq!(std::fs::read_to_string(&path).unwrap_or_default(), text, "{file}: UPDATE=1 writes it");
        }
    }

    #[test]
    fn rules_can_be_left_out() {
        for (file, crd) in crds() {
            assert!(!to_yaml(&without_rules(crd)).contains("validations"), "{file}");
        }
    }

    fn own() -> Vec<(String, CustomResourceDefinition)> {
        crds().into_iter().filter(|(_, crd)| crd.spec.group == crate::mindos::GROUP).collect()
    }

    fn fields(schema: &Value, path: &str, visit: &mut dyn FnMut(&str, &Value)) {
        if let Some(Value::Object(properties)) = schema.get("properties") {
            for (name, field) in properties {
                let path = format!("{path}.{name}");
                visit(&path, field);
                fields(field, &path, visit);
            }
        }
        for (key, mark) in [("items", "[]"), ("additionalProperties", "{}")] {
            if let Some(inner) = schema.get(key).filter(|inner| inner.is_object()) {
                fields(inner, &format!("{path}{mark}"), visit);
            }
        }
    }

    #[test]
    fn every_field_is_documented_and_structural() {
        for (file, crd) in own() {
            let value = serde_json::to_value(&crd).unwrap();
            let schema = &value["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
            for part in ["spec", "status"] {
                fields(&schema["properties"][part], part, &mut |path, field| {
                    assert!(field["description"].is_string(), "{file}: {path} is not documented");
                    let has_type = field["type"].is_string() || field["x-kubernetes-int-or-string"] == true;
                    assert!(has_type, "{file}: {path} has no one type: {field}");
                    assert!(!field.to_string().contains("null"), "{file}: {path}: {field}");
                    assert!(field.get("$ref").is_none() && field.get("anyOf").is_none(), "{file}: {path}: {field}");
                });
            }
        }
    }

    #[test]
    fn each_has_short_name_category_columns_and_status() {
        let mut short = BTreeSet::new();
        for (file, crd) in own() {
            let names = &crd.spec.names;
            assert_eq!(names.categories.as_deref(), Some(&["mindos".to_owned()][..]), "{file}");
            assert!(names.short_names.iter().flatten().all(|name| short.insert(name.clone())), "{file}");
            assert!(names.short_names.is_some(), "{file}");
            let version = &crd.spec.versions[0];
            assert!(version.subresources.as_ref().is_some_and(|sub| sub.status.is_some()), "{file}");
            assert!(version.additional_printer_columns.as_ref().is_some_and(|columns| columns.len() >= 5), "{file}");
        }
    }

    #[test]
    fn defaults_of_the_schema_are_those_of_the_types() {
        for (kind, spec) in [
            ("Cluster", serde_json::to_value(crate::mindos::ClusterSpec::default()).unwrap()),
            ("General", serde_json::to_value(crate::mindos::GeneralSpec::default()).unwrap()),
            ("Route", serde_json::to_value(crate::mindos::RouteSpec::default()).unwrap()),
        ] {
            let crd = crds().into_iter().find(|(_, crd)| crd.spec.names.kind == kind).unwrap().1;
            let value = serde_json::to_value(crd).unwrap();
            let schema = &value["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
            for (name, said) in spec.as_object().unwrap() {
                assert_eq!(&schema["properties"][name]["default"], said, "{kind}.{name}");
            }
        }
    }
}
