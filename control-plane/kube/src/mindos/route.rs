//! `Route`: a rule of the routing table.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which events go to which generals. The fields are those of a routes file, written as Kubernetes writes names.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Deserialize, Serialize)]
#[kube(
    group = "mindos.io",
    version = "v1alpha1",
    kind = "Route",
    plural = "routes",
    singular = "route",
    namespaced,
    shortname = "mrt",
    category = "mindos",
    status = "RouteStatus",
    derive = "PartialEq",
    doc = "A rule of the routing table. The control plane takes it only where its settings grant routes to this cluster.",
    printcolumn(
        name = "Kinds",
        type_ = "string",
        json_path = ".spec.match.kinds",
        description = "Events it concerns."
    ),
    printcolumn(
        name = "Strategy",
        type_ = "string",
        json_path = ".spec.strategy",
        description = "How generals are chosen."
    ),
    printcolumn(
        name = "Place",
        type_ = "integer",
        json_path = ".status.place",
        description = "Its place in the table, from 1."
    ),
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Accepted')].status",
        description = "Whether the control plane took it."
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Accepted')].reason",
        priority = "1"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.name) == has(oldSelf.name) && (!has(self.name) || self.name == oldSelf.name)").message("the name cannot change").field_path(".name"),
    validation = Rule::new("self.strategy == 'Shadow' ? has(self.shadow) : !has(self.shadow)").message("shadow is needed with the strategy Shadow, and with no other").field_path(".shadow"),
    validation = Rule::new("self.coalesce == 'Debounce' ? has(self.debounceQuiet) && has(self.debounceLongest) : !has(self.debounceQuiet) && !has(self.debounceLongest)").message("debounceQuiet and debounceLongest are needed with the policy Debounce, and with no other").field_path(".coalesce"),
    validation = Rule::new("self.noGeneral == 'FallBack' ? has(self.fallBack) : !has(self.fallBack)").message("fallBack is needed with the policy FallBack, and with no other").field_path(".fallBack")
)]
pub struct RouteSpec {
    /// Name in the table. The object's own name where it is unset. Cannot change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$"))]
    pub name: Option<String>,
    /// Where it stands: `First` before the table's own routes, `Last` behind them and before the one that takes every event.
    #[serde(default)]
    pub placement: RoutePlacement,
    /// Its order among the routes of objects with the same placement: lower numbers come first, equal ones by their owner.
    #[serde(default = "hundred")]
    #[schemars(range(max = 1000))]
    pub order: u32,
    /// Which events it concerns. Unset fits every event.
    #[serde(default, rename = "match", skip_serializing_if = "Option::is_none")]
    pub matches: Option<RouteMatch>,
    /// Which generals it may send to. The control plane takes no route without any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub targets: Option<RouteTargets>,
    /// How generals are chosen.
    #[serde(default)]
    pub strategy: RouteStrategy,
    /// How many generals get the event under `LoadBalanced`; 3 where it is unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 64))]
    pub count: Option<u32>,
    /// What a newer event does to waiting work of its lane and kind.
    #[serde(default)]
    pub coalesce: RouteCoalesce,
    /// Under `Debounce`, how long nothing must have come before the newest event begins, such as `30s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^([0-9]{1,9}(ms|s|m|h|d))+$"))]
    pub debounce_quiet: Option<String>,
    /// Under `Debounce`, how long events may put the beginning off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^([0-9]{1,9}(ms|s|m|h|d))+$"))]
    pub debounce_longest: Option<String>,
    /// Class of the events that name none.
    #[serde(default)]
    pub priority: RoutePriority,
    /// After how many failed attempts a delivery is parked.
    #[serde(default = "five")]
    #[schemars(range(min = 1, max = 100))]
    pub attempts_max: u32,
    /// How long one attempt may take.
    #[serde(default = "half_an_hour")]
    #[schemars(regex(pattern = "^([0-9]{1,9}(ms|s|m|h|d))+$"))]
    pub deadline: String,
    /// How long the head of a lane may stand without a lease before it is parked as blocked.
    #[serde(default = "five_minutes")]
    #[schemars(regex(pattern = "^([0-9]{1,9}(ms|s|m|h|d))+$"))]
    pub max_block: String,
    /// How long a delivery may wait to be begun before it is cancelled as expired. Unset means for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^([0-9]{1,9}(ms|s|m|h|d))+$"))]
    pub ttl: Option<String>,
    /// Waits after failed attempts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<RouteRetry>,
    /// What becomes of an event when none of the generals is there.
    #[serde(default)]
    pub no_general: RouteNoGeneral,
    /// The other way, with the policy `FallBack`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fall_back: Option<RouteFallBack>,
    /// What is asked of an event's origin. Unset is as the table says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guards: Option<RouteGuards>,
    /// Under `Shadow`, which generals get the delivery whose effects are dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow: Option<RouteTargets>,
    /// Who takes the work while a budget is low.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub degrade: Vec<RouteDegrade>,
    /// The oldest version of agents that get its work, such as `1.4`. Unset takes every version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub version_min: Option<String>,
    /// Regions in which its work may be done. Empty is all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 63)))]
    pub residency: Vec<String>,
    /// Where its work may go, and where it rather goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<RouteAffinity>,
    /// How feedback on results weighs choices. Unset means not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feedback: Option<RouteFeedback>,
    /// Its events are accepted and wait.
    #[serde(default)]
    pub paused: bool,
}

impl Default for RouteSpec {
    fn default() -> RouteSpec {
        RouteSpec {
            name: None,
            placement: RoutePlacement::default(),
            order: hundred(),
            matches: None,
            targets: None,
            strategy: RouteStrategy::default(),
            count: None,
            coalesce: RouteCoalesce::default(),
            debounce_quiet: None,
            debounce_longest: None,
            priority: RoutePriority::default(),
            attempts_max: five(),
            deadline: half_an_hour(),
            max_block: five_minutes(),
            ttl: None,
            retry: None,
            no_general: RouteNoGeneral::default(),
            fall_back: None,
            guards: None,
            shadow: None,
            degrade: Vec::new(),
            version_min: None,
            residency: Vec::new(),
            affinity: None,
            feedback: None,
            paused: false,
        }
    }
}

/// Which events: those that fit all that is said.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteMatch {
    /// Words the event's kind may be. A trailing `*` stands for any rest. Empty fits every kind.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 256)))]
    pub kinds: Vec<String>,
    /// Patterns for the event's subject, in which a trailing `*` stands for any rest. Empty fits every subject.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 1024)))]
    pub subjects: Vec<String>,
    /// A CEL expression over the event that must be true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub expr: Option<String>,
}

/// Which generals: those that fit every list that is not empty, of which there is one at least.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteTargets {
    /// Types of generals.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 63)))]
    pub types: Vec<String>,
    /// Clusters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 63)))]
    pub clusters: Vec<String>,
    /// Names of generals within their cluster.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 63)))]
    pub names: Vec<String>,
    /// Regions of the clusters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 63)))]
    pub regions: Vec<String>,
    /// Labels that the general must carry with these values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16, "additionalProperties" = {"type": "string", "maxLength": 256}))]
    pub labels: BTreeMap<String, String>,
    /// Shares under `Split`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub weights: Vec<RouteWeight>,
}

/// The share of a target under `Split`.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteWeight {
    /// A general's name, its type, its cluster, or a label as `key=value`.
    #[schemars(length(min = 1, max = 512))]
    pub target: String,
    /// Its share of the lanes, in proportion to the sum of all.
    #[schemars(range(max = 1000))]
    pub weight: u32,
}

/// Waits after failed attempts.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteRetry {
    /// The first wait, which doubles; `1s` where it is unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^([0-9]{1,9}(ms|s|m|h|d))+$"))]
    pub first: Option<String>,
    /// The longest wait; `100s` where it is unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^([0-9]{1,9}(ms|s|m|h|d))+$"))]
    pub longest: Option<String>,
}

/// The other way of an event.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.route) != has(self.type)").message("one of route and type is needed"))]
pub struct RouteFallBack {
    /// By another route of the table, as if that one had matched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub route: Option<String>,
    /// To the least loaded general of this type.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub ty: Option<String>,
}

/// What is asked of an event's origin.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteGuards {
    /// Events that come from a fork of the repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forks: Option<RouteGuardAction>,
    /// Events that a program caused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bots: Option<RouteGuardAction>,
    /// Events that are an echo of our own doing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub echoes: Option<RouteGuardAction>,
    /// What the author of an event may be to the repository, such as `OWNER` and `MEMBER`, or `ANY`. Others are parked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 9), inner(length(max = 32)))]
    pub association: Vec<String>,
    /// How many events of ours may have led to an event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub hops_max: Option<u32>,
}

/// A cheaper general.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteDegrade {
    /// Name or type of those that give way. Unset means all of the route's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub from: Option<String>,
    /// Name or type of those that take their work.
    #[schemars(length(min = 1, max = 63))]
    pub to: String,
}

/// Where work may go, and where it rather goes.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteAffinity {
    /// Who is not there gets none of the work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub require: Option<RoutePlace>,
    /// Who gets it sooner.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub prefer: Vec<RoutePreference>,
}

/// A part of the fleet: what fits every list that is not empty.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RoutePlace {
    /// Clusters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 63)))]
    pub clusters: Vec<String>,
    /// Regions of clusters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 63)))]
    pub regions: Vec<String>,
    /// Labels that an instance or its cluster must carry with these values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16, "additionalProperties" = {"type": "string", "maxLength": 256}))]
    pub labels: BTreeMap<String, String>,
}

/// Where work rather goes.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.clusters) || has(self.regions) || has(self.labels)").message("one of clusters, regions and labels is needed"))]
pub struct RoutePreference {
    /// How much sooner.
    #[schemars(range(min = 1, max = 100))]
    pub weight: u32,
    /// Clusters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 63)))]
    pub clusters: Vec<String>,
    /// Regions of clusters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 63)))]
    pub regions: Vec<String>,
    /// Labels that the instance or its cluster must carry with these values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16, "additionalProperties" = {"type": "string", "maxLength": 256}))]
    pub labels: BTreeMap<String, String>,
}

/// How feedback weighs choices.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteFeedback {
    /// The most by which an opinion counts, in thousandths.
    #[schemars(range(min = 1, max = 500))]
    pub weight_permille: u32,
    /// The share of choices that is made without opinions, in thousandths; 50 where it is unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 10, max = 500))]
    pub floor_permille: Option<u32>,
}

macro_rules! words {
    ($(#[doc = $doc:literal] $name:ident: $first:ident $(, $other:ident)*;)*) => {$(
        #[doc = $doc]
        #[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
        pub enum $name {
            #[default]
            $first,
            $($other,)*
        }
    )*};
}

words! {
    /// Where a route of an object stands in the table.
    RoutePlacement: Last, First;
    /// How generals are chosen among the targets of a route.
    RouteStrategy: LoadBalanced, Broadcast, RoundRobin, Sticky, Failover, Race, Split, Shadow;
    /// What a newer event does to waiting work of its lane and kind.
    RouteCoalesce: Every, Latest, Debounce;
    /// The class in which deliveries wait.
    RoutePriority: Normal, Low, High;
    /// What becomes of an event when none of its route's generals is there.
    RouteNoGeneral: Wait, FallBack, Refuse;
    /// What a guard does with an event that it does not let pass.
    RouteGuardAction: Park, Drop, Allow;
}

fn five() -> u32 {
    5
}

fn hundred() -> u32 {
    100
}

fn half_an_hour() -> String {
    "30m".to_owned()
}

fn five_minutes() -> String {
    "5m".to_owned()
}

/// How a route fares.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteStatus {
    /// The generation of the spec that this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Accepted`: the control plane took the object. `Ready`: a general that it names is known.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Name in the table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its place in the table, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<u32>,
    /// Generals that it names and that are known.
    #[serde(default)]
    pub generals: u32,
}
