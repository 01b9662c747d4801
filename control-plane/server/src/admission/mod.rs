//! Admission: what becomes of events at the door, counted, and quotas that keep storms out.
//!
//! Invariant: the labels of what is counted are bounded: a verdict is one of a few words, and a quota is one of those in the settings.

mod quotas;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;
use mindos_core::input::NewEvent;
use mindos_core::output::{Rejection, Reply};
use mindos_model::ParkReason;

use crate::metrics::{Exposition, Kind};

use quotas::Buckets;
pub use quotas::{QuotaExceeded, QuotaSetting, Quotas};

macro_rules! verdicts {
    ($($(#[$doc:meta])* $variant:ident = $word:literal),+ $(,)?) => {
        /// What became of an event.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Verdict { $($(#[$doc])* $variant),+ }

        impl Verdict {
            const ALL: &'static [(Verdict, &'static str)] = &[$((Verdict::$variant, $word)),+];
        }
    };
}

verdicts! {
    /// Recorded, and every delivery waits.
    Accepted = "accepted",
    /// Recorded, and some of its targets were full: those deliveries are parked until there is room.
    AcceptedInPart = "accepted_in_part",
    /// Known, with the same content.
    Duplicate = "duplicate",
    /// Known, with other content.
    Conflict = "conflict",
    /// Malformed.
    Invalid = "invalid",
    /// Its publisher is not granted its source.
    NotGranted = "not_granted",
    /// Every target of its route is full.
    BacklogFull = "backlog_full",
    /// Its tenant has as much open as it may.
    TenantFull = "tenant_full",
    /// The plane has as much open as it may.
    PlaneFull = "plane_full",
    /// It concerns too many generals.
    FanoutTooWide = "fanout_too_wide",
    /// Refused by the plane for another reason.
    Refused = "refused",
    /// Its source sent more than its quota allows.
    QuotaExceeded = "quota_exceeded",
    /// The plane is behind: its inbox is full.
    InboxFull = "inbox_full",
    /// The journal has no room.
    DiskFull = "disk_full",
}

/// Counts verdicts and keeps the quotas; cheap to share.
#[derive(Debug)]
pub struct Admission {
    verdicts: [AtomicU64; Verdict::ALL.len()],
    quotas: OnceLock<Arc<ArcSwap<Quotas>>>,
    buckets: Mutex<Buckets>,
    began: Instant,
}

impl Default for Admission {
    fn default() -> Admission {
        Admission {
            verdicts: Default::default(),
            quotas: OnceLock::new(),
            buckets: Mutex::default(),
            began: Instant::now(),
        }
    }
}

impl Admission {
    /// Counts one event's verdict.
    pub fn count(&self, verdict: Verdict) {
        self.verdicts[verdict as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts what the plane answered, where it was asked to publish.
    pub(crate) fn answered(&self, answer: &Result<Reply, Rejection>) {
        let verdict = match answer {
            Ok(Reply::Published(published)) if published.duplicate => Verdict::Duplicate,
            Ok(Reply::Published(published)) => {
                let is_full = |parked: Option<ParkReason>| parked == Some(ParkReason::BacklogFull);
                if published.deliveries.iter().any(|delivery| is_full(delivery.parked)) {
                    Verdict::AcceptedInPart
                } else {
                    Verdict::Accepted
                }
            }
            Ok(_) => return,
            Err(Rejection::Conflict { .. }) => Verdict::Conflict,
            Err(Rejection::BacklogFull { .. }) => Verdict::BacklogFull,
            Err(Rejection::TenantFull { .. }) => Verdict::TenantFull,
            Err(Rejection::PlaneFull { .. }) => Verdict::PlaneFull,
            Err(Rejection::FanoutTooWide { .. }) => Verdict::FanoutTooWide,
            // Of other requests.
            Err(_) => return,
        };
        self.count(verdict);
    }

    /// Takes the quotas from here, now and after every change; said once.
    pub fn follow(&self, quotas: Arc<ArcSwap<Quotas>>) {
        let _ = self.quotas.set(quotas);
    }

    /// Takes an event's part of its source's quota. One that is known already takes none.
    ///
    /// # Errors
    /// Names the quota, and says when the source may send again.
    pub(crate) fn take(&self, event: &NewEvent) -> Result<(), QuotaExceeded> {
        let Some(quotas) = self.quotas.get().map(|quotas| quotas.load()) else { return Ok(()) };
        if quotas.is_empty() || event.seen.is_some() {
            return Ok(());
        }
        let now = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = buckets.take(&quotas, &event.tenant, &event.source, now);
        drop(buckets);
        taken.inspect_err(|_| self.count(Verdict::QuotaExceeded))
    }

    /// Writes the families.
    pub fn expose(&self, into: &mut Exposition) {
        let help = "Events by what became of them at the door.";
        let mut family = into.family("mindos_admission_events_total", Kind::Counter, help);
        for (verdict, word) in Verdict::ALL {
            family.series(&[("verdict", word)], self.verdicts[*verdict as usize].load(Ordering::Relaxed));
        }
        let buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let help = "Events that a quota of a source refused, by the quota's name.";
        let mut family = into.family("mindos_quota_refused_total", Kind::Counter, help);
        buckets.refused().for_each(|(name, count)| family.series(&[("quota", name)], count));
        let help = "Sources of which a quota is in part used up.";
        into.single("mindos_quota_sources", Kind::Gauge, help, buckets.len());
    }
}
