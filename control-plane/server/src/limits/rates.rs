//! Rates of requests and bytes, by address, principal and tenant.
//!
//! Invariant: who is at a limit of their own takes nothing of anybody else's.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use governor::clock::{Clock, DefaultClock};
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use mindos_model::TenantName;

use super::Limits;
use super::failures::{Failures, Why};
use super::keyed::{AddressKey, Keyed};
use super::refusal::{Refusal, Subject, is_grpc};
use crate::metrics::{Exposition, Kind};

/// Tenants with allowances of their own.
const TENANTS_MAX: usize = 10_000;

/// The limits in force, and what was taken.
#[derive(Debug)]
pub struct Rates {
    limits: Arc<ArcSwap<Limits>>,
    /// Made for the limits that stand beside them.
    allowances: ArcSwap<Allowances>,
    tenants: Mutex<HashMap<(TenantName, What), Tenant>>,
    /// Authentications that failed.
    pub failures: Failures,
    refused: [AtomicU64; 5],
}

#[derive(Debug)]
struct Allowances {
    limits: Arc<Limits>,
    addresses: Keyed<AddressKey>,
    principals: Keyed<Arc<str>>,
    bytes: Keyed<Arc<str>>,
    failures: Keyed<AddressKey>,
}

/// What a tenant has a quota of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum What {
    Requests,
    Events,
}

#[derive(Debug)]
struct Tenant {
    rate: u32,
    limiter: RateLimiter<NotKeyed, InMemoryState, DefaultClock>,
}

/// As labels, in the order of the counts.
const REFUSED: [&str; 5] = ["address", "principal", "tenant_requests", "tenant_events", "failures"];

impl Allowances {
    fn new(limits: Arc<Limits>) -> Allowances {
        // What comes at once after a pause is what two seconds bring; failures may come in a bunch, as after a rotation.
        let twice = |rate: u32| Keyed::new(rate, rate.saturating_mul(2));
        Allowances {
            addresses: twice(limits.requests_per_address),
            principals: Keyed::new(limits.requests_per_principal, limits.requests_per_principal.saturating_mul(2)),
            bytes: Keyed::new(limits.bytes_per_principal, limits.bytes_per_principal),
            failures: Keyed::new(limits.failures_per_second, limits.failures_per_second.saturating_mul(10)),
            limits,
        }
    }
}

impl Rates {
    /// Follows the limits in `limits`, now and after every change.
    #[must_use]
    pub fn new(limits: Arc<ArcSwap<Limits>>) -> Rates {
        let allowances = ArcSwap::from_pointee(Allowances::new(limits.load_full()));
        Rates {
            limits,
            allowances,
            tenants: Mutex::default(),
            failures: Failures::default(),
            refused: Default::default(),
        }
    }

    /// The limits in force.
    #[must_use]
    pub fn limits(&self) -> Arc<Limits> {
        self.limits.load_full()
    }

    fn allowances(&self) -> arc_swap::Guard<Arc<Allowances>> {
        let allowances = self.allowances.load();
        let limits = self.limits.load();
        if Arc::ptr_eq(&allowances.limits, &limits) {
            return allowances;
        }
        self.allowances.store(Arc::new(Allowances::new(Arc::clone(&limits))));
        self.allowances.load()
    }

    fn refuse(&self, place: usize, refusal: Refusal) -> Refusal {
        self.refused[place].fetch_add(1, Ordering::Relaxed);
        refusal
    }

    /// Takes one request out of an address's allowance.
    ///
    /// # Errors
    /// When it is used up.
    pub fn address(&self, from: IpAddr) -> Result<(), Refusal> {
        self.allowances().addresses.take(&from.into(), 1).map_err(|retry| {
            let refusal = Refusal { reason: "REQUEST_RATE", subject: Subject::Address, what: "requests", retry };
            self.refuse(0, refusal)
        })
    }

    /// Takes one request out of a principal's allowance.
    ///
    /// # Errors
    /// When it is used up.
    pub fn principal(&self, name: &Arc<str>) -> Result<(), Refusal> {
        self.allowances().principals.take(name, 1).map_err(|retry| {
            let subject = Subject::Principal(Arc::clone(name));
            self.refuse(1, Refusal { reason: "REQUEST_RATE", subject, what: "requests", retry })
        })
    }

    /// Takes bytes out of a principal's allowance.
    ///
    /// # Errors
    /// When there are less; says when there will be as many.
    pub fn bytes(&self, name: &Arc<str>, count: usize) -> Result<(), Duration> {
        self.allowances().bytes.take(name, u32::try_from(count).unwrap_or(u32::MAX))
    }

    /// Takes out of a tenant's quota; `rate` is that in force, if any.
    ///
    /// # Errors
    /// When it is used up.
    pub fn tenant(&self, name: &TenantName, what: What, rate: Option<u32>) -> Result<(), Refusal> {
        let Some(rate) = rate else { return Ok(()) };
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (name.clone(), what);
        if tenants.get(&key).is_none_or(|known| known.rate != rate) {
            // There are no more quotas than this, so those of tenants that had one are in the way.
            if tenants.len() >= 2 * TENANTS_MAX {
                tenants.clear();
            }
            let one = NonZeroU32::MIN;
            let quota = Quota::per_second(NonZeroU32::new(rate).unwrap_or(one))
                .allow_burst(NonZeroU32::new(rate.saturating_mul(2)).unwrap_or(one));
            tenants.insert(key.clone(), Tenant { rate, limiter: RateLimiter::direct(quota) });
        }
        let Some(tenant) = tenants.get(&key) else { return Ok(()) };
        // A quota of nothing lets nothing in.
        let taken = if rate == 0 {
            Err(Duration::from_secs(60))
        } else {
            tenant.limiter.check().map_err(|until| until.wait_time_from(DefaultClock::default().now()))
        };
        drop(tenants);
        let (reason, words, place) = match what {
            What::Requests => ("TENANT_REQUEST_RATE", "requests", 2),
            What::Events => ("TENANT_EVENT_RATE", "events", 3),
        };
        taken.map_err(|retry| {
            let subject = Subject::Tenant(name.clone());
            self.refuse(place, Refusal { reason, subject, what: words, retry: retry.max(Duration::from_millis(1)) })
        })
    }

    /// An authentication failed: whether its address is still within its pace.
    ///
    /// # Errors
    /// When it is not: what to answer instead.
    pub fn failed(&self, from: IpAddr, why: Why) -> Result<(), Refusal> {
        let noted = self.failures.note(&self.allowances().failures, from, why);
        noted.map_err(|retry| self.paced(retry))
    }

    /// Refuses an address whose failures went beyond their pace.
    pub(super) fn paced(&self, retry: Duration) -> Refusal {
        let what = "failed authentications";
        self.refuse(4, Refusal { reason: "AUTHENTICATION_RATE", subject: Subject::Address, what, retry })
    }

    /// Writes the families.
    pub fn expose(&self, into: &mut Exposition) {
        let help = "Requests and events refused because somebody was at a limit, by whose limit it is.";
        let mut family = into.family("mindos_limit_refused_total", Kind::Counter, help);
        for (word, count) in REFUSED.iter().zip(&self.refused) {
            family.series(&[("limit", word)], count.load(Ordering::Relaxed));
        }
        let allowances = self.allowances();
        let help = "Allowances that are kept, by what they are for.";
        let mut family = into.family("mindos_limit_allowances", Kind::Gauge, help);
        family.series(&[("of", "address")], allowances.addresses.len());
        family.series(&[("of", "principal")], allowances.principals.len());
        self.failures.expose(into);
    }
}

/// Whether an answer says that somebody is not who they say they are, and why. A refusal to let an agent join or renew is one too.
pub(super) fn failure(answer: &axum::response::Response, request_is_grpc: bool) -> Option<Why> {
    if !request_is_grpc {
        return (answer.status() == http::StatusCode::UNAUTHORIZED)
            .then(|| answer.extensions().get::<Why>().copied().unwrap_or(Why::Other));
    }
    let code = answer.headers().get("grpc-status")?.as_bytes();
    if !matches!(code, b"16" | b"7") {
        return None;
    }
    let status = tonic::Status::from_header_map(answer.headers());
    let status = status.map(|status| mindos_proto::rpc::Status::from(&status));
    let info = status.and_then(|status| status.detail::<mindos_proto::rpc::ErrorInfo>());
    let reason = info.as_ref().map_or("", |info| info.reason.as_str());
    match code {
        b"16" => Some(Why::from_reason(reason)),
        _ => matches!(reason, "JOIN_REFUSED" | "RENEW_REFUSED").then_some(Why::Agent),
    }
}

/// As [`is_grpc`], for the layers.
pub(super) fn asks_by_grpc(headers: &http::HeaderMap) -> bool {
    is_grpc(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(limits: Limits) -> Rates {
        Rates::new(Arc::new(ArcSwap::from_pointee(limits)))
    }

    #[test]
    fn one_principal_at_its_limit_costs_the_others_nothing() {
        let rates = rates(Limits { requests_per_principal: 10, ..Limits::default() });
        let (loud, quiet): (Arc<str>, Arc<str>) = ("token:1".into(), "token:2".into());
        let admitted = |name, tries| (0..tries).filter(|_| rates.principal(name).is_ok()).count();
        let began = std::time::Instant::now();
        let taken = admitted(&loud, 10_000);
        // Ten more come with each second that the tries take.
        let most = 21 + usize::try_from(began.elapsed().as_millis() / 100).unwrap();
        assert!((20..=most).contains(&taken), "{taken} of at most {most}");
        assert_eq!(admitted(&quiet, 20), 20);
        let refusal = rates.principal(&loud).unwrap_err();
        assert_eq!(refusal.subject, Subject::Principal(loud));
        assert!(refusal.retry <= Duration::from_millis(101), "{refusal}");
    }

    #[test]
    fn quotas_of_tenants_are_their_own_and_change_at_once() {
        let rates = rates(Limits::default());
        let (one, other): (TenantName, TenantName) = ("one".parse().unwrap(), "other".parse().unwrap());
        let admitted = |name, rate| (0..100).filter(|_| rates.tenant(name, What::Events, rate).is_ok()).count();
        assert_eq!((admitted(&one, Some(5)), admitted(&other, Some(5)), admitted(&one, None)), (10, 10, 100));
        assert_eq!((admitted(&one, Some(20)), admitted(&one, Some(0))), (40, 0));
        assert!(rates.tenant(&other, What::Requests, Some(1)).is_ok(), "requests are counted apart from events");
    }

    #[test]
    fn limits_that_change_take_effect_at_once() {
        let limits = Arc::new(ArcSwap::from_pointee(Limits { requests_per_address: 1, ..Limits::default() }));
        let rates = Rates::new(Arc::clone(&limits));
        let from: IpAddr = "10.0.0.1".parse().unwrap();
        let admitted = |rates: &Rates| (0..100).filter(|_| rates.address(from).is_ok()).count();
        assert_eq!(admitted(&rates), 2);
        limits.store(Arc::new(Limits { requests_per_address: 7, ..Limits::default() }));
        assert_eq!(admitted(&rates), 14);
    }
}
