//! Routing tables as the API writes them, and back.

use std::sync::Arc;

use mindos_core::route::{LOAD_BALANCED_COUNT, Match, Pattern, Route, RouteTable, Targets};
use mindos_journal::encode::guard::{guards_from_message, guards_to_message, trust_from_message, trust_to_message};
use mindos_model::{Priority, RouteName, Strategy, limits};
use mindos_proto::convert::{Invalid, duration, parsed, span, word};
use mindos_proto::route::v1 as wire;

use super::route_policy;
use crate::routing::condition::Condition;

/// Reads a table, filling in its defaults; also names the routes that it starts paused.
pub(crate) fn read(table: wire::RouteTable) -> Result<(RouteTable, Vec<RouteName>), Invalid> {
    let mut paused = Vec::new();
    let mut routes = Vec::with_capacity(table.routes.len());
    for (index, route) in table.routes.into_iter().enumerate() {
        let is_paused = route.paused;
        let route = self::route(route).map_err(|error| error.within(&format!("routes[{index}]")))?;
        if is_paused {
            paused.push(route.name.clone());
        }
        routes.push(route);
    }
    let trust = trust_from_message(table.guards, table.own_logins)?;
    Ok((RouteTable { routes, trust }, paused))
}

pub(crate) fn route(mut route: wire::Route) -> Result<Route, Invalid> {
    let (coalesce, policy) = route_policy::read(&mut route)?;
    let wire::Route { name, r#match, targets, strategy, count, priority, .. } = route;
    let wire::Route { attempts_max, deadline, max_block, guards, .. } = route;
    let wire::RouteMatch { kinds, subjects, expr } = r#match.unwrap_or_default();
    let strategy = word::<wire::Strategy, Strategy>(strategy, "strategy")?;
    let strategy = strategy.ok_or_else(|| Invalid::new("strategy", "is required"))?;
    let or = |given: u32, default: u32| if given == 0 { default } else { given };
    Ok(Route {
        name: parsed(&name, "name")?,
        matches: Match {
            kinds: patterns(&kinds, "match.kinds")?,
            subjects: patterns(&subjects, "match.subjects")?,
            condition: condition(expr)?,
        },
        targets: self::targets(targets.unwrap_or_default())?,
        strategy,
        count: if strategy == Strategy::LoadBalanced { or(count, LOAD_BALANCED_COUNT) } else { 1 },
        coalesce,
        attempts_max: or(attempts_max, limits::ATTEMPTS_MAX),
        deadline: deadline.map_or(Ok(limits::DEADLINE), |span| duration(&span, "deadline"))?,
        priority: word::<wire::Priority, Priority>(priority, "priority")?.unwrap_or(Priority::Normal),
        block_max: max_block.map_or(Ok(limits::BLOCK_MAX), |span| duration(&span, "max_block"))?,
        guards: guards.map(guards_from_message).transpose()?.map(Box::new),
        policy,
    })
}

/// An expression that compiles; unset where there is none.
fn condition(text: String) -> Result<Option<Arc<str>>, Invalid> {
    if text.is_empty() {
        return Ok(None);
    }
    Condition::compile(&text).map_err(|error| Invalid::new("match.expr", error))?;
    Ok(Some(Arc::from(text)))
}

fn patterns(texts: &[String], field: &'static str) -> Result<Vec<Pattern>, Invalid> {
    few(texts.len(), 64, field)?;
    texts.iter().map(|text| Pattern::new(text).map_err(|error| Invalid::new(field, error))).collect()
}

pub(super) fn targets(targets: wire::RouteTargets) -> Result<Targets, Invalid> {
    let wire::RouteTargets { types, clusters, names, labels, regions, weights } = targets;
    for (count, field) in [
        (types.len(), "targets.types"),
        (clusters.len(), "targets.clusters"),
        (names.len(), "targets.names"),
        (regions.len(), "targets.regions"),
    ] {
        few(count, 64, field)?;
    }
    few(labels.len(), 16, "targets.labels")?;
    Ok(Targets {
        types: types.iter().map(|text| parsed(text, "targets.types")).collect::<Result<_, _>>()?,
        clusters: clusters.iter().map(|text| parsed(text, "targets.clusters")).collect::<Result<_, _>>()?,
        regions: regions.iter().map(|text| parsed(text, "targets.regions")).collect::<Result<_, _>>()?,
        names: names.iter().map(|text| parsed(text, "targets.names")).collect::<Result<_, _>>()?,
        labels: labels.into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
        weights: route_policy::weights(weights)?,
    })
}

pub(super) fn few(count: usize, max: usize, field: &'static str) -> Result<(), Invalid> {
    if count > max {
        return Err(Invalid::new(field, format!("there are {count}: expected at most {max}")));
    }
    Ok(())
}

/// Writes a table with all its values.
pub(crate) fn write(table: &RouteTable) -> wire::RouteTable {
    let (guards, own_logins) = trust_to_message(table.trust.as_deref());
    wire::RouteTable { routes: table.routes.iter().map(write_route).collect(), guards, own_logins }
}

fn write_route(route: &Route) -> wire::Route {
    let Route { name, matches, targets, strategy, count, coalesce, priority, policy, .. } = route;
    let Route { attempts_max, deadline, block_max, guards, .. } = route;
    let texts = |patterns: &[Pattern]| patterns.iter().map(|pattern| pattern.as_str().to_owned()).collect();
    let mut written = wire::Route {
        name: name.to_string(),
        r#match: Some(wire::RouteMatch {
            kinds: texts(&matches.kinds),
            subjects: texts(&matches.subjects),
            expr: matches.condition.as_deref().unwrap_or_default().to_owned(),
        }),
        targets: Some(write_targets(targets)),
        strategy: wire::Strategy::from(*strategy).into(),
        count: *count,
        attempts_max: *attempts_max,
        deadline: Some(span(*deadline)),
        max_block: Some(span(*block_max)),
        paused: false,
        guards: guards.as_deref().map(guards_to_message),
        priority: wire::Priority::from(*priority).into(),
        ..wire::Route::default()
    };
    route_policy::write(*coalesce, policy, &mut written);
    written
}

pub(super) fn write_targets(targets: &Targets) -> wire::RouteTargets {
    let Targets { types, clusters, regions, names, labels, weights } = targets;
    wire::RouteTargets {
        types: types.iter().map(ToString::to_string).collect(),
        clusters: clusters.iter().map(ToString::to_string).collect(),
        names: names.iter().map(ToString::to_string).collect(),
        labels: labels.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
        regions: regions.iter().map(ToString::to_string).collect(),
        weights: route_policy::write_weights(weights),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_read_back_as_written() {
        let stock = RouteTable::stock();
        assert_eq!(read(write(&stock)).unwrap(), (stock, Vec::new()));
    }

    #[test]
    fn defaults_are_filled_in() {
        let route = wire::Route {
            name: "all".to_owned(),
            strategy: wire::Strategy::LoadBalanced.into(),
            paused: true,
            ..wire::Route::default()
        };
        let (table, paused) = read(wire::RouteTable { routes: vec![route], ..wire::RouteTable::default() }).unwrap();
        let route = &table.routes[0];
        assert_eq!((route.count, route.attempts_max), (LOAD_BALANCED_COUNT, limits::ATTEMPTS_MAX));
        assert_eq!((route.deadline, route.block_max), (limits::DEADLINE, limits::BLOCK_MAX));
        assert_eq!(paused, std::slice::from_ref(&route.name));
    }

    #[test]
    fn what_is_malformed_is_named_with_its_place() {
        let route = wire::Route { name: "a".to_owned(), ..wire::Route::default() };
        let error = read(wire::RouteTable { routes: vec![route], ..wire::RouteTable::default() }).unwrap_err();
        assert_eq!(error.field, "routes[0].strategy");
    }
}
