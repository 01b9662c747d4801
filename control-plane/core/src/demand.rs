//! Demand: what a general has to do, for whoever scales its pool; and pools that somebody scales, which may be empty and still be there.
//!
//! ```text
//!   demand read  <- counts that queues keep; grows with the routes of a general, never with what waits
//!   pool kept    -> the general is known, events wait for it, its lanes are not parked while it warms up
//! ```
//! Invariant: a pool counts as kept no longer than whoever scales it said, so one that never comes holds nothing up for good.

use std::time::Duration;

use mindos_model::{ClusterName, GeneralName, GeneralType, TenantName, Timestamp};

use crate::decide::Context;
use crate::durable::Durable;
use crate::event::{Delivery, Event};
use crate::record::{GeneralKey, GeneralRegistered, Record};
use crate::registry::GeneralIdx;
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
    /// Deliveries that could be begun there if there were slots: those at the heads of their lanes, of its own and of routes that may
    /// choose it. None while it may begin no work.
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

impl Durable {
    /// In the order asked for; unset for generals that are not known.
    pub(crate) fn demands(
        &self,
        tenant: &TenantName,
        generals: Vec<(ClusterName, GeneralName)>,
        soft: &Soft,
    ) -> Vec<Option<Demand>> {
        let key = |(cluster, name)| GeneralKey { tenant: tenant.clone(), cluster, name };
        let found = generals.into_iter().take(DEMAND_MAX).map(|general| self.registry.find(&key(general)));
        found.map(|idx| idx.map(|idx| self.demand(idx, soft))).collect()
    }

    fn demand(&self, idx: GeneralIdx, soft: &Soft) -> Demand {
        let general = self.registry.general(idx);
        let may_begin = self.registry.may_begin(idx);
        let rules = || general.routes.iter().map(|route| self.routing.rule(*route));
        let sides = general.shadows.iter().map(|route| self.routing.rule(*route));
        let sides = sides.filter_map(|rule| Some((rule, &rule.shadow.as_deref()?.queue)));
        let queues = rules().map(|rule| (rule, &rule.queue)).chain(sides);
        let pool = soft.pool(idx);
        let mut demand = Demand {
            ready: u64::from(general.queue.startable),
            waiting: u64::from(general.queue.waiting) + general.queue.overflow.len() as u64,
            running: u64::from(general.leased),
            instances: pool.map_or(0, |pool| pool.members),
            slots: pool.map_or(0, |pool| pool.load.capacity),
        };
        for (rule, queue) in queues {
            demand.waiting += u64::from(queue.waiting) + queue.overflow.len() as u64;
            demand.ready += if rule.holds.is_none() { u64::from(queue.startable) } else { 0 };
        }
        if !may_begin {
            demand.ready = 0;
        }
        demand
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
            records.push(Record::GeneralRegistered(Box::new(GeneralRegistered { key: key.clone(), ty: ty.clone(), labels: Vec::new() })));
            keys.push(key);
        }
        records
    }

    /// Whether a delivery waits for a pool that is about to come: one that is kept and has nobody, where nobody else could do it.
    pub(crate) fn waits_for_pool(&self, event: &Event, delivery: &Delivery, Context { soft, now, .. }: Context<'_>) -> bool {
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
