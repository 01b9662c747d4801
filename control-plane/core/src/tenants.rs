//! Tenants: how much of each is open, and how much may be.
//!
//! Invariant: a tenant keeps its place for as long as the state lives, so that routes and generals name it by its place.

use std::collections::BTreeMap;

use mindos_model::TenantName;

/// Place of a tenant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TenantIdx(pub(crate) u32);

#[derive(Clone, Debug, Default)]
pub(crate) struct Tenants {
    by_name: BTreeMap<TenantName, TenantIdx>,
    places: Vec<Tenant>,
}

/// Kept beside each other: who publishes asks for both.
#[derive(Clone, Copy, Debug, Default)]
struct Tenant {
    /// Deliveries that have not ended.
    open: u64,
    /// How many may be, where its quota says so.
    open_max: Option<u64>,
}

impl Tenants {
    /// The place of the tenant, found or given.
    pub(crate) fn place(&mut self, name: &TenantName) -> TenantIdx {
        if let Some(idx) = self.by_name.get(name) {
            return *idx;
        }
        let idx = TenantIdx(u32::try_from(self.places.len()).expect("fewer tenants than 2^32 were ever named"));
        self.places.push(Tenant::default());
        self.by_name.insert(name.clone(), idx);
        idx
    }

    pub(crate) fn open(&self, idx: TenantIdx) -> u64 {
        self.places[idx.0 as usize].open
    }

    /// How many deliveries of the tenant may be open, where its quota says so.
    pub(crate) fn open_max(&self, idx: TenantIdx) -> Option<u64> {
        self.places[idx.0 as usize].open_max
    }

    pub(crate) fn bound(&mut self, name: &TenantName, open_max: Option<u64>) {
        let idx = self.place(name);
        self.places[idx.0 as usize].open_max = open_max;
    }

    pub(crate) fn began(&mut self, idx: TenantIdx, deliveries: usize) {
        self.places[idx.0 as usize].open += deliveries as u64;
    }

    pub(crate) fn ended(&mut self, idx: TenantIdx) {
        self.places[idx.0 as usize].open -= 1;
    }

    /// Deliveries that have not ended, by tenant.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&TenantName, u64)> {
        self.by_name.iter().map(|(name, idx)| (name, self.open(*idx)))
    }
}
