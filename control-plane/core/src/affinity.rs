//! Affinity: where a route's work may go, and where it rather goes.
//!
//! ```text
//!  residency, require --> who is kept out: generals by cluster and region, instances by the labels that they told
//!  prefer             --> a factor on load or score, 500 to 1000 thousandths
//! ```
//! What is asked of cluster and region decides who is a member of the route, so it costs nothing when work is placed. Labels are asked
//! of each instance, because those of one general may differ. Invariants: nobody who is kept out gets a lease; no preference makes a
//! load or score count less than half, so who is preferred and has more than twice the load still loses; what either had to do with a
//! lease stands in its record.

use std::sync::Arc;

use mindos_model::{ClusterName, Region, Timestamp};

use crate::durable::Durable;
use crate::member::Profile;
use crate::policy::Version;
use crate::record::{Choice, Exclusion, GeneralKey, Labels};
use crate::registry::GeneralIdx;
use crate::route::{Route, RouteError};
use crate::routing::Rule;
use crate::soft::Soft;

/// Preferences of one route.
pub const PREFERENCES_MAX: usize = 16;
/// The largest weight of a preference, and the most that those which fit add up to.
pub const PREFERENCE_MAX: u32 = 100;
/// What a load or score counts under a preference of the largest weight, in thousandths.
pub const PREFERRED_LEAST: u32 = 500;
/// Clusters or regions in one list.
const NAMES_MAX: usize = 64;
/// Labels of one place.
const LABELS_MAX: usize = 16;
/// What stands for "as all others", in thousandths.
const NEUTRAL: u32 = 1000;
/// Generals kept out that a record names.
const KEPT_OUT_NAMED_MAX: usize = 4;

/// Where a route's work may go, and where it rather goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Affinity {
    /// Who does not stand there gets none of it. Empty asks for nothing.
    pub require: Place,
    /// Who stands there gets it sooner.
    pub prefer: Vec<Preference>,
}

/// A part of the fleet: every list that is not empty must fit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    pub clusters: Vec<ClusterName>,
    pub regions: Vec<Region>,
    /// All of them must stand on the instance or its cluster.
    pub labels: Labels,
}

/// Where work rather goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preference {
    /// 1 to [`PREFERENCE_MAX`]: each takes half a hundredth off what a load or score counts.
    pub weight: u32,
    pub place: Place,
}

/// Why a general that the targets name gets none of a route's work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeptOut {
    /// Its cluster is in none of the regions that the work may be done in, or says no region.
    Residency,
    /// Its cluster is not where the route requires it to be.
    Affinity,
}

/// What affinity and residency had to do with a choice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Siting {
    /// Generals that the targets name and that are kept out.
    pub kept_out: u32,
    /// The first few of those.
    pub named: Vec<(Arc<GeneralKey>, KeptOut)>,
    /// Factors on the loads of the generals weighed, in thousandths, in their order; empty where all are 1000.
    pub generals: Vec<u32>,
    /// Factors on the scores of the instances weighed, as above.
    pub instances: Vec<u32>,
}

impl Place {
    /// Whether no list restricts anything.
    #[must_use]
    pub fn is_anywhere(&self) -> bool {
        self.clusters.is_empty() && self.regions.is_empty() && self.labels.is_empty()
    }

    /// Whether the cluster is one of those asked for.
    fn has_cluster(&self, name: &ClusterName, region: Option<&Region>) -> bool {
        (self.clusters.is_empty() || self.clusters.contains(name)) && is_one_of(region, &self.regions)
    }

    fn check(&self, index: usize, field: &str) -> Result<(), RouteError> {
        let lists = [
            ("clusters", self.clusters.len(), NAMES_MAX),
            ("regions", self.regions.len(), NAMES_MAX),
            ("labels", self.labels.len(), LABELS_MAX),
        ];
        match lists.into_iter().find(|(_, len, max)| len > max) {
            Some((list, len, max)) => {
                let reason = format!("there are {len}: expected at most {max}");
                Err(RouteError::Affinity { index, field: format!("{field}.{list}"), reason })
            }
            None => Ok(()),
        }
    }
}

fn is_one_of(region: Option<&Region>, regions: &[Region]) -> bool {
    regions.is_empty() || region.is_some_and(|region| regions.contains(region))
}

impl Route {
    /// Whether where a general's cluster is keeps it out, whatever its instances are.
    #[must_use]
    pub fn keeps_out(&self, cluster: &ClusterName, region: Option<&Region>) -> Option<KeptOut> {
        if !is_one_of(region, &self.policy.residency) {
            return Some(KeptOut::Residency);
        }
        let require = &self.policy.affinity.as_deref()?.require;
        (!require.has_cluster(cluster, region)).then_some(KeptOut::Affinity)
    }

    /// Labels that the instance or its cluster must carry.
    #[must_use]
    pub fn required_labels(&self) -> &[(Arc<str>, Arc<str>)] {
        self.policy.affinity.as_deref().map_or(&[], |affinity| &affinity.require.labels)
    }

    /// Whether it does not take every instance of its generals.
    pub(crate) fn picks_instances(&self) -> bool {
        self.policy.version_min.is_some() || !self.required_labels().is_empty()
    }

    fn prefers(&self) -> &[Preference] {
        self.policy.affinity.as_deref().map_or(&[], |affinity| &affinity.prefer)
    }

    pub(crate) fn check_affinity(&self, index: usize) -> Result<(), RouteError> {
        let wrong = |field: &str, reason: String| {
            let field = field.to_owned();
            Err(RouteError::Affinity { index, field, reason })
        };
        let residency = &self.policy.residency;
        if residency.len() > NAMES_MAX {
            return wrong("residency", format!("there are {}: expected at most {NAMES_MAX}", residency.len()));
        }
        let nobody = |others: &str| format!("none of them is in {others}, so nobody could get the work");
        if is_apart(residency, &self.targets.regions) {
            return wrong("residency", nobody("targets.regions"));
        }
        let Some(Affinity { require, prefer }) = self.policy.affinity.as_deref() else { return Ok(()) };
        if require.is_anywhere() && prefer.is_empty() {
            return wrong("affinity", "says nothing: expected require or prefer".to_owned());
        }
        require.check(index, "affinity.require")?;
        if is_apart(&require.regions, residency) {
            return wrong("affinity.require.regions", nobody("residency"));
        }
        if is_apart(&require.regions, &self.targets.regions) {
            return wrong("affinity.require.regions", nobody("targets.regions"));
        }
        if is_apart(&require.clusters, &self.targets.clusters) {
            return wrong("affinity.require.clusters", nobody("targets.clusters"));
        }
        if prefer.len() > PREFERENCES_MAX {
            let reason = format!("there are {}: expected at most {PREFERENCES_MAX}", prefer.len());
            return wrong("affinity.prefer", reason);
        }
        for (line, Preference { weight, place }) in prefer.iter().enumerate() {
            let field = format!("affinity.prefer[{line}]");
            if !(1..=PREFERENCE_MAX).contains(weight) {
                let reason = format!("{weight} is out of range: expected 1 to {PREFERENCE_MAX}");
                return wrong(&format!("{field}.weight"), reason);
            }
            if place.is_anywhere() {
                return wrong(&field, "names no place: expected regions, labels or clusters".to_owned());
            }
            place.check(index, &field)?;
        }
        Ok(())
    }
}

/// Whether both restrict, and nothing is in both.
fn is_apart<T: PartialEq>(some: &[T], others: &[T]) -> bool {
    !some.is_empty() && !others.is_empty() && !some.iter().any(|one| others.contains(one))
}

/// What a route asks of the instances of one general.
pub(crate) struct Asks<'a> {
    version_min: Option<Version>,
    /// Those that the cluster does not carry.
    labels: Vec<&'a (Arc<str>, Arc<str>)>,
}

impl Asks<'_> {
    pub(crate) fn is_nothing(&self) -> bool {
        self.version_min.is_none() && self.labels.is_empty()
    }

    /// Why an instance is not one for the route.
    pub(crate) fn excludes(&self, profile: &Profile) -> Option<Exclusion> {
        if self.version_min.is_some() && profile.release < self.version_min {
            return Some(Exclusion::VersionTooOld);
        }
        let lacks = |label: &&(Arc<str>, Arc<str>)| !profile.labels.contains(label);
        self.labels.iter().any(lacks).then_some(Exclusion::Affinity)
    }

    pub(crate) fn fit(&self, profile: &Profile) -> bool {
        self.excludes(profile).is_none()
    }
}

impl Durable {
    /// Whether where its cluster is keeps a general out of a route's work.
    pub(crate) fn keeps_out(&self, rule: &Rule, general: GeneralIdx) -> Option<KeptOut> {
        let policy = &rule.route.policy;
        if policy.residency.is_empty() && policy.affinity.is_none() {
            return None;
        }
        let general = self.registry.general(general);
        rule.route.keeps_out(&general.key.cluster, self.registry.region_of(&general.key))
    }

    /// What the route asks of the instances of a general.
    pub(crate) fn asks<'a>(&self, rule: &'a Rule, general: GeneralIdx) -> Asks<'a> {
        let labels = rule.route.required_labels();
        let mut asks = Asks { version_min: rule.route.policy.version_min, labels: Vec::new() };
        if !labels.is_empty() {
            let cluster = self.registry.cluster_of(&self.registry.general(general).key);
            let lacks = |label: &&(Arc<str>, Arc<str>)| !cluster.is_some_and(|known| known.labels.contains(label));
            asks.labels.extend(labels.iter().filter(lacks));
        }
        asks
    }

    /// Whether some instance that takes work, now or once it has a slot, is one for the route.
    pub(crate) fn can_fit(&self, rule: &Rule, general: GeneralIdx, soft: &Soft) -> bool {
        !rule.route.picks_instances() || {
            let asks = self.asks(rule, general);
            let pool = soft.pool(general);
            asks.is_nothing() || pool.is_some_and(|pool| pool.is_able(|profile| asks.fit(profile)))
        }
    }

    /// Whether some instance that is connected is one for the route.
    pub(crate) fn has_fit(&self, rule: &Rule, general: GeneralIdx, soft: &Soft) -> bool {
        let Some(pool) = soft.pool(general).filter(|pool| pool.members > 0) else { return false };
        !rule.route.picks_instances() || {
            let asks = self.asks(rule, general);
            asks.is_nothing() || pool.has(|profile| asks.fit(profile))
        }
    }

    /// Whether the labels of the general as it was registered, or those of an instance that is connected or was a while ago, are what
    /// the route requires. Just after a start a general of which nobody has dialled again yet may be one, too: what it had told is lost.
    pub(crate) fn may_carry(&self, rule: &Rule, general: GeneralIdx, soft: &Soft, now: Timestamp) -> bool {
        let is_unheard = || soft.pool(general).is_none_or(|pool| pool.members == 0);
        if rule.route.required_labels().is_empty() || soft.has_just_begun(now) && is_unheard() {
            return true;
        }
        let asks = Asks { version_min: None, ..self.asks(rule, general) };
        let known = self.registry.general(general);
        let carries = |labels: &Labels| asks.labels.iter().all(|label| labels.contains(label));
        carries(&known.labels)
            || soft.pool(general).is_some_and(|pool| pool.had(now, |profile| carries(&profile.labels)))
    }

    /// What the load of a general counts by the route's preferences, noted in the choice; unset where it has none.
    pub(crate) fn prefer_general(&self, rule: &Rule, general: GeneralIdx, choice: &mut Choice) -> Option<u32> {
        let prefer = rule.route.prefers();
        if prefer.is_empty() {
            return None;
        }
        let factor = self.preference(prefer, general, None);
        choice.siting.get_or_insert_default().generals.push(factor);
        Some(factor)
    }

    /// What the score of an instance counts by the route's preferences, noted in the choice: 1000 where it has none.
    pub(crate) fn prefer_instance(
        &self,
        rule: &Rule,
        general: GeneralIdx,
        profile: &Profile,
        choice: &mut Choice,
    ) -> u32 {
        let prefer = rule.route.prefers();
        if prefer.is_empty() {
            return NEUTRAL;
        }
        let factor = self.preference(prefer, general, Some(profile));
        choice.siting.get_or_insert_default().instances.push(factor);
        factor
    }

    /// The factor of an instance, or of a general by the labels it was registered with.
    /// The factor on a general's load by the route's preferences, in thousandths: less is sooner.
    pub(crate) fn preference_of(&self, rule: &Rule, general: GeneralIdx) -> u32 {
        match rule.route.prefers() {
            [] => NEUTRAL,
            prefer => self.preference(prefer, general, None),
        }
    }

    fn preference(&self, prefer: &[Preference], general: GeneralIdx, profile: Option<&Profile>) -> u32 {
        let general = self.registry.general(general);
        let cluster = self.registry.cluster_of(&general.key);
        let region = cluster.and_then(|cluster| cluster.region.as_ref());
        let labels = profile.map_or(&general.labels, |profile| &profile.labels);
        let carries = |label: &(Arc<str>, Arc<str>)| {
            labels.contains(label) || cluster.is_some_and(|cluster| cluster.labels.contains(label))
        };
        let fits = |place: &Place| place.has_cluster(&general.key.cluster, region) && place.labels.iter().all(carries);
        factor(prefer.iter().filter(|one| fits(&one.place)).map(|one| one.weight))
    }

    /// Notes who is kept out, where the route says something of that.
    pub(crate) fn note_kept_out(&self, rule: &Rule, choice: &mut Choice) {
        if rule.kept_out.is_empty() {
            return;
        }
        let siting = choice.siting.get_or_insert_default();
        siting.kept_out = u32::try_from(rule.kept_out.len()).unwrap_or(u32::MAX);
        let named = rule.kept_out.iter().take(KEPT_OUT_NAMED_MAX);
        siting.named = named.map(|(general, why)| (self.registry.general(*general).key.clone(), *why)).collect();
    }
}

/// What a load or score counts in thousandths where these preferences fit: the less the better.
fn factor(weights: impl Iterator<Item = u32>) -> u32 {
    let weight = weights.fold(0, u32::saturating_add).min(PREFERENCE_MAX);
    NEUTRAL - weight * (NEUTRAL - PREFERRED_LEAST) / PREFERENCE_MAX
}

impl Siting {
    /// As it is recorded: without factors where none differs.
    pub(crate) fn tidy(&mut self) {
        for factors in [&mut self.generals, &mut self.instances] {
            if factors.iter().all(|factor| *factor == NEUTRAL) {
                factors.clear();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::{Match, RouteTable, Targets};
    use mindos_model::Strategy;

    fn table(change: impl FnOnce(&mut Route)) -> Result<(), String> {
        let targets = Targets { regions: vec!["eu-west".parse().unwrap()], ..Targets::default() };
        let mut route = Route::new("only".parse().unwrap(), Match::default(), targets, Strategy::LoadBalanced);
        change(&mut route);
        RouteTable { routes: vec![route], trust: None }.check().map_err(|error| error.to_string())
    }

    fn affinity(change: impl FnOnce(&mut Affinity)) -> Result<(), String> {
        table(|route| {
            let mut affinity = Affinity::default();
            change(&mut affinity);
            route.policy.affinity = Some(Box::new(affinity));
        })
    }

    fn regions(names: &[&str]) -> Vec<Region> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    fn preference(weight: u32, names: &[&str]) -> Preference {
        Preference { weight, place: Place { regions: regions(names), ..Place::default() } }
    }

    #[test]
    fn what_is_wrong_is_named_with_what_is_accepted() {
        assert_eq!(affinity(|known| known.prefer = vec![preference(100, &["eu-west"])]), Ok(()));
        assert_eq!(table(|route| route.policy.residency = regions(&["eu-west", "eu-central"])), Ok(()));
        let cases: [(Result<(), String>, &str); 8] = [
            (affinity(|_| {}), "routes[0].affinity: says nothing: expected require or prefer"),
            (
                affinity(|known| known.prefer = vec![preference(1, &["a"]), preference(101, &["a"])]),
                "routes[0].affinity.prefer[1].weight: 101 is out of range: expected 1 to 100",
            ),
            (
                affinity(|known| known.prefer = vec![preference(0, &["a"])]),
                "routes[0].affinity.prefer[0].weight: 0 is out of range: expected 1 to 100",
            ),
            (
                affinity(|known| known.prefer = vec![preference(1, &[])]),
                "routes[0].affinity.prefer[0]: names no place: expected regions, labels or clusters",
            ),
            (
                affinity(|known| known.prefer = vec![preference(1, &["a"]); 17]),
                "routes[0].affinity.prefer: there are 17: expected at most 16",
            ),
            (
                affinity(|known| known.require.regions = regions(&["us-east"])),
                "routes[0].affinity.require.regions: none of them is in targets.regions, so nobody could get the work",
            ),
            (
                table(|route| route.policy.residency = regions(&["us-east"])),
                "routes[0].residency: none of them is in targets.regions, so nobody could get the work",
            ),
            (
                affinity(|known| known.require.labels = vec![("a".into(), "b".into()); 17]),
                "routes[0].affinity.require.labels: there are 17: expected at most 16",
            ),
        ];
        for (found, wanted) in cases {
            assert_eq!(found.unwrap_err(), wanted);
        }
    }

    #[test]
    fn no_preference_counts_a_load_for_less_than_half() {
        assert_eq!(factor([].into_iter()), 1000);
        assert_eq!(factor([40].into_iter()), 800);
        assert_eq!(factor([100].into_iter()), 500);
        assert_eq!(factor([60, 70, u32::MAX].into_iter()), 500);
    }

    #[test]
    fn a_cluster_without_a_region_is_in_none() {
        let mut route =
            Route::new("only".parse().unwrap(), Match::default(), Targets::default(), Strategy::LoadBalanced);
        let cluster: ClusterName = "c1".parse().unwrap();
        assert_eq!(route.keeps_out(&cluster, None), None);
        route.policy.residency = regions(&["eu-west"]);
        assert_eq!(route.keeps_out(&cluster, None), Some(KeptOut::Residency));
        assert_eq!(route.keeps_out(&cluster, regions(&["eu-west"]).first()), None);
        let require = Place { clusters: vec!["c2".parse().unwrap()], ..Place::default() };
        route.policy.affinity = Some(Box::new(Affinity { require, prefer: Vec::new() }));
        assert_eq!(route.keeps_out(&cluster, regions(&["eu-west"]).first()), Some(KeptOut::Affinity));
        assert_eq!(route.keeps_out(&cluster, regions(&["us-east"]).first()), Some(KeptOut::Residency));
    }
}
