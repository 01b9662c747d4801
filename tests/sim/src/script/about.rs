//! Replays and feedback, in the words of a scenario.

use std::fmt::Write as _;
use std::sync::Arc;

use mindos_core::feedback::FeedbackRule;
use mindos_core::record::{About, Feedback, FeedbackVerdict, Replay, Role, Variant, VersionWanted, Weighing};
use mindos_model::{DeliveryId, RouteName, Seq};

use super::parse::{Parsed, number, split, text};
use crate::words;

/// `replay=SEQ:ID[:ROUTE]` with `version=1.2`, or `version=1.2+` for that or later.
pub(super) fn replay(item: &str, version: Option<&str>) -> Parsed<Box<About>> {
    let mut parts = item.split(':');
    let of = Seq(number(parts.next().unwrap_or_default())?);
    let id = Arc::from(parts.next().ok_or_else(|| format!("`{item}` is not SEQ:ID"))?);
    let route = parts.next().map(RouteName::new).transpose().map_err(text)?;
    let version = version.map(|version| match version.strip_suffix('+') {
        Some(least) => VersionWanted::AtLeast(Arc::from(least)),
        None => VersionWanted::Exactly(Arc::from(version)),
    });
    Ok(Box::new(About::Replay(Replay { of, id, route, version })))
}

/// `feedback=DELIVERY:accepted:CLUSTER/NAME[:VERSION[:ROLE]]`, as `source` sees it.
pub(super) fn feedback(item: &str, source: &str) -> Parsed<Box<About>> {
    let mut parts = item.split(':');
    let mut next = |what: &str| parts.next().ok_or_else(|| format!("{what} is missing in `{item}`"));
    let delivery: DeliveryId = next("the delivery")?.parse().map_err(text)?;
    let verdict = match next("the verdict")? {
        "accepted" => FeedbackVerdict::Accepted,
        "dismissed" => FeedbackVerdict::Dismissed,
        "reverted" => FeedbackVerdict::Reverted,
        other => return Err(format!("`{other}` is not accepted, dismissed or reverted")),
    };
    let (cluster, name) = split(next("the general")?)?;
    let general = Arc::new(words::general(cluster, name).ok_or("not a general's name")?);
    let version = Arc::from(parts.next().unwrap_or("0.1.0"));
    let role = match parts.next() {
        None => Role::Live,
        Some("shadow") => Role::Shadow,
        Some("replay") => Role::Replay,
        Some(other) => return Err(format!("`{other}` is not shadow or replay")),
    };
    let variant = Variant { route: RouteName::new("r").map_err(text)?, role, arm: Arc::from(""), version };
    let voice = words::dedupe_key(source, &delivery.to_string());
    Ok(Box::new(About::Feedback(Feedback { delivery, verdict, voice, general, variant })))
}

/// The same, the other way.
pub(super) fn print(out: &mut String, about: &About) {
    // Writing to a string cannot fail.
    let _ = match about {
        About::Replay(Replay { of, id, route, version }) => {
            let route = route.as_ref().map(|route| format!(":{route}")).unwrap_or_default();
            let version = match version {
                None => String::new(),
                Some(VersionWanted::Exactly(version)) => format!(" version={version}"),
                Some(VersionWanted::AtLeast(version)) => format!(" version={version}+"),
            };
            write!(out, " replay={of}:{id}{route}{version}")
        }
        About::Feedback(Feedback { delivery, verdict, voice: _, general, variant }) => {
            let verdict = format!("{verdict:?}").to_lowercase();
            let role = match variant.role {
                Role::Live => "",
                Role::Shadow => ":shadow",
                Role::Replay => ":replay",
            };
            write!(out, " feedback={delivery}:{verdict}:{general}:{}{role}", variant.version)
        }
    };
}

/// `200/50`: weight and floor in thousandths.
pub(super) fn rule(word: &str) -> Parsed<FeedbackRule> {
    let (weight, floor) = split(word)?;
    Ok(FeedbackRule { weight: number(weight)?, floor: number(floor)? })
}

/// What feedback had to do with a choice.
pub(super) fn show_weighing(out: &mut String, weighing: &Weighing) -> std::fmt::Result {
    let Weighing { left_out, generals, instances } = weighing;
    if *left_out {
        return write!(out, " feedback=left_out");
    }
    let list = |factors: &[u32]| factors.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    write!(out, " feedback={}/{}", list(generals), list(instances))
}

/// What is compared by a lease.
pub(super) fn show_variant(out: &mut String, variant: &Variant) -> std::fmt::Result {
    let Variant { route, role, arm, version } = variant;
    let arm = if arm.is_empty() { String::new() } else { format!(":{arm}") };
    write!(out, " compares={route}:{role:?}{arm}@{version}")
}
