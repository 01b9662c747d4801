//! What the spec of an object means here.
//!
//! Invariant: what comes out was checked as if a person had asked for it.

use std::collections::BTreeMap;
use std::sync::Arc;

use mindos_core::budget::{Budget, Limit, Period, Scope, Thresholds};
use mindos_core::object::{Made, ObjectKey, ObjectKind};
use mindos_core::record::{Holds, Labels};
use mindos_core::route::Route;
use mindos_kube::duration;
use mindos_kube::mindos::{
    BudgetPeriod, BudgetScope, BudgetScopeKind, BudgetSpec, ClusterSpec, GeneralSpec, RoutePlacement, RouteSpec,
    cost_micros,
};
use mindos_model::limits::ATTRIBUTE_MAX;
use mindos_proto::convert::{Invalid, parsed};
use serde::de::DeserializeOwned;

/// What an object means.
#[derive(Debug)]
pub(crate) struct Meant {
    pub(crate) made: Made,
    pub(crate) with: Brings,
}

/// What it brings along.
#[derive(Debug)]
pub(crate) enum Brings {
    Nothing,
    Route { placement: RoutePlacement, order: u32, route: Box<Route> },
    Budget(Arc<Budget>),
}

/// Reads a spec.
///
/// # Errors
/// Names the field and what is accepted.
pub(crate) fn read(key: &ObjectKey, spec: &str) -> Result<Meant, Invalid> {
    match key.kind {
        ObjectKind::Cluster => cluster(json(spec)?),
        ObjectKind::General => general(key, json(spec)?),
        ObjectKind::Route => route(key, json(spec)?),
        ObjectKind::Budget => budget(key, json(spec)?),
    }
}

fn json<T: DeserializeOwned>(spec: &str) -> Result<T, Invalid> {
    serde_json::from_str(spec).map_err(|error| Invalid::new("spec", error))
}

/// The name in the control plane.
fn named<T>(name: Option<&str>, key: &ObjectKey) -> Result<T, Invalid>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    match name {
        Some(name) => parsed(name, "spec.name"),
        None => parsed(&key.name, "metadata.name"),
    }
}

fn labels(labels: BTreeMap<String, String>) -> Result<Labels, Invalid> {
    let fits = |text: &String| text.len() <= ATTRIBUTE_MAX;
    if labels.len() > 64 || !labels.iter().all(|(key, value)| !key.is_empty() && fits(key) && fits(value)) {
        let accepted = format_args!("expected at most 64 with keys and values of at most {ATTRIBUTE_MAX} bytes");
        return Err(Invalid::new("spec.labels", accepted));
    }
    Ok(labels.into_iter().map(|(key, value)| (key.into(), value.into())).collect())
}

fn holds(drained: bool, paused: bool) -> Holds {
    Holds { draining: drained, paused, ..Holds::NONE }
}

fn cluster(spec: ClusterSpec) -> Result<Meant, Invalid> {
    let ClusterSpec { region, labels, drained, paused } = spec;
    let region = region.map(|region| parsed(&region, "spec.region")).transpose()?;
    let made = Made::Cluster { region, labels: self::labels(labels)?, holds: holds(drained, paused) };
    Ok(Meant { made, with: Brings::Nothing })
}

fn general(key: &ObjectKey, spec: GeneralSpec) -> Result<Meant, Invalid> {
    let GeneralSpec { name, ty, labels, slots, scale, drained, paused } = spec;
    if !(1..=mindos_model::limits::SLOTS_MAX).contains(&slots) {
        return Err(Invalid::new("spec.slots", format_args!("is {slots}: expected 1 to 65536")));
    }
    if let Some(scale) = scale {
        if scale.min > scale.max || scale.max == 0 {
            let accepted =
                format_args!("is {} with max {}: expected 0 to max, and max 1 to 10000", scale.min, scale.max);
            return Err(Invalid::new("spec.scale.min", accepted));
        }
        duration::parse(&scale.idle).map_err(|error| Invalid::new("spec.scale.idle", error))?;
    }
    let name = named(name.as_deref(), key)?;
    let ty = ty.map(|ty| parsed(&ty, "spec.type")).transpose()?;
    let made = Made::General { name, ty, labels: self::labels(labels)?, holds: holds(drained, paused) };
    Ok(Meant { made, with: Brings::Nothing })
}

fn route(key: &ObjectKey, spec: RouteSpec) -> Result<Meant, Invalid> {
    let name: mindos_model::RouteName = named(spec.name.as_deref(), key)?;
    let (placement, order, paused) = (spec.placement, spec.order, spec.paused);
    let route = super::spec_route::route(name.as_str(), spec)?;
    let holds = holds(false, paused);
    let with = Brings::Route { placement, order, route: Box::new(route) };
    Ok(Meant { made: Made::Route { name, holds }, with })
}

fn budget(key: &ObjectKey, spec: BudgetSpec) -> Result<Meant, Invalid> {
    let BudgetSpec {
        name,
        scope,
        period,
        cost,
        tokens,
        time,
        warn_percent,
        act_percent,
        pause_percent,
        priority_kinds,
    } = spec;
    let name: mindos_model::BudgetName = named(name.as_deref(), key)?;
    let BudgetScope { kind, value } = scope;
    let value = value.filter(|value| !value.is_empty());
    let needed = || value.clone().ok_or_else(|| Invalid::new("spec.scope.value", "is required for this kind of scope"));
    let scope = match kind {
        BudgetScopeKind::Tenant | BudgetScopeKind::Run if value.is_some() => {
            return Err(Invalid::new(
                "spec.scope.value",
                "is accepted with Repository, GeneralType, Route and Replay only",
            ));
        }
        BudgetScopeKind::Tenant => Scope::Tenant,
        BudgetScopeKind::Run => Scope::Run,
        BudgetScopeKind::Repository => Scope::Repository(needed()?.into()),
        BudgetScopeKind::GeneralType => Scope::GeneralType(parsed(&needed()?, "spec.scope.value")?),
        BudgetScopeKind::Route => Scope::Route(parsed(&needed()?, "spec.scope.value")?),
        BudgetScopeKind::Replay => Scope::Replay(value.unwrap_or_default().into()),
    };
    let period = match period {
        BudgetPeriod::Hour => Period::Hour,
        BudgetPeriod::Day => Period::Day,
        BudgetPeriod::Month => Period::Month,
        BudgetPeriod::Total => Period::Total,
    };
    let micros = cost.map(|cost| cost_micros(&cost)).transpose().map_err(|error| Invalid::new("spec.cost", error))?;
    let time = time.map(|time| duration::parse(&time)).transpose().map_err(|error| Invalid::new("spec.time", error))?;
    let time_ms = time.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    let budget = Budget {
        name: name.clone(),
        scope,
        period,
        limit: Limit { micros, tokens, time_ms },
        thresholds: Thresholds { warn: warn_percent, act: act_percent, pause: pause_percent },
        priority: priority_kinds.into_iter().map(Arc::from).collect(),
    };
    budget.check().map_err(|error| Invalid::new("spec", error))?;
    Ok(Meant { made: Made::Budget { name }, with: Brings::Budget(Arc::new(budget)) })
}

#[cfg(test)]
mod tests {
    use mindos_model::TenantName;

    use super::*;

    fn key(kind: ObjectKind) -> ObjectKey {
        let (tenant, cluster) = (TenantName::default_tenant(), "eu".parse().unwrap());
        ObjectKey { tenant, cluster, kind, namespace: "a".into(), name: "security".into() }
    }

    fn refused(kind: ObjectKind, spec: &str) -> String {
        read(&key(kind), spec).unwrap_err().to_string()
    }

    #[test]
    fn a_general_has_its_objects_name_unless_it_says_another() {
        let named = |spec| match read(&key(ObjectKind::General), spec).unwrap().made {
            Made::General { name, ty, .. } => (name.to_string(), ty.map(|ty| ty.to_string())),
            other => panic!("{other:?}"),
        };
        assert_eq!(named("{}"), ("security".to_owned(), None));
        assert_eq!(
            named(r#"{"name":"sec","type":"security-general"}"#),
            ("sec".to_owned(), Some("security-general".to_owned()))
        );
        assert!(refused(ObjectKind::General, r#"{"slots":0}"#).starts_with("spec.slots"));
        assert!(refused(ObjectKind::General, r#"{"scale":{"min":3,"max":2}}"#).starts_with("spec.scale.min"));
        assert!(refused(ObjectKind::General, "[").starts_with("spec"));
    }

    #[test]
    fn a_budget_is_read_with_its_defaults() {
        let spec = r#"{"scope":{"kind":"Repository","value":"acme/shop"},"cost":"12.5","time":"2h"}"#;
        let Brings::Budget(budget) = read(&key(ObjectKind::Budget), spec).unwrap().with else { panic!() };
        assert_eq!(budget.scope, Scope::Repository("acme/shop".into()));
        assert_eq!(budget.limit, Limit { micros: Some(12_500_000), tokens: None, time_ms: Some(7_200_000) });
        assert_eq!((budget.period, budget.thresholds), (Period::Month, Thresholds::default()));
        for (spec, field) in [
            ("{}", "spec"),
            (r#"{"cost":"1e9"}"#, "spec.cost"),
            (r#"{"tokens":1,"scope":{"kind":"Route"}}"#, "spec.scope.value"),
            (r#"{"tokens":1,"scope":{"kind":"Run","value":"x"}}"#, "spec.scope.value"),
            (r#"{"tokens":1,"scope":{"kind":"Run"},"period":"Day"}"#, "spec"),
            (r#"{"tokens":9007199254740993}"#, "spec"),
        ] {
            let error = refused(ObjectKind::Budget, spec);
            assert!(error.starts_with(field), "{spec}: {error}");
        }
    }
}
