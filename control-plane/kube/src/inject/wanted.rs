//! What a pod asks for, in its labels and annotations.
//!
//! | name | meaning |
//! |---|---|
//! | `mindos.io/general` | type of the general; asks for the sidecar |
//! | `mindos.io/inject` | `false` asks for none |
//! | `mindos.io/name`, `slots`, `port`, `container`, `ready-path`, `process-path`, `label.<key>` | the general and how it is reached |
//! | `mindos.io/drain-grace`, `health-port`, `readiness`, `sidecar-cpu`, `sidecar-memory`, `model-metrics`, `output-max`, `repository-access` | the sidecar |
//!
//! Each may be a label or an annotation; of both the annotation counts.
//!
//! Invariant: a [`Wanted`] holds nothing that the sidecar would not take, so a pod that is injected has a sidecar that starts.

use std::collections::BTreeMap;
use std::time::Duration;

use http::Uri;
use http::uri::PathAndQuery;
use mindos_model::{GeneralName, GeneralType};
use serde_json::{Map, Value};

use super::settings::{Quantity, Resources, Settings};

/// What asks for a sidecar.
pub(super) const GENERAL: &str = "mindos.io/general";
/// `false` asks for none.
pub(super) const INJECT: &str = "mindos.io/inject";
/// Says on the pod what became of it.
pub(super) const INJECTION: &str = "mindos.io/injection";
const PREFIX: &str = "mindos.io/";
const LABEL: &str = "label.";
/// What other parts put on pods, beside what is read here.
const OTHERS: [&str; 10] =
    ["general", "inject", "injection", "cluster", "delivery", "token", "run", "attempt", "owner", "revision"];
/// What is read here and is no label of the general.
const READ: [&str; 14] = [
    "name",
    "slots",
    "port",
    "container",
    "ready-path",
    "process-path",
    "health-port",
    "drain-grace",
    "readiness",
    "sidecar-cpu",
    "sidecar-memory",
    "model-metrics",
    "output-max",
    "repository-access",
];
/// Warnings of names that nobody knows.
const UNKNOWN_MAX: usize = 5;
/// Labels of a general.
const LABELS_MAX: usize = 16;
/// Bytes of a name or value of a label of a general.
const LABEL_BYTES_MAX: usize = 253;
/// Slots that one general may have at a sidecar.
const SLOTS_MAX: u32 = 10_000;
const PATH_MAX: usize = 256;
/// The sidecar takes no more.
const DRAIN_GRACE_MAX: u64 = 3600;
/// Where a general is that says nothing of it.
const PORT: u16 = 8080;
const READY: &str = "/ready";
const PROCESS: &str = "/process";

/// A pod, taken apart as far as injection needs it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pod<'a> {
    pub(super) metadata: &'a Map<String, Value>,
    pub(super) spec: &'a Map<String, Value>,
    pub(super) labels: Option<&'a Map<String, Value>>,
    pub(super) annotations: Option<&'a Map<String, Value>>,
    pub(super) containers: &'a [Value],
    pub(super) init_containers: &'a [Value],
}

/// What is wanted, whole.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Wanted {
    pub(super) general: String,
    /// Index of the general's container.
    pub(super) container: usize,
    /// Unset leaves the paths to the sidecar.
    pub(super) health_port: u16,
    pub(super) readiness: bool,
    pub(super) drain_grace: Duration,
    pub(super) resources: Resources,
    pub(super) model_metrics: Option<String>,
    pub(super) output_max: Option<u64>,
    pub(super) repository_access: bool,
    /// What is odd and does not hold it up.
    pub(super) warnings: Vec<String>,
}

impl<'a> Pod<'a> {
    /// Takes a pod apart.
    ///
    /// # Errors
    /// Names the field that is not what the API has there.
    pub(super) fn read(pod: &'a Value) -> Result<Pod<'a>, String> {
        let pod = pod.as_object().ok_or("object: expected a pod")?;
        let map = |parent: &'a Map<String, Value>, key: &str, path: &str| match parent.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(map)) => Ok(Some(map)),
            Some(_) => Err(format!("object.{path}: expected a map")),
        };
        let metadata = map(pod, "metadata", "metadata")?.ok_or("object.metadata is missing: expected a pod")?;
        let spec = map(pod, "spec", "spec")?.ok_or("object.spec is missing: expected a pod")?;
        let list = |key: &str| match spec.get(key) {
            None | Some(Value::Null) => Ok(&[][..]),
            Some(Value::Array(list)) if list.iter().all(|item| item["name"].is_string()) => Ok(&list[..]),
            Some(_) => Err(format!("object.spec.{key}: expected a list of maps with names")),
        };
        list("volumes")?;
        let pod = Pod {
            metadata,
            spec,
            labels: map(metadata, "labels", "metadata.labels")?,
            annotations: map(metadata, "annotations", "metadata.annotations")?,
            containers: list("containers")?,
            init_containers: list("initContainers")?,
        };
        if pod.containers.is_empty() {
            return Err("object.spec.containers is empty: expected at least one".to_owned());
        }
        Ok(pod)
    }

    fn annotation(&self, key: &str) -> Option<&'a str> {
        self.annotations?.get(key)?.as_str()
    }

    /// An annotation, or else a label.
    pub(super) fn said(&self, key: &str) -> Option<&'a str> {
        self.annotation(key).or_else(|| self.labels?.get(key)?.as_str())
    }

    /// The same by a name of ours.
    fn ours(&self, name: &str) -> Option<&'a str> {
        self.said(&format!("{PREFIX}{name}"))
    }

    fn volumes(&self) -> impl Iterator<Item = &'a Value> {
        self.spec.get("volumes").and_then(Value::as_array).into_iter().flatten()
    }

    pub(super) fn has_volume(&self, name: &str) -> bool {
        self.volumes().any(|volume| volume["name"] == name)
    }
}

/// A text of somebody else's, as part of a message.
fn quoted(text: &str) -> String {
    format!("`{}`", text.escape_debug().take(80).collect::<String>())
}

/// Reads what the pod wants.
///
/// # Errors
/// Says of everything that is wrong what it is and what is accepted.
pub(super) fn read(pod: &Pod<'_>, settings: &Settings) -> Result<Wanted, Vec<String>> {
    let mut wrong = Vec::new();
    let mut warnings = Vec::new();
    let general = general(pod, settings, &mut wrong);
    let (container, port) = reached(pod, &mut wrong, &mut warnings);
    let health_port = port_of(pod, "health-port", &mut wrong).unwrap_or(settings.health_port);
    if let Some(taken) = pod.containers.iter().chain(pod.init_containers).find(|other| declares(other, health_port)) {
        let name = quoted(taken["name"].as_str().unwrap_or_default());
        wrong.push(format!(
            "port {health_port} is taken by container {name}: give the sidecar another in {PREFIX}health-port"
        ));
    }
    if port == Some(health_port) {
        wrong.push(format!("port {health_port} is the general's: give the sidecar another in {PREFIX}health-port"));
    }
    let drain_grace = parsed(pod, "drain-grace", "a number of seconds from 0 to 3600", &mut wrong, |text| {
        text.strip_suffix('s').unwrap_or(text).parse().ok().filter(|seconds: &u64| *seconds <= DRAIN_GRACE_MAX)
    });
    let mut resources = settings.resources.clone();
    let amount = "an amount such as 10m or 64Mi";
    if let Some(cpu) = parsed(pod, "sidecar-cpu", amount, &mut wrong, |text| text.parse::<Quantity>().ok()) {
        resources.cpu_limit = resources.cpu_limit.map(|_| cpu.clone());
        resources.cpu_request = cpu;
    }
    if let Some(memory) = parsed(pod, "sidecar-memory", amount, &mut wrong, |text| text.parse::<Quantity>().ok()) {
        resources.memory_limit = memory.clone();
        resources.memory_request = memory;
    }
    let flag = |text: &str| text.parse::<bool>().ok();
    let readiness = parsed(pod, "readiness", "true or false", &mut wrong, flag).unwrap_or(true);
    let repository_access = parsed(pod, "repository-access", "true or false", &mut wrong, flag).unwrap_or(false);
    let output_max = parsed(pod, "output-max", "a number of bytes from 1 to 1073741824", &mut wrong, |text| {
        text.parse().ok().filter(|bytes| (1..=1 << 30).contains(bytes))
    });
    let model_metrics = parsed(pod, "model-metrics", "http://<host>:<port>/<path>", &mut wrong, |text| {
        let uri: Uri = text.parse().ok()?;
        (uri.scheme_str() == Some("http") && uri.authority().is_some()).then(|| text.to_owned())
    });
    warnings.extend(unknown(pod));
    let (Some(general), Some(port), true) = (general, port, wrong.is_empty()) else { return Err(wrong) };
    Ok(Wanted {
        general: format!("{general},url=http://127.0.0.1:{port}"),
        container,
        health_port,
        readiness,
        drain_grace: drain_grace.map_or(settings.drain_grace, Duration::from_secs),
        resources,
        model_metrics,
        output_max,
        repository_access,
        warnings,
    })
}

/// The general as the sidecar takes it, but for its address.
fn general(pod: &Pod<'_>, settings: &Settings, wrong: &mut Vec<String>) -> Option<String> {
    let by_label = pod.labels.and_then(|labels| labels.get(GENERAL)?.as_str());
    let said = pod.said(GENERAL)?;
    if let Some(label) = by_label.filter(|label| *label != said) {
        let (label, said) = (quoted(label), quoted(said));
        wrong.push(format!(
            "{GENERAL} is {label} as a label and {said} as an annotation: expected one of them, or the same"
        ));
    }
    if let Some(cluster) = pod.said("mindos.io/cluster").filter(|cluster| *cluster != settings.cluster.as_str()) {
        let (cluster, here) = (quoted(cluster), &settings.cluster);
        wrong.push(format!("mindos.io/cluster is {cluster}, and this is {here}: expected {here}, or nothing"));
    }
    let ty = GeneralType::new(said).map_err(|error| wrong.push(format!("{GENERAL}: {error}"))).ok();
    let name = match pod.ours("name") {
        Some(name) => GeneralName::new(name).map_err(|error| wrong.push(format!("{PREFIX}name: {error}"))).ok(),
        None => ty.as_ref().and_then(|ty| GeneralName::new(ty.as_str()).ok()),
    };
    let slots = parsed(pod, "slots", "a number from 1 to 10000", wrong, |text| {
        text.parse().ok().filter(|slots| (1..=SLOTS_MAX).contains(slots))
    });
    let is_path = |text: &str| {
        let fits = text.starts_with('/') && text.len() <= PATH_MAX && !text.contains(',');
        (fits && text.parse::<PathAndQuery>().is_ok()).then(|| text.to_owned())
    };
    let path = "a path that begins with /, without commas, of at most 256 characters";
    let ready = parsed(pod, "ready-path", path, wrong, is_path);
    let process = parsed(pod, "process-path", path, wrong, is_path);
    let labels = labels(pod, settings, wrong);
    let mut text = format!("name={},type={},slots={}", name?, ty?, slots.unwrap_or(1));
    for (key, value) in labels {
        text.push_str(&format!(",label.{key}={value}"));
    }
    for (word, path, usual) in [("ready", ready, READY), ("process", process, PROCESS)] {
        if let Some(path) = path.filter(|path| path != usual) {
            text.push_str(&format!(",{word}={path}"));
        }
    }
    Some(text)
}

/// Labels of the general.
fn labels(pod: &Pod<'_>, settings: &Settings, wrong: &mut Vec<String>) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    for key in &settings.copied_labels {
        if let Some(value) = pod.labels.and_then(|labels| labels.get(key)?.as_str()) {
            labels.insert(key.clone(), value.to_owned());
        }
    }
    // Annotations last: they win.
    for map in [pod.labels, pod.annotations].into_iter().flatten() {
        for (key, value) in map {
            let Some(label) = key.strip_prefix(PREFIX).and_then(|name| name.strip_prefix(LABEL)) else { continue };
            let value = value.as_str().unwrap_or_default();
            let fits = |text: &str| {
                text.len() <= LABEL_BYTES_MAX && !text.contains(',') && !text.chars().any(char::is_control)
            };
            if label.is_empty() || label.contains('=') || !fits(label) || !fits(value) {
                let key = quoted(key);
                wrong.push(format!(
                    "{key}: expected a name and a value of at most {LABEL_BYTES_MAX} bytes, without commas"
                ));
                continue;
            }
            labels.insert(label.to_owned(), value.to_owned());
        }
    }
    if labels.len() > LABELS_MAX {
        wrong.push(format!("there are {} labels of the general: expected at most {LABELS_MAX}", labels.len()));
    }
    labels
}

/// The general's container and port.
fn reached(pod: &Pod<'_>, wrong: &mut Vec<String>, warnings: &mut Vec<String>) -> (usize, Option<u16>) {
    let by_name = |name: &str| pod.containers.iter().position(|container| container["name"] == name);
    let named = match pod.ours("container") {
        Some(name) => {
            let found = by_name(name);
            if found.is_none() {
                wrong.push(format!("{PREFIX}container is {}: there is no container of that name", quoted(name)));
            }
            found
        }
        None => pod.annotation("kubectl.kubernetes.io/default-container").and_then(by_name),
    };
    let ports: Vec<(usize, Option<&str>, u16)> = pod
        .containers
        .iter()
        .enumerate()
        .filter(|(at, _)| named.is_none_or(|named| named == *at))
        .flat_map(|(at, container)| ports(container).map(move |(name, port)| (at, name, port)))
        .collect();
    let chosen = match pod.ours("port") {
        Some(text) => match text.parse::<u16>() {
            Ok(0) => None,
            Ok(port) => {
                let at = ports.iter().find(|(_, _, declared)| *declared == port).map(|(at, _, _)| *at);
                Some((at.or(named).unwrap_or(0), port))
            }
            Err(_) => ports.iter().find(|(_, name, _)| *name == Some(text)).map(|(at, _, port)| (*at, *port)),
        },
        None => match ports[..] {
            [] => {
                warnings.push(format!(
                    "no port is declared: the general is taken to be at {PORT}; {PREFIX}port says another"
                ));
                return (named.unwrap_or(0), Some(PORT));
            }
            [(at, _, port)] => Some((at, port)),
            _ => {
                let mut http = ports.iter().filter(|(_, name, _)| *name == Some("http"));
                match (http.next(), http.next()) {
                    (Some((at, _, port)), None) => Some((*at, *port)),
                    _ => {
                        wrong.push(format!("several ports are declared: say in {PREFIX}port which is the general's"));
                        return (0, None);
                    }
                }
            }
        },
    };
    match chosen {
        Some((at, port)) => (at, Some(port)),
        None => {
            let text = quoted(pod.ours("port").unwrap_or_default());
            wrong.push(format!(
                "{PREFIX}port is {text}: expected a number from 1 to 65535, or the name of a container's port"
            ));
            (0, None)
        }
    }
}

/// TCP ports that a container declares.
fn ports(container: &Value) -> impl Iterator<Item = (Option<&str>, u16)> {
    container["ports"].as_array().into_iter().flatten().filter_map(|port| {
        let is_tcp = matches!(port["protocol"].as_str(), None | Some("TCP"));
        let number = u16::try_from(port["containerPort"].as_u64()?).ok().filter(|number| *number > 0);
        is_tcp.then_some((port["name"].as_str(), number?))
    })
}

fn declares(container: &Value, number: u16) -> bool {
    ports(container).any(|(_, port)| port == number)
}

fn port_of(pod: &Pod<'_>, name: &str, wrong: &mut Vec<String>) -> Option<u16> {
    // Whoever runs as nobody may not listen below.
    parsed(pod, name, "a number from 1024 to 65535", wrong, |text| text.parse().ok().filter(|port| *port >= 1024))
}

/// An annotation as a value; where it is none, that is said.
fn parsed<T>(
    pod: &Pod<'_>,
    name: &str,
    accepted: &str,
    wrong: &mut Vec<String>,
    read: impl Fn(&str) -> Option<T>,
) -> Option<T> {
    let text = pod.ours(name)?;
    let value = read(text);
    if value.is_none() {
        wrong.push(format!("{PREFIX}{name} is {}: expected {accepted}", quoted(text)));
    }
    value
}

/// Names that nobody knows, which are most likely misspelt.
fn unknown(pod: &Pod<'_>) -> Vec<String> {
    let is_known = |name: &str| name.starts_with(LABEL) || OTHERS.contains(&name) || READ.contains(&name);
    let keys = [pod.annotations, pod.labels].into_iter().flatten().flat_map(Map::keys);
    let unknown = keys.filter(|key| key.strip_prefix(PREFIX).is_some_and(|name| !is_known(name)));
    unknown
        .map(|key| format!("{} has no meaning: see docs/kubernetes.md for what has", quoted(key)))
        .take(UNKNOWN_MAX)
        .collect()
}
