//! `General`: a pool of identical agents of one type in its cluster.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

/// What a general is to be. The control plane knows it from here on, so that work waits for it while it has no instance.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Deserialize, Serialize)]
#[kube(
    group = "mindos.io",
    version = "v1alpha1",
    kind = "General",
    plural = "generals",
    singular = "general",
    namespaced,
    shortname = "gen",
    category = "mindos",
    status = "GeneralStatus",
    derive = "PartialEq",
    doc = "A general: a pool of identical agents of one type in this cluster.",
    printcolumn(
        name = "Type",
        type_ = "string",
        json_path = ".status.type",
        description = "Type, which routes go by."
    ),
    printcolumn(
        name = "Instances",
        type_ = "integer",
        json_path = ".status.instances",
        description = "Instances that are connected."
    ),
    printcolumn(
        name = "Ready",
        type_ = "integer",
        json_path = ".status.ready",
        description = "Instances that have slots and get work."
    ),
    printcolumn(
        name = "Waiting",
        type_ = "integer",
        json_path = ".status.waiting",
        description = "Deliveries that wait for it."
    ),
    printcolumn(
        name = "Running",
        type_ = "integer",
        json_path = ".status.running",
        description = "Deliveries that it works on."
    ),
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Accepted')].status",
        description = "Whether the control plane took it.",
        priority = "1"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.name) == has(oldSelf.name) && (!has(self.name) || self.name == oldSelf.name)").message("the name cannot change").field_path(".name")
)]
pub struct GeneralSpec {
    /// Name in the control plane, unique in the cluster. The object's own name where it is unset. Cannot change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$"))]
    pub name: Option<String>,
    /// Type that routes go by, such as `security-general`. The name where it is unset.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$"))]
    pub ty: Option<String>,
    /// Labels that targets of routes go by. Where there are none, what its instances say holds.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64, "additionalProperties" = {"type": "string", "maxLength": 256}))]
    pub labels: BTreeMap<String, String>,
    /// How many deliveries one instance works on at once.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 65536))]
    pub slots: u32,
    /// Bounds of its scaling by waiting work. Unset leaves its scale to others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<GeneralScale>,
    /// Gets no new work, and nothing new is given to it.
    #[serde(default)]
    pub drained: bool,
    /// Starts no work; events are accepted and wait.
    #[serde(default)]
    pub paused: bool,
}

impl Default for GeneralSpec {
    fn default() -> GeneralSpec {
        GeneralSpec {
            name: None,
            ty: None,
            labels: BTreeMap::new(),
            slots: 1,
            scale: None,
            drained: false,
            paused: false,
        }
    }
}

/// Bounds of scaling.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.min <= self.max").message("min is above max").field_path(".min"))]
pub struct GeneralScale {
    /// Fewest instances. 0 scales to nothing while no work waits.
    #[serde(default)]
    #[schemars(range(max = 10000))]
    pub min: u32,
    /// Most instances.
    #[serde(default = "ten")]
    #[schemars(range(min = 1, max = 10000))]
    pub max: u32,
    /// How long nothing must wait or run before the last instances go, such as `5m`.
    #[serde(default = "five_minutes")]
    #[schemars(regex(pattern = "^([0-9]{1,9}(ms|s|m|h|d))+$"))]
    pub idle: String,
}

impl Default for GeneralScale {
    fn default() -> GeneralScale {
        GeneralScale { min: 0, max: ten(), idle: five_minutes() }
    }
}

fn one() -> u32 {
    1
}

fn ten() -> u32 {
    10
}

fn five_minutes() -> String {
    "5m".to_owned()
}

/// How a general fares.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GeneralStatus {
    /// The generation of the spec that this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Accepted`: the control plane took the object. `Ready`: an instance gets work.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Name in the control plane.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Type.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub ty: Option<String>,
    /// Instances that are connected.
    #[serde(default)]
    pub instances: u32,
    /// Instances that have slots and get work.
    #[serde(default)]
    pub ready: u32,
    /// Instances whose stream is lost and that may be working still.
    #[serde(default)]
    pub unknown: u32,
    /// Slots of its instances.
    #[serde(default)]
    pub slots: u32,
    /// Deliveries that wait for it. Those that may still go elsewhere do not count.
    #[serde(default)]
    pub waiting: u64,
    /// Deliveries that it works on.
    #[serde(default)]
    pub running: u64,
    /// Deliveries that are set aside because its queue is full.
    #[serde(default)]
    pub parked: u64,
}
