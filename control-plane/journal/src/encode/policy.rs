//! Policies of routes as messages and back. What is as usual is left out, so that old tables keep their bytes.

use std::sync::Arc;
use std::time::Duration;

use mindos_core::feedback::FeedbackRule;
use mindos_core::route::{Coalesce, Degrade, NoGeneral, Policy, Retry, Targets, Version, Weight};
use mindos_proto::convert::{Invalid, duration, parsed, required, span};
use mindos_proto::route::v1 as pb;
use mindos_proto::route::v1::route::FallBack;

use super::route::{targets_from_message, targets_to_message};
use super::siting::{affinity_from_message, affinity_to_message, residency_from_message};

/// Puts what a policy and the coalescing say into the message of their route.
pub(crate) fn put(policy: &Policy, coalesce: Coalesce, message: &mut pb::Route) {
    let Policy {
        shadow,
        ttl,
        retry: Retry { first, longest },
        no_general,
        degrade,
        version_min,
        feedback,
        residency,
        affinity,
    } = policy;
    let usual = Retry::default();
    let (kind, quiet, upto) = match coalesce {
        Coalesce::Every => (pb::CoalescePolicy::Every, None, None),
        Coalesce::Latest => (pb::CoalescePolicy::Latest, None, None),
        Coalesce::Debounce { quiet, longest } => (pb::CoalescePolicy::Debounce, Some(quiet), Some(longest)),
    };
    message.coalesce = kind as i32;
    message.debounce_quiet = quiet.map(span);
    message.debounce_longest = upto.map(span);
    message.shadow = shadow.as_ref().map(targets_to_message);
    message.ttl = ttl.map(span);
    message.retry_first = (*first != usual.first).then(|| span(*first));
    message.retry_longest = (*longest != usual.longest).then(|| span(*longest));
    let (word, fall_back) = match no_general {
        NoGeneral::Wait => (pb::NoGeneralPolicy::Unspecified, None),
        NoGeneral::Refuse => (pb::NoGeneralPolicy::Refuse, None),
        NoGeneral::FallBackRoute(route) => {
            (pb::NoGeneralPolicy::FallBack, Some(FallBack::FallBackRoute(route.to_string())))
        }
        NoGeneral::FallBackType(ty) => (pb::NoGeneralPolicy::FallBack, Some(FallBack::FallBackType(ty.to_string()))),
    };
    message.no_general = word as i32;
    message.fall_back = fall_back;
    message.degrade = degrade_to_message(degrade);
    message.version_min = version_min.map(|version| version.to_string()).unwrap_or_default();
    message.feedback = feedback
        .map(|FeedbackRule { weight, floor }| pb::FeedbackWeight { weight_permille: weight, floor_permille: floor });
    message.residency = residency.iter().map(ToString::to_string).collect();
    message.affinity = affinity.as_deref().map(affinity_to_message);
}

/// Reads them again.
pub(crate) fn take(message: &mut pb::Route) -> Result<(Policy, Coalesce), Invalid> {
    let time = |span: &Option<prost_types::Duration>, field| -> Result<Option<Duration>, Invalid> {
        span.as_ref().map(|span| duration(span, field)).transpose()
    };
    let coalesce = match pb::CoalescePolicy::try_from(message.coalesce) {
        Ok(pb::CoalescePolicy::Every) => Coalesce::Every,
        Ok(pb::CoalescePolicy::Latest) => Coalesce::Latest,
        Ok(pb::CoalescePolicy::Debounce) => Coalesce::Debounce {
            quiet: required(time(&message.debounce_quiet, "debounce_quiet")?, "debounce_quiet")?,
            longest: required(time(&message.debounce_longest, "debounce_longest")?, "debounce_longest")?,
        },
        Ok(pb::CoalescePolicy::Unspecified) | Err(_) => {
            return Err(Invalid::new("coalesce", format_args!("value {} is not known", message.coalesce)));
        }
    };
    let unknown = || Invalid::new("no_general", format_args!("value {} is not known", message.no_general));
    let word = pb::NoGeneralPolicy::try_from(message.no_general).map_err(|_| unknown())?;
    let no_general = match word {
        pb::NoGeneralPolicy::Unspecified | pb::NoGeneralPolicy::Wait => NoGeneral::Wait,
        pb::NoGeneralPolicy::Refuse => NoGeneral::Refuse,
        pb::NoGeneralPolicy::FallBack => match required(message.fall_back.take(), "fall_back")? {
            FallBack::FallBackRoute(route) => NoGeneral::FallBackRoute(parsed(&route, "fall_back_route")?),
            FallBack::FallBackType(ty) => NoGeneral::FallBackType(parsed(&ty, "fall_back_type")?),
        },
    };
    let usual = Retry::default();
    let retry = Retry {
        first: time(&message.retry_first, "retry_first")?.unwrap_or(usual.first),
        longest: time(&message.retry_longest, "retry_longest")?.unwrap_or(usual.longest),
    };
    let ttl = time(&message.ttl, "ttl")?;
    let shadow = message.shadow.take().map(targets_from_message).transpose()?;
    let degrade = degrade_from_message(std::mem::take(&mut message.degrade));
    let version_min = version_from_message(&message.version_min)?;
    let feedback = message.feedback.take().map(|pb::FeedbackWeight { weight_permille, floor_permille }| FeedbackRule {
        weight: weight_permille,
        floor: floor_permille,
    });
    let residency = residency_from_message(&message.residency)?;
    let affinity = message.affinity.take().map(affinity_from_message).transpose()?.map(Box::new);
    Ok((Policy { shadow, ttl, retry, no_general, degrade, version_min, feedback, residency, affinity }, coalesce))
}

/// The oldest version of agents that get a route's work; empty is none.
///
/// # Errors
/// Says what is accepted.
pub fn version_from_message(text: &str) -> Result<Option<Version>, Invalid> {
    let version = (!text.is_empty()).then(|| text.parse::<Version>()).transpose();
    version.map_err(|error| Invalid::new("version_min", error))
}

/// Who takes work while a budget is low, as messages.
#[must_use]
pub fn degrade_to_message(lines: &[Degrade]) -> Vec<pb::RouteDegrade> {
    let line = |Degrade { from, to }: &Degrade| pb::RouteDegrade {
        from: from.as_deref().unwrap_or_default().to_owned(),
        to: to.to_string(),
    };
    lines.iter().map(line).collect()
}

/// The other way.
#[must_use]
pub fn degrade_from_message(lines: Vec<pb::RouteDegrade>) -> Vec<Degrade> {
    let line = |pb::RouteDegrade { from, to }| Degrade {
        from: Some(from).filter(|from| !from.is_empty()).map(Arc::from),
        to: Arc::from(to),
    };
    lines.into_iter().map(line).collect()
}

pub(crate) fn weights_to_message(targets: &Targets) -> Vec<pb::TargetWeight> {
    let weights = targets.weights.iter();
    weights.map(|Weight { target, weight }| pb::TargetWeight { target: target.to_string(), weight: *weight }).collect()
}

pub(crate) fn weights_from_message(weights: Vec<pb::TargetWeight>) -> Vec<Weight> {
    let weight = |pb::TargetWeight { target, weight }| Weight { target: Arc::from(target), weight };
    weights.into_iter().map(weight).collect()
}
