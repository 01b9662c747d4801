//! Quotas: what a tenant may use.

use crate::access::error::AccessError;

/// Bounds of one tenant. What is unset is as for all tenants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TenantQuota {
    /// Events that it may publish in a second, over all its principals.
    pub events_per_second: Option<u32>,
    /// Requests in a second, over all its principals.
    pub requests_per_second: Option<u32>,
    /// Deliveries that may be open.
    pub open_max: Option<u64>,
    /// Streams of agents that may be open.
    pub streams_max: Option<u32>,
}

impl TenantQuota {
    /// Whether it bounds nothing.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == TenantQuota::default()
    }

    pub(super) fn check(&self) -> Result<(), AccessError> {
        let TenantQuota { events_per_second, requests_per_second, open_max, streams_max } = *self;
        let fields = [
            ("quota.events_per_second", events_per_second.map(u64::from)),
            ("quota.requests_per_second", requests_per_second.map(u64::from)),
            ("quota.open_max", open_max),
            ("quota.streams_max", streams_max.map(u64::from)),
        ];
        match fields.into_iter().find(|(_, value)| *value == Some(0)) {
            Some((field, _)) => Err(AccessError::invalid(field, "0", "at least 1, or unset")),
            None => Ok(()),
        }
    }
}
