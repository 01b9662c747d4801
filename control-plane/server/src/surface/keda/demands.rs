//! What the pools that KEDA scales have to do, for everybody who asks: one question to the plane for all of them, whenever
//! something became durable, and at most every [`PAUSE`].
//!
//! Invariant: a pool is kept as long as somebody asks for it, and no longer than its warm-up while work waits and nobody comes.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mindos_core::demand::{Demand, KeptPool};
use mindos_core::input::{Input, Query};
use mindos_core::output::Reply;
use mindos_kube::mindos::GeneralSpec;
use mindos_model::{ClusterName, GeneralName, GeneralType, TenantName};
use tokio::sync::{Notify, watch};
use tonic::Status;
use tracing::{info, warn};

use crate::driver::{Followed, Follower, Handle};
use crate::grpc::status;
use crate::metrics::{Exposition, Kind};

/// Between two looks, at least: what a change is later by at most.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a pool stays kept after somebody asked for it. KEDA asks every 30 s unless its pollingInterval says otherwise.
const KEEP: Duration = Duration::from_secs(300);
/// Between two times that the plane is told of a pool.
const KEEP_INTERVAL: Duration = Duration::from_secs(60);
/// Pools that may be asked for at a time.
const POOLS_MAX: usize = mindos_core::demand::DEMAND_MAX;

/// A pool, by the general that it is of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Pool {
    pub(super) tenant: TenantName,
    pub(super) cluster: ClusterName,
    pub(super) general: GeneralName,
}

#[derive(Debug)]
struct Asked {
    ty: GeneralType,
    demand: watch::Sender<Demand>,
    /// When somebody asked last; streams ask all the time.
    at: Instant,
    /// When the plane was told last; unset before.
    told: Option<Instant>,
    /// Since when work waits and nobody is there.
    empty_since: Option<Instant>,
    /// Nobody came in time.
    gave_up: bool,
    /// When it had something to do last.
    busy_at: Option<Instant>,
}

impl Asked {
    fn is_watched(&self) -> bool {
        self.demand.receiver_count() > 0
    }

    fn keep(&self) -> Duration {
        if self.gave_up { Duration::ZERO } else { KEEP }
    }
}

/// All pools that are asked for.
#[derive(Debug)]
pub struct Demands {
    handle: Handle,
    warm_up: Duration,
    pools: Mutex<BTreeMap<Pool, Asked>>,
    wake: Notify,
    pushes: AtomicU64,
}

impl Demands {
    /// Of the plane behind the handle.
    #[must_use]
    pub fn new(handle: Handle, warm_up: Duration) -> Demands {
        Demands { handle, warm_up, pools: Mutex::default(), wake: Notify::new(), pushes: AtomicU64::new(0) }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Pool, Asked>> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that somebody asks, and tells the plane where it is to know that.
    fn ask(&self, pool: &Pool, ty: &GeneralType) -> Result<watch::Receiver<Demand>, Status> {
        let now = Instant::now();
        let mut pools = self.lock();
        if !pools.contains_key(pool) {
            if pools.len() >= POOLS_MAX {
                let message = format!("{POOLS_MAX} pools are asked for, no more may");
                return Err(Status::resource_exhausted(message));
            }
            let (demand, _) = watch::channel(Demand::default());
            let ty = ty.clone();
            let asked = Asked { ty, demand, at: now, told: None, empty_since: None, gave_up: false, busy_at: None };
            pools.insert(pool.clone(), asked);
        }
        let asked = pools.get_mut(pool).expect("it is there or was put there");
        asked.at = now;
        asked.ty.clone_from(ty);
        if asked.told.is_none_or(|told| now.duration_since(told) >= KEEP_INTERVAL) {
            self.handle
                .offer([keep_pools(&pool.tenant, vec![kept(pool, asked)])])
                .map_err(|error| status::call(&error))?;
            asked.told = Some(now);
        }
        Ok(asked.demand.subscribe())
    }

    /// As it is.
    pub(super) async fn now(&self, pool: &Pool, ty: &GeneralType) -> Result<Demand, Status> {
        // Dropped at once: who asks now and then watches nothing.
        drop(self.ask(pool, ty)?);
        self.wake.notify_one();
        let found = self.query(&pool.tenant, vec![(pool.cluster.clone(), pool.general.clone())]).await?;
        let found = found.into_iter().next().flatten().unwrap_or_default();
        self.tell(pool, found);
        Ok(found)
    }

    /// What the object of the cluster says of the general, where one made it.
    pub(super) async fn object(&self, pool: &Pool) -> Result<Option<GeneralSpec>, Status> {
        let Pool { tenant, cluster, general } = pool.clone();
        let query = Query::Objects { cluster: Some(cluster), general: Some(general) };
        let ask = |request| Input::Query { request, tenant, query };
        match self.handle.call(ask).await.map_err(|error| status::call(&error))? {
            // What was taken is a spec; one of a later release may say more.
            Reply::Objects(found) => Ok(found.first().and_then(|object| serde_json::from_str(&object.spec).ok())),
            _ => Err(status::internal("the plane gave an answer of another kind").into()),
        }
    }

    /// When a pool had something to do last.
    pub(super) fn busy_at(&self, pool: &Pool) -> Option<Instant> {
        self.lock().get(pool).and_then(|asked| asked.busy_at)
    }

    /// As it is and whenever it changes.
    pub(super) async fn watch(&self, pool: &Pool, ty: &GeneralType) -> Result<watch::Receiver<Demand>, Status> {
        let mut receiver = self.ask(pool, ty)?;
        let found = self.query(&pool.tenant, vec![(pool.cluster.clone(), pool.general.clone())]).await?;
        self.tell(pool, found.into_iter().next().flatten().unwrap_or_default());
        receiver.mark_changed();
        self.wake.notify_one();
        Ok(receiver)
    }

    async fn query(
        &self,
        tenant: &TenantName,
        generals: Vec<(ClusterName, GeneralName)>,
    ) -> Result<Vec<Option<Demand>>, Status> {
        let query = Query::Demand { generals };
        let ask = |request| Input::Query { request, tenant: tenant.clone(), query };
        match self.handle.call(ask).await.map_err(|error| status::call(&error))? {
            Reply::Demand(found) => Ok(found),
            _ => Err(status::internal("the plane gave an answer of another kind").into()),
        }
    }

    fn tell(&self, pool: &Pool, found: Demand) {
        let mut pools = self.lock();
        let Some(asked) = pools.get_mut(pool) else { return };
        if found.ready + found.running > 0 {
            asked.busy_at = Some(Instant::now());
        }
        let waits = waits_in_vain(&found, asked.gave_up);
        asked.empty_since = if waits { asked.empty_since.or_else(|| Some(Instant::now())) } else { None };
        let gives_up = asked.empty_since.is_some_and(|since| since.elapsed() >= self.warm_up);
        if gives_up != asked.gave_up {
            asked.gave_up = gives_up;
            // The plane is told at the next look.
            asked.told = None;
            let Pool { tenant, cluster, general } = pool;
            match gives_up {
                true => {
                    warn!(%tenant, %cluster, %general, waiting = found.waiting, "pool did not come in time: nobody counts as there")
                }
                false => info!(%tenant, %cluster, %general, "pool counts as there again"),
            }
        }
        let is_news = |known: &mut Demand| std::mem::replace(known, found) != found;
        if asked.demand.send_if_modified(is_news) && asked.is_watched() {
            self.pushes.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Looks at all pools whenever something became durable, until `draining` turns true.
    pub async fn run(self: Arc<Self>, mut draining: watch::Receiver<bool>) {
        let mut follower: Option<Follower> = None;
        loop {
            let is_asked = !self.lock().is_empty();
            if is_asked && follower.is_none() {
                follower = Some(self.handle.subscribe());
            } else if !is_asked {
                follower = None;
            }
            let ended = tokio::select! {
                _ = draining.wait_for(|draining| *draining) => true,
                () = self.wake.notified() => false,
                followed = next(follower.as_mut()) => matches!(followed, Followed::Closed),
                // Pools come to be forgotten, and warm-ups end, when nothing happens too.
                () = tokio::time::sleep(Duration::from_secs(1)), if is_asked => false,
            };
            if ended {
                return;
            }
            self.look().await;
            tokio::time::sleep(PAUSE).await;
            if let Some(follower) = &mut follower {
                // What became durable meanwhile is one reason to look, not many.
                while let Ok(Followed::Batch(_) | Followed::Lagged { .. }) =
                    tokio::time::timeout(Duration::ZERO, follower.next()).await
                {
                    self.wake.notify_one();
                }
            }
        }
    }

    /// Tells the plane which pools are kept, and everybody what they have to do.
    async fn look(&self) {
        let mut tenants: BTreeMap<TenantName, (Vec<Pool>, Vec<KeptPool>)> = BTreeMap::new();
        {
            let now = Instant::now();
            let mut pools = self.lock();
            pools.retain(|_, asked| asked.is_watched() || now.duration_since(asked.at) < KEEP);
            for (pool, asked) in pools.iter_mut() {
                let (all, told) = tenants.entry(pool.tenant.clone()).or_default();
                all.push(pool.clone());
                if asked.told.is_none_or(|told| now.duration_since(told) >= KEEP_INTERVAL) {
                    asked.told = Some(now);
                    told.push(kept(pool, asked));
                }
            }
        }
        for (tenant, (pools, kept)) in tenants {
            // Where the inbox is full, the next minute's word comes in time: pools stay kept for five.
            if !kept.is_empty() && self.handle.offer([keep_pools(&tenant, kept)]).is_err() {
                warn!(%tenant, "the plane was not told which pools are kept: its inbox is full");
            }
            let generals = pools.iter().map(|pool| (pool.cluster.clone(), pool.general.clone())).collect();
            let Ok(found) = self.query(&tenant, generals).await else { continue };
            for (pool, found) in pools.iter().zip(found) {
                self.tell(pool, found.unwrap_or_default());
            }
        }
    }

    /// Writes the families.
    pub fn expose(&self, into: &mut Exposition) {
        let (pools, watched) = {
            let pools = self.lock();
            (pools.len(), pools.values().filter(|asked| asked.is_watched()).count())
        };
        into.single("mindos_keda_pools", Kind::Gauge, "Pools that KEDA scales.", pools as u64);
        into.single("mindos_keda_pools_watched", Kind::Gauge, "Those of them that KEDA watches.", watched as u64);
        let pushes = self.pushes.load(Ordering::Relaxed);
        into.single("mindos_keda_changes_total", Kind::Counter, "Changes of what watched pools have to do.", pushes);
    }
}

/// Whether work waits for a pool in which nobody is. One that was given up stays so as long as anything waits that it could do, although
/// others have its share of it by then: else it would take that back at once, and nobody would ever begin.
fn waits_in_vain(found: &Demand, gave_up: bool) -> bool {
    found.instances == 0 && (found.ready > 0 || gave_up && found.waiting > 0)
}

async fn next(follower: Option<&mut Follower>) -> Followed {
    match follower {
        Some(follower) => follower.next().await,
        None => std::future::pending().await,
    }
}

fn kept(pool: &Pool, asked: &Asked) -> KeptPool {
    let Pool { tenant: _, cluster, general } = pool;
    KeptPool { cluster: cluster.clone(), general: general.clone(), ty: asked.ty.clone(), keep: asked.keep() }
}

fn keep_pools(tenant: &TenantName, pools: Vec<KeptPool>) -> Input {
    Input::KeepPools { tenant: tenant.clone(), pools }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_that_was_given_up_stays_so_until_it_comes_or_nothing_waits() {
        let demand = |ready, waiting, instances| Demand { ready, waiting, instances, ..Demand::default() };
        for (found, gave_up, waits) in [
            (demand(1, 1, 0), false, true),
            (demand(0, 1, 0), false, false),
            // Its share is that of others.
            (demand(0, 1, 0), true, true),
            (demand(0, 0, 0), true, false),
            (demand(1, 1, 1), true, false),
        ] {
            assert_eq!(waits_in_vain(&found, gave_up), waits, "{found:?} {gave_up}");
        }
    }
}
