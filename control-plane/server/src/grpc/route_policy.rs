//! Policies of routes as the API writes them, and back: with defaults filled in, and what does not belong together refused.

use std::time::Duration;

use mindos_core::feedback::FeedbackRule;
use mindos_core::route::{Coalesce, DEGRADE_MAX, NoGeneral, Policy, Retry, Weight};
use mindos_journal::encode::policy::{degrade_from_message, degrade_to_message, version_from_message};
use mindos_journal::encode::siting::{affinity_from_message, affinity_to_message, residency_from_message};
use mindos_proto::convert::{Invalid, duration, parsed, span};
use mindos_proto::route::v1 as wire;
use mindos_proto::route::v1::route::FallBack;

use super::route_table::{few, targets, write_targets};

/// Reads the coalescing and the policy of a route; takes what it reads out of the message.
pub(super) fn read(route: &mut wire::Route) -> Result<(Coalesce, Policy), Invalid> {
    let time = |span: &Option<prost_types::Duration>, field| -> Result<Option<Duration>, Invalid> {
        span.as_ref().map(|span| duration(span, field)).transpose()
    };
    let quiet = time(&route.debounce_quiet, "debounce_quiet")?;
    let longest = time(&route.debounce_longest, "debounce_longest")?;
    let coalesce = match (wire::CoalescePolicy::try_from(route.coalesce), quiet, longest) {
        (Ok(wire::CoalescePolicy::Debounce), Some(quiet), Some(longest)) => Coalesce::Debounce { quiet, longest },
        (Ok(wire::CoalescePolicy::Debounce), None, _) => {
            return Err(Invalid::new("debounce_quiet", "is required with debounce: expected 100 ms to 1 h"));
        }
        (Ok(wire::CoalescePolicy::Debounce), _, None) => {
            return Err(Invalid::new("debounce_longest", "is required with debounce: expected debounce_quiet to 24 h"));
        }
        (_, Some(_), _) => return Err(Invalid::new("debounce_quiet", "is accepted with the policy debounce only")),
        (_, _, Some(_)) => return Err(Invalid::new("debounce_longest", "is accepted with the policy debounce only")),
        (Ok(wire::CoalescePolicy::Unspecified | wire::CoalescePolicy::Every), ..) => Coalesce::Every,
        (Ok(wire::CoalescePolicy::Latest), ..) => Coalesce::Latest,
        (Err(_), ..) => return Err(Invalid::new("coalesce", format!("value {} is not known", route.coalesce))),
    };
    let usual = Retry::default();
    let first = time(&route.retry_first, "retry_first")?.unwrap_or(usual.first);
    // One that is set above the usual longest raises that too.
    let longest = time(&route.retry_longest, "retry_longest")?.unwrap_or(usual.longest.max(first));
    let shadow = route.shadow.take().map(targets).transpose().map_err(|error| error.within("shadow"))?;
    let ttl = time(&route.ttl, "ttl")?;
    few(route.degrade.len(), DEGRADE_MAX, "degrade")?;
    let degrade = degrade_from_message(std::mem::take(&mut route.degrade));
    let version_min = version_from_message(&route.version_min)?;
    let feedback = route.feedback.take().map(|wire::FeedbackWeight { weight_permille, floor_permille }| FeedbackRule {
        weight: weight_permille,
        floor: if floor_permille == 0 { FEEDBACK_FLOOR } else { floor_permille },
    });
    let (retry, no_general) = (Retry { first, longest }, no_general(route)?);
    let residency = residency_from_message(&route.residency)?;
    let affinity = route.affinity.take().map(affinity_from_message).transpose()?.map(Box::new);
    let policy = Policy { shadow, ttl, retry, no_general, degrade, version_min, feedback, residency, affinity };
    Ok((coalesce, policy))
}

/// Share of choices made without opinions where nothing is said, in thousandths.
const FEEDBACK_FLOOR: u32 = 50;

fn no_general(route: &mut wire::Route) -> Result<NoGeneral, Invalid> {
    use wire::NoGeneralPolicy as Word;
    let unknown = || Invalid::new("no_general", format!("value {} is not known", route.no_general));
    let word = Word::try_from(route.no_general).map_err(|_| unknown())?;
    match (word, route.fall_back.take()) {
        (Word::Unspecified | Word::Wait, None) => Ok(NoGeneral::Wait),
        (Word::Refuse, None) => Ok(NoGeneral::Refuse),
        // Who names a way back wants it taken.
        (Word::Unspecified | Word::FallBack, Some(FallBack::FallBackRoute(name))) => {
            Ok(NoGeneral::FallBackRoute(parsed(&name, "fall_back_route")?))
        }
        (Word::Unspecified | Word::FallBack, Some(FallBack::FallBackType(ty))) => {
            Ok(NoGeneral::FallBackType(parsed(&ty, "fall_back_type")?))
        }
        (Word::FallBack, None) => {
            Err(Invalid::new("no_general", "fall_back needs a way: expected fall_back_route or fall_back_type"))
        }
        (Word::Wait | Word::Refuse, Some(_)) => {
            Err(Invalid::new("no_general", "expected fall_back where a way to fall back is given"))
        }
    }
}

/// Reads the shares of a split.
pub(super) fn weights(weights: Vec<wire::TargetWeight>) -> Result<Vec<Weight>, Invalid> {
    few(weights.len(), 64, "targets.weights")?;
    let weight = |wire::TargetWeight { target, weight }| Weight { target: target.into(), weight };
    Ok(weights.into_iter().map(weight).collect())
}

pub(super) fn write_weights(weights: &[Weight]) -> Vec<wire::TargetWeight> {
    let weight =
        |Weight { target, weight }: &Weight| wire::TargetWeight { target: target.to_string(), weight: *weight };
    weights.iter().map(weight).collect()
}

/// Writes what differs from the usual.
pub(super) fn write(coalesce: Coalesce, policy: &Policy, route: &mut wire::Route) {
    let (word, quiet, longest) = match coalesce {
        Coalesce::Every => (wire::CoalescePolicy::Every, None, None),
        Coalesce::Latest => (wire::CoalescePolicy::Latest, None, None),
        Coalesce::Debounce { quiet, longest } => (wire::CoalescePolicy::Debounce, Some(quiet), Some(longest)),
    };
    let Policy { shadow, ttl, retry, no_general, degrade, version_min, feedback, residency, affinity } = policy;
    route.residency = residency.iter().map(ToString::to_string).collect();
    route.affinity = affinity.as_deref().map(affinity_to_message);
    route.feedback = feedback
        .map(|FeedbackRule { weight, floor }| wire::FeedbackWeight { weight_permille: weight, floor_permille: floor });
    route.coalesce = word.into();
    (route.debounce_quiet, route.debounce_longest) = (quiet.map(span), longest.map(span));
    route.shadow = shadow.as_ref().map(write_targets);
    route.ttl = ttl.map(span);
    if *retry != Retry::default() {
        (route.retry_first, route.retry_longest) = (Some(span(retry.first)), Some(span(retry.longest)));
    }
    let (word, fall_back) = match no_general {
        NoGeneral::Wait => (wire::NoGeneralPolicy::Unspecified, None),
        NoGeneral::Refuse => (wire::NoGeneralPolicy::Refuse, None),
        NoGeneral::FallBackRoute(name) => {
            (wire::NoGeneralPolicy::FallBack, Some(FallBack::FallBackRoute(name.to_string())))
        }
        NoGeneral::FallBackType(ty) => (wire::NoGeneralPolicy::FallBack, Some(FallBack::FallBackType(ty.to_string()))),
    };
    route.no_general = word.into();
    route.fall_back = fall_back;
    route.degrade = degrade_to_message(degrade);
    route.version_min = version_min.map(|version| version.to_string()).unwrap_or_default();
}

#[cfg(test)]
mod tests {
    use mindos_core::affinity::{Affinity, Place, Preference};
    use mindos_core::route::{Match, Route, RouteTable, Targets};
    use mindos_model::Strategy;

    use super::super::route_table;
    use super::*;

    fn targets(ty: &str) -> Targets {
        Targets { types: vec![ty.parse().unwrap()], ..Targets::default() }
    }

    #[test]
    fn every_policy_is_read_back_as_written() {
        let second = Duration::from_secs(1);
        let route = |name: &str, strategy| Route::new(name.parse().unwrap(), Match::default(), targets("a"), strategy);
        let mut split = route("split", Strategy::Split);
        split.targets.weights =
            vec![Weight { target: "a".into(), weight: 90 }, Weight { target: "v=2".into(), weight: 10 }];
        let mut shadow = route("shadow", Strategy::Shadow);
        shadow.policy.shadow = Some(targets("b"));
        let mut debounce = route("debounce", Strategy::Sticky);
        debounce.coalesce = Coalesce::Debounce { quiet: 2 * second, longest: 30 * second };
        debounce.policy.ttl = Some(60 * second);
        debounce.policy.retry = Retry { first: 2 * second, longest: 4 * second };
        let mut refuse = route("refuse", Strategy::Race);
        refuse.policy.no_general = NoGeneral::Refuse;
        let mut other = route("other", Strategy::Failover);
        other.policy.no_general = NoGeneral::FallBackRoute("split".parse().unwrap());
        let mut ty = route("type", Strategy::Broadcast);
        ty.policy.no_general = NoGeneral::FallBackType("b".parse().unwrap());
        ty.policy.version_min = Some("2.1".parse().unwrap());
        ty.policy.residency = vec!["eu-west".parse().unwrap()];
        let labels = vec![("gpu".into(), "a100".into())];
        let place = Place { regions: vec!["eu-west".parse().unwrap()], labels, ..Place::default() };
        let prefer = vec![Preference { weight: 40, place: place.clone() }];
        ty.policy.affinity = Some(Box::new(Affinity { require: place, prefer }));
        ty.policy.degrade = vec![mindos_core::route::Degrade { from: Some("a".into()), to: "b".into() }];
        let table = RouteTable { routes: vec![split, shadow, debounce, refuse, other, ty], trust: None };

        assert_eq!(route_table::read(route_table::write(&table)).unwrap(), (table, Vec::new()));
    }

    #[test]
    fn what_does_not_belong_together_is_named() {
        let refused = |change: &dyn Fn(&mut wire::Route)| {
            let mut route = wire::Route::default();
            change(&mut route);
            read(&mut route).unwrap_err().field
        };
        let quiet = Some(span(Duration::from_secs(1)));
        assert_eq!(refused(&|route| route.debounce_quiet = quiet), "debounce_quiet");
        assert_eq!(refused(&|route| route.coalesce = wire::CoalescePolicy::Debounce.into()), "debounce_quiet");
        assert_eq!(refused(&|route| route.no_general = wire::NoGeneralPolicy::FallBack.into()), "no_general");
        assert_eq!(refused(&|route| route.coalesce = 99), "coalesce");
    }
}
