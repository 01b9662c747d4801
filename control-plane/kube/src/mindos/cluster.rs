//! `Cluster`: the cluster that the object stands in, as the control plane is to see it.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

/// What a cluster says of itself. There is one in each, and it has the cluster's name.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[kube(
    group = "mindos.io",
    version = "v1alpha1",
    kind = "Cluster",
    plural = "clusters",
    singular = "cluster",
    shortname = "mcl",
    category = "mindos",
    status = "ClusterStatus",
    derive = "PartialEq",
    doc = "A cluster where generals run: its region, its labels and what holds it back. Its name is that of the cluster agent's certificate.",
    printcolumn(
        name = "Region",
        type_ = "string",
        json_path = ".spec.region",
        description = "Region, for residency and affinity."
    ),
    printcolumn(
        name = "Connected",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Connected')].status",
        description = "Whether the control plane is reached."
    ),
    printcolumn(
        name = "Generals",
        type_ = "integer",
        json_path = ".status.generals",
        description = "Generals that the control plane knows here."
    ),
    printcolumn(
        name = "Instances",
        type_ = "integer",
        json_path = ".status.instances",
        description = "Instances that are connected."
    ),
    printcolumn(name = "Drained", type_ = "boolean", json_path = ".spec.drained", description = "Gets no new work."),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct ClusterSpec {
    /// Region that residency and affinity of routes go by, such as `eu-west-1`. Where it is unset, what the agents of the cluster say holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$"))]
    pub region: Option<String>,
    /// Labels that targets and affinity of routes go by. Where there are none, what the agents of the cluster say holds.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64, "additionalProperties" = {"type": "string", "maxLength": 256}))]
    pub labels: BTreeMap<String, String>,
    /// Gets no new work, and gives back what it cannot finish in time.
    #[serde(default)]
    pub drained: bool,
    /// Starts no work; events for its generals are accepted and wait.
    #[serde(default)]
    pub paused: bool,
}

/// How a cluster fares.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterStatus {
    /// The generation of the spec that this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Accepted`: the control plane took the object. `Connected`: the control plane is reached. `Ready`: generals here get work.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Generals that the control plane knows here.
    #[serde(default)]
    pub generals: u32,
    /// Instances that are connected.
    #[serde(default)]
    pub instances: u32,
    /// Instances whose stream is lost and that may be working still.
    #[serde(default)]
    pub unknown: u32,
    /// Deliveries that wait for generals here. Those that may still go elsewhere do not count.
    #[serde(default)]
    pub waiting: u64,
    /// Deliveries that are worked on here.
    #[serde(default)]
    pub running: u64,
}
