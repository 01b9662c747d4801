//! Policies of routes and terms of deliveries, in the words of a scenario.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use mindos_core::record::Terms;
use mindos_core::route::{Coalesce, Degrade, NoGeneral, Policy, Retry, Route, Targets, Weight};
use mindos_model::{GeneralName, GeneralType, RouteName, Timestamp};

use super::parse::{Parsed, number, span, text};
use super::show::since;

/// `target:weight`, in a list.
pub(super) fn weights(items: &[String]) -> Parsed<Vec<Weight>> {
    let weight = |item: &String| {
        let (target, weight) = item.rsplit_once(':').ok_or_else(|| format!("`{item}` is not target:weight"))?;
        Ok(Weight { target: Arc::from(target), weight: number(weight)? })
    };
    items.iter().map(weight).collect()
}

/// Reads `debounce=2s/30s ttl=5s retry=1s/10s shadow=type shadow_names=a degrade=big>small,tiny
/// none=refuse|wait|route:<name>|type:<type>`.
pub(super) fn read<'a>(route: &mut Route, take: &mut impl FnMut(&str) -> Option<&'a str>) -> Parsed<()> {
    let pair = |word: &str| -> Parsed<(Duration, Duration)> {
        let (first, second) = word.split_once('/').ok_or_else(|| format!("`{word}` is not two spans"))?;
        Ok((span(first)?, span(second)?))
    };
    if let Some(word) = take("debounce") {
        let (quiet, longest) = pair(word)?;
        route.coalesce = Coalesce::Debounce { quiet, longest };
    }
    if let Some(word) = take("ttl") {
        route.policy.ttl = Some(span(word)?);
    }
    if let Some(word) = take("retry") {
        let (first, longest) = pair(word)?;
        route.policy.retry = Retry { first, longest };
    }
    route.policy.feedback = take("feedback").map(super::about::rule).transpose()?;
    let types: Parsed<Vec<_>> = list(take("shadow")).map(|item| GeneralType::new(item).map_err(text)).collect();
    let names: Parsed<Vec<_>> = list(take("shadow_names")).map(|item| GeneralName::new(item).map_err(text)).collect();
    let targets = Targets { types: types?, names: names?, ..Targets::default() };
    route.policy.shadow = (!targets.names_nothing()).then_some(targets);
    super::siting::read(route, take)?;
    route.policy.version_min = take("version_min").map(str::parse).transpose().map_err(text)?;
    route.policy.degrade = list(take("degrade"))
        .map(|item| match item.split_once('>') {
            Some((from, to)) => Degrade { from: Some(Arc::from(from)), to: Arc::from(to) },
            None => Degrade { from: None, to: Arc::from(item) },
        })
        .collect();
    if let Some(word) = take("none") {
        route.policy.no_general = match word.split_once(':') {
            None if word == "wait" => NoGeneral::Wait,
            None if word == "refuse" => NoGeneral::Refuse,
            Some(("route", name)) => NoGeneral::FallBackRoute(RouteName::new(name).map_err(text)?),
            Some(("type", ty)) => NoGeneral::FallBackType(GeneralType::new(ty).map_err(text)?),
            _ => return Err(format!("`{word}` is not wait, refuse, route:<name> or type:<type>")),
        };
    }
    Ok(())
}

fn list(word: Option<&str>) -> impl Iterator<Item = &str> {
    word.into_iter().flat_map(|list| list.split(','))
}

/// The same as [`read`], the other way.
pub(super) fn print(out: &mut String, route: &Route) {
    let Policy { shadow, ttl, retry, no_general, degrade, version_min, feedback, .. } = &route.policy;
    let ms = |span: Duration| format!("{}ms", span.as_millis());
    // Writing to a string cannot fail.
    if let Coalesce::Debounce { quiet, longest } = route.coalesce {
        let _ = write!(out, " debounce={}/{}", ms(quiet), ms(longest));
    }
    if let Some(ttl) = ttl {
        let _ = write!(out, " ttl={}", ms(*ttl));
    }
    if *retry != Retry::default() {
        let _ = write!(out, " retry={}/{}", ms(retry.first), ms(retry.longest));
    }
    let weights = route.targets.weights.iter().map(|Weight { target, weight }| format!("{target}:{weight}"));
    let weights: Vec<_> = weights.collect();
    if !weights.is_empty() {
        let _ = write!(out, " weights={}", weights.join(","));
    }
    if let Some(version) = version_min {
        let _ = write!(out, " version_min={version}");
    }
    if !degrade.is_empty() {
        let line = |Degrade { from, to }: &Degrade| match from {
            Some(from) => format!("{from}>{to}"),
            None => to.to_string(),
        };
        let _ = write!(out, " degrade={}", degrade.iter().map(line).collect::<Vec<_>>().join(","));
    }
    super::siting::print(out, route);
    if let Some(rule) = feedback {
        let _ = write!(out, " feedback={}/{}", rule.weight, rule.floor);
    }
    if let Some(targets) = shadow {
        for (name, items) in [
            ("shadow", targets.types.iter().map(ToString::to_string).collect::<Vec<_>>()),
            ("shadow_names", targets.names.iter().map(ToString::to_string).collect()),
        ] {
            if !items.is_empty() {
                let _ = write!(out, " {name}={}", items.join(","));
            }
        }
    }
    let _ = match no_general {
        NoGeneral::Wait => Ok(()),
        NoGeneral::Refuse => write!(out, " none=refuse"),
        NoGeneral::FallBackRoute(route) => write!(out, " none=route:{route}"),
        NoGeneral::FallBackType(ty) => write!(out, " none=type:{ty}"),
    };
}

pub(super) fn show_terms(out: &mut String, terms: &Terms, start: Timestamp) -> std::fmt::Result {
    let Terms { shadow, not_before, burst_since, expires } = terms;
    if *shadow {
        write!(out, ":shadow")?;
    }
    for (word, at) in [("not_before", not_before), ("since", burst_since), ("expires", expires)] {
        if *at > Timestamp(0) {
            write!(out, " {word}={}", since(*at, start))?;
        }
    }
    Ok(())
}
