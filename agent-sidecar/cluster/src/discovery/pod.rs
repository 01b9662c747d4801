//! Pods: what is read of one, and what general it says it is.
//!
//! | label or annotation | says |
//! |---|---|
//! | label `app: llm-general`, `type: <short>` | it is the general `<short>-general` |
//! | label or annotation `mindos.io/general: <type>` | it is that general; goes before the labels above |
//! | annotation `mindos.io/slots` | deliveries that it works on at a time, 1 to 10,000 |
//! | annotation `mindos.io/port` | number or name of the container's port; by default `http`, else the first, else 8080 |
//! | annotation `mindos.io/labels` | labels of the general at the control plane, as `key=value,..` |
//!
//! Of everything else nothing is kept, so that 20,000 pods are a few megabytes.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use mindos_sdk::Labels;
use mindos_sdk::model::{GeneralType, NameError};
use serde::Deserialize;

/// Container that the injector adds. A pod that has one joins by itself.
pub const SIDECAR: &str = "mindos-sidecar";
/// Port of a general, as the contract has it, where neither annotation nor container says one.
pub const PORT: u16 = 8080;
/// Name of a port that is taken before others.
const PORT_NAME: &str = "http";
/// Labels of one general that go to the control plane; two more are for its place.
const LABELS_MAX: usize = 14;
/// Longest time that a pod is given to end, as far as this side goes along.
const GRACE_MAX: Duration = Duration::from_secs(3600);

/// A pod as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    pub uid: Arc<str>,
    /// What it says of itself; `Err` when that is not accepted.
    pub role: Result<Option<Role>, RoleError>,
    /// Kept only where it does not say itself which general it is: Services choose by them.
    pub labels: BTreeMap<String, String>,
    pub slots: Option<u32>,
    pub ports: Vec<Port>,
    pub node: Option<Arc<str>>,
    pub zone: Option<Arc<str>>,
    pub address: Option<IpAddr>,
    pub state: PodState,
    pub has_sidecar: bool,
}

/// Where a pod is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodState {
    /// It does not run, or is not ready.
    Unready,
    Ready,
    /// It was deleted and has this long to end.
    Terminating {
        grace: Duration,
    },
    /// Its containers have ended for good.
    Over,
}

/// What a pod or Service says that its pods are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Role {
    pub ty: GeneralType,
    pub port: PortWish,
    pub labels: Labels,
}

/// Which port is the general's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortWish {
    Any,
    Number(u16),
    Name(String),
}

/// A port of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    pub name: String,
    pub number: u16,
}

/// Why what an object says is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RoleError {
    #[error("{field}: {error}")]
    Type { field: &'static str, error: NameError },
    #[error("annotation mindos.io/slots: is `{0}`: expected a number from 1 to 10000")]
    Slots(String),
    #[error("annotation mindos.io/port: is `{0}`: expected a number from 1 to 65535 or the name of a port")]
    Port(String),
    #[error("annotation mindos.io/labels: is `{0}`: expected up to {LABELS_MAX} of key=value, with commas between")]
    Labels(String),
    #[error("no container has a port named `{0}`")]
    NoPort(String),
}

impl Pod {
    /// The port of a general in it.
    ///
    /// # Errors
    /// When no container has the one that is named.
    pub fn port(&self, wish: &PortWish) -> Result<u16, RoleError> {
        let named = |name: &str| self.ports.iter().find(|port| port.name == name).map(|port| port.number);
        match wish {
            PortWish::Number(number) => Ok(*number),
            PortWish::Name(name) => named(name).ok_or_else(|| RoleError::NoPort(name.clone())),
            PortWish::Any => {
                Ok(named(PORT_NAME).or_else(|| self.ports.first().map(|port| port.number)).unwrap_or(PORT))
            }
        }
    }
}

/// What labels and annotations say.
///
/// # Errors
/// Names the field and what is accepted.
pub fn role(
    labels: &BTreeMap<String, String>,
    annotations: &BTreeMap<String, String>,
) -> Result<Option<Role>, RoleError> {
    let ours = |name: &str| annotations.get(name).or_else(|| labels.get(name)).filter(|text| !text.is_empty());
    let ty = match (ours("mindos.io/general"), labels.get("app"), labels.get("type")) {
        (Some(ty), ..) => general_type("mindos.io/general", ty)?,
        (None, Some(app), Some(short)) if app == "llm-general" => general_type("label type", &long(short))?,
        _ => return Ok(None),
    };
    let port = match annotations.get("mindos.io/port") {
        None => PortWish::Any,
        Some(text) => match text.parse::<u16>() {
            Ok(number) if number > 0 => PortWish::Number(number),
            Err(_) if is_port_name(text) => PortWish::Name(text.clone()),
            Ok(_) | Err(_) => return Err(RoleError::Port(shown(text))),
        },
    };
    let labels = match annotations.get("mindos.io/labels") {
        None => Labels::new(),
        Some(text) => general_labels(text).ok_or_else(|| RoleError::Labels(shown(text)))?,
    };
    Ok(Some(Role { ty, port, labels }))
}

/// How many deliveries an object says its general works on at a time.
///
/// # Errors
/// When it is not a number from 1 to 10,000.
pub fn slots(annotations: &BTreeMap<String, String>) -> Result<Option<u32>, RoleError> {
    let Some(text) = annotations.get("mindos.io/slots") else { return Ok(None) };
    match text.parse::<u32>() {
        Ok(slots) if (1..=10_000).contains(&slots) => Ok(Some(slots)),
        Ok(_) | Err(_) => Err(RoleError::Slots(shown(text))),
    }
}

fn general_type(field: &'static str, text: &str) -> Result<GeneralType, RoleError> {
    GeneralType::new(text).map_err(|error| RoleError::Type { field, error })
}

/// The general of a short type: `security` is short for `security-general`.
fn long(short: &str) -> Cow<'_, str> {
    if short.is_empty() || short.ends_with("-general") { short.into() } else { format!("{short}-general").into() }
}

/// As Kubernetes has it.
fn is_port_name(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=15).contains(&text.len())
        && text.bytes().all(fits)
        && text.bytes().any(|byte| byte.is_ascii_lowercase())
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn general_labels(text: &str) -> Option<Labels> {
    let fits = |text: &str| (1..=253).contains(&text.len());
    let mut labels = Labels::new();
    for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        let (key, value) = item.split_once('=')?;
        let (key, value) = (key.trim(), value.trim());
        if !fits(key) || value.len() > 253 {
            return None;
        }
        labels.insert(key.to_owned(), value.to_owned());
    }
    (labels.len() <= LABELS_MAX).then_some(labels)
}

fn shown(text: &str) -> String {
    text.escape_debug().take(100).collect()
}

/// A pod as it comes from the API server, of which only what is kept is read.
#[derive(Clone, Debug, Deserialize)]
#[serde(from = "Raw")]
pub struct PodObject {
    metadata: ObjectMeta,
    pub pod: Pod,
}

impl kube::Resource for PodObject {
    type DynamicType = ();
    type Scope = k8s_openapi::NamespaceResourceScope;

    fn kind(&(): &()) -> Cow<'_, str> {
        "Pod".into()
    }

    fn group(&(): &()) -> Cow<'_, str> {
        "".into()
    }

    fn version(&(): &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural(&(): &()) -> Cow<'_, str> {
        "pods".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Raw {
    metadata: RawMeta,
    spec: RawSpec,
    status: RawStatus,
}

/// Metadata without what servers note for themselves.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct RawMeta {
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) uid: String,
    pub(super) resource_version: Option<String>,
    pub(super) labels: Option<BTreeMap<String, String>>,
    pub(super) annotations: Option<BTreeMap<String, String>>,
    deletion_timestamp: Option<String>,
    deletion_grace_period_seconds: Option<i64>,
}

impl RawMeta {
    /// What a watch needs to go on.
    pub(super) fn watched(&self) -> ObjectMeta {
        ObjectMeta {
            name: Some(self.name.clone()),
            namespace: Some(self.namespace.clone()).filter(|namespace| !namespace.is_empty()),
            resource_version: self.resource_version.clone(),
            ..ObjectMeta::default()
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawSpec {
    node_name: Option<String>,
    containers: Vec<RawContainer>,
    init_containers: Option<Vec<RawContainer>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawContainer {
    name: String,
    ports: Option<Vec<RawPort>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawPort {
    name: Option<String>,
    container_port: i64,
    protocol: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawStatus {
    phase: Option<String>,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    conditions: Option<Vec<RawCondition>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawCondition {
    r#type: String,
    status: String,
}

impl From<Raw> for PodObject {
    fn from(raw: Raw) -> PodObject {
        let Raw { metadata, spec, status } = raw;
        let kept = metadata.watched();
        let RawMeta {
            name,
            namespace,
            uid,
            resource_version: _,
            labels,
            annotations,
            deletion_timestamp,
            deletion_grace_period_seconds,
        } = metadata;
        let RawSpec { node_name, containers, init_containers } = spec;
        let RawStatus { phase, pod_ip, conditions } = status;
        let (labels, annotations) = (labels.unwrap_or_default(), annotations.unwrap_or_default());
        let slots = slots(&annotations);
        let role = role(&labels, &annotations).and_then(|role| slots.clone().map(|_| role));
        let ready =
            conditions.iter().flatten().any(|condition| condition.r#type == "Ready" && condition.status == "True");
        let state = match (deletion_timestamp, phase.as_deref()) {
            (_, Some("Succeeded" | "Failed")) => PodState::Over,
            (Some(_), _) => {
                let seconds = u64::try_from(deletion_grace_period_seconds.unwrap_or(0)).unwrap_or(0);
                PodState::Terminating { grace: Duration::from_secs(seconds).min(GRACE_MAX) }
            }
            (None, Some("Running")) if ready => PodState::Ready,
            (None, _) => PodState::Unready,
        };
        let has_sidecar =
            containers.iter().chain(init_containers.iter().flatten()).any(|container| container.name == SIDECAR);
        let ports = containers.into_iter().flat_map(|container| container.ports.unwrap_or_default());
        let ports = ports.filter(|port| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP"));
        let ports = ports.filter_map(|RawPort { name, container_port, protocol: _ }| {
            let number = u16::try_from(container_port).ok().filter(|number| *number > 0)?;
            Some(Port { name: name.unwrap_or_default(), number })
        });
        let zone = labels.get("topology.kubernetes.io/zone").map(|zone| Arc::from(zone.as_str()));
        let keeps_labels = matches!(role, Ok(None));
        let pod = Pod {
            namespace: namespace.into(),
            name: name.into(),
            uid: uid.into(),
            role,
            labels: if keeps_labels { labels } else { BTreeMap::new() },
            slots: slots.unwrap_or_default(),
            ports: ports.collect(),
            node: node_name.filter(|name| !name.is_empty()).map(Arc::from),
            zone,
            address: pod_ip.and_then(|ip| ip.parse().ok()),
            state,
            has_sidecar,
        };
        PodObject { metadata: kept, pod }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::{Value, json};

    use super::*;

    pub(crate) fn read(object: Value) -> Pod {
        serde_json::from_value::<PodObject>(object).unwrap().pod
    }

    /// A pod of the contract that is ready.
    pub(crate) fn contract(name: &str, short: &str) -> Value {
        json!({
            "metadata": {"name": name, "namespace": "agents", "uid": format!("uid-{name}"), "resourceVersion": "7",
                "labels": {"app": "llm-general", "type": short}, "managedFields": [{"manager": "kubectl"}]},
            "spec": {"nodeName": "n1", "containers": [{"name": "general", "ports": [{"containerPort": 8080}]}]},
            "status": {"phase": "Running", "podIP": "10.0.0.7", "conditions": [{"type": "Ready", "status": "True"}]},
        })
    }

    fn role_of(labels: Value, annotations: Value) -> Result<Option<Role>, RoleError> {
        role(&serde_json::from_value(labels).unwrap(), &serde_json::from_value(annotations).unwrap())
    }

    #[test]
    fn the_contract_s_labels_name_a_general_by_its_short_type() {
        let pod = read(contract("review-0", "code-review"));
        let role = pod.role.clone().unwrap().unwrap();
        assert_eq!(role.ty.as_str(), "code-review-general");
        assert_eq!((pod.port(&role.port), pod.state, pod.has_sidecar), (Ok(8080), PodState::Ready, false));
        assert_eq!((&*pod.namespace, &*pod.name, pod.node.as_deref()), ("agents", "review-0", Some("n1")));
        assert!(pod.labels.is_empty(), "nothing is kept that is not needed");
    }

    #[test]
    fn our_own_word_goes_before_the_contract_s_labels() {
        let contract = json!({"app": "llm-general", "type": "triage", "mindos.io/general": "one"});
        assert_eq!(role_of(contract.clone(), json!({})).unwrap().unwrap().ty.as_str(), "one");
        let both = role_of(contract, json!({"mindos.io/general": "two"})).unwrap().unwrap();
        assert_eq!(both.ty.as_str(), "two");
        for labels in [json!({}), json!({"app": "llm-general"}), json!({"app": "other", "type": "triage"})] {
            assert_eq!(role_of(labels, json!({})), Ok(None));
        }
        let whole = role_of(json!({"app": "llm-general", "type": "triage-general"}), json!({})).unwrap().unwrap();
        assert_eq!(whole.ty.as_str(), "triage-general");
    }

    #[test]
    fn what_is_not_accepted_is_named() {
        let general = json!({"mindos.io/general": "one"});
        let error = |annotations: Value| role_of(general.clone(), annotations).unwrap_err().to_string();
        for port in ["0", "70000", "-", "HTTP", "a b", "", "1234567890123456a"] {
            assert!(error(json!({"mindos.io/port": port})).contains("mindos.io/port: is `"), "{port}");
        }
        for labels in ["a", "=b", "a=b,c"] {
            assert!(error(json!({"mindos.io/labels": labels})).contains("expected up to 14 of key=value"), "{labels}");
        }
        assert!(
            role_of(json!({"mindos.io/general": "Not One"}), json!({}))
                .unwrap_err()
                .to_string()
                .contains("mindos.io/general: general type")
        );
        for slots in ["0", "10001", "many", "-1"] {
            let mut pod = contract("p", "triage");
            pod["metadata"]["annotations"] = json!({"mindos.io/slots": slots});
            let error = read(pod).role.unwrap_err().to_string();
            assert!(error.contains(&format!("is `{slots}`: expected a number from 1 to 10000")), "{error}");
        }
    }

    #[test]
    fn a_port_is_found_by_annotation_then_name_then_place() {
        let mut object = contract("p", "triage");
        object["spec"]["containers"][0]["ports"] = json!([{"containerPort": 1, "protocol": "UDP"}, {"containerPort": 9000, "name": "x"}, {"containerPort": 8081, "name": "http"}]);
        let pod = read(object.clone());
        assert_eq!(pod.port(&PortWish::Any), Ok(8081));
        assert_eq!(pod.port(&PortWish::Name("x".to_owned())), Ok(9000));
        assert_eq!(pod.port(&PortWish::Number(7)), Ok(7));
        assert!(pod.port(&PortWish::Name("y".to_owned())).unwrap_err().to_string().contains("`y`"));
        object["spec"]["containers"][0]["ports"] = json!([{"containerPort": 9000}]);
        assert_eq!(read(object.clone()).port(&PortWish::Any), Ok(9000));
        object["spec"]["containers"][0]["ports"] = json!(null);
        assert_eq!(read(object).port(&PortWish::Any), Ok(PORT));
    }

    #[test]
    fn a_pod_is_ready_running_or_on_its_way_out() {
        let state = |change: fn(&mut Value)| {
            let mut object = contract("p", "triage");
            change(&mut object);
            read(object).state
        };
        assert_eq!(state(|_| {}), PodState::Ready);
        assert_eq!(state(|pod| pod["status"]["conditions"][0]["status"] = json!("False")), PodState::Unready);
        assert_eq!(state(|pod| pod["status"]["phase"] = json!("Pending")), PodState::Unready);
        assert_eq!(state(|pod| pod["status"]["phase"] = json!("Failed")), PodState::Over);
        let deleted: fn(&mut Value) = |pod| {
            pod["metadata"]["deletionTimestamp"] = json!("2026-11-20T12:00:00Z");
            pod["metadata"]["deletionGracePeriodSeconds"] = json!(30);
        };
        assert_eq!(state(deleted), PodState::Terminating { grace: Duration::from_secs(30) });
    }

    #[test]
    fn a_pod_with_a_sidecar_is_seen_as_such_wherever_that_stands() {
        for place in ["containers", "initContainers"] {
            let mut object = contract("p", "triage");
            let sidecar = json!({"name": SIDECAR});
            match object["spec"][place].as_array_mut() {
                Some(containers) => containers.push(sidecar),
                None => object["spec"][place] = json!([sidecar]),
            }
            assert!(read(object).has_sidecar, "{place}");
        }
    }
}
