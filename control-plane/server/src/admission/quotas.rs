//! Quotas of sources: how many events each may send in a time.
//!
//! ```yaml
//! quotas:
//!   - {name: ci, source: "https://ci.example.com/*", events: 600, per: 60s, burst: 1000}
//!   - {name: others, events: 100, per: 1s}
//! ```
//! The first whose pattern fits a source applies to it, and every source has a bucket of its own under it; a source that
//! none fits has no quota. A bucket is kept as the one time at which it would be full again (GCRA), in exact numbers.
//!
//! Invariants: a bucket that is full is forgotten, for one that is not there is full; there are at most [`SOURCES_MAX`] buckets, and
//! sources beyond those share one for each quota.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use mindos_model::TenantName;
use serde::Deserialize;

use crate::config::span;

/// Sources with a bucket of their own.
const SOURCES_MAX: usize = 10_000;
/// Quotas in the settings.
const QUOTAS_MAX: usize = 100;
/// Quotas that were in the settings at some time, whose refusals are shown still.
const COUNTS_MAX: usize = 1000;

/// One quota, as the settings say it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuotaSetting {
    name: String,
    /// Sources; a trailing `*` stands for any rest. Unset fits every source.
    #[serde(default = "everything")]
    source: String,
    events: u64,
    per: String,
    /// Events that may come at once after a pause; unset is as many as `events`.
    burst: Option<u64>,
}

fn everything() -> String {
    "*".to_owned()
}

/// All quotas, checked. None by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quotas(Vec<Quota>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Quota {
    name: Arc<str>,
    source: String,
    /// Between two events at the steady rate.
    interval_ns: u64,
    /// How far events may run ahead of the steady rate.
    ahead_ns: u64,
}

/// A source sent more than it may.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("quota {quota} of source {origin} is used up: it has room again in {} ms", retry.as_millis())]
pub struct QuotaExceeded {
    pub quota: Arc<str>,
    /// The source.
    pub origin: Arc<str>,
    /// When one more event fits.
    pub retry: Duration,
}

impl Quotas {
    /// Checks what the settings say.
    ///
    /// # Errors
    /// Names the quota, the field and what is accepted.
    pub fn new(settings: &[QuotaSetting]) -> Result<Quotas, String> {
        if settings.len() > QUOTAS_MAX {
            return Err(format!("quotas: there are {}: expected at most {QUOTAS_MAX}", settings.len()));
        }
        let mut quotas: Vec<Quota> = Vec::with_capacity(settings.len());
        for (index, setting) in settings.iter().enumerate() {
            let quota = Quota::new(setting).map_err(|error| format!("quotas[{index}].{error}"))?;
            if quotas.iter().any(|earlier| earlier.name == quota.name) {
                return Err(format!("quotas[{index}].name: `{}` stands twice", quota.name));
            }
            quotas.push(quota);
        }
        Ok(Quotas(quotas))
    }

    /// Whether nothing is limited.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Quota {
    fn new(setting: &QuotaSetting) -> Result<Quota, String> {
        let QuotaSetting { name, source, events, per, burst } = setting;
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if name.is_empty() || name.len() > 63 || !name.bytes().all(is_word) {
            return Err("name: expected 1 to 63 letters, digits, - and _".to_owned());
        }
        if source.is_empty() || source.len() > 1024 || source.trim_end_matches('*').contains('*') {
            return Err("source: expected 1 to 1024 bytes with at most one `*`, at the end".to_owned());
        }
        let range = |field: &str, value: u64| match value {
            1..=1_000_000_000 => Ok(value),
            _ => Err(format!("{field}: is {value}: expected 1 to 1,000,000,000")),
        };
        let (events, burst) = (range("events", *events)?, range("burst", burst.unwrap_or(*events))?);
        let per = span(per).map_err(|error| format!("per: {error}"))?;
        if per < Duration::from_millis(1) || per > Duration::from_secs(86_400) {
            return Err(format!("per: is {per:?}: expected 1ms to 1d"));
        }
        let per = u64::try_from(per.as_nanos()).unwrap_or(u64::MAX);
        let interval_ns = (per / events).max(1);
        let ahead_ns = interval_ns.saturating_mul(burst - 1);
        Ok(Quota { name: name.as_str().into(), source: source.clone(), interval_ns, ahead_ns })
    }

    fn fits(&self, source: &str) -> bool {
        match self.source.strip_suffix('*') {
            Some(beginning) => source.starts_with(beginning),
            None => self.source == source,
        }
    }

    /// Takes one event out of a bucket that is full again at `full`, or says for how long there is none.
    fn take(&self, full: &mut u64, now: u64) -> Result<(), Duration> {
        let ahead = full.saturating_sub(now);
        if ahead > self.ahead_ns {
            return Err(Duration::from_nanos(ahead - self.ahead_ns));
        }
        *full = now.saturating_add(ahead).saturating_add(self.interval_ns);
        Ok(())
    }
}

/// How far the sources have used their quotas up.
#[derive(Debug, Default)]
pub(super) struct Buckets {
    /// Those in force when the buckets were filled.
    quotas: Quotas,
    /// When each is full again, in nanoseconds. Names come from outside: hashed under a random seed.
    full: HashMap<(TenantName, Arc<str>), (usize, u64)>,
    /// Shared by the sources that have no bucket of their own, by quota.
    shared: Vec<u64>,
    /// When buckets that are full were last cleared away.
    cleared: u64,
    /// By name, so that a change of the settings starts no count anew.
    refused: Vec<(Arc<str>, u64)>,
}

/// Between two looks for buckets that are full, while there is no room for another one.
const CLEAR_NS: u64 = 1_000_000_000;

impl Buckets {
    pub(super) fn take(
        &mut self,
        quotas: &Quotas,
        tenant: &TenantName,
        source: &Arc<str>,
        now: u64,
    ) -> Result<(), QuotaExceeded> {
        if self.quotas != *quotas {
            self.change(quotas.clone());
        }
        let Some(index) = self.quotas.0.iter().position(|quota| quota.fits(source)) else { return Ok(()) };
        let quota = &self.quotas.0[index];
        let key = (tenant.clone(), source.clone());
        if self.full.len() >= SOURCES_MAX && now.saturating_sub(self.cleared) >= CLEAR_NS {
            self.cleared = now;
            self.full.retain(|_, (_, full)| *full > now);
        }
        let room = self.full.len() < SOURCES_MAX;
        let taken = match self.full.get_mut(&key) {
            Some((_, full)) => quota.take(full, now),
            None if room => quota.take(&mut self.full.entry(key).or_insert((index, now)).1, now),
            None => quota.take(&mut self.shared[index], now),
        };
        taken.map_err(|retry| {
            let exceeded = QuotaExceeded { quota: quota.name.clone(), origin: source.clone(), retry };
            if let Some((_, count)) = self.refused.iter_mut().find(|(name, _)| *name == exceeded.quota) {
                *count += 1;
            }
            exceeded
        })
    }

    fn change(&mut self, quotas: Quotas) {
        for quota in &quotas.0 {
            if self.refused.len() < COUNTS_MAX && self.refused.iter().all(|(name, _)| *name != quota.name) {
                self.refused.push((quota.name.clone(), 0));
            }
        }
        self.shared = vec![0; quotas.0.len()];
        self.full.clear();
        self.quotas = quotas;
    }

    pub(super) fn refused(&self) -> impl Iterator<Item = (&str, u64)> {
        self.refused.iter().map(|(name, count)| (&**name, *count))
    }

    pub(super) fn len(&self) -> usize {
        self.full.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn quotas(yaml: &str) -> Result<Quotas, String> {
        let settings: Vec<QuotaSetting> = serde_norway::from_str(yaml).map_err(|error| error.to_string())?;
        Quotas::new(&settings)
    }

    fn take(buckets: &mut Buckets, quotas: &Quotas, source: &str, now: u64) -> Result<(), QuotaExceeded> {
        buckets.take(quotas, &TenantName::default_tenant(), &source.into(), now)
    }

    #[test]
    fn a_storm_is_cut_at_the_burst_and_goes_on_at_the_rate() {
        let quotas = quotas("[{name: ci, source: '/ci/*', events: 10, per: 1s, burst: 5}]").unwrap();
        let mut buckets = Buckets::default();
        let admitted =
            |buckets: &mut Buckets, now| (0..1000).filter(|_| take(buckets, &quotas, "/ci/1", now).is_ok()).count();
        assert_eq!(admitted(&mut buckets, SECOND), 5);
        let refused = take(&mut buckets, &quotas, "/ci/1", SECOND).unwrap_err();
        assert_eq!((&*refused.quota, refused.retry), ("ci", Duration::from_millis(100)));
        assert_eq!(admitted(&mut buckets, SECOND + 99_999_999), 0);
        assert_eq!(admitted(&mut buckets, SECOND + 100_000_000), 1);
        assert_eq!(admitted(&mut buckets, 2 * SECOND), 5, "never more at once than the burst");
        assert_eq!(take(&mut buckets, &quotas, "/ci/2", SECOND), Ok(()), "every source has its own");
        assert_eq!(take(&mut buckets, &quotas, "/other", SECOND), Ok(()));
        assert_eq!(buckets.refused().collect::<Vec<_>>(), [("ci", 995 + 1 + 1000 + 999 + 995)]);
    }

    #[test]
    fn sources_without_number_take_a_bounded_place_and_are_limited_together() {
        let quotas = quotas("[{name: all, events: 10, per: 1s, burst: 2}]").unwrap();
        let mut buckets = Buckets::default();
        let admitted =
            (0..2 * SOURCES_MAX).filter(|number| take(&mut buckets, &quotas, &format!("/{number}"), 0).is_ok());
        assert_eq!(admitted.count(), SOURCES_MAX + 2);
        assert_eq!(buckets.len(), SOURCES_MAX);
        assert_eq!(take(&mut buckets, &quotas, "/new", 2 * SECOND), Ok(()));
        assert_eq!(buckets.len(), 1, "those that are full again are forgotten");
    }

    #[test]
    fn a_change_of_the_quotas_keeps_what_was_counted() {
        let mut buckets = Buckets::default();
        let strict = quotas("[{name: a, events: 1, per: 1h}]").unwrap();
        assert_eq!(take(&mut buckets, &strict, "/s", 0), Ok(()));
        assert!(take(&mut buckets, &strict, "/s", 0).is_err());
        let loose = quotas("[{name: a, events: 1000, per: 1s}, {name: b, events: 1, per: 1s}]").unwrap();
        assert_eq!(take(&mut buckets, &loose, "/s", 0), Ok(()));
        assert_eq!(buckets.refused().collect::<Vec<_>>(), [("a", 1), ("b", 0)]);
    }

    #[test]
    fn a_slip_in_the_settings_is_named() {
        for (yaml, named) in [
            ("[{name: '', events: 1, per: 1s}]", "quotas[0].name"),
            ("[{name: a, source: 'a*b', events: 1, per: 1s}]", "quotas[0].source"),
            ("[{name: a, events: 0, per: 1s}]", "quotas[0].events"),
            ("[{name: a, events: 1, per: 1}]", "quotas[0].per"),
            ("[{name: a, events: 1, per: 2d}]", "quotas[0].per"),
            ("[{name: a, events: 1, per: 1s, burst: 0}]", "quotas[0].burst"),
            ("[{name: a, events: 1, per: 1s}, {name: a, events: 1, per: 1s}]", "quotas[1].name"),
            ("[{name: a, event: 1, per: 1s}]", "event"),
        ] {
            let error = quotas(yaml).unwrap_err();
            assert!(error.contains(named), "{yaml}: {error}");
        }
        assert_eq!(quotas("[]"), Ok(Quotas::default()));
    }
}
