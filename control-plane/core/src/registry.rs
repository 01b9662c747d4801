//! The registry: clusters, generals and what is held back, as far as it must survive the process.
//!
//! Invariant: a general's index is never given to another one.

use std::collections::BTreeMap;
use std::sync::Arc;

use foldhash::quality::FixedState;
use hashbrown::HashMap;
use mindos_model::{ClusterName, GeneralType, InstanceId, Region, TenantName};

use crate::queue::Queue;
use crate::record::{GeneralKey, GeneralRegistered, HoldTarget, Holds, InstanceKey, Labels};
use crate::routing::RouteIdx;
use crate::tenants::TenantIdx;

/// Place of a general in the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct GeneralIdx(pub(crate) u32);

#[derive(Clone, Debug)]
pub(crate) struct General {
    pub(crate) key: Arc<GeneralKey>,
    pub(crate) tenant_idx: TenantIdx,
    pub(crate) ty: GeneralType,
    pub(crate) labels: Labels,
    pub(crate) holds: Holds,
    pub(crate) queue: Queue,
    /// Routes that could choose it.
    pub(crate) routes: Vec<RouteIdx>,
    /// Routes whose shadows could go to it.
    pub(crate) shadows: Vec<RouteIdx>,
    /// Some of those routes do not take every instance.
    pub(crate) is_picked_over: bool,
    /// Routes under which it takes the work of others while a budget is low.
    pub(crate) stands_in: Vec<RouteIdx>,
    /// What stands for it where lanes are spread over generals.
    pub(crate) mark: u64,
    /// Deliveries leased to its instances.
    pub(crate) leased: u32,
    /// Deliveries that are its alone and have not ended.
    pub(crate) bound: u32,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Cluster {
    pub(crate) region: Option<Region>,
    pub(crate) labels: Labels,
    pub(crate) holds: Holds,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Registry {
    pub(crate) clusters: BTreeMap<(TenantName, ClusterName), Cluster>,
    generals: Vec<Option<Box<General>>>,
    // Hashed, because every lease passes here; nobody iterates it.
    by_key: HashMap<Arc<GeneralKey>, GeneralIdx, FixedState>,
    /// Holds of instances; those of none are not kept.
    pub(crate) instances: BTreeMap<(TenantName, ClusterName, InstanceId), Holds>,
}

impl Registry {
    pub(crate) fn new(hasher: FixedState) -> Registry {
        Registry { by_key: HashMap::with_hasher(hasher), ..Registry::default() }
    }

    pub(crate) fn find(&self, key: &GeneralKey) -> Option<GeneralIdx> {
        self.by_key.get(key).copied()
    }

    /// # Panics
    /// When the general was removed: nothing names it any more by then.
    pub(crate) fn general(&self, idx: GeneralIdx) -> &General {
        self.get(idx).unwrap_or_else(|| panic!("general {} was removed", idx.0))
    }

    pub(crate) fn get(&self, idx: GeneralIdx) -> Option<&General> {
        self.generals.get(idx.0 as usize)?.as_deref()
    }

    pub(crate) fn general_mut(&mut self, idx: GeneralIdx) -> &mut General {
        let general = self.generals.get_mut(idx.0 as usize).and_then(Option::as_deref_mut);
        general.unwrap_or_else(|| panic!("general {} was removed", idx.0))
    }

    pub(crate) fn register(&mut self, record: &GeneralRegistered, hasher: &FixedState) -> GeneralIdx {
        let GeneralRegistered { key, ty, labels } = record;
        if let Some(idx) = self.find(key) {
            let general = self.general_mut(idx);
            general.ty = ty.clone();
            general.labels = labels.clone();
            return idx;
        }
        let idx =
            GeneralIdx(u32::try_from(self.generals.len()).expect("fewer generals than 2^32 were ever registered"));
        let key = Arc::new(key.clone());
        self.by_key.insert(key.clone(), idx);
        self.generals.push(Some(Box::new(General {
            mark: crate::strategy::mark(&key),
            key,
            tenant_idx: TenantIdx::default(),
            ty: ty.clone(),
            labels: labels.clone(),
            holds: Holds::NONE,
            queue: Queue::new(hasher.clone()),
            routes: Vec::new(),
            shadows: Vec::new(),
            stands_in: Vec::new(),
            is_picked_over: false,
            leased: 0,
            bound: 0,
        })));
        idx
    }

    pub(crate) fn remove(&mut self, idx: GeneralIdx) {
        if let Some(general) = self.generals.get_mut(idx.0 as usize).and_then(Option::take) {
            self.by_key.remove(&general.key);
        }
    }

    pub(crate) fn cluster_holds(&self, tenant: &TenantName, cluster: &ClusterName) -> Holds {
        // A tuple key cannot be looked up by reference; clones are two counters.
        self.clusters.get(&(tenant.clone(), cluster.clone())).map_or(Holds::NONE, |cluster| cluster.holds)
    }

    pub(crate) fn instance_holds(&self, key: &InstanceKey) -> Holds {
        if self.instances.is_empty() {
            return Holds::NONE;
        }
        let key = (key.tenant.clone(), key.cluster.clone(), key.instance.clone());
        self.instances.get(&key).copied().unwrap_or_default()
    }

    pub(crate) fn cluster_of(&self, general: &GeneralKey) -> Option<&Cluster> {
        self.clusters.get(&(general.tenant.clone(), general.cluster.clone()))
    }

    pub(crate) fn region_of(&self, general: &GeneralKey) -> Option<&Region> {
        self.cluster_of(general)?.region.as_ref()
    }

    /// Whether the general may begin work.
    pub(crate) fn may_begin(&self, idx: GeneralIdx) -> bool {
        let general = self.general(idx);
        general.holds.is_none() && self.cluster_holds(&general.key.tenant, &general.key.cluster).is_none()
    }

    /// Whether events may still be given to the general. A paused one is given them, and they wait.
    pub(crate) fn may_be_given(&self, idx: GeneralIdx) -> bool {
        let general = self.general(idx);
        let cluster = self.cluster_holds(&general.key.tenant, &general.key.cluster);
        general.holds.with(cluster).without(Holds::PAUSED).is_none()
    }

    /// Sets the holds on anything but a route; generals that it concerns are returned.
    pub(crate) fn hold(&mut self, tenant: &TenantName, target: &HoldTarget, holds: Holds) -> Vec<GeneralIdx> {
        match target {
            HoldTarget::Cluster(cluster) => {
                self.clusters.entry((tenant.clone(), cluster.clone())).or_default().holds = holds;
                self.of_cluster(tenant, cluster)
            }
            HoldTarget::General(cluster, name) => {
                let key = GeneralKey { tenant: tenant.clone(), cluster: cluster.clone(), name: name.clone() };
                let Some(idx) = self.find(&key) else { return Vec::new() };
                self.general_mut(idx).holds = holds;
                vec![idx]
            }
            HoldTarget::Instance(cluster, instance) => {
                let key = (tenant.clone(), cluster.clone(), instance.clone());
                if holds.is_none() {
                    self.instances.remove(&key);
                } else {
                    self.instances.insert(key, holds);
                }
                Vec::new()
            }
            HoldTarget::Route(_) => Vec::new(),
        }
    }

    pub(crate) fn of_cluster(&self, tenant: &TenantName, cluster: &ClusterName) -> Vec<GeneralIdx> {
        self.iter().filter(|(_, g)| g.key.tenant == *tenant && g.key.cluster == *cluster).map(|(idx, _)| idx).collect()
    }

    /// In the order of registration.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (GeneralIdx, &General)> {
        (0..).map(GeneralIdx).zip(&self.generals).filter_map(|(idx, general)| Some((idx, general.as_deref()?)))
    }

    /// One more than the highest index ever given; at least 1.
    pub(crate) fn width(&self) -> u32 {
        u32::try_from(self.generals.len()).unwrap_or(u32::MAX).max(1)
    }

    pub(crate) fn len(&self) -> usize {
        self.by_key.len()
    }
}
