//! Objects as they are known: no more of each than a decision takes.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::core::{ApiResource, DynamicObject};
use mindos_kube::mindos::{Budget, Cluster, FINALIZER, General, Route};
use mindos_proto::cluster::v1 as wire;
use serde_json::{Map, Value};

/// The kinds that are reconciled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Kind {
    Cluster,
    General,
    Route,
    Budget,
}

impl Kind {
    pub(super) const ALL: [Kind; 4] = [Kind::Cluster, Kind::General, Kind::Route, Kind::Budget];

    pub(super) fn resource(self) -> ApiResource {
        match self {
            Kind::Cluster => ApiResource::erase::<Cluster>(&()),
            Kind::General => ApiResource::erase::<General>(&()),
            Kind::Route => ApiResource::erase::<Route>(&()),
            Kind::Budget => ApiResource::erase::<Budget>(&()),
        }
    }

    /// Whether its objects stand in namespaces.
    pub(super) fn is_namespaced(self) -> bool {
        self != Kind::Cluster
    }

    pub(super) fn wire(self) -> wire::ObjectKind {
        match self {
            Kind::Cluster => wire::ObjectKind::Cluster,
            Kind::General => wire::ObjectKind::General,
            Kind::Route => wire::ObjectKind::Route,
            Kind::Budget => wire::ObjectKind::Budget,
        }
    }

    fn of_wire(number: i32) -> Option<Kind> {
        let kind = wire::ObjectKind::try_from(number).ok()?;
        Kind::ALL.into_iter().find(|known| known.wire() == kind)
    }
}

/// Names an object. Ordered so that clusters come before what is in them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Ref {
    pub(super) kind: Kind,
    /// Empty where it is in none.
    pub(super) namespace: String,
    pub(super) name: String,
}

impl std::fmt::Display for Ref {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} ", self.kind)?;
        if !self.namespace.is_empty() {
            write!(f, "{}/", self.namespace)?;
        }
        f.write_str(&self.name)
    }
}

impl Ref {
    pub(super) fn of(kind: Kind, object: &DynamicObject) -> Ref {
        let namespace = object.metadata.namespace.clone().unwrap_or_default();
        Ref { kind, namespace, name: object.metadata.name.clone().unwrap_or_default() }
    }

    pub(super) fn wire(&self) -> wire::ObjectRef {
        let (namespace, name) = (self.namespace.clone(), self.name.clone());
        wire::ObjectRef { kind: self.kind.wire().into(), namespace, name }
    }

    /// `None` for a kind that a later control plane has.
    pub(super) fn of_wire(object: wire::ObjectRef) -> Option<Ref> {
        let wire::ObjectRef { kind, namespace, name } = object;
        Some(Ref { kind: Kind::of_wire(kind)?, namespace, name })
    }
}

/// An object as the API server has it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Known {
    pub(super) uid: String,
    pub(super) generation: i64,
    /// As JSON.
    pub(super) spec: String,
    /// Since when it is to be deleted.
    pub(super) deleting: Option<Time>,
    pub(super) has_finalizer: bool,
    pub(super) conditions: Vec<Condition>,
    /// The rest of its status.
    pub(super) status: Map<String, Value>,
}

impl Known {
    pub(super) fn of(object: &DynamicObject) -> Known {
        let metadata = &object.metadata;
        let mut status = match object.data.get("status") {
            Some(Value::Object(status)) => status.clone(),
            _ => Map::new(),
        };
        let conditions = status.remove("conditions");
        // What somebody else wrote there and is none of ours is written anew.
        let conditions = conditions.and_then(|value| serde_json::from_value(value).ok()).unwrap_or_default();
        let empty = || Value::Object(Map::new());
        Known {
            uid: metadata.uid.clone().unwrap_or_default(),
            generation: metadata.generation.unwrap_or_default(),
            spec: object.data.get("spec").cloned().unwrap_or_else(empty).to_string(),
            deleting: metadata.deletion_timestamp.clone(),
            has_finalizer: metadata.finalizers.iter().flatten().any(|name| name == FINALIZER),
            conditions,
            status,
        }
    }
}

/// An object as the control plane holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) uid: String,
    pub(super) generation: i64,
    /// SHA-256 of its spec in lower case hex.
    pub(super) digest: String,
}

/// How an object fares at the control plane.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Stand {
    pub(super) uid: String,
    pub(super) generation: i64,
    pub(super) conditions: Vec<wire::Condition>,
    pub(super) status: Map<String, Value>,
}

impl Stand {
    pub(super) fn of(status: wire::ObjectStatus) -> Option<(Ref, Stand)> {
        let wire::ObjectStatus { object, uid, generation, conditions, status } = status;
        let of = Ref::of_wire(object?)?;
        let status = match serde_json::from_str(&status) {
            Ok(Value::Object(status)) => status,
            _ => Map::new(),
        };
        Some((of, Stand { uid, generation, conditions, status }))
    }
}

/// That the control plane does not take an object.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Refusal {
    pub(super) uid: String,
    pub(super) generation: i64,
    pub(super) reason: String,
    pub(super) message: String,
}
