//! Objects of clusters as messages and back.

use std::sync::Arc;

use mindos_core::object::{Made, Object, ObjectKey, ObjectKind, ObjectRecord};
use mindos_core::record::{Holds, Labels, Record};
use mindos_model::TenantName;
use mindos_proto::cluster::v1 as cluster;
use mindos_proto::convert::{Invalid, parsed, required};
use mindos_proto::journal::v1::{self as pb, entry::Record as Kind};

use super::names::Names;
use super::{record, route};

pub(super) fn of_record(record: &ObjectRecord) -> Kind {
    match record {
        ObjectRecord::Applied { object, by, from } => Kind::ObjectApplied(pb::ObjectApplied {
            object: Some(of_object(object)),
            by: by.to_string(),
            from: from.to_string(),
        }),
        ObjectRecord::Removed { key, by, from } => Kind::ObjectRemoved(pb::ObjectRemoved {
            tenant: record::tenant(&key.tenant),
            cluster: key.cluster.to_string(),
            object: Some(of_key(key)),
            by: by.to_string(),
            from: from.to_string(),
        }),
    }
}

pub(super) fn read_applied(names: &mut Names, message: pb::ObjectApplied) -> Result<Record, Invalid> {
    let pb::ObjectApplied { object, by, from } = message;
    let object = read_object(names, required(object, "object")?)?;
    Ok(Record::Object(Box::new(ObjectRecord::Applied { object, by: Arc::from(by), from: Arc::from(from) })))
}

pub(super) fn read_removed(names: &mut Names, message: pb::ObjectRemoved) -> Result<Record, Invalid> {
    let pb::ObjectRemoved { tenant, cluster, object, by, from } = message;
    let key = read_key(names.tenant(&tenant)?, &cluster, required(object, "object")?)?;
    Ok(Record::Object(Box::new(ObjectRecord::Removed { key, by: Arc::from(by), from: Arc::from(from) })))
}

fn of_key(key: &ObjectKey) -> cluster::ObjectRef {
    let kind = match key.kind {
        ObjectKind::Cluster => cluster::ObjectKind::Cluster,
        ObjectKind::General => cluster::ObjectKind::General,
        ObjectKind::Route => cluster::ObjectKind::Route,
        ObjectKind::Budget => cluster::ObjectKind::Budget,
    };
    cluster::ObjectRef { kind: kind.into(), namespace: key.namespace.to_string(), name: key.name.to_string() }
}

fn read_key(tenant: TenantName, of: &str, object: cluster::ObjectRef) -> Result<ObjectKey, Invalid> {
    let cluster::ObjectRef { kind, namespace, name } = object;
    let kind = match cluster::ObjectKind::try_from(kind) {
        Ok(cluster::ObjectKind::Cluster) => ObjectKind::Cluster,
        Ok(cluster::ObjectKind::General) => ObjectKind::General,
        Ok(cluster::ObjectKind::Route) => ObjectKind::Route,
        Ok(cluster::ObjectKind::Budget) => ObjectKind::Budget,
        Ok(cluster::ObjectKind::Unspecified) | Err(_) => {
            return Err(Invalid::new("object.kind", format_args!("value {kind} is not known")));
        }
    };
    let cluster = parsed(of, "cluster")?;
    Ok(ObjectKey { tenant, cluster, kind, namespace: Arc::from(namespace), name: Arc::from(name) })
}

pub(super) fn of_object(object: &Object) -> pb::ObjectState {
    let Object { key, uid, generation, spec, made } = object;
    let mut state = pb::ObjectState {
        tenant: record::tenant(&key.tenant),
        cluster: key.cluster.to_string(),
        object: Some(of_key(key)),
        uid: uid.to_string(),
        generation: *generation,
        spec: spec.to_string(),
        ..pb::ObjectState::default()
    };
    let hold = |state: &mut pb::ObjectState, holds: &Holds| {
        let Holds { cordoned, paused, draining } = *holds;
        (state.cordoned, state.paused, state.draining) = (cordoned, paused, draining);
    };
    match made {
        Made::Cluster { region, labels, holds } => {
            state.region = region.as_ref().map(ToString::to_string).unwrap_or_default();
            state.labels = route::labels_to_message(labels);
            hold(&mut state, holds);
        }
        Made::General { name, ty, labels, holds } => {
            state.made = name.to_string();
            state.r#type = ty.as_ref().map(ToString::to_string).unwrap_or_default();
            state.labels = route::labels_to_message(labels);
            hold(&mut state, holds);
        }
        Made::Route { name, holds } => {
            state.made = name.to_string();
            hold(&mut state, holds);
        }
        Made::Budget { name } => state.made = name.to_string(),
    }
    state
}

pub(super) fn read_object(names: &mut Names, message: pb::ObjectState) -> Result<Arc<Object>, Invalid> {
    let pb::ObjectState { tenant, cluster, object, uid, generation, spec, made, region, r#type, labels, .. } = message;
    let (cordoned, paused, draining) = (message.cordoned, message.paused, message.draining);
    let key = read_key(names.tenant(&tenant)?, &cluster, required(object, "object")?)?;
    let labels: Labels = route::labels_from_message(labels);
    let holds = Holds { cordoned, paused, draining };
    fn maybe<T>(text: &str, field: &'static str) -> Result<Option<T>, Invalid>
    where
        T: std::str::FromStr,
        T::Err: std::fmt::Display,
    {
        if text.is_empty() { Ok(None) } else { parsed(text, field).map(Some) }
    }
    let made = match key.kind {
        ObjectKind::Cluster => Made::Cluster { region: maybe(&region, "region")?, labels, holds },
        ObjectKind::General => {
            Made::General { name: parsed(&made, "made")?, ty: maybe(&r#type, "type")?, labels, holds }
        }
        ObjectKind::Route => Made::Route { name: parsed(&made, "made")?, holds },
        ObjectKind::Budget => Made::Budget { name: parsed(&made, "made")? },
    };
    Ok(Arc::new(Object { key, uid: Arc::from(uid), generation, spec: Arc::from(spec), made }))
}
