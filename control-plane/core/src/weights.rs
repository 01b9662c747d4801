//! Weights: how much of what is shared goes to a repository or a tenant, beside the others.
//!
//! Only who goes next follows from them, which is recorded nowhere, so they are configuration.

use std::collections::BTreeMap;

use mindos_model::TenantName;

use crate::route::Pattern;

/// The largest weight.
pub const WEIGHT_MAX: u32 = 100;

/// Weights from 1 to [`WEIGHT_MAX`]; 1 for who is not named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Weights {
    /// By repository, or by source where events name none. The first pattern that fits counts.
    pub repositories: Vec<(Pattern, u32)>,
    pub tenants: BTreeMap<TenantName, u32>,
}

impl Weights {
    pub(crate) fn of_flow(&self, flow: Option<&str>) -> u32 {
        // Mostly there are none, and nobody looks at names.
        if self.repositories.is_empty() {
            return 1;
        }
        let fits = |(pattern, _): &&(Pattern, u32)| flow.is_some_and(|flow| pattern.fits(flow));
        self.repositories.iter().find(fits).map_or(1, |(_, weight)| (*weight).clamp(1, WEIGHT_MAX))
    }

    pub(crate) fn of_tenant(&self, tenant: &TenantName) -> u32 {
        if self.tenants.is_empty() {
            return 1;
        }
        self.tenants.get(tenant).map_or(1, |weight| (*weight).clamp(1, WEIGHT_MAX))
    }
}
