//! The strategies that list their generals: sticky by lane, failover in order, split by shares.
//!
//! What they cost grows with the generals that the route names, a few nanoseconds each, and with nothing else. Invariant: what a lane
//! maps to follows from names alone, so it is the same after a restart and on another machine.

use std::collections::{BTreeMap, BTreeSet};

use mindos_model::Strategy;

use crate::aside::Wanted;
use crate::durable::Durable;
use crate::event::Event;
use crate::input::Entropy;
use crate::placement::{GENERALS_WEIGHED_MAX, Unplaced};
use crate::queue::LaneIdx;
use crate::record::{Choice, GeneralKey, Load};
use crate::registry::{General, GeneralIdx};
use crate::route::{Route, Targets};
use crate::routing::{RouteIdx, Rule};
use crate::soft::Soft;

/// The generals of a route with their places: under `failover` the order in which they are asked, under `split` the arm.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ranks {
    of: BTreeMap<GeneralIdx, u32>,
    order: BTreeSet<(u32, GeneralIdx)>,
}

impl Ranks {
    pub(crate) fn of(&self, general: GeneralIdx) -> Option<u32> {
        self.of.get(&general).copied()
    }

    /// Takes the general's place; `None` is none.
    pub(crate) fn set(&mut self, general: GeneralIdx, rank: Option<u32>) {
        if let Some(before) = self.of.remove(&general) {
            self.order.remove(&(before, general));
        }
        if let Some(rank) = rank {
            self.of.insert(general, rank);
            self.order.insert((rank, general));
        }
    }

    /// All of them, first places first.
    pub(crate) fn ordered(&self) -> impl Iterator<Item = GeneralIdx> + '_ {
        self.order.iter().map(|(_, general)| *general)
    }

    /// The generals of one place, from somewhere on and around.
    pub(crate) fn around(&self, rank: u32, start: GeneralIdx) -> impl Iterator<Item = GeneralIdx> + '_ {
        let (first, last) = (GeneralIdx(0), GeneralIdx(u32::MAX));
        let from = self.order.range((rank, start)..=(rank, last));
        from.chain(self.order.range((rank, first)..(rank, start))).map(|(_, general)| *general)
    }
}

/// The place of a general that fits the route's targets.
pub(crate) fn rank(route: &Route, general: &General) -> Option<u32> {
    let Targets { types, clusters, regions: _, names, labels: _, weights: _ } = &route.targets;
    fn place<T: PartialEq>(list: &[T], value: &T) -> u32 {
        u32::try_from(list.iter().position(|known| known == value).unwrap_or_default()).unwrap_or(u32::MAX)
    }
    match route.strategy {
        // At most 64 stand in a list.
        Strategy::Failover => {
            let GeneralKey { cluster, name, .. } = general.key.as_ref();
            let (ty, name, cluster) = (place(types, &general.ty), place(names, name), place(clusters, cluster));
            Some((ty.min(255) << 16) | (name.min(255) << 8) | cluster.min(255))
        }
        Strategy::Split => {
            let arm = route.targets.weights.iter().position(|one| fits(&one.target, general))?;
            u32::try_from(arm).ok()
        }
        Strategy::Broadcast
        | Strategy::RoundRobin
        | Strategy::LoadBalanced
        | Strategy::Sticky
        | Strategy::Race
        | Strategy::Shadow => None,
    }
}

/// Whether a share's target is this general: by its name, type, cluster or label.
fn fits(target: &str, general: &General) -> bool {
    let GeneralKey { cluster, name, .. } = general.key.as_ref();
    let label = || target.split_once('=');
    target == name.as_str()
        || target == general.ty.as_str()
        || target == cluster.as_str()
        || label().is_some_and(|(key, value)| general.labels.iter().any(|(k, v)| **k == *key && **v == *value))
}

/// The arm of a lane: the same as long as the weights are the same.
fn arm(route: &Route, lane: &str) -> Wanted {
    let sum: u64 = route.targets.weights.iter().map(|one| u64::from(one.weight)).sum();
    // By the route's name too, so that two routes do not split alike.
    let hash = mix(hash(lane) ^ hash(route.name.as_str()).rotate_left(32));
    let mut point = ((u128::from(hash) * u128::from(sum)) >> 64) as u64;
    for (arm, one) in (0..).zip(&route.targets.weights) {
        match point.checked_sub(u64::from(one.weight)) {
            Some(rest) => point = rest,
            None => return arm,
        }
    }
    0
}

/// What stands for a general in rendezvous hashing.
pub(crate) fn mark(key: &GeneralKey) -> u64 {
    mix(hash(key.cluster.as_str()).rotate_left(17) ^ hash(key.name.as_str()))
}

/// FNV-1a: of names, which are short.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// The end of splitmix64, which spreads every bit over all.
fn mix(value: u64) -> u64 {
    Entropy(value).draw()
}

impl Durable {
    /// The general for a lane of a route that lists its generals.
    pub(crate) fn choose_listed(
        &self,
        route: RouteIdx,
        (event, lane): (&Event, LaneIdx),
        soft: &Soft,
        entropy: &mut Entropy,
        choice: &mut Choice,
    ) -> Result<GeneralIdx, Unplaced> {
        let rule = self.routing.rule(route);
        let free = self.fitting_of(route, soft).filter(|free| !free.is_empty()).ok_or(Unplaced::NoSlot)?;
        let start = GeneralIdx(entropy.below(u64::from(self.registry.width())) as u32);
        if rule.route.strategy == Strategy::Failover {
            let first = rule.ranks.order.iter().find(|(_, general)| free.contains(general));
            let (rank, _) = *first.ok_or(Unplaced::NoSlot)?;
            let equals = rule.ranks.around(rank, start).filter(|general| free.contains(general));
            return self.least(rule, equals, soft, choice).ok_or(Unplaced::NoSlot);
        }
        let (wanted, found) = if rule.route.strategy == Strategy::Split {
            let arm = self.arm_of(rule, event);
            let equals = rule.ranks.around(arm, start).filter(|general| free.contains(general));
            (arm, self.least(rule, equals, soft, choice))
        } else {
            let general = self.sticky_among(rule, &rule.members, &event.lane, soft).ok_or(Unplaced::NoSlot)?;
            let has_slot = free.contains(&general).then_some(general);
            (general.0, self.least(rule, has_slot.into_iter(), soft, choice))
        };
        self.unless_behind(rule, lane, wanted, found)
    }

    /// The general found, unless other lanes wait longer for it.
    pub(crate) fn unless_behind(
        &self,
        rule: &Rule,
        lane: LaneIdx,
        wanted: Wanted,
        found: Option<GeneralIdx>,
    ) -> Result<GeneralIdx, Unplaced> {
        let is_behind = rule.aside.first(wanted).is_some_and(|first| first != lane);
        match found {
            Some(general) if !is_behind => Ok(general),
            Some(_) => Err(Unplaced::Aside { wanted, behind: true }),
            None => Err(Unplaced::Aside { wanted, behind: false }),
        }
    }

    /// The arm of an event's lane.
    pub(crate) fn arm_of(&self, rule: &Rule, event: &Event) -> Wanted {
        arm(&rule.route, &event.lane)
    }

    /// The least loaded of the first few, by the route's preferences.
    pub(crate) fn least(
        &self,
        rule: &Rule,
        candidates: impl Iterator<Item = GeneralIdx>,
        soft: &Soft,
        choice: &mut Choice,
    ) -> Option<GeneralIdx> {
        let mut best: Option<(GeneralIdx, Load, Option<u32>)> = None;
        for general in candidates.take(GENERALS_WEIGHED_MAX) {
            let load = self.weigh(general, soft, choice);
            let factor = self.prefer_general(rule, general, choice);
            if best.is_none_or(|(_, least, of_least)| load.is_less(factor, least, of_least)) {
                best = Some((general, load, factor));
            }
        }
        best.map(|(general, ..)| general)
    }

    /// The lane's general: of those that are there and have an instance for the route the one with the highest score, so that each that
    /// comes or goes moves only its own lanes.
    pub(crate) fn sticky_among(
        &self,
        rule: &Rule,
        generals: &BTreeSet<GeneralIdx>,
        lane: &str,
        soft: &Soft,
    ) -> Option<GeneralIdx> {
        let lane = hash(lane);
        let score = |general: &GeneralIdx| mix(self.registry.general(*general).mark ^ lane);
        let first = generals.iter().copied().max_by_key(score)?;
        if self.is_there(rule, first, soft) {
            return Some(first);
        }
        generals.iter().copied().filter(|general| self.is_there(rule, *general, soft)).max_by_key(score)
    }

    /// Whether some instance of the general is connected and takes work of the route, now or once it has a slot.
    pub(crate) fn is_there(&self, rule: &Rule, general: GeneralIdx, soft: &Soft) -> bool {
        let is_able = soft.pool(general).is_some_and(|pool| pool.able() > 0) && self.registry.may_begin(general);
        is_able && self.can_fit(rule, general, soft)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Weight;
    use crate::route::Match;

    fn split(weights: &[u32]) -> Route {
        let weights = weights.iter().map(|weight| Weight { target: "x".into(), weight: *weight }).collect();
        let targets = Targets { weights, ..Targets::default() };
        Route::new("r".parse().unwrap(), Match::default(), targets, Strategy::Split)
    }

    #[test]
    fn lanes_are_split_in_the_shares_given() {
        let route = split(&[90, 0, 10]);
        let mut counts = [0_u32; 3];
        for lane in 0..10_000 {
            counts[arm(&route, &format!("octo/repo/pr/{lane}")) as usize] += 1;
        }
        assert!((8800..9200).contains(&counts[0]), "{counts:?}");
        assert_eq!(counts[1], 0);
    }

    #[test]
    fn rendezvous_spreads_lanes_evenly_and_moves_only_those_of_who_left() {
        let tenant = mindos_model::TenantName::default_tenant();
        let key = |number: u32| GeneralKey {
            tenant: tenant.clone(),
            cluster: "c".parse().unwrap(),
            name: format!("g{number}").parse().unwrap(),
        };
        let marks: Vec<u64> = (0..8).map(|number| mark(&key(number))).collect();
        let of = |marks: &[u64], lane: &str| (0..marks.len()).max_by_key(|at| mix(marks[*at] ^ hash(lane))).unwrap();
        let mut counts = [0_u32; 8];
        for lane in 0..8000 {
            let lane = format!("octo/repo/pr/{lane}");
            let before = of(&marks, &lane);
            counts[before] += 1;
            let after = of(&marks[..7], &lane);
            assert!(before == 7 || before == after);
        }
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
    }

    #[test]
    fn what_a_lane_maps_to_does_not_move_between_releases() {
        assert_eq!(hash("octo/repo/pr/1"), 0x9e3e_b669_d9f4_2cbe);
        assert_eq!(mix(1), 0x910a_2dec_8902_5cc1);
    }
}
