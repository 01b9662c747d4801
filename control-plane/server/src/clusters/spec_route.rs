//! A route's spec as the message that the API has for it, and so as a route that was checked.

use mindos_core::route::Route;
use mindos_kube::duration;
use mindos_kube::mindos as kube;
use mindos_proto::convert::{Invalid, span};
use mindos_proto::route::v1 as wire;

use crate::grpc::read_route;

/// The route that a spec says.
pub(super) fn route(name: &str, spec: kube::RouteSpec) -> Result<Route, Invalid> {
    read_route(message(name, spec)?).map_err(|error| error.within("spec"))
}

fn time(text: &str, field: &'static str) -> Result<prost_types::Duration, Invalid> {
    duration::parse(text).map(span).map_err(|error| Invalid::new(field, error))
}

fn maybe(text: Option<&String>, field: &'static str) -> Result<Option<prost_types::Duration>, Invalid> {
    text.map(|text| time(text, field)).transpose()
}

fn message(name: &str, spec: kube::RouteSpec) -> Result<wire::Route, Invalid> {
    let kube::RouteSpec {
        name: _,
        placement: _,
        order: _,
        matches,
        targets,
        strategy,
        count,
        coalesce,
        debounce_quiet,
        debounce_longest,
        priority,
        attempts_max,
        deadline,
        max_block,
        ttl,
        retry,
        no_general,
        fall_back,
        guards,
        shadow,
        degrade,
        version_min,
        residency,
        affinity,
        feedback,
        // A hold, not a part of the table.
        paused: _,
    } = spec;
    let kube::RouteRetry { first, longest } = retry.unwrap_or_default();
    Ok(wire::Route {
        name: name.to_owned(),
        r#match: matches.map(|kube::RouteMatch { kinds, subjects, expr }| wire::RouteMatch {
            kinds,
            subjects,
            expr: expr.unwrap_or_default(),
        }),
        targets: targets.map(self::targets),
        strategy: (match strategy {
            kube::RouteStrategy::Broadcast => wire::Strategy::Broadcast,
            kube::RouteStrategy::RoundRobin => wire::Strategy::RoundRobin,
            kube::RouteStrategy::LoadBalanced => wire::Strategy::LoadBalanced,
            kube::RouteStrategy::Sticky => wire::Strategy::Sticky,
            kube::RouteStrategy::Failover => wire::Strategy::Failover,
            kube::RouteStrategy::Race => wire::Strategy::Race,
            kube::RouteStrategy::Split => wire::Strategy::Split,
            kube::RouteStrategy::Shadow => wire::Strategy::Shadow,
        })
        .into(),
        count: count.unwrap_or_default(),
        coalesce: (match coalesce {
            kube::RouteCoalesce::Every => wire::CoalescePolicy::Every,
            kube::RouteCoalesce::Latest => wire::CoalescePolicy::Latest,
            kube::RouteCoalesce::Debounce => wire::CoalescePolicy::Debounce,
        })
        .into(),
        debounce_quiet: maybe(debounce_quiet.as_ref(), "spec.debounceQuiet")?,
        debounce_longest: maybe(debounce_longest.as_ref(), "spec.debounceLongest")?,
        priority: (match priority {
            kube::RoutePriority::Low => wire::Priority::Low,
            kube::RoutePriority::Normal => wire::Priority::Normal,
            kube::RoutePriority::High => wire::Priority::High,
        })
        .into(),
        attempts_max,
        deadline: Some(time(&deadline, "spec.deadline")?),
        max_block: Some(time(&max_block, "spec.maxBlock")?),
        ttl: maybe(ttl.as_ref(), "spec.ttl")?,
        retry_first: maybe(first.as_ref(), "spec.retry.first")?,
        retry_longest: maybe(longest.as_ref(), "spec.retry.longest")?,
        no_general: (match no_general {
            kube::RouteNoGeneral::Wait => wire::NoGeneralPolicy::Wait,
            kube::RouteNoGeneral::FallBack => wire::NoGeneralPolicy::FallBack,
            kube::RouteNoGeneral::Refuse => wire::NoGeneralPolicy::Refuse,
        })
        .into(),
        fall_back: fall_back.map(self::fall_back).transpose()?,
        guards: guards.map(self::guards),
        shadow: shadow.map(self::targets),
        degrade: degrade
            .into_iter()
            .map(|kube::RouteDegrade { from, to }| wire::RouteDegrade { from: from.unwrap_or_default(), to })
            .collect(),
        version_min: version_min.unwrap_or_default(),
        residency,
        affinity: affinity.map(|kube::RouteAffinity { require, prefer }| wire::RouteAffinity {
            require: require.map(|kube::RoutePlace { clusters, regions, labels }| wire::RoutePlace {
                clusters,
                regions,
                labels,
            }),
            prefer: prefer
                .into_iter()
                .map(|kube::RoutePreference { weight, clusters, regions, labels }| wire::RoutePreference {
                    weight,
                    clusters,
                    regions,
                    labels,
                })
                .collect(),
        }),
        feedback: feedback.map(|kube::RouteFeedback { weight_permille, floor_permille }| wire::FeedbackWeight {
            weight_permille,
            floor_permille: floor_permille.unwrap_or_default(),
        }),
        ..wire::Route::default()
    })
}

fn targets(targets: kube::RouteTargets) -> wire::RouteTargets {
    let kube::RouteTargets { types, clusters, names, regions, labels, weights } = targets;
    let weights = weights.into_iter().map(|kube::RouteWeight { target, weight }| wire::TargetWeight { target, weight });
    wire::RouteTargets { types, clusters, names, labels, regions, weights: weights.collect() }
}

fn fall_back(way: kube::RouteFallBack) -> Result<wire::route::FallBack, Invalid> {
    match way {
        kube::RouteFallBack { route: Some(route), ty: None } => Ok(wire::route::FallBack::FallBackRoute(route)),
        kube::RouteFallBack { route: None, ty: Some(ty) } => Ok(wire::route::FallBack::FallBackType(ty)),
        kube::RouteFallBack { .. } => Err(Invalid::new("spec.fallBack", "expected one of route and type")),
    }
}

fn guards(guards: kube::RouteGuards) -> wire::RouteGuards {
    let kube::RouteGuards { forks, bots, echoes, association, hops_max } = guards;
    let action = |action: Option<kube::RouteGuardAction>| -> i32 {
        match action {
            None => wire::GuardAction::Unspecified,
            Some(kube::RouteGuardAction::Allow) => wire::GuardAction::Allow,
            Some(kube::RouteGuardAction::Park) => wire::GuardAction::Park,
            Some(kube::RouteGuardAction::Drop) => wire::GuardAction::Drop,
        }
        .into()
    };
    wire::RouteGuards {
        forks: action(forks),
        bots: action(bots),
        echoes: action(echoes),
        association,
        hops_max: hops_max.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(spec: &str) -> Result<Route, Invalid> {
        route("mine", serde_json::from_str(spec).unwrap())
    }

    #[test]
    fn a_spec_is_the_route_that_a_file_would_say() {
        let route = read(
            r#"{"match":{"kinds":["pr_*"],"expr":"actor != ''"},"targets":{"types":["t"],"labels":{"a":"b"}},
                "strategy":"LoadBalanced","count":2,"coalesce":"Debounce","debounceQuiet":"2s","debounceLongest":"1m",
                "deadline":"10m","ttl":"1h","retry":{"first":"2s"},"noGeneral":"FallBack","fallBack":{"type":"u"},
                "guards":{"forks":"Park","hopsMax":3},"residency":["eu"],"versionMin":"1.4",
                "affinity":{"prefer":[{"weight":40,"regions":["eu"]}]},"degrade":[{"to":"cheap"}]}"#,
        )
        .unwrap();
        let file = "{routes: [{name: mine, match: {kinds: ['pr_*'], expr: \"actor != ''\"}, targets: {types: [t], labels: {a: b}},
            strategy: load_balanced, count: 2, coalesce: debounce, debounce_quiet: 2s, debounce_longest: 60s,
            deadline: 600s, ttl: 3600s, retry_first: 2s, no_general: fall_back, fall_back_type: u,
            guards: {forks: park, hops_max: 3}, residency: [eu], version_min: '1.4', priority: normal,
            affinity: {prefer: [{weight: 40, regions: [eu]}]}, degrade: [{to: cheap}]},
            {name: rest, targets: {types: [t]}, strategy: load_balanced}]}";
        let table = crate::routing::file::parse(file).unwrap();
        let (table, _) = crate::grpc::read_routes(table).unwrap();
        assert_eq!(route, table.routes[0]);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_field() {
        for (spec, field) in [
            (r#"{"deadline":"soon"}"#, "spec.deadline"),
            (r#"{"match":{"expr":"1 +"}}"#, "spec.match.expr"),
            (r#"{"coalesce":"Debounce"}"#, "spec.debounce_quiet"),
            (r#"{"fallBack":{}}"#, "spec.fallBack"),
            (r#"{"targets":{"types":["NO"]}}"#, "spec.targets.types"),
        ] {
            let error = read(spec).unwrap_err().to_string();
            assert!(error.starts_with(field), "{spec}: {error}");
        }
    }
}
