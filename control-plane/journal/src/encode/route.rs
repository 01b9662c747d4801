//! Routing tables as messages and back, with everything said and nothing left to defaults.

use std::sync::Arc;
use std::time::Duration;

use mindos_core::record::Labels;
use mindos_core::route::{Match, Pattern, Route, RouteTable, Targets};
use mindos_model::Strategy;
use mindos_proto::convert::{Invalid, duration, parsed, required, span, word};
use mindos_proto::route::v1 as pb;

use super::{guard, policy, words};

pub(crate) fn table_to_message(table: &RouteTable) -> pb::RouteTable {
    let (guards, own_logins) = guard::trust_to_message(table.trust.as_deref());
    pb::RouteTable { routes: table.routes.iter().map(to_message).collect(), guards, own_logins }
}

pub(crate) fn table_from_message(table: pb::RouteTable) -> Result<RouteTable, Invalid> {
    let routes = table.routes.into_iter().map(from_message).collect::<Result<_, _>>()?;
    Ok(RouteTable { routes, trust: guard::trust_from_message(table.guards, table.own_logins)? })
}

pub(crate) fn to_message(route: &Route) -> pb::Route {
    let Route {
        name,
        matches: Match { kinds, subjects, condition },
        targets,
        strategy,
        count,
        coalesce,
        priority,
        attempts_max,
        deadline,
        block_max,
        guards,
        policy,
    } = route;
    let texts = |patterns: &[Pattern]| patterns.iter().map(|pattern| pattern.as_str().to_owned()).collect();
    let mut message = pb::Route {
        name: name.to_string(),
        r#match: Some(pb::RouteMatch {
            kinds: texts(kinds),
            subjects: texts(subjects),
            expr: condition.as_deref().unwrap_or_default().to_owned(),
        }),
        targets: Some(targets_to_message(targets)),
        strategy: pb::Strategy::from(*strategy) as i32,
        count: *count,
        attempts_max: *attempts_max,
        deadline: Some(span(*deadline)),
        max_block: Some(span(*block_max)),
        paused: false,
        guards: guards.as_deref().map(guard::guards_to_message),
        priority: words::of_priority(*priority),
        ..pb::Route::default()
    };
    policy::put(policy, *coalesce, &mut message);
    message
}

pub(crate) fn targets_to_message(targets: &Targets) -> pb::RouteTargets {
    let Targets { types, clusters, regions, names, labels, weights: _ } = targets;
    pb::RouteTargets {
        types: types.iter().map(ToString::to_string).collect(),
        clusters: clusters.iter().map(ToString::to_string).collect(),
        names: names.iter().map(ToString::to_string).collect(),
        labels: labels.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect(),
        regions: regions.iter().map(ToString::to_string).collect(),
        weights: policy::weights_to_message(targets),
    }
}

pub(crate) fn from_message(mut route: pb::Route) -> Result<Route, Invalid> {
    let (policy, coalesce) = policy::take(&mut route)?;
    let pb::Route {
        name,
        r#match,
        targets,
        strategy,
        count,
        attempts_max,
        deadline,
        max_block,
        priority,
        guards,
        // The policy is read already; what holds a route is a record of its own.
        ..
    } = route;
    let pb::RouteMatch { kinds, subjects, expr } = r#match.unwrap_or_default();
    let patterns = |texts: Vec<String>, field: &'static str| -> Result<Vec<Pattern>, Invalid> {
        texts.iter().map(|text| Pattern::new(text).map_err(|error| Invalid::new(field, error))).collect()
    };
    let time = |span: Option<prost_types::Duration>, field: &'static str| -> Result<Duration, Invalid> {
        duration(&required(span, field)?, field)
    };
    Ok(Route {
        name: parsed(&name, "name")?,
        matches: Match {
            kinds: patterns(kinds, "kinds")?,
            subjects: patterns(subjects, "subjects")?,
            condition: (!expr.is_empty()).then(|| Arc::from(expr)),
        },
        targets: targets_from_message(targets.unwrap_or_default())?,
        strategy: required(word::<pb::Strategy, Strategy>(strategy, "strategy")?, "strategy")?,
        count,
        coalesce,
        priority: words::priority(priority)?,
        attempts_max,
        deadline: time(deadline, "deadline")?,
        block_max: time(max_block, "max_block")?,
        guards: guards.map(guard::guards_from_message).transpose()?.map(Box::new),
        policy,
    })
}

pub(crate) fn targets_from_message(targets: pb::RouteTargets) -> Result<Targets, Invalid> {
    let pb::RouteTargets { types, clusters, names, labels, regions, weights } = targets;
    Ok(Targets {
        types: all(&types, "types")?,
        clusters: all(&clusters, "clusters")?,
        regions: all(&regions, "regions")?,
        names: all(&names, "names")?,
        labels: labels.into_iter().map(|(key, value)| (Arc::from(key), Arc::from(value))).collect(),
        weights: policy::weights_from_message(weights),
    })
}

fn all<T>(texts: &[String], field: &'static str) -> Result<Vec<T>, Invalid>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    texts.iter().map(|text| parsed(text, field)).collect()
}

pub(crate) fn labels_to_message(labels: &Labels) -> std::collections::BTreeMap<String, String> {
    labels.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
}

pub(crate) fn labels_from_message(labels: std::collections::BTreeMap<String, String>) -> Labels {
    labels.into_iter().map(|(key, value)| (Arc::from(key), Arc::from(value))).collect()
}
