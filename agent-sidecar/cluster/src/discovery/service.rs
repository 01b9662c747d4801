//! Services: those that say which general their pods are, for pods that do not say it themselves.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;

use super::pod::{PortWish, RawMeta, Role, RoleError, role, slots};

/// A Service as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    /// What it says that its pods are; `Err` when that is not accepted.
    pub role: Result<Option<Role>, RoleError>,
    pub slots: Option<u32>,
    /// Which pods are its own; none where it is empty.
    pub selector: BTreeMap<String, String>,
}

impl Service {
    /// Whether it speaks for pods: it says what they are, and which.
    #[must_use]
    pub fn speaks(&self) -> bool {
        matches!(self.role, Ok(Some(_))) && !self.selector.is_empty()
    }

    /// Whether pods that it selects are found by what they carry themselves, so that nobody has to look for them.
    #[must_use]
    pub fn is_covered(&self) -> bool {
        self.selector.get("app").is_some_and(|app| app == "llm-general")
            || self.selector.contains_key("mindos.io/general")
    }

    /// Whether a pod with these labels is one of its own.
    #[must_use]
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        !self.selector.is_empty() && self.selector.iter().all(|(name, value)| labels.get(name) == Some(value))
    }

    /// The selector as the API server takes it.
    #[must_use]
    pub fn selector_text(&self) -> String {
        self.selector.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(",")
    }
}

/// A Service as it comes from the API server.
#[derive(Clone, Debug, Deserialize)]
#[serde(from = "Raw")]
pub struct ServiceObject {
    metadata: ObjectMeta,
    pub service: Service,
}

impl kube::Resource for ServiceObject {
    type DynamicType = ();
    type Scope = k8s_openapi::NamespaceResourceScope;

    fn kind(&(): &()) -> Cow<'_, str> {
        "Service".into()
    }

    fn group(&(): &()) -> Cow<'_, str> {
        "".into()
    }

    fn version(&(): &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural(&(): &()) -> Cow<'_, str> {
        "services".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Raw {
    metadata: RawMeta,
    spec: RawSpec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawSpec {
    selector: Option<BTreeMap<String, String>>,
    ports: Option<Vec<RawPort>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawPort {
    name: Option<String>,
    port: i64,
    /// A number or a name; as `port` where it is missing.
    target_port: Option<serde_json::Value>,
}

impl RawPort {
    fn target(&self) -> Option<PortWish> {
        let number = |number: i64| u16::try_from(number).ok().filter(|number| *number > 0).map(PortWish::Number);
        match &self.target_port {
            Some(serde_json::Value::String(name)) => Some(PortWish::Name(name.clone())),
            Some(target) if target.as_i64().is_some_and(|target| target > 0) => number(target.as_i64()?),
            Some(_) | None => number(self.port),
        }
    }
}

impl From<Raw> for ServiceObject {
    fn from(raw: Raw) -> ServiceObject {
        let Raw { metadata, spec: RawSpec { selector, ports } } = raw;
        let kept = metadata.watched();
        let (labels, annotations) = (metadata.labels.unwrap_or_default(), metadata.annotations.unwrap_or_default());
        let slots = slots(&annotations);
        let role = role(&labels, &annotations).and_then(|role| slots.clone().map(|_| role));
        let ports = ports.unwrap_or_default();
        let http = ports.iter().find(|port| port.name.as_deref() == Some("http")).or(ports.first());
        let role = role.map(|role| {
            role.map(|role| match (&role.port, http.and_then(RawPort::target)) {
                (PortWish::Any, Some(port)) => Role { port, ..role },
                (PortWish::Any | PortWish::Number(_) | PortWish::Name(_), _) => role,
            })
        });
        let service = Service {
            namespace: metadata.namespace.into(),
            name: metadata.name.into(),
            role,
            slots: slots.unwrap_or_default(),
            selector: selector.unwrap_or_default(),
        };
        ServiceObject { metadata: kept, service }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::{Value, json};

    use super::*;

    pub(crate) fn read(object: Value) -> Service {
        serde_json::from_value::<ServiceObject>(object).unwrap().service
    }

    pub(crate) fn contract(name: &str, short: &str, selector: Value) -> Value {
        json!({
            "metadata": {"name": name, "namespace": "agents", "labels": {"app": "llm-general", "type": short}},
            "spec": {"selector": selector, "ports": [{"port": 8080, "targetPort": 8080}]},
        })
    }

    #[test]
    fn the_port_of_its_pods_is_the_one_that_it_forwards_to() {
        let port = |ports: Value| {
            let mut object = contract("s", "triage", json!({"app": "x"}));
            object["spec"]["ports"] = ports;
            read(object).role.unwrap().unwrap().port
        };
        assert_eq!(port(json!([{"port": 80, "targetPort": 8080}])), PortWish::Number(8080));
        assert_eq!(port(json!([{"port": 80, "targetPort": "web"}])), PortWish::Name("web".to_owned()));
        assert_eq!(port(json!([{"port": 81}])), PortWish::Number(81));
        assert_eq!(port(json!([{"port": 1, "name": "grpc"}, {"port": 2, "name": "http"}])), PortWish::Number(2));
        assert_eq!(port(json!([])), PortWish::Any);
    }

    #[test]
    fn a_service_without_a_selector_speaks_for_nobody() {
        assert!(!read(contract("s", "triage", json!(null))).speaks());
        assert!(!read(contract("s", "triage", json!({}))).selects(&BTreeMap::new()));
        assert!(read(contract("s", "triage", json!({"app": "x"}))).speaks());
    }

    #[test]
    fn pods_that_say_it_themselves_need_no_watch_of_their_own() {
        let covered = |selector: Value| read(contract("s", "triage", selector)).is_covered();
        assert!(covered(json!({"app": "llm-general", "type": "triage"})) && covered(json!({"mindos.io/general": "x"})));
        assert!(!covered(json!({"app": "triage", "tier": "gold"})));
        let service = read(contract("s", "triage", json!({"b": "2", "a": "1"})));
        assert_eq!(service.selector_text(), "a=1,b=2");
    }
}
