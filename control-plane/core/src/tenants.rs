//! Tenants: how much of each is open, as far as its cap asks.
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
    /// Deliveries that have not ended, by tenant.
    open: Vec<u64>,
}

impl Tenants {
    /// The place of the tenant, found or given.
    pub(crate) fn place(&mut self, name: &TenantName) -> TenantIdx {
        if let Some(idx) = self.by_name.get(name) {
            return *idx;
        }
        let idx = TenantIdx(u32::try_from(self.open.len()).expect("fewer tenants than 2^32 were ever named"));
        self.open.push(0);
        self.by_name.insert(name.clone(), idx);
        idx
    }

    pub(crate) fn open(&self, idx: TenantIdx) -> u64 {
        self.open[idx.0 as usize]
    }

    pub(crate) fn began(&mut self, idx: TenantIdx, deliveries: usize) {
        self.open[idx.0 as usize] += deliveries as u64;
    }

    pub(crate) fn ended(&mut self, idx: TenantIdx) {
        self.open[idx.0 as usize] -= 1;
    }

    /// Deliveries that have not ended, by tenant.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&TenantName, u64)> {
        self.by_name.iter().map(|(name, idx)| (name, self.open(*idx)))
    }
}
