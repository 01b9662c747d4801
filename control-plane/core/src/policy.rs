//! Policies of a route: shares and shadows, how long work may wait, how it is tried again, where it goes when nobody is there.
//!
//! Invariant: a policy that passed its check belongs to the strategy and coalescing of its route.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use mindos_model::{GeneralName, GeneralType, Region, RouteName, Strategy, limits};

use crate::affinity::Affinity;
use crate::feedback::FeedbackRule;
use crate::route::{Coalesce, Route, RouteError, Targets};
pub use crate::version::Version;

/// How long a shadow may wait on a route without a time to live: nobody misses it, so it must not pile up.
pub const SHADOW_TTL: Duration = Duration::from_secs(60 * 60);
/// How far ahead an event may ask for its time.
pub const DELAY_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// How long a general counts as there after its last instance was lost, or after the plane started: unknown is not dead.
pub const THERE_GRACE: Duration = limits::LEASE_GRACE;
/// Routes that an event falls back through, one after the other.
pub(crate) const FALL_BACKS_MAX: usize = 4;
/// Shares of one route.
const WEIGHTS_MAX: usize = 64;
/// Lines of one route that say who takes work while a budget is low.
pub const DEGRADE_MAX: usize = 16;

/// What a route asks for besides its targets and strategy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Which generals get the delivery whose effects are dropped; under `shadow`, and only there.
    pub shadow: Option<Targets>,
    /// How long a delivery may wait to be begun.
    pub ttl: Option<Duration>,
    pub retry: Retry,
    pub no_general: NoGeneral,
    /// Who takes the work while a budget is low; of several lines for one general the first counts.
    pub degrade: Vec<Degrade>,
    /// Instances of an older version, or of none that is known, get none of its work.
    pub version_min: Option<Version>,
    /// How feedback weighs its choices; unset for not at all.
    pub feedback: Option<FeedbackRule>,
    /// Regions in which its work may be done; empty for all.
    pub residency: Vec<Region>,
    /// Where its work may go, and where it rather goes.
    pub affinity: Option<Box<Affinity>>,
}

/// A cheaper general to use while a budget is low.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Degrade {
    /// Name or type of the generals that give way; unset for all of the route's.
    pub from: Option<Arc<str>>,
    /// Name or type of those that take their work.
    pub to: Arc<str>,
}

/// How long to wait before another attempt: doubles from the first wait to the longest, with full jitter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    pub first: Duration,
    pub longest: Duration,
}

impl Default for Retry {
    fn default() -> Retry {
        Retry { first: limits::RETRY_MIN, longest: limits::RETRY_MAX }
    }
}

impl Retry {
    /// The longest wait after so many failed attempts.
    #[must_use]
    pub fn most(self, attempts: u32) -> Duration {
        self.first.saturating_mul(1 << attempts.saturating_sub(1).min(16)).min(self.longest)
    }
}

/// What becomes of an event when none of its route's generals is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NoGeneral {
    /// It waits.
    #[default]
    Wait,
    /// It goes by another route, as if that one had matched.
    FallBackRoute(RouteName),
    /// One delivery for the least loaded general of this type.
    FallBackType(GeneralType),
    /// It is refused.
    Refuse,
}

/// The share of a target under `split`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weight {
    /// A general's name, type or cluster, or a label as `key=value`.
    pub target: Arc<str>,
    pub weight: u32,
}

impl Route {
    pub(crate) fn check_policy(&self, index: usize) -> Result<(), RouteError> {
        let Policy { shadow, ttl, retry, no_general: _, degrade, version_min, feedback, .. } = &self.policy;
        self.check_affinity(index)?;
        let unfit = |field, reason| Err(RouteError::Policy { index, field, reason });
        if version_min.is_some_and(|version| !version.is_release()) {
            return unfit("version_min", "expected one to three numbers, such as 1.4 or 1.4.2");
        }
        if degrade.len() > DEGRADE_MAX {
            return unfit("degrade", "expected at most 16 lines");
        }
        let is_word = |word: &str| GeneralName::new(word).is_ok() || GeneralType::new(word).is_ok();
        for (place, Degrade { from, to }) in degrade.iter().enumerate() {
            let wrong = if !is_word(to) {
                Some(("to", to))
            } else {
                from.as_ref().filter(|from| !is_word(from)).map(|from| ("from", from))
            };
            if let Some((word, text)) = wrong {
                let text = text.chars().take(80).collect();
                return Err(RouteError::Degrade { index, place, word, text });
            }
        }
        let weights = &self.targets.weights;
        let shares = !weights.is_empty();
        match (self.strategy, shares) {
            (Strategy::Split, false) => return unfit("targets.weights", "split needs the shares of 2 targets or more"),
            (Strategy::Split, true) => {
                let sum: u64 = weights.iter().map(|one| u64::from(one.weight)).sum();
                if !(2..=WEIGHTS_MAX).contains(&weights.len()) || sum == 0 {
                    return unfit("targets.weights", "expected 2 to 64, and not all of them 0");
                }
                if weights.iter().any(|one| one.weight > 1000 || one.target.is_empty()) {
                    return unfit("targets.weights", "expected a target and a weight of 0 to 1000");
                }
            }
            (_, true) => return unfit("targets.weights", "only split has shares"),
            (_, false) => {}
        }
        match (self.strategy, shadow) {
            (Strategy::Shadow, None) => return unfit("shadow", "the strategy shadow needs the targets of the shadow"),
            (Strategy::Shadow, Some(targets)) if targets.names_nothing() || !targets.weights.is_empty() => {
                return unfit("shadow", "expected a type, name, label, cluster or region, and no weights");
            }
            (Strategy::Shadow, Some(_)) | (_, None) => {}
            (_, Some(_)) => return unfit("shadow", "only the strategy shadow has one"),
        }
        if let Some(FeedbackRule { weight, floor }) = feedback {
            if self.strategy == Strategy::Split {
                let reason = "split compares its arms at fixed shares, which feedback would shift: expected none, or another strategy";
                return unfit("feedback", reason);
            }
            if !(1..=500).contains(weight) {
                return unfit("feedback.weight_permille", "expected 1 to 500");
            }
            if !(10..=500).contains(floor) {
                return unfit("feedback.floor_permille", "expected 10 to 500");
            }
        }
        let second = Duration::from_secs(1);
        let spans = [
            ("ttl", *ttl, second..=DELAY_MAX, "1 s to 30 days"),
            ("retry_first", Some(retry.first), ms(10)..=3600 * second, "10 ms to 1 h"),
            ("retry_longest", Some(retry.longest), retry.first..=86_400 * second, "retry_first to 24 h"),
        ];
        spans.into_iter().try_for_each(|(field, span, range, expected)| within(index, field, span, range, expected))?;
        if let Coalesce::Debounce { quiet, longest } = self.coalesce {
            within(index, "debounce_quiet", Some(quiet), ms(100)..=3600 * second, "100 ms to 1 h")?;
            let range = quiet..=86_400 * second;
            within(index, "debounce_longest", Some(longest), range, "debounce_quiet to 24 h")?;
        }
        Ok(())
    }
}

impl Targets {
    /// Whether no list restricts anything.
    #[must_use]
    pub fn names_nothing(&self) -> bool {
        let Targets { types, clusters, regions, names, labels, weights: _ } = self;
        types.is_empty() && clusters.is_empty() && regions.is_empty() && names.is_empty() && labels.is_empty()
    }
}

/// Routes that fall back name one of the table, and not themselves.
pub(crate) fn check_fall_backs(routes: &[Route]) -> Result<(), RouteError> {
    for (index, route) in routes.iter().enumerate() {
        let NoGeneral::FallBackRoute(name) = &route.policy.no_general else { continue };
        if *name == route.name || !routes.iter().any(|other| other.name == *name) {
            let reason = "expected the name of another route of the table";
            return Err(RouteError::Policy { index, field: "fall_back_route", reason });
        }
    }
    Ok(())
}

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn within(
    index: usize,
    field: &'static str,
    span: Option<Duration>,
    range: RangeInclusive<Duration>,
    expected: &'static str,
) -> Result<(), RouteError> {
    match span {
        Some(span) if !range.contains(&span) => Err(RouteError::Span { index, field, span, expected }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::{Match, RouteTable};

    fn table(change: impl FnOnce(&mut Route)) -> Result<(), String> {
        let targets = Targets { types: vec!["a".parse().unwrap()], ..Targets::default() };
        let mut route = Route::new("only".parse().unwrap(), Match::default(), targets, Strategy::Sticky);
        change(&mut route);
        RouteTable { routes: vec![route], trust: None }.check().map_err(|error| error.to_string())
    }

    fn weights(shares: &[u32]) -> Vec<Weight> {
        shares.iter().map(|share| Weight { target: "a".into(), weight: *share }).collect()
    }

    #[test]
    fn policies_belong_to_their_strategy() {
        assert_eq!(table(|_| {}), Ok(()));
        let error = table(|route| route.strategy = Strategy::Split).unwrap_err();
        assert_eq!(error, "routes[0].targets.weights: split needs the shares of 2 targets or more");
        assert!(table(|route| route.targets.weights = weights(&[1, 2])).is_err());
        let split = |shares: &'static [u32]| {
            table(move |route| {
                route.strategy = Strategy::Split;
                route.targets.weights = weights(shares);
            })
        };
        assert_eq!(split(&[90, 10]), Ok(()));
        assert!(split(&[0, 0]).is_err() && split(&[1001, 1]).is_err() && split(&[1]).is_err());
        let error = table(|route| {
            route.strategy = Strategy::Split;
            route.targets.weights = weights(&[90, 10]);
            route.policy.feedback = Some(FeedbackRule { weight: 200, floor: 50 });
        });
        assert!(error.unwrap_err().starts_with("routes[0].feedback: split compares its arms at fixed shares"));
        assert!(table(|route| route.strategy = Strategy::Shadow).is_err());
        assert!(table(|route| route.policy.shadow = Some(route.targets.clone())).is_err());
    }

    #[test]
    fn spans_out_of_range_are_named_with_what_is_accepted() {
        let error = table(|route| route.policy.ttl = Some(ms(5))).unwrap_err();
        assert_eq!(error, "routes[0].ttl: 5ms is out of range: expected 1 s to 30 days");
        let debounce = |quiet, longest| {
            table(move |route| route.coalesce = Coalesce::Debounce { quiet: ms(quiet), longest: ms(longest) })
        };
        assert_eq!(debounce(2000, 30_000), Ok(()));
        let error = debounce(2000, 1000).unwrap_err();
        assert_eq!(error, "routes[0].debounce_longest: 1s is out of range: expected debounce_quiet to 24 h");
    }

    #[test]
    fn a_route_falls_back_to_another_one_of_its_table() {
        let to = |name: &str| NoGeneral::FallBackRoute(name.parse().unwrap());
        assert!(table(|route| route.policy.no_general = to("only")).is_err());
        assert!(table(|route| route.policy.no_general = to("nowhere")).is_err());
    }

    #[test]
    fn waits_double_up_to_the_longest() {
        let retry = Retry { first: ms(100), longest: ms(500) };
        assert_eq!([1, 2, 3, 4, 40].map(|attempts| retry.most(attempts)), [100, 200, 400, 500, 500].map(ms));
    }
}
