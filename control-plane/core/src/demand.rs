//! Demand: what a general has to do, for whoever scales its pool; and pools that somebody scales, which may be empty and still be there.
//!
//! ```text
//!   demand read  <- counts that queues keep; grows with the routes of a general and the pools kept, never with what waits
//!   pool kept    -> the general is known, events wait for it, its lanes are not parked while it warms up
//! ```
//! What waits for a route may be done by any of its members, and whoever scales their pools is to bring up room for it once. So it is
//! divided among those whose pools are kept: equally, and what is left over to those that are there, then to those that the route
//! prefers. Under `failover` it is that of the first place with such a pool, under `split` each arm counts all of it, since only its
//! lanes tell the arms apart. Invariants: the shares of pools that are kept add up to what waits; a pool counts as kept no longer than
//! whoever scales it said, so one that never comes holds nothing up for good.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mindos_model::{ClusterName, GeneralName, GeneralType, Strategy, TenantName, Timestamp};

use crate::decide::Context;
use crate::durable::Durable;
use crate::event::{Delivery, Event};
use crate::record::{GeneralKey, GeneralRegistered, Record};
use crate::registry::GeneralIdx;
use crate::routing::{RouteIdx, Rule};
use crate::soft::Soft;

/// Generals that one question may name; those beyond are not answered for.
pub const DEMAND_MAX: usize = 10_000;
/// How long a pool may be said to be kept at once.
pub const POOL_KEEP_MAX: Duration = Duration::from_secs(3600);

/// A pool that somebody scales.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptPool {
    pub cluster: ClusterName,
    pub general: GeneralName,
    /// Of the general, where it is not known yet; what its instances told counts otherwise.
    pub ty: GeneralType,
    /// How long it counts as kept from here on, at most [`POOL_KEEP_MAX`]; zero ends it.
    pub keep: Duration,
}

/// What a general has to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// Deliveries that could be begun there if there were slots: those at the heads of their lanes, of its own, and its share of those
    /// of routes that may choose it. None while it may begin no work.
    pub ready: u64,
    /// All that wait for it or for one of its routes', also behind others of their lanes and parked for want of room.
    pub waiting: u64,
    /// Deliveries leased to its instances.
    pub running: u64,
    /// Instances that are connected.
    pub instances: u32,
    /// Their slots together.
    pub slots: u32,
}

/// Who shares what waits for a route.
#[derive(Debug, Default)]
struct Sharers {
    /// The group of each and its place there, by which what is left over is given out.
    places: BTreeMap<GeneralIdx, (u32, u64)>,
    /// How many there are in each group.
    counts: BTreeMap<u32, u64>,
}

impl Sharers {
    /// The part of `ready` that a general counts, which is one of them or asks as one.
    fn share(&self, general: GeneralIdx, group: u32, strategy: Strategy, ready: u64) -> u64 {
        let is_behind = self.counts.first_key_value().is_some_and(|(first, _)| *first < group);
        if strategy == Strategy::Failover && is_behind {
            return 0;
        }
        let count = self.counts.get(&group).copied().unwrap_or(0);
        let (place, count) = match self.places.get(&general) {
            Some((_, place)) => (*place, count),
            // Last of all, and without taking from the others.
            None => (count, count + 1),
        };
        ready / count + u64::from(place < ready % count)
    }
}

/// Apart from whom a general of the route has its share.
fn group(rule: &Rule, general: GeneralIdx) -> u32 {
    match rule.route.strategy {
        Strategy::Failover | Strategy::Split => rule.ranks.of(general).unwrap_or(0),
        Strategy::Broadcast
        | Strategy::RoundRobin
        | Strategy::LoadBalanced
        | Strategy::Sticky
        | Strategy::Race
        | Strategy::Shadow => 0,
    }
}

/// Those of each route that were looked for, and of its shadows.
type Found = BTreeMap<(RouteIdx, bool), Sharers>;

impl Durable {
    /// In the order asked for; unset for generals that are not known.
    pub(crate) fn demands(
        &self,
        tenant: &TenantName,
        generals: Vec<(ClusterName, GeneralName)>,
        soft: &Soft,
        now: Timestamp,
    ) -> Vec<Option<Demand>> {
        let key = |(cluster, name)| GeneralKey { tenant: tenant.clone(), cluster, name };
        let found = generals.into_iter().take(DEMAND_MAX).map(|general| self.registry.find(&key(general)));
        let mut sharers = Found::new();
        found.map(|idx| idx.map(|idx| self.demand(idx, soft, now, &mut sharers))).collect()
    }

    fn demand(&self, idx: GeneralIdx, soft: &Soft, now: Timestamp, found: &mut Found) -> Demand {
        let general = self.registry.general(idx);
        let may_begin = self.registry.may_begin(idx);
        let pool = soft.pool(idx);
        let mut demand = Demand {
            ready: u64::from(general.queue.startable),
            waiting: u64::from(general.queue.waiting) + general.queue.overflow.len() as u64,
            running: u64::from(general.leased),
            instances: pool.map_or(0, |pool| pool.members),
            slots: pool.map_or(0, |pool| pool.load.capacity),
        };
        let live = general.routes.iter().map(|route| (*route, false));
        for (route, is_shadow) in live.chain(general.shadows.iter().map(|route| (*route, true))) {
            let rule = self.routing.rule(route);
            let (members, queue) = match rule.shadow.as_deref().filter(|_| is_shadow) {
                Some(side) => (&side.members, &side.queue),
                None if is_shadow => continue,
                None => (&rule.members, &rule.queue),
            };
            demand.waiting += u64::from(queue.waiting) + queue.overflow.len() as u64;
            if rule.holds.is_none() && queue.startable > 0 && may_begin {
                let look = || self.sharers(rule, members, is_shadow, soft, now);
                let sharers = found.entry((route, is_shadow)).or_insert_with(look);
                let group = if is_shadow { 0 } else { group(rule, idx) };
                let strategy = if is_shadow { Strategy::RoundRobin } else { rule.route.strategy };
                demand.ready += sharers.share(idx, group, strategy, u64::from(queue.startable));
            }
        }
        if !may_begin {
            demand.ready = 0;
        }
        demand
    }

    /// The members whose pools are kept and that may begin work.
    fn sharers(
        &self,
        rule: &Rule,
        members: &BTreeSet<GeneralIdx>,
        is_shadow: bool,
        soft: &Soft,
        now: Timestamp,
    ) -> Sharers {
        let shares = |general: &GeneralIdx| {
            members.contains(general) && soft.keeps_pool(*general, now) && self.registry.may_begin(*general)
        };
        let kept = &soft.kept_pools;
        let mut all: Vec<GeneralIdx> = match kept.len() < members.len() {
            true => kept.iter().copied().filter(shares).collect(),
            false => members.iter().copied().filter(shares).collect(),
        };
        let is_empty = |general| soft.pool(general).is_none_or(|pool| pool.members == 0);
        all.sort_by_cached_key(|general| (is_empty(*general), self.preference_of(rule, *general), *general));
        let mut sharers = Sharers::default();
        for general in all {
            let group = if is_shadow { 0 } else { group(rule, general) };
            let count = sharers.counts.entry(group).or_default();
            sharers.places.insert(general, (group, *count));
            *count += 1;
        }
        sharers
    }

    /// Generals of pools that are kept and that were not known.
    pub(crate) fn introduce_pools(&self, tenant: &TenantName, pools: &[KeptPool], generals_max: usize) -> Vec<Record> {
        let mut room = generals_max.saturating_sub(self.registry.len());
        let mut records = Vec::new();
        let mut keys: Vec<GeneralKey> = Vec::new();
        for KeptPool { cluster, general, ty, keep } in pools {
            let key = GeneralKey { tenant: tenant.clone(), cluster: cluster.clone(), name: general.clone() };
            if keep.is_zero() || room == 0 || self.registry.find(&key).is_some() || keys.contains(&key) {
                continue;
            }
            room -= 1;
            records.push(Record::GeneralRegistered(Box::new(GeneralRegistered {
                key: key.clone(),
                ty: ty.clone(),
                labels: Vec::new(),
            })));
            keys.push(key);
        }
        records
    }

    /// Whether a delivery waits for a pool that is about to come: one that is kept and has nobody, where nobody else could do it.
    pub(crate) fn waits_for_pool(
        &self,
        event: &Event,
        delivery: &Delivery,
        Context { soft, now, .. }: Context<'_>,
    ) -> bool {
        if let Some(general) = self.general_of(delivery).and_then(|key| self.registry.find(key)) {
            return soft.warms_up(general, now);
        }
        let members = &self.routing.rule(event.route).members;
        let has_members = |general: &GeneralIdx| soft.pool(*general).is_some_and(|pool| pool.members > 0);
        !members.iter().any(has_members) && members.iter().any(|general| soft.warms_up(*general, now))
    }
}

impl Soft {
    /// Takes in which pools are kept.
    pub(crate) fn keep_pools(&mut self, durable: &Durable, tenant: &TenantName, pools: &[KeptPool], now: Timestamp) {
        for KeptPool { cluster, general, ty: _, keep } in pools {
            let key = GeneralKey { tenant: tenant.clone(), cluster: cluster.clone(), name: general.clone() };
            if let Some(idx) = durable.registry.find(&key) {
                self.pools.keep(idx, now + (*keep).min(POOL_KEEP_MAX));
                // As many as there are generals at most; those whose time is over are passed over.
                let _ = if keep.is_zero() { self.kept_pools.remove(&idx) } else { self.kept_pools.insert(idx) };
            }
        }
    }

    /// Whether somebody scales the general's pool.
    pub(crate) fn keeps_pool(&self, general: GeneralIdx, now: Timestamp) -> bool {
        self.pool(general).is_some_and(|pool| now < pool.kept_until)
    }

    /// Whether the general's pool is kept and nobody is in it.
    pub(crate) fn warms_up(&self, general: GeneralIdx, now: Timestamp) -> bool {
        self.pool(general).is_some_and(|pool| pool.members == 0 && now < pool.kept_until)
    }
}
